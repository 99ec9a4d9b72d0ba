"""A sender's NTP clock as RTCP sender reports tell it, against the clock of arrivals."""

from __future__ import annotations

_WINDOW = 30.0  # seconds; the fastest report of the last two windows counts, so a clock may drift
_LEAP = 0.5  # seconds; a step beyond that is a leap of the sender's clock


class NtpClock:
    """Offset between the two: the smallest of late, the fastest way."""

    def __init__(self) -> None:
        self.offset: float | None = None
        self._now = self._last = 0.0
        self._since = float("-inf")
        self._suspect: float | None = None

    def note(self, ntp: float, arrival: float) -> float:
        """A report of `ntp` came at `arrival`; how much later a time is by our clock (seconds)."""
        offset = arrival - ntp
        if self.offset is None or offset < self.offset - _LEAP:
            return self._restart(offset, arrival)
        if offset > self.offset + _LEAP:
            # Held up on the way, or a leap of the sender's clock: the next report tells.
            if self._suspect is not None and abs(offset - self._suspect) < _LEAP:
                return self._restart(offset, arrival)
            self._suspect = offset
            return self.offset
        self._suspect = None
        if arrival - self._since > _WINDOW:
            self._last, self._now, self._since = self._now, offset, arrival
        self._now = min(self._now, offset)
        self.offset = min(self._now, self._last)
        return self.offset

    def _restart(self, offset: float, arrival: float) -> float:
        self.offset = self._now = self._last = offset
        self._since, self._suspect = arrival, None
        return offset
