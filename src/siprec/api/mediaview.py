"""The media servers: whether they answer, and how busy they say they are."""

from __future__ import annotations

import asyncio
from typing import Final

from siprec.api import model
from siprec.api.context import ApiContext
from siprec.media.engine import MediaError, MediaServer
from siprec.media.pool import Member

LIMIT: Final = 1.0
"""Seconds that a media server may take."""


async def media(context: ApiContext) -> list[model.Media]:
    """All media servers of a process, asked at the same time."""
    return list(await asyncio.gather(*(_one(context, member) for member in context.media.pool)))


async def _one(context: ApiContext, member: Member) -> model.Media:
    server = member.server
    found = model.Media(
        name=member.name,
        kind=member.kind,
        set=member.set,
        weight=member.weight,
        draining=member.draining,
        alive=False,
        calls=context.media.pool.calls(member),
        restarts=member.restarts,
        pending=0,
        counters={},
        load={},
    )
    if server is None:
        found.error = "not running"
        return found
    found.counters = dict(server.counters)
    found.pending = server.pending
    started = context.clock.now()
    reply = await _ask(server)
    if isinstance(reply, MediaError):
        found.error = reply.reason
    else:
        found.alive = True
        found.round_trip = round(context.clock.now() - started, 6)
        found.load = reply
    return found


async def _ask(server: MediaServer) -> dict[str, int] | MediaError:
    answer: asyncio.Future[dict[str, int] | MediaError] = asyncio.get_running_loop().create_future()

    def done(result: dict[str, int] | MediaError) -> None:
        if not answer.done():
            answer.set_result(result)

    server.load(done, LIMIT)
    try:
        async with asyncio.timeout(LIMIT + 0.5):
            return await answer
    except TimeoutError:
        return MediaError("no reply in time", timeout=True, server=server.name)
