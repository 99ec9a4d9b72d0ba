"""A call we make: INVITE until its final response, early dialogs, reliable provisional responses, crossing messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from siprec.sip.call_handler import CallHandler, Done, Headers, Result, described, ignore
from siprec.sip.clock import Timer
from siprec.sip.dialog import Dialog, dialog_key, untagged
from siprec.sip.digest import CredentialStore
from siprec.sip.errors import SipError
from siprec.sip.headers import NameAddr
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.session_timer import agreed_as_uac
from siprec.sip.transport import Hop
from siprec.sip.uac_request import UacRequest
from siprec.sip.uri import Uri
from siprec.sip.useragent_base import Resolve, UserAgentBase
from siprec.sip.useragent_call import UserAgentCall
from siprec.sip.values import MIN_SE


@dataclass(slots=True)
class Invitation:
    """What an INVITE is made of; see :meth:`siprec.sip.useragent.UserAgent.invite`."""

    target: Uri
    from_: NameAddr
    to: NameAddr
    headers: list[tuple[str, str]]
    contact_params: str
    body: bytes
    content_type: str
    hop: Hop | None
    setup_timeout: float | None
    session_expires: int
    supported: tuple[str, ...]
    route: tuple[str, ...]
    avoid_silent: float = 0.0


class OutgoingCall(UserAgentCall):
    """A call of ours as UAC. Made by :meth:`siprec.sip.useragent.UserAgent.invite`."""

    __slots__ = ("_setup", "_way", "local_tag")

    def __init__(
        self,
        agent: UserAgentBase,
        handler: CallHandler,
        call_id: str,
        invitation: Invitation,
        credentials: CredentialStore | None,
        resolve: Resolve,
    ) -> None:
        super().__init__(agent, handler, call_id)
        self.credentials = credentials
        self.resolve = resolve
        self.session_expires = invitation.session_expires
        self.local_tag = agent.new_token()
        # What the agent takes from callers need not be said here.
        self.supported = ", ".join(invitation.supported)
        self._way: Hop | None = None
        self._setup: CallSetup | None = CallSetup(self, invitation)

    @property
    def way(self) -> Hop | None:
        """The hop that the INVITE took last."""
        return self._setup.way if self._setup is not None else self._way

    def start(self) -> None:
        """Send the INVITE."""
        if self._setup is not None:
            self._setup.start()

    def cancel(self, headers: Headers = ()) -> None:
        """Give the call up before it is answered; ``handler.failed(..., "cancelled")`` follows when that is settled.

        A 2xx that crosses the CANCEL is acknowledged and followed by a BYE. Once answered, nothing is done.
        """
        if self.state in ("calling", "early") and self._setup is not None:
            self._setup.cancel(headers)

    def bye(self, headers: Headers = (), body: bytes = b"", content_type: str = "", done: Done = ignore) -> None:
        """End the call; before the answer that is a CANCEL."""
        if self.dialog is None:
            self.cancel(headers)
        super().bye(headers, body, content_type, done)

    def dialog_for(self, request: SipRequest) -> Dialog | None:
        """The dialog that a request of the peer belongs to: an early one perhaps."""
        if self.dialog is not None:
            return self.dialog if dialog_key(request) == self.dialog.key else None
        return self._setup.early.get(request.from_tag) if self._setup is not None else None

    def _offer_open(self) -> bool:
        return self.state in ("calling", "early") or super()._offer_open()

    # -- told by the set-up ----------------------------------------------------------------------------------------

    def settled(self, way: Hop | None) -> None:
        """The INVITE has its final response, or none is to come: all that only the set-up needed is let go."""
        self._way = way
        self._setup = None

    def confirmed(self, dialog: Dialog, request: UacRequest, offered: bool, response: SipResponse) -> None:
        """The 2xx came."""
        self.dialog = dialog
        self.state = "confirmed"
        self.agent.confirm(self, dialog.key)
        if "allow" in response.keys:
            self.remote_allow = frozenset(response.tokens("allow"))
        self._acknowledge(request, offered, response)
        if "session-expires" in response.keys:
            self.start_timer(agreed_as_uac(response))
        self.handler.answered(self, response)

    def failed(self, status: int, response: SipResponse | None, reason: str) -> None:
        """No dialog came about."""
        self._close()
        self.agent.forget(self)
        self.handler.failed(self, status, response, reason)

    def answered_again(self, request: UacRequest, response: SipResponse) -> bool:
        """The 2xx of the call's own dialog came again; false if it is another dialog's."""
        if self.dialog is None or response.to_tag != self.dialog.remote_tag:
            return False
        self._answered_again(request, response)
        return True

    def request_early(
        self, dialog: Dialog, method: str, body: bytes = b"", content_type: str = "", headers: Headers = ()
    ) -> None:
        """BYE and PRACK of dialogs that are not the call's: however they end, it is over."""
        self._send(dialog, method, body, content_type, headers, _ignore)

    def acknowledge_early(self, dialog: Dialog, request: UacRequest, cseq: int) -> bytes:
        """Send the ACK for a 2xx of a dialog that is not the call's. Returns its octets."""
        return self._send_ack(dialog, request, cseq)


class CallSetup:
    """The INVITE of a call until its final response. Late 2xx come here too; the call knows nothing of them then."""

    __slots__ = (
        "_addresses",  # From and To without tags
        "_call",
        "_cseq",
        "_invitation",
        "_offered",  # whether the INVITE has an offer
        "_request",
        "_rseq",  # the last reliable provisional response by To tag
        "_strays",  # ACKs of dialogs that nobody wants, by To tag
        "_timer",
        "early",  # early dialogs by To tag
    )

    def __init__(self, call: OutgoingCall, invitation: Invitation) -> None:
        self._call = call
        self._invitation = invitation
        self._cseq = call.agent.random.randint(1, 2**16)
        self._addresses = untagged(invitation.from_), untagged(invitation.to)
        self._offered = False
        self._request: UacRequest | None = None
        self._timer: Timer | None = None
        self._rseq: dict[str, int] = {}
        self._strays: dict[str, bytes] = {}
        self.early: dict[str, Dialog] = {}

    @property
    def way(self) -> Hop | None:
        """The hop that the INVITE took last."""
        transaction = self._request.transaction if self._request is not None else None
        return transaction.hop if transaction is not None else None

    def start(self) -> None:
        """Send the INVITE."""
        call, invitation = self._call, self._invitation
        if invitation.body:
            description = described(invitation.body, invitation.content_type)
            self._offered = description is not None
            call.remember_session(description)
        uri = NameAddr.parse(invitation.route[0]).uri if invitation.route else invitation.target
        if invitation.setup_timeout is not None:
            self._timer = call.agent.clock.call_later(invitation.setup_timeout, self._timed_out)
        self._request = UacRequest(
            call.agent,
            self._invite(),
            uri,
            self._settled,
            next_cseq=self._next_cseq,
            hop=invitation.hop,
            credentials=call.credentials,
            prepare=self._prepare,
            on_provisional=self._provisional,
            on_late=self._late,
            resolve=call.resolve,
            avoid_silent=invitation.avoid_silent,
        )

    def _invite(self) -> SipRequest:
        call, invitation = self._call, self._invitation
        target = invitation.target
        request = SipRequest("INVITE", target.replace(headers="").text if target.headers else target.text)
        if invitation.route:
            request.extend([("Route", route) for route in invitation.route])
        request.extend(
            (
                ("Max-Forwards", "70"),
                ("From", f"{self._addresses[0]};tag={call.local_tag}"),
                ("To", self._addresses[1]),
                ("Call-ID", call.call_id),
                ("CSeq", f"{self._cseq} INVITE"),
                *invitation.headers,
            )
        )
        if "allow" not in request.keys:
            request.add("Allow", call.agent.allow)
        if call.supported and "supported" not in request.keys:
            request.add("Supported", call.supported)
        if invitation.session_expires:
            request.add("Session-Expires", str(invitation.session_expires))
            request.add("Min-SE", str(min(MIN_SE, invitation.session_expires)))
        call.agent.identify(request)
        request.set_body(invitation.body, invitation.content_type or None)
        return request

    def _prepare(self, request: SipRequest, hop: Hop) -> None:
        call, invitation = self._call, self._invitation
        params = f";{invitation.contact_params}" if invitation.contact_params else ""
        call.contact = f"<{call.agent.contact(hop)}>{params}"
        request.set("contact", call.contact)
        if self._timer is not None:
            # Every hop gets the time: the next one is not to blame for the silence of this one.
            self._timer.cancel()
            self._timer = call.agent.clock.call_later(invitation.setup_timeout or 0, self._timed_out)

    def _next_cseq(self) -> int:
        self._cseq += 1
        return self._cseq

    def cancel(self, headers: Headers) -> None:
        """Give the call up before it is answered."""
        if self._request is not None:
            self._stop()
            self._request.cancel(headers)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _timed_out(self) -> None:
        self._timer = None
        request = self._request
        if request is None or request.done:
            return
        request.silent()
        if not request.heard and request.has_next_hop:
            delay = self._invitation.setup_timeout or 0
            self._timer = self._call.agent.clock.call_later(delay, self._timed_out)
            request.next_hop()
            return
        request.abandon((("Reason", 'SIP;cause=408;text="no answer in time"'),))
        self._let_go()
        self._call.failed(408, None, "timeout")

    def _let_go(self) -> None:
        self._stop()
        self._call.settled(self.way)
        self._request = None

    def _settled(self, request: UacRequest, result: Result) -> None:
        """The INVITE has its final response, or none is to come."""
        self._let_go()
        call = self._call
        if isinstance(result, str):
            status = 408 if result == "timeout" else 487 if result == "cancelled" else 503
            call.failed(status, None, "cancelled" if request.cancelled else result)
        elif result.status >= 300:
            call.failed(result.status, result, "cancelled" if request.cancelled else result.reason)
        elif request.cancelled:
            self._discard(request, result)
            call.failed(result.status, result, "cancelled")
        else:
            self._answered(request, result)

    def _answered(self, request: UacRequest, response: SipResponse) -> None:
        try:
            dialog = self._dialog_of(request, response)
            dialog.next_hop  # noqa: B018 - parsed for its errors: without it there can be no ACK
        except SipError as error:
            self._call.failed(502, response, f"unusable 2xx: {error.reason}")
            return
        self._call.confirmed(dialog, request, self._offered, response)

    def _dialog_of(self, request: UacRequest, response: SipResponse) -> Dialog:
        """The dialog of a 2xx, early before or not. One without Contact leads back to the address it came from.

        Raises:
            SipError: malformed headers.
        """
        dialog = self.early.get(response.to_tag) if self.early else None
        if dialog is not None:
            dialog.confirm(response)
            dialog.local_cseq = max(dialog.local_cseq, self._cseq)
            return dialog
        target = ""
        if response.contact is None and request.transaction is not None:
            target = self._towards(request.transaction.hop)
        call = self._call
        return Dialog.as_uac(request.request, response, call.local_tag, self._addresses, self._cseq, target)

    def _towards(self, source: Hop) -> str:
        """The URI of an address; from now on it leads there."""
        hop, through = replace(source, connection=0), self._call.resolve
        host = f"[{hop.host}]" if ":" in hop.host else hop.host
        target = f"sip:{host}:{hop.port}" + (f";transport={hop.transport}" if hop.reliable else "")

        def resolve(uri: Uri, done: Callable[[list[Hop] | SipError], None]) -> None:
            if uri.text == target:
                done([hop])
            else:
                through(uri, done)

        self._call.resolve = resolve
        return target

    def _late(self, request: UacRequest, response: SipResponse) -> None:
        """A 2xx after the first one, or after we gave up."""
        if not self._call.answered_again(request, response):
            self._discard(request, response)

    def _discard(self, request: UacRequest, response: SipResponse) -> None:
        """ACK and BYE for a dialog nobody wants; the ACK again for each repetition (RFC 3261 13.2.2.4)."""
        call, tag = self._call, response.to_tag
        try:
            dialog = self._dialog_of(request, response)
            if tag in self._strays:
                call.agent.send_ack(self._strays[tag], dialog.next_hop, call.resolve)
                return
            dialog.local_cseq = max(dialog.local_cseq, response.cseq.number)
            self._strays[tag] = call.acknowledge_early(dialog, request, response.cseq.number)
            call.request_early(dialog, "BYE")
        except SipError:
            pass  # no way to reach it: it will find out for want of an ACK

    # -- before the answer -----------------------------------------------------------------------------------------

    def _provisional(self, request: UacRequest, response: SipResponse) -> None:
        call, tag = self._call, response.to_tag
        if tag:
            dialog = self.early.get(tag)
            if dialog is None:
                try:
                    dialog = Dialog.as_uac(request.request, response, call.local_tag, self._addresses, self._cseq)
                except SipError:
                    return
                self.early[tag] = dialog
                call.agent.register(call, dialog.key)
                if call.state == "calling":
                    call.state = "early"
            if "100rel" in response.tokens("require") and not self._acknowledge(dialog, request, response):
                return
        call.handler.progress(call, response)

    def _acknowledge(self, dialog: Dialog, request: UacRequest, response: SipResponse) -> bool:
        """PRACK in order (RFC 3262 4); false for a repetition or one that came too early."""
        value = response.get("rseq") or ""
        if not value.isdecimal() or len(value) > 10:
            return False
        number = int(value)
        last = self._rseq.get(dialog.remote_tag)
        if last is not None and number != last + 1:
            return False
        self._rseq[dialog.remote_tag] = number
        dialog.route_set = response.values("record-route")[::-1] or dialog.route_set
        if "contact" in response.keys:
            try:
                dialog.refresh_target(response)
            except SipError:
                pass
        dialog.local_cseq = max(dialog.local_cseq, request.request.cseq.number)
        body, content_type = self._call.handler.prack(self._call, response)
        headers = [("RAck", f"{number} {response.cseq.number} {response.cseq.method}")]
        self._call.request_early(dialog, "PRACK", body, content_type, headers)
        return True


def _ignore(request: UacRequest, result: Result) -> None:
    """Nobody waits for it."""
