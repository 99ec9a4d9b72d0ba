"""The table of what the API offers: served from here, and described from here (OpenAPI)."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import quote

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from siprec import logs
from siprec.api import look, mediaview, model, traceview
from siprec.api.library import Library
from siprec.api.parts import ConfigProblem
from siprec.api.problem import Problem
from siprec.api.settings import Role
from siprec.api.sse import EventStream
from siprec.proxy.registrar import Binding
from siprec.recording.active import ActiveRecording
from siprec.recording.events import EVENTS, SiprecEvent

if TYPE_CHECKING:
    from siprec.api.app import Api

Answer: TypeAlias = "msgspec.Struct | Response | EventStream"
Handler: TypeAlias = "Callable[[Any, Asked], Awaitable[Answer]]"
"""The first is whoever owns the table: :class:`siprec.api.app.Api`, or the recorder's."""


MAX_NAMED: Final = 500
"""Dialog ids that one request may name."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request whose parameters and body have been checked against their types."""

    request: Request
    query: msgspec.Struct
    body: msgspec.Struct | None

    def path(self, name: str) -> str:
        """A parameter of the path."""
        return str(self.request.path_params[name])


@dataclass(frozen=True, slots=True)
class Operation:
    """One route. `role` is what it takes, None: nothing. `answer` is a type, or a media type where it is no JSON."""

    method: str
    path: str
    role: Role | None
    summary: str
    handler: Handler
    answer: type[msgspec.Struct] | str
    query: type[model.Query] = model.NoQuery
    body: type[msgspec.Struct] | None = None
    problems: tuple[int, ...] = ()


async def _live(api: Api, asked: Asked) -> Answer:
    return model.Health(status="ok")


async def _ready(api: Api, asked: Asked) -> Answer:
    parts = api.parts
    health = model.Health(status="ok")
    if parts.core.drain.draining:
        health.status = "draining"
    elif not parts.transport.listeners:
        health.status = "not listening"
    elif not any(member.usable for member in parts.media.pool) and parts.core.options.media_use != "never":
        health.status = "no media server"
    elif parts.proof_needed and parts.proof_error():
        health.status = "no proofs of recording"
    if health.status == "ok":
        return health
    return Response(msgspec.json.encode(health), 503, media_type="application/json")


async def _openapi(api: Api, asked: Asked) -> Answer:
    return Response(api.openapi, media_type="application/json")


async def _calls(api: Api, asked: Asked) -> Answer:
    query = asked.query
    assert isinstance(query, model.CallsQuery)
    calls = api.parts.core.calls
    found, after = await look.page(
        list(calls.values()),
        lambda call: look.call_fits(call, call_id=query.call_id, user=query.user, state=query.state),
        look.call_key,
        query.limit,
        query.after,
    )
    return model.Calls(calls=[api.view.call(call) for call in found], total=len(calls), next=after)


async def _call(api: Api, asked: Asked) -> Answer:
    query = asked.query
    assert isinstance(query, model.DetailQuery)
    call = api.parts.core.calls.get(asked.path("dlg_id"))
    if call is None:
        raise Problem(404, "no such call, or it is over")
    return await api.view.call_detail(call, query.statistics)


async def _recordings(api: Api, asked: Asked) -> Answer:
    query = asked.query
    assert isinstance(query, model.RecordingsQuery)

    wanted = [name for name in query.dlg_id.split(",") if name]
    if len(wanted) > MAX_NAMED:
        raise Problem(422, f"dlg_id: more than {MAX_NAMED} at a time")

    def fits(recording: ActiveRecording) -> bool:
        return (
            (not query.instance or recording.instance == query.instance)
            and (not query.server or recording.server == query.server)
            and (not query.state or recording.state == query.state)
            and look.call_fits(recording.call, call_id=query.call_id, user=query.user)  # type: ignore[arg-type]
        )

    found, after = await look.page(
        _recordings_of(api, wanted) if wanted else api.parts.recordings(),
        fits,
        lambda recording: (recording.call.start_wall, recording.call.dlg_id, recording.instance),
        min(query.limit, look.MAX_QUERIES) if query.statistics else query.limit,
        query.after,
    )
    return model.Recordings(recordings=await api.view.recordings(found, query.statistics), next=after)


def _recordings_of(api: Api, dlg_ids: list[str]) -> Iterator[ActiveRecording]:
    for dlg_id in dict.fromkeys(dlg_ids):
        recorder = api.parts.recorder(dlg_id)
        if recorder is not None:
            yield from list(recorder.recordings.values())


async def _recording(api: Api, asked: Asked) -> Answer:
    query = asked.query
    assert isinstance(query, model.DetailQuery)
    recorder = api.parts.recorder(asked.path("dlg_id"))
    recording = recorder.recordings.get(asked.path("instance")) if recorder is not None else None
    if recording is None:
        raise Problem(404, "no such recording, or it is over")
    return (await api.view.recordings([recording], query.statistics))[0]


async def _srs(api: Api, asked: Asked) -> Answer:
    return model.SrsList(srs=api.view.srs())


async def _media(api: Api, asked: Asked) -> Answer:
    return model.MediaList(media=await mediaview.media(api.parts))


async def _registrations(api: Api, asked: Asked) -> Answer:
    query = asked.query
    assert isinstance(query, model.PageQuery)
    registrar = api.parts.registrar
    if registrar is None:
        raise Problem(404, "there is no registrar (registrar.enabled = false)")
    total = 0

    def counted(each: tuple[str, Binding]) -> bool:
        nonlocal total
        total += 1
        return True

    found, after = await look.page(
        registrar.bindings(),
        counted,
        lambda each: (0.0, quote(each[0], safe="@:"), each[1].uri.text),
        query.limit,
        query.after,
    )
    listed = [msgspec.convert(registrar.describe(*each), model.Registration) for each in found]
    return model.Registrations(registrations=listed, total=total, next=after)


async def _start(api: Api, asked: Asked) -> Answer:
    assert isinstance(asked.body, model.StartRecording)
    return await api.steering.start(asked.body)


async def _pause(api: Api, asked: Asked) -> Answer:
    assert isinstance(asked.body, model.StopRecording)
    return await api.steering.pause(asked.body)


async def _resume(api: Api, asked: Asked) -> Answer:
    assert isinstance(asked.body, model.StopRecording)
    return await api.steering.resume(asked.body)


async def _stop(api: Api, asked: Asked) -> Answer:
    assert isinstance(asked.body, model.StopRecording)
    return await api.steering.stop(asked.body)


async def _send_indialog(api: Api, asked: Asked) -> Answer:
    assert isinstance(asked.body, model.SendIndialog)
    return await api.steering.send_indialog(asked.body)


async def _events(api: Api, asked: Asked) -> Answer:
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


async def _metrics(api: Api, asked: Asked) -> Answer:
    content, media_type = await api.metrics.scrape(asked.request.headers.get("accept", ""))
    return Response(content, media_type=media_type)


async def _log_level(api: Api, asked: Asked) -> Answer:
    level, own = logs.levels()
    return model.LogLevels(level=level, levels=dict(own))


async def _set_log_level(api: Api, asked: Asked) -> Answer:
    body = asked.body
    assert isinstance(body, model.LogLevel)
    if body.level == "inherit" and not body.logger:
        raise Problem(422, "logger: there is none above the root")
    logs.set_level(body.logger, "" if body.level == "inherit" else body.level)
    logging.getLogger(__name__).warning("log level of %s is %s now", body.logger or "root", body.level)
    return await _log_level(api, asked)


async def _set_media(api: Api, asked: Asked) -> Answer:
    body = asked.body
    assert isinstance(body, model.MediaRequest)
    member = api.parts.media.pool.named(body.name)
    if member is None:
        known = ", ".join(each.name for each in api.parts.media.pool)
        raise Problem(404, f"no media server {body.name[:64]!r}; known: {known}")
    member.draining = body.draining
    logging.getLogger(__name__).warning("media server %s %s", member.name, "drains" if body.draining else "takes calls")
    return await _media(api, asked)


def _drain_state(api: Api) -> model.Drain:
    drain = api.parts.core.drain
    return model.Drain(draining=drain.draining, calls=len(api.parts.core.calls), refused=drain.refused)


async def _drain(api: Api, asked: Asked) -> Answer:
    return _drain_state(api)


async def _set_drain(api: Api, asked: Asked) -> Answer:
    body = asked.body
    assert isinstance(body, model.DrainRequest)
    api.parts.core.drain.draining = body.draining
    api.parts.core.drain.retry_after = body.retry_after
    return _drain_state(api)


async def _reload(api: Api, asked: Asked) -> Answer:
    reload = api.parts.reload
    if reload is None:
        raise Problem(409, "this process has no configuration file")
    body = asked.body
    assert isinstance(body, model.ReloadRequest)
    try:
        result = reload(body.force)
    except ConfigProblem as problem:
        raise Problem(409, str(problem)) from None
    return model.Reload(changed=list(result.changed), restart=list(result.restart))


def _shelf(api: Api) -> Library:
    if api.library is None:
        raise Problem(404, "no library is shown here (api.library)")
    return api.library


async def _trace(api: Api, asked: Asked) -> Answer:
    assert isinstance(asked.query, model.TraceQuery)
    return traceview.answer(api.parts, asked.path("dlg_id"), asked.query.format)


async def _library(api: Api, asked: Asked) -> Answer:
    assert isinstance(asked.query, model.LibraryQuery)
    return await _shelf(api).page(asked.query)


async def _library_detail(api: Api, asked: Asked) -> Answer:
    return await _shelf(api).detail(asked.path("id"))


async def _library_file(api: Api, asked: Asked) -> Answer:
    return await _shelf(api).file(asked.path("id"), asked.path("file"))


async def _library_vcon(api: Api, asked: Asked) -> Answer:
    return await _shelf(api).vcon(asked.path("id"))


async def _library_waveform(api: Api, asked: Asked) -> Answer:
    assert isinstance(asked.query, model.WaveformQuery)
    return await _shelf(api).waveform(asked.path("id"), asked.query.points)


def _steer(name: str, summary: str, handler: Handler, body: type[msgspec.Struct] = model.StopRecording) -> Operation:
    return Operation("POST", f"/{name}", "control", summary, handler, model.Outcomes, body=body, problems=(404, 409))


LIBRARY: Final = (
    Operation(
        "GET",
        "/library",
        "read",
        "Recordings of the recorder on this host, newest first.",
        _library,
        model.LibraryPage,
        query=model.LibraryQuery,
        problems=(404,),
    ),
    Operation(
        "GET",
        "/library/{id}",
        "read",
        "All that is known of one of them (recording.json).",
        _library_detail,
        "application/json",
        problems=(404,),
    ),
    Operation(
        "GET",
        "/library/{id}/waveform",
        "listen",
        "Loudness over time, per participant.",
        _library_waveform,
        model.Waveforms,
        query=model.WaveformQuery,
        problems=(404, 409),
    ),
    Operation(
        "GET",
        "/library/{id}/vcon",
        "listen",
        "The recording as a vCon.",
        _library_vcon,
        "application/vcon+json",
        problems=(404, 409),
    ),
    Operation(
        "GET",
        "/library/{id}/files/{file}",
        "listen",
        "A file of it: audio, capture or metadata; ranges may be asked for.",
        _library_file,
        "application/octet-stream",
        problems=(404,),
    ),
)
"""For whoever has a `library`."""
LOGS: Final = (
    Operation("GET", "/log-level", "read", "The log levels.", _log_level, model.LogLevels),
    Operation(
        "PUT", "/log-level", "control", "Change a log level.", _set_log_level, model.LogLevels, body=model.LogLevel
    ),
)
OPERATIONS: Final = (
    Operation("GET", "/health/live", None, "Whether the process lives.", _live, model.Health),
    Operation("GET", "/health/ready", None, "Whether it takes calls.", _ready, model.Health, problems=(503,)),
    Operation("GET", "/openapi.json", None, "This document.", _openapi, "application/json"),
    Operation("GET", "/calls", "read", "Calls, oldest first.", _calls, model.Calls, query=model.CallsQuery),
    Operation(
        "GET",
        "/calls/{dlg_id}",
        "read",
        "One call with its recordings.",
        _call,
        model.CallDetail,
        query=model.DetailQuery,
        problems=(404,),
    ),
    Operation(
        "GET",
        "/calls/{dlg_id}/trace",
        "read",
        "The messages of a call that is or was, as a ladder.",
        _trace,
        model.Trace,
        query=model.TraceQuery,
        problems=(404,),
    ),
    Operation("GET", "/recordings", "read", "Recordings.", _recordings, model.Recordings, query=model.RecordingsQuery),
    Operation(
        "GET",
        "/recordings/{dlg_id}/{instance}",
        "read",
        "One recording.",
        _recording,
        model.Recording,
        query=model.DetailQuery,
        problems=(404,),
    ),
    Operation("GET", "/srs", "read", "Session recording servers and their health.", _srs, model.SrsList),
    Operation("GET", "/media", "read", "Media servers and their load.", _media, model.MediaList),
    Operation(
        "PUT",
        "/media",
        "control",
        "Give a media server no new calls, or give it calls again.",
        _set_media,
        model.MediaList,
        body=model.MediaRequest,
    ),
    Operation(
        "GET",
        "/registrations",
        "read",
        "Phones that are registered.",
        _registrations,
        model.Registrations,
        query=model.PageQuery,
        problems=(404,),
    ),
    *LIBRARY,
    _steer("siprec_start_recording", "Begin to record calls.", _start, model.StartRecording),
    _steer("siprec_pause_recording", "Withhold the media from the SRS.", _pause),
    _steer("siprec_resume_recording", "Go on after a pause.", _resume),
    _steer("siprec_stop_recording", "End recordings; the calls go on.", _stop),
    _steer("siprec_send_indialog", "Send a request within the recording session.", _send_indialog, model.SendIndialog),
    Operation(
        "GET",
        "/events",
        "read",
        "Events as they happen (server-sent events); the header Last-Event-ID asks for those missed.",
        _events,
        "text/event-stream",
        query=model.EventsQuery,
        problems=(503,),
    ),
    Operation("GET", "/metrics", "read", "Metrics for Prometheus.", _metrics, "text/plain"),
    *LOGS,
    Operation("GET", "/drain", "read", "Whether new calls are refused.", _drain, model.Drain),
    Operation(
        "PUT", "/drain", "control", "Refuse new calls, or no more.", _set_drain, model.Drain, body=model.DrainRequest
    ),
    Operation(
        "POST",
        "/reload",
        "control",
        "Read the configuration and the script again.",
        _reload,
        model.Reload,
        body=model.ReloadRequest,
        problems=(409,),
    ),
)
