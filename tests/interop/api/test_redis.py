"""Events in a stream of a real Redis server."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from siprec.api.event_hub import EventHub
from siprec.api.redis_stream import RedisStream
from siprec.api.settings import RedisConfig
from siprec.cli.child_process import end_with_parent
from siprec.recording.events import PAUSED, START, SiprecEvent
from tests.interop.api.apiworld import HOST, phones, proxy, recorder, until
from tests.parallel import own_port

redis = pytest.importorskip("redis.asyncio", reason="redis is missing: pip install -e '.[test]'")
SERVER = shutil.which("redis-server")
pytestmark = pytest.mark.skipif(SERVER is None, reason="redis-server is missing: apt-get install redis-server")


@asynccontextmanager
async def server(tmp_path: Path, port: int) -> AsyncIterator[Any]:
    """A Redis server and a client of it."""
    command = [str(SERVER), "--port", str(port), "--bind", HOST, "--save", "", "--dir", str(tmp_path)]
    with (tmp_path / "redis.log").open("wb") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=end_with_parent)
    client = redis.Redis(host=HOST, port=port)
    try:
        async with asyncio.timeout(30):
            while True:
                try:
                    await client.ping()
                    break
                except redis.ConnectionError:
                    await asyncio.sleep(0.05)
        yield client
    finally:
        await client.aclose()
        child.terminate()
        await asyncio.to_thread(child.wait, 30)


def event(number: int, name: str = START) -> SiprecEvent:
    return SiprecEvent(name, "dlg", f"call-{number}", "rs", "session", "sip:srs", "default", 1.0)


async def names(client: Any, stream: str = "siprec:events") -> list[str]:
    return [fields[b"event"].decode() for _, fields in await client.xrange(stream)]


def test_the_events_of_a_call_are_in_the_stream(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = own_port()
        api = f'[api.redis]\nurl = "redis://{HOST}:{port}/0"\nstream = "calls"\n'
        async with (
            server(tmp_path, port) as client,
            recorder(tmp_path) as srs,
            proxy(tmp_path, srs, api=api) as process,
            phones(process) as (alice, _bob),
        ):
            await alice.dial("bob")
            await until(lambda: process.recording.counts().get("active"))
            await alice.hang_up()
            async with asyncio.timeout(30):
                while await client.xlen("calls") < 2:
                    await asyncio.sleep(0.05)
            (_, first), (_, last) = await client.xrange("calls")
            assert (first[b"event"], last[b"event"]) == (b"E_SIPREC_START", b"E_SIPREC_STOP")
            assert msgspec.json.decode(first[b"data"])["server"] == srs

    asyncio.run(scenario())


def test_events_wait_for_a_server_that_is_gone_and_the_oldest_are_given_up(tmp_path: Path) -> None:
    async def scenario() -> None:
        port, hub = own_port(), EventHub()
        stream = RedisStream(RedisConfig(url=f"redis://{HOST}:{port}", queue=3, events=(START,)), hub)
        stream.start()
        try:
            for number in range(5):
                hub(event(number))
            hub(event(9, PAUSED))  # not asked for
            await until(lambda: stream.retried)
            assert (len(stream), stream.lost) == (3, 2)
            async with server(tmp_path, port) as client:
                await until(lambda: stream.delivered == 3, 60)
                entries = await client.xrange("siprec:events")
                calls = [msgspec.json.decode(fields[b"data"])["dlg_callid"] for _, fields in entries]
                assert calls == ["call-2", "call-3", "call-4"]
                hub(event(5))
                await until(lambda: stream.delivered == 4)
        finally:
            await stream.stop()

    asyncio.run(scenario())


def test_what_waits_at_the_end_is_written_and_the_stream_is_trimmed(tmp_path: Path) -> None:
    async def scenario() -> None:
        port, hub = own_port(), EventHub()
        async with server(tmp_path, port) as client:
            stream = RedisStream(RedisConfig(url=f"redis://{HOST}:{port}", maxlen=100), hub)
            for number in range(1000):
                hub(event(number))
            await stream.stop()
            assert (stream.delivered, stream.lost) == (1000, 0)
            assert 100 <= await client.xlen("siprec:events") < 400

    asyncio.run(scenario())
