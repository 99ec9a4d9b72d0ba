"""Proofs of recording on disk: JSON lines in one file a day (UTC), written by a thread of its own."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec

from siprec.batches import Batches
from siprec.recording.proof import Begun, Line, Proof
from siprec.server.oserror_hints import why

log = logging.getLogger(__name__)

_NAME: Final = re.compile(r"proof-(\d{4})(\d\d)(\d\d)\.jsonl\Z")
_BACKLOG: Final = 10_000
_BATCH: Final = 1000
_COMPLAINT: Final = 60.0
_RETRY: Final = 5.0
_PROBE: Final = 8192
"""Octets that have to fit for a disk to count as one that takes proofs."""
_BEGINNING: Final = b'{"type":"'


class ProofLog:
    """Appends lines to ``proof-YYYYMMDD.jsonl`` in `directory`, which is made when it is first needed.

    Lines are handed to a thread, at most every 50 ms: a slow disk makes nobody wait, and what is written survives the
    end of the process, however it ends. What the disk refuses is kept (10,000 lines) and tried again every 5 seconds;
    what there is no room for, or is still refused at the end, is counted in `lost`. `error` says why nothing can be
    written just now, empty: it can; each minute of that is logged. `keep_days`: files of older days are deleted; 0:
    never. Files can be read by their owner and group only.
    """

    def __init__(self, directory: Path, keep_days: int = 0) -> None:
        self.directory = directory
        self.keep_days = keep_days
        self.written = 0
        self.lost = 0
        self.error = ""
        self._lines: deque[bytes] = deque()
        self._batches = Batches("proof", self._work)
        self._day = ""
        self._file: int | None = None
        self._torn = False
        self._complained = float("-inf")

    @property
    def waiting(self) -> int:
        """Lines that are not on the disk yet."""
        return len(self._lines)

    def probe(self) -> str:
        """Try whether the disk takes a file, for the start: why not, or nothing. Blocks."""
        try:
            self._make_directory()
            with tempfile.NamedTemporaryFile(dir=self.directory, prefix=".probe-") as file:
                file.write(bytes(_PROBE))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            self._refused(error)
            self._batches.wake()  # which looks again, now and then
        else:
            self._well()
        return self.error

    def write(self, line: bytes) -> None:
        """Have a line (without its end) written; never waits, never raises."""
        if len(self._lines) >= _BACKLOG:
            self.lost += 1
            return
        self._lines.append(line)
        self._batches.wake()

    def close(self, limit: float = 10.0) -> None:
        """Write what waits and end the thread; gives a stuck disk `limit` seconds."""
        if not self._batches.close(limit):
            return
        if self._lines:
            self.lost += len(self._lines)
            log.error("%d proofs of recording are lost: %s", len(self._lines), self.error)
            self._lines.clear()
        self._close_file()

    def _work(self) -> float | None:
        if self._lines:
            self._flush()
        elif self.error:
            self.probe()
        return _RETRY if self._lines or self.error else None

    def _flush(self) -> None:
        try:
            while self._lines:
                self._append([self._lines[number] for number in range(min(len(self._lines), _BATCH))])
        except OSError as error:
            self._close_file()
            self._refused(error)
        else:
            self._well()

    def _well(self) -> None:
        if self.error:
            log.warning("proofs of recording are written again")
        self.error = ""

    def _append(self, lines: list[bytes]) -> None:
        """Write lines, and take those that are on the disk from the ones kept."""
        file = self._today()
        lead = b"\n" if self._torn else b""
        octets = lead + b"\n".join(lines) + b"\n"
        done = 0
        try:
            while done < len(octets):
                done += os.write(file, memoryview(octets)[done:])
        finally:
            if done:
                whole = octets.rfind(b"\n", 0, done) + 1
                self._torn = whole < done and not self._cut(file, done - whole)
                for _ in range(octets.count(b"\n", len(lead), whole)):
                    self._lines.popleft()
                    self.written += 1

    @staticmethod
    def _cut(file: int, octets: int) -> bool:
        """Take the beginning of a line that did not fit away again: the disk is full."""
        try:
            os.ftruncate(file, os.fstat(file).st_size - octets)
        except OSError:
            return False
        return True

    def _refused(self, error: OSError) -> None:
        self.error = why(error)
        if time.monotonic() - self._complained > _COMPLAINT:
            self._complained = time.monotonic()
            log.error("proofs of recording are not written (%d wait, %d lost): %s", self.waiting, self.lost, self.error)

    def _close_file(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = None

    def _make_directory(self) -> None:
        self.directory.mkdir(mode=0o750, parents=True, exist_ok=True)

    def _today(self) -> int:
        day = time.strftime("%Y%m%d", time.gmtime())
        if self._file is None or day != self._day:
            self._make_directory()
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            file = os.open(self.directory / f"proof-{day}.jsonl", flags, 0o640)
            self._close_file()
            self._file, self._day = file, day
            # What a process that was killed, or a full disk, left without an end must not swallow the next line.
            size = os.fstat(file).st_size
            self._torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
            self._tidy()
        return self._file

    def _tidy(self) -> None:
        if self.keep_days <= 0:
            return
        with contextlib.suppress(OSError):
            oldest = datetime.now(UTC).date() - timedelta(days=self.keep_days)
            for path, day in files(self.directory):
                if day.date() < oldest:
                    path.unlink(missing_ok=True)


def files(directory: Path) -> list[tuple[Path, datetime]]:
    """The files in `directory`, oldest first, with the beginning of their day.

    Raises:
        OSError: there is no such directory, or it cannot be read.
    """
    found = []
    for path in directory.iterdir():
        match = _NAME.match(path.name)
        if match is not None and path.is_file():
            try:
                found.append((path, datetime(int(match[1]), int(match[2]), int(match[3]), tzinfo=UTC)))
            except ValueError:
                continue
    return sorted(found)


def read(directory: Path, since: float = 0.0, until: float = float("inf")) -> Iterator[Begun | Proof | str]:
    """The lines of calls answered from `since` to `until` (seconds since the epoch), as they were written; a line that
    cannot be read comes as text that says where and why.

    Raises:
        OSError: the files cannot be read.
    """
    decoder = msgspec.json.Decoder(Line)
    for path, day in files(directory):
        if day.timestamp() + 86400 <= since:
            continue  # a proof is written at the end of its call, or later
        with path.open("rb") as file:
            for number, octets in enumerate(file, 1):
                if octets.isspace():
                    continue
                try:
                    line = decoder.decode(octets)
                except msgspec.DecodeError as error:
                    yield f"{path}:{number}: {error}"
                    rest = _rest(octets)
                    try:
                        line = decoder.decode(rest)
                    except msgspec.DecodeError:
                        continue
                if since <= line.answered <= until:
                    yield line


def _rest(octets: bytes) -> bytes:
    """What follows a line that was cut short and has no end of its own."""
    at = octets.rfind(_BEGINNING)
    return octets[at:] if at > 0 else b""
