"""What goes over the wire: the types the OpenAPI document is made from. Times are seconds since the epoch."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Limit = Annotated[int, Meta(ge=1, le=1000, description="How many at the most.")]
After = Annotated[str, Meta(max_length=300, description="`next` of the page before.")]
Instance = Annotated[str, Meta(min_length=1, max_length=100, description="Recording instance.")]


class Query(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Query parameters; subclasses say which."""


class CallsQuery(Query, kw_only=True):
    """Filter of calls."""

    call_id: Annotated[str, Meta(description="Call-ID.")] = ""
    user: Annotated[str, Meta(description="User or user@host of caller or callee.")] = ""
    state: Literal["", "early", "confirmed"] = ""
    limit: Limit = 100
    after: After = ""


class RecordingsQuery(Query, kw_only=True):
    """Filter of recordings."""

    dlg_id: Annotated[str, Meta(description="One, or several separated by commas.")] = ""
    call_id: Annotated[str, Meta(description="Call-ID of the recorded call.")] = ""
    user: Annotated[str, Meta(description="User or user@host of caller or callee.")] = ""
    instance: str = ""
    server: Annotated[str, Meta(description="URI of the SRS.")] = ""
    state: Literal["", "idle", "forking", "inviting", "active", "paused", "ending"] = ""
    statistics: Annotated[bool, Meta(description="Ask the media server for counters; up to 50 per page.")] = False
    limit: Limit = 100
    after: After = ""


class PageQuery(Query, kw_only=True):
    """Which page."""

    limit: Limit = 100
    after: After = ""


class DetailQuery(Query, kw_only=True):
    """How much of it."""

    statistics: Annotated[bool, Meta(description="Ask the media server for counters.")] = True


class EventsQuery(Query, kw_only=True):
    """Which events."""

    event: Annotated[str, Meta(description="Names separated by commas; empty: all.")] = ""
    call_id: Annotated[str, Meta(description="Call-ID of the recorded call.")] = ""
    instance: str = ""


class TraceQuery(Query, kw_only=True):
    """In which form."""

    format: Annotated[
        Literal["json", "text", "full", "pcap"], Meta(description="text: a drawing; full: with the messages.")
    ] = "json"


class NoQuery(Query, kw_only=True):
    """No parameters."""


# -- calls and recordings ----------------------------------------------------------------------------------------------


class Attempt(msgspec.Struct, kw_only=True):
    """What one SRS said, or that it was silent."""

    server: str
    result: Literal["established", "failed", "ended"]
    at: float
    status: Annotated[int, Meta(description="SIP status, 0 if there is none.")] = 0
    reason: str = ""


class Pause(msgspec.Struct, kw_only=True):
    """A time without media; `end` is null while it lasts."""

    start: float
    end: float | None = None
    by: Annotated[str, Meta(description="Who asked for it, as far as it was said.")] = ""


class Hold(msgspec.Struct, kw_only=True):
    """A time in which a party took no media from the other; `end` is null while it lasts."""

    start: float
    end: float | None = None
    by: Literal["caller", "callee", "both"]


class Fork(msgspec.Struct, kw_only=True):
    """What the media server counts for one stream; null: not counted by this server."""

    packets: int | None = None
    octets: int | None = None
    withheld: Annotated[int, Meta(description="Packets that came during pauses.")] = 0
    dropped: dict[str, int] = {}
    paused: bool = False
    receiver_reports: Annotated[int | None, Meta(description="RTCP packets that came from the SRS.")] = None
    lost_reported: Annotated[int | None, Meta(description="Packets lost, by the SRS's last receiver report.")] = None
    jitter_reported: Annotated[int | None, Meta(description="In timestamp units, by the same report.")] = None
    last_report: float | None = None
    endpoint: Annotated[str, Meta(description="Where the copies go.")] = ""


class Stream(msgspec.Struct, kw_only=True):
    """One recorded stream: what one party sends on one m-line."""

    label: str
    stream_id: str
    party: Literal["caller", "callee"]
    kind: str
    codecs: list[str]
    srtp: Annotated[bool, Meta(description="The copies are encrypted.")] = False
    counters: Fork | None = None


class Recording(msgspec.Struct, kw_only=True):
    """One recording instance of a call."""

    dlg_id: str
    call_id: str
    instance: str
    state: Literal["idle", "forking", "inviting", "active", "paused", "ending", "ended"]
    server: Annotated[str, Meta(description="SRS that handles the recording, or is being tried.")]
    servers: list[str]
    rs_call_id: str
    session_id: Annotated[str, Meta(description="SIPREC session id.")]
    caller: str
    callee: str
    rebuilds: Annotated[int, Meta(description="How often the RS was set up again in mid-call.")]
    attempts: list[Attempt]
    pauses: list[Pause]
    streams: list[Stream]
    last_error: str = ""
    wanted_by: Annotated[str, Meta(description="The route, `script`, `api` or `srs` that wanted it.")] = ""
    why: Annotated[str, Meta(description="Why there is no recording now; empty: there is one.")] = ""
    statistics_error: Annotated[str, Meta(description="Why there are no counters.")] = ""


class Call(msgspec.Struct, kw_only=True):
    """One call through the proxy."""

    dlg_id: str
    call_id: str
    from_tag: str
    to_tag: str
    caller: str
    callee: str
    state: Literal["early", "confirmed", "terminated"]
    source: str
    start: float
    answer: float | None
    recordings: Annotated[list[str], Meta(description="Instances that are wanted or going on.")]
    media: str
    media_error: str


class CallDetail(Call, kw_only=True):
    """One call, and its recordings in full: those that go on, and those that ended or never began."""

    recording: list[Recording]
    why: Annotated[str, Meta(description="Why the call is not recorded now; empty: it is.")] = ""
    holds: list[Hold] = []


class Calls(msgspec.Struct, kw_only=True):
    """A page of calls, oldest first."""

    calls: list[Call]
    total: Annotated[int, Meta(description="Calls that exist, whatever the filter.")]
    next: Annotated[str, Meta(description="For `after`; empty on the last page.")] = ""


class Recordings(msgspec.Struct, kw_only=True):
    """A page of recordings, in the order of their calls."""

    recordings: list[Recording]
    next: Annotated[str, Meta(description="For `after`; empty on the last page.")] = ""


# -- servers and phones ------------------------------------------------------------------------------------------------


class Srs(msgspec.Struct, kw_only=True):
    """A session recording server, as known from what it answered."""

    uri: str
    state: Literal["unknown", "up", "down"]
    active: Annotated[int, Meta(description="Recordings that run there now.")]
    established: int
    failed: int
    profiles: list[str]
    last_established: float | None = None
    last_failure: float | None = None
    status: Annotated[int, Meta(description="SIP status of the last failure.")] = 0
    reason: str = ""


class SrsList(msgspec.Struct, kw_only=True):
    """All SRSs that are configured or were used."""

    srs: list[Srs]


class Media(msgspec.Struct, kw_only=True):
    """A media server."""

    name: str
    kind: Annotated[str, Meta(description="`embedded`, `ng` or `rtpproxy`.")]
    set: str
    weight: int
    draining: Annotated[bool, Meta(description="It gets no new calls.")]
    alive: bool
    calls: Annotated[int, Meta(description="Calls of ours whose media pass through it.")]
    restarts: int
    pending: Annotated[int, Meta(description="Requests that wait for a reply.")]
    counters: Annotated[dict[str, int], Meta(description="Of our connection to it.")]
    load: Annotated[dict[str, int], Meta(description="What it counts itself.")]
    round_trip: Annotated[float | None, Meta(description="Seconds.")] = None
    error: str = ""


class MediaList(msgspec.Struct, kw_only=True):
    """All media servers."""

    media: list[Media]


class Registration(msgspec.Struct, kw_only=True):
    """One contact of a phone. `expires`: seconds left."""

    aor: str
    contact: str
    q: float
    expires: int
    flow: str
    user_agent: str


class Registrations(msgspec.Struct, kw_only=True):
    """A page of registrations by address of record."""

    registrations: list[Registration]
    total: int
    next: str = ""


# -- the ladder of a call ----------------------------------------------------------------------------------------------


class TraceStep(msgspec.Struct, kw_only=True):
    """One message. `kind`: of the call itself (cs), of a recording session (rs), or a media command."""

    time: float
    source: str
    target: str
    title: str
    kind: Literal["cs", "rs", "media"]
    call_id: str
    text: str


class Trace(msgspec.Struct, kw_only=True):
    """The messages of a call and its recording sessions, in order. `places`: columns from left to right."""

    call_id: str
    places: list[str]
    steps: list[TraceStep]
    dropped: Annotated[int, Meta(description="Messages that are not kept any more.")]


# -- steering ----------------------------------------------------------------------------------------------------------


class Selection(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which calls: all that fit everything that is said. Something has to be said."""

    dlg_id: str = ""
    call_id: str = ""
    user: Annotated[str, Meta(description="User or user@host of caller or callee.")] = ""
    all: Annotated[bool, Meta(description="Every call.")] = False
    instance: Instance = "default"


class StartRecording(Selection, kw_only=True):
    """`siprec_start_recording`."""

    srs: Annotated[str, Meta(description="SRS URIs separated by commas; empty: those of the profile `instance`.")] = ""
    settings: Annotated[
        dict[str, str], Meta(description="group, caller, callee, media, headers... as in scripts.")
    ] = {}
    start: Annotated[
        Literal["", "answer", "early"],
        Meta(description="When it begins in a call that is not answered yet; empty: as the profile says."),
    ] = ""


class StopRecording(Selection, kw_only=True):
    """`siprec_stop_recording`, `siprec_pause_recording`, `siprec_resume_recording`."""

    by: Annotated[str, Meta(max_length=200, description="Who asks, for the event and the proof of recording.")] = ""


class SendIndialog(Selection, kw_only=True):
    """`siprec_send_indialog`."""

    method: str = "INFO"
    headers: dict[str, str] = {}
    body: str = ""
    content_type: str = ""
    timeout: Annotated[float, Meta(ge=0.1, le=35.0, description="Seconds to wait for the answer.")] = 5.0


class Outcome(msgspec.Struct, kw_only=True):
    """What came of it for one call."""

    dlg_id: str
    call_id: str
    instance: str
    done: bool
    state: Annotated[str, Meta(description="Of the recording, empty if there is none.")] = ""
    status: Annotated[int, Meta(description="Of the SRS's answer to a request of ours, 0 if there is none.")] = 0
    reason: str = ""


class Outcomes(msgspec.Struct, kw_only=True):
    """What came of it, call by call."""

    results: list[Outcome]


class LogLevel(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Log level of a logger; empty: the root. `inherit`: as the logger above it."""

    level: Literal["debug", "info", "warning", "error", "critical", "inherit"]
    logger: Annotated[str, Meta(pattern=r"^(siprec(\.[a-z_]+)*)?$")] = ""


class LogLevels(msgspec.Struct, kw_only=True):
    """The level of the root, and of the loggers that have one of their own."""

    level: str
    levels: dict[str, str]


class Drain(msgspec.Struct, kw_only=True):
    """Whether new calls are refused (503 with Retry-After), and how many are left."""

    draining: bool
    calls: int
    refused: int


class DrainRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Begin or end it."""

    draining: bool
    retry_after: Annotated[int, Meta(ge=1, le=86400, description="Seconds, for Retry-After.")] = 30


class MediaRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Whether a media server gets new calls; a reload that changes the media servers decides anew."""

    name: str
    draining: bool


class ReloadRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How the configuration is to be read."""

    force: Annotated[bool, Meta(description="Also one that has none of the routes and profiles in use.")] = False


class Reload(msgspec.Struct, kw_only=True):
    """What a reload did: keys whose new values hold for the next call or request, and keys that need a restart."""

    changed: list[str]
    restart: list[str]


class Health(msgspec.Struct, kw_only=True):
    """`ok`, or why not."""

    status: Literal["ok", "draining", "no media server", "not listening", "no proofs of recording"]


class Event(msgspec.Struct, kw_only=True):
    """An event of a recording; parameters as in the reference, and some more."""

    id: str
    event: str
    dlg_id: str
    dlg_callid: Annotated[str, Meta(description="Call-ID of the recorded call.")]
    callid: Annotated[str, Meta(description="Call-ID of the recording session.")]
    session_id: str
    server: str
    instance: str
    time: float
    reason: str
    status: int
