"""What a recording session should be, what it is, what follows from both, and what its tables ask about it."""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct, field

from siprec.metadata.diff import diff
from siprec.metadata.document import Document
from siprec.recording.session_events import Event, Policy, State

MAX_RETRIES: Final = 5
_DIALOG_GONE: Final = frozenset({408, 481})

ForkState = Literal["none", "pending", "held", "releasing"]
DialogState = Literal["none", "calling", "up", "closing"]
ExchangeState = Literal["idle", "forking", "gating", "connecting", "offering", "updating", "waiting"]


class Wanted(Struct, gc=False):
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


class Actual(Struct, gc=False):
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


class SessionState(Struct, gc=False):
    """One recording session. Plain values throughout: it can be stored and taken up elsewhere, and is in no cycle that
    the garbage collector would have to find."""

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

    # -- guards --------------------------------------------------------------------------------------------------------

    def _if_ending(self, event: Event) -> bool:
        """The session is to end."""
        return self.ending

    def _if_running(self, event: Event) -> bool:
        """It is not to end."""
        return not self.ending

    def _if_streams_changed(self, event: Event) -> bool:
        """The streams changed while the media server was asked to copy them."""
        return self.wanted.streams

    def _if_not_forking(self, event: Event) -> bool:
        """No renewal of the copies is under way."""
        return self.exchange != "forking"

    def _if_copies_are_there(self, event: Event) -> bool:
        """These are the copies that the dialog waits for."""
        return self.fork == "held" and self.exchange == "idle" and not self.ending

    def _if_other_offer(self, event: Event) -> bool:
        """There is another offer for this SRS, or one that refused is taken after all."""
        return event.again

    def _if_other_srs(self, event: Event) -> bool:
        """There is another SRS in the list, and the code does not end the search."""
        return self.tried + 1 < self.policy.targets and not self.policy.gives_up(event.status)

    def _if_other_srs_and_streams(self, event: Event) -> bool:
        """The same, and it needs other copies."""
        return (self.wanted.streams or event.media) and self._if_other_srs(event)

    def _if_up(self, event: Event) -> bool:
        """The dialog is up."""
        return self.dialog == "up"

    def _if_ending_and_up(self, event: Event) -> bool:
        """The dialog is up, and to be ended."""
        return self.ending and self.dialog == "up"

    def _if_ending_and_gone(self, event: Event) -> bool:
        """The dialog is to be ended, and unknown to the SRS."""
        return self._if_ending_and_up(event) and event.status in _DIALOG_GONE

    def _if_gone(self, event: Event) -> bool:
        """The SRS does not know the dialog, or is silent (RFC 3261 12.2.1.2)."""
        return not self.ending and event.status in _DIALOG_GONE

    def _if_later(self, event: Event) -> bool:
        """The SRS takes it later: 491, or Retry-After."""
        return not self.ending and (event.status == 491 or event.retry_after > 0) and self.retries < MAX_RETRIES

    def _if_more_due_after_refusal(self, event: Event) -> bool:
        """Something is still to be done, also when this is taken as refused."""
        if self.ending:
            return False
        paused, inactive = self.wanted.paused, self.actual.inactive
        if self.exchange == "offering" and self.sent_inactive != inactive:
            paused, inactive = paused or not self.sent_inactive, True
        return self.wanted.streams or not self.actual.connected or paused != inactive

    def _if_can_answer(self, event: Event) -> bool:
        """Nothing is under way that an offer of the SRS would overtake."""
        return self.dialog == "up" and not self.ending and not self.answering
