"""A request of our own within a dialog that passes through, in the name of one of its parties (RFC 3261 12.2).

Three things are told like this: that a call is recorded or its media have moved (:mod:`siprec.proxy.midcall_requests`),
that it ends (:mod:`siprec.proxy.hang_up`), and, by an OPTIONS, nothing (:mod:`siprec.proxy.life_check`).
"""

from __future__ import annotations

from siprec.proxy.cseq_shift import CseqShift
from siprec.proxy.dialog import ProxiedDialog
from siprec.proxy.forward import aim
from siprec.proxy.local_domain import LocalDomain
from siprec.proxy.peers import OTHER, Side
from siprec.proxy.protocols import Proxy
from siprec.proxy.record_route import cookie_of
from siprec.proxy.routes import Target
from siprec.sip.errors import SipError
from siprec.sip.forwarding import MAX_FORWARDS
from siprec.sip.headers import NameAddr, SessionExpires
from siprec.sip.message import SipMessage, SipRequest, SipResponse
from siprec.sip.transaction import ClientTransaction
from siprec.sip.transport import Hop


class OwnRequest:
    """One request, sent to the peer of the party on `side`. The CSeq number is taken when it is sent."""

    __slots__ = ("core", "dialog", "hop", "request", "side", "transaction")

    def __init__(self, core: Proxy, dialog: ProxiedDialog, side: Side, method: str) -> None:
        """Raises SipError: it cannot be made."""
        self.core = core
        self.dialog = dialog
        self.side: Side = side
        self.request = request_as(dialog, side, method, core.identity)
        self.hop: Hop | None = None
        self.transaction: ClientTransaction | None = None

    def start(self) -> None:
        """Find the way, then send. Raises SipError: there is none."""
        request, peer = self.request, self.dialog[OTHER[self.side]]
        aimed = aim(request, Target(NameAddr("", request.uri).uri))
        request.uri = aimed.uri
        if aimed.route is not None:
            request.set("route", ", ".join(aimed.route))
        if peer.flow is not None and not aimed.routed:
            self._found([peer.flow])
        else:
            self.core.resolve_contact(aimed.hop, peer.given_by, self._found, by_route=aimed.routed)

    def _found(self, result: list[Hop] | SipError) -> None:
        if isinstance(result, SipError) or not result:
            self.no_way()
            return
        if not self.is_ready():
            return
        request, party, core = self.request, self.dialog[self.side], self.core
        shift = party.shift = party.shift or CseqShift()
        request.set("cseq", f"{shift.take(party.cseq)} {request.method}")
        core.counters["own_requests"] += 1
        self.hop = result[0]
        self.sending()
        self.transaction = core.layer.send_request(
            request, self.hop, on_response=self._received, on_failure=self._failed
        )

    def _received(self, transaction: ClientTransaction, response: SipResponse) -> None:
        if response.status >= 200:
            self.answered(response)

    def _failed(self, transaction: ClientTransaction, reason: str) -> None:
        self.failed()

    def is_ready(self) -> bool:
        """Whether it is still to be sent; whoever says no goes on by itself."""
        return True

    def sending(self) -> None:
        """It is about to be sent; only Via is missing."""

    def no_way(self) -> None:
        """Nobody knows where to send it."""
        raise NotImplementedError

    def answered(self, response: SipResponse) -> None:
        """A final response; a 2xx to INVITE may come again."""
        raise NotImplementedError

    def failed(self) -> None:
        """No final response came."""
        raise NotImplementedError


def request_as(dialog: ProxiedDialog, side: Side, method: str, identity: LocalDomain) -> SipRequest:
    """As the party on `side` would send it from here, but for the number in CSeq; `method` empty: UPDATE if that
    is allowed, else INVITE. Raises SipError."""
    call = dialog.call
    sent, received = (call.invite, call.response) if side == "caller" else (call.response, call.invite)
    answer = call.response
    if sent is None or received is None or answer is None:
        raise SipError("the call has no answer")
    method = method or ("UPDATE" if "update" in received.tokens("allow") else "INVITE")
    target = dialog[OTHER[side]].target
    if not target:
        raise SipError("no Contact")
    request = SipRequest(method, target)
    caller, callee = call.invite.get("from") or "", answer.get("to") or ""
    for value in route_to(received, identity):
        request.add("Route", value)
    request.add("Max-Forwards", str(MAX_FORWARDS))
    request.add("From", caller if side == "caller" else callee)
    request.add("To", callee if side == "caller" else caller)
    request.add("Call-ID", call.call_id)
    request.add("CSeq", f"1 {method}")
    if method == "BYE":
        return request
    if dialog[side].target:
        request.add("Contact", f"<{dialog[side].target}>")
    allow = ", ".join(sent.values("allow"))
    if allow:
        request.add("Allow", allow)
    if dialog.session_interval:
        # Without it the session timer would end here (RFC 4028 7.4).
        refresher = "uac" if dialog.refresher == side else "uas"
        request.add("Supported", "timer")
        request.add("Session-Expires", str(SessionExpires(dialog.session_interval, refresher)))
    return request


def route_to(message: SipMessage, identity: LocalDomain) -> list[str]:
    """The way from us to who sent `message`, the INVITE as it came or its answer: the Record-Route values on that
    side of ours, the next one first."""
    found: list[str] = []
    values = message.values("record-route")
    if isinstance(message, SipRequest):
        return values
    for value in values:
        uri = NameAddr.parse(value).uri
        if cookie_of(uri) and identity.is_us(uri):
            break
        found.insert(0, value)
    return found
