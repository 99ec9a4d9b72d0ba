"""The timer wheel keeps the Clock's promises on both event loops."""

from __future__ import annotations

import asyncio
import logging
import random
from itertools import pairwise
from time import monotonic

import pytest

from siprec.net.timers import SPARE, TICK, TimerWheel
from tests.unit.net.net_support import Run, until


def test_calls_are_made_in_order_and_never_early(run: Run) -> None:
    async def main() -> None:
        wheel = TimerWheel()
        fired: list[tuple[float, float]] = []
        delays = [random.Random(7).uniform(0, 0.2) for _ in range(300)]
        for delay in delays:
            due = monotonic() + delay
            wheel.call_later(delay, lambda due=due: fired.append((due, monotonic())))
        assert wheel.pending == 300
        await until(lambda: len(fired) == 300)
        assert wheel.pending == 0
        assert all(at >= due - 1e-4 for due, at in fired)
        dues = [due for due, _ in fired]
        assert all(later >= earlier - 1e-4 for earlier, later in pairwise(dues))

    run(main())


def test_a_call_due_now_is_not_made_from_inside(run: Run) -> None:
    async def main() -> None:
        wheel = TimerWheel()
        fired: list[int] = []
        wheel.call_later(0, fired.append, 1)
        wheel.call_later(-5, fired.append, 2)
        cancelled = wheel.call_later(0, fired.append, 3)
        cancelled.cancel()
        assert fired == []
        await until(lambda: len(fired) == 2)
        assert fired == [1, 2]
        assert wheel.pending == 0

    run(main())


def test_cancelled_calls_do_not_fill_the_wheel(run: Run) -> None:
    async def main() -> None:
        wheel = TimerWheel()
        fired: list[int] = []
        kept = [wheel.call_later(0.1 + number / 1000, fired.append, number) for number in range(50)]
        for number in range(20_000):
            wheel.call_later(900 + number, fired.append, -1).cancel()
            assert wheel.held <= 2 * wheel.pending + SPARE + 1
        assert wheel.pending == len(kept)
        await until(lambda: len(fired) == 50)
        assert fired == list(range(50))
        assert wheel.pending == 0

    run(main())


def test_calls_cancelled_by_a_call_that_is_made_leave_the_others(run: Run) -> None:
    async def main() -> None:
        wheel = TimerWheel()
        fired: list[int] = []
        others = [wheel.call_later(60 + number % 3, fired.append, -1) for number in range(3 * SPARE)]

        def cancel_all() -> None:
            for timer in others:
                timer.cancel()

        wheel.call_later(0.01, cancel_all)
        for number in range(20):
            wheel.call_later(0.012 + number / 100, fired.append, number)
        await until(lambda: len(fired) == 20)
        assert fired == list(range(20))
        assert wheel.pending == 0
        assert wheel.held <= SPARE

    run(main())


def test_a_shorter_call_overtakes_a_longer_one(run: Run) -> None:
    async def main() -> None:
        wheel = TimerWheel()
        fired: list[str] = []
        long = wheel.call_later(3600, fired.append, "long")
        wheel.call_later(0.01, fired.append, "short")
        await until(lambda: fired == ["short"])
        assert wheel.pending == 1
        long.cancel()
        long.cancel()
        assert wheel.pending == 0
        wheel.close()

    run(main())


def test_cancelling_and_setting_from_inside_a_call(run: Run) -> None:
    async def main() -> None:
        wheel = TimerWheel()
        fired: list[str] = []
        victim = wheel.call_later(0.02 + TICK, fired.append, "victim")

        def killer() -> None:
            victim.cancel()
            wheel.call_later(0.01, fired.append, "child")

        wheel.call_later(0.01, killer)
        await until(lambda: fired == ["child"])
        await asyncio.sleep(0.03)
        assert fired == ["child"]
        assert wheel.pending == 0

    run(main())


def test_an_error_in_a_call_is_logged_and_stops_no_other(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> None:
        raise ValueError("no good")

    async def main() -> None:
        wheel = TimerWheel()
        fired: list[int] = []
        for number in range(5):
            wheel.call_later(0.01, broken)
            wheel.call_later(0.01, fired.append, number)
        wheel.call_later(0.05, fired.append, 5)
        with caplog.at_level(logging.ERROR):
            await until(lambda: fired == [0, 1, 2, 3, 4, 5])
        assert wheel.pending == 0

    run(main())
    assert sum("no good" in (record.exc_text or "") for record in caplog.records) == 5


def test_close_drops_what_is_pending(run: Run) -> None:
    async def main() -> None:
        wheel = TimerWheel()
        fired: list[int] = []
        for _ in range(10):
            wheel.call_later(0.01, fired.append, 1)
        wheel.close()
        assert wheel.pending == 0
        await asyncio.sleep(0.05)
        assert fired == []
        wheel.call_later(0.01, fired.append, 2)  # and it can still be used
        await until(lambda: fired == [2])

    run(main())


def test_the_clock_shows_wall_and_monotonic_time() -> None:
    async def main() -> None:
        wheel = TimerWheel()
        assert abs(wheel.now() - monotonic()) < 1
        assert wheel.wall() > 1_700_000_000

    asyncio.run(main())
