"""The packet loop: receive one, send to the peer, send copies. All work per packet is in :meth:`PacketLoop.pump`.

All media sockets sit in an epoll of their own, of which the event loop watches the one descriptor: so one wake-up
serves every socket that is ready, without a handle per socket. :class:`siprec.relay.native.NativeLoop` does the same in
a thread of its own, in C; :func:`siprec.relay.native.packet_loop` chooses.
"""

from __future__ import annotations

import asyncio
import select
import socket
import struct
from collections.abc import Callable
from typing import Protocol

from siprec.relay.fork_sink import Copies
from siprec.relay.heartbeat import INTERVAL, Heartbeat
from siprec.relay.learning import PAUSE, Latching
from siprec.relay.rtp_stream import Flow, Moved, Role
from siprec.relay.sink import Sink

_BATCH = 256
_LARGEST = 65536
_HEADER = struct.Struct("!BBHII").unpack_from


class Descriptor(Protocol):
    def fileno(self) -> int: ...


class PacketLoop:
    """Serves the sockets of flows, and others by callback; `now` gives monotonic seconds."""

    name = "python"

    def __init__(self, loop: asyncio.AbstractEventLoop, now: Callable[[], float]) -> None:
        self._loop = loop
        self._now = now
        self._epoll = select.epoll()
        self._flows: dict[int, Flow] = {}
        self._others: dict[int, Callable[[float], None]] = {}
        self._buffer = bytearray(_LARGEST)
        self._view = memoryview(self._buffer)
        self._beat: asyncio.TimerHandle | None = None
        self.moved: Moved | None = None
        """Hears of each change of host of a flow (the flow, from, to)."""
        loop.add_reader(self._epoll.fileno(), self.pump)

    @property
    def sockets(self) -> int:
        """Sockets that are watched."""
        return len(self._flows) + len(self._others)

    def group(self) -> int:
        """Where the flows of a new call are best served; only flows of the same group may be paired."""
        return 0

    def flow(self, sock: socket.socket, latching: Latching, group: int = 0, role: Role = "rtp") -> Flow:
        """A flow of what arrives on `sock`, which is watched from now on. Raises OSError."""
        flow = Flow(sock, latching, role, self._now)
        flow.notify = self._moved
        self._serve(flow)
        return flow

    def _moved(self, flow: Flow, before: object, now: object) -> None:
        if self.moved is not None:
            self.moved(flow, before, now)

    def copies(self, source: Flow, seconds: float) -> Sink:
        """Where copies of `source` go; to be put into its `forks`. `seconds` of packets are kept at most."""
        return Copies(source, self._now, seconds)

    def _serve(self, flow: Flow) -> None:
        if flow.role == "rtp":
            self._epoll.register(flow.sock.fileno(), select.EPOLLIN)
            self._flows[flow.sock.fileno()] = flow
            return
        handle = flow.control if flow.role == "control" else flow.opaque

        def arrived(now: float) -> None:
            try:
                size, source = flow.receive(self._buffer)
            except OSError:
                return
            handle(source, self._view[:size], now)

        self.add(flow.sock, arrived)

    def add(self, sock: Descriptor, arrived: Callable[[float], None]) -> None:
        """Call `arrived` with the time when `sock` can be read."""
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        self._others[sock.fileno()] = arrived

    def remove(self, sock: Descriptor) -> None:
        """Forget `sock`; before it is closed."""
        number = sock.fileno()
        if self._flows.pop(number, None) is not None or self._others.pop(number, None) is not None:
            self._epoll.unregister(number)

    def close(self) -> None:
        if self._beat is not None:
            self._beat.cancel()
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        self._flows.clear()
        self._others.clear()

    def heartbeat(self, heartbeat: Heartbeat) -> None:
        """Show in `heartbeat` from now on that the loop is alive."""
        heartbeat.beat(self._at_work)
        self._beat = self._loop.call_later(INTERVAL, self.heartbeat, heartbeat)

    @property
    def _at_work(self) -> bool:
        """Whether packets would miss this loop."""
        return True

    def pump(self) -> None:
        """One datagram of each socket that is ready."""
        unpack = _HEADER
        flows = self._flows
        buffer = self._buffer
        view = self._view
        events = self._epoll.poll(0, _BATCH)
        now = self._now()
        for number, _ in events:
            flow = flows.get(number)
            if flow is None:
                other = self._others.get(number)
                if other is not None:
                    other(now)
                continue
            try:
                size, source = flow.receive(buffer)
            except OSError:
                continue
            if size < 12:
                flow.not_rtp(source, view[:size], now)
                continue
            first, second, seq, timestamp, ssrc = unpack(buffer)
            packet = view[:size]
            # RTP without anything special is the rule
            if (first != 0x80 or 192 <= second <= 223) and not is_rtp(packet):
                flow.not_rtp(source, packet, now)
                continue
            if source != flow.source and not flow.admit(source, now, packet):
                continue
            if now - flow.last > PAUSE:
                flow.resumed(seq, ssrc, timestamp)
            flow.packets += 1
            flow.octets += size
            flow.last = now
            flow.timestamp = timestamp
            if seq == flow.next_seq and ssrc == flow.ssrc:
                flow.next_seq = (seq + 1) & 0xFFFF
            else:
                flow.resequence(seq, ssrc)
            target = flow.target
            if target is not None:
                try:
                    flow.send(packet, target)  # type: ignore[misc]  # set together with target
                except OSError as error:
                    flow.send_failed(error)
            else:
                flow.unsent += 1
            for fork in flow.forks:
                try:
                    fork.send(packet)
                except OSError as error:
                    fork.failed(error.errno or 0, size)


def is_rtp(packet: memoryview) -> bool:
    """Is `packet`, of 12 octets or more, RTP rather than RTCP (RFC 5761 4), with its whole header?"""
    if packet[0] & 0xC0 != 0x80 or 192 <= packet[1] <= 223:
        return False
    header = 12 + 4 * (packet[0] & 0x0F)
    if packet[0] & 0x10:
        header += 4
        if header <= len(packet):
            header += 4 * int.from_bytes(packet[header - 2 : header])
    return header <= len(packet)
