"""``on_failure = "end-call"``: a call that cannot be recorded is ended, at whatever point it is (ERR-10)."""

from __future__ import annotations

from typing import Any

import pytest

from siprec.sip.message import SipRequest, parse_datagram
from tests.simulation.network import LinkQuality
from tests.simulation.phones import ANSWER, SDP
from tests.simulation.proxyworld import PROXY
from tests.simulation.test_starting import early
from tests.simulation.transferworld import TransferWorld


def world(**profile: Any) -> TransferWorld:
    w = TransferWorld(**{"on_failure": "end-call", **profile})
    w.srs.status = 486
    return w


def byes(w: TransferWorld, to: str) -> list[SipRequest]:
    found = [parse_datagram(sent.data) for sent in w.sent("BYE", to)]
    return [message for message in found if isinstance(message, SipRequest)]


def test_both_parties_get_a_bye_with_the_reason() -> None:
    w = world()
    w.call()
    w.clock.run_for(5)
    assert w.told() == ["FAILED"]
    (to_alice,), (to_bob,) = byes(w, "10.0.0.1"), byes(w, "10.0.0.2")
    call = w.journal.calls[0]
    assert (to_alice.from_.tag, to_alice.to.tag) == (call.to_tag, call.from_tag)
    assert (to_bob.from_.tag, to_bob.to.tag) == (call.from_tag, call.to_tag)
    assert to_bob.cseq.number > call.invite.cseq.number
    for bye in (to_alice, to_bob):
        assert (bye.get("reason") or "").startswith('SIP;cause=500;text="recording failed: ')
    assert [e for e in w.alice.diary.events if e.startswith("ended")] == ["ended bye"]
    assert [e for e in w.bob.diary.events if e.startswith("ended")] == ["ended bye"]
    assert w.journal.events[-1] == "ended recording failed"
    w.finish()


def test_by_default_the_call_goes_on() -> None:
    w = world(on_failure="ignore")
    w.call()
    w.clock.run_for(30)
    assert w.told() == ["FAILED"]
    assert not w.sent("BYE")
    w.alice.agent.calls()[0].bye()
    w.finish()


def test_an_invite_with_early_media_is_refused_and_the_callee_stops_ringing() -> None:
    w = world(start="early")
    w.bob.take = early()
    w.call()
    w.clock.run_for(5)
    assert w.alice.diary.events[-1].startswith("failed 503")
    refusal = parse_datagram(w.sent("SIP/2.0 503", "10.0.0.1")[0].data)
    assert "recording failed" in (refusal.get("reason") or "")
    assert w.sent("CANCEL", "10.0.0.2")
    assert w.bob.diary.events == ["ended cancelled"]
    assert w.journal.events[-1] == "ended 503"
    w.finish()


def test_a_recording_that_breaks_in_mid_call_ends_the_call() -> None:
    w = world(rebuilds=0)
    w.srs.status = 200
    w.call()
    w.clock.run_for(3)
    assert w.told() == ["START"]
    w.srs.on_request = lambda request, reply: (reply(481), True)[1]  # type: ignore[func-returns-value]
    w.bob.calls[0].reinvite(ANSWER.replace(b"RTP/AVP 0", b"RTP/AVP 0 8").replace(b"1 1 IN", b"1 2 IN"))
    w.clock.run_for(5)
    assert w.told() == ["START", "STOP", "FAILED"]
    assert byes(w, "10.0.0.1")
    assert byes(w, "10.0.0.2")
    w.finish()


def test_another_instance_is_told_why_the_call_ended() -> None:
    w = TransferWorld(others={"must": {"srs": "sip:nobody@10.0.0.99", "on_failure": "end-call", "setup_timeout": 1.0}})
    w.call()
    w.clock.run_for(2)
    assert w.journal.calls[0].siprec_start_recording("sip:nobody@10.0.0.99", "must")
    w.clock.run_for(10)
    assert w.told("default") == ["START", "STOP"]
    assert w.told("must") == ["FAILED"]
    assert w.journal.events[-1] == "ended recording failed"
    assert "recording failed" in "".join(w.srs.documents[-1].itertext())
    w.finish()


def test_the_callee_is_not_made_to_say_bye_before_the_ack_has_come() -> None:
    w = world()
    w.alice.diary.on["answered"] = lambda call, response: w.clock.call_later(2.0, call.ack, SDP)
    w.call(body=b"")
    w.bob.take = lambda call: call.answer(200, ANSWER)
    w.clock.run_for(10)
    lines = w.lines()
    assert lines.index("A>P ACK") < lines.index("P>A BYE")
    w.finish()


@pytest.mark.parametrize("who", ["caller", "callee", "both"])
@pytest.mark.parametrize("after", [0.07, 0.075, 0.08, 0.0849, 0.085, 0.0851, 0.09, 0.0949])
def test_a_party_may_hang_up_in_the_same_moment(who: str, after: float) -> None:
    w = world()
    call = w.call()
    if who in ("caller", "both"):
        w.clock.call_later(after, call.bye)
    if who in ("callee", "both"):
        w.clock.call_later(after, lambda: w.bob.calls[0].bye())
    w.clock.run_for(60)
    assert len([event for event in w.journal.events if event.startswith("ended")]) == 1
    w.finish()


@pytest.mark.parametrize("dead", ["10.0.0.1", "10.0.0.2"])
def test_a_party_that_does_not_answer_the_bye_holds_nothing_up(dead: str) -> None:
    w = world()
    w.call()
    w.clock.run_for(0.1)
    w.network.link(PROXY, dead, LinkQuality(loss=1.0))
    w.clock.run_for(20)
    assert w.journal.events[-1] == "ended recording failed"
    assert w.core.counts()["calls"] == 0
    other = w.bob if dead == "10.0.0.1" else w.alice
    assert any(event.startswith("ended") for event in other.diary.events)
