"""Who we are: the addresses we listen at, the names we are known by, the domains we answer for, whom we trust."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable

from siprec.sip.addresses import numeric
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri

_MAX_CACHED = 4096


class Networks:
    """A set of networks, asked for single addresses.

    Raises:
        ValueError: from the constructor, an entry is no network in CIDR notation.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = tuple(ipaddress.ip_network(text, strict=False) for text in networks)
        self._known: dict[str, bool] = {}

    def __contains__(self, host: str) -> bool:
        known = self._known.get(host)
        if known is None:
            try:
                address = ipaddress.ip_address(host.partition("%")[0])
            except ValueError:
                return False
            if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
                address = address.ipv4_mapped
            known = any(address in network for network in self._networks)
            if len(self._known) >= _MAX_CACHED:
                self._known.clear()
            self._known[host] = known
        return known


class LocalDomain:
    """What is ours.

    `addresses` are ``(transport, host, port)`` of every socket and advertised name (IPv6 without brackets); `domains`
    those whose users we serve, besides our own addresses.
    """

    def __init__(self, addresses: Iterable[tuple[str, str, int]], domains: Iterable[str] = ()) -> None:
        self._addresses: set[tuple[str, int]] = set()
        self._hosts: set[str] = set()
        self._udp: set[tuple[str, int]] = set()
        self._sockets: set[tuple[str, str, int]] = set()
        self._everywhere: set[tuple[str, int]] = set()
        self._is_local: Callable[[str], bool] = lambda host: False
        self.domains: set[str] = set()
        for transport, host, port in addresses:
            self.add(transport, host, port)
        self.set_domains(domains)

    def set_domains(self, domains: Iterable[str]) -> None:
        """Serve these domains from now on, and no others besides our own addresses."""
        self.domains = {_spelt(domain) for domain in domains}

    def add(self, transport: str, host: str, port: int) -> None:
        """One more address or name of ours."""
        host = _spelt(host)
        if host in ("127.0.0.1", "::1"):
            self.add(transport, "localhost", port)
        self._addresses.add((host, port))
        self._hosts.add(host)
        self._sockets.add((transport, numeric(host) or host, port))
        if transport == "udp":
            self._udp.add((host, port))

    def listens_everywhere(self, transport: str, port: int, is_local: Callable[[str], bool]) -> None:
        """A socket takes what comes to any address of this host; `is_local` says whether a numeric one is."""
        self._everywhere.add((transport, port))
        self._is_local = is_local

    def leads_here(self, hop: Hop) -> bool:
        """Whether what is sent there comes to one of our sockets."""
        host = numeric(hop.host) or hop.host.lower()
        if (hop.transport, host, hop.port) in self._sockets:
            return True
        return (hop.transport, hop.port) in self._everywhere and self._is_local(host)

    def is_own_contact(self, uri: Uri) -> bool:
        """Whether a Contact leads to one of our sockets, by address, port and transport, or is one of our domains."""
        if not uri.is_sip:
            return False
        host = (uri.params.get("maddr") or uri.host).strip("[]")
        transport = "tls" if uri.scheme == "sips" else uri.transport or "udp"
        port = uri.port if uri.port is not None else 5061 if transport == "tls" else 5060
        return self.leads_here(Hop(transport, host, port)) or (uri.port is None and host in self.domains)

    def is_address(self, host: str, port: int) -> bool:
        """Whether this is where we listen: sent-by of a Via of ours (RFC 5393 4.2.2)."""
        return (_spelt(host), port) in self._addresses

    def has_udp(self, host: str, port: int) -> bool:
        """Whether we can be reached there by UDP, so that a Record-Route needs no transport (RFC 3261 16.6 step 4)."""
        return (_spelt(host), port) in self._udp

    def is_us(self, uri: Uri) -> bool:
        """Whether a Route or Request-URI leads to this proxy (RFC 3261 16.4, 16.12)."""
        if not uri.is_sip:
            return False
        host = uri.host if ":" not in uri.host else _spelt(uri.host)
        return (host, uri.effective_port) in self._addresses or (uri.port is None and host in self.domains)

    def serves(self, uri: Uri) -> bool:
        """Whether users of this URI's domain are ours (RFC 3261 16.5)."""
        host = uri.host if ":" not in uri.host else _spelt(uri.host)
        return uri.is_sip and (
            host in self.domains
            or (host, uri.effective_port) in self._addresses
            or (uri.port is None and host in self._hosts)
        )


def _spelt(host: str) -> str:
    """A name in lower case; an IPv6 address without brackets, in its usual spelling."""
    return (numeric(host) if ":" in host else "") or host.lower()
