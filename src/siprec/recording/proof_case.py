"""The proof of one recording in the making: what events, counters and the SRS say of it, until it is summed up."""

from __future__ import annotations

from operator import itemgetter
from typing import Final

from siprec.media.engine import ForkStatistics, MediaStatistics, StreamStatistics, Subscription
from siprec.proxy.call import Call
from siprec.recording import events
from siprec.recording.call_metadata import Leg
from siprec.recording.confirmation import Recorded
from siprec.recording.events import SiprecEvent
from siprec.recording.proof import VERSION, Pause, Proof, Refusal, Session, StreamProof
from siprec.recording.recording_core import RecordingCore
from siprec.recording.rs_sdp import StreamKey
from siprec.recording.srtp_sdp import is_secure
from siprec.recording.stream_digest import may
from siprec.sip.errors import SipError

_LIMIT: Final = 200
_KEY: Final = itemgetter(1)


class Case:
    """A proof that is being collected. `over`: the call is; `waiting`: questions to the media server."""

    __slots__ = (
        "_descriptions",
        "_flowing",
        "_flows",
        "_forks",
        "_seen",
        "_since",
        "_tags",
        "_told",
        "_until",
        "call",
        "over",
        "proof",
        "streams",
        "waiting",
    )

    def __init__(self, call: Call, proof: Proof, now: float) -> None:
        proof.version = VERSION
        self.call = call
        self.proof = proof
        self.over = False
        self.waiting = 0
        self.streams: dict[StreamKey, StreamProof] = {}
        self._tags: set[str] = set()
        self._forks: dict[tuple[str, str, StreamKey], ForkStatistics] = {}
        self._flows: dict[tuple[str, StreamKey], StreamStatistics] = {}
        self._told: dict[StreamKey, list[Recorded]] = {}
        # Of a stream of which nothing comes, how long it could have flowed is what matters.
        self._descriptions = (call.caller_sdp, call.callee_sdp)
        self._since = self._until = now
        self._flowing: dict[StreamKey, float] = {}
        self._seen: tuple[Subscription, dict[StreamKey, str], dict[str, Leg]] | None = None

    # -- what happens --------------------------------------------------------------------------------------------------

    def know(self, recording: RecordingCore) -> None:
        """Keep what a recording knows of its streams; what it knew before is sorted out when that changed."""
        subscription = recording.subscription
        if subscription is None or self._seen is None or self._seen[0] is not subscription:
            self._sort_out()
            proof = self.proof
            proof.session_id = recording.metadata.session_id
            proof.srs = list(recording.targets)
            proof.confirm = recording.profile.confirm
            if subscription is not None:
                self._tags.add(subscription.tag)
                self._seen = subscription, recording.labels, recording.metadata.tags()

    def _sort_out(self) -> None:
        """The streams of the subscription that was seen last."""
        if self._seen is None:
            return
        subscription, labels, parties = self._seen
        self._seen = None
        present = set()
        for stream in subscription.streams:
            section = stream.section
            if section.rejected:
                continue
            key = (stream.from_tag, stream.source_index)
            present.add(key)
            known = self.streams.get(key)
            if known is None:
                known = self.streams[key] = StreamProof(party=parties.get(stream.from_tag, ""), kind=stream.kind)
            known.label = labels.get(key, known.label)
            known.srtp = is_secure(section)
        for key, each in self.streams.items():
            each.ended = key not in present

    def leave(self, recording: RecordingCore) -> None:
        """The copies for a recording are about to end."""
        self.know(recording)
        declined = recording.declined
        if declined:
            self._sort_out()
            for key, codecs in declined.items():
                if key in self.streams:
                    self.streams[key].declined = codecs

    def count(self, server: str, statistics: MediaStatistics) -> None:
        """Take over the media server's counters, in place of those of before."""
        for stream in statistics.streams:
            self._flows[server, (stream.tag, stream.index)] = stream
        for fork in statistics.forks:
            if fork.tag in self._tags:
                self._forks[server, fork.tag, (fork.from_tag, fork.source_index)] = fork

    def media_changed(self, now: float) -> None:
        """The parties agreed on something else."""
        self._pass_time(now)
        self._descriptions = (self.call.caller_sdp, self.call.callee_sdp)

    def end(self, wall: float, reason: str, now: float) -> None:
        """The call is over, or we are."""
        self.over = True
        self._until = now
        self.proof.ended = max(wall, self.proof.answered)
        self.proof.end_reason = reason

    def take(self, event: SiprecEvent, recording: RecordingCore | None = None) -> None:
        """Note an event; `recording`: whose it is, if it is still there."""
        proof = self.proof
        proof.session_id = event.session_id or proof.session_id
        session = proof.sessions[-1] if proof.sessions and proof.sessions[-1].end is None else None
        if event.name == events.START and len(proof.sessions) < _LIMIT:
            proof.sessions.append(Session(server=event.server, callid=event.callid, start=event.wall))
            if recording is not None:
                self.know(recording)
        elif event.name == events.STOP:
            if session is not None:
                session.end, session.reason, session.status = event.wall, text_of(event.reason), event.status
                # One that handed over ended in order: the packets say whether anything is missing.
                session.lost = bool(event.status) and not event.reason.startswith(events.ENDED_BY_SRS)
                if recording is not None:
                    self._hear(session, recording)
            self._resumed(event)
        elif event.name == events.FAILED and event.reason.startswith(events.IGNORED):
            if len(proof.ignored) < _LIMIT:
                proof.ignored.append(text_of(event.reason.removeprefix(events.IGNORED)))
        elif event.name in (events.FAILOVER, events.FAILED):
            if len(proof.refusals) < _LIMIT:
                server = event.server if event.status else ""
                refusal = Refusal(at=event.wall, server=server, status=event.status, reason=text_of(event.reason))
                proof.refusals.append(refusal)
        elif event.name == events.PAUSED and len(proof.pauses) < _LIMIT:
            proof.pauses.append(Pause(start=event.wall, by=text_of(event.reason)))
        elif event.name == events.RESUMED:
            self._resumed(event)

    def _resumed(self, event: SiprecEvent) -> None:
        pauses = self.proof.pauses
        if pauses and pauses[-1].end is None:
            pauses[-1].end = event.wall
            pauses[-1].resumed_by = text_of(event.reason) if event.name == events.RESUMED else ""

    def _hear(self, session: Session, recording: RecordingCore) -> None:
        """What the SRS says at the end of a session."""
        recorded = recording.recorded
        if not recorded:
            return
        self.know(recording)
        states = {each.state for each in recorded.values()}
        session.stored = next(state for state in ("failed", "pending", "complete") if state in states)
        for key, label in recording.labels.items():
            if label in recorded:
                self._told.setdefault(key, []).append(recorded[label])

    # -- the sum -------------------------------------------------------------------------------------------------------

    def sum_up(self) -> None:
        """Bring the counters into the proof."""
        self._pass_time(self._until)
        counted = set(map(_KEY, self._flows))
        tags = {self.call.from_tag, self.call.callee_tag}
        for key in [key for key in self.streams if key[0] not in tags and key not in counted]:
            del self.streams[key]  # of a branch that another one took over from, with its counters
        pauses = self.proof.pauses
        paused = 0.0
        for pause in pauses:
            paused += (pause.end if pause.end is not None else self.proof.ended) - pause.start
        for key, stream in self.streams.items():
            forks = []
            for (_, _, of), fork in self._forks.items():
                if of == key:
                    forks.append(fork)
            self._sum_forks(stream, forks)
            self._sum_flows(stream, key)
            told = self._told.get(key, [])
            # Of several sessions each has to tell, or the sum says nothing.
            if told and len(told) == len(self.proof.sessions):
                stream.srs_packets = sum([each.packets for each in told])
            for each in told:
                stream.undecoded += each.undecoded
                stream.unwritten += each.unwritten
            if stream.received == 0:
                stream.silent = round(max(0.0, self._flowing.get(key, 0.0) - paused), 1)
        self.proof.streams = list(self.streams.values())

    @staticmethod
    def _sum_forks(stream: StreamProof, forks: list[ForkStatistics]) -> None:
        forked = reports = 0
        lost: int | None = None
        for fork in forks:
            if fork.packets is None:
                return
            forked += fork.packets
            reports += fork.reports
            if fork.lost_reported is not None:
                lost = (lost or 0) + fork.lost_reported
        if not forks:
            return
        stream.forked, stream.reports, stream.srs_lost = forked, reports, lost
        for fork in forks:
            stream.withheld += fork.withheld
            stream.refused += fork.refused
            stream.waiting += fork.waiting
            for reason, number in fork.dropped.items():
                stream.dropped[reason] = stream.dropped.get(reason, 0) + number
        last = forks[-1]
        stream.behind = last.behind
        stream.report_age, stream.report_interval = last.report_age, last.report_interval

    def _sum_flows(self, stream: StreamProof, key: StreamKey) -> None:
        """What came in the time that was to be recorded, and how much of it no copy had a part in."""
        for (server, each), flow in self._flows.items():
            if each != key:
                continue
            received, seen = flow.packets, 0
            before: int | None = None
            for (name, _, of), fork in self._forks.items():
                if name != server or of != key:
                    continue
                seen += (fork.packets or 0) + fork.withheld + fork.refused + fork.waiting
                for reason, number in fork.dropped.items():
                    seen += 0 if reason.startswith("rtcp-") else number
                before = fork.before if before is None or fork.before < before else before
            if stream.forked is not None and before is not None:
                received = max(received - before, seen)
                stream.uncopied += received - seen
            stream.received = (stream.received or 0) + received
            if flow.lost is not None:
                stream.lost_before = (stream.lost_before or 0) + flow.lost

    def _pass_time(self, now: float) -> None:
        self._sort_out()
        elapsed, self._since = now - self._since, now
        caller, callee = self._descriptions
        flowed = set()
        for (_, key), flow in self._flows.items():
            if flow.packets:
                flowed.add(key)
        for key, stream in self.streams.items():
            if key in flowed:
                continue  # something came: nobody asks
            own, other = (callee, caller) if stream.party == "callee" else (caller, callee)
            if may(own, key[1], "send") and may(other, key[1], "recv"):
                self._flowing[key] = self._flowing.get(key, 0.0) + elapsed


def text_of(value: object) -> str:
    """As text of bounded length; empty for what has none."""
    try:
        return str(value)[:500]
    except SipError:
        return ""
