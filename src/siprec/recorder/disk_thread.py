"""The disk thread: everything slow about a recording happens here, in order, one recording never overtaking itself."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

log = logging.getLogger(__name__)

_T = TypeVar("_T")

MAX_BACKLOG = 120
"""Jobs one recording may have waiting (a minute of batches); a disk that is slower than that loses batches, counted."""
_RETRY = 1.0
_CLOSE = 30.0


class DiskWriter:
    """One thread that runs jobs in the order of submission. Start it by the first job, stop it with :meth:`close`."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[float, Callable[[], object]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._submitted_at: float | None = None
        self._again: list[Callable[[], bool]] = []
        self._due = 0.0

    @property
    def waiting(self) -> int:
        """Jobs that wait."""
        return self._jobs.qsize()

    @property
    def delay(self) -> float:
        """Seconds that the job which runs now has waited and run; 0: none runs."""
        since = self._submitted_at
        return time.monotonic() - since if since is not None else 0.0

    def submit(self, job: Callable[[], object]) -> None:
        """Run `job` in the disk thread. What it raises is logged."""
        if self._closed:
            raise RuntimeError("the disk thread has been stopped")
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="siprec-disk", daemon=True)
            self._thread.start()
        self._jobs.put((time.monotonic(), job))

    def call(self, job: Callable[[], _T]) -> Future[_T]:
        """Run `job` in the disk thread; its result or exception goes into the future."""
        future: Future[_T] = Future()

        def run() -> None:
            try:
                future.set_result(job())
            except BaseException as error:
                future.set_exception(error)

        self.submit(run)
        return future

    def retry(self, job: Callable[[], bool]) -> None:
        """Run `job` every second, between the others, until it returns true. For the disk thread itself to call."""
        self._again.append(job)

    def close(self, limit: float = _CLOSE) -> bool:
        """Finish all jobs, then stop the thread; false if a disk that hangs did not let it within `limit` seconds."""
        self._closed = True
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join(limit)
            if self._thread.is_alive():
                log.error("the disk hangs: %d writes are given up", self.waiting)
                return False
            self._thread = None
        return True

    def _run(self) -> None:
        while True:
            try:
                found = self._jobs.get(timeout=_RETRY if self._again else None)
            except queue.Empty:
                self._run_again()
                continue
            if found is None:
                break
            self._submitted_at, job = found
            try:
                job()
            except Exception:
                log.exception("a job of the disk thread failed")
            self._submitted_at = None
            if self._again and time.monotonic() >= self._due:
                self._run_again()
        self._run_again()
        if self._again:
            log.error("%d recordings could not be finished on the disk", len(self._again))

    def _run_again(self) -> None:
        self._due = time.monotonic() + _RETRY
        jobs, self._again = self._again, []
        for job in jobs:
            try:
                done = job()
            except Exception:
                log.exception("a job of the disk thread failed")
                done = True
            if not done:
                self._again.append(job)
