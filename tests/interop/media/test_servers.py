"""One behaviour, three media servers: our relay, RTPEngine and RTPProxy."""

from __future__ import annotations

import asyncio
import socket

import pytest

from siprec import sdp
from siprec.media.engine import MediaError, MediaSession, MediaStatistics, flags_from
from tests.interop.media.rig import (
    KINDS,
    NG,
    OURS,
    Endpoint,
    Rig,
    drive,
    ports_of,
    recorder_answer,
    renumbered,
    target,
    until,
)

CALL = MediaSession("a-call@example.com", "caller", "callee")
all_of_them = pytest.mark.parametrize("kind", KINDS)


class Talk:
    """A call that is established: `to_relay_a` is where the caller sends."""

    to_relay_a: tuple[str, int]
    to_relay_b: tuple[str, int]

    def __init__(self, rig: Rig, a: Endpoint, b: Endpoint) -> None:
        self.rig, self.a, self.b = rig, a, b

    async def exchange(self, count: int = 50) -> tuple[list[bytes], list[bytes]]:
        """Both sides talk; everything arrives, in order, unchanged."""
        before_a, before_b = len(self.a.poll()), len(self.b.poll())
        sent_a: list[bytes] = []
        sent_b: list[bytes] = []
        for _ in range(count):
            sent_a += self.a.send(self.to_relay_a)
            sent_b += self.b.send(self.to_relay_b)
            await asyncio.sleep(0.001)
        await until(lambda: len(self.a.poll()) >= before_a + count, "all packets at the caller")
        await until(lambda: len(self.b.poll()) >= before_b + count, "all packets at the callee")
        assert self.a.received[before_a:] == sent_b
        assert self.b.received[before_b:] == sent_a
        return sent_a, sent_b


async def establish(rig: Rig, host: str = "127.0.0.1") -> Talk:
    talk = Talk(rig, rig.endpoint(host, 0xA), rig.endpoint(host, 0xB))
    offered = await rig.offer(MediaSession(CALL.call_id, CALL.from_tag), talk.a.sdp())
    answered = await rig.answer(CALL, talk.b.sdp(formats="0 101"))
    talk.to_relay_b, talk.to_relay_a = target(offered), target(answered)
    for body, endpoint in ((offered, talk.a), (answered, talk.b)):
        assert b"a=x-unknown:kept  as it is" in body
        assert endpoint.port not in ports_of(body)
    return talk


@all_of_them
def test_media_flow_both_ways_and_are_forked_without_loss(kind: str) -> None:
    async def scenario(rig: Rig) -> None:
        talk = await establish(rig)
        await talk.exchange(10)
        subscription = await rig.subscribe(CALL, ["caller", "callee"])
        assert [(s.from_tag, s.source_index, s.kind) for s in subscription.streams] == [
            ("caller", 0, "audio"),
            ("callee", 0, "audio"),
        ]
        for stream in subscription.streams:
            assert stream.section.formats == ["0", "101"]
            assert stream.section.direction == "sendonly"
            assert str(stream.section.rtpmaps[101]) == "telephone-event/8000"
        srs = [rig.endpoint(), rig.endpoint()]
        await rig.accept(CALL, subscription.tag, recorder_answer(subscription, srs))
        sent_a, sent_b = await talk.exchange(100)
        for recorder, sent, stream in zip(srs, (sent_a, sent_b), subscription.streams, strict=True):
            await until(lambda r=recorder: len(r.poll()) >= 100, "100 copies at the recorder")  # type: ignore[misc]
            assert recorder.received[-100:] == sent
            if kind in NG:  # symmetric (MEDIA-02): from the port that was offered; RTPProxy tells nobody
                assert {source[1] for source in recorder.sources} == {stream.section.port}
        statistics = await rig.query(CALL)
        assert {s.tag: s.packets for s in statistics.streams} == {"caller": 110, "callee": 110}
        assert statistics.packets == 220
        assert statistics.errors == 0
        if kind in NG:  # RTPProxy counts packets only
            assert statistics.octets == 220 * 172
            assert {s.tag: s.endpoint for s in statistics.streams} == {
                "caller": ("127.0.0.1", talk.a.port),
                "callee": ("127.0.0.1", talk.b.port),
            }
        assert {f.tag for f in statistics.forks} == {subscription.tag}
        await rig.delete(CALL)

    drive(kind, scenario)


@all_of_them
def test_hold_and_resume_by_reinvite_keep_the_ports(kind: str) -> None:
    async def scenario(rig: Rig) -> None:
        talk = await establish(rig)
        await talk.exchange(5)
        held = await rig.offer(CALL, talk.a.sdp(version=2, direction="sendonly"))
        assert sdp.parse(held).media[0].direction == "sendonly"
        assert target(held) == talk.to_relay_b
        back = await rig.answer(CALL, talk.b.sdp(version=2, direction="recvonly", formats="0 101"))
        assert target(back) == talk.to_relay_a
        moh = talk.a.send(talk.to_relay_a, 5)
        before = len(talk.b.poll())
        await until(lambda: talk.b.poll()[-5:] == moh, f"music on hold after {before}")
        await rig.offer(CALL, talk.a.sdp(version=3))
        await rig.answer(CALL, talk.b.sdp(version=3, formats="0 101"))
        await talk.exchange(20)

    drive(kind, scenario)


@all_of_them
def test_a_party_that_moves_by_reinvite_is_followed(kind: str) -> None:
    async def scenario(rig: Rig) -> None:
        talk = await establish(rig)
        subscription = await rig.subscribe(CALL, ["caller", "callee"])
        srs = [rig.endpoint(), rig.endpoint()]
        await rig.accept(CALL, subscription.tag, recorder_answer(subscription, srs))
        await talk.exchange(10)
        talk.b = rig.endpoint("127.0.0.1", 0xBB)
        back = MediaSession(CALL.call_id, "callee", "caller")  # the callee re-INVITEs
        offered = await rig.offer(back, talk.b.sdp(version=2, formats="0 101"))
        answered = await rig.answer(back, talk.a.sdp(version=2, formats="0 101"))
        if kind in OURS:  # RTPEngine takes new ports for an address that changed
            assert target(offered) == talk.to_relay_a
            assert target(answered) == talk.to_relay_b
        talk.to_relay_a, talk.to_relay_b = target(offered), target(answered)
        _, sent_b = await talk.exchange(30)
        await until(lambda: len(srs[1].poll()) >= 40, "copies after the move")
        assert srs[1].received[-30:] == sent_b

    drive(kind, scenario)


@all_of_them
def test_pause_stops_copies_at_once_also_through_a_new_subscription_and_resume_goes_on(kind: str) -> None:
    async def scenario(rig: Rig) -> None:
        talk = await establish(rig)
        subscription = await rig.subscribe(CALL, ["caller", "callee"])
        srs = [rig.endpoint(), rig.endpoint()]
        await rig.accept(CALL, subscription.tag, recorder_answer(subscription, srs))
        await talk.exchange(20)
        await until(lambda: all(len(each.poll()) == 20 for each in srs), "copies")
        await rig.pause(CALL, subscription.tag)
        await talk.exchange(20)
        await rig.offer(CALL, talk.a.sdp(version=2))
        await rig.answer(CALL, talk.b.sdp(version=2, formats="0 101"))
        again = await rig.subscribe(CALL, ["caller", "callee"], subscription.tag)
        assert again.tag == subscription.tag
        assert [s.section.port for s in again.streams] == [s.section.port for s in subscription.streams]
        await talk.exchange(20)
        assert [len(each.poll()) for each in srs] == [20, 20]
        await rig.resume(CALL, subscription.tag)
        sent_a, sent_b = await talk.exchange(20)
        await until(lambda: all(len(each.poll()) >= 40 for each in srs), "copies after the pause")
        gap = 40 if kind in OURS else 0
        assert [each.received[20:] for each in srs] == [renumbered(sent_a, gap), renumbered(sent_b, gap)]

    drive(kind, scenario)


@all_of_them
def test_an_inactive_or_refused_stream_gets_nothing_and_the_other_goes_on(kind: str) -> None:
    async def scenario(rig: Rig) -> None:
        talk = await establish(rig)
        subscription = await rig.subscribe(CALL, ["caller", "callee"])
        srs = [rig.endpoint(), rig.endpoint()]
        await rig.accept(CALL, subscription.tag, recorder_answer(subscription, srs))
        await talk.exchange(10)
        await until(lambda: all(len(each.poll()) == 10 for each in srs), "copies")
        await rig.accept(CALL, subscription.tag, recorder_answer(subscription, [srs[0], None]))
        await talk.exchange(10)
        await until(lambda: len(srs[0].poll()) == 20, "copies of the caller")
        body = sdp.parse(recorder_answer(subscription, srs))
        body.media[0].direction = "inactive"
        await rig.accept(CALL, subscription.tag, body.to_bytes())
        await talk.exchange(10)
        await until(lambda: len(srs[1].poll()) == 20, "copies of the callee")
        assert [len(each.poll()) for each in srs] == [20, 20]

    drive(kind, scenario)


@pytest.mark.parametrize("kind", NG)
def test_several_recorders_are_independent(kind: str) -> None:
    async def scenario(rig: Rig) -> None:
        talk = await establish(rig)
        first = await rig.subscribe(CALL, ["caller", "callee"])
        second = await rig.subscribe(CALL, ["callee"], "my-own-tag")
        assert second.tag == "my-own-tag"
        assert first.tag != second.tag
        srs = [rig.endpoint(), rig.endpoint(), rig.endpoint()]
        await rig.accept(CALL, first.tag, recorder_answer(first, srs[:2]))
        await rig.accept(CALL, second.tag, recorder_answer(second, srs[2:]))
        await talk.exchange(10)
        await until(lambda: all(len(each.poll()) == 10 for each in srs), "copies at three ports")
        await rig.unsubscribe(CALL, first.tag)
        sent = (await talk.exchange(10))[1]
        await until(lambda: len(srs[2].poll()) == 20, "copies at the second recorder")
        assert [len(each.poll()) for each in srs] == [10, 10, 20]
        assert srs[2].received[10:] == sent

    drive(kind, scenario)


@all_of_them
def test_a_recorder_that_moves_is_followed(kind: str) -> None:
    async def scenario(rig: Rig) -> None:
        talk = await establish(rig)
        subscription = await rig.subscribe(CALL, ["caller", "callee"])
        old = [rig.endpoint(), rig.endpoint()]
        await rig.accept(CALL, subscription.tag, recorder_answer(subscription, old))
        await talk.exchange(10)
        await until(lambda: all(len(each.poll()) == 10 for each in old), "copies")
        new = [rig.endpoint(), rig.endpoint()]
        await rig.accept(CALL, subscription.tag, recorder_answer(subscription, new))
        sent_a, sent_b = await talk.exchange(10)
        await until(lambda: all(len(each.poll()) == 10 for each in new), "copies at the new address")
        assert [each.received for each in new] == [sent_a, sent_b]
        assert [len(each.poll()) for each in old] == [10, 10]

    drive(kind, scenario)


@all_of_them
def test_a_call_leaves_its_counters_behind(kind: str) -> None:
    async def scenario(rig: Rig) -> None:
        talk = await establish(rig)
        subscription = await rig.subscribe(CALL, ["caller", "callee"])
        srs = [rig.endpoint(), rig.endpoint()]
        await rig.accept(CALL, subscription.tag, recorder_answer(subscription, srs))
        await talk.exchange(30)
        before = await rig.query(CALL)
        left = await rig.delete(MediaSession(CALL.call_id, CALL.from_tag))
        assert left is not None
        assert {(each.tag, each.index, each.packets) for each in left.streams} == {
            ("caller", 0, 30),
            ("callee", 0, 30),
        }
        assert set(map(repr, left.streams)) == set(map(repr, before.streams))
        copies = [each for each in before.forks if each.packets is not None]
        assert len(copies) == (2 if kind in OURS else 0)  # others do not count them
        assert {(each.tag, each.from_tag, each.packets) for each in copies} <= {
            (each.tag, each.from_tag, each.packets) for each in left.forks
        }

    drive(kind, scenario)


@all_of_them
def test_delete_frees_the_ports_and_the_call(kind: str) -> None:
    async def scenario(rig: Rig) -> None:
        talk = await establish(rig)
        subscription = await rig.subscribe(CALL, ["caller", "callee"])
        srs = [rig.endpoint(), rig.endpoint()]
        await rig.accept(CALL, subscription.tag, recorder_answer(subscription, srs))
        ports = [talk.to_relay_a[1], talk.to_relay_b[1], *(s.section.port for s in subscription.streams)]
        if kind not in NG:
            ports.clear()  # RTPProxy 3 forgets the call at once, and closes its sockets in its own time
        await rig.delete(CALL)

        def free() -> bool:
            try:
                for port in ports:
                    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                        sock.bind(("127.0.0.1", port))
            except OSError:
                return False
            return True

        await until(free, "ports are free")
        with pytest.raises(MediaError):
            await rig.query(CALL)
        assert await rig.delete(CALL) is None  # not known any more: no error

    drive(kind, scenario)


@all_of_them
def test_what_makes_no_sense_is_an_error_reply_and_the_server_lives(kind: str) -> None:
    async def scenario(rig: Rig) -> None:
        stranger = MediaSession("no-such-call", "x", "y")
        a = rig.endpoint()
        nonsense = (
            lambda: rig.raw("offer", call_id="bad", sdp=a.sdp()),
            lambda: rig.raw("offer", from_tag="bad", sdp=a.sdp()),
            lambda: rig.raw("no such command"),
        )
        for attempt in (
            lambda: rig.answer(stranger, a.sdp()),
            lambda: rig.subscribe(stranger, ["x"]),
            lambda: rig.accept(stranger, "tag", a.sdp()),
            lambda: rig.unsubscribe(stranger, "tag"),
            lambda: rig.query(stranger),
            lambda: rig.offer(MediaSession("bad", "x"), b"garbage"),
            lambda: rig.offer(MediaSession("bad", "x"), b""),
            *(nonsense if kind in NG else ()),
        ):
            with pytest.raises(MediaError) as caught:
                await attempt()
            assert not caught.value.timeout
        await establish(rig)
        with pytest.raises(MediaError):
            await rig.subscribe(CALL, ["nobody"])
        with pytest.raises(MediaError):
            await rig.accept(CALL, "no-such-tag", a.sdp())
        await rig.ping()

    drive(kind, scenario)


@all_of_them
def test_a_refused_line_stays_refused_and_a_second_one_works(kind: str) -> None:
    async def scenario(rig: Rig) -> None:
        a, b = rig.endpoint(), rig.endpoint()
        more = b"m=video 5000 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
        offered = await rig.offer(MediaSession(CALL.call_id, CALL.from_tag), a.sdp() + more)
        assert len([port for port in ports_of(offered) if port]) == 2
        answered = await rig.answer(CALL, b.sdp(formats="0 101") + b"m=video 0 RTP/AVP 96\r\n")
        assert [bool(port) for port in ports_of(answered)] == [True, False]
        talk = Talk(rig, a, b)
        talk.to_relay_a, talk.to_relay_b = target(answered), target(offered)
        await talk.exchange(5)

    drive(kind, scenario)


@pytest.mark.parametrize(
    ("kind", "transport"),
    [*((kind, "tcp") for kind in KINDS), ("rtpproxy", "unix"), ("rtpproxy", "cunix")],
)
def test_other_control_sockets_do_the_same(kind: str, transport: str) -> None:
    async def scenario(rig: Rig) -> None:
        talk = await establish(rig)
        await talk.exchange(5)
        await asyncio.gather(*(rig.ping() for _ in range(40)))
        statistics = await rig.query(CALL)
        assert isinstance(statistics, MediaStatistics)
        assert statistics.packets == 10

    drive(kind, scenario, transport=transport)


def test_rtpengine_transcodes_copies_for_an_srs_that_does_not_take_the_codec_of_the_call() -> None:
    async def scenario(rig: Rig) -> None:
        assert rig.engine.transcodes
        a, b = rig.endpoint(), rig.endpoint()
        offered = await rig.offer(MediaSession(CALL.call_id, CALL.from_tag), a.sdp())
        answered = await rig.answer(CALL, b.sdp())
        subscription = await rig.subscribe(CALL, ["caller", "callee"])
        srs = [rig.endpoint(), rig.endpoint()]
        answer = sdp.parse(recorder_answer(subscription, srs))
        for line in answer.media:
            line.formats = [text for text in line.formats if text != "0"]  # the parties speak PCMU
            line.lines = [text for text in line.lines if not text.startswith("a=rtpmap:0 ")]
        assert all("8" in line.formats for line in answer.media)
        await rig.accept(CALL, subscription.tag, answer.to_bytes())
        for _ in range(20):
            a.send(target(answered))
            b.send(target(offered))
            await asyncio.sleep(0.02)
        await until(lambda: all(len(each.poll()) >= 15 for each in srs), "copies")
        assert {packet[1] & 0x7F for each in srs for packet in each.received} == {8}

    drive("rtpengine", scenario)


def test_rtpengine_transcodes_between_parties_and_for_nobody_else() -> None:
    async def scenario(rig: Rig) -> None:
        asked = flags_from({"codec": {"mask": ["PCMU"], "transcode": ["PCMA"]}, "ICE": "remove", "replace": ["origin"]})
        a, b = rig.endpoint(), rig.endpoint()
        offered = await rig.offer(MediaSession(CALL.call_id, CALL.from_tag), a.sdp(formats="0 101"), asked)
        assert "0" not in sdp.parse(offered).media[0].formats
        answered = await rig.answer(CALL, b.sdp(formats="8 101"))
        assert sdp.parse(answered).media[0].formats[0] == "0"
        subscription = await rig.subscribe(CALL, ["caller", "callee"])
        srs = [rig.endpoint(), rig.endpoint()]
        await rig.accept(CALL, subscription.tag, recorder_answer(subscription, srs))
        for _ in range(20):
            a.send(target(answered), payload_type=0)
            b.send(target(offered), payload_type=8)
            await asyncio.sleep(0.02)
        await until(lambda: len(a.poll()) >= 15 and len(b.poll()) >= 15, "media both ways")
        assert {packet[1] & 0x7F for packet in a.received} == {0}
        assert {packet[1] & 0x7F for packet in b.received} == {8}
        await until(lambda: all(len(each.poll()) >= 15 for each in srs), "copies")

    drive("rtpengine", scenario)
