"""A recorder that is killed in mid-call is noticed although nothing is to be said to it, and another one takes over."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from siprec.audio.melody import callee_melody, caller_melody
from siprec.cli.child_process import Child
from siprec.cli.phone import Phone
from siprec.recording.events import SiprecEvent
from siprec.server.config_file import parse
from siprec.server.proxy_process import ProxyProcess
from tests.interop.server.test_processes import DOMAIN, HOST, complete, until


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_recorder_killed_in_mid_call_is_replaced_by_the_next(tmp_path: Path, transport: str) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            recorders = []
            for name in ("first", "second"):
                child = Child(name)
                stack.push_async_callback(child.stop)
                file = tmp_path / f"{name}.toml"
                file.write_text(
                    f'[recorder]\nlisten = ["udp:{HOST}:0", "tcp:{HOST}:0"]\n'
                    f"directory = {json.dumps(str(tmp_path / name))}\n"
                )
                await child.start("recorder", "--config", str(file))
                recorders.append(child)
            uris = [f"sip:{HOST}:{child.address(transport)[1]};transport={transport}" for child in recorders]
            proxy = ProxyProcess(
                parse(
                    f'[sip]\nlisten = ["udp:{HOST}:0", "tcp:{HOST}:0"]\ndomains = ["{DOMAIN}"]\n'
                    f"[recording.default]\nsrs = {json.dumps(uris)}\nwatch = 2.0\nsetup_timeout = 2.0\n"
                    '[[route]]\nmethod = "INVITE"\nregistrar = true\nrecord = "default"\n'
                )
            )
            stack.push_async_callback(proxy.stop)
            await proxy.start()
            events: list[SiprecEvent] = []
            proxy.events.subscribe(events.append)
            address = next(x.address for x in proxy.transport.listeners if x.address.transport == "udp")
            alice = Phone("alice", "Alice", DOMAIN, HOST, (address.host, address.port), caller_melody(90.0, 8000))
            bob = Phone("bob", "Bob", DOMAIN, HOST, (address.host, address.port), callee_melody(90.0, 8000))
            for phone in (alice, bob):
                stack.push_async_callback(phone.close)
                await phone.start()
                await phone.register()
            await alice.dial("bob")
            await until(lambda: proxy.recording.counts().get("active") == 1)
            assert alice.media is not None
            await until(lambda: alice.media is not None and alice.media.received > 50)
            victim = recorders[0].pid
            assert victim is not None
            os.kill(victim, signal.SIGKILL)
            heard = alice.media.received
            await until(lambda: [event.server for event in events if event.name == "E_SIPREC_START"] == uris, 60)
            # The call did not notice: packets went on all the time.
            assert alice.media.received > heard
            assert not alice.ended_.done()
            stop = next(event for event in events if event.name == "E_SIPREC_STOP")
            assert (stop.server, stop.status) == (uris[0], 408)
            assert [event.server for event in events if event.name == "E_SIPREC_SRS_DOWN"] == [uris[0]]
            assert bob.media is not None
            sent = bob.media.sent
            await until(lambda: bob.media is not None and bob.media.sent > sent + 50)
            await alice.hang_up()
            await until(lambda: len(complete(tmp_path / "second")) == 1)
            (recording,) = complete(tmp_path / "second")
            streams = recording["streams"]
            assert isinstance(streams, list)
            assert len(streams) == 2
            assert all(stream["packets"]["received"] > 50 for stream in streams)
            assert all(stream["packets"]["lost"] == 0 for stream in streams)

    asyncio.run(scenario())
