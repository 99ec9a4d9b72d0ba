"""Pairs of UDP ports for RTP and RTCP (RFC 3550 11: RTP even, RTCP the next odd one)."""

from __future__ import annotations

import errno
import ipaddress
import random
import socket
from dataclasses import dataclass

from siprec.net.datagrams import Watcher
from siprec.recorder.errors import RecorderFull

_RECEIVE_BUFFER = 1 << 20  # a pre-roll of several seconds arrives in one burst
_IN_USE = (errno.EADDRINUSE, errno.EACCES)


Poller = Watcher
"""The part of an asyncio event loop that the recorder needs."""


@dataclass(frozen=True, slots=True)
class PortPair:
    """Two bound, non-blocking UDP sockets; RTCP is on `port` + 1."""

    rtp: socket.socket
    rtcp: socket.socket
    port: int


class PortPool:
    """Hands out port pairs on `address`.

    `first` and `last` are the inclusive range; with ``first=0`` the system chooses. `limit` is the number of pairs that
    may be open at a time.
    """

    def __init__(self, address: str, first: int = 0, last: int = 65535, *, limit: int = 4000) -> None:
        self.address = address
        self.family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
        self._first = first + first % 2
        self._pairs = max((last - self._first + 1) // 2, 0) if first else 0
        self._limit = min(limit, self._pairs) if first else limit
        self._next = 0
        self.open = 0

    def acquire(self) -> PortPair:
        """Bind a pair; raises :class:`RecorderFull` if there is none left."""
        if self.open < self._limit:
            for _ in range(self._pairs or 50):
                if self._first:
                    port = self._first + 2 * self._next
                    self._next = (self._next + 1) % self._pairs
                else:
                    port = random.randrange(16384, 60000, 2)
                pair = self._bind(port)
                if pair is not None:
                    self.open += 1
                    return pair
        raise RecorderFull("no RTP port is free")

    def release(self, pair: PortPair) -> None:
        """Close a pair that :meth:`acquire` gave."""
        pair.rtp.close()
        pair.rtcp.close()
        self.open -= 1

    def _bind(self, port: int) -> PortPair | None:
        bound: list[socket.socket] = []
        for number in (port, port + 1):
            try:
                sock = socket.socket(self.family, socket.SOCK_DGRAM)
            except OSError as error:
                for other in bound:
                    other.close()
                raise RecorderFull(f"no socket: {error.strerror}") from error
            bound.append(sock)
            try:
                sock.setblocking(False)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
                sock.bind((self.address, number))
            except OSError as error:
                for other in bound:
                    other.close()
                if error.errno in _IN_USE:
                    return None
                raise RecorderFull(f"cannot bind {self.address}: {error.strerror}") from error
        return PortPair(bound[0], bound[1], port)
