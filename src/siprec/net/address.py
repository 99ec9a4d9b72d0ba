"""Numeric addresses: listening addresses as they are written, what may be sent to, and where we are."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

TRANSPORTS: Final = ("udp", "tcp", "tls")
WILDCARDS: Final = frozenset({"0.0.0.0", "::"})
"""What a socket is bound to that receives on all addresses."""
DEFAULT_PORTS: Final = {"udp": 5060, "tcp": 5060, "tls": 5061}


def split_host_port(text: str) -> tuple[str, int | None]:
    """``host``, ``host:port``, ``[v6]``, ``[v6]:port`` or a bare IPv6 address.

    Raises:
        ValueError: no such thing.
    """
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"malformed address {text!r}")
        port = rest[1:]
    elif text.count(":") > 1:
        host, port = text, ""
    else:
        host, _, port = text.partition(":")
    if not host or (port and not (port.isascii() and port.isdecimal() and int(port) <= 65535)):
        raise ValueError(f"malformed address {text!r}")
    return host, int(port) if port else None


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to listen: ``udp:127.0.0.1:5060``, ``tcp:[::1]:0``, ``tls:0.0.0.0`` (port 5061). `host` is numeric."""

    transport: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> ListenAddress:
        """Parse ``transport:host[:port]``.

        Raises:
            ValueError: unknown transport, malformed address, or a host that is not numeric.
        """
        transport, colon, rest = text.partition(":")
        transport = transport.lower()
        if not colon or transport not in TRANSPORTS:
            raise ValueError(f"listening address {text!r}: expected udp:, tcp: or tls: and an address")
        host, port = split_host_port(rest)
        if host == "*":
            host = "0.0.0.0"
        elif host.lower() == "localhost":
            host = "127.0.0.1"
        if family_of(host) == socket.AF_UNSPEC:
            raise ValueError(f"listening address {text!r}: the host must be numeric")
        return cls(transport, host, DEFAULT_PORTS[transport] if port is None else port)

    @property
    def family(self) -> socket.AddressFamily:
        """AF_INET or AF_INET6."""
        return family_of(self.host)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.transport}:{host}:{self.port}"


@lru_cache(maxsize=4096)
def family_of(host: str) -> socket.AddressFamily:
    """AF_INET or AF_INET6 for a numeric address (without brackets, with or without %zone), else AF_UNSPEC."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return socket.AF_UNSPEC
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


@lru_cache(maxsize=4096)
def refusal(host: str) -> str:
    """Why nothing may be sent to this address (RFC 4475 3.3.10), or an empty string.

    Directed broadcasts look like any other address; the kernel refuses those, as no socket here has SO_BROADCAST.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "not a numeric address"
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_multicast:
        return "multicast address"
    if address.is_unspecified:
        return "unspecified address"
    return "broadcast address" if str(address) == "255.255.255.255" else ""


def is_wildcard(host: str) -> bool:
    """Whether a socket bound to this address receives on all."""
    return host in WILDCARDS


def source_address(host: str) -> str:
    """The local address the kernel uses towards `host` (nothing is sent); empty when there is no route."""
    family = family_of(host)
    if family == socket.AF_UNSPEC:
        return ""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def is_local_address(host: str) -> bool:
    """Whether a numeric address is one of this machine's."""
    family = family_of(host)
    if family == socket.AF_UNSPEC or refusal(host):
        return False
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True


def bound_socket(address: ListenAddress) -> socket.socket:
    """A non-blocking socket bound to `address`; an IPv6 one takes IPv6 only.

    Raises:
        OSError: the address is in use or not ours.
    """
    kind = socket.SOCK_DGRAM if address.transport == "udp" else socket.SOCK_STREAM
    sock = socket.socket(address.family, kind)
    try:
        sock.setblocking(False)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address.host, address.port))
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"cannot listen on {address}: {error.strerror}") from None
    return sock


def local_addresses(family: socket.AddressFamily) -> list[str]:
    """The unicast addresses of this host, loopback included; IPv6 link-local ones are left out (they need a zone)."""
    found: list[str] = []
    try:
        if family == socket.AF_INET6:
            for line in Path("/proc/net/if_inet6").read_text().splitlines():
                address = ipaddress.IPv6Address(bytes.fromhex(line.split()[0]))
                if not address.is_link_local:
                    found.append(str(address))
        else:
            last = ""
            for line in Path("/proc/net/fib_trie").read_text().splitlines():
                text = line.strip()
                if text.startswith("|--"):
                    last = text[3:].strip()
                elif text == "/32 host LOCAL" and last not in found:
                    found.append(last)
    except (OSError, ValueError):
        found = []
    loopback = "::1" if family == socket.AF_INET6 else "127.0.0.1"
    return found or [loopback]
