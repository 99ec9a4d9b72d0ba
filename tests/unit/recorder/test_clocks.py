"""Clocks that are set while a session is recorded: ours, and the recording client's. No end lies before its start."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from siprec.audio.codecs import codec
from siprec.audio.melody import caller_melody, to_int16
from siprec.audio.packets import packets
from siprec.metadata.values import NAMESPACE
from tests.unit.recorder.recorder_harness import Bench, VirtualClock

PCMU = codec("PCMU", 8000)
TUNE = to_int16(caller_melody(4, 8000))
JUMPS = [-86400.0 * 365, -3600.0, -2.0, 2.0, 3600.0, 86400.0 * 365]


class JumpingClock(VirtualClock):
    shift = 0.0

    def wall(self) -> float:
        return super().wall() + self.shift


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    b = Bench(tmp_path / "rec")
    b.clock = b.recorder.clock = JumpingClock()
    yield b
    b.close()


def b64(number: int) -> str:
    return base64.b64encode(bytes([number]) * 16).decode()


def document(start: str = "", stop: str = "", joined: str = "", left: str = "", mode: str = "complete") -> bytes:
    def element(name: str, text: str) -> str:
        return f"<{name}>{text}</{name}>" if text else ""

    return (
        f'<recording xmlns="{NAMESPACE}"><datamode>{mode}</datamode><session session_id="{b64(1)}">'
        f"{element('start-time', start)}{element('stop-time', stop)}</session>"
        f'<participant participant_id="{b64(2)}"><nameID aor="sip:dan@example.net"/></participant>'
        f'<stream stream_id="{b64(4)}" session_id="{b64(1)}"><label>1</label></stream>'
        f'<participantsessionassoc participant_id="{b64(2)}" session_id="{b64(1)}">'
        f"{element('associate-time', joined)}{element('disassociate-time', left)}</participantsessionassoc>"
        f'<participantstreamassoc participant_id="{b64(2)}"><send>{b64(4)}</send></participantstreamassoc></recording>'
    ).encode()


def spans(value: Any) -> Iterator[tuple[str, str]]:
    """Every pair of a beginning and an end, anywhere in a JSON."""
    if isinstance(value, dict):
        for one, two in (("start", "end"), ("start", "stop"), ("from", "to"), ("first_audio", "last_audio")):
            if isinstance(value.get(one), str) and isinstance(value.get(two), str):
                yield value[one], value[two]
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from spans(each)


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def assert_in_order(summary: dict[str, Any]) -> None:
    found = list(spans(summary))
    assert found
    for one, two in found:
        assert seconds(one) <= seconds(two), (one, two)


@pytest.mark.parametrize("jump", JUMPS)
def test_our_clock_is_set_in_the_middle_of_a_session(bench: Bench, jump: float) -> None:
    b = bench
    b.offer(b.audio("1"), metadata=document("2026-03-02T09:14:58Z", joined="2026-03-02T09:14:58Z"))
    b.play(packets(TUNE, PCMU, 0, ssrc=1))
    assert isinstance(b.clock, JumpingClock)
    b.clock.shift = jump
    b.offer(b.audio("1", direction="inactive"))
    b.wait(5)
    b.offer(b.audio("1"), metadata=document("2026-03-02T09:14:58Z", joined="2026-03-02T09:14:58Z"))
    b.play(packets(TUNE, PCMU, 0, ssrc=1, sequence=200, timestamp=9 * 8000))
    result = b.finish()
    assert_in_order(result.summary)
    summary = result.summary
    assert seconds(summary["end"]) - seconds(summary["start"]) == pytest.approx(13, abs=0.5)
    (pause,) = summary["streams"][0]["pauses"]
    assert seconds(pause["to"]) - seconds(pause["from"]) == pytest.approx(5, abs=0.5)


@pytest.mark.parametrize("jump", JUMPS)
@pytest.mark.parametrize("stopped", ["stop", "left", "gone", "BYE"])
def test_the_clients_clock_is_another_than_ours(bench: Bench, jump: float, stopped: str) -> None:
    b = bench

    def when(offset: float) -> str:
        return datetime.fromtimestamp(b.clock.wall() + offset).astimezone().isoformat(timespec="milliseconds")

    start = when(jump)
    b.offer(b.audio("1"), metadata=document(start, joined=start))
    b.play(packets(TUNE, PCMU, 0, ssrc=1))
    # The end by a clock that was set meanwhile.
    if stopped == "stop":
        b.session.metadata(document(stop=when(0), mode="partial"))
    elif stopped == "gone":
        # A snapshot no longer has the party in the session: that ends now, by our clock.
        b.session.metadata(re.sub(rb"<participantsessionassoc.*?</participantsessionassoc>", b"", document(start)))
    elif stopped == "left":
        b.session.metadata(document(left=when(0), mode="partial"))
    b.wait(4)
    b.finish()
    b.recorder.writer.call(lambda: None).result(timeout=60)
    for result in b.library:
        assert_in_order(result.summary)


@pytest.mark.parametrize("jump", JUMPS)
def test_the_date_of_a_bye_does_not_make_a_session_shorter_or_longer_than_it_was(bench: Bench, jump: float) -> None:
    b = bench
    b.offer(b.audio("1"))
    b.play(packets(TUNE, PCMU, 0, ssrc=1))
    summary = b.session.close("BYE", wall=b.clock.wall() + jump).result(timeout=60).summary
    assert_in_order(summary)
    lasted = 4 + jump if jump in (-2.0, 2.0) else 4
    assert seconds(summary["end"]) - seconds(summary["start"]) == pytest.approx(lasted, abs=0.2)
