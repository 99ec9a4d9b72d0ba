"""Connections race on real sockets: one address that drops attempts, one that refuses, one that takes them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic

import pytest

from siprec.net.race import HEAD_START
from siprec.net.transport import SocketTransport
from siprec.sip.transport import Hop
from tests.parallel import own_port, unused_port
from tests.unit.net.net_support import Run, until

Outcome = list[tuple[Hop | None, str]]


@contextmanager
def filtered(host: str) -> Iterator[int]:
    """A port whose connection attempts are dropped: its queue of connections is full, and nobody takes one."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((host, own_port()))
        listener.listen(0)
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@contextmanager
def taking(host: str) -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind((host, own_port()))
        listener.listen()
        yield listener.getsockname()[1]


async def race(transport: SocketTransport, hops: list[Hop], limit: float) -> tuple[Hop | None, str, float]:
    """Who won, why not, and how long it took."""
    outcome: Outcome = []
    begun = monotonic()
    transport.race(hops, limit, lambda hop, reason: outcome.append((hop, reason)))
    assert not outcome, "never from inside"
    await until(lambda: outcome, 30)
    await until(lambda: not transport._connecting, 30)
    assert len(outcome) == 1
    return (*outcome[0], monotonic() - begun)


def test_the_address_that_takes_the_connection_wins_after_its_head_start(run: Run) -> None:
    async def main() -> None:
        transport = SocketTransport()
        await transport.listen("tcp:127.0.0.1:0")
        with filtered("127.0.0.1") as dead, taking("127.0.0.1") as alive:
            hops = [Hop("tcp", "127.0.0.1", dead), Hop("tcp", "127.0.0.1", alive)]
            winner, reason, took = await race(transport, hops, 20)
            assert winner is not None, reason
            assert winner.port == alive
            assert took >= HEAD_START * 0.9
            assert transport.connections == 1
            # The connection that is up is taken at once the next time, whatever stands before it.
            winner, _, took = await race(transport, hops, 20)
            assert winner is not None
            assert winner.port == alive
        await transport.close()

    run(main())


def test_a_refusal_starts_the_next_attempt_at_once(run: Run) -> None:
    async def main() -> None:
        transport = SocketTransport()
        await transport.listen("tcp:127.0.0.1:0")
        with taking("127.0.0.1") as alive:
            refusing = [Hop("tcp", "127.0.0.1", unused_port()) for _ in range(8)]
            winner, _, took = await race(transport, [*refusing, Hop("tcp", "127.0.0.1", alive)], 30)
            assert winner is not None
            assert winner.port == alive
            assert took < 8 * HEAD_START
        await transport.close()

    run(main())


def test_nobody_wins_where_all_refuse_or_time_is_out(run: Run) -> None:
    async def main() -> None:
        transport = SocketTransport()
        await transport.listen(["tcp:127.0.0.1:0", "udp:127.0.0.1:0"])
        winner, reason, _ = await race(transport, [Hop("tcp", "127.0.0.1", unused_port())], 20)
        assert winner is None
        assert "refused" in reason.lower()
        with filtered("127.0.0.1") as dead:
            winner, reason, took = await race(transport, [Hop("tcp", "127.0.0.1", dead)], 0.4)
            assert winner is None
            assert reason == "no connection within 0.4 s"
            assert took >= 0.39
            # A large request goes over UDP there for five minutes.
            assert transport.route(Hop("udp", "127.0.0.1", dead), 5000).transport == "udp"
        await transport.close()

    run(main())


def test_a_race_that_is_given_up_says_nothing_and_leaves_nothing(run: Run) -> None:
    async def main() -> None:
        transport = SocketTransport()
        await transport.listen("tcp:127.0.0.1:0")
        outcome: Outcome = []
        with filtered("127.0.0.1") as dead:
            cancel = transport.race(
                [Hop("tcp", "127.0.0.1", dead)], 5, lambda hop, reason: outcome.append((hop, reason))
            )
            await until(lambda: transport._connecting, 10)
            cancel()
            assert not transport._connecting
        assert not outcome
        await transport.close()

    run(main())


def test_what_waits_for_a_connection_is_sent_although_the_race_is_over(run: Run) -> None:
    """Another call's message is queued for an address that loses the race: its attempt goes on."""

    async def main() -> None:
        transport = SocketTransport()
        await transport.listen("tcp:127.0.0.1:0")
        with taking("127.0.0.1") as alive, filtered("127.0.0.1") as dead:
            failed: list[str] = []
            transport.send(b"OPTIONS sip:x SIP/2.0\r\n\r\n", Hop("tcp", "127.0.0.1", dead), failed.append)
            hops = [Hop("tcp", "127.0.0.1", dead), Hop("tcp", "127.0.0.1", alive)]
            outcome: Outcome = []
            transport.race(hops, 20, lambda hop, reason: outcome.append((hop, reason)))
            await until(lambda: outcome, 30)
            assert outcome[0][0] is not None
            assert len(transport._connecting) == 1
        await transport.close()

    run(main())


@pytest.mark.parametrize("hops", [[]])
def test_no_hop_is_no_connection(run: Run, hops: list[Hop]) -> None:
    async def main() -> None:
        transport = SocketTransport()
        winner, reason, _ = await race(transport, hops, 0.2)
        assert winner is None
        assert reason
        await transport.close()

    run(main())
