"""Time, handed in.

Everything in :mod:`siprec.sip`, :mod:`siprec.proxy` and :mod:`siprec.recording` takes its time from a
:class:`Clock`; the real one is :class:`siprec.net.timers.TimerWheel`, tests use a virtual one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Timer(Protocol):
    """A pending call. Cancelling twice, or after it fired, is harmless."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Monotonic time, wall time and deferred calls (all in seconds)."""

    def now(self) -> float:
        """Monotonic time in seconds."""
        ...

    def wall(self) -> float:
        """Seconds since the Unix epoch, UTC."""
        ...

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call ``callback(*args)`` once, `delay` seconds from now; never before this call returns."""
        ...
