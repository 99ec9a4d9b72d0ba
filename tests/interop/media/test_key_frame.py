"""A recorder wants a key frame: the relay asks the party that sends the video, by what that party understands."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass

import pytest

from siprec.media.engine import MediaError, MediaFlags, MediaSession, Subscription
from siprec.relay import keyframe
from siprec.rtp import rtcp, srtp
from siprec.sdp import crypto as sdp_crypto
from tests.interop.media.localrelay import CALL, Local, each, local
from tests.interop.media.rig import Endpoint, recorder_answer, target, until
from tests.interop.media.test_srtp import keys_of, secure

SESSION = MediaSession(CALL.call_id, CALL.from_tag)


def video(endpoint: Endpoint, proto: str, *attributes: str) -> bytes:
    stream = [f"m=video {endpoint.port} {proto} 96", "a=rtpmap:96 VP8/90000", *(f"a={a}" for a in attributes)]
    lines = ["v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=-", "c=IN IP4 127.0.0.1", "t=0 0", *stream]
    return ("\r\n".join(lines) + "\r\n").encode()


@dataclass
class VideoCall:
    """Alice sends video; what she understands is in her description."""

    it: Local
    alice: Endpoint
    subscription: Subscription
    srs: list[Endpoint]

    async def ask(self) -> str:
        """What comes of it: nothing, or the error."""
        try:
            await self.it.rig._call(lambda done: self.it.rig.engine.key_frame(CALL, self.subscription.tag, done))
        except MediaError as error:
            return error.reason
        return ""

    def heard(self) -> list[tuple[int, int, bytes]]:
        """Payload-specific feedback at Alice: format, media source or FIR target, and the packet."""
        self.alice.poll()
        found = []
        for packet in [*self.alice.reports, *(p for p in self.alice.received if p[1] in (200, 201))]:
            at = 0
            while at + 4 <= len(packet):
                first, kind, words = struct.unpack_from("!BBH", packet, at)
                if kind == 206:
                    where = at + 8 if first & 31 == 1 else at + 12
                    found.append((first & 31, int(struct.unpack_from("!I", packet, where)[0]), packet))
                at += 4 + 4 * words
        return found


async def established(it: Local, proto: str, *attributes: str, talk: bool = True) -> VideoCall:
    alice, bob = it.rig.endpoint("127.0.0.1", 0xA11CE), it.rig.endpoint("127.0.0.1", 0xB0B)
    await it.rig.offer(SESSION, video(alice, proto, *attributes), MediaFlags())
    answered = await it.rig.answer(CALL, video(bob, proto, *attributes), MediaFlags())
    subscription = await it.rig.subscribe(CALL, ["caller", "callee"])
    srs = [it.rig.endpoint(), it.rig.endpoint()]
    await it.rig.accept(CALL, subscription.tag, recorder_answer(subscription, srs))
    if talk:
        alice.send(target(answered), 3, payload_type=96)
        await until(lambda: len(bob.poll()) >= 3, "video")
    return VideoCall(it, alice, subscription, srs)


@each
@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        (("rtcp-fb:* nack pli",), 1),
        (("rtcp-fb:96 ccm fir",), 4),
        (("rtcp-fb:96 nack pli", "rtcp-fb:96 CCM FIR"), 4),
        (("rtcp-fb:96 ccm fir", "rtcp-mux"), 4),
    ],
)
def test_the_party_is_asked_by_what_it_announced(kind: str, attributes: tuple[str, ...], expected: int) -> None:
    async def scenario() -> None:
        async with local(kind) as it:
            call = await established(it, "RTP/AVPF", *attributes)
            assert await call.ask() == ""
            await until(lambda: bool(call.heard()), "the request")
            [(form, about, packet)] = call.heard()
            assert (form, about) == (expected, 0xA11CE)
            # A compound packet begins with a report (RFC 3550 6.1).
            assert packet[1] == 201
            # Again at once: that is one request.
            assert await call.ask() == ""
            it.later(keyframe.INTERVAL + 0.1)
            assert await call.ask() == ""
            await until(lambda: len(call.heard()) >= 2, "another request")
            assert len(call.heard()) == 2
            if expected == 4:
                assert [packet[-4] for _, _, packet in call.heard()] == [1, 2]

    asyncio.run(scenario())


@each
@pytest.mark.parametrize(
    ("proto", "attributes", "talk"),
    [
        ("RTP/AVP", ("rtcp-fb:* ccm fir",), True),
        ("RTP/AVPF", ("rtcp-fb:* nack",), True),
        ("RTP/AVPF", ("rtcp-fb:* ccm fir",), False),
    ],
    ids=["no feedback profile", "another feedback", "nothing sent yet"],
)
def test_who_cannot_be_asked_is_not(kind: str, proto: str, attributes: tuple[str, ...], talk: bool) -> None:
    async def scenario() -> None:
        async with local(kind) as it:
            call = await established(it, proto, *attributes, talk=talk)
            assert await call.ask() == "nobody to be asked"
            assert call.heard() == []

    asyncio.run(scenario())


@each
@pytest.mark.parametrize("rekey", [True, False])
def test_in_srtp_the_party_is_asked_where_its_keys_end_here(kind: str, rekey: bool) -> None:
    async def scenario() -> None:
        async with local(kind) as it:
            await it.rig.ping()
            alice, bob = it.rig.endpoint("127.0.0.1", 0xA11CE), it.rig.endpoint("127.0.0.1", 0xB0B)
            lines = [sdp_crypto.generate(1), sdp_crypto.generate(1)]
            bodies = [
                secure(video(end, "RTP/AVPF", "rtcp-fb:* ccm fir"), line)
                for end, line in zip((alice, bob), lines, strict=True)
            ]
            await it.rig.offer(SESSION, bodies[0], MediaFlags(flags=("re-key",) if rekey else ()))
            answered = await it.rig.answer(CALL, bodies[1])
            subscription, srs = await it.subscribed(plain=True)
            (packet,) = alice.send(("127.0.0.1", 9), 1, payload_type=96)
            alice.rtp.sendto(srtp.Encryptor(lines[0]).rtp(packet) or b"", target(answered))
            await until(lambda: bool(bob.poll()), "video")
            call = VideoCall(it, alice, subscription, srs)
            assert await call.ask() == ("" if rekey else "nobody to be asked")
            if rekey:
                await until(lambda: bool(alice.poll() or alice.reports), "the request")
                clear = srtp.Decryptor(*keys_of(answered)).rtcp(alice.reports[0])
                assert clear is not None
                assert rtcp.wants_key_frame(clear)

    asyncio.run(scenario())


@each
def test_a_recorder_may_ask_by_rtcp_itself(kind: str) -> None:
    async def scenario() -> None:
        async with local(kind) as it:
            call = await established(it, "RTP/AVPF", "rtcp-fb:* ccm fir")
            line = call.subscription.streams[0].section
            assert line.rtcp is not None
            empty = struct.pack("!BBHI", 0x80, 201, 1, 7)
            call.srs[0].rtcp.sendto(empty + rtcp.full_intra_request(7, 0xA11CE, 1), line.rtcp)
            await until(lambda: bool(call.heard()), "the request")
            assert call.heard()[0][:2] == (4, 0xA11CE)

    asyncio.run(scenario())


def test_what_asks_for_a_key_frame_is_recognised() -> None:
    empty = struct.pack("!BBHI", 0x80, 201, 1, 7)
    assert rtcp.wants_key_frame(empty + rtcp.picture_loss(1, 2))
    assert rtcp.wants_key_frame(empty + rtcp.full_intra_request(1, 2, 3))
    assert not rtcp.wants_key_frame(empty)
    assert not rtcp.wants_key_frame(b"")
    assert not rtcp.wants_key_frame(empty + b"\x81")
