"""Recording events in routing scripts: ``async def E_SIPREC_START(event)`` and the others of the same names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

from siprec.proxy.call import Call
from siprec.proxy.script import Script
from siprec.recording.events import SiprecEvent
from siprec.recording.service import RecordingService


@dataclass(frozen=True, slots=True)
class RecordingEvent(SiprecEvent):
    """What a handler gets: the event, and the `call` it is about (None only when that is long over)."""

    call: Call | None = None


class ScriptEvents:
    """A subscriber that calls the handlers of the present routing script.

    Handlers run like those of requests: at once until they wait, then as a task. What they raise is logged with the
    Call-ID, counted by `failed`, and changes nothing of the recording or the call.
    """

    def __init__(
        self,
        service: RecordingService,
        script: Callable[[], Script | None],
        failed: Callable[[Exception], None] = lambda error: None,
    ) -> None:
        self._service = service
        self._script = script
        self._failed = failed
        service.events.subscribe(self)

    def __call__(self, event: SiprecEvent) -> None:
        """Hand one event on."""
        script = self._script()
        handler = script.handler(event.name) if script is not None else None
        if script is None or handler is None:
            return
        recorder = self._service.recorder(event.dlg_id)
        values = {each.name: getattr(event, each.name) for each in fields(event)}
        told = RecordingEvent(**values, call=recorder.call if recorder is not None else None)
        script.run(handler(told), event.dlg_callid, self._failed)
