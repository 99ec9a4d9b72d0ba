"""Responses whose connection is gone arrive by another one (RFC 3261 18.2.2, RFC 3263 5), on real sockets."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from siprec.net.timers import TimerWheel
from siprec.sip.errors import SipError
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.transaction import ServerTransaction, TransactionLayer
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri
from tests.unit.net.net_support import Peer, Run, until
from tests.unit.net.test_tls_sockets import Authority


def request(via: str, method: str = "INVITE") -> bytes:
    return (
        f"{method} sip:bob@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/{via};branch=z9hG4bKa\r\n"
        f"From: <sip:alice@127.0.0.1>;tag=1\r\nTo: <sip:bob@127.0.0.1>\r\nCall-ID: a\r\nCSeq: 1 {method}\r\n"
        "Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    ).encode()


class Server:
    """A transaction layer on real sockets that keeps the transactions of its requests."""

    def __init__(self, peer: Peer) -> None:
        self.transactions: list[ServerTransaction] = []
        self.peer = peer
        self.clock = TimerWheel(asyncio.get_running_loop())
        self.layer = TransactionLayer(self.clock, peer.transport, self)
        peer.transport.on_message = self.layer.receive
        peer.transport.on_malformed = self.layer.receive_malformed

    def request_received(self, transaction: ServerTransaction) -> None:
        self.transactions.append(transaction)

    def ack_received(self, request: SipRequest, source: Hop) -> None: ...

    def cancel_received(self, request: SipRequest, source: Hop) -> None: ...

    def malformed(self, error: SipError, request: SipRequest | None, source: Hop) -> None: ...

    def respond(self, *statuses: int) -> None:
        [transaction] = self.transactions
        for status in statuses:
            transaction.respond(transaction.request.response(status, to_tag="t"))

    async def close(self) -> None:
        await self.peer.transport.close()
        self.clock.close()


def statuses(peer: Peer) -> list[int]:
    return [message.status for message, _ in peer.messages if isinstance(message, SipResponse)]


def names(table: dict[str, list[str]], transport: str) -> Callable[..., None]:
    """A resolver of these names; a port in the URI is that of the hop."""

    def resolve(uri: Uri, done: Callable[[list[Hop] | SipError], None]) -> None:
        found = [Hop(transport, host, uri.port or 5060) for host in table.get(uri.host, ())]
        done(found or SipError("no such host", 503))

    return resolve


@pytest.mark.parametrize(
    ("listens", "via", "method", "answers", "arrive"),
    [
        ("127.0.0.1", "TCP 127.0.0.1:{port}", "INVITE", (200,), [200]),
        ("127.0.0.1", "TCP 127.0.0.1:{port};rport", "INVITE", (100, 180, 200), [180, 200]),
        ("127.0.0.1", "TCP 127.0.0.1:{port};received=192.0.2.1", "OPTIONS", (486,), [486]),
        ("127.0.0.1", "UDP 127.0.0.1:{port}", "INVITE", (503,), [503]),  # Via is wrong about the transport
        ("127.0.0.1", "TCP client.test:{port}", "INVITE", (180, 200), [180, 200]),  # received, not the name
        ("127.0.0.9", "TCP 127.0.0.9:{port}", "INVITE", (180, 183, 200), [180, 183, 200]),  # source refuses
        ("127.0.0.9", "TCP client.test:{port}", "BYE", (200,), [200]),  # source refuses, the name leads there
        ("::1", "TCP [::1]:{port}", "INVITE", (180, 200), [180, 200]),
        ("::1", "TCP [0:0:0:0:0:0:0:1]:{port}", "INVITE", (404,), [404]),
        ("::1", "TCP client.test:{port};received=::1", "INVITE", (180, 200), [180, 200]),
    ],
)
@pytest.mark.parametrize("reset", [False, True])
def test_responses_come_by_a_new_connection_when_the_client_closed_its_own(
    run: Run, listens: str, via: str, method: str, answers: tuple[int, ...], arrive: list[int], reset: bool
) -> None:
    async def main() -> None:
        host = "::1" if ":" in listens else "127.0.0.1"
        bracketed = f"[{host}]" if ":" in host else host
        server, client = Server(Peer()), Peer()
        server.layer.resolve = names({"client.test": ["127.0.0.66", listens]}, "tcp")
        there = await server.peer.listen(f"tcp:{bracketed}:0")
        here = await client.listen(f"tcp:{f'[{listens}]' if ':' in listens else listens}:0")
        _, writer = await asyncio.open_connection(there.host, there.port)
        writer.write(request(via.format(port=here.port), method))
        await until(lambda: server.transactions)
        if reset:
            writer.transport.abort()
        else:
            writer.close()
        await until(lambda: server.peer.transport.connections == 0)
        server.respond(*answers)
        await until(lambda: statuses(client) == arrive)
        assert client.transport.counters.accepted == 1  # all of them by one connection
        await client.transport.close()
        await server.close()

    run(main())


def test_a_response_written_into_a_connection_that_is_just_being_closed_is_sent_again(run: Run) -> None:
    """The write succeeds; that the client never read it shows only when the connection ends."""

    async def main() -> None:
        server, client = Server(Peer()), Peer()
        there, here = await server.peer.listen("tcp:127.0.0.1:0"), await client.listen("tcp:127.0.0.1:0")
        with socket.create_connection((there.host, there.port)) as sock:
            sock.sendall(request(f"TCP 127.0.0.1:{here.port}"))
            await until(lambda: server.transactions)
        server.respond(200)  # before the event loop has seen the end of the connection
        await until(lambda: statuses(client) == [200])
        await client.transport.close()
        await server.close()

    run(main())


def test_a_client_that_closed_in_good_order_is_not_called_back(run: Run) -> None:
    async def main() -> None:
        server, client = Server(Peer()), Peer()
        there, here = await server.peer.listen("tcp:127.0.0.1:0"), await client.listen("tcp:127.0.0.1:0")
        reader, writer = await asyncio.open_connection(there.host, there.port)
        writer.write(request(f"TCP 127.0.0.1:{here.port}", "OPTIONS"))
        await until(lambda: server.transactions)
        server.respond(200)
        await reader.readuntil(b"\r\n\r\n")
        writer.close()
        await until(lambda: server.peer.transport.connections == 0)
        await asyncio.sleep(0.05)
        assert client.transport.counters.accepted == 0
        await client.transport.close()
        await server.close()

    run(main())


def test_the_end_is_told_when_no_way_is_left(run: Run) -> None:
    async def main() -> None:
        server = Server(Peer())
        there = await server.peer.listen("tcp:127.0.0.1:0")
        _, writer = await asyncio.open_connection(there.host, there.port)
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            writer.write(request(f"TCP 127.0.0.1:{closed.getsockname()[1]}"))
            await until(lambda: server.transactions)
            writer.close()
            await until(lambda: server.peer.transport.connections == 0)
            server.respond(180, 200)
            await until(lambda: server.peer.transport.counters.connect_failed >= 1)
            await until(lambda: server.peer.transport._connecting == {})
        assert not server.layer.delivery._moved
        await server.close()

    run(main())


@pytest.mark.parametrize("via", ["client.test", "127.0.0.1"])
def test_over_tls_the_new_connection_is_to_who_the_via_names(run: Run, tmp_path: Path, via: str) -> None:
    authority = Authority(tmp_path)
    authority.create()
    server_tls, client_tls = (authority.issue(name) for name in ("proxy.test", "client.test"))

    async def main() -> None:
        server, client = Server(Peer(tls=server_tls)), Peer(tls=client_tls)
        there, here = await server.peer.listen("tls:127.0.0.1:0"), await client.listen("tls:127.0.0.1:0")
        context = ssl.create_default_context(cafile=client_tls.ca_file)
        _, writer = await asyncio.open_connection(there.host, there.port, ssl=context, server_hostname="proxy.test")
        writer.write(request(f"TLS {via}:{here.port}"))
        await until(lambda: server.transactions)
        writer.close()
        await until(lambda: server.peer.transport.connections == 0)
        server.respond(180, 200)
        if via == "client.test":
            await until(lambda: statuses(client) == [180, 200])
        else:  # no certificate is for that address: nobody gets the response
            await until(lambda: server.peer.transport.counters.connect_failed)
            assert statuses(client) == []
        await client.transport.close()
        await server.close()

    run(main())


@pytest.mark.parametrize("source", ["8.8.4.4", "10.0.0.7"])
def test_a_stranger_cannot_have_us_connect_closer_than_where_it_is(source: str) -> None:
    """Neither by a number in Via nor by a name that leads to this host."""
    sent: list[Hop] = []

    class Transport:
        def route(self, hop: Hop, size: int) -> Hop:
            return hop

        def sent_by(self, hop: Hop) -> tuple[str, int]:
            return hop.local

        def send(self, data: bytes, hop: Hop, failed: Callable[[str], None] | None = None) -> None:
            sent.append(hop)
            if failed is not None:
                failed("refused")

    class Clock:
        def now(self) -> float:
            return 0.0

    near = ["127.0.0.1", "::1", "169.254.1.1"] + (["10.1.1.1", "fd00::1"] if source == "8.8.4.4" else [])
    layer = TransactionLayer(Clock(), Transport(), None)  # type: ignore[arg-type]
    for host in [*near, "inside.test"]:
        sent.clear()
        layer.resolve = names({"inside.test": near}, "tcp")
        text = request(f"TCP {f'[{host}]' if ':' in host else host}:6379").decode()
        lines = text.split("\r\n")[1:-2]
        message = SipRequest("INVITE", "sip:bob@127.0.0.1", [line.split(":")[0].lower() for line in lines], lines)
        hop = Hop("tcp", source, 40000, ("192.0.2.1", 5060), 7)
        layer.reply(message, hop, SipResponse(200))
        assert {each.host for each in sent} == {source}, host
