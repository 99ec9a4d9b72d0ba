"""The recording tone on the wire: the party hears it, the recording does not have it (CS-03)."""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from siprec.audio import codecs
from siprec.media.engine import MediaError, MediaFlags, MediaSession, Tone
from siprec.rtp import srtp
from siprec.sdp import crypto as sdp_crypto
from tests.interop.media.localrelay import CALL, Local, each, local
from tests.interop.media.rig import Endpoint, Rig, recorder_answer, running, target, until
from tests.interop.media.test_srtp import keys_of, secure

TONE = Tone(frequency=1400, duration=0.2, interval=1.0)


def power(packets: Sequence[bytes], frequency: float, payload_type: int = 0) -> float:
    """The strongest 100 ms of a frequency, as a share of full scale, in G.711 or G.722."""
    codec = codecs.static_codec(payload_type)
    assert codec is not None
    decoder = codecs.decoder(codec)
    assert decoder is not None
    payloads = [packet[12:] for packet in packets if packet[1] & 0x7F == payload_type]
    if not payloads:
        return 0.0
    samples = decoder.decode(payloads).reshape(-1).astype(np.float64) / 32768
    size = codec.sample_rate // 10
    wave = np.exp(-2j * np.pi * frequency * np.arange(size) / codec.sample_rate)
    return max(
        (abs(samples[i : i + size] @ wave) * 2 / size for i in range(0, len(samples) - size, size // 4)), default=0
    )


class Talker:
    """Sends silence like a phone: 20 ms each, in order, with time stamps that fit."""

    def __init__(
        self,
        endpoint: Endpoint,
        to: tuple[str, int],
        payload_type: int = 0,
        encryptor: srtp.Encryptor | None = None,
    ) -> None:
        self.endpoint, self.to, self.encryptor = endpoint, to, encryptor
        self.payload_type = payload_type
        codec = codecs.static_codec(payload_type)
        assert codec is not None
        encoder = codecs.encoder(codec)
        assert encoder is not None
        self.payload = encoder.encode(np.zeros((codec.sample_rate // 50, 1), np.int16))

    def packet(self) -> None:
        end = self.endpoint
        end.seq = (end.seq + 1) & 0xFFFF
        end.timestamp += 160
        head = struct.pack("!BBHII", 0x80, self.payload_type, end.seq, end.timestamp, end.ssrc)
        packet = head + self.payload
        end.rtp.sendto(self.encryptor.rtp(packet) or b"" if self.encryptor is not None else packet, self.to)

    async def talk(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.02)):
            self.packet()
            await asyncio.sleep(0.02)


async def play(rig: Rig, session: MediaSession, tag: str, tone: Tone) -> MediaError | None:
    done: asyncio.Future[MediaError | None] = asyncio.get_running_loop().create_future()
    rig.engine.play(session, tag, tone, done.set_result)
    return await done


async def stop(rig: Rig, session: MediaSession, tag: str) -> MediaError | None:
    done: asyncio.Future[MediaError | None] = asyncio.get_running_loop().create_future()
    rig.engine.stop_playing(session, tag, done.set_result)
    return await done


@pytest.mark.parametrize("payload_type", [0, 8, 9])
@each
def test_the_party_hears_the_tone_in_an_unbroken_stream_and_the_recorder_does_not(payload_type: int, kind: str) -> None:
    async def scenario() -> None:
        async with local(kind) as it:
            it.a, it.b = it.rig.endpoint("127.0.0.1", 0xA), it.rig.endpoint("127.0.0.1", 0xB)
            formats = "0 8 9 101"
            offered = await it.rig.offer(MediaSession(CALL.call_id, CALL.from_tag), it.a.sdp(formats=formats))
            answered = await it.rig.answer(CALL, it.b.sdp(formats=formats))
            it.to_b, it.to_a = target(offered), target(answered)
            _, srs = await it.subscribed()
            talker = Talker(it.a, it.to_a, payload_type)
            await talker.talk(0.1)
            assert await play(it.rig, CALL, "callee", TONE) is None
            await talker.talk(2.5)
            assert await stop(it.rig, CALL, "callee") is None
            heard = len(it.b.poll())
            await talker.talk(1.5)
            await until(lambda: len(it.b.poll()) == it.a.seq - 1000, "all packets at the callee")
            await until(lambda: len(srs[0].poll()) == it.a.seq - 1000, "all packets at the recorder")
            during, after = it.b.received[:heard], it.b.received[heard:]
            assert 0.06 < power(during, 1400, payload_type) < 0.14  # 20 dB below full scale
            assert power(after, 1400, payload_type) < 0.005
            assert power(srs[0].received, 1400, payload_type) < 0.005
            heads = [struct.unpack("!HII", packet[2:12]) for packet in it.b.received]
            assert [seq for seq, _, _ in heads] == list(range(1001, it.a.seq + 1))
            assert {ssrc for _, _, ssrc in heads} == {0xA}
            assert [t2[1] - t1[1] for t1, t2 in itertools.pairwise(heads)] == [160] * (len(heads) - 1)
            assert power(it.a.poll(), 1400, payload_type) == 0  # nobody asked for it there
            assert not it.relay.calls[CALL.call_id].players

    asyncio.run(scenario())


@each
def test_a_voice_goes_on_below_the_tone(kind: str) -> None:
    async def scenario() -> None:
        async with local(kind) as it:
            await it.establish()
            talker = Talker(it.a, it.to_a)
            encoder = codecs.encoder(codecs.codec("PCMU", 8000))
            assert encoder is not None
            voice = 3276 * np.sin(2 * np.pi * 500 * np.arange(160) / 8000)
            talker.payload = encoder.encode(voice.astype(np.int16).reshape(-1, 1))
            talker.packet()
            await until(lambda: len(it.b.poll()) > 0, "a packet")
            await play(it.rig, CALL, "callee", Tone(duration=1.0, interval=5.0))
            await talker.talk(0.7)
            middle = it.b.poll()[5:25]
            assert power(middle, 1400) > 0.06
            assert power(middle, 500) > 0.06

    asyncio.run(scenario())


@each
def test_a_party_whose_peer_is_silent_hears_it_from_us(kind: str) -> None:
    async def scenario() -> None:
        async with local(kind) as it:
            await it.establish()
            assert await play(it.rig, CALL, "caller", TONE) is None
            await until(lambda: len(it.a.poll()) >= 20, "two tones")
            heads = [struct.unpack("!HII", packet[2:12]) for packet in it.a.received]
            assert [(b[0] - a[0]) & 0xFFFF for a, b in itertools.pairwise(heads)] == [1] * (len(heads) - 1)
            assert len({ssrc for _, _, ssrc in heads}) == 1
            assert [packet[1] >> 7 for packet in it.a.received[:3]] == [1, 0, 0]
            assert power(it.a.received, 1400) > 0.06

    asyncio.run(scenario())


@each
def test_nothing_is_played_into_what_is_encrypted_or_held_or_of_a_codec_without_encoder(kind: str) -> None:
    async def scenario() -> None:
        for change in ((b"RTP/AVP", b"RTP/SAVP"), (b"sendrecv", b"inactive"), (b" 0 8 101", b" 111")):
            async with local(kind) as it:
                it.a, it.b = it.rig.endpoint("127.0.0.1", 0xA), it.rig.endpoint("127.0.0.1", 0xB)
                caller, callee = (e.sdp(direction="sendrecv") + b"" for e in (it.a, it.b))
                caller, callee = caller.replace(*change), callee.replace(*change)
                await it.rig.offer(MediaSession(CALL.call_id, CALL.from_tag), caller)
                await it.rig.answer(CALL, callee)
                assert await play(it.rig, CALL, "callee", TONE) is None
                (player,) = it.relay.calls[CALL.call_id].players.values()
                assert (player.played, player.skipped) == (0, 1)  # type: ignore[attr-defined]

    asyncio.run(scenario())


@pytest.mark.parametrize("plain_callee", [False, True])
@each
def test_srtp_whose_keys_end_here_has_the_tone_in_it(kind: str, plain_callee: bool) -> None:
    """Both parties in SRTP with ``re-key``, or only one of them."""

    async def scenario() -> None:
        async with local(kind) as it:
            it.a, it.b = it.rig.endpoint("127.0.0.1", 0xA), it.rig.endpoint("127.0.0.1", 0xB)
            line_a, line_b = sdp_crypto.generate(1), sdp_crypto.generate(1)
            await it.rig.ping()  # our words are only said to one that knows them
            flags = MediaFlags(flags=("re-key",), transport_protocol="RTP/AVP" if plain_callee else "")
            alone = MediaSession(CALL.call_id, CALL.from_tag)
            offered = await it.rig.offer(alone, secure(it.a.sdp(), line_a), flags)
            answer = it.b.sdp() if plain_callee else secure(it.b.sdp(), line_b)
            answered = await it.rig.answer(CALL, answer)
            it.to_b, it.to_a = target(offered), target(answered)
            (ours,) = keys_of(answered)
            to_callee = [] if plain_callee else [key for key in keys_of(offered) if key.suite == line_b.suite]
            assert len({key.key for key in (line_a, line_b, ours, *to_callee)}) == 3 + len(to_callee)
            _, srs = await it.subscribed(plain=True)
            talker = Talker(it.a, it.to_a, encryptor=srtp.Encryptor(line_a))
            ear = srtp.Decryptor(*to_callee)
            await talker.talk(0.1)
            assert await play(it.rig, CALL, "callee", TONE) is None
            await talker.talk(1.5)
            assert await stop(it.rig, CALL, "callee") is None
            heard = len(it.b.poll())
            await talker.talk(0.5)
            count = it.a.seq - 1000
            await until(lambda: len(it.b.poll()) == count, "all packets at the callee")
            await until(lambda: len(srs[0].poll()) == count, "all packets at the recorder")
            clear = it.b.received if plain_callee else [ear.rtp(packet) or b"" for packet in it.b.received]
            assert 0.06 < power(clear[:heard], 1400) < 0.14
            assert power(clear[heard:], 1400) < 0.005
            assert power(srs[0].received, 1400) < 0.005
            assert [struct.unpack_from("!H", packet, 2)[0] for packet in clear] == list(range(1001, it.a.seq + 1))
            # The caller hears it although nobody talks to it.
            assert await play(it.rig, CALL, "caller", TONE) is None
            await until(lambda: len(it.a.poll()) >= 10, "a tone")
            caller = srtp.Decryptor(ours)
            assert power([caller.rtp(packet) or b"" for packet in it.a.received], 1400) > 0.06

    asyncio.run(scenario())


@each
def test_opportunistic_srtp_is_left_alone(kind: str) -> None:
    async def scenario() -> None:
        async with local(kind) as it:
            it.a, it.b = it.rig.endpoint("127.0.0.1", 0xA), it.rig.endpoint("127.0.0.1", 0xB)
            lines = [secure(end.sdp(), sdp_crypto.generate(1)).replace(b"SAVP", b"AVP") for end in (it.a, it.b)]
            await it.rig.offer(MediaSession(CALL.call_id, CALL.from_tag), lines[0])
            await it.rig.answer(CALL, lines[1])
            assert await play(it.rig, CALL, "callee", TONE) is None
            (player,) = it.relay.calls[CALL.call_id].players.values()
            assert (player.played, player.skipped) == (0, 1)  # type: ignore[attr-defined]

    asyncio.run(scenario())


@each
def test_what_cannot_be_played_is_refused(kind: str) -> None:
    async def scenario(it: Local) -> None:
        request = it.relay.request
        call: dict[str, Any] = {"command": b"play media", "call-id": CALL.call_id.encode(), "from-tag": b"callee"}
        wrongs: tuple[dict[str, Any], ...] = (
            {},
            {"blob": b"no wav"},
            {"tone": {"frequency": 5}},
            {"tone": {"duration": 300, "interval": 400}},
            {"from-tag": b"nobody", "tone": {}},
            {"call-id": b"unknown", "tone": {}},
        )
        for wrong in wrongs:
            assert request({**call, **wrong})["result"] == "error"
        assert request({**call, "tone": {}})["result"] == "ok"

    async def run() -> None:
        async with local(kind) as it:
            await it.establish()
            await scenario(it)

    asyncio.run(run())


def test_rtpengine_plays_the_same_tone() -> None:
    async def scenario() -> None:
        async with running("rtpengine") as rig:
            a, b = rig.endpoint("127.0.0.1", 0xA), rig.endpoint("127.0.0.1", 0xB)
            await rig.offer(MediaSession(CALL.call_id, CALL.from_tag), a.sdp(formats="0"))
            answered = await rig.answer(CALL, b.sdp(formats="0"))
            subscription = await rig.subscribe(CALL, ["caller", "callee"])
            srs = [rig.endpoint(), rig.endpoint()]
            await rig.accept(CALL, subscription.tag, recorder_answer(subscription, srs))
            talker = Talker(a, target(answered))
            await talker.talk(0.3)
            assert await play(rig, CALL, "callee", TONE) is None
            await talker.talk(2.0)
            assert await stop(rig, CALL, "callee") is None
            assert power(b.poll(), 1400) > 0.04
            assert len(srs[0].poll()) > 90
            assert power(srs[0].received, 1400) < 0.005

    asyncio.run(scenario())
