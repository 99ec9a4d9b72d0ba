"""Proof of recording: for each call that was to be recorded, one record of what became of that.

A line ``begin`` when the call is answered, a line ``end`` when call and recording are over: a ``begin`` without its
``end`` is a call that was going on when the process died. The collector watches calls and events, asks the media server
for its counters before copies end, takes those that it gives when the call ends, and hands lines to a writer; it never
makes a call wait and never raises.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

from siprec.media.engine import MediaError, MediaServer, MediaStatistics
from siprec.proxy.call import Call, CallObserver
from siprec.recording import events
from siprec.recording.call_recording import CallRecording
from siprec.recording.events import SiprecEvent
from siprec.recording.proof import KEPT, Begun, Line, Proof, Verdict, assess, encoded
from siprec.recording.proof_case import Case, text_of
from siprec.recording.recording_core import RecordingCore, RecordingObserver
from siprec.sip.clock import Clock, Timer

log = logging.getLogger(__name__)

PATIENCE: Final = 30.0
"""Seconds after the end of a call by which its proof is written, whatever is still missing."""
Counted = Callable[[MediaStatistics | MediaError | None], object]
_EARLY: Final = 10_000
"""Calls not answered yet of which a failure to record them is remembered."""


class ProofCollector(CallObserver, RecordingObserver):
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
        active: Callable[[str, str], CallRecording | None],
        counted: Counted | None = None,
    ) -> None:
        self._clock = clock
        self._write = write
        self._find_call = find_call
        self._active = active
        self._counted = counted or _nobody
        self._open: dict[str, dict[str, Case]] = {}
        self._patience: dict[str, Timer] = {}
        self._early: dict[str, list[SiprecEvent]] = {}
        self.verdicts: dict[Verdict, int] = {"complete": 0, "unconfirmed": 0, "partial": 0, "none": 0}

    def __len__(self) -> int:
        """Proofs that are being collected: for leak checks."""
        return sum(len(cases) for cases in self._open.values()) + len(self._early)

    # -- the proxy's observer ------------------------------------------------------------------------------------------

    def call_answered(self, call: Call) -> None:
        """The first 2xx was forwarded."""
        for name in call.recordings:
            self._case(call, name)
        for event in self._early.pop(call.dlg_id, ()):
            if not event.reason.startswith(events.IGNORED):
                self._case(call, event.instance).take(event)
                continue
            for case in self._open.get(call.dlg_id, {}).values():
                # What was set for an instance that nobody records is of concern to those who look at the others.
                if event.instance == case.proof.instance or event.instance not in call.recordings:
                    case.take(event)

    def call_media_changed(self, call: Call, who: str) -> None:
        """An offer/answer exchange begun by ``caller`` or ``callee`` after the answer is complete."""
        for case in self._open.get(call.dlg_id, {}).values():
            case.media_changed(self._clock.now())

    def call_media_moved(self, call: Call) -> None:
        """Another media server (`call.media`) carries the call now. What was counted before, and was not asked for, is
        unknown."""
        name = call.media.name if call.media is not None else "none"
        for case in self._open.get(call.dlg_id, {}).values():
            case.proof.incidents.append(f"the media server of the call was lost; it went on at {name}")

    def call_ended(self, call: Call) -> None:
        """Over, for whatever reason, answered or not."""
        self._early.pop(call.dlg_id, None)
        cases = self._open.get(call.dlg_id)
        if cases is None:
            return
        for case in cases.values():
            wall = call.end_wall if call.end_wall is not None else call.wall(self._clock.now())
            case.end(wall, call.end_reason, self._clock.now())
        self._ask(call, list(cases.values()), self._counted, at_end=True)
        # Late answers of an SRS are waited for, but not for ever.
        self._patience[call.dlg_id] = self._clock.call_later(PATIENCE, self._give_up, call.dlg_id)
        for case in list(cases.values()):
            self._settle(case)

    # -- the recordings ------------------------------------------------------------------------------------------------

    def event(self, event: SiprecEvent) -> None:
        """A subscriber of the recordings' events."""
        if event.name in events.OF_SERVERS:
            return
        case = self._open.get(event.dlg_id, {}).get(event.instance)
        if case is None:
            call = self._find_call(event.dlg_id)
            if call is None:
                return
            if call.state != "confirmed":
                if event.name == events.FAILED and call.state == "early" and len(self._early) < _EARLY:
                    self._early.setdefault(event.dlg_id, [])[10:] = [event]
                return
            if event.reason.startswith(events.IGNORED):
                return  # nothing is recorded, and nothing was to be
            case = self._case(call, event.instance)
        recording = self._active(event.dlg_id, event.instance)
        case.take(event, recording)

    def copies_ending(self, recording: RecordingCore) -> None:
        """The copies for a recording are about to end: its streams are counted now."""
        case = self._open.get(recording.call.dlg_id, {}).get(recording.instance)
        if case is None:
            return
        case.leave(recording)
        if not case.over:
            self._ask(case.call, [case], _nobody)

    def recording_over(self, recording: RecordingCore) -> None:
        """A recording is over."""
        case = self._open.get(recording.call.dlg_id, {}).get(recording.instance)
        if case is not None:
            case.know(recording)
            self._settle(case)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _case(self, call: Call, instance: str) -> Case:
        cases = self._open.setdefault(call.dlg_id, {})
        case = cases.get(instance)
        if case is None:
            wall = call.wall(self._clock.now())
            answered = call.answer_wall if call.answer_wall is not None else wall
            proof = Proof(
                dlg_id=call.dlg_id,
                call_id=call.call_id,
                instance=instance,
                caller=text_of(call.caller.uri_text),
                callee=text_of(call.callee.uri_text),
                wanted_by=(call.wanted_by or {}).get(instance, ""),
                # One that is wanted later has nothing to answer for what was before.
                answered=answered if instance in call.recordings and wall - answered < KEPT else wall,
            )
            case = cases[instance] = Case(call, proof, self._clock.now())
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

    def _ask(self, call: Call, cases: Iterable[Case], also: Counted, *, at_end: bool = False) -> None:
        """Have streams counted; `at_end`: the call is over, and its media server tells as it ends the call there."""
        media, session = call.media, call.media_session
        if media is None or session is None:
            return
        asked = list(cases)
        for case in asked:
            recording = self._active(call.dlg_id, case.proof.instance)
            if recording is not None:
                case.know(recording)
            case.waiting += 1
        server: MediaServer = media

        def done(result: MediaStatistics | MediaError | None) -> None:
            also(result)
            for case in asked:
                case.waiting -= 1
                if isinstance(result, MediaStatistics):
                    case.count(server.name, result)
                self._settle(case)

        if not at_end or call.media_path is None or not call.media_path.at_end(done):
            media.query(session, done)

    def _settle(self, case: Case) -> None:
        proof = case.proof
        if case.over and not case.waiting and self._active(proof.dlg_id, proof.instance) is None:
            self._finish(case)

    def _give_up(self, dlg_id: str) -> None:
        for case in list(self._open.get(dlg_id, {}).values()):
            self._finish(case)

    def _finish(self, case: Case) -> None:
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
        case.sum_up()
        assess(proof)
        self.verdicts[proof.verdict] += 1
        self._put(proof)

    def close(self) -> None:
        """Write what there is: the process ends, and calls that are left go on without it."""
        for cases in list(self._open.values()):
            for case in list(cases.values()):
                if not case.over:
                    case.end(case.call.wall(self._clock.now()), "shutdown", self._clock.now())
                self._finish(case)

    def _put(self, line: Line) -> None:
        try:
            self._write(encoded(line))
        except Exception:
            log.exception("a proof of recording cannot be written (call %s)", line.call_id)


def _nobody(result: MediaStatistics | MediaError | None) -> None:
    """Nobody counts packets."""
