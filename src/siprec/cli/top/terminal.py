"""The terminal: full screen while it lasts, keys in, changed lines out, everything as it was afterwards."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Sequence
from types import FrameType
from typing import Any, Final

from rich.cells import cell_len, set_cell_size

Span = tuple[str, str]
"""A piece of text, and the name of its style."""
Line = Sequence[Span]

_STYLES: Final = {
    "": "",
    "bold": "1",
    "dim": "2",
    "title": "1;7",
    "selected": "7",
    "good": "32",
    "warn": "33",
    "bad": "1;31",
}
_MONOCHROME: Final = {"good": "", "warn": "1", "bad": "1"}
# Alternate screen, no cursor, no wrapping; and the way back.
_ENTER: Final = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
_LEAVE: Final = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
# Terminals that know synchronized output show a frame at once; others ignore it.
_BEGIN: Final = "\x1b[?2026h"
_END: Final = "\x1b[?2026l"

_SEQUENCES: Final = {
    "[A": "up",
    "OA": "up",
    "[B": "down",
    "OB": "down",
    "[C": "right",
    "OC": "right",
    "[D": "left",
    "OD": "left",
    "[H": "home",
    "OH": "home",
    "[1~": "home",
    "[7~": "home",
    "[F": "end",
    "OF": "end",
    "[4~": "end",
    "[8~": "end",
    "[5~": "pageup",
    "[6~": "pagedown",
}
_PLAIN: Final = {"\r": "enter", "\n": "enter", "\t": "tab", "\x7f": "backspace", "\x08": "backspace", "\x0c": "redraw"}
_ESCAPE_WAIT: Final = 0.05
"""Seconds after which an escape is the key itself, not the beginning of another one."""


class Closed(Exception):
    """Nobody is at the terminal any more."""


def decode(text: str) -> tuple[list[str], str]:
    """Keys by name (``up``, ``enter``, ``a``...), and what is left of a sequence that has not ended yet."""
    keys: list[str] = []
    at = 0
    while at < len(text):
        if text[at] != "\x1b":
            key = _PLAIN.get(text[at], text[at])
            if len(key) > 1 or key.isprintable():
                keys.append(key)
            at += 1
            continue
        end = at + 1
        if end < len(text) and text[end] in "[O":
            end += 1
            while end < len(text) and not ("@" <= text[end] <= "~"):
                end += 1
        elif end < len(text):  # Alt and a key, or the key alone and something typed behind it
            keys.append("escape")
            at += 1
            continue
        if end >= len(text):
            return keys, text[at:]
        found = _SEQUENCES.get(text[at + 1 : end + 1])
        if found is not None:
            keys.append(found)
        at = end + 1
    return keys, ""


def clip(line: Line, width: int, styles: dict[str, str]) -> str:
    """A line as the terminal takes it, exactly `width` cells wide. Control characters become question marks."""
    out: list[str] = []
    left = width
    last = ""
    for text, style in line:
        if left <= 0:
            break
        shown = "".join(c if c.isprintable() else "?" for c in text)
        if cell_len(shown) > left:
            shown = set_cell_size(shown, left)
        if shown:
            out.append(f"\x1b[{styles[style]}m{shown}\x1b[0m" if styles[style] else shown)
            left -= cell_len(shown)
            last = style
    if left > 0:
        # A bar of colour goes to the edge.
        fill = " " * left
        out.append(f"\x1b[{styles[last]}m{fill}\x1b[0m" if last in ("title", "selected") else fill)
    return "".join(out)


class Terminal:
    """Standard input and output as a full screen. A context manager that puts everything back, whatever happened.

    :meth:`wake` may be called from any thread.
    """

    def __init__(self) -> None:
        self._in, self._out = sys.stdin.fileno(), sys.stdout.fileno()
        self._styles = {**_STYLES, **(_MONOCHROME if os.environ.get("NO_COLOR") else {})}
        self._shown: list[str] = []
        self._size = (0, 0)
        self._pending = ""
        self._saved: list[Any] = []
        self._handlers: dict[int, Any] = {}
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)

    @staticmethod
    def usable() -> bool:
        """Whether there is a terminal that can be drawn on."""
        return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb")

    def __enter__(self) -> Terminal:
        self._saved = termios.tcgetattr(self._in)
        for number, handler in (
            (signal.SIGWINCH, self._resized),
            (signal.SIGTSTP, self._suspend),
            (signal.SIGTERM, self._ended),
            (signal.SIGHUP, self._ended),
        ):
            self._handlers[number] = signal.signal(number, handler)
        self._take()
        return self

    def __exit__(self, *exception: object) -> None:
        self._give_back()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.close(self._reader)
        os.close(self._writer)

    def _take(self) -> None:
        tty.setcbreak(self._in)  # signals of the keyboard stay: Ctrl-C, Ctrl-Z
        self._write(_ENTER)
        self._shown = []

    def _give_back(self) -> None:
        # A terminal that is gone cannot be restored, and need not be.
        with contextlib.suppress(OSError):
            self._write(_LEAVE)
        with contextlib.suppress(termios.error, OSError):
            termios.tcsetattr(self._in, termios.TCSANOW, self._saved)

    def _resized(self, number: int, frame: FrameType | None) -> None:
        self.wake()

    def _suspend(self, number: int, frame: FrameType | None) -> None:
        self._give_back()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._take()
        self.wake()

    def _ended(self, number: int, frame: FrameType | None) -> None:
        raise Closed

    def wake(self) -> None:
        """Have :meth:`keys` return."""
        with contextlib.suppress(OSError):  # full: it will wake anyhow; closed: nobody waits
            os.write(self._writer, b".")

    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        try:
            found = os.get_terminal_size(self._out)
        except OSError:
            raise Closed from None
        return (found.columns or 80), (found.lines or 24)

    def draw(self, lines: Sequence[Line]) -> None:
        """Show `lines` from the top; only what differs from what is shown is written."""
        columns, rows = size = self.size()
        out: list[str] = []
        if size != self._size or not self._shown:
            self._size = size
            self._shown = []
            out.append("\x1b[0m\x1b[2J")
        frame = [clip(line, columns, self._styles) for line in lines[:rows]]
        frame += [" " * columns] * (rows - len(frame))
        for number, text in enumerate(frame):
            if number >= len(self._shown) or self._shown[number] != text:
                out.append(f"\x1b[{number + 1};1H{text}")
        self._shown = frame
        if out:
            self._write(_BEGIN + "".join(out) + _END)

    def redraw(self) -> None:
        """Write everything at the next :meth:`draw`."""
        self._shown = []

    def keys(self, limit: float) -> list[str]:
        """Keys that were pressed; waits up to `limit` seconds for one, for :meth:`wake` or for another size.

        Raises:
            Closed: the terminal is gone, or the process was asked to end.
        """
        deadline = time.monotonic() + limit
        while True:
            wait = max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([self._in, self._reader], [], [], wait)
            if self._reader in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._reader, 4096)
            if self._in in ready:
                keys = self._typed()
                if keys:
                    return keys
            elif self._pending:
                self._pending = ""
                return ["escape"]
            if self._reader in ready or not ready:
                return []
            if self._pending:
                deadline = time.monotonic() + _ESCAPE_WAIT

    def _typed(self) -> list[str]:
        try:
            octets = os.read(self._in, 4096)
        except OSError:
            raise Closed from None
        if not octets:
            raise Closed
        keys, self._pending = decode(self._pending + octets.decode("utf-8", "replace"))
        return keys

    def _write(self, text: str) -> None:
        octets = text.encode("utf-8", "replace")
        while octets:
            try:
                octets = octets[os.write(self._out, octets) :]
            except OSError:
                raise Closed from None
