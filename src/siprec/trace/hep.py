"""SIP messages for Homer: HEP version 3 over UDP (the HEP/EEP encapsulation, revision 12).

Each message goes in one datagram; what the socket does not take at once is dropped and counted. Nobody waits.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import struct
from typing import Final

from siprec.sip.transport import Hop

log = logging.getLogger(__name__)

_SIP: Final = 1
_MOST: Final = 64_000
_MOST_CORRELATION: Final = 512
_PROTOCOL: Final = {"udp": 17, "tcp": 6, "tls": 6}


def encode(
    wall: float,
    transport: str,
    source: tuple[str, int],
    target: tuple[str, int],
    payload: bytes,
    *,
    node: int,
    password: str = "",
    correlation: str = "",
) -> bytes:
    """One HEPv3 packet. `wall`: seconds since the epoch; `node`: capture agent id; `correlation`: chunk 0x0011."""
    a, b = _ip(source[0]), _ip(target[0])
    if a.version != b.version:
        a = b.__class__(0) if a.is_unspecified else a
        b = a.__class__(0) if b.version != a.version else b
    seconds = int(wall)
    family, low, high = (2, 3, 4) if a.version == 4 else (10, 5, 6)
    chunks = [
        _chunk(1, bytes([family])),
        _chunk(2, bytes([_PROTOCOL.get(transport, 17)])),
        _chunk(low, a.packed),
        _chunk(high, b.packed),
        _chunk(7, struct.pack("!H", source[1])),
        _chunk(8, struct.pack("!H", target[1])),
        _chunk(9, struct.pack("!I", seconds)),
        _chunk(10, struct.pack("!I", int((wall - seconds) * 1_000_000))),
        _chunk(11, bytes([_SIP])),
        _chunk(12, struct.pack("!I", node)),
    ]
    if password:
        chunks.append(_chunk(14, password.encode()))
    chunks.append(_chunk(15, payload[:_MOST]))
    if correlation:
        chunks.append(_chunk(17, correlation.encode("utf-8", "replace")[:_MOST_CORRELATION]))
    body = b"".join(chunks)
    return b"HEP3" + struct.pack("!H", 6 + len(body)) + body


def _chunk(kind: int, value: bytes) -> bytes:
    return struct.pack("!HHH", 0, kind, 6 + len(value)) + value


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return ipaddress.IPv4Address(0)


class HepSender:
    """Sends what :meth:`sip` is given to a collector at `address` (host, port).

    Raises:
        OSError: from the constructor, the address cannot be used.
    """

    def __init__(self, address: tuple[str, int], *, node: int, password: str = "") -> None:
        family, _, _, _, resolved = socket.getaddrinfo(*address, type=socket.SOCK_DGRAM)[0]
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.connect(resolved)
        self._node = node
        self._password = password
        self.sent = 0
        self.dropped = 0
        """Packets that the socket did not take."""
        self.refused = 0
        """ICMP errors: nobody listens at the collector's address."""

    def sip(self, wall: float, direction: str, hop: Hop, data: bytes, correlation: str) -> None:
        """One message that went or came; never waits, never raises."""
        peer = (hop.host, hop.port)
        source, target = (peer, hop.local) if direction == "in" else (hop.local, peer)
        packet = encode(
            wall,
            hop.transport,
            source,
            target,
            data,
            node=self._node,
            password=self._password,
            correlation=correlation,
        )
        for _ in range(2):
            try:
                self._socket.send(packet)
            except ConnectionRefusedError:
                # An ICMP error: an earlier packet was lost; this one was not sent yet.
                self.refused += 1
                continue
            except OSError:
                break  # no room just now: a trace is not worth a pause
            self.sent += 1
            return
        self.dropped += 1

    def close(self) -> None:
        """Send no more."""
        self._socket.close()
