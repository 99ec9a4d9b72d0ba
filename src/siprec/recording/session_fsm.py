"""The recording session as three small machines: events in, actions out, no I/O (RFC 7866 6.1, 9; RFC 3261 9, 14, 15).

========  ==================================================================  =========================================
machine   follows                                                             states
========  ==================================================================  =========================================
fork      the copies that the media server makes of the call's streams        none, pending, held, releasing
dialog    the SIP dialog with the SRS                                         none, calling, up, closing
exchange  the one thing at a time that changes an established session         idle, forking, gating, connecting,
                                                                              offering, updating, waiting
========  ==================================================================  =========================================

Each has a table of rows ``(state, event, guard) -> (state, actions)``. An event passes the three machines in this
order; of each the first row applies whose state, event and guard fit. What is to be done next is no matter of the
tables: `next_due` compares what is wanted with what is. Changes that come while an exchange is under way are noted in
what is wanted, and leave together when it is over.

Copies and dialog are always given back: when both are gone after a STOP, the session has ended.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from siprec.metadata.diff import diff
from siprec.metadata.document import Document
from siprec.recording import events
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
    Policy,
    Release,
    SetTimer,
    State,
)

#: Longest wait that an SRS may ask for before a change is sent again.
MAX_RETRY_AFTER: Final = 30.0
MAX_RETRIES: Final = 5
_DIALOG_GONE: Final = frozenset({408, 481})

ForkState = Literal["none", "pending", "held", "releasing"]
DialogState = Literal["none", "calling", "up", "closing"]
ExchangeState = Literal["idle", "forking", "gating", "connecting", "offering", "updating", "waiting"]


@dataclass(slots=True)
class Wanted:
    """What the session should be."""

    document: Document = field(default_factory=Document)
    """The metadata as they are now."""
    paused: bool = False
    streams: bool = False
    """The call has other streams than those that are copied."""
    offer: bool = False
    """An offer is due, whether or not anything changed."""
    full: bool = False
    """The next document has to be complete: the SRS asked for it, or what it knows is uncertain."""


@dataclass(slots=True)
class Actual:
    """What the session is."""

    acknowledged: Document | None = None
    """The metadata that the SRS took last."""
    gated: bool = False
    """The media server holds the packets back."""
    inactive: bool = False
    """The SRS agreed to ``a=inactive``."""
    connected: bool = False
    """The media server has the SRS's last answer."""
    withheld: bool = False
    """It has it with every stream inactive."""


Due = Literal["", "gate", "fork", "connect", "offer", "ungate", "update"]


def next_due(wanted: Wanted, actual: Actual) -> Due:
    """The next step from what is to what is wanted; empty: they agree.

    Packets stop before the SRS is offered a pause, and go on only when it agreed to the resumption.
    """
    if wanted.paused and not actual.gated:
        return "gate"
    if wanted.streams:
        return "fork"
    if not actual.connected:
        return "connect"
    if wanted.offer or wanted.paused != actual.inactive:
        return "offer"
    if actual.withheld and not wanted.paused:
        return "connect"
    if actual.gated and not wanted.paused:
        return "ungate"
    if wanted.full or actual.acknowledged is None:
        return "update"
    same = wanted.document is actual.acknowledged or diff(actual.acknowledged, wanted.document) is None
    return "" if same else "update"


@dataclass(slots=True)
class RecordingSessionFsm:
    """One recording session. Plain values throughout, so that it can be stored and taken up elsewhere."""

    policy: Policy
    fork: ForkState = "none"
    dialog: DialogState = "none"
    exchange: ExchangeState = "idle"
    wanted: Wanted = field(default_factory=Wanted)
    actual: Actual = field(default_factory=Actual)
    sent: Document | None = None
    """The document of the exchange under way, complete; None: none was sent yet."""
    sent_full: bool = False
    """It was sent as a complete one."""
    sent_inactive: bool = False
    """The last offer was ``a=inactive``."""
    target: int = 0
    """Index of the SRS in the profile's list."""
    tried: int = 0
    """SRSs that refused since the last dialog."""
    rebuilds: int = 0
    retries: int = 0
    answering: bool = False
    """An offer of the SRS waits for the media server."""
    started: bool = False
    """START was told, and no STOP since."""
    broken: Event | None = None
    """How the dialog was lost, until the session is set up again."""
    ending: bool = False
    final: Document | None = None
    """The last metadata, until they are sent."""
    end_reason: str = ""

    def handle(self, event: Event) -> list[Action]:
        """What is to be done about `event`, in order. One that no row fits is late, and changes nothing."""
        out: list[Action] = []
        if self.over:
            return out
        self._dispatch(event, out)
        if self.over:
            out.append(SetTimer(-1.0))
            out.append(Finished())
        return out

    @property
    def over(self) -> bool:
        """Nothing is held any more, and nothing will be."""
        return self.ending and self.fork == "none" and self.dialog == "none"

    @property
    def state(self) -> State:
        """Where the session stands, for lists and the API."""
        if self.ending:
            return State.ENDED if self.over else State.ENDING
        if self.dialog == "calling":
            return State.INVITING
        if self.dialog == "up" or self.fork == "held":
            return State.PAUSED if self.actual.inactive else State.ACTIVE
        return State.FORKING if self.fork == "pending" else State.IDLE

    def _dispatch(self, event: Event, out: list[Action]) -> None:
        if event.kind in _WISHES:
            if self.ending:
                return
            self._wish(event)
        kind = event.kind
        for row in _FORK.get((self.fork, kind), ()):
            if row.guard is None or row.guard(self, event):
                self.fork = row.next
                for step in row.steps:
                    step(self, event, out)
                break
        for row in _DIALOG.get((self.dialog, kind), ()):
            if row.guard is None or row.guard(self, event):
                self.dialog = row.next
                for step in row.steps:
                    step(self, event, out)
                break
        for row in _EXCHANGE.get((self.exchange, kind), ()):
            if row.guard is None or row.guard(self, event):
                self.exchange = row.next
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
            return
        if self.dialog != "up":
            return
        wanted = self.wanted
        match next_due(wanted, self.actual):
            case "gate":
                self.exchange = "gating"
                out.append(Gate(True))
            case "ungate":
                self.exchange = "gating"
                out.append(Gate(False))
            case "fork":
                self.exchange = "forking"
                self._copy(event, out)
            case "connect":
                self.exchange = "connecting"
                self.actual.connected = True
                self.actual.withheld = wanted.paused
                out.append(Connect(wanted.paused))
            case "offer":
                self.exchange = "offering"
                wanted.offer = False
                self.sent_inactive = wanted.paused
                out.append(Exchange(self._outgoing(), True, wanted.paused))
            case "update":
                self.exchange = "updating"
                out.append(Exchange(self._outgoing(), False, self.actual.inactive))
            case _:
                pass

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


_M = RecordingSessionFsm
Guard = Callable[[RecordingSessionFsm, Event], bool]
Step = Callable[[RecordingSessionFsm, Event, list[Action]], None]


class Row(NamedTuple):
    """One row of a table. `guard` None: always. `why`: where the rule stands."""

    state: str
    event: Kind
    guard: Guard | None
    next: Any
    steps: tuple[Step, ...] = ()
    why: str = ""


def ending(session: RecordingSessionFsm, event: Event) -> bool:
    """The session is to end."""
    return session.ending


def running(session: RecordingSessionFsm, event: Event) -> bool:
    """It is not to end."""
    return not session.ending


def streams_changed(session: RecordingSessionFsm, event: Event) -> bool:
    """The streams changed while the media server was asked to copy them."""
    return session.wanted.streams


def not_forking(session: RecordingSessionFsm, event: Event) -> bool:
    """No renewal of the copies is under way."""
    return session.exchange != "forking"


def copies_are_there(session: RecordingSessionFsm, event: Event) -> bool:
    """These are the copies that the dialog waits for."""
    return session.fork == "held" and session.exchange == "idle" and not session.ending


def other_offer(session: RecordingSessionFsm, event: Event) -> bool:
    """There is another offer for this SRS, or one that refused is taken after all."""
    return event.again


def other_srs(session: RecordingSessionFsm, event: Event) -> bool:
    """There is another SRS in the list, and the code does not end the search."""
    return session.tried + 1 < session.policy.targets and not session.policy.gives_up(event.status)


def other_srs_and_streams(session: RecordingSessionFsm, event: Event) -> bool:
    """The same, and it needs other copies."""
    return (session.wanted.streams or event.media) and other_srs(session, event)


def up(session: RecordingSessionFsm, event: Event) -> bool:
    """The dialog is up."""
    return session.dialog == "up"


def ending_and_up(session: RecordingSessionFsm, event: Event) -> bool:
    """The dialog is up, and to be ended."""
    return session.ending and session.dialog == "up"


def ending_and_gone(session: RecordingSessionFsm, event: Event) -> bool:
    """The dialog is to be ended, and unknown to the SRS."""
    return ending_and_up(session, event) and event.status in _DIALOG_GONE


def gone(session: RecordingSessionFsm, event: Event) -> bool:
    """The SRS does not know the dialog, or is silent (RFC 3261 12.2.1.2)."""
    return not session.ending and event.status in _DIALOG_GONE


def later(session: RecordingSessionFsm, event: Event) -> bool:
    """The SRS takes it later: 491, or Retry-After."""
    return not session.ending and (event.status == 491 or event.retry_after > 0) and session.retries < MAX_RETRIES


def offer_refused_more_due(session: RecordingSessionFsm, event: Event) -> bool:
    """The offer was refused, and something else is still due."""
    if session.ending:
        return False
    wanted, actual = session.wanted, session.actual
    paused, inactive = wanted.paused, actual.inactive
    if session.sent_inactive != inactive:
        paused, inactive = paused or not session.sent_inactive, True
    return wanted.streams or not actual.connected or paused != inactive


def update_refused_more_due(session: RecordingSessionFsm, event: Event) -> bool:
    """The update was refused, and something else is still due."""
    wanted, actual = session.wanted, session.actual
    return running(session, event) and (wanted.streams or not actual.connected or wanted.paused != actual.inactive)


def can_answer(session: RecordingSessionFsm, event: Event) -> bool:
    """Nothing is under way that an offer of the SRS would overtake."""
    return session.dialog == "up" and not session.ending and not session.answering


FORK: Final = (
    Row("none", Kind.START, running, "pending", (_M._take_document, _M._copy), "RFC 7866 7.1"),
    Row("pending", Kind.FORKED, ending, "releasing", (_M._release,), "the call was faster"),
    Row("pending", Kind.FORKED, streams_changed, "pending", (_M._take_document, _M._copy), "RFC 7866 7.1"),
    Row("pending", Kind.FORKED, None, "held", (_M._take_document,), "RFC 7866 7.1"),
    Row("pending", Kind.FORK_FAILED, ending, "releasing", (_M._release,), "a renewal may have left the first copies"),
    Row("pending", Kind.FORK_FAILED, None, "held", (_M._fail,), "a renewal may have left the first copies"),
    Row("pending", Kind.MEDIA_LOST, running, "none", (_M._fail,), "the copies are gone with the media server"),
    Row("pending", Kind.MEDIA_LOST, None, "none", (), "the copies are gone with the media server"),
    Row("held", Kind.COPY, running, "pending", (_M._copy,), "another dialog needs another description"),
    Row("held", Kind.STOP, not_forking, "releasing", (_M._release,), "RFC 7866 6.1.2"),
    Row("held", Kind.FORKED, ending, "releasing", (_M._release,), "the end waited for the renewal"),
    Row("held", Kind.FORK_FAILED, ending, "releasing", (_M._release,), "the end waited for the renewal"),
    Row("held", Kind.MEDIA_LOST, running, "none", (_M._fail,), "the copies are gone with the media server"),
    Row("held", Kind.MEDIA_LOST, None, "none", (), "the copies are gone with the media server"),
    Row("releasing", Kind.RELEASED, None, "none"),
    Row("releasing", Kind.MEDIA_LOST, None, "none"),
)

DIALOG: Final = (
    Row("none", Kind.FORKED, copies_are_there, "calling", (_M._invite,), "RFC 7866 6.1.1, 9.1"),
    Row("calling", Kind.ANSWERED, ending, "closing", (_M._bye,), "the 2xx crossed our CANCEL, RFC 3261 9.1"),
    Row("calling", Kind.ANSWERED, None, "up", (_M._begin, _M._proceed), "RFC 3261 13.2.2.4"),
    Row("calling", Kind.REFUSED, ending, "none", (_M._dialog_over,), "RFC 3261 9.1"),
    Row("calling", Kind.REFUSED, other_offer, "none", (_M._other_srs, _M._copy_again), "RFC 3264 6"),
    Row("calling", Kind.REFUSED, other_srs_and_streams, "none", (_M._next_srs, _M._copy_again), "failover"),
    Row("calling", Kind.REFUSED, other_srs, "calling", (_M._next_srs, _M._invite), "failover"),
    Row("calling", Kind.REFUSED, None, "none", (_M._give_up,), "no other SRS"),
    Row("calling", Kind.STOP, None, "calling", (_M._cancel,), "RFC 3261 9.1"),
    Row("calling", Kind.LOST, ending, "none", (_M._dialog_over,), "RFC 3261 12.2.1.2"),
    Row("calling", Kind.PEER_BYE, ending, "none", (_M._dialog_over,), "RFC 3261 15.1.2"),
    Row("up", Kind.LOST, ending, "none", (_M._dialog_over,), "RFC 3261 12.2.1.2"),
    Row("up", Kind.LOST, None, "none", (_M._dialog_over, _M._note_broken), "RFC 3261 12.2.1.2"),
    Row("up", Kind.PEER_BYE, ending, "none", (_M._dialog_over,), "RFC 3261 15.1.2"),
    Row("up", Kind.PEER_BYE, None, "none", (_M._dialog_over, _M._stop), "RFC 3261 15.1.2"),
    Row("up", Kind.STOP, None, "up", (_M._limit_end,), "the last metadata have a limit"),
    Row("up", Kind.TIMER, ending, "closing", (_M._bye,), "the last metadata have a limit"),
    Row("up", Kind.CLOSE, None, "closing", (_M._bye,), "RFC 3261 15.1.1"),
    Row("closing", Kind.BYE_DONE, None, "none", (_M._dialog_over,), "RFC 3261 15.1.1"),
    Row("closing", Kind.PEER_BYE, None, "none", (_M._dialog_over,), "RFC 3261 15.1.2"),
    Row("closing", Kind.LOST, None, "none", (_M._dialog_over,), "RFC 3261 12.2.1.2"),
)

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
_ANY: Final[tuple[ExchangeState, ...]] = (
    "idle",
    "forking",
    "gating",
    "connecting",
    "offering",
    "updating",
    "waiting",
)

EXCHANGE: Final = (
    *(
        Row("idle", kind, up, "idle", (_M._proceed,), why)
        for kind, why in (
            (Kind.CHANGED, "RFC 7866 9.1"),
            (Kind.PAUSE, "RFC 7866 6.3"),
            (Kind.RESUME, "RFC 7866 6.3"),
            (Kind.SNAPSHOT, "RFC 7866 9.2"),
            (Kind.OFFER_AGAIN, "media do not arrive, or were not taken"),
            (Kind.PEER_ANSWER, "RFC 3261 13.2.1"),
        )
    ),
    Row("forking", Kind.FORKED, ending, "idle"),
    Row("forking", Kind.FORKED, None, "idle", (_M._take_document, _M._want_offer, _M._proceed), "RFC 7866 7.1.1"),
    Row("forking", Kind.FORK_FAILED, ending, "idle"),
    Row("forking", Kind.FORK_FAILED, None, "idle", (_M._fail,)),
    Row("gating", Kind.GATED, running, "idle", (_M._toggled, _M._proceed), "RFC 7866 6.3"),
    Row("gating", Kind.GATE_FAILED, running, "idle", (_M._fail,), "to feed after a pause is worse than to stop"),
    Row("connecting", Kind.CONNECTED, running, "idle", (_M._proceed,), "RFC 3264 8"),
    Row("connecting", Kind.CONNECT_FAILED, running, "idle", (_M._fail,)),
    Row("offering", Kind.EXCHANGED, ending_and_up, "updating", (_M._acknowledged, _M._last_words), "RFC 7866 9.1"),
    Row("offering", Kind.EXCHANGED, running, "idle", (_M._agreed, _M._proceed), "RFC 3264 8"),
    Row("updating", Kind.EXCHANGED, ending_and_up, "updating", (_M._acknowledged, _M._last_words), "RFC 7866 9.1"),
    Row("updating", Kind.EXCHANGED, running, "idle", (_M._updated, _M._proceed), "RFC 7866 9.1"),
    *(
        Row(state, Kind.EXCHANGE_FAILED, guard, following, steps, why)
        for state, repeat, refused, more_due in (
            ("offering", _M._repeat_offer, _M._offer_refused, offer_refused_more_due),
            ("updating", _M._repeat, _M._refused, update_refused_more_due),
        )
        for guard, following, steps, why in (
            (ending_and_gone, "idle", (_M._close,), "RFC 3261 15.1.1"),
            (ending_and_up, "updating", (_M._last_words,), "RFC 7866 9.1"),
            (gone, "idle", (_M._lose,), "RFC 3261 12.2.1.2"),
            (later, "waiting", (repeat,), "RFC 3261 14.1, 20.33"),
            (more_due, "waiting", (refused, _M._wait), "RFC 3261 14.1"),
            (running, "idle", (refused,), "RFC 3261 14.1"),
        )
    ),
    Row("waiting", Kind.TIMER, running, "idle", (_M._proceed,), "RFC 3261 20.33"),
    *(Row(state, Kind.LOST, running, "idle", (_M._proceed,)) for state in ("idle", "offering", "updating")),
    Row("waiting", Kind.LOST, running, "idle", (_M._no_timer, _M._proceed)),
    *(
        Row(state, Kind.STOP, up, "updating", (_M._last_words,), "RFC 7866 9.1")
        for state in ("idle", "forking", "gating", "connecting", "waiting")
    ),
    *(Row(state, Kind.TIMER, ending, "idle") for state in ("offering", "updating")),
    *(Row(state, Kind.CLOSE, None, "idle") for state in ("offering", "updating")),
    *(
        Row(state, Kind.PEER_OFFER, can_answer, state, (_M._answer_peer,), "RFC 3261 14.2")
        for state in ("idle", "waiting")
    ),
    *(Row(state, Kind.PEER_OFFER, None, state, (_M._refuse_peer,), "RFC 3261 14.2") for state in _ANY),
    *(Row(state, Kind.PEER_DONE, running, state, (_M._peer_answered, _M._proceed), "RFC 3264 8") for state in _ANY),
)

TABLES: Final = {"fork": FORK, "dialog": DIALOG, "exchange": EXCHANGE}


def _indexed(rows: tuple[Row, ...]) -> dict[tuple[str, Kind], tuple[Row, ...]]:
    found: dict[tuple[str, Kind], tuple[Row, ...]] = {}
    for row in rows:
        found[row.state, row.event] = (*found.get((row.state, row.event), ()), row)
    return found


_FORK, _DIALOG, _EXCHANGE = _indexed(FORK), _indexed(DIALOG), _indexed(EXCHANGE)
