"""Addresses and pairs of ports for RTP and RTCP."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace

from siprec.sdp import address_family


class NoPorts(Exception):
    """Every pair of the range is taken, or the address cannot be bound."""


@dataclass(frozen=True, slots=True)
class Interface:
    """A local address media go through. `advertised` is what descriptions say (another one behind NAT)."""

    address: str
    advertised: str = ""
    name: str = "default"

    @property
    def family(self) -> str:
        return address_family(self.address)

    @property
    def public(self) -> str:
        return self.advertised or self.address


def parse_interface(text: str) -> Interface:
    """``[NAME/]ADDRESS[!ADVERTISED]``; raises ValueError for what is no address."""
    name, slash, rest = text.rpartition("/")
    address, _, advertised = rest.partition("!")
    return Interface(
        ipaddress.ip_address(address).compressed,
        ipaddress.ip_address(advertised).compressed if advertised else "",
        name if slash else "default",
    )


def socket_address(family: str, host: str, port: int) -> tuple[str, int] | tuple[str, int, int, int] | None:
    """`host`:`port` in the form the socket module reports for that family; None for what is no address of it."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if address_family(host) != family or address.is_unspecified or not 0 < port < 65536 or "%" in host:
        return None  # a zone (RFC 4007) means something on its own host only
    return (address.compressed, port) if family == "IP4" else (address.compressed, port, 0, 0)


@dataclass(eq=False, slots=True)
class PortPair:
    """Two bound, non-blocking sockets: RTP on an even port, RTCP on the next."""

    interface: Interface
    port: int
    rtp: socket.socket
    rtcp: socket.socket
    pool: PortPool

    def close(self) -> None:
        """Close both sockets and give the pair back."""
        self.rtp.close()
        self.rtcp.close()
        self.pool._taken.discard((self.interface.address, self.port))


def _bindable(interface: Interface) -> Interface:
    """Of a wildcard address the one that is advertised, if that is this host's: on a host with several addresses media
    must leave from the one that descriptions name."""
    if not interface.advertised or not ipaddress.ip_address(interface.address).is_unspecified:
        return interface
    family = socket.AF_INET6 if interface.family == "IP6" else socket.AF_INET
    if address_family(interface.advertised) != interface.family:
        return interface
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((interface.advertised, 0))
        except OSError:
            return interface
    return replace(interface, address=interface.advertised)


class PortPool:
    """Pairs from `low` to `high` (both inclusive), handed out in turn so that a port rests before it is used again.
    `dscp` (RFC 2474, 0 to 63) marks what is sent; 46 is usual for voice (RFC 4594). Raises ValueError."""

    def __init__(self, interfaces: Sequence[Interface], low: int, high: int, dscp: int = 0) -> None:
        self.interfaces = tuple(map(_bindable, interfaces))
        self._first = low + low % 2
        self._count = (high - self._first + 1) // 2
        if not interfaces or self._count < 1 or not 1024 <= self._first < high <= 65535:
            raise ValueError(f"no pair of ports between {low} and {high}")
        if not 0 <= dscp <= 63:
            raise ValueError(f"DSCP {dscp} is not in 0..63")
        self._class = dscp << 2  # beside it are the two bits of ECN (RFC 3168 5)
        for each in interfaces:
            if ipaddress.ip_address(each.public).is_unspecified:  # in a description it would mean hold
                raise ValueError(f"{each.address} needs an address to advertise")
        self._next = 0
        self._taken: set[tuple[str, int]] = set()

    @property
    def in_use(self) -> int:
        """Pairs that are out."""
        return len(self._taken)

    @property
    def capacity(self) -> int:
        """Pairs there can be at one address."""
        return self._count

    def interface(self, *, name: str = "", family: str = "") -> Interface:
        """The first interface of that name (else any) and family (else any): what fits best."""
        named = [each for each in self.interfaces if each.name == name] or list(self.interfaces)
        return next((each for each in named if each.family == family), named[0])

    def allocate(self, interface: Interface) -> PortPair:
        """A fresh pair; raises :class:`NoPorts`."""
        kind = socket.AF_INET6 if interface.family == "IP6" else socket.AF_INET
        for _ in range(self._count):
            port = self._first + 2 * self._next
            self._next = (self._next + 1) % self._count
            if (interface.address, port) in self._taken:
                continue
            opened: list[socket.socket] = []
            try:
                for number in (port, port + 1):
                    sock = socket.socket(kind, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
                    opened.append(sock)
                    if kind == socket.AF_INET6:
                        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, self._class)
                    else:
                        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, self._class)
                    sock.bind((interface.address, number))
            except OSError as error:
                for sock in opened:
                    sock.close()
                if not opened or error.errno not in (98, 13):  # EADDRINUSE, EACCES: somebody else's port
                    raise NoPorts(f"{interface.address}: {error.strerror}") from error
                continue
            self._taken.add((interface.address, port))
            return PortPair(interface, port, opened[0], opened[1], self)
        raise NoPorts(f"{interface.address}: all {self._count} pairs are taken")
