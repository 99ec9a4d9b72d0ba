"""The recording session as a state machine: events in, actions out, no I/O (RFC 7866 6.1, 9; RFC 3261 9, 14, 15).

`RecordingSession.handle` takes one event and returns what is to be done now; whoever does it reports back with further
events. Two things are held on the way to `ended` and are always given back: the fork (the media server's copy of the
streams) and the RS dialog. Changes that come while an exchange with the SRS or the media server is under way are only
noted, and leave together when it is over (META-19).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from siprec.recording import events
from siprec.recording.metadata import Recording, diff
from siprec.recording.steps import (
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


@dataclass(slots=True)
class RecordingSession:
    """One recording session. Plain values throughout, so that it can be stored and taken up elsewhere.

    `fork` is ``""``, ``pending``, ``held`` or ``releasing``; `dialog` ``""``, ``calling``, ``up`` or ``closing``;
    `pending` names the one exchange under way: ``fork``, ``gate``, ``connect``, ``offer`` or ``update``.
    """

    policy: Policy
    state: State = State.IDLE
    current: Recording = field(default_factory=Recording)
    told: Recording | None = None
    sent: Recording | None = None
    target: int = 0
    tried: int = 0
    rebuilds: int = 0
    fork: str = ""
    dialog: str = ""
    pending: str = ""
    peer_busy: bool = False
    started: bool = False
    paused_wanted: bool = False
    gated: bool = False
    withheld: bool = False
    inactive: bool = False
    offered_inactive: bool = False
    media_changed: bool = False
    offer_needed: bool = False
    connect_needed: bool = False
    full_needed: bool = False
    sent_full: bool = False
    retries: int = 0
    waiting: bool = False
    broken: Event | None = None
    final: Recording | None = None
    end_reason: str = ""

    def handle(self, event: Event) -> list[Action]:
        """What is to be done about `event`, in order. One that the state has no row for is late and changes nothing."""
        handler = TABLE.get((self.state, event.kind))
        out: list[Action] = []
        if handler is not None:
            handler[0](self, event, out)
        return out

    def _notify(self, out: list[Action], name: str, reason: str = "", status: int = 0) -> None:
        out.append(Notify(name, reason, status, self.target))

    # -- setting up ----------------------------------------------------------------------------------------------------

    def _start(self, event: Event, out: list[Action]) -> None:
        self.current = event.document or self.current
        self._to_forking(out)

    def _to_forking(self, out: list[Action]) -> None:
        self.state = State.FORKING
        self.fork = "pending"
        self.media_changed = False
        out.append(Fork())

    def _forked(self, event: Event, out: list[Action]) -> None:
        self.fork = "held"
        self.current = event.document or self.current
        if self.media_changed:
            self._to_forking(out)
        else:
            self._invite(out)

    def _invite(self, out: list[Action]) -> None:
        self.state = State.INVITING
        self.dialog = "calling"
        self.sent = self.current
        self.offered_inactive = self.paused_wanted
        out.append(Invite(self.target, self.current, self.paused_wanted))

    def _fork_failed(self, event: Event, out: list[Action]) -> None:
        # A renewal that failed may have left the first fork; where there is none, releasing it is nothing.
        self.fork = "held"
        self._fail(event, out)

    def _answered(self, event: Event, out: list[Action]) -> None:
        self.dialog = "up"
        self.told = self.sent
        self.inactive = self.offered_inactive
        self.state = State.PAUSED if self.inactive else State.ACTIVE
        self.started = True
        self.retries = 0
        self.offer_needed = self.full_needed = False
        self.connect_needed = True
        self._notify(out, events.START)
        self._pump(out)

    def _refused(self, event: Event, out: list[Action]) -> None:
        """No 2xx: the next SRS, unless this code ends the search or the list is through (R7, R8, ERR-01, ERR-02);
        the same one once more if there is another offer for it."""
        self.dialog = ""
        if event.again:
            if event.target >= 0:
                self._notify(out, events.FAILOVER, event.reason, event.status)
                self.target = event.target
            self._to_forking(out)
            return
        self.tried += 1
        if self.tried < self.policy.targets and not self.policy.gives_up(event.status):
            self._notify(out, events.FAILOVER, event.reason, event.status)
            self.target = (self.target + 1) % self.policy.targets
            if self.media_changed or event.media:
                self._to_forking(out)
            else:
                self._invite(out)
        else:
            self._fail(event, out)

    # -- while it runs -------------------------------------------------------------------------------------------------

    def _pump(self, out: list[Action]) -> None:
        """Begin the next exchange that is due. Packets stop before a pause is promised (CTL-07), and go on only when
        the SRS agreed to the resumption."""
        if self.pending or self.peer_busy or self.waiting or self.state not in (State.ACTIVE, State.PAUSED):
            return
        if self.broken is not None:
            self._rebuild(self.broken, out)
        elif self.paused_wanted and not self.gated:
            self.pending = "gate"
            out.append(Gate(True))
        elif self.media_changed:
            self.media_changed = False
            self.pending = "fork"
            out.append(Fork())
        elif self.connect_needed:
            self._connect(out)
        elif self.offer_needed or self.paused_wanted != self.inactive:
            self.pending = "offer"
            self.offer_needed = False
            self.offered_inactive = self.paused_wanted
            out.append(Exchange(self._document(), True, self.paused_wanted))
        elif self.withheld and not self.paused_wanted:
            self._connect(out)
        elif self.gated and not self.paused_wanted:
            self.pending = "gate"
            out.append(Gate(False))
        else:
            document = self._document()
            if document is not None:
                self.pending = "update"
                out.append(Exchange(document, False, self.inactive))

    def _connect(self, out: list[Action]) -> None:
        self.connect_needed = False
        self.withheld = self.paused_wanted
        self.pending = "connect"
        out.append(Connect(self.withheld))

    def _document(self) -> Recording | None:
        """The metadata that is due: complete when asked for or when the SRS's state is unknown (META-04, META-16)."""
        self.sent = self.current
        self.sent_full = self.full_needed or self.told is None
        self.full_needed = False
        if self.sent_full or self.told is None:
            return self.current
        update = diff(self.told, self.current)
        return self.current if update is not None and self.policy.complete_updates else update

    def _changed(self, event: Event, out: list[Action]) -> None:
        self.current = event.document or self.current
        self.media_changed |= event.media
        self._pump(out)

    def _pause(self, event: Event, out: list[Action]) -> None:
        self.paused_wanted = True
        self._pump(out)

    def _resume(self, event: Event, out: list[Action]) -> None:
        self.paused_wanted = False
        self._pump(out)

    def _snapshot(self, event: Event, out: list[Action]) -> None:
        # With the SDP, so that labels are allowed; unchanged, since nothing about the streams changed (META-14).
        self.full_needed = self.offer_needed = True
        self._pump(out)

    def _reforked(self, event: Event, out: list[Action]) -> None:
        self.pending = ""
        self.current = event.document or self.current
        self.offer_needed = True
        self._pump(out)

    def _connected(self, event: Event, out: list[Action]) -> None:
        self.pending = ""
        self._pump(out)

    def _gated(self, event: Event, out: list[Action]) -> None:
        self.pending = ""
        self.gated = not self.gated
        if not self.gated and not self.inactive:
            self._notify(out, events.RESUMED)
        self._pump(out)

    def _media_failed(self, event: Event, out: list[Action]) -> None:
        # Also for the gate: feeding after a pause was asked for is worse than no recording (CTL-07).
        self.pending = ""
        self._fail(event, out)

    def _exchanged(self, event: Event, out: list[Action]) -> None:
        offer = self.pending == "offer"
        self.pending = ""
        self.retries = 0
        news = self.told is not None and self.sent is not None and diff(self.told, self.sent) is not None
        self.told = self.sent
        self.connect_needed |= offer or event.media
        if offer and self.offered_inactive != self.inactive:
            self.inactive = self.offered_inactive
            self.state = State.PAUSED if self.inactive else State.ACTIVE
            if self.inactive:
                self._notify(out, events.PAUSED)
        elif news:
            self._notify(out, events.UPDATED)
        self._pump(out)

    def _exchange_failed(self, event: Event, out: list[Action]) -> None:
        """Wait and repeat, or give the dialog up (ERR-08); else the session stays as it was (RFC 3261 14.1)."""
        offer = self.pending == "offer"
        self.pending = ""
        if event.status in _DIALOG_GONE:
            self._lost(event, out)
            return
        if (event.status == 491 or event.retry_after > 0) and self.retries < MAX_RETRIES:
            self.retries += 1
            self.offer_needed |= offer
            self.full_needed |= self.sent_full
            self._wait(min(max(event.retry_after, 1.0), MAX_RETRY_AFTER), out)
            return
        self.retries = 0
        self._notify(out, events.UPDATE_FAILED, event.reason, event.status)
        # Not applied: the next document has to be a full one (META-16), but a refusal is not repeated right away.
        self.full_needed = True
        if offer and self.offered_inactive != self.inactive:
            # Nothing flows after a refused pause (the gate is shut), nor after a refused resumption.
            self.paused_wanted = self.paused_wanted or not self.offered_inactive
            self.inactive = True
            self.state = State.PAUSED
        if self.media_changed or self.connect_needed or self.paused_wanted != self.inactive:
            self._wait(1.0, out)

    def _wait(self, delay: float, out: list[Action]) -> None:
        self.waiting = True
        out.append(SetTimer(delay))

    def _timer(self, event: Event, out: list[Action]) -> None:
        self.waiting = False
        self._pump(out)

    def _peer_offer(self, event: Event, out: list[Action]) -> None:
        # An exchange of ours with the media server would be overtaken: the SRS comes again (RFC 3261 14.2).
        if self.pending or self.peer_busy:
            out.append(AnswerPeer(491))
        else:
            self.peer_busy = True
            self.withheld = self.paused_wanted or self.inactive
            out.append(AnswerPeer(withheld=self.withheld))

    def _peer_offer_early(self, event: Event, out: list[Action]) -> None:
        out.append(AnswerPeer(491))

    def _offer_again(self, event: Event, out: list[Action]) -> None:
        self.offer_needed = True
        self._pump(out)

    def _peer_done(self, event: Event, out: list[Action]) -> None:
        self.peer_busy = False
        self._pump(out)

    def _peer_answer(self, event: Event, out: list[Action]) -> None:
        self.connect_needed = True
        self._pump(out)

    def _lost(self, event: Event, out: list[Action]) -> None:
        """The RS broke down (ERR-09): set it up again with the same ids, at the same SRS when it only forgot the dialog
        (481), else beginning with the next one."""
        self._dialog_over(event, out)
        self.broken = event
        # What the media server is doing is waited for, what the SRS was to do is not.
        if self.pending in ("offer", "update"):
            self.pending = ""
        if self.waiting:
            self.waiting = False
            out.append(SetTimer(-1.0))
        self._pump(out)

    def _rebuild(self, event: Event, out: list[Action]) -> None:
        self.broken = None
        if self.rebuilds >= self.policy.rebuilds:
            self._fail(event, out)
            return
        self.rebuilds += 1
        self._notify(out, events.FAILOVER, event.reason, event.status)
        if event.status != 481:
            self.target = (self.target + 1) % self.policy.targets
        self.tried = 0
        self.told = None
        self.connect_needed = False
        self.current = self.current.attached(event.wall)
        self._to_forking(out)

    def _dialog_over(self, event: Event, out: list[Action]) -> None:
        self.dialog = ""
        if self.started:
            self.started = False
            reason = self.end_reason or event.reason
            if event.status and self.end_reason and event.reason:
                reason = f"{self.end_reason}; the SRS did not confirm the end: {event.reason}"
            self._notify(out, events.STOP, reason, event.status)

    # -- ending --------------------------------------------------------------------------------------------------------

    def _fail(self, event: Event, out: list[Action]) -> None:
        self._notify(out, events.FAILED, event.reason, event.status)
        self._stop(Event(Kind.STOP, reason=event.reason, status=event.status), out)

    def _media_lost(self, event: Event, out: list[Action]) -> None:
        self.fork = ""
        self._fail(event, out)

    def _peer_bye(self, event: Event, out: list[Action]) -> None:
        # SRC-17: the UA answered 200; what is left is ours.
        self._dialog_over(event, out)
        self._stop(event, out)

    def _stop(self, event: Event, out: list[Action]) -> None:
        was_active = self.state in (State.ACTIVE, State.PAUSED)
        self.state = State.ENDING
        self.end_reason = self.end_reason or event.reason
        self.final = event.document or self.current.detached(event.wall)
        if self.fork == "held" and self.pending != "fork":
            self._release(out)
        if self.dialog == "calling":
            out.append(Cancel())
        elif self.dialog == "up" and was_active:
            out.append(SetTimer(self.policy.end_timeout))
            if self.pending not in ("offer", "update"):
                self._last_words(out)
        self._settle(out)

    def _release(self, out: list[Action]) -> None:
        self.fork = "releasing"
        out.append(Release())

    def _last_words(self, out: list[Action]) -> None:
        """stop-time, reason and disassociations, in an UPDATE before the BYE (C4), if there is anything to say."""
        self.current = self.final or self.current
        document = self._document()
        if document is None:
            self._bye(out)
        else:
            self.pending = "update"
            self.final = None
            out.append(Exchange(document, False, self.inactive))

    def _bye(self, out: list[Action]) -> None:
        self.dialog = "closing"
        self.pending = ""
        out.append(SetTimer(-1.0))
        out.append(Bye())

    def _ending_exchange(self, event: Event, out: list[Action]) -> None:
        """The exchange that was under way at the end, or the last metadata itself, is over."""
        self.pending = ""
        if event.kind is Kind.EXCHANGED:
            self.told = self.sent
        if self.dialog == "up":
            if event.status in _DIALOG_GONE:
                self._bye(out)
            elif self.final is not None:
                self._last_words(out)
            else:
                self._bye(out)

    def _ending_forked(self, event: Event, out: list[Action]) -> None:
        if self.pending == "fork":
            self.pending = ""
        self._release(out)

    def _ending_answered(self, event: Event, out: list[Action]) -> None:
        # The 2xx crossed our CANCEL: ACK went out, BYE follows (ERR-07). No START was told, so no STOP either.
        self._bye(out)

    def _dialog_gone(self, event: Event, out: list[Action]) -> None:
        self._dialog_over(event, out)
        self._settle(out)

    def _ending_timer(self, event: Event, out: list[Action]) -> None:
        if self.dialog == "up":
            self._bye(out)

    def _released(self, event: Event, out: list[Action]) -> None:
        self.fork = ""
        self._settle(out)

    def _settle(self, out: list[Action]) -> None:
        if not self.fork and not self.dialog:
            self.state = State.ENDED
            out.append(SetTimer(-1.0))
            out.append(Finished())


Handler = Callable[[RecordingSession, Event, list[Action]], None]
_S = RecordingSession


def _rows() -> dict[tuple[State, Kind], tuple[Handler, str]]:
    """State and event -> what happens, and the rule behind it. A missing pair is an event that came too late."""
    rows: dict[tuple[State, Kind], tuple[Handler, str]] = {
        (State.IDLE, Kind.START): (_S._start, "SRC-03"),
        (State.IDLE, Kind.PAUSE): (_S._pause, "CTL-01"),
        (State.IDLE, Kind.RESUME): (_S._resume, "CTL-01"),
        (State.IDLE, Kind.STOP): (_S._stop, "nothing was begun"),
        (State.FORKING, Kind.FORKED): (_S._forked, "SRC-01, SRC-06"),
        (State.FORKING, Kind.FORK_FAILED): (_S._fork_failed, "ERR-10"),
        (State.INVITING, Kind.ANSWERED): (_S._answered, "SDP-10"),
        (State.INVITING, Kind.REFUSED): (_S._refused, "ERR-01, ERR-02"),
        (State.ENDING, Kind.ANSWERED): (_S._ending_answered, "ERR-07"),
        (State.ENDING, Kind.REFUSED): (_S._dialog_gone, "ERR-07"),
        (State.ENDING, Kind.EXCHANGED): (_S._ending_exchange, "META-02"),
        (State.ENDING, Kind.EXCHANGE_FAILED): (_S._ending_exchange, "META-16"),
        (State.ENDING, Kind.FORKED): (_S._ending_forked, "SRC-16"),
        (State.ENDING, Kind.FORK_FAILED): (_S._ending_forked, "SRC-16"),
        (State.ENDING, Kind.PEER_OFFER): (_S._peer_offer_early, "RFC 3261 14.2"),
        (State.ENDING, Kind.PEER_BYE): (_S._dialog_gone, "RFC 3261 15.1.2"),
        (State.ENDING, Kind.LOST): (_S._dialog_gone, "ERR-08"),
        (State.ENDING, Kind.BYE_DONE): (_S._dialog_gone, "SRC-16"),
        (State.ENDING, Kind.MEDIA_LOST): (_S._released, "SRC-16"),
        (State.ENDING, Kind.RELEASED): (_S._released, "SRC-16"),
        (State.ENDING, Kind.TIMER): (_S._ending_timer, "SRC-16"),
    }
    for state in (State.FORKING, State.INVITING, State.ACTIVE, State.PAUSED):
        rows[state, Kind.CHANGED] = (_S._changed, "META-02, META-19")
        rows[state, Kind.PAUSE] = (_S._pause, "CTL-01")
        rows[state, Kind.RESUME] = (_S._resume, "CTL-01")
        rows[state, Kind.MEDIA_LOST] = (_S._media_lost, "ERR-11")
        rows[state, Kind.STOP] = (_S._stop, "SRC-16, ERR-07")
    for state in (State.ACTIVE, State.PAUSED):
        rows[state, Kind.FORKED] = (_S._reforked, "SDP-12")
        rows[state, Kind.FORK_FAILED] = (_S._media_failed, "ERR-10")
        rows[state, Kind.CONNECTED] = (_S._connected, "SDP-10")
        rows[state, Kind.CONNECT_FAILED] = (_S._media_failed, "ERR-10")
        rows[state, Kind.GATED] = (_S._gated, "CTL-07")
        rows[state, Kind.GATE_FAILED] = (_S._media_failed, "CTL-07")
        rows[state, Kind.EXCHANGED] = (_S._exchanged, "META-15")
        rows[state, Kind.EXCHANGE_FAILED] = (_S._exchange_failed, "ERR-08, META-16")
        rows[state, Kind.SNAPSHOT] = (_S._snapshot, "META-13, META-14")
        rows[state, Kind.PEER_OFFER] = (_S._peer_offer, "CTL-02, SDP-09")
        rows[state, Kind.PEER_DONE] = (_S._peer_done, "CTL-02")
        rows[state, Kind.PEER_ANSWER] = (_S._peer_answer, "RFC 3261 13.2.1")
        rows[state, Kind.PEER_BYE] = (_S._peer_bye, "SRC-17")
        rows[state, Kind.LOST] = (_S._lost, "ERR-09")
        rows[state, Kind.OFFER_AGAIN] = (_S._offer_again, "ERR-11")
        rows[state, Kind.TIMER] = (_S._timer, "ERR-08")
    return rows


TABLE: Final = _rows()
