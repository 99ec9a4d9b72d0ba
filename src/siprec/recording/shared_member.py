"""One call's part in a recording session that several share (:mod:`siprec.recording.shared_session`)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from siprec import sdp
from siprec.metadata.document import Document
from siprec.metadata.write import write
from siprec.recording.rs_dialog import RsDialog
from siprec.recording.rs_peer import Body, Compose, DialogOwner, Outcome, PeerOffer
from siprec.recording.shared_offer import SharedOffer, is_final
from siprec.sdp import MediaDescription, SdpError, SessionDescription
from siprec.sip.clock import Clock
from siprec.sip.transport import Hop
from siprec.sip.useragent import Result

log = logging.getLogger(__name__)

Done = Callable[[Outcome], None]


class JoinedSession(Protocol):
    """The session that a member is in."""

    clock: Clock
    dialog: RsDialog | None
    retry_after: float

    def wanted(self, member: SessionMember) -> None:
        """`member` has something to say."""

    def cancelled(self, member: SessionMember) -> None:
        """`member` does not want to join any more."""

    def later(self, action: Callable[[], None]) -> None:
        """Not from inside a call of the one who is told."""

    def lost(self, reason: str) -> None:
        """The SRS seems to be gone."""


@dataclass(eq=False, slots=True)
class SessionMember:
    """One call in a session. `state`: ``new``, ``joining``, ``in``, ``leaving``, ``out``."""

    session: JoinedSession
    owner: DialogOwner
    state: str = "new"
    document: Document = field(default_factory=Document)
    lines: list[MediaDescription] = field(default_factory=list)
    stream_labels: dict[str, str] = field(default_factory=dict)
    answer: bytes = b""
    size: int = 0
    dirty: bool = False
    alone: bool = False
    with_sdp: bool = False
    tries: int = 0
    waiting: list[tuple[Done, bool]] = field(default_factory=list)
    byes: list[Callable[[], None]] = field(default_factory=list)

    # -- RsPeer --------------------------------------------------------------------------------------------------------

    @property
    def call_id(self) -> str:
        """Call-ID of the dialog that is shared."""
        return self.session.dialog.call_id if self.session.dialog is not None else ""

    def invite(self, body: Body) -> None:
        """Join."""
        self._take(body)
        self.state = "joining"
        self.session.wanted(self)

    def cancel(self) -> None:
        """Do not join after all: `rs_refused` follows, or `rs_answered` when the SRS was faster."""
        self.session.cancelled(self)

    def exchange(self, compose: Compose, done: Done, *, offer: bool) -> None:
        """A re-INVITE with SDP where it is an `offer`, else an UPDATE with metadata alone."""
        failure, body = "ended", None
        if self.state == "in":
            try:
                body = compose(offer)
            except SdpError as error:
                failure = f"offer: {error.reason}"
        if body is None:
            self.session.later(lambda: done(Outcome(failure)))
            return
        self._take(body)
        self.waiting.append((done, bool(body.sdp)))
        self.with_sdp |= bool(body.sdp)
        if is_final(self.document):
            # Nothing follows: its last words and the end of its streams are one message.
            self.state = "leaving"
        self.session.wanted(self)

    def send(
        self,
        method: str,
        headers: tuple[tuple[str, str], ...],
        body: bytes,
        content_type: str,
        done: Callable[[Result], None],
    ) -> bool:
        """Any other request inside the dialog; false when there is none."""
        dialog = self.session.dialog
        return dialog is not None and dialog.send(method, headers, body, content_type, done)

    def bye(self, done: Callable[[Result], None]) -> None:
        """Leave."""
        if self.state in ("out", "new"):
            self.session.later(lambda: done("ended"))
            return
        self.byes.append(lambda: done("ended"))
        if self.state != "leaving":
            self.state = "leaving"
            if not is_final(self.document):
                self.document = self.document.detached(self.session.clock.wall())
            self.session.wanted(self)

    def abandon(self, reason: str) -> None:
        """The SRS is gone, for all that share it."""
        self.session.lost(reason)

    @property
    def hop(self) -> Hop | None:
        """The hop that the INVITE took."""
        return self.session.dialog.hop if self.session.dialog is not None else None

    @property
    def retry_after(self) -> float:
        """Seconds, as a 503 said."""
        return self.session.retry_after

    # ------------------------------------------------------------------------------------------------------------------

    def _take(self, body: Body) -> None:
        if body.sdp:
            self.lines = sdp.parse(body.sdp).media
            self.stream_labels = dict(body.labels)
        if body.document is not None:
            self.document = body.document
        self.size = len(write(self.document, self.stream_labels)) + sum(
            len(text) + 2 for line in self.lines for text in (line.to_line(), *line.lines)
        )
        self.dirty = True

    def finish(self, outcome: Outcome | None, answer: SessionDescription | None = None) -> None:
        """Tell who waits for an exchange; `answer` is this call's part of the SRS's."""
        waiting, self.waiting = self.waiting, []
        for done, with_sdp in waiting:
            mine = Outcome(outcome.result if outcome is not None else "ended", with_sdp, answer if with_sdp else None)
            if outcome is not None:
                mine.lost, mine.retry_after = outcome.lost, outcome.retry_after
            done(mine)

    def gone(self) -> None:
        """It left, or what it was in is no more."""
        self.state = "out"
        byes, self.byes = self.byes, []
        for done in byes:
            done()


class MemberOffer(PeerOffer):
    """The part of an SRS's offer that concerns one member."""

    def __init__(self, description: SessionDescription, done: Callable[[int, SessionDescription | None], None]) -> None:
        super().__init__(description, lambda *args: None, "")
        self._done: Callable[[int, SessionDescription | None], None] | None = done

    def answer(self, body: Body) -> None:
        """Its answer."""
        self._report(200, sdp.parse(body.sdp))

    def refuse(self, status: int) -> None:
        """None, for this reason."""
        self._report(status, None)

    def _report(self, status: int, description: SessionDescription | None) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(status, description)


class MemberAnswers:
    """Our answer to an `offer` of the SRS, put together from those of the members; `done` is called when it is sent."""

    __slots__ = ("_agreed", "_description", "_done", "_later", "_missing", "_offer", "_parts")

    def __init__(
        self,
        agreed: SharedOffer[SessionMember],
        offer: PeerOffer,
        description: SessionDescription,
        done: Callable[[], None],
    ) -> None:
        self._agreed, self._offer, self._description, self._done = agreed, offer, description, done
        self._parts: dict[SessionMember, SessionDescription] = {}
        self._missing = 0
        self._later = False

    def ask(self, members: list[SessionMember]) -> None:
        """Each member answers its part; nobody is asked about an offer that lost m-lines."""
        if len(self._description.media) < len(self._agreed):
            members = []
        self._missing = len(members)
        for member in members:
            part = self._agreed.part(member, self._description)
            member.owner.rs_offer(member, MemberOffer(part, partial(self._take, member)))
        if not members:
            self._settle()

    def _take(self, member: SessionMember, status: int, answer: SessionDescription | None) -> None:
        self._missing -= 1
        self._later |= status == 491
        if answer is not None:
            self._parts[member] = answer
        if not self._missing:
            self._settle()

    def _settle(self) -> None:
        try:
            if self._later:
                self._offer.refuse(491)
            else:
                self._offer.answer(Body(self._agreed.answer(self._description, self._parts)))
        except SdpError as error:
            log.info("offer of the SRS refused: %s", error.reason)
            self._offer.refuse(488)
        self._done()


def line_bytes(line: MediaDescription) -> bytes:
    """An m-line and what belongs to it, for comparison."""
    return "\n".join((line.to_line(), *line.lines)).encode()


def stream_labels(composition: SharedOffer[SessionMember], members: list[SessionMember]) -> dict[str, str]:
    """Label of each stream in the shared description: a member's own labels are the numbers of its m-lines."""
    found: dict[str, str] = {}
    for member in members:
        labels = composition.labels(member)
        for stream, own in member.stream_labels.items():
            if 0 < int(own) <= len(labels):
                found[stream] = labels[int(own) - 1]
    return found
