"""Addresses and pairs of ports for RTP and RTCP."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace

from siprec.rtp.ports import bind_pair
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
        self._dscp = dscp
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
        for _ in range(self._count):
            port = self._first + 2 * self._next
            self._next = (self._next + 1) % self._count
            if (interface.address, port) in self._taken:
                continue
            try:
                pair = bind_pair(interface.address, port, dscp=self._dscp)
            except OSError as error:
                raise NoPorts(f"{interface.address}: {error.strerror}") from error
            if pair is not None:
                self._taken.add((interface.address, port))
                return PortPair(interface, port, pair.rtp, pair.rtcp, self)
        raise NoPorts(f"{interface.address}: all {self._count} pairs are taken")
