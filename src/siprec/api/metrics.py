"""``/metrics``: counters that exist anyway, read when Prometheus asks. Only calls and events cost anything before."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from siprec.api import mediaview, model
from siprec.api.context import ApiContext
from siprec.api.event_hub import EventHub
from siprec.api.redis_stream import RedisStream
from siprec.api.webhooks import Webhooks
from siprec.recording.recording_core import RecordingCore, RecordingObserver

if TYPE_CHECKING:
    from siprec.api.journal import Journal

LAG_PERIOD: Final = 0.5
_SETUP: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LAG: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class Metrics(Collector, RecordingObserver):
    """Collects on demand. `journal` is set by whoever has one."""

    journal: Journal

    def __init__(
        self, context: ApiContext, hub: EventHub, webhooks: Webhooks, redis: RedisStream | None = None
    ) -> None:
        self.redis = redis
        self.context = context
        self.hub = hub
        self.webhooks = webhooks
        self.calls = context.calls
        self.registry = CollectorRegistry(auto_describe=False)
        self.setup = Histogram(
            "siprec_recording_setup_seconds",
            "From the answer of the call to the answer of the SRS.",
            buckets=_SETUP,
            registry=self.registry,
        )
        self.media_setup = Histogram(
            "siprec_recording_media_seconds",
            "From the answer of the call to the moment its media flow to the SRS.",
            buckets=_SETUP,
            registry=self.registry,
        )
        context.recording.context.observers.append(self)
        self._lag = Histogram(
            "siprec_event_loop_lag_seconds",
            "How late the event loop comes to what is due, looked at twice a second.",
            buckets=_LAG,
            registry=self.registry,
        )
        self._media: list[model.Media] = []
        self._task: asyncio.Task[None] | None = None
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def media_connected(self, recording: RecordingCore) -> None:
        """The media server copies to the SRS, for the first time in this recording."""
        answered = self.context.core.calls.get(recording.call.dlg_id)
        if answered is not None and answered.answer_wall is not None:
            self.media_setup.observe(max(0.0, answered.wall(self.context.clock.now()) - answered.answer_wall))

    def start(self) -> None:
        """Begin to watch the event loop."""
        self._task = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """No more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_PERIOD
            await asyncio.sleep(LAG_PERIOD)
            self._lag.observe(max(0.0, loop.time() - due))

    async def scrape(self, accept: str) -> tuple[bytes, str]:
        """The metrics in the format that `accept` prefers, and its media type."""
        self._media = await mediaview.media(self.context)
        encoder, media_type = choose_encoder(accept)
        return encoder(self.registry), media_type

    def collect(self) -> Iterator[Metric]:
        """All metrics, when prometheus_client asks for them."""
        yield from self._calls()
        yield from self._sip()
        yield from self._recordings()
        yield from self._servers()
        yield from self._queues()

    def _calls(self) -> Iterator[Metric]:
        context = self.context
        states = Counter(call.state for call in context.core.calls.values())
        yield _gauge(
            "siprec_calls", "Calls that exist.", "state", {each: states[each] for each in ("early", "confirmed")}
        )
        yield CounterMetricFamily("siprec_calls_created", "Calls begun.", value=self.calls.created)
        yield _counter(
            "siprec_call_replies", "Final replies to calls, `none` if there was none.", "code", self.calls.replies
        )
        yield _counter("siprec_call_ends", "Answered calls that ended, and how.", "reason", self.calls.ends)
        yield CounterMetricFamily(
            "siprec_calls_refused_draining", "Calls refused while draining.", value=context.core.drain.refused
        )
        yield GaugeMetricFamily(
            "siprec_draining", "1 while new calls are refused.", value=int(context.core.drain.draining)
        )
        registrations = len(context.registrar) if context.registrar is not None else 0
        yield GaugeMetricFamily("siprec_registrations", "Contacts that are registered.", value=registrations)

    def _sip(self) -> Iterator[Metric]:
        context = self.context
        yield _gauge("siprec_sip_transactions", "Live transactions.", "machine", context.layer.counts())
        yield _counter(
            "siprec_sip_transport", "What the transport counts.", "what", context.transport.counters.as_dict()
        )
        dropped = {**context.layer.dropped, **context.transport.dropped}
        yield _counter("siprec_sip_dropped", "Messages that got no answer and went nowhere.", "why", dropped)
        yield _counter("siprec_proxy", "What the proxy core counts.", "what", dict(context.core.counters))
        yield _gauge("siprec_proxy_state", "What the proxy core keeps.", "what", context.core.counts())
        yield _gauge("siprec_resource_used", "Share of a limited resource that is in use.", "what", context.headroom())

    def _recordings(self) -> Iterator[Metric]:
        family = GaugeMetricFamily("siprec_recordings", "Recordings.", labels=("state", "srs"))
        known = self.journal.servers
        count: Counter[tuple[str, str]] = Counter()
        for recording in self.context.recordings():
            count[recording.state, recording.server if recording.server in known else "other"] += 1
        for (state, server), value in count.items():
            family.add_metric((state, server), value)
        yield family
        events = CounterMetricFamily("siprec_recording_events", "Events of recordings.", labels=("event", "srs"))
        for (name, server), value in self.journal.results.items():
            events.add_metric((name, server), value)
        yield events
        packets = CounterMetricFamily(
            "siprec_recorded_call_packets",
            "RTP packets of recorded calls that ended: received, forked, lost on the way to us.",
            labels=("what",),
        )
        for what in ("received", "forked", "lost"):
            packets.add_metric((what,), self.calls.packets[what])
        yield packets
        unknown = self.calls.packets["unknown_calls"]
        yield CounterMetricFamily(
            "siprec_recorded_calls_uncounted", "Calls whose packets are not known.", value=unknown
        )

    def _servers(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("siprec_srs_up", "1: the SRS answered last time, 0: it did not.", labels=("srs",))
        for uri, health in self.journal.servers.items():
            if health.state != "unknown":
                up.add_metric((uri,), int(health.state == "up"))
        yield up
        alive = GaugeMetricFamily("siprec_media_up", "1: the media server answers.", labels=("server",))
        trip = GaugeMetricFamily("siprec_media_round_trip_seconds", "Of one request to it.", labels=("server",))
        load = GaugeMetricFamily("siprec_media_load", "What the media server counts itself.", labels=("server", "what"))
        requests = CounterMetricFamily("siprec_media_requests", "Our connection to it.", labels=("server", "what"))
        carried = GaugeMetricFamily("siprec_media_calls", "Calls of ours that it carries.", labels=("server",))
        drains = GaugeMetricFamily("siprec_media_draining", "1: it gets no new calls.", labels=("server",))
        for media in self._media:
            carried.add_metric((media.name,), media.calls)
            drains.add_metric((media.name,), int(media.draining))
            alive.add_metric((media.name,), int(media.alive))
            if media.round_trip is not None:
                trip.add_metric((media.name,), media.round_trip)
            for what, value in media.load.items():
                load.add_metric((media.name, what), value)
            for what, value in media.counters.items():
                requests.add_metric((media.name, what), value)
        yield from (alive, trip, carried, drains, load, requests)
        restarts = self.context.media.restarts
        yield CounterMetricFamily("siprec_media_restarts", "Times the relay was started again.", value=restarts)
        moved = self.context.core.counters["media_moved"]
        yield CounterMetricFamily("siprec_media_moved_calls", "Calls that went to another media server.", value=moved)
        sources = self.context.core.counters["media_sources_moved"]
        yield CounterMetricFamily("siprec_media_source_moves", "Parties whose media changed host.", value=sources)

    def _queues(self) -> Iterator[Metric]:
        hooks = self.webhooks.hooks
        queues = {
            "subscribers": self.hub.queued,
            "webhooks": sum(map(len, hooks)),
            "dead_letters": len(self.webhooks.dead_letters),
            "media_requests": sum(media.pending for media in self._media),
            "redis": len(self.redis) if self.redis is not None else 0,
            "timers": self.context.timers(),
        }
        yield _gauge("siprec_queue_length", "What waits.", "queue", queues)
        yield GaugeMetricFamily("siprec_subscribers", "Listeners to /events.", value=len(self.hub))
        yield CounterMetricFamily(
            "siprec_subscribers_dropped", "Listeners dropped as too slow.", value=self.hub.dropped_subscribers
        )
        results = {
            "delivered": sum(hook.delivered for hook in hooks),
            "retried": sum(hook.retried for hook in hooks),
            "dead": sum(hook.dead for hook in hooks),
        }
        yield _counter("siprec_webhooks", "Events by what became of them.", "result", results)
        if self.redis is not None:
            stream = {"delivered": self.redis.delivered, "retried": self.redis.retried, "lost": self.redis.lost}
            yield _counter("siprec_redis", "Events for Redis by what became of them.", "result", stream)
        proofs = self.context.proofs()
        if proofs:
            yield _counter("siprec_proofs", "Proofs of recording written, by verdict; lost ones.", "verdict", proofs)
        error = self.context.proof_error()
        if error is not None:
            yield GaugeMetricFamily(
                "siprec_proof_writable", "1: proofs of recording can be written, 0: the disk refuses.", value=not error
            )


def _gauge(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family


def _counter(name: str, text: str, label: str, values: dict[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family
