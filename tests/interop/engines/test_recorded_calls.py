"""The same recorded call through our relay, RTPEngine and RTPProxy: what is recorded is what was said."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from siprec.cli.phone_media import PhoneMedia
from siprec.media.engine import NO_FLAGS, MediaError, MediaFlags, MediaSession, SdpResult
from tests.interop.engines.world import ENGINES, Camera, World, check_audio, until, world


def received(recording: dict[str, Any]) -> list[int]:
    return [stream["packets"]["received"] for stream in recording["streams"]]


async def over(found: World, index: int) -> tuple[Path, dict[str, Any]]:
    """The recording of the recorder at `index`, when it is complete."""
    await until(
        lambda: any(recording["state"] == "complete" for _, recording in found.recordings(index)),
        "the recording is complete",
    )
    [(directory, recording)] = found.recordings(index)
    return directory, recording


@pytest.mark.parametrize("engine", ENGINES)
def test_pause_hold_and_a_move_are_in_the_recording_and_the_voices_are_whole(tmp_path: Path, engine: str) -> None:
    async def scenario() -> None:
        async with world(tmp_path, engine) as it:
            await it.alice.dial("bob")
            await until(lambda: it.proxy.recording.counts().get("active") == 1, "it is recorded")
            await it.talk(60)
            [call] = it.proxy.core.calls.values()

            # Paused: nothing more comes to the recorder, the parties go on.
            it.proxy.recording.siprec_pause_recording(call)
            await until(lambda: "PAUSED" in it.names(), "paused")
            assert it.alice.media is not None
            assert it.bob.media is not None
            paused_at = it.alice.media.sent
            await it.talk(60)
            paused_for = it.alice.media.sent - paused_at
            it.proxy.recording.siprec_resume_recording(call)
            await until(lambda: "RESUMED" in it.names(), "resumed")
            await it.talk(30)

            # Held, and taken back.
            await it.alice.offer_again("sendonly")
            assert it.bob.direction == "recvonly"
            await it.alice.offer_again("sendrecv")
            await it.talk(30)

            # Bob's media move to another port.
            await it.bob.move()
            await it.talk(60)
            sent = it.alice.media.sent
            await it.alice.hang_up()
            directory, recording = await over(it, 0)
            assert "FAILED" not in it.names()
            assert "UPDATE_FAILED" not in it.names()
            check_audio(it, directory, recording)
            check_audio(it, directory, recording, last=True)
            # What was said in the pause is missing, and little else.
            alice = max(received(recording))
            assert alice <= sent - paused_for + 10, (alice, sent, paused_for)
            assert alice >= sent - paused_for - 60, (alice, sent, paused_for)
            assert not it.proxy.core.calls
            await until(lambda: not it.proxy.recording.counts(), "nothing is left")

    asyncio.run(scenario())


@pytest.mark.parametrize("engine", ENGINES)
def test_video_is_recorded_beside_the_voices(tmp_path: Path, engine: str) -> None:
    async def scenario() -> None:
        async with world(tmp_path, engine) as it:
            cameras = it.alice.camera, it.bob.camera = Camera("127.0.0.1", 0xA11CE), Camera("127.0.0.1", 0xB0B)
            try:
                await it.alice.dial("bob")
                await until(lambda: it.proxy.recording.counts().get("active") == 1, "it is recorded")
                await it.talk(80)
                await until(lambda: all(len(camera.seen) > 80 for camera in cameras), "they see each other")
                for camera, other in zip(cameras, reversed(cameras), strict=True):
                    assert {packet[8:12] for packet in camera.seen} == {other.ssrc.to_bytes(4, "big")}
                await it.alice.hang_up()
                directory, recording = await over(it, 0)
            finally:
                for camera in cameras:
                    camera.stop()
            seen = [stream for stream in recording["streams"] if stream["kind"] == "video"]
            recording["streams"] = [stream for stream in recording["streams"] if stream["kind"] == "audio"]
            check_audio(it, directory, recording)
            assert len(seen) == 2
            for stream in seen:
                assert stream["packets"]["received"] >= 60, stream
                assert stream["packets"]["lost"] == 0, stream

    asyncio.run(scenario())


@pytest.mark.parametrize("engine", ENGINES)
def test_the_next_recorder_goes_on_when_one_is_killed(tmp_path: Path, engine: str) -> None:
    async def scenario() -> None:
        async with world(tmp_path, engine, recorders=2) as it:
            await it.alice.dial("bob")
            await until(lambda: it.names().count("START") == 1, "it is recorded")
            await it.talk(60)
            victim = it.recorders[0][2].pid
            assert victim is not None
            os.kill(victim, signal.SIGKILL)
            await until(lambda: it.names().count("START") == 2, "the second one has taken over")
            await it.talk(120)
            await it.alice.hang_up()
            directory, recording = await over(it, 1)
            check_audio(it, directory, recording, last=True)
            assert {stream["packets"]["lost"] for stream in recording["streams"]} == {0}

    asyncio.run(scenario())


@pytest.mark.parametrize("engine", ENGINES)
def test_parties_on_ipv6_are_recorded_where_the_media_server_can(tmp_path: Path, engine: str) -> None:
    async def scenario() -> None:
        async with world(tmp_path, engine, host="::1") as it:
            await it.alice.dial("bob")
            await it.talk(20)
            if engine != "embedded":
                # Neither RTPEngine 10.5 nor RTPProxy sends copies over another address family than that of the call.
                await until(lambda: "FAILED" in it.names(), "it says that it is not recorded")
                await it.talk(20)
                await it.alice.hang_up()
                return
            await until(lambda: it.proxy.recording.counts().get("active") == 1, "it is recorded")
            await it.talk(80)
            await it.alice.hang_up()
            check_audio(it, *await over(it, 0))

    asyncio.run(scenario())


def _surplus(octets: bytes) -> bytes:
    return octets + b"m=video 0 RTP/AVP 96\r\n"


def _reordered(octets: bytes) -> bytes:
    at = octets.index(b"m=audio")
    return octets[:at] + b"m=video 0 RTP/AVP 96\r\n" + octets[at:]


def _without_connection(octets: bytes) -> bytes:
    return b"".join(line for line in octets.splitlines(keepends=True) if not line.startswith(b"c="))


def _with_a_stray_line(octets: bytes) -> bytes:
    return octets.replace(b"t=0 0\r\n", b"t=0 0\r\nstray\r\n")


def _spoilt(offer: Callable[[PhoneMedia], bytes], spoil: Callable[[bytes], bytes], media: PhoneMedia) -> bytes:
    return spoil(offer(media))


ANSWERS = {
    "fewer lines": (True, lambda octets: octets),
    "more lines": (False, _surplus),
    "another order": (True, _reordered),
    "no address": (False, _without_connection),
    "a stray line": (False, _with_a_stray_line),
}


@pytest.mark.parametrize("engine", ENGINES)
def test_an_answer_that_does_not_fit_the_offer_is_mended(tmp_path: Path, engine: str) -> None:
    async def scenario() -> None:
        async with world(tmp_path, engine) as it:
            camera = Camera("127.0.0.1", 0xA11CE)
            plain = it.bob._offer
            try:
                for number, (video, spoilt) in enumerate(ANSWERS.values()):
                    it.alice.camera = camera if video else None
                    it.bob._offer = partial(_spoilt, plain, spoilt)  # type: ignore[method-assign]
                    await it.alice.dial("bob")
                    await until(lambda: it.proxy.recording.counts().get("active") == 1, "it is recorded")
                    await it.talk(25)
                    # And in mid-call.
                    await it.alice.offer_again("sendrecv")
                    await it.talk(15)
                    await it.alice.hang_up()
                    await until(lambda: not it.proxy.core.calls, "the call is over")
                    await until(lambda: not it.proxy.recording.counts(), "its recording too")
                    assert it.proxy.core.counters["answers_mended"] == 2 * (number + 1)
                    for phone in (it.alice, it.bob):
                        phone.forget()
            finally:
                camera.stop()
            assert not {"FAILED", "UPDATE_FAILED"} & set(it.names())
            assert it.names().count("START") == len(ANSWERS)

    asyncio.run(scenario())


@pytest.mark.parametrize("failures", [1, 9])
@pytest.mark.parametrize("engine", ENGINES)
def test_parties_hear_each_other_when_the_media_server_does_not_take_the_answer(
    tmp_path: Path, engine: str, failures: int
) -> None:
    async def scenario() -> None:
        async with world(tmp_path, engine) as it:
            server = it.proxy.media.current
            assert server is not None
            answer, left = server.answer, [failures]

            def refuse(session: MediaSession, sdp: bytes, done: SdpResult, *, flags: MediaFlags = NO_FLAGS) -> None:
                left[0] -= 1
                if left[0] < 0:
                    answer(session, sdp, done, flags=flags)
                else:
                    asyncio.get_running_loop().call_soon(done, MediaError("refused"))

            server.answer = refuse  # type: ignore[method-assign]
            await it.alice.dial("bob")
            await it.talk(40)
            if failures == 1:
                await until(lambda: it.proxy.recording.counts().get("active") == 1, "it is recorded")
                await it.talk(70)
            else:
                await until(lambda: "FAILED" in it.names(), "it says that it is not recorded")
                a, b = it.alice.media, it.bob.media
                assert a is not None
                assert b is not None
                await until(
                    lambda: (a._remote, b._remote) == (("127.0.0.1", b.port), ("127.0.0.1", a.port)),
                    "they talk directly",
                )
                await it.talk(20)
            await it.alice.hang_up()
            if failures == 1:
                check_audio(it, *await over(it, 0), last=True)
            await until(lambda: not it.proxy.core.media.load, "nothing is left")

    asyncio.run(scenario())
