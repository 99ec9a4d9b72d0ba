"""Which recording clients are let in (RFC 7866 12.1)."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from siprec.sip.clock import Clock
from siprec.sip.digest_server import DigestServer
from siprec.sip.errors import SipError
from siprec.sip.message import SipRequest
from siprec.sip.throttle import GuessThrottle
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri

Certificate = Callable[[Hop], Mapping[str, Any]]


def certificate_names(certificate: Mapping[str, Any]) -> set[str]:
    """The names a verified certificate stands for (RFC 5922 7.1), in lower case: hosts of its SIP URIs, else its DNS
    names, else, without any subjectAltName, its common name. `certificate` is as ``ssl.SSLSocket.getpeercert`` has it.
    """
    alternatives = certificate.get("subjectAltName", ())
    hosts = set()
    for kind, value in alternatives:
        if kind == "URI":
            try:
                uri = Uri.parse(value)
            except SipError:
                continue
            # With a user it names a person, not a host (RFC 5922 7.1).
            if uri.is_sip and not uri.user:
                hosts.add(uri.host.lower())
    if hosts:
        return hosts
    names = {value.lower() for kind, value in alternatives if kind == "DNS"}
    if names or alternatives:
        return names
    return {value.lower() for part in certificate.get("subject", ()) for key, value in part if key == "commonName"}


class Admission:
    """What a recording client has to show; everything that is set has to hold, nothing is set by default.

    Args:
        networks: it sends from one of these (addresses or networks).
        names: its verified TLS certificate has one of these names, compared as a whole (no wildcards, RFC 5922 7.2).
        users: names and passwords, or hashes (:mod:`siprec.sip.digest`): it knows one of them.
        realm: of the digest challenge.
        algorithms, legacy_agents: as in :class:`siprec.sip.digest_server.DigestServer`.
        certificate: the verified certificate of who sent a request; empty without one.

    Raises:
        ValueError: a network is none.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        networks: Iterable[str] = (),
        names: Iterable[str] = (),
        users: Mapping[str, str | Mapping[str, str]] | None = None,
        realm: str = "siprec",
        algorithms: Iterable[str] = ("MD5",),
        legacy_agents: Iterable[str] = (),
        certificate: Certificate = lambda hop: {},
    ) -> None:
        self._networks = [ipaddress.ip_network(text, strict=False) for text in networks]
        self._names = {name.lower() for name in names}
        self._users = dict(users or {})
        self._digest = DigestServer(clock, realm, algorithms=algorithms, legacy_agents=legacy_agents)
        self._certificate = certificate
        self._throttle = GuessThrottle(clock)

    def check(self, request: SipRequest, source: Hop) -> None:
        """Let `request`, which came from `source`, in.

        Raises:
            SipError: 403, or 401 with its challenges; 503 with Retry-After after too many wrong passwords.
        """
        if self._networks and not self._from_known_network(source.host):
            raise SipError(f"{source.host} is not among the clients", 403)
        if self._names:
            found = certificate_names(self._certificate(source)) if source.transport == "tls" else set()
            if not found & self._names:
                raise SipError(f"certificate of {', '.join(sorted(found)) or 'nobody'} is not among the clients", 403)
        if self._users:
            claimed = self._digest.claims(request)
            if claimed is not None:
                self._throttle.check(source.host, claimed)
            result = self._digest.verify(request, self._users.get)
            if result.ok:
                self._throttle.succeeded(source.host, result.username)
            else:
                if result.outcome == "denied":
                    self._throttle.failed(source.host, result.username)
                challenge = self._digest.challenge(request, stale=result.outcome == "stale")
                raise SipError(f"user {result.username!r}: {result.reason or result.outcome}", 401, tuple(challenge))

    def _from_known_network(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self._networks)
