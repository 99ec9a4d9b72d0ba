"""Server-sent events and webhooks with real calls: who listens never makes a call wait."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from siprec.recording import events
from siprec.recording.events import SiprecEvent
from siprec.server.proxy_process import ProxyProcess
from tests.interop.api.apiworld import client, phones, proxy, recorder, until


class Listener:
    """An EventSource: collects frames."""

    def __init__(self) -> None:
        self.events: list[dict[str, str]] = []
        self.comments: list[str] = []
        self.ended = False

    @asynccontextmanager
    async def listen(
        self, address: tuple[str, int], path: str = "/events", last: str = "", token: str = ""
    ) -> AsyncIterator[Listener]:
        reader, writer = await asyncio.open_connection(*address)
        header = f"Last-Event-ID: {last}\r\n" if last else ""
        header += f"Authorization: Bearer {token}\r\n" if token else ""
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head.split(b"\r\n")[0]
        assert b"text/event-stream" in head
        task = asyncio.create_task(self._read(reader))
        try:
            await until(lambda: self.comments)
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        buffer = b""
        while not self.ended:
            size = int((await reader.readline()).strip() or b"0", 16)
            if not size:
                self.ended = True
                break
            buffer += await reader.readexactly(size)
            await reader.readexactly(2)
            while b"\n\n" in buffer:
                block, _, buffer = buffer.partition(b"\n\n")
                lines = [line.partition(": ")[::2] for line in block.decode().split("\n")]
                self.comments += [value for name, value in lines if not name]
                found = {name: value for name, value in lines if name}
                if "event" in found:
                    self.events.append(found)

    def names(self) -> list[str]:
        return [event["event"] for event in self.events]


def test_events_of_a_call_arrive_in_order_with_their_parameters(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            recorder(tmp_path) as srs,
            proxy(tmp_path, "sip:127.0.0.1:9", srs) as process,
            phones(process) as (alice, _),
        ):
            api = client(process)
            only = Listener()
            async with (
                Listener().listen(api.address) as everything,
                only.listen(api.address, f"/events?event={events.START},{events.STOP}"),
            ):
                await alice.dial("bob")
                await until(lambda: process.recording.counts().get("active") == 1)
                [call] = process.core.calls.values()
                await api.post("/siprec_pause_recording", all=True)
                await until(lambda: events.PAUSED in everything.names())
                await api.post("/siprec_resume_recording", all=True)
                await until(lambda: events.RESUMED in everything.names())
                await alice.hang_up()
                await until(lambda: events.STOP in everything.names() and len(only.events) == 2)
                # Nothing listens at the first SRS: the host says so (ICMP), and the recording goes to the next one.
                assert everything.names() == [
                    events.SRS_DOWN,
                    events.FAILOVER,
                    events.START,
                    events.PAUSED,
                    events.RESUMED,
                    events.STOP,
                ]
                assert only.names() == [events.START, events.STOP]
            start = json.loads(everything.events[2]["data"])
            assert start["id"] == everything.events[2]["id"]
            assert (start["event"], start["server"], start["instance"]) == (events.START, srs, "default")
            assert (start["dlg_id"], start["dlg_callid"]) == (call.dlg_id, call.call_id)
            assert start["callid"]
            assert start["session_id"]
            failover = json.loads(everything.events[1]["data"])
            assert failover["server"] == "sip:127.0.0.1:9"
            assert failover["status"] == 503

            # Who was away gets what was missed, and is told when some of it is gone.
            async with Listener().listen(api.address, last=everything.events[3]["id"]) as back:
                await until(lambda: len(back.events) == 2)
                assert [e["id"] for e in back.events] == [e["id"] for e in everything.events[4:]]
            async with Listener().listen(api.address, last="00000000-4") as other:
                await until(lambda: len(other.events) == 7)
                assert other.names()[0] == "gap"
            # They are gone.
            assert process.api is not None
            hub = process.api.api.hub
            await until(lambda: len(hub) == 0)

    asyncio.run(scenario())


def _event(number: int) -> SiprecEvent:
    return SiprecEvent(
        events.UPDATE_FAILED, "d", f"call-{number}", "r", "s", "sip:srs", "default", 1.0, "x" * 100_000, 500
    )


async def _ten_more(process: ProxyProcess, awake: Listener, sent: int) -> int:
    for number in range(sent, sent + 10):
        process.events.emit(_event(number))
    await until(lambda: len(awake.events) == sent + 10)
    return sent + 10


def test_a_subscriber_that_does_not_read_is_dropped_and_calls_go_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            recorder(tmp_path) as srs,
            proxy(tmp_path, srs, api="subscriber_queue = 20") as process,
            phones(process) as (alice, bob),
        ):
            assert process.api is not None
            hub = process.api.api.hub
            order: list[str] = []
            process.events.subscribe(lambda event: order.append(event.name))
            asleep = socket.socket()
            asleep.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            asleep.connect(process.api.address)
            asleep.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await until(lambda: len(hub) == 1)
            async with Listener().listen(process.api.address) as awake:
                # Enough to fill every buffer on the way to the one who sleeps; the other one reads.
                sent = 0
                while len(hub) == 2:
                    assert sent < 5000
                    sent = await _ten_more(process, awake, sent)
                assert hub.dropped_subscribers == 1
                order.clear()
                await alice.dial("bob")
                await until(lambda: process.recording.counts().get("active") == 1)
                await alice.hang_up()
                await until(bob.ended_.done)
                await until(lambda: awake.names()[-1] == events.STOP)
                assert order == [events.START, events.STOP]
            # Reading again it finds what fitted into the buffers, then why it ends.
            asleep.settimeout(20)

            def drain() -> bytes:
                octets = b""
                while not octets.endswith(b"0\r\n\r\n") and (more := asleep.recv(65536)):
                    octets += more
                return octets

            told = await asyncio.to_thread(drain)
            asleep.close()
            assert b": too slow" in told.rpartition(b"event:")[2]
            assert told.count(b"\nevent:") < sent

    asyncio.run(scenario())


def test_subscribers_beyond_the_bound_are_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with proxy(tmp_path, "sip:127.0.0.1:9", api="max_subscribers = 1") as process:
            api = client(process)
            async with Listener().listen(api.address):
                reply = await api.get("/events")
                assert reply.status == 503
                assert reply.headers["retry-after"] == "10"

    asyncio.run(scenario())


def test_streams_end_with_the_process(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            proxy(tmp_path, "sip:127.0.0.1:9") as process,
            Listener().listen(client(process).address) as listener,
        ):
            assert process.api is not None
            await process.api.stop()
            await until(lambda: listener.ended)
            assert listener.comments[-1] == "closed"

    asyncio.run(scenario())


@dataclass
class Receiver:
    """A web server for webhooks. `statuses` are its first answers, 200 follows; 0 stands for none at all."""

    statuses: list[int] = field(default_factory=list)
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:] if line)}
        body = await reader.readexactly(int(headers["content-length"]))
        self.got.append((headers, body))
        status = self.statuses.pop(0) if self.statuses else 200
        if status:
            writer.write(f"HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n".encode())
        writer.close()


def test_webhooks_are_signed_and_repeated(tmp_path: Path) -> None:
    async def scenario() -> None:
        receiver = Receiver([500, 0])
        async with receiver.serve() as url:
            hook = f'webhooks = [{{url = "{url}", secret = "of the receiver", events = ["{events.START}"]}}]'
            async with (
                recorder(tmp_path) as srs,
                proxy(tmp_path, srs, api=hook) as process,
                phones(process) as (alice, _),
            ):
                assert process.api is not None
                [sender] = process.api.api.webhooks.hooks
                await alice.dial("bob")
                await until(lambda: sender.delivered == 1)
                await alice.hang_up()
                await until(lambda: not process.recording.counts())
            assert len(receiver.got) == 3
            assert len({(headers["webhook-id"], body) for headers, body in receiver.got}) == 1
            headers, body = receiver.got[-1]
            assert json.loads(body)["event"] == events.START
            assert json.loads(body)["id"] == headers["webhook-id"]
            signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
            digest = hmac.new(b"of the receiver", signed, hashlib.sha256).digest()
            assert headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()
            assert not (tmp_path / "dead.jsonl").exists()

    asyncio.run(scenario())


def test_dead_webhooks_leave_calls_alone_and_their_events_on_disk(tmp_path: Path) -> None:
    async def scenario() -> None:
        # One never answers a connection, the other refuses it.
        silent = socket.create_server(("127.0.0.1", 0), backlog=0)
        refused = socket.create_server(("127.0.0.1", 0))
        hooks = ", ".join(
            f'{{url = "http://127.0.0.1:{port}/?key=1", secret = "x", queue = 2, timeout = 60, attempts = 1}}'
            for port in (silent.getsockname()[1], refused.getsockname()[1])
        )
        refused.close()
        order: list[str] = []
        async with recorder(tmp_path) as srs, proxy(tmp_path, srs, api=f"webhooks = [{hooks}]") as process:
            process.events.subscribe(lambda event: order.append(event.name))
            for _ in range(3):
                async with phones(process) as (alice, bob):
                    await alice.dial("bob")
                    await until(lambda: process.recording.counts().get("active") == 1)
                    await alice.hang_up()
                    await until(bob.ended_.done)
                    await until(lambda: not process.recording.counts())
            assert order == [events.START, events.STOP] * 3
            assert process.api is not None
            first, second = process.api.api.webhooks.hooks
            assert len(first) == 2
            await until(lambda: len(second) == 0)
        silent.close()
        dead = [json.loads(line) for line in (tmp_path / "dead.jsonl").read_text().splitlines()]
        assert len(dead) == 12
        assert {entry["event"]["event"] for entry in dead} == {events.START, events.STOP}
        assert {entry["error"] for entry in dead} >= {"queue full", "shutdown"}
        assert all("key" not in entry["url"] for entry in dead)

    asyncio.run(scenario())
