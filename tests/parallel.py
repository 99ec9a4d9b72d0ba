"""Several workers (pytest-xdist) on one machine: shares of the ports, and moments that a test has for itself."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import IO


def share(size: int, of: int) -> int:
    """Where this worker's share begins, one of `of` shares of `size` ports. Workers of a run have different ones."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    number = int(os.environ["PYTEST_XDIST_TESTRUNUID"][:8], 16) + int(worker[2:]) if worker else os.getpid()
    return number % of * size


_unused = count()


def unused_port() -> int:
    """A port where nobody listens, nor will: below the ephemeral ones and beside those that tests hand out."""
    return 19900 + share(20, 5) + next(_unused) % 20


_own = count()


def own_port() -> int:
    """A port of this worker's own, free for UDP and TCP now.

    It lies below the ephemeral ones, so that nobody gets it by chance between now and its use, and below 8888, where
    each SIPp opens its control port (8888 to 8948, the first that is free).
    """
    first = 6000 + share(570, 5)
    for _ in range(570):
        port = first + next(_own) % 570
        if all(_is_free(kind, port) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM)):
            return port
    raise OSError("no port is free")


def _is_free(kind: socket.SocketKind, port: int) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


class Machine:
    """The machine as the workers share it: each test has it together with others, some for a while alone.

    Who wants it alone waits until the others' present tests are over; nobody begins another one meanwhile.
    """

    def __init__(self, directory: Path) -> None:
        self._gate = directory / "gate.lock"
        self._use = directory / "use.lock"
        self._held: IO[bytes] | None = None

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Around each test."""
        with self._locked(self._gate, fcntl.LOCK_EX):
            self._held = self._lock(self._use, fcntl.LOCK_SH)
        try:
            yield
        finally:
            held, self._held = self._held, None
            held.close()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Within a test."""
        assert self._held is not None
        with ExitStack() as stack:
            # First let go: two that want to be alone must not wait for each other.
            fcntl.flock(self._held, fcntl.LOCK_UN)
            stack.callback(fcntl.flock, self._held, fcntl.LOCK_SH)
            stack.enter_context(self._locked(self._gate, fcntl.LOCK_EX))
            fcntl.flock(self._held, fcntl.LOCK_EX)
            stack.callback(fcntl.flock, self._held, fcntl.LOCK_UN)
            yield

    @contextmanager
    def _locked(self, path: Path, kind: int) -> Iterator[None]:
        with self._lock(path, kind):
            yield

    @staticmethod
    def _lock(path: Path, kind: int) -> IO[bytes]:
        file = path.open("ab")
        fcntl.flock(file, kind)
        return file
