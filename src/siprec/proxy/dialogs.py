"""All dialogs that pass through the proxy: found, followed and ended, never interfered with (RFC 3261 12, RFC 4028 8).

A dialog is one pair of tags of one call: an INVITE that forks makes several.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from siprec.proxy.call import Call
from siprec.proxy.dialog import EndedDialog, OpenOffer, ProxiedDialog
from siprec.proxy.peers import OTHER, Ends, Side, contact_of
from siprec.proxy.sdp_body import sdp_of
from siprec.proxy.session_timer import smallest
from siprec.sip.clock import Clock, Timer
from siprec.sip.errors import SipError
from siprec.sip.headers import SessionExpires
from siprec.sip.message import SipMessage, SipRequest, SipResponse
from siprec.sip.transport import Hop

log = logging.getLogger(__name__)

_SWEEP: Final = 30.0
#: Seconds that a dialog is remembered after its end (64*T1 and as much again for what crossed).
REMEMBER: Final = 64.0
#: The same for one that we stopped following while its parties may still talk, and how many of those are kept.
REMEMBER_FORGOTTEN: Final = 43200.0
MAX_FORGOTTEN: Final = 20_000
_FORGOTTEN: Final = frozenset({"expired", "idle", "too old"})
# What ends a dialog as the answer to a BYE; anything else (401, 503...) leaves it.
_BYE_ENDS: Final = frozenset({408, 481})


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
            if dialog is not None and dialog.call.from_tag == from_tag:
                return dialog, "caller"
            dialog = self._dialogs.get((dlg_id, from_tag))
            if dialog is not None and dialog.call.from_tag == to_tag:
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
        """Like `find`, for a dialog that was ended not long ago."""
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
        """Whether the dialog was ended not long ago."""
        return self.find_over(message, dlg_id) is not None

    def knows(self, call_id: str) -> bool:
        """Whether a dialog with this Call-ID is, or was not long ago."""
        return call_id in self._call_ids

    def siblings(self, dlg_id: str, callee_tag: str) -> list[Ends]:
        """The other dialogs of a call, live and over: a fork that was answered twice, early dialogs."""
        found: list[Ends] = [each for each in self._of_call.get(dlg_id, ()) if each.callee_tag != callee_tag]
        return found + [each for tag, each in self._over.get(dlg_id, {}).items() if tag != callee_tag]

    # -- what passes -----------------------------------------------------------------------------------------------

    def request(self, dialog: ProxiedDialog, side: Side, request: SipRequest, flow: Hop | None) -> None:
        """A request of `side` within the dialog is being forwarded."""
        dialog.seen = self._clock.now()
        peer = dialog.caller if side == "caller" else dialog.callee
        peer.cseq = max(peer.cseq, request.cseq.number)
        if flow is not None:
            peer.flow = flow

    def early(self, call: Call, response: SipResponse, request: SipRequest) -> ProxiedDialog | None:
        """The dialog that a response to an initial INVITE belongs to, made when it is new."""
        tag = response.to_tag
        if not tag:
            return None
        key = (call.dlg_id, tag)
        dialog = self._dialogs.get(key)
        if dialog is None:
            now = self._clock.now()
            dialog = ProxiedDialog(call, tag, call.wall(now), now)
            number = dialog.caller.cseq = request.cseq.number
            dialog.unsettled = (("caller", number),)
            _meet(dialog, request)
            offer = sdp_of(request)
            if offer:
                dialog.open = OpenOffer("caller", offer, "INVITE", number)
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
            _meet(dialog, request)
            self._call_ids[call.call_id] = self._call_ids.get(call.call_id, 0) + 1
            over = self._remember(dialog, "late")
            self._arm()
        return over

    def response(self, dialog: ProxiedDialog, side: Side, request: SipRequest, response: SipResponse) -> None:
        """A response to a request of `side` is being forwarded."""
        dialog.seen = self._clock.now()
        if 200 <= response.status < 300 and request.method in ("INVITE", "UPDATE"):
            self._succeeded(dialog, side, request, response)

    def _succeeded(self, dialog: ProxiedDialog, side: Side, request: SipRequest, response: SipResponse) -> None:
        # RFC 3261 12.2: both sides' targets, now that the request was accepted.
        mine, other = (dialog.caller, dialog.callee) if side == "caller" else (dialog.callee, dialog.caller)
        mine.target = contact_of(request) or mine.target
        other.target = contact_of(response) or other.target
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
        if dialog.state == "early" and request.method == "INVITE":
            dialog.state = "confirmed"
            dialog.confirmed_wall = dialog.call.wall(self._clock.now())

    # -- the end ---------------------------------------------------------------------------------------------------

    def bye_answered(self, dialog: ProxiedDialog, bye: SipRequest, side: Side, status: int) -> None:
        """A final response to a BYE was forwarded, or none came (408)."""
        if 200 <= status < 300 or status in _BYE_ENDS:
            self.end(dialog, "bye", bye, side)

    def end(self, dialog: ProxiedDialog, reason: str, message: SipMessage | None = None, side: str = "") -> None:
        """The dialog is over; nothing is sent."""
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
        over = EndedDialog(dialog, forgotten, until)
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


def _meet(dialog: ProxiedDialog, invite: SipRequest) -> None:
    """What the INVITE says of the caller."""
    caller = dialog.caller
    caller.target = contact_of(invite)
    caller.contact(caller.target)
    if "record-route" in invite.keys:
        caller.route(invite.values("record-route"))
