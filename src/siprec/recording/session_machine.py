"""The recording session as three small machines: events in, actions out, no I/O.

========  ==================================================================  =========================================
machine   follows                                                             states
========  ==================================================================  =========================================
fork      the copies that the media server makes of the call's streams        none, pending, held, releasing
dialog    the SIP dialog with the SRS                                         none, calling, up, closing
exchange  the one thing at a time that changes an established session         idle, forking, gating, connecting,
                                                                              offering, updating, waiting
========  ==================================================================  =========================================

The tables are in :mod:`siprec.recording.session_fsm`; here are the state, and the guards and actions by their names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from siprec.metadata.diff import diff
from siprec.metadata.document import Document
from siprec.recording import events, session_fsm
from siprec.recording.session_events import (
    Action,
    AnswerPeer,
    Bye,
    Cancel,
    Connect,
    Event,
    Exchange,
    Finished,
    Fork,
    Gate,
    Invite,
    Kind,
    Notify,
    Release,
    SetTimer,
)
from siprec.recording.session_state import SessionState, next_due
from siprec.sip.fsm import Machine

#: Longest wait that an SRS may ask for before a change is sent again.
MAX_RETRY_AFTER: Final = 30.0


class RecordingSessionFsm(SessionState, gc=False):
    """One recording session. Plain values throughout, so that it can be stored and taken up elsewhere."""

    def handle(self, event: Event) -> list[Action]:
        """What is to be done about `event`, in order. One that no row fits is late, and changes nothing."""
        out: list[Action] = []
        if self.ending and self.over:
            return out
        self._dispatch(event, out)
        if self.ending and self.over:
            out.append(SetTimer(-1.0))
            out.append(Finished())
        return out

    def _dispatch(self, event: Event, out: list[Action]) -> None:
        if event.kind in _WISHES:
            if self.ending:
                return
            self._wish(event)
        kind = event.kind
        for row in _FORK.get((self.fork, kind), ()):
            if row.guard is None or row.guard(self, event):
                self.fork = row.to
                for step in row.steps:
                    step(self, event, out)
                break
        for row in _DIALOG.get((self.dialog, kind), ()):
            if row.guard is None or row.guard(self, event):
                self.dialog = row.to
                for step in row.steps:
                    step(self, event, out)
                break
        for row in _EXCHANGE.get((self.exchange, kind), ()):
            if row.guard is None or row.guard(self, event):
                self.exchange = row.to
                for step in row.steps:
                    step(self, event, out)
                break

    def _wish(self, event: Event) -> None:
        """Note what is wanted from now on."""
        wanted = self.wanted
        match event.kind:
            case Kind.CHANGED:
                wanted.document = event.document or wanted.document
                wanted.streams |= event.media
            case Kind.PAUSE:
                wanted.paused = True
            case Kind.RESUME:
                wanted.paused = False
            case Kind.SNAPSHOT:
                # With the SDP, so that labels are allowed; unchanged, since nothing about the streams changed.
                wanted.full = wanted.offer = True
            case Kind.OFFER_AGAIN:
                wanted.offer = True
            case Kind.PEER_ANSWER:
                self.actual.connected = False
            case _:
                self.ending = True
                self.end_reason = self.end_reason or event.reason
                self.final = event.document or wanted.document.detached(event.wall)

    def _notify(self, out: list[Action], name: str, reason: str = "", status: int = 0) -> None:
        out.append(Notify(name, reason, status, self.target))

    # -- fork ----------------------------------------------------------------------------------------------------------

    def _copy(self, event: Event, out: list[Action]) -> None:
        self.wanted.streams = False
        out.append(Fork())

    def _copy_again(self, event: Event, out: list[Action]) -> None:
        self._dispatch(Event(Kind.COPY), out)

    def _take_document(self, event: Event, out: list[Action]) -> None:
        self.wanted.document = event.document or self.wanted.document

    def _release(self, event: Event, out: list[Action]) -> None:
        out.append(Release())

    def _fail(self, event: Event, out: list[Action]) -> None:
        self._notify(out, events.FAILED, event.reason, event.status)
        self._dispatch(Event(Kind.STOP, reason=event.reason, status=event.status, wall=event.wall), out)

    # -- dialog --------------------------------------------------------------------------------------------------------

    def _invite(self, event: Event, out: list[Action]) -> None:
        self.sent = self.wanted.document
        self.sent_inactive = self.wanted.paused
        out.append(Invite(self.target, self.sent, self.sent_inactive))

    def _begin(self, event: Event, out: list[Action]) -> None:
        self.actual.acknowledged = self.sent
        self.actual.inactive = self.sent_inactive
        self.actual.connected = False
        self.wanted.offer = self.wanted.full = False
        self.started = True
        self.retries = 0
        self._notify(out, events.START)

    def _other_srs(self, event: Event, out: list[Action]) -> None:
        if event.target >= 0:
            self._notify(out, events.FAILOVER, event.reason, event.status)
            self.target = event.target

    def _next_srs(self, event: Event, out: list[Action]) -> None:
        self.tried += 1
        self._notify(out, events.FAILOVER, event.reason, event.status)
        self.target = (self.target + 1) % self.policy.targets

    def _give_up(self, event: Event, out: list[Action]) -> None:
        self.tried += 1
        self._fail(event, out)

    def _cancel(self, event: Event, out: list[Action]) -> None:
        out.append(Cancel())

    def _limit_end(self, event: Event, out: list[Action]) -> None:
        out.append(SetTimer(self.policy.end_timeout))

    def _bye(self, event: Event, out: list[Action]) -> None:
        out.append(SetTimer(-1.0))
        out.append(Bye())

    def _dialog_over(self, event: Event, out: list[Action]) -> None:
        if self.started:
            self.started = False
            reason = self.end_reason or event.reason
            if event.status and self.end_reason and event.reason:
                reason = f"{self.end_reason}; the SRS did not confirm the end: {event.reason}"
            self._notify(out, events.STOP, reason, event.status)

    def _note_broken(self, event: Event, out: list[Action]) -> None:
        self.broken = event

    def _stop(self, event: Event, out: list[Action]) -> None:
        self._dispatch(Event(Kind.STOP, event.document, reason=event.reason, wall=event.wall), out)

    def _rebuild(self, event: Event, out: list[Action]) -> None:
        """Set the session up again with the same ids, at the same SRS when it only forgot the dialog (481), else
        beginning with the next one."""
        self.broken = None
        if self.rebuilds >= self.policy.rebuilds:
            self._fail(event, out)
            return
        self.rebuilds += 1
        self._notify(out, events.FAILOVER, event.reason, event.status)
        if event.status != 481:
            self.target = (self.target + 1) % self.policy.targets
        self.tried = 0
        self.actual.acknowledged = None
        self.wanted.document = self.wanted.document.attached(event.wall)
        self._copy_again(event, out)

    # -- exchange ------------------------------------------------------------------------------------------------------

    def _proceed(self, event: Event, out: list[Action]) -> None:
        """Begin what is due next."""
        if self.exchange != "idle" or self.answering or self.ending:
            return
        if self.broken is not None:
            self._rebuild(self.broken, out)
        elif self.dialog == "up":
            due = next_due(self.wanted, self.actual)
            if due:
                row = _EXCHANGE["idle", f"due {due}"][0]
                self.exchange = row.to
                for step in row.steps:
                    step(self, event, out)

    def _gate(self, event: Event, out: list[Action]) -> None:
        out.append(Gate(True))

    def _ungate(self, event: Event, out: list[Action]) -> None:
        out.append(Gate(False))

    def _connect(self, event: Event, out: list[Action]) -> None:
        self.actual.connected = True
        self.actual.withheld = self.wanted.paused
        out.append(Connect(self.wanted.paused))

    def _offer(self, event: Event, out: list[Action]) -> None:
        self.wanted.offer = False
        self.sent_inactive = self.wanted.paused
        out.append(Exchange(self._outgoing(), True, self.sent_inactive))

    def _update(self, event: Event, out: list[Action]) -> None:
        out.append(Exchange(self._outgoing(), False, self.actual.inactive))

    def _outgoing(self) -> Document | None:
        """The metadata that are due: complete where asked for, or where the SRS's state is unknown (RFC 7866 9.1)."""
        wanted, known = self.wanted, self.actual.acknowledged
        self.sent = wanted.document
        self.sent_full = wanted.full or known is None
        wanted.full = False
        if self.sent_full or known is None:
            return wanted.document
        update = diff(known, wanted.document)
        return wanted.document if update is not None and self.policy.complete_updates else update

    def _want_offer(self, event: Event, out: list[Action]) -> None:
        self.wanted.offer = True

    def _toggled(self, event: Event, out: list[Action]) -> None:
        actual = self.actual
        actual.gated = not actual.gated
        if not actual.gated and not actual.inactive:
            self._notify(out, events.RESUMED)

    def _acknowledged(self, event: Event, out: list[Action]) -> None:
        self.actual.acknowledged = self.sent

    def _agreed(self, event: Event, out: list[Action]) -> None:
        """The SRS took an offer."""
        actual = self.actual
        self.retries = 0
        actual.connected = False
        changed = self.sent_inactive != actual.inactive
        news = not changed and self._is_news()
        actual.acknowledged = self.sent
        actual.inactive = self.sent_inactive
        if changed and actual.inactive:
            self._notify(out, events.PAUSED)
        elif news:
            self._notify(out, events.UPDATED)

    def _updated(self, event: Event, out: list[Action]) -> None:
        """The SRS took metadata; `event.media`: with a description, and so with an answer."""
        self.retries = 0
        if event.media:
            self.actual.connected = False
        news = self._is_news()
        self.actual.acknowledged = self.sent
        if news:
            self._notify(out, events.UPDATED)

    def _is_news(self) -> bool:
        known = self.actual.acknowledged
        return known is not None and self.sent is not None and diff(known, self.sent) is not None

    def _lose(self, event: Event, out: list[Action]) -> None:
        self._dispatch(Event(Kind.LOST, status=event.status, reason=event.reason, wall=event.wall), out)

    def _repeat_offer(self, event: Event, out: list[Action]) -> None:
        self.wanted.offer = True
        self._repeat(event, out)

    def _repeat(self, event: Event, out: list[Action]) -> None:
        self.retries += 1
        self.wanted.full |= self.sent_full
        out.append(SetTimer(min(max(event.retry_after, 1.0), MAX_RETRY_AFTER)))

    def _refused(self, event: Event, out: list[Action]) -> None:
        """The session stays as it was (RFC 3261 14.1). The next document has to be a full one, but the refusal is not
        answered by trying again at once."""
        self.retries = 0
        self._notify(out, events.UPDATE_FAILED, event.reason, event.status)
        self.wanted.full = True

    def _offer_refused(self, event: Event, out: list[Action]) -> None:
        self._refused(event, out)
        if self.sent_inactive != self.actual.inactive:
            # Nothing flows after a refused pause (the gate is shut), nor after a refused resumption.
            self.wanted.paused = self.wanted.paused or not self.sent_inactive
            self.actual.inactive = True

    def _wait(self, event: Event, out: list[Action]) -> None:
        out.append(SetTimer(1.0))

    def _no_timer(self, event: Event, out: list[Action]) -> None:
        out.append(SetTimer(-1.0))

    def _last_words(self, event: Event, out: list[Action]) -> None:
        """stop-time, reason and disassociations, in an UPDATE before the BYE, if there is anything to say."""
        final, self.final = self.final, None
        document = None
        if final is not None:
            self.wanted.document = final
            document = self._outgoing()
        if document is None:
            self._close(event, out)
        else:
            out.append(Exchange(document, False, self.actual.inactive))

    def _close(self, event: Event, out: list[Action]) -> None:
        self._dispatch(Event(Kind.CLOSE), out)

    # -- offers of the SRS ---------------------------------------------------------------------------------------------

    def _answer_peer(self, event: Event, out: list[Action]) -> None:
        self.answering = True
        self.actual.withheld = self.wanted.paused or self.actual.inactive
        out.append(AnswerPeer(withheld=self.actual.withheld))

    def _refuse_peer(self, event: Event, out: list[Action]) -> None:
        # An exchange of ours with the media server would be overtaken: the SRS comes again (RFC 3261 14.2).
        out.append(AnswerPeer(491))

    def _peer_answered(self, event: Event, out: list[Action]) -> None:
        self.answering = False


Guard = Callable[[RecordingSessionFsm, Event], bool]
Do = Callable[[RecordingSessionFsm, Event, list[Action]], None]


class _Row(NamedTuple):
    """A row of a table, its names bound to the methods."""

    guard: Guard | None
    to: Any
    steps: tuple[Do, ...]


def _bound(machine: Machine) -> dict[tuple[str, str], tuple[_Row, ...]]:
    def method(prefix: str, name: str) -> Any:
        return getattr(RecordingSessionFsm, prefix + name.replace(" ", "_"))

    found: dict[tuple[str, str], tuple[_Row, ...]] = {}
    for row in machine.rows:
        guard = method("_if_", row.guard) if row.guard else None
        bound = _Row(guard, row.to, tuple(method("_", name) for name in row.actions))
        found[row.state, row.event] = (*found.get((row.state, row.event), ()), bound)
    return found


_WISHES: Final = frozenset(
    {
        Kind.CHANGED,
        Kind.PAUSE,
        Kind.RESUME,
        Kind.SNAPSHOT,
        Kind.OFFER_AGAIN,
        Kind.PEER_ANSWER,
        Kind.STOP,
    }
)
_FORK, _DIALOG, _EXCHANGE = (_bound(machine) for machine in session_fsm.MACHINES)
