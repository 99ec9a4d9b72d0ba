"""TCP on real sockets."""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
from dataclasses import replace

import pytest

from siprec.net.tcp import StreamConnection, StreamLimits
from siprec.sip.message import MalformedRequest, SipResponse, parse_datagram
from siprec.sip.transport import Hop, SendFailed
from tests.unit.net.net_support import Peer, Run, open_descriptors, options, until


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port nobody listens on."""
    with socket.socket() as sock:
        sock.bind((host, 0))
        return int(sock.getsockname()[1])


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_requests_share_one_connection_and_responses_come_back_on_it(run: Run, host: str) -> None:
    async def main() -> None:
        alice, bob = Peer(), Peer(answers=True)
        here, there = await alice.listen(f"tcp:{host}:0"), await bob.listen(f"tcp:{host}:0")
        for number in range(20):
            alice.transport.send(options(str(number).encode()), there)
        await until(lambda: len(alice.messages) == 20)
        alice.transport.send(options(b"20"), alice.transport.route(there, 100))
        await until(lambda: len(alice.messages) == 21)
        assert bob.bodies == [str(number).encode() for number in range(21)]
        assert all(isinstance(message, SipResponse) for message, _ in alice.messages)
        assert alice.transport.counters.connected == bob.transport.counters.accepted == 1
        hops = {hop for _, hop in bob.messages}
        assert len(hops) == 1
        assert hops.pop().local == (there.host, there.port)
        _, answer = alice.messages[0]
        assert answer.connection
        assert answer.local == (here.host, here.port)
        await alice.transport.close()
        await bob.transport.close()

    before = open_descriptors()
    run(main())
    assert open_descriptors() == before


def test_fragments_pings_and_framing_errors_on_the_wire(run: Run) -> None:
    async def main() -> None:
        bob = Peer(answers=True)
        there = await bob.listen("tcp:127.0.0.1:0")
        reader, writer = await asyncio.open_connection(there.host, there.port)
        data = b"\r\n\r\n" + options(b"one") + options(b"two")
        for octet in data:
            writer.write(bytes([octet]))
            await writer.drain()
            if octet == 10:
                await asyncio.sleep(0)
        await until(lambda: len(bob.messages) == 2)
        assert bob.bodies == [b"one", b"two"]
        assert await reader.readexactly(2) == b"\r\n"  # RFC 5626 4.4.1: pong
        for _ in range(2):
            await reader.readuntil(b"\r\n\r\n")
        errors: list[MalformedRequest] = []

        def malformed(error: object, hop: Hop) -> None:
            assert isinstance(error, MalformedRequest)
            errors.append(error)
            bob.transport.send(error.request.response(error.status).to_bytes(), hop)

        bob.transport.on_malformed = malformed
        writer.write(options().replace(b"Content-Length: 0\r\n", b""))
        answer = parse_datagram(await asyncio.wait_for(reader.read(), 20))  # to the end: the connection is closed
        assert isinstance(answer, SipResponse)
        assert answer.status == 400
        assert len(errors) == 1
        await until(lambda: bob.transport.connections == 0)
        writer.close()
        await bob.transport.close()

    run(main())


def test_many_pings_at_once_are_answered_by_one_write(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    """A write for each of them is more work than a stranger has with 4 octets."""
    writes: list[bytes] = []
    send = StreamConnection.send

    def counted(self: StreamConnection, data: bytes, failed: SendFailed | None) -> str:
        writes.append(data)
        return send(self, data, failed)

    monkeypatch.setattr(StreamConnection, "send", counted)

    async def main() -> None:
        bob = Peer()
        there = await bob.listen("tcp:127.0.0.1:0")
        reader, writer = await asyncio.open_connection(there.host, there.port)
        writer.write(b"\r\n\r\n" * 10_000)
        assert await reader.readexactly(20_000) == b"\r\n" * 10_000
        assert bob.transport.counters.pings == 10_000
        writer.close()
        await bob.transport.close()

    run(main())
    assert len(writes) < 1000


def test_a_refused_connection_fails_all_that_waits_and_udp_is_used_from_then_on(run: Run) -> None:
    async def main() -> None:
        alice = Peer()
        opened = await alice.transport.listen(["udp:127.0.0.1:0", "tcp:127.0.0.1:0"])
        assert opened[0].address.port == opened[1].address.port  # TRN-01
        nowhere = Hop("udp", "127.0.0.1", free_port())
        assert alice.transport.route(nowhere, 1300).transport == "udp"
        routed = alice.transport.route(nowhere, 1301)
        assert routed.transport == "tcp"  # TRN-04
        assert routed.local == opened[1].local
        failures: list[str] = []
        for _ in range(3):
            alice.transport.send(options(), routed, failures.append)
        assert failures == []
        await until(lambda: len(failures) == 3)
        assert all("refused" in reason.lower() for reason in failures)
        assert alice.transport.route(nowhere, 1301).transport == "udp"
        assert alice.transport.counters.connect_failed == 1
        await alice.transport.close()

    run(main())


def test_a_connection_that_does_not_come_up_times_out(run: Run) -> None:
    async def main() -> None:
        alice = Peer(limits=StreamLimits(connect=0.2))
        await alice.listen("tcp:127.0.0.1:0")
        with socket.socket() as full:  # a listener whose backlog is full answers no SYN
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            there = Hop("tcp", "127.0.0.1", full.getsockname()[1])
            fillers = []
            for _ in range(8):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex((there.host, there.port))
                fillers.append(filler)
            failures: list[str] = []
            alice.transport.send(options(), there, failures.append)
            await until(lambda: failures)
            assert "timed out" in failures[0]
            for filler in fillers:
                filler.close()
        await alice.transport.close()

    run(main())


def test_a_response_on_a_closed_connection_fails_and_goes_on_a_new_one(run: Run) -> None:
    async def main() -> None:
        alice, bob = Peer(), Peer()
        here, there = await alice.listen("tcp:127.0.0.1:0"), await bob.listen("tcp:127.0.0.1:0")
        alice.transport.send(options(), there)
        await until(lambda: bob.messages)
        request, hop = bob.messages[0]
        old = bob.transport.connection(hop.connection)
        assert old is not None
        old.close()
        await until(lambda: bob.transport.connections == 0 and alice.transport.connections == 0)
        failures: list[str] = []
        bob.transport.send(b"x", hop, failures.append)
        await until(lambda: failures)
        assert failures == ["connection closed"]
        # What the transaction layer does then (TRN-03): received and sent-by port, any connection.
        bob.transport.send(options(b"new"), replace(hop, host=here.host, port=here.port, connection=0))
        await until(lambda: alice.messages)
        assert alice.bodies == [b"new"]
        assert request.call_id == "a"
        await alice.transport.close()
        await bob.transport.close()

    run(main())


def test_a_reset_fails_what_was_not_answered(run: Run) -> None:
    async def main() -> None:
        alice = Peer()
        await alice.listen("tcp:127.0.0.1:0")
        with socket.socket() as server:
            server.setblocking(False)
            server.bind(("127.0.0.1", 0))
            server.listen()
            failures: list[str] = []
            alice.transport.send(options(), Hop("tcp", *server.getsockname()), failures.append)
            accepted, _ = await asyncio.get_running_loop().sock_accept(server)
            await asyncio.get_running_loop().sock_recv(accepted, 65536)
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            accepted.close()  # RST
            await until(lambda: failures)
            assert failures[0].startswith("connection lost")
        await alice.transport.close()

    run(main())


def test_a_peer_that_does_not_read_is_cut_off_and_others_are_not(run: Run) -> None:
    async def main() -> None:
        alice, bob = Peer(limits=StreamLimits(max_buffered=500_000)), Peer()
        await alice.listen("tcp:127.0.0.1:0")
        there = await bob.listen("tcp:127.0.0.1:0")
        with socket.socket() as server:
            server.setblocking(False)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            server.bind(("127.0.0.1", 0))
            server.listen()
            deaf = Hop("tcp", *server.getsockname())
            alice.transport.send(options(), deaf)
            accepted, _ = await asyncio.get_running_loop().sock_accept(server)
            failures: list[str] = []
            data = options(bytes(60000))
            for _ in range(1000):
                alice.transport.send(data, deaf, failures.append)
                await asyncio.sleep(0)
                if failures:
                    break
            assert failures
            assert alice.transport.counters.slow_closed == 1
            accepted.close()
        alice.transport.send(options(b"fine"), there)
        await until(lambda: bob.bodies == [b"fine"])
        await alice.transport.close()
        await bob.transport.close()

    run(main())


def test_idle_connections_are_closed_and_busy_ones_stay(run: Run) -> None:
    async def main() -> None:
        bob = Peer(limits=StreamLimits(idle=0.8))
        there = await bob.listen("tcp:127.0.0.1:0")
        _, busy = await asyncio.open_connection(there.host, there.port)
        reader, idle = await asyncio.open_connection(there.host, there.port)
        idle.write(b"OPTIONS sip:half")  # half a message is no activity
        loop = asyncio.get_running_loop()
        end = loop.time() + 20
        while not bob.transport.counters.idle_closed and loop.time() < end:
            busy.write(b"\r\n\r\n")
            await asyncio.sleep(0.02)
        assert bob.transport.counters.idle_closed == 1
        await until(lambda: bob.transport.connections == 1)  # the socket goes a turn of the loop later
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        busy.close()
        idle.close()
        await bob.transport.close()

    run(main())


@pytest.mark.parametrize("limit", [{"max_connections": 3}, {"max_per_source": 3}])
def test_of_too_many_connections_the_idlest_is_closed(run: Run, limit: dict[str, int]) -> None:
    async def main() -> None:
        bob = Peer(limits=StreamLimits(**limit), answers=True)
        there = await bob.listen("tcp:127.0.0.1:0")
        clients = []
        for _ in range(3):
            clients.append(await asyncio.open_connection(there.host, there.port))
            await until(lambda: bob.transport.connections == len(clients))
        clients[0][1].write(options())  # the oldest, but not the idlest
        await clients[0][0].readuntil(b"\r\n\r\n")
        clients.append(await asyncio.open_connection(there.host, there.port))
        assert await asyncio.wait_for(clients[1][0].read(), 20) == b"", "the idlest is closed"
        await until(lambda: bob.transport.connections == 3)
        assert bob.transport.counters.crowded_out == 1
        for number in (0, 2, 3):
            clients[number][1].write(options(call_id=f"again{number}"))
            assert (await clients[number][0].readuntil(b"\r\n\r\n")).startswith(b"SIP/2.0 200")
        for _, writer in clients:
            writer.close()
        await until(lambda: bob.transport.connections == 0)
        assert not len(bob.transport.accepted)
        assert not bob.transport.accepted.sources()
        await bob.transport.close()

    run(main())


def test_known_sources_have_no_limit_of_their_own(run: Run) -> None:
    async def main() -> None:
        bob = Peer(limits=StreamLimits(max_per_source=2), answers=True)
        bob.transport.accepted.is_known = lambda host: host == "127.0.0.1"
        there = await bob.listen("tcp:127.0.0.1:0")
        clients = [await asyncio.open_connection(there.host, there.port) for _ in range(6)]
        await until(lambda: bob.transport.connections == 6)
        for _, writer in clients:
            writer.close()
        await until(lambda: bob.transport.connections == 0)
        await bob.transport.close()

    run(main())


def test_a_crowd_from_one_source_leaves_the_others_their_connections(run: Run) -> None:
    async def main() -> None:
        bob = Peer(limits=StreamLimits(max_connections=10, max_per_source=0), answers=True)
        there = await bob.listen("tcp:0.0.0.0:0")
        phone = await asyncio.open_connection("127.0.0.1", there.port, local_addr=("127.0.0.2", 0))
        await until(lambda: bob.transport.connections == 1)
        crowd = [await asyncio.open_connection("127.0.0.1", there.port) for _ in range(30)]
        await until(lambda: bob.transport.counters.crowded_out == 21)
        phone[1].write(options())
        assert (await phone[0].readuntil(b"\r\n\r\n")).startswith(b"SIP/2.0 200")
        for _, writer in [phone, *crowd]:
            writer.close()
        await until(lambda: bob.transport.connections == 0)
        await bob.transport.close()

    run(main())


def test_a_connection_that_says_nothing_has_less_time(run: Run) -> None:
    async def main() -> None:
        bob = Peer(limits=StreamLimits(idle=60, first=0.4), answers=True)
        there = await bob.listen("tcp:127.0.0.1:0")
        spoke = await asyncio.open_connection(there.host, there.port)
        spoke[1].write(options())
        await spoke[0].readuntil(b"\r\n\r\n")
        half = await asyncio.open_connection(there.host, there.port)
        for octet in b"OPTIONS sip:x":
            half[1].write(bytes([octet]))
            await asyncio.sleep(0.02)  # octets alone are no life
        assert await asyncio.wait_for(half[0].read(), 20) == b""
        assert bob.transport.connections == 1
        assert bob.transport.counters.idle_closed == 1
        half[1].close()
        spoke[1].close()
        await until(lambda: bob.transport.connections == 0)
        await bob.transport.close()

    run(main())


def test_half_messages_of_one_source_hold_bounded_memory(run: Run) -> None:
    async def main() -> None:
        bob = Peer(limits=StreamLimits(max_unfinished=300_000, max_per_source=0), answers=True)
        there = await bob.listen("tcp:127.0.0.1:0")
        half = options(b"x" * 10, length=60_000)[:-10] + b"x" * 40_000
        clients = []
        for _ in range(20):
            clients.append(await asyncio.open_connection(there.host, there.port))
            clients[-1][1].write(half)
            await clients[-1][1].drain()
        await until(lambda: bob.transport.counters.crowded_out >= 12)
        assert bob.transport.accepted.unfinished("127.0.0.1") <= 300_000
        for _, writer in clients:
            writer.close()
        await until(lambda: bob.transport.connections == 0)
        assert not bob.transport.accepted.unfinished("127.0.0.1")
        await bob.transport.close()

    run(main())


def test_a_thousand_connections_leave_nothing_behind(run: Run) -> None:
    async def main() -> None:
        bob = Peer(answers=True)
        there = await bob.listen("tcp:127.0.0.1:0")
        before = open_descriptors()

        async def once(number: int) -> None:
            reader, writer = await asyncio.open_connection(there.host, there.port)
            writer.write(options(call_id=str(number)))
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"SIP/2.0 200")
            writer.close()
            await writer.wait_closed()

        for start in range(0, 1000, 50):
            await asyncio.gather(*(once(start + i) for i in range(50)))
        await until(lambda: bob.transport.connections == 0)
        assert bob.transport.counters.accepted == bob.transport.counters.closed == 1000
        await until(lambda: open_descriptors() <= before)
        assert not bob.transport._by_key
        await bob.transport.close()
        gc.collect()

    before = open_descriptors()
    run(main())
    assert open_descriptors() == before


def test_close_in_the_middle_of_everything_leaves_no_descriptor_and_no_task(run: Run) -> None:
    async def main() -> None:
        alice, bob = Peer(), Peer(answers=True)
        await alice.transport.listen(["udp:127.0.0.1:0", "tcp:127.0.0.1:0"])
        there = await bob.listen("tcp:127.0.0.1:0")
        alice.transport.send(options(), there)
        await until(lambda: alice.messages)
        alice.transport.send(options(bytes(60000)), there)
        alice.transport.send(options(), Hop("tcp", "127.0.0.2", there.port))
        alice.transport.send(options(), Hop("udp", "127.0.0.1", 9), lambda reason: None)
        await alice.transport.close()
        await bob.transport.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        failures: list[str] = []
        alice.transport.send(options(), there, failures.append)
        await until(lambda: failures)

    before = open_descriptors()
    run(main())
    assert open_descriptors() == before
