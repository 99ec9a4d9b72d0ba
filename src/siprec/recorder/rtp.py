"""RTP as received (RFC 3550): header parsing, sources, reordering, statistics.

Nothing here raises on what comes from the network; bad packets are counted.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

_HEADER = struct.Struct("!BBHII")
MAX_SOURCES = 16
"""Synchronisation sources kept per stream; a flood of invented SSRCs must not cost memory."""
_MAX_DROPOUT = 3000  # RFC 3550 A.1
_MAX_HELD = 5000  # packets held per source: far beyond any audio rate times the hold time


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
        return max(self.expected - (self.received - self.duplicate - self.late), 0)

    def add(self, other: Counters) -> None:
        """Sum `other` into this one; the jitter kept is the larger."""
        for name in (
            "received", "octets", "expected", "duplicate", "reordered", "late", "malformed", "stranger",
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


class Ordered(NamedTuple):
    """A packet in its place: `sequence` and `timestamp` extended beyond their wraps."""

    sequence: int
    timestamp: int
    packet: RtpPacket


@dataclass(slots=True)
class Source:
    """One SSRC: extended numbers, statistics, and the packets not yet handed on."""

    ssrc: int
    clock_rate: int
    counters: Counters = field(default_factory=Counters)
    first_arrival: float = 0.0
    last_arrival: float = 0.0
    valid: bool = False
    ended: bool = False
    _base: int = -1
    _highest: int = -1
    _earlier_expected: int = 0
    _bad_sequence: int = -1
    _timestamp: int = -1
    _transit: float | None = None
    _handed: int = -1
    _held: dict[int, Ordered] = field(default_factory=dict)
    _recent: set[int] = field(default_factory=set)

    @property
    def highest(self) -> int:
        """Extended highest sequence number received."""
        return self._highest

    def receive(self, packet: RtpPacket) -> None:
        """Take one packet in: order, extend, count."""
        counters = self.counters
        counters.received += 1
        counters.octets += len(packet.payload)
        if self._highest < 0:
            # Offset by one cycle so that packets from before the first one still have a place.
            self._base = self._highest = packet.sequence + 0x10000
            self._timestamp = packet.timestamp + (1 << 32)
            self.first_arrival = packet.arrival
            sequence = self._highest
        else:
            sequence = self._extend(packet)
            if sequence < 0:
                return
        self.last_arrival = packet.arrival
        delta = (packet.timestamp - self._timestamp + 0x80000000 & 0xFFFFFFFF) - 0x80000000
        timestamp = self._timestamp + delta
        if sequence in self._held:
            counters.duplicate += 1
            return
        if sequence <= self._handed:
            if self._handed - sequence < 64 and sequence in self._recent:
                counters.duplicate += 1
            else:
                counters.late += 1
            return
        if sequence >= self._highest:
            self._highest = sequence
            self._timestamp = timestamp
        else:
            counters.reordered += 1
            self._base = min(self._base, sequence)
        counters.expected = self._earlier_expected + self._highest - self._base + 1
        self._measure(packet)
        self._held[sequence] = Ordered(sequence, timestamp, packet)

    def _extend(self, packet: RtpPacket) -> int:
        """The extended sequence number, -1 if the packet has to wait for a successor (RFC 3550 A.1)."""
        delta = (packet.sequence - self._highest + 0x8000 & 0xFFFF) - 0x8000
        if -_MAX_DROPOUT < delta < _MAX_DROPOUT:
            self._bad_sequence = -1
            return self._highest + delta
        if packet.sequence != self._bad_sequence:
            self._bad_sequence = packet.sequence + 1 & 0xFFFF
            self.counters.probation += 1
            self.counters.expected += 1
            self._earlier_expected += 1
            return -1
        # Two in a row: the sender has restarted its numbering without a new SSRC.
        self._earlier_expected += self._highest - self._base + 1
        self._bad_sequence = -1
        self._highest = (self._highest | 0xFFFF) + 1 + 0x10000 + packet.sequence
        self._base = self._highest
        self._transit = None
        return self._highest

    def _measure(self, packet: RtpPacket) -> None:
        transit = packet.arrival - packet.timestamp / self.clock_rate
        if self._transit is not None:
            change = abs(transit - self._transit)
            # Leaps (wrap, pause with a stopped clock) are no jitter.
            if change < 1.0:
                self.counters.jitter += (change - self.counters.jitter) / 16
        self._transit = transit

    def take(self, before: float) -> list[Ordered]:
        """Hand on, in order, everything up to the newest packet that arrived earlier than `before`."""
        held = self._held
        if not held:
            return []
        due = [s for s, item in held.items() if item.packet.arrival < before]
        excess = len(held) - _MAX_HELD
        if excess > 0:
            due += sorted(held)[:excess]
        if not due:
            return []
        limit = max(due)
        items = [held.pop(s) for s in sorted(held) if s <= limit]
        self._handed = limit
        self._recent = {item.sequence for item in items[-64:]} | {s for s in self._recent if s > limit - 64}
        return items

    def waiting(self) -> list[Ordered]:
        """What is held and not handed on yet, in order of sequence."""
        return [self._held[s] for s in sorted(self._held)]


class Receiver:
    """The sources of one m-line.

    `clock_rate(payload_type)` gives the RTP clock in Hz, or None for a payload type that was not negotiated.
    """

    def __init__(self, clock_rate: Callable[[int], int | None]) -> None:
        self._clock_rate = clock_rate
        self.sources: dict[int, Source] = {}
        self._retired = Counters()
        self.counters = Counters()
        """Packets that belong to no source; :meth:`total` adds the sources up."""

    def receive(self, data: bytes, arrival: float) -> RtpPacket | None:
        """One datagram. Returns the packet if it was RTP of a negotiated type."""
        packet = parse(data, arrival)
        if packet is None:
            self.counters.malformed += 1
            return None
        rate = self._clock_rate(packet.payload_type)
        if rate is None:
            self.counters.unknown_payload_type += 1
            return None
        source = self.sources.get(packet.ssrc)
        if source is None:
            if len(self.sources) >= MAX_SOURCES and not self._retire(arrival):
                self.counters.probation += 1
                return None
            source = self.sources[packet.ssrc] = Source(packet.ssrc, rate)
            # The first source is believed at once: its first packet may be the first word. Later ones have to
            # send two packets (RFC 3550 A.1), which are then both kept.
            source.valid = len(self.sources) == 1
        elif not source.valid:
            source.valid = True
        source.receive(packet)
        return packet

    def _retire(self, now: float) -> bool:
        """Make room: forget the source that has been silent longest, if for 2 s at least (or never proven)."""
        candidate = min(self.sources.values(), key=lambda s: (s.valid, s.last_arrival))
        if candidate.valid and (now - candidate.last_arrival < 2.0 or candidate.waiting()):
            return False
        self._count(candidate, self._retired)
        del self.sources[candidate.ssrc]
        return True

    @staticmethod
    def _count(source: Source, into: Counters) -> None:
        if source.valid:
            into.add(source.counters)
        else:
            into.probation += source.counters.received

    def take(self, before: float) -> list[tuple[Source, list[Ordered]]]:
        """Per valid source the ordered packets that are due, see :meth:`Source.take`."""
        return [(source, items) for source in self.sources.values() if source.valid and (items := source.take(before))]

    def total(self) -> Counters:
        """All counters of the stream so far."""
        total = Counters()
        total.add(self.counters)
        total.add(self._retired)
        for source in self.sources.values():
            self._count(source, total)
        return total
