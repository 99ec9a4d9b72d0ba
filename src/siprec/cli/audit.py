"""``siprec audit``: which calls were not, or not wholly, recorded, and why; which nobody confirmed."""

from __future__ import annotations

import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from siprec.recording.proof import VERSION, Begun, Proof
from siprec.server.prooflog import files, read

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_SPAN: Final = re.compile(r"(\d+)([smhdw])\Z")
_COLUMNS: Final = ("answered", "call", "from", "to", "instance", "recorded", "why")
_OLD: Final = "proved by an earlier version, which did not ask what the SRS had received"
_OPEN: Final = "no end was written: the call goes on, or the process was killed"


class NoProofs(Exception):
    """A directory without proofs: nothing can be told."""


class Audit(msgspec.Struct, kw_only=True):
    """What the proofs of a period say. `unended`: calls that began and whose end is not known; `incomplete`: partial
    or none; `doubtful`: unconfirmed."""

    complete: int = 0
    unconfirmed: int = 0
    partial: int = 0
    none: int = 0
    unended: list[Begun] = []
    incomplete: list[Proof] = []
    doubtful: list[Proof] = []
    unreadable: list[str] = []

    @property
    def calls(self) -> int:
        """Recordings that were wanted."""
        return self.complete + self.unconfirmed + self.partial + self.none + len(self.unended)

    def status(self, *, strict: bool) -> int:
        """The exit status; `strict`: what is unconfirmed is not recorded."""
        if self.unreadable:
            return 2
        return int(bool(self.incomplete or self.unended or (strict and self.doubtful)))


def moment(text: str, now: float) -> float:
    """``24h``, ``7d`` (ago), a date or an ISO time (UTC unless it says otherwise) as seconds since the epoch.

    Raises:
        ValueError: none of these.
    """
    match = _SPAN.match(text)
    if match is not None:
        return now - int(match[1]) * _UNITS[match[2]]
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither a span such as 24h or 7d, nor a time such as 2026-01-31T08:00") from None
    return (value if value.tzinfo is not None else value.replace(tzinfo=UTC)).timestamp()


def audit(directory: Path, since: float, until: float, call_id: str = "") -> Audit:
    """Read the proofs of calls answered in a period; `call_id`: of this call only.

    Raises:
        OSError: the directory cannot be read.
        NoProofs: there are none in it.
    """
    if not files(directory):
        raise NoProofs(f"no proofs in {directory}: siprec serve writes them where [proof] of its configuration says")
    result = Audit()
    begun: dict[tuple[str, str], Begun] = {}
    for line in read(directory, since, until):
        if isinstance(line, str):
            result.unreadable.append(line)
            continue
        if call_id and line.call_id != call_id:
            continue
        key = (line.dlg_id, line.instance)
        if isinstance(line, Begun):
            begun[key] = line
            continue
        begun.pop(key, None)
        if line.verdict == "complete" and line.version < VERSION:
            line.verdict, line.reasons = "unconfirmed", [_OLD]
        setattr(result, line.verdict, getattr(result, line.verdict) + 1)
        if line.verdict in ("partial", "none"):
            result.incomplete.append(line)
        elif line.verdict == "unconfirmed":
            result.doubtful.append(line)
    result.unended = list(begun.values())
    return result


def main(directory: Path, since: str, until: str, *, as_json: bool, strict: bool = False, call_id: str = "") -> int:
    """Print the audit; exit status 0: all recorded, 1: not all or not wholly, 2: it cannot be told. `strict`: also 1
    for what the SRS did not confirm."""
    now = time.time()
    try:
        first = moment(since, now)
        last = moment(until, now) if until else float("inf")
        found = audit(directory, first, last, call_id)
    except (FileNotFoundError, NotADirectoryError):
        print(
            f"siprec audit: {directory} is no directory; [proof] of the proxy's configuration names it", file=sys.stderr
        )
        return 2
    except (ValueError, OSError, NoProofs) as error:
        print(f"siprec audit: {error}", file=sys.stderr)
        return 2
    if as_json:
        print(msgspec.json.encode(found).decode())
    else:
        _show(found)
    return found.status(strict=strict)


def _show(found: Audit) -> None:
    lines: list[Proof | Begun] = [*found.incomplete, *found.doubtful, *found.unended]
    if lines:
        _table([_row(line) for line in sorted(lines, key=lambda line: line.answered)])
    for text in found.unreadable:
        print(f"siprec audit: {_clean(text)}", file=sys.stderr)
    print(
        f"{found.calls} recordings wanted: "
        f"{found.complete} complete, {found.unconfirmed} unconfirmed, "
        f"{found.partial} partial, {found.none} none, {len(found.unended)} without an end"
    )


def _row(line: Proof | Begun) -> tuple[str, ...]:
    verdict, why = (line.verdict, "; ".join(line.reasons)) if isinstance(line, Proof) else ("unknown", _OPEN)
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(line.answered))
    cells = (at, line.call_id, line.caller, line.callee, line.instance, verdict, why)
    return tuple(_clean(cell) for cell in cells)


def _table(rows: list[tuple[str, ...]]) -> None:
    """Folded to the width of a terminal; each row one line for anything else that reads it."""
    if sys.stdout.isatty():
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in _COLUMNS:
            table.add_column(name, overflow="fold")
        for row in rows:
            table.add_row(*row)
        Console(highlight=False, markup=False).print(table)
        return
    widths = [max(len(row[column]) for row in (_COLUMNS, *rows)) for column in range(len(_COLUMNS))]
    for row in (_COLUMNS, *rows):
        print("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _clean(value: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in value)
