"""The recording client with its proofs, on the simulated network: what is proved of which course of events."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from siprec.media.engine import (
    ForkStatistics,
    MediaError,
    MediaSession,
    MediaStatistics,
    StatisticsResult,
    StreamStatistics,
)
from siprec.proxy.call import Call
from siprec.recording.proof import Begun, Line, Proof
from siprec.recording.proof_collector import ProofCollector
from tests.simulation.recording_world import FakeMediaServer, World

RATE = 50
"""Packets a second of each party."""


@dataclass
class Counter:
    """What the media server counted of one subscription's stream."""

    since: float
    withheld_since: float | None = None
    withheld: int = 0


class CountingMediaServer(FakeMediaServer):
    """Counts as our relay does: each party of an answered call sends 50 packets a second; the SRS, if it `reports`,
    told of the last packet `age` seconds ago. With `counts` false the copies are not counted, as at RTPEngine."""

    def __init__(self, world: World) -> None:
        super().__init__(world.clock)
        self.world = world
        self.began: dict[str, float] = {}
        self.copies: dict[tuple[str, int], Counter] = {}
        self.counts = self.talk = self.reporting = True
        self.age = 1.0
        self.down = False

    def _packets(self, call_id: str) -> int:
        return round((self.clock.now() - self.began[call_id]) * RATE) if self.talk else 0

    def query(self, session: MediaSession, done: StatisticsResult) -> None:
        packets = self._packets(session.call_id)
        streams = tuple(
            StreamStatistics(tag, 0, "audio", packets, packets * 172, forked=0 if self.counts else None, lost=0)
            for tag in (session.from_tag, session.to_tag)
        )
        forks = tuple(
            self._fork(tag, index, stream.from_tag, packets)
            for tag, subscription in self.subscriptions.items()
            for index, stream in enumerate(subscription.streams)
        )

        def answer() -> None:
            done(MediaError("silence", timeout=True) if self.down else MediaStatistics(0, 0, 0, 0, streams, forks))

        self.clock.call_later(self.delay, answer)

    def _fork(self, tag: str, index: int, from_tag: str, packets: int) -> ForkStatistics:
        if not self.counts:
            return ForkStatistics(tag, index, from_tag, 0)
        counter = self.copies.setdefault((tag, index), Counter(0.0))
        withheld = counter.withheld
        if tag in self.paused and counter.withheld_since is not None:
            withheld += round((self.clock.now() - counter.withheld_since) * RATE) if self.talk else 0
        reports = int(self.reporting and packets > 0)
        return ForkStatistics(
            tag,
            index,
            from_tag,
            0,
            packets=max(0, packets - round(counter.since) - withheld),
            withheld=withheld,
            before=round(counter.since),
            rtcp_received=reports,
            reports=reports,
            lost_reported=0 if reports else None,
            report_age=self.age,
        )

    def pause(self, session: MediaSession, tag: str, done: Any) -> None:
        super().pause(session, tag, done)
        for (name, _), counter in self.copies.items():
            if name == tag:
                counter.withheld_since = self.clock.now()

    def resume(self, session: MediaSession, tag: str, done: Any) -> None:
        super().resume(session, tag, done)
        for (name, _), counter in self.copies.items():
            if name == tag and counter.withheld_since is not None:
                counter.withheld += round((self.clock.now() - counter.withheld_since) * RATE)
                counter.withheld_since = None

    def subscribe_request(self, session: MediaSession, from_tags: Any, done: Any, **more: Any) -> None:
        def counted(result: Any) -> None:
            if not isinstance(result, MediaError) and not more.get("tag"):
                age = more["flags"].preroll
                packets = self._packets(session.call_id)
                first = 0 if age is None else max(0, packets - round(age * RATE))
                for index in range(len(result.streams)):
                    self.copies[result.tag, index] = Counter(first if self.talk else 0)
            done(result)

        super().subscribe_request(session, from_tags, counted, **more)


@dataclass
class ProofWorld(World):
    """`World` whose calls are proved; `lines` is what was written."""

    lines: list[Line] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.server = CountingMediaServer(self)
        self.media = self.server
        self.live: dict[str, Call] = {}
        decoder = msgspec.json.Decoder(Line)

        def active(dlg_id: str, instance: str) -> Any:
            recorder = self.service.recorder(dlg_id)
            return recorder.recordings.get(instance) if recorder is not None else None

        self.proofs = ProofCollector(
            self.clock, lambda line: self.lines.append(decoder.decode(line)), self.live.get, active
        )
        self.service.events.subscribe(self.proofs.event)
        self.service.context.observers.append(self.proofs)

    def new_call(self) -> Call:
        call = super().new_call()
        self.live[call.dlg_id] = call
        return call

    def answer(self, call: Call) -> None:
        self.server.began[call.call_id] = self.clock.now()
        call.state = "confirmed"
        call.answer_wall = call.wall(self.clock.now())
        call.talk_began = self.clock.now()
        self.proofs.call_answered(call)
        self.service.call_answered(call)

    def end(self, call: Call, message: str = "BYE sip:x SIP/2.0\r\n\r\n", reason: str = "bye") -> None:
        call.state = "terminated"
        call.end_wall = call.wall(self.clock.now())
        call.end_reason = reason
        self.live.pop(call.dlg_id, None)
        self.proofs.call_ended(call)
        self.service.call_ended(call)

    def proved(self, call: Call, seconds: float = 20.0) -> Proof:
        """The proof of a call that ends now, and everything with it."""
        if call.state != "terminated":
            self.end(call)
        self.clock.run_for(seconds)
        begun, proof = (line for line in self.lines if line.dlg_id == call.dlg_id)
        assert isinstance(begun, Begun)
        assert isinstance(proof, Proof)
        assert len(self.proofs) == len(self.live)
        return proof
