"""TLS of connections that others open: who has not finished the handshake is held to a share as well.

An event loop that does TLS itself tells of a connection when its handshake is over. Until then it costs a descriptor,
and strangers could open any number. Here the connection is known from the beginning.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Final

from siprec.sourcelog import SourceLog, source_key

log = logging.getLogger(__name__)

BACKLOG: Final = 1024
PER_SOURCE: Final = 64
"""Handshakes of one source (IPv6: its /64) at a time."""
MOST: Final = 1024

Make = Callable[[], asyncio.Protocol]

_BATCH: Final = 64
_PAUSE: Final = 1.0  # seconds without accepting, when the system has nothing left for a connection
_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Handshakes:
    """TLS handshakes under way, `seconds` each at the most. When there are too many of a source, or in all, the oldest
    is given up: of that source, or of the source with the most. `failed` counts those that came to nothing."""

    def __init__(self, seconds: float, *, per_source: int = PER_SOURCE, most: int = MOST) -> None:
        self.seconds = seconds
        self.failed = 0
        self._per_source = per_source
        self._most = most
        self._open: dict[str, OrderedDict[asyncio.Task[None], socket.socket]] = {}
        self._count = 0
        self._lines = SourceLog(log)

    def __len__(self) -> int:
        return self._count

    def begin(self, sock: socket.socket, host: str, context: ssl.SSLContext, make: Make) -> None:
        """Take a connection; `make` gives its protocol when the handshake is over."""
        source = source_key(host)
        mine = len(self._open.get(source, ()))
        if mine >= self._per_source:
            self._lines.warning(host, "source=%s has %d TLS handshakes: the oldest is given up", host, mine)
            self._give_up(source)
        elif self._count >= self._most:
            self._lines.warning("all", "%d TLS handshakes: the oldest is given up", self._count)
            self._give_up(max(self._open, key=lambda each: len(self._open[each])))
        task = asyncio.get_running_loop().create_task(self._secure(sock, host, context, make))
        self._open.setdefault(source, OrderedDict())[task] = sock
        self._count += 1
        task.add_done_callback(partial(self._over, source, sock))

    def close(self) -> None:
        """Give up all."""
        for source in list(self._open):
            while source in self._open:
                self._give_up(source)

    def _give_up(self, source: str) -> None:
        task, sock = next(iter(self._open[source].items()))
        self._remove(source, task)
        # uvloop keeps the socket of a handshake that is cancelled until its time is over: so the peer seems to close.
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

    def _over(self, source: str, sock: socket.socket, task: asyncio.Task[None]) -> None:
        self._remove(source, task)
        if task.cancelled() or task.exception() is not None:
            # The event loop may not have known the socket yet; where it does, closing twice is no error.
            sock.close()

    def _remove(self, source: str, task: asyncio.Task[None]) -> None:
        own = self._open.get(source)
        if own is not None and task in own:
            del own[task]
            self._count -= 1
            if not own:
                del self._open[source]

    async def _secure(self, sock: socket.socket, host: str, context: ssl.SSLContext, make: Make) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                make, sock, ssl=context, ssl_handshake_timeout=self.seconds
            )
        except (OSError, TimeoutError) as error:
            self.failed += 1
            log.debug("no TLS with %s: %s", host, error)
            sock.close()


class SecureListener:
    """A listening TLS socket. `make` gives the protocol of a connection whose handshake is over.

    The socket becomes this object's.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, make: Make, handshakes: Handshakes) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = sock
        self._context = context
        self._make = make
        self._handshakes = handshakes
        self._pause: asyncio.TimerHandle | None = None
        sock.setblocking(False)
        sock.listen(BACKLOG)
        self._loop.add_reader(sock.fileno(), self._accept)

    def close(self) -> None:
        """Accept no more; connections stay."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()

    def _accept(self) -> None:
        for _ in range(_BATCH):
            try:
                sock, address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                log.error("no connection can be accepted: %s", error.strerror)
                self._loop.remove_reader(self._socket.fileno())
                self._pause = self._loop.call_later(_PAUSE, self._again)
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._handshakes.begin(sock, address[0], self._context, self._make)

    def _again(self) -> None:
        self._pause = None
        self._loop.add_reader(self._socket.fileno(), self._accept)
