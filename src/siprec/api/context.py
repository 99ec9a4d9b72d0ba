"""What the API looks at and steers: the context of a proxy process, handed in by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from siprec.api.call_counters import CallCounters
from siprec.api.hold_history import HoldHistory
from siprec.media.engine import MediaServer, Subscription
from siprec.media.pool import MediaPool
from siprec.net.transport import SocketTransport
from siprec.proxy.core import ProxyCore
from siprec.proxy.registrar import Registrar
from siprec.recording.call_recording import CallRecording
from siprec.recording.call_recordings import CallRecordings
from siprec.recording.events import EventDispatcher
from siprec.recording.service import RecordingService
from siprec.sip.clock import Clock
from siprec.sip.transaction import TransactionLayer
from siprec.sip.useragent import UserAgent
from siprec.trace.tap import Tap


class ConfigProblem(Exception):
    """A configuration that cannot be used; the text says why."""


class MediaHolder(Protocol):
    """Who has the media servers: `current` is None while there is none."""

    pool: MediaPool

    @property
    def current(self) -> MediaServer | None: ...

    @property
    def restarts(self) -> int: ...


class Reloaded(Protocol):
    """What a reload of the configuration did: keys in effect now, and those that wait for a restart."""

    @property
    def changed(self) -> tuple[str, ...]: ...

    @property
    def restart(self) -> tuple[str, ...]: ...


@dataclass(slots=True)
class ApiContext:
    """A proxy process. `reload` raises :class:`ConfigProblem`. `proof_error`: why no proof of recording can be written,
    empty when it can, None when none is to be; `proof_needed`: without one there is no readiness. `headroom`:
    what is in use of file descriptors and the like, 0 to 1."""

    clock: Clock
    core: ProxyCore
    layer: TransactionLayer
    agent: UserAgent
    transport: SocketTransport
    recording: RecordingService
    events: EventDispatcher
    media: MediaHolder
    registrar: Registrar | None
    calls: CallCounters
    timers: Callable[[], int] = lambda: 0
    tap: Tap | None = None
    holds: HoldHistory | None = None
    proofs: Callable[[], dict[str, int]] = dict
    proof_error: Callable[[], str | None] = lambda: None
    proof_needed: bool = False
    headroom: Callable[[], dict[str, float]] = dict
    reload: Callable[[bool], Reloaded] | None = None

    def recorder(self, dlg_id: str) -> CallRecordings | None:
        """The recordings of one call."""
        return self.recording.recorder(dlg_id)

    def recorders(self) -> list[CallRecordings]:
        """All calls with recordings, in the order they began."""
        return self.recording.recorders()

    def recordings(self) -> Iterator[CallRecording]:
        """All recordings, as they are now."""
        for recorder in self.recorders():
            yield from list(recorder.recordings.values())

    @staticmethod
    def subscription(recording: CallRecording) -> tuple[Subscription | None, dict[tuple[str, int], str]]:
        """What the media server copies for a recording, and the label of each stream by tag and m-line."""
        return recording.subscription, recording.labels
