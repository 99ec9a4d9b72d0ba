"""Pairs of ports for RTP and RTCP, kept apart from the next recording.

A pair that was given back is quarantined: its sockets stay open until nothing has come for a while. Whoever sends to it
all the same, because a media server was never told that its call is over, is not heard in the next recording.
"""

from __future__ import annotations

import ipaddress
import random
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from siprec.net.datagrams import Watcher
from siprec.recorder.errors import RecorderFull
from siprec.rtp.ports import bind_pair
from siprec.sip.clock import Timer

_RECEIVE_BUFFER = 1 << 20  # a pre-roll of several seconds arrives in one burst
_QUARANTINE_SHARE = 4  # of the pairs that may be open, one in so many may be in quarantine ...
_QUARANTINE_LEAST = 64  # ... but so many in any case
_DRAIN = 64  # datagrams thrown away at a time


Poller = Watcher
"""The part of an asyncio event loop that the recorder needs."""


@dataclass(slots=True)
class _Quarantined:
    pair: PortPair
    until: float


@dataclass(frozen=True, slots=True)
class PortPair:
    """Two bound, non-blocking UDP sockets; RTCP is on `port` + 1."""

    rtp: socket.socket
    rtcp: socket.socket
    port: int


class PortPool:
    """Hands out port pairs on `address`.

    `first` and `last` are the inclusive range; with ``first=0`` the system chooses. `limit` is the number of pairs that
    may be open at a time, `quarantine` the seconds for which nothing must have come to a pair before it is handed out
    again (0: at once). `now` is monotonic time. `call_later` ends quarantines in time; without it they end when the
    pool is used. When no other pair is left, one from quarantine is taken: a recording is worth more.
    """

    def __init__(
        self,
        address: str,
        first: int = 0,
        last: int = 65535,
        *,
        limit: int = 4000,
        quarantine: float = 0.0,
        now: Callable[[], float] = time.monotonic,
        call_later: Callable[[float, Callable[[], object]], Timer] | None = None,
    ) -> None:
        self.address = address
        ipaddress.ip_address(address)  # ValueError for what is none
        self._first = first + first % 2
        self._pairs = max((last - self._first + 1) // 2, 0) if first else 0
        self._limit = min(limit, self._pairs) if first else limit
        self._next = 0
        self._quarantine = quarantine
        self._now = now
        self._call_later = call_later
        self._timer: Timer | None = None
        self._ports: set[int] = set()  # of pairs that are open, in use or in quarantine
        self._waiting: deque[_Quarantined] = deque()
        self.open = 0
        self.limit = self._limit
        """Pairs that may be open at a time."""
        self.quarantine_broken = 0
        """Pairs that were handed out before their quarantine was over, because there was no other."""

    def acquire(self) -> PortPair:
        """Bind a pair; raises :class:`RecorderFull` if there is none left."""
        self._expire()
        if self.open < self._limit:
            for _ in range(self._pairs or 50):
                if self._first:
                    port = self._first + 2 * self._next
                    self._next = (self._next + 1) % self._pairs
                else:
                    port = random.randrange(16384, 60000, 2)
                if port in self._ports:
                    continue
                try:
                    pair = self._bind(port)
                except RecorderFull:
                    if not self._waiting:
                        raise
                    break  # out of descriptors
                if pair is not None:
                    self._ports.add(port)
                    self.open += 1
                    return pair
            if self._waiting:
                pair = self._quietest()
                _drain(pair)
                _buffer(pair, _RECEIVE_BUFFER)
                self.quarantine_broken += 1
                self.open += 1
                return pair
        raise RecorderFull("no RTP port is free")

    def release(self, pair: PortPair) -> None:
        """Give a pair back that :meth:`acquire` gave."""
        self.open -= 1
        self._expire()
        if self._quarantine <= 0:
            self._close(pair)
            return
        _buffer(pair, 0)  # the least there is
        self._waiting.append(_Quarantined(pair, self._now() + self._quarantine))
        if len(self._waiting) > max(self._limit // _QUARANTINE_SHARE, _QUARANTINE_LEAST):
            self._close(self._quietest())
        self._schedule()

    @property
    def quarantined(self) -> int:
        """Pairs in quarantine."""
        return len(self._waiting)

    def close(self) -> None:
        """End all quarantines."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting:
            self._close(self._waiting.popleft().pair)

    def _schedule(self) -> None:
        if self._call_later is not None and self._timer is None and self._waiting:
            delay = max(self._waiting[0].until - self._now(), 1.0)
            self._timer = self._call_later(delay, self._timed_out)

    def _timed_out(self) -> None:
        self._timer = None
        self._expire()
        self._schedule()

    def _close(self, pair: PortPair) -> None:
        pair.rtp.close()
        pair.rtcp.close()
        self._ports.discard(pair.port)

    def _quietest(self) -> PortPair:
        """Take a pair out of quarantine: the oldest that nobody sends to, else the oldest."""
        for _ in range(len(self._waiting)):
            each = self._waiting.popleft()
            if not _drain(each.pair):
                return each.pair
            each.until = self._now() + self._quarantine
            self._waiting.append(each)
        return self._waiting.popleft().pair

    def _expire(self) -> None:
        """Close what has been quiet long enough; what still receives something stays for another while."""
        now = self._now()
        for _ in range(len(self._waiting)):
            if self._waiting[0].until > now:
                return
            each = self._waiting.popleft()
            if _drain(each.pair):
                each.until = now + self._quarantine
                self._waiting.append(each)
            else:
                self._close(each.pair)

    def _bind(self, port: int) -> PortPair | None:
        try:
            found = bind_pair(self.address, port, receive_buffer=_RECEIVE_BUFFER)
        except OSError as error:
            raise RecorderFull(f"no pair of ports at {self.address}: {error.strerror}") from error
        return PortPair(found.rtp, found.rtcp, port) if found is not None else None


def _buffer(pair: PortPair, size: int) -> None:
    for sock in (pair.rtp, pair.rtcp):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def _drain(pair: PortPair) -> bool:
    """Throw away what has come; whether there was anything."""
    found = False
    for sock in (pair.rtp, pair.rtcp):
        for _ in range(_DRAIN):
            try:
                sock.recv(1)
                found = True
            except BlockingIOError:
                break
            except OSError:
                pass  # an ICMP error for something we sent
    return found
