"""Requests of our own in the parties' dialog: told what changed, and nothing else is any different (CS-05, CS-09)."""

from __future__ import annotations

from typing import Any

import pytest

from siprec.proxy.cseq_shift import CseqShift
from siprec.proxy.own_request import route_to
from siprec.sip.message import SipRequest, SipResponse, parse_datagram
from siprec.sip.useragent import Call, IncomingCall, session_description
from tests.simulation.network import LinkQuality
from tests.simulation.phones import ANSWER, SDP
from tests.simulation.test_indication import AWARE, aware, record
from tests.simulation.transferworld import TransferWorld

WITHOUT_UPDATE = "INVITE, ACK, BYE, CANCEL, OPTIONS"


def test_numbers_of_a_party_are_raised_past_ours_and_only_from_then_on() -> None:
    lane = CseqShift()
    assert lane.take(5) == 6
    assert lane.take(5) == 7
    assert [lane.number(n) for n in (4, 5, 6, 7)] == [4, 5, 8, 9]
    assert lane.take(7) == 10
    assert [lane.number(n) for n in (5, 6, 7, 8)] == [5, 8, 9, 11]


def test_a_party_that_sent_nothing_yet_may_begin_anywhere() -> None:
    lane = CseqShift()
    assert [lane.take(-1), lane.take(-1)] == [1, 2]
    assert [lane.number(n) for n in (0, 1, 4711)] == [3, 4, 4714]


def established(w: TransferWorld, **options: Any) -> tuple[Call, IncomingCall]:
    options.setdefault("headers", AWARE)
    w.bob.take = aware
    call = w.call(**options)
    w.clock.run_for(2)
    w.alice.diary.events.clear()
    w.bob.diary.events.clear()
    w.alice.diary.requests.clear()
    w.bob.diary.requests.clear()
    return call, w.bob.calls[0]


def answering(w: TransferWorld) -> None:
    w.alice.diary.on["request"] = lambda call, request, reply: reply(200, SDP)
    w.bob.diary.on["request"] = lambda call, request, reply: reply(200, ANSWER)


def statuses(results: list[object]) -> list[object]:
    return [getattr(result, "status", result) for result in results]


def both_ways_still_work(w: TransferWorld, call: Call, incoming: IncomingCall) -> None:
    """Offers of both parties, twice each, and the end."""
    results: list[object] = []
    for version in (b"1 5 IN", b"1 6 IN"):
        call.reinvite(SDP.replace(b"1 1 IN", version), done=results.append)
        w.clock.run_for(2)
        incoming.reinvite(ANSWER.replace(b"1 1 IN", version), done=results.append)
        w.clock.run_for(2)
        call.update(SDP.replace(b"1 1 IN", version), done=results.append)
        incoming.request("INFO", done=results.append)
        w.clock.run_for(2)
    assert statuses(results) == [200] * 8


@pytest.mark.parametrize("ended_by", ["caller", "callee"])
@pytest.mark.parametrize("method", ["UPDATE", "INVITE"])
def test_pause_and_resume_are_told_to_both_and_the_dialog_goes_on(method: str, ended_by: str) -> None:
    w = TransferWorld(indication="attribute")
    if method == "INVITE":
        w.bob.take = lambda call: call.answer(200, ANSWER, headers=AWARE)
    call, incoming = established(w, **({"allow": WITHOUT_UPDATE} if method == "INVITE" else {}))
    answering(w)
    proxied = w.journal.calls[0]
    if method == "INVITE":
        assert proxied.response is not None
        proxied.response.set("allow", WITHOUT_UPDATE)
    before = {phone: session_version(phone) for phone in (w.alice, w.bob)}
    assert w.service.siprec_pause_recording(proxied)
    w.clock.run_for(3)
    assert w.service.siprec_resume_recording(proxied)
    w.clock.run_for(3)
    for phone in (w.alice, w.bob):
        told = [r for r in phone.diary.requests if r.method == method]
        assert [record(r) for r in told] == [["paused"], ["on"]]
        versions = [origin_version(r) for r in told]
        assert versions == [before[phone] + 1, before[phone] + 2]
    both_ways_still_work(w, call, incoming)
    assert w.service.siprec_stop_recording(proxied)
    w.clock.run_for(3)
    for phone in (w.alice, w.bob):
        assert record([r for r in phone.diary.requests if session_description(r)][-1]) == ["off"]
    both_ways_still_work(w, call, incoming)
    (call if ended_by == "caller" else incoming).bye()
    w.clock.run_for(5)
    w.finish()
    for sent in w.network.trace:  # what a party gets is never older than what it got before
        assert "500" not in sent.line


def origin_version(message: SipRequest | SipResponse) -> int:
    octets = session_description(message)
    assert octets is not None
    return int(octets.split(b"o=")[1].split()[2])


def session_version(phone: Any) -> int:
    message = phone.diary.responses[-1] if phone.diary.responses else phone.calls[-1].invite
    return origin_version(message)


def test_numbers_rise_towards_each_party_and_come_back_as_they_were_sent() -> None:
    w = TransferWorld(indication="attribute")
    call, incoming = established(w)
    answering(w)
    w.service.siprec_pause_recording(w.journal.calls[0])
    w.clock.run_for(3)
    w.network.trace.clear()
    results: list[object] = []
    assert call.dialog is not None
    number = call.dialog.local_cseq + 1
    call.reinvite(SDP.replace(b"1 1 IN", b"1 2 IN"), done=results.append)
    w.clock.run_for(2)
    assert isinstance(results[0], SipResponse)
    assert str(results[0].cseq) == f"{number} INVITE"
    at_bob = w.bob.diary.requests
    assert [(r.method, r.cseq.number) for r in at_bob][-2:] == [("INVITE", number + 1), ("ACK", number + 1)]
    incoming.bye()
    w.clock.run_for(5)
    w.finish()


def test_versions_of_the_peer_are_raised_after_ours() -> None:
    w = TransferWorld(indication="attribute")
    call, _ = established(w)
    answering(w)
    w.service.siprec_pause_recording(w.journal.calls[0])
    w.clock.run_for(3)
    call.reinvite(SDP.replace(b"1 1 IN", b"1 2 IN"))
    w.clock.run_for(2)
    offers = [r for r in w.bob.diary.requests if session_description(r)]
    assert [origin_version(r) for r in offers] == [2, 3]
    assert [record(r) for r in offers] == [["paused"], ["paused"]]
    call.bye()
    w.clock.run_for(5)
    w.finish()


def test_who_is_not_aware_hears_nothing() -> None:
    w = TransferWorld(indication="attribute")
    call = w.call(headers=AWARE)
    w.clock.run_for(2)
    answering(w)
    w.service.siprec_pause_recording(w.journal.calls[0])
    w.clock.run_for(3)
    assert [r.method for r in w.bob.diary.requests if r.method != "ACK"] == []
    assert [record(r) for r in w.alice.diary.requests] == [["paused"]]
    call.bye()
    w.clock.run_for(5)
    w.finish()


@pytest.mark.parametrize("policy", [{"indication": "attribute", "resignal": False}, {"indication": "none"}])
def test_policy_keeps_our_hands_off(policy: dict[str, Any]) -> None:
    w = TransferWorld(**policy)
    call, _ = established(w)
    w.service.siprec_pause_recording(w.journal.calls[0])
    w.clock.run_for(3)
    assert w.core.counters["own_requests"] == 0
    assert w.alice.diary.requests == w.bob.diary.requests == []
    call.bye()
    w.clock.run_for(5)
    w.finish()


def test_a_recording_begun_in_mid_call_is_told() -> None:
    w = TransferWorld(indication="attribute")
    w.core.observers._observers = [o for o in w.core.observers._observers if type(o).__name__ != "_Wish"]
    w.core.media.use = "always"
    call, _ = established(w)
    answering(w)
    assert w.service.record(w.journal.calls[0])
    w.clock.run_for(3)
    for phone in (w.alice, w.bob):
        assert [record(r) for r in phone.diary.requests] == [["on"]]
    call.bye()
    w.clock.run_for(5)
    w.finish()


@pytest.mark.parametrize("status", [481, 488, 500, 603, 401])
def test_a_party_that_refuses_is_left_alone(status: int) -> None:
    w = TransferWorld(indication="attribute")
    call, incoming = established(w)
    w.bob.diary.on["request"] = lambda call, request, reply: reply(status)
    w.alice.diary.on["request"] = lambda call, request, reply: reply(200, SDP)
    proxied = w.journal.calls[0]
    w.service.siprec_pause_recording(proxied)
    w.clock.run_for(3)
    w.service.siprec_resume_recording(proxied)
    w.clock.run_for(3)
    assert [r.method for r in w.bob.diary.requests] == ["UPDATE"]
    answering(w)
    both_ways_still_work(w, call, incoming)
    call.bye()
    w.clock.run_for(5)
    w.finish()


def test_glare_is_tried_again_a_little_later() -> None:
    w = TransferWorld(indication="attribute")
    call, incoming = established(w)
    replies = [491, 491, 200]
    w.bob.diary.on["request"] = lambda call, request, reply: reply(replies.pop(0) if len(replies) > 1 else 200, ANSWER)
    w.alice.diary.on["request"] = lambda call, request, reply: reply(200, SDP)
    w.service.siprec_pause_recording(w.journal.calls[0])
    w.clock.run_for(12)
    assert [record(r) for r in w.bob.diary.requests] == [["paused"]] * 3
    answering(w)
    both_ways_still_work(w, call, incoming)
    call.bye()
    w.clock.run_for(5)
    w.finish()


@pytest.mark.parametrize("ended_by", ["caller", "callee"])
def test_a_bye_crosses_ours_and_is_not_held(ended_by: str) -> None:
    w = TransferWorld(indication="attribute")
    call, incoming = established(w)
    later: list[Any] = []
    w.bob.diary.on["request"] = lambda call, request, reply: later.append(reply)
    w.alice.diary.on["request"] = lambda call, request, reply: later.append(reply)
    w.service.siprec_pause_recording(w.journal.calls[0])
    w.clock.run_for(0.2)
    assert len(later) == 2
    (call if ended_by == "caller" else incoming).bye()
    w.clock.run_for(0.5)
    assert [event for phone in (w.alice, w.bob) for event in phone.diary.events if event.startswith("ended")]
    w.clock.run_for(60)
    w.finish()


def test_an_offer_of_the_peer_waits_for_ours_but_not_long() -> None:
    w = TransferWorld(indication="attribute")
    call, _ = established(w)
    later: list[Any] = []

    def slow(call: Call, request: SipRequest, reply: Any) -> None:
        if request.method == "UPDATE" and not later:
            later.append(reply)
        else:
            reply(200, ANSWER)

    w.bob.diary.on["request"] = slow
    w.alice.diary.on["request"] = lambda call, request, reply: reply(200, SDP)
    w.service.siprec_pause_recording(w.journal.calls[0])
    w.clock.run_for(0.3)
    results: list[object] = []
    call.reinvite(SDP.replace(b"1 1 IN", b"1 2 IN"), done=results.append)
    w.clock.run_for(0.3)
    assert [r.method for r in w.bob.diary.requests] == ["UPDATE"]
    later[0](200, ANSWER)
    w.clock.run_for(2)
    assert statuses(results) == [200]
    assert [r.method for r in w.bob.diary.requests] == ["UPDATE", "INVITE", "ACK"]
    call.bye()
    w.clock.run_for(5)
    w.finish()


@pytest.mark.parametrize("method", ["UPDATE", "INVITE"])
@pytest.mark.parametrize("seed", range(8))
def test_on_a_network_that_loses_and_repeats(seed: int, method: str) -> None:
    w = TransferWorld(indication="attribute")
    w.network.quality = LinkQuality(loss=0.2, duplicate=0.1)
    w.network.random.seed(seed)
    options: dict[str, Any] = {"allow": WITHOUT_UPDATE} if method == "INVITE" else {}
    call = w.call(headers=AWARE, **options)
    w.bob.take = aware
    w.clock.run_for(20)
    incoming = w.bob.calls[0]
    answering(w)
    proxied = w.journal.calls[0]
    for do in (w.service.siprec_pause_recording, w.service.siprec_resume_recording, w.service.siprec_stop_recording):
        do(proxied)
        w.clock.run_for(40)
    results: list[object] = []
    call.reinvite(SDP.replace(b"1 1 IN", b"1 5 IN"), done=results.append)
    w.clock.run_for(40)
    incoming.reinvite(ANSWER.replace(b"1 1 IN", b"1 5 IN"), done=results.append)
    w.clock.run_for(40)
    assert statuses(results) == [200, 200]
    call.bye()
    w.clock.run_for(100)
    w.finish()


def test_an_answer_that_moves_the_media_reaches_the_media_server() -> None:
    w = TransferWorld(indication="attribute")
    call, _ = established(w)
    moved = ANSWER.replace(b"audio 4000", b"audio 4444").replace(b"1 1 IN", b"1 2 IN")
    w.bob.diary.on["request"] = lambda call, request, reply: reply(200, moved)
    w.alice.diary.on["request"] = lambda call, request, reply: reply(200, SDP)
    w.service.siprec_pause_recording(w.journal.calls[0])
    w.clock.run_for(3)
    assert w.server.parties[w.journal.calls[0].to_tag] == moved
    assert w.journal.calls[0].callee_sdp == moved
    call.bye()
    w.clock.run_for(5)
    w.finish()


def test_a_session_timer_outlives_our_request() -> None:
    w = TransferWorld(indication="attribute")
    call, _ = established(w, session_expires=90)
    answering(w)
    w.service.siprec_pause_recording(w.journal.calls[0])
    w.clock.run_for(3)
    told = w.bob.diary.requests[0]
    assert (told.get("session-expires") or "").startswith("90;refresher=")
    w.clock.run_for(400)
    assert not any(event.startswith("ended") for event in w.alice.diary.events + w.bob.diary.events)
    call.bye()
    w.clock.run_for(5)
    w.finish()


def test_routes_beyond_us_are_kept() -> None:
    """The Record-Route values on either side of ours are the way from here (RFC 3261 12.1)."""
    w = TransferWorld(indication="attribute")
    call, _ = established(w)
    proxied = w.journal.calls[0]
    assert proxied.response is not None
    own = proxied.response.values("record-route")
    head = b"SIP/2.0 200 OK\r\nRecord-Route: <sip:p2.example.net;lr>, <sip:p1.example.net;lr>\r\nRecord-Route: "
    answer = parse_datagram(head + ", ".join(own).encode() + b"\r\nRecord-Route: <sip:p0.example.net;lr>\r\n\r\n")
    assert isinstance(answer, SipResponse)
    assert route_to(answer, w.identity) == ["<sip:p1.example.net;lr>", "<sip:p2.example.net;lr>"]
    invite = parse_datagram(b"INVITE sip:x SIP/2.0\r\nRecord-Route: <sip:b;lr>, <sip:a;lr>\r\n\r\n")
    assert isinstance(invite, SipRequest)
    assert route_to(invite, w.identity) == ["<sip:b;lr>", "<sip:a;lr>"]
    call.bye()
    w.clock.run_for(5)
    w.finish()


def test_nothing_is_sent_while_a_party_s_own_exchange_is_open() -> None:
    w = TransferWorld(indication="attribute")
    call, _ = established(w)
    later: list[Any] = []

    def ringing(call: Call, request: SipRequest, reply: Any) -> None:
        if request.method == "INVITE":
            later.append(reply)
        else:
            reply(200, ANSWER)

    w.bob.diary.on["request"] = ringing
    w.alice.diary.on["request"] = lambda call, request, reply: reply(200, SDP)
    results: list[object] = []
    call.reinvite(done=results.append)  # a late offer: nothing but this INVITE says that something is open
    w.clock.run_for(0.3)
    w.service.siprec_pause_recording(w.journal.calls[0])
    w.clock.run_for(2)
    assert [r.method for r in w.bob.diary.requests] == ["INVITE"]
    assert w.alice.diary.requests == []
    assert w.core.counters["own_requests"] == 0
    later[0](200, ANSWER.replace(b"1 1 IN", b"1 2 IN"))
    w.clock.run_for(0.2)
    assert [r.method for r in w.bob.diary.requests] == ["INVITE"]  # the ACK has the answer
    assert w.core.counters["own_requests"] == 0
    call.ack(SDP.replace(b"1 1 IN", b"1 2 IN"))
    w.clock.run_for(2)
    assert statuses(results) == [200]
    assert record(results[0] if isinstance(results[0], SipResponse) else None) == ["paused"]
    assert record([r for r in w.bob.diary.requests if r.method == "ACK"][-1]) == ["paused"]
    call.bye()
    w.clock.run_for(5)
    w.finish()


def test_a_refresh_that_carries_a_new_state_has_a_new_version() -> None:
    """RFC 3264 8: who sees the same version does not look any further."""
    w = TransferWorld(indication="attribute", resignal=False)
    call, incoming = established(w)
    answering(w)
    w.service.siprec_pause_recording(w.journal.calls[0])
    w.clock.run_for(2)
    for _ in range(2):
        call.reinvite(SDP)
        w.clock.run_for(2)
    offers = [r for r in w.bob.diary.requests if r.method == "INVITE"]
    assert [record(r) for r in offers] == [["paused"], ["paused"]]
    assert [origin_version(r) for r in offers] == [origin_version(incoming.invite) + 1] * 2
    call.bye()
    w.clock.run_for(5)
    w.finish()
