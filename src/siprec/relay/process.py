"""The relay on an event loop: ng over UDP and TCP, the packet loop, the clock."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from siprec.media.bencode import BencodeError
from siprec.media.ng import StreamFramer
from siprec.net.datagrams import DatagramReader
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


@dataclass(frozen=True, slots=True)
class RelayOptions:
    """How a relay runs. `listen` is where ng is spoken (port 0: any); `preroll` and all time-outs are in seconds;
    `dscp` marks media (0 to 63), `rtcp_mux` is offered to recorders."""

    listen: tuple[str, int] = ("127.0.0.1", 0)
    interfaces: Sequence[Interface] = (Interface("127.0.0.1"),)
    ports: tuple[int, int] = (30000, 39999)
    timeouts: Timeouts = field(default_factory=Timeouts)
    latching: Latching = field(default_factory=Latching)
    preroll: float = 10.0
    max_calls: int = 20_000
    packet_loop: Choice = "auto"
    dscp: int = 0
    rtcp_mux: bool = False


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
        family = socket.AF_INET6 if ":" in options.listen[0] else socket.AF_INET
        self._udp, self._listener = _listen(family, options.listen)
        self.ng_address: tuple[str, int] = self._udp.getsockname()[:2]
        self._packets = packet_loop(loop, clock.now, options.packet_loop)
        self.packet_loop = self._packets.name
        plane = Plane(clock, self._packets, pool, options.latching, options.preroll, options.rtcp_mux)
        self.relay = Relay(plane, options.timeouts, max_calls=options.max_calls)
        self._connections: set[_NgStream] = set()
        self._reader = DatagramReader(loop, self._udp, self._received, batch=_BATCH)
        self._timer = loop.call_later(0.5, self._tick)
        self._server: asyncio.Server | None = None

    async def start_tcp(self) -> None:
        """Accept ng over TCP, on the same port."""
        self._server = await self._loop.create_server(
            lambda: _NgStream(self.relay, self._connections), sock=self._listener
        )

    def heartbeat(self, heartbeat: Heartbeat) -> None:
        """Show in `heartbeat` from now on that the packet loops are alive."""
        self._packets.heartbeat(heartbeat)

    async def close(self) -> None:
        """End every call and close every socket."""
        self._timer.cancel()
        self._reader.close()
        self._udp.close()
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
        reply = self.relay.message(message, source)
        if reply is not None:
            try:
                self._udp.sendto(reply, source)
            except OSError as error:
                log.warning("reply to %s not sent: %s", source, error)


class _NgStream(asyncio.Protocol):
    """One TCP connection that speaks ng."""

    def __init__(self, relay: Relay, connections: set[_NgStream]) -> None:
        self._relay = relay
        self._connections = connections
        self._framer = StreamFramer()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)

    def data_received(self, data: bytes) -> None:
        transport = self._transport
        assert transport is not None
        try:
            messages = self._framer.feed(data)
        except BencodeError as error:
            log.warning("ng connection closed: %s", error)
            transport.abort()
            return
        for message in messages:
            reply = self._relay.message(message, id(self))
            if reply is not None:
                transport.write(reply)
        if transport.get_write_buffer_size() > _TCP_WAITING:
            transport.abort()  # asks, but does not read the answers

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def _listen(family: int, address: tuple[str, int]) -> tuple[socket.socket, socket.socket]:
    """UDP and TCP sockets on the same port; raises OSError that names the address."""
    try:
        return _pair(family, address)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {address[0]}:{address[1]}: {error.strerror or error}") from None


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
    await relay.start_tcp()
    return relay
