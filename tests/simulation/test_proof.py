"""What the proof says of a recording: `complete` is earned, and what is not recorded is named."""

from __future__ import annotations

from typing import Any

import pytest

from siprec.recording.recording_profile import RecordingProfile
from siprec.sip.message import SipRequest
from siprec.sip.useragent import IncomingCall
from tests.simulation.proofworld import ProofWorld

COUNT = "{label};packets={packets};lost=0;undecoded={undecoded};unwritten={unwritten};state={state}"


def tells(w: ProofWorld, packets: int, *, undecoded: int = 0, unwritten: int = 0, state: str = "complete") -> None:
    """The SRS tells its count in the answer to our BYE."""
    values = ", ".join(
        COUNT.format(label=label, packets=packets, undecoded=undecoded, unwritten=unwritten, state=state)
        for label in (1, 2)
    )
    w.srs.bye_received = lambda call, request, reply: reply(  # type: ignore[method-assign]
        200, headers=[("X-Siprec-Recorded", values)]
    )


def test_a_call_that_was_copied_and_reported_on_is_complete() -> None:
    w = ProofWorld()
    call = w.answered_call()
    w.clock.run_for(20.0)
    proof = w.proved(call)
    assert (proof.verdict, proof.reasons, proof.confirmed) == ("complete", [], True)
    assert [(s.label, s.received == s.forked, s.uncopied) for s in proof.streams] == [("1", True, 0), ("2", True, 0)]
    assert len(proof.notes) == 2
    w.assert_clean()


@pytest.mark.parametrize("confirm", ["if-available", "required"])
def test_an_srs_that_never_reports_confirms_nothing(confirm: str) -> None:
    w = ProofWorld(profile={"confirm": confirm})
    w.server.reporting = False
    proof = w.proved(w.answered_call())
    assert proof.verdict == ("unconfirmed" if confirm == "if-available" else "partial")
    assert proof.reasons[0] == "caller audio: the SRS has reported nothing of what it received"


@pytest.mark.parametrize(
    ("told", "verdict", "reason"),
    [
        ({"packets": 10_000}, "complete", ""),
        ({"packets": 10_000, "state": "failed"}, "partial", "could not write all of the recording"),
        ({"packets": 10_000, "unwritten": 7}, "partial", "the SRS did not write 7 packets"),
        ({"packets": 10_000, "undecoded": 9}, "partial", "9 packets are not decodable by the SRS"),
        ({"packets": 100}, "partial", "packets did not reach the SRS"),
    ],
)
def test_our_recorder_s_own_count_decides(told: dict[str, Any], verdict: str, reason: str) -> None:
    w = ProofWorld()
    w.server.reporting = False
    tells(w, **told)
    proof = w.proved(w.answered_call())
    assert (proof.verdict, proof.confirmed) == (verdict, "packets" in told and told["packets"] > 1000)
    assert reason in " ".join(proof.reasons)
    assert proof.sessions[0].stored == told.get("state", "complete")


def test_a_count_that_cannot_be_read_is_none() -> None:
    w = ProofWorld()
    w.srs.bye_received = lambda call, request, reply: reply(  # type: ignore[method-assign]
        200,
        headers=[("X-Siprec-Recorded", "1;packets=;state=complete, 2;packets=9999999999999999999;state=complete, ;")],
    )
    proof = w.proved(w.answered_call())
    assert proof.verdict == "complete"
    assert [s.srs_packets for s in proof.streams] == [None, None]


def test_a_pause_is_withheld_and_no_loss() -> None:
    w = ProofWorld()
    call = w.answered_call()
    w.service.siprec_pause_recording(call, by="api: agent")
    w.clock.run_for(10.0)
    w.service.siprec_resume_recording(call, by="api: agent")
    w.clock.run_for(10.0)
    proof = w.proved(call)
    assert (proof.verdict, proof.reasons) == ("complete", [])
    assert all(490 <= s.withheld <= 510 and s.received == (s.forked or 0) + s.withheld for s in proof.streams)
    assert any(note.startswith("paused by api: agent for 10") for note in proof.notes)


def test_a_call_paused_to_its_end_is_complete_too() -> None:
    w = ProofWorld()
    call = w.answered_call()
    w.service.siprec_pause_recording(call)
    w.clock.run_for(30.0)
    assert w.proved(call).verdict == "complete"


def test_a_hole_between_two_recordings_is_not_called_kept() -> None:
    w = ProofWorld()
    call = w.answered_call()
    w.service.siprec_stop_recording(call, by="api: agent")
    w.clock.run_for(151.0)
    w.service.record(call)
    w.clock.run_for(10.0)
    proof = w.proved(call)
    assert proof.verdict == "partial"
    assert any("stopped by api: agent" in reason for reason in proof.reasons)
    assert any("packets came while nothing was copied" in reason for reason in proof.reasons)
    assert [gap.kept for gap in proof.gaps if gap.end - gap.start > 100] == [False]


def test_a_late_srs_is_complete_where_the_packets_prove_that_nothing_is_missing() -> None:
    w = ProofWorld(profile={"setup_timeout": 30.0})
    w.srs.answer_delay = 8.0
    call = w.answered_call()
    w.clock.run_for(20.0)
    proof = w.proved(call)
    assert proof.verdict == "complete"
    assert [gap.kept for gap in proof.gaps] == [True]


def test_counters_that_nobody_can_ask_for_any_more_leave_it_open() -> None:
    w = ProofWorld()
    call = w.answered_call()
    w.server.down = True
    proof = w.proved(call)
    assert proof.verdict == "unconfirmed"
    assert proof.reasons[0] == "caller audio: there are no counters of the media server"
    w = ProofWorld(profile={"setup_timeout": 30.0})
    w.srs.answer_delay = 8.0
    call = w.answered_call()
    w.clock.run_for(20.0)
    w.server.down = True
    proof = w.proved(call)
    assert proof.verdict == "partial"
    assert not proof.gaps[0].kept


@pytest.mark.parametrize("moved", [True, False])
def test_a_call_whose_media_server_died_is_not_complete(moved: bool) -> None:
    w = ProofWorld()
    call = w.answered_call()
    if moved:
        w.proofs.call_media_moved(call)
        w.service.call_media_moved(call)
    else:
        w.service.call_media_failed(call, "the relay ended")
    w.clock.run_for(10.0)
    proof = w.proved(call)
    assert proof.verdict == "partial"
    assert ("the media server of the call was lost" if moved else "the relay ended") in " ".join(proof.reasons)


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("seconds", [1.0, 20.0])
def test_a_stream_on_which_nothing_came_is_not_complete_unless_it_was_held(seconds: float, held: bool) -> None:
    w = ProofWorld()
    w.server.talk = False
    call = w.new_call()
    call.record()
    if held:
        call.caller_sdp = call.caller_sdp.replace(b"a=sendrecv", b"a=inactive")
    w.answer(call)
    w.clock.run_for(seconds)
    proof = w.proved(call)
    assert proof.verdict == ("complete" if held else "unconfirmed" if seconds < 5 else "partial")
    assert bool(proof.reasons) is not held


def test_silence_counts_only_while_the_parties_agreed_to_talk() -> None:
    w = ProofWorld()
    w.server.talk = False
    call = w.answered_call()
    talking = call.caller_sdp
    call.caller_sdp = talking.replace(b"a=sendrecv", b"a=inactive")
    w.proofs.call_media_changed(call, "caller")
    w.service.call_media_changed(call)
    w.clock.run_for(60.0)
    proof = w.proved(call)
    assert proof.verdict == "unconfirmed"
    assert all(2.5 < s.silent < 4 for s in proof.streams)


def test_a_codec_that_the_srs_declined_is_named() -> None:
    w = ProofWorld()
    plain = w.srs.answer_to

    def only_pcmu(request: SipRequest, direction: Any = None) -> bytes:
        return plain(request, direction).replace(b"RTP/AVP 0 8", b"RTP/AVP 0").replace(b"a=rtpmap:8 PCMA/8000\r\n", b"")

    w.srs.answer_to = only_pcmu  # type: ignore[method-assign]
    proof = w.proved(w.answered_call())
    assert proof.verdict == "unconfirmed"
    assert proof.reasons == [f"{leg} audio: the SRS does not take PCMA" for leg in ("caller", "callee")]


@pytest.mark.parametrize(
    ("reason", "verdict"), [("shutdown", "partial"), ("idle", "partial"), ("expired", "unconfirmed")]
)
def test_a_call_that_may_go_on_is_not_complete(reason: str, verdict: str) -> None:
    w = ProofWorld()
    call = w.answered_call()
    w.end(call, reason=reason)
    assert w.proved(call).verdict == verdict


def test_calls_that_outlive_a_drain_are_said_to_go_on_unrecorded() -> None:
    w = ProofWorld()
    call = w.answered_call()
    w.service.stop_all()
    w.clock.run_for(5.0)
    w.proofs.close()
    proof = w.lines[-1]
    assert proof.call_id == call.call_id
    assert "the call goes on unrecorded: siprec serve ended" in proof.reasons  # type: ignore[union-attr]
    assert proof.verdict == "partial"  # type: ignore[union-attr]


def test_a_recording_that_ends_by_the_srs_is_partial_with_its_reason() -> None:
    w = ProofWorld()
    call = w.answered_call()
    assert isinstance(w.srs.call, IncomingCall)
    w.srs.call.bye()
    w.clock.run_for(20.0)
    proof = w.proved(call)
    assert proof.verdict == "partial"
    assert any("ended by SRS" in reason for reason in proof.reasons)


def test_what_is_recorded_goes_on_after_a_reload_without_its_profile() -> None:
    w = ProofWorld()
    running = w.answered_call()
    ringing = w.new_call()
    ringing.record()
    w.service.set_profiles({})
    w.clock.run_for(2.0)
    w.answer(ringing)
    w.clock.run_for(20.0)
    assert w.states(running) == {"default": "active"}
    assert w.states(ringing) == {"default": "active"}
    later = w.new_call()
    later.record()
    w.answer(later)
    w.clock.run_for(3.0)
    assert w.states(later) == {}
    w.service.set_profiles({"default": RecordingProfile(srs="sip:srs@10.0.0.2")})
    assert [w.proved(call).verdict for call in (running, ringing, later)] == ["complete", "complete", "none"]
    assert w.lines[-1].reasons == ["no such recording profile"]  # type: ignore[union-attr]
    w.assert_clean()


def test_a_stream_that_ended_in_mid_call_is_not_vouched_for_and_spoils_nothing_else() -> None:
    w = ProofWorld()
    call = w.new_call()
    call.record()
    for tag, name in ((call.from_tag, "caller_sdp"), (call.to_tag, "callee_sdp")):
        octets = getattr(call, name) + b"m=video 4002 RTP/AVP 96\r\na=rtpmap:96 VP8/90000\r\n"
        setattr(call, name, octets)
        w.media.parties[tag] = octets
    w.answer(call)
    w.clock.run_for(10.0)
    for tag, name in ((call.from_tag, "caller_sdp"), (call.to_tag, "callee_sdp")):
        octets = getattr(call, name).replace(b"m=video 4002", b"m=video 0")
        setattr(call, name, octets)
        w.media.parties[tag] = octets
    w.proofs.call_media_changed(call, "caller")
    w.service.call_media_changed(call)
    w.clock.run_for(10.0)
    proof = w.proved(call)
    assert proof.verdict == "unconfirmed"
    assert proof.reasons == [
        f"{leg} video: it ended in mid-call, and its packets were not counted" for leg in ("caller", "callee")
    ]


@pytest.mark.parametrize("early", [False, True], ids=["route", "script before the answer"])
def test_a_recording_that_was_wanted_and_cannot_be_is_proved_to_be_none(early: bool) -> None:
    w = ProofWorld()
    call = w.new_call()
    call.media = call.media_session = None
    call.media_error = "rtpengine: no reply in time"
    if early:
        call.media_bypassed = True
        assert "no relay media" in w.service.start(call, "sip:srs@10.0.0.2")
    else:
        call.record()
    w.answer(call)
    w.clock.run_for(10.0)
    proof = w.proved(call)
    assert (proof.verdict, proof.sessions) == ("none", [])
    assert "rtpengine: no reply in time" in proof.reasons[0]
    assert proof.wanted_by == ("" if early else "script")
    assert w.names() == ["FAILED"]


def test_what_failed_in_a_call_that_was_never_answered_leaves_no_proof() -> None:
    w = ProofWorld()
    call = w.new_call()
    w.service.not_recorded(call, "default", "the script failed")
    w.end(call, reason="486")
    assert w.lines == []
    assert len(w.proofs) == 0
    answered = w.new_call()
    w.service.not_recorded(answered, "default", "the script failed")
    w.answer(answered)
    w.clock.run_for(2.0)
    assert w.proved(answered).reasons == ["the script failed"]


def test_a_bye_that_nobody_answers_is_no_confirmation() -> None:
    w = ProofWorld()
    w.server.reporting = False
    call = w.answered_call()

    w.srs.bye_received = lambda call, request, reply: None  # type: ignore[method-assign]
    proof = w.proved(call, 60.0)
    assert proof.verdict != "complete"
    assert not proof.confirmed
