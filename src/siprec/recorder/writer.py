"""The disk thread: everything slow about a recording happens here, in order, one recording never overtaking itself."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

log = logging.getLogger(__name__)

_T = TypeVar("_T")

MAX_BACKLOG = 120
"""Jobs one recording may have waiting (a minute of batches); a disk that is slower than that loses batches, counted."""


class DiskWriter:
    """One thread that runs jobs in the order of submission. Start it by the first job, stop it with :meth:`close`."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def waiting(self) -> int:
        """Jobs that wait."""
        return self._jobs.qsize()

    def submit(self, job: Callable[[], object]) -> None:
        """Run `job` in the disk thread. What it raises is logged."""
        if self._closed:
            raise RuntimeError("the disk thread has been stopped")
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="siprec-disk", daemon=True)
            self._thread.start()
        self._jobs.put(job)

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

    def close(self) -> None:
        """Finish all jobs, then stop the thread."""
        self._closed = True
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception:
                log.exception("a job of the disk thread failed")
