"""Recordings whose SRSs were all down, while their calls go on: they begin again when one is back.

Each is tried again `retry` seconds after it failed, and at once when one of its SRSs answers again. While all of its
SRSs are known to be down, one recording tries for all that have the same SRSs. One sweep a second, while there are any.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from siprec.proxy.call import Call, StartMode
from siprec.recording.recording_profile import RecordingProfile
from siprec.recording.settings import RecordingSettings
from siprec.recording.srs_health import HealthTable, SrsObserver
from siprec.sip.clock import Clock, Timer

SWEEP: Final = 1.0
BACKLOG: Final = 0.1
RATE: Final = 100
"""Recordings that begin again in one sweep; the next follows after `BACKLOG` while more are due."""


class Retrying(Protocol):
    """The recordings of a call, of which one waits."""

    @property
    def call(self) -> Call:
        """Theirs."""

    def again(self, waiting: Waiting) -> None:
        """Begin it again."""


@dataclass(slots=True)
class Waiting:
    """One recording that waits: when it is `due` (monotonic), and whether it begins `paused`.

    `failure` is what was told of it last; the same is not told again. `woken`: it tries because an SRS is back; one
    that fails then is not woken again before it had a session (an SRS that answers OPTIONS and takes no recording).
    """

    recorder: Retrying
    instance: str
    profile: RecordingProfile
    settings: RecordingSettings
    start: StartMode
    due: float
    paused: bool = False
    failure: str = ""
    woken: bool = False


class RetryQueue(SrsObserver):
    """All recordings that wait."""

    def __init__(self, clock: Clock, health: HealthTable) -> None:
        self._clock, self._health = clock, health
        self._waiting: dict[tuple[str, str], Waiting] = {}
        self._timer: Timer | None = None
        self._closed = False

    def __len__(self) -> int:
        """How many wait: for leak checks."""
        return len(self._waiting)

    def add(self, waiting: Waiting) -> None:
        """Try this one again."""
        if not self._closed:
            self._waiting[waiting.recorder.call.dlg_id, waiting.instance] = waiting
            self._plan(SWEEP)

    def get(self, dlg_id: str, instance: str) -> Waiting | None:
        """The recording of this name that waits."""
        return self._waiting.get((dlg_id, instance))

    def discard(self, dlg_id: str, instance: str) -> bool:
        """Do not try it again; false when it did not wait."""
        found = self._waiting.pop((dlg_id, instance), None) is not None
        if not self._waiting and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return found

    def forget(self, dlg_id: str, instances: list[str]) -> None:
        """The call is over; `instances` are those of its recordings."""
        if self._waiting:
            for instance in instances:
                self.discard(dlg_id, instance)

    def srs_up(self, server: str) -> None:
        """`server` answers again."""
        now = self._clock.now()
        for waiting in self._waiting.values():
            if server in waiting.profile.targets and not waiting.woken:
                waiting.due, waiting.woken = now, True
        self._plan(0.0)

    def close(self) -> None:
        """Try none again, now or later."""
        self._closed = True
        for key in list(self._waiting):
            self.discard(*key)

    def _plan(self, delay: float) -> None:
        if delay == 0.0 and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._timer is None and self._waiting:
            self._timer = self._clock.call_later(delay, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        now = self._clock.now()
        due = [(key, waiting) for key, waiting in self._waiting.items() if waiting.due <= now]
        down: set[tuple[str, ...]] = set()
        begun = 0
        for key, waiting in due:
            targets = waiting.profile.targets
            if targets in down:
                waiting.due = now + waiting.profile.retry  # another one tries these SRSs
            elif begun < RATE:
                begun += 1
                if all(self._health.state(server) == "down" for server in targets):
                    down.add(targets)
                self._waiting.pop(key, None)
                waiting.recorder.again(waiting)
        self._plan(BACKLOG if len(due) > RATE else SWEEP)
