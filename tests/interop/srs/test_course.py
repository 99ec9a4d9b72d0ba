"""A recording session from its INVITE to its BYE, as an SRS sees it."""

from __future__ import annotations

from siprec.sip.message import SipRequest
from siprec.sip.multipart import parts_of
from tests.interop.calls.harness import until
from tests.interop.calls.scenarios import Scenario, sdp
from tests.interop.srs.recorder import Srs, answer
from tests.interop.srs.world import World


def test_start_and_stop_with_all_that_belongs_to_it(world: World, schema: object) -> None:
    with world.sinks() as sinks:
        body = answer((sinks[0].port, sinks[1].port))
        with world.recorder(Srs().accept(body).end()) as srs, world.call(srs) as call:
            call.wait_for("START")
            assert until(lambda: all(len(sink.packets) > 20 for sink in sinks))
    assert srs.titles() == ["< INVITE", "> 200 INVITE", "< ACK", "< UPDATE", "> 200 UPDATE", "< BYE", "> 200 BYE"]
    assert call.names() == ["START", "STOP"]
    invite = srs.requests("INVITE")[0]
    assert isinstance(invite.message, SipRequest)
    assert invite.message.content_type is not None
    assert invite.message.content_type.value == "multipart/mixed"
    assert invite.directions == ["sendonly", "sendonly"]
    assert invite.sdp is not None
    assert [line.label for line in invite.sdp.media] == ["1", "2"]
    assert {packet.ssrc for packet in sinks[0].packets}.isdisjoint(packet.ssrc for packet in sinks[1].packets)
    assert invite.document.mode == "complete"
    assert srs.requests("UPDATE")[0].document.mode == "partial"
    state = srs.state()
    (session,) = state.sessions.values()
    by_label = {stream.label: stream for stream in state.streams.values()}
    assert set(by_label) == {"1", "2"}
    for label, user in (("1", "alice"), ("2", "bob")):
        (sender,) = state.ever_senders(by_label[label].id)
        assert sender.name_ids[0].aor.startswith(f"sip:{user}@"), label
    assert session.start_time is not None
    assert session.stop_time is not None
    assert session.start_time <= session.stop_time
    assert abs(session.stop_time - srs.requests("BYE")[0].time) < 5
    for member in state.participant_assocs.values():
        assert [x.end is not None for x in member.intervals] == [True]


def test_pause_stops_the_packets_before_it_is_told_and_resumption_waits_for_the_srs(world: World) -> None:
    with world.sinks() as sinks:
        ports = (sinks[0].port, sinks[1].port)
        scenario = Srs().accept(answer(ports))
        scenario.expect("INVITE").pause(0.3).reply(200, "OK", answer(ports, "inactive", version=2)).expect("ACK")
        scenario.expect("INVITE").pause(0.3).reply(200, "OK", answer(ports, version=3)).expect("ACK")
        scenario.end()
        with world.recorder(scenario) as srs, world.call(srs) as call:
            call.wait_for("START")
            assert until(lambda: all(len(sink.packets) > 5 for sink in sinks))
            call.steer("pause")
            call.wait_for("PAUSED")
            call.steer("resume")
            call.wait_for("RESUMED")
            ends = [len(sink.packets) for sink in sinks]
            assert until(lambda: all(len(s.packets) > end + 5 for s, end in zip(sinks, ends, strict=True)))
        invite, pause, resume = srs.requests("INVITE")
        assert [x.directions for x in (invite, pause, resume)] == [["sendonly"] * 2, ["inactive"] * 2, ["sendonly"] * 2]
        agreed = [seen for seen in srs.messages if seen.title == "> 200 INVITE"][2]
        for sink in sinks:
            silent = [p for p in sink.packets if pause.time + 0.05 < p.time < agreed.time]
            assert not silent, f"{len(silent)} packets between the pause and the SRS's word to the resumption"
    versions = [x.sdp.origin.version for x in (invite, pause, resume) if x.sdp is not None and x.sdp.origin is not None]
    assert versions == [str(int(versions[0]) + i) for i in range(3)]  # SDP-08
    assert call.names() == ["START", "PAUSED", "RESUMED", "STOP"]


def test_a_recording_can_be_stopped_while_the_call_goes_on(world: World) -> None:
    with world.sinks() as sinks:
        body = answer((sinks[0].port, sinks[1].port))
        with world.recorder(Srs().accept(body).end()) as srs, world.call(srs) as call:
            call.wait_for("START")
            assert until(lambda: all(len(sink.packets) > 5 for sink in sinks))
            call.steer("stop", by="the test")
            assert call.wait_for("STOP")["reason"] == "stopped by api: the test"
            ended = srs.requests("BYE")[0].time
            assert not [p for sink in sinks for p in sink.packets if p.time > ended + 0.05]
            assert call.is_up()
    # The session of the call did not end with its recording.
    (session,) = srs.state().sessions.values()
    assert session.stop_time is None
    assert [x.end is not None for x in session.recorded] == [True]


def test_requests_of_the_script_reach_the_srs_and_its_answer_comes_back(world: World) -> None:
    with world.sinks() as sinks:
        body = answer((sinks[0].port, sinks[1].port))
        scenario = Srs().accept(body).expect("INFO").reply(202, "Noted").end()
        with world.recorder(scenario) as srs, world.call(srs) as call:
            call.wait_for("START")
            told = call.steer(
                "send_indialog", method="INFO", headers={"X-Digit": "5"}, body="Signal=5", content_type="text/dtmf"
            )
            assert (told["results"][0]["status"], told["results"][0]["reason"]) == (202, "Noted")
    (info,) = srs.requests("INFO")
    assert info.message.body == b"Signal=5"
    assert (info.message.get("x-digit"), info.message.get("content-type")) == ("5", "text/dtmf")


def hold(phone: Scenario) -> None:
    """When poked the caller holds, when poked again it goes on."""
    for version, direction in ((2, "sendonly"), (3, "sendrecv")):
        phone.expect("INFO").respond(200, "OK").request("INVITE", sdp(direction, version))
        phone.expect(100, optional=True).expect(200).request("ACK")


def test_hold_in_the_call_is_told_as_who_receives_what(world: World, schema: object) -> None:
    callee = Scenario("held callee").expect_invite().respond_invite(180, "Ringing").respond_invite(200, "OK", sdp())
    callee.expect("ACK").play()
    for version, direction in ((2, "recvonly"), (3, "sendrecv")):
        callee.expect("INVITE").respond(200, "OK", sdp(direction, version)).expect("ACK")
    callee.expect("BYE").respond(200, "OK")
    with world.sinks() as sinks:
        body = answer((sinks[0].port, sinks[1].port))
        scenario = Srs().accept(body).updated().updated().end()
        with world.recorder(scenario) as srs, world.call(srs, steps=hold, callee=callee) as call:
            call.wait_for("START")
            call.poke()
            assert until(lambda: len(srs.requests("UPDATE")) == 1)
            call.poke()
            assert until(lambda: len(srs.requests("UPDATE")) == 2)
    state = srs.state()
    streams = {stream.label: stream.id for stream in state.streams.values()}
    histories = {}
    for feed in state.stream_assocs.values():
        user = state.participants[feed.participant_id].name_ids[0].aor.partition("@")[0]
        histories[user] = [(send, receive) for _, send, receive in feed.history]
    alice, bob = streams["1"], streams["2"]
    # Alice holds: she sends on and Bob listens, but he sends nothing (RFC 7865 6.8: no send for what is held).
    for during in (1,):
        assert histories["sip:alice"][during] == ((alice,), ())
        assert histories["sip:bob"][during] == ((), (alice,))
    for otherwise in (0, 2):
        assert histories["sip:alice"][otherwise] == ((alice,), (bob,))
        assert histories["sip:bob"][otherwise] == ((bob,), (alice,))


def test_a_session_refresh_of_the_parties_is_nothing_to_tell(world: World) -> None:
    def move(phone: Scenario) -> None:
        phone.expect("INFO").respond(200, "OK").request("INVITE", sdp("sendrecv", 2))
        phone.expect(100, optional=True).expect(200).request("ACK").play()

    callee = Scenario("callee").expect_invite().respond_invite(200, "OK", sdp()).expect("ACK").play()
    callee.expect("INVITE").respond(200, "OK", sdp("sendrecv", 2)).expect("ACK").expect("BYE").respond(200, "OK")
    with world.sinks() as sinks:
        ports = (sinks[0].port, sinks[1].port)
        with (
            world.recorder(Srs().accept(answer(ports)).end()) as srs,
            world.call(srs, steps=move, callee=callee) as call,
        ):
            call.wait_for("START")
            call.poke()
            assert until(lambda: [m.title for m in call.phone_messages()].count("> ACK ACK") == 2)
            ends = [len(sink.packets) for sink in sinks]
            assert until(lambda: all(len(s.packets) > end + 5 for s, end in zip(sinks, ends, strict=True)))
    assert srs.titles() == ["< INVITE", "> 200 INVITE", "< ACK", "< UPDATE", "> 200 UPDATE", "< BYE", "> 200 BYE"]


def test_new_codecs_in_the_call_are_offered_to_the_srs_in_the_same_streams(world: World) -> None:
    more = sdp("sendrecv", 2).replace("RTP/AVP 0", "RTP/AVP 0 8").replace("a=ptime", "a=rtpmap:8 PCMA/8000\na=ptime")

    def change(phone: Scenario) -> None:
        phone.expect("INFO").respond(200, "OK").request("INVITE", more)
        phone.expect(100, optional=True).expect(200).request("ACK")

    callee = Scenario("callee").expect_invite().respond_invite(200, "OK", sdp()).expect("ACK").play()
    callee.expect("INVITE").respond(200, "OK", more).expect("ACK").expect("BYE").respond(200, "OK")
    with world.sinks() as sinks:
        ports = (sinks[0].port, sinks[1].port)
        scenario = Srs().accept(answer(ports)).reinvited(answer(ports, version=2)).end()
        with world.recorder(scenario) as srs, world.call(srs, steps=change, callee=callee) as call:
            call.wait_for("START")
            call.poke()
            assert until(lambda: srs.titles().count("< ACK") == 2)
            ends = [len(sink.packets) for sink in sinks]
            assert until(lambda: all(len(s.packets) > end + 5 for s, end in zip(sinks, ends, strict=True)))
    first, second = (seen.sdp for seen in srs.requests("INVITE"))
    assert first is not None
    assert second is not None
    assert first.origin is not None
    assert second.origin is not None
    assert (first.origin.session_id, int(first.origin.version) + 1) == (
        second.origin.session_id,
        int(second.origin.version),
    )
    assert [(x.label, x.port, x.formats) for x in first.media] == [
        (label, line.port, ["0"]) for label, line in zip("12", second.media, strict=True)
    ]
    assert [(line.label, line.formats) for line in second.media] == [("1", ["0", "8"]), ("2", ["0", "8"])]
    assert len(srs.state().streams) == 2


def test_a_profile_says_in_what_dress_an_srs_is_called(world: World, schema: object) -> None:
    callee = Scenario("held callee").expect_invite().respond_invite(200, "OK", sdp()).expect("ACK").play()
    for version, direction in ((2, "recvonly"), (3, "sendrecv")):
        callee.expect("INVITE").respond(200, "OK", sdp(direction, version)).expect("ACK")
    callee.expect("BYE").respond(200, "OK")
    with world.sinks() as sinks:
        scenario = Srs().accept(answer((sinks[0].port, sinks[1].port))).updated().updated().end()
        with (
            world.recorder(scenario) as srs,
            world.call(srs, instance="dressed", steps=hold, callee=callee) as call,
        ):
            call.wait_for("START")
            for number in (1, 2):
                call.poke()
                assert until(lambda number=number: len(srs.requests("UPDATE")) == number)  # type: ignore[misc]
    invite, *updates = srs.requests("INVITE") + srs.requests("UPDATE")
    message = invite.message
    assert message.get("call-info") == "<urn:x-tenant:7>;purpose=tenant"
    assert (message.from_.uri_text, message.to.uri_text) == (
        "sip:tenant7@src.example.com",
        "sip:archive@srs.example.com",
    )
    parts = [(part.media_type, part.disposition) for part in parts_of(message)]
    assert parts == [("application/sdp", "session"), ("application/rs-metadata", "recording-session")]
    assert b"Content-Disposition: session;handling=required" in message.body
    assert {update.message.get("content-type") for update in updates} == {"application/rs-metadata"}
    assert {update.document.mode for update in updates} == {"complete"}
