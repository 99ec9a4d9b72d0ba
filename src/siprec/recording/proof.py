"""Proof of recording: for each call that was to be recorded, one record of what became of that.

A line ``begin`` when the call is answered, a line ``end`` when call and recording are over: a ``begin`` without its
``end`` is a call that was going on when the process died. The collector watches calls and events, asks the media server
for its counters just before the copies end, and hands lines to a writer; it never makes a call wait and never raises.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from siprec.media.engine import MediaError, MediaStatistics
from siprec.proxy.call import Call, CallObserver
from siprec.recording import events
from siprec.recording.active import ActiveRecording
from siprec.recording.events import SiprecEvent
from siprec.recording.secure import is_secure
from siprec.recording.verdict import KEPT, Begun, Line, Pause, Proof, Refusal, Session, StreamProof, Verdict, judge
from siprec.sip.clock import Clock, Timer
from siprec.sip.errors import SipError

log = logging.getLogger(__name__)

PATIENCE: Final = 30.0
"""Seconds after the end of a call by which its proof is written, whatever is still missing."""
_LIMIT: Final = 200


class ProofCollector(CallObserver):
    """Makes proofs. It has to hear of calls before the recordings do, so that it can ask the media server in time.

    Args:
        clock: time.
        write: takes a finished line, without line end, at once.
        find_call: the call of a dialog id.
        active: the recording of a call's instance, None when there is none (any more).
        counted: gets each answer of the media server, for whoever counts packets.
    """

    def __init__(
        self,
        clock: Clock,
        write: Callable[[bytes], object],
        find_call: Callable[[str], Call | None],
        active: Callable[[str, str], ActiveRecording | None],
        counted: Callable[[MediaStatistics | MediaError], object] = lambda result: None,
    ) -> None:
        self._clock = clock
        self._write = write
        self._find_call = find_call
        self._active = active
        self._counted = counted
        self._encoder = msgspec.json.Encoder()
        self._open: dict[str, dict[str, _Case]] = {}
        self._patience: dict[str, Timer] = {}
        # Settings that were ignored before the answer, when it is not known yet what will be recorded.
        self._early: dict[str, list[SiprecEvent]] = {}
        self.verdicts: dict[Verdict, int] = {"complete": 0, "partial": 0, "none": 0}

    def __len__(self) -> int:
        """Proofs that are being collected: for leak checks."""
        return sum(len(cases) for cases in self._open.values())

    # -- the proxy's observer ------------------------------------------------------------------------------------------

    def call_answered(self, call: Call) -> None:
        """See :class:`siprec.proxy.call.CallObserver`."""
        early = self._early.pop(call.dlg_id, ())
        for name in call.recordings:
            case = self._case(call, name)
            for event in early:
                # What was set for an instance that nobody records is of concern to those who look at the others.
                if event.instance == name or event.instance not in call.recordings:
                    case.take(event)

    def call_ended(self, call: Call) -> None:
        """See :class:`siprec.proxy.call.CallObserver`."""
        self._early.pop(call.dlg_id, None)
        cases = self._open.get(call.dlg_id)
        if cases is None:
            return
        for case in cases.values():
            case.over = True
            case.proof.ended = call.end_wall if call.end_wall is not None else self._clock.wall()
            case.proof.end_reason = call.end_reason
        self._ask(call, list(cases.values()), self._counted)
        # Late answers of an SRS are waited for, but not for ever.
        self._patience[call.dlg_id] = self._clock.call_later(PATIENCE, self._give_up, call.dlg_id)
        for case in list(cases.values()):
            self._settle(case)

    # -- the recordings ------------------------------------------------------------------------------------------------

    def event(self, event: SiprecEvent) -> None:
        """A subscriber of the recordings' events."""
        case = self._open.get(event.dlg_id, {}).get(event.instance)
        if case is None:
            call = self._find_call(event.dlg_id)
            if call is None or call.state != "confirmed":
                if call is not None and event.reason.startswith(events.IGNORED):
                    self._early.setdefault(call.dlg_id, []).append(event)
                return
            case = self._case(call, event.instance)
        case.take(event)

    def releasing(self, recording: ActiveRecording) -> None:
        """The copies for a recording are about to end: its streams are counted now."""
        case = self._open.get(recording.call.dlg_id, {}).get(recording.instance)
        if case is None:
            return
        case.know(recording)
        if not case.over:
            self._ask(case.call, [case], lambda result: None)

    def finished(self, recording: ActiveRecording) -> None:
        """A recording is over."""
        case = self._open.get(recording.call.dlg_id, {}).get(recording.instance)
        if case is not None:
            case.know(recording)
            self._settle(case)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _case(self, call: Call, instance: str) -> _Case:
        cases = self._open.setdefault(call.dlg_id, {})
        case = cases.get(instance)
        if case is None:
            wall = self._clock.wall()
            answered = call.answer_wall if call.answer_wall is not None else wall
            proof = Proof(
                dlg_id=call.dlg_id,
                call_id=call.call_id,
                instance=instance,
                caller=_text(call.caller.uri_text),
                callee=_text(call.callee.uri_text),
                # One that is wanted later has nothing to answer for what was before.
                answered=answered if instance in call.recordings and wall - answered < KEPT else wall,
            )
            case = cases[instance] = _Case(call, proof)
            self._put(
                Begun(
                    dlg_id=proof.dlg_id,
                    call_id=proof.call_id,
                    instance=instance,
                    caller=proof.caller,
                    callee=proof.callee,
                    answered=proof.answered,
                )
            )
        return case

    def _ask(self, call: Call, cases: Iterable[_Case], also: Callable[[MediaStatistics | MediaError], object]) -> None:
        media, session = call.media, call.media_session
        if media is None or session is None:
            return
        asked = list(cases)
        for case in asked:
            recording = self._active(call.dlg_id, case.proof.instance)
            if recording is not None:
                case.know(recording)
            case.waiting += 1

        def done(result: MediaStatistics | MediaError) -> None:
            also(result)
            for case in asked:
                case.waiting -= 1
                if isinstance(result, MediaStatistics):
                    case.count(result)
                self._settle(case)

        media.query(session, done)

    def _settle(self, case: _Case) -> None:
        proof = case.proof
        if case.over and not case.waiting and self._active(proof.dlg_id, proof.instance) is None:
            self._finish(case)

    def _give_up(self, dlg_id: str) -> None:
        for case in list(self._open.get(dlg_id, {}).values()):
            self._finish(case)

    def _finish(self, case: _Case) -> None:
        proof = case.proof
        cases = self._open.get(proof.dlg_id)
        if cases is None or cases.get(proof.instance) is not case:
            return
        del cases[proof.instance]
        if not cases:
            del self._open[proof.dlg_id]
            timer = self._patience.pop(proof.dlg_id, None)
            if timer is not None:
                timer.cancel()
        judge(proof)
        self.verdicts[proof.verdict] += 1
        self._put(proof)

    def close(self) -> None:
        """Write what there is: the process ends."""
        for cases in list(self._open.values()):
            for case in list(cases.values()):
                if not case.over:
                    case.proof.ended = self._clock.wall()
                    case.proof.end_reason = "shutdown"
                self._finish(case)

    def _put(self, line: Line) -> None:
        try:
            self._write(self._encoder.encode(line))
        except Exception:
            log.exception("a proof of recording cannot be written (call %s)", line.call_id)


class _Case:
    """A proof in the making."""

    __slots__ = ("call", "over", "parties", "proof", "streams", "tag", "waiting")

    def __init__(self, call: Call, proof: Proof) -> None:
        self.call = call
        self.proof = proof
        self.over = False
        self.waiting = 0
        self.tag = ""
        self.parties: dict[str, str] = {}
        self.streams: dict[tuple[str, int], StreamProof] = {}

    def know(self, recording: ActiveRecording) -> None:
        """Keep what a recording knows of its streams."""
        proof = self.proof
        proof.session_id = recording.metadata.session_id
        proof.srs = list(recording.targets)
        subscription = recording.subscription
        if subscription is None:
            return
        self.tag = subscription.tag
        self.parties = dict(recording.metadata.tags())
        labels = recording.labels
        for stream in subscription.streams:
            key = (stream.from_tag, stream.source_index)
            if key not in self.streams:
                party = self.parties.get(stream.from_tag, "")
                self.streams[key] = StreamProof(party=party, kind=stream.kind, label=labels.get(key, ""))
            self.streams[key].srtp = is_secure(stream.section)

    def count(self, statistics: MediaStatistics) -> None:
        """Take over the media server's counters."""
        for stream in statistics.streams:
            found = self.streams.get((stream.tag, stream.index))
            if found is not None:
                found.received = stream.packets
                found.lost_before = stream.lost
        for fork in statistics.forks:
            found = self.streams.get((fork.from_tag, fork.source_index))
            if found is not None and fork.tag == self.tag:
                found.forked = fork.packets
                found.dropped = dict(fork.dropped)
                found.reports = fork.rtcp_received
                found.srs_lost = fork.lost_reported
        self.proof.streams = list(self.streams.values())

    def take(self, event: SiprecEvent) -> None:
        """Note an event."""
        proof = self.proof
        proof.session_id = event.session_id or proof.session_id
        session = proof.sessions[-1] if proof.sessions and proof.sessions[-1].end is None else None
        if event.name == events.START and len(proof.sessions) < _LIMIT:
            proof.sessions.append(Session(server=event.server, callid=event.callid, start=event.wall))
        elif event.name == events.STOP:
            if session is not None:
                session.end, session.reason, session.status = event.wall, _text(event.reason), event.status
                session.lost = bool(event.status)
            self._resumed(event)
        elif event.name == events.FAILED and event.reason.startswith(events.IGNORED):
            if len(proof.ignored) < _LIMIT:
                proof.ignored.append(_text(event.reason.removeprefix(events.IGNORED)))
        elif event.name in (events.FAILOVER, events.FAILED):
            if len(proof.refusals) < _LIMIT:
                server = event.server if event.status else ""
                refusal = Refusal(at=event.wall, server=server, status=event.status, reason=_text(event.reason))
                proof.refusals.append(refusal)
        elif event.name == events.PAUSED and len(proof.pauses) < _LIMIT:
            proof.pauses.append(Pause(start=event.wall, by=_text(event.reason)))
        elif event.name == events.RESUMED:
            self._resumed(event)

    def _resumed(self, event: SiprecEvent) -> None:
        pauses = self.proof.pauses
        if pauses and pauses[-1].end is None:
            pauses[-1].end = event.wall
            pauses[-1].resumed_by = _text(event.reason) if event.name == events.RESUMED else ""


def _text(value: object) -> str:
    try:
        return str(value)[:500]
    except SipError:
        return ""
