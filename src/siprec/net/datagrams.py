"""Reading a datagram socket on an event loop, whatever errors it reports.

An ICMP error for something that a socket sent is that socket's pending error. libuv (uvloop) stops watching a
descriptor that has one: it calls the reader once more, and never again. This happens also when a send has taken the
error off in the meantime, so that the reader finds nothing. Every UDP socket of ours that an event loop watches is read
by :class:`DatagramReader`, or follows its rule: after an error, and after a call that found nothing, watch it again.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Final, Protocol

LARGEST: Final = 65536
BATCH: Final = 64  # datagrams per wake-up, so that timers and other sockets get their turn


class Watcher(Protocol):
    """The part of an asyncio event loop that reading needs."""

    def add_reader(self, fd: int, callback: Callable[..., object], /, *args: object) -> object:
        """Call `callback` whenever `fd` can be read."""
        ...

    def remove_reader(self, fd: int, /) -> bool:
        """Stop that."""
        ...


def watch_again(loop: Watcher, sock: socket.socket, readable: Callable[[], object]) -> None:
    """Have `sock`, which reported an error, watched as before. Harmless for a socket that is still watched."""
    number = sock.fileno()
    if number >= 0:
        loop.remove_reader(number)
        loop.add_reader(number, readable)


class DatagramReader:
    """Calls `received(octets, source)` for each datagram of a non-blocking socket, and `failed(error)` for each error.

    The socket stays the caller's: :meth:`close` ends the reading only. Either callback may call it.
    """

    def __init__(
        self,
        loop: Watcher,
        sock: socket.socket,
        received: Callable[[bytes, Any], object],
        failed: Callable[[OSError], object] | None = None,
        *,
        batch: int = BATCH,
    ) -> None:
        self._loop = loop
        self._socket = sock
        self._received = received
        self._error = failed
        self._batch = batch
        self._open = True
        loop.add_reader(sock.fileno(), self._readable)

    def close(self) -> None:
        """Read no more; before the socket is closed."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._socket.fileno())

    def _readable(self) -> None:
        recvfrom = self._socket.recvfrom
        for number in range(self._batch):
            if not self._open:
                return
            try:
                data, source = recvfrom(LARGEST)
            except BlockingIOError:
                if number == 0:
                    watch_again(self._loop, self._socket, self._readable)
                return
            except InterruptedError:
                continue
            except OSError as error:
                # An ICMP error for something we sent; the next datagram is fine.
                watch_again(self._loop, self._socket, self._readable)
                if self._error is not None:
                    self._error(error)
                continue
            self._received(data, source)
