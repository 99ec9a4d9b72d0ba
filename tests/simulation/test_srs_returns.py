"""Running calls whose SRSs were all down are recorded again when one is back; the proof has the gap."""

from __future__ import annotations

from typing import Any

import pytest

from siprec.recording.recording_profile import RecordingProfile
from siprec.recording.settings import SettingError
from siprec.sip.useragent import IncomingCall
from tests.simulation.proofworld import ProofWorld
from tests.simulation.recording_world import Srs, World

FIRST, SECOND = "sip:srs@10.0.0.2", "sip:srs@10.0.0.3"


def cut(world: World, *hosts: str) -> None:
    """These SRSs are gone."""
    world.network.drop = lambda sent: any(host in (sent.source[0], sent.destination[0]) for host in hosts)


def lost(world: World, *hosts: str) -> None:
    """The SRSs are gone, in the middle of a recorded call, and every try to find another one has failed."""
    cut(world, *hosts)
    world.clock.run_for(60)
    assert "FAILED" in world.names()


@pytest.mark.parametrize("srs", [[FIRST], [FIRST, SECOND]])
def test_a_running_call_is_recorded_again_when_an_srs_is_back(srs: list[str]) -> None:
    world = World(profile={"srs": srs})
    second = Srs(world, "10.0.0.3")
    call = world.answered_call()
    lost(world, "10.0.0.2", "10.0.0.3")
    assert world.state(call) != "active"
    world.network.drop = lambda sent: "10.0.0.3" in (sent.source[0], sent.destination[0])
    world.clock.run_for(20)
    assert world.state(call) == "active"
    assert world.events[-1].name == "E_SIPREC_START"
    assert world.events[-1].server == FIRST
    assert len({event.session_id for event in world.events}) == 1
    assert world.names().count("FAILED") == 1  # told once
    assert world.srs.documents[-1].findtext("{*}datamode") == "complete"
    assert len(world.media.flowing()) == 2
    world.end(call)
    world.network.drop = None
    world.clock.run_for(60)
    assert second.agent.counts() == {"calls": 0, "dialogs": 0}
    world.assert_clean()


def test_a_call_that_no_srs_took_at_its_start_is_recorded_from_then_on() -> None:
    world = World(profile={"setup_timeout": 1.0})
    cut(world, "10.0.0.2")
    call = world.answered_call()
    assert world.names() == ["FAILED"]
    world.clock.run_for(50)
    world.network.drop = None
    world.clock.run_for(20)
    assert world.names() == ["FAILED", "START"]
    assert world.media.flags[-1].preroll == 0  # what was said before is not in it
    world.end(call)
    world.assert_clean()


@pytest.mark.parametrize("away", [0.5, 2.0, 5.0, 9.0])
def test_a_single_srs_that_is_back_within_seconds_gets_the_recording_at_once(away: float) -> None:
    world = World(profile={"setup_timeout": 1.0})
    call = world.answered_call()
    world.srs.status = 503
    cut(world, "10.0.0.2")
    world.service.recorder_of(call).recordings["default"].lost(408, "gone")  # type: ignore[union-attr]
    world.clock.run_for(1.2 + away)
    assert world.names()[-1] == "FAILED"
    world.network.drop, world.srs.status = None, 200
    world.clock.run_for(5.0)  # OPTIONS are sent again at least every 4 s
    assert world.state(call) == "active"


def test_retry_sets_how_often_and_whether() -> None:
    found = []
    for retry in (5.0, 15.0, 60.0, 0.0):
        # It answers OPTIONS, and takes no recording.
        world = World(profile={"retry": retry})
        world.srs.status = 503
        call = world.answered_call()
        world.clock.run_for(117)
        found.append(len(world.srs.calls))
        assert world.names() == ["FAILED"]
        world.end(call)
        world.assert_clean()
    assert 22 <= found[0] <= 26
    assert 7 <= found[1] <= 10
    assert 2 <= found[2] <= 4
    assert found[3] == 1


@pytest.mark.parametrize("retry", [-1.0, 0.5, 90000.0])
def test_a_retry_that_makes_no_sense_is_refused(retry: float) -> None:
    with pytest.raises(SettingError, match="retry must be 0 or lie in"):
        RecordingProfile(srs=FIRST, retry=retry)


@pytest.mark.parametrize("status", [403, 486, 488, 603])
def test_a_refusal_is_not_asked_again(status: int) -> None:
    world = World()
    world.srs.status = status
    call = world.answered_call()
    world.clock.run_for(100)
    assert len(world.srs.calls) == 1
    assert world.names() == ["FAILED"]
    world.end(call)
    world.assert_clean()


def test_a_code_that_ends_the_search_ends_it_for_good() -> None:
    world = World(profile={"skip_failover_codes": "503"})
    world.srs.status = 503
    world.answered_call()
    world.clock.run_for(100)
    assert len(world.srs.calls) == 1


def test_many_calls_wait_without_storms_and_begin_together() -> None:
    world = World(profile={"setup_timeout": 1.0})
    cut(world, "10.0.0.2")
    calls = [world.answered_call(run=False) for _ in range(250)]
    world.clock.run_for(10)
    before = sum(sent.line.startswith("INVITE") for sent in world.network.trace)
    world.clock.run_for(60)
    tries = sum(sent.line.startswith("INVITE") for sent in world.network.trace) - before
    assert tries <= 60  # one call tries for all, every 15 s, with its retransmissions
    world.network.drop = None
    world.clock.run_for(20)
    assert {world.state(call) for call in calls} == {"active"}
    for call in calls:
        world.end(call)
    world.assert_clean()


def test_pause_and_stop_hold_for_a_recording_that_waits() -> None:
    world = World(profile={"setup_timeout": 1.0})
    cut(world, "10.0.0.2")
    paused, stopped, resumed = (world.answered_call() for _ in range(3))
    assert world.service.siprec_pause_recording(paused)
    assert world.service.siprec_pause_recording(resumed)
    assert world.service.siprec_resume_recording(resumed)
    assert world.service.siprec_stop_recording(stopped)
    assert not world.service.siprec_stop_recording(stopped)
    world.network.drop = None
    world.clock.run_for(30)
    assert [world.state(call) for call in (paused, stopped, resumed)] == ["paused", "gone", "active"]


def test_a_script_may_start_another_recording_meanwhile() -> None:
    world = World(profile={"setup_timeout": 1.0})
    second = Srs(world, "10.0.0.3")
    cut(world, "10.0.0.2")
    call = world.answered_call()
    assert world.service.siprec_start_recording(call, SECOND)
    world.clock.run_for(2)
    assert len(second.calls) == 1
    world.network.drop = None
    world.clock.run_for(60)
    assert world.srs.calls == []
    assert world.state(call) == "active"


def test_what_waits_is_gone_with_its_call_and_with_the_end_of_the_service() -> None:
    world = World(profile={"setup_timeout": 1.0})
    cut(world, "10.0.0.2")
    ended, alive = world.answered_call(), world.answered_call()
    assert len(world.service.retry) == 2
    world.end(ended)
    assert len(world.service.retry) == 1
    world.service.stop_all()
    assert len(world.service.retry) == 0
    world.network.drop = None
    world.clock.run_for(60)
    assert world.srs.calls == []
    world.end(alive)
    world.assert_clean()


@pytest.mark.parametrize("session", ["shared", "persistent"])
def test_calls_of_a_shared_session_rejoin_when_the_srs_is_back(session: str) -> None:
    world = World(profile={"session": session, "transport": "udp", "setup_timeout": 1.0})
    world.service.open()
    world.clock.run_for(2)
    calls = [world.answered_call() for _ in range(4)]
    assert len(world.srs.calls) == 1
    lost(world, "10.0.0.2")
    world.network.drop = None
    world.clock.run_for(12)
    assert {world.state(call) for call in calls} == {"active"}
    assert len(world.srs.calls) <= 3
    assert len(world.media.flowing()) == 8
    sessions = {s.get("session_id") for d in world.srs.documents for s in d.iter("{*}session")}
    assert len(sessions) == 4
    for call in calls:
        world.end(call)
    world.clock.run_for(5)
    world.service.stop_all()
    world.assert_clean()


@pytest.mark.parametrize("session", ["shared", "persistent"])
def test_an_srs_that_restarts_gets_the_calls_of_its_session_back(session: str) -> None:
    world = World(profile={"session": session, "transport": "udp"})
    world.service.open()
    world.clock.run_for(2)
    calls = [world.answered_call() for _ in range(3)]

    def forgot(request: Any, reply: Any) -> bool:
        reply(481)
        return True

    dead = world.srs.call
    world.srs.on_request = lambda request, reply: forgot(request, reply) if request.call_id == dead.call_id else False
    world.clock.run_for(25)
    assert {world.state(call) for call in calls} == {"active"}
    assert len(world.srs.calls) == 2
    assert len(world.media.flowing()) == 6


def test_a_standing_session_is_there_at_once_when_its_srs_is_back() -> None:
    world = World(profile={"session": "persistent", "transport": "udp", "setup_timeout": 1.0})
    cut(world, "10.0.0.2")
    world.service.open()
    world.clock.run_for(300)  # a minute apart by now
    world.network.drop = None
    world.clock.run_for(20)
    assert world.service.shared_sessions.sessions[0].state == "up"


def test_the_proof_has_the_gap() -> None:
    world = ProofWorld(profile={"setup_timeout": 1.0})
    call = world.answered_call()
    world.clock.run_for(10)
    cut(world, "10.0.0.2")
    world.server.reporting = False
    world.clock.run_for(40)
    world.network.drop = None
    world.clock.run_for(30)
    proof = world.proved(call)
    assert proof.verdict == "partial"
    assert len(proof.sessions) == 2
    (gap,) = [gap for gap in proof.gaps if gap.end - gap.start > 5]
    assert not gap.kept
    assert any("no recording session for" in reason for reason in proof.reasons)


def test_an_srs_that_goes_again_is_told_again() -> None:
    world = World(profile={"setup_timeout": 1.0})
    call = world.answered_call()
    for _ in range(2):
        lost(world, "10.0.0.2")
        world.network.drop = None
        world.clock.run_for(20)
        assert world.state(call) == "active"
    assert world.names().count("FAILED") == 2
    world.end(call)
    world.assert_clean()


def test_an_srs_that_ends_the_recording_is_not_asked_again() -> None:
    world = World()
    world.answered_call()
    assert isinstance(world.srs.call, IncomingCall)
    world.srs.call.bye()
    world.clock.run_for(120)
    assert len(world.srs.calls) == 1
