"""A dialog that passes through the proxy: one pair of tags of one call (RFC 3261 12).

An INVITE that forks makes several. Sides are ``caller`` (who sent the INVITE) and ``callee``.
"""

from __future__ import annotations

from typing import Literal

from siprec.proxy.call import Call
from siprec.proxy.peers import Ends, Peer, Side
from siprec.proxy.record_attribute import SentSdp
from siprec.sip.message import SipRequest

DialogState = Literal["early", "confirmed", "terminated"]


class OpenOffer:
    """An offer that waits for its answer: who made it, with which request (method and CSeq number). `sent_before` is
    what the other side had been told before; it counts again when the offer is refused."""

    __slots__ = ("method", "number", "offerer", "sdp", "sent_before")

    def __init__(self, offerer: Side, sdp: bytes, method: str, number: int) -> None:
        self.offerer: Side = offerer
        self.sdp = sdp
        self.method = method
        self.number = number
        self.sent_before: SentSdp | None = None

    def is_of(self, request: SipRequest) -> bool:
        """Whether it was made with this request."""
        return self.method == request.method and self.number == request.cseq.number


class ProxiedDialog(Ends):
    """One live dialog. Times in `_wall` are seconds since the epoch, `seen` and `expires` monotonic."""

    __slots__ = (
        "answered_in",  # CSeq number of the INVITE whose offer was answered, or whose late offer was made
        "call",
        "callee_tag",
        "confirmed_wall",
        "created_wall",
        "ended_wall",
        "expires",  # when the session ends that nobody refreshes (RFC 4028); None: no session timer
        "offered_late",  # whether it was a late offer, in the responses to that INVITE
        "open",
        "refresher",
        "seen",  # when a message passed last
        "session_interval",
        "state",
        "unnamed",  # a re-INVITE with a late offer, whose ACK will tell where its sender's media come from
        "unsettled",  # INVITEs that are not acknowledged and UPDATEs that are not answered: who sent them, CSeq number
    )

    def __init__(self, call: Call, callee_tag: str, created_wall: float = 0.0, seen: float = 0.0) -> None:
        self.caller = Peer()
        self.callee = Peer()
        self.call = call
        self.callee_tag = callee_tag
        self.state: DialogState = "early"
        self.created_wall = created_wall
        self.confirmed_wall: float | None = None
        self.ended_wall: float | None = None
        self.seen = seen
        self.session_interval = 0
        self.expires: float | None = None
        self.open: OpenOffer | None = None
        self.answered_in = -1
        self.offered_late = False
        self.unsettled: tuple[tuple[Side, int], ...] = ()
        self.refresher: Side | None = None
        self.unnamed: SipRequest | None = None

    @property
    def relaying(self) -> list[Side]:
        """The parties that send to the media server, as far as they were told."""
        found: list[Side] = []
        if self.caller.sent_sdp is not None and self.caller.sent_sdp.next_relayed:
            found.append("caller")
        if self.callee.sent_sdp is not None and self.callee.sent_sdp.next_relayed:
            found.append("callee")
        return found

    @property
    def caller_tag(self) -> str:
        """The tag of who sent the INVITE."""
        return self.call.from_tag

    @property
    def dlg_id(self) -> str:
        """The id of its call."""
        return self.call.dlg_id

    @property
    def forgotten(self) -> bool:
        """It is followed."""
        return False

    def tag(self, side: Side) -> str:
        """The tag of one side."""
        return self.call.from_tag if side == "caller" else self.callee_tag

    def sent(self, side: Side) -> SentSdp:
        """What `side` was told last, noted from now on."""
        peer = self[side]
        if peer.sent_sdp is None:
            peer.sent_sdp = SentSdp()
        return peer.sent_sdp

    def begin(self, side: Side, number: int) -> None:
        """`side` has sent an INVITE or UPDATE."""
        if (side, number) not in self.unsettled:
            self.unsettled = (*self.unsettled, (side, number))

    def settle(self, side: Side, number: int) -> None:
        """An INVITE or UPDATE of `side` is through."""
        if self.unsettled:
            self.unsettled = tuple(each for each in self.unsettled if each != (side, number))

    def snapshot(self) -> dict[str, object]:
        """The dialog as plain values."""
        call = self.call
        return {
            "dlg_id": call.dlg_id,
            "call_id": call.call_id,
            "caller_tag": self.caller_tag,
            "callee_tag": self.callee_tag,
            "caller": call.caller.uri_text,
            "callee": call.callee.uri_text,
            "caller_contact": self.caller.target,
            "callee_contact": self.callee.target,
            "state": self.state,
            "created": self.created_wall,
            "confirmed": self.confirmed_wall,
            "ended": self.ended_wall,
            "session_interval": self.session_interval,
            "caller_cseq": self.caller.cseq,
            "callee_cseq": self.callee.cseq,
        }


class EndedDialog(Ends):
    """What is remembered of a dialog that is over, or (`forgotten`) that we follow no longer: requests that crossed its
    end still reach their peer, and nothing else does. `until` is monotonic."""

    __slots__ = ("call_id", "callee_tag", "caller_tag", "dlg_id", "forgotten", "until")

    def __init__(self, dialog: ProxiedDialog, forgotten: bool, until: float) -> None:
        super().__init__(dialog.caller, dialog.callee)
        self.caller.forget_session()
        self.callee.forget_session()
        self.dlg_id = dialog.call.dlg_id
        self.call_id = dialog.call.call_id
        self.caller_tag = dialog.call.from_tag
        self.callee_tag = dialog.callee_tag
        self.forgotten = forgotten
        self.until = until
