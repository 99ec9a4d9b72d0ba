"""SIP over real sockets: UDP, TCP and TLS under one roof (RFC 3261 18).

transport = SocketTransport()
transport.on_message = layer.receive
transport.on_malformed = layer.receive_malformed
await transport.listen(["udp:127.0.0.1:5060", "tcp:127.0.0.1:5060"])
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import count
from time import monotonic

from siprec.net.accepted import AcceptedConnections
from siprec.net.address import ListenAddress, family_of, refusal, split_host_port
from siprec.net.counters import Counters
from siprec.net.handshake import MOST, Handshakes
from siprec.net.listeners import MAX_UDP_REQUEST, Listener, Listeners
from siprec.net.race import ConnectionRace
from siprec.net.tcp import Connecting, Key, StreamConnection, StreamLimits, StreamListener, connect, describe, key_of
from siprec.net.tls import TlsContexts, TlsSettings
from siprec.net.udp import UdpListener
from siprec.sip.errors import SipError
from siprec.sip.message import SipRequest, SipResponse, parse_datagram
from siprec.sip.transport import Connected, Hop, SendFailed

log = logging.getLogger(__name__)


OnMessage = Callable[[SipRequest | SipResponse, Hop], None]
OnMalformed = Callable[[SipError, Hop], None]
Trace = Callable[[str, Hop, bytes], None]


class SocketTransport(Listeners):
    """:class:`siprec.sip.transport.Transport` on real sockets, on the running event loop.

    `on_message(message, hop)` gets what was parsed, `on_malformed(error, hop)` what could not be; what they raise is
    logged. `tls` is the identity and trust for connections opened when neither the hop nor a TLS listener has its own;
    what a hop's `TlsSettings` leave out is taken from it. `trace(direction, hop, octets)`, direction ``"in"`` or
    ``"out"``, sees every SIP message when set. `allow` names addresses that may be sent to although they are multicast
    or broadcast (RFC 4475 3.3.10).
    """

    def __init__(
        self,
        *,
        on_message: OnMessage | None = None,
        on_malformed: OnMalformed | None = None,
        limits: StreamLimits | None = None,
        tls: TlsSettings | None = None,
        allow: Iterable[str] = (),
        max_udp_request: int = MAX_UDP_REQUEST,
    ) -> None:
        super().__init__(max_udp_request)
        self.on_message: OnMessage | None = on_message
        self.on_malformed: OnMalformed | None = on_malformed
        self.on_closed: Callable[[Hop], None] | None = None
        """Hears of connections we had opened to a hop and that are gone, unless it was our wish."""
        self.trace: Trace | None = None
        self.limits = limits or StreamLimits()
        self.counters = Counters()
        self.accepted = AcceptedConnections(self.limits, self._crowded_out)
        self.handshakes = Handshakes(self.limits.connect, most=min(MOST, self.limits.max_connections))
        self._loop = asyncio.get_running_loop()
        self._tls = tls or TlsSettings()
        self._contexts = TlsContexts(self._tls)
        self._allow = frozenset(allow)
        self._ids = count(1)
        self._connections: dict[int, StreamConnection] = {}
        self._by_key: dict[Key, StreamConnection] = {}
        self._connecting: dict[Key, Connecting] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    # -- set-up and end --------------------------------------------------------------------------------------------

    async def listen(
        self, addresses: str | Iterable[str], *, advertise: str = "", tls: TlsSettings | None = None
    ) -> list[Listener]:
        """Listen on ``udp:127.0.0.1:5060``, ``tcp:[::1]:0``, ``tls:0.0.0.0:5061``...

        `advertise` (``host`` or ``host:port``) is what is written into Via for these listeners; `tls` the identity of
        those of them that are TLS (default: the transport's). Port 0 takes a free one; a TCP listener that follows a
        UDP one of the same host with port 0 in the same call takes the same number if it is free.

        Raises:
            ValueError: malformed address, or TLS without a certificate.
            OSError: address in use or not ours, TLS files missing. Listeners of this call are closed again.
        """
        texts = [addresses] if isinstance(addresses, str) else list(addresses)
        host, port = split_host_port(advertise) if advertise else ("", None)
        opened: list[Listener] = []
        try:
            for text in texts:
                wanted = ListenAddress.parse(text)
                # A numeric address stands for the listeners of its family only.
                fits = family_of(host) in (socket.AF_UNSPEC, wanted.family)
                named = (host, port or 0) if fits else ("", 0)
                listener = await self._open(wanted, named, tls or self._tls, opened)
                opened.append(listener)
        except BaseException:
            for listener in opened:
                listener.socket.close()
            raise
        self.set_listeners([*self.listeners, *opened])
        return opened

    async def _open(
        self, wanted: ListenAddress, advertise: tuple[str, int], tls: TlsSettings, opened: list[Listener]
    ) -> Listener:
        if wanted.transport == "udp":
            udp = UdpListener(self._loop, wanted, self._datagram, self.counters)
            return Listener(udp.address, advertise, udp)
        server = client = None
        if wanted.transport == "tls":
            server, client = self._contexts.listener(tls)
        stream: StreamListener | None = None
        if wanted.transport == "tcp" and wanted.port == 0:
            # UDP and TCP on one number (RFC 3261 18), if nobody else has it.
            for other in opened:
                if other.address.transport == "udp" and other.address.host == wanted.host:
                    try:
                        same = replace(wanted, port=other.address.port)
                        stream = await StreamListener.open(same, self._accept, None, self.handshakes)
                    except OSError:
                        pass
        if stream is None:
            stream = await StreamListener.open(wanted, self._accept, server, self.handshakes)
        return Listener(stream.address, advertise, stream, client)

    async def close(self) -> None:
        """Close listeners and connections; returns when all are gone. Waiting messages are dropped in silence."""
        self._closed = True
        for listener in self.listeners:
            listener.socket.close()
        self.set_listeners([])
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        self.handshakes.close()
        tasks = [connecting.task for connecting in self._connecting.values() if connecting.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in list(self._connections.values()):
            connection.close()
        for _ in range(200):
            await asyncio.sleep(0)
            if not self._connections:
                break
        await asyncio.sleep(0)

    # -- out -------------------------------------------------------------------------------------------------------

    def send(self, data: bytes, hop: Hop, failed: SendFailed | None = None) -> None:
        """Send octets.

        ``hop.connection`` other than 0 means that connection and no other: when it is gone, `failed` says so, and the
        caller may try again with 0 (RFC 3261 18.2.2).
        """
        forbidden = refusal(hop.host)
        if (forbidden and hop.host not in self._allow) or not 0 < hop.port < 65536:
            self._fail(failed, forbidden or f"port {hop.port}")
        elif hop.transport == "udp":
            listener = self.listener_for(hop)
            if listener is None or not isinstance(listener.socket, UdpListener):
                self._fail(failed, f"no UDP listener towards {hop.host}")
                return
            self.counters.sent += 1
            if self.trace is not None:
                self._traced("out", hop if hop.local == listener.local else self.from_listener(hop), data)
            listener.socket.send(data, hop.host, hop.port, failed)
        elif hop.transport in ("tcp", "tls"):
            self._send_stream(data, hop, failed)
        else:
            self._fail(failed, f"transport {hop.transport} not supported")

    def _fail(self, failed: SendFailed | None, reason: str) -> None:
        self.counters.send_errors += 1
        if failed is not None:
            self._loop.call_soon(failed, reason)

    def _send_stream(self, data: bytes, hop: Hop, failed: SendFailed | None) -> None:
        if hop.connection:
            connection = self._connections.get(hop.connection)
        else:
            hop = self.stream_hop(hop)
            connection = self._by_key.get(key_of(hop))
        if connection is None:
            if hop.connection or self._closed:
                self._fail(failed, "connection closed")
            else:
                self._connect(data, hop, failed)
            return
        refused = connection.send(data, failed)
        if refused:
            self._fail(failed, refused)
            return
        connection.active = monotonic()
        self.counters.sent += 1
        if self.trace is not None:
            self._traced("out", connection.hop, data)

    def _connect(self, data: bytes, hop: Hop, failed: SendFailed | None) -> None:
        connecting = self.begin_connection(hop)
        if connecting is None:
            self._fail(failed, "too many connections")
        elif not connecting.add(data, failed):
            self._fail(failed, "send queue full")

    def open_to(self, hop: Hop) -> bool:
        """Whether a connection to `hop`, as :meth:`stream_hop` gives it, is up."""
        return key_of(hop) in self._by_key

    def stream_hop(self, hop: Hop) -> Hop:
        """`hop` as its connection is known by: with the listener that it is opened from."""
        hop = self.from_listener(hop)
        if hop.transport == "tcp" and (hop.server_name or hop.tls is not None):
            hop = replace(hop, server_name="", tls=None)
        return hop

    def begin_connection(self, hop: Hop) -> Connecting | None:
        """A connection to `hop` on its way, begun now or before; None: there are too many."""
        key = key_of(hop)
        connecting = self._connecting.get(key)
        if connecting is None:
            if len(self._connections) + len(self._connecting) >= self.limits.max_connections:
                return None
            connecting = self._connecting[key] = Connecting(self.limits.max_buffered)
            connecting.task = self._loop.create_task(self._open_connection(key, hop, connecting))
        return connecting

    def give_up_connection(self, hop: Hop, connecting: Connecting) -> None:
        """End an attempt that nobody waits for any more."""
        key = key_of(hop)
        if connecting.queue or connecting.waiting or self._connecting.get(key) is not connecting:
            return
        del self._connecting[key]
        if connecting.task is not None:
            connecting.task.cancel()

    def race(self, hops: Sequence[Hop], limit: float, connected: Connected) -> Callable[[], None]:
        """Open connections to `hops` side by side (:data:`siprec.sip.transport.Race`); what is returned gives up."""
        return ConnectionRace(self, self._loop, hops, limit, connected).cancel

    async def _open_connection(self, key: Key, hop: Hop, connecting: Connecting) -> None:
        protocol = StreamConnection(self, next(self._ids), hop.transport, hop.local, hop)
        try:
            context = self._context(hop) if hop.transport == "tls" else None
            await connect(hop, protocol, context, self.limits.connect)
            if protocol.refused:
                raise ConnectionError("connection refused by our limits")
        except (OSError, TimeoutError, ValueError, ssl.SSLError) as error:
            self._connecting.pop(key, None)
            self.counters.connect_failed += 1
            reason = f"cannot connect to {hop}: {describe(error)}"
            log.info("%s", reason)
            self.remember_refusal(hop)
            for _, failed in connecting.queue:
                self._fail(failed, reason)
            for tell in connecting.waiting:
                tell(reason)
            return
        except BaseException:
            self._connecting.pop(key, None)
            raise
        self._connecting.pop(key, None)
        self.forget_refusal(hop)
        self.counters.connected += 1
        self._by_key[key] = protocol
        for data, failed in connecting.queue:
            self._send_stream(data, protocol.hop, failed)
        for tell in connecting.waiting:
            tell("")

    def _context(self, hop: Hop) -> ssl.SSLContext:
        if isinstance(hop.tls, TlsSettings):
            return self._contexts.client(hop.tls)
        listener = self.listener_for(hop)
        return listener.tls if listener is not None and listener.tls is not None else self._contexts.client()

    def refresh_tls(self) -> None:
        """Read all certificates again, for connections that are yet to come; those that exist stay as they are.

        Raises:
            OSError: a file is missing, or not what it should be; where that is so the old certificate stays.
        """
        self._contexts.refresh()

    # -- connections -----------------------------------------------------------------------------------------------

    @property
    def dropped(self) -> dict[str, int]:
        """Datagrams that nobody above has seen, by reason."""
        sockets = (listener.socket for listener in self.listeners)
        overflowed = sum(each.overflowed for each in sockets if isinstance(each, UdpListener))
        return {"no SIP": self.counters.ignored, "socket full": overflowed, "parser failed": self.counters.unparsed}

    @property
    def connections(self) -> int:
        """How many stream connections are open."""
        return len(self._connections)

    def connection(self, ident: int) -> StreamConnection | None:
        """An open connection by :attr:`Hop.connection` (for its certificate, say)."""
        return self._connections.get(ident)

    def _accept(self, address: ListenAddress) -> StreamConnection:
        return StreamConnection(self, next(self._ids), address.transport, (address.host, address.port))

    def stream_opened(self, connection: StreamConnection) -> bool:
        """A connection is up (called by it); False: too many."""
        if self._closed:
            self.counters.refused += 1
            return False
        if connection.target is None:
            self.accepted.add(connection, len(self._connections) - len(self.accepted))
        if len(self._connections) >= self.limits.max_connections:
            self.accepted.remove(connection)
            self.counters.refused += 1
            return False
        self._connections[connection.id] = connection
        if connection.target is None:
            self.counters.accepted += 1
            self._by_key.setdefault(connection.key, connection)
        if self._sweep is None:
            self._sweep = self._loop.call_later(self._sweep_every(), self._close_idle)
        return True

    def _sweep_every(self) -> float:
        return min(self.limits.idle, self.limits.first) / 4

    def _crowded_out(self, connection: StreamConnection, reason: str) -> None:
        """One of the accepted connections has to go."""
        log.debug("connection of %s is closed: %s", connection.hop, reason)
        self.counters.crowded_out += 1
        connection.ours = True
        connection.close()
        self.stream_closed(connection)

    def stream_active(self, connection: StreamConnection) -> None:
        """Something whole came on a connection (called by it)."""
        if connection.target is None:
            self.accepted.active(connection)

    def stream_holds(self, connection: StreamConnection, octets: int) -> None:
        """A connection holds octets of an unfinished message (called by it)."""
        if connection.target is None and connection.id in self._connections:
            self.accepted.holds(connection, octets)

    def stream_closed(self, connection: StreamConnection) -> None:
        """A connection is gone (called by it)."""
        if self._connections.pop(connection.id, None) is None:
            return
        self.accepted.remove(connection)
        self.counters.closed += 1
        if self._by_key.get(connection.key) is connection:
            del self._by_key[connection.key]
        if self.on_closed is not None and connection.target is not None and not (self._closed or connection.ours):
            self.on_closed(connection.target)

    def _close_idle(self) -> None:
        self._sweep = None
        now = monotonic()
        oldest = now - self.limits.idle
        newcomer = now - min(self.limits.idle, self.limits.first)
        for connection in list(self._connections.values()):
            silent = connection.target is None and not connection.spoken
            if connection.active < (newcomer if silent else oldest):
                self.counters.idle_closed += 1
                connection.ours = True
                connection.close()
        if self._connections:
            self._sweep = self._loop.call_later(self._sweep_every(), self._close_idle)

    # -- in --------------------------------------------------------------------------------------------------------

    def _datagram(self, data: bytes, hop: Hop) -> None:
        if self.trace is not None:
            self._traced("in", hop, data)
        try:
            message = parse_datagram(data)
        except SipError as error:
            self.stream_malformed(error, hop)
            return
        except Exception:
            self.counters.unparsed += 1
            log.exception("the parser failed on a datagram from %s", hop)
            return
        self._deliver(message, hop)

    def stream_message(self, message: SipRequest | SipResponse, hop: Hop) -> None:
        """A message came on a connection (called by it). Never raises."""
        if self.trace is not None:
            self._traced("in", hop, message.to_bytes())
        self._deliver(message, hop)

    def _deliver(self, message: SipRequest | SipResponse, hop: Hop) -> None:
        self.counters.received += 1
        if self.on_message is not None:
            try:
                self.on_message(message, hop)
            except Exception:
                log.exception("error while handling %r from %s, Call-ID %s", message, hop, message.get("call-id"))

    def stream_malformed(self, error: SipError, hop: Hop) -> None:
        """Something came that is no message. Never raises."""
        self.counters.malformed += 1
        if self.on_malformed is not None:
            try:
                self.on_malformed(error, hop)
            except Exception:
                log.exception("error while handling a malformed message from %s", hop)

    def _traced(self, direction: str, hop: Hop, data: bytes) -> None:
        try:
            assert self.trace is not None
            self.trace(direction, hop, data)
        except Exception:
            log.exception("error in the trace hook")
