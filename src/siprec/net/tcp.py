"""Stream connections, TCP and TLS alike (RFC 3261 18, RFC 5626 4.4.1).

A connection is an asyncio protocol: no task reads it. Opening one takes a task, for as long as that takes.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import ssl
import struct
import termios
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, Protocol, cast

from siprec.net.address import ListenAddress, bound_socket, is_wildcard
from siprec.net.counters import Counters
from siprec.net.framing import PING, Ping, StreamFramer
from siprec.net.handshake import BACKLOG, Handshakes, SecureListener
from siprec.sip.errors import SipError
from siprec.sip.message import MAX_MESSAGE, SipRequest, SipResponse
from siprec.sip.transport import Hop, SendFailed

log = logging.getLogger(__name__)

UNANSWERED: Final = 256

Key = tuple[str, str, int, str, tuple[str, int], Hashable]
"""What a connection is found by: transport, remote host and port, name verified and settings (TLS), local listener."""


def key_of(hop: Hop) -> Key:
    """The key of the connection that serves `hop`."""
    return (hop.transport, hop.host, hop.port, hop.server_name, hop.local, hop.tls)


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Limits of stream connections: octets and seconds.

    `idle` closes a connection without a complete message or keep-alive for that long; RFC 3261 18 wants 64*T1 at
    least (RFC 3261 18), RFC 5626 clients ping every 120 s. One that was accepted has `first` seconds for its first
    message. `max_per_source` (0: any number) and `max_unfinished` (octets of unfinished messages) hold for each source.
    """

    idle: float = 300.0
    first: float = 32.0
    max_per_source: int = 200
    max_unfinished: int = 1 << 20
    connect: float = 5.0
    max_message: int = MAX_MESSAGE
    max_connections: int = 10000
    max_buffered: int = 4 << 20


class StreamOwner(Protocol):
    """What a connection tells its transport."""

    counters: Counters
    limits: StreamLimits

    def stream_opened(self, connection: StreamConnection) -> bool:
        """A connection is up; False refuses it."""
        ...

    def stream_closed(self, connection: StreamConnection) -> None:
        """It is gone."""
        ...

    def stream_active(self, connection: StreamConnection) -> None:
        """Something whole came on it: a message or a keep-alive."""
        ...

    def stream_holds(self, connection: StreamConnection, octets: int) -> None:
        """So many octets of an unfinished message wait on it."""
        ...

    def stream_message(self, message: SipRequest | SipResponse, hop: Hop) -> None:
        """A message came."""
        ...

    def stream_malformed(self, error: SipError, hop: Hop) -> None:
        """Something came that is none."""
        ...


class StreamConnection(asyncio.Protocol):
    """One TCP or TLS connection, accepted (`target` None) or opened towards `target`.

    `hop` names the peer; `id` is unique in the transport and never 0; `active` is the time of the last message.
    """

    def __init__(
        self, owner: StreamOwner, ident: int, transport_name: str, local: tuple[str, int], target: Hop | None = None
    ) -> None:
        self.id = ident
        self.active = monotonic()
        self.hop = Hop(transport_name, "", 0, local, ident)
        self.target = target
        self.ours = False
        """Whether it is we who end it."""
        self.transport: asyncio.Transport | None = None
        self.refused = False
        self._heard = False
        self.spoken = False
        """Whether a whole message or keep-alive has come."""
        self._cut_short = False
        """The peer closed before it had taken all that we wrote."""
        self._owner = owner
        self._framer = StreamFramer(owner.limits.max_message)
        self._unanswered: deque[SendFailed] = deque(maxlen=UNANSWERED)

    @property
    def key(self) -> Key:
        """What it is found by for the next request to the same peer."""
        return key_of(self.hop)

    def peer_certificate(self) -> dict[str, Any]:
        """The verified certificate of the peer as :meth:`ssl.SSLSocket.getpeercert` gives it; empty without one."""
        session = self.transport.get_extra_info("ssl_object") if self.transport is not None else None
        return (session.getpeercert() or {}) if session is not None else {}

    # -- asyncio.Protocol ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop (after the TLS handshake)."""
        # A cast: uvloop's transports do not derive from asyncio's.
        self.transport = stream = cast(asyncio.Transport, transport)
        peer = stream.get_extra_info("peername")
        if not peer:  # gone before it was looked at
            self.refused = True
            stream.abort()
            return
        name, tls = (self.target.server_name, self.target.tls) if self.target is not None else ("", None)
        self.hop = Hop(self.hop.transport, peer[0], peer[1], self.hop.local, self.id, name, tls)
        if not self._owner.stream_opened(self):
            self.refused = True
            stream.abort()

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        if self.refused:
            return
        framer, owner = self._framer, self._owner
        self._heard = True
        self._unanswered.clear()
        events = framer.feed(data)
        if events:
            self.active = monotonic()
            self.spoken = True
            owner.stream_active(self)
        if (pings := events.count(PING)) > 0:
            owner.counters.pings += pings
            self._write(b"\r\n" * pings)  # one write, however many a stranger sends at once
        for event in events:
            if isinstance(event, Ping):
                continue
            if isinstance(event, SipError):
                owner.stream_malformed(event, self.hop)
            else:
                owner.stream_message(event, self.hop)
        owner.stream_holds(self, framer.buffered)
        if framer.error is not None:
            self.refused = True
            owner.stream_malformed(framer.error, self.hop)
            if self.transport is not None:
                self.transport.close()  # what answers the error is still written

    def eof_received(self) -> bool:
        """Called by the event loop: nobody can answer a half-closed SIP connection for long, so it is closed."""
        self._cut_short = bool(self._unanswered) and _waits(self.transport)
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """Called by the event loop."""
        # A server that refuses our certificate (TLS 1.3) says so after the handshake, and may just close.
        unwelcome = self.target is not None and not self._heard
        lost = self._unanswered if error is not None or unwelcome or self._cut_short else ()
        reason = f"connection lost: {describe(error) if error is not None else 'closed by the peer'}"
        for failed in lost:
            asyncio.get_running_loop().call_soon(failed, reason)
        self._unanswered.clear()
        self._owner.stream_closed(self)
        self.transport = None

    # -- out -------------------------------------------------------------------------------------------------------

    def send(self, data: bytes, failed: SendFailed | None) -> str:
        """Write; returns why that is impossible, or an empty string.

        `failed` is called when the connection breaks (not: is closed in good order) before anything came back.
        """
        transport = self.transport
        if transport is None or transport.is_closing():
            return "connection closed"
        if transport.get_write_buffer_size() + len(data) > self._owner.limits.max_buffered:
            self._owner.counters.slow_closed += 1
            transport.abort()
            return "peer does not read"
        transport.write(data)
        if failed is not None and failed not in self._unanswered:
            self._unanswered.append(failed)
        return ""

    def _write(self, data: bytes) -> None:
        self.send(data, None)

    def close(self) -> None:
        """Close at once; what is buffered is dropped."""
        if self.transport is not None:
            self.transport.abort()


def _waits(transport: asyncio.Transport | None) -> bool:
    """Whether octets wait that the peer's host has not acknowledged. (After a close, a late write still succeeds.)"""
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is None or transport is None:
        return False
    try:
        queued = struct.unpack("=i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
    except OSError:
        return True
    return queued > 0 or transport.get_write_buffer_size() > 0


class StreamListener:
    """One listening TCP or TLS socket."""

    def __init__(self, server: asyncio.Server | SecureListener, address: ListenAddress) -> None:
        self._server = server
        self.address = address
        self.local = (address.host, address.port)

    @classmethod
    async def open(
        cls,
        address: ListenAddress,
        accept: Callable[[ListenAddress], StreamConnection],
        context: ssl.SSLContext | None,
        handshakes: Handshakes,
    ) -> StreamListener:
        """Bind and listen. `accept` makes the protocol of a new connection; with TLS it is asked for one when the
        handshake is over.

        Raises:
            OSError: the address is in use or not ours.
        """
        sock = bound_socket(address)
        host, port = sock.getsockname()[:2]
        real = ListenAddress(address.transport, host, port)

        def make() -> StreamConnection:
            return accept(real)

        if context is not None:
            return cls(SecureListener(sock, context, make, handshakes), real)
        return cls(await asyncio.get_running_loop().create_server(make, sock=sock, backlog=BACKLOG), real)

    def close(self) -> None:
        """Stop listening; connections stay."""
        self._server.close()


class Connecting:
    """A connection on its way: what waits for it, at most `limit` octets."""

    __slots__ = ("_limit", "_octets", "queue", "task", "waiting")

    def __init__(self, limit: int) -> None:
        self.queue: list[tuple[bytes, SendFailed | None]] = []
        self.waiting: list[Callable[[str], None]] = []
        """Told when it is up (empty text), or why it is not."""
        self.task: asyncio.Task[None] | None = None
        self._octets = 0
        self._limit = limit

    def add(self, data: bytes, failed: SendFailed | None) -> bool:
        """Queue a message; False when there is no room."""
        if self._octets + len(data) > self._limit:
            return False
        self._octets += len(data)
        self.queue.append((data, failed))
        return True


async def connect(
    hop: Hop, protocol: StreamConnection, context: ssl.SSLContext | None, seconds: float
) -> StreamConnection:
    """Open a connection to `hop` from its `local` host (any port), TLS with `context`.

    Raises:
        OSError: refused, unreachable, no valid certificate...
        TimeoutError: not up within `seconds`.
    """
    host = hop.local[0]
    async with asyncio.timeout(seconds):
        await asyncio.get_running_loop().create_connection(
            lambda: protocol,
            hop.host,
            hop.port,
            local_addr=(host, 0) if host and not is_wildcard(host) else None,
            ssl=context,
            server_hostname=(hop.server_name or hop.host) if context is not None else None,
            ssl_handshake_timeout=seconds if context is not None else None,
        )
    return protocol


def describe(error: BaseException | None) -> str:
    """A few words for a connection error."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)  # asyncio writes prose of its own into strerror
    return str(error) or type(error).__name__
