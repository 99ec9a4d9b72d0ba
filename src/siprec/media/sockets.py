"""Media servers over real sockets: thin adapters between an event loop and :mod:`siprec.media.request_tracker`."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Protocol

from siprec.media.bencode import BencodeError
from siprec.media.ngframes import StreamFramer
from siprec.media.request_tracker import Connection, Opener
from siprec.net.datagrams import DatagramReader

_DATAGRAM = 65536


class UdpConnection:
    """A connected UDP socket; ICMP errors surface as the error callback."""

    reliable = False

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        address: tuple[str, int],
        on_message: Callable[[bytes], None],
        on_error: Callable[[str], None],
    ) -> None:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._loop = loop
        self._on_message = on_message
        self._on_error = on_error
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.connect(address)
        except OSError:
            self._socket.close()
            raise
        self._open = True
        self._reader = DatagramReader(loop, self._socket, self._received, self._failed)

    def send(self, message: bytes) -> None:
        if not self._open:
            return
        for _ in range(2):
            try:
                self._socket.send(message)
            except BlockingIOError:
                pass  # as good as lost on the way: the retransmission is under way
            except OSError as error:
                # The pending error of an earlier message, which was not delivered. This one was not sent yet.
                self._loop.call_soon(self._failed, error)
                continue
            return

    def close(self) -> None:
        if self._open:
            self._open = False
            self._reader.close()
            self._socket.close()

    def _failed(self, error: OSError) -> None:
        if self._open:
            self._on_error(error.strerror or str(error))

    def _received(self, message: bytes, _source: object) -> None:
        self._on_message(message)


class Framer(Protocol):
    """Cuts a stream into messages. `feed` raises ValueError or :class:`BencodeError` when there is no sense in it."""

    def feed(self, data: bytes) -> list[bytes]: ...


class StreamConnection:
    """A connection that is made when first used and again after it broke; messages wait for it, bounded.

    `family` and `address` are those of :func:`socket.socket` and its ``connect``; `framer` makes a fresh framer for
    each connection.
    """

    reliable = True
    _MAX_WAITING = 1 << 20

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        family: int,
        address: object,
        on_message: Callable[[bytes], None],
        on_error: Callable[[str], None],
        framer: Callable[[], Framer],
    ) -> None:
        self._loop = loop
        self._family = family
        self._address: Any = address
        self._on_message = on_message
        self._on_error = on_error
        self._socket: socket.socket | None = None
        self._connected = False
        self._closed = False
        self._out = b""
        self._new_framer = framer
        self._framer = framer()

    def send(self, message: bytes) -> str:
        if self._closed:
            self._loop.call_soon(self._lost, "closed")
            return ""
        if len(self._out) + len(message) > self._MAX_WAITING:
            return "not sent: too much waits"  # the messages before it are on their way all the same
        self._out += message
        if self._socket is None:
            self._connect()
        elif self._connected:
            self._flush()
        return ""

    def close(self) -> None:
        self._closed = True
        self._drop()

    def _connect(self) -> None:
        sock = socket.socket(self._family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        if self._family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = sock
        self._framer = self._new_framer()
        try:
            sock.connect(self._address)
        except BlockingIOError:
            pass
        except OSError as error:
            self._loop.call_soon(self._lost, error.strerror or str(error))
            return
        self._loop.add_writer(sock, self._writable)

    def _writable(self) -> None:
        sock = self._socket
        if sock is None:
            return
        if not self._connected:
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self._lost(OSError(code, "").strerror or f"error {code}")
                return
            self._connected = True
            self._loop.add_reader(sock, self._readable)
        self._loop.remove_writer(sock)
        self._flush()

    def _flush(self) -> None:
        sock = self._socket
        assert sock is not None
        try:
            self._out = self._out[sock.send(self._out) :] if self._out else b""
        except BlockingIOError:
            pass
        except OSError as error:
            self._loop.call_soon(self._lost, error.strerror or str(error))
            return
        if self._out:
            self._loop.add_writer(sock, self._writable)

    def _readable(self) -> None:
        sock = self._socket
        if sock is None:
            return
        try:
            data = sock.recv(_DATAGRAM)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(error.strerror or str(error))
            return
        if not data:
            self._lost("connection closed by the server")
            return
        try:
            messages = self._framer.feed(data)
        except (BencodeError, ValueError) as error:
            self._lost(f"not understood: {error}")
            return
        for message in messages:
            self._on_message(message)

    def _lost(self, reason: str) -> None:
        self._drop()
        if not self._closed:
            self._on_error(reason)

    def _drop(self) -> None:
        sock, self._socket = self._socket, None
        self._connected = False
        self._out = b""
        if sock is not None:
            self._loop.remove_reader(sock)
            self._loop.remove_writer(sock)
            sock.close()


def udp(loop: asyncio.AbstractEventLoop, address: tuple[str, int]) -> Opener:
    """Opener for ng, or RTPProxy's protocol, over UDP to `address` (an IP address and a port)."""

    def opener(on_message: Callable[[bytes], None], on_error: Callable[[str], None]) -> Connection:
        return UdpConnection(loop, address, on_message, on_error)

    return opener


def tcp(loop: asyncio.AbstractEventLoop, address: tuple[str, int]) -> Opener:
    """Opener for ng over TCP to `address`, or over the UNIX socket whose path is in the address's place."""
    where: object = address
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    if address[0].startswith("/"):
        family, where = socket.AF_UNIX, address[0]

    def opener(on_message: Callable[[bytes], None], on_error: Callable[[str], None]) -> Connection:
        return StreamConnection(loop, family, where, on_message, on_error, StreamFramer)

    return opener
