"""Requests of our own within dialogs that pass through: what is recorded has changed (RFC 7866 7.1.2, CS-05).

A proxy may not do this (CS-09); it is B2BUA behaviour, for calls with parties that are record-aware and by policy only.
We speak to a party as its peer. The number that takes from the peer's CSeq is made up for: what the peer sends later is
counted up by as much on its way (`CseqShift.number`), and counted down again in responses. Descriptions are what the
party was told last with another ``a=record`` and a new version (:class:`siprec.proxy.record_attribute.SentSdp`).

The first law: nothing is sent unless the dialog is at rest (no offer open, no INVITE unacknowledged), nothing is tried
often, and whatever a party says to it, the call stays as it is. Requests of the peer wait a moment for an exchange of
ours that is under way, BYE never does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from siprec.proxy.call import Leg
from siprec.proxy.call_media_session import sdp_of
from siprec.proxy.forward import MAX_FORWARDS, aim
from siprec.proxy.record_attribute import SentSdp, preference
from siprec.proxy.record_route import cookie_of
from siprec.proxy.routes import Target
from siprec.sip.errors import SipError
from siprec.sip.headers import NameAddr, SessionExpires
from siprec.sip.message import SipMessage, SipRequest, SipResponse
from siprec.sip.multipart import SDP_TYPE
from siprec.sip.transaction import ClientTransaction
from siprec.sip.transport import Hop
from siprec.sip.values import RAck, retry_after

if TYPE_CHECKING:
    from siprec.proxy.call import Call
    from siprec.proxy.core import ProxyCore
    from siprec.proxy.dialogs import ProxiedDialog, Side
    from siprec.sip.clock import Timer

log = logging.getLogger(__name__)

#: Seconds that requests of the peer wait for an exchange of ours, and that an INVITE of ours may take.
HOLD: Final = 1.0
PATIENCE: Final = 10.0
MAX_TRIES: Final = 3
_LARGEST: Final = (1 << 31) - 2
_SIDES: Final[tuple[Leg, Leg]] = ("caller", "callee")


@dataclass(slots=True)
class CseqShift:
    """One direction of a dialog: what we have sent as the party on one side.

    `steps` are pairs: above which CSeq number of that party, how much is to be added.
    """

    steps: list[tuple[int, int]] = field(default_factory=list)
    busy: bool = False
    waiting: bool = False
    by_invite: bool = False
    """The peer refuses UPDATE, whatever its Allow says."""
    tries: int = 0
    given_up: bool = False
    held: list[Callable[[], None]] = field(default_factory=list)
    hold: Timer | None = None
    patience: Timer | None = None

    def number(self, number: int) -> int:
        """A CSeq number of the party as its peer has to see it."""
        return number + sum(add for above, add in self.steps if above < number)

    def take(self, highest: int) -> int:
        """The number of a request of our own; `highest` is the party's last one (-1: it sent none yet).

        The numbers of a party that has sent none may begin with 0, and ours has to be below them.
        """
        first = highest < 0 and not self.steps
        number = 1 if first else highest + 1 + sum(add for _, add in self.steps)
        self.steps.append((highest, 2 if first else 1))
        return number


class MidcallRequests:
    """Of one proxy. `core.indicator` says what is to be told, and whether it may be told like this."""

    def __init__(self, core: ProxyCore) -> None:
        self._core = core

    # -- requests of the parties ---------------------------------------------------------------------------------------

    def ready(self, dialog: ProxiedDialog, side: Side, request: SipRequest, go_on: Callable[[], None]) -> None:
        """A request of `side` is about to go on: INVITE and UPDATE wait while we speak as that party."""
        if request.method in ("INVITE", "UPDATE"):
            dialog.unsettled.add((side, request.cseq.number))
            lane = dialog.lanes.get(side)
            if lane is not None and lane.busy:
                lane.held.append(go_on)
                if lane.hold is None:
                    lane.hold = self._core.clock.call_later(HOLD, self._let_go, lane)
                return
        go_on()

    def settled(self, dialog: ProxiedDialog, side: Side, number: int) -> None:
        """An INVITE or UPDATE of `side` is through: refused, answered (UPDATE) or acknowledged (INVITE)."""
        dialog.unsettled.discard((side, number))
        if not dialog.unsettled and dialog.state == "confirmed":
            self.changed(dialog.call)

    def outgoing(self, dialog: ProxiedDialog, side: Side, request: SipRequest) -> None:
        """Number a request of `side`, just before it is sent."""
        lane = dialog.lanes.get(side)
        if lane is None or not lane.steps:
            return
        cseq = request.cseq
        request.set("cseq", f"{lane.number(cseq.number)} {cseq.method}")
        if request.has("rack"):
            try:
                rack = RAck.parse(request.get("rack") or "")
            except SipError:
                return  # the other party's to judge
            request.set("rack", str(rack._replace(cseq=lane.number(rack.cseq))))

    @staticmethod
    def incoming(dialog: ProxiedDialog, side: Side, request: SipRequest, response: SipResponse) -> None:
        """Give a response to `side` the number of its request."""
        lane = dialog.lanes.get(side)
        if lane is not None and lane.steps:
            response.set("cseq", request.get("cseq") or "")

    def _let_go(self, lane: CseqShift) -> None:
        if lane.hold is not None:
            lane.hold.cancel()
            lane.hold = None
        held, lane.held = lane.held, []
        for go_on in held:
            go_on()

    # -- our own -------------------------------------------------------------------------------------------------------

    def changed(self, call: Call) -> None:
        """What the parties of a call are to be told may have changed: tell those who can be told, when they can."""
        indicator = self._core.indicator
        if call.state != "confirmed":
            return
        signals = indicator is not None and indicator.signals(call)
        for dialog in self._core.dialogs.of(call):
            if dialog.callee_tag == call.to_tag and (signals or dialog.relocated):
                for side in _SIDES:
                    self._try(dialog, side)

    def relocated(self, dialog: ProxiedDialog, told: dict[Side, bytes], *, relayed: bool = True) -> None:
        """The media of the dialog go through another server, or through none any more (not `relayed`): the parties in
        `told` have to hear it, by a new description."""
        for side, octets in told.items():
            said = dialog.told.setdefault(side, SentSdp(dialog.sdp.get(_other(side), b"")))
            said.source, said.next_relayed = octets, relayed
            dialog.relocated.add(side)
            lane = dialog.lanes.get(_other(side))
            if lane is not None:
                lane.given_up, lane.tries = False, 0
        self.changed(dialog.call)

    def pending(self) -> int:
        """How many parties have still to be told where their media go now, and may be."""
        return sum(
            1
            for dialog in self._core.dialogs.all()
            for side in dialog.relocated
            if (lane := dialog.lanes.get(_other(side))) is None or not lane.given_up
        )

    def _try(self, dialog: ProxiedDialog, side: Side) -> None:
        lane = dialog.lanes.get(side)
        if self._body(dialog, side) and (lane is None or not (lane.busy or lane.waiting)):
            lane = dialog.lanes.setdefault(side, CseqShift())
            try:
                self._start(dialog, side, lane)
            except SipError as error:
                log.info("cannot tell the %s: %s, Call-ID %s", _other(side), error, dialog.call.call_id)
                lane.given_up = True

    def _body(self, dialog: ProxiedDialog, side: Side) -> bytes:
        """The description to be sent to the peer of `side` now; empty when there is none to be sent."""
        call, receiver, indicator = dialog.call, _other(side), self._core.indicator
        told, lane, path = dialog.told.get(receiver), dialog.lanes.get(side), call.media_path
        moved = receiver in dialog.relocated
        if (
            (indicator is None and not moved)
            or dialog.state != "confirmed"
            or dialog.unsettled
            or dialog.open is not None
            or (receiver not in dialog.aware and not moved)
            or told is None
            or path is None
            or (not moved and (path.state != "active" or path.lost != ""))
            or (lane is not None and lane.given_up)
            or not dialog.contact.get("caller")
            or not dialog.contact.get("callee")
            or dialog.cseq.get(side, 0) > _LARGEST - 1000
        ):
            return b""
        indicated = indicator is not None and receiver in dialog.aware and told.next_relayed
        state = indicator.state(call) if indicator is not None and indicated else ""
        if moved and told.source == told.sdp:
            dialog.relocated.discard(receiver)  # an offer or answer of its own came first
        return told.own(state)

    def _start(self, dialog: ProxiedDialog, side: Side, lane: CseqShift) -> None:
        request = self.request_as(dialog, side, "INVITE" if lane.by_invite else "")
        next_hop = aim(request, Target(NameAddr("", request.uri).uri))
        lane.busy = True

        def found(result: list[Hop] | SipError) -> None:
            body = self._body(dialog, side)
            if isinstance(result, SipError) or not result or not body:
                self._done(dialog, side, lane, body != b"")
                return
            request.set("cseq", f"{lane.take(dialog.cseq.get(side, -1))} {request.method}")
            request.set_body(body, SDP_TYPE)
            self._send(dialog, side, lane, request, result[0], body)

        flow = dialog.flow.get(_other(side)) if not request.has("route") else None
        if flow is not None:
            found([flow])
        else:
            given_by = dialog.peers[_other(side)].given_by
            self._core.resolve_contact(next_hop, given_by, found, by_route=request.has("route"))

    def request_as(self, dialog: ProxiedDialog, side: Side, method: str = "") -> SipRequest:
        """As the party on `side` would send it from here, but for the number in CSeq; `method` left out: UPDATE if that
        is allowed, else INVITE. Raises SipError."""
        call = dialog.call
        sent, received = (call.invite, call.response) if side == "caller" else (call.response, call.invite)
        answer = call.response
        if sent is None or received is None or answer is None:
            raise SipError("the call has no answer")
        method = method or ("UPDATE" if "update" in received.tokens("allow") else "INVITE")
        target = dialog.contact.get(_other(side), "")
        if not target:
            raise SipError("no Contact")
        request = SipRequest(method, target)
        caller, callee = call.invite.get("from") or "", answer.get("to") or ""
        for value in self._route(received):
            request.add("Route", value)
        request.add("Max-Forwards", str(MAX_FORWARDS))
        request.add("From", caller if side == "caller" else callee)
        request.add("To", callee if side == "caller" else caller)
        request.add("Call-ID", call.call_id)
        request.add("CSeq", f"1 {method}")
        if method == "BYE":
            return request
        request.add("Contact", f"<{dialog.contact[side]}>")
        allow = ", ".join(sent.values("allow"))
        if allow:
            request.add("Allow", allow)
        if dialog.session_interval:
            # Without it the session timer would end here (RFC 4028 7.4).
            refresher = "uac" if dialog.refresher == side else "uas"
            request.add("Supported", "timer")
            request.add("Session-Expires", str(SessionExpires(dialog.session_interval, refresher)))
        return request

    def _route(self, message: SipMessage) -> list[str]:
        """The way from us to who sent `message`, the INVITE as it came or its answer: the Record-Route values on that
        side of ours, the next one first."""
        found: list[str] = []
        values = message.values("record-route")
        if isinstance(message, SipRequest):
            return values
        for value in values:
            uri = NameAddr.parse(value).uri
            if cookie_of(uri) and self._core.identity.is_us(uri):
                break
            found.insert(0, value)
        return found

    def _send(
        self, dialog: ProxiedDialog, side: Side, lane: CseqShift, request: SipRequest, hop: Hop, body: bytes
    ) -> None:
        core, call = self._core, dialog.call
        core.counters["own_requests"] += 1
        ack = request.copy()

        def answered(transaction: ClientTransaction, response: SipResponse) -> None:
            if response.status < 200:
                return
            if response.status < 300 and request.method == "INVITE":
                self._acknowledge(ack, response, hop)  # each time it comes
            if not lane.busy or transaction is not sent:
                return
            if response.status < 300:
                self._accepted(dialog, side, response, body)
                self._done(dialog, side, lane, False)
                return
            log.info("the %s: %s, Call-ID %s", _other(side), response.start_line, call.call_id)
            moved = _other(side) in dialog.relocated
            if moved and request.method == "UPDATE" and response.status not in (408, 481, 491):
                lane.by_invite = True
                self._done(dialog, side, lane, False)
                return
            self._done(dialog, side, lane, True, response.status, _seconds(response))

        def failed(transaction: ClientTransaction, reason: str) -> None:
            if lane.busy and transaction is sent:
                self._done(dialog, side, lane, True, 408)

        sent = core.layer.send_request(request, hop, on_response=answered, on_failure=failed)
        if request.method == "INVITE":
            lane.patience = core.clock.call_later(PATIENCE, sent.cancel)

    def _acknowledge(self, invite: SipRequest, response: SipResponse, hop: Hop) -> None:
        ack = SipRequest("ACK", invite.uri)
        for name in ("Route", "Max-Forwards", "From"):
            for value in invite.get_all(name):
                ack.add(name, value)
        ack.add("To", response.get("to") or "")
        ack.add("Call-ID", invite.call_id)
        ack.add("CSeq", f"{invite.cseq.number} ACK")
        ack.set_body(b"")
        self._core.layer.send_stateless(ack, hop, add_via=self._core.layer.new_branch())

    def _accepted(self, dialog: ProxiedDialog, side: Side, response: SipResponse, body: bytes) -> None:
        core, receiver, call = self._core, _other(side), dialog.call
        told = dialog.told[receiver]
        told.accepted(body)
        dialog.relocated.discard(receiver)
        value = response.get("session-expires")
        if value is not None and dialog.session_interval:
            dialog.expires = core.clock.now() + dialog.session_interval
        dialog.seen = core.clock.now()
        core.media.settle(dialog)
        answer = sdp_of(response)
        if answer and call.state == "confirmed":
            core.media.again(dialog, side, answer)
            wanted = preference(answer)
            if wanted and core.indicator is not None:
                core.indicator.preference(call, receiver, wanted)

    def _done(
        self, dialog: ProxiedDialog, side: Side, lane: CseqShift, failed: bool, status: int = 0, wait: float = 0.0
    ) -> None:
        lane.busy = False
        if lane.patience is not None:
            lane.patience.cancel()
            lane.patience = None
        self._let_go(lane)
        if not failed:
            lane.tries = 0
            self.changed(dialog.call)  # what changed meanwhile
            return
        lane.tries += 1
        # What only tells of the recording is not worth a second try, but for glare.
        moved = _other(side) in dialog.relocated
        again = status == 491 or (moved and (status == 408 or status >= 500))
        if not again or lane.tries >= MAX_TRIES:
            lane.given_up = True  # the party does not want to be told like this
            return
        # RFC 3261 14.1: who made the Call-ID waits longer.
        low, high = (2.1, 4.0) if side == "caller" else (0.0, 2.0)
        if status != 491:
            low = high = max(wait, 1.0)
        lane.waiting = True

        def retry() -> None:
            lane.waiting = False
            if dialog.state == "confirmed":
                self._try(dialog, side)

        self._core.clock.call_later(self._core.random.uniform(low, high), retry)


def _seconds(response: SipResponse) -> float:
    """What ``Retry-After`` asks for, ten seconds at the most (RFC 3261 14.2)."""
    return min(float(retry_after(response) or 0), 10.0)


def _other(side: Side) -> Side:
    return "callee" if side == "caller" else "caller"
