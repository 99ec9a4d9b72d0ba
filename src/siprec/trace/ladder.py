"""A call's messages as a ladder: who said what to whom, for eyes and for programs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from siprec.media.bencode import BencodeError, Value, decode_dict
from siprec.trace.ring import Step

US = "siprec"
Kind = Literal["cs", "rs", "media"]


@dataclass(frozen=True, slots=True)
class Rung:
    """One arrow. `kind`: the call itself (``cs``), a recording session (``rs``), or a media command."""

    time: float
    source: str
    target: str
    title: str
    kind: Kind
    call_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Ladder:
    """`places` from left to right; `rungs` in order."""

    places: tuple[str, ...]
    rungs: tuple[Rung, ...]


def build(call_id: str, steps: Iterable[tuple[str, Step]]) -> Ladder:
    """Order a call's messages; `call_id` is that of the call, others are recording sessions."""
    steps = list(steps)
    caller = next((step.peer for name, step in steps if _begins(name, call_id, step, "in")), None)
    names: dict[tuple[tuple[str, int], bool, bool], str] = {}

    def place(name: str, step: Step) -> str:
        session, media = name != call_id, step.kind == "media"
        key = (step.peer, session, media)
        found = names.get(key)
        if found is None:
            role = "media" if media else "SRS" if session else "caller" if step.peer == caller else "callee"
            found = names[key] = f"{role} {_address(step.peer)}"
        return found

    rungs = []
    for name, step in steps:
        there = place(name, step)
        source, target = (there, US) if step.direction == "in" else (US, there)
        media = step.kind == "media"
        title, text = _media(step) if media else (_title(step.data), step.data.decode("utf-8", "replace"))
        kind: Kind = "media" if media else "cs" if name == call_id else "rs"
        rungs.append(Rung(step.time, source, target, title, kind, name, text))
    order = ("caller", US, "callee", "SRS", "media")
    places = sorted({US, *names.values()}, key=lambda name: (order.index(name.partition(" ")[0]), name))
    return Ladder(tuple(places), tuple(rungs))


def _begins(name: str, call_id: str, step: Step, direction: str) -> bool:
    return name == call_id and step.direction == direction and step.data.startswith(b"INVITE ")


def _address(peer: tuple[str, int]) -> str:
    host = f"[{peer[0]}]" if ":" in peer[0] and peer[1] else peer[0]
    return f"{host}:{peer[1]}" if peer[1] else host


def _title(data: bytes) -> str:
    """``INVITE``, ``200 OK (INVITE)``."""
    line = data.partition(b"\r\n")[0].decode("utf-8", "replace")
    words = line.split(" ", 2)
    if words[0] != "SIP/2.0":
        return f"{words[0]} (SDP)" if words[0] in ("INVITE", "UPDATE", "ACK") and _has_sdp(data) else words[0]
    at = data.lower().find(b"\r\ncseq:")
    method = data[at + 7 : data.find(b"\r\n", at + 7)].decode("utf-8", "replace").split()[-1:] if at >= 0 else []
    return " ".join([*words[1:], *(f"({each}{', SDP' if _has_sdp(data) else ''})" for each in method)])


def _has_sdp(data: bytes) -> bool:
    return b"application/sdp" in data


def _media(step: Step) -> tuple[str, str]:
    _, _, body = step.data.partition(b" ")
    try:
        values = decode_dict(body)
    except BencodeError:
        text = body.decode("utf-8", "replace")
        return text.partition("\n")[0].partition(" ")[0][:60], text
    what = values.get("command") or values.get("result") or b"?"
    title = what.decode("utf-8", "replace") if isinstance(what, bytes) else str(what)
    return title, "\n".join(f"{key}: {_value(value)}" for key, value in values.items())


def _value(value: Value) -> str:
    if isinstance(value, bytes):
        text = value.decode("utf-8", "replace").replace("\r\n", "\n")
        return "\n  " + text.strip().replace("\n", "\n  ") if "\n" in text.strip() else text
    if isinstance(value, list):
        return ", ".join(_value(each) for each in value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_value(each)}" for key, each in value.items()) + "}"
    return str(value)


def draw(ladder: Ladder, *, bodies: bool = False) -> str:
    """The ladder in plain text: seconds since the first message, arrows between columns."""
    width = max((len(name) for name in ladder.places), default=10) + 6
    middle = [10 + width // 2 + number * width for number in range(len(ladder.places))]
    where = dict(zip(ladder.places, middle, strict=True))
    lines = [" " * 10 + "".join(name.center(width) for name in ladder.places).rstrip()]
    first = ladder.rungs[0].time if ladder.rungs else 0.0
    for rung in ladder.rungs:
        cells = [" "] * (10 + width * len(ladder.places))
        for column in middle:
            cells[column] = "|"
        left, right = sorted((where[rung.source], where[rung.target]))
        shown = f" {_printable(rung.title)[: max(4, right - left - 6)]} "
        arrow = shown.center(right - left - 1, "-")
        arrow = arrow[:-1] + ">" if where[rung.source] < where[rung.target] else "<" + arrow[1:]
        cells[left + 1 : right] = arrow
        lines.append(f"{rung.time - first:+9.3f} " + "".join(cells)[10:].rstrip())
        if bodies:
            text = "\n".join(f"    {_printable(line)}" for line in rung.text.replace("\r\n", "\n").splitlines())
            lines += ["", text, ""]
    return "\n".join(lines) + "\n"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
