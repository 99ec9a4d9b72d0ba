"""The API as an ASGI application."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from siprec.api.auth import Authorization
from siprec.api.commands import Commands
from siprec.api.context import ApiContext
from siprec.api.endpoint import application
from siprec.api.event_hub import EventHub
from siprec.api.journal import Journal
from siprec.api.library import Library
from siprec.api.metrics import Metrics
from siprec.api.openapi import document
from siprec.api.operation import Operation
from siprec.api.queries import Queries
from siprec.api.redis_stream import RedisStream
from siprec.api.settings import ApiConfig
from siprec.api.webhooks import Webhooks

ABOUT: Final = "Calls, their recordings, and what may be done to them."


class Api:
    """What the handlers share. Listens to recording events from its making to :meth:`close`."""

    def __init__(self, context: ApiContext, config: ApiConfig, operations: Sequence[Operation]) -> None:
        self.context = context
        self.config = config
        self.authorization = Authorization(config.tokens)
        self.hub = EventHub(config.ring)
        self.webhooks = Webhooks(context.clock, config, self.hub)
        self.redis = RedisStream(config.redis, self.hub) if config.redis is not None else None
        self.metrics = Metrics(context, self.hub, self.webhooks, self.redis)
        self.journal = Journal(context.core.calls.get, self.metrics.setup.observe)
        context.core.observers.add(self.journal)
        self.metrics.journal = self.journal
        self.queries = Queries(context, self.journal)
        self.commands = Commands(context)
        self.library = Library(Path(config.library)) if config.library else None
        self.openapi = msgspec.json.encode(document(operations, ABOUT))
        self._unsubscribe = [context.events.subscribe(self.journal), context.events.subscribe(self.hub)]
        self.application = application(self, operations, "index.html")

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
