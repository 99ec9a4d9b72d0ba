"""A recording leaves no reference cycle, however it ends: what it used is freed then."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from siprec.sip.message import SipRequest
from siprec.sip.useragent import Reply
from tests.simulation.recording_world import FakeMediaServer, Srs, World, party_sdp
from tests.simulation.test_garbage import garbage_of

TWO = {"srs": "sip:other@10.0.0.3, sip:srs@10.0.0.2"}


def recorded(w: World) -> None:
    w.end(w.answered_call())


def ended_at_once(w: World) -> None:
    w.end(w.answered_call(run=False))


def stopped(w: World) -> None:
    call = w.answered_call()
    call.siprec_stop_recording()
    w.clock.run_for(3)
    w.end(call)


def paused_and_resumed(w: World) -> None:
    call = w.answered_call()
    call.siprec_pause_recording()
    w.clock.run_for(2)
    call.siprec_resume_recording()
    w.clock.run_for(2)
    w.end(call)


def changed(w: World) -> None:
    call = w.answered_call()
    w.media.parties[call.from_tag] = call.caller_sdp = party_sdp("10.1.1.1", formats="8")
    w.service.call_media_changed(call)
    w.clock.run_for(2)
    w.end(call)


def refused_by_all(w: World) -> None:
    w.srs.status = 486
    w.end(w.answered_call())
    w.srs.status = 200


def taken_by_the_second(w: World) -> None:
    w.end(w.answered_call())


def forgotten(request: SipRequest, reply: Reply) -> bool:
    reply(481)
    return True


def replaced_in_mid_call(w: World) -> None:
    call = w.answered_call()
    w.srs.on_request = forgotten
    call.callee_sdp = party_sdp("10.2.2.2", "sendonly")
    w.service.call_media_changed(call)
    w.clock.run_for(2)
    w.srs.on_request = None
    w.end(call)


def ended_by_the_srs(w: World) -> None:
    call = w.answered_call()
    w.srs.call.bye()
    w.clock.run_for(2)
    w.end(call)


def without_copies(w: World) -> None:
    w.media.fail.add("subscribe")
    w.end(w.answered_call())
    w.media.fail.clear()


def moved_to_another_media_server(w: World) -> None:
    call = w.answered_call()
    after = FakeMediaServer(w.clock)
    after.parties = w.media.parties
    call.media = after
    w.service.call_media_moved(call)
    w.clock.run_for(3)
    w.end(call)


def two_at_once(w: World) -> None:
    calls = [w.answered_call(), w.answered_call()]
    for call in calls:
        w.end(call)
        w.clock.run_for(1)


KINDS: dict[Callable[[World], None], dict[str, str]] = {
    recorded: {},
    ended_at_once: {},
    stopped: {},
    paused_and_resumed: {},
    changed: {},
    refused_by_all: {},
    taken_by_the_second: TWO,
    replaced_in_mid_call: {},
    ended_by_the_srs: {},
    without_copies: {},
    moved_to_another_media_server: {},
}


def leaves_nothing(w: World, kind: Callable[[World], None]) -> None:
    def run() -> None:
        kind(w)
        w.clock.run_for(300)
        w.srs.calls.clear()
        w.srs.requests.clear()
        w.network.trace.clear()

    run()  # what is made once is there now
    found = garbage_of(run, "siprec.recording.")
    assert not w.service.info()
    assert not found, found


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_recording_leaves_no_cycle(kind: Callable[[World], None]) -> None:
    w = World(profile=dict(KINDS[kind]))
    if KINDS[kind] is TWO:
        Srs(w, "10.0.0.3").status = 503
    leaves_nothing(w, kind)


@pytest.mark.parametrize("session", ["shared", "persistent"])
@pytest.mark.parametrize("kind", [recorded, ended_at_once, stopped, paused_and_resumed, changed, two_at_once])
def test_a_recording_in_a_shared_session_leaves_no_cycle(kind: Callable[[World], None], session: str) -> None:
    w = World(profile={"session": session, "transport": "udp"})
    w.service.open()
    w.clock.run_for(2)
    leaves_nothing(w, kind)
