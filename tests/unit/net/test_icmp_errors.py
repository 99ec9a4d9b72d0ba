"""An ICMP error for what a UDP socket of ours sent never ends its reading: each kind of socket, on both event loops.

In each test the peer is away, comes back on the same port, and has to be heard. Sockets that are not connected do not
hear of ICMP errors by themselves: here they are made to (IP_RECVERR), as a later change of ours might.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from siprec.audio.melody import caller_melody
from siprec.cli.phone_media import PhoneMedia
from siprec.cli.srs_probe_media import ProbeStream
from siprec.media import sockets
from siprec.media.bencode import encode
from siprec.media.engine import MediaError
from siprec.media.ng import NgClient
from siprec.media.rtpproxy_protocol import RtpProxyClient
from siprec.net.dnscache import DnsCache
from siprec.net.timers import TimerWheel
from siprec.recorder.ports import PortPool
from siprec.relay.learning import Latching
from siprec.relay.native import packet_loop
from siprec.relay.process import RelayOptions, run_relay
from siprec.sip.transport import Hop
from siprec.trace.hep import HepSender
from tests.unit.net.dns_server import DnsServer
from tests.unit.net.net_support import Peer, Run, options, until
from tests.unit.recorder.recorder_harness import Bench

IP_RECVERR, IPV6_RECVERR = 11, 25
HOSTS = pytest.mark.parametrize("host", ["127.0.0.1", "::1"])


def bound(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.bind((host, port))
    return sock


def closed_port(host: str = "127.0.0.1") -> int:
    with bound(host) as sock:
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def server(host: str, port: int, answer: Callable[[bytes], bytes]) -> Iterator[None]:
    """Answers every datagram."""
    loop, sock = asyncio.get_running_loop(), bound(host, port)

    def readable() -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                data, source = sock.recvfrom(65536)
                sock.sendto(answer(data), source)

    loop.add_reader(sock.fileno(), readable)
    try:
        yield
    finally:
        loop.remove_reader(sock.fileno())
        sock.close()


async def provoke(sock: socket.socket, to: tuple[str, int] | None = None) -> None:
    """Errors that the reader finds, and one that a send takes off before the reader comes to it."""
    host = sock.getsockname()[0]
    level, option = (socket.IPPROTO_IPV6, IPV6_RECVERR) if ":" in host else (socket.IPPROTO_IP, IP_RECVERR)
    before = sock.getsockopt(level, option)
    nobody = to or (host, closed_port(host))
    for sends in (1, 2, 1, 3, 2):
        sock.setsockopt(level, option, 1)
        for _ in range(sends):
            with contextlib.suppress(OSError):
                sock.sendto(b"is anybody there?", nobody)
        if not before:
            sock.setsockopt(level, option, 0)  # empties the queue, the pending error stays
        await asyncio.sleep(0.02)


def ng_reply(request: bytes) -> bytes:
    return request.partition(b" ")[0] + b" " + encode({"result": "pong"})


def rtpproxy_reply(request: bytes) -> bytes:
    return request.partition(b" ")[0] + b" 20040107\n"


@HOSTS
@pytest.mark.parametrize("protocol", ["ng", "rtpproxy"])
def test_a_media_server_that_was_away_is_heard_again(run: Run, protocol: str, host: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        wheel, port = TimerWheel(loop), closed_port(host)
        opener = sockets.udp(loop, (host, port))
        replies: list[Any] = []
        client: NgClient | RtpProxyClient
        if protocol == "ng":
            ng = client = NgClient(wheel, opener, name="m", timeout=0.3)

            def ask() -> None:
                ng.request("ping", {}, replies.append)
        else:
            rtpproxy = client = RtpProxyClient(wheel, opener, name="m", timeout=0.3)

            def ask() -> None:
                rtpproxy.send("V", "", replies.append)

        async def asked(times: int) -> list[Any]:
            replies.clear()
            for _ in range(times):
                ask()
            await until(lambda: len(replies) == times)
            return replies

        for _ in range(3):  # away and back, again and again
            for number in (1, 3):
                assert all(isinstance(each, MediaError) for each in await asked(number))
            with server(host, port, ng_reply if protocol == "ng" else rtpproxy_reply):
                assert not any(isinstance(each, MediaError) for each in await asked(3))
        client.close()
        wheel.close()

    run(main())


def test_the_first_command_after_a_media_server_came_back_is_sent_at_once(run: Run) -> None:
    """The error of an earlier message does not swallow the next one."""

    async def main() -> None:
        loop, port = asyncio.get_running_loop(), closed_port()
        errors: list[str] = []
        heard: list[bytes] = []
        client = sockets.udp(loop, ("127.0.0.1", port))(heard.append, errors.append)
        client.send(b"lost")
        with server("127.0.0.1", port, lambda data: data):
            client.send(b"sent")
            await until(lambda: heard)
        assert heard == [b"sent"]
        assert errors
        client.close()

    run(main())


@HOSTS
def test_the_sip_socket_hears_after_errors(run: Run, host: str) -> None:
    async def main() -> None:
        alice, bob = Peer(), Peer(answers=True)
        bracketed = f"[{host}]" if ":" in host else host
        await alice.listen(f"udp:{bracketed}:0")
        there = await bob.listen(f"udp:{bracketed}:0")
        sock = alice.transport.listeners[0].socket._socket  # type: ignore[union-attr]
        nobody = Hop("udp", host, closed_port(host))
        for number in range(5):
            await provoke(sock)
            for _ in range(number * 40):  # more errors than are read at once
                alice.transport.send(options(), nobody)
            alice.transport.send(options(call_id=str(number)), there)
            await until(lambda n=number: len(alice.messages) == n + 1)  # type: ignore[misc]
        await alice.transport.close()
        await bob.transport.close()

    run(main())


@HOSTS
def test_the_sip_socket_hears_after_errors_that_left_no_trace_in_the_queue(run: Run, host: str) -> None:
    """The kernel drops what no longer fits into the error queue, but reports the error all the same."""

    async def main() -> None:
        bob = Peer()
        there = await bob.listen(f"udp:{f'[{host}]' if ':' in host else host}:0")
        sock: socket.socket = bob.transport.listeners[0].socket._socket  # type: ignore[union-attr]
        nobody = (host, closed_port(host))
        with bound(host) as peer:
            for number in range(3):
                with contextlib.suppress(OSError):
                    sock.sendto(b"x" * 100, nobody)
                while True:  # somebody else empties the queue
                    try:
                        sock.recvmsg(2048, 512, socket.MSG_ERRQUEUE)
                    except OSError:
                        break
                await asyncio.sleep(0.02)
                peer.sendto(options(call_id=str(number)), (there.host, there.port))
                await until(lambda n=number: len(bob.messages) == n + 1)  # type: ignore[misc]
        await bob.transport.close()

    run(main())


@HOSTS
@pytest.mark.parametrize("kind", ["native", "python"])
def test_the_relay_hears_parties_and_recorders_after_errors(run: Run, kind: Any, host: str) -> None:
    async def main() -> None:
        packets = packet_loop(asyncio.get_running_loop(), time.monotonic, kind)
        party = bound(host)
        rtp, rtcp, fork = bound(host), bound(host), bound(host)
        flow, control = packets.flow(rtp, Latching()), packets.flow(rtcp, Latching(), 0, "control")
        control.attend(flow)
        reports: list[bytes] = []
        packets.add(fork, lambda now: reports.append(b"") if _read(fork, reports) else None)
        fork.connect((host, closed_port(host)))
        for number in range(1, 4):
            await provoke(rtp)
            await provoke(rtcp)
            await provoke(fork, fork.getpeername()[:2])
            party.sendto(b"\x80\0" + bytes(170), rtp.getsockname())
            party.sendto(b"\x80\xc9\0\1" + bytes(4), rtcp.getsockname())
            await until(lambda n=number: flow.packets == n and control.rtcp_packets == n)  # type: ignore[misc]
        with bound(host, fork.getpeername()[1]) as recorder:
            recorder.sendto(b"a report", fork.getsockname())
            await until(lambda: b"a report" in reports)
        for sock in (rtp, rtcp, fork):
            packets.remove(sock)
        packets.close()
        for sock in (party, rtp, rtcp, fork):
            sock.close()

    run(main())


def _read(sock: socket.socket, into: list[bytes]) -> bool:
    with contextlib.suppress(OSError):
        into.append(sock.recv(2048))
    return False


@HOSTS
def test_the_relay_hears_commands_after_errors(run: Run, host: str) -> None:
    async def main() -> None:
        relay = await run_relay(RelayOptions(listen=(host, 0), packet_loop="python"))
        with bound(host) as client:
            for number in range(3):
                assert relay._udp is not None
                await provoke(relay._udp)
                client.sendto(b"%d d7:command4:pinge" % number, relay.ng_address)
                await until(lambda: _read(client, replies) or replies)
                assert replies.pop().startswith(b"%d " % number)
        await relay.close()

    replies: list[bytes] = []
    run(main())


@HOSTS
def test_the_recorder_hears_media_and_reports_after_errors(run: Run, tmp_path: Path, host: str) -> None:
    async def main() -> None:
        bench = Bench(tmp_path, address=host)
        bench.recorder.poller = asyncio.get_running_loop()
        bench.offer(bench.audio("1"))
        [line] = bench.session.lines
        media: list[bytes] = []
        reports: list[bytes] = []
        line.rtp_datagram = lambda data, *_: media.append(data)  # type: ignore[method-assign]
        line.rtcp_datagram = lambda data, *_: reports.append(data)  # type: ignore[method-assign]
        for number in range(1, 4):
            for sock in (line.pair.rtp, line.pair.rtcp):
                await provoke(sock)
            bench.sock.sendto(b"\x80\0\0%c" % number + bytes(168), (host, line.pair.port))
            bench.rtcp.sendto(b"\x80\xc9\0\1" + bytes(4), (host, line.pair.port + 1))
            await until(lambda n=number: len(media) == len(reports) == n)  # type: ignore[misc]
        bench.session.close("BYE").result(timeout=60)
        bench.close()

    run(main())


@HOSTS
def test_the_phone_of_the_demo_hears_after_errors(run: Run, host: str) -> None:
    async def main() -> None:
        phone = PhoneMedia(host, np.asarray(caller_melody(1.0, 8000)))
        with bound(host) as peer:
            for number in range(1, 4):
                await provoke(phone._rtp)
                peer.sendto(b"\x80\0\0%c" % number + bytes(168), (host, phone.port))
                await until(lambda n=number: phone.received == n)  # type: ignore[misc]
        phone.close()

    run(main())


@HOSTS
def test_the_probe_hears_reports_after_errors_and_counts_them(run: Run, host: str) -> None:
    async def main() -> None:
        stream = ProbeStream(asyncio.get_running_loop(), PortPool(host), 0, ["PCMU"])
        report = b"\x80\xc9\0\1" + bytes(4)
        with bound(host) as peer:
            for number in range(1, 4):
                await provoke(stream._pair.rtp)
                await provoke(stream._pair.rtcp)
                peer.sendto(report, (host, stream._pair.port + 1))
                peer.sendto(b"\x80\0\0\1" + bytes(168), (host, stream._pair.port))
                await until(lambda n=number: stream.result.rtp_received == n)  # type: ignore[misc]
                await until(lambda n=number: len(stream.result.reports) == n)  # type: ignore[misc]
        assert stream.result.refused
        stream.close()

    run(main())


@HOSTS
def test_traces_go_on_after_the_collector_was_away(run: Run, host: str) -> None:
    async def main() -> None:
        port = closed_port(host)
        sender = HepSender((host, port), node=1)
        for _ in range(5):
            sender.sip(1.0, "out", Hop("udp", host, 5060, (host, 5060)), options(), "a")
        with bound(host, port) as collector:
            sent = sender.sent
            sender.sip(1.0, "out", Hop("udp", host, 5060, (host, 5060)), options(), "a")
            assert sender.sent == sent + 1
            await until(lambda: _read(collector, packets) or packets)  # not even the first one is lost
        assert packets[0].startswith(b"HEP3")
        sender.close()

    packets: list[bytes] = []
    run(main())


def test_a_name_server_that_was_away_is_heard_again(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        wheel, port = TimerWheel(loop), closed_port()
        cache = DnsCache(wheel, [f"127.0.0.1:{port}"], lifetime=0.4)
        server = DnsServer({("a.test", "A"): ["192.0.2.1"]})

        async def ask() -> Any:
            cache.clear()
            return await cache.lookup("a.test", "A")

        for _ in range(3):
            assert (await ask()).failed
            await server.start(port)
            records = await ask()
            assert [record.address for record in records.items] == ["192.0.2.1"]
            server.stop()
            await asyncio.sleep(0.01)
        await cache.close()
        wheel.close()

    run(main())
