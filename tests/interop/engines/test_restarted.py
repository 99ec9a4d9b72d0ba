"""A media server that is killed and started again at the same address serves and records the next calls."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import uvloop

from siprec.relay.child import start_relay
from tests.interop.engines.world import phones, until, world
from tests.interop.media.rig import free_port, relay_options, rtpengine


@pytest.mark.parametrize("engine", ["rtpengine", "relay"])
def test_a_media_server_that_was_killed_and_started_again_records_the_next_calls(tmp_path: Path, engine: str) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            port = free_port()

            async def start() -> object:
                if engine == "rtpengine":
                    return stack.enter_context(rtpengine(port, "udp"))
                relay = await start_relay(relay_options(listen=("127.0.0.1", port)))
                stack.push_async_callback(relay.stop)
                return relay._process

            running = await start()
            text = f'[media]\nping = 0.3\n[[media_server]]\nname = "m"\naddress = "ng:udp:127.0.0.1:{port}"\n'
            it = await stack.enter_async_context(world(tmp_path, "rtpengine", servers=text))
            [member] = it.proxy.media.pool
            for recorded in range(1, 4):
                await until(lambda: member.state == "up", "the media server answers")
                await it.alice.dial("bob")
                await until(lambda: it.proxy.recording.counts().get("active") == 1, "the call is recorded")
                await it.talk(50)
                await it.alice.hang_up()
                await until(lambda: not it.proxy.recording.counts(), "it is over")
                await until(
                    lambda n=recorded: [each["state"] for _, each in it.recordings(0)] == ["complete"] * n,
                    "the recording is complete",
                )
                if recorded < 3:
                    running.kill()  # type: ignore[attr-defined]
                    await until(lambda: member.state == "down", "it is down")
                    await asyncio.sleep(1.0)  # several pings meet a closed port
                    running = await start()
                    await it.alice.close()
                    await it.bob.close()
                    it.alice, it.bob = await phones(stack, it.proxy)
            assert "FAILED" not in it.names()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as the commands do
        runner.run(scenario())
