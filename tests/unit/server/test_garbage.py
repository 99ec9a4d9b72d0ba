"""When everything is collected, and how much one of the other collections may look at."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from siprec.server.garbage import SELDOM, YOUNG, FullCollections
from tests.simulation.network import VirtualClock
from tests.simulation.reference_call import ReferenceCall


@pytest.fixture(autouse=True)
def thresholds() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(gc, "collect", lambda: found.append(0.0))
    monkeypatch.setattr(gc, "get_count", lambda: (0, 0, 1))
    return found


def test_everything_is_collected_when_nobody_is_in_a_call(collected: list[float]) -> None:
    clock = VirtualClock()
    calls = ["a call"]
    full = FullCollections(clock, lambda: calls)
    clock.run_for(3600)
    assert not collected
    calls.clear()
    clock.run_for(60)
    assert len(collected) == 1
    full.close()
    clock.run_for(3600)
    assert len(collected) == 1
    assert clock.pending == 0
    assert gc.get_threshold() == (*YOUNG, SELDOM)


def test_a_process_that_is_never_idle_collects_everything_once_a_day(collected: list[float]) -> None:
    clock = VirtualClock()
    FullCollections(clock, lambda: True)
    clock.run_for(2 * 86400 + 120)
    assert len(collected) == 2


def test_nothing_new_is_nothing_to_collect(collected: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc, "get_count", lambda: (5, 1, 0))
    clock = VirtualClock()
    FullCollections(clock, lambda: False)
    clock.run_for(600)
    assert not collected


def test_no_collection_looks_at_all_calls() -> None:
    """A pause is as long as the number of objects that are looked at: 0.7 µs each."""
    FullCollections(VirtualClock(), lambda: True)
    world = ReferenceCall()
    world.tap = world.transport.tap = None
    for _ in range(3):
        world.run()
    gc.collect()
    looked_at: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            looked_at.append(sum(len(gc.get_objects(young)) for young in range(info["generation"] + 1)))

    gc.callbacks.append(note)
    try:
        for _ in range(300):
            world.begin()
    finally:
        gc.callbacks.remove(note)
    assert looked_at
    assert max(looked_at) < 12_500
    assert len(gc.get_objects(2)) + len(gc.get_objects(1)) > 15_000
