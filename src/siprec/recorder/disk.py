"""Files on a disk that may refuse: full, read-only, over quota, gone.

What is refused waits in memory and is tried again. Everything here runs in the disk thread.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from pathlib import Path
from typing import Final

SPOOL_LIMIT: Final = 256 << 20
"""Octets of all files together that may wait for the disk. What comes beyond is lost, and its file says so."""
_HEAD: Final = 64


class _Spool:
    """How many octets wait, over all files."""

    waiting = 0


class DiskFile:
    """A new file, written at given positions. Writing never fails: `error` says why the disk refuses at present.

    Raises:
        FileExistsError: there is such a file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self.error: OSError | None = None
        """Why the disk refused last; None: everything is written."""
        self.lost = 0
        """Octets that could not even wait."""
        self._fd = -1
        self._head = bytearray(_HEAD)
        self._waiting: deque[tuple[int, bytes | None]] = deque()
        self._octets = 0
        self._closing = False
        self._deleted = False
        self._attempt(self._open)

    @property
    def waiting(self) -> int:
        """Octets that wait for the disk."""
        return self._octets

    @property
    def unfinished(self) -> bool:
        """Whether something waits that may still be written."""
        return bool(self._waiting) and not self._deleted

    def pwrite(self, data: bytes | memoryview, position: int) -> None:
        """Write `data` at `position`, now or as soon as the disk takes it."""
        octets = bytes(data)
        self.size = max(self.size, position + len(octets))
        if position < _HEAD:
            self._head[position : position + len(octets)] = octets[: _HEAD - position]
        self._put(position, octets)

    def head(self, position: int, count: int) -> bytes:
        """Octets as they were written, within the first 64 of the file."""
        return bytes(self._head[position : position + count])

    def truncate(self, size: int) -> None:
        """Make the file `size` octets long: a hole, where it was shorter."""
        self.size = size
        self._put(size, None)

    def _put(self, position: int, octets: bytes | None) -> None:
        if not self.retry() or not self._attempt(lambda: self._do(position, octets)):
            count = len(octets or b"")
            if _Spool.waiting + count > SPOOL_LIMIT:
                self.lost += count
                return
            _Spool.waiting += count
            self._octets += count
            self._waiting.append((position, octets))

    def retry(self) -> bool:
        """Try to write what waits; true if nothing waits any more."""
        if self.error is None:
            return True
        if self._deleted:
            return False
        while True:
            if self._fd < 0 and not self._attempt(self._open):
                return False
            if not self._waiting:
                break
            if not self._attempt(lambda: self._do(*self._waiting[0])):
                return False
            self._forget()
        self.error = None
        if self._closing:
            self._finish()
        return True

    def _forget(self) -> None:
        _, octets = self._waiting.popleft()
        _Spool.waiting -= len(octets or b"")
        self._octets -= len(octets or b"")

    def _attempt(self, action: object) -> bool:
        assert callable(action)
        try:
            action()
        except FileExistsError:
            raise
        except OSError as error:
            self.error = error
            return False
        return True

    def _open(self) -> None:
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)

    def _do(self, position: int, octets: bytes | None) -> None:
        if octets is None:
            os.ftruncate(self._fd, position)
            return
        rest = memoryview(octets)
        while rest:
            written = os.pwrite(self._fd, rest, position)
            rest, position = rest[written:], position + written

    def check(self) -> None:
        """Find out whether somebody has deleted the file while it is being written."""
        if self._fd >= 0 and not self._deleted and os.fstat(self._fd).st_nlink == 0:
            self._deleted = True
            self.error = OSError(errno.ENOENT, "a file of the recording was deleted", str(self.path))
            if self._closing:
                self.abandon()  # what is held open takes room on the disk

    def close(self) -> None:
        """Finish the file, now or when the disk has taken what waits. Closing twice is harmless."""
        self._closing = True
        if self._deleted:
            self.abandon()
        elif self.retry():
            self._finish()

    def abandon(self) -> None:
        """Give up what waits."""
        while self._waiting:
            self.lost += len(self._waiting[0][1] or b"")
            self._forget()
        self._finish()

    def _finish(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Stream:
    """A :class:`DiskFile` with a place in it, for libraries that write to file objects."""

    def __init__(self, file: DiskFile) -> None:
        self._file = file
        self._place = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As :meth:`io.RawIOBase.seek`."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._file.size}[whence]
        self._place = base + offset
        return self._place

    def tell(self) -> int:
        """As :meth:`io.RawIOBase.tell`."""
        return self._place

    def read(self, size: int = -1) -> bytes:
        """Nothing: what was written is not read back."""
        return b""

    def write(self, data: bytes) -> int:
        """As :meth:`io.RawIOBase.write`."""
        self._file.pwrite(data, self._place)
        self._place += len(data)
        return len(data)
