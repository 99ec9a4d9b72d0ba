"""One recording session that several calls share (SCN-01, SCN-04; RFC 7866 5.1, 7.1.1.1, 10).

To each call's recording a :class:`Leg` looks like a recording session of its own: an
:class:`~siprec.recording.srs.RsPeer`. The :class:`Trunk` behind it makes one offer and one document of all of them. One
exchange with the SRS goes on at a time; what the calls want meanwhile leaves together with the next (META-19).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from siprec.metadata.diff import diff
from siprec.metadata.document import Document
from siprec.metadata.write import write
from siprec.recording.composition import Composition, union
from siprec.recording.leg import Leg, LegOffer, line_bytes, stream_labels
from siprec.recording.secure import DECLINED
from siprec.recording.settings import RecordingProfile, RecordingSettings
from siprec.recording.srs import UPDATE_REFUSED, Body, DialogOwner, PeerOffer, RsDialog, RsPeer
from siprec.sdp import SdpError, SessionDescription
from siprec.sip.clock import Clock, Timer
from siprec.sip.message import SipResponse
from siprec.sip.useragent import Result, UserAgent

log = logging.getLogger(__name__)

#: Seconds that wishes are gathered before the first of them leaves: a burst of calls is one exchange.
GATHER: Final = 0.02
#: Seconds after a refused exchange before the next.
PAUSE: Final = 1.0
#: Octets of description and metadata that a message may come to: it has to fit into 64 KiB with its headers.
MAX_BODY: Final = 48_000
#: Seconds after which an SRS that nothing is said to is asked whether it is still there.
KEEPALIVE: Final = 30.0
_MAX_TRIES: Final = 3


class Trunk:
    """One RS with `server` for many calls.

    Args:
        clock, agent: time and our user agent.
        key: which calls share it, for its owner.
        standing: it stays without calls (SCN-01).
        limit: calls it takes.
        up, over: told when the SRS has taken it, and when it is no more (with the status, and what happened).
    """

    def __init__(
        self,
        clock: Clock,
        agent: UserAgent,
        key: tuple[str, ...],
        server: str,
        profile: RecordingProfile,
        settings: RecordingSettings,
        from_uri: str,
        *,
        standing: bool,
        limit: int,
        up: Callable[[Trunk], None],
        over: Callable[[Trunk, int, str], None],
    ) -> None:
        self.clock, self.key, self.server, self.profile = clock, key, server, profile
        self.retired = False
        """No further calls: the configuration is another."""
        self.refused = False
        """The SRS never took it."""
        self.standing = standing
        self.limit = limit
        self.state = "new"
        """``new``, ``calling``, ``up``, ``over``."""
        self.legs: list[Leg] = []
        self.dialog: RsDialog | None = None
        """Set before it is opened: one that the SRS began."""
        self._agent, self._uri, self._settings, self._from_uri = agent, server, settings, from_uri
        self._up, self._over = up, over
        # The number in o= only has to be unique for us (RFC 8866 5.2).
        self._agreed: Composition[Leg] = Composition(str(agent.random.getrandbits(53)))
        self._agreed.secure = profile.srtp == "always"
        self._told: Document | None = None
        self._batch: list[Leg] = []
        self._busy = False
        self._peer_busy = False
        self._full_needed = False
        self._vacated: list[Leg] = []
        """Calls that left with their m-lines still agreed upon."""
        self._last = False
        self._timer: Timer | None = None
        self._keepalive: Timer | None = None
        self.retry_after = 0.0
        """Seconds, as a 503 of the SRS said."""

    # -- for who owns it -----------------------------------------------------------------------------------------------

    def leg(self, owner: DialogOwner) -> Leg:
        """A place for one more call."""
        leg = Leg(self, owner)
        self.legs.append(leg)
        return leg

    @property
    def takes_more(self) -> bool:
        """Whether another call fits, by number and by the size of what has to be said about all of them."""
        used, calls = sum(leg.size for leg in self.legs), len(self.legs)
        # The next one is taken to be as large as the others are on average.
        return self.state != "over" and calls < self.limit and used + used // max(calls, 1) < MAX_BODY

    def open(self) -> None:
        """Call the SRS, calls or not."""
        self._schedule(0.0)

    def release(self) -> None:
        """Stay no longer than there are calls."""
        self.standing = False
        self._schedule(0.0)

    def hurry(self) -> None:
        """BYE, whatever is under way."""
        self._dead(0, "shutdown")

    def lost(self, reason: str) -> None:
        """The SRS seems to be gone (ERR-11): every call goes on elsewhere."""
        dialog, self.dialog = self.dialog, None
        if dialog is not None:
            dialog.abandon(reason)
        self._finish(408, reason)

    # -- from the legs -------------------------------------------------------------------------------------------------

    def wanted(self, leg: Leg) -> None:
        """`leg` has something to say."""
        leg.dirty = True
        if self.state == "over":
            self.later(lambda: self._abandon(leg, 481, "the recording session is over"))
        elif self._timer is None:
            self._schedule(GATHER)

    def cancelled(self, leg: Leg) -> None:
        """`leg` does not want to join any more."""
        if leg.state != "joining":
            return
        if leg not in self._batch:
            self._forget(leg)
            self.later(lambda: leg.owner.rs_refused(leg, 487, "cancelled"))
        elif self.state == "calling" and not self.standing and len(self.legs) == 1 and self.dialog is not None:
            self.dialog.cancel()

    def later(self, action: Callable[[], None]) -> None:
        """Not from inside a call of the one who is told."""
        self.clock.call_later(0, action)

    def _schedule(self, delay: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.clock.call_later(delay, self._pump)

    # -- exchanges -----------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._busy or self._peer_busy or self.state in ("over", "calling"):
            return
        batch = [leg for leg in self.legs if leg.dirty and not leg.alone]
        if not batch:
            batch = [leg for leg in self.legs if leg.dirty][:1]
        if self.state == "new":
            if batch or self.standing:
                self._dial(batch)
            else:
                self._finish(0, "nobody wants it any more")
        elif batch or self._full_needed:
            self._exchange(batch)
        elif not self.legs and not self.standing:
            self._hang_up()

    def _dial(self, batch: list[Leg]) -> None:
        self._agreed.standing = self.standing
        trial = self._agreed.copy()
        for leg in batch:
            trial.put(leg, leg.lines)
        if not len(trial):
            trial.wait()
        document = union(leg.document for leg in batch)
        body = Body(trial.offer(), write(document, stream_labels(trial, batch)))
        self.state = "calling"
        self._last = False
        self._begin(batch, trial, document)
        if self.dialog is None:
            self.dialog = RsDialog(self._agent, self._uri, self.profile, self._settings, self._from_uri, self)
        self.dialog.invite(body)

    def _begin(self, batch: list[Leg], trial: Composition[Leg], document: Document) -> None:
        self._busy = True
        self._batch = batch
        self._trial, self._sent = trial, document
        for leg in batch:
            leg.dirty = leg.with_sdp = False
            leg.tries += 1

    def _exchange(self, batch: list[Leg]) -> None:
        dialog = self.dialog
        if dialog is None:
            return
        trial = self._agreed.copy()
        # The last one to leave is followed by BYE; what it says last needs no offer.
        self._last = last = not self.standing and all(leg.state == "leaving" for leg in self.legs)
        offer_wanted = any(leg.with_sdp for leg in batch) or self._full_needed
        if not last:
            for leg in self._vacated:
                trial.remove(leg)
            for leg in batch:
                if leg.state == "leaving":
                    trial.remove(leg)
                elif leg.lines:
                    trial.put(leg, leg.lines)
        present = [leg for leg in self.legs if leg.state in ("in", "leaving") or leg in batch]
        document = union(leg.document for leg in present)
        full = self._full_needed or self._told is None
        update: Document | None = document
        if not full and self._told is not None:
            update = diff(self._told, document)
            if update is not None and self.profile.updates == "complete":
                update = document
        moved = trial.lines() != self._agreed.lines()
        with_sdp = moved or offer_wanted or dialog.needs_sdp or update is None or bool(update.streams)
        body = Body(
            trial.offer() if with_sdp else b"",
            write(update, stream_labels(trial, present) if with_sdp else None) if update is not None else b"",
        )
        self._full_needed = False
        self._begin(batch, trial, document)
        answers: list[SessionDescription] = []

        def done(result: Result) -> None:
            if dialog is not self.dialog or result == "ended":
                return  # told by itself (`rs_ended`)
            if isinstance(result, SipResponse) and result.status < 300:
                self._accepted(result, answers[0] if answers else None)
            elif (
                isinstance(result, SipResponse)
                and result.status in UPDATE_REFUSED
                and not with_sdp
                and dialog.needs_sdp
            ):
                self._retry(batch)  # no UPDATE there: the same by re-INVITE
            else:
                self._refused(result)

        dialog.exchange(body, done, answers.append)

    def _retry(self, batch: list[Leg]) -> None:
        self._busy, self._batch = False, []
        for leg in batch:
            leg.dirty = True
        self._pump()

    def _accepted(self, result: Result, answer: SessionDescription | None) -> None:
        batch, self._batch = self._batch, []
        self._agreed, self._told, self._busy = self._trial, self._sent, False
        if not self._last:
            self._vacated = []
        joined = [leg for leg in batch if leg.state == "joining"]
        for leg in joined:
            leg.state = "in"
        for leg in list(self.legs):
            part = self._agreed.part(leg, answer) if answer is not None else None
            if leg in joined:
                self._joined(leg, part)
            elif leg.state == "leaving" and leg in batch:
                if self._last:
                    self._vacated.append(leg)
                self._forget(leg)
                leg.finish(result, part)
                leg.gone()
            elif leg in batch:
                self._heard(leg, part, tell=not leg.waiting)
                leg.finish(result, part)
            elif leg.state in ("in", "leaving"):
                self._heard(leg, part, tell=True)
        self._pump()

    def _joined(self, leg: Leg, answer: SessionDescription | None) -> None:
        leg.tries, leg.alone = 0, False
        if answer is None or not answer.media or all(line.rejected for line in answer.media):
            leg.state = "leaving"
            leg.document = leg.document.detached(self.clock.wall())
            self.wanted(leg)
            leg.owner.rs_refused(leg, 488, "no stream accepted")
            return
        leg.answer = answer.to_bytes()
        leg.owner.rs_answered(leg, answer)

    def _heard(self, leg: Leg, answer: SessionDescription | None, *, tell: bool) -> None:
        """What the SRS says about the streams of a leg that did not ask."""
        if answer is None:
            return
        before, leg.answer = leg.answer, b"".join(line_bytes(line) for line in answer.media)
        if tell and before != leg.answer and leg.state == "in":
            leg.owner.rs_answer_in_ack(leg, answer)

    def _refused(self, result: Result) -> None:
        """The session stays as it was (RFC 3261 14.1). Of several that wanted something each is tried by itself."""
        status = result.status if isinstance(result, SipResponse) else 408 if result == "timeout" else 503
        reason = result.reason if isinstance(result, SipResponse) else str(result)
        if status in (408, 481):
            self._dead(status, reason)
            return
        batch, self._batch = self._batch, []
        self._busy = False
        self._full_needed = True  # what the SRS took of the document is unknown (META-16)
        several = len(batch) > 1
        for leg in batch:
            if several:
                leg.alone = leg.dirty = True
            elif leg.state == "joining":
                self._forget(leg)
                leg.owner.rs_refused(leg, status, reason)
            elif leg.state == "leaving" and leg.tries < _MAX_TRIES:
                leg.dirty = True
            elif leg.state == "leaving":
                self._forget(leg)
                self._vacated.append(leg)
                leg.finish(result)
                leg.gone()
            else:
                leg.finish(result)
        if not batch:
            self._full_needed = False  # it was about nothing but this
        if not self.legs and not self.standing:
            self._hang_up()
        else:
            self._schedule(0.0 if several else PAUSE)

    def _forget(self, leg: Leg) -> None:
        if leg in self.legs:
            self.legs.remove(leg)
        if leg.state != "leaving":
            leg.state = "out"
        if not self.legs:
            self._schedule(GATHER)

    # -- the end -------------------------------------------------------------------------------------------------------

    def _dead(self, status: int, reason: str) -> None:
        """The dialog is gone at the other end (ERR-08): each call goes on elsewhere."""
        dialog, self.dialog = self.dialog, None
        if dialog is not None:
            dialog.bye(lambda result: None)
        self._finish(status, reason)

    def _hang_up(self) -> None:
        dialog, self.dialog = self.dialog, None
        if dialog is not None:
            dialog.bye(lambda result: None)
        self._finish(0, "no call is left")

    def _finish(self, status: int, reason: str) -> None:
        if self.state == "over":
            return
        self.state = "over"
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._keepalive is not None:
            self._keepalive.cancel()
        self._over(self, status, reason)
        for leg in list(self.legs):
            self._abandon(leg, status, reason)
        self.legs.clear()

    def _abandon(self, leg: Leg, status: int, reason: str) -> None:
        state, leg.state = leg.state, "out"
        leg.finish("ended")
        if state == "joining":
            leg.owner.rs_refused(leg, status or 503, reason)
        elif state == "in" or (state == "leaving" and not leg.byes):
            leg.owner.rs_ended(leg, status, reason)
        leg.gone()

    # -- DialogOwner ---------------------------------------------------------------------------------------------------

    def rs_answered(self, dialog: RsPeer, answer: SessionDescription) -> None:
        """See :class:`siprec.recording.srs.DialogOwner`."""
        if dialog is self.dialog:
            self.state = "up"
            self._keepalive = self.clock.call_later(KEEPALIVE, self._ask)
            self._up(self)
            self._accepted("answered", answer)

    def _ask(self) -> None:
        """While there are calls their recordings look after the SRS. Silence, 408 and 481 end the dialog."""
        self._keepalive = self.clock.call_later(KEEPALIVE, self._ask)
        if self.dialog is not None and not self.legs:
            self.dialog.send("OPTIONS", (), b"", "", lambda result: None)

    def rs_refused(self, dialog: RsPeer, status: int, reason: str) -> None:
        """See :class:`siprec.recording.srs.DialogOwner`."""
        if dialog is self.dialog:
            self.dialog = None
            if status in DECLINED and self.profile.srtp_fallback and self._agreed.secure and not self.legs:
                self._agreed.secure, self.state, self._busy = False, "new", False
                self._schedule(0.0)
                return
            self.refused = True
            self.retry_after = dialog.retry_after
            self._finish(status, reason)

    def rs_offer(self, dialog: RsPeer, offer: PeerOffer) -> None:
        """See :class:`siprec.recording.srs.DialogOwner`."""
        if dialog is not self.dialog or self.state != "up":
            offer.refuse(481)
        elif self._busy or self._peer_busy:
            offer.refuse(491)
        elif offer.description is None:
            present = [leg for leg in self.legs if leg.state in ("in", "leaving")]
            document = union(leg.document for leg in present)
            offer.answer(Body(self._agreed.offer(), write(document, stream_labels(self._agreed, present))))
        else:
            self._ask_legs(offer, offer.description)

    def _ask_legs(self, offer: PeerOffer, description: SessionDescription) -> None:
        asked = [leg for leg in self.legs if leg.state == "in"]
        parts: dict[Leg, SessionDescription] = {}
        statuses: list[int] = []
        self._peer_busy = True

        def settle() -> None:
            self._peer_busy = False
            if 491 in statuses:
                offer.refuse(491)
            else:
                try:
                    offer.answer(Body(self._agreed.answer(description, parts)))
                except SdpError as error:
                    log.info("offer of the SRS refused: %s (SRS %s)", error.reason, self.server)
                    offer.refuse(488)
            self._pump()

        if len(description.media) < len(self._agreed) or not asked:
            settle()
            return
        for leg in asked:

            def report(status: int, answer: SessionDescription | None, leg: Leg = leg) -> None:
                statuses.append(status)
                if answer is not None:
                    parts[leg] = answer
                if len(statuses) == len(asked):
                    settle()

            leg.owner.rs_offer(leg, LegOffer(self._agreed.part(leg, description), report))

    def rs_answer_in_ack(self, dialog: RsPeer, answer: SessionDescription) -> None:
        """See :class:`siprec.recording.srs.DialogOwner`."""
        if dialog is self.dialog:
            for leg in [leg for leg in self.legs if leg.state == "in"]:
                leg.owner.rs_answer_in_ack(leg, self._agreed.part(leg, answer))

    def rs_snapshot(self, dialog: RsPeer) -> None:
        """See :class:`siprec.recording.srs.DialogOwner`."""
        if dialog is self.dialog:
            self._full_needed = True
            self._pump()

    def rs_key_frame(self, dialog: RsPeer) -> None:
        """See :class:`siprec.recording.srs.DialogOwner`: which stream is meant is not said."""
        if dialog is self.dialog:
            for leg in [leg for leg in self.legs if leg.state == "in"]:
                leg.owner.rs_key_frame(leg)

    def rs_ended(self, dialog: RsPeer, status: int, reason: str) -> None:
        """See :class:`siprec.recording.srs.DialogOwner`."""
        if dialog is self.dialog:
            self.dialog = None
            self._finish(status, reason)
