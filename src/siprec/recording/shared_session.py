"""One recording session that several calls share (RFC 7866 5.1, 7.1.1.1, 10).

To each call's recording a :class:`SessionMember` looks like a recording session of its own: an
:class:`~siprec.recording.rs_peer.RsPeer`. The :class:`SharedSession` behind it makes one offer and one document of
all of them. One exchange with the SRS goes on at a time; what the calls want meanwhile leaves together with the next.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Final

from siprec.metadata.diff import diff
from siprec.metadata.document import Document
from siprec.metadata.write import write
from siprec.recording.recording_profile import RecordingProfile
from siprec.recording.rs_dialog import RsDialog
from siprec.recording.rs_peer import Body, DialogOwner, Outcome, PeerOffer, RsPeer
from siprec.recording.settings import RecordingSettings
from siprec.recording.shared_member import MemberAnswers, SessionMember, line_bytes, stream_labels
from siprec.recording.shared_offer import SharedOffer, union
from siprec.recording.srtp_sdp import DECLINED
from siprec.sdp import SessionDescription
from siprec.sip.clock import Clock, Timer
from siprec.sip.useragent import UserAgent

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


class SharedSession:
    """One RS with `server` for many calls.

    Args:
        clock, agent: time and our user agent.
        key: which calls share it, for its owner.
        standing: it stays without calls (RFC 7866 10).
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
        up: Callable[[SharedSession], None],
        over: Callable[[SharedSession, int, str], None],
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
        self.members: list[SessionMember] = []
        self.dialog: RsDialog | None = None
        """Set before it is opened: one that the SRS began."""
        self._agent, self._uri, self._settings, self._from_uri = agent, server, settings, from_uri
        self._up, self._over = up, over
        # The number in o= only has to be unique for us (RFC 8866 5.2).
        self._agreed: SharedOffer[SessionMember] = SharedOffer(str(agent.random.getrandbits(53)))
        self._agreed.secure = profile.srtp == "always"
        self._told: Document | None = None
        self._batch: list[SessionMember] = []
        self._busy = False
        self._peer_busy = False
        self._full_needed = False
        self._vacated: list[SessionMember] = []
        """Calls that left with their m-lines still agreed upon."""
        self._last = False
        self._timer: Timer | None = None
        self._keepalive: Timer | None = None
        self.retry_after = 0.0
        """Seconds, as a 503 of the SRS said."""

    # -- for who owns it -----------------------------------------------------------------------------------------------

    def join(self, owner: DialogOwner) -> SessionMember:
        """A place for one more call."""
        member = SessionMember(self, owner)
        self.members.append(member)
        return member

    @property
    def takes_more(self) -> bool:
        """Whether another call fits, by number and by the size of what has to be said about all of them."""
        used, calls = sum(member.size for member in self.members), len(self.members)
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
        """The SRS seems to be gone (RFC 7866 8.1.1): every call goes on elsewhere."""
        dialog, self.dialog = self.dialog, None
        if dialog is not None:
            dialog.abandon(reason)
        self._finish(408, reason)

    # -- from the members ----------------------------------------------------------------------------------------------

    def wanted(self, member: SessionMember) -> None:
        """`member` has something to say."""
        member.dirty = True
        if self.state == "over":
            self.later(lambda: self._abandon(member, 481, "the recording session is over"))
        elif self._timer is None:
            self._schedule(GATHER)

    def cancelled(self, member: SessionMember) -> None:
        """`member` does not want to join any more."""
        if member.state != "joining":
            return
        if member not in self._batch:
            self._forget(member)
            self.later(lambda: member.owner.rs_refused(member, 487, "cancelled"))
        elif self.state == "calling" and not self.standing and len(self.members) == 1 and self.dialog is not None:
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
        batch = [member for member in self.members if member.dirty and not member.alone]
        if not batch:
            batch = [member for member in self.members if member.dirty][:1]
        if self.state == "new":
            if batch or self.standing:
                self._dial(batch)
            else:
                self._finish(0, "nobody wants it any more")
        elif batch or self._full_needed:
            self._exchange(batch)
        elif not self.members and not self.standing:
            self._hang_up()

    def _dial(self, batch: list[SessionMember]) -> None:
        self._agreed.standing = self.standing
        trial = self._agreed.copy()
        for member in batch:
            trial.put(member, member.lines)
        if not len(trial):
            trial.wait()
        document = union(member.document for member in batch)
        body = Body(trial.offer(), write(document, stream_labels(trial, batch)))
        self.state = "calling"
        self._last = False
        self._begin(batch, trial, document)
        if self.dialog is None:
            self.dialog = RsDialog(self._agent, self._uri, self.profile, self._settings, self._from_uri, self)
        self.dialog.invite(body)

    def _begin(self, batch: list[SessionMember], trial: SharedOffer[SessionMember], document: Document) -> None:
        self._busy = True
        self._batch = batch
        self._trial, self._sent = trial, document
        for member in batch:
            member.dirty = member.with_sdp = False
            member.tries += 1

    def _exchange(self, batch: list[SessionMember]) -> None:
        dialog = self.dialog
        if dialog is None:
            return
        trial = self._agreed.copy()
        # The last one to leave is followed by BYE; what it says last needs no offer.
        self._last = last = not self.standing and all(member.state == "leaving" for member in self.members)
        offer_wanted = any(member.with_sdp for member in batch) or self._full_needed
        if not last:
            for member in self._vacated:
                trial.remove(member)
            for member in batch:
                if member.state == "leaving":
                    trial.remove(member)
                elif member.lines:
                    trial.put(member, member.lines)
        present = [member for member in self.members if member.state in ("in", "leaving") or member in batch]
        document = union(member.document for member in present)
        full = self._full_needed or self._told is None
        update: Document | None = document
        if not full and self._told is not None:
            update = diff(self._told, document)
            if update is not None and self.profile.updates == "complete":
                update = document
        moved = trial.lines() != self._agreed.lines()
        offer = moved or offer_wanted or update is None or bool(update.streams)

        def compose(with_sdp: bool) -> Body:
            return Body(
                trial.offer() if with_sdp else b"",
                write(update, stream_labels(trial, present) if with_sdp else None) if update is not None else b"",
            )

        self._full_needed = False
        self._begin(batch, trial, document)
        dialog.exchange(compose, partial(self._exchanged, dialog), offer=offer)

    def _exchanged(self, dialog: RsDialog, outcome: Outcome) -> None:
        if dialog is not self.dialog or outcome.ended:
            return  # told by itself (`rs_ended`)
        if outcome.status < 300:
            self._accepted(outcome, outcome.answer)
        else:
            self._refused(outcome)

    def _accepted(self, outcome: Outcome | None, answer: SessionDescription | None) -> None:
        batch, self._batch = self._batch, []
        self._agreed, self._told, self._busy = self._trial, self._sent, False
        if not self._last:
            self._vacated = []
        joined = [member for member in batch if member.state == "joining"]
        for member in joined:
            member.state = "in"
        for member in list(self.members):
            part = self._agreed.part(member, answer) if answer is not None else None
            if member in joined:
                self._joined(member, part)
            elif member.state == "leaving" and member in batch:
                if self._last:
                    self._vacated.append(member)
                self._forget(member)
                member.finish(outcome, part)
                member.gone()
            elif member in batch:
                self._heard(member, part, tell=not member.waiting)
                member.finish(outcome, part)
            elif member.state in ("in", "leaving"):
                self._heard(member, part, tell=True)
        self._pump()

    def _joined(self, member: SessionMember, answer: SessionDescription | None) -> None:
        member.tries, member.alone = 0, False
        if answer is None or not answer.media or all(line.rejected for line in answer.media):
            member.state = "leaving"
            member.document = member.document.detached(self.clock.wall())
            self.wanted(member)
            member.owner.rs_refused(member, 488, "no stream accepted")
            return
        member.answer = answer.to_bytes()
        member.owner.rs_answered(member, answer)

    def _heard(self, member: SessionMember, answer: SessionDescription | None, *, tell: bool) -> None:
        """What the SRS says about the streams of a member that did not ask."""
        if answer is None:
            return
        before, member.answer = member.answer, b"".join(line_bytes(line) for line in answer.media)
        if tell and before != member.answer and member.state == "in":
            member.owner.rs_answer_in_ack(member, answer)

    def _refused(self, outcome: Outcome) -> None:
        """The session stays as it was (RFC 3261 14.1). Of several that wanted something each is tried by itself."""
        status, reason = outcome.status, outcome.reason
        if status in (408, 481):
            self._dead(status, reason)
            return
        batch, self._batch = self._batch, []
        self._busy = False
        self._full_needed = True  # what the SRS took of the document is unknown (RFC 3261 12.2.2)
        several = len(batch) > 1
        for member in batch:
            if several:
                member.alone = member.dirty = True
            elif member.state == "joining":
                self._forget(member)
                member.owner.rs_refused(member, status, reason)
            elif member.state == "leaving" and member.tries < _MAX_TRIES:
                member.dirty = True
            elif member.state == "leaving":
                self._forget(member)
                self._vacated.append(member)
                member.finish(outcome)
                member.gone()
            else:
                member.finish(outcome)
        if not batch:
            self._full_needed = False  # it was about nothing but this
        if not self.members and not self.standing:
            self._hang_up()
        else:
            self._schedule(0.0 if several else PAUSE)

    def _forget(self, member: SessionMember) -> None:
        if member in self.members:
            self.members.remove(member)
        if member.state != "leaving":
            member.state = "out"
        if not self.members:
            self._schedule(GATHER)

    # -- the end -------------------------------------------------------------------------------------------------------

    def _dead(self, status: int, reason: str) -> None:
        """The dialog is gone at the other end (RFC 3261 14.1): each call goes on elsewhere."""
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
        for member in list(self.members):
            self._abandon(member, status, reason)
        self.members.clear()
        # What is left of it is no cycle.
        self._batch, self._vacated = [], []
        self._agreed = self._trial = SharedOffer("")

    def _abandon(self, member: SessionMember, status: int, reason: str) -> None:
        state, member.state = member.state, "out"
        member.finish(Outcome("ended"))
        if state == "joining":
            member.owner.rs_refused(member, status or 503, reason)
        elif state == "in" or (state == "leaving" and not member.byes):
            member.owner.rs_ended(member, status, reason)
        member.gone()

    # -- DialogOwner ---------------------------------------------------------------------------------------------------

    def rs_answered(self, dialog: RsPeer, answer: SessionDescription) -> None:
        """The SRS takes the recording."""
        if dialog is self.dialog:
            self.state = "up"
            self._keepalive = self.clock.call_later(KEEPALIVE, self._ask)
            self._up(self)
            self._accepted(None, answer)

    def _ask(self) -> None:
        """While there are calls their recordings look after the SRS. Silence, 408 and 481 end the dialog."""
        self._keepalive = self.clock.call_later(KEEPALIVE, self._ask)
        if self.dialog is not None and not self.members:
            self.dialog.send("OPTIONS", (), b"", "", lambda result: None)

    def rs_refused(self, dialog: RsPeer, status: int, reason: str) -> None:
        """The SRS does not take it."""
        if dialog is self.dialog:
            self.dialog = None
            if status in DECLINED and self.profile.srtp_fallback and self._agreed.secure and not self.members:
                self._agreed.secure, self.state, self._busy = False, "new", False
                self._schedule(0.0)
                return
            self.refused = True
            self.retry_after = dialog.retry_after
            self._finish(status, reason)

    def rs_offer(self, dialog: RsPeer, offer: PeerOffer) -> None:
        """The SRS changes the session, or asks for our offer."""
        if dialog is not self.dialog or self.state != "up":
            offer.refuse(481)
        elif self._busy or self._peer_busy:
            offer.refuse(491)
        elif offer.description is None:
            present = [member for member in self.members if member.state in ("in", "leaving")]
            document = union(member.document for member in present)
            offer.answer(Body(self._agreed.offer(), write(document, stream_labels(self._agreed, present))))
        else:
            self._ask_members(offer, offer.description)

    def _ask_members(self, offer: PeerOffer, description: SessionDescription) -> None:
        self._peer_busy = True
        asked = [member for member in self.members if member.state == "in"]
        MemberAnswers(self._agreed, offer, description, self._peer_done).ask(asked)

    def _peer_done(self) -> None:
        self._peer_busy = False
        self._pump()

    def rs_answer_in_ack(self, dialog: RsPeer, answer: SessionDescription) -> None:
        """The SRS's answer to the offer it had asked for."""
        if dialog is self.dialog:
            for member in [member for member in self.members if member.state == "in"]:
                member.owner.rs_answer_in_ack(member, self._agreed.part(member, answer))

    def rs_snapshot(self, dialog: RsPeer) -> None:
        """The SRS wants a full snapshot."""
        if dialog is self.dialog:
            self._full_needed = True
            self._pump()

    def rs_key_frame(self, dialog: RsPeer) -> None:
        """The SRS wants a key frame of the video (RFC 5168). Which stream is meant is not said."""
        if dialog is self.dialog:
            for member in [member for member in self.members if member.state == "in"]:
                member.owner.rs_key_frame(member)

    def rs_ended(self, dialog: RsPeer, status: int, reason: str) -> None:
        """The dialog is over."""
        if dialog is self.dialog:
            self.dialog = None
            self._finish(status, reason)
