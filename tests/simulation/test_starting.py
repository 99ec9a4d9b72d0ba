"""When a recording begins: with early media, with the answer, from a reply route, in mid-call (R3, R9, SCN-13, 14)."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from siprec import sdp
from siprec.proxy.call import Call as ProxyCall
from siprec.proxy.options import ProxyOptions
from siprec.proxy.routes import RouteRule, Rules
from siprec.proxy.script import Reply, Request, Script
from siprec.sip.date import parse_date
from siprec.sip.message import parse_datagram
from siprec.sip.multipart import parts_of
from tests.simulation.phones import ANSWER, SDP
from tests.simulation.recording_world import Q, Srs, World
from tests.simulation.transferworld import SRS, TransferWorld

ANSWER_C = ANSWER.replace(b"o=- 1 1", b"o=carol 77 1").replace(b"10.0.0.2", b"10.0.0.3")
SECOND = "10.0.0.91"
ALWAYS = ProxyOptions(trusted=["10.0.0.0/8"], media_use="always")
URI = f"sip:srs@{SRS}"


def early(body: bytes = ANSWER, **identity: str) -> Any:
    headers = tuple((name.replace("_", "-"), value) for name, value in identity.items())
    return lambda call: call.answer(183, body, headers=headers)


def fork_rules(**record: str) -> Rules:
    return Rules([RouteRule(method="INVITE", targets=["sip:10.0.0.2", "sip:10.0.0.3"], fork=True)])


def aors(document: Any) -> dict[str, str]:
    return {
        p.get("participant_id"): p.find(f"{Q}nameID").get("aor")
        for p in document.iter(f"{Q}participant")
        if p.find(f"{Q}nameID") is not None
    }


def left(document: Any) -> list[str]:
    """Ids of the participants that this document says have left the session."""
    return [
        a.get("participant_id")
        for a in document.iter(f"{Q}participantsessionassoc")
        if a.find(f"{Q}disassociate-time") is not None
    ]


def second_srs(w: TransferWorld, host: str = SECOND) -> Srs:
    world = World()
    world.clock, world.network = w.clock, w.network
    return Srs(world, host)


def states(w: TransferWorld) -> dict[str, str]:
    return {info.instance: info.state for info in w.service.info()}


def hang_up(w: TransferWorld) -> None:
    w.alice.agent.calls()[0].bye()
    w.clock.run_for(5)


# -- early media -------------------------------------------------------------------------------------------------------


def test_early_media_are_recorded_and_go_on_into_the_answered_call() -> None:
    w = TransferWorld(start="early", keepalive=0.0)
    w.bob.take = early()
    w.call()
    w.clock.run_for(2)
    assert states(w) == {"default": "active"}
    assert w.server.flowing() == ["1", "2"]
    complete = w.srs.documents[0]
    assert list(aors(complete).values()) == ["sip:alice@example.com", "sip:bob@example.com"]
    began = complete.findtext(f"{Q}session/{Q}start-time")
    by_label = {s.findtext(f"{Q}label"): s.get("stream_id") for s in complete.iter(f"{Q}stream")}
    caller, callee = aors(complete)
    sends = {a.get("participant_id"): a.findtext(f"{Q}send") for a in complete.iter(f"{Q}participantstreamassoc")}
    assert sends == {caller: by_label["1"], callee: by_label["2"]}
    w.clock.run_for(20)
    w.bob.calls[0].answer(200, ANSWER)
    w.clock.run_for(2)
    # The same callee, the same media: nothing new for the SRS.
    assert w.srs.methods == ["INVITE"]
    assert w.told() == ["START"]
    hang_up(w)
    final = w.srs.documents[-1]
    assert final.findtext(f"{Q}session/{Q}start-time") in (None, began)
    assert final.find(f"{Q}session/{Q}stop-time") is not None
    assert w.told() == ["START", "STOP"]
    w.finish()


def test_without_the_setting_early_media_are_not_recorded() -> None:
    w = TransferWorld()
    w.bob.take = early()
    w.call()
    w.clock.run_for(5)
    assert w.srs.requests == []
    assert "subscribe" not in w.server.log
    w.bob.calls[0].answer(200, ANSWER)
    w.clock.run_for(2)
    assert states(w) == {"default": "active"}
    hang_up(w)
    w.finish()


def test_ringing_without_a_description_begins_nothing() -> None:
    w = TransferWorld(start="early")
    w.bob.take = lambda call: call.answer(180)
    w.call()
    w.clock.run_for(5)
    assert w.srs.requests == []
    w.bob.calls[0].answer(200, ANSWER)
    w.clock.run_for(2)
    assert states(w) == {"default": "active"}
    hang_up(w)
    w.finish()


@pytest.mark.parametrize("offer", ["in the INVITE", "in the 183"])
def test_reliable_early_media_begin_when_both_descriptions_are_known(offer: str) -> None:
    w = TransferWorld(start="early")
    pracks: list[str] = []

    def prack(call: object, response: object) -> tuple[bytes, str]:
        pracks.append("PRACK")
        assert w.srs.requests == []
        return (SDP, "application/sdp") if offer == "in the 183" else (b"", "")

    w.alice.diary.prack = prack  # type: ignore[method-assign]
    w.bob.take = early(Require="100rel", RSeq="1")
    w.call(body=SDP if offer == "in the INVITE" else b"", supported=("100rel", "timer"))
    w.clock.run_for(3)
    assert pracks == ["PRACK"]
    assert states(w) == {"default": "active"}
    call = w.journal.calls[0]
    assert (call.caller_sdp, call.callee_sdp) == (SDP, ANSWER)
    assert [line.label for line in w.srs.offers[0].media] == ["1", "2"]
    w.bob.calls[0].answer(200, b"" if offer == "in the 183" else ANSWER)
    w.clock.run_for(2)
    assert w.srs.methods == ["INVITE"]
    hang_up(w)
    w.finish()


@pytest.mark.parametrize("policy", ["header", "asserted"])
def test_another_branch_answers_than_the_one_with_early_media(policy: str) -> None:
    w = TransferWorld(rules=fork_rules(), start="early", identity=policy)
    bob, carol = w.phones[1], w.phones[2]
    bob.take = early(P_Asserted_Identity="<sip:bob@10.0.0.2>")
    carol.take = lambda call: call.answer(180)
    w.call("sip:sales@example.com")
    w.clock.run_for(3)
    assert states(w) == {"default": "active"}
    first = w.srs.documents[0]
    alice, early_callee = aors(first)
    assert aors(first)[early_callee] == ("sip:bob@10.0.0.2" if policy == "asserted" else "sip:bob@example.com")
    carol.calls[0].answer(200, ANSWER_C, headers=(("P-Asserted-Identity", "<sip:carol@10.0.0.3>"),))
    w.clock.run_for(3)
    call = w.journal.calls[0]
    assert call.to_tag == carol.calls[0].local_tag
    assert call.callee_sdp == ANSWER_C
    # One RS, whose streams are now those of Carol.
    assert w.srs.methods == ["INVITE", "INVITE"]
    assert [name for name in w.told() if name != "UPDATED"] == ["START"]
    assert [s.from_tag for s in next(iter(w.server.subscriptions.values())).streams] == [call.from_tag, call.to_tag]
    assert sorted(w.server.flowing()) == ["1", "2"]
    if policy == "asserted":
        update = w.srs.documents[1]
        (new,) = set(aors(update)) - {alice, early_callee}
        assert aors(update)[new] == "sip:carol@10.0.0.3"
        assert left(update) == [early_callee]
    else:
        # As far as From and To tell it is the same party, at another telephone: nothing to be told.
        assert len(w.srs.documents) == 1
    hang_up(w)
    stopped = w.srs.documents[-1]
    assert stopped.find(f"{Q}session/{Q}stop-time") is not None
    w.finish()


def test_early_media_move_to_another_branch_before_the_answer() -> None:
    w = TransferWorld(rules=fork_rules(), start="early", identity="asserted")
    bob, carol = w.phones[1], w.phones[2]
    bob.take = early(P_Asserted_Identity="<sip:bob@10.0.0.2>")
    carol.take = lambda call: call.answer(180)
    w.call("sip:sales@example.com")
    w.clock.run_for(2)
    carol.calls[0].answer(183, ANSWER_C, headers=(("P-Asserted-Identity", "<sip:carol@10.0.0.3>"),))
    w.clock.run_for(2)
    assert "sip:carol@10.0.0.3" in aors(w.srs.documents[1]).values()
    # ... and back: Bob, who was there before, answers.
    bob.calls[0].answer(200, ANSWER, headers=(("P-Asserted-Identity", "<sip:bob@10.0.0.2>"),))
    w.clock.run_for(2)
    call = w.journal.calls[0]
    assert [s.from_tag for s in next(iter(w.server.subscriptions.values())).streams] == [call.from_tag, call.to_tag]
    assert "sip:bob@10.0.0.2" in aors(w.srs.documents[2]).values()
    hang_up(w)
    assert w.told() == ["START", "UPDATED", "UPDATED", "STOP"]
    w.finish()


@pytest.mark.parametrize(("end", "cause"), [("486", "486"), ("cancel", "487")])
def test_early_media_of_a_call_that_is_never_answered(end: str, cause: str) -> None:
    w = TransferWorld(start="early")
    w.bob.take = early()
    outgoing = w.call()
    w.clock.run_for(2)
    assert w.told() == ["START"]
    if end == "486":
        w.bob.calls[0].answer(486)
    else:
        outgoing.cancel()
    w.clock.run_for(5)
    final = w.srs.documents[-1]
    assert final.find(f"{Q}session/{Q}stop-time") is not None
    reason = final.find(f"{Q}session/{Q}reason")
    assert (reason.get("protocol"), reason.get("cause")) == ("SIP", cause)
    assert w.srs.ended_reasons == ["bye"]
    assert w.told() == ["START", "STOP"]
    w.finish()


def test_a_call_that_fails_while_the_srs_still_thinks_takes_the_invite_back() -> None:
    w = TransferWorld(start="early")
    w.srs.on_invite = lambda call: call.answer(180)
    w.bob.take = early()
    w.call()
    w.clock.run_for(1)
    assert states(w) == {"default": "inviting"}
    w.bob.calls[0].answer(486)
    w.clock.run_for(3)
    assert w.srs.ended_reasons == ["cancelled"]
    assert w.told() == []
    w.finish()


@pytest.mark.parametrize("moment", [0.0, 0.004, 0.008, 0.012, 0.02, 0.03, 0.05, 0.3])
def test_the_answer_of_another_branch_may_come_at_any_moment_of_the_set_up(moment: float) -> None:
    w = TransferWorld(rules=fork_rules(), start="early", identity="asserted")
    bob, carol = w.phones[1], w.phones[2]
    bob.take = early(P_Asserted_Identity="<sip:bob@10.0.0.2>")
    asserted = (("P-Asserted-Identity", "<sip:carol@10.0.0.3>"),)
    carol.take = lambda call: None
    w.call("sip:sales@example.com")
    w.clock.call_later(0.03 + moment, lambda: carol.calls[0].answer(200, ANSWER_C, headers=asserted))
    w.clock.run_for(5)
    call = w.journal.calls[0]
    assert call.to_tag == carol.calls[0].local_tag
    assert states(w) == {"default": "active"}
    assert [s.from_tag for s in next(iter(w.server.subscriptions.values())).streams] == [call.from_tag, call.to_tag]
    names = {ident: aor for document in w.srs.documents for ident, aor in aors(document).items()}
    assert "sip:carol@10.0.0.3" in names.values()
    hang_up(w)
    assert [name for name in w.told() if name != "UPDATED"] == ["START", "STOP"]
    w.finish()


# -- from a script -----------------------------------------------------------------------------------------------------


def starting_at(status: int, results: list[bool], start: str = "") -> Script:
    async def reply(reply: Reply) -> None:
        if reply.request.method == "INVITE" and reply.status == status:
            results.append(reply.call.siprec_start_recording(URI, start=start))  # type: ignore[arg-type]

    async def request(request: Request) -> None:
        request.forward()

    return Script({"request": request, "reply": reply})


def test_from_the_reply_route_of_the_183_it_begins_with_the_early_media() -> None:
    results: list[bool] = []
    w = TransferWorld(wish=False, script=starting_at(183, results), options=ALWAYS)
    w.bob.take = early()
    w.call()
    w.clock.run_for(2)
    assert results == [True]
    assert states(w) == {"default": "active"}
    w.bob.calls[0].answer(200, ANSWER)
    w.clock.run_for(2)
    hang_up(w)
    assert w.told() == ["START", "STOP"]
    w.finish()


def test_from_the_reply_route_of_the_183_it_waits_for_the_answer_if_told_so() -> None:
    results: list[bool] = []
    w = TransferWorld(wish=False, script=starting_at(183, results, "answer"), options=ALWAYS)
    w.bob.take = early()
    w.call()
    w.clock.run_for(2)
    assert results == [True]
    assert states(w) == {"default": "idle"}
    w.bob.calls[0].answer(200, ANSWER)
    w.clock.run_for(2)
    assert states(w) == {"default": "active"}
    hang_up(w)
    w.finish()


@pytest.mark.parametrize("before", ["", "183"])
@pytest.mark.parametrize("start", ["answer", "early"])
def test_from_the_reply_route_of_the_200_it_begins_at_the_answer(before: str, start: str) -> None:
    results: list[bool] = []
    w = TransferWorld(wish=False, script=starting_at(200, results), options=ALWAYS, start=start)
    if before:
        w.bob.take = early()
    else:
        w.bob.take = lambda call: call.answer(180)
    w.call()
    w.clock.run_for(3)
    assert w.srs.requests == []
    w.bob.calls[0].answer(200, ANSWER)
    w.clock.run_for(2)
    assert results == [True]
    sent = [line for line in w.lines() if " 200" in line or line.startswith("P>10.0.0.90 INVITE")]
    assert sent[:2] == ["B>P 200", "P>A 200"], "the 200 is forwarded before an SRS is asked"
    assert states(w) == {"default": "active"}
    hang_up(w)
    w.finish()


def test_with_a_late_offer_it_waits_for_the_answer_in_the_ack() -> None:
    results: list[bool] = []
    w = TransferWorld(wish=False, script=starting_at(200, results), options=ALWAYS)
    w.alice.diary.on["answered"] = lambda call, response: w.clock.call_later(0.5, call.ack, SDP)
    w.call(body=b"")
    w.clock.run_for(0.4)
    assert results == [True]
    assert w.srs.requests == []
    w.clock.run_for(3)
    assert states(w) == {"default": "active"}
    assert [line.label for line in w.srs.offers[0].media] == ["1", "2"]
    hang_up(w)
    w.finish()


# -- in mid-call -------------------------------------------------------------------------------------------------------


def established(w: TransferWorld) -> ProxyCall:
    w.call()
    w.clock.run_for(60)
    return w.journal.calls[0]


def test_in_mid_call_with_the_media_at_hand() -> None:
    w = TransferWorld(wish=False, options=ALWAYS)
    call = established(w)
    assert call.siprec_start_recording(URI)
    w.clock.run_for(2)
    assert states(w) == {"default": "active"}
    document = w.srs.documents[0]
    assert list(aors(document).values()) == ["sip:alice@example.com", "sip:bob@example.com"]
    times = {t.text for t in document.iter(f"{Q}start-time")}
    attached = document.findtext(f"{Q}sessionrecordingassoc/{Q}associate-time")
    assert attached is not None
    assert times < {attached} | times, "SCN-14: the session began before it was recorded"
    assert attached not in times
    hang_up(w)
    w.finish()


@pytest.mark.parametrize("when", ["established", "180"])
def test_without_relay_media_it_is_refused_with_the_reason(when: str, caplog: pytest.LogCaptureFixture) -> None:
    results: list[bool] = []
    w = TransferWorld(wish=False, script=starting_at(180, results))
    w.bob.take = lambda call: call.answer(180)
    with caplog.at_level(logging.WARNING, "siprec.recording"):
        if when == "established":
            w.bob.take = lambda call: call.answer(200, ANSWER)
            call = established(w)
            results[:] = [call.siprec_start_recording(URI)]
            assert "no relay media" in w.service.start(call, URI)
        else:
            w.call()
            w.clock.run_for(0.5)
            w.bob.calls[0].answer(200, ANSWER)
    assert results == [False]
    assert "no relay media" in caplog.text
    assert w.service.info() == []
    w.clock.run_for(5)
    assert w.srs.requests == []
    assert w.server.log == []
    assert w.told() == ["FAILED"]  # told once, however often it is tried
    assert "no relay media" in w.events[0].reason
    hang_up(w)
    w.finish()


def test_engaged_twice_is_a_warning_and_no_second_rs(caplog: pytest.LogCaptureFixture) -> None:
    w = TransferWorld(wish=False, options=ALWAYS)
    call = established(w)
    assert call.siprec_start_recording(URI)
    with caplog.at_level(logging.WARNING, "siprec.recording"):
        assert not call.siprec_start_recording(URI)
        w.clock.run_for(2)
        assert not call.siprec_start_recording(URI)
    assert caplog.text.count("engaged already") == 2
    assert w.srs.methods == ["INVITE"]
    hang_up(w)
    assert w.told() == ["START", "STOP"]
    w.finish()


def test_three_instances_begin_early_at_the_answer_and_in_mid_call() -> None:
    second = f"sip:srs@{SECOND}"
    third = "sip:srs@10.0.0.92"
    rules = Rules([RouteRule(method="INVITE", record="archive")])
    w = TransferWorld(start="early", rules=rules, others={"archive": {"srs": second}})
    archive, late = second_srs(w), second_srs(w, "10.0.0.92")
    w.bob.take = early()
    w.call()
    w.clock.run_for(2)
    assert states(w) == {"default": "active"}
    w.bob.calls[0].answer(200, ANSWER)
    w.clock.run_for(2)
    assert states(w) == {"default": "active", "archive": "active"}
    assert w.journal.calls[0].siprec_start_recording(third, "late")
    w.clock.run_for(2)
    assert states(w) == {"default": "active", "archive": "active", "late": "active"}
    documents = [srs.documents[0] for srs in (w.srs, archive, late)]
    assert len({d.find(f"{Q}session").get("session_id") for d in documents}) == 1  # ERR-12
    assert len({d.findtext(f"{Q}session/{Q}start-time") for d in documents}) == 1
    assert len({d.findtext(f"{Q}sessionrecordingassoc/{Q}associate-time") for d in documents}) == 3
    w.journal.calls[0].siprec_stop_recording("archive")
    w.clock.run_for(2)
    assert states(w) == {"default": "active", "late": "active"}
    hang_up(w)
    for instance in ("default", "archive", "late"):
        assert w.told(instance) == ["START", "STOP"]
    w.finish()


def test_what_is_stopped_while_it_rings_does_not_begin_again_with_the_answer() -> None:
    w = TransferWorld(start="early")
    w.bob.take = early()
    w.call()
    w.clock.run_for(2)
    assert w.journal.calls[0].siprec_stop_recording()
    w.clock.run_for(2)
    w.bob.calls[0].answer(200, ANSWER)
    w.clock.run_for(2)
    assert w.srs.methods.count("INVITE") == 1
    assert w.service.info() == []
    hang_up(w)
    w.finish()


def test_early_streams_are_told_apart_by_label_in_the_re_offer() -> None:
    """Another branch with video: its stream is a new m-line, the audio keeps its label."""
    video = ANSWER_C + b"m=video 6000 RTP/AVP 96\r\na=rtpmap:96 VP8/90000\r\n"
    offer = SDP + b"m=video 5000 RTP/AVP 96\r\na=rtpmap:96 VP8/90000\r\n"
    w = TransferWorld(rules=fork_rules(), start="early")
    bob, carol = w.phones[1], w.phones[2]
    bob.take = early(ANSWER + b"m=video 0 RTP/AVP 96\r\n")
    carol.take = lambda call: call.answer(180)
    w.call("sip:sales@example.com", offer)
    w.clock.run_for(2)
    carol.calls[0].answer(200, video)
    w.clock.run_for(3)
    last = [r for r in w.srs.requests if r.method == "INVITE"][-1]
    part = next(p for p in parts_of(last) if p.media_type == "application/sdp")
    lines = sdp.parse(part.content).media
    assert [line.kind for line in lines].count("video") >= 1
    assert [line.label for line in lines] == [str(i) for i in range(1, len(lines) + 1)]
    hang_up(w)
    w.finish()


def test_a_start_mode_that_does_not_exist_is_refused() -> None:
    w = TransferWorld(wish=False, options=ALWAYS)
    call = established(w)
    assert not call.siprec_start_recording(URI, start="soon")  # type: ignore[arg-type]
    assert w.service.info() == []
    hang_up(w)
    w.finish()


# -- how far back a recording goes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("engaged", ["by a rule", "in the request route", "in the reply route"])
@pytest.mark.parametrize("before", ["180", "183"])
def test_from_the_answer_on_means_from_when_the_200_came(engaged: str, before: str) -> None:
    results: list[bool] = []

    async def request(request: Request) -> None:
        if engaged == "in the request route":
            request.call.siprec_start_recording(URI)
        request.forward()

    script = starting_at(200, results) if engaged == "in the reply route" else Script({"request": request})
    w = TransferWorld(wish=engaged == "by a rule", script=script, options=ALWAYS)
    w.bob.take = early() if before == "183" else lambda call: call.answer(180)
    w.call()
    w.clock.run_for(30)
    w.server.delay = 0.1  # the media server takes its time with the answer
    w.bob.calls[0].answer(200, ANSWER.replace(b"1 1 IN", b"1 2 IN"))
    w.clock.run_for(5)
    age = w.server.flags[0].preroll
    assert age is not None
    # Not what rang; but where nothing rang, a moment more: packets are faster than a 200.
    assert age == pytest.approx(0.1 if before == "183" else 0.3, abs=0.01)
    hang_up(w)
    w.finish()


def test_in_mid_call_nothing_of_before_is_recorded_and_with_early_media_everything() -> None:
    w = TransferWorld(wish=False, options=ALWAYS)
    call = established(w)
    call.siprec_start_recording(URI)
    w.clock.run_for(2)
    assert w.server.flags[0].preroll == pytest.approx(0.0, abs=0.001)
    hang_up(w)
    w = TransferWorld(start="early")
    w.bob.take = early()
    w.call()
    w.clock.run_for(2)
    assert w.server.flags[0].preroll is None
    w.bob.calls[0].answer(200, ANSWER)
    w.clock.run_for(2)
    hang_up(w)


def test_an_srs_lost_in_mid_call_has_the_media_kept_for_the_next_one() -> None:
    w = TransferWorld()
    w.call()
    w.clock.run_for(3)
    assert [flags.hold for flags in w.server.flags] == [False]
    w.srs.on_request = lambda request, reply: (reply(481), True)[1]  # type: ignore[func-returns-value]
    w.bob.calls[0].reinvite(ANSWER.replace(b"RTP/AVP 0", b"RTP/AVP 0 8").replace(b"1 1 IN", b"1 2 IN"))
    w.clock.run_for(1)
    w.srs.on_request = None
    w.clock.run_for(5)
    assert w.told() == ["START", "STOP", "FAILOVER", "START"]
    assert w.server.flags[-1].hold
    hang_up(w)
    w.finish()


# -- what the INVITE to the SRS carries --------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "expected"), [(None, None), ("12", "12"), ("4711", "60"), ("many", None)])
def test_max_breadth_of_the_call_goes_on_to_the_recording_session(given: str | None, expected: str | None) -> None:
    w = TransferWorld()  # UAC-19
    w.call(headers=(("Max-Breadth", given),) if given is not None else ())
    w.clock.run_for(3)
    if given == "many":
        assert w.srs.requests == []  # refused with 400 by the proxy
    else:
        assert w.srs.requests[0].get("max-breadth") == expected
        hang_up(w)
    w.finish()


def test_every_request_that_changes_something_says_when_it_was() -> None:
    w = TransferWorld(keepalive=0.0)  # CTL-08, SRS-22
    call = established(w)
    paused = w.clock.wall()
    call.siprec_pause_recording()
    w.clock.run_for(10)
    hang_up(w)
    requests = w.srs.requests
    assert [request.method for request in requests] == ["INVITE", "INVITE", "UPDATE"]
    dates = [parse_date(request.get("date")) for request in requests]
    for date, wall in zip(dates, (paused - 60, paused, paused + 10), strict=True):
        assert date is not None
        assert -1.5 < date - wall <= 0.5
    bye = parse_datagram(w.sent("BYE", SRS)[0].data)
    assert parse_date(bye.get("date")) is not None
    w.finish()


def test_an_srs_that_asks_for_a_key_frame_has_it_asked_for() -> None:
    w = TransferWorld()  # MEDIA-10, RFC 5168
    established(w)
    results: list[Any] = []
    body = (
        b"<media_control><vc_primitive><to_encoder><picture_fast_update/></to_encoder></vc_primitive></media_control>"
    )
    w.srs.call.request("INFO", body, "application/media_control+xml", done=results.append)
    w.srs.call.request("INFO", b"Signal=1", "application/dtmf-relay", done=results.append)
    w.clock.run_for(2)
    assert [result.status for result in results] == [200, 200]
    assert [line for line in w.server.log if line.startswith("key frame")] == ["key frame sub1"]
    hang_up(w)
    w.finish()
