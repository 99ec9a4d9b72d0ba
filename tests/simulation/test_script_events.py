"""Recording events in a routing script: told by name, with the call, and harmless whatever a handler does."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from siprec import RecordingEvent, Request
from siprec.proxy.script import Script
from siprec.recording.events import EVENTS, STOP
from siprec.recording.script_events import ScriptEvents
from tests.simulation.transferworld import SRS, TransferWorld


def world(handlers: dict[str, Any], **profile: Any) -> tuple[TransferWorld, list[Exception]]:
    async def request(request: Request) -> None:
        request.forward()

    errors: list[Exception] = []
    w = TransferWorld(script=Script({"request": request, **handlers}), **profile)
    ScriptEvents(w.service, lambda: w.core.script, errors.append)
    return w, errors


def hang_up(w: TransferWorld) -> None:
    w.alice.agent.calls()[0].bye()
    w.clock.run_for(5)


def test_each_event_has_a_handler_of_its_name_and_brings_the_call() -> None:
    told: list[RecordingEvent] = []

    async def handler(event: RecordingEvent) -> None:
        told.append(event)

    w, errors = world(dict.fromkeys(EVENTS, handler))
    w.call()
    w.clock.run_for(2)
    call = w.journal.calls[0]
    call.siprec_pause_recording()
    w.clock.run_for(2)
    call.siprec_resume_recording()
    w.clock.run_for(2)
    hang_up(w)
    assert [event.name.removeprefix("E_SIPREC_") for event in told] == ["START", "PAUSED", "RESUMED", "STOP"]
    assert all(event.call is call for event in told)
    start = told[0]
    assert (start.dlg_id, start.dlg_callid, start.instance) == (call.dlg_id, call.call_id, "default")
    assert start.callid == w.srs.requests[0].call_id
    assert start.server == f"sip:srs@{SRS}"
    assert errors == []
    w.finish()


def test_a_handler_may_steer_the_recording_it_is_told_of() -> None:
    async def started(event: RecordingEvent) -> None:
        assert event.call is not None
        assert event.call.siprec_pause_recording(event.instance)

    async def failed(event: RecordingEvent) -> None:
        assert event.call is not None
        assert event.call.siprec_start_recording(f"sip:srs@{SRS}", "second")

    w, errors = world({"E_SIPREC_START": started, "E_SIPREC_FAILED": failed}, srs="sip:srs@10.0.0.99", retry=0.0)
    w.call()
    w.clock.run_for(40)
    assert errors == []
    assert {info.instance: info.state for info in w.service.info()} == {"second": "paused"}
    hang_up(w)
    w.finish()


@pytest.mark.parametrize("waits", [False, True])
def test_what_a_handler_raises_is_logged_and_hurts_nobody(waits: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(event: RecordingEvent) -> None:
        if waits:
            await asyncio.sleep(0)
        raise ZeroDivisionError("no good")

    w, errors = world(dict.fromkeys(EVENTS, handler))

    async def main() -> None:
        w.call()
        w.clock.run_for(2)
        await asyncio.sleep(0.01)
        hang_up(w)
        await asyncio.sleep(0.01)

    with caplog.at_level(logging.ERROR, "siprec.proxy.script"):
        asyncio.run(main())
    assert w.told() == ["START", "STOP"]
    assert [type(error) for error in errors] == [ZeroDivisionError] * 2
    # Both are told; a traceback is logged once a minute (siprec.sourcelog).
    assert caplog.text.count(f"Call-ID {w.journal.calls[0].call_id}") == 1
    w.finish()


def test_after_a_reload_the_handlers_are_those_of_the_new_script() -> None:
    told: list[str] = []

    async def request(request: Request) -> None:
        request.forward()

    async def stop(event: RecordingEvent) -> None:
        told.append(event.name)

    w, _ = world({})
    w.call()
    w.clock.run_for(2)
    w.core.script = Script({"request": request, STOP: stop})
    hang_up(w)
    assert told == [STOP]
    w.finish()
