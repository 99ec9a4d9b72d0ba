"""``siprec audit``: which calls were not, or not wholly, recorded, and why."""

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

from siprec.recording.verdict import Begun, Proof
from siprec.server.prooflog import read

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_SPAN: Final = re.compile(r"(\d+)([smhdw])\Z")
_OPEN: Final = "no end was written: the call goes on, or the process was killed"


class Audit(msgspec.Struct, kw_only=True):
    """What the proofs of a period say. `unended`: calls that began and whose end is not known."""

    complete: int = 0
    partial: int = 0
    none: int = 0
    confirmed: int = 0
    unended: list[Begun] = []
    incomplete: list[Proof] = []
    unreadable: list[str] = []

    @property
    def calls(self) -> int:
        """Recordings that were wanted."""
        return self.complete + self.partial + self.none + len(self.unended)


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


def audit(directory: Path, since: float, until: float) -> Audit:
    """Read the proofs of calls answered in a period.

    Raises:
        OSError: the directory cannot be read.
    """
    result = Audit()
    begun: dict[tuple[str, str], Begun] = {}
    for line in read(directory, since, until):
        if isinstance(line, str):
            result.unreadable.append(line)
            continue
        key = (line.dlg_id, line.instance)
        if isinstance(line, Begun):
            begun[key] = line
            continue
        begun.pop(key, None)
        setattr(result, line.verdict, getattr(result, line.verdict) + 1)
        result.confirmed += line.confirmed
        if line.verdict != "complete":
            result.incomplete.append(line)
    result.unended = list(begun.values())
    return result


def main(directory: Path, since: str, until: str, *, as_json: bool) -> int:
    """Print the audit; exit status 0: all recorded wholly, 1: not all, 2: it cannot be told."""
    now = time.time()
    try:
        first = moment(since, now)
        last = moment(until, now) if until else float("inf")
        found = audit(directory, first, last)
    except (FileNotFoundError, NotADirectoryError):
        print(
            f"siprec audit: {directory} is no directory; [proof] of the proxy's configuration names it", file=sys.stderr
        )
        return 2
    except (ValueError, OSError) as error:
        print(f"siprec audit: {error}", file=sys.stderr)
        return 2
    if as_json:
        print(msgspec.json.encode(found).decode())
    else:
        _show(found)
    if found.unreadable:
        return 2
    return 1 if found.incomplete or found.unended else 0


def _show(found: Audit) -> None:
    console = Console(highlight=False, markup=False)
    if found.incomplete or found.unended:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("answered", "call", "from", "to", "instance", "recorded", "why"):
            table.add_column(name, overflow="fold")
        rows: list[Proof | Begun] = [*found.incomplete, *found.unended]
        for each in sorted(rows, key=lambda row: row.answered):
            verdict, why = (each.verdict, "; ".join(each.reasons)) if isinstance(each, Proof) else ("unknown", _OPEN)
            at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(each.answered))
            cells = (at, each.call_id, each.caller, each.callee, each.instance, verdict, why)
            table.add_row(*(_clean(cell) for cell in cells))
        console.print(table)
    for text in found.unreadable:
        print(f"siprec audit: {_clean(text)}", file=sys.stderr)
    print(
        f"{found.calls} recordings wanted: "
        f"{found.complete} complete, {found.confirmed} of all confirmed by the SRS's receiver reports, "
        f"{found.partial} partial, {found.none} none, {len(found.unended)} without an end"
    )


def _clean(value: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in value)
