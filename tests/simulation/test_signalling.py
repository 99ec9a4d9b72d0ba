"""``signalling = "as-call"``: who speaks TLS to us is not told to an SRS in the clear (SEC-05)."""

from __future__ import annotations

import pytest

from siprec.proxy.call import Call as ProxyCall
from siprec.recording.recording_profile import RecordingProfile
from siprec.recording.settings import RecordingSettings
from siprec.recording.signalling_security import is_secure_call, is_secure_way
from siprec.sip.message import SipResponse, parse_datagram
from tests.simulation.recording_world import Srs, World


def ringing(world: World, source: str = "tls:192.0.2.7:5061") -> ProxyCall:
    call = world.new_call()
    call.source = source
    call.record()
    return call


def test_a_call_over_tls_goes_to_the_srs_that_is_reached_by_tls() -> None:
    world = World(profile={"srs": ["sip:srs@10.0.0.2", "sips:srs@10.0.0.3"], "signalling": "as-call"})
    safe = Srs(world, "10.0.0.3", port=5061)
    call = ringing(world)
    world.answer(call)
    world.clock.run_for(2)
    assert world.srs.requests == []
    assert len(safe.calls) == 1
    assert world.names() == ["FAILOVER", "START"]
    assert "not reached by TLS" in world.events[0].reason
    assert world.health() == []  # nothing is known of an SRS that was not asked
    world.end(call)
    world.clock.run_for(2)
    plain = ringing(world, "udp:192.0.2.7:5060")
    world.answer(plain)
    world.clock.run_for(2)
    assert world.srs.methods == ["INVITE"]
    world.end(plain)
    world.assert_clean()


@pytest.mark.parametrize("session", ["per-call", "shared"])
def test_where_no_srs_is_reached_by_tls_the_recording_fails_and_nothing_is_told(session: str) -> None:
    world = World(profile={"signalling": "as-call", "session": session})
    call = ringing(world)
    world.answer(call)
    world.clock.run_for(5)
    assert world.srs.requests == []
    assert world.names() == ["FAILED"]
    assert not world.media.subscriptions
    world.end(call)
    world.assert_clean()


def test_by_default_the_way_to_the_srs_is_the_operators_business() -> None:
    world = World()
    call = ringing(world)
    world.answer(call)
    world.clock.run_for(2)
    assert world.names() == ["START"]
    world.end(call)
    world.assert_clean()


@pytest.mark.parametrize(
    ("source", "uri", "contact", "secure"),
    [
        ("udp:10.1.1.1:5060", "sip:bob@example.com", "<sip:bob@10.2.2.2>", False),
        ("tls:10.1.1.1:5061", "sip:bob@example.com", "<sip:bob@10.2.2.2>", True),
        ("udp:10.1.1.1:5060", "SIPS:bob@example.com", "<sip:bob@10.2.2.2>", True),
        ("udp:10.1.1.1:5060", "sip:bob@example.com", "<sips:bob@10.2.2.2>", True),
        ("udp:10.1.1.1:5060", "sip:bob@example.com", "<sip:bob@10.2.2.2;transport=tls>", True),
        ("udp:10.1.1.1:5060", "sip:bob@example.com", "<nonsense", False),
        ("udp:10.1.1.1:5060", "sip:bob@example.com", "", False),
    ],
)
def test_a_call_is_secure_with_either_party(source: str, uri: str, contact: str, secure: bool) -> None:
    call = World().new_call()
    call.source, call.invite.uri = source, uri
    lines = f"SIP/2.0 200 OK\r\nContact: {contact}\r\n\r\n" if contact else "SIP/2.0 200 OK\r\n\r\n"
    response = parse_datagram(lines.encode())
    assert isinstance(response, SipResponse)
    call.response = response
    assert is_secure_call(call) is secure


@pytest.mark.parametrize(
    ("server", "profile", "settings", "secure"),
    [
        ("sip:srs.example.com", {}, {}, False),
        ("sips:srs.example.com", {}, {}, True),
        ("sip:srs.example.com;transport=tls", {}, {}, True),
        ("sip:srs.example.com", {"transport": "tls"}, {}, True),
        ("sip:srs.example.com;transport=tcp", {"transport": "tls"}, {}, False),
        ("sips:srs.example.com", {"outbound_proxy": "sip:edge.example.com"}, {}, False),
        ("sip:srs.example.com", {"outbound_proxy": "sips:edge.example.com"}, {}, True),
        ("sip:srs.example.com", {}, {"socket": "tls:10.0.0.1:5061"}, True),
        ("sip:127.0.0.1:5070", {}, {}, True),
        ("sip:[::1]", {}, {}, True),
        ("sip:localhost", {}, {}, True),
    ],
)
def test_ways_to_an_srs(server: str, profile: dict[str, str], settings: dict[str, str], secure: bool) -> None:
    made = RecordingProfile(srs=server, **profile)  # type: ignore[arg-type]
    assert is_secure_way(server, made, RecordingSettings(**settings)) is secure
