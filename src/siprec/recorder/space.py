"""Room on the disk: whether a further recording fits, and what each recording sets aside for its own JSON.

A disk can be full, over quota, out of inodes, read-only, slow, or gone. A recording session that would be lost on it is
refused with 503, so that the recording client takes another SRS.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from siprec.recorder.disk_thread import DiskWriter

RESERVE: Final = ".reserve"
"""A file in the directory of each recording under way: room for its last ``recording.json`` on a disk that is full."""
RESERVE_SIZE: Final = 32 << 10
MIN_INODES: Final = 64
SLOW: Final = 5.0
"""Seconds a write may wait for the disk before further recordings are refused."""
MEGABYTE: Final = 1 << 20


class Space:
    """The disk below `root`.

    Args:
        min_free: octets that have to be free.
        writer: the disk thread; if it is late, the disk is too slow.
    """

    def __init__(self, root: Path, writer: DiskWriter, min_free: int = 0) -> None:
        self.root = root
        self.min_free = min_free
        self._writer = writer

    @property
    def free(self) -> int:
        """Octets free; 0 if the disk does not say."""
        try:
            found = os.statvfs(self.root)
        except OSError:
            return 0
        return found.f_bavail * found.f_frsize

    def problem(self) -> str:
        """Why no further recording should be begun; empty: it can. Writes nothing."""
        delay = self._writer.delay
        if delay > SLOW:
            return f"the disk is slow: writes have been waiting for {delay:.0f} s"
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o750)
            found = os.statvfs(self.root)
        except OSError as error:
            return f"disk: {error.strerror}"
        if found.f_flag & os.ST_RDONLY:
            return "disk: Read-only file system"
        free = found.f_bavail * found.f_frsize
        if free < self.min_free:
            return f"disk: {free // MEGABYTE} MB free, less than min_free"
        if found.f_files > 0 and found.f_favail < MIN_INODES:
            return f"disk: {found.f_favail} inodes free"
        return ""

    def probe(self) -> str:
        """As :meth:`problem`, and try to write what a recording sets aside: a quota, for example, shows only so."""
        problem = self.problem()
        if problem:
            return problem
        path = self.root / f".probe-{os.getpid()}"
        try:
            try:
                reserve(path)
            finally:
                with suppress(OSError):
                    path.unlink()
        except OSError as error:
            return f"disk: {error.strerror}"
        return ""


def reserve(path: Path, allocate: Callable[[int, int, int], None] = os.posix_fallocate) -> None:
    """Make a file that occupies its room on the disk. Raises OSError if there is none."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
    try:
        allocate(fd, 0, RESERVE_SIZE)
    except OSError:
        with suppress(OSError):
            path.unlink()
        raise
    finally:
        os.close(fd)
