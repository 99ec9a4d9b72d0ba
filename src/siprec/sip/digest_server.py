"""Digest authentication: the side that asks (RFC 3261 22, RFC 7616, RFC 8760).

It always asks for ``qop=auth``. It keeps no nonces: a nonce carries its time and an HMAC; what is kept, bounded, is
which nonce counts were seen, so that a recorded request cannot be played again.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from siprec.sip.clock import Clock
from siprec.sip.digest import AuthValue, check_algorithms, digest_response, hash_password
from siprec.sip.errors import SipError
from siprec.sip.message import SipMessage, SipRequest, encode
from siprec.sip.uri import Uri

_LEGACY: Final = ("MD5",)
_MAX_AGENT: Final = 256
_WINDOW: Final = 64

Lookup = Callable[[str], str | Mapping[str, str] | None]
"""User name to password, or to hashed passwords by algorithm (see `hash_password`), or None for an unknown user."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What came of a check: `absent` (no credentials for this realm), `stale` (right, but with an old or used nonce:
    challenge again with ``stale=true``), `denied` (wrong), or `ok`. `reason` is for the log."""

    outcome: Literal["ok", "absent", "stale", "denied"]
    username: str = ""
    reason: str = ""

    @property
    def ok(self) -> bool:
        """Whether the request is authenticated."""
        return self.outcome == "ok"


class DigestServer:
    """Challenges with ``qop=auth``, and checks. ACK and CANCEL must never be challenged (RFC 3261 22.1): callers see to
    it.

    `secret` signs the nonces (random when empty: nonces then end with the process), `lifetime` is a nonce's life in
    seconds, `algorithms` in order of preference, `legacy_agents` are regular expressions, searched for in User-Agent
    without regard to case: what matches gets MD5 only. `proxy` chooses 407's headers instead of 401's, `max_nonces`
    bounds the memory of used nonces. Methods take other `realm`, `algorithms` and `proxy` for one request.

    Raises:
        ValueError: from the constructor: an algorithm that is not supported, or a malformed expression.
    """

    def __init__(
        self,
        clock: Clock,
        realm: str,
        *,
        secret: bytes = b"",
        lifetime: float = 300.0,
        algorithms: Iterable[str] = ("MD5",),
        legacy_agents: Iterable[str] = (),
        proxy: bool = False,
        max_nonces: int = 10_000,
    ) -> None:
        self.realm = realm
        self.proxy = proxy
        self._clock = clock
        self._secret = secret or secrets.token_bytes(32)
        self._lifetime = lifetime
        self.configure(algorithms, legacy_agents)
        self._numbers = itertools.count(secrets.randbits(32))
        self._max_nonces = max_nonces
        self._used: OrderedDict[str, tuple[int, int, float]] = OrderedDict()  # highest nc, bits below it, nonce's time
        self._forgotten = -1.0  # nonces made up to this time may have been used and forgotten

    def configure(self, algorithms: Iterable[str], legacy_agents: Iterable[str] = ()) -> None:
        """Go on with other algorithms and legacy agents. Raises ValueError as the constructor does."""
        wanted, agents = tuple(algorithms), tuple(legacy_agents)
        check_algorithms(wanted, agents)
        self._algorithms = wanted
        self._legacy = [re.compile(text, re.IGNORECASE) for text in agents]

    def challenge(
        self,
        request: SipMessage | None = None,
        *,
        stale: bool = False,
        realm: str = "",
        algorithms: Sequence[str] = (),
        proxy: bool | None = None,
    ) -> list[tuple[str, str]]:
        """The headers of a 401 or 407 to `request`: one challenge per algorithm, the preferred one on top (RFC 8760
        2.4)."""
        name = "Proxy-Authenticate" if (self.proxy if proxy is None else proxy) else "WWW-Authenticate"
        realm = realm or self.realm
        nonce = self._nonce(realm)
        result = []
        for algorithm in self._offered(request, algorithms):
            params = {"realm": realm, "nonce": nonce, "algorithm": algorithm, "qop": "auth"}
            if stale:
                params["stale"] = "true"
            result.append((name, str(AuthValue("Digest", params))))
        return result

    def verify(
        self,
        request: SipRequest,
        lookup: Lookup,
        *,
        realm: str = "",
        algorithms: Sequence[str] = (),
        proxy: bool | None = None,
        again: bool = False,
    ) -> Verification:
        """Check the request's credentials for the realm. Never raises. `again`: the same request was found right
        before, so its nonce count has been noted."""
        realm = realm or self.realm
        value = self._credentials(request, realm, self._offered(request, algorithms), proxy)
        if value is None:
            return Verification("absent")
        username, nonce, nc = value.get("username"), value.get("nonce"), value.get("nc")
        if not _same_uri(value.get("uri"), request.uri):
            return Verification("denied", username, "digest URI differs from the Request-URI")
        if value.get("qop").lower() != "auth" or not _is_count(nc):
            return Verification("denied", username, "no qop=auth with a nonce count, which the challenge asks for")
        known = lookup(username)
        ha1 = self._ha1(value.algorithm, username, realm, known)
        expected = digest_response(
            value.algorithm,
            ha1,
            request.method,
            value.get("uri"),
            nonce,
            qop="auth",
            nc=nc,
            cnonce=value.get("cnonce"),
        )
        # Unknown users take the same way as wrong passwords, so that time tells nothing.
        right = hmac.compare_digest(expected.encode(), encode(value.get("response").lower()))
        if not right or known is None:
            return Verification("denied", username, "wrong user or password")
        made = self._nonce_time(nonce, realm)
        if made is None or not -1.0 <= self._clock.wall() - made <= self._lifetime or made <= self._forgotten:
            return Verification("stale", username, "nonce too old")
        if not again and not self._first_use(nonce, made, int(nc, 16)):
            return Verification("stale", username, "nonce count used before")
        return Verification("ok", username)

    def claims(
        self, request: SipMessage, *, realm: str = "", algorithms: Sequence[str] = (), proxy: bool | None = None
    ) -> str | None:
        """The user that the request's credentials for the realm name, right or wrong; None without any."""
        value = self._credentials(request, realm or self.realm, self._offered(request, algorithms), proxy)
        return value.get("username") if value is not None else None

    def _offered(self, request: SipMessage | None, algorithms: Sequence[str]) -> Sequence[str]:
        if self._legacy and request is not None:
            agent = (request.get("user-agent") or "")[:_MAX_AGENT]
            if any(pattern.search(agent) for pattern in self._legacy):
                return _LEGACY
        return algorithms or self._algorithms

    def _credentials(
        self, request: SipMessage, realm: str, algorithms: Sequence[str], proxy: bool | None
    ) -> AuthValue | None:
        asked = self.proxy if proxy is None else proxy
        for text in request.get_all("proxy-authorization" if asked else "authorization"):
            value = AuthValue.parse(text)
            if (
                value.is_digest
                and value.get("realm") == realm
                and any(value.algorithm == algorithm.upper() for algorithm in algorithms)
            ):
                return value
        return None

    def _ha1(self, algorithm: str, username: str, realm: str, known: str | Mapping[str, str] | None) -> str:
        if known is None or isinstance(known, str):
            return hash_password(algorithm, username, realm, known or "")
        hashed = {name.upper(): value for name, value in known.items()}
        found = hashed.get(algorithm) or hashed.get(algorithm.removesuffix("-SESS"))
        # Without a hash for this algorithm nothing fits: an empty one could be used by anybody.
        return found.lower() if found else secrets.token_hex(32)

    def _nonce(self, realm: str) -> str:
        stem = f"{int(self._clock.wall() * 1000):x}-{next(self._numbers):x}"
        return f"{stem}-{self._sign(stem, realm)}"

    def _sign(self, stem: str, realm: str) -> str:
        return hmac.new(self._secret, encode(f"{realm}\0{stem}"), hashlib.sha256).hexdigest()[:32]

    def _nonce_time(self, nonce: str, realm: str) -> float | None:
        """When a nonce of ours was made; None for anybody else's."""
        stem, _, signature = nonce.rpartition("-")
        if not hmac.compare_digest(encode(self._sign(stem, realm)), encode(signature)):
            return None
        return int(stem.partition("-")[0], 16) / 1000

    def _first_use(self, nonce: str, made: float, count: int) -> bool:
        """Note a nonce count; False if it was seen before, or lies too far below the highest one to tell."""
        highest, bits, _ = self._used.get(nonce, (0, 0, made))
        if count > highest:
            bits = ((bits << (count - highest)) | 1) & ((1 << _WINDOW) - 1) if count - highest < _WINDOW else 1
            self._used[nonce] = (count, bits, made)
            if len(self._used) > self._max_nonces:
                _, (_, _, time) = self._used.popitem(last=False)
                self._forgotten = max(self._forgotten, time)
            return True
        bit = 1 << (highest - count) if highest - count < _WINDOW else 0
        if not bit or bits & bit:
            return False
        self._used[nonce] = (highest, bits | bit, made)
        return True


def _is_count(nc: str) -> bool:
    return 1 <= len(nc) <= 8 and all(c in "0123456789abcdefABCDEF" for c in nc) and int(nc, 16) > 0


def _same_uri(one: str, other: str) -> bool:
    if one == other:
        return True
    try:
        return Uri.parse(one).equivalent(Uri.parse(other))
    except SipError:
        return False
