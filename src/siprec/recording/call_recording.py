"""One recording of one call: carries out what the machine decides, and tells it what comes of it.

The machine (:mod:`siprec.recording.session`) knows neither media servers nor SIP; here the two meet. Events are handled
one after the other, also those that come from inside an action.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from msgspec.structs import replace

from siprec.media.engine import (
    MediaError,
    MediaFlags,
    MediaServer,
    MediaSession,
    MediaStatistics,
    StatisticsResult,
    Subscription,
)
from siprec.metadata.document import Document, Reason
from siprec.metadata.values import IdSource, new_id
from siprec.metadata.write import write
from siprec.proxy.call import StartMode
from siprec.proxy.forward import MAX_BREADTH
from siprec.recording import events, silence, srtp_sdp
from siprec.recording.call_metadata import CallMetadata, GroupRegistry
from siprec.recording.confirmation import Recorded
from siprec.recording.events import EventDispatcher, SiprecEvent
from siprec.recording.refused_streams import RefusedStreams, refused
from siprec.recording.rs_dialog import UPDATE_REFUSED, Body, PeerOffer, RsDialog, RsPeer
from siprec.recording.rs_sdp import RecordingSdp, media_family
from siprec.recording.session_events import (
    TIMED,
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
from siprec.recording.session_machine import RecordingSessionFsm
from siprec.recording.settings import RecordingProfile, RecordingSettings
from siprec.recording.shared_session_pool import SharedSessionPool
from siprec.recording.signalling_security import is_secure_call, is_secure_way
from siprec.recording.srs_health import HealthTable
from siprec.recording.srs_liveness import PROBE, LivenessMonitor
from siprec.recording.srtp_policy import SrtpTerms
from siprec.sdp import SdpError, SessionDescription
from siprec.sip.clock import Clock, Timer
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.transport import Hop
from siprec.sip.useragent import Result, UserAgent
from siprec.sip.values import retry_after

log = logging.getLogger(__name__)


def _max_breadth(invite: SipRequest) -> int | None:
    value = (invite.get("max-breadth") or "").strip()
    return min(int(value), MAX_BREADTH) if value.isdecimal() and len(value) < 6 else None


@dataclass(slots=True)
class RecordingContext:
    """What all recordings of a process share.

    `from_uri` names the SRC in From (SRC-07); `group_secret` keys group identifiers; `failed(recording, reason)` is
    told of calls that are not recorded although they should be; `releasing(recording)` before the copies end,
    `connected(recording)` when they flow for the first time; `shared_sessions` are the recording sessions that calls
    share.
    """

    clock: Clock
    agent: UserAgent
    dispatcher: EventDispatcher
    from_uri: str = "sip:siprec@localhost"
    group_secret: bytes = b""
    new_id: IdSource = new_id
    groups: GroupRegistry = field(default_factory=lambda: GroupRegistry(new_id))
    failed: Callable[[CallRecording, str], None] = lambda recording, reason: None
    releasing: Callable[[CallRecording], None] = lambda recording: None
    connected: Callable[[CallRecording], None] = lambda recording: None
    calling: Callable[[CallRecording], None] = lambda recording: None
    """Told before an SRS is called."""
    shared_sessions: SharedSessionPool | None = None
    warned: set[str] = field(default_factory=set)
    """SRSs that were warned of already."""
    health: HealthTable = field(init=False)
    watch: LivenessMonitor = field(init=False)

    def __post_init__(self) -> None:
        self.health = HealthTable(self.clock, self.agent, self.dispatcher)
        self.watch = LivenessMonitor(self.clock)
        self.health.on_down = self.watch.suspect


class CallRecording:
    """A recording instance of a call, from its wish to its end. `finished(self)` is called once, last."""

    # Of the class: a recording that does not fail has none of its own.
    failure: str = ""
    """What was told last of why there is no recording; empty while there is one."""
    woken: bool = False
    """It is tried again because an SRS is back."""
    may_return: bool = False
    """It failed because its SRSs were down: it may begin again when one is back."""
    _unavailable: bool = False
    _taken: RefusedStreams | None = None

    def __init__(
        self,
        context: RecordingContext,
        metadata: CallMetadata,
        instance: str,
        profile: RecordingProfile,
        settings: RecordingSettings,
        finished: Callable[[CallRecording], None],
        start: StartMode = "answer",
    ) -> None:
        self.context = context
        self.call = metadata.call
        self.metadata = metadata
        self.instance = instance
        self.profile = profile
        self.settings = settings
        self.start = start
        self.targets = profile.targets
        self.machine = RecordingSessionFsm(
            Policy(
                len(self.targets),
                profile.skip_failover_codes,
                profile.rebuilds,
                profile.end_timeout,
                profile.updates == "complete",
            )
        )
        self._finished = finished
        self._queue: deque[Event] = deque()
        self._busy = False
        self._timer: Timer | None = None
        self._media: MediaServer | None = None
        self._media_session: MediaSession | None = None
        self._tag = ""
        self._moves = self._placed = 0
        self._subscription: Subscription | None = None
        self._description: RecordingSdp | None = None
        self._dialog: RsPeer | None = None
        self._answer: SessionDescription | None = None
        self._left_out: dict[tuple[str, int], list[str]] = {}
        self._peer: PeerOffer | None = None
        self._attached = 0.0
        self._flowing = False
        self._unreachable = False
        self._srtp = SrtpTerms(profile, metadata.call.call_id, context.warned)
        self.steered_by = ""
        """Who asked for the last pause or resumption, as far as it was said."""
        self._since: float | None = None

    # -- what the owner asks -------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """``idle`` (wanted, the call is not answered yet), ``forking``, ``inviting``, ``active``, ``paused``,
        ``ending`` or ``ended``."""
        return self.machine.state.value

    @property
    def server(self) -> str:
        """The SRS that handles the recording, or is being tried."""
        return self.targets[self.machine.target]

    @property
    def rs_call_id(self) -> str:
        """Call-ID of the present RS dialog, empty if there is none yet."""
        return self._dialog.call_id if self._dialog is not None else ""

    def begin(self, since: float | None = None) -> None:
        """Fork and call the SRS. Media that came before `since` (monotonic) are not recorded; None: all there are."""
        self._since = since
        self.targets = self.context.health.order(self.targets)
        self._post(Event(Kind.START))

    def pause(self, by: str = "") -> None:
        """Withhold the media (CTL-01); before the recording began: begin it paused. `by`: who asks."""
        self.steered_by = by
        self._post(Event(Kind.PAUSE))

    def resume(self, by: str = "") -> None:
        """Let the media go again."""
        self.steered_by = by
        self._post(Event(Kind.RESUME))

    def changed(self, media: bool) -> None:
        """The call is not what it was: its parties, hold, or (`media`) its streams and codecs."""
        self._post(Event(Kind.CHANGED, self._document(), media=media))

    def stop(self, reason: str = "stopped") -> None:
        """End this recording; the call goes on."""
        wall = self._wall()
        self._post(Event(Kind.STOP, self._document().detached(wall), reason=reason, wall=wall))

    def hurry(self) -> None:
        """Where it is ending: do not wait for the SRS's answer to the last metadata."""
        if self.machine.state is State.ENDING:
            self._timed_out()

    def call_ended(self, wall: float, reasons: tuple[Reason, ...], reason: str) -> None:
        """The call ended at `wall`: what there is to tell goes to the SRS, then BYE."""
        self._post(Event(Kind.STOP, self._document().stopped(wall, reasons), reason=reason, wall=wall))

    def _wall(self) -> float:
        """The time of the call: see `Call.wall`."""
        return self.call.wall(self.context.clock.now())

    @property
    def _fields(self) -> dict[str, str]:
        """What log lines about this recording carry beside what they say."""
        return {"session_id": self.metadata.session_id, "instance": self.instance}

    def lost(self, status: int, reason: str) -> None:
        """The SRS is gone, as far as can be told: the RS is given up, and set up again (ERR-09)."""
        log.warning("SRS %s: %s (call %s)", self.server, reason, self.call.call_id, extra=self._fields)
        self.context.health.failed(self.server, self.profile, status if status != 481 else 0, reason)
        self._failed_at_srs(status)
        if self._dialog is not None:
            self._dialog.abandon(reason)
        self._post(Event(Kind.LOST, status=status, reason=reason))

    def _failed_at_srs(self, status: int) -> None:
        """The SRS is down, as far as `status` says."""
        if status == 408 or 500 <= status < 600:
            self._unavailable = True

    def offer_again(self) -> None:
        """Repeat the offer: the media do not arrive although the SRS answers (ERR-11)."""
        self._post(Event(Kind.OFFER_AGAIN))

    def query(self, done: StatisticsResult) -> None:
        """Ask the media server for its counters of the call."""
        media, session = self._media, self._media_session
        if media is None or session is None:
            self.context.clock.call_later(0, done, MediaError("no media server"))
        else:
            media.query(session, done)

    @property
    def way(self) -> Hop | None:
        """The hop that the SRS was reached by."""
        return self._dialog.way if self._dialog is not None else None

    def look_for_media(self, result: MediaStatistics, since: float) -> None:
        """Tell of streams that carry nothing since the recording began (`since`, seconds since the epoch)."""
        subscription, description, answer = self._subscription, self._description, self._answer
        if self.machine.state is not State.ACTIVE or self.machine.wanted.paused:
            return
        if subscription is None or description is None or answer is None:
            return
        found = silence.silent(self.call, subscription, description.labels, answer, result, since)
        if found:
            why = f"in {silence.AFTER:g} s: {'; '.join(found)}"
            log.warning("streams without media, %s (call %s)", why, self.call.call_id, extra=self._fields)
            self._notify(Notify(events.NO_MEDIA, why, 0, self.machine.target))

    def media_lost(self, reason: str) -> None:
        """The media server that copies the streams is gone."""
        self._post(Event(Kind.MEDIA_LOST, reason=reason))

    def media_moved(self) -> None:
        """Another media server carries the call: copies begin there anew, for the same streams."""
        self._moves += 1
        self._tag = ""
        if self.machine.state in (State.ACTIVE, State.PAUSED, State.INVITING):
            self.changed(media=True)
        elif self.machine.state is State.FORKING:
            self._fork()

    def send(
        self,
        method: str,
        headers: tuple[tuple[str, str], ...],
        body: bytes,
        content_type: str,
        done: Callable[[Result], None],
    ) -> bool:
        """A request of the script's own inside the RS dialog; false when there is no dialog."""
        return self._dialog is not None and self._dialog.send(method, headers, body, content_type, done)

    @property
    def subscription(self) -> Subscription | None:
        """What the media server copies for this recording."""
        return self._subscription

    @property
    def recorded(self) -> dict[str, Recorded]:
        """What the SRS says of each label, once the session with it is over; nothing where it does not say."""
        return self._dialog.recorded if isinstance(self._dialog, RsDialog) else {}

    @property
    def declined(self) -> dict[tuple[str, int], list[str]]:
        """Codecs of the call that the SRS's last answer leaves out, by the tag of the party and its m-line."""
        description, answer = self._description, self._answer
        return description.left_out(answer) if description is not None and answer is not None else {}

    @property
    def labels(self) -> dict[tuple[str, int], str]:
        """The label of each stream, by the tag of its party and its m-line."""
        return self._description.labels if self._description is not None else {}

    # -- the machine ---------------------------------------------------------------------------------------------------

    def _post(self, event: Event) -> None:
        self._queue.append(event)
        if self._busy:
            return
        self._busy = True
        try:
            while self._queue:
                event = self._queue.popleft()
                if event.kind in TIMED:
                    event = replace(event, wall=self._wall())
                for action in self.machine.handle(event):
                    self._do(action)
        finally:
            self._busy = False

    def _later(self, event: Event) -> None:
        self.context.clock.call_later(0, self._post, event)

    def _do(self, action: Action) -> None:
        match action:
            case Fork():
                self._fork()
            case Invite():
                self._invite(action)
            case Cancel() if self._taken is not None and self._taken.pending:
                self._taken.pending = False
                self._later(Event(Kind.ANSWERED))  # there is a 2xx already: BYE
            case Cancel() if self._dialog is not None:
                self._dialog.cancel()
            case Connect(withheld):
                self._connect(withheld, self._done(Kind.CONNECTED, Kind.CONNECT_FAILED))
            case Gate(closed):
                self._gate(closed)
            case Exchange():
                self._exchange(action)
            case AnswerPeer(status, withheld):
                self._answer_peer(status, withheld)
            case Bye() if self._dialog is not None:
                self._dialog.bye(self._bye_done)
            case Release():
                self._release()
            case SetTimer(delay):
                self._set_timer(delay)
            case Notify():
                self._notify(action)
            case Finished():
                self.context.watch.discard(self)
                self._finished(self)
                if isinstance(self._dialog, RsDialog):
                    self._dialog.disown()
                self._dialog = None
            case _:
                pass

    def _bye_done(self, result: Result) -> None:
        """What became of the BYE. Without a 2xx nobody knows when the SRS ceased to record."""
        status, reason = 0, ""
        if isinstance(result, SipResponse):
            if result.status >= 300:
                status, reason = result.status, f"BYE: {result.status} {result.reason}"
        elif result != "ended":
            status, reason = 408, f"BYE: {result}"
        if status:
            log.warning("SRS %s: %s (call %s)", self.server, reason, self.call.call_id, extra=self._fields)
            self.context.health.failed(self.server, self.profile, 408 if status == 408 else 0, reason)
        self._post(Event(Kind.BYE_DONE, status=status, reason=reason))

    def _document(self) -> Document:
        return self.metadata.document(
            list(self._description.labels) if self._description is not None else (),
            self._attached,
            self.settings,
            identities=self.profile.identity,
            groups=self.context.groups,
            secret=self.context.group_secret,
            wall=self._wall(),
        )

    def _set_timer(self, delay: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if delay >= 0:
            self._timer = self.context.clock.call_later(delay, self._timed_out)

    def _timed_out(self) -> None:
        self._timer = None
        self._post(Event(Kind.TIMER))

    def _notify(self, action: Notify) -> None:
        if action.name == events.START and (self._unavailable or self.failure):
            self._unavailable = self.woken = False
            self.failure = ""
        elif action.name == events.FAILED:
            gave_up = bool(action.status) and self.machine.policy.gives_up(action.status)
            # A try that follows a failure is followed by others, whatever it fails of.
            self.may_return = not gave_up and (bool(self.failure) or (bool(action.status) and self._unavailable))
            before, self.failure = self.failure, action.reason
            if before:  # told once, until there is a recording again
                log.info("still not recorded: %s (call %s)", action.reason, self.call.call_id, extra=self._fields)
                return
        event = SiprecEvent(
            action.name,
            self.call.dlg_id,
            self.call.call_id,
            self.rs_call_id,
            self.metadata.session_id,
            self.targets[action.target],
            self.instance,
            self._wall(),
            self.steered_by if action.name in (events.PAUSED, events.RESUMED) else action.reason,
            action.status,
        )
        if log.isEnabledFor(logging.DEBUG):
            why = f" reason={event.status or ''} {event.reason}".rstrip() if event.reason or event.status else ""
            log.debug(
                "%s call=%s rs=%s session=%s srs=%s instance=%s%s",
                event.name,
                event.dlg_callid,
                event.callid,
                event.session_id,
                event.server,
                event.instance,
                why,
            )
        self.context.dispatcher.emit(event)
        if action.name == events.FAILED:
            self.context.failed(self, action.reason)

    # -- the media server ----------------------------------------------------------------------------------------------

    def _fork(self) -> None:
        if self.call.media is not None:
            self._media, self._media_session = self.call.media, self.call.media_session
        media, session = self._media, self._media_session
        if media is None or session is None:
            why = f": {self.call.media_error}" if self.call.media_error else ""
            self._later(Event(Kind.FORK_FAILED, reason=f"the call's media pass through no media server{why}"))
            return
        if self.machine.state is State.FORKING:
            self._attached = self._wall()
        # A dialog there was before: its SRS is lost, and what is said now is for the next one (ERR-09).
        lost = self.machine.state is State.FORKING and self._dialog is not None and bool(self._tag)
        age = self.context.clock.now() - self._since if self._since is not None else None
        transport = self._srtp.ask(self.server)
        flags = MediaFlags(
            media_address=self.settings.media,
            address_family=media_family(self.server, self.settings.media),
            preroll=age,
            hold=lost,
            transport_protocol=transport,
        )
        self._placed = self._moves
        self._subscribe(media, session, flags)

    def _subscribe(self, media: MediaServer, session: MediaSession, flags: MediaFlags) -> None:
        parties = [self.call.from_tag, self.call.callee_tag]
        done = partial(self._subscribed, media, session, flags, self._moves)
        media.subscribe_request(session, parties, done, flags=flags, tag=self._tag)

    def _subscribed(
        self,
        media: MediaServer,
        session: MediaSession,
        flags: MediaFlags,
        moves: int,
        result: Subscription | MediaError,
    ) -> None:
        if moves != self._moves:
            if self.machine.state in (State.ACTIVE, State.PAUSED):
                self._fork()
                return
            if self.machine.state is State.FORKING:
                return  # the other one was asked at once
            result = MediaError("the media server is lost")
        if not isinstance(result, MediaError):
            self._tag = result.tag
            if not self._srtp.transport and any(srtp_sdp.is_dtls(stream.section) for stream in result.streams):
                self._srtp.transport = srtp_sdp.SECURE  # keyed by SDP; DTLS ends at the media server
                self._subscribe(media, session, replace(flags, transport_protocol=srtp_sdp.SECURE))
                return
        self._forked(result)

    @property
    def _left(self) -> bool:
        """Whether the call has gone to another media server, which was not asked for copies yet: that comes next."""
        return self._placed != self._moves

    def _forked(self, result: Subscription | MediaError) -> None:
        if isinstance(result, MediaError):
            self._post(Event(Kind.FORK_FAILED, reason=f"fork: {result}"))
            return
        self._subscription = result
        if self._srtp.transport == srtp_sdp.SECURE and any(
            srtp_sdp.is_plain(stream.section) for stream in result.streams
        ):
            self._post(Event(Kind.FORK_FAILED, reason="fork: the media server offers no SRTP"))
            return
        if self._description is None or self.machine.state is State.FORKING:
            self._new_description()
        else:
            self._description.update(result, self.call.from_tag)
        if self._description is None or not self._description.labels:
            self._post(Event(Kind.FORK_FAILED, reason="fork: the media server offers no stream"))
        else:
            self._post(Event(Kind.FORKED, self._document()))

    def _new_description(self) -> None:
        if self._subscription is not None:
            # The number in o= only has to be unique for us (RFC 8866 5.2).
            number = self.context.agent.random.getrandbits(53)
            self._description = RecordingSdp(str(number))
            self._description.update(self._subscription, self.call.from_tag)

    def _connect(self, withheld: bool, done: Callable[[MediaError | None], None]) -> None:
        media, session, answer = self._media, self._media_session, self._answer
        subscription, description = self._subscription, self._description
        if self._left:
            self.context.clock.call_later(0, done, None)
            return
        if media is None or session is None or answer is None or subscription is None or description is None:
            self.context.clock.call_later(0, done, MediaError("no answer of the SRS"))
            return
        try:
            octets = description.for_media_server(answer, subscription, withheld)
        except SdpError as error:
            self.context.clock.call_later(0, done, MediaError(error.reason))
            return
        media.subscribe_answer(session, self._tag, octets, done)

    def _done(self, well: Kind, badly: Kind) -> Callable[[MediaError | None], None]:
        moves = self._moves

        def done(error: MediaError | None) -> None:
            lost = self._left or moves != self._moves
            if error is None and not lost and well is Kind.CONNECTED and not self._flowing:
                self._flowing = True
                self.context.connected(self)
            # What a media server says, or does not say, that is lost means nothing any more.
            self._post(Event(badly, reason=str(error)) if error is not None and not lost else Event(well))
            if error is None and not lost and well is Kind.CONNECTED:
                self._tell_left_out()

        return done

    def _take_answer(self, answer: SessionDescription) -> None:
        self._answer = answer
        if self._description is not None:
            self._description.took(answer)

    def _tell_left_out(self) -> None:
        """Tell of codecs of the call that the SRS does not take, where nobody transcodes them: once for each change."""
        description, media = self._description, self._media
        if description is None or media is None or not (description.partly or self._left_out):
            return
        left = self.declined if not media.transcodes else {}
        if left == self._left_out:
            return
        self._left_out = left
        if left:
            labels = self.labels
            why = "; ".join(
                f"{'caller' if tag == self.call.from_tag else 'callee'} (label {labels.get((tag, index), '?')}): "
                f"the SRS does not take {', '.join(codecs)}"
                for (tag, index), codecs in left.items()
            )
            log.warning("%s (call %s, SRS %s)", why, self.call.call_id, self.server, extra=self._fields)
            self._notify(Notify(events.NOT_DECODABLE, why, 0, self.machine.target))

    def _gate(self, closed: bool) -> None:
        media, session = self._media, self._media_session
        done = self._done(Kind.GATED, Kind.GATE_FAILED)
        if self._left:
            self.context.clock.call_later(0, done, None)
        elif media is not None and session is not None:
            do = media.pause if closed else media.resume
            do(session, self._tag, done)

    def _release(self) -> None:
        self.context.releasing(self)
        media, session, tag = self._media, self._media_session, self._tag
        self._tag = ""
        # With a call that is over the proxy ends all of it at the media server.
        gone = self.call.end_wall is not None and self.call.media_path is not None
        if media is None or session is None or not tag or gone:
            self._later(Event(Kind.RELEASED))
            return

        def done(error: MediaError | None) -> None:
            if error is not None:
                # The call's end may have been faster: then the media server has forgotten all of it.
                log.debug("unsubscribe: %s (call %s)", error, self.call.call_id, extra=self._fields)
            self._post(Event(Kind.RELEASED))

        media.unsubscribe(session, tag, done)

    # -- the SRS -------------------------------------------------------------------------------------------------------

    def _invite(self, action: Invite) -> None:
        self._new_description()
        self._answer = None
        if self._taken is not None:
            self._taken.begin()
        server = self.targets[action.target]
        why = ""
        if self.profile.signalling == "as-call" and is_secure_call(self.call):
            safe = is_secure_way(server, self.profile, self.settings)
            why = "" if safe else "not reached by TLS, as the call is (signalling)"
        self._dialog = dialog = self._peer_at(server) if not why else None
        if dialog is None:
            target, reason = self._fallback(), why or "no recording session to join"
            self._later(Event(Kind.REFUSED, status=503, reason=reason, again=target >= 0, target=target))
            return
        try:
            body = self._body(action.document, True, action.inactive)
        except SdpError as error:
            self._later(Event(Kind.REFUSED, status=500, reason=f"offer: {error.reason}"))
            return
        self.context.calling(self)
        dialog.invite(body)

    def _peer_at(self, server: str) -> RsPeer | None:
        """A recording session of this call's own with `server`, or its place in one that is shared."""
        context = self.context
        if self.profile.session != "per-call" and context.shared_sessions is not None:
            return context.shared_sessions.join(self.instance, self.profile, self.settings, server, self)
        breadth = _max_breadth(self.call.invite)
        return RsDialog(context.agent, server, self.profile, self.settings, context.from_uri, self, breadth)

    def _body(self, document: Document | None, with_sdp: bool, inactive: bool) -> Body:
        description = self._description
        octets, labels = b"", None
        if with_sdp and description is not None:
            octets = description.offer(inactive)
            labels = self.metadata.labels(description.labels)
        whole = self.machine.sent if document is not None else None
        return Body(octets, write(document, labels) if document is not None else b"", whole, labels or {})

    def _exchange(self, action: Exchange) -> None:
        dialog = self._dialog
        if dialog is None:
            self._later(Event(Kind.EXCHANGE_FAILED, reason="ended"))
            return
        with_sdp = action.offer or dialog.needs_sdp
        try:
            body = self._body(action.document, with_sdp, action.inactive)
        except SdpError as error:
            self._later(Event(Kind.EXCHANGE_FAILED, status=500, reason=f"offer: {error.reason}"))
            return

        def offered(answer: SessionDescription) -> None:
            self._take_answer(answer)

        def done(result: Result) -> None:
            refused = isinstance(result, SipResponse) and result.status in UPDATE_REFUSED
            if refused and not with_sdp and dialog is self._dialog and dialog.needs_sdp:
                self._exchange(action)  # no UPDATE there, whatever its Allow said: the same by re-INVITE
            else:
                self._exchanged(dialog, result, bool(body.sdp))

        dialog.exchange(body, done, offered)

    def _exchanged(self, dialog: RsPeer, result: Result, with_sdp: bool) -> None:
        if dialog is not self._dialog or result == "ended":
            # The dialog is over, which is told by itself (`rs_ended`).
            return
        if isinstance(result, str):
            if result == "timeout" or self._unreachable:
                self._silent(result)
            else:
                # No way to it just now: once more, a little later (ERR-11).
                self._unreachable = True
                self._post(Event(Kind.EXCHANGE_FAILED, status=503, reason=result, retry_after=1.0))
        elif result.status < 300:
            self._unreachable = False
            self._post(Event(Kind.EXCHANGED, media=with_sdp))
            if with_sdp:
                self._check_streams(dialog)
        elif with_sdp and result.status in srtp_sdp.DECLINED and self._becomes_secure:
            if self._srtp.falls_back(self.server, result.status, self._description):
                self._post(Event(Kind.EXCHANGE_FAILED, status=result.status, reason="SRTP declined"))
                self.changed(media=True)
            else:
                self.lost(result.status, "SRTP declined")
        else:
            # 491 and a 500 with Retry-After were repeated by the user agent already (UAC-07).
            seconds = float(retry_after(result) or 0) if result.status == 503 else 0.0
            self._post(Event(Kind.EXCHANGE_FAILED, status=result.status, reason=result.reason, retry_after=seconds))

    @property
    def _becomes_secure(self) -> bool:
        """Whether SRTP is offered for what the SRS gets as plain RTP: the call is SRTP now."""
        description, answer = self._description, self._answer
        return description is not None and answer is not None and description.declined(answer)

    def _silent(self, result: str) -> None:
        if self.machine.state in (State.ACTIVE, State.PAUSED):
            self.context.watch.discard(self)
            self.lost(408, f"no answer: {result}")
        else:
            self._post(Event(Kind.EXCHANGE_FAILED, status=408, reason=result))

    def _answer_peer(self, status: int, withheld: bool) -> None:
        peer, self._peer = self._peer, None
        if peer is None:
            return
        if status != 200:
            peer.refuse(status)
            return
        description = self._description
        if peer.description is None or description is None:
            self._offer_peer(peer, withheld)
            return
        before = self._answer
        try:
            answer = description.answer(peer.description, withheld)
        except SdpError as error:
            why, call_id = error.reason, self.call.call_id
            log.info("offer of the SRS refused: %s (call %s, SRS %s)", why, call_id, self.server, extra=self._fields)
            peer.refuse(488)
            self._later(Event(Kind.PEER_DONE))
            return
        self._answer = peer.description
        wished = frozenset(refused(description, peer.description))
        if wished or self._taken is not None:
            self._taken = self._taken or RefusedStreams(self.profile.on_refused_stream)
            self._taken.wished(wished)

        def connected(error: MediaError | None) -> None:
            if error is None:
                if peer.description is not None:
                    description.took(peer.description)
                peer.answer(Body(answer))
            else:
                self._answer = before
                peer.refuse(500)
            self._post(Event(Kind.PEER_DONE))

        self._connect(withheld, connected)

    def _offer_peer(self, peer: PeerOffer, withheld: bool) -> None:
        """An offerless re-INVITE: our offer and all metadata go in the 200, the answer comes in the ACK."""
        try:
            peer.answer(self._body(self.machine.wanted.document, True, withheld))
        except SdpError:
            peer.refuse(500)
        self._later(Event(Kind.PEER_DONE))

    # -- DialogOwner ---------------------------------------------------------------------------------------------------

    def rs_answered(self, dialog: RsPeer, answer: SessionDescription) -> None:
        """See :class:`siprec.recording.rs_dialog.DialogOwner`."""
        if dialog is self._dialog:
            description = self._description
            refusal = self._srtp.refusal(description, answer) if description is not None else ""
            if refusal and self.machine.state is State.INVITING:
                dialog.bye(lambda result: None)
                self.rs_refused(dialog, 488, refusal)
                return
            if self.machine.state is State.INVITING and self._asks_again(dialog, answer):
                return
            self._srtp.check_way(self.server, description, dialog.way)
            self._take_answer(answer)
            self._unreachable = False
            self.context.health.well(self.server, self.profile, took=True)
            self._post(Event(Kind.ANSWERED))
            if self.machine.state in (State.ACTIVE, State.PAUSED):
                self.context.watch.add(self)

    # -- streams that the SRS does not take ----------------------------------------------------------------------------

    def _not_taken(self, answer: SessionDescription | None) -> dict[tuple[str, int], str]:
        """Streams that were offered and that the SRS does not take, though it did not ask for a pause of them."""
        description = self._description
        if description is None or answer is None or self.machine.sent_inactive:
            return {}
        found = refused(description, answer)
        if self._taken is None:
            if not found:
                return {}
            self._taken = RefusedStreams(self.profile.on_refused_stream)
        return self._taken.judged(found)

    def _asks_again(self, dialog: RsPeer, answer: SessionDescription) -> bool:
        """Whether the first answer leaves out streams, so that the offer is made once more before the recording begins
        there; what becomes of it is told as the answer of the SRS, or as its refusal."""
        found, taken = self._not_taken(answer), self._taken
        if taken is None or not found or taken.pending or not taken.offer_again(found):
            return False
        try:
            body = self._body(None, True, False)
        except SdpError:
            return False
        taken.pending = True
        answers = [answer]

        def done(result: Result | None) -> None:
            limit.cancel()
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
        dialog.exchange(body, done, answers.append)
        return True

    def _check_streams(self, dialog: RsPeer) -> None:
        """The SRS answered an offer in mid-call: what it leaves out is offered once more, and then elsewhere."""
        found, taken = self._not_taken(self._answer), self._taken
        if taken is None or not found or self.machine.state is not State.ACTIVE:
            return
        if taken.offer_again(found):
            self.offer_again()
        elif taken.leave(self.server, found, self.targets):
            reason = f"streams not taken: {'; '.join(found.values())}"
            log.warning("%s (call %s, SRS %s)", reason, self.call.call_id, self.server, extra=self._fields)
            self.context.watch.discard(self)
            dialog.bye(lambda result: None)
            self._post(Event(Kind.LOST, status=488, reason=reason))
        else:
            taken.accept(found)

    def _fallback(self) -> int:
        """The SRS that left out streams, where it is the best that is left of the search; -1: there is none."""
        taken, machine = self._taken, self.machine
        if taken is None or machine.tried + 1 < machine.policy.targets:
            return -1
        return taken.fallback(self.server, self.targets)

    def rs_refused(self, dialog: RsPeer, status: int, reason: str) -> None:
        """See :class:`siprec.recording.rs_dialog.DialogOwner`."""
        if dialog is self._dialog:
            if self.machine.state is not State.ENDING:
                self.context.health.failed(self.server, self.profile, status, reason, dialog.retry_after)
                self._failed_at_srs(status)
            inviting = self.machine.state is State.INVITING
            again = inviting and self._srtp.falls_back(self.server, status, self._description)
            other = self._srtp.afresh(self._description)
            target = self._fallback() if inviting and not again else -1
            again |= target >= 0
            self._post(Event(Kind.REFUSED, status=status, reason=reason, again=again, media=other, target=target))

    def rs_offer(self, dialog: RsPeer, offer: PeerOffer) -> None:
        """See :class:`siprec.recording.rs_dialog.DialogOwner`."""
        if dialog is not self._dialog or self.machine.state in (State.ENDED, State.FORKING, State.INVITING):
            offer.refuse(491 if self._taken is not None and self._taken.pending else 481)
            return
        if self._peer is not None:
            self._peer.refuse(491)
        self._peer = offer
        self._post(Event(Kind.PEER_OFFER))

    def rs_answer_in_ack(self, dialog: RsPeer, answer: SessionDescription) -> None:
        """See :class:`siprec.recording.rs_dialog.DialogOwner`."""
        if dialog is self._dialog:
            self._take_answer(answer)
            self._post(Event(Kind.PEER_ANSWER))

    def rs_snapshot(self, dialog: RsPeer) -> None:
        """See :class:`siprec.recording.rs_dialog.DialogOwner`."""
        if dialog is self._dialog:
            self._post(Event(Kind.SNAPSHOT))

    def rs_key_frame(self, dialog: RsPeer) -> None:
        """See :class:`siprec.recording.rs_dialog.DialogOwner`."""
        media, session = self._media, self._media_session
        if dialog is self._dialog and media is not None and session is not None and self._tag:
            media.key_frame(session, self._tag, self._key_frame_asked)

    def _key_frame_asked(self, error: MediaError | None) -> None:
        if error is not None:
            log.info("key frame for the SRS: %s (call %s)", error, self.call.call_id, extra=self._fields)

    def rs_ended(self, dialog: RsPeer, status: int, reason: str) -> None:
        """See :class:`siprec.recording.rs_dialog.DialogOwner`."""
        if dialog is self._dialog and self._taken is not None and self._taken.pending:
            self._taken.pending = False
            self.rs_refused(dialog, status or 480, reason)
        elif dialog is self._dialog:
            self.context.watch.discard(self)
            self._failed_at_srs(status)
            if status == 408:
                self.context.health.failed(self.server, self.profile, status, reason)
            elif status >= 500:
                # It is there, and others should be tried first: nothing to be found out about its other sessions.
                self.context.health.failed(self.server, self.profile, status, reason, probe=False)
            self._post(Event(Kind.LOST if status else Kind.PEER_BYE, status=status, reason=reason))
