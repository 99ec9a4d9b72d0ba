"""Where on the wall clock an RTP timestamp lies.

A sender's timestamps say how far its packets are apart, exactly; arrival says where they lie, roughly. A
:class:`SourceClock` anchors the first at the second: at the packet of the first second that travelled fastest, or by
RTCP sender reports when there are any (MEDIA-12), and looks again whenever the stream was interrupted, so that pauses
keep their length whether or not the sender's timestamps went on meanwhile. Within continuous audio nothing is ever
moved: what was sent back to back stays back to back.
"""

from __future__ import annotations

from collections.abc import Sequence

from siprec.recorder.rtp import Ordered

_WINDOW = 0.5  # seconds of arrivals looked at to tell a stall on the way from a pause at the sender
_JUMP = 0.2  # timestamps and arrivals disagree by that much from one packet to the next: something happened
_GAP = 0.06  # an interruption, at which a small correction is inaudible
_CORRECT = 0.06  # smallest correction worth making at an interruption
_MAX_AHEAD = 0.5  # audio cannot come from the future: more than that means the timestamps leapt
_SR_TRUST = 2.0  # a sender report that disagrees with arrival by more is not sane


class SourceClock:
    """Timestamp to time for one source; times are seconds on whatever clock the arrivals have.

    Positions are handed out as whole ticks: ``(anchor, ticks)`` with `anchor` in seconds, so that consecutive packets
    stay exact multiples of a sample apart.
    """

    def __init__(self, clock_rate: int) -> None:
        self.clock_rate = clock_rate
        self.anchor = 0.0
        self.anchor_timestamp = 0
        self.sender_report: tuple[float, int] | None = None
        """Arrival-clock time and extended-modulo RTP timestamp of the last RTCP sender report, if any."""
        self.corrections: list[tuple[float, float]] = []
        """Re-anchorings made: time, change in seconds."""
        self._anchored = False
        self._previous: Ordered | None = None
        self._step = 0.0

    def time_of(self, timestamp: int) -> float:
        """Seconds for an extended timestamp."""
        return self.anchor + (timestamp - self.anchor_timestamp) / self.clock_rate

    def estimate(self, items: Sequence[Ordered]) -> float:
        """Where the first of `items` will lie, or lies; changes nothing."""
        return self.time_of(items[0].timestamp) if self._anchored else self._ideal(items, 0)

    def _ideal(self, items: Sequence[Ordered], index: int) -> float:
        """The time of items[index] by its own and the following arrivals, or by the sender report."""
        first = items[index]
        end = first.packet.arrival + (_WINDOW if self._anchored else 1.0)
        best = first.packet.arrival
        for item in items[index + 1 :]:
            if item.packet.arrival > end:
                break
            ahead = (item.timestamp - first.timestamp) / self.clock_rate
            if -1.0 < ahead < 30.0:
                best = min(best, item.packet.arrival - ahead)
        if self.sender_report is not None:
            when, report = self.sender_report
            delta = (first.timestamp - report + 0x80000000 & 0xFFFFFFFF) - 0x80000000
            reported = when + delta / self.clock_rate
            if abs(reported - best) < _SR_TRUST:
                return reported
        return best

    def place(self, items: Sequence[Ordered], waiting: Sequence[Ordered] = ()) -> list[tuple[Ordered, float, int]]:
        """Place packets in order; `waiting` are later ones already here, which help to judge.

        Returns for each packet the anchor time in seconds and the ticks after it.
        """
        everything = [*items, *waiting]
        placed = []
        for index, item in enumerate(items):
            if not self._anchored:
                self.anchor = self._ideal(everything, index)
                self.anchor_timestamp = item.timestamp
                self._anchored = True
            elif self._previous is not None and self._interrupted(self._previous, item):
                expected = self.time_of(item.timestamp)
                ideal = self._ideal(everything, index)
                error = ideal - expected
                if abs(error) > _CORRECT and not self._same_talk(self._previous, item, error):
                    self.corrections.append((ideal, error))
                    del self.corrections[:-100]
                    # Never before the end of what came earlier.
                    self.anchor = max(ideal, self.time_of(self._previous.timestamp) + 0.01)
                    self.anchor_timestamp = item.timestamp
            placed.append((item, self.anchor, item.timestamp - self.anchor_timestamp))
            self._previous = item
        return placed

    def _interrupted(self, before: Ordered, item: Ordered) -> bool:
        ticks = (item.timestamp - before.timestamp) / self.clock_rate
        arrivals = item.packet.arrival - before.packet.arrival
        # Long packets and lost ones are no gaps: the timestamps advance per packet as they did before.
        step = (item.timestamp - before.timestamp) / max(item.sequence - before.sequence, 1)
        gap = ticks > _GAP and step != self._step
        self._step = step
        return item.packet.marker or abs(ticks - arrivals) > _JUMP or gap or ticks < 0

    def _same_talk(self, before: Ordered, item: Ordered, error: float) -> bool:
        """True for back-to-back audio, in which only a leap of the clock may be corrected."""
        ticks = (item.timestamp - before.timestamp) / self.clock_rate
        if 0 <= ticks <= _GAP and not item.packet.marker:
            return -_MAX_AHEAD < error < 2 * _JUMP
        return False
