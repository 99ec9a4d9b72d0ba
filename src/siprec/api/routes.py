"""The table of what the API offers: served from here, and described from here (OpenAPI)."""

from __future__ import annotations

from typing import Final

import msgspec

from siprec.api import command_handlers as commands
from siprec.api import model
from siprec.api import query_handlers as queries
from siprec.api.library_routes import LIBRARY
from siprec.api.log_routes import LOGS
from siprec.api.operation import Handler, Operation


def _command(name: str, summary: str, handler: Handler, body: type[msgspec.Struct] = model.StopRecording) -> Operation:
    return Operation("POST", f"/{name}", "control", summary, handler, model.Outcomes, body=body, problems=(404, 409))


OPERATIONS: Final = (
    Operation("GET", "/health/live", None, "Whether the process lives.", queries.live, model.Health),
    Operation("GET", "/health/ready", None, "Whether it takes calls.", queries.ready, model.Health, problems=(503,)),
    Operation("GET", "/openapi.json", None, "This document.", queries.openapi, "application/json"),
    Operation("GET", "/calls", "read", "Calls, oldest first.", queries.calls, model.Calls, query=model.CallsQuery),
    Operation(
        "GET",
        "/calls/{dlg_id}",
        "read",
        "One call with its recordings.",
        queries.call,
        model.CallDetail,
        query=model.DetailQuery,
        problems=(404,),
    ),
    Operation(
        "GET",
        "/calls/{dlg_id}/trace",
        "read",
        "The messages of a call that is or was, as a ladder.",
        queries.trace,
        model.Trace,
        query=model.TraceQuery,
        problems=(404,),
    ),
    Operation(
        "GET",
        "/recordings",
        "read",
        "Recordings.",
        queries.recordings,
        model.Recordings,
        query=model.RecordingsQuery,
    ),
    Operation(
        "GET",
        "/recordings/{dlg_id}/{instance}",
        "read",
        "One recording.",
        queries.recording,
        model.Recording,
        query=model.DetailQuery,
        problems=(404,),
    ),
    Operation("GET", "/srs", "read", "Session recording servers and their health.", queries.srs, model.SrsList),
    Operation("GET", "/media", "read", "Media servers and their load.", queries.media, model.MediaList),
    Operation(
        "PUT",
        "/media",
        "control",
        "Give a media server no new calls, or give it calls again.",
        commands.set_media,
        model.MediaList,
        body=model.MediaRequest,
    ),
    Operation(
        "GET",
        "/registrations",
        "read",
        "Phones that are registered.",
        queries.registrations,
        model.Registrations,
        query=model.PageQuery,
        problems=(404,),
    ),
    *LIBRARY,
    _command("siprec_start_recording", "Begin to record calls.", commands.start, model.StartRecording),
    _command("siprec_pause_recording", "Withhold the media from the SRS.", commands.pause),
    _command("siprec_resume_recording", "Go on after a pause.", commands.resume),
    _command("siprec_stop_recording", "End recordings; the calls go on.", commands.stop),
    _command(
        "siprec_send_indialog",
        "Send a request within the recording session.",
        commands.send_indialog,
        model.SendIndialog,
    ),
    Operation(
        "GET",
        "/events",
        "read",
        "Events as they happen (server-sent events); the header Last-Event-ID asks for those missed.",
        queries.events,
        "text/event-stream",
        query=model.EventsQuery,
        problems=(503,),
    ),
    Operation("GET", "/metrics", "read", "Metrics for Prometheus.", queries.metrics, "text/plain"),
    *LOGS,
    Operation("GET", "/drain", "read", "Whether new calls are refused.", commands.drain, model.Drain),
    Operation(
        "PUT",
        "/drain",
        "control",
        "Refuse new calls, or no more.",
        commands.set_drain,
        model.Drain,
        body=model.DrainRequest,
    ),
    Operation(
        "POST",
        "/reload",
        "control",
        "Read the configuration and the script again.",
        commands.reload,
        model.Reload,
        body=model.ReloadRequest,
        problems=(409,),
    ),
)
