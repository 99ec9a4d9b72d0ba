"""What goes into the machines of a recording session and what comes out: events and actions, all plain values."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

from msgspec import Struct

from siprec.metadata.document import Document


class State(StrEnum):
    """Where a recording session stands."""

    IDLE = "idle"
    FORKING = "forking"
    INVITING = "inviting"
    ACTIVE = "active"
    PAUSED = "paused"
    ENDING = "ending"
    ENDED = "ended"


class Kind(StrEnum):
    """What can happen to a recording session."""

    START = "start"
    FORKED = "forked"
    FORK_FAILED = "fork failed"
    ANSWERED = "answered"
    REFUSED = "refused"
    CONNECTED = "connected"
    CONNECT_FAILED = "connect failed"
    GATED = "gated"
    GATE_FAILED = "gate failed"
    EXCHANGED = "exchanged"
    EXCHANGE_FAILED = "exchange failed"
    CHANGED = "changed"
    PAUSE = "pause"
    RESUME = "resume"
    SNAPSHOT = "snapshot"
    PEER_OFFER = "peer offer"
    PEER_DONE = "peer done"
    PEER_ANSWER = "peer answer"
    PEER_BYE = "peer bye"
    LOST = "lost"
    OFFER_AGAIN = "offer again"
    MEDIA_LOST = "media lost"
    STOP = "stop"
    BYE_DONE = "bye done"
    RELEASED = "released"
    TIMER = "timer"
    COPY = "copy"
    """From machine to machine: copies for another dialog are needed."""
    CLOSE = "close"
    """From machine to machine: all is said, the dialog may end."""


class Event(Struct, frozen=True, gc=False):
    """One event.

    `document`: the metadata as it is now (with STOP: as it is at the end); `media`: CHANGED concerns the streams, not
    only the metadata, EXCHANGED brought an answer of the SRS, REFUSED: the next SRS needs another fork; `status`,
    `reason`, `retry_after` (seconds): of a failure; `wall`: when, in seconds since the epoch; `again`: REFUSED by an
    SRS that gets another offer; `target`: with `again` the SRS that is called then, -1: the same one.
    """

    kind: Kind
    document: Document | None = None
    media: bool = False
    status: int = 0
    reason: str = ""
    retry_after: float = 0.0
    wall: float = 0.0
    again: bool = False
    target: int = -1


#: Events whose time goes into the metadata: what is recorded ends then, or goes on elsewhere.
TIMED: Final = frozenset(
    {
        Kind.FORK_FAILED,
        Kind.REFUSED,
        Kind.CONNECT_FAILED,
        Kind.GATE_FAILED,
        Kind.EXCHANGE_FAILED,
        Kind.PEER_BYE,
        Kind.LOST,
        Kind.MEDIA_LOST,
    }
)


# -- actions -----------------------------------------------------------------------------------------------------------


class Fork(Struct, frozen=True, gc=False):
    """Have the media server copy the streams, anew if it does already -> FORKED, FORK_FAILED."""


class Invite(Struct, frozen=True, gc=False):
    """Call the SRS `target` (index into the list) with the streams and complete metadata -> ANSWERED, REFUSED."""

    target: int
    document: Document
    inactive: bool


class Cancel(Struct, frozen=True, gc=False):
    """Give up the INVITE (RFC 3261 9.1) -> REFUSED, or ANSWERED when the 2xx was faster."""


class Connect(Struct, frozen=True, gc=False):
    """Tell the media server the SRS's last answer -> CONNECTED, CONNECT_FAILED.

    `withheld`: with every stream inactive, since a pause is wanted. Not every media server has a gate that holds while
    it gets a new answer.
    """

    withheld: bool = False


class Gate(Struct, frozen=True, gc=False):
    """Stop (`closed`) or let go the copied packets at the media server -> GATED, GATE_FAILED."""

    closed: bool


class Exchange(Struct, frozen=True, gc=False):
    """A request inside the RS dialog: re-INVITE with the SDP (`offer`), else UPDATE -> EXCHANGED, EXCHANGE_FAILED."""

    document: Document | None
    offer: bool
    inactive: bool


class AnswerPeer(Struct, frozen=True, gc=False):
    """Take the offer the SRS made (with nothing to be sent: `withheld`), or refuse it with `status` -> PEER_DONE (when
    taken)."""

    status: int = 200
    withheld: bool = False


class Bye(Struct, frozen=True, gc=False):
    """End the RS dialog -> BYE_DONE."""


class Release(Struct, frozen=True, gc=False):
    """Have the media server end the fork -> RELEASED, whatever comes of it."""


class SetTimer(Struct, frozen=True, gc=False):
    """-> TIMER after `delay` seconds; replaces the one that runs. A negative delay only cancels."""

    delay: float


class Notify(Struct, frozen=True, gc=False):
    """Tell the subscribers: an event of :mod:`siprec.recording.events`, about the SRS `target`."""

    name: str
    reason: str = ""
    status: int = 0
    target: int = 0


class Finished(Struct, frozen=True, gc=False):
    """All is given back; nothing follows."""


Action = Fork | Invite | Cancel | Connect | Gate | Exchange | AnswerPeer | Bye | Release | SetTimer | Notify | Finished


class Policy(Struct, frozen=True, gc=False):
    """What a recording session needs of its profile. `targets`: number of SRSs; times in seconds."""

    targets: int = 1
    skip_failover_codes: str = ""
    rebuilds: int = 3
    end_timeout: float = 5.0
    complete_updates: bool = False

    def gives_up(self, status: int) -> bool:
        """Whether a reply with this code ends the search for an SRS."""
        return bool(self.skip_failover_codes) and re.search(self.skip_failover_codes, str(status)) is not None
