"""Our relay between networks and protocols: IPv4 and IPv6, DSCP, multiplexed RTCP, video."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

import pytest

from siprec import sdp
from siprec.media.engine import MediaFlags, MediaSession
from siprec.rtp import rtcp
from tests.interop.media.localrelay import CALL, each, local
from tests.interop.media.rig import Endpoint, recorder_answer, target, until

OFFER = MediaSession(CALL.call_id, CALL.from_tag)
VOICE = 46


def marks(endpoint: Endpoint, sock: socket.socket) -> set[int]:
    """DSCPs of what waits on `sock`."""
    found = set()
    with contextlib.suppress(BlockingIOError):
        while True:
            _, controls, _, _ = sock.recvmsg(2048, 256)
            found |= {int.from_bytes(data[:1]) >> 2 for _, _, data in controls}
    return found


def ask_for_marks(endpoint: Endpoint) -> None:
    for sock in (endpoint.rtp, endpoint.rtcp):
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)


@each
def test_an_ipv6_phone_talks_to_an_ipv4_phone_and_both_are_recorded_over_ipv4_and_everything_is_marked(
    kind: str,
) -> None:
    async def scenario() -> None:
        async with local(kind, dscp=VOICE) as it:
            it.a, it.b = it.rig.endpoint("::1", 0xA), it.rig.endpoint("127.0.0.1", 0xB)
            if getattr(it.a, "port", 0) == 0:
                pytest.skip("no IPv6 loopback")
            flags = MediaFlags(replace=("origin",), extra={"address family": "IP4"})
            offered = await it.rig.offer(OFFER, it.a.sdp(), flags)
            answered = await it.rig.answer(CALL, it.b.sdp())
            it.to_b, it.to_a = target(offered), target(answered)
            assert (it.to_b[0], it.to_a[0]) == ("127.0.0.1", "::1")
            subscription = await it.rig.subscribe(CALL, ["caller", "callee"])
            six, four = (stream.section.connection for stream in subscription.streams)
            assert (six, four) == (sdp.Connection("IP6", "::1"), sdp.Connection("IP4", "127.0.0.1"))
            await it.rig.unsubscribe(CALL, subscription.tag)
            result = it.relay.request(
                {
                    "command": b"subscribe request",
                    "call-id": CALL.call_id.encode(),
                    "flags": [b"all"],
                    "address family": b"IP4",
                    "to-tag": b"four",
                }
            )
            body = result["sdp"]
            assert isinstance(body, bytes)
            assert b"IP6" not in body
            srs = [it.rig.endpoint(), it.rig.endpoint()]
            sections = [
                sdp.answer_media(media, port=end.port) for media, end in zip(sdp.parse(body).media, srs, strict=True)
            ]
            answer = sdp.build_session(sdp.Origin(address="127.0.0.1"), sections).to_bytes()
            await it.rig.accept(CALL, "four", answer)
            sent = await it.talk(10)
            back = it.b.send(it.to_b, 10)
            await until(lambda: len(it.a.poll()) == 10, "the other way")
            assert it.a.received == back
            await until(lambda: len(srs[0].poll()) == len(srs[1].poll()) == 10, "copies")
            assert (srs[0].received, srs[1].received) == (sent, back)
            ends = [it.a, it.b, *srs]
            for end in ends:
                ask_for_marks(end)
            it.a.send(it.to_a)
            it.b.send(it.to_b)
            it.a.rtcp.sendto(rtcp.empty_report(0xA, b"a"), (it.to_a[0], it.to_a[1] + 1))
            seen: dict[int, set[int]] = {number: set() for number in range(5)}

            def all_marked() -> bool:
                for number, end in enumerate(ends):
                    seen[number] |= marks(end, end.rtp)
                seen[4] |= marks(it.b, it.b.rtcp)
                return all(seen.values())

            await until(all_marked, "a packet everywhere")
            assert all(found == {VOICE} for found in seen.values())

    asyncio.run(scenario())


@each
@pytest.mark.parametrize("accepted", [True, False])
def test_rtcp_shares_the_port_with_a_recorder_that_accepts_that(kind: str, accepted: bool) -> None:  # SDP-15
    async def scenario() -> None:
        async with local(kind, rtcp_mux=True) as it:
            await it.establish()
            subscription = await it.rig.subscribe(CALL, ["caller", "callee"])
            assert all(stream.section.rtcp_mux for stream in subscription.streams)
            srs = [it.rig.endpoint(), it.rig.endpoint()]
            answer = recorder_answer(subscription, srs)
            if not accepted:
                answer = answer.replace(b"a=rtcp-mux\r\n", b"")
            assert (b"rtcp-mux" in answer) == accepted
            await it.rig.accept(CALL, subscription.tag, answer)
            sent = await it.talk(5)
            it.later(9)

            def reports() -> list[bytes]:
                srs[0].poll()
                muxed = [packet for packet in srs[0].received if 192 <= packet[1] <= 223]
                return muxed if accepted else srs[0].reports

            await until(lambda: bool(reports()), "a sender report")
            assert bool(srs[0].reports) != accepted
            assert reports()[0][:2] == bytes((0x80, 200))
            assert [packet for packet in srs[0].received if packet not in reports()] == sent
            block = struct.pack("!IIIIII", 0xA, 0, 5, 42, 0, 0)
            report = bytes((0x81, 201, 0, 7)) + b"\0\0\0\7" + block
            offered = sdp.build_session(sdp.Origin(), [subscription.streams[0].section])
            to = target(offered.to_bytes())
            (srs[0].rtp if accepted else srs[0].rtcp).sendto(report, (to[0], to[1] + (not accepted)))
            fork = it.relay.calls[CALL.call_id].subscriptions[subscription.tag].forks[0]
            await until(lambda: fork.rtcp_received == 1, "the report is read")
            assert (fork.jitter_reported, fork.unexpected) == (42, 0)
            await it.rig.unsubscribe(CALL, subscription.tag)
            await until(lambda: reports()[-1][-8:-6] == bytes((0x81, 203)), "BYE")

    asyncio.run(scenario())


@each
def test_multiplexed_rtcp_of_the_parties_passes_and_is_not_recorded(kind: str) -> None:
    async def scenario() -> None:
        async with local(kind) as it:
            it.a, it.b = it.rig.endpoint(ssrc=0xA), it.rig.endpoint(ssrc=0xB)
            mux = b"a=rtcp-mux\r\na=candidate:1 1 UDP 1 10.0.0.1 5 typ host\r\n"
            offered = await it.rig.offer(OFFER, it.a.sdp() + mux)
            answered = await it.rig.answer(CALL, it.b.sdp() + mux)
            assert all(b"a=rtcp-mux" in body and b"candidate" not in body for body in (offered, answered))
            it.to_b, it.to_a = target(offered), target(answered)
            _, srs = await it.subscribed()
            sent = await it.talk(3)
            report = rtcp.empty_report(0xA, b"caller")
            it.a.rtp.sendto(report, it.to_a)  # goes nowhere yet: nothing came from the callee
            it.b.send(it.to_b, 1)
            await until(lambda: len(it.a.poll()) == 1, "the callee is heard")
            it.a.rtp.sendto(report, it.to_a)
            it.rig.endpoint().rtp.sendto(report, it.to_a)  # from a stranger
            sent += await it.talk(3)
            await until(lambda: len(it.b.poll()) == 7, "the report passes")
            assert it.b.received == [*sent[:3], report, *sent[3:]]
            await until(lambda: len(srs[0].poll()) == 6, "copies")
            assert srs[0].received == sent
            caller = next(s for s in (await it.rig.query(CALL)).streams if s.tag == "caller")
            assert caller.dropped == {"stranger": 1}

    asyncio.run(scenario())


@each
def test_video_is_relayed_and_recorded_beside_audio_and_a_refused_line_gets_nothing(kind: str) -> None:
    async def scenario() -> None:
        async with local(kind) as it:
            it.a, it.b = it.rig.endpoint(ssrc=0xA), it.rig.endpoint(ssrc=0xB)
            eyes = [it.rig.endpoint(ssrc=0x1A), it.rig.endpoint(ssrc=0x1B)]

            def video(port: int) -> bytes:
                return f"m=video {port} RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=rtcp-fb:96 nack pli\r\n".encode()

            offered = await it.rig.offer(OFFER, it.a.sdp() + video(eyes[0].port))
            answered = await it.rig.answer(CALL, it.b.sdp() + video(eyes[1].port))
            it.to_b, it.to_a = target(offered), target(answered)
            subscription = await it.rig.subscribe(CALL, ["caller", "callee"])
            assert [stream.kind for stream in subscription.streams] == ["audio", "video"] * 2
            srs = [it.rig.endpoint() for _ in range(3)]
            await it.rig.accept(CALL, subscription.tag, recorder_answer(subscription, [*srs[:2], srs[2], None]))
            voice = await it.talk(5)
            picture = eyes[0].send(target(answered, 1), 7, payload_type=96)
            back = eyes[1].send(target(offered, 1), 7, payload_type=96)
            await until(lambda: len(eyes[1].poll()) == len(eyes[0].poll()) == 7, "video at both")
            await until(lambda: len(srs[0].poll()) == 5 and len(srs[1].poll()) == 7, "copies")
            assert (eyes[1].received, eyes[0].received) == (picture, back)
            assert (srs[0].received, srs[1].received) == (voice, picture)
            forks = (await it.rig.query(CALL)).forks
            assert [fork.packets for fork in forks] == [5, 7, 0, 0]
            before = it.relay.totals
            assert (before.received, before.relayed, before.forked) == (19, 19, 12)
            await it.rig.unsubscribe(CALL, subscription.tag)
            assert it.relay.totals == before  # counters never go back
            await it.rig.delete(CALL)
            assert it.relay.totals == before

    asyncio.run(scenario())
