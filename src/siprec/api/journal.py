"""What the events of recordings add up to: attempts, pauses and errors per recording, and the health of each SRS.

Costs something per event only; bounded whatever happens.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from siprec.api.model import Attempt, Pause
from siprec.proxy.call import Call, CallObserver
from siprec.recording import events
from siprec.recording.events import SiprecEvent

MAX_ENTRIES: Final = 20_000
MAX_SERVERS: Final = 500
OTHER: Final = "other"
"""Stands for every SRS beyond the bound."""


@dataclass(slots=True)
class Entry:
    """What happened to one recording instance of a call: the last attempts and pauses."""

    attempts: deque[Attempt] = field(default_factory=lambda: deque(maxlen=50))
    pauses: deque[Pause] = field(default_factory=lambda: deque(maxlen=100))
    started: bool = False
    last_error: str = ""


@dataclass(slots=True)
class SrsHealth:
    """What is known of an SRS."""

    state: str = "unknown"
    established: int = 0
    failed: int = 0
    last_established: float | None = None
    last_failure: float | None = None
    status: int = 0
    reason: str = ""


class Journal(CallObserver):
    """A subscriber of recording events. `on_setup(seconds)` gets the time from answer to the SRS's answer."""

    def __init__(self, find_call: Callable[[str], Call | None], on_setup: Callable[[float], object]) -> None:
        self._find_call = find_call
        self._on_setup = on_setup
        self._entries: OrderedDict[tuple[str, str], Entry] = OrderedDict()
        self.servers: dict[str, SrsHealth] = {}
        self.results: Counter[tuple[str, str]] = Counter()
        """Events counted by name and SRS."""

    def entry(self, dlg_id: str, instance: str) -> Entry:
        """What happened to a recording so far."""
        return self._entries.get((dlg_id, instance)) or Entry()

    def __call__(self, event: SiprecEvent) -> None:
        """Take note of an event."""
        if event.name in (events.MEDIA_UP, events.MEDIA_DOWN, events.MEDIA_SOURCE, events.LOOP):
            self.results[event.name, event.server] += 1
            return
        if not event.server:
            # Nobody was asked: no SRS's doing.
            self.results[event.name, ""] += 1
            self._entry(event).last_error = _error(event)
            self._forget(event)
            return
        server = event.server if event.server in self.servers or len(self.servers) < MAX_SERVERS else OTHER
        self.results[event.name, server] += 1
        health = self.servers.setdefault(server, SrsHealth())
        if event.name in (events.SRS_UP, events.SRS_DOWN):
            # Of no call: the health of the server itself.
            health.state = "up" if event.name == events.SRS_UP else "down"
            if event.name == events.SRS_DOWN:
                health.last_failure, health.status, health.reason = event.wall, event.status, event.reason
            return
        entry = self._entry(event)
        if event.name == events.START:
            self._established(event, entry, health)
        elif event.name in (events.FAILOVER, events.FAILED):
            self._failed(event, entry, health)
        elif event.name == events.UPDATE_FAILED:
            entry.last_error = _error(event)
        elif event.name == events.PAUSED:
            entry.pauses.append(Pause(start=event.wall, by=event.reason))
        elif event.name == events.RESUMED:
            _end_pause(entry, event.wall)
        elif event.name == events.STOP:
            _end_pause(entry, event.wall)
            entry.attempts.append(_attempt(event, "ended"))
        self._forget(event)

    def _entry(self, event: SiprecEvent) -> Entry:
        key = (event.dlg_id, event.instance)
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = Entry()
            while len(self._entries) > MAX_ENTRIES:
                self._entries.popitem(last=False)
        return entry

    def call_ended(self, call: Call) -> None:
        """Forget the call: from here on the proof has what was noted."""
        for name in {*call.recordings, *(call.wanted_by or ())}:
            self._entries.pop((call.dlg_id, name), None)

    def _forget(self, event: SiprecEvent) -> None:
        """Of calls that are over nothing can be asked any more: the proof has it."""
        if event.name in (events.STOP, events.FAILED) and self._find_call(event.dlg_id) is None:
            self._entries.pop((event.dlg_id, event.instance), None)

    def _established(self, event: SiprecEvent, entry: Entry, health: SrsHealth) -> None:
        entry.attempts.append(_attempt(event, "established"))
        health.state = "up"
        health.established += 1
        health.last_established = event.wall
        call = self._find_call(event.dlg_id)
        if not entry.started and call is not None and call.answer_wall is not None:
            self._on_setup(max(0.0, event.wall - call.answer_wall))
        entry.started = True

    def _failed(self, event: SiprecEvent, entry: Entry, health: SrsHealth) -> None:
        entry.last_error = _error(event)
        if not event.status:
            return  # not the SRS's doing: the media server's, or ours
        entry.attempts.append(_attempt(event, "failed"))
        health.failed += 1
        health.last_failure, health.status, health.reason = event.wall, event.status, event.reason
        if event.status == 408 or 500 <= event.status < 600:
            # Any other refusal is the word of a server that is well.
            health.state = "down"


def _attempt(event: SiprecEvent, result: str) -> Attempt:
    assert result in ("established", "failed", "ended")
    return Attempt(
        server=event.server,
        result=result,  # type: ignore[arg-type]
        at=event.wall,
        status=event.status,
        reason=event.reason,
    )


def _error(event: SiprecEvent) -> str:
    return f"{event.status} {event.reason}".strip() if event.status else event.reason


def _end_pause(entry: Entry, wall: float) -> None:
    if entry.pauses and entry.pauses[-1].end is None:
        entry.pauses[-1].end = wall
