"""Two media servers: the one that carries a recorded call dies, and the call goes on through the other one."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from siprec.relay.child import start_relay
from tests.interop.engines.world import World, check_audio, until, world
from tests.interop.media.rig import free_port, relay_options, rtpengine


def servers(victim: tuple[str, int], spare: tuple[str, int], policy: str) -> str:
    return (
        f'[media]\non_lost = "{policy}"\nping = 0.3\n'
        f'[[media_server]]\nname = "victim"\naddress = "ng:udp:{victim[0]}:{victim[1]}"\n'
        f'[[media_server]]\nname = "spare"\naddress = "ng:udp:{spare[0]}:{spare[1]}"\nweight = 0\n'
    )


@pytest.mark.parametrize("engine", ["ours", "rtpengine"])
def test_a_recorded_call_goes_on_through_another_media_server(tmp_path: Path, engine: str) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            spare = await start_relay(relay_options())
            stack.push_async_callback(spare.stop)
            if engine == "ours":
                relay = await start_relay(relay_options())
                stack.push_async_callback(relay.stop)
                pid, address = relay._process, relay.ng_address
            else:
                address = ("127.0.0.1", free_port())
                pid = stack.enter_context(rtpengine(address[1], "udp"))
            text = servers(address, spare.ng_address, "move")
            it = await stack.enter_async_context(world(tmp_path, engine, servers=text))
            pool = it.proxy.media.pool
            await until(lambda: all(member.state == "up" for member in pool), "both servers answer")
            await it.alice.dial("bob")
            await until(lambda: it.proxy.recording.counts().get("active") == 1, "it is recorded")
            [call] = it.proxy.core.calls.values()
            assert call.media is not None
            assert call.media.name == "victim"
            await it.talk(60)
            pid.kill()
            await until(lambda: "MEDIA_DOWN" in it.names(), "it is down")
            await until(lambda: call.media is not None and call.media.name == "spare", "the call has moved")
            await it.talk(100)
            assert "victim" in [event.server for event in it.events if event.name == "E_SIPREC_MEDIA_DOWN"]
            await it.alice.hang_up()
            await recorded_throughout(it)
            await until(lambda: not it.proxy.recording.counts(), "nothing is left")
            assert not it.proxy.core.media.load

    asyncio.run(scenario())


async def recorded_throughout(it: World) -> None:
    """One recording session, which has what was said before and after."""
    await until(lambda: any(each["state"] == "complete" for _, each in it.recordings(0)), "the recording is complete")
    [(directory, recording)] = it.recordings(0)
    assert it.names().count("START") == 1
    assert not {"FAILED", "UPDATE_FAILED", "FAILOVER"} & set(it.names())
    check_audio(it, directory, recording)
    check_audio(it, directory, recording, last=True)


def test_a_recorded_call_goes_on_through_the_relay_that_was_started_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        low, high = relay_options().ports
        text = f'[media]\non_lost = "move"\n[relay]\nports = "{low}-{high}"\n'
        async with world(tmp_path, "embedded", servers=text) as it:
            await it.alice.dial("bob")
            await until(lambda: it.proxy.recording.counts().get("active") == 1, "it is recorded")
            [call] = it.proxy.core.calls.values()
            first, victim = call.media, it.proxy.media.relay_pid
            await it.talk(60)
            assert victim is not None
            os.kill(victim, signal.SIGKILL)
            await until(lambda: call.media is not first, "the call has moved")
            await it.talk(100)
            assert [each for each in it.names() if "MEDIA" in each] == ["MEDIA_DOWN", "MEDIA_UP"]
            await it.alice.hang_up()
            await recorded_throughout(it)

    asyncio.run(scenario())


def test_a_server_that_forgot_its_calls_costs_their_recordings_only(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            spare, victim = await start_relay(relay_options()), await start_relay(relay_options())
            stack.push_async_callback(spare.stop)
            stack.push_async_callback(victim.stop)
            text = servers(victim.ng_address, spare.ng_address, "keep")
            it = await stack.enter_async_context(world(tmp_path, "ours", servers=text))
            await it.alice.dial("bob")
            await until(lambda: it.proxy.recording.counts().get("active") == 1, "it is recorded")
            await it.talk(20)
            victim._process.kill()
            await until(lambda: "MEDIA_DOWN" in it.names(), "it is down")
            assert it.proxy.recording.counts().get("active") == 1
            assert "FAILED" not in it.names()
            again = await start_relay(relay_options(listen=victim.ng_address))
            stack.push_async_callback(again.stop)
            await until(lambda: {"MEDIA_UP", "FAILED"} <= set(it.names()), "it is back and knows nothing")
            await it.alice.hang_up()
            await until(lambda: not it.proxy.core.calls, "the call has ended as it should")

    asyncio.run(scenario())
