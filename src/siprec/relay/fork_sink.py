"""Where copies of one stream go: nowhere, into a bounded queue (pre-roll), or out to a recorder.

The native loop has a twin of this (``_native.Copies``); :meth:`siprec.relay.loop.PacketLoop.copies` makes the one that
fits.
"""

from __future__ import annotations

import math
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from siprec.relay.rtp_stream import Flow
from siprec.relay.sink import reason_of

PREROLL_OCTETS = 2 << 20


class Copies:
    """A :class:`~siprec.relay.sink.Sink` in Python: copies of what `source` receives. `now` gives monotonic seconds.

    What goes out directly is counted by what `source` has received since, which costs nothing per packet.
    """

    __slots__ = (
        "_base",
        "_direct",
        "_now",
        "_octets",
        "_packets",
        "_shift",
        "_source",
        "_withheld",
        "_withheld_from",
        "dropped",
        "dropped_at",
        "kept",
        "kept_octets",
        "renumbers",
        "seconds",
        "send",
    )

    def __init__(self, source: Flow, now: Callable[[], float], seconds: float) -> None:
        self._source = source
        self._now = now
        self.seconds = seconds
        self.kept: deque[tuple[float, bytes]] = deque()
        self.kept_octets = 0
        self.dropped: dict[str, int] = {}
        self.dropped_at = -math.inf
        self._withheld = 0
        self._withheld_from: int | None = None
        self._shift = 0
        self.renumbers = True
        self.send: Callable[[memoryview], object] = len
        self._direct = False
        self._base = (0, 0)
        self._packets = 0
        self._octets = 0

    @property
    def packets(self) -> int:
        return self._packets + (self._source.packets - self._base[0] if self._direct else 0)

    @property
    def octets(self) -> int:
        return self._octets + (self._source.octets - self._base[1] if self._direct else 0)

    @property
    def waiting(self) -> int:
        return len(self.kept)

    @property
    def withheld(self) -> int:
        since = self._withheld_from
        return self._withheld + (self._source.packets - since if since is not None else 0)

    @property
    def shift(self) -> int:
        since = self._withheld_from
        more = self._source.packets - since if since is not None and self._packets > 0 else 0
        return (self._shift + more) & 0xFFFF

    def keep(self, seconds: float) -> None:
        self._stop()
        self.seconds = seconds
        self.send = self._keep

    def direct(self, sock: socket.socket) -> None:
        if self._direct:
            return
        self._stop()
        self.drain(sock, len(self.kept))
        self._base = (self._source.packets, self._source.octets)
        self._direct = True
        self.send = self._sender(sock)

    def off(self) -> None:
        self._stop()
        self.send = len

    def withhold(self) -> None:
        if self._withheld_from is None:
            self._stop()
            self._withheld_from = self._source.packets
            self.send = len
        self.clear()

    def _sender(self, sock: socket.socket) -> Callable[[memoryview], object]:
        by = self.shift if self.renumbers else 0
        if not by:
            return sock.send

        return lambda packet: sock.send(renumbered(packet, by))

    def renumber(self, wanted: bool) -> None:
        self.renumbers = wanted

    def clear(self) -> None:
        self.kept.clear()
        self.kept_octets = 0

    def inherit(self, other: Any, since: float) -> int:
        older = [kept for kept in list(other.kept)[: max(0, len(other.kept) - len(self.kept))] if kept[0] >= since]
        self.kept.extendleft(reversed(older))
        self.kept_octets += sum(len(packet) for _, packet in older)
        return len(older)

    def drain(self, sock: socket.socket, count: int) -> int:
        send = self._sender(sock)
        while self.kept and count > 0:
            count -= 1
            _, packet = self.kept.popleft()
            size = len(packet)
            self.kept_octets -= size
            self._packets += 1
            self._octets += size
            try:
                send(memoryview(packet))
            except OSError as error:
                self.failed(error.errno or 0, size)
        return len(self.kept)

    def failed(self, error: int, size: int) -> None:
        self._packets -= 1
        self._octets -= size
        self._drop(reason_of(error))

    def _stop(self) -> None:
        self._packets, self._octets, self._direct = self.packets, self.octets, False
        self._shift, self._withheld, self._withheld_from = self.shift, self.withheld, None

    def _keep(self, packet: memoryview) -> None:
        now = self._now()
        self.kept.append((now, bytes(packet)))
        self.kept_octets += len(packet)
        while self.kept_octets > PREROLL_OCTETS or self.kept[0][0] < now - self.seconds:
            self.dropped_at, oldest = self.kept.popleft()
            self.kept_octets -= len(oldest)
            self._drop("preroll")
            if not self.kept:
                break

    def _drop(self, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1


def renumbered(packet: bytes | memoryview, by: int) -> bytearray:
    """An RTP packet with a sequence number that is lower by `by`."""
    octets = bytearray(packet)
    octets[2:4] = ((int.from_bytes(octets[2:4]) - by) & 0xFFFF).to_bytes(2)
    return octets
