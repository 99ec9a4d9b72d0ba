"""The heartbeat of a relay's packet loops, in memory that it shares with whoever embeds it.

The page is a row of 64-bit counters, one for each loop; 0: there is no such loop. Each loop counts its own up at least
twice a second, with or without packets. So a relay that is busy and one that hangs can be told apart from outside,
without asking it anything.
"""

from __future__ import annotations

import mmap
import os
from typing import Final

SLOTS: Final = 64
PYTHON: Final = 0
"""The slot of the loop in Python; those of the native threads follow."""
INTERVAL: Final = 0.25
"""Seconds between two beats at the most."""
STILL: Final = 3.0
"""Seconds without a beat after which a loop hangs, if nothing else answers either."""
_SIZE: Final = SLOTS * 8


class Heartbeat:
    """The page; both sides map it. `descriptor` is for the relay's process to inherit."""

    def __init__(self, descriptor: int | None = None) -> None:
        self.descriptor = descriptor if descriptor is not None else os.memfd_create("siprec-heartbeat")
        if descriptor is None:
            os.ftruncate(self.descriptor, _SIZE)
        self.page = mmap.mmap(self.descriptor, _SIZE)
        self._slots = memoryview(self.page).cast("Q")

    @property
    def beats(self) -> tuple[int, ...]:
        """The counters of the loops that there are, by slot."""
        return tuple(self._slots)

    def beat(self, alive: bool = True) -> None:
        """Count up the slot of the loop in Python; not `alive`: it has nothing to do, so that it is not missed."""
        self._slots[PYTHON] = (self._slots[PYTHON] + 1) % (1 << 63) or 1 if alive else 0

    def close(self) -> None:
        """Let go of the page."""
        self._slots.release()
        self.page.close()
        os.close(self.descriptor)


class Pulse:
    """Follows the counters of a page; times in seconds, monotonic."""

    def __init__(self) -> None:
        self._beats: tuple[int, ...] = ()
        self._moved: list[float] = []

    def last(self, now: float, beats: tuple[int, ...]) -> float:
        """When the loop counted on last that has not done so for the longest time; `beats` are read `now`."""
        if len(self._beats) != len(beats):
            self._moved = [now] * len(beats)
        for slot, (new, old) in enumerate(zip(beats, self._beats, strict=False)):
            if new != old or not new:
                self._moved[slot] = now
        self._beats = beats
        return min(self._moved, default=now)
