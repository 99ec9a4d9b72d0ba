"""Connections race (RFC 8305): the first of several addresses that takes one wins; nothing is sent before that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol

from siprec.net.tcp import Connecting
from siprec.sip.transport import Connected, Hop

HEAD_START: Final = 0.25
"""Seconds that an attempt has for itself (RFC 8305 8, Connection Attempt Delay)."""


class Dialler(Protocol):
    """What a race needs of its transport: see :class:`siprec.net.transport.SocketTransport`."""

    def stream_hop(self, hop: Hop) -> Hop: ...

    def open_to(self, hop: Hop) -> bool: ...

    def begin_connection(self, hop: Hop) -> Connecting | None: ...

    def give_up_connection(self, hop: Hop, connecting: Connecting) -> None: ...

    def remember_refusal(self, hop: Hop) -> None: ...


class ConnectionRace:
    """One race; see :data:`siprec.sip.transport.Race`."""

    def __init__(
        self,
        transport: Dialler,
        loop: asyncio.AbstractEventLoop,
        hops: Sequence[Hop],
        limit: float,
        connected: Connected,
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._waiting = [transport.stream_hop(hop) for hop in hops]
        self._running: dict[Hop, tuple[Connecting, Callable[[str], None]]] = {}
        self._connected: Connected | None = connected
        self._reason = "no address"
        self._next: asyncio.Handle | None = None
        self._limit = loop.call_later(limit, self._out_of_time, limit)
        up = next((hop for hop in self._waiting if transport.open_to(hop)), None)
        if up is not None:
            self._next = loop.call_soon(self._finish, up, "")
        else:
            self._next = loop.call_soon(self._start)

    def cancel(self) -> None:
        """Nobody wants to know any more."""
        self._connected = None
        self._end()

    def _start(self) -> None:
        """The next attempt."""
        self._next = None
        if not self._waiting:
            return
        hop = self._waiting.pop(0)
        connecting = self._transport.begin_connection(hop)
        if connecting is None:
            self._failed("too many connections")
            return
        tell = partial(self._heard, hop)
        connecting.waiting.append(tell)
        self._running[hop] = (connecting, tell)
        if self._waiting:
            self._next = self._loop.call_later(HEAD_START, self._start)

    def _heard(self, hop: Hop, reason: str) -> None:
        """An attempt has come to its end."""
        self._running.pop(hop, None)
        if not reason:
            self._finish(hop, "")
        else:
            self._failed(reason)

    def _failed(self, reason: str) -> None:
        self._reason = reason
        if self._waiting:
            if self._next is not None:
                self._next.cancel()
            self._next = self._loop.call_soon(self._start)
        elif not self._running:
            self._finish(None, reason)

    def _out_of_time(self, limit: float) -> None:
        for hop in self._running:
            self._transport.remember_refusal(hop)
        self._finish(None, f"no connection within {limit:g} s")

    def _finish(self, hop: Hop | None, reason: str) -> None:
        connected, self._connected = self._connected, None
        self._end()
        if connected is not None:
            connected(hop, reason)

    def _end(self) -> None:
        self._limit.cancel()
        if self._next is not None:
            self._next.cancel()
            self._next = None
        self._waiting.clear()
        running, self._running = self._running, {}
        for hop, (connecting, tell) in running.items():
            connecting.waiting.remove(tell)
            self._transport.give_up_connection(hop, connecting)
