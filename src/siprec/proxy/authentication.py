"""Authentication of requests (RFC 3261 16.3 step 6, 22): for the registrar, rules, routing scripts and the default
route."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from siprec.sip.clock import Clock
from siprec.sip.digest import AuthValue
from siprec.sip.digest_server import DigestServer
from siprec.sip.errors import SipError
from siprec.sip.header_list import field_value
from siprec.sip.message import SipRequest
from siprec.sip.throttle import GuessThrottle
from siprec.sourcelog import SourceLog

log = logging.getLogger(__name__)

Users = Mapping[str, "str | Mapping[str, str]"]
"""User name to password, or to ``H(user:realm:password)`` in hex by algorithm."""
_HEADERS: Final = ("authorization", "proxy-authorization")


class Authenticated(NamedTuple):
    """Who sent a request, and what that was checked against (`users` None: the usual table)."""

    user: str
    realm: str
    users: Users | None
    algorithms: tuple[str, ...]


class Authentication:
    """Digest authentication in one realm against one table of users.

    `algorithms` and `legacy_agents` are as in :class:`siprec.sip.digest_server.DigestServer`. Without users, nobody can
    be authenticated.
    """

    def __init__(
        self,
        clock: Clock,
        realm: str,
        users: Users | None = None,
        *,
        algorithms: Iterable[str] = ("MD5",),
        legacy_agents: Iterable[str] = (),
    ) -> None:
        self.users: Users = dict(users or {})
        self.throttle = GuessThrottle(clock)
        self._lines = SourceLog(log, now=clock.now)
        self._digest = DigestServer(clock, realm, algorithms=algorithms, legacy_agents=legacy_agents)

    @property
    def realm(self) -> str:
        """The realm of the challenges."""
        return self._digest.realm

    def reconfigure(self, users: Users, algorithms: Iterable[str], legacy_agents: Iterable[str]) -> None:
        """Go on with other users and algorithms; the realm stays. Raises ValueError like `DigestServer`."""
        self._digest.configure(algorithms, legacy_agents)
        self.users = dict(users)

    def check(
        self,
        request: SipRequest,
        *,
        proxy: bool | None = None,
        realm: str = "",
        users: Users | None = None,
        algorithms: Sequence[str] = (),
        again: bool = False,
        source: str = "",
    ) -> str:
        """The authenticated user of a request as it was received; never to be asked about ACK and CANCEL.

        Args:
            proxy: challenge with 407; else with 401. None: 401 for REGISTER, 407 for the others.
            realm, users, algorithms: for this request instead of the usual ones.
            again: this request was authenticated before, so its nonce count has been used.
            source: the address it came from: after some failures from there, credentials wait for their turn.

        Raises:
            SipError: 401 or 407 with its challenges; 503 with Retry-After, too many failures.
        """
        if proxy is None:
            proxy = request.method != "REGISTER"
        lookup: Callable[[str], str | Mapping[str, str] | None] = (self.users if users is None else users).get
        digest = self._digest
        claimed = digest.claims(request, realm=realm, algorithms=algorithms, proxy=proxy) if source else None
        if claimed is not None:
            self.throttle.check(source, claimed)
        result = digest.verify(request, lookup, realm=realm, algorithms=algorithms, proxy=proxy, again=again)
        if result.ok:
            if claimed is not None:
                self.throttle.succeeded(source, result.username)
            return result.username
        if result.outcome == "denied":
            if claimed is not None:
                self.throttle.failed(source, result.username)
            self._lines.warning(
                source,
                "%s of %r refused: %s, source=%s, Call-ID %s",
                request.method,
                result.username,
                result.reason,
                source,
                request.call_id,
            )
        stale = result.outcome == "stale"
        challenge = digest.challenge(request, stale=stale, realm=realm, algorithms=algorithms, proxy=proxy)
        if proxy:
            raise SipError("Proxy Authentication Required", 407, tuple(challenge))
        raise SipError("Unauthorized", 401, tuple(challenge))


def strip_credentials(request: SipRequest, realm: str) -> None:
    """Take the credentials for `realm` off a request that is to be forwarded; others stay (RFC 3261 22.3)."""
    for key in _HEADERS:
        lines = [line for each, line in zip(request.keys, request.lines, strict=True) if each == key]
        if lines:
            request.remove(key)
            for line in lines:
                if AuthValue.parse(field_value(line)).get("realm") != realm:
                    request.write_line(key, line)
