"""SRTP towards the SRS, by policy (SEC-05 to SEC-08, SEC-16): offers, answers, refusals, and what follows."""

from __future__ import annotations

import logging

import pytest

from siprec import sdp
from siprec.proxy.call import Call as ProxyCall
from siprec.sdp import crypto as sdp_crypto
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.useragent import IncomingCall, Reply, session_description
from tests.simulation.recording_world import Srs, World, party_sdp


def secure(world: World, proto: str = "RTP/SAVP", run: bool = True) -> ProxyCall:
    """A call whose parties speak SRTP."""
    call = world.new_call()
    call.record()
    call.caller_sdp, call.callee_sdp = party_sdp("10.1.1.1", proto=proto), party_sdp("10.2.2.2", proto=proto)
    world.media.parties.update({call.from_tag: call.caller_sdp, call.callee_tag: call.callee_sdp})
    world.answer(call)
    if run:
        world.clock.run_for(3.0)
    return call


def protos(srs: Srs) -> list[list[str]]:
    return [[line.proto for line in offer.media] for offer in srs.offers]


def keys(description: sdp.SessionDescription) -> list[sdp_crypto.Crypto]:
    return [sdp_crypto.parse(value) for line in description.media for value in line.attributes("crypto")]


def has_srtp(request: SipRequest) -> bool:
    return any(line.proto != "RTP/AVP" for line in sdp.parse(session_description(request) or b"").media)


def refuse_srtp(srs: Srs) -> None:
    """An SRS that knows no SRTP."""

    def invited(call: IncomingCall) -> None:
        if has_srtp(call.invite):
            call.answer(488)
        else:
            srs.answer_call(call)

    def requested(request: SipRequest, reply: Reply) -> bool:
        refused = bool(session_description(request)) and has_srtp(request)
        if refused:
            reply(488)
        return refused

    srs.on_invite, srs.on_request = invited, requested


@pytest.mark.parametrize(
    ("policy", "of_a_plain_call", "of_a_secure_call"),
    [("as-call", "RTP/AVP", "RTP/SAVP"), ("off", "RTP/AVP", "RTP/AVP"), ("always", "RTP/SAVP", "RTP/SAVP")],
)
def test_the_policy_says_what_is_offered(policy: str, of_a_plain_call: str, of_a_secure_call: str) -> None:
    world = World(profile={"srtp": policy})
    for srtp, proto in ((False, of_a_plain_call), (True, of_a_secure_call)):
        call = secure(world) if srtp else world.answered_call()
        offer = world.srs.offers[-1]
        assert [line.proto for line in offer.media] == [proto, proto]
        assert bool(keys(offer)) == (proto == "RTP/SAVP")
        assert world.state(call) == "active"
        world.end(call)
        world.clock.run_for(3)
    world.assert_clean()


def test_keys_are_the_media_servers_and_the_srss_and_reach_each_other() -> None:
    world = World()
    call = secure(world)
    offer = world.srs.offers[0]
    assert keys(offer) == world.media.keys["sub1", 0, 0] + world.media.keys["sub1", 1, 0]
    assert "NULL" not in offer.to_bytes().decode()  # encrypts nothing
    assert b"inline:secret" not in offer.to_bytes()
    target = world.media.targets["sub1"]
    assert [line.proto for line in target.media] == ["RTP/SAVP", "RTP/SAVP"]
    assert [key.tag for key in keys(target)] == [1, 1]
    assert world.media.flowing() == ["1", "2"]
    world.end(call)
    world.assert_clean()


def test_an_srs_without_srtp_gets_plain_rtp_only_if_that_is_allowed(caplog: pytest.LogCaptureFixture) -> None:
    world = World(profile={"srtp": "always", "srtp_fallback": True})
    refuse_srtp(world.srs)
    with caplog.at_level(logging.WARNING):
        call = world.answered_call()
        assert protos(world.srs) == [["RTP/SAVP"] * 2, ["RTP/AVP"] * 2]
        assert world.state(call) == "active"
        assert world.media.flowing() == ["1", "2"]
        assert world.names() == ["START"]
        world.end(call)
        world.clock.run_for(3)
        world.end(world.answered_call())
    assert sum("declines SRTP" in record.getMessage() for record in caplog.records) == 1
    world.assert_clean()


def test_without_leave_to_fall_back_the_next_srs_gets_the_call_and_keys_of_its_own() -> None:
    world = World(profile={"srs": ["sip:srs@10.0.0.2", "sip:srs@10.0.0.3"]})
    refuse_srtp(world.srs)
    second = Srs(world, "10.0.0.3")
    call = secure(world)
    assert world.state(call) == "active"
    assert protos(second) == [["RTP/SAVP"] * 2]
    assert len(protos(world.srs)) == 1
    assert not {key.key for key in keys(world.srs.offers[0])} & {key.key for key in keys(second.offers[0])}
    assert world.names() == ["FAILOVER", "START"]
    world.end(call)
    world.assert_clean()


def test_a_recording_that_nobody_takes_as_srtp_fails() -> None:
    world = World()
    refuse_srtp(world.srs)
    call = secure(world)
    assert world.state(call) == "gone"
    assert world.names() == ["FAILED"]
    assert world.events[0].status == 488
    assert not world.media.targets
    world.end(call)
    world.assert_clean()


@pytest.mark.parametrize("srtp", ["clear", "wrong", "reject"])
@pytest.mark.parametrize("fallback", [False, True])
def test_an_answer_that_is_no_srtp_counts_as_a_refusal(srtp: str, fallback: bool) -> None:
    """Nothing goes out in the clear to who was offered SRTP."""
    world = World(profile={"srtp_fallback": fallback})
    world.srs.srtp = srtp
    call = secure(world)
    assert world.srs.ended_reasons == ["bye"]
    if fallback:
        assert protos(world.srs) == [["RTP/SAVP"] * 2, ["RTP/AVP"] * 2]
        assert world.state(call) == "active"
        assert world.media.flowing() == ["1", "2"]
        assert [line.proto for line in world.media.targets["sub1"].media] == ["RTP/AVP"] * 2
    else:
        assert world.names() == ["FAILED"]
        assert not world.media.targets
    world.end(call)
    world.assert_clean()


def test_the_next_srs_is_offered_srtp_again_after_one_that_took_plain_rtp() -> None:
    world = World(profile={"srs": ["sip:srs@10.0.0.2", "sip:srs@10.0.0.3"], "srtp": "always", "srtp_fallback": True})

    def invited(call: IncomingCall) -> None:
        call.answer(488 if b"RTP/SAVP" in call.invite.body else 500)

    world.srs.on_invite = invited
    second = Srs(world, "10.0.0.3")
    call = world.answered_call()
    assert protos(world.srs) == [["RTP/SAVP"] * 2, ["RTP/AVP"] * 2]
    assert protos(second) == [["RTP/SAVP"] * 2]
    assert world.state(call) == "active"
    world.end(call)
    world.assert_clean()


def test_a_call_that_ends_while_plain_rtp_is_being_prepared_leaves_nothing() -> None:
    world = World(profile={"srtp": "always", "srtp_fallback": True})
    refuse_srtp(world.srs)
    world.media.delay = 0.5
    call = world.answered_call(run=False)
    world.clock.run_for(0.9)
    assert world.state(call) == "forking"
    world.end(call)
    world.clock.run_for(5)
    assert len(world.srs.offers) == 1
    assert world.names() == []
    world.assert_clean()


def become_secure(world: World, call: ProxyCall) -> None:
    call.caller_sdp, call.callee_sdp = (party_sdp(host, proto="RTP/SAVP") for host in ("10.1.1.1", "10.2.2.2"))
    world.media.parties.update({call.from_tag: call.caller_sdp, call.callee_tag: call.callee_sdp})
    world.service.call_media_changed(call)
    world.clock.run_for(3)


def test_a_call_that_becomes_srtp_is_offered_as_such() -> None:
    world = World()
    call = world.answered_call()
    become_secure(world, call)
    assert protos(world.srs) == [["RTP/AVP"] * 2, ["RTP/SAVP"] * 2]
    assert [line.proto for line in world.media.targets["sub1"].media] == ["RTP/SAVP"] * 2
    world.end(call)
    world.assert_clean()


@pytest.mark.parametrize("fallback", [False, True])
def test_a_call_that_becomes_srtp_leaves_an_srs_that_knows_none_unless_plain_rtp_is_allowed(fallback: bool) -> None:
    world = World(profile={"srs": ["sip:srs@10.0.0.2", "sip:srs@10.0.0.3"], "srtp_fallback": fallback})
    second = Srs(world, "10.0.0.3")

    refuse_srtp(world.srs)
    call = world.answered_call()
    become_secure(world, call)
    world.clock.run_for(10)
    assert world.state(call) == "active"
    if fallback:
        assert protos(world.srs)[-1] == ["RTP/AVP"] * 2
        assert not second.offers
    else:
        assert protos(second) == [["RTP/SAVP"] * 2]
        assert world.srs.ended_reasons == ["bye"]
    world.end(call)
    world.assert_clean()


def test_an_offer_of_the_srs_is_answered_with_its_tag_and_our_key() -> None:
    world = World()
    call = secure(world)
    ours = world.media.keys["sub1", 0, 0][0]
    theirs = sdp_crypto.generate(7)
    lines = [
        sdp.build_media("audio", 21000 + i, ["0"], proto="RTP/SAVP", attributes=[f"crypto:{theirs.value()}"])
        for i in range(2)
    ]
    for line in lines:
        line.direction = "recvonly"
    body = sdp.build_session(sdp.Origin("srs", "5", "9", "10.0.0.2"), lines).to_bytes()
    results: list[object] = []
    world.srs.call.reinvite(body, "application/sdp", (), results.append)
    world.clock.run_for(1)
    (result,) = results
    assert isinstance(result, SipResponse)
    answer = sdp.parse(session_description(result) or b"")
    assert [key.tag for key in keys(answer)] == [7, 7]
    assert keys(answer)[0].key == ours.key
    # To the media server the SRS's key has the tag of ours.
    assert [(key.tag, key.key) for key in keys(world.media.targets["sub1"])] == [(1, theirs.key)] * 2
    assert world.media.flowing() != []
    # One in the clear changes nothing.
    plain = body.replace(b"RTP/SAVP", b"RTP/AVP")
    world.srs.call.reinvite(plain, "application/sdp", (), results.append)
    world.clock.run_for(1)
    assert isinstance(results[1], SipResponse)
    assert results[1].status == 488
    assert [key.key for key in keys(world.media.targets["sub1"])] == [theirs.key] * 2
    world.end(call)
    world.assert_clean()


def test_what_is_keyed_by_dtls_in_the_call_is_keyed_by_sdp_here() -> None:
    world = World()
    call = secure(world, "UDP/TLS/RTP/SAVPF")
    assert protos(world.srs) == [["RTP/SAVP"] * 2]
    assert [flags.transport_protocol for flags in world.media.flags] == ["", "RTP/SAVP"]
    world.end(call)
    world.assert_clean()


def test_a_media_server_that_cannot_encrypt_gets_no_recording_that_must_be() -> None:
    world = World(profile={"srtp": "always"})
    world.media.srtp = False
    call = world.answered_call()
    assert world.state(call) == "gone"
    assert world.names() == ["FAILED"]
    assert world.events[0].reason == "fork: the media server offers no SRTP"
    assert not world.srs.offers
    world.end(call)
    world.assert_clean()


@pytest.mark.parametrize("session", ["shared", "persistent"])
@pytest.mark.parametrize("fallback", [False, True])
def test_shared_sessions_follow_the_policy_too(session: str, fallback: bool) -> None:
    world = World(profile={"srtp": "always", "srtp_fallback": fallback, "session": session, "transport": "udp"})
    if fallback:
        refuse_srtp(world.srs)
    world.service.open()
    world.clock.run_for(2)
    if session == "persistent":
        assert protos(world.srs)[-1] == ["RTP/AVP" if fallback else "RTP/SAVP"]
    call = world.answered_call()
    world.clock.run_for(5)
    assert world.state(call) == "active"
    wanted = "RTP/AVP" if fallback else "RTP/SAVP"
    assert {line.proto for line in world.srs.offers[-1].media} == {wanted}
    assert len(world.media.flowing()) == 2
    assert {line.proto for target in world.media.targets.values() for line in target.media} == {wanted}
    world.end(call)
    world.clock.run_for(5)
    world.service.stop_all()
    world.assert_clean()


@pytest.mark.parametrize(("host", "told"), [("10.0.0.2", True), ("127.0.0.1", False)])
def test_keys_that_go_in_the_clear_are_warned_of(host: str, told: bool, caplog: pytest.LogCaptureFixture) -> None:
    world = World(profile={"srs": f"sip:srs@{host}"})
    if host != "10.0.0.2":
        Srs(world, host)
    with caplog.at_level(logging.DEBUG):
        for _ in range(2):
            call = secure(world)
            assert world.state(call) == "active"
            world.end(call)
            world.clock.run_for(3)
    text = caplog.text
    assert text.count("can be read on the way") == int(told)
    assert "inline" not in text
    world.assert_clean()
