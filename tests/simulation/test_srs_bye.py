"""What a BYE of the SRS in mid-call means: a failover, or the SRS's decision."""

from __future__ import annotations

import pytest

from tests.simulation.proofworld import ProofWorld
from tests.simulation.recording_world import Srs, World

FIRST, SECOND = "sip:srs@10.0.0.2", "sip:srs@10.0.0.3"
FAILOVER = [
    ("SIP;cause=500", 500),
    ('SIP ;cause=503 ;text="the recorder stops"', 503),
    ("sip;cause=599", 599),
    ("Q.850;cause=38", 503),
    ("q.850;cause=41", 503),
    ("Q.850;cause=42", 503),
    ('Q.850;cause=16, SIP;cause=503;text="x"', 503),
]
DECISION = [
    "",
    "SIP;cause=200",
    "SIP;cause=499",
    "SIP;cause=600",
    "Q.850;cause=16",
    "Q.850;cause=503",
    "Preemption;cause=503",
    "SIP",
    "nonsense",
    "SIP;cause=99999999999",
]


def two(**profile: object) -> tuple[World, Srs]:
    world = World(profile={"srs": [FIRST, SECOND], **profile})
    return world, Srs(world, "10.0.0.3")


def reason(value: str) -> tuple[tuple[str, str], ...]:
    return (("Reason", value),) if value else ()


@pytest.mark.parametrize(("value", "status"), FAILOVER)
def test_a_failure_of_the_srs_in_its_bye_gives_the_session_to_the_next_one(value: str, status: int) -> None:
    world, second = two()
    call = world.answered_call()
    world.srs.call.bye(reason(value))
    world.clock.run_for(2)
    assert world.names() == ["START", "STOP", "FAILOVER", "START"]
    stop = world.events[1]
    assert (stop.status, stop.server) == (status, FIRST)
    assert stop.reason.startswith("ended by SRS: ")
    assert world.state(call) == "active"
    assert len({event.session_id for event in world.events}) == 1
    assert len(world.media.flowing()) == 2
    assert world.media.flags[-1].hold  # what comes meanwhile is kept
    # New calls try the other one first.
    world.answered_call()
    assert len(second.calls) == 2


@pytest.mark.parametrize("value", DECISION)
def test_any_other_bye_is_the_decision_of_the_srs(value: str) -> None:
    world, second = two()
    call = world.answered_call()
    world.srs.call.bye(reason(value))
    world.clock.run_for(120)
    assert world.names() == ["START", "STOP"]
    assert world.events[1].status == 0
    assert world.events[1].reason.startswith("ended by SRS")
    assert second.calls == []
    assert world.state(call) == "gone"
    assert world.health() == []
    world.end(call)
    world.assert_clean()


@pytest.mark.parametrize(
    ("policy", "value", "goes_on"),
    [("failover", "", True), ("failover", "Q.850;cause=16", True), ("end", "SIP;cause=503", False)],
)
def test_on_srs_bye_sets_otherwise(policy: str, value: str, goes_on: bool) -> None:
    world, second = two(on_srs_bye=policy)
    world.answered_call()
    world.srs.call.bye(reason(value))
    world.clock.run_for(3)
    assert len(second.calls) == goes_on
    assert world.names()[2:] == (["FAILOVER", "START"] if goes_on else [])


@pytest.mark.parametrize("session", ["shared", "persistent"])
def test_all_calls_of_a_shared_session_go_to_the_next_srs(session: str) -> None:
    world, second = two(session=session, transport="udp")
    world.service.open()
    world.clock.run_for(2)
    calls = [world.answered_call() for _ in range(3)]
    world.srs.call.bye(reason("SIP;cause=503"))
    world.clock.run_for(3)
    assert {world.state(call) for call in calls} == {"active"}
    assert len(second.calls) == 1
    assert world.names().count("START") == 6


def test_the_paused_session_stays_paused_at_the_next_srs() -> None:
    world, second = two()
    call = world.answered_call()
    world.service.siprec_pause_recording(call)
    world.clock.run_for(1)
    world.srs.call.bye(reason("SIP;cause=503"))
    world.clock.run_for(3)
    assert world.state(call) == "paused"
    assert {line.direction for line in second.offers[0].media} == {"inactive"}
    assert world.media.flowing() == []


def test_a_recording_that_the_srs_ended_is_not_complete_however_late() -> None:
    world = ProofWorld()
    call = world.answered_call()
    world.clock.run_for(10)
    world.srs.call.bye()
    world.clock.run_for(0.1)
    world.end(call)
    world.clock.run_for(40)
    proof = world.proved(call)
    assert proof.verdict == "partial"
    assert f"{FIRST}: ended by SRS" in proof.reasons


def test_a_handover_alone_is_no_loss_in_the_proof() -> None:
    world = ProofWorld(profile={"srs": [FIRST, SECOND]})
    Srs(world, "10.0.0.3")
    call = world.answered_call()
    world.srs.call.bye(reason('SIP;cause=503;text="the recorder stops"'))
    world.clock.run_for(5)
    proof = world.proved(call)
    assert [session.server for session in proof.sessions] == [FIRST, SECOND]
    assert not any(session.lost for session in proof.sessions)
    assert not any("was lost" in each for each in proof.reasons)
