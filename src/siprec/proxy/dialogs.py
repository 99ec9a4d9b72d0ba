"""Dialogs that pass through the proxy: followed, never interfered with (DLG-01 to DLG-09, OA-01 to OA-09, TMR-05).

A dialog is one pair of tags of one call (DLG-02): an INVITE that forks makes several. Sides are ``caller`` (who sent
the INVITE) and ``callee``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from siprec.proxy.call import Call
from siprec.proxy.call_media_session import sdp_of
from siprec.proxy.connected_identity import Party
from siprec.proxy.midcall_requests import CseqShift
from siprec.proxy.peers import Peers, contact_of
from siprec.proxy.record_attribute import SentSdp
from siprec.proxy.session_timer import smallest
from siprec.sip.clock import Clock, Timer
from siprec.sip.errors import SipError
from siprec.sip.headers import SessionExpires
from siprec.sip.message import SipMessage, SipRequest, SipResponse
from siprec.sip.transport import Hop

log = logging.getLogger(__name__)

Side = Literal["caller", "callee"]
OTHER: Final[dict[Side, Side]] = {"caller": "callee", "callee": "caller"}
SIDES: Final[tuple[Side, Side]] = ("caller", "callee")
_SWEEP: Final = 30.0
#: Seconds that a dialog is remembered after its end (64*T1 and as much again for what crossed).
REMEMBER: Final = 64.0
#: The same for one that we stopped following while its parties may still talk, and how many of those are kept.
REMEMBER_FORGOTTEN: Final = 43200.0
MAX_FORGOTTEN: Final = 20_000
_FORGOTTEN: Final = frozenset({"expired", "idle", "too old"})
# DLG-03: what ends a dialog as the answer to a BYE; anything else (401, 503...) leaves it.
_BYE_ENDS: Final = frozenset({408, 481})


@dataclass(slots=True)
class Exchange:
    """An offer that waits for its answer: who made it, with which request (method and CSeq number)."""

    offerer: Side
    sdp: bytes
    method: str
    number: int
    told: SentSdp | None = None
    """What the other side had been told before; it counts again when the offer is refused."""


@dataclass(slots=True)
class ProxiedDialog:
    """One dialog. Times in `_wall` are seconds since the epoch, `seen` and `expires` monotonic."""

    call: Call
    callee_tag: str
    state: str = "early"
    created_wall: float = 0.0
    confirmed_wall: float | None = None
    ended_wall: float | None = None
    seen: float = 0.0
    session_interval: int = 0
    expires: float | None = None
    sdp: dict[Side, bytes] = field(default_factory=dict)
    contact: dict[Side, str] = field(default_factory=dict)
    flow: dict[Side, Hop] = field(default_factory=dict)
    cseq: dict[Side, int] = field(default_factory=dict)
    open: Exchange | None = None
    answered_in: int = -1
    parties: dict[Side, Party] = field(default_factory=dict)
    told: dict[Side, SentSdp] = field(default_factory=dict)
    aware: set[Side] = field(default_factory=set)
    """Who said ``Supported: record-aware`` (RFC 7866 6.1.2)."""
    lanes: dict[Side, CseqShift] = field(default_factory=dict)
    relocated: set[Side] = field(default_factory=set)
    """Who has to be told that the media go through another server now."""
    unsettled: set[tuple[Side, int]] = field(default_factory=set)
    """INVITEs that are not acknowledged and UPDATEs that are not answered: who sent them, CSeq number."""
    refresher: Side | None = None
    peers: Peers = field(default_factory=Peers)
    unnamed: SipRequest | None = None
    """A re-INVITE with a late offer, whose ACK will tell where its sender's media come from."""

    @property
    def relaying(self) -> list[Side]:
        """The parties that send to the media server, as far as they were told."""
        return [side for side in SIDES if (told := self.told.get(side)) is not None and told.next_relayed]

    @property
    def caller_tag(self) -> str:
        """The tag of who sent the INVITE."""
        return self.call.from_tag

    @property
    def dlg_id(self) -> str:
        """The id of its call."""
        return self.call.dlg_id

    def tag(self, side: Side) -> str:
        """The tag of one side."""
        return self.call.from_tag if side == "caller" else self.callee_tag

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
            "caller_contact": self.contact.get("caller", ""),
            "callee_contact": self.contact.get("callee", ""),
            "state": self.state,
            "created": self.created_wall,
            "confirmed": self.confirmed_wall,
            "ended": self.ended_wall,
            "session_interval": self.session_interval,
            "caller_cseq": self.cseq.get("caller", -1),
            "callee_cseq": self.cseq.get("callee", -1),
        }


@dataclass(frozen=True, slots=True)
class EndedDialog:
    """What is remembered of a dialog that is over, or (`forgotten`) that we follow no longer: requests that crossed its
    end still reach their peer, and nothing else does. `until` is monotonic."""

    dlg_id: str
    call_id: str
    caller_tag: str
    callee_tag: str
    peers: Peers
    contact: dict[Side, str]
    flow: dict[Side, Hop]
    forgotten: bool
    until: float


DialogEnded = Callable[[ProxiedDialog, str, "SipMessage | None", str], None]


class DialogTable:
    """All dialogs. `ended(dialog, reason, message, side)` is called when a confirmed dialog is over; `idle` and
    `max_age` in seconds say when one without a session timer is taken for dead (0: never)."""

    def __init__(self, clock: Clock, ended: DialogEnded, *, idle: float = 43200.0, max_age: float = 0.0) -> None:
        self._clock = clock
        self._ended = ended
        self._idle = idle
        self._max_age = max_age
        self.check: Callable[[ProxiedDialog, str], None] | None = None
        """Asked before a dialog that seems dead is ended: it ends it, or not."""
        self._dialogs: dict[tuple[str, str], ProxiedDialog] = {}
        self._by_tags: dict[tuple[str, str, str], ProxiedDialog] = {}
        self._of_call: dict[str, list[ProxiedDialog]] = {}
        self._over: dict[str, dict[str, EndedDialog]] = {}
        self._over_by_tags: dict[tuple[str, str, str], EndedDialog] = {}
        self._forgotten = 0
        self._call_ids: dict[str, int] = {}
        self._sweep: Timer | None = None

    def __len__(self) -> int:
        return len(self._dialogs)

    def all(self) -> list[ProxiedDialog]:
        """The live ones."""
        return list(self._dialogs.values())

    def snapshot(self) -> list[dict[str, object]]:
        """All of them as plain values."""
        return [dialog.snapshot() for dialog in self._dialogs.values()]

    def of(self, call: Call) -> list[ProxiedDialog]:
        """The dialogs of one call."""
        return list(self._of_call.get(call.dlg_id, ()))

    def find(self, message: SipMessage, dlg_id: str = "") -> tuple[ProxiedDialog, Side] | None:
        """The dialog an in-dialog request belongs to, and who sent it. `dlg_id` from our cookie tells spirals apart.

        Raises:
            SipError: From, To or Call-ID malformed.
        """
        from_tag, to_tag = message.from_tag, message.to_tag
        if dlg_id:
            dialog = self._dialogs.get((dlg_id, to_tag))
            if dialog is not None and dialog.caller_tag == from_tag:
                return dialog, "caller"
            dialog = self._dialogs.get((dlg_id, from_tag))
            if dialog is not None and dialog.caller_tag == to_tag:
                return dialog, "callee"
            return None
        call_id = message.call_id
        dialog = self._by_tags.get((call_id, from_tag, to_tag))
        if dialog is not None:
            return dialog, "caller"
        dialog = self._by_tags.get((call_id, to_tag, from_tag))
        return (dialog, "callee") if dialog is not None else None

    def by_tags(self, call_id: str, local_tag: str, remote_tag: str) -> tuple[ProxiedDialog, Side] | None:
        """A live dialog, and the side that has `local_tag` for its own (Replaces, RFC 3891)."""
        dialog = self._by_tags.get((call_id, local_tag, remote_tag))
        if dialog is not None:
            return dialog, "caller"
        dialog = self._by_tags.get((call_id, remote_tag, local_tag))
        return (dialog, "callee") if dialog is not None else None

    def find_over(self, message: SipMessage, dlg_id: str = "") -> tuple[EndedDialog, Side] | None:
        """Like `find`, for a dialog that was ended not long ago (RR-08)."""
        from_tag, to_tag = message.from_tag, message.to_tag
        if dlg_id:
            of_call = self._over.get(dlg_id, {})
            over = of_call.get(to_tag)
            if over is not None and over.caller_tag == from_tag:
                return over, "caller"
            over = of_call.get(from_tag)
            return (over, "callee") if over is not None and over.caller_tag == to_tag else None
        call_id = message.call_id
        over = self._over_by_tags.get((call_id, from_tag, to_tag))
        if over is not None:
            return over, "caller"
        over = self._over_by_tags.get((call_id, to_tag, from_tag))
        return (over, "callee") if over is not None else None

    def is_over(self, message: SipMessage, dlg_id: str) -> bool:
        """Whether the dialog was ended not long ago (RR-08)."""
        return self.find_over(message, dlg_id) is not None

    def knows(self, call_id: str) -> bool:
        """Whether a dialog with this Call-ID is, or was not long ago."""
        return call_id in self._call_ids

    def siblings(self, dlg_id: str, callee_tag: str) -> list[Peers]:
        """The peers of the other dialogs of a call, live and over: a fork that was answered twice, early dialogs."""
        found = [each.peers for each in self._of_call.get(dlg_id, ()) if each.callee_tag != callee_tag]
        return found + [each.peers for tag, each in self._over.get(dlg_id, {}).items() if tag != callee_tag]

    # -- what passes -----------------------------------------------------------------------------------------------

    def request(self, dialog: ProxiedDialog, side: Side, request: SipRequest, flow: Hop | None) -> None:
        """A request of `side` within the dialog is being forwarded."""
        dialog.seen = self._clock.now()
        number = request.cseq.number
        if number > dialog.cseq.get(side, -1):
            dialog.cseq[side] = number
        if flow is not None:
            dialog.flow[side] = flow

    def offered(self, dialog: ProxiedDialog, side: Side, request: SipRequest, sdp: bytes) -> Literal["offer", "answer"]:
        """What the SDP of a request is: the answer to an offer of the other side (in ACK and PRACK), else an offer."""
        exchange = dialog.open
        if exchange is not None and exchange.offerer != side and request.method in ("ACK", "PRACK"):
            self._complete(dialog, exchange, side, sdp)
            return "answer"
        if request.method == "ACK":
            return "answer"  # of a 2xx that came again: the exchange is complete
        dialog.open = Exchange(side, sdp, request.method, request.cseq.number)
        return "offer"

    def _complete(self, dialog: ProxiedDialog, exchange: Exchange, side: Side, sdp: bytes) -> None:
        dialog.open = None
        dialog.sdp[exchange.offerer] = exchange.sdp
        dialog.sdp[side] = sdp

    def acknowledged(self, dialog: ProxiedDialog, side: Side, number: int) -> bool:
        """The ACK of `side` for its INVITE has no description: what that INVITE offered was answered in a response
        before, or never will be. Returns whether an offer was open."""
        exchange = dialog.open
        if exchange is None or exchange.offerer != side or (exchange.method, exchange.number) != ("INVITE", number):
            return False
        dialog.open = None
        dialog.sdp.setdefault(side, exchange.sdp)
        return True

    def refused(self, dialog: ProxiedDialog, side: Side, request: SipRequest) -> Exchange | None:
        """A request of `side` was refused; the offer in it, which leaves the session as it was (OA-05)."""
        exchange = dialog.open
        if exchange is None or exchange.offerer != side or exchange.number != request.cseq.number:
            return None
        dialog.open = None
        return exchange

    def early(self, call: Call, response: SipResponse, request: SipRequest) -> ProxiedDialog | None:
        """The dialog that a response to an initial INVITE belongs to, made when it is new (DLG-01)."""
        tag = response.to_tag
        if not tag:
            return None
        key = (call.dlg_id, tag)
        dialog = self._dialogs.get(key)
        if dialog is None:
            now = self._clock.now()
            dialog = ProxiedDialog(call, tag, created_wall=call.wall(now), seen=now)
            dialog.cseq["caller"] = request.cseq.number
            dialog.unsettled.add(("caller", request.cseq.number))
            dialog.contact["caller"] = contact_of(request)
            dialog.peers.caller.contact(dialog.contact["caller"])
            if request.has("record-route"):
                dialog.peers.caller.route(request.values("record-route"))
            offer = sdp_of(request)
            if offer:
                dialog.open = Exchange("caller", offer, "INVITE", request.cseq.number)
            self._dialogs[key] = dialog
            self._of_call.setdefault(call.dlg_id, []).append(dialog)
            self._by_tags.setdefault((call.call_id, call.from_tag, tag), dialog)
            self._call_ids[call.call_id] = self._call_ids.get(call.call_id, 0) + 1
            over = self._over.get(call.dlg_id, {}).get(tag)
            if over is not None:
                self._drop_over(over)
            self._arm()
        return dialog

    def late(self, call: Call, response: SipResponse, request: SipRequest) -> EndedDialog:
        """The dialog of a 2xx that comes when its call is over (a fork that answers late): it is not followed, but the
        caller's ACK and BYE still reach it."""
        tag = response.to_tag
        over = self._over.get(call.dlg_id, {}).get(tag)
        if over is None:
            dialog = ProxiedDialog(call, tag)
            dialog.contact["caller"] = contact_of(request)
            dialog.peers.caller.contact(dialog.contact["caller"])
            dialog.peers.caller.route(request.values("record-route"))
            self._call_ids[call.call_id] = self._call_ids.get(call.call_id, 0) + 1
            over = self._remember(dialog, "late")
            self._arm()
        return over

    def response(
        self, dialog: ProxiedDialog, side: Side, request: SipRequest, response: SipResponse, sdp: bytes
    ) -> tuple[Literal["", "offer", "answer"], bool]:
        """A response to a request of `side` is being forwarded, `sdp` from the other side in it.

        Returns what the description is (nothing: of no concern), and whether an exchange is complete with it.
        """
        dialog.seen = self._clock.now()
        status, method = response.status, request.method
        if 200 <= status < 300:
            self._succeeded(dialog, side, request, response)
        exchange, answerer = dialog.open, OTHER[side]
        number = request.cseq.number
        ours = exchange is not None and exchange.method == method and exchange.number == number
        if status >= 300:
            if ours:
                dialog.open = None  # OA-05: the session stays as it was
            return "", False
        if not sdp or method not in ("INVITE", "UPDATE", "PRACK"):
            if ours and status >= 200 and method != "INVITE":
                dialog.open = None  # an offer that was not answered
            return "", False
        if exchange is not None and ours and exchange.offerer == side:
            reliable = status >= 200 or response.has("rseq")
            if method == "INVITE" and not reliable:
                # OA-03: may be lost; what it says is good for early media, the 2xx has the last word.
                dialog.sdp[side] = exchange.sdp
                dialog.sdp[answerer] = sdp
                return "answer", False
            self._complete(dialog, exchange, answerer, sdp)
            dialog.answered_in = number if method == "INVITE" else dialog.answered_in
            return "answer", True
        if method == "INVITE" and exchange is None:
            if dialog.answered_in == number:
                return "answer", False  # OA-02: came before in this transaction
            if status >= 200 or response.has("rseq"):
                # OA-04, a late offer; the ACK or PRACK has its answer.
                dialog.open = Exchange(answerer, sdp, "INVITE", number)
                dialog.answered_in = number
                return "offer", False
        if exchange is not None and exchange.offerer == answerer and method == "INVITE":
            return "offer", False  # the late offer came again
        return "", False

    def _succeeded(self, dialog: ProxiedDialog, side: Side, request: SipRequest, response: SipResponse) -> None:
        method = request.method
        if method not in ("INVITE", "UPDATE"):
            return
        # DLG-05: both sides' targets, now that the request was accepted.
        for each, message in ((side, request), (OTHER[side], response)):
            contact = contact_of(message)
            if contact:
                dialog.contact[each] = contact
        interval = 0
        value = response.get("session-expires")
        if value is not None:
            try:
                timer = SessionExpires.parse(value)
                # RFC 4028 4, 8.2: the header is the UAS's affair, but nobody has to refresh a session more often.
                interval = max(timer.interval, smallest(request, response)) if timer.interval else 0
                dialog.refresher = side if timer.refresher == "uac" else OTHER[side]
            except SipError:
                interval = 0
        dialog.session_interval = interval
        dialog.expires = self._clock.now() + interval if interval else None
        if dialog.state == "early" and method == "INVITE":
            dialog.state = "confirmed"
            dialog.confirmed_wall = dialog.call.wall(self._clock.now())

    # -- the end ---------------------------------------------------------------------------------------------------

    def bye_answered(self, dialog: ProxiedDialog, bye: SipRequest, side: Side, status: int) -> None:
        """A final response to a BYE was forwarded, or none came (408) (DLG-03)."""
        if 200 <= status < 300 or status in _BYE_ENDS:
            self.end(dialog, "bye", bye, side)

    def end(self, dialog: ProxiedDialog, reason: str, message: SipMessage | None = None, side: str = "") -> None:
        """The dialog is over; DLG-09: nothing is sent."""
        key = (dialog.call.dlg_id, dialog.callee_tag)
        if self._dialogs.pop(key, None) is None:
            return
        tags = (dialog.call.call_id, dialog.call.from_tag, dialog.callee_tag)
        if self._by_tags.get(tags) is dialog:
            del self._by_tags[tags]
        siblings = self._of_call.get(dialog.call.dlg_id, [])
        siblings.remove(dialog)
        if not siblings:
            self._of_call.pop(dialog.call.dlg_id, None)
        dialog.state = "terminated"
        dialog.ended_wall = dialog.call.wall(self._clock.now())
        self._remember(dialog, reason)
        self._ended(dialog, reason, message, side)

    def _remember(self, dialog: ProxiedDialog, reason: str) -> EndedDialog:
        call = dialog.call
        forgotten = reason in _FORGOTTEN and self._forgotten < MAX_FORGOTTEN
        until = self._clock.now() + (REMEMBER_FORGOTTEN if forgotten else REMEMBER)
        over = EndedDialog(
            call.dlg_id,
            call.call_id,
            call.from_tag,
            dialog.callee_tag,
            dialog.peers,
            dialog.contact,
            dialog.flow,
            forgotten,
            until,
        )
        self._over.setdefault(call.dlg_id, {})[dialog.callee_tag] = over
        self._over_by_tags[call.call_id, call.from_tag, dialog.callee_tag] = over
        self._forgotten += forgotten
        return over

    def _drop_over(self, over: EndedDialog) -> None:
        of_call = self._over[over.dlg_id]
        del of_call[over.callee_tag]
        if not of_call:
            del self._over[over.dlg_id]
        tags = (over.call_id, over.caller_tag, over.callee_tag)
        if self._over_by_tags.get(tags) is over:
            del self._over_by_tags[tags]
        self._forgotten -= over.forgotten
        left = self._call_ids[over.call_id] - 1
        if left:
            self._call_ids[over.call_id] = left
        else:
            del self._call_ids[over.call_id]

    def end_early(self, call: Call, keep: str = "") -> None:
        """The INVITE transaction of a call is over: what is still early goes, but for the dialog with tag `keep`."""
        for dialog in self.of(call):
            if dialog.state == "early" and dialog.callee_tag != keep:
                self.end(dialog, "lost")

    def made_by(self, call: Call, response: SipResponse) -> ProxiedDialog | None:
        """The live dialog that a response to the initial INVITE has made."""
        return self._dialogs.get((call.dlg_id, response.to_tag))

    def _arm(self) -> None:
        if self._sweep is None:
            self._sweep = self._clock.call_later(_SWEEP, self._swept)

    def _swept(self) -> None:
        """Free what is dead. One timer for all: thousands of dialogs cost a look each half minute."""
        self._sweep = None
        now = self._clock.now()
        for over in [each for of_call in self._over.values() for each in of_call.values() if each.until <= now]:
            self._drop_over(over)
        for dialog in list(self._dialogs.values()):
            reason = self._dead(dialog, now)
            if reason and self.check is not None:
                self.check(dialog, reason)
            elif reason:
                log.info("dialog %s, Call-ID %s", reason, dialog.call.call_id)
                self.end(dialog, reason)
        if self._dialogs or self._over:
            self._arm()

    def _dead(self, dialog: ProxiedDialog, now: float) -> str:
        if dialog.state != "confirmed":
            return ""  # ends with its INVITE transaction
        if dialog.expires is not None:
            return "expired" if dialog.expires <= now else ""
        if self._idle and dialog.seen + self._idle <= now:
            return "idle"
        age = dialog.call.wall(now) - dialog.created_wall
        return "too old" if self._max_age and age >= self._max_age else ""
