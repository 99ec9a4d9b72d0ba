"""The real clock: a wheel of time slots on one timer of the event loop.

Almost every SIP timer is cancelled long before it is due, so setting and cancelling have to be cheap; firing up to one
tick late does not matter. Slots are kept in a dictionary, their numbers in a heap: an empty wheel sleeps. A cancelled
timer stays in its slot until that comes round, or until cancelled timers outnumber the others: then they are swept out.
Without that, each call would leave its session timer behind for a quarter of an hour.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from time import monotonic
from typing import Any, Final

log = logging.getLogger(__name__)

TICK: Final = 0.005
SPARE: Final = 2000
"""Cancelled timers that may stay in their slots however few others there are."""


class WheelTimer:
    """A pending call of a :class:`TimerWheel`."""

    __slots__ = ("_args", "_callback", "_wheel", "when")

    def __init__(self, wheel: TimerWheel, when: float, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._wheel = wheel
        self._callback: Callable[..., object] | None = callback
        self._args = args
        self.when = when

    def cancel(self) -> None:
        """Do not call. Harmless when repeated or after the call."""
        if self._callback is not None:
            self._callback = None
            self._args = ()  # what they refer to is released now, not when the slot comes round
            wheel = self._wheel
            wheel.pending -= 1
            if wheel._held > 2 * wheel.pending + SPARE:
                wheel._sweep()

    def _fire(self) -> None:
        callback = self._callback
        if callback is None:
            return
        args = self._args
        self._callback = None
        self._args = ()
        self._wheel.pending -= 1
        try:
            callback(*args)
        except Exception:
            log.exception("error in a timer's callback %r", callback)


class TimerWheel:
    """:class:`siprec.sip.clock.Clock` on an asyncio or uvloop event loop (default: the running one).

    A call is never early and at most one tick (5 ms) late, the load of the loop aside; calls due in the same tick are
    made in order of their time. `pending` is the number of calls neither made nor cancelled.
    """

    __slots__ = ("_handle", "_heap", "_held", "_loop", "_next", "_slots", "pending")

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._loop = loop or asyncio.get_running_loop()
        self._slots: dict[int, list[WheelTimer]] = {}
        self._heap: list[int] = []
        self._next: float = float("inf")
        self._handle: asyncio.TimerHandle | None = None
        self._held = 0
        self.pending = 0

    def now(self) -> float:
        """Monotonic time in seconds."""
        return monotonic()

    def wall(self) -> float:
        """Seconds since the Unix epoch, UTC."""
        return time.time()

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> WheelTimer:
        """Call ``callback(*args)`` once, `delay` seconds from now; what it raises is logged."""
        when = monotonic() + delay
        timer = WheelTimer(self, when, callback, args)
        self.pending += 1
        if delay <= 0.0:
            self._loop.call_soon(timer._fire)
            return timer
        self._held += 1
        slot = int(when / TICK) + 1
        timers = self._slots.get(slot)
        if timers is not None:
            timers.append(timer)
            return timer
        self._slots[slot] = [timer]
        heappush(self._heap, slot)
        if slot < self._next:
            self._arm(slot)
        return timer

    def close(self) -> None:
        """Drop all pending calls."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        slots, self._slots = self._slots, {}
        self._heap.clear()
        self._held = 0
        self._next = float("inf")
        for timers in slots.values():
            for timer in timers:
                timer.cancel()

    @property
    def held(self) -> int:
        """Timers in the slots: those that are pending, and those that were cancelled and not swept out yet."""
        return self._held

    def _sweep(self) -> None:
        """Take cancelled timers, and slots that hold no others, out of the wheel."""
        slots = self._slots
        held = 0
        for slot, timers in list(slots.items()):
            timers[:] = [timer for timer in timers if timer._callback is not None]
            if timers:
                held += len(timers)
            else:
                del slots[slot]
        self._held = held
        self._heap[:] = slots
        heapify(self._heap)

    def _arm(self, slot: int) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._next = slot
        self._handle = self._loop.call_later(max(0.0, slot * TICK - monotonic()), self._wake)

    def _wake(self) -> None:
        self._handle = None
        # What a callback sets for later is armed below, once.
        self._next = float("-inf")
        heap, slots = self._heap, self._slots
        current = int(monotonic() / TICK)
        while heap and heap[0] <= current:
            timers = slots.pop(heappop(heap))
            self._held -= len(timers)
            if len(timers) > 1:
                timers.sort(key=_when)
            for timer in timers:
                timer._fire()
        self._next = float("inf")
        if self._heap:
            self._arm(self._heap[0])


def _when(timer: WheelTimer) -> float:
    return timer.when
