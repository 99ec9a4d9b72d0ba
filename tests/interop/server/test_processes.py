"""The processes as a whole: real sockets, a real relay as child, our recorder, two phones."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from siprec.audio.melody import callee_melody, caller_melody
from siprec.cli.child_process import Child
from siprec.cli.phone import Phone
from siprec.server.config_file import parse
from siprec.server.proxy_process import ProxyProcess

HOST = "127.0.0.1"
DOMAIN = "example.test"


def configuration(srs: int, directory: Path) -> str:
    return f"""
[sip]
listen = ["udp:{HOST}:0", "tcp:{HOST}:0"]
domains = ["{DOMAIN}"]
[recording.default]
srs = ["sip:{HOST}:{srs}"]
[[route]]
method = "INVITE"
registrar = true
record = "default"
[recorder]
listen = ["udp:{HOST}:0", "tcp:{HOST}:0"]
directory = {json.dumps(str(directory))}
"""


@asynccontextmanager
async def running(tmp_path: Path) -> AsyncIterator[ProxyProcess]:
    """A recorder process, and the proxy in this process with its relay as child."""
    recorder = Child("recorder")
    file = tmp_path / "siprec.toml"
    file.write_text(configuration(0, tmp_path / "recordings"))
    try:
        await recorder.start("recorder", "--config", str(file))
        proxy = ProxyProcess(parse(configuration(recorder.address()[1], tmp_path / "recordings")))
        try:
            await proxy.start()
            yield proxy
        finally:
            await proxy.stop()
    finally:
        await recorder.stop()


@asynccontextmanager
async def phones(proxy: ProxyProcess, seconds: float) -> AsyncIterator[tuple[Phone, Phone]]:
    address = next(x.address for x in proxy.transport.listeners if x.address.transport == "udp")
    pair = (
        Phone("alice", "Alice", DOMAIN, HOST, (address.host, address.port), caller_melody(seconds, 8000)),
        Phone("bob", "Bob", DOMAIN, HOST, (address.host, address.port), callee_melody(seconds, 8000)),
    )
    try:
        for phone in pair:
            await phone.start()
            await phone.register()
        yield pair
    finally:
        for phone in pair:
            await phone.close()


async def until(condition: Callable[[], bool], limit: float = 30.0) -> None:
    async with asyncio.timeout(limit):
        while not condition():
            await asyncio.sleep(0.02)


def complete(directory: Path) -> list[dict[str, object]]:
    found = [json.loads(path.read_text()) for path in directory.rglob("recording.json")]
    return [recording for recording in found if recording["state"] == "complete"]


def test_a_relay_that_dies_takes_only_its_media_with_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as proxy:
            async with phones(proxy, 2.0) as (alice, bob):
                await alice.dial("bob")
                await until(lambda: proxy.recording.counts().get("active") == 1)
                first = proxy.media.current
                assert proxy.media.relay_pid is not None
                os.kill(proxy.media.relay_pid, signal.SIGKILL)
                await until(lambda: proxy.media.restarts == 1)
                assert proxy.media.current is not first
                # The call's signalling goes on, and ends as ever.
                await alice.hang_up()
                await until(bob.ended_.done)
                assert bob.ended_.result() == "bye"
            await until(lambda: not proxy.recording.counts() and not proxy.agent.counts()["calls"])
            assert proxy.core.counts()["media_sessions"] == 0
            async with phones(proxy, 0.5) as (alice, bob):
                await alice.dial("bob")
                await until(lambda: proxy.recording.counts().get("active") == 1)
                await alice.hang_up()
            await until(lambda: len(complete(tmp_path / "recordings")) == 2)

    asyncio.run(scenario())


def test_calls_leave_nothing_behind(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as proxy:
            for _ in range(3):
                async with phones(proxy, 0.2) as (alice, _bob):
                    await alice.dial("bob")
                    await until(lambda: proxy.recording.counts().get("active") == 1)
                    await alice.hang_up()
            await until(lambda: not proxy.agent.counts()["calls"])
            counts = proxy.core.counts()
            assert (counts["calls"], counts["dialogs"], counts["media_sessions"]) == (0, 0, 0)
            await until(lambda: len(complete(tmp_path / "recordings")) == 3)

    asyncio.run(scenario())
