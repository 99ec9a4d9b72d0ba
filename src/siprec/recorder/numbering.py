"""One RTP source: extended sequence numbers, resynchronisation, statistics, order (RFC 3550 A.1, A.3, A.8).

A packet near the newest one takes its place. A packet far ahead or far behind, or one that was there before, may be a
stray, a duplicate, or the start of another numbering: it is kept until its successor decides. Nothing of a new
numbering is lost, and nothing stray moves the old one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from siprec.recorder.stream_counters import Counters
from siprec.rtp.packets import RtpPacket

_NEAR = 100  # RFC 3550 A.1, MAX_MISORDER; ahead it is the largest loss believed on the word of one packet
_EVENT_NEAR = 32  # events within that of the audio's numbers share its numbering
_FOLLOWS = 5  # "in a row": the next number, or a few lost in between
_REPEATS = 5  # packets in a row that were there before: a sender that plays its packets again
_REPEATS_TIME = 0.06  # seconds that they take at least; duplicates on the way come in one burst
_PACKET_TIME = 0.005  # the shortest usual packet, in seconds
_WINDOW = 1024  # numbers remembered, for telling duplicates
_MASK = (1 << _WINDOW) - 1
_MAX_RUN = 64
_CHAOS = 8  # packets that fit in no numbering, with none that does in between
_MAX_HELD = 5000  # packets held per source: far beyond any audio rate times the hold time
_CATCH_UP = 10.0  # seconds that timestamps may be ahead of arrival after a gap: a sender that kept packets


class Ordered(NamedTuple):
    """A packet in its place: `sequence` and `timestamp` extended beyond their wraps.

    `restart`: its numbering begins here, the difference to the number before means nothing.
    """

    sequence: int
    timestamp: int
    packet: RtpPacket
    restart: bool = False


def _signed(value: int, bits: int) -> int:
    half = 1 << bits - 1
    return (value + half & (1 << bits) - 1) - half


@dataclass(slots=True)
class Source:
    """One SSRC: its numbers, its counters, and the packets not yet handed on."""

    ssrc: int
    clock_rate: int
    counters: Counters = field(default_factory=Counters)
    last_arrival: float = 0.0
    valid: bool = False
    ended: bool = False
    restarts: int = 0
    """How often the numbering changed without a new SSRC."""
    dtx: bool = False
    """Talk spurts were marked (RFC 3551 4.1): silence is not sent."""
    _base: int = -1
    _floor: int = -1
    _highest: int = -1
    _earlier_expected: int = 0
    _seen: int = 0
    _seen_events: int = 0
    _timestamp: int = -1
    _step: int = 0
    _transit: float | None = None
    _handed: int = -1
    _rebase: bool = False
    _run: list[RtpPacket] = field(default_factory=list)
    _run_repeats: bool = False
    _run_duplicates: int = 0
    _aside: list[RtpPacket] = field(default_factory=list)
    _held: dict[int, Ordered] = field(default_factory=dict)
    _events: list[Ordered] = field(default_factory=list)
    _own_highest: int = -1
    _own_seen: int = 0

    @property
    def highest(self) -> int:
        """Extended highest sequence number received."""
        return self._highest

    def receive(self, packet: RtpPacket, *, event: bool = False) -> None:
        """Take one packet in: order, extend, count. `event`: a telephone event, which may have numbers of its own."""
        counters = self.counters
        counters.received += 1
        counters.octets += len(packet.payload)
        if self._highest < 0:
            # Offset by one cycle so that packets from before the first one still have a place.
            self._start(packet)
        elif packet.marker and not event:
            self.dtx = True
        if event:
            self._receive_event(packet)
        else:
            self._receive(packet)

    def gap(self) -> None:
        """What is missing up to the next packet was withheld (the stream was inactive): it is not lost."""
        self._drop_run()
        self._rebase = self._highest >= 0

    def _start(self, packet: RtpPacket) -> None:
        self._base = packet.sequence + 0x10000
        self._highest = self._base - 1
        self._floor = self._base - _NEAR
        self._timestamp = packet.timestamp + (1 << 32)

    def _receive(self, packet: RtpPacket) -> None:
        if self._rebase:
            self._resume(packet)
            return
        delta = (packet.sequence - self._highest + 0x8000 & 0xFFFF) - 0x8000
        if delta == 1 and not self._run and not self._aside:
            self._next(packet)  # nearly always
        elif not -_NEAR < delta < _NEAR:
            self._suspect(packet, repeats=self._base - self._highest <= delta < 0)
        elif delta == 0 and _signed(packet.timestamp - self._timestamp, 32) > 0:
            # The number stands still and the timestamp does not: no duplicate.
            self.restarts += 1
            self._accept(packet, self._renumber(packet), restart=True)
        elif delta <= 0 and self._seen >> -delta & 1:
            self._suspect(packet, repeats=True)
        else:
            if self._run or self._aside:
                self._drop_run()
            self._accept(packet, self._highest + delta)

    def _next(self, packet: RtpPacket) -> None:
        """:meth:`_accept` for the packet after the newest one, without what that does not need."""
        before = self._timestamp
        step = (packet.timestamp - before + 0x80000000 & 0xFFFFFFFF) - 0x80000000
        self.last_arrival = arrival = packet.arrival
        if step > 0:
            self._step = step
        self._timestamp = timestamp = before + step
        self._highest = sequence = self._highest + 1
        self._seen = self._seen << 1 & _MASK | 1
        if self._seen_events:
            self._seen_events = self._seen_events << 1 & _MASK
        counters = self.counters
        counters.expected = self._earlier_expected + sequence - self._base + 1
        counters.distinct += 1
        transit = arrival - packet.timestamp / self.clock_rate
        if self._transit is not None:
            change = abs(transit - self._transit)
            if change < 1.0:
                counters.jitter += (change - counters.jitter) / 16
        self._transit = transit
        self._held[sequence] = Ordered(sequence, timestamp, packet)

    # ------------------------------------------------------------------------------------------- out of the numbering

    def _suspect(self, packet: RtpPacket, *, repeats: bool) -> None:
        """A packet out of the numbering waits for its successors (RFC 3550 A.1: two in a row are believed).

        `repeats`: its number was there before, so it may be late or a duplicate. Then more have to come, at the pace
        of a live sender: a device that plays a file again numbers it as before.
        """
        run = self._run
        follows = bool(run) and 0 < (packet.sequence - run[-1].sequence & 0xFFFF) <= _FOLLOWS
        if not follows or repeats != self._run_repeats or len(run) >= _MAX_RUN:
            self._set_aside()
            run = self._run
            self._run_repeats = repeats
        run.append(packet)
        behind = -_signed(packet.sequence - self._highest, 16)
        duplicate = repeats and behind < _WINDOW and bool(self._seen >> behind & 1)
        self.counters.duplicate += duplicate
        self._run_duplicates += duplicate
        if not repeats:
            believed = len(run) >= 2
        else:
            time = run[-1].arrival - run[0].arrival
            believed = len(run) >= _REPEATS and time >= max(_REPEATS_TIME, (len(run) - 1) * _PACKET_TIME)
        if believed:
            self._believe()

    def _set_aside(self) -> None:
        """Nothing followed. If nothing fits in the numbering either for a while, there is none: some devices put the
        octets of the numbers the wrong way round. Then packets are taken as they arrive."""
        if self._run_repeats or not self._run:
            self._drop_run()
            return
        self._aside += self._run
        self._run = []
        if len(self._aside) >= _CHAOS:
            aside, self._aside = self._aside, []
            self.restarts += 1
            for packet in aside:
                self._accept(packet, self._renumber(packet), restart=True)

    def _drop_run(self) -> None:
        """Strays, late packets or duplicates."""
        if self._run_repeats:
            self.counters.late += len(self._run) - self._run_duplicates
            self.counters.probation += len(self._aside)
        else:
            self.counters.probation += len(self._run) + len(self._aside)
        self._run, self._aside, self._run_duplicates = [], [], 0

    def _believe(self) -> None:
        run, self._run = self._run, []
        self.counters.probation += len(self._aside)
        self._aside = []
        self.counters.duplicate -= self._run_duplicates
        self._run_duplicates = 0
        missing = 0 if self._run_repeats else self._missing(run[0])
        if missing:
            first = self._highest + missing
        else:
            first = self._renumber(run[0])
            self.restarts += 1
        for number, packet in enumerate(run):
            extended = first + (packet.sequence - run[0].sequence & 0xFFFF)
            self._accept(packet, extended, restart=not missing and number == 0)

    def _missing(self, packet: RtpPacket) -> int:
        """How many numbers ahead of the newest one `packet` lies if what is between was lost; 0: another numbering.

        After an outage the timestamp tells how many packets there were, beyond a wrap of the numbers too.
        """
        jump = packet.sequence - self._highest & 0xFFFF
        ticks = _signed(packet.timestamp - self._timestamp, 32)
        elapsed = packet.arrival - self.last_arrival
        if self._step > 0 and ticks > 0 and ticks % self._step == 0:
            packets = ticks // self._step
            if packets & 0xFFFF == jump and ticks / self.clock_rate < elapsed + _CATCH_UP:
                return packets
        return jump if jump < 0x8000 and elapsed >= jump * _PACKET_TIME else 0

    def _renumber(self, packet: RtpPacket) -> int:
        """Close the numbering; the extended number that `packet` begins the next one with."""
        self._earlier_expected += self._highest - self._base + 1
        first = (self._highest | 0xFFFF) + 1 + 0x10000 + packet.sequence
        self._base = self._floor = first
        self._highest = first - 1
        self._seen = self._seen_events = 0
        self._transit = None
        return first

    def _resume(self, packet: RtpPacket) -> None:
        """The first packet after packets were withheld."""
        self._rebase = False
        delta = _signed(packet.sequence - self._highest, 16)
        if delta > 0:
            self._earlier_expected += self._highest - self._base + 1
            self._base = self._floor = self._highest + delta
            self._highest = self._base - 1
            self._seen = self._seen_events = 0
            self._accept(packet, self._base)
        else:
            self._accept(packet, self._renumber(packet), restart=True)

    # -------------------------------------------------------------------------------------------------- in its place

    def _accept(self, packet: RtpPacket, sequence: int, *, restart: bool = False) -> None:
        counters = self.counters
        self.last_arrival = packet.arrival
        timestamp = self._timestamp + _signed(packet.timestamp - self._timestamp, 32)
        ahead = sequence - self._highest
        if ahead > 0:
            if ahead == 1 and not restart and timestamp > self._timestamp:
                self._step = timestamp - self._timestamp
            self._advance(sequence)
            self._seen |= 1
            self._timestamp = timestamp
        else:
            self._seen |= 1 << -ahead
            if sequence <= self._handed:
                counters.late += 1
                return
            counters.reordered += 1
            self._base = max(min(self._base, sequence), self._floor)
        self._count_expected()
        counters.distinct += 1
        self._measure(packet)
        self._held[sequence] = Ordered(sequence, timestamp, packet, restart)

    def _advance(self, sequence: int) -> None:
        ahead = sequence - self._highest
        self._seen = self._seen << ahead & _MASK if ahead < _WINDOW else 0
        self._seen_events = self._seen_events << ahead & _MASK if ahead < _WINDOW else 0
        self._highest = sequence

    def _count_expected(self) -> None:
        self.counters.expected = self._earlier_expected + self._highest - self._base + 1

    def _receive_event(self, packet: RtpPacket) -> None:
        """Events are numbered with the audio or on their own. They neither displace audio nor move its timestamps."""
        self.last_arrival = packet.arrival
        counters = self.counters
        timestamp = self._timestamp + _signed(packet.timestamp - self._timestamp, 32)
        delta = _signed(packet.sequence - self._highest, 16)
        own = _signed(packet.sequence - self._own_highest, 16) if self._own_highest >= 0 else 0
        if -_EVENT_NEAR <= delta <= _EVENT_NEAR and not (self._own_highest >= 0 and 0 < own <= _FOLLOWS):
            sequence = self._highest + delta
            if delta > 0:
                self._advance(sequence)
                delta = 0
            if self._seen_events >> -delta & 1:
                counters.duplicate += 1
                return
            self._seen_events |= 1 << -delta
            self._count_expected()
        else:
            if self._own_highest < 0 or not -_WINDOW < own < _WINDOW:
                self._own_highest, self._own_seen, own = packet.sequence + 0x10000 - 1, 0, 1
            if own > 0:
                self._own_highest += own
                self._own_seen = self._own_seen << own & _MASK
                self._earlier_expected += own
                own = 0
            elif self._own_seen >> -own & 1:
                counters.duplicate += 1
                return
            self._own_seen |= 1 << -own
            sequence = self._own_highest + own
            self._count_expected()
        counters.distinct += 1
        if len(self._events) < _MAX_HELD:
            self._events.append(Ordered(sequence, timestamp, packet))

    def _measure(self, packet: RtpPacket) -> None:
        transit = packet.arrival - packet.timestamp / self.clock_rate
        if self._transit is not None:
            change = abs(transit - self._transit)
            # Leaps (wrap, pause with a stopped clock) are no jitter.
            if change < 1.0:
                self.counters.jitter += (change - self.counters.jitter) / 16
        self._transit = transit

    # ------------------------------------------------------------------------------------------------------ handing on

    def take(self, before: float) -> list[Ordered]:
        """Hand on, in order, everything up to the newest packet that arrived earlier than `before`; events last."""
        held = self._held
        due = [s for s, item in held.items() if item.packet.arrival < before]
        excess = len(held) - _MAX_HELD
        if excess > 0:
            due += sorted(held)[:excess]
        items = []
        if due:
            limit = max(due)
            items = [held.pop(s) for s in sorted(held) if s <= limit]
            self._handed = limit
        if self._events:
            events = [item for item in self._events if item.packet.arrival < before]
            if events:
                self._events = [item for item in self._events if item.packet.arrival >= before]
                items += sorted(events, key=lambda item: item.sequence)
        return items

    def waiting(self) -> list[Ordered]:
        """The audio that is held and not handed on yet, in order of sequence."""
        return [self._held[s] for s in sorted(self._held)]
