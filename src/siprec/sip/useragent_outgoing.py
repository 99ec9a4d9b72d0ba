"""A call we make: INVITE until its final response, early dialogs, reliable provisional responses, crossing messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from siprec.sip.dialog import Dialog, dialog_key
from siprec.sip.errors import SipError
from siprec.sip.headers import NameAddr
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri
from siprec.sip.useragent_call import Call
from siprec.sip.useragent_exchange import Exchange, Result
from siprec.sip.useragent_handler import CallHandler, Done, Headers, ignore
from siprec.sip.useragent_timer import agreed_as_uac
from siprec.sip.values import MIN_SE

if TYPE_CHECKING:
    from siprec.sip.clock import Timer
    from siprec.sip.digest import CredentialStore
    from siprec.sip.useragent import UserAgent


@dataclass(frozen=True, slots=True)
class Invitation:
    """What an INVITE is made of; see :meth:`UserAgent.invite`."""

    target: Uri
    from_: NameAddr
    to: NameAddr
    headers: tuple[tuple[str, str], ...]
    contact_params: str
    body: bytes
    content_type: str
    hop: Hop | None
    setup_timeout: float | None
    session_expires: int
    supported: tuple[str, ...]
    route: tuple[str, ...]
    avoid_silent: float = 0.0


class OutgoingCall(Call):
    """A call of ours as UAC. Made by :meth:`UserAgent.invite`."""

    def __init__(
        self,
        agent: UserAgent,
        handler: CallHandler,
        call_id: str,
        invitation: Invitation,
        credentials: CredentialStore | None,
    ) -> None:
        super().__init__(agent, handler, call_id)
        self.invitation = invitation
        self.credentials = credentials
        self.session_expires = invitation.session_expires
        self.local_tag = agent.new_token()
        self._cseq = agent.random.randint(1, 2**16)
        self._early: dict[str, Dialog] = {}
        self._rseq: dict[str, int] = {}
        self._strays: dict[str, SipRequest] = {}
        self._setup: Timer | None = None
        self._invite_exchange: Exchange | None = None

    # -- what the owner asks ---------------------------------------------------------------------------------------

    @property
    def supported(self) -> str:
        """As in the INVITE: what the agent takes from callers need not be said here (SRC-13)."""
        return ", ".join(self.invitation.supported)

    def cancel(self, headers: Headers = ()) -> None:
        """Give the call up before it is answered; ``handler.failed(..., "cancelled")`` follows when that is settled.

        A 2xx that crosses the CANCEL is acknowledged and followed by a BYE (ERR-07). Once answered, nothing is done.
        """
        if self.state in ("calling", "early") and self._invite_exchange is not None:
            self._stop_setup()
            self._invite_exchange.cancel(headers)

    def bye(self, headers: Headers = (), body: bytes = b"", content_type: str = "", done: Done = ignore) -> None:
        """End the call; before the answer that is a CANCEL."""
        if self.dialog is None:
            self.cancel(headers)
        super().bye(headers, body, content_type, done)

    @property
    def way(self) -> Hop | None:
        """The hop that the INVITE took last."""
        exchange = self._invite_exchange
        return exchange.transaction.hop if exchange is not None and exchange.transaction is not None else None

    # -- the INVITE ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Send the INVITE."""
        invitation = self.invitation
        request = self._make_invite()
        if invitation.body:
            self.remember_session(invitation.body, invitation.content_type)
        uri = NameAddr.parse(invitation.route[0]).uri if invitation.route else invitation.target
        self._invite_exchange = exchange = Exchange(
            self.agent,
            request,
            uri,
            self._settled,
            next_cseq=self._next_cseq,
            hop=invitation.hop,
            credentials=self.credentials,
            prepare=self._prepare,
            on_provisional=self._provisional,
            on_late=self._late,
            resolve=self.resolve,
            avoid_silent=invitation.avoid_silent,
        )
        if invitation.setup_timeout is not None:
            self._setup = self.agent.clock.call_later(invitation.setup_timeout, self._setup_timed_out)
        exchange.start()

    def _make_invite(self) -> SipRequest:
        invitation = self.invitation
        request = SipRequest(
            "INVITE",
            invitation.target.replace(headers="").text if invitation.target.headers else invitation.target.text,
        )
        for route in invitation.route:
            request.add("Route", route)
        request.add("Max-Forwards", "70")
        params = {name: value for name, value in invitation.from_.params.items() if name != "tag"}
        params["tag"] = self.local_tag
        request.add("From", str(NameAddr(invitation.from_.display_name, invitation.from_.uri_text, params)))
        to = {name: value for name, value in invitation.to.params.items() if name != "tag"}
        request.add("To", str(NameAddr(invitation.to.display_name, invitation.to.uri_text, to)))
        request.add("Call-ID", self.call_id)
        request.add("CSeq", f"{self._cseq} INVITE")
        for name, value in invitation.headers:
            request.add(name, value)
        if not request.has("allow"):
            request.add("Allow", self.agent.allow)
        if invitation.supported and not request.has("supported"):
            request.add("Supported", ", ".join(invitation.supported))
        if invitation.session_expires:
            request.add("Session-Expires", str(invitation.session_expires))
            request.add("Min-SE", str(min(MIN_SE, invitation.session_expires)))
        self.agent.identify(request)
        request.set_body(invitation.body, invitation.content_type or None)
        return request

    def _prepare(self, request: SipRequest, hop: Hop) -> None:
        self.contact = self.contact_for(hop, self.invitation.contact_params)
        request.set("contact", self.contact)
        if self._setup is not None:
            # Every hop gets the time (ERR-01): the next one is not to blame for the silence of this one.
            self._setup.cancel()
            self._setup = self.agent.clock.call_later(self.invitation.setup_timeout or 0, self._setup_timed_out)

    def _next_cseq(self) -> int:
        self._cseq += 1
        return self._cseq

    def _stop_setup(self) -> None:
        if self._setup is not None:
            self._setup.cancel()
            self._setup = None

    def _setup_timed_out(self) -> None:
        self._setup = None
        exchange = self._invite_exchange
        if exchange is None or exchange.done:
            return
        exchange.silent()
        if not exchange.heard and exchange.has_next_hop:
            self._setup = self.agent.clock.call_later(self.invitation.setup_timeout or 0, self._setup_timed_out)
            exchange.next_hop()
            return
        exchange.abandon((("Reason", 'SIP;cause=408;text="no answer in time"'),))
        self._failed(408, None, "timeout")

    def _settled(self, exchange: Exchange, result: Result) -> None:
        """The INVITE has its final response, or none is to come."""
        self._stop_setup()
        if isinstance(result, str):
            status = 408 if result == "timeout" else 487 if result == "cancelled" else 503
            self._failed(status, None, "cancelled" if exchange.cancelled else result)
        elif result.status >= 300:
            self._failed(result.status, result, "cancelled" if exchange.cancelled else result.reason)
        elif exchange.cancelled:
            self._discard(exchange, result)
            self._failed(result.status, result, "cancelled")
        else:
            self._answered_by(exchange, result)

    def _answered_by(self, exchange: Exchange, response: SipResponse) -> None:
        tag = response.to_tag
        try:
            dialog = self._early.get(tag)
            if dialog is None:
                dialog = self._dialog_from(exchange, response)
            else:
                dialog.confirm(response)
            dialog.next_hop  # noqa: B018 - parsed for its errors: without it there can be no ACK
        except SipError as error:
            self._failed(502, response, f"unusable 2xx: {error.reason}")
            return
        dialog.local_cseq = max(dialog.local_cseq, exchange.request.cseq.number)
        self.dialog = dialog
        self.state = "confirmed"
        self.agent.register(self, dialog.key, only=True)
        self._refresh_target(response)
        self._acknowledge(exchange.request, response)
        self.start_timer(agreed_as_uac(response))
        self.handler.answered(self, response)

    def _dialog_from(self, exchange: Exchange, response: SipResponse) -> Dialog:
        """The dialog of a 2xx. One without Contact leads back to the address it came from.

        Raises:
            SipError: malformed headers.
        """
        transaction = exchange.transaction
        if response.contact is not None or transaction is None:
            return Dialog.from_response(exchange.request, response)
        hop, through = replace(transaction.hop, connection=0), self.resolve
        host = f"[{hop.host}]" if ":" in hop.host else hop.host
        target = f"sip:{host}:{hop.port}" + (f";transport={hop.transport}" if hop.reliable else "")

        def resolve(uri: Uri, done: Callable[[list[Hop] | SipError], None]) -> None:
            if uri.text == target:
                done([hop])
            else:
                through(uri, done)

        self.resolve = resolve
        return Dialog.from_response(exchange.request, response, target)

    def _late(self, exchange: Exchange, response: SipResponse) -> None:
        """A 2xx after the first one, or after we gave up."""
        if self.dialog is not None and response.to_tag == self.dialog.remote_tag:
            self.ack_again(exchange, response)
        else:
            self._discard(exchange, response)

    def _discard(self, exchange: Exchange, response: SipResponse) -> None:
        """ACK and BYE for a dialog nobody wants (ERR-06, ERR-07); the ACK again for each repetition."""
        tag = response.to_tag
        dialog = self._early.get(tag)
        try:
            if dialog is None:
                dialog = self._dialog_from(exchange, response)
            else:
                dialog.confirm(response)
            dialog.local_cseq = max(dialog.local_cseq, response.cseq.number)
            ack = self._strays.get(tag)
            known = ack is not None
            if ack is None:
                ack = self._strays[tag] = self._make_ack(dialog, exchange.request)
                ack.set("cseq", f"{response.cseq.number} ACK")
            self.agent.send_ack(dialog, ack, self.resolve)
            if not known:
                self._exchange(dialog, "BYE", b"", "", (), _ignore)
        except SipError:
            pass  # no way to reach it: it will find out for want of an ACK

    def _failed(self, status: int, response: SipResponse | None, reason: str) -> None:
        self._stop_setup()
        self._close()
        self.agent.forget(self)
        self.handler.failed(self, status, response, reason)

    # -- before the answer -----------------------------------------------------------------------------------------

    def _provisional(self, exchange: Exchange, response: SipResponse) -> None:
        tag = response.to_tag
        if tag:
            dialog = self._early.get(tag)
            if dialog is None:
                try:
                    dialog = self._early[tag] = Dialog.from_response(exchange.request, response)
                except SipError:
                    return
                self.agent.register(self, dialog.key)
                if self.state == "calling":
                    self.state = "early"
            if "100rel" in response.tokens("require") and not self._acknowledge_provisional(dialog, exchange, response):
                return
        self.handler.progress(self, response)

    def _acknowledge_provisional(self, dialog: Dialog, exchange: Exchange, response: SipResponse) -> bool:
        """PRACK in order (RFC 3262 4; UAC-15); false for a repetition or one that came too early."""
        value = response.get("rseq") or ""
        if not value.isdecimal() or len(value) > 10:
            return False
        number = int(value)
        last = self._rseq.get(dialog.remote_tag)
        if last is not None and number != last + 1:
            return False
        self._rseq[dialog.remote_tag] = number
        dialog.route_set = list(reversed(response.values("record-route"))) or dialog.route_set
        if response.has("contact"):
            try:
                dialog.refresh_target(response)
            except SipError:
                pass
        dialog.local_cseq = max(dialog.local_cseq, exchange.request.cseq.number)
        body, content_type = self.handler.prack(self, response)
        headers = [("RAck", f"{number} {response.cseq.number} {response.cseq.method}")]
        self._exchange(dialog, "PRACK", body, content_type, headers, _ignore)
        return True

    def _dialog_for(self, request: SipRequest) -> Dialog | None:
        if self.dialog is not None:
            return self.dialog if dialog_key(request) == self.dialog.key else None
        return self._early.get(request.from_tag)

    def _offer_open(self) -> bool:
        return self.state in ("calling", "early") or super()._offer_open()


def _ignore(exchange: Exchange, result: Result) -> None:
    """BYE and PRACK of dialogs that are not the call's: however they end, it is over."""
