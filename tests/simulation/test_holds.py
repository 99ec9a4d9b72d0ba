"""Holds of a live call, as the time line has them."""

from __future__ import annotations

import pytest

from siprec.api.hold_history import HoldHistory, holder
from tests.simulation.phones import ANSWER, SDP
from tests.simulation.proxyworld import ProxyWorld

HELD = b"a=sendonly\r\n"


def test_a_hold_begins_and_ends_with_the_reinvites_and_says_who() -> None:
    w = ProxyWorld()
    journal = HoldHistory(w.clock)
    w.core.observers.add(journal)
    call = w.call("sip:bob@10.0.0.2")
    w.clock.run_for(1)
    [live] = w.core.calls.values()
    assert journal.of(live.dlg_id) == []
    call.reinvite(SDP + HELD)
    w.clock.run_for(5)
    [first] = journal.of(live.dlg_id)
    assert (first.by, first.end) == ("caller", None)
    call.reinvite(SDP + HELD + b"a=x-again\r\n")
    w.clock.run_for(5)
    assert len(journal.of(live.dlg_id)) == 1
    call.reinvite(SDP)
    w.clock.run_for(5)
    [first] = journal.of(live.dlg_id)
    assert first.end is not None
    assert 9 < first.end - first.start < 12
    w.bob.agent.calls()[0].reinvite(ANSWER + HELD)
    w.clock.run_for(5)
    assert [hold.by for hold in journal.of(live.dlg_id)] == ["caller", "callee"]
    call.bye()
    w.finish()
    assert journal.of(live.dlg_id) == []


HEAD = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n"


def body(*lines: str, address: str = "192.0.2.1") -> bytes:
    media = "".join(f"m=audio {port} RTP/AVP 0\r\na={way}\r\n" for port, way in (line.split() for line in lines))
    return (HEAD.replace("c=IN IP4 192.0.2.1", f"c=IN IP4 {address}") + media).encode()


@pytest.mark.parametrize(
    ("caller", "callee", "by"),
    [
        (body("4000 sendrecv"), body("5000 sendrecv"), ""),
        (body("4000 sendonly"), body("5000 recvonly"), "caller"),
        (body("4000 recvonly"), body("5000 sendonly"), "callee"),
        (body("4000 inactive"), body("5000 inactive"), "both"),
        (body("4000 sendrecv", address="0.0.0.0"), body("5000 sendrecv"), "caller"),
        (body("4000 sendonly", "4002 sendrecv"), body("5000 recvonly", "5002 sendrecv"), ""),
        (body("4000 sendonly", "0 sendrecv"), body("5000 recvonly", "0 sendrecv"), "caller"),
        (b"", b"garbage", ""),
    ],
)
def test_who_holds_is_read_from_what_was_agreed(caller: bytes, callee: bytes, by: str) -> None:
    assert holder(caller, callee) == by
