"""The packet loop: receive one, send to the peer, send copies. All work per packet is in :meth:`PacketLoop.pump`.

All media sockets sit in an epoll of their own, of which the event loop watches the one descriptor: so one wake-up
serves every socket that is ready, without a handle per socket. Another implementation of this class (a native one) can
take its place: it needs nothing but the attributes of :class:`~siprec.relay.flow.Flow`.
"""

from __future__ import annotations

import asyncio
import select
import struct
from collections.abc import Callable
from typing import Protocol

from siprec.relay.flow import Flow

_BATCH = 256
_LARGEST = 65536
_HEADER = struct.Struct("!BBHII").unpack_from


class Descriptor(Protocol):
    def fileno(self) -> int: ...


class PacketLoop:
    """Serves the sockets of flows, and others by callback; `now` gives monotonic seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop, now: Callable[[], float]) -> None:
        self._loop = loop
        self._now = now
        self._epoll = select.epoll()
        self._flows: dict[int, Flow] = {}
        self._others: dict[int, Callable[[float], None]] = {}
        self._buffer = bytearray(_LARGEST)
        self._view = memoryview(self._buffer)
        loop.add_reader(self._epoll.fileno(), self.pump)

    @property
    def sockets(self) -> int:
        """Sockets that are watched."""
        return len(self._flows) + len(self._others)

    def add_flow(self, flow: Flow) -> None:
        """RTP arrives on `flow.sock`."""
        self._flows[flow.sock.fileno()] = flow
        self._epoll.register(flow.sock.fileno(), select.EPOLLIN)

    def add_control(self, flow: Flow) -> None:
        """RTCP arrives on `flow.sock`."""

        def arrived(now: float) -> None:
            try:
                size, source = flow.receive(self._buffer)
            except OSError:
                return
            flow.control(source, self._view[:size], now)

        self.add(flow.sock, arrived)

    def add(self, sock: Descriptor, arrived: Callable[[float], None]) -> None:
        """Call `arrived` with the time when `sock` can be read."""
        self._others[sock.fileno()] = arrived
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def remove(self, sock: Descriptor) -> None:
        """Forget `sock`; before it is closed."""
        number = sock.fileno()
        if self._flows.pop(number, None) is not None or self._others.pop(number, None) is not None:
            self._epoll.unregister(number)

    def close(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        self._flows.clear()
        self._others.clear()

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
                flow.drop("short")
                continue
            first, second, seq, timestamp, ssrc = unpack(buffer)
            packet = view[:size]
            if first & 0xC0 != 0x80 or 192 <= second <= 223:
                flow.not_rtp(source, packet, now)
                continue
            if source != flow.source and not flow.admit(source, now):
                continue
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
                    fork.failed(error, size)
