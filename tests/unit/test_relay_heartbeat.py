"""A relay shows that its packet loops are alive, to whoever started it."""

from __future__ import annotations

import asyncio
import mmap
import os
import signal
import time

import pytest

from siprec.relay.child import RelayProcess, start_relay
from siprec.relay.heartbeat import PYTHON, Heartbeat
from siprec.relay.native import Choice
from tests.interop.media.rig import relay_options


async def moves(relay: RelayProcess, seconds: float = 20.0) -> tuple[int, ...]:
    """Until every loop has counted on; the counters."""
    before = relay.beats
    end = time.monotonic() + seconds
    while not all(new != old for new, old in zip(relay.beats, before, strict=True) if old) or not any(before):
        assert time.monotonic() < end, relay.beats
        before = before if any(before) else relay.beats
        await asyncio.sleep(0.02)
    return relay.beats


@pytest.mark.parametrize("loop", ["native", "python"])
def test_each_loop_beats_without_packets_until_it_is_stopped_and_its_end_is_noticed(loop: Choice) -> None:
    async def scenario() -> None:
        relay = await start_relay(relay_options(packet_loop=loop))
        beats = await moves(relay)
        # The loop in Python is missed only where it has packets to serve.
        assert (beats[PYTHON] > 0) == (loop == "python")
        assert (beats[PYTHON + 1] > 0) == (loop == "native")
        os.kill(relay.pid, signal.SIGSTOP)
        end = time.monotonic() + 20
        while True:
            before = relay.beats
            await asyncio.sleep(0.6)
            if relay.beats == before:
                break
            assert time.monotonic() < end
        ended = asyncio.create_task(relay.wait())
        await asyncio.sleep(0)
        relay.kill()
        assert await asyncio.wait_for(ended, 20) == -signal.SIGKILL
        assert relay.beats == ()
        await relay.stop()

    asyncio.run(scenario())


def test_a_loop_has_one_heartbeat_and_gives_the_page_back() -> None:
    native = pytest.importorskip("siprec.relay._native")
    heartbeat = Heartbeat()
    loop = native.Loop()
    for slot in (-1, 64, 1 << 40):
        with pytest.raises(ValueError, match="slot"):
            loop.heartbeat(heartbeat.page, slot)
    loop.heartbeat(heartbeat.page, 3)
    with pytest.raises(ValueError, match="slot"):
        loop.heartbeat(heartbeat.page, 4)
    end = time.monotonic() + 20
    while heartbeat.beats[3] < 2:
        assert time.monotonic() < end
        time.sleep(0.01)
    loop.close()
    with pytest.raises(ValueError, match="slot"):
        loop.heartbeat(heartbeat.page, 5)
    heartbeat.close()  # which would fail while somebody has the page


def test_a_page_that_is_read_only_is_refused() -> None:
    native = pytest.importorskip("siprec.relay._native")
    loop = native.Loop()
    with pytest.raises(TypeError), mmap.mmap(-1, 4096, prot=mmap.PROT_READ) as page:
        loop.heartbeat(page, 1)
    loop.close()


def test_an_idle_loop_beats_and_does_nothing_else() -> None:
    """A loop that finds its wake-up call again and again takes a processor for itself."""
    native = pytest.importorskip("siprec.relay._native")
    heartbeat = Heartbeat()
    loop = native.Loop()
    loop.heartbeat(heartbeat.page, 3)
    end = time.monotonic() + 20
    while heartbeat.beats[3] < 4:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert loop.rounds <= 3, "rounds are for packets and wake-up calls only"
    loop.close()
    heartbeat.close()
