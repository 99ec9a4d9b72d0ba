"""The streams of a recording as its SRS is offered them, and what follows where it does not take them."""

from __future__ import annotations

import logging

from siprec.metadata.document import Document
from siprec.metadata.write import write
from siprec.recording.copied_streams import CopiedStreams
from siprec.recording.refused_streams import RefusedStreams, refused
from siprec.recording.rs_peer import Body, Outcome, RsPeer
from siprec.recording.srs_liveness import PROBE
from siprec.sdp import SessionDescription

log = logging.getLogger(__name__)


class OfferedStreams(CopiedStreams):
    """A recording, its copies, and what the SRS says to them."""

    __slots__ = ()

    def _body(self, document: Document | None, with_sdp: bool, inactive: bool) -> Body:
        description = self._description
        octets, labels = b"", None
        if with_sdp and description is not None:
            octets = description.offer(inactive)
            labels = self.metadata.labels(description.labels)
        whole = self.machine.sent if document is not None else None
        return Body(octets, write(document, labels) if document is not None else b"", whole, labels or {})

    def _not_taken(self, answer: SessionDescription | None) -> dict[tuple[str, int], str]:
        """Streams that were offered and that the SRS does not take, though it did not ask for a pause of them."""
        description = self._description
        if description is None or answer is None or self.machine.sent_inactive:
            return {}
        found = refused(description, answer)
        if self._refused is None:
            if not found:
                return {}
            self._refused = RefusedStreams(self.profile.on_refused_stream)
        return self._refused.judged(found)

    def _asks_again(self, dialog: RsPeer, answer: SessionDescription) -> bool:
        """Whether the first answer leaves out streams, so that the offer is made once more before the recording begins
        there; what becomes of it is told as the answer of the SRS, or as its refusal."""
        found, taken = self._not_taken(answer), self._refused
        if taken is None or not found or taken.pending or not taken.offer_again(found):
            return False
        taken.pending = True
        answers = [answer]

        def done(outcome: Outcome | None) -> None:
            limit.cancel()
            if outcome is not None and outcome.answer is not None:
                answers.append(outcome.answer)
            if dialog is not self._dialog or not taken.pending:
                return
            taken.pending = False
            left = self._not_taken(answers[-1])
            reason = f"streams not taken: {'; '.join(left.values())}"
            others = self.machine.tried + 1 < self.machine.policy.targets and not self.machine.policy.gives_up(488)
            if left and others and taken.leave(self.server, left, self.targets):
                dialog.bye(lambda result: None)
                self.rs_refused(dialog, 488, reason)
                return
            if left:
                taken.accept(left)
                log.warning("%s (call %s, SRS %s)", reason, self.call.call_id, self.server, extra=self._fields)
            self.rs_answered(dialog, answers[-1])

        limit = self.context.clock.call_later(PROBE, done, None)
        dialog.exchange(lambda with_sdp: self._body(None, with_sdp, False), done, offer=True)
        return True

    def _fallback(self) -> int:
        """The SRS that left out streams, where it is the best that is left of the search; -1: there is none."""
        taken, machine = self._refused, self.machine
        if taken is None or machine.tried + 1 < machine.policy.targets:
            return -1
        return taken.fallback(self.server, self.targets)

    def rs_answered(self, dialog: RsPeer, answer: SessionDescription) -> None:
        """The SRS takes the recording."""
        raise NotImplementedError

    def rs_refused(self, dialog: RsPeer, status: int, reason: str) -> None:
        """The SRS does not take it."""
        raise NotImplementedError
