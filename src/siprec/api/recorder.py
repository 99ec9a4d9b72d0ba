"""The recorder's own API: sessions in progress, the library, health, metrics. Nothing is steered from here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Final

import msgspec
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.responses import Response

from siprec.api import model, recorder_model
from siprec.api.auth import Authorization
from siprec.api.endpoint import application
from siprec.api.library import Library
from siprec.api.library_routes import LIBRARY
from siprec.api.log_routes import LOGS
from siprec.api.openapi import document
from siprec.api.operation import Answer, Asked, Operation
from siprec.api.paging import page
from siprec.api.problem import Problem
from siprec.api.settings import RecorderApiConfig
from siprec.recorder.media_stream import ReceivedStream
from siprec.recorder.recorder import Recorder
from siprec.recorder.session import RecordingSession

MEGABYTE: Final = 1 << 20
_ABOUT: Final = "Recording sessions in progress, and the recordings there are."


class RecorderApi:
    """What the handlers share. `listening` tells whether SIP is listened for, `headroom` what is in use of limited
    resources, 0 to 1."""

    def __init__(
        self,
        recorder: Recorder,
        config: RecorderApiConfig,
        listening: Callable[[], bool],
        headroom: Callable[[], dict[str, float]] = dict,
        dropped: Callable[[], dict[str, int]] = dict,
    ) -> None:
        self.recorder = recorder
        self.config = config
        self.listening = listening
        self.authorization = Authorization(config.tokens)
        self.library = Library(recorder.library.root)
        self.openapi = msgspec.json.encode(document(OPERATIONS, _ABOUT))
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(_Metrics(recorder, headroom, dropped))
        ProcessCollector(registry=self.registry)
        self.application = application(self, OPERATIONS, "recorder.html")

    async def started(self) -> None:
        """Nothing to be done."""

    def tokens_changed(self) -> None:
        """Nothing lasts longer than its request."""

    def close(self) -> None:
        """Nothing to be let go of."""

    async def stopped(self) -> None:
        """Nothing to be done."""

    async def health(self) -> recorder_model.RecorderHealth:
        """Whether a further recording would be taken."""
        problem, free = await asyncio.to_thread(self._disk)
        health = recorder_model.RecorderHealth(status="ok", free=free // MEGABYTE, reason=problem)
        if not self.listening():
            health.status = "not listening"
        elif len(self.recorder.sessions) >= self.recorder.settings.max_sessions:
            health.status = "full"
        elif problem:
            health.status = "no disk space"
        return health

    def _disk(self) -> tuple[str, int]:
        space = self.recorder.space
        return space.probe(), space.free


def _session(session: RecordingSession) -> recorder_model.RecorderSession:
    now = session.resources.clock.now()
    names = (name for person in session.state.participants.values() for name in person.name_ids)
    return recorder_model.RecorderSession(
        call_id=session.call_id,
        client=session.from_uri,
        source=session.src_address,
        start=session.started,
        parties=[name.name or name.aor for name in names],
        recordings=[recording.directory.name for recording in session.recordings],
        streams=[_stream(line, now) for line in session.lines],
    )


def _stream(line: ReceivedStream, now: float) -> recorder_model.RecorderStream:
    total = line.receiver.total()
    return recorder_model.RecorderStream(
        label=line.label,
        kind=line.kind,
        codecs=list(line.codec_names),
        srtp=line.keys is not None,
        port=line.pair.port,
        source=f"{line.source[0]}:{line.source[1]}" if line.source else "",
        receiving=line.receiving,
        packets=total.received,
        lost=total.lost,
        silent=round(now - line.last_media, 3) if line.last_media is not None else None,
    )


async def _live(api: RecorderApi, asked: Asked) -> Answer:
    return model.Health(status="ok")


async def _ready(api: RecorderApi, asked: Asked) -> Answer:
    health = await api.health()
    if health.status == "ok":
        return health
    return Response(msgspec.json.encode(health), 503, media_type="application/json")


async def _openapi(api: RecorderApi, asked: Asked) -> Answer:
    return Response(api.openapi, media_type="application/json")


async def _sessions(api: RecorderApi, asked: Asked) -> Answer:
    query = asked.query
    assert isinstance(query, model.PageQuery)
    recorder = api.recorder
    found, after = await page(
        list(recorder.sessions),
        lambda session: True,
        lambda session: (session.started, session.call_id, ""),
        query.limit,
        query.after,
    )
    return recorder_model.RecorderSessions(
        sessions=[_session(each) for each in found],
        total=len(recorder.sessions),
        limit=recorder.settings.max_sessions,
        next=after,
    )


async def _one(api: RecorderApi, asked: Asked) -> Answer:
    name = asked.path("call_id")
    found = next((each for each in api.recorder.sessions if each.call_id == name), None)
    if found is None:
        raise Problem(404, "no such recording session, or it is over: then it is in /library")
    return _session(found)


async def _metrics(api: RecorderApi, asked: Asked) -> Answer:
    encode, media_type = choose_encoder(asked.request.headers.get("accept", ""))
    return Response(await asyncio.to_thread(encode, api.registry), media_type=media_type)


OPERATIONS: Final = (
    Operation("GET", "/health/live", None, "Whether the process lives.", _live, model.Health),
    Operation(
        "GET",
        "/health/ready",
        None,
        "Whether it takes recordings: it listens, has room for sessions and on the disk.",
        _ready,
        recorder_model.RecorderHealth,
        problems=(503,),
    ),
    Operation("GET", "/openapi.json", None, "This document.", _openapi, "application/json"),
    Operation(
        "GET",
        "/sessions",
        "read",
        "Recording sessions in progress, oldest first.",
        _sessions,
        recorder_model.RecorderSessions,
        query=model.PageQuery,
    ),
    Operation(
        "GET",
        "/sessions/{call_id}",
        "read",
        "One of them, by its Call-ID.",
        _one,
        recorder_model.RecorderSession,
        problems=(404,),
    ),
    *LIBRARY,
    Operation("GET", "/metrics", "read", "Metrics for Prometheus.", _metrics, "text/plain"),
    *LOGS,
)


class _Metrics(Collector):
    def __init__(
        self,
        recorder: Recorder,
        headroom: Callable[[], dict[str, float]],
        dropped: Callable[[], dict[str, int]],
    ) -> None:
        self._headroom = headroom
        self._dropped = dropped
        self._recorder = recorder

    def collect(self) -> Iterator[Metric]:
        recorder = self._recorder
        used = GaugeMetricFamily(
            "siprec_resource_used", "Share of a limited resource that is in use.", labels=("what",)
        )
        for what, share in self._headroom().items():
            used.add_metric((what,), share)
        yield used
        dropped = CounterMetricFamily(
            "siprec_sip_dropped", "Messages that got no answer and went nowhere.", labels=("why",)
        )
        for why, count in self._dropped().items():
            dropped.add_metric((why,), count)
        yield dropped
        # Read in another thread: copies first.
        sessions = list(recorder.sessions)
        counters = dict(recorder.counters)
        lines = [line for session in sessions for line in session.lines]
        for name, text, value in (
            ("sessions", "Recording sessions in progress.", len(sessions)),
            ("sessions_limit", "More are refused.", recorder.settings.max_sessions),
            ("streams", "Streams that are received.", len(lines)),
            ("disk_free_bytes", "Where the recordings are.", recorder.space.free),
            ("disk_jobs", "Writes that wait for the disk.", recorder.writer.waiting),
            ("disk_delay_seconds", "How long the write that runs now has waited and run.", recorder.writer.delay),
            ("disk_ok", "1: there is room for a further recording.", int(not recorder.space.problem())),
        ):
            yield GaugeMetricFamily(f"siprec_recorder_{name}", text, value=value)
        for name, text, key in (
            ("sessions_accepted", "Recording sessions accepted.", "sessions"),
            ("sessions_refused", "Recording sessions refused.", "refused"),
            ("recordings", "Recordings that ended.", "recordings"),
            ("recordings_failed", "Recordings of which not everything is on the disk.", "recordings_failed"),
            ("recordings_interrupted", "Recordings that not their client ended.", "recordings_interrupted"),
            ("packets", "RTP packets of recordings that ended.", "packets"),
            ("packets_lost", "Packets of them that did not come.", "lost"),
            ("packets_dropped_by_disk", "Packets of them that the disk was too slow for.", "dropped_by_disk"),
            ("packets_not_decodable", "Packets in a format not agreed upon, kept raw.", "not_decodable"),
            ("source_changes", "Times that media of a stream came from another address.", "source_changes"),
            ("second_sources", "Sources beside that of a stream, not recorded.", "second_sources"),
        ):
            yield CounterMetricFamily(f"siprec_recorder_{name}", text, value=counters.get(key, 0))
