"""How the recording client gets through to an SRS: connections race, INVITEs do not."""

from __future__ import annotations

from typing import Any

import pytest

from siprec.metadata.values import NAMESPACE
from siprec.recording.rs_dialog import SNAPSHOT_EVERY
from siprec.sip.transport import Hop
from siprec.sip.uac_request import UDP_AFTER
from siprec.sip.useragent import IncomingCall, Result
from tests.simulation.recording_world import Srs, World

NAME = "srs.example.com"


def invites(world: World) -> list[tuple[str, str]]:
    """Transport and host of each INVITE that the recording client sent."""
    return [
        (sent.transport, sent.destination[0])
        for sent in world.network.trace
        if sent.line.startswith("INVITE") and sent.source[0] == "10.0.0.1"
    ]


def test_the_second_address_gets_the_call_when_the_first_drops_connection_attempts() -> None:
    world = World(profile={"srs": f"sip:{NAME};transport=tcp"})
    other = Srs(world, "10.0.0.3")
    world.hosts[NAME] = [Hop("tcp", "10.0.0.2", 5060), Hop("tcp", "10.0.0.3", 5060)]
    world.network.filtered.add(("10.0.0.2", 5060))
    call = world.answered_call(run=False)
    world.clock.run_for(0.5)
    assert [host for _, host, _ in world.network.attempts] == ["10.0.0.2", "10.0.0.3"]
    assert world.network.attempts[1][0] - world.network.attempts[0][0] == pytest.approx(0.25)
    assert invites(world) == [("tcp", "10.0.0.3")]
    assert other.methods == ["INVITE"]
    assert world.names() == ["START"]
    world.end(call)
    world.clock.run_for(2)
    assert world.srs.methods == []


@pytest.mark.parametrize("order", [("tls", "tcp"), ("tcp", "tls")])
def test_transports_race_too_and_one_invite_is_sent(order: tuple[str, str]) -> None:
    world = World(profile={"srs": f"sip:{NAME}"})
    ports = {"tls": 5061, "tcp": 5060}
    tls = Srs(world, "10.0.0.2", port=5061)
    world.hosts[NAME] = [Hop(each, "10.0.0.2", ports[each]) for each in order]
    world.network.filtered.add(("10.0.0.2", ports[order[0]]))
    call = world.answered_call()
    assert invites(world) == [(order[1], "10.0.0.2")]
    assert (tls if order[1] == "tls" else world.srs).methods == ["INVITE"]
    world.end(call)
    world.clock.run_for(2)


def test_udp_carries_the_call_after_a_second_without_a_connection_and_is_first_for_a_while() -> None:
    """RFC 3261 18.1.1: a request that is too large for UDP, behind a filter that drops TCP."""
    world = World()
    world.node.max_udp = 300
    world.network.filtered.add(("10.0.0.2", 5060))
    call = world.answered_call(run=False)
    world.clock.run_for(UDP_AFTER - 0.1)
    assert invites(world) == []
    world.clock.run_for(0.5)
    assert invites(world) == [("udp", "10.0.0.2")]
    assert world.names() == ["START"]
    assert len(world.network.attempts) == 1
    world.end(call)
    world.clock.run_for(5)
    again = world.answered_call(run=False)
    world.clock.run_for(0.1)
    assert invites(world) == [("udp", "10.0.0.2")] * 2
    assert len(world.network.attempts) == 1
    world.end(again)
    world.clock.run_for(5)
    world.assert_clean()


@pytest.mark.parametrize("srs", ["sip:srs@10.0.0.2;transport=tcp", "sips:srs@10.0.0.2"])
def test_what_must_go_over_streams_never_goes_over_udp(srs: str) -> None:
    world = World(profile={"srs": [srs, "sip:srs@10.0.0.3"]})
    Srs(world, "10.0.0.3")
    secure = srs.startswith("sips")
    world.hosts["10.0.0.2"] = [Hop("tls" if secure else "tcp", "10.0.0.2", 5061 if secure else 5060)]
    world.network.filtered |= {("10.0.0.2", 5060), ("10.0.0.2", 5061)}
    call = world.answered_call(run=False)
    world.clock.run_for(6)
    assert [host for _, host in invites(world)] == ["10.0.0.3"], "the next SRS, and nothing to the first"
    assert "START" in world.names()
    world.end(call)
    world.clock.run_for(5)


def test_a_race_that_is_given_up_leaves_nothing() -> None:
    world = World(profile={"srs": "sip:srs@10.0.0.2;transport=tcp"})
    world.network.filtered.add(("10.0.0.2", 5060))
    call = world.answered_call(run=False)
    world.clock.run_for(0.3)
    world.end(call)
    world.clock.run_for(10)
    assert invites(world) == []
    world.assert_clean()


def test_a_silent_target_of_a_name_costs_its_time_once() -> None:
    world = World(profile={"srs": f"sip:{NAME}", "setup_timeout": 4.0, "srs_retry": 60.0})
    other = Srs(world, "10.0.0.3")
    world.hosts[NAME] = [Hop("udp", "10.0.0.2", 5060), Hop("udp", "10.0.0.3", 5060)]
    world.node.max_udp = 65535
    world.network.drop = lambda sent: sent.destination[0] == "10.0.0.2"

    def started_after() -> float:
        begun, count = world.clock.now(), len(world.names())
        call = world.answered_call(run=False)
        world.clock.run_until_true(lambda: "START" in world.names()[count:])
        took = world.clock.now() - begun
        world.end(call)
        world.clock.run_for(2)
        return took

    assert started_after() > 4
    assert started_after() < 0.5
    assert started_after() < 0.5
    assert other.methods.count("INVITE") == 3
    world.clock.run_for(40)  # what was sent to it before is not repeated any more
    world.network.drop = None
    world.clock.run_for(30)
    assert started_after() < 0.5
    assert world.srs.methods.count("INVITE") == 1, "it is first again"


def test_a_200_without_contact_is_acknowledged_and_ended_where_it_came_from() -> None:
    world = World(profile={"srs": f"sip:{NAME}"})
    world.hosts[NAME] = [Hop("udp", "10.0.0.2", 5060)]
    world.node.max_udp = world.srs.node.max_udp = 65535
    send = world.srs.node.send

    def without_contact(data: bytes, hop: Hop, failed: Any = None) -> None:
        if data.startswith(b"SIP/2.0 200"):
            data = b"\r\n".join(line for line in data.split(b"\r\n") if not line.lower().startswith(b"contact:"))
        send(data, hop, failed)

    world.srs.node.send = without_contact  # type: ignore[method-assign]
    call = world.answered_call()
    assert world.names() == ["START"]
    world.end(call)
    world.clock.run_for(3)
    lines = [
        (sent.line.split()[0], sent.line.split()[1], sent.destination[0])
        for sent in world.network.trace
        if sent.source[0] == "10.0.0.1" and sent.line.split()[0] in ("ACK", "BYE")
    ]
    assert lines == [("ACK", "sip:10.0.0.2:5060", "10.0.0.2"), ("BYE", "sip:10.0.0.2:5060", "10.0.0.2")]
    world.assert_clean()


@pytest.mark.parametrize("policy", ["next", "without-require"])
def test_420_is_followed_as_the_profile_says(policy: str) -> None:
    world = World(profile={"srs": ["sip:srs@10.0.0.2", "sip:srs@10.0.0.3"], "on_bad_extension": policy})
    other = Srs(world, "10.0.0.3")
    required: list[bool] = []

    def before_the_rfc(call: IncomingCall) -> None:
        required.append("siprec" in call.invite.tokens("require"))
        if required[-1]:
            call.answer(420, headers=[("Unsupported", "siprec")])
        else:
            world.srs.answer_call(call)

    world.srs.on_invite = before_the_rfc
    call = world.answered_call()
    if policy == "next":
        assert required == [True]
        assert other.methods == ["INVITE"]
    else:
        assert required == [True, False]
        assert other.methods == []
    assert world.names().count("START") == 1
    world.end(call)
    world.clock.run_for(3)
    world.assert_clean()


def test_requests_for_snapshots_are_answered_at_once_but_share_documents() -> None:
    world = World()
    call = world.answered_call()
    before = len(world.srs.documents)
    answers: list[Result] = []
    snapshot = f'<requestsnapshot xmlns="{NAMESPACE}"/>'.encode()
    disposition = (("Content-Disposition", "recording-session"),)
    for _ in range(50):
        world.srs.call.update(snapshot, "application/rs-metadata+xml", disposition, answers.append)
        world.clock.run_for(0.05)
    world.clock.run_for(2 * SNAPSHOT_EVERY)
    assert len(answers) > 30
    documents = len(world.srs.documents) - before
    assert 3 <= documents <= 5, documents
    world.end(call)
    world.clock.run_for(3)
    world.assert_clean()
