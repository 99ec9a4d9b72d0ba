"""Calls between two user agents, message by message."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest

from siprec.sip.digest import Credentials, CredentialStore
from siprec.sip.digest_server import DigestServer
from siprec.sip.errors import SipError
from siprec.sip.message import SipRequest, SipResponse, parse_datagram
from siprec.sip.transaction import ServerTransaction
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri
from siprec.sip.useragent import Call, IncomingCall, Reply
from tests.simulation.network import Sent
from tests.simulation.phones import ANSWER, SDP, Diary, Phone, TwoPhones, short

HOLD = SDP + b"a=sendonly\r\n"


def ring_and_answer(call: IncomingCall) -> None:
    call.answer(180)
    call.answer(200, ANSWER)


def ring(call: IncomingCall) -> None:
    call.answer(180)


def after(w: TwoPhones, seconds: float, status: int, body: bytes = b"") -> Callable[[IncomingCall], None]:
    def take(call: IncomingCall) -> None:
        w.clock.call_later(seconds, call.answer, status, body)

    return take


def wait(call: IncomingCall) -> None:
    """Take the call and do nothing yet."""


def parsed(sent: Sent) -> SipRequest:
    message = parse_datagram(sent.data)
    assert isinstance(message, SipRequest)
    return message


# -- begin and end -----------------------------------------------------------------------------------------------------


def test_call_is_made_answered_and_ended_by_the_caller() -> None:
    w = TwoPhones()
    w.bob.take = ring_and_answer
    call = w.call()
    w.clock.run_for(1)
    results: list[object] = []
    call.bye(done=results.append)
    w.clock.run_for(1)
    assert w.lines() == ["A INVITE", "B 180", "B 200", "A ACK", "A BYE", "B 200"]
    assert w.alice.diary.events == ["180", "answered"]
    assert w.bob.diary.events == ["ack", "ended bye"]
    assert w.alice.diary.responses[0].body == ANSWER
    assert [result.status for result in results if isinstance(result, SipResponse)] == [200]
    w.finish()


def test_call_is_ended_by_the_callee() -> None:
    w = TwoPhones()
    _, incoming = w.established()
    incoming.bye(headers=[("Reason", "Q.850;cause=16")], body=b"<end/>", content_type="application/xml")
    w.clock.run_for(1)
    assert w.lines() == ["B BYE", "A 200"]
    bye = parsed(w.sent("BYE")[0])
    assert (bye.get("reason"), bye.body) == ("Q.850;cause=16", b"<end/>")
    assert w.alice.diary.events == ["ended bye"]
    assert w.bob.diary.events == []
    w.finish()


def test_invite_has_what_the_standard_asks_for() -> None:
    w = TwoPhones()
    call = w.call(contact_params="+sip.src", headers=[("Require", "siprec"), ("X-Own", "1")], supported=("timer", "x"))
    w.clock.run_for(0.1)
    invite = parsed(w.sent("INVITE")[0])
    assert invite.uri == "sip:bob@10.0.0.2"
    assert invite.from_.tag == call.local_tag
    assert invite.from_.display_name == "Alice"
    assert not invite.to.tag
    assert invite.cseq.number < 2**31
    assert invite.get("max-forwards") == "70"
    assert invite.get("contact") == "<sip:10.0.0.1:5060>;+sip.src"
    assert invite.tokens("supported") == {"timer", "x"}
    assert "update" in invite.tokens("allow")
    assert "rport" in invite.top_via.params
    assert w.alice.diary.events == ["failed 420 Bad Extension"]
    w.finish()


def test_refused_call_fails_once() -> None:
    w = TwoPhones()
    w.bob.take = lambda call: call.answer(486)
    call = w.call()
    w.clock.run_for(1)
    assert w.alice.diary.events == ["failed 486 Busy Here"]
    assert call.state == "ended"
    call.cancel()
    call.bye()
    w.finish()
    assert w.lines() == ["A INVITE", "B 486", "A ACK"]


def test_2xx_is_repeated_until_the_ack_comes_and_the_ack_for_each_2xx() -> None:
    w = TwoPhones()
    w.network.drop = lambda sent: sent.line.startswith("ACK") and sent.time < 1003
    w.call()
    w.clock.run_for(10)
    assert w.lines() == ["A INVITE", *["B 200", "A ACK"] * 4]
    assert w.bob.diary.events == ["ack"]
    assert w.alice.diary.events == ["answered"]
    acks = [parsed(sent) for sent in w.sent("ACK")]
    assert len({ack.top_via.branch for ack in acks}) == 4
    assert len({ack.cseq.number for ack in acks}) == 1
    w.bob.calls[0].bye()
    w.finish()


def test_callee_hangs_up_when_no_ack_comes() -> None:
    w = TwoPhones()
    w.network.drop = lambda sent: sent.line.startswith("ACK")
    w.call()
    w.clock.run_for(31)
    assert w.bob.diary.events == []
    w.clock.run_for(2)
    assert w.bob.diary.events == ["ended no ACK"]
    times = [sent.time for sent in w.sent("SIP/2.0 200")][:11]
    gaps = [round(after - before, 3) for before, after in itertools.pairwise(times)]
    assert gaps == [0.5, 1, 2, 4, 4, 4, 4, 4, 4, 4], "doubling to T2 (RFC 3261 13.3.1.4)"
    assert w.alice.diary.events == ["answered", "ended bye"]
    w.finish()


def test_callee_does_not_hang_up_before_the_ack() -> None:
    w = TwoPhones()
    w.bob.take = lambda call: (call.answer(200, ANSWER), call.bye())[1]  # type: ignore[func-returns-value]
    w.call()
    w.clock.run_for(1)
    assert w.lines() == ["A INVITE", "B 200", "A ACK", "B BYE", "A 200"]
    assert w.alice.diary.events == ["answered", "ended bye"]
    w.finish()


def test_both_hang_up_at_once() -> None:
    w = TwoPhones()
    call, incoming = w.established()
    call.bye()
    incoming.bye()
    w.clock.run_for(1)
    assert sorted(w.lines()) == ["A 200", "A BYE", "B 200", "B BYE"]
    assert w.alice.diary.events == w.bob.diary.events == []
    w.finish()


def test_late_offer_waits_for_the_answer_from_the_owner() -> None:
    w = TwoPhones()
    w.bob.take = lambda call: call.answer(200, SDP)
    w.alice.diary.on["answered"] = lambda call, response: w.clock.call_later(1.2, call.ack, ANSWER)
    call = w.call(body=b"")
    w.clock.run_for(5)
    assert w.lines() == ["A INVITE", "B 200", "B 200", "A ACK"]
    assert w.bob.diary.requests[0].body == ANSWER
    assert w.bob.diary.requests[0].get("content-type") == "application/sdp"
    call.bye()
    w.finish()


def test_bye_before_the_answer_to_a_late_offer_acknowledges_first() -> None:
    w = TwoPhones()
    w.bob.take = lambda call: call.answer(200, SDP)
    w.alice.diary.on["answered"] = lambda call, response: call.bye()
    w.call(body=b"")
    w.clock.run_for(1)
    assert w.lines() == ["A INVITE", "B 200", "A ACK", "A BYE", "B 200"]
    w.finish()


# -- giving up ---------------------------------------------------------------------------------------------------------


def test_cancel_waits_for_ringing_and_ends_with_487() -> None:
    w = TwoPhones()
    w.bob.take = after(w, 1.0, 180)
    call = w.call()
    w.clock.run_for(0.1)
    call.cancel([("Reason", "SIP;cause=200")])
    w.clock.run_for(3)
    assert [line for line in w.lines() if line != "A INVITE"] == ["B 180", "A CANCEL", "B 200", "B 487", "A ACK"]
    assert w.alice.diary.events == ["180", "failed 487 cancelled"]
    assert w.bob.diary.events == ["ended cancelled"]
    w.finish()


def test_2xx_that_crosses_the_cancel_is_acknowledged_and_ended() -> None:
    w = TwoPhones()
    w.bob.take = ring
    call = w.call()
    w.clock.run_for(1)
    w.bob.calls[0].answer(200, ANSWER)
    call.cancel()
    w.clock.run_for(1)
    assert w.lines() == ["A INVITE", "B 180", "B 200", "A CANCEL", "A ACK", "A BYE", "B 200", "B 200"]
    assert w.alice.diary.events == ["180", "failed 200 cancelled"]
    assert w.bob.diary.events == ["ack", "ended bye"]
    w.finish()


def test_setup_timeout_fails_at_once_when_the_callee_is_silent() -> None:
    w = TwoPhones()
    w.network.drop = lambda sent: True
    w.call(setup_timeout=3.0)
    w.clock.run_for(2.9)
    assert w.alice.diary.events == []
    w.clock.run_for(0.2)
    assert w.alice.diary.events == ["failed 408 timeout"]
    w.finish()
    assert not w.sent("CANCEL")


def test_setup_timeout_cancels_a_ringing_callee() -> None:
    w = TwoPhones()
    w.bob.take = ring
    w.call(setup_timeout=3.0)
    w.clock.run_for(3.5)
    assert w.alice.diary.events == ["180", "failed 408 timeout"]
    assert w.lines() == ["A INVITE", "B 180", "A CANCEL", "B 200", "B 487", "A ACK"]
    assert w.bob.diary.events == ["ended cancelled"]
    w.finish()


def test_2xx_after_the_setup_timeout_is_acknowledged_and_ended() -> None:
    w = TwoPhones()
    w.bob.take = after(w, 5.0, 200, ANSWER)
    w.call(setup_timeout=3.0)
    w.clock.run_for(10)
    assert w.alice.diary.events == ["failed 408 timeout"]
    assert w.bob.diary.events == ["ack", "ended bye"]
    w.finish()


def test_call_that_rings_for_ever_is_cancelled() -> None:
    w = TwoPhones(ring_timeout=100.0)
    w.bob.agent.ring_timeout = 1000.0
    w.bob.take = ring
    w.call()
    w.finish()
    assert w.alice.diary.events == ["180", "180", "failed 487 cancelled"]


def test_caller_that_vanishes_while_it_rings_leaves_nothing() -> None:
    w = TwoPhones()
    w.bob.take = ring
    w.call()
    w.clock.run_for(1)
    w.network.drop = lambda sent: True
    w.finish()
    assert w.bob.diary.events == ["ended no answer"]


def test_caller_may_end_an_early_dialog_by_bye() -> None:
    w = TwoPhones()
    w.bob.take = ring
    w.call()
    w.clock.run_for(1)
    incoming = w.bob.calls[0]
    bye = parsed(w.sent("INVITE")[0])
    bye.remove("via")
    bye.method = "BYE"
    bye.set("cseq", f"{bye.cseq.number + 1} BYE")
    bye.set("to", f"<sip:bob@example.com>;tag={incoming.local_tag}")
    w.alice.agent.request(bye, Uri.parse("sip:10.0.0.2"), lambda result: None)
    w.clock.run_for(1)
    assert w.bob.diary.events == ["ended bye"]
    assert w.alice.diary.events == ["180", "failed 487 Request Terminated"]
    w.finish()


# -- other ways --------------------------------------------------------------------------------------------------------


def two_hops(first: Hop, second: Hop) -> Callable[[Uri, Callable[[list[Hop] | SipError], None]], None]:
    def resolve(uri: Uri, done: Callable[[list[Hop] | SipError], None]) -> None:
        done([first, second] if uri.host == "pool" else [Hop("udp", uri.host, uri.port or 5060)])

    return resolve


def test_next_hop_is_tried_when_the_first_refuses_the_connection() -> None:
    w = TwoPhones(resolve=two_hops(Hop("tcp", "10.0.0.9", 5060), Hop("udp", "10.0.0.2", 5060)))
    w.alice.call("sip:bob@pool")
    w.clock.run_for(1)
    assert w.alice.diary.events == ["answered"]
    first, second = (parsed(sent) for sent in w.sent("INVITE"))
    assert first.top_via.branch != second.top_via.branch
    assert (first.call_id, first.cseq) == (second.call_id, second.cseq)
    w.bob.calls[0].bye()
    w.finish()


def test_next_hop_is_tried_after_silence_and_gets_its_own_setup_timeout() -> None:
    w = TwoPhones(resolve=two_hops(Hop("udp", "10.0.0.9", 5060), Hop("udp", "10.0.0.2", 5060)))
    w.bob.take = after(w, 1.5, 200, ANSWER)
    w.alice.call("sip:bob@pool", setup_timeout=2.0)
    w.clock.run_for(5)
    assert w.alice.diary.events == ["answered"]
    w.bob.calls[0].bye()
    w.finish()


def test_timer_b_moves_on_to_the_next_hop() -> None:
    w = TwoPhones(resolve=two_hops(Hop("udp", "10.0.0.9", 5060), Hop("udp", "10.0.0.2", 5060)))
    w.alice.call("sip:bob@pool")
    w.clock.run_for(33)
    assert w.alice.diary.events == ["answered"]
    w.bob.calls[0].bye()
    w.finish()


@pytest.mark.parametrize(("status", "hops"), [(503, 2), (500, 1), (603, 1)])
def test_503_means_next_hop_and_other_refusals_do_not(status: int, hops: int) -> None:
    w = TwoPhones(resolve=two_hops(Hop("udp", "10.0.0.2", 5060), Hop("udp", "10.0.0.2", 5060)))
    w.bob.take = lambda call: call.answer(status)
    w.alice.call("sip:bob@pool")
    w.finish()
    assert len(w.sent("INVITE")) == hops
    assert len(w.alice.diary.events) == 1
    assert w.alice.diary.events[0].startswith(f"failed {status}")


def test_name_that_does_not_resolve_fails_the_call_but_not_from_inside_invite() -> None:
    w = TwoPhones()
    w.alice.call("sip:bob@nowhere.example")
    assert w.alice.diary.events == []
    w.finish()
    assert w.alice.diary.events == ["failed 503 resolve: no such host nowhere.example"]


def test_call_cancelled_while_its_name_is_looked_up_sends_nothing() -> None:
    waiting: list[Callable[[list[Hop] | SipError], None]] = []
    w = TwoPhones(resolve=lambda uri, done: waiting.append(done))
    call = w.call()
    call.cancel()
    waiting[0]([Hop("udp", "10.0.0.2", 5060)])
    w.finish()
    assert w.alice.diary.events == ["failed 487 cancelled"]
    assert w.lines() == []


@pytest.mark.parametrize("proxy", [False, True])
def test_challenged_call_is_made_again_with_credentials(proxy: bool) -> None:
    w = TwoPhones()
    server = DigestServer(w.clock, "bob", proxy=proxy)

    def take(call: IncomingCall) -> None:
        if server.verify(call.invite, {"alice": "secret"}.get).ok:
            call.answer(200, ANSWER)
        else:
            call.answer(407 if proxy else 401, headers=server.challenge())

    w.bob.take = take
    w.call(credentials=CredentialStore([Credentials("alice", "secret")]))
    w.clock.run_for(1)
    assert w.alice.diary.events == ["answered"]
    first, second = (parsed(sent) for sent in w.sent("INVITE"))
    assert second.cseq.number == first.cseq.number + 1
    assert (second.call_id, second.from_.tag) == (first.call_id, first.from_.tag)
    ack = parsed(w.sent("ACK")[-1])
    name = "proxy-authorization" if proxy else "authorization"
    assert ack.cseq.number == second.cseq.number
    assert ack.get(name) == second.get(name) is not None
    w.bob.calls[-1].bye()
    w.clock.run_for(1)
    w.call(credentials=CredentialStore([Credentials("alice", "wrong")]))
    w.finish()
    assert w.alice.diary.events[-1].startswith("failed 40")
    assert len(w.sent("INVITE")) == 4


def test_a_challenge_after_ringing_does_not_put_the_numbers_of_the_dialog_back() -> None:
    w = TwoPhones()
    server = DigestServer(w.clock, "bob")

    def gateway(transaction: ServerTransaction) -> None:
        request = transaction.request
        contact = [("Contact", "<sip:10.0.0.2>")]
        if request.method != "INVITE":
            transaction.respond(request.response(200))
        elif request.has("authorization"):
            body = {"body": ANSWER, "content_type": "application/sdp"}
            transaction.respond(request.response(200, to_tag="g", headers=contact, **body))  # type: ignore[arg-type]
        else:
            transaction.respond(request.response(180, to_tag="g", headers=contact))
            transaction.respond(request.response(401, to_tag="g", headers=server.challenge()))

    w.bob.endpoint.request_received = gateway  # type: ignore[method-assign]
    call = w.call(credentials=CredentialStore([Credentials("alice", "secret")]))
    w.clock.run_for(1)
    call.bye()
    w.clock.run_for(1)
    first, second = (parsed(sent).cseq.number for sent in w.sent("INVITE"))
    assert second == first + 1
    assert parsed(w.sent("BYE")[0]).cseq.number == second + 1


def test_two_answers_of_a_fork_are_both_acknowledged_and_one_is_ended() -> None:
    w = TwoPhones()
    carol = Phone(w.clock, w.network.node("10.0.0.3"), 9)

    def forked(transaction: ServerTransaction) -> None:
        request = transaction.request
        if request.method != "INVITE":
            return
        for tag, host in (("t2", "10.0.0.2"), ("t3", "10.0.0.3"), ("t3", "10.0.0.3"), ("t2", "10.0.0.2")):
            contact = [("Contact", f"<sip:{host}>"), ("Record-Route", f"<sip:{host};lr>")]
            transaction.respond(request.response(200, to_tag=tag, headers=contact, body=ANSWER, content_type="a/b"))

    original = w.bob.endpoint.request_received
    w.bob.endpoint.request_received = forked  # type: ignore[method-assign]
    call = w.call()
    w.clock.run_for(1)
    assert w.alice.diary.events == ["answered"]
    sent = [(short(s), s.destination[0]) for s in w.network.trace if s.source[0] == "10.0.0.1"]
    assert sent.count(("ACK", "10.0.0.2")) == 2
    assert sent.count(("ACK", "10.0.0.3")) == 2
    assert sent.count(("BYE", "10.0.0.3")) == 1
    assert sent.count(("BYE", "10.0.0.2")) == 0
    w.bob.endpoint.request_received = original  # type: ignore[method-assign]
    call.bye()
    w.clock.run_until_idle()
    assert w.alice.left() == carol.left() == {}


def test_response_with_more_than_our_via_is_not_believed() -> None:
    w = TwoPhones()

    def misrouted(transaction: ServerTransaction) -> None:
        response = transaction.request.response(200, to_tag="x", headers=[("Contact", "<sip:10.0.0.2>")])
        response.keys.insert(1, "via")
        response.lines.insert(1, "Via: SIP/2.0/UDP 10.0.0.66;branch=z9hG4bKx")
        transaction.respond(response)

    w.bob.endpoint.request_received = misrouted  # type: ignore[method-assign]
    w.call()
    w.clock.run_for(1)
    assert w.alice.diary.events == ["failed 503 misrouted response"]
    assert w.lines() == ["A INVITE", "B 200"]


def test_responses_that_nobody_defined_count_as_their_class() -> None:  # UAC-17
    w = TwoPhones()
    w.bob.take = lambda call: (call.answer(199), call.answer(499))[1]  # type: ignore[func-returns-value]
    w.call()
    w.clock.run_for(1)
    assert [event.partition(" ")[0] for event in w.alice.diary.events] == ["199", "failed"]
    w.bob.take = lambda call: call.answer(299, ANSWER)
    call = w.call()
    w.clock.run_for(1)
    assert w.alice.diary.events[-1] == "answered"
    call.bye()
    w.finish()


def test_reliable_provisional_responses_are_acknowledged_in_order() -> None:
    w = TwoPhones()
    pracks: list[SipRequest] = []

    def gateway(transaction: ServerTransaction) -> None:
        request = transaction.request
        if request.method == "PRACK":
            pracks.append(request)
            transaction.respond(request.response(200))
            return
        if request.method != "INVITE":
            transaction.respond(request.response(200))
            return
        base = [("Contact", "<sip:10.0.0.2>")]
        for status, rseq in ((180, 7), (183, 7), (183, 9), (183, 8)):
            headers = [*base, ("Require", "100rel"), ("RSeq", str(rseq))]
            transaction.respond(request.response(status, to_tag="g", headers=headers))
        final = request.response(200, to_tag="g", headers=base, body=ANSWER, content_type="application/sdp")
        w.clock.call_later(1, transaction.respond, final)

    w.bob.endpoint.request_received = gateway  # type: ignore[method-assign]
    call = w.call(supported=("100rel", "timer"))
    w.clock.run_for(3)
    assert w.alice.diary.events == ["180", "183", "answered"]
    number = parsed(w.sent("INVITE")[0]).cseq.number
    assert [prack.get("rack") for prack in pracks] == [f"7 {number} INVITE", f"8 {number} INVITE"]
    assert [prack.cseq.number for prack in pracks] == [number + 1, number + 2]
    assert parsed(w.sent("ACK")[0]).cseq.number == number
    call.bye()
    w.clock.run_for(1)
    assert parsed(w.sent("BYE")[0]).cseq.number == number + 3
    w.clock.run_until_idle()
    assert w.alice.left() == {}


# -- exchanges within the dialog ---------------------------------------------------------------------------------------


def test_reinvites_wait_for_each_other() -> None:
    w = TwoPhones()
    call, _ = w.established()
    results: list[object] = []
    for body in (HOLD, SDP):
        call.reinvite(body, done=results.append)
    call.update(headers=[("X-Third", "1")], done=results.append)
    w.clock.run_for(1)
    assert w.lines() == ["A INVITE", "B 200", "A ACK", "A INVITE", "B 200", "A ACK", "A UPDATE", "B 200"]
    numbers = [parsed(sent).cseq.number for sent in (*w.sent("INVITE"), *w.sent("UPDATE"))]
    assert numbers == [numbers[0], numbers[0] + 1, numbers[0] + 2]
    assert [result.status for result in results if isinstance(result, SipResponse)] == [200, 200, 200]
    call.bye()
    w.finish()


def test_reinvite_without_offer_in_both_directions() -> None:
    w = TwoPhones()
    call, incoming = w.established()
    pairs: tuple[tuple[Call, Diary], ...] = ((call, w.bob.diary), (incoming, w.alice.diary))
    for asking, other in pairs:
        other.events.clear()

        def answer(result: SipResponse | str, asking: Call = asking) -> None:
            assert isinstance(result, SipResponse)
            assert result.body == ANSWER
            w.clock.call_later(0.1, asking.ack, SDP)

        asking.reinvite(done=answer)
        w.clock.run_for(1)
        assert other.events == ["INVITE", "ack"]
        assert other.requests[-1].body == SDP
    call.bye()
    w.finish()


def test_refused_reinvite_leaves_the_call_as_it_was() -> None:
    w = TwoPhones()
    call, _ = w.established()
    w.bob.diary.on["request"] = lambda call, request, reply: reply(488)
    results: list[object] = []
    call.reinvite(HOLD, done=results.append)
    w.clock.run_for(1)
    assert [result.status for result in results if isinstance(result, SipResponse)] == [488]
    assert call.state == "confirmed"
    call.bye()
    w.finish()


def test_crossing_reinvites_are_both_refused_and_tried_again_at_different_times() -> None:
    w = TwoPhones()
    call, incoming = w.established()
    results: list[object] = []
    call.reinvite(HOLD, done=results.append)
    incoming.reinvite(HOLD, done=results.append)
    w.clock.run_for(10)
    assert w.lines().count("A 491") == w.lines().count("B 491") == 1
    assert [result.status for result in results if isinstance(result, SipResponse)] == [200, 200]
    by_alice = [sent.time for sent in w.sent("INVITE") if sent.source[0] == "10.0.0.1"]
    by_bob = [sent.time for sent in w.sent("INVITE") if sent.source[0] == "10.0.0.2"]
    assert 2.1 <= by_alice[1] - by_alice[0] <= 4.1, "the owner of the Call-ID"
    assert 0 <= by_bob[1] - by_bob[0] <= 2.1
    call.bye()
    w.finish()


def test_second_reinvite_before_the_first_is_answered_gets_500() -> None:
    w = TwoPhones()
    call, incoming = w.established()
    replies: list[Reply] = []
    w.bob.diary.on["request"] = lambda call, request, reply: replies.append(reply)
    call.reinvite(HOLD)
    w.clock.run_for(0.1)
    first = parsed(w.sent("INVITE")[0])
    for method in ("INVITE", "UPDATE"):
        second = first.copy()
        second.method = method
        second.set("cseq", f"{second.cseq.number + (1 if method == 'INVITE' else 2)} {method}")
        second.set("via", f"SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bKother{method}")
        w.bob.layer.receive(second, w.alice.node.hop())
    refused = [parse_datagram(sent.data) for sent in w.network.trace if short(sent) == "500"]
    assert len(refused) == 2
    assert all(0 <= int(response.get("retry-after") or "99") <= 10 for response in refused)
    replies[0](200, ANSWER)
    w.clock.run_for(1)
    incoming.bye()
    w.finish()


def test_offer_before_the_first_invite_is_answered_gets_500() -> None:
    w = TwoPhones()
    w.bob.take = ring
    w.call()
    w.clock.run_for(0.1)
    first = parsed(w.sent("INVITE")[0])
    w.network.trace.clear()
    for number, method, body in ((1, "INVITE", SDP), (2, "UPDATE", SDP), (3, "UPDATE", b"")):
        early = first.copy()
        early.method = method
        early.set("cseq", f"{first.cseq.number + number} {method}")
        early.set("to", f"<sip:bob@example.com>;tag={w.bob.calls[0].local_tag}")
        early.set("via", f"SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bKearly{number}")
        early.set_body(body, "application/sdp" if body else None)
        w.bob.layer.receive(early, w.alice.node.hop())
    assert w.lines() == ["B 500", "B 500", "B 200"]
    w.bob.calls[0].answer(486)
    w.finish()


def test_500_with_retry_after_is_waited_for() -> None:
    w = TwoPhones()
    call, _ = w.established()
    answers = [(500, [("Retry-After", "5")]), (200, [])]

    def request(call: Call, request: SipRequest, reply: Reply) -> None:
        status, headers = answers.pop(0)
        reply(status, ANSWER if status == 200 else b"", headers=headers)

    w.bob.diary.on["request"] = request
    results: list[object] = []
    call.reinvite(HOLD, done=results.append)
    w.clock.run_for(10)
    assert [result.status for result in results if isinstance(result, SipResponse)] == [200]
    first, second = w.sent("INVITE")
    assert second.time - first.time == pytest.approx(5, abs=0.1)
    call.bye()
    w.finish()


def test_update_with_offer_during_own_reinvite_gets_491_and_without_offer_200() -> None:
    w = TwoPhones()
    call, incoming = w.established()
    replies: list[Reply] = []
    w.bob.diary.on["request"] = lambda call, request, reply: replies.append(reply)
    call.reinvite(HOLD)
    w.clock.run_for(0.1)
    assert incoming.dialog is not None
    for body in (SDP, b""):
        update = incoming.dialog.request("UPDATE", body=body, content_type="application/sdp" if body else "")
        update.prepend("via", f"SIP/2.0/UDP 10.0.0.2;branch=z9hG4bK{len(body)}")
        w.alice.layer.receive(update, w.bob.node.hop())
    assert [line for line in w.lines() if line.startswith("A ")][1:] == ["A 491", "A 200"]
    replies[0](200, ANSWER)
    w.clock.run_for(1)
    call.bye()
    w.finish()


def test_old_cseq_gets_500_and_foreign_dialog_481() -> None:
    w = TwoPhones()
    call, _ = w.established()
    call.request("INFO", b"x", "text/plain")
    w.clock.run_for(0.1)
    info = parsed(w.sent("INFO")[0])
    w.network.trace.clear()
    for number, branch in ((info.cseq.number - 1, "a"), (info.cseq.number, "b")):
        old = info.copy()
        old.set("cseq", f"{number} INFO")
        old.set("via", f"SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK{branch}")
        w.bob.layer.receive(old, w.alice.node.hop())
    stranger = info.copy()
    stranger.set("to", "<sip:bob@example.com>;tag=stranger")
    stranger.set("via", "SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKc")
    w.bob.layer.receive(stranger, w.alice.node.hop())
    assert w.lines() == ["B 500", "B 482", "B 481"]
    assert w.bob.diary.events == ["INFO"]
    call.bye()
    w.finish()


@pytest.mark.parametrize("status", [481, 408])
def test_481_ends_the_call_with_a_bye(status: int) -> None:
    w = TwoPhones()
    call, _ = w.established()
    w.bob.diary.on["request"] = lambda call, request, reply: reply(status)
    results: list[object] = []
    call.reinvite(HOLD, done=results.append)
    w.clock.run_for(1)
    assert len(results) == 1
    assert w.alice.diary.events == [f"ended dialog dead: {status}"]
    assert w.bob.diary.events == ["INVITE", "ended bye"]
    w.finish()


def test_silent_peer_ends_the_call() -> None:
    w = TwoPhones()
    call, incoming = w.established()
    w.network.drop = lambda sent: sent.source[0] == "10.0.0.2" and sent.time < 1040
    results: list[object] = []
    call.reinvite(HOLD, done=results.append)
    w.clock.run_for(100)
    assert results == ["timeout"]
    assert w.alice.diary.events == ["ended dialog dead: timeout"]
    assert incoming.state == "ended"
    w.finish()


def test_bye_ends_an_open_reinvite_with_487_in_both_directions() -> None:
    for by_caller in (True, False):
        w = TwoPhones()
        call, incoming = w.established()
        w.bob.diary.on["request"] = lambda call, request, reply: reply(100)
        results: list[object] = []
        call.reinvite(HOLD, done=results.append)
        call.reinvite(SDP, done=results.append)
        w.clock.run_for(1)
        (call if by_caller else incoming).bye()
        w.clock.run_for(1)
        assert [r.status if isinstance(r, SipResponse) else r for r in results] == ["ended", 487]
        w.finish()


def test_target_is_refreshed_by_the_contact_of_both_sides() -> None:
    w = TwoPhones()
    w.network.nodes["10.0.0.1", 5070] = w.alice.node
    w.network.nodes["10.0.0.2", 5070] = w.bob.node
    call, incoming = w.established()
    call.contact = "<sip:10.0.0.1:5070>"
    incoming.contact = "<sip:10.0.0.2:5070>"
    call.reinvite(HOLD)
    w.clock.run_for(1)
    assert w.sent("ACK")[0].destination == ("10.0.0.2", 5070)
    incoming.request("INFO")
    call.update()
    w.clock.run_for(1)
    assert w.sent("INFO")[0].destination == ("10.0.0.1", 5070)
    assert parsed(w.sent("UPDATE")[0]).uri == "sip:10.0.0.2:5070"
    call.bye()
    w.finish()


def test_call_goes_on_in_another_process_from_what_was_stored() -> None:
    w = TwoPhones()
    call, incoming = w.established(session_expires=1800)
    stored = json.loads(json.dumps(call.to_dict()))
    w.alice.agent.forget(call)
    call._close()  # the process is gone, and its timers
    diary = Diary()
    again = w.alice.agent.restore(stored, diary)
    results: list[object] = []
    again.reinvite(HOLD, done=results.append)
    w.clock.run_for(1)
    assert [result.status for result in results if isinstance(result, SipResponse)] == [200]
    incoming.request("INFO")
    w.clock.run_for(1)
    assert diary.events == ["INFO"]
    incoming.bye()
    w.clock.run_for(1)
    assert diary.events == ["INFO", "ended bye"]
    w.finish()


def test_own_reinvite_waits_for_the_ack_of_the_invite_before() -> None:
    w = TwoPhones()
    w.network.drop = lambda sent: sent.line.startswith("ACK") and sent.time < 1002

    def take(call: IncomingCall) -> None:
        call.answer(200, ANSWER)
        call.reinvite(HOLD)

    w.bob.take = take
    call = w.call()
    w.clock.run_for(5)
    own = [sent.time for sent in w.sent("INVITE") if sent.source[0] == "10.0.0.2"]
    assert own[0] > next(sent.time for sent in w.sent("ACK") if not sent.lost)
    call.bye()
    w.finish()


def test_reinvite_that_rings_for_ever_is_cancelled_when_the_call_ends() -> None:
    w = TwoPhones()
    call, incoming = w.established()
    original = w.bob.endpoint.request_received

    def stubborn(transaction: ServerTransaction) -> None:
        if transaction.method == "INVITE":
            transaction.respond(transaction.request.response(180))
        else:
            original(transaction)

    w.bob.endpoint.request_received = stubborn  # type: ignore[method-assign]
    results: list[object] = []
    call.reinvite(HOLD, done=results.append)
    w.clock.run_for(1)
    call.bye()
    w.clock.run_for(1)
    assert len(w.sent("CANCEL")) == 1
    w.clock.run_until_idle()
    assert results == ["timeout"]
    assert w.alice.left() == {}
    assert incoming.state == "ended"


def test_own_reinvite_waits_while_an_update_of_the_peer_is_unanswered() -> None:
    w = TwoPhones()
    call, incoming = w.established()
    replies: list[Reply] = []
    w.bob.diary.on["request"] = lambda call, request, reply: replies.append(reply)
    call.update(HOLD)
    w.clock.run_for(0.2)
    incoming.reinvite(HOLD)
    w.clock.run_for(0.2)
    assert w.lines() == ["A UPDATE"]
    replies[0](200, ANSWER)
    w.clock.run_for(1)
    assert w.lines() == ["A UPDATE", "B 200", "B INVITE", "A 200", "B ACK"]
    call.bye()
    w.finish()


def test_own_reinvite_waits_for_the_answer_to_a_late_offer() -> None:
    w = TwoPhones()
    w.bob.take = lambda call: call.answer(200, SDP)
    call = w.call(body=b"")
    w.clock.run_for(0.1)
    call.reinvite(HOLD)
    w.clock.run_for(0.1)
    assert w.lines() == ["A INVITE", "B 200"]
    call.ack(ANSWER)
    w.clock.run_for(0.1)
    assert w.lines() == ["A INVITE", "B 200", "A ACK", "A INVITE", "B 200", "A ACK"]
    call.bye()
    w.finish()


def test_update_with_offer_from_a_ringing_callee_meets_our_open_offer() -> None:
    w = TwoPhones()
    w.bob.take = ring
    call = w.call()
    w.clock.run_for(0.1)
    dialog = w.bob.calls[0].dialog
    assert dialog is not None
    w.network.trace.clear()
    for body in (SDP, b""):
        update = dialog.request("UPDATE", body=body, content_type="application/sdp" if body else "")
        update.prepend("via", f"SIP/2.0/UDP 10.0.0.2;branch=z9hG4bK{len(body)}")
        w.alice.layer.receive(update, w.bob.node.hop())
    assert w.lines() == ["A 491", "A 200"]
    call.cancel()
    w.finish()


def test_update_with_metadata_alone_is_no_offer() -> None:
    w = TwoPhones()
    call, incoming = w.established()
    call.update(b"<recording/>", "application/rs-metadata+xml")
    incoming.reinvite(HOLD)
    w.clock.run_for(1)
    assert "A 491" not in w.lines()
    assert "B 491" not in w.lines()
    call.bye()
    w.finish()


def test_hanging_up_before_the_answer_cancels() -> None:
    w = TwoPhones()
    w.bob.take = ring
    call = w.call()
    w.clock.run_for(1)
    call.bye()
    w.clock.run_for(1)
    assert w.alice.diary.events == ["180", "failed 487 cancelled"]
    w.finish()


# -- session timer -----------------------------------------------------------------------------------------------------


def test_session_is_refreshed_by_update_at_half_the_interval() -> None:
    w = TwoPhones()
    call, _ = w.established(session_expires=600)
    w.clock.run_for(1000)
    assert w.lines() == ["A UPDATE", "B 200"] * 3
    assert [round(sent.time) - 1000 for sent in w.sent("UPDATE")] == [300, 600, 900]
    update = parsed(w.sent("UPDATE")[0])
    assert update.get("session-expires") == "600;refresher=uac"
    assert update.body == b""
    call.bye()
    w.finish()


def test_session_is_refreshed_by_reinvite_with_the_same_sdp_when_update_is_not_allowed() -> None:
    w = TwoPhones()
    w.bob.agent.allow = "INVITE, ACK, BYE, CANCEL"
    call, _ = w.established(session_expires=600)
    w.clock.run_for(400)
    assert w.lines() == ["A INVITE", "B 200", "A ACK"]
    assert parsed(w.sent("INVITE")[0]).body == SDP
    call.bye()
    w.finish()


def test_refused_refresh_is_tried_again_and_by_reinvite_when_update_is_unknown() -> None:
    w = TwoPhones()
    call, _ = w.established(session_expires=600)
    answers = [500, 501, 200]
    w.bob.diary.on["request"] = lambda call, request, reply: reply(answers.pop(0))
    w.clock.run_for(450)
    assert w.lines() == ["A UPDATE", "B 500", "A UPDATE", "B 501", "A INVITE", "B 200", "A ACK"]
    assert call.state == "confirmed"
    call.bye()
    w.finish()


def test_session_that_is_not_refreshed_is_ended_before_it_expires() -> None:
    w = TwoPhones()
    w.established(session_expires=300)
    w.network.drop = lambda sent: sent.source[0] == "10.0.0.1"
    w.clock.run_for(267)
    assert w.bob.diary.events == []
    w.clock.run_for(2)
    assert w.bob.diary.events == ["ended session expired"]
    w.finish()


def test_callee_refreshes_for_a_caller_that_cannot() -> None:
    w = TwoPhones()
    w.bob.take = lambda call: (setattr(call, "session_expires", 300), call.answer(200, ANSWER))[0]  # type: ignore[func-returns-value]
    call, _ = w.established(supported=())
    w.clock.run_for(160)
    assert w.lines() == ["B UPDATE", "A 200"]
    call.bye()
    w.finish()


@pytest.mark.parametrize("refresher", ["uac", "uas"])
@pytest.mark.parametrize("seconds", [1, 2, 89])
def test_peer_that_says_a_tiny_session_expires_is_not_refreshed_more_often_than_every_45_seconds(
    refresher: str, seconds: int
) -> None:
    w = TwoPhones()
    take = w.alice.node.on_message

    def rewritten(message: Any, source: Hop) -> None:
        if isinstance(message, SipResponse) and message.status == 200:
            message.set("session-expires", f"{seconds};refresher={refresher}")
        take(message, source)

    w.alice.node.on_message = rewritten
    call, _ = w.established(session_expires=1800)
    w.clock.run_for(44)
    assert call.state == "confirmed"
    assert w.lines() == [], "RFC 4028 4: nobody has to refresh more often than every 90 s"
    call.bye()
    w.finish()


def test_2xx_without_session_expires_turns_the_timer_off() -> None:
    w = TwoPhones()
    call, _ = w.established(session_expires=300)

    def request(call: Call, request: SipRequest, reply: Reply) -> None:
        request.remove("session-expires")
        reply(200)

    w.bob.diary.on["request"] = request
    w.clock.run_for(2000)
    assert w.lines() == ["A UPDATE", "B 200"]
    assert call.state == "confirmed"
    call.bye()
    w.finish()


def test_too_small_interval_is_raised_after_422() -> None:
    w = TwoPhones()
    call, _ = w.established(session_expires=60)
    w.clock.run_for(50)
    assert w.lines() == ["A UPDATE", "B 200"]
    assert parsed(w.sent("UPDATE")[0]).get("session-expires") == "90;refresher=uac"
    call.bye()
    w.finish()


def test_refresh_has_the_headers_its_owner_wants() -> None:
    w = TwoPhones()
    call, _ = w.established(session_expires=600)
    call.refresh_headers = [("X-Recorder", "7")]
    w.clock.run_for(310)
    assert parsed(w.sent("UPDATE")[0]).get("x-recorder") == "7"
    call.bye()
    w.finish()


# -- outside of dialogs ------------------------------------------------------------------------------------------------


def ask(w: TwoPhones, method: str, **headers: str) -> SipResponse:
    request = SipRequest(method, "sip:bob@10.0.0.2")
    for name, value in headers.items():
        request.add(name.replace("_", "-"), value)
    results: list[SipResponse | str] = []
    w.alice.agent.request(request, request.ruri, results.append)
    w.clock.run_for(5)
    assert isinstance(results[0], SipResponse)
    return results[0]


def test_silence_after_a_provisional_response_is_no_reason_to_try_another_hop() -> None:
    w = TwoPhones(resolve=two_hops(Hop("udp", "10.0.0.2", 5060), Hop("udp", "10.0.0.3", 5060)))
    w.bob.endpoint.request_received = lambda transaction: None  # type: ignore[method-assign]
    results: list[object] = []
    w.alice.agent.request(SipRequest("MESSAGE", "sip:pool"), Uri.parse("sip:pool"), results.append)
    w.finish()
    assert "B 100" in w.lines()
    assert results == ["timeout"]
    assert {sent.destination[0] for sent in w.sent("MESSAGE")} == {"10.0.0.2"}


def test_challenged_request_outside_a_dialog_is_sent_again() -> None:
    w = TwoPhones()
    server = DigestServer(w.clock, "bob")

    def registrar(transaction: ServerTransaction) -> bool:
        ok = server.verify(transaction.request, {"alice": "secret"}.get).ok
        headers = [] if ok else server.challenge()
        transaction.respond(transaction.request.response(200 if ok else 401, to_tag="r", headers=headers))
        return True

    w.bob.agent.on_request = registrar
    results: list[SipResponse | str] = []
    request = SipRequest("REGISTER", "sip:10.0.0.2")
    store = CredentialStore([Credentials("alice", "secret")])
    w.alice.agent.request(request, request.ruri, results.append, credentials=store)
    w.clock.run_for(1)
    assert [result.status for result in results if isinstance(result, SipResponse)] == [200]
    first, second = (parsed(sent) for sent in w.sent("REGISTER"))
    assert second.cseq.number == first.cseq.number + 1
    assert second.get("contact") == "<sip:10.0.0.1:5060>"
    w.finish()


def test_options_says_what_we_can() -> None:
    w = TwoPhones(extensions=["siprec"])
    response = ask(w, "OPTIONS")
    assert response.status == 200
    assert "update" in response.tokens("allow")
    assert response.tokens("supported") == {"siprec", "timer"}
    assert response.get("accept") == "application/sdp"
    assert ask(w, "REGISTER").status == 405
    assert ask(w, "INFO").status == 403
    assert ask(w, "NOTIFY", To="<sip:bob@x>;tag=1").status == 481
    w.finish()


def test_invites_that_cannot_be_taken() -> None:
    w = TwoPhones()
    contact = "<sip:10.0.0.1>"
    response = ask(w, "INVITE", Contact=contact, Require="foo, timer, bar")
    assert (response.status, response.get("unsupported")) == (420, "foo, bar")
    w.bob.take = lambda call: call.answer(603)
    assert ask(w, "INVITE", Contact=contact, Session_Expires="30", Supported="timer").status == 603
    refused = [parse_datagram(sent.data) for sent in w.network.trace if short(sent) == "422"]
    assert [response.get("min-se") for response in refused] == ["90"]
    w.bob.calls.clear()
    assert ask(w, "INVITE").status == 400
    assert ask(w, "INVITE", Contact="<sip:10.0.0.1:99999>").status == 400
    w.finish()
    assert w.bob.calls == []


def test_invite_that_comes_by_two_ways_is_answered_once() -> None:
    w = TwoPhones()
    w.bob.take = wait
    w.call()
    w.clock.run_for(0.1)
    twin = parsed(w.sent("INVITE")[0])
    twin.set("via", "SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKtwin")
    w.bob.layer.receive(twin, w.alice.node.hop())
    assert w.lines() == ["A INVITE", "B 482"]
    w.bob.calls[0].answer(603)
    w.finish()
    assert len(w.bob.calls) == 1


def test_stray_cancel_gets_481_and_stray_ack_nothing() -> None:
    w = TwoPhones()
    assert ask(w, "CANCEL").status == 481
    ack = SipRequest("ACK", "sip:bob@10.0.0.2")
    for name, value in (("From", "<sip:a@x>;tag=1"), ("To", "<sip:b@x>;tag=2"), ("Call-ID", "1"), ("CSeq", "1 ACK")):
        ack.add(name, value)
    w.alice.layer.send_stateless(ack, w.bob.node.hop(), add_via="z9hG4bKstray")
    before = len(w.network.trace)
    w.clock.run_for(5)
    assert len(w.network.trace) == before
    w.finish()
