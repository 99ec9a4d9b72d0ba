"""A thread that writes what others queue: soon after they do, and at most every 50 ms.

Whoever queues something calls :meth:`Batches.wake`, which costs no system call while the thread is busy or pausing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

log = logging.getLogger(__name__)

APART: Final = 0.05
"""Seconds between two batches: what is queued meanwhile is one write."""
_AFTER_ERROR: Final = 5.0


class Batches:
    """Calls `work` in a daemon thread `name` of its own, which begins with the first :meth:`wake`.

    `work` returns the seconds after which it is to be called though nobody wakes it, None: not at all.
    """

    def __init__(self, name: str, work: Callable[[], float | None]) -> None:
        self._name = name
        self._work = work
        self._woken = False
        self._event = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """Something is queued."""
        if self._woken:
            return
        self._woken = True
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._event.set()

    def close(self, limit: float) -> bool:
        """Work a last time and end the thread; false if it is stuck for `limit` seconds."""
        thread, self._thread = self._thread, None
        if thread is None:
            return True
        self._closing.set()
        self._event.set()
        thread.join(limit)
        return not thread.is_alive()

    def _run(self) -> None:
        again: float | None = None
        while not self._closing.is_set():
            self._event.wait(again)
            self._event.clear()
            self._woken = False  # before the work: what is queued from now on wakes again
            again = self._try()
            self._closing.wait(APART)
        self._try()

    def _try(self) -> float | None:
        try:
            return self._work()
        except Exception:
            # A thread that has ended would lose in silence what is queued from now on.
            log.exception("error in the thread that writes: %s", self._name)
            return _AFTER_ERROR
