"""Forking, best response, CANCEL, Timer C and failover through the proxy."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from siprec.proxy.best_response import choose
from siprec.proxy.options import ProxyOptions
from siprec.proxy.routes import RouteRule, Rules
from siprec.proxy.script import Request, Script
from siprec.sip.message import SipRequest, SipResponse, parse_datagram
from siprec.sip.transport import Hop
from siprec.sip.useragent import IncomingCall
from tests.simulation.network import LinkQuality
from tests.simulation.phones import ANSWER
from tests.simulation.proxyworld import PROXY, ProxyWorld, raw_request

B, C, D = "sip:10.0.0.2", "sip:10.0.0.3", "sip:10.0.0.4"


def fork_world(*targets: str, parallel: bool = True, phones: int = 4, **options: object) -> ProxyWorld:
    rules = Rules([RouteRule(method="INVITE", targets=list(targets), fork=parallel)])
    return ProxyWorld(phones=phones, rules=rules, **options)  # type: ignore[arg-type]


def ring(call: IncomingCall) -> None:
    call.answer(180)


def refuse(status: int, *headers: tuple[str, str]) -> object:
    return lambda call: call.answer(status, headers=headers)


def statuses(w: ProxyWorld, to: str = "10.0.0.1") -> list[str]:
    return [sent.line.split()[1] for sent in w.sent("SIP/2.0", to)]


def test_parallel_fork_first_answer_wins_and_losers_are_cancelled() -> None:
    w = fork_world(B, C, D)
    for phone in w.phones[1:]:
        phone.take = ring
    w.call("sip:bob@example.com")
    w.clock.run_for(1)
    assert statuses(w) == ["100", "180", "180", "180"]
    assert w.core.counts()["dialogs"] == 3, "an early dialog per To tag"
    w.phones[2].calls[0].answer(200, ANSWER)
    w.clock.run_for(1)
    cancels = [parse_datagram(sent.data) for sent in w.sent("CANCEL")]
    assert [cancel.get("reason") for cancel in cancels] == ['SIP;cause=200;text="Call completed elsewhere"'] * 2
    assert {sent.destination[0] for sent in w.sent("CANCEL")} == {"10.0.0.2", "10.0.0.4"}
    assert statuses(w)[-1] == "200"
    assert w.journal.events == ["created", *["progress 180"] * 3, "answered"]
    call = w.journal.calls[0]
    assert call.to_tag == w.phones[2].calls[0].local_tag
    w.alice.agent.calls()[0].bye()
    w.finish()


def test_ringing_of_a_branch_after_the_answer_of_another_is_told_nobody() -> None:
    w = fork_world(B, C)

    def ring_late(call: IncomingCall) -> None:
        w.clock.call_later(0.015, ring, call)  # its CANCEL is on its way

    w.phones[2].take = ring_late
    w.call("sip:bob@example.com")
    w.clock.run_for(1)
    assert len(w.sent("SIP/2.0 180", PROXY)) == 1
    assert statuses(w) == ["100", "200"]
    assert w.journal.events == ["created", "answered"]
    assert w.core.counts()["dialogs"] == 1
    w.alice.agent.calls()[0].bye()
    w.finish()


@pytest.mark.parametrize(("status", "result"), [(180, ["100"]), (200, ["100", "502"]), (486, ["100", "502"])])
def test_response_without_a_via_of_the_caller_is_for_nobody(status: int, result: list[str]) -> None:  # RFC 3261 16.7
    w = fork_world(B)
    w.phones[1].take = lambda call: None
    call = w.call("sip:bob@example.com")
    w.clock.run_for(0.1)
    invite = parse_datagram(w.sent("INVITE", "10.0.0.2")[0].data)
    assert isinstance(invite, SipRequest)
    response = invite.response(status, to_tag="b")
    response.set("via", invite.values("via")[0])
    w.node.deliver(response.to_bytes(), Hop("udp", "10.0.0.2", 5060, (PROXY, 5060)))
    w.clock.run_for(0.1)
    assert statuses(w) == result
    call.cancel()
    w.finish()


def test_two_answers_both_reach_the_caller_and_the_kept_one_is_the_call() -> None:
    w = fork_world(B, C)
    w.network.link(PROXY, "10.0.0.3", LinkQuality(delay=0.2))
    w.call("sip:bob@example.com")
    w.clock.run_for(2)
    assert statuses(w)[:3] == ["100", "200", "200"]
    assert w.sent("BYE", "10.0.0.3"), "the caller ends the second dialog (UAC-04)"
    assert w.journal.calls[0].to_tag == w.phones[1].calls[0].local_tag
    assert w.journal.calls[0].state == "confirmed"
    w.alice.agent.calls()[0].bye()
    w.finish()


def test_serial_fork_tries_one_after_the_other() -> None:
    w = fork_world(B, C, parallel=False)
    w.phones[1].take = refuse(486)  # type: ignore[assignment]
    w.call("sip:bob@example.com")
    w.clock.run_for(1)
    assert statuses(w) == ["100", "200"]
    assert not w.sent("INVITE", "10.0.0.4")
    w.alice.agent.calls()[0].bye()
    w.finish()


def test_a_target_that_is_named_twice_is_asked_once() -> None:  # REQ-11
    w = fork_world(B, C, B)
    w.phones[1].take = w.phones[2].take = ring
    w.call("sip:bob@example.com")
    w.clock.run_for(1)
    assert sorted(sent.destination[0] for sent in w.sent("INVITE") if sent.source[0] == PROXY) == [
        "10.0.0.2",
        "10.0.0.3",
    ]
    w.alice.agent.calls()[0].bye()
    w.finish()


def test_trying_of_the_next_hop_goes_no_further() -> None:  # RSP-03
    w = fork_world(B)
    w.phones[1].take = lambda call: (call.answer(100), call.answer(180))[1]  # type: ignore[func-returns-value]
    w.call("sip:bob@example.com")
    w.clock.run_for(1)
    assert [sent.line.split()[1] for sent in w.sent("SIP/2.0", PROXY)] == ["100", "180"]
    assert statuses(w) == ["100", "180"]
    w.alice.agent.calls()[0].bye()
    w.finish()


@pytest.mark.parametrize(
    ("codes", "best"),
    [
        ((486, 404), "486"),
        ((503, 480), "480"),
        ((503, 503), "500"),
        ((500, 603), "603"),
        ((484, 404), "484"),
        # What the caller can do something about goes before the rest of its class (RFC 3261 16.7 step 6).
        *(((404, code), str(code)) for code in (401, 407, 415, 420, 484)),
        ((408, 486), "486"),
    ],
)
def test_best_response_of_a_fork(codes: tuple[int, int], best: str) -> None:
    w = fork_world(B, C)
    for phone, code in zip(w.phones[1:], codes, strict=False):
        phone.take = refuse(code)  # type: ignore[assignment]
    w.call("sip:bob@example.com")
    w.clock.run_for(1)
    assert statuses(w)[-1] == best
    assert w.journal.events == ["created", f"ended {best}"]
    w.finish()


def test_challenges_of_all_branches_are_passed_on() -> None:
    w = fork_world(B, C)
    for n, phone in enumerate(w.phones[1:3]):
        phone.take = refuse(407, ("Proxy-Authenticate", f'Digest realm="r{n}", nonce="n"'))  # type: ignore[assignment]
    w.call("sip:bob@example.com")
    w.clock.run_for(1)
    response = parse_datagram(w.sent("SIP/2.0 407", "10.0.0.1")[0].data)
    assert sorted(response.get_all("proxy-authenticate")) == [
        'Digest realm="r0", nonce="n"',
        'Digest realm="r1", nonce="n"',
    ]
    w.finish()


def test_6xx_ends_the_search_and_cancels_the_rest() -> None:
    w = fork_world(B, C)
    w.phones[1].take = ring
    w.phones[2].take = refuse(603)  # type: ignore[assignment]
    w.call("sip:bob@example.com")
    w.clock.run_for(1)
    assert w.sent("CANCEL", "10.0.0.2")
    assert statuses(w)[-1] == "603"
    w.finish()


def test_cancel_is_passed_with_its_reason_and_487_comes_back() -> None:
    w = fork_world(B, C)
    w.phones[1].take = w.phones[2].take = ring
    call = w.call("sip:bob@example.com")
    w.clock.run_for(1)
    call.cancel([("Reason", "SIP;cause=600")])
    w.clock.run_for(1)
    assert [parse_datagram(sent.data).get("reason") for sent in w.sent("CANCEL") if sent.source[0] == PROXY] == [
        "SIP;cause=600"
    ] * 2
    assert statuses(w)[-1] == "487"
    assert w.journal.events[-1] == "ended cancelled"
    w.finish()


def test_cancel_waits_for_a_provisional_response() -> None:
    w = fork_world(B)
    w.network.link(PROXY, "10.0.0.2", LinkQuality(delay=0.3))
    w.phones[1].take = ring
    call = w.call("sip:bob@example.com")
    w.clock.run_for(0.1)
    call.cancel()
    w.clock.run_for(0.2)
    assert not w.sent("CANCEL", "10.0.0.2")
    w.clock.run_for(2)
    assert w.sent("CANCEL", "10.0.0.2")
    assert statuses(w)[-1] == "487"
    w.finish()


@pytest.mark.parametrize("cancel_first", [False, True])
def test_cancel_that_crosses_the_200_leaves_a_call_that_is_ended(cancel_first: bool) -> None:
    w = fork_world(B)
    w.phones[1].take = ring
    call = w.call("sip:bob@example.com")
    w.clock.run_for(1)
    if cancel_first:
        call.cancel()
        w.clock.run_for(0.015)  # the proxy has passed it on, and the phone has not got it
    w.phones[1].calls[0].answer(200, ANSWER)
    if not cancel_first:
        call.cancel()
    w.clock.run_for(2)
    assert len(w.sent("CANCEL", "10.0.0.2")) == (1 if cancel_first else 0)
    answers = [parse_datagram(sent.data) for sent in w.sent("SIP/2.0 200", "10.0.0.1")]
    assert "INVITE" in [answer.cseq.method for answer in answers]
    assert w.journal.events[-1] == "ended bye"
    w.finish()


def test_timer_c_cancels_a_branch_that_rings_for_ever() -> None:
    w = fork_world(B, options=ProxyOptions(trusted=["10.0.0.0/8"], timer_c=181))
    w.alice.agent.ring_timeout = 10000
    w.phones[1].agent.ring_timeout = 10000
    w.phones[1].take = ring
    w.call("sip:bob@example.com")
    w.clock.run_for(1)
    # The phone says 180 every minute, which resets the timer: lose what comes after the first.
    w.network.drop = lambda sent: sent.source[0] == "10.0.0.2" and " 180 " in sent.line
    w.clock.run_for(179)
    assert not w.sent("CANCEL")
    w.clock.run_for(3)
    assert len(w.sent("CANCEL", "10.0.0.2")) == 1
    assert statuses(w)[-1] == "487"
    w.finish()


def test_timer_c_begins_again_with_each_provisional_response() -> None:  # RFC 3261 16.7 step 2
    w = fork_world(B, options=ProxyOptions(trusted=["10.0.0.0/8"], timer_c=181))
    w.alice.agent.ring_timeout = 10000
    w.phones[1].agent.ring_timeout = 10000
    w.phones[1].take = ring
    w.call("sip:bob@example.com")
    begun = w.clock.now()
    # The phone says 180 every minute, two minutes long.
    w.network.drop = lambda sent: " 180 " in sent.line and sent.time > begun + 130
    w.clock.run_for(295)
    assert not w.sent("CANCEL")
    w.clock.run_for(10)
    assert len(w.sent("CANCEL", "10.0.0.2")) == 1
    assert statuses(w)[-1] == "487"
    w.finish()


def test_silent_next_hop_is_given_up_for_the_next_one_within_seconds() -> None:
    w = fork_world("sip:gateways.test")
    w.hosts["gateways.test"] = [Hop("udp", "10.0.0.77", 5060), Hop("udp", "10.0.0.2", 5060)]
    w.call("sip:bob@example.com")
    w.clock.run_for(5)
    assert w.journal.events == ["created", "answered"]
    branches = {
        message.top_via.branch
        for message in (parse_datagram(sent.data) for sent in w.sent("INVITE") if sent.source[0] == PROXY)
    }
    assert len(branches) == 2, "each attempt has a branch of its own"
    w.alice.agent.calls()[0].bye()
    w.finish()


def test_refused_connection_and_503_go_to_the_next_hop() -> None:
    w = fork_world("sip:gateways.test")
    w.phones[2].take = refuse(503)  # type: ignore[assignment]
    w.hosts["gateways.test"] = [
        Hop("tcp", "10.0.0.77", 5060),
        Hop("udp", "10.0.0.3", 5060),
        Hop("udp", "10.0.0.2", 5060),
    ]
    w.call("sip:bob@example.com")
    w.clock.run_for(1)
    assert w.journal.events == ["created", "answered"]
    w.alice.agent.calls()[0].bye()
    w.finish()


def test_nobody_there_is_408() -> None:
    w = fork_world("sip:10.0.0.77")
    w.call("sip:bob@example.com")
    w.clock.run_for(33)
    assert statuses(w)[-1] == "408"
    w.finish()


def test_redirect_is_followed_for_own_domains_if_wanted() -> None:
    w = fork_world(B, options=ProxyOptions(trusted=["10.0.0.0/8"], recurse=True))
    w.phones[1].take = refuse(302, ("Contact", "<sip:bob@10.0.0.3>"))  # type: ignore[assignment]
    w.call("sip:bob@example.com")
    w.clock.run_for(1)
    assert w.journal.events == ["created", "answered"]
    assert w.sent("INVITE", "10.0.0.3")
    w.alice.agent.calls()[0].bye()
    w.finish()


def test_redirect_is_passed_on_by_default() -> None:
    w = fork_world(B)
    w.phones[1].take = refuse(302, ("Contact", "<sip:bob@10.0.0.3>"))  # type: ignore[assignment]
    w.call("sip:bob@example.com")
    w.clock.run_for(1)
    assert statuses(w)[-1] == "302"
    w.finish()


def test_max_breadth_is_split_and_never_exceeded() -> None:
    w = fork_world(B, C, D)
    for phone in w.phones[1:]:
        phone.take = refuse(486)  # type: ignore[assignment]
    w.call("sip:bob@example.com", headers=[("Max-Breadth", "2")])
    w.clock.run_for(0.025)
    assert {sent.destination[0] for sent in w.sent("INVITE") if sent.source[0] == PROXY} == {"10.0.0.2", "10.0.0.3"}
    w.clock.run_for(1)
    assert w.sent("INVITE", "10.0.0.4"), "the third had to wait for its turn"
    invite = parse_datagram(w.sent("INVITE", "10.0.0.2")[0].data)
    assert invite.get("max-breadth") == "1"
    w.finish()


def test_max_breadth_zero_is_440() -> None:
    w = fork_world(B, C)
    w.call("sip:bob@example.com", headers=[("Max-Breadth", "0")])
    w.clock.run_for(1)
    assert statuses(w) == ["100", "440"]
    w.finish()


def test_lossy_network_leaves_nothing_behind() -> None:
    for seed in range(12):
        w = fork_world(B, C, seed=seed, quality=LinkQuality(loss=0.25, duplicate=0.1, jitter=0.2))
        w.phones[2].take = ring
        w.call("sip:bob@example.com")
        w.clock.run_for(40)
        for call in w.alice.agent.calls():
            call.bye()
        w.clock.run_until_idle(400000)
        assert not any(w.layer.counts().values()), seed
        assert w.core.counts() == {"contexts": 0, "calls": 0, "dialogs": 0, "media_sessions": 0}, seed


def test_whatever_is_lost_every_call_ends_once_and_leaves_nothing() -> None:
    for seed in range(40):
        w = fork_world(
            B,
            C,
            parallel=seed % 2 == 0,
            phones=3,
            relay=True,
            seed=seed,
            quality=LinkQuality(loss=0.3, duplicate=0.2, jitter=0.4),
            options=ProxyOptions(trusted=["10.0.0.0/8"], media_use="always"),
        )
        w.relay.delay = 0.1
        if seed % 3 == 0:
            w.phones[1].take = ring
        if seed % 5 == 0:
            w.phones[2].take = refuse(486)  # type: ignore[assignment]
        if seed % 7 == 0:
            w.relay.silent = {"answer"}
        call = w.call("sip:bob@example.com")
        w.clock.run_for((seed % 11) * 0.2)
        if seed % 4 == 0:
            call.cancel()
        w.clock.run_for(40)
        for phone in w.phones:
            for each in phone.agent.calls():
                each.bye()
        w.clock.run_until_idle(400000)
        assert not any(w.layer.counts().values()), seed
        assert not any(w.core.counts().values()), seed
        assert not w.relay.live, seed
        assert w.clock.pending == 0, seed
        ends = [event for event in w.journal.events if event.startswith("ended")]
        assert len(ends) == w.journal.events.count("created"), seed


def test_failure_route_of_a_script_finds_another_target() -> None:
    async def request(request: Request) -> None:
        request.forward(B)

    async def reply(reply: object) -> None:
        if reply.status == 486:  # type: ignore[attr-defined]
            reply.fork([C])  # type: ignore[attr-defined]

    w = ProxyWorld(phones=3, script=Script({"request": request, "reply": reply}))
    w.phones[1].take = refuse(486)  # type: ignore[assignment]
    w.call("sip:bob@example.com")
    w.clock.run_for(1)
    assert statuses(w) == ["100", "200"]
    w.alice.agent.calls()[0].bye()
    w.finish()


@dataclass
class Outcome:
    """What came of a branch."""

    status: int
    response: SipResponse | None


def test_lone_silence_of_a_cancelled_call_is_487() -> None:
    request = raw_request("INVITE", "sip:bob@example.com")
    assert isinstance(request, SipRequest)
    assert choose(request, [Outcome(408, None)], "t", True).status == 487
    assert choose(request, [], "t", False).status == 480
    real = SipResponse(404)
    assert choose(request, [Outcome(404, None), Outcome(404, real)], "t", False) is real
