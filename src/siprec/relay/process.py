"""The relay on an event loop: ng over UDP and TCP or a UNIX socket, the packet loop, the clock."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from siprec.media.bencode import BencodeError, encode
from siprec.media.ngauth import Stale
from siprec.media.ngframes import StreamFramer
from siprec.net.datagrams import DatagramReader
from siprec.relay.access import LOCAL, Access, check_access
from siprec.relay.call import Plane
from siprec.relay.heartbeat import Heartbeat
from siprec.relay.learning import Latching
from siprec.relay.native import Choice, packet_loop
from siprec.relay.ports import Interface, PortPool
from siprec.relay.server import Relay, Timeouts
from siprec.sip.clock import Timer

log = logging.getLogger(__name__)

_BATCH = 32
_TCP_WAITING = 1 << 20
_LARGEST_REPLY = 65_400  # of UDP over IPv4, with a signature
_CONNECTIONS = 256
_FIRST_MESSAGE = 10.0
"""Seconds that a connection may take until its first message that is let in."""
PRIVATE: Final = ("", 0)


@dataclass(frozen=True, slots=True)
class RelayOptions:
    """How a relay runs. `listen` is where ng is spoken: address and port (0: any) or, as the address, the path of a
    UNIX socket; ``PRIVATE``: a UNIX socket that only its parent knows. Who may: `secret`, `peers` (addresses and
    networks), see :mod:`siprec.relay.access`. `preroll` and all time-outs are in seconds; `dscp` marks media (0 to 63),
    `rtcp_mux` is offered to recorders."""

    listen: tuple[str, int] = PRIVATE
    interfaces: Sequence[Interface] = (Interface("127.0.0.1"),)
    ports: tuple[int, int] = (30000, 39999)
    timeouts: Timeouts = field(default_factory=Timeouts)
    latching: Latching = field(default_factory=Latching)
    preroll: float = 10.0
    max_calls: int = 20_000
    packet_loop: Choice = "auto"
    dscp: int = 0
    rtcp_mux: bool = False
    secret: str = ""
    peers: Sequence[str] = ()


class LoopClock:
    """Time of an event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.now = time.monotonic
        self.wall = time.time

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Timer:
        return self._loop.call_later(delay, callback, *args)


class RunningRelay:
    """A relay that listens; make it with :func:`run_relay`. `ng_address` is where, `packet_loop` is ``native`` or
    ``python``."""

    def __init__(self, loop: asyncio.AbstractEventLoop, options: RelayOptions) -> None:
        self._loop = loop
        clock = LoopClock(loop)
        pool = PortPool(options.interfaces, *options.ports, options.dscp)
        if options.listen == PRIVATE:
            raise ValueError("no address to listen on for ng")
        check_access(options.listen[0], options.secret, options.peers)
        self._access = Access(options.secret, options.peers, clock.now, clock.wall)
        self._udp, self._listener = _listen(options.listen)
        self.ng_address: tuple[str, int] = options.listen if self._udp is None else self._udp.getsockname()[:2]
        self._packets = packet_loop(loop, clock.now, options.packet_loop)
        self.packet_loop = self._packets.name
        plane = Plane(clock, self._packets, pool, options.latching, options.preroll, options.rtcp_mux)
        self.relay = Relay(plane, options.timeouts, max_calls=options.max_calls)
        self.relay.access = self._access.counters
        self._connections: set[_NgStream] = set()
        udp = self._udp
        self._reader = DatagramReader(loop, udp, self._received, batch=_BATCH) if udp is not None else None
        self._timer = loop.call_later(0.5, self._tick)
        self._server: asyncio.Server | None = None

    async def start_streams(self) -> None:
        """Accept ng over TCP on the same port, or over the UNIX socket."""

        def stream() -> _NgStream:
            local = LOCAL if self._udp is None else ""
            return _NgStream(self._loop, self._answer, self._access, self._connections, local)

        if self._udp is None:
            self._server = await self._loop.create_unix_server(stream, sock=self._listener)
        else:
            self._server = await self._loop.create_server(stream, sock=self._listener)

    def heartbeat(self, heartbeat: Heartbeat) -> None:
        """Show in `heartbeat` from now on that the packet loops are alive."""
        self._packets.heartbeat(heartbeat)

    async def close(self) -> None:
        """End every call and close every socket."""
        self._timer.cancel()
        if self._reader is not None:
            self._reader.close()
        if self._udp is not None:
            self._udp.close()
        else:
            with contextlib.suppress(OSError):
                os.unlink(self.ng_address[0])
        for connection in list(self._connections):
            connection.abort()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        else:
            self._listener.close()
        self.relay.close()
        self._packets.close()

    def _tick(self) -> None:
        self._timer = self._loop.call_later(0.5, self._tick)
        try:
            self.relay.tick()
        except Exception:
            log.exception("housekeeping failed")

    def _received(self, message: bytes, source: Any) -> None:
        reply = self._answer(message, source[0], source, source, _LARGEST_REPLY)
        if reply is not None and self._udp is not None:
            try:
                self._udp.sendto(reply, source)
            except OSError as error:
                self._access.log.warning(source[0], "reply to %s not sent: %s", source, error)

    def _answer(self, message: bytes, host: str, source: object, client: object, limit: int = 0) -> bytes | None:
        """The reply to a message of `host`, of `limit` octets at the most (0: any). `source` tells apart who may use
        the same cookies, `client` is whose calls they are."""
        try:
            found = self._access.open(message, host)
        except Stale as stale:
            return stale.answer.sealed(_error(b"", str(stale)))
        if found is None:
            return None
        plain, opened, first = found
        cookie = plain.partition(b" ")[0]
        if opened is None:
            reply = self.relay.message(plain, source, client)
        else:
            reply = self.relay.message(plain, "signed", cookie.rpartition(b"_")[0], first=first)
        if reply is not None and 0 < limit < len(reply):
            reply = _error(cookie, f"the reply of {len(reply)} octets fits into no datagram")
        return opened.sealed(reply) if reply is not None and opened is not None else reply


def _error(cookie: bytes, reason: str) -> bytes:
    return cookie + b" " + encode({"result": "error", "error-reason": reason})


class _NgStream(asyncio.Protocol):
    """One connection that speaks ng. Those that say nothing that is let in are closed."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        answer: Callable[[bytes, str, object, object], bytes | None],
        access: Access,
        connections: set[_NgStream],
        host: str = "",
    ) -> None:
        self._loop = loop
        self._answer = answer
        self._access = access
        self._connections = connections
        self._framer = StreamFramer()
        self._transport: asyncio.Transport | None = None
        self._host = host
        self._idle: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        if not self._host and isinstance(peer, tuple) and peer:
            self._host = peer[0]
        if not self._host or not self._access.welcome(self._host) or len(self._connections) >= _CONNECTIONS:
            self._transport.abort()
            return
        self._connections.add(self)
        if not self._access.listed(self._host):
            self._idle = self._loop.call_later(_FIRST_MESSAGE, self.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        if self._idle is not None:
            self._idle.cancel()

    def data_received(self, data: bytes) -> None:
        transport = self._transport
        assert transport is not None
        try:
            messages = self._framer.feed(data)
        except BencodeError as error:
            self._access.log.warning(self._host, "ng connection of %s closed: %s", self._host, error)
            transport.abort()
            return
        for message in messages:
            reply = self._answer(message, self._host, id(self), self._host)
            if reply is not None:
                if self._idle is not None:
                    self._idle.cancel()
                    self._idle = None
                transport.write(reply)
        if transport.get_write_buffer_size() > _TCP_WAITING:
            transport.abort()  # asks, but does not read the answers

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def _listen(address: tuple[str, int]) -> tuple[socket.socket | None, socket.socket]:
    """UDP and TCP sockets on the same port, or a UNIX socket; raises OSError that names the address."""
    host, port = address
    try:
        if host.startswith("/"):
            return None, _unix(host)
        return _pair(socket.AF_INET6 if ":" in host else socket.AF_INET, address)
    except OSError as error:
        where = host if host.startswith("/") else f"{host}:{port}"
        raise OSError(error.errno, f"cannot listen on {where}: {error.strerror or error}") from None


def _unix(path: str) -> socket.socket:
    """A UNIX socket of mode 0600 at `path`, in the place of one that nobody listens on."""
    if stat.S_ISSOCK(_mode(path)):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    before = os.umask(0o177)
    try:
        sock.bind(path)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(before)
    return sock


def _mode(path: str) -> int:
    try:
        return os.stat(path).st_mode
    except OSError:
        return 0


def _pair(family: int, address: tuple[str, int]) -> tuple[socket.socket, socket.socket]:
    for attempt in range(16):
        with contextlib.ExitStack() as opened:
            udp = opened.enter_context(socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))
            udp.bind(address)
            tcp = opened.enter_context(socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tcp.bind(udp.getsockname())
            except OSError:
                if address[1] or attempt == 15:
                    raise
                continue
            opened.pop_all()
            return udp, tcp
    raise OSError("no port for ng")


async def run_relay(options: RelayOptions) -> RunningRelay:
    """Start a relay on the running loop; raises OSError when it cannot listen, ValueError for a bad port range,
    ImportError when the native packet loop is asked for but was not built."""
    relay = RunningRelay(asyncio.get_running_loop(), options)
    await relay.start_streams()
    return relay
