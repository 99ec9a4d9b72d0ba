"""Proxy authentication (RFC 3261 22.3; REQ-07): who is not trusted by address may be so by password."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from siprec.sip.clock import Clock
from siprec.sip.digest import AuthValue, DigestServer
from siprec.sip.errors import SipError
from siprec.sip.message import SipRequest

log = logging.getLogger(__name__)

_HEADER = "proxy-authorization"


class ProxyAuthentication:
    """Challenges with 407. `users` are names and passwords, or hashes (:mod:`siprec.sip.digest`)."""

    def __init__(self, clock: Clock, realm: str, users: Mapping[str, str | Mapping[str, str]]) -> None:
        self._users = dict(users)
        self._digest = DigestServer(clock, realm, proxy=True)

    def check(self, request: SipRequest) -> str:
        """The authenticated user; the credentials for this realm are taken off, others stay (22.3). Never to be asked
        about ACK and CANCEL.

        Raises:
            SipError: 407 with its challenges.
        """
        result = self._digest.verify(request, self._users.get)
        if not result.ok:
            if result.outcome == "denied":
                log.warning(
                    "%s of %r refused: %s, Call-ID %s", request.method, result.username, result.reason, request.call_id
                )
            challenge = self._digest.challenge(stale=result.outcome == "stale")
            raise SipError("Proxy Authentication Required", 407, tuple(challenge))
        others = [text for text in request.get_all(_HEADER) if AuthValue.parse(text).get("realm") != self._digest.realm]
        request.remove(_HEADER)
        for text in others:
            request.add("Proxy-Authorization", text)
        return result.username
