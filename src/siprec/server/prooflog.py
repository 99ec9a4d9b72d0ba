"""Proofs of recording on disk: JSON lines in one file a day (UTC), written by a thread of its own."""

from __future__ import annotations

import logging
import os
import queue
import re
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec

from siprec.recording.verdict import Begun, Line, Proof

log = logging.getLogger(__name__)

_NAME: Final = re.compile(r"proof-(\d{4})(\d\d)(\d\d)\.jsonl\Z")
_BACKLOG: Final = 10_000
_COMPLAINT: Final = 60.0


class ProofLog:
    """Appends lines to ``proof-YYYYMMDD.jsonl`` in `directory`, which is made when the first line comes.

    Lines are handed to a thread: a slow disk makes nobody wait. What cannot be written, or no longer waits in line
    (10,000), is counted in `lost` and logged, once a minute at most. `keep_days`: files of older days are deleted; 0:
    never. Files can be read by their owner and group only.
    """

    def __init__(self, directory: Path, keep_days: int = 0) -> None:
        self.directory = directory
        self.keep_days = keep_days
        self.written = 0
        self.lost = 0
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._day = ""
        self._file: int | None = None
        self._complained = float("-inf")

    def write(self, line: bytes) -> None:
        """Have a line (without its end) written; never waits, never raises."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="proof", daemon=True)
            self._thread.start()
        if self._queue.qsize() >= _BACKLOG:
            self.lost += 1
            return
        self._queue.put(line)

    def close(self, limit: float = 10.0) -> None:
        """Write what waits and end the thread; gives a stuck disk `limit` seconds."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(limit)
            self._thread = None

    def _run(self) -> None:
        while (line := self._queue.get()) is not None:
            lines = [line]
            # One write for what has come meanwhile.
            over = False
            while not self._queue.empty() and len(lines) < 1000:
                more = self._queue.get()
                if more is None:
                    over = True
                    break
                lines.append(more)
            self._append(lines)
            if over:
                break
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _append(self, lines: list[bytes]) -> None:
        try:
            file = self._today()
            octets = memoryview(b"\n".join(lines) + b"\n")
            while octets:
                octets = octets[os.write(file, octets) :]
            self.written += len(lines)
        except OSError as error:
            self.lost += len(lines)
            if time.monotonic() - self._complained > _COMPLAINT:
                self._complained = time.monotonic()
                log.error("proofs of recording are not written (%d so far): %s", self.lost, error)

    def _today(self) -> int:
        day = time.strftime("%Y%m%d", time.gmtime())
        if self._file is None or day != self._day:
            self.directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            file = os.open(self.directory / f"proof-{day}.jsonl", flags, 0o640)
            if self._file is not None:
                os.close(self._file)
            self._file, self._day = file, day
            self._tidy()
        return self._file

    def _tidy(self) -> None:
        if self.keep_days > 0:
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
        if match is not None:
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
                try:
                    line = decoder.decode(octets)
                except msgspec.DecodeError as error:
                    yield f"{path}:{number}: {error}"
                    continue
                if since <= line.answered <= until:
                    yield line
