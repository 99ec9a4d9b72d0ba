"""The listening sockets, and which of them a message is sent from."""

from __future__ import annotations

import ssl
from collections.abc import Hashable
from dataclasses import dataclass, replace
from time import monotonic
from typing import Final

from siprec.net.address import DEFAULT_PORTS, WILDCARDS, ListenAddress, family_of, is_local_address, source_address
from siprec.net.tcp import StreamListener
from siprec.net.udp import UdpListener
from siprec.sip.transport import Hop

MEMORY: Final = 60.0
"""Seconds for which a choice holds: then another address of this host may be the one to send from."""
MAX_KEPT: Final = 4096
MAX_UDP_REQUEST: Final = 1300
"""Octets of a request that go over UDP at most (RFC 3261 18.1.1)."""
TCP_REFUSED_MEMORY: Final = 300.0


@dataclass(slots=True)
class Listener:
    """One listening socket. `address` has the real port; `advertise` is what Via and Contact say (empty host: the
    address itself; port 0: the listening port)."""

    address: ListenAddress
    advertise: tuple[str, int]
    socket: UdpListener | StreamListener
    tls: ssl.SSLContext | None = None
    """The context for connections opened from here."""

    @property
    def local(self) -> tuple[str, int]:
        """Host and port as in :attr:`Hop.local`."""
        return (self.address.host, self.address.port)


class Listeners:
    """What :class:`siprec.net.transport.SocketTransport` listens on. Choices are remembered: each takes a call of the
    kernel, and they are asked for with every message."""

    def __init__(self, max_udp: int = MAX_UDP_REQUEST) -> None:
        self._max_udp = max_udp
        self._tcp_refused: dict[tuple[str, int], float] = {}
        self.listeners: list[Listener] = []
        self._by_local: dict[tuple[str, str, int], Listener] = {}
        self._chosen: dict[tuple[str, str, tuple[str, int]], Listener | None] = {}
        self._hops: dict[tuple[str, str, int, tuple[str, int], str, Hashable], Hop] = {}
        self._sources: dict[str, str] = {}
        self._until = 0.0

    def set_listeners(self, listeners: list[Listener]) -> None:
        """These are the listeners from now on."""
        self.listeners = listeners
        self._by_local = {(each.address.transport, *each.local): each for each in listeners}
        self._until = 0.0

    def route(self, hop: Hop, size: int) -> Hop:
        """The hop really to be used for a request of `size` octets. A destination where TCP failed lately stays with
        UDP."""
        if hop.connection:
            return hop
        if hop.transport == "udp" and size > self._max_udp and not self._is_tcp_refused(hop):
            stream = replace(hop, transport="tcp")
            listener = self.listener_for(stream)
            if listener is not None:
                return replace(stream, local=listener.local)
        return self.from_listener(hop)

    def _is_tcp_refused(self, hop: Hop) -> bool:
        until = self._tcp_refused.get((hop.host, hop.port))
        if until is None:
            return False
        if until > monotonic():
            return True
        del self._tcp_refused[(hop.host, hop.port)]
        return False

    def remember_refusal(self, hop: Hop) -> None:
        """No TCP to `hop` for five minutes: requests too large for UDP go over UDP all the same (RFC 3261 18.1.1)."""
        if hop.transport == "tcp":
            if len(self._tcp_refused) >= MAX_KEPT:
                self._tcp_refused.clear()
            self._tcp_refused[(hop.host, hop.port)] = monotonic() + TCP_REFUSED_MEMORY

    def forget_refusal(self, hop: Hop) -> None:
        """There is a connection to `hop`."""
        self._tcp_refused.pop((hop.host, hop.port), None)

    def listener_for(self, hop: Hop) -> Listener | None:
        """The listener to send to `hop` from: the one it asks for, else the one whose address the kernel would use."""
        if monotonic() >= self._until:
            self._forget()
        key = (hop.transport, hop.host, hop.local)
        if key in self._chosen:
            return self._chosen[key]
        if len(self._chosen) >= MAX_KEPT:
            self._forget()
        listener = self._chosen[key] = self._find(hop)
        return listener

    def _forget(self) -> None:
        self._until = monotonic() + MEMORY
        self._chosen.clear()
        self._hops.clear()
        self._sources.clear()

    def _find(self, hop: Hop) -> Listener | None:
        if hop.local[0]:
            listener = self._by_local.get((hop.transport, *hop.local))
            if listener is not None:
                return listener
        family = family_of(hop.host)
        fitting = [x for x in self.listeners if x.address.transport == hop.transport and x.address.family == family]
        if len(fitting) < 2:
            return fitting[0] if fitting else None
        wanted = hop.local[0] or self._source(hop.host)
        for listener in fitting:
            if listener.address.host == wanted:
                return listener
        return next((x for x in fitting if x.address.host in WILDCARDS), fitting[0])

    def from_listener(self, hop: Hop) -> Hop:
        """`hop` with the listener that it is sent from; the same object each time."""
        listener = self.listener_for(hop)
        if listener is None or listener.local == hop.local:
            return hop
        if hop.connection:
            return replace(hop, local=listener.local)
        key = (hop.transport, hop.host, hop.port, listener.local, hop.server_name, hop.tls)
        known = self._hops.get(key)
        if known is None:
            if len(self._hops) >= MAX_KEPT:
                self._forget()
            known = self._hops[key] = replace(hop, local=listener.local)
        return known

    def _source(self, host: str) -> str:
        if host not in self._sources:
            if len(self._sources) >= MAX_KEPT:
                self._sources.clear()
            self._sources[host] = source_address(host)
        return self._sources[host]

    def sent_by(self, hop: Hop) -> tuple[str, int]:
        """Host and port for the Via of a request sent to `hop` (advertised name if configured). IPv6 without
        brackets."""
        listener = self.listener_for(hop)
        if listener is None:
            return (self._source(hop.host) or "localhost", DEFAULT_PORTS.get(hop.transport, 5060))
        host, port = listener.advertise
        host = host or listener.address.host
        if host in WILDCARDS:
            host = self._source(hop.host) or host
        return (host, port or listener.address.port)

    def is_ours(self, host: str, port: int) -> bool:
        """Whether host (numeric, or an advertised name) and port are those of one of our listeners."""
        for listener in self.listeners:
            name, advertised = listener.advertise
            if name and name.lower() == host.lower() and port == (advertised or listener.address.port):
                return True
            if listener.address.port == port:
                own = listener.address.host
                if own == host:
                    return True
                if own in WILDCARDS and family_of(host) == listener.address.family and is_local_address(host):
                    return True
        return False
