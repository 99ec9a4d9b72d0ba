"""The API as an ASGI application."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from siprec.api.auth import Authorization
from siprec.api.endpoint import application
from siprec.api.hub import EventHub
from siprec.api.journal import Journal
from siprec.api.library import Library
from siprec.api.look import View
from siprec.api.metrics import Metrics
from siprec.api.openapi import document
from siprec.api.parts import Parts
from siprec.api.redis_stream import RedisStream
from siprec.api.routes import OPERATIONS
from siprec.api.settings import ApiConfig
from siprec.api.steer import Steering
from siprec.api.webhooks import Webhooks

ABOUT: Final = "Calls, their recordings, and what may be done to them."


class Api:
    """What the handlers share. Listens to recording events from its making to :meth:`close`."""

    def __init__(self, parts: Parts, config: ApiConfig) -> None:
        self.parts = parts
        self.config = config
        self.authorization = Authorization(config.tokens)
        self.hub = EventHub(config.ring)
        self.webhooks = Webhooks(parts.clock, config, self.hub)
        self.redis = RedisStream(config.redis, self.hub) if config.redis is not None else None
        self.metrics = Metrics(parts, self.hub, self.webhooks, self.redis)
        self.journal = Journal(parts.core.calls.get, self.metrics.setup.observe)
        parts.core.observers.add(self.journal)
        self.metrics.journal = self.journal
        self.view = View(parts, self.journal)
        self.steering = Steering(parts)
        self.library = Library(Path(config.library)) if config.library else None
        self.openapi = msgspec.json.encode(document(OPERATIONS, ABOUT))
        self._unsubscribe = [parts.events.subscribe(self.journal), parts.events.subscribe(self.hub)]
        self.application = application(self, OPERATIONS, "index.html")

    async def started(self) -> None:
        """The address is listened at."""
        self.webhooks.start()
        if self.redis is not None:
            self.redis.start()
        self.metrics.start()

    async def stopped(self) -> None:
        """Put undelivered events on disk."""
        await self.metrics.stop()
        await self.webhooks.stop()
        if self.redis is not None:
            await self.redis.stop()

    def tokens_changed(self) -> None:
        """End the event streams of those who may not listen any more."""
        self.hub.check()

    def close(self) -> None:
        """Let go of the events; streams end."""
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        self.hub.close()
