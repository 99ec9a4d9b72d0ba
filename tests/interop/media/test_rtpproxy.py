"""What is RTPProxy's own, with the real engine."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest

from siprec.media.engine import MediaError, MediaFlags, MediaSession, Tone
from siprec.media.rtpproxy import RtpProxy
from siprec.relay.process import LoopClock
from tests.interop.media.rig import PATIENCE, Rig, drive, ports_of, recorder_answer, rtpproxy, target, until
from tests.interop.media.test_servers import CALL, Talk, establish


def with_engine(
    scenario: Callable[[Rig], Coroutine[Any, Any, None]], listen: Sequence[str] = ("-l", "127.0.0.1"), prompt: str = ""
) -> None:
    async def whole() -> None:
        loop = asyncio.get_running_loop()
        with rtpproxy(loop, listen=listen) as opener, contextlib.ExitStack() as stack:
            engine = RtpProxy(LoopClock(loop), opener, timeout=PATIENCE, prompt=prompt)
            stack.callback(engine.close)
            rig = Rig(engine, "rtpproxy")
            await rig.ping()
            try:
                await scenario(rig)
            finally:
                for endpoint in rig.endpoints:
                    endpoint.close()

    asyncio.run(whole())


def test_a_second_subscription_is_refused_until_the_first_has_ended() -> None:
    async def scenario(rig: Rig) -> None:
        talk = await establish(rig)
        first = await rig.subscribe(CALL, ["caller", "callee"])
        with pytest.raises(MediaError, match="one copy"):
            await rig.subscribe(CALL, ["callee"], "another")
        srs = [rig.endpoint(), rig.endpoint()]
        await rig.accept(CALL, first.tag, recorder_answer(first, srs))
        await talk.exchange(5)
        await until(lambda: all(len(each.poll()) == 5 for each in srs), "copies")
        await rig.unsubscribe(CALL, first.tag)
        second = await rig.subscribe(CALL, ["caller", "callee"])
        assert second.tag != first.tag
        await rig.accept(CALL, second.tag, recorder_answer(second, srs))
        await talk.exchange(5)
        await until(lambda: all(len(each.poll()) == 10 for each in srs), "copies again")

    drive("rtpproxy", scenario)


def test_what_is_asked_while_copies_are_being_moved_is_done_in_the_end() -> None:
    async def scenario(rig: Rig) -> None:
        talk = await establish(rig)
        subscription = await rig.subscribe(CALL, ["caller", "callee"])
        places = [[rig.endpoint(), rig.endpoint()] for _ in range(3)]
        await asyncio.gather(
            *(rig.accept(CALL, subscription.tag, recorder_answer(subscription, each)) for each in places),
            rig.pause(CALL, subscription.tag),
            rig.resume(CALL, subscription.tag),
        )
        await talk.exchange(10)
        await until(lambda: all(len(each.poll()) == 10 for each in places[2]), "copies at the last place")
        assert [len(each.poll()) for pair in places[:2] for each in pair] == [0, 0, 0, 0]
        await asyncio.gather(rig.pause(CALL, subscription.tag), rig.unsubscribe(CALL, subscription.tag))
        await talk.exchange(5)
        assert [len(each.poll()) for each in places[2]] == [10, 10]

    drive("rtpproxy", scenario)


def test_two_lines_are_relayed_and_copied_each_by_itself() -> None:
    async def scenario(rig: Rig) -> None:
        audio, video = [rig.endpoint(), rig.endpoint()], [rig.endpoint(), rig.endpoint()]

        def body(index: int) -> bytes:
            line = f"m=video {video[index].port} RTP/AVPF 96\r\na=rtpmap:96 H264/90000\r\n"
            line += "a=rtcp-mux\r\na=candidate:1 x\r\n"
            return audio[index].sdp(formats="0 101") + line.encode()

        offered = await rig.offer(MediaSession(CALL.call_id, CALL.from_tag), body(0))
        answered = await rig.answer(CALL, body(1))
        assert b"candidate" not in offered
        assert b"rtcp-mux" not in offered
        assert len({*ports_of(offered), *ports_of(answered)}) == 4
        subscription = await rig.subscribe(CALL, ["caller", "callee"])
        kinds = [(each.from_tag, each.source_index, each.kind) for each in subscription.streams]
        assert kinds == [("caller", 0, "audio"), ("caller", 1, "video"), ("callee", 0, "audio"), ("callee", 1, "video")]
        srs = [rig.endpoint() for _ in subscription.streams]
        await rig.accept(CALL, subscription.tag, recorder_answer(subscription, srs))
        sent = [audio[0].send(target(answered, 0)), video[0].send(target(answered, 1), payload_type=96)]
        sent += [audio[1].send(target(offered, 0)), video[1].send(target(offered, 1), payload_type=96)]
        await until(lambda: [each.poll() for each in srs] == sent, "each stream at its port")
        assert (await rig.query(CALL)).packets == 4
        await rig.delete(CALL)
        assert rig.engine.client.counters["timeouts"] == 0  # type: ignore[attr-defined]

    drive("rtpproxy", scenario)


def test_both_parties_on_ipv6_are_relayed_and_a_recorder_there_is_refused() -> None:
    async def scenario(rig: Rig) -> None:
        talk = await establish(rig, "::1")
        await talk.exchange(10)
        subscription = await rig.subscribe(CALL, ["caller", "callee"])
        srs = [rig.endpoint("::1"), rig.endpoint("::1")]
        with pytest.raises(MediaError, match="IPv6"):
            await rig.accept(CALL, subscription.tag, recorder_answer(subscription, srs))
        await talk.exchange(10)

    with_engine(scenario, ("-6", "::1"))


def test_a_bridge_gives_each_party_the_address_of_its_side() -> None:
    async def scenario(rig: Rig) -> None:
        flags = MediaFlags(direction=("internal", "external"))
        a, b = rig.endpoint("127.0.0.1"), rig.endpoint("127.0.0.2")
        offered = await rig.offer(MediaSession(CALL.call_id, CALL.from_tag), a.sdp(), flags)
        answered = await rig.answer(CALL, b.sdp(formats="0 101"), flags)
        assert (target(offered)[0], target(answered)[0]) == ("127.0.0.2", "127.0.0.1")
        talk = Talk(rig, a, b)
        talk.to_relay_a, talk.to_relay_b = target(answered), target(offered)
        await talk.exchange(10)

    with_engine(scenario, ("-l", "127.0.0.1/127.0.0.2"))


def test_the_null_address_of_an_old_hold_stays_and_the_call_goes_on_after_it() -> None:
    async def scenario(rig: Rig) -> None:
        talk = await establish(rig)
        held = await rig.offer(CALL, talk.a.sdp(version=2, connection="c=IN IP4 0.0.0.0"))
        assert target(held) == ("0.0.0.0", talk.to_relay_b[1])
        await rig.answer(CALL, talk.b.sdp(version=2, formats="0 101"))
        await rig.offer(CALL, talk.a.sdp(version=3))
        await rig.answer(CALL, talk.b.sdp(version=3, formats="0 101"))
        await talk.exchange(10)

    drive("rtpproxy", scenario)


def test_calls_that_are_keyed_by_dtls_pass_and_are_not_copied() -> None:
    async def scenario(rig: Rig) -> None:
        key = b"a=setup:actpass\r\na=fingerprint:sha-256 " + b":".join([b"AB"] * 32) + b"\r\n"
        a, b = rig.endpoint(), rig.endpoint()
        offered = await rig.offer(
            MediaSession(CALL.call_id, CALL.from_tag), a.sdp().replace(b"RTP/AVP", b"UDP/TLS/RTP/SAVP") + key
        )
        answered = await rig.answer(CALL, b.sdp(formats="0 101").replace(b"RTP/AVP", b"UDP/TLS/RTP/SAVP") + key)
        assert key in offered
        talk = Talk(rig, a, b)
        talk.to_relay_a, talk.to_relay_b = target(answered), target(offered)
        await talk.exchange(5)
        with pytest.raises(MediaError, match="no stream"):
            await rig.subscribe(CALL, ["caller", "callee"])

    drive("rtpproxy", scenario)


def test_a_prompt_is_played_to_the_party_as_recording_tone(tmp_path: Path) -> None:
    (tmp_path / "beep.0").write_bytes(b"\x2a\xaa" * 400)

    async def scenario(rig: Rig) -> None:
        talk = await establish(rig)
        await talk.exchange(5)
        played: asyncio.Future[MediaError | None] = asyncio.get_running_loop().create_future()
        rig.engine.play(CALL, "caller", Tone(interval=0.3), played.set_result)
        assert await played is None
        beeps = struct.pack("!H", 0x2AAA)
        await until(lambda: sum(packet[12:14] == beeps for packet in talk.a.poll()) >= 2, "a beep at the caller")
        assert not any(packet[12:14] == beeps for packet in talk.b.poll())
        stopped: asyncio.Future[MediaError | None] = asyncio.get_running_loop().create_future()
        rig.engine.stop_playing(CALL, "caller", stopped.set_result)
        assert await stopped is None

    with_engine(scenario, prompt=str(tmp_path / "beep"))


def test_the_description_for_the_recorder_is_made_afresh() -> None:
    async def scenario(rig: Rig) -> None:
        await establish(rig)
        subscription = await rig.subscribe(CALL, ["caller", "callee"], flags=MediaFlags(media_address="192.0.2.7"))
        assert len(subscription.streams) == 2
        for media in (stream.section for stream in subscription.streams):
            assert media.attribute("x-unknown") is None
            assert (media.connection and media.connection.address, media.port) == ("192.0.2.7", 9)
            assert media.formats == ["0", "101"]
            assert media.direction == "sendonly"

    drive("rtpproxy", scenario)
