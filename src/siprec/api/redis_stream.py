"""Events into a Redis (or Valkey) stream: one entry each, in order, as long as there is room for those that wait.

An extra (``pip install siprec[redis]``): programs that read streams need no connection to every proxy.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any, Final
from urllib.parse import urlsplit

from siprec.api.event_hub import EventHub, Numbered
from siprec.api.settings import RedisConfig

log = logging.getLogger(__name__)

FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0
BATCH: Final = 100


class RedisStream:
    """Takes events from `hub` and appends them with XADD; fields ``id``, ``event`` and ``data`` (JSON).

    Where Redis is gone, events wait; when `queue` of them do, the oldest are given up and counted in `lost`.

    Raises:
        ValueError: from the constructor, the redis package is not installed.
    """

    def __init__(self, config: RedisConfig, hub: EventHub) -> None:
        try:
            import redis.asyncio as client
        except ImportError:
            raise ValueError("api.redis: the redis package is missing (pip install 'siprec[redis]')") from None
        self.config = config
        self._redis: Any = client.from_url(config.url, socket_timeout=5.0, socket_connect_timeout=5.0)
        self._names = frozenset(config.events)
        self._queue: deque[Numbered] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.delivered = 0
        self.retried = 0
        self.lost = 0
        hub.sinks.append(self.offer)

    def __len__(self) -> int:
        return len(self._queue)

    def offer(self, event: Numbered) -> None:
        """Queue an event; never waits."""
        if self._names and event.event.name not in self._names:
            return
        if len(self._queue) >= self.config.queue:
            self._queue.popleft()
            self.lost += 1
        self._queue.append(event)
        self._wake.set()

    def start(self) -> None:
        """Begin to deliver."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """One more try for what waits, then end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        try:
            async with asyncio.timeout(2.0):
                await self._deliver()
        except Exception as error:
            self.lost += len(self._queue)
            log.warning("%d events were not written to Redis: %s", len(self._queue), error)
        await self._redis.aclose()

    async def _run(self) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                await self._deliver()
                pause = FIRST_PAUSE
            except Exception as error:
                # Whatever the library makes of a server that is gone, refuses us or answers nonsense.
                if pause == FIRST_PAUSE:
                    log.warning("Redis at %s: %s", _place(self.config.url), error)
                self.retried += 1
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
                continue
            self._wake.clear()
            if not self._queue:
                await self._wake.wait()

    async def _deliver(self) -> None:
        while self._queue:
            batch = [self._queue[number] for number in range(min(BATCH, len(self._queue)))]
            pipeline = self._redis.pipeline(transaction=True)
            for each in batch:
                fields = {"id": each.id, "event": each.event.name, "data": each.data}
                pipeline.xadd(self.config.stream, fields, maxlen=self.config.maxlen, approximate=True)
            await pipeline.execute()
            self.delivered += len(batch)
            for each in batch:
                # Meanwhile the oldest may have been given up.
                if self._queue and self._queue[0] is each:
                    self._queue.popleft()


def _place(url: str) -> str:
    """Where that is, without the password."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or 6379}" if parts.hostname else parts.path
