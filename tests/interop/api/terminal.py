"""A terminal to run commands in: a pseudo-terminal, and an emulator that knows what is on its screen."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

# By name: it has no types, and whoever only checks them need not have it.
_pyte: Any = importlib.import_module("pyte")


class Pseudo:
    """A command at a pseudo-terminal; `written` holds all that it wrote."""

    def __init__(self, arguments: tuple[str, ...], env: dict[str, str], columns: int, lines: int) -> None:
        self.master, self.slave = pty.openpty()
        self.screen = _pyte.Screen(columns, lines)
        self._stream = _pyte.ByteStream(self.screen)
        self.written = bytearray()
        self._set_size(columns, lines)
        self.before = termios.tcgetattr(self.slave)
        slave = self.slave
        self.process = subprocess.Popen(
            [sys.executable, *(("-m", "siprec") if arguments[0] != "-c" else ()), *arguments],
            env={**os.environ, "TERM": "xterm-256color", "NO_COLOR": "", **env},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            preexec_fn=lambda: os.login_tty(os.dup(slave)),
        )
        os.set_blocking(self.master, False)
        asyncio.get_running_loop().add_reader(self.master, self._read)

    def _set_size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            octets = os.read(self.master, 65536)
            self.written += octets
            self._stream.feed(octets)

    def resize(self, columns: int, lines: int) -> None:
        """As if somebody pulled at the window's edge."""
        self.screen.resize(lines, columns)
        self._set_size(columns, lines)

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self.master, keys.encode())

    @property
    def text(self) -> str:
        """The screen."""
        return "\n".join(line.rstrip() for line in self.screen.display)

    async def sees(self, *words: str, without: str = "", limit: float = 30.0) -> str:
        """The screen, once it has all of these words."""
        await self.until(lambda: all(w in self.text for w in words) and not (without and without in self.text), limit)
        return self.text

    async def until(self, condition: Callable[[], object], limit: float = 30.0) -> None:
        """Wait for something; what is on the screen otherwise becomes the error."""
        try:
            async with asyncio.timeout(limit):
                while not condition():
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"on the screen is only:\n{self.text}") from None

    async def ended(self) -> int:
        """Its exit status; the terminal has to be as it was before."""
        status = await asyncio.to_thread(self.process.wait, 30)
        async with asyncio.timeout(10):
            while b"\x1b[?1049l" not in self.written:
                await asyncio.sleep(0.02)
        assert termios.tcgetattr(self.slave) == self.before
        assert self.written.rfind(b"\x1b[?25h") > self.written.rfind(b"\x1b[?25l")  # the cursor is back
        return status

    def close(self) -> None:
        """Whatever state it is in."""
        asyncio.get_running_loop().remove_reader(self.master)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@asynccontextmanager
async def at_terminal(*arguments: str, columns: int = 80, lines: int = 24, **env: str) -> AsyncIterator[Pseudo]:
    """A siprec command at a terminal (or a Python program: ``-c``)."""
    terminal = Pseudo(arguments, env, columns, lines)
    try:
        yield terminal
    finally:
        terminal.close()
