"""Whether a function's work grows no faster than its input.

CPU time of this thread is measured, not time on the wall, so other processes disturb little. What is quick even for the
large input is fine without a ratio. A ratio between a small and a large input that looks bad is measured again, with
the best of several runs: only a cost per octet that really grows looks bad each time.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from time import thread_time
from typing import TypeVar

T = TypeVar("T", str, bytes)

GROWTH = 3.0
"""How much the cost of an octet may grow from the small to the large input; it grows by their ratio if quadratic."""

ABSURD = 20e-6
"""Seconds of CPU time for an octet that nothing here needs, however slow the machine."""


def seconds(function: Callable[[], object]) -> float:
    """CPU time of one call; what it raises is part of the work."""
    began = thread_time()
    try:
        function()
    except Exception:
        pass
    return thread_time() - began


def grows(function: Callable[[T], object], make: Callable[[int], T], *, small: int, large: int, quick: float) -> str:
    """What is wrong, or an empty string. `make(n)` gives an input of about `n` octets; `quick` seconds are no problem
    whatever the ratio."""
    little, big = make(small), make(large)
    once = 0.0
    for text in (little, big):
        once = seconds(partial(function, text))
        if once > ABSURD * len(text) and seconds(partial(function, text)) > ABSURD * len(text):
            return f"{len(text)} octets cost {once * 1000:.0f} ms"
    if once < quick:
        return ""
    growth = 0.0
    for _ in range(4):
        gc.collect()
        one = min(seconds(partial(function, little)) for _ in range(5))
        many = min(seconds(partial(function, big)) for _ in range(3))
        if many < quick:
            return ""
        growth = (many / len(big)) / (max(one, 2e-6) / len(little))
        if growth < GROWTH:
            return ""
    return f"an octet of {len(big)} costs {growth:.1f} times as much as one of {len(little)} ({many * 1000:.0f} ms)"
