"""One call in words, for ``siprec show`` and ``siprec top``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any


def time_of(wall: float | None) -> str:
    """A time of the day, from seconds since the epoch."""
    return datetime.fromtimestamp(wall).strftime("%H:%M:%S") if wall else "-"


def describe(call: Mapping[str, Any]) -> list[str]:
    """A call and its recordings (the API's `CallDetail`) as lines. Names are as they came from the network."""
    lines = [
        f"call       {call['dlg_id']}  {call['call_id']}",
        f"parties    {call['caller']} -> {call['callee']}",
        f"state      {call['state']}, begun {time_of(call['start'])}, answered {time_of(call['answer'])}",
        f"media      {call['media'] or call['media_error'] or 'direct'}",
    ]
    if call["why"]:
        lines.append(f"recorded   no: {call['why']}")
    for recording in call["recording"]:
        lines += ["", *_recording(recording)]
    return lines


def _recording(recording: Mapping[str, Any]) -> list[str]:
    where = f" at {recording['server']}" if recording["server"] else ""
    lines = [f"recording  {recording['instance']}: {recording['state']}{where}"]
    if recording["wanted_by"]:
        lines.append(f"wanted by  {recording['wanted_by']}")
    if recording["session_id"]:
        lines.append(f"session    {recording['session_id']}  {recording['rs_call_id']}")
    for attempt in recording["attempts"]:
        why = f" ({attempt['status'] or ''} {attempt['reason']})".replace("( ", "(") if attempt["reason"] else ""
        lines.append(f"attempt    {time_of(attempt['at'])} {attempt['server']}: {attempt['result']}{why}")
    for each in recording["pauses"]:
        by = f", by {each['by']}" if each["by"] else ""
        lines.append(f"pause      {time_of(each['start'])} - {time_of(each['end'])}{by}")
    if recording["last_error"]:
        lines.append(f"error      {recording['last_error']}")
    if recording["why"]:
        lines.append(f"why        {recording['why']}")
    return lines + _streams(recording["streams"])


def _streams(streams: Sequence[Mapping[str, Any]]) -> list[str]:
    if not streams:
        return ["no streams"]
    rows = [("LABEL", "PARTY", "KIND", "CODECS", "FORKED", "WITHHELD", "LOST", "TO")]
    for stream in streams:
        counters = stream["counters"] or {}
        rows.append(
            (
                stream["label"],
                stream["party"],
                f"{stream['kind']}, SRTP" if stream["srtp"] else stream["kind"],
                " ".join(stream["codecs"]),
                _number(counters.get("packets")),
                _number(counters.get("withheld")),
                _number(counters.get("lost_reported")),
                counters.get("endpoint", "-"),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _number(value: object) -> str:
    return "-" if value is None else str(value)
