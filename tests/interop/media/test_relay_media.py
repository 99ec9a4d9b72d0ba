"""What our relay does besides: pre-roll, RTCP of its own towards the recorder, counters, and an end without orphans."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import subprocess
import sys
import time

import pytest

from siprec import sdp
from siprec.media.engine import MediaFlags, MediaSession
from siprec.media.rtpengine import RtpEngine
from siprec.relay.child import RelayFailed, start_relay
from siprec.relay.process import RelayOptions
from siprec.relay.server import Timeouts
from siprec.rtp import rtcp
from tests.interop.media.localrelay import CALL, each, local
from tests.interop.media.rig import Endpoint, recorder_answer, relay_options, renumbered, running, until


@each
def test_nothing_said_before_or_during_a_pause_is_sent_after_it(kind: str) -> None:
    async def scenario() -> None:
        async with local(kind) as it:
            await it.establish()
            subscription = await it.rig.subscribe(CALL, ["caller", "callee"])
            await it.talk(10)
            await it.rig.raw("block media", call_id=CALL.call_id, to_tag=subscription.tag)
            await it.talk(10)
            srs = [it.rig.endpoint(), it.rig.endpoint()]
            await it.rig.accept(CALL, subscription.tag, recorder_answer(subscription, srs))
            await it.talk(10)
            assert srs[0].poll() == []
            assert (await it.rig.query(CALL)).forks[0].paused
            await it.rig.raw("unblock media", call_id=CALL.call_id, to_tag=subscription.tag)
            after = await it.talk(10)
            await until(lambda: len(srs[0].poll()) >= 10, "copies after the pause")
            assert srs[0].received == after

    asyncio.run(scenario())


@each
def test_a_pause_leaves_no_gap_in_the_numbers_and_is_counted_as_withheld(kind: str) -> None:
    async def scenario() -> None:
        async with local(kind) as it:
            await it.establish()
            subscription, srs = await it.subscribed()
            before = await it.talk(10)
            await it.rig.pause(CALL, subscription.tag)
            await it.talk(7)
            await it.rig.resume(CALL, subscription.tag)
            between = await it.talk(10)
            await it.rig.accept(CALL, subscription.tag, recorder_answer(subscription, [None, srs[1]]))
            await it.talk(5)
            await it.rig.accept(CALL, subscription.tag, recorder_answer(subscription, srs))
            after = await it.talk(10)
            await until(lambda: len(srs[0].poll()) >= 30, "copies")
            assert srs[0].received == [*before, *renumbered(between, 7), *renumbered(after, 12)]
            counted = await it.rig.query(CALL)
            fork = counted.forks[0]
            assert (fork.packets, fork.withheld, fork.refused, fork.before, fork.waiting) == (30, 7, 5, 0, 0)
            caller = next(s for s in counted.streams if s.tag == "caller")
            assert caller.packets == 42  # each packet is accounted for

    asyncio.run(scenario())


@each
def test_what_came_before_the_copies_began_is_told_and_whether_it_was_wanted(kind: str) -> None:
    async def scenario() -> None:
        async with local(kind) as it:
            await it.establish(flags=("pre-roll",))
            await it.talk(4)
            it.later(8)
            await it.talk(6)
            early = await it.rig.subscribe(CALL, ["caller"], flags=MediaFlags(preroll=2.0))
            whole = await it.rig.subscribe(CALL, ["caller"], flags=MediaFlags(preroll=9.5))
            it.later(8)
            await it.talk(1)  # nothing is kept any longer for who comes now
            late = await it.rig.subscribe(CALL, ["caller"], flags=MediaFlags(preroll=17.0))
            forks = {fork.tag: fork for fork in (await it.rig.query(CALL)).forks}
            assert (forks[early.tag].before, dict(forks[early.tag].dropped)) == (4, {})
            assert (forks[whole.tag].before, dict(forks[whole.tag].dropped)) == (0, {})
            assert forks[late.tag].before == 11
            assert forks[late.tag].dropped == {"preroll": 11}

    asyncio.run(scenario())


@each
def test_only_a_report_on_what_was_sent_says_that_it_arrived(kind: str) -> None:
    async def scenario() -> None:
        async with local(kind) as it:
            await it.establish()
            subscription, srs = await it.subscribed()
            await it.talk(10)
            await until(lambda: len(srs[0].poll()) == 10, "copies")
            there = ("127.0.0.1", subscription.streams[0].section.port + 1)
            fork = it.relay.calls[CALL.call_id].subscriptions[subscription.tag].forks[0]

            async def report(*blocks: tuple[int, int, int]) -> None:
                """Blocks: SSRC, lost, highest."""
                octets = b"".join(
                    s.to_bytes(4) + lost.to_bytes(4) + high.to_bytes(4) + bytes(12) for s, lost, high in blocks
                )
                head = bytes((0x80 | len(blocks), 201)) + (1 + len(octets) // 4).to_bytes(2) + (7).to_bytes(4)
                known = fork.rtcp_received
                srs[0].rtcp.sendto(head + octets, there)
                await until(lambda: fork.rtcp_received == known + 1, "the report is read")

            await report()
            await report((0x999, 3, 5))
            heard = (await it.rig.query(CALL)).forks[0]
            assert (heard.rtcp_received, heard.reports, heard.lost_reported) == (2, 0, None)
            await report((0xA, 0, 0x10000 + it.a.seq - 4))
            it.later(3)
            await report((0xA, 1, 0x10000 + it.a.seq - 2))
            it.later(2)
            heard = (await it.rig.query(CALL)).forks[0]
            assert (heard.reports, heard.lost_reported, heard.behind) == (2, 1, 2)
            assert 2.0 <= heard.report_age < 2.9
            assert 3.0 <= heard.report_interval < 3.9

    asyncio.run(scenario())


@each
def test_the_recorder_gets_reports_of_a_real_endpoint_also_in_a_pause_and_a_goodbye(kind: str) -> None:
    # MEDIA-01, -12, -13
    async def scenario() -> None:
        async with local(kind) as it:
            await it.establish()
            subscription, srs = await it.subscribed()
            await it.talk(25)
            await until(lambda: len(srs[0].poll()) == 25, "copies")
            it.later(8)
            await until(lambda: bool(srs[0].poll() and srs[0].reports), "a sender report")
            report = srs[0].reports[-1]
            first, report_kind, _, ssrc, seconds, _, stamp, packets, octets = struct.unpack_from("!BBHIIIIII", report)
            assert (first, report_kind, ssrc, packets, octets) == (0x80, 200, 0xA, 25, 25 * 160)
            assert abs(seconds - 2_208_988_800 - it.clock.wall()) < 5
            # eight seconds of the media clock have gone by since the last packet
            assert 8 * 8000 <= stamp - it.a.timestamp < 13 * 8000
            await until(lambda: bool(srs[1].poll() is not None and srs[1].reports), "a report without media")
            assert srs[1].reports[-1][:2] == bytes((0x80, 201))
            await it.rig.pause(CALL, subscription.tag)
            count = len(srs[0].reports)
            it.later(8)
            await until(lambda: bool(srs[0].poll()) and len(srs[0].reports) > count, "a report during the pause")
            srs[0].rtcp.sendto(
                bytes((0x81, 201, 0, 7))
                + bytes(4)
                + (0xA).to_bytes(4)
                + bytes((0, 0, 0, 2))
                + bytes(4)
                + (17).to_bytes(4)
                + bytes(8),
                ("127.0.0.1", subscription.streams[0].section.port + 1),
            )
            srs[1].rtcp.sendto(b"nonsense", ("127.0.0.1", subscription.streams[1].section.port + 1))
            fork = it.relay.calls[CALL.call_id].subscriptions[subscription.tag].forks[0]
            await until(lambda: fork.rtcp_received == 1, "the report is read")
            heard = (await it.rig.query(CALL)).forks[0]
            assert (heard.lost_reported, heard.jitter_reported, heard.rtcp_received) == (2, 17, 1)
            await it.rig.unsubscribe(CALL, subscription.tag)
            await until(lambda: bool(srs[0].poll()) and srs[0].reports[-1][-8:-6] == bytes((0x81, 203)), "BYE")
            assert all(rtcp.report_blocks(packet) is not None for packet in srs[0].reports)

    asyncio.run(scenario())


@each
def test_strangers_and_rubbish_reach_nobody_and_are_counted(kind: str) -> None:
    async def scenario() -> None:
        async with local(kind) as it:
            await it.establish()
            _, srs = await it.subscribed()
            sent = await it.talk(5)
            stranger = it.rig.endpoint("127.0.0.9", ssrc=0x666)
            stranger.send(it.to_a, 7)
            for rubbish in (
                b"",
                b"x",
                b"\x80" * 11,
                b"\0\1" + bytes(2) + b"\x21\x12\xa4\x42" + bytes(12),
                b"\x16" * 60,
            ):
                stranger.rtp.sendto(rubbish, it.to_a)
            stun = b"\0\1" + bytes(2) + b"\x21\x12\xa4\x42" + bytes(12)
            it.a.rtp.sendto(stun, it.to_a)  # not for us: who says this has a reason to
            flow = next(s.rtp for p, _, s in it.relay.calls[CALL.call_id].streams() if p.tag == "caller")
            await until(lambda: sum(flow.dropped.values()) == 12, "all of it is counted")
            await until(lambda: len(it.b.poll()) == 6, "STUN passes")
            later = await it.talk(5)
            await until(lambda: len(srs[0].poll()) == 10, "copies")
            assert it.b.received == [*sent, stun, *later]
            assert srs[0].received == [*sent, *later]
            caller = next(s for s in (await it.rig.query(CALL)).streams if s.tag == "caller")
            assert caller.dropped == {"stranger": 12}
            assert (caller.packets, caller.relayed, caller.forked, caller.lost) == (10, 10, 10, 0)

    asyncio.run(scenario())


@each
def test_counters_tell_loss_and_a_recorder_that_is_gone(kind: str) -> None:
    async def scenario() -> None:
        async with local(kind) as it:
            await it.establish()
            subscription, srs = await it.subscribed()
            await it.talk(5)
            it.a.seq += 3
            await it.talk(5)
            await until(lambda: len(srs[0].poll()) == 10, "copies")
            srs[0].close()
            await it.talk(1)
            await it.talk(5)
            statistics = await it.rig.query(CALL)
            caller = next(s for s in statistics.streams if s.tag == "caller")
            assert (caller.packets, caller.lost) == (16, 3)
            fork = next(f for f in statistics.forks if f.from_tag == "caller")
            assert fork.dropped.get("refused", 0) >= 1
            assert fork.packets == 16 - fork.dropped["refused"]
            assert fork.tag == subscription.tag

    asyncio.run(scenario())


@each
def test_rtcp_of_the_call_passes_and_stays_in_the_call(kind: str) -> None:
    async def scenario() -> None:
        async with local(kind) as it:
            await it.establish()
            _, srs = await it.subscribed()
            await it.talk(3)
            report = rtcp.sender_report(0xA, time.time(), 1, 3, 480, b"caller")
            it.a.rtcp.sendto(report, (it.to_a[0], it.to_a[1] + 1))
            flow = next(s.rtcp for p, _, s in it.relay.calls[CALL.call_id].streams() if p.tag == "caller")
            await until(lambda: flow.rtcp_packets == 1, "the report has come")
            it.b.poll()
            assert not it.b.reports  # nothing came from the address that the callee names
            it.b.send(it.to_b, 1)
            await until(lambda: len(it.a.poll()) == 1, "the callee is heard")
            it.a.rtcp.sendto(report, (it.to_a[0], it.to_a[1] + 1))
            await until(lambda: bool(it.b.poll() is not None and it.b.reports), "the report at the callee")
            assert it.b.reports == [report]
            it.a.rtp.sendto(report, it.to_a)  # multiplexed (RFC 5761)
            await until(lambda: report in it.b.poll(), "the report on the RTP port")
            assert report not in srs[0].poll()
            assert (await it.rig.query(CALL)).packets == 4

    asyncio.run(scenario())


@each
def test_a_call_over_ipv6_is_relayed_and_forked(kind: str) -> None:
    async def scenario() -> None:
        async with local(kind) as it:
            try:
                await it.establish("::1")
            except OSError:
                pytest.skip("no IPv6 loopback")
            assert it.to_a[0] == it.to_b[0] == "::1"
            subscription, srs = await it.subscribed("::1")
            assert subscription.streams[0].section.connection == sdp.Connection("IP6", "::1")
            sent = await it.talk(20)
            await until(lambda: len(srs[0].poll()) == 20, "copies")
            assert srs[0].received == sent == it.b.received

    asyncio.run(scenario())


@each
def test_many_calls_leave_no_socket_port_or_call_behind(kind: str) -> None:
    async def scenario() -> None:
        async with local(kind) as it:
            before = len(os.listdir("/proc/self/fd"))
            for number in range(200):
                session = MediaSession(f"call-{number}", "a", "b")
                body = b"v=0\r\nc=IN IP4 127.0.0.1\r\nm=audio 4000 RTP/AVP 0\r\n"
                await it.rig.offer(MediaSession(session.call_id, "a"), body)
                await it.rig.answer(session, body)
                subscription = await it.rig.subscribe(session, ["a", "b"])
                await it.rig.accept(session, subscription.tag, recorder_answer(subscription, [it_port, it_port]))
                if number % 2:
                    await it.rig.unsubscribe(session, subscription.tag)
                await it.rig.delete(session)
            assert it.relay.calls == {}
            assert it.relay.plane.pool.in_use == 0
            assert it.relay.plane.packets.sockets == 0
            assert len(os.listdir("/proc/self/fd")) == before
            assert isinstance(it.rig.engine, RtpEngine)
            assert it.rig.engine.client.pending == 0
            assert it.rig.engine._answers == {}

    it_port = Endpoint()
    try:
        asyncio.run(scenario())
    finally:
        it_port.close()


@each
def test_a_silent_call_is_deleted_by_the_process_itself(kind: str) -> None:
    async def scenario() -> None:
        options = relay_options(timeouts=Timeouts(media=0.6, held=0.6, setup=0.6), packet_loop=kind)
        async with running(kind, options=options) as rig:
            body = b"v=0\r\nc=IN IP4 127.0.0.1\r\nm=audio 4000 RTP/AVP 0\r\n"
            await rig.offer(MediaSession("c", "a"), body)
            await rig.answer(MediaSession("c", "a", "b"), body)
            end = time.monotonic() + 20
            while (await rig.raw("list"))["calls"]:
                assert time.monotonic() < end
                await asyncio.sleep(0.1)

    asyncio.run(scenario())


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_child_ends_with_its_parent_however_that_ends() -> None:
    program = (
        "import asyncio\n"
        "from siprec.relay.child import start_relay\n"
        "from siprec.relay.process import RelayOptions\n"
        "async def main():\n"
        "    relay = await start_relay(RelayOptions(ports=(47600, 47699)))\n"
        "    print(relay.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert _alive(pid)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    end = time.monotonic() + 20
    while _alive(pid):
        assert time.monotonic() < end, "the relay outlives its parent"
        time.sleep(0.02)


def test_a_child_that_cannot_start_says_so_and_stop_is_harmless_twice() -> None:
    async def scenario() -> None:
        relay = await start_relay(relay_options())
        with pytest.raises(RelayFailed):
            await start_relay(RelayOptions(listen=relay.ng_address, ports=(47700, 47799)))
        assert relay.running
        await relay.stop()
        await relay.stop()
        assert not relay.running
        assert await relay.wait() == 0

    asyncio.run(scenario())
