"""An SRS that does not take a stream gets the offer once more; then the next one is tried (`on_refused_stream`)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from siprec import sdp
from siprec.sdp import MediaDescription
from siprec.sip.message import SipRequest
from siprec.sip.useragent import IncomingCall, Reply, session_description
from tests.simulation.recording_world import Srs, World

FIRST, SECOND = "sip:srs@10.0.0.2", "sip:srs@10.0.0.3"
Change = Callable[[list[MediaDescription]], list[MediaDescription]]


def direction(value: sdp.Direction) -> Change:
    def change(lines: list[MediaDescription]) -> list[MediaDescription]:
        lines[1].direction = value
        return lines

    return change


def port_zero(lines: list[MediaDescription]) -> list[MediaDescription]:
    lines[1].port = 0
    return lines


def null_address(lines: list[MediaDescription]) -> list[MediaDescription]:
    lines[1].set_address("0.0.0.0")
    return lines


def fewer(lines: list[MediaDescription]) -> list[MediaDescription]:
    return lines[:1]


WAYS = {
    "sendonly": direction("sendonly"),
    "inactive": direction("inactive"),
    "port 0": port_zero,
    "no m-line": fewer,
    "null address": null_address,
}


def changed(srs: Srs, request: SipRequest, change: Change) -> bytes:
    answer = sdp.parse(srs.answer_to(request))
    lines = change(answer.media)
    return sdp.build_session(sdp.Origin("srs", "5", str(len(srs.requests)), srs.node.host), lines).to_bytes()


def leave_out(srs: Srs, change: Change, times: int = 1000) -> None:
    """Answer so many offers with one stream less."""
    left = [times]

    def invited(call: IncomingCall) -> None:
        left[0] -= 1
        if left[0] >= 0:
            call.answer(200, changed(srs, call.invite, change), headers=(("Require", "siprec"),))
        else:
            srs.answer_call(call)

    def asked(request: SipRequest, reply: Reply) -> bool:
        if not session_description(request):
            return False
        left[0] -= 1
        if left[0] >= 0:
            reply(200, changed(srs, request, change))
        return left[0] >= 0

    srs.on_invite, srs.on_request = invited, asked


def two(**profile: object) -> tuple[World, Srs]:
    world = World(profile={"srs": [FIRST, SECOND], **profile})
    return world, Srs(world, "10.0.0.3")


def finish(world: World, call: object) -> None:
    world.end(call)  # type: ignore[arg-type]
    world.assert_clean()


@pytest.mark.parametrize("way", WAYS)
def test_an_srs_that_takes_all_when_asked_again_keeps_the_recording(way: str) -> None:
    world, second = two()
    leave_out(world.srs, WAYS[way], 1)
    call = world.answered_call()
    assert world.srs.methods == ["INVITE", "INVITE"]
    assert world.srs.offers[0].to_bytes() == world.srs.offers[1].to_bytes()
    assert world.names() == ["START"]
    assert len(world.media.flowing()) == 2
    assert second.calls == []
    finish(world, call)


@pytest.mark.parametrize("way", WAYS)
def test_else_the_next_srs_gets_it_from_the_beginning(way: str) -> None:
    world, second = two()
    leave_out(world.srs, WAYS[way])
    call = world.answered_call()
    assert world.srs.methods == ["INVITE", "INVITE"]
    assert world.srs.ended_reasons == ["bye"]
    assert world.names() == ["FAILOVER", "START"]
    assert world.events[0].status == 488
    assert world.events[0].reason == f"streams not taken: audio (label 2): {way}"
    assert len(second.calls) == 1
    assert len(world.media.flowing()) == 2
    assert len(world.media.log) == len([line for line in world.media.log if "pause" not in line])
    assert world.health() == []  # it is well, and says no
    finish(world, call)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("srs", [[FIRST], [FIRST, SECOND]])
def test_an_srs_that_takes_a_part_is_better_than_none(way: str, srs: list[str]) -> None:
    world = World(profile={"srs": srs})
    second = Srs(world, "10.0.0.3")
    second.status = 486
    leave_out(world.srs, WAYS[way])
    call = world.answered_call()
    world.clock.run_for(3)
    assert world.names()[-1] == "START"
    assert "FAILED" not in world.names()
    assert world.events[-1].server == FIRST
    if way != "null address":  # which the media server takes for a hold
        assert world.media.flowing() == ["1"]
    assert len(world.srs.calls) == len(srs)
    assert len(second.calls) == len(srs) - 1
    finish(world, call)


def test_all_srss_leave_it_out_and_the_last_one_keeps_the_recording() -> None:
    world, second = two()
    for srs in (world.srs, second):
        leave_out(srs, port_zero)
    call = world.answered_call()
    world.clock.run_for(3)
    assert world.names() == ["FAILOVER", "START"]
    assert world.events[-1].server == SECOND
    assert world.media.flowing() == ["1"]
    finish(world, call)


@pytest.mark.parametrize(
    ("policy", "kind", "goes"),
    [
        ("failover-audio", "audio", True),
        ("failover-audio", "video", False),
        ("failover", "video", True),
        ("accept", "audio", False),
    ],
)
def test_the_policy_says_for_which_streams_another_srs_is_tried(policy: str, kind: str, goes: bool) -> None:
    world, second = two(on_refused_stream=policy)
    call = world.new_call()
    more = b"m=video 5000 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
    for tag in (call.from_tag, call.to_tag):
        world.media.parties[tag] += more
    call.caller_sdp += more
    call.callee_sdp += more

    def change(lines: list[MediaDescription]) -> list[MediaDescription]:
        next(line for line in lines if line.kind == kind).port = 0
        return lines

    leave_out(world.srs, change)
    call.record()
    world.answer(call)
    world.clock.run_for(3)
    assert len(second.calls) == goes
    assert world.srs.methods[:2] == ["INVITE", "INVITE"]  # asked again, whatever the policy
    assert world.names()[-1] == "START"
    finish(world, call)


def test_a_stream_that_is_left_out_in_mid_call_goes_the_same_way() -> None:
    world, second = two()
    call = world.answered_call()
    leave_out(world.srs, port_zero)
    world.media.parties[call.from_tag] = call.caller_sdp = call.caller_sdp.replace(b"0 8", b"0")
    world.service.call_media_changed(call)
    world.clock.run_for(3)
    assert world.srs.methods == ["INVITE", "INVITE", "INVITE"]
    assert world.names() == ["START", "STOP", "FAILOVER", "START"]
    assert world.srs.ended_reasons == ["bye"]
    assert len(second.calls) == 1
    assert len(world.media.flowing()) == 2
    finish(world, call)


def test_a_pause_that_the_srs_wants_is_no_refusal() -> None:
    world, second = two()
    call = world.answered_call()
    held = world.srs.answer_to(world.srs.requests[0], "inactive")
    world.srs.call.reinvite(held)
    world.clock.run_for(1)
    assert world.media.flowing() == []

    def inactive(lines: list[MediaDescription]) -> list[MediaDescription]:
        for line in lines:
            line.direction = "inactive"
        return lines

    leave_out(world.srs, inactive)
    world.media.parties[call.from_tag] = call.caller_sdp = call.caller_sdp.replace(b"0 8", b"0")
    world.service.call_media_changed(call)
    world.clock.run_for(3)
    assert second.calls == []
    assert world.srs.methods.count("INVITE") == 2
    finish(world, call)


def test_a_pause_of_ours_is_no_refusal() -> None:
    world, second = two()
    call = world.new_call()
    world.service.record(call)
    assert world.service.siprec_pause_recording(call)
    world.answer(call)
    world.clock.run_for(3)
    assert world.state(call) == "paused"
    assert world.srs.methods == ["INVITE"]
    assert second.calls == []
    finish(world, call)


@pytest.mark.parametrize("moment", [0.03, 0.05, 0.07, 0.1])
def test_a_call_that_ends_while_the_offer_is_made_again_leaves_nothing(moment: float) -> None:
    world, _ = two()
    leave_out(world.srs, port_zero)
    world.srs.answer_delay = 0.05
    call = world.answered_call(run=False)
    world.clock.run_for(moment)
    world.end(call)
    world.assert_clean()


@pytest.mark.parametrize("what", ["silent", "bye", "481", "offer"])
def test_an_srs_that_does_something_else_while_it_is_asked_again(what: str) -> None:
    world, second = two()
    leave_out(world.srs, port_zero)
    results: list[object] = []

    def instead(request: SipRequest, reply: Reply) -> bool:
        if what == "481" and request.method == "INVITE":
            reply(481)
        elif what == "bye":
            world.srs.call.bye()
        elif what == "offer":
            world.srs.call.reinvite(world.srs.answer_to(world.srs.requests[0]), done=results.append)
        return request.method in ("INVITE", "OPTIONS")

    world.srs.on_request = instead
    call = world.answered_call()
    world.clock.run_for(8)
    assert world.names()[-1] == "START"
    assert world.events[-1].server == SECOND
    assert len(second.calls) == 1
    world.srs.on_request = None
    world.end(call)
    world.clock.run_for(100)
    world.assert_clean()


@pytest.mark.parametrize("session", ["shared", "persistent"])
def test_a_call_of_a_shared_session_goes_elsewhere_without_the_others(session: str) -> None:
    world, second = two(session=session, transport="udp")
    world.service.open()
    world.clock.run_for(2)
    stays = world.answered_call()

    def picky(lines: list[MediaDescription]) -> list[MediaDescription]:
        for line in lines[2:3]:
            line.port = 0
        return lines

    leave_out(world.srs, picky)
    goes = world.answered_call()
    world.clock.run_for(5)
    assert world.state(stays) == "active"
    assert world.state(goes) == "active"
    assert {event.server for event in world.events if event.dlg_id == stays.dlg_id} == {FIRST}
    for call in (stays, goes):
        world.end(call)
    world.clock.run_for(5)
    world.service.stop_all()
    world.clock.run_until_idle(4000.0)
    assert second.agent.counts() == {"calls": 0, "dialogs": 0}
