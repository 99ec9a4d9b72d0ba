"""HTTP connections of the API: a time limit for the head of a request, and room for health checks when it is full."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import Any, Final

import h11
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from siprec.sourcelog import SourceLog, source_key

log = logging.getLogger(__name__)

HEAD_TIME: Final = 10.0
"""Seconds from a connection, or the first octet of its next request, to the end of the request's head."""
MAX_CONNECTIONS: Final = 256
"""Connections at a time. For a further one the source with the most gives one up that has no request; where none is to
be had, it gets answers to health checks only."""
MOST: Final = 2 * MAX_CONNECTIONS
"""Beyond that connections are closed at once."""
HEALTH: Final = ("/health/live", "/health/ready")

_lines: Final = SourceLog(log)


class Protocol(H11Protocol):
    """One connection. `head_time` may be set on a subclass."""

    head_time = HEAD_TIME

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._head: asyncio.TimerHandle | None = None
        self._source = ""
        self._since = 0.0

    def connection_made(self, transport: Any) -> None:
        """Called by the event loop."""
        super().connection_made(transport)
        self._source, self._since = source_key(self.client[0]) if self.client else "", self.loop.time()
        if len(self.connections) > MAX_CONNECTIONS:
            self._make_room()
        if len(self.connections) > MOST:
            self._refuse("API: source=%s is turned away: %d connections", len(self.connections))
        else:
            self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self._since = self.loop.time()
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            if self._head is None and not self.transport.is_closing():
                self._wait_for_head()
        else:
            self._head_is_here()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self._head_is_here()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Called for what is no HTTP."""
        host = self.client[0] if self.client else ""
        _lines.warning(host, "API: source=%s: %s", host, msg)
        super().send_400_response(msg)

    def _make_room(self) -> None:
        """The source with the most connections loses that one without a request that was quiet for longest."""
        mine = [each for each in self.connections if isinstance(each, Protocol) and not each.transport.is_closing()]
        idle = [each for each in mine if each is not self and (each.cycle is None or each.cycle.response_complete)]
        if len(mine) > MAX_CONNECTIONS and idle:
            held = Counter(each._source for each in mine)
            loser = max(idle, key=lambda each: (held[each._source], -each._since))
            if held[loser._source] >= held[self._source]:
                loser._refuse("API: source=%s has the most connections, %d, and loses one", held[loser._source])

    def _wait_for_head(self) -> None:
        self._head = self.loop.call_later(self.head_time, self._late)

    def _head_is_here(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _late(self) -> None:
        self._head = None
        self._refuse("API: source=%s sent no request within %.0f seconds", self.head_time)

    def _refuse(self, template: str, value: float) -> None:
        host = self.client[0] if self.client else ""
        _lines.warning(host, template, host, value)
        self.transport.abort()


class Crowd:
    """Answers 503 while there are too many connections, except to health checks. An ASGI application around `app`;
    `connections` are those that are open."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.connections: set[Any] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if len(self.connections) <= MAX_CONNECTIONS or scope.get("path") in HEALTH:
            await self._app(scope, receive, send)
            return
        headers = [(b"content-type", b"application/problem+json"), (b"retry-after", b"5"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"status":503,"title":"too many connections"}'})
