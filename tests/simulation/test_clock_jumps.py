"""The host's clock is set while calls go on: no time of a call lies before the one that it follows."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from siprec.proxy.call import Call as ProxyCall
from siprec.sip.headers import NameAddr
from tests.simulation.proofworld import ProofWorld
from tests.simulation.recording_world import Q
from tests.simulation.transferworld import TransferWorld

HOURS = 3600.0
JUMPS = pytest.mark.parametrize("jump", [-2 * HOURS, 2 * HOURS], ids=["back", "on"])
PAIRS = (("start-time", "stop-time"), ("associate-time", "disassociate-time"))


def spans(documents: list[Any]) -> list[tuple[str, float]]:
    """Seconds from beginning to end of all that has both, of all documents: an id, and how long."""
    began: dict[tuple[str, ...], float] = {}
    found = []
    for document in documents:
        for element in document.iter():
            name = (element.tag.removeprefix(Q), *sorted(element.attrib.values()))
            for first, last in PAIRS:
                for tag, sink in ((first, True), (last, False)):
                    text = element.findtext(f"{Q}{tag}")
                    if text is None:
                        continue
                    moment = datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
                    if sink:
                        began[name] = moment
                    elif name in began:
                        found.append((name[0], moment - began[name]))
    return found


@JUMPS
def test_the_times_of_a_proof_and_of_the_metadata_are_those_of_the_call(jump: float) -> None:
    w = ProofWorld()
    call = w.answered_call()
    w.clock.run_for(5.0)
    w.clock._offset += jump
    w.service.siprec_pause_recording(call)
    w.clock.run_for(10.0)
    w.clock._offset -= jump / 2
    w.service.siprec_resume_recording(call)
    w.clock.run_for(5.0)
    w.service.party_replaced(call, "callee", NameAddr.parse("<sip:carol@example.org>"))
    w.clock.run_for(5.0)
    w.clock._offset += jump
    proof = w.proved(call)
    assert proof.verdict == "complete"
    (session,) = proof.sessions
    assert session.end is not None
    assert 27 < session.end - session.start < 29
    (pause,) = proof.pauses
    assert pause.end is not None
    assert 9.5 < pause.end - pause.start < 10.5
    assert 27 < proof.ended - proof.answered < 29
    lengths = spans(w.srs.documents)
    assert {name for name, _ in lengths} >= {"session", "participantsessionassoc", "sessionrecordingassoc"}
    assert all(0 <= seconds < 30 for _, seconds in lengths), lengths
    later = w.answered_call()
    assert later.answer_wall == w.clock.wall() - 3.0  # the next call goes by the clock as it is now
    w.proved(later)


@JUMPS
def test_a_proxied_call_lasts_as_long_as_it_did(jump: float) -> None:
    w = TransferWorld()
    call = w.call()
    w.clock.run_for(5)
    proxied: ProxyCall = w.journal.calls[0]
    w.clock._offset += jump
    w.clock.run_for(5)
    call.bye()
    w.clock.run_for(5)
    assert proxied.answer_wall is not None
    assert proxied.end_wall is not None
    assert proxied.start_wall <= proxied.answer_wall
    assert 9 < proxied.end_wall - proxied.answer_wall < 11
    assert all(0 <= seconds < 12 for _, seconds in spans(w.srs.documents))
    w.finish()
