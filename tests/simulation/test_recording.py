"""Recordings of calls from the SRC to an SRS over the simulated network: the plain course and its accidents."""

from __future__ import annotations

from siprec.sip.multipart import parts_of
from tests.simulation.recording_world import Q, World


def test_a_call_is_recorded_from_answer_to_end() -> None:
    world = World()
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
