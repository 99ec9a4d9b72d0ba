"""Several calls in one recording session: standing (SCN-01) and shared (SCN-04), on the simulated network."""

from __future__ import annotations

from typing import Any

import pytest

from siprec import sdp
from siprec.proxy.call import Call as ProxyCall
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.multipart import parts_of
from siprec.sip.useragent import Reply, session_description
from tests.simulation.network import LinkQuality
from tests.simulation.recording_world import Q, Srs, World, party_sdp


def shared(**profile: Any) -> World:
    return World(profile={"session": "shared", "transport": "udp", **profile})


def persistent(seed: int = 0, **profile: Any) -> World:
    world = World(seed, profile={"session": "persistent", "transport": "udp", **profile})
    world.service.open()
    world.clock.run_for(2.0)
    return world


def sessions(document: Any) -> list[tuple[str, bool]]:
    """Session ids of a document and whether each is over."""
    return [(s.get("session_id"), s.find(f"{Q}stop-time") is not None) for s in document.iter(f"{Q}session")]


def labels(document: Any) -> dict[str, str]:
    """Session id of each label."""
    return {s.find(f"{Q}label").text: s.get("session_id") for s in document.iter(f"{Q}stream") if len(s)}


def session_of(world: World, call: ProxyCall) -> str:
    recorder = world.service.recorder_of(call)
    assert recorder is not None
    return recorder.metadata.session_id


def ports(offer: sdp.SessionDescription) -> list[bool]:
    return [line.port > 9 for line in offer.media]


def targets(world: World) -> set[tuple[int, ...]]:
    """Where the media server sends the copies of each call."""
    return {tuple(line.port for line in answer.media) for answer in world.media.targets.values()}


def assert_over(world: World) -> None:
    world.service.stop_all()
    world.assert_clean()
    assert not world.service.shared_sessions.sessions


def test_calls_of_a_profile_share_a_recording_session_while_there_are_any() -> None:
    world = shared()
    one, two = world.answered_call(), world.answered_call()
    assert len(world.srs.calls) == 1
    assert world.srs.methods == ["INVITE", "INVITE"]
    assert ports(world.srs.offers[-1]) == [True] * 4
    assert labels(world.srs.documents[1]) == {"3": session_of(world, two), "4": session_of(world, two)}
    assert world.srs.documents[1].find(f"{Q}datamode").text == "partial"
    # Each call's copies go where the SRS wants that call's streams.
    assert targets(world) == {(20000, 20002), (20004, 20006)}
    gone = session_of(world, one)
    world.end(one)
    world.clock.run_for(2.0)
    assert world.srs.methods[-1] == "INVITE"
    assert ports(world.srs.offers[-1]) == [False, False, True, True]
    assert sessions(world.srs.documents[-1]) == [(gone, True)]
    # The m-lines are used again.
    three = world.answered_call()
    assert ports(world.srs.offers[-1]) == [True] * 4
    assert labels(world.srs.documents[-1]) == {"1": session_of(world, three), "2": session_of(world, three)}
    last = session_of(world, two)
    world.end(three)
    world.clock.run_for(2.0)
    world.end(two)
    world.clock.run_for(2.0)
    # The last one: its end is told, then BYE.
    assert world.srs.methods[-1] == "UPDATE"
    assert sessions(world.srs.documents[-1]) == [(last, True)]
    assert world.srs.ended_reasons == ["bye"]
    assert world.names() == ["START", "START", "STOP", "START", "STOP", "STOP"]
    assert_over(world)


def test_calls_of_different_groups_do_not_meet() -> None:
    world = World(profile={"session": "shared", "transport": "udp"})
    for group in ("sales", "support", "sales"):
        call = world.new_call()
        call.settings["default"].group = group
        call.record()
        world.answer(call)
        world.clock.run_for(2.0)
    assert len(world.srs.calls) == 2
    found = [len(list(d.iter(f"{Q}group"))) for d in world.srs.documents]
    assert found == [1, 1, 0]  # the third is in the group that the SRS knows of
    assert world.srs.documents[2].find(f"{Q}session/{Q}group-ref") is not None
    for recorder in world.service.recorders():
        world.end(recorder.call)
    assert_over(world)


def test_a_party_of_two_calls_of_a_group_is_one_participant_with_the_streams_of_both() -> None:
    world = shared(group="sales")
    calls = [world.answered_call(), world.answered_call()]
    (party,) = world.srs.documents[1].findall(f"{Q}participantstreamassoc")[:1]
    mine = [
        feed
        for feed in world.srs.documents[1].iter(f"{Q}participantstreamassoc")
        if feed.get("participant_id") == party.get("participant_id")
    ]
    assert len(mine) == 1
    assert len(mine[0].findall(f"{Q}send")) == 2  # what it says in either call
    assert not world.srs.documents[1].findall(f"{Q}participant")  # the SRS knows it
    world.end(calls[0])
    world.clock.run_for(2.0)
    feeds = world.srs.documents[-1].findall(f"{Q}participantstreamassoc")
    world.end(calls[1])
    world.clock.run_for(2.0)
    assert all(len(feed.findall(f"{Q}send")) <= 2 for feed in feeds)
    assert_over(world)


def test_joins_that_are_spread_over_the_gathering_time_are_one_exchange_and_later_ones_another() -> None:
    world = shared()
    calls = [world.answered_call()]
    before = world.srs.methods.count("INVITE")
    for _ in range(3):
        calls.append(world.answered_call(run=False))
        world.clock.run_for(0.008)  # the first waits for 20 ms, and no longer because others follow
    world.clock.run_for(0.04)  # on its way
    assert world.srs.methods.count("INVITE") == before + 1
    assert len(world.srs.offers[-1].media) == 8
    calls.append(world.answered_call(run=False))
    world.clock.run_for(3.0)
    assert world.srs.methods.count("INVITE") == before + 2
    assert len(world.srs.offers[-1].media) == 10
    for call in calls:
        world.end(call)
    world.clock.run_for(3.0)
    assert_over(world)


def test_leaves_that_are_spread_over_the_gathering_time_are_one_exchange() -> None:
    world = shared()
    calls = [world.answered_call() for _ in range(4)]
    before = len(world.srs.requests)
    for call in calls[:3]:
        world.end(call)
        world.clock.run_for(0.006)
    world.clock.run_for(1.0)
    assert len(world.srs.requests) == before + 1
    assert [over for _, over in sessions(world.srs.documents[-1])] == [True] * 3
    world.end(calls[3])
    world.clock.run_for(3.0)
    assert_over(world)


def test_changes_that_are_spread_over_the_gathering_time_are_one_exchange_and_later_ones_another() -> None:
    world = shared()
    calls = [world.answered_call() for _ in range(4)]
    before = len(world.srs.requests)
    for call in calls[:3]:
        world.service.siprec_pause_recording(call)
        world.clock.run_for(0.006)
    world.clock.run_for(0.04)  # on its way
    world.service.siprec_pause_recording(calls[3])
    world.clock.run_for(2.0)
    assert len(world.srs.requests) == before + 2
    paused = [[line.direction for line in offer.media].count("inactive") for offer in world.srs.offers[-2:]]
    assert paused == [6, 8]
    for call in calls:
        world.end(call)
    world.clock.run_for(3.0)
    assert_over(world)


def test_three_hundred_calls_through_one_session_need_no_more_than_those_at_a_time() -> None:
    world = persistent()
    live: list[ProxyCall] = []
    for _ in range(300):
        live.append(world.answered_call(run=False))
        world.clock.run_for(0.3)
        if len(live) > 4:
            world.end(live.pop(0))
            world.clock.run_for(0.3)
        session = world.service.shared_sessions.sessions[0]
        assert len(session._agreed) <= 12
        assert len(session.members) <= 6
        assert session._told is None or len(session._told.sessions) <= 6
    assert len(world.srs.calls) == 1
    assert max(len(offer.media) for offer in world.srs.offers) <= 12
    for call in live:
        world.end(call)
    world.clock.run_for(3.0)
    assert_over(world)


def test_a_standing_session_is_there_before_any_call_and_stays_after() -> None:
    world = persistent()
    assert world.srs.methods == ["INVITE"]
    assert [(line.kind, line.direction) for line in world.srs.offers[0].media] == [("audio", "inactive")]
    assert sessions(world.srs.documents[0]) == []
    versions = []
    for _ in range(3):
        call = world.answered_call()
        assert ports(world.srs.offers[-1]) == [True, True]
        ident = session_of(world, call)
        world.end(call)
        world.clock.run_for(2.0)
        assert sessions(world.srs.documents[-1]) == [(ident, True)]
        assert world.srs.offers[-1].media[0].direction == "inactive"
        assert not any(ports(world.srs.offers[-1]))
        origin = world.srs.offers[-1].origin
        assert origin is not None
        versions.append(int(origin.version))
    assert versions == [3, 5, 7]  # each change is one version (SDP-08)
    assert len(world.srs.calls) == 1
    assert len(world.service.shared_sessions.sessions) == 1
    assert_over(world)
    assert world.srs.ended_reasons == ["bye"]


def test_a_burst_of_joins_is_one_exchange_and_changes_meanwhile_are_the_next() -> None:
    world = persistent()
    calls = [world.answered_call(run=False) for _ in range(5)]
    world.clock.run_for(3.0)
    assert world.srs.methods == ["INVITE", "INVITE"]
    assert ports(world.srs.offers[-1]) == [True] * 10
    # While an exchange is pending, one joins, one leaves, one is put on hold: all of it leaves together.
    world.srs.answer_delay = 1.0
    calls.append(world.answered_call(run=False))
    world.clock.run_for(0.3)
    world.end(calls[0])
    calls.append(world.answered_call(run=False))
    world.service.siprec_pause_recording(calls[1])
    world.clock.run_for(5.0)
    assert world.srs.methods == ["INVITE"] * 4
    assert ports(world.srs.offers[-1]) == [True] * 12  # the leaver's slots went to a joiner in the same offer
    assert [line.direction for line in world.srs.offers[-1].media].count("inactive") == 2
    assert world.state(calls[1]) == "paused"
    for call in calls[1:]:
        world.end(call)
    world.clock.run_for(8.0)
    assert not any(ports(world.srs.offers[-1]))
    assert_over(world)


def test_a_call_that_ends_while_it_joins_leaves_nothing_behind() -> None:
    world = persistent()
    world.srs.answer_delay = 0.5
    for moment in (0.0, 0.01, 0.05, 0.2, 0.6):
        call = world.answered_call(run=False)
        world.clock.run_for(moment)
        world.end(call)
        world.clock.run_for(5.0)
        assert not any(ports(world.srs.offers[-1]))
        assert len(world.service.shared_sessions.sessions[0].members) == 0
    assert_over(world)


def test_a_full_session_is_followed_by_a_further_one() -> None:
    world = persistent(calls_per_session=2)
    calls = [world.answered_call() for _ in range(5)]
    assert len(world.srs.calls) == 3
    assert {world.state(call) for call in calls} == {"active"}
    for call in calls:
        world.end(call)
        world.clock.run_for(2.0)
    assert len(world.service.shared_sessions.sessions) == 1  # the one that stands
    assert_over(world)


def test_an_srs_that_dies_loses_no_call_and_all_keep_their_ids() -> None:
    world = persistent(srs="sip:srs@10.0.0.2,sip:srs@10.0.0.3")
    other = Srs(world, "10.0.0.3")
    calls = [world.answered_call() for _ in range(3)]
    before = {session_of(world, call) for call in calls}
    streams = {s.get("stream_id") for d in world.srs.documents for s in d.iter(f"{Q}stream")}
    world.srs.on_request, world.srs.on_invite = lambda request, reply: True, lambda call: None  # not a word any more
    world.service.siprec_pause_recording(calls[0])
    world.clock.run_for(60.0)
    assert {world.state(call) for call in calls} == {"active", "paused"}
    assert len(other.calls) == 1  # all of them together
    found = {s for d in other.documents for s, _ in sessions(d)}
    assert found == before
    assert {s.get("stream_id") for d in other.documents for s in d.iter(f"{Q}stream")} == streams
    assert world.names().count("FAILOVER") == 3
    later = world.answered_call()
    assert world.state(later) == "active"
    for call in [*calls, later]:
        world.end(call)
    world.clock.run_for(5.0)
    world.service.stop_all()
    world.clock.run_until_idle(4000.0)
    assert not world.service.shared_sessions.sessions
    assert other.agent.counts() == {"calls": 0, "dialogs": 0}


def test_a_standing_session_that_fails_is_set_up_again_with_growing_patience() -> None:
    world = World(profile={"session": "persistent", "transport": "udp"})
    world.srs.status = 503
    world.service.open()
    world.clock.run_for(200.0)
    tries = len(world.srs.calls)
    assert 5 <= tries <= 10  # 1, 2, 4 ... 60 seconds apart, and not in step
    world.srs.status = 200
    world.clock.run_for(100.0)
    assert world.service.shared_sessions.sessions[0].state == "up"
    # The SRS ends it: it is set up anew.
    up = len(world.srs.calls)
    world.srs.call.bye()
    world.clock.run_for(5.0)
    assert len(world.srs.calls) == up + 1
    assert world.service.shared_sessions.sessions[0].state == "up"
    assert_over(world)


def test_an_srs_that_dies_while_nobody_calls_is_noticed() -> None:
    world = persistent(srs="sip:srs@10.0.0.2,sip:srs@10.0.0.3")
    other = Srs(world, "10.0.0.3")
    world.clock.run_for(100.0)
    assert len(world.srs.calls) == 1  # OPTIONS are answered
    world.srs.on_request, world.srs.on_invite = lambda request, reply: True, lambda call: None
    world.clock.run_for(80.0)
    assert len(other.calls) == 1
    call = world.answered_call()
    assert len(other.calls) == 1
    assert world.state(call) == "active"
    world.end(call)
    world.clock.run_for(2.0)
    world.service.stop_all()
    world.clock.run_until_idle(4000.0)
    assert not world.service.shared_sessions.sessions


def test_without_its_session_standing_a_call_still_calls_the_srs_itself() -> None:
    world = World(profile={"session": "persistent", "transport": "udp"})
    world.srs.status = 503
    world.service.open()
    world.clock.run_for(3.0)
    world.srs.status = 200
    call = world.answered_call()
    assert world.state(call) == "active"
    world.end(call)
    world.clock.run_for(2.0)
    assert_over(world)


def test_one_call_that_the_srs_will_not_have_costs_no_other_its_recording() -> None:
    world = persistent()
    stays = world.answered_call()

    def picky(request: SipRequest, reply: Reply) -> bool:
        if session_description(request) and b"sip:nobody@" in request.body:
            reply(488)
            return True
        return False

    world.srs.on_request = picky
    wanted = [world.answered_call(run=False) for _ in range(2)]
    refused = world.new_call()
    refused.caller = refused.caller.__class__("", "sip:nobody@example.org")
    refused.record()
    world.answer(refused)
    world.clock.run_for(10.0)
    assert [world.state(call) for call in (stays, *wanted, refused)] == ["active", "active", "active", "gone"]
    assert world.names().count("FAILED") == 1
    for call in (stays, *wanted):
        world.end(call)
    world.end(refused)
    world.clock.run_for(8.0)
    assert_over(world)


def test_after_a_refused_change_the_srs_is_told_everything_again() -> None:
    world = shared()
    calls = [world.answered_call() for _ in range(2)]
    refusals = iter([True])

    def refuse_once(request: SipRequest, reply: Reply) -> bool:
        refused = next(refusals, False)
        if refused:
            reply(500)
        return refused

    world.srs.on_request = refuse_once
    calls[0].caller_sdp = party_sdp("10.1.1.1", "sendonly")
    world.service.call_media_changed(calls[0])
    world.clock.run_for(4.0)
    refused, again = world.srs.documents[-2:]
    assert refused.find(f"{Q}datamode").text == "partial"
    assert again.find(f"{Q}datamode").text == "complete"
    assert {ident for ident, _ in sessions(again)} == {session_of(world, call) for call in calls}
    for call in calls:
        world.end(call)
    world.clock.run_for(3.0)
    assert_over(world)


def test_the_srs_changes_the_session_of_several_calls() -> None:
    world = shared()
    calls = [world.answered_call(), world.answered_call()]
    answers: list[SipResponse] = []
    offer = sdp.parse(world.srs.answer_to(world.srs.requests[-1]))
    for line in offer.media[2:]:
        line.direction = "inactive"
    world.srs.call.reinvite(
        offer.to_bytes(), "application/sdp", (), lambda r: answers.append(r) if isinstance(r, SipResponse) else None
    )
    world.clock.run_for(2.0)
    assert answers[0].status == 200
    lines = sdp.parse(session_description(answers[0]) or b"").media
    assert [line.direction for line in lines] == ["sendonly", "sendonly", "inactive", "inactive"]
    assert [line.label for line in lines] == ["1", "2", "3", "4"]
    assert len(world.media.flowing()) == 2
    # No offer: ours in the 200, with everything there is to know.
    offered: list[SipResponse] = []

    def take(result: object) -> None:
        if isinstance(result, SipResponse):
            offered.append(result)

    world.srs.call.reinvite(b"", "", (), take)
    world.clock.run_for(2.0)
    assert offered
    assert len(sdp.parse(session_description(offered[0]) or b"").media) == 4
    kinds = [part.disposition for part in parts_of(offered[0])]
    assert "recording-session" in kinds
    for call in calls:
        world.end(call)
    world.clock.run_for(3.0)
    assert_over(world)


def test_an_offer_of_the_srs_that_crosses_ours_is_refused_and_both_come_through() -> None:
    world = shared()
    one = world.answered_call()
    results: list[int] = []

    def cross(request: SipRequest, reply: Reply) -> bool:
        if request.method == "INVITE" and not results:
            body = world.srs.answer_to(world.srs.requests[0])
            results.append(0)
            world.srs.call.reinvite(
                body, "application/sdp", (), lambda r: results.append(r.status if isinstance(r, SipResponse) else -1)
            )
            world.clock.call_later(0.3, reply, 200, world.srs.answer_to(request))
            return True
        return False

    world.srs.on_request = cross
    two = world.answered_call()
    world.clock.run_for(15.0)
    assert {world.state(one), world.state(two)} == {"active"}
    assert targets(world) == {(20000, 20002), (20004, 20006)}
    for call in (one, two):
        world.end(call)
    world.clock.run_for(3.0)
    assert_over(world)


def test_a_snapshot_has_all_calls_with_their_labels() -> None:
    world = shared()
    calls = [world.answered_call(), world.answered_call()]
    request = b'<?xml version="1.0" encoding="UTF-8"?><requestsnapshot xmlns="urn:ietf:params:xml:ns:recording:1"/>'
    world.srs.call.update(
        request, "application/rs-metadata+xml", (("Content-Disposition", "recording-session"),), lambda r: None
    )
    world.clock.run_for(2.0)
    snapshot = world.srs.documents[-1]
    assert snapshot.find(f"{Q}datamode").text == "complete"
    assert labels(snapshot) == {
        "1": session_of(world, calls[0]), "2": session_of(world, calls[0]),
        "3": session_of(world, calls[1]), "4": session_of(world, calls[1]),
    }  # fmt: skip
    assert world.srs.offers[-1].origin == world.srs.offers[-2].origin  # META-14
    for call in calls:
        world.end(call)
    world.clock.run_for(3.0)
    assert_over(world)


def test_another_configuration_retires_the_session_with_its_last_call() -> None:
    world = persistent()
    call = world.answered_call()
    profile = world.service.profiles["default"]
    other = Srs(world, "10.0.0.3")
    world.service.set_profiles({"default": profile.with_srs("sip:srs@10.0.0.3")})
    world.clock.run_for(2.0)
    later = world.answered_call()
    assert world.state(call) == world.state(later) == "active"
    assert len(other.calls) == 1
    world.end(call)
    world.clock.run_for(2.0)
    assert world.srs.ended_reasons == ["bye"]
    world.end(later)
    assert_over(world)


@pytest.mark.parametrize("seed", range(12))
def test_on_a_bad_network_calls_come_and_go_and_nothing_is_left(seed: int) -> None:
    """A tenth of the datagrams is lost, others overtake; forty calls join, are paused, changed and end at any time."""
    world = World(seed, profile={"session": "persistent", "transport": "udp", "calls_per_session": 6})
    world.network.link("10.0.0.1", "10.0.0.2", LinkQuality(loss=0.1, duplicate=0.05, jitter=0.05))
    world.service.open()
    rng = world.rng
    live: list[ProxyCall] = []
    told: list[str] = []
    for _ in range(40):
        call = world.answered_call(run=False)
        live.append(call)
        told.append(session_of(world, call))
        world.clock.run_for(rng.random() * 3)
        if rng.random() < 0.3:
            world.service.siprec_pause_recording(rng.choice(live))
        if rng.random() < 0.3:
            world.service.siprec_resume_recording(rng.choice(live))
        while len(live) > rng.randrange(1, 12):
            world.end(live.pop(rng.randrange(len(live))))
            world.clock.run_for(rng.random())
    world.clock.run_for(120.0)
    assert {world.state(call) for call in live} <= {"active", "paused"}
    for call in live:
        world.end(call)
    world.clock.run_for(200.0)
    left = world.service.shared_sessions.sessions
    assert all(not session.members for session in left)
    assert len(left) == 1
    seen = {ident for document in world.srs.documents for ident, _ in sessions(document)}
    assert seen <= set(told)
    assert len(seen) > 25
    world.network.link("10.0.0.1", "10.0.0.2", LinkQuality())
    assert_over(world)
