"""Handlers of the routes that only read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import msgspec
from starlette.responses import Response

from siprec.api import mediaview, model, traceview
from siprec.api.operation import Answer, Asked
from siprec.api.paging import page
from siprec.api.problem import Problem
from siprec.api.queries import MAX_QUERIES, call_fits, call_key
from siprec.api.sse import EventStream
from siprec.proxy.registrar import Binding
from siprec.recording.call_recording import CallRecording
from siprec.recording.events import EVENTS, SiprecEvent

if TYPE_CHECKING:
    from siprec.api.app import Api

MAX_NAMED: Final = 500
"""Dialog ids that one request may name."""


async def live(api: Api, asked: Asked) -> Answer:
    return model.Health(status="ok")


async def ready(api: Api, asked: Asked) -> Answer:
    context = api.context
    health = model.Health(status="ok")
    if context.core.drain.draining:
        health.status = "draining"
    elif not context.transport.listeners:
        health.status = "not listening"
    elif not any(member.usable for member in context.media.pool) and context.core.options.media_use != "never":
        health.status = "no media server"
    elif context.proof_needed and context.proof_error():
        health.status = "no proofs of recording"
    if health.status == "ok":
        return health
    return Response(msgspec.json.encode(health), 503, media_type="application/json")


async def openapi(api: Api, asked: Asked) -> Answer:
    return Response(api.openapi, media_type="application/json")


async def calls(api: Api, asked: Asked) -> Answer:
    query = asked.query
    assert isinstance(query, model.CallsQuery)
    calls = api.context.core.calls
    found, after = await page(
        list(calls.values()),
        lambda call: call_fits(call, call_id=query.call_id, user=query.user, state=query.state),
        call_key,
        query.limit,
        query.after,
    )
    return model.Calls(calls=[api.queries.call(call) for call in found], total=len(calls), next=after)


async def call(api: Api, asked: Asked) -> Answer:
    query = asked.query
    assert isinstance(query, model.DetailQuery)
    call = api.context.core.calls.get(asked.path("dlg_id"))
    if call is None:
        raise Problem(404, "no such call, or it is over")
    return await api.queries.call_detail(call, query.statistics)


async def recordings(api: Api, asked: Asked) -> Answer:
    query = asked.query
    assert isinstance(query, model.RecordingsQuery)

    wanted = [name for name in query.dlg_id.split(",") if name]
    if len(wanted) > MAX_NAMED:
        raise Problem(422, f"dlg_id: more than {MAX_NAMED} at a time")

    def fits(recording: CallRecording) -> bool:
        return (
            (not query.instance or recording.instance == query.instance)
            and (not query.server or recording.server == query.server)
            and (not query.state or recording.state == query.state)
            and call_fits(recording.call, call_id=query.call_id, user=query.user)  # type: ignore[arg-type]
        )

    found, after = await page(
        _recordings_of(api, wanted) if wanted else api.context.recordings(),
        fits,
        lambda recording: (recording.call.start_wall, recording.call.dlg_id, recording.instance),
        min(query.limit, MAX_QUERIES) if query.statistics else query.limit,
        query.after,
    )
    return model.Recordings(recordings=await api.queries.recordings(found, query.statistics), next=after)


def _recordings_of(api: Api, dlg_ids: list[str]) -> Iterator[CallRecording]:
    for dlg_id in dict.fromkeys(dlg_ids):
        recorder = api.context.recorder(dlg_id)
        if recorder is not None:
            yield from list(recorder.recordings.values())


async def recording(api: Api, asked: Asked) -> Answer:
    query = asked.query
    assert isinstance(query, model.DetailQuery)
    recorder = api.context.recorder(asked.path("dlg_id"))
    recording = recorder.recordings.get(asked.path("instance")) if recorder is not None else None
    if recording is None:
        raise Problem(404, "no such recording, or it is over")
    return (await api.queries.recordings([recording], query.statistics))[0]


async def srs(api: Api, asked: Asked) -> Answer:
    return model.SrsList(srs=api.queries.srs())


async def media(api: Api, asked: Asked) -> Answer:
    return model.MediaList(media=await mediaview.media(api.context))


async def registrations(api: Api, asked: Asked) -> Answer:
    query = asked.query
    assert isinstance(query, model.PageQuery)
    registrar = api.context.registrar
    if registrar is None:
        raise Problem(404, "there is no registrar (registrar.enabled = false)")
    total = 0

    def counted(each: tuple[str, Binding]) -> bool:
        nonlocal total
        total += 1
        return True

    found, after = await page(
        registrar.bindings(),
        counted,
        lambda each: (0.0, quote(each[0], safe="@:"), each[1].uri.text),
        query.limit,
        query.after,
    )
    listed = [msgspec.convert(registrar.describe(*each), model.Registration) for each in found]
    return model.Registrations(registrations=listed, total=total, next=after)


async def trace(api: Api, asked: Asked) -> Answer:
    assert isinstance(asked.query, model.TraceQuery)
    return traceview.answer(api.context, asked.path("dlg_id"), asked.query.format)


async def events(api: Api, asked: Asked) -> Answer:
    query = asked.query
    assert isinstance(query, model.EventsQuery)
    names = frozenset(name.strip() for name in query.event.split(",") if name.strip())
    unknown = names - EVENTS
    if unknown:
        raise Problem(422, f"event: unknown {sorted(unknown)[0][:60]!r}; known: {', '.join(sorted(EVENTS))}")
    config = api.config
    if len(api.hub) >= config.max_subscribers:
        raise Problem(503, f"{config.max_subscribers} subscribers already", {"Retry-After": "10"})

    def wanted(event: SiprecEvent) -> bool:
        return (
            (not names or event.name in names)
            and (not query.call_id or event.dlg_callid == query.call_id)
            and (not query.instance or event.instance == query.instance)
        )

    def allowed() -> bool:
        return api.authorization.allows(asked.request, "read")

    subscriber = api.hub.subscribe(config.subscriber_queue, wanted, allowed)
    last = asked.request.headers.get("last-event-id", "")
    backlog, gap = api.hub.since(last) if last else ([], False)
    return EventStream(api.hub, subscriber, [each for each in backlog if wanted(each.event)], gap)


async def metrics(api: Api, asked: Asked) -> Answer:
    content, media_type = await api.metrics.scrape(asked.request.headers.get("accept", ""))
    return Response(content, media_type=media_type)
