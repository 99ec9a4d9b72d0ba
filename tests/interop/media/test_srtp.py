"""SRTP between parties, towards recorders, and both: our relay and RTPEngine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from siprec import sdp
from siprec.media.engine import MediaError, MediaFlags, MediaSession, Subscription
from siprec.rtp import srtp
from siprec.sdp import crypto as sdp_crypto
from siprec.sdp.crypto import Crypto, Suite
from tests.interop.media.rig import NG, OURS, Endpoint, Rig, drive, recorder_answer, renumbered, target, until

CALL = MediaSession("a-call@example.com", "caller", "callee")
ALONE = MediaSession("a-call@example.com", "caller")
both = pytest.mark.parametrize("kind", NG)
ours = pytest.mark.parametrize("kind", OURS)
F8 = Crypto(1, Suite("F8_128_HMAC_SHA1_80", 16), bytes(30))
"""A suite that is not known here."""
SAVP = MediaFlags(transport_protocol="RTP/SAVP")
AVP = MediaFlags(transport_protocol="RTP/AVP")


def secure(body: bytes, *lines: Crypto) -> bytes:
    """A plain description as an SRTP one."""
    text = body.replace(b"RTP/AVP", b"RTP/SAVP")
    return text + b"".join(f"a=crypto:{line.value()}\r\n".encode() for line in lines)


def keys_of(body: bytes | sdp.MediaDescription) -> list[Crypto]:
    media = sdp.parse(body).media[0] if isinstance(body, bytes) else body
    return [key for value in media.attributes("crypto") if (key := srtp.choose([value])) is not None]


class Srs:
    """A recorder's ports, with a key for each stream."""

    def __init__(self, rig: Rig, subscription: Subscription, suite: str = "AES_CM_128_HMAC_SHA1_80") -> None:
        self.ends = [rig.endpoint() for _ in subscription.streams]
        description = sdp.parse(recorder_answer(subscription, self.ends))
        self.keys: list[Crypto] = []
        self.offered: list[Crypto] = []
        for media, stream in zip(description.media, subscription.streams, strict=True):
            assert stream.section.proto == "RTP/SAVP"
            chosen = next(key for key in keys_of(stream.section) if key.suite.name == suite)
            ours = sdp_crypto.answer(chosen)
            media.set_attribute("crypto", ours.value())
            self.offered.append(chosen)
            self.keys.append(ours)
        self.answer = description.to_bytes()
        self.decryptors = [srtp.Decryptor(key) for key in self.offered]
        self.seen = [0 for _ in self.ends]
        self.heard: list[list[bytes]] = [[] for _ in self.ends]

    def poll(self, number: int) -> list[bytes]:
        """What has been received on stream `number`, decrypted; nothing else may come."""
        received = self.ends[number].poll()
        for packet in received[self.seen[number] :]:
            clear = self.decryptors[number].rtp(packet)
            assert clear is not None
            assert clear not in packet
            self.heard[number].append(clear)
        self.seen[number] = len(received)
        return self.heard[number]


async def has(srs: Srs, number: int, packets: Sequence[bytes]) -> None:
    await until(lambda: len(srs.poll(number)) >= len(packets), f"{len(packets)} packets on stream {number}")
    assert srs.heard[number] == list(packets)


async def plain_call(rig: Rig) -> tuple[Endpoint, Endpoint, tuple[str, int], tuple[str, int]]:
    a, b = rig.endpoint("127.0.0.1", 0xA), rig.endpoint("127.0.0.1", 0xB)
    offered = await rig.offer(ALONE, a.sdp())
    answered = await rig.answer(CALL, b.sdp(formats="0 101"))
    return a, b, target(answered), target(offered)


async def talk(
    end: Endpoint, to: tuple[str, int], count: int, other: Endpoint, key: srtp.Encryptor | None = None
) -> list[bytes]:
    """`end` says `count` packets, encrypted with `key`; `other` receives something for each."""
    before = len(other.poll())
    said = []
    for _ in range(count):
        if key is None:
            said += end.send(to)
        else:
            (clear,) = end.send(("127.0.0.1", 9), 1)
            said.append(clear)
            end.rtp.sendto(key.rtp(clear) or b"", to)
        await asyncio.sleep(0.001)
    await until(lambda: len(other.poll()) >= before + count, "packets at the other party")
    return said


@both
def test_copies_of_a_plain_call_can_be_srtp_sec_06(kind: str) -> None:
    async def scenario(rig: Rig) -> None:
        a, b, to_a, to_b = await plain_call(rig)
        await talk(a, to_a, 3, b)
        subscription = await rig.subscribe(CALL, ["caller", "callee"], flags=SAVP)
        assert len({key.key for s in subscription.streams for key in keys_of(s.section)}) > 1
        # RTPEngine encrypts with all suites: what it makes with a long key is understood here.
        suite = "AES_CM_128_HMAC_SHA1_80" if kind in OURS else "AES_256_CM_HMAC_SHA1_80"
        srs = Srs(rig, subscription, suite)
        await rig.accept(CALL, subscription.tag, srs.answer)
        await asyncio.sleep(0.05)
        for number in range(2):
            srs.poll(number)
            srs.heard[number].clear()
        said_a = await talk(a, to_a, 30, b)
        said_b = await talk(b, to_b, 30, a)
        assert b.poll()[-30:] == said_a  # the call itself stays as it is
        await has(srs, 0, said_a)
        await has(srs, 1, said_b)
        await rig.delete(CALL)

    drive(kind, scenario)


async def secure_call(
    rig: Rig, line_a: Crypto, line_b: Crypto, flags: MediaFlags | None = None
) -> tuple[Endpoint, Endpoint, tuple[str, int], tuple[str, int]]:
    """Both parties speak SRTP; the descriptions say with what, and pass untouched."""
    a, b = rig.endpoint("127.0.0.1", 0xA), rig.endpoint("127.0.0.1", 0xB)
    other = sdp_crypto.generate(1, "AES_CM_128_HMAC_SHA1_32")
    offered = await rig.offer(ALONE, secure(a.sdp(), other, line_a), flags)
    answered = await rig.answer(CALL, secure(b.sdp(formats="0 101"), line_b), flags)
    if rig.kind in OURS:
        assert keys_of(offered) == [other, line_a]
        assert keys_of(answered) == [line_b]
    return a, b, target(answered), target(offered)


@ours
@pytest.mark.parametrize("suite", srtp.SUPPORTED)
def test_srtp_between_the_parties_passes_untouched_and_is_copied_under_another_key_sec_08(
    kind: str, suite: str
) -> None:
    async def scenario(rig: Rig) -> None:
        line_a, line_b = sdp_crypto.generate(2, suite), sdp_crypto.generate(2, suite)
        a, b, to_a, to_b = await secure_call(rig, line_a, line_b)
        key_a, key_b = srtp.Encryptor(line_a), srtp.Encryptor(line_b)
        ear_a, ear_b = srtp.Decryptor(line_b), srtp.Decryptor(line_a)
        await talk(a, to_a, 5, b, key_a)
        subscription = await rig.subscribe(CALL, ["caller", "callee"])
        offered = [keys_of(stream.section)[0] for stream in subscription.streams]
        stronger = suite.replace("_32", "_80")
        assert [key.suite.name for key in offered] == [stronger, stronger]
        assert not {key.key for key in offered} & {line_a.key, line_b.key}
        srs = Srs(rig, subscription, suite)
        await rig.accept(CALL, subscription.tag, srs.answer)
        said_a = await talk(a, to_a, 30, b, key_a)
        said_b = await talk(b, to_b, 30, a, key_b)
        assert [ear_b.rtp(packet) for packet in b.poll()[-30:]] == said_a
        assert [ear_a.rtp(packet) for packet in a.poll()[-30:]] == said_b
        await has(srs, 0, said_a)
        await has(srs, 1, said_b)
        statistics = await rig.query(CALL)
        assert {s.tag: s.forked for s in statistics.streams} == {"caller": 30, "callee": 30}
        assert [dict(f.dropped) for f in statistics.forks] == [{}, {}]
        await rig.delete(CALL)

    drive(kind, scenario)


def test_rtpproxy_copies_srtp_as_it_is_and_the_recorder_is_told_the_partys_key_sec_07() -> None:
    async def scenario(rig: Rig) -> None:
        suite = "AES_CM_128_HMAC_SHA1_80"
        line_a, line_b = sdp_crypto.generate(2, suite), sdp_crypto.generate(2, suite)
        a, b, to_a, to_b = await secure_call(rig, line_a, line_b)
        with pytest.raises(MediaError, match="decrypt"):
            await rig.subscribe(CALL, ["caller", "callee"], flags=AVP)
        subscription = await rig.subscribe(CALL, ["caller", "callee"])
        assert [[key.key for key in keys_of(stream.section)] for stream in subscription.streams] == [
            [line_a.key],
            [line_b.key],
        ]
        srs = Srs(rig, subscription, suite)
        await rig.accept(CALL, subscription.tag, srs.answer)
        await asyncio.sleep(0.05)
        key_a, key_b = srtp.Encryptor(line_a), srtp.Encryptor(line_b)
        await has(srs, 0, await talk(a, to_a, 20, b, key_a))
        await has(srs, 1, await talk(b, to_b, 20, a, key_b))

    drive("rtpproxy", scenario)


@ours
def test_a_plain_copy_of_srtp_is_made_when_it_is_asked_for(kind: str) -> None:
    async def scenario(rig: Rig) -> None:
        line_a, line_b = sdp_crypto.generate(2), sdp_crypto.generate(2)
        a, b, to_a, _ = await secure_call(rig, line_a, line_b)
        subscription = await rig.subscribe(CALL, ["caller", "callee"], flags=AVP)
        assert {stream.section.proto for stream in subscription.streams} == {"RTP/AVP"}
        assert not any(keys_of(stream.section) for stream in subscription.streams)
        recorders = [rig.endpoint(), rig.endpoint()]
        await rig.accept(CALL, subscription.tag, recorder_answer(subscription, recorders))
        said = await talk(a, to_a, 30, b, srtp.Encryptor(line_a))
        await until(lambda: len(recorders[0].poll()) >= 30, "copies")
        assert recorders[0].received == said

    drive(kind, scenario)


@ours
def test_who_is_recorded_from_the_middle_of_a_long_call_is_understood(kind: str) -> None:
    """The ROC of the stream is not in its packets."""

    async def scenario(rig: Rig) -> None:
        line_a, line_b = sdp_crypto.generate(2), sdp_crypto.generate(2)
        a, b, to_a, _ = await secure_call(rig, line_a, line_b)
        key_a = srtp.Encryptor(line_a)
        for _ in range(3 * 65536 // 10000 + 1):  # three wraps, in jumps
            await talk(a, to_a, 1, b, key_a)
            a.seq = (a.seq + 10000) & 0xFFFF
        subscription = await rig.subscribe(CALL, ["caller", "callee"])
        srs = Srs(rig, subscription)
        await rig.accept(CALL, subscription.tag, srs.answer)
        await has(srs, 0, await talk(a, to_a, 30, b, key_a))

    drive(kind, scenario)


@ours
@pytest.mark.parametrize("secured", [True, False], ids=["SRTP call", "plain call"])
def test_a_pause_leaves_no_gap_in_the_numbers_of_an_encrypted_copy(kind: str, secured: bool) -> None:
    async def scenario(rig: Rig) -> None:
        if secured:
            line_a, line_b = sdp_crypto.generate(2), sdp_crypto.generate(2)
            a, b, to_a, _ = await secure_call(rig, line_a, line_b)
            key_a: srtp.Encryptor | None = srtp.Encryptor(line_a)
        else:
            a, b, to_a, _ = await plain_call(rig)
            key_a = None
        subscription = await rig.subscribe(CALL, ["caller", "callee"], flags=SAVP)
        srs = Srs(rig, subscription)
        await rig.accept(CALL, subscription.tag, srs.answer)
        before = await talk(a, to_a, 10, b, key_a)
        await has(srs, 0, before)
        await rig.pause(CALL, subscription.tag)
        await talk(a, to_a, 7, b, key_a)
        await rig.resume(CALL, subscription.tag)
        await has(srs, 0, before + renumbered(await talk(a, to_a, 10, b, key_a), 7))

    drive(kind, scenario)


@ours
def test_pre_roll_of_an_srtp_call_is_kept_and_understood(kind: str) -> None:
    async def scenario(rig: Rig) -> None:
        line_a, line_b = sdp_crypto.generate(2), sdp_crypto.generate(2)
        a, b, to_a, _ = await secure_call(rig, line_a, line_b, MediaFlags(flags=("pre-roll",)))
        key_a = srtp.Encryptor(line_a)
        first = await talk(a, to_a, 40, b, key_a)
        subscription = await rig.subscribe(CALL, ["caller", "callee"])
        second = await talk(a, to_a, 40, b, key_a)
        srs = Srs(rig, subscription)
        await rig.accept(CALL, subscription.tag, srs.answer)
        third = await talk(a, to_a, 40, b, key_a)
        await has(srs, 0, first + second + third)

    drive(kind, scenario)


@ours
def test_new_keys_in_mid_call_are_followed_and_the_recorder_keeps_its_own(kind: str) -> None:
    async def scenario(rig: Rig) -> None:
        line_a, line_b = sdp_crypto.generate(2), sdp_crypto.generate(2)
        a, b, to_a, _ = await secure_call(rig, line_a, line_b)
        key_a = srtp.Encryptor(line_a)
        subscription = await rig.subscribe(CALL, ["caller", "callee"])
        srs = Srs(rig, subscription)
        await rig.accept(CALL, subscription.tag, srs.answer)
        said = await talk(a, to_a, 10, b, key_a)
        new = sdp_crypto.generate(1)
        await rig.offer(CALL, secure(a.sdp(version=2), new))
        said += await talk(a, to_a, 10, b, key_a)  # the callee has not answered yet
        await rig.answer(CALL, secure(b.sdp(version=2, formats="0 101"), sdp_crypto.generate(1)))
        again = await rig.subscribe(CALL, ["caller", "callee"], subscription.tag)
        for before, after in zip(subscription.streams, again.streams, strict=True):
            assert keys_of(before.section) == keys_of(after.section)
        await rig.accept(CALL, subscription.tag, srs.answer)
        said += await talk(a, to_a, 10, b, srtp.Encryptor(new))
        await has(srs, 0, said)

    drive(kind, scenario)


@both
def test_reports_to_and_from_the_recorder_are_encrypted_too(kind: str) -> None:
    async def scenario(rig: Rig) -> None:
        a, b, to_a, _ = await plain_call(rig)
        subscription = await rig.subscribe(CALL, ["caller", "callee"], flags=SAVP)
        srs = Srs(rig, subscription)
        await rig.accept(CALL, subscription.tag, srs.answer)
        for _ in range(400):
            srs.ends[0].poll()
            if srs.ends[0].reports:
                break
            if kind not in OURS:  # RTPEngine only passes on what the parties report
                report = bytes.fromhex("80c80006") + a.ssrc.to_bytes(4, "big") + bytes(20)
                a.rtcp.sendto(report, (to_a[0], to_a[1] + 1))
            await talk(a, to_a, 1, b)
            await asyncio.sleep(0.05)
        clear = srs.decryptors[0].rtcp(srs.ends[0].reports[0])
        assert clear is not None
        assert clear[1] == 200
        if kind in OURS:
            blocks = (
                bytes.fromhex("81c90007")
                + bytes(4)
                + a.ssrc.to_bytes(4, "big")
                + bytes.fromhex("0000000700000000000000090000000000000000")
            )
            to = subscription.streams[0].section.rtcp
            assert to is not None
            srs.ends[0].rtcp.sendto(blocks, to)  # not encrypted: not believed
            srs.ends[0].rtcp.sendto(srtp.Encryptor(srs.keys[0]).rtcp(blocks) or b"", to)
            forks = []
            for _ in range(1000):
                forks = list((await rig.query(CALL)).forks)
                if forks[0].rtcp_received:
                    break
                await asyncio.sleep(0.01)
            assert (forks[0].rtcp_received, forks[0].lost_reported) == (1, 7)

    drive(kind, scenario)


@ours
def test_what_cannot_be_decrypted_passes_untouched_and_is_not_recorded_as_noise(kind: str) -> None:
    """First law: an unknown suite, or keys by DTLS, are the parties' own business."""

    async def scenario(rig: Rig) -> None:
        for number, proto in enumerate((b"RTP/SAVP", b"UDP/TLS/RTP/SAVP")):
            call = MediaSession(f"{number}@example.com", "caller", "callee")
            line = F8
            a, b = rig.endpoint("127.0.0.1", 0xA), rig.endpoint("127.0.0.1", 0xB)
            offer = secure(a.sdp(), line).replace(b"RTP/SAVP", proto) + b"a=fingerprint:sha-256 AB:CD\r\n"
            answer = secure(b.sdp(), line).replace(b"RTP/SAVP", proto)
            offered = await rig.offer(MediaSession(call.call_id, "caller"), offer)
            answered = await rig.answer(call, answer)
            assert line.value().encode() in offered
            assert b"a=fingerprint:sha-256 AB:CD" in offered
            assert b" " + proto + b" " in offered
            said = await talk(a, target(answered), 20, b)
            assert b.poll() == said
            with pytest.raises(MediaError, match="encrypted"):
                await rig.subscribe(call, ["caller", "callee"])
            said = await talk(b, target(offered), 20, a)
            assert a.poll() == said

    drive(kind, scenario)


@ours
def test_an_answer_without_a_fitting_key_is_refused(kind: str) -> None:
    async def scenario(rig: Rig) -> None:
        a, b, to_a, _ = await plain_call(rig)
        subscription = await rig.subscribe(CALL, ["caller", "callee"], flags=SAVP)
        srs = Srs(rig, subscription)
        tagged = sdp.parse(srs.answer)
        tagged.media[1].set_attribute("crypto", sdp_crypto.generate(77).value())
        bare = sdp.parse(srs.answer)
        bare.media[0].remove_attributes("crypto")
        for wrong in (tagged, bare):
            with pytest.raises(MediaError, match="key"):
                await rig.accept(CALL, subscription.tag, wrong.to_bytes())
        await rig.accept(CALL, subscription.tag, srs.answer)
        await has(srs, 0, await talk(a, to_a, 5, b))

    drive(kind, scenario)


async def bridged(
    rig: Rig, caller: Crypto | None, callee: Crypto | None, flags: MediaFlags
) -> tuple[Endpoint, Endpoint, tuple[str, int], tuple[str, int], Crypto]:
    """A call of which one side has keys (its own are given): both ends, where they send to, and our key."""
    a, b = rig.endpoint("127.0.0.1", 0xA), rig.endpoint("127.0.0.1", 0xB)
    offered = await rig.offer(ALONE, secure(a.sdp(), caller) if caller else a.sdp(), flags)
    if callee is not None:
        ours = next(key for key in keys_of(offered) if key.suite == callee.suite)
        callee = Crypto(ours.tag, callee.suite, callee.key)
        body = secure(b.sdp(formats="0 101"), callee)
    else:
        assert b" RTP/AVP " in offered
        assert b"crypto" not in offered
        body = b.sdp(formats="0 101")
    answered = await rig.answer(CALL, body)
    if caller is not None:
        (ours,) = keys_of(answered)
        assert (ours.tag, ours.suite) == (caller.tag, caller.suite)
        assert ours.key != caller.key
        assert b" RTP/SAVP " in answered
    else:
        assert b" RTP/AVP " in answered
        assert b"crypto" not in answered
    return a, b, target(answered), target(offered), ours


async def both_ways(
    a: Endpoint,
    b: Endpoint,
    to_a: tuple[str, int],
    to_b: tuple[str, int],
    keys: tuple[srtp.Encryptor, srtp.Decryptor],
    count: int = 20,
) -> tuple[list[bytes], list[bytes]]:
    """`a`, which speaks SRTP, and `b`, which does not, understand each other; what each said."""
    said_a = await talk(a, to_a, count, b, keys[0])
    assert b.poll()[-count:] == said_a
    said_b = await talk(b, to_b, count, a)
    assert [keys[1].rtp(packet) for packet in a.poll()[-count:]] == said_b
    return said_a, said_b


@both
@pytest.mark.parametrize("who", ["caller", "callee"])
def test_srtp_on_one_side_and_plain_rtp_on_the_other_are_brought_together(kind: str, who: str) -> None:
    async def scenario(rig: Rig) -> None:
        line = sdp_crypto.generate(3)
        if who == "caller":
            a, b, to_a, to_b, ours = await bridged(rig, line, None, AVP)
            keys = srtp.Encryptor(line), srtp.Decryptor(ours)
        else:
            b, a, to_b, to_a, ours = await bridged(rig, None, line, SAVP)
            keys = srtp.Encryptor(line), srtp.Decryptor(ours)
        await both_ways(a, b, to_a, to_b, keys)
        # RTCP crosses, too, by a key of the same pair.
        report = bytes.fromhex("80c90001") + a.ssrc.to_bytes(4, "big")
        a.rtcp.sendto(keys[0].rtcp(report) or b"", (to_a[0], to_a[1] + 1))
        await until(lambda: bool(b.poll() and b.reports), "RTCP from the encrypted side")
        assert b.reports[0][:8] == report
        b.rtcp.sendto(report[:4] + b.ssrc.to_bytes(4, "big"), (to_b[0], to_b[1] + 1))
        await until(lambda: bool(a.poll() and a.reports), "RTCP from the plain side")
        clear = keys[1].rtcp(a.reports[0])
        assert clear is not None
        assert clear[4:8] == b.ssrc.to_bytes(4, "big")

    drive(kind, scenario)


@ours
def test_what_is_not_authentic_does_not_cross(kind: str) -> None:
    async def scenario(rig: Rig) -> None:
        line = sdp_crypto.generate(3)
        a, b, to_a, to_b, ours = await bridged(rig, line, None, AVP)
        keys = srtp.Encryptor(line), srtp.Decryptor(ours)
        await both_ways(a, b, to_a, to_b, keys)
        heard = len(b.received)
        a.send(to_a, 5)  # in the clear
        said, _ = await both_ways(a, b, to_a, to_b, keys)
        assert b.received[heard:] == said
        statistics = await rig.query(CALL)
        stream = next(stream for stream in statistics.streams if stream.tag == "caller")
        assert stream.dropped == {"srtp": 5}
        assert stream.relayed == 40

    drive(kind, scenario)


@both
def test_both_sides_of_a_bridge_are_recorded(kind: str) -> None:
    async def scenario(rig: Rig) -> None:
        line = sdp_crypto.generate(3)
        a, b, to_a, to_b, ours = await bridged(rig, line, None, AVP)
        keys = srtp.Encryptor(line), srtp.Decryptor(ours)
        await both_ways(a, b, to_a, to_b, keys, 3)
        subscription = await rig.subscribe(CALL, ["caller", "callee"])
        assert [stream.section.proto for stream in subscription.streams] == ["RTP/SAVP", "RTP/AVP"]
        subscription = await rig.subscribe(CALL, ["caller", "callee"], subscription.tag, flags=SAVP)
        srs = Srs(rig, subscription)
        await rig.accept(CALL, subscription.tag, srs.answer)
        await asyncio.sleep(0.05)
        for number in range(2):
            srs.poll(number)
            srs.heard[number].clear()
        said_a, said_b = await both_ways(a, b, to_a, to_b, keys)
        await has(srs, 0, said_a)
        await has(srs, 1, said_b)

    drive(kind, scenario)


@both
def test_a_bridge_lasts_through_offers_of_either_side(kind: str) -> None:
    """Neither says anew how the other speaks; keys that stay go on where they were."""

    async def scenario(rig: Rig) -> None:
        line = sdp_crypto.generate(3)
        a, b, to_a, to_b, ours = await bridged(rig, line, None, AVP)
        encryptor, decryptor = srtp.Encryptor(line), srtp.Decryptor(ours)
        await both_ways(a, b, to_a, to_b, (encryptor, decryptor))
        back = MediaSession(CALL.call_id, "callee", "caller")
        offered = await rig.offer(back, b.sdp(version=2, formats="0 101"))
        assert b" RTP/SAVP " in offered
        again = next(key for key in keys_of(offered) if key.suite == line.suite)
        mine = Crypto(again.tag, line.suite, line.key)
        answered = await rig.answer(back, secure(a.sdp(version=2, formats="0 101"), mine))
        assert b" RTP/AVP " in answered
        assert b"crypto" not in answered
        if again.key != ours.key:  # RTPEngine may take another one
            decryptor.rekey(again, ours)
        await both_ways(a, b, target(offered), target(answered), (encryptor, decryptor))
        new = sdp_crypto.generate(4)
        offered = await rig.offer(CALL, secure(a.sdp(version=3, formats="0 101"), new))
        assert b" RTP/AVP " in offered
        answered = await rig.answer(CALL, b.sdp(version=3, formats="0 101"))
        (last,) = keys_of(answered)
        assert last.tag == 4
        if last.key != again.key:
            decryptor.rekey(last, again)
        await both_ways(a, b, target(answered), target(offered), (srtp.Encryptor(new), decryptor))

    drive(kind, scenario)


@ours
def test_a_bridge_that_is_no_longer_needed_goes(kind: str) -> None:
    async def scenario(rig: Rig) -> None:
        line = sdp_crypto.generate(3)
        a, b, to_a, to_b, ours = await bridged(rig, line, None, AVP)
        await both_ways(a, b, to_a, to_b, (srtp.Encryptor(line), srtp.Decryptor(ours)))
        await rig.offer(CALL, a.sdp(version=2))
        await rig.answer(CALL, b.sdp(version=2, formats="0 101"))
        said = await talk(a, to_a, 20, b)
        assert b.received[-20:] == said
        said = await talk(b, to_b, 20, a)
        assert a.received[-20:] == said
        # And comes again, with a key of ours that goes on where it was.
        offered = await rig.offer(CALL, secure(a.sdp(version=3), line), AVP)
        answered = await rig.answer(CALL, b.sdp(version=3, formats="0 101"))
        assert b"crypto" not in offered
        assert keys_of(answered)[0].key == ours.key
        await both_ways(a, b, to_a, to_b, (srtp.Encryptor(line), srtp.Decryptor(ours)))

    drive(kind, scenario)


@ours
def test_what_cannot_be_brought_together_is_refused_with_the_reason(kind: str) -> None:
    async def scenario(rig: Rig) -> None:
        a, b = rig.endpoint(), rig.endpoint()
        with pytest.raises(MediaError, match="Offer without a key"):
            await rig.offer(ALONE, secure(a.sdp(), F8), AVP)
        with pytest.raises(MediaError, match="No crypto suite"):
            await rig.offer(
                ALONE, a.sdp(), MediaFlags(transport_protocol="RTP/SAVP", extra={"SDES": ["only-F8_128_HMAC_SHA1_80"]})
            )
        await rig.offer(ALONE, a.sdp(), SAVP)
        with pytest.raises(MediaError, match="another protocol"):
            await rig.answer(CALL, b.sdp())
        with pytest.raises(MediaError, match="Answer without a key"):
            await rig.answer(CALL, secure(b.sdp(), sdp_crypto.generate(1, "AEAD_AES_128_GCM")))
        refusal = sdp.parse(secure(b.sdp(), sdp_crypto.generate(1)))
        refusal.media[0].port = 0
        assert b"m=audio 0 RTP/AVP" in await rig.answer(CALL, refusal.to_bytes())

    drive(kind, scenario)


@ours
def test_opportunistic_srtp_is_recorded_as_what_it_is(kind: str) -> None:
    """RFC 8643: keys in a plain RTP/AVP description of both sides."""

    async def scenario(rig: Rig) -> None:
        line_a, line_b = sdp_crypto.generate(2), sdp_crypto.generate(2)
        a, b = rig.endpoint("127.0.0.1", 0xA), rig.endpoint("127.0.0.1", 0xB)
        offered = await rig.offer(ALONE, secure(a.sdp(), line_a).replace(b"RTP/SAVP", b"RTP/AVP"))
        answered = await rig.answer(CALL, secure(b.sdp(), line_b).replace(b"RTP/SAVP", b"RTP/AVP"))
        assert keys_of(offered) == [line_a]
        subscription = await rig.subscribe(CALL, ["caller", "callee"])
        srs = Srs(rig, subscription)
        await rig.accept(CALL, subscription.tag, srs.answer)
        await has(srs, 0, await talk(a, target(answered), 20, b, srtp.Encryptor(line_a)))
        await has(srs, 1, await talk(b, target(offered), 20, a, srtp.Encryptor(line_b)))

    drive(kind, scenario)


@ours
def test_keys_may_end_here_on_both_sides(kind: str) -> None:
    """``re-key``: neither party learns the key of the other; offers of either side leave it at that."""

    async def scenario(rig: Rig) -> None:
        flags = MediaFlags(flags=("re-key",))
        line_a, line_b = sdp_crypto.generate(5), sdp_crypto.generate(1, "AES_CM_128_HMAC_SHA1_32")
        a, b = rig.endpoint("127.0.0.1", 0xA), rig.endpoint("127.0.0.1", 0xB)
        offered = await rig.offer(ALONE, secure(a.sdp(), line_a), flags)
        to_b = next(key for key in keys_of(offered) if key.suite == line_b.suite)
        line_b = Crypto(to_b.tag, line_b.suite, line_b.key)
        answered = await rig.answer(CALL, secure(b.sdp(formats="0 101"), line_b))
        (to_a,) = keys_of(answered)
        assert (to_a.tag, to_a.suite) == (5, line_a.suite)
        assert len({line_a.key, line_b.key, to_a.key, to_b.key}) == 4
        says, hears = srtp.Encryptor(line_a), srtp.Decryptor(to_b)
        said = await talk(a, target(answered), 20, b, says)
        assert [hears.rtp(packet) for packet in b.received[-20:]] == said
        back = MediaSession(CALL.call_id, "callee", "caller")
        offered = await rig.offer(back, secure(b.sdp(version=2, formats="0 101"), line_b))
        assert to_a.key in {key.key for key in keys_of(offered)}
        assert line_b.key not in {key.key for key in keys_of(offered)}
        tag = next(key.tag for key in keys_of(offered) if key.suite == line_a.suite)
        answered = await rig.answer(back, secure(a.sdp(version=2), Crypto(tag, line_a.suite, line_a.key)))
        assert [key.key for key in keys_of(answered)] == [to_b.key]
        said = await talk(a, target(offered), 20, b, says)
        assert [hears.rtp(packet) for packet in b.received[-20:]] == said

    drive(kind, scenario)


@ours
def test_what_cannot_be_keyed_anew_passes_untouched(kind: str) -> None:
    async def scenario(rig: Rig) -> None:
        line = F8
        a, b = rig.endpoint("127.0.0.1", 0xA), rig.endpoint("127.0.0.1", 0xB)
        offered = await rig.offer(ALONE, secure(a.sdp(), line), MediaFlags(flags=("re-key",)))
        assert line.value().encode() in offered
        answered = await rig.answer(CALL, secure(b.sdp(), line))
        assert line.value().encode() in answered
        said = await talk(a, target(answered), 10, b)
        assert b.received == said

    drive(kind, scenario)
