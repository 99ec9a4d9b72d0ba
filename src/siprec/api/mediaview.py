"""The media servers: whether they answer, and how busy they say they are."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, Literal

from siprec.api import model
from siprec.api.parts import Parts
from siprec.media.bencode import Value
from siprec.media.engine import MediaError, MediaServer
from siprec.media.ng import Reply
from siprec.media.rtpengine import RtpEngine
from siprec.media.rtpproxy import RtpProxy

LIMIT: Final = 1.0
"""Seconds that a media server may take."""
MAX_NUMBERS: Final = 100


async def media(parts: Parts) -> list[model.Media]:
    """All media servers of a process: the one in use, or that there is none."""
    server = parts.media.current
    kind: Literal["embedded", "ng", "rtpproxy"] = "embedded" if parts.embedded else "ng"
    if isinstance(server, RtpProxy):
        kind = "rtpproxy"
    found = model.Media(
        name=server.name if server is not None else kind,
        kind=kind,
        alive=False,
        calls=parts.core.media.sessions,
        restarts=parts.media.restarts,
        pending=0,
        counters={},
        load={},
    )
    if server is None:
        found.error = "not running"
        return [found]
    if isinstance(server, RtpEngine | RtpProxy):
        found.counters = dict(server.client.counters)
        found.pending = server.client.pending
    started = parts.clock.now()
    reply = await _ask(server)
    if isinstance(reply, MediaError):
        found.error = reply.reason
    else:
        found.alive = True
        found.round_trip = round(parts.clock.now() - started, 6)
        found.load = reply
    return [found]


async def _ask(server: MediaServer) -> dict[str, int] | MediaError:
    answer: asyncio.Future[dict[str, int] | MediaError] = asyncio.get_running_loop().create_future()

    def done(result: Reply | MediaError | None) -> None:
        if not answer.done():
            answer.set_result(result if isinstance(result, MediaError) else numbers(result or {}))

    if isinstance(server, RtpEngine):
        server.client.request("statistics", {}, done, timeout=LIMIT)
    else:
        server.ping(done)
    try:
        async with asyncio.timeout(LIMIT + 0.5):
            return await answer
    except TimeoutError:
        return MediaError("no reply in time", timeout=True, server=server.name)


def numbers(reply: Mapping[str, Value]) -> dict[str, int]:
    """The numbers in the reply to ``statistics``, nested names joined by dots; 100 at the most."""
    found: dict[str, int] = {}

    def walk(value: Value, name: str, depth: int) -> None:
        if len(found) >= MAX_NUMBERS or depth > 3:
            return
        if isinstance(value, dict):
            for key, each in value.items():
                walk(each, f"{name}.{key}" if name else key, depth + 1)
        elif isinstance(value, int):
            found[name] = value
        elif isinstance(value, bytes) and value.isdigit() and len(value) < 19:
            found[name] = int(value)  # RTPEngine writes some of them as text

    walk(reply.get("statistics", {}), "", 0)
    return found
