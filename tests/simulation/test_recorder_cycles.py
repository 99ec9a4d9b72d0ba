"""A recording session leaves no cycle of references behind: nothing of it waits for the garbage collector."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from siprec.sip.message import SipResponse
from tests.simulation.recorder_world import SENDONLY, Raw, invite

SESSIONS = 3


@pytest.fixture
def raw(tmp_path: Path) -> Iterator[Raw]:
    found = Raw(tmp_path)
    yield found
    found.close()


class Session:
    """One recording session of the client."""

    def __init__(self, raw: Raw, number: int, body: str = SENDONLY) -> None:
        self.raw, self.number, self.tag = raw, number, ""
        raw.received.clear()
        data = invite(body)
        for old, new in ((b"Call-ID: 1@", b"Call-ID: %d@"), (b"z9hG4bK-1", b"z9hG4bK-%d"), (b";tag=1\r", b";tag=%d\r")):
            data = data.replace(old, new % number)
        raw.send(data, 0.2)
        final = next(m for m in raw.received if isinstance(m, SipResponse) and m.status >= 200)
        self.status = final.status
        self.tag = final.to.tag or ""
        if final.status < 300:
            self.ask("ACK", 1)
            raw.talk(0.2)

    def ask(self, method: str, cseq: int, body: str = "") -> None:
        head = (
            f"{method} sip:srs@10.0.0.8 SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP {self.raw.host}:5060;branch=z9hG4bK-{self.number}-{method}-{cseq}\r\n"
            f"From: <sip:src@{self.raw.host}>;tag={self.number}\r\nTo: <sip:srs@10.0.0.8>;tag={self.tag}\r\n"
            f"Call-ID: {self.number}@{self.raw.host}\r\nCSeq: {cseq} {method}\r\nMax-Forwards: 70\r\n"
            f"Contact: <sip:src@{self.raw.host}:5060>;+sip.src\r\n"
        )
        kind = "Content-Type: application/sdp\r\n" if body else ""
        self.raw.send(f"{head}{kind}Content-Length: {len(body)}\r\n\r\n{body}".encode(), 0.2)


def ends_by_bye(raw: Raw, number: int) -> None:
    Session(raw, number).ask("BYE", 9)


def is_refused(raw: Raw, number: int) -> None:
    assert Session(raw, number, SENDONLY.replace("m=audio", "m=application")).status == 488


def pauses_and_goes_on(raw: Raw, number: int) -> None:
    session = Session(raw, number)
    session.ask("INVITE", 2, SENDONLY.replace("o=- 1 1", "o=- 1 2").replace("sendonly", "inactive"))
    session.ask("ACK", 2)
    session.ask("INVITE", 3, SENDONLY.replace("o=- 1 1", "o=- 1 3"))
    session.ask("ACK", 3)
    session.ask("BYE", 9)


def is_ended_by_the_recorder(raw: Raw, number: int) -> None:
    Session(raw, number)
    raw.answers["BYE"] = 200
    for call in list(raw.server.calls):
        call.hang_up("the disk is full", 503)
    raw.run(1.0)
    assert raw.requests("BYE")


def is_ended_by_silence(raw: Raw, number: int) -> None:
    Session(raw, number)
    raw.run(400.0)
    assert not raw.server.calls


@pytest.mark.parametrize(
    "course", [ends_by_bye, is_refused, pauses_and_goes_on, is_ended_by_the_recorder, is_ended_by_silence]
)
def test_a_recording_session_leaves_no_cycle(raw: Raw, course: object) -> None:
    assert callable(course)

    def run(first: int, count: int) -> None:
        for number in range(first, first + count):
            course(raw, number)
            raw.run(1.0)
            raw.results()
        raw.received.clear()
        raw.clock.run_for(7200.0)  # the last timers

    run(10, 1)
    gc.collect()
    gc.disable()
    try:
        run(20, SESSIONS)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found = Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not found
