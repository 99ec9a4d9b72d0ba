"""An SRS that hangs or vanishes in mid-call is replaced within 20 seconds, whatever it is found out by (ERR-11)."""

from __future__ import annotations

import pytest

from siprec.sip.message import SipRequest
from siprec.sip.transport import Hop
from siprec.sip.useragent import Reply
from tests.simulation.recording_world import Srs, World

FIRST, SECOND = "sip:srs@10.0.0.2", "sip:srs@10.0.0.3"


def two(**profile: object) -> tuple[World, Srs]:
    world = World(profile={"srs": [FIRST, SECOND], **profile})
    return world, Srs(world, "10.0.0.3")


def hang(world: World, host: str = "10.0.0.2") -> None:
    """Nothing comes from the SRS any more, and its receiver reports stop."""
    world.network.drop = lambda sent: host in (sent.source[0], sent.destination[0])
    world.media.report_until = world.clock.now()


def seconds_to_move(world: World, second: Srs, limit: float = 60.0) -> float:
    began = world.clock.now()
    while not second.calls and world.clock.now() - began < limit:
        world.clock.run_for(0.1)
    return world.clock.now() - began


@pytest.mark.parametrize("interval", [0.5, 2.5, 5.0, 7.4])
@pytest.mark.parametrize("moment", [20.0, 23.1, 27.9])
def test_an_srs_that_hangs_is_replaced_within_20_seconds(interval: float, moment: float) -> None:
    world, second = two()
    world.media.report(interval)
    world.answered_call()
    world.clock.run_for(moment)
    assert "OPTIONS" not in world.srs.methods  # its reports are life enough
    hang(world)
    assert 10 < seconds_to_move(world, second) + interval <= 20.1 + interval
    assert seconds_to_move(world, second) <= 20.1
    assert "receiver report" in world.events[1].reason


def test_how_long_silence_is_no_sign_depends_on_the_interval_seen() -> None:
    found = []
    for interval in (1.0, 4.5):
        world, second = two()
        world.media.report(interval)
        world.answered_call()
        world.clock.run_for(30)
        hang(world)
        found.append(seconds_to_move(world, second))
    assert 13 <= found[0] <= 15.5  # 10 s of silence, 4 s for OPTIONS
    assert 15.5 <= found[1] <= 19  # 13.5 s


@pytest.mark.parametrize("profile", [{}, {"watch": 0.0}, {"rtcp_timeout": 0.0}])
def test_an_srs_without_receiver_reports_is_asked_in_the_session(profile: dict[str, object]) -> None:
    world, second = two(**profile)
    world.answered_call()
    world.clock.run_for(60)
    assert 3 <= world.srs.methods.count("OPTIONS") <= 4
    hang(world)
    assert seconds_to_move(world, second) <= 20.1


@pytest.mark.parametrize("status", [200, 404, 405, 486, 500, 501, 503, 603])
def test_any_answer_but_408_and_481_is_life_as_often_as_the_reports_are_missing(status: int) -> None:
    world, second = two()
    world.media.report(5.0)
    world.answered_call()

    def answers(request: SipRequest, reply: Reply) -> bool:
        reply(status)
        return True

    world.srs.on_request = answers
    world.clock.run_for(20)
    world.media.report_until = world.clock.now()
    world.clock.run_for(200)
    assert world.names() == ["START"]
    assert second.calls == []
    assert 10 <= world.srs.methods.count("OPTIONS") <= 16
    assert world.srs.methods.count("INVITE") == 1


@pytest.mark.parametrize("status", [408, 481])
def test_408_and_481_replace_the_srs(status: int) -> None:
    world, _ = two()
    world.answered_call()

    def forgot(request: SipRequest, reply: Reply) -> bool:
        if request.method == "OPTIONS":
            reply(status)
        return request.method == "OPTIONS"

    world.srs.on_request = forgot
    world.clock.run_for(20)
    assert world.names() == ["START", "STOP", "FAILOVER", "START"]


def test_the_next_srs_is_not_suspected_for_the_reports_of_the_one_before() -> None:
    world, second = two(keepalive=0.0)
    world.media.report(5.0)
    world.answered_call()
    world.clock.run_for(20)
    hang(world)
    seconds_to_move(world, second)
    world.clock.run_for(120)  # the second one sends no reports at all
    assert "OPTIONS" not in second.methods
    assert world.names().count("START") == 2


def test_an_srs_found_down_by_a_new_call_is_asked_in_all_its_sessions_at_once() -> None:
    world, second = two(setup_timeout=1.0, keepalive=0.0)
    calls = [world.answered_call() for _ in range(5)]
    hang(world)
    world.answered_call(run=False)
    world.clock.run_for(6.5)  # 1 s for the INVITE, 4 s for OPTIONS
    assert len(second.calls) == 6
    assert {world.state(call) for call in calls} == {"active"}


def test_an_srs_found_down_by_options_outside_is_asked_in_its_sessions() -> None:
    world, second = two(ping=5.0, keepalive=0.0, watch=0.0)
    world.answered_call()
    hang(world)
    assert seconds_to_move(world, second) <= 45  # 5 s, 32 s for OPTIONS outside, 4 s


def test_a_closed_connection_has_its_users_asked_at_once() -> None:
    world, second = two(keepalive=0.0)
    for _ in range(300):
        world.answered_call(run=False)
    world.clock.run_for(4)
    hang(world)
    world.service.context.watch.connection_closed(Hop("udp", "10.0.0.2", 5060))
    world.clock.run_for(5.5)
    assert len(second.calls) == 300


def test_a_bye_of_an_srs_that_stops_is_no_reason_to_ask_in_its_other_sessions() -> None:
    world, second = two(keepalive=0.0)
    for _ in range(3):
        world.answered_call()
    world.srs.calls[0].bye((("Reason", "SIP;cause=503"),))
    world.clock.run_for(8)
    assert "OPTIONS" not in world.srs.methods
    assert len(second.calls) == 1


def test_one_question_serves_all_calls_of_a_shared_session() -> None:
    world = World(profile={"session": "shared", "transport": "udp"})
    for _ in range(8):
        world.answered_call(run=False)
    world.clock.run_for(62)
    assert len(world.srs.calls) == 1
    assert world.srs.methods.count("OPTIONS") <= 5
