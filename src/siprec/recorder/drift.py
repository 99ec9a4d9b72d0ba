"""How far a sender's clock has run away from ours, and at what rate.

Packets are late by the way they took, never early. So the smallest lateness in a few seconds is the way at its
fastest, and how that changes over minutes is the difference of the two clocks.
"""

from __future__ import annotations

from collections import deque

_WINDOW = 5.0  # seconds over which the fastest packet is looked for
_KEPT = 3  # windows whose fastest packet counts for the offset
_MEASURED = 20.0  # seconds of audio below which a rate says nothing


class Drift:
    """Lateness against a time line, which :meth:`begin` restarts. All times are seconds.

    For each packet the owner lowers :attr:`best` to its lateness, and calls :meth:`note` when :attr:`due` is reached: a
    call for each packet would cost more than all the rest.
    """

    __slots__ = (
        "_count",
        "_kept",
        "_lead",
        "_span",
        "_start",
        "_sx",
        "_sxx",
        "_sxy",
        "_sy",
        "_total",
        "best",
        "due",
        "offset",
    )

    def __init__(self) -> None:
        self.offset = 0.0
        """What has to be added to a time of the time line to get the time on our clock."""
        self._lead = 0.0
        self._kept: deque[float] = deque(maxlen=_KEPT)
        self.best = self.due = 0.0
        self._start = self._span = 0.0
        self._count = 0
        self._sx = self._sy = self._sxx = self._sxy = 0.0
        self._total = (0.0, 0.0, 0.0)

    def begin(self, time: float, offset: float, lead: float) -> None:
        """The time line begins again at `time`, there `offset` from our clock. `lead`: by how much its packets are
        known to be late at best."""
        self._close()
        self.offset, self._lead = offset, lead
        self._kept.clear()
        self._window(time)

    def note(self, time: float) -> None:
        """The time line has reached `time`: :attr:`due`, or later."""
        late = self.best - self._lead
        middle = (time + self._start) / 2
        self._kept.append(late)
        self.offset = min(self._kept)
        if not self._count:
            self._span = middle
        self._count += 1
        x = middle - self._span
        self._sx += x
        self._sy += late
        self._sxx += x * x
        self._sxy += x * late
        self._window(time)

    def _window(self, time: float) -> None:
        self._start, self.due, self.best = time, time + _WINDOW, float("inf")

    def _sums(self) -> tuple[float, float, float]:
        """Of this stretch: spread of time, common spread of time and lateness, seconds."""
        n = self._count
        if n < 2:
            return 0.0, 0.0, 0.0
        return self._sxx - self._sx * self._sx / n, self._sxy - self._sx * self._sy / n, n * _WINDOW

    def _all(self) -> tuple[float, float, float]:
        spread, common, seconds = self._sums()
        return self._total[0] + spread, self._total[1] + common, self._total[2] + seconds

    def _close(self) -> None:
        self._total = self._all()
        self._count = 0
        self._sx = self._sy = self._sxx = self._sxy = 0.0

    @property
    def measured(self) -> float:
        """Seconds of audio that the rate is known from."""
        return self._total[2] + self._sums()[2]

    @property
    def ppm(self) -> float | None:
        """The sender's clock against ours in parts per million, positive when it is fast (least squares over all
        stretches); None before 20 s were measured."""
        spread, common, seconds = self._all()
        return -common / spread * 1e6 if spread > 0 and seconds >= _MEASURED else None
