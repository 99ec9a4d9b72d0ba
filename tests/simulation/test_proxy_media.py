"""Offer/answer through the media server, and what happens to the call when that fails."""

from __future__ import annotations

import pytest

from siprec.proxy.options import ProxyOptions
from siprec.proxy.routes import RouteRule, RuleError, Rules
from siprec.sip.message import SipResponse, parse_datagram
from siprec.sip.multipart import Part, build_multipart
from siprec.sip.useragent import Call, IncomingCall
from tests.simulation.network import LinkQuality
from tests.simulation.phones import ANSWER, SDP
from tests.simulation.proxyworld import PROXY, ProxyWorld


def media_world(policy: str = "pass", **options: object) -> ProxyWorld:
    options.setdefault(
        "options",
        ProxyOptions(trusted=["10.0.0.0/8"], media_use="always", on_media_failure=policy),  # type: ignore[arg-type]
    )
    return ProxyWorld(relay=True, **options)  # type: ignore[arg-type]


def body(w: ProxyWorld, start: str, to: str, number: int = -1) -> bytes:
    return parse_datagram(w.sent(start, to)[number].data).body


def test_only_calls_to_be_recorded_pass_the_relay_by_default() -> None:
    rules = Rules([RouteRule(user="bob", record="main"), RouteRule(user="carol", media="always")])
    w = ProxyWorld(relay=True, phones=3, rules=rules)
    w.call("sip:bob@10.0.0.2")
    w.call("sip:carol@10.0.0.3")
    w.call("sip:dave@10.0.0.2")
    w.clock.run_for(1)
    assert len([line for line in w.relay.log if line.startswith("offer")]) == 2
    assert w.journal.calls[0].recordings == ["main"]
    for call in w.alice.agent.calls():
        call.bye()
    w.finish()


def test_the_protocol_of_a_route_is_what_the_callee_is_offered_and_only_the_callee() -> None:
    rules = Rules([RouteRule(user="bob", transport_protocol="RTP/SAVP"), RouteRule(user="carol", media="never")])
    w = ProxyWorld(relay=True, phones=3, rules=rules)
    call = w.call("sip:bob@10.0.0.2")
    w.clock.run_for(1)
    call.reinvite(SDP + b"a=sendonly\r\n")
    w.clock.run_for(1)
    w.bob.agent.calls()[0].reinvite(ANSWER + b"a=sendonly\r\n")
    w.clock.run_for(1)
    first = w.journal.calls[0]
    mine, theirs = first.from_tag, first.to_tag
    assert [line.split()[:2] for line in w.relay.log] == [
        ["offer", mine],
        ["answer", mine],
        ["offer", mine],
        ["answer", mine],
        ["offer", theirs],
        ["answer", theirs],
    ]
    assert w.relay.protocols == ["RTP/SAVP", "", "RTP/SAVP", "", "", ""]
    call.bye()
    w.finish()


def test_what_a_route_asks_of_the_media_server_is_said_with_the_callers_offers() -> None:
    keys = {
        "direction": ["internal", "external"],
        "ICE": "remove",
        "codec": {"strip": ["G722"]},
        "flags": ["symmetric"],
    }
    w = ProxyWorld(relay=True, rules=Rules([RouteRule(user="bob", media_flags=keys)]))
    call = w.call("sip:bob@10.0.0.2")
    w.clock.run_for(1)
    w.bob.agent.calls()[0].reinvite(ANSWER + b"a=sendonly\r\n")
    w.clock.run_for(1)
    assert [line.split()[0] for line in w.relay.log] == ["offer", "answer", "offer", "answer"]
    first = w.relay.asked[0]
    assert (first.direction, first.ice, first.flags) == (("internal", "external"), "remove", ("symmetric",))
    assert first.extra == {"codec": {"strip": ["G722"]}}
    assert [flags.direction for flags in w.relay.asked[1:]] == [(), (), ()]
    call.bye()
    w.finish()


@pytest.mark.parametrize(
    "keys", [{"flags": "symmetric"}, {"ICE": 1}, {"call-id": "x"}, {"codec": {"strip": [1.5]}}, {"x": True}]
)
def test_what_ng_cannot_carry_is_refused_with_the_key(keys: dict[str, object]) -> None:
    with pytest.raises(RuleError, match=rf"media_flags\.{next(iter(keys))}"):
        RouteRule(user="bob", media_flags=keys)


def test_late_offer_is_offered_by_the_callee_and_answered_in_the_ack() -> None:
    w = media_world()
    w.bob.take = lambda call: call.answer(200, ANSWER)
    w.alice.diary.on["answered"] = lambda call, response: call.ack(SDP)
    w.call(body=b"")
    w.clock.run_for(1)
    call = w.journal.calls[0]
    assert w.relay.log == [f"offer {call.to_tag} {call.from_tag}", f"answer {call.to_tag} {call.from_tag}"]
    assert b"192.0.2.2" in body(w, "SIP/2.0 200", "10.0.0.1")
    assert b"192.0.2.1" in body(w, "ACK", "10.0.0.2")
    assert (call.caller_sdp, call.callee_sdp) == (SDP, ANSWER)
    assert w.journal.events == ["created", "answered", "media changed by callee"]
    w.alice.agent.calls()[0].bye()
    w.finish()


def test_retransmissions_do_not_ask_the_relay_again() -> None:
    w = media_world()
    lost = iter([True, True, True])
    w.network.drop = lambda sent: sent.line.startswith("ACK") and next(lost, False)

    def early(call: IncomingCall) -> None:
        call.answer(183, ANSWER)
        call.answer(200, ANSWER)

    w.bob.take = early
    w.call()
    w.clock.run_for(10)
    assert len(w.sent("SIP/2.0 200", "10.0.0.1")) > 1
    assert len([line for line in w.relay.log if line.startswith("answer")]) == 1
    assert {body(w, "SIP/2.0 200", "10.0.0.1", n) for n in range(2)} == {ANSWER.replace(b"10.0.0.2", b"192.0.2.2")}
    w.alice.agent.calls()[0].bye()
    w.finish()


@pytest.mark.parametrize("delay", [0.005, 0.8])
def test_late_offer_and_its_answer_that_come_again_are_what_they_were(delay: float) -> None:
    w = media_world()
    w.bob.take = lambda call: call.answer(200, ANSWER)
    if delay < 0.5:
        lost = iter([True])
        w.network.drop = lambda sent: sent.line.startswith("ACK") and sent.destination[0] != PROXY and next(lost, False)

    def answered(call: Call, response: SipResponse) -> None:
        w.relay.delay = delay  # Bob repeats his 200 after half a second
        call.ack(SDP)

    w.alice.diary.on["answered"] = answered
    call = w.call(body=b"")
    w.clock.run_for(3)
    proxied = w.journal.calls[0]
    offer, answer = (f"{what} {proxied.to_tag} {proxied.from_tag}" for what in ("offer", "answer"))
    assert w.relay.log == [offer, answer]
    assert {body(w, "SIP/2.0 200", "10.0.0.1", n) for n in range(2)} == {ANSWER.replace(b"10.0.0.2", b"192.0.2.2")}
    assert {body(w, "ACK", "10.0.0.2", n) for n in range(2)} == {SDP.replace(b"10.0.0.1", b"192.0.2.1")}
    assert (proxied.caller_sdp, proxied.callee_sdp) == (SDP, ANSWER)
    call.bye()
    w.finish()


def test_refresh_with_the_same_description_does_not_ask_again_and_hold_does() -> None:
    w = media_world()
    call = w.call()
    w.clock.run_for(1)
    for _ in range(3):
        call.reinvite(SDP)
        w.clock.run_for(1)
    assert len([line for line in w.relay.log if line.startswith("offer")]) == 2, "initial, and first within the dialog"
    call.reinvite(SDP + b"a=sendonly\r\n")
    w.clock.run_for(1)
    call.reinvite(SDP)
    w.clock.run_for(1)
    assert len([line for line in w.relay.log if line.startswith("offer")]) == 4
    call.bye()
    w.finish()


def test_order_is_kept_while_the_relay_thinks() -> None:
    w = media_world()
    w.relay.delay = 0.2

    def both(call: IncomingCall) -> None:
        call.answer(183, ANSWER)
        call.answer(180)
        call.answer(200, ANSWER)

    w.bob.take = both
    w.call()
    w.clock.run_for(2)
    assert [s.line.split()[1] for s in w.sent("SIP/2.0", "10.0.0.1")][:4] == ["100", "183", "180", "200"]
    w.alice.agent.calls()[0].bye()
    w.finish()


def test_silent_relay_delays_the_call_by_its_budget_and_no_more() -> None:
    w = media_world()
    w.relay.silent = {"offer"}
    w.call()
    w.clock.run_for(1)
    invite = w.sent("INVITE", "10.0.0.2")[0]
    assert 0.29 < invite.time - w.sent("INVITE", PROXY)[0].time < 0.35
    assert body(w, "INVITE", "10.0.0.2") == SDP
    assert body(w, "SIP/2.0 200", "10.0.0.1") == ANSWER
    assert w.journal.events == ["created", "media failed", "answered"]
    assert w.core.counters["media_failures"] == 1
    assert w.journal.calls[0].media is None
    assert w.relay.log[-1] == "delete", "an offer taken after all holds no ports"
    w.alice.agent.calls()[0].bye()
    w.finish()


def test_refusing_relay_rejects_the_call_if_the_policy_says_so() -> None:
    w = media_world("reject")
    w.relay.fail = {"offer"}
    w.call()
    w.clock.run_for(1)
    assert [s.line.split()[1] for s in w.sent("SIP/2.0", "10.0.0.1")] == ["100", "503"]
    assert not w.sent("INVITE", "10.0.0.2")
    assert w.journal.events == ["created", "media failed", "ended 503"]
    w.finish()


def test_relay_that_fails_in_mid_call_leaves_the_call_alone() -> None:
    w = media_world()
    call = w.call()
    w.clock.run_for(1)
    w.relay.silent = {"offer", "answer"}
    changed = SDP.replace(b"4000", b"4100")
    results: list[object] = []
    call.reinvite(changed, done=results.append)
    w.clock.run_for(2)
    assert [getattr(result, "status", result) for result in results] == [200]
    assert body(w, "INVITE", "10.0.0.2") == changed
    call.bye()
    w.clock.run_for(1)
    assert w.relay.log[-1] == "delete"
    w.finish()


def test_media_go_when_the_call_fails_or_is_cancelled_even_while_the_relay_thinks() -> None:
    w = media_world()
    w.bob.take = lambda call: call.answer(486)
    w.call()
    w.clock.run_for(1)
    assert w.relay.log[-1] == "delete"
    w.relay.delay = 0.25
    w.bob.take = lambda call: call.answer(180)
    call = w.call()
    w.clock.run_for(0.1)
    call.cancel()
    w.clock.run_for(1)
    assert len(w.sent("INVITE", "10.0.0.2")) == 1, "the second was cancelled before it was sent on"
    assert w.relay.log[-1] == "delete"
    w.finish()


def test_branches_of_a_fork_are_told_apart_at_the_relay() -> None:
    rules = Rules([RouteRule(method="INVITE", targets=["sip:10.0.0.2", "sip:10.0.0.3"], fork=True)])
    w = media_world(phones=3, rules=rules)
    w.phones[1].take = w.phones[2].take = lambda call: call.answer(183, ANSWER)
    w.call("sip:bob@example.com")
    w.clock.run_for(1)
    call = w.journal.calls[0]
    tags = [phone.calls[0].local_tag for phone in w.phones[1:]]
    assert sorted(w.relay.log) == sorted(
        [
            f"offer {call.from_tag}",
            f"offer {call.from_tag}  {call.dlg_id}-1",
            f"answer {call.from_tag} {tags[0]}",
            f"answer {call.from_tag} {tags[1]} {call.dlg_id}-1",
        ]
    )
    w.phones[2].calls[0].answer(200, ANSWER)
    w.clock.run_for(1)
    assert call.media_session is not None
    assert call.media_session.to_tag == tags[1]
    w.alice.agent.calls()[0].bye()
    w.finish()


def test_branch_that_answers_gets_the_media_back_from_one_that_only_rang() -> None:
    rules = Rules([RouteRule(method="INVITE", targets=["sip:10.0.0.2", "sip:10.0.0.3"], fork=True)])
    w = media_world(phones=3, rules=rules)
    w.phones[1].take = w.phones[2].take = lambda call: call.answer(183, ANSWER)
    w.call("sip:bob@example.com")
    w.clock.run_for(1)
    first = w.phones[1].calls[0].local_tag
    last = w.relay.log[-1].split()[2]
    other = w.phones[1] if last != first else w.phones[2]
    before = len(w.relay.log)
    other.calls[0].answer(200, ANSWER)
    w.clock.run_for(1)
    assert [line.split()[2] for line in w.relay.log[before:]] == [other.calls[0].local_tag]
    w.alice.agent.calls()[0].bye()
    w.finish()


def test_second_answer_of_a_fork_does_not_take_the_media_away() -> None:
    rules = Rules([RouteRule(method="INVITE", targets=["sip:10.0.0.2", "sip:10.0.0.3"], fork=True)])
    w = media_world(phones=3, rules=rules)
    w.network.link(PROXY, "10.0.0.3", LinkQuality(delay=0.2))
    w.call("sip:bob@example.com")
    w.clock.run_for(2)
    assert len(w.sent("SIP/2.0 200", "10.0.0.1")) >= 2
    assert [line for line in w.relay.log if line.startswith("answer")] == [
        f"answer {w.journal.calls[0].from_tag} {w.phones[1].calls[0].local_tag}"
    ]
    w.alice.agent.calls()[0].bye()
    w.finish()


def test_refused_reinvite_leaves_what_was_agreed() -> None:
    w = media_world()
    call = w.call()
    w.clock.run_for(1)
    w.bob.diary.on["request"] = lambda call, request, reply: reply(488)
    other = SDP.replace(b"4000", b"4100")
    call.reinvite(other)
    w.clock.run_for(1)
    assert w.journal.calls[0].caller_sdp == SDP
    # The relay hears both sides of what was agreed again.
    assert [line.split()[0] for line in w.relay.log] == ["offer", "answer", "offer", "offer", "answer"]
    assert w.relay.said == [SDP, ANSWER, other, SDP, ANSWER]
    assert w.core.dialogs.all()[0].open is None
    assert "media changed" not in " ".join(w.journal.events)
    call.bye()
    w.finish()


def test_only_the_description_in_a_multipart_is_replaced() -> None:
    w = media_world()
    other = Part.make("application/x-thing", b"\x00\xff thing")
    content_type, octets = build_multipart([Part.make("application/sdp", SDP), other])
    w.call(body=octets, content_type=content_type)
    w.clock.run_for(1)
    got = w.sent("INVITE", "10.0.0.2")[0].data
    message = parse_datagram(got)
    assert message.body == octets.replace(b"10.0.0.1", b"192.0.2.1")
    assert message.get("content-length") == str(len(message.body))
    w.alice.agent.calls()[0].bye()
    w.finish()


def test_offer_of_the_callee_in_an_update_passes_the_relay() -> None:
    w = media_world()
    w.call()
    w.clock.run_for(1)
    w.alice.diary.on["request"] = lambda call, request, reply: reply(200, SDP)
    incoming: Call = w.bob.calls[0]
    incoming.update(ANSWER.replace(b"t=0 0", b"t=0 7"))
    w.clock.run_for(1)
    call = w.journal.calls[0]
    assert w.relay.log[2:] == [f"offer {call.to_tag} {call.from_tag}", f"answer {call.to_tag} {call.from_tag}"]
    assert w.journal.events[-1] == "media changed by callee"
    incoming.bye()
    w.finish()


def test_a_thousand_calls_leave_nothing_behind() -> None:
    w = media_world()
    for _ in range(10):
        calls = [w.call() for _ in range(100)]
        w.clock.run_for(2)
        for call in calls:
            call.bye()
        w.clock.run_for(1)
    assert w.core.counters["answered"] == 1000
    w.finish()
