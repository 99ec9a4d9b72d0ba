"""The recorder in real time: an asyncio loop, real sockets, the codecs a telephone uses."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import soundfile  # type: ignore[import-untyped]

from siprec import sdp
from siprec.audio.codecs import codec
from siprec.audio.melody import callee_melody, caller_melody, match, to_int16
from siprec.audio.packets import packets
from siprec.recorder.library import RecorderLibrary
from siprec.recorder.ports import PortPool
from siprec.recorder.recorder import Recorder
from siprec.recorder.recording_result import RecordingResult


class LoopClock:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def now(self) -> float:
        return self._loop.time()

    def wall(self) -> float:
        return time.time()

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        return self._loop.call_later(delay, callback, *args)


async def call(root: Path, audio_format: str) -> RecordingResult:
    loop = asyncio.get_running_loop()
    recorder = Recorder(RecorderLibrary(root), PortPool("127.0.0.1"), LoopClock(loop), loop)
    session = recorder.session(call_id="live", from_uri="sip:src@example.com", src_address="127.0.0.1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        media = [
            sdp.build_media("audio", port, [0], label="1", direction="sendonly"),
            sdp.build_media("audio", port, [9], label="2", direction="sendonly"),
        ]
        offer = sdp.build_session(sdp.Origin(address="127.0.0.1"), media).to_bytes()
        answer = sdp.parse(session.offer(offer))
        left = packets(to_int16(caller_melody(3, 8000)), codec("PCMU", 8000), 0, ssrc=1)
        right = packets(to_int16(callee_melody(3, 16000)), codec("G722", 8000), 9, ssrc=2)
        start = loop.time()
        for (at, one), (_, two) in zip(left, right, strict=True):
            await asyncio.sleep(max(start + at - loop.time(), 0))
            sock.sendto(one, ("127.0.0.1", answer.media[0].port))
            sock.sendto(two, ("127.0.0.1", answer.media[1].port))
        result = await asyncio.wrap_future(session.close())
    recorder.close()
    assert recorder.ports.open == 0
    return result


def test_a_call_in_real_time_is_recorded_without_a_loss(tmp_path: Path) -> None:
    result = asyncio.run(call(tmp_path, "wav"))
    assert [s["packets"]["received"] for s in result.streams] == [150, 150]
    assert [s["packets"]["lost"] for s in result.streams] == [0, 0]
    assert result.mix is not None
    mix, rate = soundfile.read(str(result.mix), dtype="int16")
    assert rate == 16000
    score, left_lag = match(mix[:, 0], to_int16(caller_melody(3, rate)), rate)
    assert score > 0.98
    score, right_lag = match(mix[:, 1], to_int16(callee_melody(3, rate)), rate)
    assert score > 0.98
    # Sent at the same times, heard at the same times; the machine may have been busy when the first came.
    assert abs(left_lag - right_lag) < 0.05
