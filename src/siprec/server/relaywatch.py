"""Whether the embedded relay hangs: its packet loops stand still, and it answers no ping.

A relay under load is slow, it does not stand still: its loops count on. One that gets no processor time (it waits for
its turn) is left alone as well: starting another one would make that worse. Time is handed in.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from siprec.relay.heartbeat import STILL, Pulse

LOOK: Final = 0.5
"""Seconds between two looks."""
ASK: Final = 1.0
"""Seconds without a heartbeat after which it is asked."""
DEAF: Final = 30.0
"""Seconds without an answer after which a relay that carries no call is started anew, whatever its loops do."""
_LATE: Final = 1.0


@dataclass(frozen=True, slots=True)
class Effort:
    """What the process has done: `ticks` of processor time so far; `waits`: a thread wants the processor now."""

    ticks: int
    waits: bool


def effort(pid: int) -> Effort | None:
    """Of a process; None when it is gone, or nobody tells."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        waits = False
        for thread in os.listdir(f"/proc/{pid}/task"):
            state = Path(f"/proc/{pid}/task/{thread}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()[0]
            waits = waits or state == "R"
    except (OSError, ValueError, IndexError):
        return None
    return Effort(ticks, waits)


class HangWatch:
    """Looks at one relay process every :data:`LOOK` seconds.

    `ask(done)` pings it, and `done(answered)` is due at some time; `working()` tells what the process does; `idle()`
    whether it carries no call.
    """

    def __init__(
        self,
        now: float,
        ask: Callable[[Callable[[bool], None]], None],
        working: Callable[[], Effort | None],
        idle: Callable[[], bool],
    ) -> None:
        self._ask = ask
        self._working = working
        self._idle = idle
        self._looked = now
        self._pulse = Pulse()
        self._answered = now
        self._before: Effort | None = None
        self._asked: float | None = None

    def look(self, now: float, beats: tuple[int, ...]) -> str:
        """Why it hangs, or nothing. `beats` are the counters of its loops."""
        if now - self._looked > LOOK + _LATE:
            # We stood still ourselves (suspended, starved): what did not happen meanwhile says nothing.
            self._answered = now
            self._pulse, self._asked = Pulse(), None
        self._looked = now
        still, deaf = now - self._pulse.last(now, beats), now - self._answered
        if still < LOOK + LOOK:
            self._before = None
        elif self._before is None:
            self._before = self._working()
        if self._asked is None and (still >= ASK or deaf >= DEAF / 3):
            self._asked = now
            self._ask(self._heard)
        if still >= STILL and deaf >= STILL and self._asked is not None and now - self._asked >= STILL - ASK - LOOK:
            return "" if self._starved() else f"it stands still for {still:.1f} s and does not answer"
        if deaf >= DEAF and self._idle():
            return f"it does not answer for {deaf:.0f} s"
        return ""

    def _starved(self) -> bool:
        """Whether it wants the processor and does not get it."""
        now, before = self._working(), self._before
        return now is not None and before is not None and now.waits and now.ticks <= before.ticks + 1

    def _heard(self, answered: bool) -> None:
        self._asked = None
        if answered:
            self._answered = self._looked
