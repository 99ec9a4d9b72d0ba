"""Calls through the proxy, message by message."""

from __future__ import annotations

from siprec.sip.message import SipRequest, SipResponse, parse_datagram
from siprec.sip.useragent import IncomingCall
from tests.simulation.phones import ANSWER
from tests.simulation.proxyworld import PROXY, ProxyWorld


def ring_and_answer(call: IncomingCall) -> None:
    call.answer(180)
    call.answer(200, ANSWER)


def request_at(data: bytes) -> SipRequest:
    message = parse_datagram(data)
    assert isinstance(message, SipRequest)
    return message


def test_call_is_proxied_from_invite_to_bye() -> None:
    w = ProxyWorld()
    w.bob.take = ring_and_answer
    call = w.call()
    w.clock.run_for(1)
    assert w.lines() == [
        "A>P INVITE",
        "P>A 100",
        "P>B INVITE",
        "B>P 180",
        "B>P 200",
        "P>A 180",
        "P>A 200",
        "A>P ACK",
        "P>B ACK",
    ]
    assert w.core.counts()["dialogs"] == w.core.counts()["calls"] == 1
    call.bye()
    w.clock.run_for(1)
    assert w.lines()[9:] == ["A>P BYE", "P>B BYE", "B>P 200", "P>A 200"]
    assert w.journal.events == ["created", "progress 180", "answered", "ended bye"]
    ended = w.journal.calls[0]
    assert ended.end_side == "caller"
    assert ended.answer_wall is not None
    assert isinstance(ended.response, SipResponse)
    assert ended.to_tag == ended.response.to.tag
    w.finish()


def test_callee_ends_the_call_and_reinvites_both_ways_pass() -> None:
    w = ProxyWorld()
    call = w.call()
    w.clock.run_for(1)
    incoming = w.bob.calls[0]
    results: list[object] = []
    call.reinvite(ANSWER, done=results.append)
    w.clock.run_for(1)
    incoming.reinvite(ANSWER, done=results.append)
    w.clock.run_for(1)
    assert [getattr(result, "status", result) for result in results] == [200, 200]
    incoming.bye()
    w.clock.run_for(1)
    assert w.lines()[-4:] == ["B>P BYE", "P>A BYE", "A>P 200", "P>B 200"]
    assert w.journal.events == [
        "created",
        "answered",
        "media changed by caller",
        "media changed by callee",
        "ended bye",
    ]
    assert w.journal.calls[0].end_side == "callee"
    w.finish()


def test_forwarded_request_has_via_record_route_and_max_forwards_and_is_else_untouched() -> None:
    w = ProxyWorld()
    w.call(headers=[("X-Odd", "  a ,b;c ")])
    w.clock.run_for(0.05)
    sent, received = request_at(w.sent("INVITE", PROXY)[0].data), request_at(w.sent("INVITE", "10.0.0.2")[0].data)
    assert [via.host for via in received.vias] == [PROXY, "10.0.0.1"]
    assert received.max_forwards == 69
    assert not received.has("route"), "the Route was ours"
    assert len(received.record_routes) == 1
    assert received.record_routes[0].uri.host == PROXY
    ours = {"via", "route", "record-route", "max-forwards", "max-breadth"}
    assert [line for key, line in zip(received.keys, received.lines, strict=True) if key not in ours] == [
        line for key, line in zip(sent.keys, sent.lines, strict=True) if key not in ours
    ]
    assert received.body == sent.body


def test_media_pass_the_relay_and_are_deleted_at_the_end() -> None:
    w = ProxyWorld(relay=True)
    w.core.media.use = "always"
    w.bob.take = ring_and_answer
    call = w.call()
    w.clock.run_for(1)
    assert b"192.0.2.1" in w.sent("INVITE", "10.0.0.2")[0].data
    assert b"192.0.2.2" in w.sent("SIP/2.0 200", "10.0.0.1")[0].data
    live = w.journal.calls[0]
    caller, callee = live.from_tag, live.to_tag
    assert w.relay.log == [f"offer {caller}", f"answer {caller} {callee}"]
    assert live.media is w.relay
    assert live.media_session is not None
    assert live.media_session.to_tag == callee
    assert b"10.0.0.1" in live.caller_sdp
    assert b"10.0.0.2" in live.callee_sdp
    w.bob.calls[0].reinvite(ANSWER.replace(b"t=0 0", b"t=0 1"))
    w.clock.run_for(1)
    assert w.relay.log[2:] == [f"offer {callee} {caller}", f"answer {callee} {caller}"]
    call.bye()
    w.clock.run_for(1)
    assert w.relay.log[4:] == ["delete"]
    w.finish()
