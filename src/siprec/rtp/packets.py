"""RTP packets (RFC 3550 5.1), read and built. Reading never raises on what comes from the network."""

from __future__ import annotations

import struct
from typing import NamedTuple

_HEADER = struct.Struct("!BBHII")


class RtpPacket(NamedTuple):
    """One RTP packet (RFC 3550 5.1). `arrival` is monotonic seconds; `payload` is without padding."""

    payload_type: int
    marker: bool
    sequence: int
    timestamp: int
    ssrc: int
    csrc: tuple[int, ...]
    payload: bytes
    arrival: float


def parse(data: bytes, arrival: float) -> RtpPacket | None:
    """Parse one datagram; None if it is not a well-formed RTP packet."""
    size = len(data)
    if size < 12:
        return None
    first, second, sequence, timestamp, ssrc = _HEADER.unpack_from(data)
    if first >> 6 != 2:
        return None
    start = 12
    csrc: tuple[int, ...] = ()
    if first & 0x0F:
        count = first & 0x0F
        start += 4 * count
        if start > size:
            return None
        csrc = struct.unpack_from(f"!{count}I", data, 12)
    if first & 0x10:
        if start + 4 > size:
            return None
        start += 4 + 4 * int.from_bytes(data[start + 2 : start + 4], "big")
        if start > size:
            return None
    end = size
    if first & 0x20:
        padding = data[-1]
        if padding == 0 or start + padding > size:
            return None
        end -= padding
    return RtpPacket(second & 0x7F, second >= 0x80, sequence, timestamp, ssrc, csrc, data[start:end], arrival)


def build(
    payload_type: int, sequence: int, timestamp: int, ssrc: int, payload: bytes, *, marker: bool = False
) -> bytes:
    """One RTP packet without extension, CSRC or padding. Numbers are taken modulo their field size."""
    return (
        _HEADER.pack(
            0x80, (payload_type & 0x7F) | (0x80 if marker else 0), sequence & 0xFFFF, timestamp & 0xFFFFFFFF, ssrc
        )
        + payload
    )
