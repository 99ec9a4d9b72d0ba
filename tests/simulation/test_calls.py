"""Calls between two user agents, message by message."""

from __future__ import annotations

from siprec.sip.useragent import IncomingCall
from tests.simulation.phones import ANSWER, TwoPhones


def ring_and_answer(call: IncomingCall) -> None:
    call.answer(180)
    call.answer(200, ANSWER)


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
    assert len(results) == 1
    w.finish()


def test_call_is_ended_by_the_callee() -> None:
    w = TwoPhones()
    _, incoming = w.established()
    incoming.bye()
    w.clock.run_for(1)
    assert w.lines() == ["B BYE", "A 200"]
    assert w.alice.diary.events == ["ended bye"]
    assert w.bob.diary.events == []
    w.finish()
