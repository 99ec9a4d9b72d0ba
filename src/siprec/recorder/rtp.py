"""RTP as received (RFC 3550): header parsing, counters.

Nothing here raises on what comes from the network; bad packets are counted.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
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


def is_rtcp(data: bytes) -> bool:
    """True if a datagram on a multiplexed port is RTCP (RFC 5761 4: packet types 192-223)."""
    return len(data) >= 4 and 192 <= data[1] <= 223


@dataclass(slots=True)
class Counters:
    """What happened on a stream or source; packets unless named otherwise."""

    received: int = 0
    octets: int = 0
    expected: int = 0
    distinct: int = 0
    """Packets that came in time, each counted once (RFC 3550 A.3, with duplicates counted apart)."""
    duplicate: int = 0
    reordered: int = 0
    late: int = 0
    malformed: int = 0
    stranger: int = 0
    srtp_rejected: int = 0
    """SRTP and SRTCP that was not authentic (the wrong key, damage, forgery), or came twice."""
    unknown_payload_type: int = 0
    probation: int = 0
    jitter: float = 0.0
    """Interarrival jitter in seconds (RFC 3550 6.4.1)."""

    @property
    def lost(self) -> int:
        """Packets that never came (late ones did come, but count: they are not in the audio)."""
        return max(self.expected - self.distinct, 0)

    def add(self, other: Counters) -> None:
        """Sum `other` into this one; the jitter kept is the larger."""
        for name in (
            "received", "octets", "expected", "distinct", "duplicate", "reordered", "late", "malformed", "stranger",
            "srtp_rejected", "unknown_payload_type", "probation",
        ):  # fmt: skip
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.jitter = max(self.jitter, other.jitter)

    def as_dict(self) -> dict[str, int | float]:
        """For the JSON: jitter in milliseconds."""
        return {
            "received": self.received,
            "octets": self.octets,
            "expected": self.expected,
            "lost": self.lost,
            "duplicate": self.duplicate,
            "reordered": self.reordered,
            "late": self.late,
            "malformed": self.malformed,
            "stranger": self.stranger,
            "srtp_rejected": self.srtp_rejected,
            "unknown_payload_type": self.unknown_payload_type,
            "probation": self.probation,
            "jitter_ms": round(self.jitter * 1000, 3),
        }
