"""UDP on real sockets."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from siprec.net import udp
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.transport import Hop
from tests.unit.net.net_support import Peer, Run, open_descriptors, options, until


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_a_request_and_its_response_cross(run: Run, host: str) -> None:
    async def main() -> None:
        alice, bob = Peer(), Peer(answers=True)
        here, there = await alice.listen(f"udp:{host}:0"), await bob.listen(f"udp:{host}:0")
        alice.transport.send(options(transport="UDP"), alice.transport.route(there, 500))
        await until(lambda: alice.messages)
        message, hop = alice.messages[0]
        assert isinstance(message, SipResponse)
        assert message.status == 200
        assert (hop.transport, hop.host, hop.port) == ("udp", there.host, there.port)
        assert hop.local == (here.host, here.port)
        assert bob.messages[0][1] == Hop("udp", here.host, here.port, (there.host, there.port))
        await alice.transport.close()
        await bob.transport.close()

    before = open_descriptors()
    run(main())
    assert open_descriptors() == before


def test_keep_alives_stun_and_junk_are_ignored_and_garbage_is_malformed(run: Run) -> None:
    async def main() -> None:
        bob = Peer()
        there = await bob.listen("udp:127.0.0.1:0")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for junk in (b"", b"\0", b"\r\n\r\n", b"\r\n", b"\0\0\0\0", bytes.fromhex("000100002112a442") + bytes(12)):
                sock.sendto(junk, (there.host, there.port))
            sock.sendto(b"hello world, this is no SIP\r\n\r\n", (there.host, there.port))
            sock.sendto(options(b"abc", length=2), (there.host, there.port))  # MSG-05: the rest is dropped
            sock.sendto(options(b"abc", length=4), (there.host, there.port))  # MSG-05: too short is an error
            sock.sendto(b"\r\n\r\n" + options(b"last"), (there.host, there.port))
            await until(lambda: b"last" in bob.bodies)
        assert bob.bodies == [b"ab", b"last"]
        assert len(bob.errors) == 2
        assert bob.transport.counters.ignored == 6
        assert bob.transport.counters.malformed == 2
        await bob.transport.close()

    run(main())


def test_the_largest_datagram_is_taken(run: Run) -> None:
    async def main() -> None:
        alice, bob = Peer(), Peer()
        await alice.listen("udp:127.0.0.1:0")
        there = await bob.listen("udp:127.0.0.1:0")
        body = bytes(range(256)) * 255
        body = body[: 65507 - len(options()) - 4]
        data = options(body)
        assert 65500 <= len(data) <= 65507  # the most that fits into an IPv4 packet
        alice.transport.send(data, there)
        await until(lambda: bob.messages)
        assert bob.bodies == [body]
        failures: list[str] = []
        alice.transport.send(data + bytes(100), there, failures.append)
        assert failures == []
        await until(lambda: failures)
        await alice.transport.close()
        await bob.transport.close()

    run(main())


def test_port_unreachable_is_reported_for_what_was_sent_there_and_the_socket_lives_on(run: Run) -> None:
    async def main() -> None:
        alice, bob = Peer(), Peer(answers=True)
        await alice.listen("udp:127.0.0.1:0")
        there = await bob.listen("udp:127.0.0.1:0")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            closed = Hop("udp", "127.0.0.1", sock.getsockname()[1])

        async def once(number: int) -> None:
            failures: list[str] = []
            fine: list[str] = []
            alice.transport.send(options(call_id=f"to-nobody-{number}"), closed, failures.append)
            alice.transport.send(options(call_id=f"to-bob-{number}"), there, fine.append)
            await until(lambda: failures)
            assert failures == ["ICMP: ECONNREFUSED"]
            await until(lambda: len(alice.messages) == number + 1)
            assert fine == []

        for number in range(3):
            await once(number)
        assert len(bob.messages) == 3
        assert alice.transport.counters.icmp_errors == 3
        await alice.transport.close()
        await bob.transport.close()

    run(main())


def test_a_burst_arrives_whole_and_other_work_gets_its_turn(run: Run) -> None:
    async def main() -> None:
        bob = Peer()
        there = await bob.listen("udp:127.0.0.1:0")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            data = options()
            for _ in range(300):  # fits the smallest buffer the kernel grants
                sock.sendto(data, (there.host, there.port))
            turns = 0
            while len(bob.messages) < 300 and turns < 10000:
                turns += 1
                await asyncio.sleep(0.001 if turns > 100 else 0)
        assert len(bob.messages) == 300
        assert turns >= 300 // udp.BATCH
        await bob.transport.close()

    run(main())


def test_what_the_kernel_does_not_take_now_is_sent_later_in_order(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(socket.socket):
        """A real socket whose kernel buffer is full for the first attempts."""

        blocked = 3

        def sendto(self, *args: Any) -> int:
            if Full.blocked:
                Full.blocked -= 1
                raise BlockingIOError(11, "Resource temporarily unavailable")
            return int(super().sendto(*args))

    async def main() -> None:
        Full.blocked = 3
        alice, bob = Peer(), Peer()
        with monkeypatch.context() as patch:
            patch.setattr("siprec.net.address.socket.socket", Full)
            await alice.listen("udp:127.0.0.1:0")
        there = await bob.listen("udp:127.0.0.1:0")
        for number in range(20):
            alice.transport.send(options(str(number).encode()), there)
        assert alice.transport.counters.send_blocked == 1
        await until(lambda: len(bob.messages) == 20)
        assert bob.bodies == [str(number).encode() for number in range(20)]

        Full.blocked = 10**9
        monkeypatch.setattr(udp, "SEND_QUEUE", 5000)
        failures: list[str] = []
        for _ in range(30):
            alice.transport.send(options(), there, failures.append)
        await until(lambda: failures)
        assert set(failures) == {"send queue full"}
        await alice.transport.close()
        await bob.transport.close()

    run(main())


def test_an_error_above_does_not_stop_the_socket(run: Run) -> None:
    async def main() -> None:
        bob = Peer()
        there = await bob.listen("udp:127.0.0.1:0")
        seen: list[bytes] = []

        def broken(message: SipRequest | SipResponse, hop: Hop) -> None:
            seen.append(message.body)
            raise RuntimeError("above")

        bob.transport.on_message = broken
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(options(b"1"), (there.host, there.port))
            sock.sendto(options(b"2"), (there.host, there.port))
            await until(lambda: len(seen) == 2)
        await bob.transport.close()

    run(main())


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_datagrams_that_find_the_socket_full_are_counted(run: Run, host: str) -> None:
    async def main() -> None:
        bob = Peer()
        there = await bob.listen(f"udp:{host}:0")
        sock = bob.transport.listeners[0].socket._socket  # type: ignore[union-attr]
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with socket.socket(sock.family, socket.SOCK_DGRAM) as peer:
            for _ in range(200):
                peer.sendto(options(), (there.host, there.port))
        await until(lambda: bob.transport.dropped["socket full"] > 0)
        await until(lambda: len(bob.messages) + bob.transport.dropped["socket full"] == 200)
        assert bob.transport.dropped["no SIP"] == 0
        await bob.transport.close()

    run(main())
