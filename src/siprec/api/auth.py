"""Who may do what: bearer tokens with roles (RFC 6750), and what a browser must not be talked into."""

from __future__ import annotations

import hmac
import ipaddress
import logging
from collections.abc import Mapping
from typing import Final

from starlette.requests import Request

from siprec.api.problem import Problem
from siprec.api.settings import Role
from siprec.net.address import split_host_port
from siprec.sourcelog import SourceLog

log = logging.getLogger(__name__)

_RANK: Final[dict[str, int]] = {"read": 1, "listen": 2, "control": 3}
_REALM: Final = 'Bearer realm="siprec"'


class Authorization:
    """Checks requests against `tokens`; without any, only that they come from this host and from no foreign page."""

    def __init__(self, tokens: Mapping[str, Role]) -> None:
        self._refusals = SourceLog(log)
        self._tokens = [(token.encode(), role) for token, role in tokens.items()]

    def allows(self, request: Request, role: Role) -> bool:
        """Whether :meth:`check` would let the request pass."""
        try:
            self.check(request, role)
        except Problem:
            return False
        return True

    def check(self, request: Request, role: Role) -> None:
        """Whether the request may do what takes `role`.

        Raises:
            Problem: 401 no or an unknown token, 403 one that may not, or a page of another site.
        """
        self._check_origin(request)
        if not self._tokens:
            self._check_host(request)
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        source = request.client.host if request.client is not None else ""
        if scheme.lower() != "bearer" or not given.strip():
            if given:
                self._refusals.warning(source, "API: %s credentials from source=%s", scheme[:20], source)
            raise Problem(401, "a bearer token is needed", {"WWW-Authenticate": _REALM})
        found = self._role(given.strip().encode("utf-8", "replace"))
        if found is None:
            self._refusals.warning(source, "API: unknown token from source=%s", source)
            raise Problem(401, "this token is not known", {"WWW-Authenticate": f'{_REALM}, error="invalid_token"'})
        if _RANK[found] < _RANK[role]:
            header = {"WWW-Authenticate": f'{_REALM}, error="insufficient_scope"'}
            raise Problem(403, f"this takes a token with the role {role}", header)

    def _role(self, given: bytes) -> Role | None:
        # Every token is compared, in constant time each, so that time tells nothing about any.
        found: Role | None = None
        for token, role in self._tokens:
            if hmac.compare_digest(token, given):
                found = role
        return found

    @staticmethod
    def _check_origin(request: Request) -> None:
        origin = request.headers.get("origin")
        if origin is not None and origin.rpartition("//")[2].lower() != request.headers.get("host", "").lower():
            raise Problem(403, "requests of pages from elsewhere are refused")

    @staticmethod
    def _check_host(request: Request) -> None:
        # A name that somebody else's DNS points at us is not ours (DNS rebinding).
        try:
            host, _ = split_host_port(request.headers.get("host", ""))
            fine = host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            fine = False
        if not fine:
            raise Problem(403, "without tokens the API is there for localhost only")
