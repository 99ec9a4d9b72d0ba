"""Keys in, screens out: the loop of ``siprec top``."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from siprec.cli.client import ApiError
from siprec.cli.top.feed import Feed, Key
from siprec.cli.top.terminal import Closed, Terminal
from siprec.cli.top.view import Choice, Row, list_screen, page_screen

_SECOND: Final = 1.0
_STATUS: Final = 5.0
"""Seconds that the outcome of an order stays."""


def run(url: str) -> None:
    """Show what goes on at the API at `url` until the user ends it.

    Raises:
        ApiError: there is no terminal, or the API cannot be asked at the start.
    """
    if not Terminal.usable():
        raise ApiError("top needs a terminal; for programs there are `siprec ls --json` and `siprec events --json`")
    terminal = Terminal()
    feed = Feed(url, terminal.wake)
    feed.start()
    try:
        with terminal:
            Top(terminal, feed).run()
    except Closed:
        pass


class Top:
    """The state of one session at the terminal."""

    def __init__(self, terminal: Terminal, feed: Feed) -> None:
        self._terminal = terminal
        self._feed = feed
        self._choice = Choice()
        self._height = 1
        self._ended = False
        self._told = ("", 0.0)

    def run(self) -> None:
        """Until the user ends it; raises :class:`~siprec.cli.top.terminal.Closed` if the terminal went away."""
        while not self._ended:
            self._show()
            for key in self._terminal.keys(_SECOND):
                if self._choice.status or self._feed.status:
                    self._choice.status = self._feed.status = ""
                if key == "redraw":
                    self._terminal.redraw()
                elif self._choice.question:
                    self._answer(key)
                elif self._choice.typing:
                    self._type(key)
                elif self._choice.page:
                    self._on_page(key)
                else:
                    self._on_list(key)

    def _show(self) -> None:
        choice, feed = self._choice, self._feed
        now = time.time()
        if feed.status != self._told[0]:
            self._told = (feed.status, now)
        elif feed.status and now - self._told[1] > _STATUS:
            feed.status = ""
        columns, lines = self._terminal.size()
        if choice.page:
            self._terminal.draw(page_screen(feed, choice, columns, lines))
            self._height = max(1, lines - 3)
            return
        screen, self._height = list_screen(feed, choice, columns, lines, now)
        self._terminal.draw(screen)
        shown = choice.rows[choice.top : choice.top + self._height]
        visible = tuple(dict.fromkeys(row.key[0] for row in shown))
        if visible != feed.visible:
            feed.visible = visible
            feed.refresh()

    # -- keys ----------------------------------------------------------------------------------------------------------

    def _on_list(self, key: str) -> None:
        choice = self._choice
        steps = {
            "up": -1,
            "k": -1,
            "down": 1,
            "j": 1,
            "pageup": -self._height,
            "pagedown": self._height,
            "home": -len(choice.rows),
            "end": len(choice.rows),
        }
        if key in steps and choice.rows:
            choice.index = max(0, min(len(choice.rows) - 1, choice.index + steps[key]))
            choice.key = choice.rows[choice.index].key
            return
        pages: dict[str, Callable[[], None]] = {
            "tab": lambda: self._page("servers"),
            "?": lambda: self._page("keys"),
            "h": lambda: self._page("keys"),
            "e": lambda: self._page("events"),
            "enter": lambda: self._open("ladder"),
            "l": lambda: self._open("ladder"),
            "d": lambda: self._open("details"),
            "p": lambda: self._order("siprec_pause_recording"),
            "r": lambda: self._order("siprec_resume_recording"),
            "R": lambda: self._order("siprec_start_recording"),
            "s": self._ask_to_stop,
            "q": self._end,
        }
        if key == "/":
            choice.typing = True
        elif key == "escape":
            self._filter("")
        elif key in pages:
            pages[key]()

    def _on_page(self, key: str) -> None:
        choice = self._choice
        steps = {
            "up": -1,
            "k": -1,
            "down": 1,
            "j": 1,
            "pageup": -self._height,
            "pagedown": self._height,
            " ": self._height,
            "home": -(10**9),
            "end": 10**9,
        }
        if key in steps:
            choice.scroll = max(0, choice.scroll + steps[key])
        elif key in ("left", "right"):
            choice.sideways = max(0, choice.sideways + (20 if key == "right" else -20))
        elif key in ("escape", "q", "tab", "backspace"):
            choice.page = ""
            self._feed.shut()

    def _type(self, key: str) -> None:
        choice = self._choice
        if key == "enter":
            choice.typing = False
        elif key == "escape":
            choice.typing = False
            self._filter("")
        elif key == "backspace":
            self._filter(choice.filter[:-1])
        elif len(key) == 1 and len(choice.filter) < 100:
            self._filter(choice.filter + key)

    def _filter(self, text: str) -> None:
        self._choice.filter = self._feed.filter = text
        if self._feed.picture.total > len(self._feed.picture.calls):
            self._feed.refresh()

    def _answer(self, key: str) -> None:
        choice = self._choice
        choice.question = ""
        if key in ("y", "Y"):
            # The one that was asked about, wherever the choice has gone since.
            self._send("siprec_stop_recording", choice.asked)
        else:
            choice.status = "not stopped"

    # -- what they do --------------------------------------------------------------------------------------------------

    def _row(self) -> Row | None:
        choice = self._choice
        return choice.rows[choice.index] if choice.rows else None

    def _page(self, name: str) -> None:
        choice = self._choice
        choice.page, choice.scroll, choice.sideways = name, 10**9 if name == "events" else 0, 0

    def _open(self, kind: str) -> None:
        row = self._row()
        if row is not None:
            self._feed.open(kind, row.call)
            self._page(kind)

    def _order(self, function: str) -> None:
        row = self._row()
        if row is None:
            self._choice.status = "no call is chosen"
        elif row.recording is None and function != "siprec_start_recording":
            self._choice.status = "this call is not recorded; R starts a recording"
        else:
            self._send(function, row.key)

    def _send(self, function: str, key: Key) -> None:
        self._feed.status = "..."
        self._feed.order(function, key)

    def _ask_to_stop(self) -> None:
        row = self._row()
        if row is None or row.recording is None:
            self._choice.status = "this call is not recorded"
            return
        self._choice.asked = row.key
        self._choice.question = f"Stop the recording {row.key[1]} of {row.call['caller']} -> {row.call['callee']}? y/n"

    def _end(self) -> None:
        self._ended = True
