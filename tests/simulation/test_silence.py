"""Streams that were negotiated and carry nothing: one event, five seconds after the start, and no false ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from siprec.media.engine import ForkStatistics, MediaSession, MediaStatistics, StatisticsResult, StreamStatistics
from siprec.proxy.call import Call
from tests.simulation.recording_world import World

NAME = "NO_MEDIA"


class Counting(World):
    """A world whose media server counts: `packets` and `copied` by party, `last` says when the last packet came."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.packets = {"ft": 100, "tt": 100}
        self.copied: dict[str, int | None] = {"ft": 100, "tt": 100}
        self.last: Callable[[], float] = self.clock.wall
        self.media.query = self._counted  # type: ignore[method-assign]

    def _counted(self, session: MediaSession, done: StatisticsResult) -> None:
        self.media.queries += 1
        streams = [
            StreamStatistics(tag, 0, "audio", self.packets[tag[:2]], 0, last_packet=float(int(self.last())))
            for tag in (session.from_tag, session.to_tag)
        ]
        forks = [
            ForkStatistics(tag, index, stream.from_tag, 0, packets=self.copied[stream.from_tag[:2]])
            for tag, subscription in self.media.subscriptions.items()
            for index, stream in enumerate(subscription.streams)
        ]
        self.clock.call_later(0.01, done, MediaStatistics(0.0, 0, 0, 0, tuple(streams), tuple(forks)))

    def told(self) -> list[str]:
        return [event.reason for event in self.events if event.name.endswith(NAME)]

    def done(self, call: Call) -> None:
        self.end(call)
        self.clock.run_for(10)
        self.assert_clean()


def changed(call: Call, leg: str, text: bytes) -> None:
    setattr(call, f"{leg}_sdp", getattr(call, f"{leg}_sdp").replace(b"a=sendrecv", b"") + text)


def test_a_party_that_sends_nothing_is_told_once_five_seconds_after_the_start() -> None:
    w = Counting()
    w.packets["tt"] = 0
    call = w.answered_call()
    began = w.clock.now()
    assert w.told() == []
    w.clock.run_until_true(w.told)
    assert 1 <= w.clock.now() - began <= 5
    w.clock.run_for(60)
    [reason] = w.told()
    assert "audio of the callee (label 2): no packet came" in reason
    assert "caller" not in reason
    assert w.state(call) == "active"
    w.done(call)


def test_packets_that_are_not_copied_are_told() -> None:
    w = Counting()
    w.copied["ft"] = 0
    call = w.answered_call()
    w.clock.run_for(10)
    assert "audio of the caller (label 1): none of its 100 packets was copied" in w.told()[0]
    w.done(call)


def test_packets_that_came_before_the_recording_only_are_told() -> None:
    w = Counting()
    w.last = lambda: 1_600_000_000.0
    call = w.answered_call()
    w.clock.run_for(10)
    assert w.told()[0].count("no packet came since the recording began") == 2
    w.done(call)


def test_media_that_flow_are_not_told() -> None:
    w = Counting()
    w.copied["tt"] = None  # not counted by this server
    call = w.answered_call()
    w.clock.run_for(60)
    assert w.told() == []
    w.done(call)


@pytest.mark.parametrize(
    ("leg", "text"),
    [
        ("callee", b"a=recvonly\r\n"),
        ("callee", b"a=inactive\r\n"),
        ("caller", b"a=sendonly\r\n"),
        ("caller", b"a=inactive\r\n"),
        ("caller", b"c=IN IP4 0.0.0.0\r\n"),
    ],
)
def test_a_stream_on_hold_may_be_silent(leg: str, text: bytes) -> None:
    w = Counting()
    w.packets = {"ft": 0, "tt": 0} if b"inactive" in text else {"ft": 100, "tt": 0}
    call = w.new_call()
    call.record()
    changed(call, leg, text)
    w.answer(call)
    w.clock.run_for(20)
    assert w.told() == []
    w.done(call)


@pytest.mark.parametrize("line", [b"a=inactive", b"a=sendonly", b"m=audio 0 "])
def test_a_stream_that_the_srs_does_not_want_may_be_silent(line: bytes) -> None:
    w = Counting()
    w.packets = {"ft": 0, "tt": 0}
    whole = w.srs.answer_to

    def spoilt(request: Any, direction: Any = None) -> bytes:
        answer = whole(request, direction).replace(b"a=recvonly", line if line.startswith(b"a=") else b"a=recvonly")
        return answer.replace(b"m=audio 20000 ", line) if line.startswith(b"m=") else answer

    w.srs.answer_to = spoilt  # type: ignore[method-assign]
    call = w.answered_call()
    w.clock.run_for(20)
    assert "label 1" not in "".join(w.told())
    assert ("label 2" in "".join(w.told())) == line.startswith(b"m=")
    w.done(call)


def test_a_pause_may_be_silent() -> None:
    w = Counting()
    w.copied = {"ft": 0, "tt": 0}
    call = w.answered_call()
    w.service.siprec_pause_recording(call)
    w.clock.run_for(20)
    assert w.told() == []
    w.done(call)


@pytest.mark.parametrize(
    ("formats", "told"),
    [("0 13", 0), ("0 18", 0), ("0 8\r\na=fmtp:0 usedtx=1", 0), ("18 0\r\na=fmtp:18 annexb=no", 1), ("0 8", 1)],
)
def test_a_party_that_leaves_out_silence_may_be_silent_for_a_while(formats: str, told: int) -> None:
    w = Counting()
    w.last = lambda: 1_600_000_000.0
    call = w.new_call()
    call.record()
    for leg in ("caller", "callee"):
        before = getattr(call, f"{leg}_sdp")
        setattr(call, f"{leg}_sdp", before.replace(b"RTP/AVP 0 8", b"RTP/AVP " + formats.encode()))
    w.answer(call)
    w.clock.run_for(20)
    assert len(w.told()) == told
    w.done(call)


def test_early_media_may_be_silent_until_five_seconds_after_the_answer() -> None:
    w = Counting(profile={"start": "early"})
    w.packets = {"ft": 0, "tt": 0}
    call = w.new_call()
    call.record()
    call.early = call.response
    call.early_media = True
    w.service.call_early_media(call)
    w.clock.run_for(32)
    assert w.state(call) == "active"
    assert w.told() == []
    w.answer(call)
    answered = w.clock.now()
    w.clock.run_until_true(w.told)
    assert 5 <= w.clock.now() - answered <= 8
    w.done(call)


def test_it_costs_one_question_at_most() -> None:
    w = Counting(profile={"watch": 0.0})
    call = w.answered_call()
    w.clock.run_for(300)
    assert w.media.queries == 1
    w.done(call)
