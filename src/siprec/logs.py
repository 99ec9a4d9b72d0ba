"""What is logged, how it looks, and which fields it carries: for people, for machines (JSON lines), for the journal.

A line's fields are the arguments that its template names: ``Call-ID %s``, ``(call %s)``, ``session_id=%s``... They come
from the template, so that nothing a peer sends can pretend to be one.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import select
import stat
import sys
import threading
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import IO, Any, Final, Literal

from siprec.batches import Batches

Level = Literal["debug", "info", "warning", "error", "critical"]
Format = Literal["text", "json"]

LEVELS: Final = ("debug", "info", "warning", "error", "critical")
NAMED: Final = {
    "Call-ID": "call_id",
    "call": "call_id",
    "dlg_callid": "call_id",
    "callid": "rs_call_id",
    "rs": "rs_call_id",
    "session": "session_id",
    "session_id": "session_id",
    "SRS": "srs",
    "srs": "srs",
    "server": "srs",
    "instance": "instance",
}
"""How templates name things, and the field that it becomes."""
FIELDS: Final = ("call_id", "session_id", "rs_call_id", "srs", "instance")
_PLACE: Final = re.compile(
    r"(?:(?<![\w-])(?:(Call-ID|call|SRS)\ |(dlg_callid|callid|session_id|server|instance|call|rs|session|srs)=))?"
    r"%(?:%|[-#0 +]*[\d.]*[a-zA-Z])"
)
# Priorities of syslog, as `sd-daemon` takes them at the beginning of a line.
_PRIORITY: Final = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))

_RESERVE: Final = 10_000
_AT_ONCE: Final = 4000
"""Octets that a pipe takes without blocking whenever it is writable (4,096), less room for a notice."""

_chosen: list[Format] = ["text"]
_set: set[str] = set()


@functools.lru_cache(maxsize=1024)
def _places(template: str) -> tuple[tuple[str, int], ...]:
    """Field and index of argument, for each that a template names."""
    found, index = [], 0
    for match in _PLACE.finditer(template):
        if match[0].endswith("%%"):
            continue
        name = match[1] or match[2]
        if name:
            found.append((NAMED[name], index))
        index += 1
    return tuple(found)


def fields_of(record: logging.LogRecord) -> dict[str, str]:
    """Call-ID, session id and the like of a line: named by its template, or given as `extra`."""
    found: dict[str, str] = {}
    if isinstance(record.args, tuple):
        for name, index in _places(str(record.msg)):
            if index < len(record.args) and record.args[index]:
                found[name] = str(record.args[index])
    for name in FIELDS:
        given = getattr(record, name, "")
        if given:
            found[name] = str(given)
    return found


def in_journal(stream: IO[str]) -> bool:
    """Whether `stream` goes to systemd's journal, which knows the time itself and takes priorities."""
    wanted = os.environ.get("JOURNAL_STREAM", "")
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return wanted == f"{found.st_dev}:{found.st_ino}"


def _priority(level: int) -> int:
    return next((priority for least, priority in _PRIORITY if level >= least), 7)


_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """`text` with control characters, line separators, direction marks and undecodable octets as escapes.

    What a stranger sends can then neither begin a line nor steer a terminal.
    """
    if _CONTROLS.search(text) is None:
        return text
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


class TextFormatter(logging.Formatter):
    """Lines for people. `journal`: with priorities instead of time and level, on every line of a traceback.

    A message is one line. The lines of a traceback are set in, each made :func:`visible`.
    """

    def __init__(self, journal: bool = False) -> None:
        super().__init__("%(name)s %(message)s" if journal else "%(asctime)s %(levelname)-7s %(name)s %(message)s")
        self._journal = journal

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = visible(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        return "\n".join("  " + visible(line) for line in super().formatException(ei).split("\n"))

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if not self._journal:
            return text
        mark = f"<{_priority(record.levelno)}>"
        return "\n".join(mark + line for line in text.split("\n"))


class JsonFormatter(logging.Formatter):
    """One JSON object per line: ``time`` (RFC 3339, UTC), ``level``, ``logger``, ``message``, the fields, and
    ``exception`` where there is one."""

    def __init__(self, journal: bool = False) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, object] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        text = json.dumps(line)
        return f"<{_priority(record.levelno)}>{text}" if self._journal else text


class BatchHandler(logging.Handler):
    """Writes lines to `stream` in batches: below WARNING by a thread, at most every 50 ms; from WARNING on at once,
    with everything that was queued before, in order.

    Nobody who logs waits for a pipe, a socket or a terminal that takes no more: the thread does. `limit` lines are
    queued, and 10,000 more from WARNING on. What there is no room for is counted in `dropped`, and a line says so when
    there is room again.
    """

    def __init__(self, stream: IO[str], limit: int = 10_000) -> None:
        super().__init__()
        self.stream = stream
        self.limit = limit
        self.dropped = 0
        self._told = 0
        self._lines: deque[str] = deque()
        self._writing = threading.RLock()
        self._batches = Batches("log", self._work)

    def createLock(self) -> None:
        """No lock around :meth:`emit`: who logs would wait for the thread that writes."""
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        """Format a record and queue it."""
        try:
            line = self.format(record)
        except Exception:
            self.handleError(record)
            return
        urgent = record.levelno >= logging.WARNING
        if len(self._lines) >= (self.limit + _RESERVE if urgent else self.limit):
            self.dropped += 1
            return
        self._lines.append(line)
        if not (urgent and self._write_if_taken()):
            self._batches.wake()

    def flush(self) -> None:
        """Write what is queued, now."""
        with self._writing:
            self._write()

    def _write_if_taken(self) -> bool:
        """Write what is queued if that does not block; whether it did."""
        if not self._writing.acquire(blocking=False):
            return False  # the thread writes, and takes this next
        try:
            if not self._is_ready():
                return False
            self._write()
            return True
        finally:
            self._writing.release()

    def _is_ready(self) -> bool:
        """Whether the stream takes what is queued at once: a file does, anything else up to `_AT_ONCE` octets when it
        says so."""
        try:
            descriptor = self.stream.fileno()
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return True
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            if not poll.poll(0) or len(self._lines) > _AT_ONCE:
                return False
            return len("\n".join(list(self._lines)).encode(errors="replace")) < _AT_ONCE
        except (OSError, ValueError):
            return True  # nothing that could block

    def _write(self) -> None:
        lines = []
        while self._lines:
            lines.append(self._lines.popleft())
        if self.dropped > self._told:
            lost, self._told = self.dropped - self._told, self.dropped
            lines.append(self.format(_notice("%d lines of the log were dropped: its stream took none", lost)))
        if not lines:
            return
        try:
            self.stream.write("\n".join(lines) + "\n")
            self.stream.flush()
        except Exception:
            # Whoever reads is gone, or the disk is full: logging never raises.
            self.handleError(_notice("the log cannot be written", None))

    def _work(self) -> None:
        self.flush()

    def close(self) -> None:
        """Write what is queued and end the thread."""
        self._batches.close(5.0)
        self.flush()
        super().close()


def _notice(template: str, argument: int | None) -> logging.LogRecord:
    arguments = () if argument is None else (argument,)
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, template, arguments, None)


def setup_logging(
    level: str = "info", form: Format = "text", levels: Mapping[str, str] | None = None, stream: IO[str] | None = None
) -> None:
    """Log to `stream` (standard error). Whatever was set up before is replaced.

    `levels`: logger -> level where it is another one than `level`; it holds for the loggers below, too.
    """
    out = stream if stream is not None else sys.stderr
    journal = in_journal(out)
    handler = BatchHandler(out)
    handler.setFormatter(JsonFormatter(journal) if form == "json" else TextFormatter(journal))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    _chosen[0] = form
    for name in _set - set(levels or {}):
        set_level(name, "")
    for name, wanted in (levels or {}).items():
        set_level(name, wanted)


def set_level(logger: str, level: str) -> None:
    """`level` for a logger and those below it (empty: the root); an empty level: as the one above."""
    logging.getLogger(logger or None).setLevel(level.upper() if level else logging.NOTSET)
    if logger and level:
        _set.add(logger)
    else:
        _set.discard(logger)


def level_name(level: int) -> Level:
    """The name of a level, the next higher one where it has none."""
    named: tuple[tuple[int, Level], ...] = (
        (logging.DEBUG, "debug"),
        (logging.INFO, "info"),
        (logging.WARNING, "warning"),
        (logging.ERROR, "error"),
    )
    return next((name for number, name in named if level <= number), "critical")


def levels() -> tuple[Level, dict[str, Level]]:
    """The level of the root, and of each logger that has one of its own by :func:`set_level`."""
    own = {name: level_name(logging.getLogger(name).level) for name in sorted(_set)}
    return level_name(logging.getLogger().getEffectiveLevel()), own


def child_arguments(logger: str) -> list[str]:
    """How a child process is to log what belongs to `logger`: arguments for its command line."""
    level = level_name(logging.getLogger(logger).getEffectiveLevel())
    return [f"--log-format={_chosen[0]}", f"--log-level={level}"]
