"""Server-sent events (WHATWG HTML 9.2): a response that goes on."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.types import Message, Receive, Scope, Send

from siprec.api.event_hub import EventHub, Numbered, Subscriber

HEARTBEAT: Final = 15.0
"""Seconds of silence after which a comment shows that the connection lives."""
BATCH: Final = 0.1
"""Seconds between two writes to one client: what happens meanwhile goes together, so that a hundred listeners to a busy
proxy cost it little."""
SEND_LIMIT: Final = 10.0
"""Seconds that a client may take to read before its connection is given up."""
_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


def frame(event: Numbered) -> bytes:
    """One event on the wire."""
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (event.id.encode(), event.event.name.encode(), event.data)


class EventStream:
    """Sends `backlog`, then what `subscriber` gets, until either side ends. An ASGI application.

    A subscriber that was dropped gets a last comment, if its client ever reads again.
    """

    def __init__(self, hub: EventHub, subscriber: Subscriber, backlog: list[Numbered], gap: bool) -> None:
        self._hub = hub
        self._subscriber = subscriber
        self._backlog = backlog
        self._gap = gap

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watch = asyncio.create_task(self._watch(receive))
        try:
            await self._run(send)
        except TimeoutError:
            self._hub.drop(self._subscriber)  # the client does not read; returning closes the connection
        finally:
            self._hub.unsubscribe(self._subscriber)
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._subscriber.close()

    async def _run(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await self._write(send, b"retry: 2000\n: siprec events\n\n")
        if self._gap:
            await self._write(send, b"event: gap\ndata: {}\n\n")
        for event in self._backlog:
            await self._write(send, frame(event))
        self._backlog = []
        subscriber = self._subscriber
        while True:
            events = await subscriber.take(HEARTBEAT)
            if events:
                await self._write(send, b"".join(map(frame, events)))
                await asyncio.sleep(BATCH)
            elif subscriber.dropped:
                await self._write(send, b": too slow, events were lost; come again with Last-Event-ID\n\n", more=False)
                return
            elif subscriber.closed:
                await self._write(send, b": closed\n\n", more=False)
                return
            else:
                await self._write(send, b": alive\n\n")

    @staticmethod
    async def _write(send: Send, data: bytes, *, more: bool = True) -> None:
        message: Message = {"type": "http.response.body", "body": data, "more_body": more}
        async with asyncio.timeout(SEND_LIMIT):
            await send(message)
