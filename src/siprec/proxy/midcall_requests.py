"""Requests of our own within dialogs that pass through: what is recorded has changed (RFC 7866 7.1.2), or the media of
the call go through another server.

A proxy may not do this; it is B2BUA behaviour, for calls with parties that are record-aware and by policy only. We
speak to a party as its peer. The number that takes from the peer's CSeq is made up for: what the peer sends later is
counted up by as much on its way (`CseqShift.number`), and counted down again in responses. Descriptions are what the
party was told last with another ``a=record`` and a new version (:class:`siprec.proxy.record_attribute.SentSdp`).

The first law: nothing is sent unless the dialog is at rest (no offer open, no INVITE unacknowledged), nothing is tried
often, and whatever a party says to it, the call stays as it is. Requests of the peer wait a moment for an exchange of
ours that is under way, BYE never does.
"""

from __future__ import annotations

import logging
from typing import Final

from siprec.proxy.call import Call
from siprec.proxy.cseq_shift import CseqShift, Held
from siprec.proxy.dialog import ProxiedDialog
from siprec.proxy.own_request import OwnRequest
from siprec.proxy.peers import OTHER, SIDES, Side
from siprec.proxy.protocols import Proxy
from siprec.proxy.record_attribute import SentSdp, preference
from siprec.proxy.sdp_body import sdp_of
from siprec.sip.errors import SipError
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.multipart import SDP_TYPE
from siprec.sip.values import RAck, retry_after

log = logging.getLogger(__name__)

#: Seconds that requests of the peer wait for an exchange of ours, and that an INVITE of ours may take.
HOLD: Final = 1.0
PATIENCE: Final = 10.0
MAX_TRIES: Final = 3
_LARGEST: Final = (1 << 31) - 2


class MidcallRequests:
    """Of one proxy. `core.indicator` says what is to be told, and whether it may be told like this."""

    def __init__(self, core: Proxy) -> None:
        self._core = core

    # -- requests of the parties ---------------------------------------------------------------------------------------

    def holds(self, dialog: ProxiedDialog, side: Side, request: SipRequest, held: Held) -> bool:
        """A request of `side` is about to go on: INVITE and UPDATE wait while we speak as that party. True: it waits,
        and is let go later."""
        if request.method not in ("INVITE", "UPDATE"):
            return False
        dialog.begin(side, request.cseq.number)
        shift = dialog[side].shift
        if shift is None or not shift.busy:
            return False
        shift.held.append(held)
        if shift.hold is None:
            shift.hold = self._core.clock.call_later(HOLD, _let_go, shift)
        return True

    def settled(self, dialog: ProxiedDialog, side: Side, number: int) -> None:
        """An INVITE or UPDATE of `side` is through: refused, answered (UPDATE) or acknowledged (INVITE)."""
        dialog.settle(side, number)
        if not dialog.unsettled and dialog.state == "confirmed":
            self.changed(dialog.call)

    @staticmethod
    def outgoing(shift: CseqShift, request: SipRequest) -> dict[str, str | None]:
        """The headers that number a request of a party in whose name we spoke, just before it is sent."""
        if not shift.steps:
            return {}
        cseq = request.cseq
        changes: dict[str, str | None] = {"cseq": f"{shift.number(cseq.number)} {cseq.method}"}
        if "rack" in request.keys:
            try:
                rack = RAck.parse(request.get("rack") or "")
            except SipError:
                return changes  # the other party's to judge
            changes["rack"] = str(rack._replace(cseq=shift.number(rack.cseq)))
        return changes

    @staticmethod
    def incoming(shift: CseqShift, request: SipRequest, response: SipResponse) -> None:
        """Give a response to such a party the number of its request."""
        if shift.steps:
            response.set("cseq", request.get("cseq") or "")

    # -- our own -------------------------------------------------------------------------------------------------------

    def changed(self, call: Call) -> None:
        """What the parties of a call are to be told may have changed: tell those who can be told, when they can."""
        indicator = self._core.indicator
        if call.state != "confirmed":
            return
        signals = indicator is not None and indicator.signals(call)
        for dialog in self._core.dialogs.of(call):
            moved = dialog.caller.is_moved or dialog.callee.is_moved
            if dialog.callee_tag == call.to_tag and (signals or moved):
                for side in SIDES:
                    self.try_(dialog, side)

    def relocated(self, dialog: ProxiedDialog, told: dict[Side, bytes], *, relayed: bool = True) -> None:
        """The media of the dialog go through another server, or through none any more (not `relayed`): the parties in
        `told` have to hear it, by a new description."""
        for side, octets in told.items():
            receiver, peer = dialog[side], dialog[OTHER[side]]
            if receiver.sent_sdp is None:
                receiver.sent_sdp = SentSdp(peer.sdp)
            receiver.sent_sdp.source, receiver.sent_sdp.next_relayed = octets, relayed
            receiver.is_moved = True
            if peer.shift is not None:
                peer.shift.given_up, peer.shift.tries = False, 0
        self.changed(dialog.call)

    def pending(self) -> int:
        """How many parties have still to be told where their media go now, and may be."""
        return sum(
            1
            for dialog in self._core.dialogs.all()
            for side in SIDES
            if dialog[side].is_moved and ((shift := dialog[OTHER[side]].shift) is None or not shift.given_up)
        )

    def try_(self, dialog: ProxiedDialog, side: Side) -> None:
        """Tell the peer of `side` what there is to be told, if it can be told now."""
        shift = dialog[side].shift
        if not self.body(dialog, side) or (shift is not None and (shift.busy or shift.waiting)):
            return
        shift = dialog[side].shift = shift or CseqShift()
        try:
            change = _Change(self, self._core, dialog, side, "INVITE" if shift.by_invite else "")
            shift.busy = True
            change.start()
        except SipError as error:
            log.info("cannot tell the %s: %s, Call-ID %s", OTHER[side], error, dialog.call.call_id)
            shift.busy = False
            shift.given_up = True

    def body(self, dialog: ProxiedDialog, side: Side) -> bytes:
        """The description to be sent to the peer of `side` now; empty when there is none to be sent."""
        call, indicator, party, receiver = dialog.call, self._core.indicator, dialog[side], dialog[OTHER[side]]
        sent, shift, path, moved = receiver.sent_sdp, party.shift, call.media_path, receiver.is_moved
        if (
            (indicator is None and not moved)
            or dialog.state != "confirmed"
            or dialog.unsettled
            or dialog.open is not None
            or (not receiver.is_aware and not moved)
            or sent is None
            or path is None
            or (not moved and (path.state != "active" or path.lost != ""))
            or (shift is not None and shift.given_up)
            or not party.target
            or not receiver.target
            or party.cseq > _LARGEST - 1000
        ):
            return b""
        indicated = indicator is not None and receiver.is_aware and sent.next_relayed
        state = indicator.state(call) if indicator is not None and indicated else ""
        if moved and sent.source == sent.sdp:
            receiver.is_moved = False  # an offer or answer of its own came first
        return sent.own(state)

    def accepted(self, dialog: ProxiedDialog, side: Side, response: SipResponse, body: bytes) -> None:
        """The peer of `side` has taken a description."""
        core, receiver, call = self._core, dialog[OTHER[side]], dialog.call
        if receiver.sent_sdp is not None:
            receiver.sent_sdp.accepted(body)
        receiver.is_moved = False
        if "session-expires" in response.keys and dialog.session_interval:
            dialog.expires = core.clock.now() + dialog.session_interval
        dialog.seen = core.clock.now()
        core.media.settle(dialog)
        answer = sdp_of(response)
        if answer and call.state == "confirmed":
            core.media.answered_ours(dialog, side, answer)
            wanted = preference(answer)
            if wanted and core.indicator is not None:
                core.indicator.preference(call, OTHER[side], wanted)

    def done(
        self, dialog: ProxiedDialog, side: Side, shift: CseqShift, failed: bool, status: int = 0, wait: float = 0.0
    ) -> None:
        """An exchange of ours is over."""
        shift.busy = False
        if shift.patience is not None:
            shift.patience.cancel()
            shift.patience = None
        _let_go(shift)
        if not failed:
            shift.tries = 0
            self.changed(dialog.call)  # what changed meanwhile
            return
        shift.tries += 1
        # What only tells of the recording is not worth a second try, but for glare.
        again = status == 491 or (dialog[OTHER[side]].is_moved and (status == 408 or status >= 500))
        if not again or shift.tries >= MAX_TRIES:
            shift.given_up = True  # the party does not want to be told like this
            return
        # RFC 3261 14.1: who made the Call-ID waits longer.
        low, high = (2.1, 4.0) if side == "caller" else (0.0, 2.0)
        if status != 491:
            low = high = max(wait, 1.0)
        shift.waiting = True
        self._core.clock.call_later(self._core.random.uniform(low, high), self._retry, dialog, side, shift)

    def _retry(self, dialog: ProxiedDialog, side: Side, shift: CseqShift) -> None:
        shift.waiting = False
        if dialog.state == "confirmed":
            self.try_(dialog, side)


class _Change(OwnRequest):
    """UPDATE or re-INVITE with a new description for the peer of `side`."""

    __slots__ = ("_ack", "_body", "_owner", "_shift")

    def __init__(self, owner: MidcallRequests, core: Proxy, dialog: ProxiedDialog, side: Side, method: str) -> None:
        super().__init__(core, dialog, side, method)
        self._owner = owner
        self._body = b""
        self._ack: SipRequest | None = None
        shift = dialog[side].shift
        assert shift is not None
        self._shift = shift

    def no_way(self) -> None:
        failed = self._owner.body(self.dialog, self.side) != b""
        self._owner.done(self.dialog, self.side, self._shift, failed)

    def is_ready(self) -> bool:
        self._body = self._owner.body(self.dialog, self.side)
        if not self._body:
            self._owner.done(self.dialog, self.side, self._shift, False)
            return False
        self.request.set_body(self._body, SDP_TYPE)
        return True

    def sending(self) -> None:
        if self.request.method == "INVITE":
            self._ack = self.request.copy()
            self._shift.patience = self.core.clock.call_later(PATIENCE, self._give_up)

    def _give_up(self) -> None:
        if self.transaction is not None:
            self.transaction.cancel()

    def answered(self, response: SipResponse) -> None:
        status, dialog, shift = response.status, self.dialog, self._shift
        if status < 300 and self._ack is not None:
            self._acknowledge(self._ack, response)  # each time it comes
        if self.transaction is None or not shift.busy:
            return
        self.transaction = None
        if status < 300:
            self._owner.accepted(dialog, self.side, response, self._body)
            self._owner.done(dialog, self.side, shift, False)
            return
        log.info("the %s: %s, Call-ID %s", OTHER[self.side], response.start_line, dialog.call.call_id)
        moved = dialog[OTHER[self.side]].is_moved
        if moved and self.request.method == "UPDATE" and status not in (408, 481, 491):
            shift.by_invite = True
            self._owner.done(dialog, self.side, shift, False)
            return
        self._owner.done(dialog, self.side, shift, True, status, _seconds(response))

    def failed(self) -> None:
        if self.transaction is not None and self._shift.busy:
            self.transaction = None
            self._owner.done(self.dialog, self.side, self._shift, True, 408)

    def _acknowledge(self, invite: SipRequest, response: SipResponse) -> None:
        assert self.hop is not None
        ack = SipRequest("ACK", invite.uri)
        for name in ("Route", "Max-Forwards", "From"):
            for value in invite.get_all(name):
                ack.add(name, value)
        ack.add("To", response.get("to") or "")
        ack.add("Call-ID", invite.call_id)
        ack.add("CSeq", f"{invite.cseq.number} ACK")
        ack.set_body(b"")
        self.core.layer.send_stateless(ack, self.hop, add_via=self.core.layer.new_branch())


def _let_go(shift: CseqShift) -> None:
    if shift.hold is not None:
        shift.hold.cancel()
        shift.hold = None
    held, shift.held = shift.held, []
    for each in held:
        each.let_go()


def _seconds(response: SipResponse) -> float:
    """What ``Retry-After`` asks for, ten seconds at the most (RFC 3261 14.2)."""
    return min(float(retry_after(response) or 0), 10.0)
