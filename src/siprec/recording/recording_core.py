"""What is known of one recording of one call, by whom it is seen, and how its events are handled."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec.structs import replace

from siprec import sdp
from siprec.media.engine import (
    MediaServer,
    MediaSession,
    Subscription,
)
from siprec.metadata.document import Document
from siprec.metadata.values import IdSource, new_id
from siprec.proxy.call import StartMode
from siprec.recording import events
from siprec.recording.call_metadata import CallMetadata, GroupRegistry
from siprec.recording.confirmation import Recorded
from siprec.recording.events import EventDispatcher, SiprecEvent
from siprec.recording.recording_profile import RecordingProfile
from siprec.recording.refused_streams import RefusedStreams
from siprec.recording.rs_dialog import RsDialog
from siprec.recording.rs_peer import PeerOffer, RsPeer
from siprec.recording.rs_sdp import RecordingSdp
from siprec.recording.session_events import (
    TIMED,
    Action,
    Event,
    Kind,
    Notify,
)
from siprec.recording.session_machine import RecordingSessionFsm
from siprec.recording.settings import RecordingSettings
from siprec.recording.shared_session_pool import SharedSessionPool
from siprec.recording.srs_health import HealthTable
from siprec.recording.srs_liveness import LivenessMonitor
from siprec.recording.srtp_policy import SrtpTerms
from siprec.sdp import SessionDescription
from siprec.sip.clock import Clock, Timer
from siprec.sip.transport import Hop
from siprec.sip.useragent import UserAgent

log = logging.getLogger(__name__)


class RecordingObserver:
    """Hears of the recordings of calls; what a method does not override, it does not want to know. Nothing may be
    raised, and nothing here is waited for."""

    def recording_wanted(self, recording: RecordingCore) -> None:
        """It is to begin, at once or with the answer."""

    def srs_called(self, recording: RecordingCore) -> None:
        """An SRS is about to be called."""

    def media_connected(self, recording: RecordingCore) -> None:
        """The media server copies to the SRS, for the first time in this recording."""

    def copies_ending(self, recording: RecordingCore) -> None:
        """The media server is about to be told to copy no more."""

    def recording_failed(self, recording: RecordingCore, reason: str) -> None:
        """The call is not recorded although it should be, or no longer."""

    def recording_over(self, recording: RecordingCore) -> None:
        """All of it is given back; nothing follows."""


class RecordingObservers:
    """Those who hear of recordings, for each method only those who have one of their own."""

    def __init__(self) -> None:
        self.recording_wanted: list[Callable[[RecordingCore], None]] = []
        self.srs_called: list[Callable[[RecordingCore], None]] = []
        self.media_connected: list[Callable[[RecordingCore], None]] = []
        self.copies_ending: list[Callable[[RecordingCore], None]] = []
        self.recording_failed: list[Callable[[RecordingCore, str], None]] = []
        self.recording_over: list[Callable[[RecordingCore], None]] = []

    def append(self, observer: RecordingObserver) -> None:
        """From now on `observer` hears of them, after those who are there already."""
        for name, hearing in vars(self).items():
            if getattr(type(observer), name) is not getattr(RecordingObserver, name):
                hearing.append(getattr(observer, name))


@dataclass(slots=True)
class RecordingContext:
    """What all recordings of a process share.

    `from_uri` names the SRC in From (RFC 7866 6.1.1); `group_secret` keys group identifiers; `shared_sessions` are the
    recording sessions that calls share; `warned`: SRSs that were warned of already.
    """

    clock: Clock
    agent: UserAgent
    dispatcher: EventDispatcher
    from_uri: str = "sip:siprec@localhost"
    group_secret: bytes = b""
    new_id: IdSource = new_id
    groups: GroupRegistry = field(default_factory=lambda: GroupRegistry(new_id))
    observers: RecordingObservers = field(default_factory=RecordingObservers)
    warned: set[str] = field(default_factory=set)
    health: HealthTable = field(init=False)
    watch: LivenessMonitor = field(init=False)
    shared_sessions: SharedSessionPool = field(init=False)

    def __post_init__(self) -> None:
        self.health = HealthTable(self.clock, self.agent, self.dispatcher)
        self.watch = LivenessMonitor(self.clock)
        self.shared_sessions = SharedSessionPool(self.clock, self.agent, self.from_uri, self.health)
        self.health.observers.append(self.watch)


class RecordingCore:
    """A recording of a call, as others see it."""

    __slots__ = (
        "_answer",
        "_answered",
        "_attached",
        "_described",
        "_description",
        "_dialog",
        "_flowing",
        "_left_out",
        "_media",
        "_media_session",
        "_moves",
        "_peer",
        "_placed",
        "_queue",
        "_refused",
        "_since",
        "_srtp",
        "_subscription",
        "_tag",
        "_timer",
        "_unavailable",
        "call",
        "context",
        "failure",
        "instance",
        "machine",
        "may_return",
        "metadata",
        "profile",
        "settings",
        "start",
        "steered_by",
        "targets",
        "woken",
    )

    def __init__(
        self,
        context: RecordingContext,
        metadata: CallMetadata,
        instance: str,
        profile: RecordingProfile,
        settings: RecordingSettings,
        start: StartMode = "answer",
    ) -> None:
        self.context = context
        self.call = metadata.call
        self.metadata = metadata
        self.instance = instance
        self.profile = profile
        self.settings = settings
        self.start: StartMode = start
        self.targets = profile.targets
        self.machine = RecordingSessionFsm(profile.policy)
        self.steered_by = ""
        """Who asked for the last pause or resumption, as far as it was said."""
        self.failure = ""
        """What was told last of why there is no recording; empty while there is one."""
        self.woken = False
        """It is tried again because an SRS is back."""
        self.may_return = False
        """It failed because its SRSs were down: it may begin again when one is back."""
        self._unavailable = False
        self._queue: list[Event] | None = None
        """Events that came while another one is handled; None: none is."""
        self._timer: Timer | None = None
        # The media server: what it was asked for under which tag, and how often the call went to another one (`_moves`)
        # before it was asked there (`_placed`).
        self._media: MediaServer | None = None
        self._media_session: MediaSession | None = None
        self._tag = ""
        self._moves = self._placed = 0
        self._since: float | None = None
        self._subscription: Subscription | None = None
        self._flowing = False
        # The SRS: our description and its answer, and its own offer while that waits.
        self._dialog: RsPeer | None = None
        self._description: RecordingSdp | None = None
        self._answer: SessionDescription | None = None
        self._answered = b""
        """The answer, once the media server has it: little is asked of it from then on."""
        self._peer: PeerOffer | None = None
        self._srtp = SrtpTerms(profile, metadata.call.call_id, context.warned)
        self._refused: RefusedStreams | None = None
        """Made when an SRS leaves out a stream."""
        self._left_out: dict[tuple[str, int], list[str]] | None = None
        """Codecs that were told of last."""
        self._attached = 0.0
        self._described: object = None

    @property
    def state(self) -> str:
        """``idle`` (wanted, the call is not answered yet), ``forking``, ``inviting``, ``active``, ``paused``,
        ``ending`` or ``ended``."""
        return self.machine.state.value

    @property
    def ending(self) -> bool:
        """Whether it is to end, or over."""
        return self.machine.ending

    @property
    def paused(self) -> bool:
        """Whether media are to be withheld: what is wanted counts, not how far the SRS has followed."""
        return self.machine.wanted.paused

    @property
    def server(self) -> str:
        """The SRS that handles the recording, or is being tried."""
        return self.targets[self.machine.target]

    @property
    def rs_call_id(self) -> str:
        """Call-ID of the present RS dialog, empty if there is none yet."""
        return self._dialog.call_id if self._dialog is not None else ""

    @property
    def hop(self) -> Hop | None:
        """The hop that the SRS was reached by."""
        return self._dialog.hop if self._dialog is not None else None

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
        description, answer = self._description, self._their_answer()
        return description.left_out(answer) if description is not None and answer is not None else {}

    @property
    def labels(self) -> dict[tuple[str, int], str]:
        """The label of each stream, by the tag of its party and its m-line."""
        return self._description.labels if self._description is not None else {}

    @property
    def _fields(self) -> dict[str, str]:
        """What log lines about this recording carry beside what they say."""
        return {"session_id": self.metadata.session_id, "instance": self.instance}

    def _wall(self) -> float:
        """The time of the call: see `Call.wall`."""
        return self.call.wall(self.context.clock.now())

    def pause(self, by: str = "") -> None:
        """Withhold the media (RFC 7866 7.1.1.1); before the recording began: begin it paused. `by`: who asks."""
        self.steered_by = by
        self._post(Event(Kind.PAUSE))

    def resume(self, by: str = "") -> None:
        """Let the media go again."""
        self.steered_by = by
        self._post(Event(Kind.RESUME))

    def _post(self, event: Event) -> None:
        """Handle an event, after those that are being handled."""
        if self._queue is not None:
            self._queue.append(event)
            return
        queue = self._queue = [event]
        try:
            while queue:
                event = queue.pop(0)
                if event.kind in TIMED:
                    event = replace(event, wall=self._wall())
                for action in self.machine.handle(event):
                    self._do(action)
        finally:
            self._queue = None

    def _do(self, action: Action) -> None:
        """Carry out what the machine decided."""
        raise NotImplementedError

    def _later(self, event: Event) -> None:
        self.context.clock.call_later(0, self._post, event)

    def _their_answer(self) -> SessionDescription | None:
        """The SRS's answer to our last offer."""
        return sdp.parse(self._answered) if self._answer is None and self._answered else self._answer

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
            for hear in self.context.observers.recording_failed:
                hear(self, action.reason)
