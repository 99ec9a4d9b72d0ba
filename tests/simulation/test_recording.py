"""Recordings of calls from the SRC to an SRS over the simulated network: the plain course and its accidents."""

from __future__ import annotations

import random

import pytest
from lxml import etree

from siprec import sdp
from siprec.media.engine import MediaSession
from siprec.metadata.document import Document
from siprec.metadata.merge import MetadataState
from siprec.metadata.read import parse
from siprec.metadata.values import NAMESPACE, OWN_NAMESPACE
from siprec.recording.events import SiprecEvent
from siprec.recording.recording_profile import RecordingProfile
from siprec.recording.settings import SettingError
from siprec.recording.srs_route import SrsSettings
from siprec.sip.digest_server import DigestServer
from siprec.sip.headers import NameAddr
from siprec.sip.message import SipRequest, SipResponse, parse_datagram
from siprec.sip.multipart import Part, build_multipart, find_part, parts_of
from siprec.sip.useragent import IncomingCall, Reply, session_description
from tests.simulation.network import LinkQuality
from tests.simulation.recording_world import FakeMediaServer, Q, Srs, World, party_sdp


def test_a_call_is_recorded_from_answer_to_end() -> None:
    world = World(profile={"keepalive": 0.0})
    call = world.answered_call()
    assert world.state(call) == "active"
    assert world.media.flowing() == ["1", "2"]
    invite = world.srs.requests[0]
    assert invite.method == "INVITE"
    assert invite.tokens("require") == {"siprec"}
    assert invite.contact is not None
    assert invite.contact.params["+sip.src"] is None
    assert "update" in invite.tokens("allow")
    assert "application/rs-metadata+xml" in invite.tokens("accept")
    assert "siprec" not in invite.tokens("supported")
    assert invite.from_.uri_text == "sip:src@10.0.0.1"
    assert invite.to.uri_text == "sip:srs@10.0.0.2"
    assert [part.media_type for part in parts_of(invite)] == ["application/sdp", "application/rs-metadata+xml"]
    offer = world.srs.offers[0]
    assert [line.label for line in offer.media] == ["1", "2"]
    assert [line.direction for line in offer.media] == ["sendonly", "sendonly"]
    assert [line.port for line in offer.media] == [30000, 30100]
    assert [line.formats for line in offer.media] == [["0", "8"], ["0", "8"]]
    text = offer.to_bytes().decode()
    assert not any(private in text for private in ("crypto", "candidate", "ssrc", "10.1.1.1", "10.2.2.2"))
    assert text.count("a=rtcp:") == 2
    complete = world.srs.documents[0]
    assert complete.findtext(f"{Q}datamode") == "complete"
    assert [n.get("aor") for n in complete.iter(f"{Q}nameID")] == ["sip:alice@example.org", "sip:bob@example.com"]
    assert complete.find(f".//{Q}name").text == "Al & Co"
    assert complete.find(f".//{Q}sipSessionID").text == f"{'ab' * 16};remote={'cd' * 16}"
    by_label = {s.findtext(f"{Q}label"): s.get("stream_id") for s in complete.iter(f"{Q}stream")}
    caller, callee = [p.get("participant_id") for p in complete.iter(f"{Q}participant")]
    sends = {a.get("participant_id"): a.findtext(f"{Q}send") for a in complete.iter(f"{Q}participantstreamassoc")}
    assert sends == {caller: by_label["1"], callee: by_label["2"]}

    world.clock.run_for(60)
    world.end(call)
    world.clock.run_for(2)
    assert world.srs.methods == ["INVITE", "UPDATE"]
    update = world.srs.requests[1]
    assert update.tokens("require") == {"siprec"}
    assert update.get("content-disposition") == "recording-session"
    final = world.srs.documents[1]
    assert final.findtext(f"{Q}datamode") == "partial"
    assert final.find(f"{Q}session/{Q}stop-time") is not None
    reason = final.find(f"{Q}session/{Q}reason")
    assert (reason.get("protocol"), reason.get("cause"), reason.text) == ("Q.850", "16", "Normal")
    assert len(final.findall(f"{Q}participantsessionassoc/{Q}disassociate-time")) == 2
    assert final.find(f"{Q}sessionrecordingassoc/{Q}disassociate-time") is not None
    assert world.srs.ended_reasons == ["bye"]
    assert world.names() == ["START", "STOP"]
    start = world.events[0]
    assert (start.dlg_id, start.dlg_callid, start.callid) == ("dlg1", "cs1@a", invite.call_id)
    assert (start.server, start.instance) == ("sip:srs@10.0.0.2", "default")
    assert start.session_id == complete.find(f"{Q}session").get("session_id")
    world.assert_clean()


# -- setting up, and not -----------------------------------------------------------------------------------------------


def test_the_call_ends_before_the_srs_answers() -> None:
    world = World()
    world.srs.on_invite = lambda call: call.answer(180)
    call = world.answered_call()
    assert world.state(call) == "inviting"
    world.end(call)
    world.clock.run_for(2)
    assert any(line.startswith("CANCEL") for line in world.network.lines())
    assert world.srs.ended_reasons == ["cancelled"]
    assert world.names() == []
    assert world.media.log.count("unsubscribe") == 1
    world.assert_clean()


def test_a_2xx_that_crosses_the_cancel_is_acknowledged_and_ended() -> None:
    world = World()
    world.srs.on_invite = lambda call: call.answer(180)
    call = world.answered_call()
    # The SRS answers in the very moment the CANCEL is on its way.
    world.clock.call_later(0.005, world.srs.answer_call, world.srs.call)
    world.end(call)
    world.clock.run_for(5)
    lines = world.network.lines()
    assert any(line.startswith("CANCEL") for line in lines)
    assert any(line.startswith("ACK") for line in lines)
    assert any(line.startswith("BYE") for line in lines)
    assert world.srs.ended_reasons == ["bye"]
    assert world.names() == []
    world.assert_clean()


def test_the_call_ends_before_the_media_server_answers() -> None:
    world = World()
    world.media.delay = 0.5
    call = world.answered_call(run=False)
    world.end(call)
    assert world.state(call) == "ending"
    world.assert_clean()
    assert world.srs.requests == []
    assert world.media.log == ["subscribe", "unsubscribe"]


def test_a_call_that_is_never_answered_is_never_recorded() -> None:
    world = World()
    call = world.new_call()
    assert call.siprec_start_recording("sip:srs@10.0.0.2")
    assert call.recordings == ["default"]
    assert world.state(call) == "idle"
    world.end(call, "SIP/2.0 486 Busy Here\r\n\r\n")
    assert world.media.log == []
    world.assert_clean()


def test_an_srs_that_refuses_leaves_nothing_but_an_event() -> None:
    world = World()
    world.srs.status = 486
    call = world.answered_call()
    assert world.state(call) == "gone"
    assert [(e.name, e.status) for e in world.events] == [("E_SIPREC_FAILED", 486)]
    world.end(call)
    world.assert_clean()


def test_a_silent_srs_is_given_up_after_the_setup_timeout() -> None:
    world = World(profile={"setup_timeout": 4.0, "retry": 0.0})
    world.srs.on_invite = lambda call: None
    call = world.answered_call()
    assert world.state(call) == "inviting"
    world.clock.run_for(2)
    assert world.state(call) == "gone"
    assert world.names() == ["FAILED"]
    world.clock.run_for(0.1)
    assert not world.media.subscriptions
    # What the SRS says hours later is no matter.
    world.srs.call.answer(487)
    world.end(call)
    world.assert_clean()


def test_second_srs_gets_the_call_when_the_first_is_silent() -> None:
    world = World(profile={"srs": "sip:10.0.0.77;transport=udp, sip:srs@10.0.0.2", "setup_timeout": 2.0})
    world.network.node("10.0.0.77").on_message = lambda message, source: None
    call = world.answered_call()
    assert world.state(call) == "active"
    assert world.names() == ["FAILOVER", "START"]
    assert [e.server for e in world.events] == ["sip:10.0.0.77;transport=udp", "sip:srs@10.0.0.2"]
    assert world.events[0].callid != world.events[1].callid
    world.end(call)
    world.assert_clean()


def test_second_srs_gets_the_call_when_the_first_cannot_be_reached_or_refuses() -> None:
    world = World(profile={"srs": ["sip:nobody@10.0.0.66;transport=tcp", "sip:other@10.0.0.3", "sip:srs@10.0.0.2"]})
    other = Srs(world, "10.0.0.3")
    other.status = 503
    call = world.answered_call()
    assert world.names() == ["FAILOVER", "FAILOVER", "START"]
    assert world.events[1].status == 503
    first, second = other.documents[0], world.srs.documents[0]
    ids = [[e.get(f"{kind}_id") for e in first.iter(f"{Q}{kind}")] for kind in ("session", "participant", "stream")]
    assert ids == [
        [e.get(f"{kind}_id") for e in second.iter(f"{Q}{kind}")] for kind in ("session", "participant", "stream")
    ]
    assert other.requests[0].call_id != world.srs.requests[0].call_id
    world.end(call)
    world.assert_clean()


def test_each_srs_has_the_outbound_proxy_credentials_and_transport_of_its_table() -> None:
    servers = {
        "first.test": SrsSettings(outbound_proxy="sip:10.0.0.2", username="one", password="x"),
        "10.0.0.3": SrsSettings(transport="tcp"),
    }
    world = World(profile={"srs": "sip:srs@first.test, sip:srs@10.0.0.3", "servers": servers})
    second = Srs(world, "10.0.0.3")
    world.srs.status = 486
    call = world.answered_call()
    refused, taken = world.srs.requests[0], second.requests[0]
    assert (refused.uri, refused.get("route")) == ("sip:srs@first.test", "<sip:10.0.0.2;lr>")
    assert (taken.uri, taken.get("route")) == ("sip:srs@10.0.0.3;transport=tcp", None)
    world.end(call)
    world.clock.run_for(2)
    assert {s.transport for s in world.network.trace if "10.0.0.3" in (s.source[0], s.destination[0])} == {"tcp"}
    assert second.ended_reasons == ["bye"]
    world.assert_clean()


def test_skip_failover_codes_end_the_search() -> None:
    world = World(profile={"srs": "sip:other@10.0.0.3, sip:srs@10.0.0.2", "skip_failover_codes": "48[0-9]"})
    other = Srs(world, "10.0.0.3")
    other.status = 486
    call = world.answered_call()
    assert world.names() == ["FAILED"]
    assert world.srs.requests == []
    world.end(call)
    world.assert_clean()


def test_a_target_that_knows_no_siprec_is_never_asked_without_it() -> None:
    world = World()
    world.srs.agent.extensions = frozenset()
    call = world.answered_call()
    assert [(e.name, e.status) for e in world.events] == [("E_SIPREC_FAILED", 420)]
    invites = [line for line in world.network.lines() if line.startswith("INVITE")]
    assert len(invites) == 1
    world.end(call)
    world.assert_clean()


@pytest.mark.parametrize("answer", ["none", "garbage", "rejected"])
def test_a_200_that_takes_no_stream_is_ended_and_passed_over(answer: str) -> None:
    world = World()

    def invited(call: IncomingCall) -> None:
        body = {"none": b"", "garbage": b"v=0\r\nm=audio x\r\n", "rejected": world.srs.answer_to(call.invite)}[answer]
        call.answer(200, body.replace(b"m=audio 20000", b"m=audio 0").replace(b"m=audio 20002", b"m=audio 0"))

    world.srs.on_invite = invited
    call = world.answered_call()
    assert world.names() == ["FAILED"]
    assert world.media.targets == {}
    assert world.srs.ended_reasons == ["bye"]
    world.end(call)
    world.assert_clean()


def test_a_multipart_answer_without_labels_and_with_one_stream_rejected() -> None:
    world = World()

    def invited(call: IncomingCall) -> None:
        text = world.srs.answer_to(call.invite).decode()
        text = text.replace("a=label:1\r\n", "").replace("a=label:2\r\n", "").replace("m=audio 20000", "m=audio 0")
        content_type, body = build_multipart(
            [Part.make("text/plain", b"hi"), Part.make("application/sdp", text.encode())]
        )
        call.answer(200, body, content_type)

    def asked(request: SipRequest, reply: Reply) -> bool:
        if not session_description(request):
            return False
        reply(200, world.srs.answer_to(request).replace(b"m=audio 20000", b"m=audio 0"))
        return True

    world.srs.on_invite, world.srs.on_request = invited, asked
    call = world.answered_call()
    assert world.state(call) == "active"
    answer = next(iter(world.media.targets.values()))
    assert [line.port for line in answer.media] == [0, 20002]
    # What it does not take is described all the same (META-17).
    request = f'<requestsnapshot xmlns="{NAMESPACE}"/>'.encode()
    world.srs.call.update(request, "application/rs-metadata+xml", (("Content-Disposition", "recording-session"),))
    world.clock.run_for(1)
    assert [s.findtext(f"{Q}label") for s in world.srs.documents[-1].iter(f"{Q}stream")] == ["1", "2"]
    world.end(call)
    world.assert_clean()


def test_a_media_server_that_cannot_fork_leaves_the_call_alone() -> None:
    for failing in ("subscribe", "answer"):
        world = World()
        world.media.fail = {failing}
        call = world.answered_call()
        assert world.state(call) == "gone"
        assert world.names() == (["FAILED"] if failing == "subscribe" else ["START", "FAILED", "STOP"])
        world.end(call)
        world.assert_clean()


def test_a_call_without_media_server_is_not_recorded() -> None:
    world = World()
    call = world.new_call()
    call.media = None
    call.record()
    world.answer(call)
    world.clock.run_for(1)
    assert world.names() == ["FAILED"]
    world.end(call)
    world.assert_clean()


def test_a_late_offer_is_recorded_when_the_ack_has_brought_the_answer() -> None:
    world = World()
    call = world.new_call()
    call.record()
    answer, call.caller_sdp = call.caller_sdp, b""
    world.answer(call)
    world.clock.run_for(1)
    assert world.media.log == []
    call.caller_sdp = answer
    world.service.call_media_changed(call, "callee")
    world.clock.run_for(2)
    assert world.state(call) == "active"
    assert world.srs.methods == ["INVITE"]
    world.end(call)
    world.assert_clean()


def test_of_two_that_answered_the_one_the_caller_keeps_is_recorded() -> None:
    world = World()
    call = world.answered_call()
    other = "second"
    world.media.parties[other] = party_sdp("10.3.3.3")
    call.to_tag, call.callee_sdp = other, world.media.parties[other]
    call.media_session = MediaSession(call.call_id, call.from_tag, other)
    world.service.call_media_changed(call, "callee")
    world.clock.run_for(2)
    (forked,) = world.media.subscriptions.values()
    assert [stream.from_tag for stream in forked.streams] == [call.from_tag, other]
    assert [line.label for line in world.srs.offers[-1].media] == ["1", "2"]
    assert world.media.flowing() == ["1", "2"]
    world.end(call)
    world.assert_clean()


# -- while it runs -----------------------------------------------------------------------------------------------------


def test_bye_of_the_srs_ends_this_recording_only() -> None:
    world = World()
    call = world.answered_call(record=False)
    assert call.siprec_start_recording("sip:srs@10.0.0.2", "a")
    assert call.siprec_start_recording("sip:srs@10.0.0.2", "b")
    world.clock.run_for(2)
    assert world.states(call) == {"a": "active", "b": "active"}
    world.srs.calls[0].bye()
    world.clock.run_for(2)
    assert world.states(call) == {"b": "active"}
    assert len(world.media.subscriptions) == 1
    assert world.names() == ["START", "START", "STOP"]
    world.end(call)
    world.assert_clean()


def test_pause_stops_packets_then_tells_the_srs() -> None:
    world = World()
    call = world.answered_call()
    assert call.siprec_pause_recording()
    world.clock.run_until_true(lambda: world.media.paused)
    assert world.srs.methods == ["INVITE"]
    assert world.media.flowing() == []
    world.clock.run_for(2)
    assert world.state(call) == "paused"
    assert world.srs.methods == ["INVITE", "INVITE"]
    before, after = world.srs.offers
    assert [line.direction for line in after.media] == ["inactive", "inactive"]
    assert before.origin is not None
    assert after.origin is not None
    assert (after.origin.session_id, int(after.origin.version)) == (
        before.origin.session_id,
        int(before.origin.version) + 1,
    )
    assert call.siprec_resume_recording()
    world.clock.run_for(2)
    assert world.state(call) == "active"
    assert [line.direction for line in world.srs.offers[2].media] == ["sendonly", "sendonly"]
    assert world.media.flowing() == ["1", "2"]
    assert world.names() == ["START", "PAUSED", "RESUMED"]
    world.end(call)
    world.assert_clean()


def test_engaged_paused_begins_without_a_packet() -> None:
    world = World()
    call = world.new_call()
    call.siprec_start_recording("sip:srs@10.0.0.2")
    call.siprec_pause_recording()
    world.answer(call)
    world.clock.run_for(2)
    assert world.state(call) == "paused"
    assert [line.direction for line in world.srs.offers[0].media] == ["inactive", "inactive"]
    assert world.media.flowing() == []
    call.siprec_resume_recording()
    world.clock.run_for(2)
    assert world.media.flowing() == ["1", "2"]
    world.end(call)
    world.assert_clean()


def test_hold_is_told_as_metadata_in_an_update() -> None:
    world = World()
    call = world.answered_call()
    complete = world.srs.documents[0]
    a, b = [e.get("stream_id") for e in complete.iter(f"{Q}stream")]
    caller, callee = [p.get("participant_id") for p in complete.iter(f"{Q}participant")]
    # The callee holds the caller.
    call.callee_sdp, call.caller_sdp = party_sdp("10.2.2.2", "sendonly"), party_sdp("10.1.1.1", "recvonly")
    world.service.call_media_changed(call, "callee")
    world.clock.run_for(1)
    assert world.srs.methods == ["INVITE", "UPDATE"]
    held = world.srs.documents[1]
    assert held.findtext(f"{Q}datamode") == "partial"
    sets = {
        e.get("participant_id"): ([s.text for s in e.findall(f"{Q}send")], [r.text for r in e.findall(f"{Q}recv")])
        for e in held.iter(f"{Q}participantstreamassoc")
    }
    assert sets == {caller: ([], [b]), callee: ([b], [])}
    call.callee_sdp, call.caller_sdp = party_sdp("10.2.2.2"), party_sdp("10.1.1.1")
    world.service.call_media_changed(call, "callee")
    world.clock.run_for(1)
    sets = {
        e.get("participant_id"): ([s.text for s in e.findall(f"{Q}send")], [r.text for r in e.findall(f"{Q}recv")])
        for e in world.srs.documents[2].iter(f"{Q}participantstreamassoc")
    }
    assert sets == {caller: ([a], [b]), callee: ([b], [a])}
    # Nothing changed: nothing is said.
    world.service.call_media_changed(call, "caller")
    world.clock.run_for(1)
    assert len(world.srs.requests) == 3
    world.end(call)
    world.assert_clean()


def test_a_hold_in_which_nothing_passes_ends_the_association_with_the_streams_and_resuming_begins_another() -> None:
    world = World()
    call = world.answered_call()
    began = [e.findtext(f"{Q}associate-time") for e in world.srs.documents[0].iter(f"{Q}participantstreamassoc")]
    assert None not in began
    for direction in ("inactive", "sendrecv"):
        world.clock.run_for(10)
        call.callee_sdp, call.caller_sdp = party_sdp("10.2.2.2", direction), party_sdp("10.1.1.1", direction)
        world.service.call_media_changed(call, "callee")
        world.clock.run_for(1)
    held, resumed = world.srs.documents[1:]
    assert held.findtext(f"{Q}datamode") == "partial"
    assert [[child.tag for child in e] for e in held.iter(f"{Q}participantstreamassoc")] == [
        [f"{Q}disassociate-time"]
    ] * 2
    assert [[child.tag for child in e] for e in resumed.iter(f"{Q}participantstreamassoc")] == [
        [f"{Q}send", f"{Q}recv", f"{Q}associate-time"]
    ] * 2
    assert resumed.find(f"{Q}participantstreamassoc/{Q}associate-time").text not in began
    # The recorder understands it so.
    state = MetadataState()
    for number, document in enumerate(world.srs.documents):
        read = parse(etree.tostring(document))
        assert isinstance(read, Document)
        assert state.apply(read, wall=world.clock.wall(), labels={"1": 0, "2": 1}) == []
        speakers = [len(state.senders(stream)) for stream in state.streams]
        assert speakers == ([0, 0] if number == 1 else [1, 1])
    world.end(call)
    world.assert_clean()


def test_new_codecs_and_streams_are_forked_and_offered() -> None:
    world = World()
    call = world.answered_call()
    video = b"m=video 5000 RTP/AVP 96\r\na=rtpmap:96 VP8/90000\r\n"
    call.caller_sdp, call.callee_sdp = (
        party_sdp("10.1.1.1", formats="8") + video,
        party_sdp("10.2.2.2", formats="8") + video,
    )
    world.media.parties.update({call.from_tag: call.caller_sdp, call.to_tag: call.callee_sdp})
    world.service.call_media_changed(call, "caller")
    world.clock.run_for(2)
    assert world.media.log.count("subscribe") == 2
    assert world.srs.methods == ["INVITE", "INVITE"]
    offer = world.srs.offers[1]
    assert [(line.kind, line.label, line.formats) for line in offer.media] == [
        ("audio", "1", ["8"]),
        ("audio", "2", ["8"]),
        ("video", "3", ["96"]),
        ("video", "4", ["96"]),
    ]
    update = world.srs.documents[1]
    assert [s.findtext(f"{Q}label") for s in update.iter(f"{Q}stream")] == ["3", "4"]
    # The media server's m-lines are in another order: caller audio, caller video, callee audio, callee video.
    answer = next(iter(world.media.targets.values()))
    assert [(line.kind, line.label) for line in answer.media] == [
        ("audio", "1"),
        ("video", "3"),
        ("audio", "2"),
        ("video", "4"),
    ]
    # Video goes again: its m-lines stay, with port 0 (SDP-07).
    call.caller_sdp = party_sdp("10.1.1.1", formats="8") + video.replace(b"5000", b"0")
    call.callee_sdp = party_sdp("10.2.2.2", formats="8") + video.replace(b"5000", b"0")
    world.media.parties.update({call.from_tag: call.caller_sdp, call.to_tag: call.callee_sdp})
    world.service.call_media_changed(call, "callee")
    world.clock.run_for(2)
    assert [line.port for line in world.srs.offers[2].media] == [30000, 30100, 0, 0]
    assert [line.label for line in world.srs.offers[2].media] == ["1", "2", "3", "4"]
    world.end(call)
    world.assert_clean()


def test_an_identity_learnt_later_keeps_the_participant() -> None:
    world = World(profile={"group": "g"})
    call = world.answered_call()
    callee = [p.get("participant_id") for p in world.srs.documents[0].iter(f"{Q}participant")][1]
    world.service.party_identified(call, "callee", NameAddr.parse('"Carol" <sip:carol@example.com>'))
    world.clock.run_for(1)
    update = world.srs.documents[1]
    assert world.srs.methods == ["INVITE", "UPDATE"]
    (participant,) = update.iter(f"{Q}participant")
    assert participant.get("participant_id") == callee
    assert participant.find(f"{Q}nameID").get("aor") == "sip:carol@example.com"
    assert len(update) == 2
    world.end(call)
    world.assert_clean()


def test_a_transfer_lets_one_leave_and_one_join_the_same_session() -> None:
    world = World(profile={"keepalive": 0.0})
    call = world.answered_call()
    before = world.srs.documents[0]
    session = before.find(f"{Q}session").get("session_id")
    caller, callee = [p.get("participant_id") for p in before.iter(f"{Q}participant")]
    a, b = [s.get("stream_id") for s in before.iter(f"{Q}stream")]
    world.clock.run_for(30)
    newcomer = parse_datagram(f"INVITE sip:x SIP/2.0\r\nSession-ID: {'ef' * 16};remote={'cd' * 16}\r\n\r\n".encode())
    world.service.party_replaced(call, "caller", NameAddr.parse("<sip:carol@example.com>"), newcomer)
    world.clock.run_for(2)
    update = world.srs.documents[1]
    assert world.srs.methods == ["INVITE", "INVITE"]
    assert update.findtext(f"{Q}datamode") == "partial"
    assert update.find(f"{Q}session").get("session_id") == session
    assert [child.text for child in update.find(f"{Q}session")] == [f"{'ef' * 16};remote={'cd' * 16}"]
    (participant,) = update.iter(f"{Q}participant")
    carol = participant.get("participant_id")
    assert carol not in (caller, callee)
    (stream,) = update.iter(f"{Q}stream")
    assert (stream.findtext(f"{Q}label"), stream.get("stream_id") in (a, b)) == ("1", False)
    assocs = {e.get("participant_id"): [c.tag for c in e] for e in update.iter(f"{Q}participantsessionassoc")}
    assert assocs[caller] == [f"{Q}disassociate-time"]
    assert assocs[carol][0] == f"{Q}associate-time"
    assert callee not in assocs
    feeds = {
        e.get("participant_id"): ([s.text for s in e.findall(f"{Q}send")], [r.text for r in e.findall(f"{Q}recv")])
        for e in update.iter(f"{Q}participantstreamassoc")
    }
    c = stream.get("stream_id")
    assert feeds == {caller: ([], []), callee: ([b], [c]), carol: ([c], [b])}
    world.end(call)
    world.clock.run_for(2)
    ended = [e.get("participant_id") for e in world.srs.documents[2].iter(f"{Q}participantsessionassoc")]
    assert sorted(ended) == sorted([callee, carol])
    world.assert_clean()


def test_a_snapshot_request_is_answered_then_served_with_the_unchanged_offer() -> None:
    world = World()
    call = world.answered_call()
    call.callee_sdp, call.caller_sdp = party_sdp("10.2.2.2", "sendonly"), party_sdp("10.1.1.1", "recvonly")
    world.service.call_media_changed(call)
    world.clock.run_for(1)
    results: list[object] = []
    snapshot = f'<requestsnapshot xmlns="{NAMESPACE}"><requestreason>lost</requestreason></requestsnapshot>'.encode()
    world.srs.call.update(
        snapshot, "application/rs-metadata+xml", (("Content-Disposition", "recording-session"),), results.append
    )
    world.clock.run_for(1)
    (result,) = results
    assert isinstance(result, SipResponse)
    assert result.status == 200
    assert not result.body
    assert result.contact is not None
    assert "+sip.src" in result.contact.params
    assert world.srs.methods == ["INVITE", "UPDATE", "INVITE"]
    document = world.srs.documents[2]
    assert document.findtext(f"{Q}datamode") == "complete"
    assert [s.findtext(f"{Q}label") for s in document.iter(f"{Q}stream")] == ["1", "2"]
    assert len(document.findall(f"{Q}participant")) == 2
    assert world.srs.offers[1].to_bytes() == world.srs.offers[0].to_bytes()
    world.end(call)
    world.assert_clean()


def test_the_srs_moves_and_pauses_the_streams_itself() -> None:
    world = World()
    call = world.answered_call()
    results: list[object] = []
    first = world.srs.answer_to(world.srs.requests[0])
    moved = first.replace(b"m=audio 20000", b"m=audio 22000").replace(b"5 1 IN", b"5 9 IN")
    world.srs.call.reinvite(moved, done=results.append)
    world.clock.run_for(2)
    assert next(iter(world.media.targets.values())).media[0].port == 22000
    assert isinstance(results[0], SipResponse)
    answer = sdp.parse(results[0].body)
    assert [line.direction for line in answer.media] == ["sendonly", "sendonly"]
    assert answer.to_bytes() == world.srs.offers[0].to_bytes()
    world.srs.call.update(moved.replace(b"recvonly", b"inactive").replace(b"5 9 IN", b"5 10 IN"), done=results.append)
    world.clock.run_for(2)
    assert isinstance(results[1], SipResponse)
    answer = sdp.parse(results[1].body)
    assert [line.direction for line in answer.media] == ["inactive", "inactive"]
    assert world.media.flowing() == []
    world.srs.call.reinvite(moved, done=results.append)
    world.clock.run_for(2)
    assert world.media.flowing() == ["1", "2"]
    world.end(call)
    world.assert_clean()


def test_an_srs_that_is_not_ready_gets_nothing_until_it_offers_to_receive() -> None:
    world = World()
    world.srs.direction = "inactive"
    call = world.answered_call()
    assert world.state(call) == "active"
    assert world.media.flowing() == []
    world.srs.direction = "recvonly"
    results: list[object] = []
    ready = world.srs.answer_to(world.srs.requests[0]).replace(b"5 1 IN", b"5 2 IN")
    world.srs.call.reinvite(ready, done=results.append)
    world.clock.run_for(2)
    assert isinstance(results[0], SipResponse)
    assert [line.direction for line in sdp.parse(results[0].body).media] == ["sendonly", "sendonly"]
    assert world.media.flowing() == ["1", "2"]
    world.end(call)
    world.assert_clean()


def test_an_offer_of_the_srs_never_lets_media_out_of_a_pause() -> None:
    world = World()
    call = world.answered_call()
    call.siprec_pause_recording()
    world.clock.run_for(2)
    results: list[object] = []
    world.srs.call.reinvite(world.srs.answer_to(world.srs.requests[0]), done=results.append)
    world.clock.run_for(2)
    assert isinstance(results[0], SipResponse)
    assert [line.direction for line in sdp.parse(results[0].body).media] == ["inactive", "inactive"]
    assert world.media.flowing() == []
    world.end(call)
    world.assert_clean()


def test_streams_added_by_the_srs_are_rejected_and_lost_lines_refused() -> None:
    world = World()
    call = world.answered_call()
    first = world.srs.answer_to(world.srs.requests[0])
    results: list[object] = []
    world.srs.call.reinvite(first + b"m=audio 25000 RTP/AVP 0\r\na=recvonly\r\n", done=results.append)
    world.clock.run_for(2)
    assert isinstance(results[0], SipResponse)
    assert [line.port for line in sdp.parse(results[0].body).media] == [30000, 30100, 0]
    world.srs.call.reinvite(first[: first.rindex(b"m=audio")], done=results.append)
    world.clock.run_for(2)
    assert isinstance(results[1], SipResponse)
    assert results[1].status == 488
    assert world.state(call) == "active"
    world.end(call)
    world.assert_clean()


def test_an_offerless_reinvite_gets_offer_and_full_metadata() -> None:
    world = World()
    call = world.answered_call()
    offers: list[bytes] = []

    def done(result: object) -> None:
        assert isinstance(result, SipResponse)
        part = find_part(result, "application/sdp")
        assert part is not None
        offers.append(part.body)
        assert find_part(result, "application/rs-metadata+xml", "recording-session") is not None
        answer = world.srs.answer_to(world.srs.requests[0]).replace(b"20000", b"23000")
        world.srs.call.ack(answer)

    world.srs.call.reinvite(b"", done=done)
    world.clock.run_for(2)
    assert len(offers) == 1
    assert offers[0] == world.srs.offers[0].to_bytes()
    assert next(iter(world.media.targets.values())).media[0].port == 23000
    world.end(call)
    world.assert_clean()


def test_other_requests_of_the_srs_are_answered() -> None:
    world = World()
    call = world.answered_call()
    got: list[object] = []
    for method in ("OPTIONS", "INFO", "NOTIFY", "MESSAGE", "REFER"):
        world.srs.call.request(method, done=got.append)
        world.clock.run_for(1)
    assert [r.status for r in got if isinstance(r, SipResponse)] == [200, 200, 200, 200, 405]
    world.end(call)
    world.assert_clean()


def test_an_srs_without_update_gets_metadata_by_reinvite() -> None:
    world = World()
    world.srs.agent.allow = "INVITE, ACK, BYE, CANCEL"
    call = world.answered_call()
    call.callee_sdp, call.caller_sdp = party_sdp("10.2.2.2", "sendonly"), party_sdp("10.1.1.1", "recvonly")
    world.service.call_media_changed(call)
    world.clock.run_for(1)
    assert world.srs.methods == ["INVITE", "INVITE"]
    assert world.srs.offers[1].to_bytes() == world.srs.offers[0].to_bytes()
    world.end(call)
    world.clock.run_for(2)
    assert world.srs.methods == ["INVITE", "INVITE", "INVITE"]
    world.assert_clean()


def test_an_srs_that_forgot_the_dialog_gets_a_new_one_with_the_same_ids() -> None:
    world = World()
    call = world.answered_call()
    forgotten = world.srs.calls[0]
    world.srs.agent.forget(forgotten)
    forgotten._close()
    call.siprec_pause_recording()
    world.clock.run_for(5)
    assert world.names() == ["START", "STOP", "FAILOVER", "START"]
    assert world.state(call) == "paused"
    first, again = world.srs.documents[0], world.srs.documents[-1]
    assert again.findtext(f"{Q}datamode") == "complete"
    for kind in ("session", "participant", "stream"):
        assert [e.get(f"{kind}_id") for e in first.iter(f"{Q}{kind}")] == [
            e.get(f"{kind}_id") for e in again.iter(f"{Q}{kind}")
        ]
    assert world.srs.calls[0].call_id != world.srs.calls[1].call_id
    assert world.media.flowing() == []
    world.end(call)
    world.assert_clean()


def test_a_dead_srs_is_replaced_by_the_next_in_mid_call() -> None:
    world = World(profile={"srs": "sip:other@10.0.0.3, sip:srs@10.0.0.2"})
    other = Srs(world, "10.0.0.3")
    call = world.answered_call()
    assert world.srs.requests == []
    other.node.on_message = lambda message, source: None
    call.callee_sdp, call.caller_sdp = party_sdp("10.2.2.2", "sendonly"), party_sdp("10.1.1.1", "recvonly")
    world.service.call_media_changed(call)
    world.clock.run_for(40)
    assert world.names() == ["START", "STOP", "FAILOVER", "START"]
    assert world.events[-1].server == "sip:srs@10.0.0.2"
    session = [e.get("session_id") for e in other.documents[0].iter(f"{Q}session")]
    assert session == [e.get("session_id") for e in world.srs.documents[0].iter(f"{Q}session")]
    assert world.media.flowing() == ["1", "2"]
    world.end(call)
    world.assert_clean()


def test_the_session_timer_keeps_the_recording_alive_and_ends_a_dead_one() -> None:
    world = World(profile={"session_expires": 90, "rebuilds": 0, "keepalive": 0.0, "retry": 0.0})
    call = world.answered_call()
    world.clock.run_for(1000)
    assert world.state(call) == "active"
    assert world.srs.methods.count("UPDATE") > 15
    world.srs.node.on_message = lambda message, source: None
    world.clock.run_for(200)
    assert world.state(call) == "gone"
    assert world.names() == ["START", "STOP", "FAILED"]
    world.end(call)
    world.srs.calls[0].bye()
    world.assert_clean()


def test_stop_ends_the_recording_but_not_the_session() -> None:
    world = World()
    call = world.answered_call()
    assert call.siprec_stop_recording()
    world.clock.run_for(2)
    final = world.srs.documents[-1]
    assert final.find(f"{Q}sessionrecordingassoc/{Q}disassociate-time") is not None
    assert final.find(f"{Q}session") is None
    assert not call.siprec_stop_recording()
    # Recorded once more in the same call: the same session, another RS.
    assert world.service.record(call)
    world.clock.run_for(2)
    assert world.state(call) == "active"
    assert world.events[0].session_id == world.events[-1].session_id
    assert world.events[0].callid != world.events[-1].callid
    world.end(call)
    world.assert_clean()


# -- what a script asks ------------------------------------------------------------------------------------------------


def test_engaged_twice_is_a_warning_and_no_second_rs(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    call = world.answered_call()
    assert not call.siprec_start_recording("sip:srs@10.0.0.2")
    assert "engaged already" in caplog.text
    world.clock.run_for(2)
    assert len(world.srs.calls) == 1
    assert not call.siprec_start_recording("mailto:x", "other")
    assert not world.service.record(call, "unknown")
    world.end(call)
    assert not call.siprec_start_recording("sip:srs@10.0.0.2", "late")
    world.assert_clean()


def test_settings_show_in_invite_and_metadata() -> None:
    world = World()
    call = world.new_call()
    assert call.siprec_start_recording("sip:srs@10.0.0.2")
    call.settings.group = "sales & co"
    call.settings.caller = '<nameID aor="sip:vip@example.org"><name>V &amp; P</name></nameID>'
    call.settings.group_custom_extension = '<g xmlns="urn:x">1</g>'
    call.settings.session_custom_extension = '<s xmlns="urn:x">2</s>'
    call.settings.headers = "X-One: 1\r\nX-Two: a, b\r\n"
    call.settings.from_uri = "sip:me@here.example"
    call.settings.to_uri = "sip:you@there.example"
    call.settings.media = "192.0.2.7"
    with pytest.raises(SettingError, match=r"session_custom_extension: .*line 1"):
        call.settings.session_custom_extension = "<broken"
    world.answer(call)
    world.clock.run_for(2)
    invite, document = world.srs.requests[0], world.srs.documents[0]
    assert (invite.from_.uri_text, invite.to.uri_text) == ("sip:me@here.example", "sip:you@there.example")
    assert invite.uri == "sip:srs@10.0.0.2"
    assert (invite.get("x-one"), invite.get("x-two")) == ("1", "a, b")
    assert [n.get("aor") for n in document.iter(f"{Q}nameID")] == ["sip:vip@example.org", "sip:bob@example.com"]
    assert document.findtext(f"{Q}session/{Q}group-ref") == document.find(f"{Q}group").get("group_id")
    assert document.findtext(f"{Q}group/{{{OWN_NAMESPACE}}}group-name") == "sales & co"
    assert document.findtext(f"{Q}group/{{urn:x}}g") == "1"
    assert document.findtext(f"{Q}session/{{urn:x}}s") == "2"
    assert world.media.flags[0].media_address == "192.0.2.7"
    world.end(call)
    world.assert_clean()


def test_a_participant_keeps_its_id_in_all_calls_of_a_group() -> None:
    world = World(profile={"group": "team"})
    first = world.answered_call()
    second = world.answered_call()
    one, two = world.srs.documents
    assert [p.get("participant_id") for p in one.iter(f"{Q}participant")] == [
        p.get("participant_id") for p in two.iter(f"{Q}participant")
    ]
    assert one.find(f"{Q}group").get("group_id") == two.find(f"{Q}group").get("group_id")
    assert one.findtext(f"{Q}group/{Q}associate-time") == two.findtext(f"{Q}group/{Q}associate-time")
    assert one.find(f"{Q}session").get("session_id") != two.find(f"{Q}session").get("session_id")
    world.end(first)
    world.end(second)
    world.assert_clean()


def test_requests_of_the_script_go_inside_the_dialog() -> None:
    world = World()
    call = world.answered_call()
    got: list[object] = []
    lines = "X-Key: 5\r\nContent-Type: application/dtmf-relay\r\n"
    assert world.service.siprec_send_indialog(call, "INFO", lines, "Signal=5", done=got.append)
    world.clock.run_for(1)
    info = world.srs.requests[-1]
    assert (info.method, info.get("x-key"), info.body) == ("INFO", "5", b"Signal=5")
    assert info.content_type is not None
    assert info.content_type.value == "application/dtmf-relay"
    assert isinstance(got[0], SipResponse)
    assert not call.siprec_send_indialog("BYE")
    assert not call.siprec_send_indialog("INFO", [("Call-ID", "x")])
    assert call.siprec_send_indialog("INFO", [("X-Key", "6")], b"Signal=6", "application/dtmf-relay")
    assert not call.siprec_send_indialog("INFO", instance="none")
    world.end(call)
    world.assert_clean()


def test_the_legacy_media_type_and_credentials_by_profile() -> None:
    world = World(
        profile={"profile": "legacy-metadata-type", "username": "src", "password": "pw", "realm": "recorders"}
    )
    server = DigestServer(world.clock, "recorders")

    def invited(call: IncomingCall) -> None:
        if server.verify(call.invite, lambda user: "pw" if user == "src" else None).ok:
            world.srs.answer_call(call)
        else:
            call.answer(401, headers=server.challenge())

    world.srs.on_invite = invited
    call = world.answered_call()
    assert world.state(call) == "active"
    assert len(world.srs.calls) == 2
    assert [p.media_type for p in parts_of(world.srs.requests[1])] == ["application/sdp", "application/rs-metadata"]
    world.end(call)
    world.assert_clean()


def test_an_srs_that_knows_the_older_media_type_only_is_asked_again_with_it() -> None:
    world = World()

    def invited(call: IncomingCall) -> None:
        if find_part(call.invite, "application/rs-metadata+xml", "recording-session") is None:
            world.srs.answer_call(call)
        else:
            call.answer(415, headers=(("Accept", "application/sdp, application/rs-metadata"),))

    world.srs.on_invite = invited
    call = world.answered_call()
    assert world.state(call) == "active"
    assert world.names() == ["START"]
    assert world.events[0].callid == world.srs.requests[1].call_id != world.srs.requests[0].call_id
    world.end(call)
    world.clock.run_for(2)
    assert world.srs.requests[-1].content_type is not None
    assert world.srs.requests[-1].content_type.value == "application/rs-metadata"
    world.assert_clean()


def test_on_failure_end_call_hangs_up() -> None:
    world = World()
    ended: list[str] = []
    world.service.hang_up = lambda call, reason: ended.append(f"{call.call_id} {reason}")
    world.service.set_profiles({"default": RecordingProfile(srs="sip:srs@10.0.0.2", on_failure="end-call")})
    world.srs.status = 403
    call = world.answered_call()
    assert ended == ["cs1@a Forbidden"]
    world.end(call)
    assert len(ended) == 1
    world.assert_clean()
    world.service.hang_up = None
    with pytest.raises(ValueError, match="end-call"):
        world.service.set_profiles({"x": RecordingProfile(srs="sip:a", on_failure="end-call")})


def test_a_subscriber_that_fails_disturbs_nobody() -> None:
    world = World()
    seen: list[str] = []

    def bad(event: SiprecEvent) -> None:
        raise RuntimeError("no")

    world.service.events.subscribe(bad)
    unsubscribe = world.service.events.subscribe(lambda event: seen.append(event.name), ["E_SIPREC_START"])
    call = world.answered_call()
    assert seen == ["E_SIPREC_START"]
    unsubscribe()
    world.end(call)
    world.assert_clean()
    assert seen == ["E_SIPREC_START"]


def test_a_media_server_that_dies_ends_the_recording_cleanly() -> None:
    world = World()
    call = world.answered_call()
    world.media.subscriptions.clear()
    world.service.call_media_failed(call, "no pong")
    world.clock.run_for(2)
    assert world.names() == ["START", "FAILED", "STOP"]
    assert world.srs.ended_reasons == ["bye"]
    world.end(call)
    world.assert_clean()


@pytest.mark.parametrize("when", ["active", "paused", "pausing", "resuming"])
@pytest.mark.parametrize("same", [False, True])
def test_a_call_that_goes_to_another_media_server_is_recorded_from_there(when: str, same: bool) -> None:
    world = World()
    call = world.answered_call()
    before = world.media
    labels = [line.label for line in world.srs.offers[0].media]
    if when != "active":
        call.siprec_pause_recording()
        if when == "pausing":  # asked, and never answered
            before.delay = 3.0
            world.clock.run_for(0.1)
        else:
            world.clock.run_for(2)
    if when == "resuming":
        before.delay = 3.0
        call.siprec_resume_recording()
        world.clock.run_for(0.1)
    if same:  # started anew, and knows nothing
        before.delay = 0.005
        before.targets.clear()
        before.subscriptions.clear()
        before.paused.clear()
        after = before
    else:
        after = FakeMediaServer(world.clock)
        after.parties = before.parties
        call.media = after
    before.fail |= set() if same else {"pause", "resume", "subscribe_answer", "unsubscribe", "subscribe_request"}
    world.service.call_media_moved(call)
    world.clock.run_for(8)
    flows = when in ("active", "resuming")
    assert world.state(call) == ("active" if flows else "paused")
    assert after.flowing() == (labels if flows else [])
    if not flows:
        assert [line.direction for line in world.srs.offers[-1].media] == ["inactive", "inactive"]
        call.siprec_resume_recording()
        world.clock.run_for(8)
        assert after.flowing() == labels
    assert [line.label for line in world.srs.offers[-1].media] == labels
    assert not {"FAILED", "STOP", "UPDATE_FAILED"} & set(world.names())
    before.subscriptions.clear()
    world.end(call)
    world.assert_clean()
    assert not after.subscriptions


@pytest.mark.parametrize("late", ["subscribe", "answer"])
@pytest.mark.parametrize("fails", [False, True])
def test_a_late_answer_of_the_old_media_server_after_failover_means_nothing(late: str, fails: bool) -> None:
    world = World()
    before, after = world.media, FakeMediaServer(world.clock, "10.0.0.19")
    after.parties, after.numbers = before.parties, 100
    before.fail |= {late} if fails else set()
    if late == "subscribe":
        before.delay = 3.0
    call = world.answered_call(run=False)
    world.clock.run_for(0.01)
    before.delay = 3.0
    world.clock.run_for(0.5)
    assert before.log[-1] == late
    call.media = after
    world.service.call_media_moved(call)
    world.clock.run_for(2 if late == "subscribe" else 6)
    offers = len(world.srs.offers)
    requests = list(after.log)
    assert requests == ["subscribe", "answer"]
    world.clock.run_for(5)  # now it has answered
    assert (len(world.srs.offers), after.log) == (offers, requests)
    assert after.flowing() == ["1", "2"]
    call.siprec_pause_recording()
    world.clock.run_for(2)
    assert {line.connection.address for line in world.srs.offers[-1].media if line.connection} == {"10.0.0.19"}
    assert after.paused == set(after.subscriptions)
    assert world.names() == ["START", "PAUSED"]
    before.subscriptions.clear()
    world.end(call)
    world.assert_clean()
    assert not after.subscriptions


# -- every state, every moment, a bad network --------------------------------------------------------------------------


@pytest.mark.parametrize("block", range(8))
def test_whenever_the_call_ends_nothing_is_left(block: int) -> None:
    for seed in range(block * 25, block * 25 + 25):
        choose = random.Random(seed)
        world = World(
            seed,
            profile={
                "srs": choose.choice(["sip:srs@10.0.0.2", "sip:10.0.0.77;transport=tcp, sip:srs@10.0.0.2"]),
                "setup_timeout": 3.0,
                "updates": choose.choice(["partial", "complete"]),
            },
        )
        quality = LinkQuality(loss=choose.choice([0.0, 0.1, 0.3]), duplicate=0.1, delay=0.02, jitter=0.2)
        world.network.link("10.0.0.1", "10.0.0.2", quality)
        world.srs.answer_delay = choose.choice([0.0, 0.3, 2.0])
        world.srs.status = choose.choice([200, 200, 200, 200, 486])
        world.media.delay = choose.choice([0.001, 0.05, 0.5])
        world.media.fail = set(
            choose.choice([[], [], [], ["subscribe"], ["answer"], ["pause"], ["resume"], ["unsubscribe"]])
        )
        call = world.answered_call(run=False)
        for _ in range(choose.randint(0, 8)):
            world.clock.run_for(choose.choice([0.0, 0.01, 0.1, 0.7, 3.0]))
            match choose.randrange(7):
                case 0:
                    call.siprec_pause_recording()
                case 1:
                    call.siprec_resume_recording()
                case 2:
                    direction = choose.choice(["sendrecv", "sendonly", "inactive"])
                    call.caller_sdp = party_sdp("10.1.1.1", direction)
                    world.service.call_media_changed(call)
                case 3:
                    call.callee_sdp = party_sdp("10.2.2.2", formats=choose.choice(["0", "8", "0 8"]))
                    world.media.parties[call.to_tag] = call.callee_sdp
                    world.service.call_media_changed(call)
                case 4 if world.srs.calls:
                    snapshot = f'<requestsnapshot xmlns="{NAMESPACE}"/>'.encode()
                    disposition = (("Content-Disposition", "recording-session"),)
                    world.srs.call.update(snapshot, "application/rs-metadata+xml", disposition)
                case 5 if world.srs.calls and world.srs.call.state == "confirmed":
                    world.srs.call.reinvite(
                        world.srs.answer_to(world.srs.calls[-1].invite, choose.choice(["recvonly", "inactive"]))
                    )
                case 6 if world.srs.calls and choose.random() < 0.3:
                    world.srs.call.bye()
                case _:
                    pass
        world.clock.run_for(choose.choice([0.0, 0.003, 0.02, 0.2, 1.0, 5.0]))
        world.end(call)
        if "unsubscribe" in world.media.fail:
            world.clock.run_for(10)
            world.media.subscriptions.clear()
        world.assert_clean()
        started = {e.callid for e in world.events if e.name == "E_SIPREC_START"}
        stopped = [e.callid for e in world.events if e.name == "E_SIPREC_STOP"]
        assert sorted(started) == sorted(stopped), seed
