"""Where on the wall clock an RTP packet lies.

A sender's timestamps say how far its packets are apart, exactly; arrival says where they lie, roughly. A
:class:`SourceClock` anchors the first at the second: at the packet of the first second that travelled fastest, or
earlier, where RTCP sender reports say that the way was long (RFC 7866 8.1.1). From there on it follows the timestamps,
and looks at arrival again whenever they do not continue what came before.

Continuous audio is never cut: packets that are numbered one after the other and arrive at the pace of their payload lie
back to back, whatever their timestamps say (they stand still, step by twice the payload, leap). Only an interruption,
by timestamp or by arrival, is a place where the time line may move. A stall on the way is not one: after it packets
come faster than they last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from siprec.recorder.drift import Drift
from siprec.recorder.numbering import Ordered

_WINDOW = 1.0  # seconds of arrivals looked at to tell a stall on the way from a pause at the sender
_LOOK = 100  # packets looked at for that, at most ...
_LOOK_FIRST = 2000  # ... and at the start, where a sender may deliver what it kept
_LATE = 0.06  # a packet that is later than its predecessor by more is looked at
_PAUSE = 0.2  # back-to-back audio is interrupted if it is later than that, for good
_CONTINUOUS = 0.1  # packets that arrive this close to the end of their predecessor follow it, whatever their timestamps
_CORRECT = 0.06  # smallest correction worth making at an interruption
_DRAINED = 0.7  # lateness that shrinks below that share within the window is that of a stall
_SR_TRUST = 0.5  # a sender report that places a packet earlier than that before its arrival is not sane
_SR_AGE = 30.0  # nor is one that is older
_AGREE = 4  # packets that have to step by the same wrong number of ticks to be a fault of the clock
_AGREE_OF = 12  # of so many that are looked at
_MAX_FAULTS = 32

Duration = Callable[[Ordered], int]
"""Length of a packet's payload in ticks of the RTP clock, 0 if unknown."""


class Placed(NamedTuple):
    """`item` lies `ticks` of the RTP clock after `anchor` (seconds) and lasts `long` of them; consecutive packets are
    exact ticks apart."""

    item: Ordered
    anchor: float
    ticks: int
    long: int


@dataclass(slots=True)
class Fault:
    """Something wrong with what a sender sends: how often, since when (seconds), what exactly."""

    count: int
    first: float
    detail: str


class SourceClock:
    """Timestamp to time for one source; times are seconds on whatever clock the arrivals have.

    `duration` tells how long a payload is. Positions are whole ticks after an anchor.
    """

    def __init__(self, clock_rate: int, duration: Duration = lambda item: 0) -> None:
        self.clock_rate = clock_rate
        self.duration = duration
        self.sender_report: tuple[float, int, float] | None = None
        """Arrival-clock time, extended-modulo RTP timestamp and arrival of the last RTCP sender report, if any."""
        self.corrections: list[tuple[float, float]] = []
        """Re-anchorings made: time, change in seconds."""
        self.faults: dict[str, Fault] = {}
        self.drift = Drift()
        self.anchor = 0.0
        self._origin = 0  # timestamp ...
        self._origin_ticks = 0  # ... and the ticks after the anchor where it lies
        self._scale = Fraction(1)  # ticks of the timestamps for each tick of payload
        self._plain = True  # ... which are one
        self._lead = 0.0
        self._anchored = False
        self._previous: Ordered | None = None
        self.last_arrival = 0.0
        """Of the packets placed, monotonic seconds."""
        self._at = 0
        self._end = 0
        self._long = 0

    @property
    def end(self) -> float:
        """Where the last packet placed ends."""
        return self.anchor + self._end / self.clock_rate

    def time_of(self, timestamp: int) -> float:
        """Seconds for an extended timestamp."""
        return self.anchor + self._ticks(timestamp) / self.clock_rate

    def estimate(self, items: Sequence[Ordered]) -> float:
        """Where the first of `items` will lie, or lies."""
        if self._anchored:
            return self.time_of(items[0].timestamp)
        self._classify(items, 0, 0)
        return self._first(items, 0)[0]

    def place(
        self,
        items: Sequence[Ordered],
        later: Callable[[], Sequence[Ordered]] = tuple,
        *,
        after: float | None = None,
        shift: float = 0.0,
    ) -> list[Placed]:
        """Place packets in order; `later` gives those that are already here and come after them, which help to judge.

        The first packet of all is placed `shift` seconds off the clock, where an earlier source of the stream was, and
        follows what ends at `after` if it is near.
        """
        rate, drift, duration = self.clock_rate, self.drift, self.duration
        everything: Sequence[Ordered] | None = None
        placed = []
        for index, item in enumerate(items):
            arrival = item.packet.arrival
            if self._anchored:
                ticks = self._ticks(item.timestamp)
                late = arrival > self.last_arrival + self._long / rate + _LATE
                if ticks != self._end or late or item.restart:
                    everything = everything or [*items, *later()]
                    ticks = self._follow(everything, index)
            else:
                everything = [*items, *later()]
                ticks = self._begin(everything, index, after, shift)
            long = duration(item)
            placed.append(Placed(item, self.anchor, ticks, long))
            self._long = long
            self._end = ticks + long
            self._previous = item
            self.last_arrival = arrival
            time = self.anchor + ticks / rate
            if arrival - time < drift.best:
                drift.best = arrival - time
            if time >= drift.due:
                drift.note(time)
        return placed

    # ------------------------------------------------------------------------------------------------------- anchoring

    def _begin(self, everything: Sequence[Ordered], index: int, after: float | None, shift: float) -> int:
        item = everything[index]
        self._classify(everything, index, 0)
        ideal, self._lead = self._first(everything, index)
        place = ideal - shift
        if after is not None and abs(place - after) < _CONTINUOUS:
            place = after
        self._anchored = True
        self.anchor, self._origin, self._origin_ticks, self._at = place, item.timestamp, 0, 0
        self.drift.begin(place, ideal - place, self._lead)
        return 0

    def _first(self, items: Sequence[Ordered], index: int) -> tuple[float, float]:
        """When items[index] was sent, by arrivals or a sender report, and how much later the fastest arrived."""
        best = self._arrival(items, index, _LOOK_FIRST)
        if self.sender_report is not None:
            when, stamp, arrived = self.sender_report
            delta = (items[index].timestamp - stamp + 0x80000000 & 0xFFFFFFFF) - 0x80000000
            reported = when + delta / self.clock_rate
            # Nothing arrives before it was sent: a report that says so was held up on the way.
            if best - _SR_TRUST < reported < best and abs(arrived - items[index].packet.arrival) < _SR_AGE:
                return reported, best - reported
        return best, 0.0

    def _arrival(self, items: Sequence[Ordered], index: int, look: int) -> float:
        """When items[index] would have arrived on the fastest way of the packets from there on."""
        first = items[index]
        start = first.packet.arrival
        best, ahead, before = start, 0, first
        for item in items[index + 1 : index + look]:
            if item.packet.arrival > start + _WINDOW:
                break
            ahead += self._step(before, item)
            best = min(best, item.packet.arrival - ahead / self.clock_rate)
            before = item
        return best

    def _step(self, before: Ordered, item: Ordered) -> int:
        """Ticks between two packets that follow each other, as far as can be told."""
        stamps = item.timestamp - before.timestamp
        number = 1 if item.restart else max(item.sequence - before.sequence, 1)
        long = self.duration(before)
        if not long:
            return max(int(stamps / self._scale) if self._scale else 0, 0)
        lasts = number * long
        if self._plain and long <= stamps <= lasts:
            return stamps
        if self._plain and lasts < stamps < 60 * self.clock_rate:
            # A gap, if arrival says so too; a burst says nothing.
            waited = (item.packet.arrival - before.packet.arrival) * self.clock_rate
            if waited < lasts / 4 or waited > (lasts + stamps) / 2:
                return stamps
        return lasts

    # ------------------------------------------------------------------------------------------------------- following

    def _ticks(self, timestamp: int) -> int:
        if self._plain:
            return self._origin_ticks + timestamp - self._origin
        if not self._scale:
            return self._end
        return self._origin_ticks + round((timestamp - self._origin) / self._scale)

    def _follow(self, everything: Sequence[Ordered], index: int) -> int:
        """Ticks of a packet that does not simply continue `_previous`; the anchor may move."""
        item, previous = everything[index], self._previous
        assert previous is not None
        at = self._ticks(item.timestamp)
        number = 1 if item.restart else max(item.sequence - previous.sequence, 1)
        # Where it lies if nothing but the packets that are missing came in between.
        least = self._end + (number - 1) * self._long
        if at not in (self._end, least):
            self._classify(everything, index, least)
            at = self._ticks(item.timestamp)
        if not self._scale:
            at = least
        self._judge(everything, index, at, least)
        return self._at

    def _judge(self, everything: Sequence[Ordered], index: int, at: int, least: int) -> None:
        item = everything[index]
        rate = self.clock_rate
        arrived = self._arrival(everything, index, _LOOK) - self._lead
        ideal = arrived - self.drift.offset  # on this time line
        stalled = self._drains(everything, index, at if at >= self._end else least)
        by_stamp = ideal - self.anchor - at / rate
        by_pace = ideal - self.anchor - least / rate
        if at < self._end:
            # It cannot lie within what came before.
            self._note_backwards(item)
            if by_pace > _PAUSE and not stalled:
                self._move(item, arrived)
                return
            self._at = least if abs(by_pace) < abs(ideal - self.end) else self._end
            if item.timestamp != self._previous_timestamp:
                self._continue(item, self._at)
        elif at <= least:
            if by_stamp < -_PAUSE and at > self._end and abs(ideal - self.end) <= _CONTINUOUS:
                # Nothing is missing in between: numbers and timestamps leapt together.
                self.fault("timestamp-leap", item, f"{(at - self._end) / rate:+.3f} s in continuous audio")
                self._continue(item, self._end)
            elif by_stamp <= _PAUSE or stalled:
                self._at = at
            else:
                self._move(item, arrived)  # its clock stood still in a pause
        elif abs(by_stamp) <= abs(by_pace):
            # The gap that the timestamps leave is one by arrival too.
            off = arrived - self.anchor - at / rate
            long_gap = at - least > _CORRECT * rate or by_stamp > _PAUSE
            if abs(off) > _CORRECT and long_gap and not stalled:
                self._move(item, arrived)
            else:
                self._at = at
        elif stalled or abs(by_pace) <= _CONTINUOUS or by_pace < 0:
            self.fault("timestamp-leap", item, f"{(at - least) / rate:+.3f} s in continuous audio")
            self._continue(item, least)
        else:
            self._move(item, arrived)

    def _drains(self, everything: Sequence[Ordered], index: int, at: int) -> bool:
        """Whether packets from here on come faster than they last, which ends a stall on the way."""
        rate = self.clock_rate
        first = everything[index]
        late = first.packet.arrival - self.anchor - at / rate - self.drift.offset - self._lead
        if late <= _LATE:
            return False
        left, ahead, before = late, 0, first
        for item in everything[index + 1 : index + _LOOK]:
            ahead += self._step(before, item)
            left = min(left, late + item.packet.arrival - first.packet.arrival - ahead / rate)
            before = item
        return left < late * _DRAINED

    def _continue(self, item: Ordered, ticks: int) -> None:
        self._at = self._origin_ticks = ticks
        self._origin = item.timestamp

    def _move(self, item: Ordered, time: float) -> None:
        """Anchor again: `item` lies at `time`, but never before the end of what came earlier."""
        expected = self.anchor + self._ticks(item.timestamp) / self.clock_rate
        place = max(time, self.end)
        self.corrections.append((place, place - expected))
        del self.corrections[:-100]
        self.anchor, self._origin, self._origin_ticks, self._at = place, item.timestamp, 0, 0
        self._end = 0
        self.drift.begin(place, time - place, self._lead)

    # ---------------------------------------------------------------------------------------------------------- faults

    def _classify(self, everything: Sequence[Ordered], index: int, ticks: int) -> None:
        """See whether the timestamps from here on count at another pace than the payload lasts, while the packets
        arrive at the payload's. If so, the packet at `index` lies at `ticks`."""
        steps: dict[Fraction, list[tuple[float, float]]] = {}
        pairs = 0
        before = everything[index - 1] if index else None
        if before is None:
            before = self._previous
        for item in everything[index if before is not None else index + 1 : index + _AGREE_OF]:
            before = before or everything[index]
            long = self.duration(before)
            if long and item.sequence == before.sequence + 1:
                pairs += 1
                ratio = Fraction(item.timestamp - before.timestamp, long)
                steps.setdefault(ratio, []).append((item.packet.arrival - before.packet.arrival, long))
            before = item
        if not steps:
            return
        ratio, found = max(steps.items(), key=lambda entry: len(entry[1]))
        if len(found) < _AGREE or len(found) * 3 < pairs * 2 or ratio < 0 or ratio == self._scale:
            return
        if ratio > 1:
            took, long_for = sum(a for a, _ in found), sum(b for _, b in found) / self.clock_rate
            if took > long_for * (1 + float(ratio)) / 2:
                return  # there are gaps between the packets indeed
            if self._anchored and took < long_for / 2:
                return  # a burst tells nothing about the pace
        item = everything[index]
        self._scale, self._origin, self._origin_ticks = ratio, item.timestamp, ticks
        self._plain = ratio == 1
        if ratio != 1:
            self._name(ratio, item)

    def _name(self, ratio: Fraction, item: Ordered) -> None:
        counted = f"timestamps count {round(self.clock_rate * ratio)} a second, the clock is {self.clock_rate}"
        if not ratio:
            self.fault("timestamp-stands-still", item, "the timestamp does not change")
        elif ratio == 2:
            self.fault("timestamp-steps-double", item, counted)
        else:
            self.fault("timestamp-steps-wrong", item, counted)

    @property
    def _previous_timestamp(self) -> int:
        return self._previous.timestamp if self._previous is not None else 0

    def _note_backwards(self, item: Ordered) -> None:
        step = item.timestamp - self._previous_timestamp
        if step < 0 or item.restart:
            self.fault("timestamp-steps-back", item, f"by {-step} ticks")
        elif step == 0:
            self.fault("timestamp-stands-still", item, "two packets with one timestamp")
        elif step < self._long:
            self.fault("timestamp-steps-wrong", item, f"by {step} ticks for a payload of {self._long}")

    def fault(self, name: str, item: Ordered, detail: str) -> None:
        """Note one."""
        known = self.faults.get(name)
        if known is not None:
            known.count += 1
        elif len(self.faults) < _MAX_FAULTS:
            self.faults[name] = Fault(1, item.packet.arrival, detail)
