"""What is on the screen: lines made from the picture and from what the user chose. No terminal, no network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from rich.cells import cell_len, set_cell_size

from siprec.cli.top.feed import Feed, Key, Packets, Picture
from siprec.cli.top.terminal import Line

KEYS: Final = (
    "↑↓ PgUp PgDn Home End  choose, or scroll",
    "Enter, l   the ladder of the call: its messages, those of its recordings, media commands",
    "d          the call in full: SRSs tried, pauses, streams with their packets",
    "p r s      pause, resume, stop the recording (stop asks first); R start one by its profile",
    "/          show only calls with this text in an address, Call-ID, id, state or SRS; Esc shows all",
    "Tab        SRSs and media servers",
    "e          events",
    "? h        this page",
    "q, Ctrl-C  end; Esc or q closes a page",
)
_BAR: Final = "q quit  l ladder  d details  p pause  r resume  s stop  / filter  Tab servers  ? help"
_PAGE_BAR: Final = "↑↓ PgUp PgDn scroll  ←→ sideways  Esc back  q back"


@dataclass(slots=True)
class Row:
    """One line of the list: a recording of a call, or a call without any."""

    key: Key
    call: Mapping[str, Any]
    recording: Mapping[str, Any] | None
    packets: Packets

    @property
    def words(self) -> Iterator[str]:
        """What a filter looks at."""
        for name in ("caller", "callee", "call_id", "dlg_id", "state"):
            yield str(self.call[name])
        if self.recording is not None:
            for name in ("instance", "state", "server", "session_id", "rs_call_id"):
                yield str(self.recording[name])


@dataclass(slots=True)
class Choice:
    """What the user chose: the row, a filter, a page over the list, a question that waits for its answer."""

    key: Key = ("", "")
    index: int = 0
    top: int = 0
    filter: str = ""
    typing: bool = False
    page: str = ""
    scroll: int = 0
    sideways: int = 0
    question: str = ""
    asked: Key = ("", "")
    status: str = ""
    rows: list[Row] = field(default_factory=list)


def rows_of(picture: Picture, wanted: str) -> list[Row]:
    """The rows that fit the filter, oldest call first."""
    found: list[Row] = []
    text = wanted.casefold()
    for call in picture.calls:
        recordings: Sequence[Mapping[str, Any] | None] = picture.recordings.get(call["dlg_id"], ()) or (None,)
        for recording in recordings:
            key = (str(call["dlg_id"]), str(recording["instance"]) if recording is not None else "")
            row = Row(key, call, recording, picture.packets.get(key, Packets()))
            if not text or any(text in word.casefold() for word in row.words):
                found.append(row)
    return found


def place(choice: Choice, rows: list[Row], height: int) -> None:
    """Keep the choice on its row, wherever that went, and on the screen."""
    choice.rows = rows
    index = next((i for i, row in enumerate(rows) if row.key == choice.key), None)
    if index is None:  # over, or its recording began: the same call, else the same place
        index = next((i for i, row in enumerate(rows) if row.key[0] == choice.key[0]), choice.index)
    choice.index = max(0, min(index, len(rows) - 1))
    choice.key = rows[choice.index].key if rows else ("", "")
    choice.top = max(0, min(choice.top, choice.index, max(0, len(rows) - height)))
    if choice.index >= choice.top + height:
        choice.top = choice.index - height + 1


# -- pieces ------------------------------------------------------------------------------------------------------------


def _fit(text: str, width: int) -> str:
    shown = "".join(c if c.isprintable() else "?" for c in text)
    if cell_len(shown) > width:
        return set_cell_size(shown, max(0, width - 1)) + "…" * (width > 0)
    return set_cell_size(shown, width)


def _party(uri: str) -> str:
    return uri.removeprefix("sip:").removeprefix("sips:").partition(";")[0]


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, int(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}/s"


_COLOUR: Final = {
    "active": "good",
    "paused": "warn",
    "inviting": "warn",
    "forking": "warn",
    "ending": "dim",
    "idle": "dim",
    "up": "good",
    "down": "bad",
    "draining": "warn",
    "unknown": "dim",
}


def _srs_line(each: Mapping[str, Any]) -> Line:
    why = f"  {each['status'] or ''} {each['reason']}".rstrip() if each["state"] == "down" else ""
    return (
        ("SRS    ", "dim"),
        (f"{each['state']:9}", _COLOUR.get(each["state"], "")),
        (f"{each['uri']}  {each['active']} active, {each['established']} set up, {each['failed']} failed{why}", ""),
    )


def _media_line(each: Mapping[str, Any]) -> Line:
    state = ("draining" if each["draining"] else "up") if each["alive"] else "down"
    trip = f"  {each['round_trip'] * 1000:.1f} ms" if each["round_trip"] is not None else ""
    restarts = f"  {each['restarts']} restarts" if each["restarts"] else ""
    error = f"  {each['error']}" if each["error"] else ""
    return (
        ("MEDIA  ", "dim"),
        (f"{state:9}", _COLOUR.get(state, "")),
        (f"{each['name']}  {each['calls']} calls{trip}{restarts}{error}", ""),
    )


def _servers(picture: Picture) -> list[Line]:
    worst = sorted(picture.srs, key=lambda each: ("down", "up", "unknown").index(each["state"]))
    return [*map(_srs_line, worst), *map(_media_line, picture.media)]


def _title(feed: Feed, columns: int, what: str) -> Line:
    picture = feed.picture
    clock = datetime.fromtimestamp(picture.at).strftime(" %H:%M:%S ") if picture.at else " "
    left = f" siprec top  {what}"
    return ((_fit(left, max(0, columns - len(clock))) + clock, "title"),)


def _summary(feed: Feed, columns: int) -> list[Line]:
    picture = feed.picture
    answered = sum(call["answer"] is not None for call in picture.calls)
    states: dict[str, int] = {}
    for recordings in picture.recordings.values():
        for each in recordings:
            states[each["state"]] = states.get(each["state"], 0) + 1
    partly = f" (the oldest {len(picture.calls)} shown)" if picture.total > len(picture.calls) else ""
    told = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none"
    first: list[tuple[str, str]] = [
        (f"calls {picture.total}{partly}, {answered} answered   recordings ", ""),
        (told, "warn" if "paused" in states else ""),
        (f"   packets {_rate(picture.received)} in, {_rate(picture.copied)} copied", ""),
    ]
    if picture.draining:
        first.append(("   draining: new calls get 503", "warn"))
    lines: list[Line] = [first]
    if picture.error:
        lines.append(((f"NOT CONNECTED, trying again: {picture.error}", "bad"),))
    return lines


_NAMES: Final = ("CALLER", "CALLEE", "TIME", "RECORDING", "PACKETS", "LOST", "SRS")
_RIGHT: Final = frozenset({2, 4, 5})
_RECORDING: Final = 3


def _widths(columns: int) -> tuple[int, ...]:
    """Of the columns; 0: there is no room for it. Who talks to whom comes first."""
    packets, lost = (7 if columns >= 60 else 0), (6 if columns >= 70 else 0)
    left = columns - 1 - (8 + 13 + packets + lost) - 4 - bool(packets) - bool(lost)
    server = min(40, left - 54)
    if server < 8:
        server = 0
    party = max(6, (left - server) // 2)
    return party, party, 8, 13, packets, lost, server


def _cells(words: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Each word as wide as its column, with what separates it from the one before."""
    found = []
    for number, (word, width) in enumerate(zip(words, widths, strict=True)):
        if width:
            found.append(" " * bool(number) + (f"{word:>{width}}" if number in _RIGHT else _fit(word, width)))
    return found


def _row(row: Row, widths: Sequence[int], now: float, chosen: bool) -> Line:
    call, recording = row.call, row.recording
    state = recording["state"] if recording is not None else "-"
    cells = _cells(
        (
            _party(call["caller"]),
            _party(call["callee"]),
            _clock(now - call["answer"]) if call["answer"] is not None else call["state"],
            state if recording is None or row.key[1] == "default" else f"{row.key[1]}:{state}",
            _rate(row.packets.rate),
            "-" if row.packets.lost is None else str(row.packets.lost),
            _party(recording["server"]) if recording is not None else "",
        ),
        widths,
    )
    if chosen:
        return ((">" + "".join(cells), "selected"),)
    before, after = "".join(cells[:_RECORDING]), "".join(cells[_RECORDING + 1 :])
    return ((f" {before}", ""), (cells[_RECORDING], _COLOUR.get(state, "")), (after, ""))


# -- whole screens -----------------------------------------------------------------------------------------------------


def list_screen(feed: Feed, choice: Choice, columns: int, lines: int, now: float) -> tuple[list[Line], int]:
    """The list of calls as lines, and how many rows it had room for. Moves the choice with its row."""
    picture = feed.picture
    head: list[Line] = [_title(feed, columns, feed.url), *_summary(feed, columns)]
    servers = _servers(picture)
    room = max(0, min(6, lines - len(head) - 8))
    if len(servers) > room > 0:
        more = len(servers) - room + 1
        servers = [*servers[: room - 1], ((f"       and {more} more: Tab", "dim"),)]
    head += servers[:room]
    widths = _widths(columns)
    head.append(((" " + "".join(_cells(_NAMES, widths)), "bold"),))
    height = max(1, lines - len(head) - 2)
    rows = rows_of(picture, choice.filter)
    place(choice, rows, height)
    numbers = range(choice.top, min(len(rows), choice.top + height))
    body = [_row(rows[number], widths, now, number == choice.index) for number in numbers]
    if not rows:
        body.append((("  no call fits the filter" if choice.filter else "  no calls", "dim"),))
    body += [()] * (height - len(body))
    return [*head, *body, _footer(feed, choice), ((_BAR, "dim"),)], height


def _footer(feed: Feed, choice: Choice) -> Line:
    if choice.question:
        return ((choice.question, "warn"),)
    if choice.typing:
        return (("filter: ", "bold"), (choice.filter + "▏", ""), ("  Enter keeps it, Esc drops it", "dim"))
    if choice.status or feed.status:
        return ((choice.status or feed.status, "bold"),)
    if choice.filter:
        return (("filter: ", "bold"), (choice.filter, ""), (f"  {len(choice.rows)} fit; Esc shows all", "dim"))
    return ((event_line(feed.news[-1]), "dim"),) if feed.news else ()


def event_line(event: Mapping[str, Any]) -> str:
    """An event in one line."""
    time = datetime.fromtimestamp(event["time"]).strftime("%H:%M:%S")
    why = f"{event['status'] or ''} {event['reason']}".strip()
    words = (time, event["event"], event["dlg_callid"], event["instance"], event["server"], why)
    return " ".join(str(word) for word in words if word)


def page_screen(feed: Feed, choice: Choice, columns: int, lines: int) -> list[Line]:
    """A page over the list: a ladder, a call in full, servers, events, keys."""
    picture = feed.picture
    content: list[Line]
    title = choice.page
    if choice.page == "servers":
        content = _servers(picture) or [(("no servers", "dim"),)]
    elif choice.page == "keys":
        content = [((text, ""),) for text in KEYS]
    elif choice.page == "events":
        content = [((event_line(each), ""),) for each in feed.news] or [(("none yet", "dim"),)]
    else:
        text = feed.text
        content = [((line, ""),) for line in text.lines] if text is not None else []
        title = f"{choice.page} of {text.name}" if text is not None else choice.page
    height = max(1, lines - 2 - bool(picture.error))
    choice.scroll = max(0, min(choice.scroll, len(content) - height))
    shown = content[choice.scroll : choice.scroll + height]
    if choice.sideways:
        shown = [_shifted(line, choice.sideways) for line in shown]
    shown += [()] * (height - len(shown))
    where = f"  {choice.scroll + 1}-{min(len(content), choice.scroll + height)} of {len(content)}"
    head: list[Line] = [_title(feed, columns, title + (where if len(content) > height else ""))]
    if picture.error:
        head.append(((f"NOT CONNECTED, trying again: {picture.error}", "bad"),))
    return [*head, *shown, ((_PAGE_BAR, "dim"),)]


def _shifted(line: Line, cells: int) -> Line:
    found = []
    for text, style in line:
        found.append((text[cells:], style))
        cells = max(0, cells - len(text))
    return found
