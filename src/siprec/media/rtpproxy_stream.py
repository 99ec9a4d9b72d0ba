"""RTPProxy's control protocol over streams: one line a command and a reply, without cookies.

Replies come in the order of the commands, so the cookie is kept here: what goes in and out looks as it does over UDP.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

from siprec.media.request_tracker import Connection, Opener
from siprec.media.sockets import StreamConnection

_LONGEST: Final = 65536
_MOST: Final = 256
"""Connections to a ``unix:`` socket at once; more commands wait."""
_PAUSE: Final = 0.01


class LineError(ValueError):
    """A reply without end."""


class LineFramer:
    """Lines of a byte stream, each under the cookie of its command."""

    def __init__(self, cookies: deque[bytes]) -> None:
        self._cookies = cookies
        self._parts: list[bytes] = []
        self._waiting = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The replies that are whole now.

        Raises:
            LineError: more than 64 KiB without a line end, or a line that nobody asked for.
        """
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = b"".join((*self._parts, lines[0]))
            self._parts, self._waiting = [], 0
        if rest:
            self._parts.append(rest)
            self._waiting += len(rest)
        if self._waiting > _LONGEST:
            raise LineError("a reply without end")
        if len(lines) > len(self._cookies):
            raise LineError("a reply that nobody asked for")
        return [self._cookies.popleft() + b" " + line for line in lines]


class LineConnection(StreamConnection):
    """A connection that stays (``tcp:``, ``cunix:``)."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        family: int,
        address: object,
        on_message: Callable[[bytes], None],
        on_error: Callable[[str], None],
    ) -> None:
        self._cookies: deque[bytes] = deque()
        super().__init__(loop, family, address, on_message, on_error, lambda: LineFramer(self._cookies))

    def send(self, message: bytes) -> str:
        cookie, _, body = message.partition(b" ")
        self._cookies.append(cookie)
        refused = super().send(body + b"\n")
        if refused:
            self._cookies.pop()
        return refused

    def _drop(self) -> None:
        self._cookies.clear()
        super()._drop()


class UnixConnection:
    """A connection for each command (``unix:``), some at the same time."""

    reliable = True

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        path: str,
        on_message: Callable[[bytes], None],
        on_error: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._path = path
        self._on_message = on_message
        self._on_error = on_error
        self._open: dict[socket.socket, tuple[bytes, bytearray]] = {}
        self._waiting: deque[bytes] = deque(maxlen=65536)
        self._closed = False

    def send(self, message: bytes) -> None:
        if self._closed:
            return
        if len(self._open) >= _MOST:
            self._waiting.append(message)
            return
        cookie, _, body = message.partition(b" ")
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.connect(self._path)
            sock.send(body + b"\n")  # smaller than any socket buffer
        except BlockingIOError:  # its queue of connections is full
            sock.close()
            self._waiting.appendleft(message)
            if not self._open:
                self._loop.call_later(_PAUSE, self._next)
            return
        except OSError as error:
            sock.close()
            self._loop.call_soon(self._failed, error.strerror or str(error))
            return
        self._open[sock] = (cookie, bytearray())
        self._loop.add_reader(sock, self._readable, sock)

    def close(self) -> None:
        self._closed = True
        for sock in list(self._open):
            self._end(sock)

    def _readable(self, sock: socket.socket) -> None:
        cookie, buffer = self._open[sock]
        try:
            data = sock.recv(_LONGEST)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(sock)
            self._failed(error.strerror or str(error))
            return
        buffer += data
        if data and b"\n" not in data and len(buffer) < _LONGEST:
            return
        self._end(sock)
        line = bytes(buffer).partition(b"\n")[0]
        if line:
            self._on_message(cookie + b" " + line)
        else:
            self._failed("connection closed by the server")

    def _failed(self, reason: str) -> None:
        if not self._closed:
            self._on_error(reason)

    def _end(self, sock: socket.socket) -> None:
        del self._open[sock]
        self._loop.remove_reader(sock)
        sock.close()
        self._next()

    def _next(self) -> None:
        if self._waiting and not self._closed:
            self.send(self._waiting.popleft())


def tcp(loop: asyncio.AbstractEventLoop, address: tuple[str, int]) -> Opener:
    """Opener for RTPProxy's ``tcp:`` control socket."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET

    def opener(on_message: Callable[[bytes], None], on_error: Callable[[str], None]) -> Connection:
        return LineConnection(loop, family, address, on_message, on_error)

    return opener


def cunix(loop: asyncio.AbstractEventLoop, path: str) -> Opener:
    """Opener for RTPProxy's ``cunix:`` control socket."""

    def opener(on_message: Callable[[bytes], None], on_error: Callable[[str], None]) -> Connection:
        return LineConnection(loop, socket.AF_UNIX, path, on_message, on_error)

    return opener


def unix(loop: asyncio.AbstractEventLoop, path: str) -> Opener:
    """Opener for RTPProxy's ``unix:`` control socket."""

    def opener(on_message: Callable[[bytes], None], on_error: Callable[[str], None]) -> Connection:
        return UnixConnection(loop, path, on_message, on_error)

    return opener
