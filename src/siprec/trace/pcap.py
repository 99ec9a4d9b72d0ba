"""A call's SIP messages as a capture file that Wireshark opens (classic pcap, raw IP)."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable
from typing import Final

from siprec.trace.ring import Step

LINKTYPE_RAW: Final = 101
_MOST: Final = 65_000
"""Octets of a message in one packet: what an IP packet holds."""
_SEGMENT: Final = 32_000


def export(steps: Iterable[Step]) -> bytes:
    """The SIP messages among `steps` as packets.

    What went over UDP is there as such, TCP as segments of a connection without its handshake, TLS in the clear as UDP
    (a capture of it could not be read). Sums of UDP and TCP are not filled in.
    """
    out = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 0x40000, LINKTYPE_RAW)]
    sequence: dict[tuple[tuple[str, int], tuple[str, int]], int] = {}
    for step in steps:
        if step.kind != "sip":
            continue
        source, target = (step.peer, step.local) if step.direction == "in" else (step.local, step.peer)
        if step.transport == "tcp":
            for start in range(0, len(step.data), _SEGMENT):
                part = step.data[start : start + _SEGMENT]
                number, other = sequence.get((source, target), 1), sequence.get((target, source), 1)
                sequence[source, target] = number + len(part) & 0xFFFFFFFF
                head = struct.pack("!HHIIBBHHH", source[1], target[1], number, other, 0x50, 0x18, 65535, 0, 0)
                out.append(_packet(step.time, source[0], target[0], 6, head + part))
        else:
            part = step.data[:_MOST]
            head = struct.pack("!HHHH", source[1], target[1], 8 + len(part), 0)
            out.append(_packet(step.time, source[0], target[0], 17, head + part))
    return b"".join(out)


def _packet(wall: float, source: str, target: str, protocol: int, payload: bytes) -> bytes:
    a, b = _ip(source), _ip(target)
    if a.version != b.version:
        # A socket bound to every address: take the one that fits.
        a = a if not a.is_unspecified else ipaddress.ip_address("::" if b.version == 6 else "0.0.0.0")
        b = b if not b.is_unspecified else ipaddress.ip_address("::" if a.version == 6 else "0.0.0.0")
    if a.version == 6 and b.version == 6:
        packet = struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + a.packed + b.packed + payload
    else:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0) + a.packed[:4] + b.packed[:4]
        packet = head[:10] + struct.pack("!H", _checksum(head)) + head[12:] + payload
    seconds = int(wall)
    return struct.pack("<IIII", seconds, int((wall - seconds) * 1e6), len(packet), len(packet)) + packet


def _checksum(head: bytes) -> int:
    total = sum(int.from_bytes(head[at : at + 2], "big") for at in range(0, 20, 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return ipaddress.ip_address("0.0.0.0")
