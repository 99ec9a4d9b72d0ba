"""Signed webhooks: each event as a POST, repeated with growing pauses, on disk when nobody takes it.

Headers and signature are those of the Standard Webhooks specification 1.0: ``webhook-id``, ``webhook-timestamp`` and
``webhook-signature: v1,BASE64`` with HMAC-SHA256 over ``id.timestamp.body``.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import logging
import os
import ssl
from collections import deque
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from siprec.api.event_hub import EventHub, Numbered
from siprec.api.settings import ApiConfig, WebhookConfig
from siprec.sip.clock import Clock

log = logging.getLogger(__name__)

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0
MAX_HEAD: Final = 16384
MAX_DEAD: Final = 10_000
MAX_FILE: Final = 20_000_000
"""Octets of the dead letter file after which it is renamed to ``.1``."""


def sign(secret: str, identifier: str, timestamp: int, body: bytes) -> str:
    """The value of ``webhook-signature``. A secret ``whsec_BASE64`` stands for those octets, any other for itself."""
    key = secret.encode()
    if secret.startswith("whsec_"):
        try:
            key = base64.b64decode(secret[6:], validate=True)
        except (binascii.Error, ValueError):
            pass
    content = f"{identifier}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()


@dataclass(frozen=True, slots=True)
class Dead:
    """An event that was not delivered, and why."""

    url: str
    event: Numbered
    attempts: int
    error: str


class DeadLetters:
    """Writes JSON lines to a file, off the event loop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: deque[Dead] = deque()
        self._wake = asyncio.Event()
        self._writing: asyncio.Future[None] | None = None
        self.written = 0
        self.lost = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, dead: Dead) -> None:
        """Have one written; beyond 10 000 that wait they are only counted."""
        if len(self._waiting) >= MAX_DEAD:
            self.lost += 1
            return
        self._waiting.append(dead)
        self._wake.set()

    async def run(self) -> None:
        """Write what comes, for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self.flush()

    async def flush(self) -> None:
        """Write what waits; also what is being written is on disk afterwards, whoever began that and was stopped."""
        if self._writing is not None:
            await asyncio.wait((self._writing,))
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), 500))]
            lines = b"".join(map(_line, batch))
            self._writing = asyncio.ensure_future(asyncio.to_thread(self._append, lines))
            self._writing.add_done_callback(partial(self._wrote, len(batch)))
            await asyncio.wait((self._writing,))

    def _wrote(self, count: int, writing: asyncio.Future[None]) -> None:
        self._writing = None
        error = None if writing.cancelled() else writing.exception()
        if error is None and not writing.cancelled():
            self.written += count
            return
        self.lost += count
        log.error("dead letters of webhooks cannot be written: %s", error or "stopped")

    def _append(self, lines: bytes) -> None:
        if self._path.exists() and self._path.stat().st_size > MAX_FILE:
            self._path.replace(self._path.with_name(self._path.name + ".1"))
        # Numbers and names are in it: for owner and group only, whatever the umask.
        with open(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640), "ab") as file:
            os.fchmod(file.fileno(), 0o640)
            file.write(lines)


def _line(dead: Dead) -> bytes:
    head = msgspec.json.encode({"url": dead.url, "attempts": dead.attempts, "error": dead.error})
    return head[:-1] + b',"event":' + dead.event.data + b"}\n"


class Webhook:
    """One receiver: a bounded queue, and a task that empties it in order."""

    def __init__(self, clock: Clock, config: WebhookConfig, dead: DeadLetters, first_pause: float) -> None:
        self.config = config
        self._clock = clock
        self._dead = dead
        self._first_pause = first_pause
        self._names = frozenset(config.events)
        self._queue: deque[Numbered] = deque()
        self._wake = asyncio.Event()
        self.delivered = 0
        self.retried = 0
        self.dead = 0

    def __len__(self) -> int:
        return len(self._queue)

    def offer(self, event: Numbered) -> None:
        """Queue an event; never waits. A full queue sends it to the dead letters."""
        if self._names and event.event.name not in self._names:
            return
        if len(self._queue) >= self.config.queue:
            self._bury(event, 0, "queue full")
        else:
            self._queue.append(event)
            self._wake.set()

    def _bury(self, event: Numbered, attempts: int, error: str) -> None:
        self.dead += 1
        self._dead.add(Dead(_without_query(self.config.url), event, attempts, error))

    async def run(self) -> None:
        """Deliver, for ever."""
        while True:
            while self._queue:
                # It stays in the queue until its fate is known: at the end whatever is there becomes a dead letter.
                await self._deliver(self._queue[0])
                self._queue.popleft()
            self._wake.clear()
            await self._wake.wait()

    def bury_rest(self) -> None:
        """The process ends: what is queued goes to the dead letters."""
        while self._queue:
            self._bury(self._queue.popleft(), 0, "shutdown")

    async def _deliver(self, event: Numbered) -> None:
        pause, error = self._first_pause, ""
        for attempt in range(1, self.config.attempts + 1):
            try:
                async with asyncio.timeout(self.config.timeout):
                    status = await self._post(event)
                if 200 <= status < 300:
                    self.delivered += 1
                    return
                error = f"status {status}"
            except (OSError, TimeoutError, ValueError, EOFError, asyncio.LimitOverrunError) as failure:
                error = str(failure) or type(failure).__name__
            if attempt < self.config.attempts:
                self.retried += 1
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
        log.warning("webhook %s does not take event %s: %s", _without_query(self.config.url), event.id, error)
        self._bury(event, self.config.attempts, error)

    async def _post(self, event: Numbered) -> int:
        parts = urlsplit(self.config.url)
        host = parts.hostname or ""
        tls = ssl.create_default_context() if parts.scheme == "https" else None
        reader, writer = await asyncio.open_connection(
            host, parts.port or (443 if tls else 80), ssl=tls, limit=MAX_HEAD
        )
        try:
            timestamp = int(self._clock.wall())
            lines = [
                f"POST {(parts.path or '/') + (f'?{parts.query}' if parts.query else '')} HTTP/1.1",
                f"Host: {parts.netloc}",
                "User-Agent: siprec",
                "Content-Type: application/json",
                f"Content-Length: {len(event.data)}",
                f"webhook-id: {event.id}",
                f"webhook-timestamp: {timestamp}",
                f"webhook-signature: {sign(self.config.secret, event.id, timestamp, event.data)}",
                "Connection: close",
            ]
            writer.write("\r\n".join([*lines, "", ""]).encode() + event.data)
            await writer.drain()
            while True:
                status = _status(await reader.readuntil(b"\r\n\r\n"))
                if status >= 200:
                    return status
        finally:
            writer.transport.abort()


def _status(head: bytes) -> int:
    words = head.split(b"\r\n", 1)[0].split(b" ")
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit() or len(words[1]) != 3:
        raise ValueError("the receiver speaks no HTTP")
    return int(words[1])


def _without_query(url: str) -> str:
    # A query may hold a secret.
    return url.partition("?")[0]


class Webhooks:
    """All receivers. `first_pause`: seconds before the first repetition."""

    def __init__(self, clock: Clock, config: ApiConfig, hub: EventHub, first_pause: float = FIRST_PAUSE) -> None:
        self.dead_letters = DeadLetters(Path(config.dead_letters))
        self.hooks = [Webhook(clock, each, self.dead_letters, first_pause) for each in config.webhooks]
        hub.sinks += [hook.offer for hook in self.hooks]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to deliver."""
        if self.hooks:
            self._tasks = [asyncio.create_task(hook.run()) for hook in self.hooks]
            self._tasks.append(asyncio.create_task(self.dead_letters.run()))

    async def stop(self) -> None:
        """End; what was not delivered is on disk then."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        for hook in self.hooks:
            hook.bury_rest()
        await self.dead_letters.flush()
