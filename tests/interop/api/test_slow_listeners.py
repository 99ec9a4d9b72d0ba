"""A hundred listeners that do not listen: the calls do not notice."""

from __future__ import annotations

from pathlib import Path

from tests.interop.calls.listeners import BOUND, measure


def test_calls_are_set_up_as_fast_with_a_hundred_deaf_listeners(tmp_path: Path) -> None:
    """50 calls a second, each with an event: no recorder is there. Figures: bench/listeners.py."""
    alone = measure(tmp_path / "alone", deaf=0, user="gone", calls=200, rate=50)
    heard = measure(tmp_path / "heard", deaf=100, user="gone", calls=350, rate=50)
    assert (alone.failed, heard.failed) == (0, 0)
    assert (len(alone.delays), len(heard.delays)) == (200, 350)
    assert alone.dropped == 0
    # Some milliseconds each, on a machine that has nothing else to do; who waited for a listener would take seconds.
    assert heard.median < 2 * alone.median + 0.5, (alone.median, heard.median)
    assert heard.quantile(0.95) < 2 * alone.quantile(0.95) + 3.0
    assert heard.dropped == 100
    assert heard.subscribers == 0
    assert heard.most_queued <= BOUND
    assert heard.dead_letters > 0
