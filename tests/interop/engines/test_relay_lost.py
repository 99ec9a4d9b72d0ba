"""The embedded relay dies or hangs while calls with real media run through it: they go on, and so do the recordings."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from tests.interop.engines.test_pool import recorded_throughout
from tests.interop.engines.world import World, until, world


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_relay_that_dies_or_hangs_is_replaced_and_its_calls_go_on_recorded(
    tmp_path: Path, how: signal.Signals
) -> None:
    async def scenario() -> None:
        async with world(tmp_path, "embedded") as it:
            await it.alice.dial("bob")
            await until(lambda: it.proxy.recording.counts().get("active") == 1, "it is recorded")
            await it.talk(60)
            victim = it.proxy.media.relay_pid
            assert victim is not None
            began = time.monotonic()
            os.kill(victim, how)
            await until(lambda: it.proxy.core.counters["media_moved"] == 1, "the call has moved")
            if how == signal.SIGSTOP:
                assert time.monotonic() - began > 2.5, "three seconds of silence are needed"
            await it.talk(100)
            assert it.proxy.media.relay_pid not in (None, victim)
            assert [each for each in it.names() if "MEDIA" in each] == ["MEDIA_DOWN", "MEDIA_UP"]
            assert not Path(f"/proc/{victim}").exists()
            await it.alice.hang_up()
            await recorded_throughout(it)
            await until(lambda: not it.proxy.core.media.load, "nothing is left")

    asyncio.run(scenario())


def test_a_call_that_rings_while_the_relay_dies_is_heard_and_recorded_when_it_is_answered(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path, "embedded") as it:
            picked_up = it.bob._pick_up
            it.bob._pick_up = lambda call: None  # type: ignore[method-assign]
            dialling = asyncio.create_task(it.alice.dial("bob", 40))
            await until(lambda: it.bob.call is not None, "it rings")
            victim = it.proxy.media.relay_pid
            assert victim is not None
            os.kill(victim, signal.SIGKILL)
            await until(lambda: it.proxy.media.relay_pid not in (None, victim), "the relay is there again")
            assert it.bob.call is not None
            picked_up(it.bob.call)  # type: ignore[arg-type]
            await dialling
            await it.talk(100)
            await until(lambda: it.names().count("START") == 1, "it is recorded")
            await it.talk(80)
            await it.alice.hang_up()
            await recorded_throughout(it)

    asyncio.run(scenario())


def test_a_relay_that_gets_little_processor_time_is_not_killed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path, "embedded") as it:
            await it.alice.dial("bob")
            await it.talk(30)
            relay = it.proxy.media.relay_pid
            assert relay is not None
            await starve(it, relay)
            await it.talk(30)
            assert it.proxy.media.relay_pid == relay
            assert it.proxy.media.restarts == 0
            await it.alice.hang_up()

    asyncio.run(scenario())


async def starve(it: World, relay: int) -> None:
    """Let the relay run a tenth of the time, for eight seconds."""
    for _ in range(4):
        os.kill(relay, signal.SIGSTOP)
        await asyncio.sleep(1.8)
        os.kill(relay, signal.SIGCONT)
        await asyncio.sleep(0.2)


def test_a_call_that_outlives_a_drain_is_led_past_the_relay_that_ends(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path, "embedded") as it:
            await it.alice.dial("bob")
            await until(lambda: it.proxy.recording.counts().get("active") == 1, "it is recorded")
            await it.talk(30)
            relay = it.proxy.media.relay_pid
            await it.proxy.stop()
            assert not Path(f"/proc/{relay}").exists()
            await it.talk(60)

    asyncio.run(scenario())
