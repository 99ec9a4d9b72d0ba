"""The requests of ours within a call: one re-INVITE or UPDATE at a time, ACKs, and what results mean for the dialog.

What only some calls need (a queue, a session timer, a 2xx that waits for its ACK) is there while they need it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from siprec.sip.answered_invite import AnsweredInvite
from siprec.sip.call_handler import (
    Call,
    CallHandler,
    Done,
    Headers,
    Reply,
    Result,
    described,
    ignore,
    session_description,
)
from siprec.sip.dialog import Dialog, DialogKey
from siprec.sip.digest import CredentialStore
from siprec.sip.errors import SipError
from siprec.sip.message import SipMessage, SipRequest, SipResponse
from siprec.sip.multipart import SDP_TYPE
from siprec.sip.reinvite_queue import Queued, ReinviteQueue
from siprec.sip.session_timer import Agreement, SessionTimer, agreed_as_uac
from siprec.sip.uac_request import UacRequest
from siprec.sip.uri import Uri
from siprec.sip.useragent_base import Resolve, UserAgentBase
from siprec.sip.values import MIN_SE

DEAD: Final = frozenset({408, 481})
"""What says that the peer knows nothing of the dialog (RFC 3261 12.2.1.2)."""


class CallRequests(Call):
    """A call of a user agent, as far as our own requests go."""

    __slots__ = (
        "_ack_due",  # our INVITE whose 2xx has the offer: the owner has to give the answer
        "_answered",  # our 2xx that waits for its ACK
        "_bye",  # what the BYE will be that waits for that ACK
        "_invite",  # the peer's re-INVITE that waits for an answer
        "_queue",
        "_update",  # the same for an UPDATE
        "agent",
        "credentials",
        "keys",  # the dialogs, early ones included, this call is registered for
        "resolve",  # finds the hops of our requests
        "session_expires",  # the interval we ask for ourselves, in seconds; 0: none
        "session_timer",
        "supported",  # the Supported header of our requests; empty: none
    )

    def __init__(self, agent: UserAgentBase, handler: CallHandler, call_id: str) -> None:
        super().__init__(handler, call_id)
        self.agent = agent
        self.credentials: CredentialStore | None = None
        self.resolve: Resolve = agent.resolve
        self.session_expires = 0
        self.supported = agent.supported
        self.keys: tuple[DialogKey, ...] = ()
        self.session_timer: SessionTimer | None = None
        self._queue: ReinviteQueue | None = None
        self._ack_due: UacRequest | None = None
        self._invite: Reply | None = None
        self._update: Reply | None = None
        self._answered: AnsweredInvite | None = None
        self._bye: tuple[Headers, bytes, str, Done] | None = None

    # -- what the owner asks ---------------------------------------------------------------------------------------

    def ack(self, body: bytes = b"", content_type: str = SDP_TYPE, headers: Headers = ()) -> None:
        """Send the ACK that is due after a 2xx with the offer (the answer is `body`)."""
        request = self._ack_due
        if request is None or self.dialog is None:
            return
        self._ack_due = None
        if body:
            self.remember_session(described(body, content_type))
        number = request.request.cseq.number
        request.ack = self._send_ack(self.dialog, request, number, body, content_type, headers)
        if self._queue is not None:
            self._queue.pump()

    def reinvite(
        self, body: bytes = b"", content_type: str = SDP_TYPE, headers: Headers = (), done: Done = ignore
    ) -> None:
        """Send a re-INVITE as soon as no other offer or INVITE is open."""
        self._enqueue("INVITE", body, content_type, headers, done)

    def update(
        self, body: bytes = b"", content_type: str = SDP_TYPE, headers: Headers = (), done: Done = ignore
    ) -> None:
        """Send an UPDATE (RFC 3311) as soon as no other offer or INVITE is open."""
        self._enqueue("UPDATE", body, content_type, headers, done)

    def request(
        self, method: str, body: bytes = b"", content_type: str = "", headers: Headers = (), done: Done = ignore
    ) -> None:
        """Send any other request within the dialog, at once (INFO, OPTIONS, NOTIFY, MESSAGE, ...)."""
        if self.dialog is None or self.state == "ended":
            self.agent.clock.call_later(0, done, "ended")
            return

        def finished(request: UacRequest, result: Result) -> None:
            done(result)
            self.check_dead(result)

        self._send(self.dialog, method, body, content_type, headers, finished)

    def probe(self, done: Done) -> bool:
        """Send an OPTIONS within the dialog."""
        if self.dialog is None:
            return False
        return self._send(self.dialog, "OPTIONS", b"", "", (), lambda request, result: done(result)) is not None

    def to_dict(self) -> dict[str, Any]:
        """What has to be stored so that :meth:`UserAgent.restore` can go on with a confirmed call."""
        if self.dialog is None or self.state != "confirmed":
            raise ValueError("only a confirmed call can be stored")
        return {
            "dialog": self.dialog.to_dict(),
            "contact": self.contact,
            "remote_allow": sorted(self.remote_allow),
            "session": (self.local_session[0].decode("utf-8", "surrogateescape"), self.local_session[1]),
            "timer": self.session_timer.agreement if self.session_timer is not None else None,
        }

    # -- requests of ours ------------------------------------------------------------------------------------------

    def _enqueue(self, method: str, body: bytes, content_type: str, headers: Headers, done: Done) -> None:
        if self.state in ("ended", "calling"):
            self.agent.clock.call_later(0, done, "ended" if self.state == "ended" else "no dialog")
            return
        if self._queue is None:
            self._queue = ReinviteQueue(self, self.agent.clock, self.agent.random)
        description = described(body, content_type)
        offer = method == "INVITE" or description is not None
        self._queue.add(Queued(method, body, content_type, tuple(headers), done, description, offer))

    def start_timer(self, agreement: Agreement | None) -> None:
        """A 2xx of ours or the peer's says when the session expires (RFC 4028); None: it does not."""
        raise NotImplementedError

    def _over(self, reason: str, request: SipRequest | None) -> None:
        """The call is over without a BYE of ours."""
        raise NotImplementedError

    def _pump(self) -> None:
        if self._queue is not None:
            self._queue.pump()

    def queue_idle(self) -> None:
        """The queue is of no use any more."""
        self._queue = None

    @property
    def busy(self) -> bool:
        """Whether a request of ours has to wait: an INVITE or offer is open, in either direction (RFC 3261 14.1)."""
        return (
            self.state != "confirmed"
            or self._ack_due is not None
            or self._invite is not None
            or self._update is not None
            or self._answered is not None
        )

    @property
    def owns_call_id(self) -> bool | None:
        """Whether the Call-ID is ours; None: the call is over."""
        if self.state != "confirmed":
            return None
        return self.dialog is not None and self.dialog.owner

    def offer_headers(self, given: Headers) -> list[tuple[str, str]]:
        """The headers of a re-INVITE or UPDATE: Contact, `given`, and those of ours that are not among them."""
        headers = [("Contact", self.contact), *given]
        ours = [("Allow", self.agent.allow)]
        if self.supported:
            ours.append(("Supported", self.supported))
        if self.session_timer is not None:
            # RFC 4028 7.4: keep interval and role.
            agreement = self.session_timer.agreement
            role = "uac" if agreement.we_refresh else "uas"
            ours.append(("Session-Expires", f"{agreement.interval};refresher={role}"))
            ours.append(("Min-SE", str(min(agreement.interval, MIN_SE))))
        elif self.session_expires:
            ours.append(("Session-Expires", str(self.session_expires)))
        for name, value in ours:
            for known, _ in given:
                if known.lower() == name.lower():
                    break
            else:
                headers.append((name, value))
        return headers

    def exchange(
        self, item: Queued, headers: Headers, on_done: Callable[[UacRequest, Result], None]
    ) -> UacRequest | None:
        """Send a request of the queue; None if there is no dialog or no way to the peer."""
        if self.dialog is None:
            return None
        request = self._send(
            self.dialog, item.method, item.body, item.content_type, headers, on_done, self._answered_again
        )
        if request is not None and item.description is not None:
            self.remember_session(item.description)
        return request

    def _send(
        self,
        dialog: Dialog,
        method: str,
        body: bytes,
        content_type: str,
        headers: Headers,
        on_done: Callable[[UacRequest, Result], None],
        on_late: Callable[[UacRequest, SipResponse], None] | None = None,
    ) -> UacRequest | None:
        try:
            message, uri = dialog.request_to(method, headers, body, content_type if body else "")
        except SipError as error:
            # The peer's own Contact or Record-Route cannot be used.
            self.agent.clock.call_later(0, self._unroutable, error.reason)
            return None
        self.agent.identify(message)
        return UacRequest(
            self.agent,
            message,
            uri,
            on_done,
            next_cseq=dialog.next_cseq,
            credentials=self.credentials,
            on_late=on_late,
            resolve=self.resolve,
        )

    def _unroutable(self, reason: str) -> None:
        if self.state != "ended":
            self._over(f"dialog dead: {reason}", None)
        self.agent.forget(self)

    def accepted(self, item: Queued, request: UacRequest, response: SipResponse) -> None:
        """A 2xx to our re-INVITE or UPDATE came."""
        if self.dialog is None:
            return
        self._refresh_target(response)
        if self.session_timer is not None or "session-expires" in response.keys:
            self.start_timer(agreed_as_uac(response))
        if item.method == "INVITE":
            self._acknowledge(request, item.description is not None, response)

    def _acknowledge(self, request: UacRequest, offered: bool, response: SipResponse) -> None:
        """ACK at once, unless the 2xx has the offer: then the owner has to give the answer (RFC 3261 13.2.2.4)."""
        self._ack_due = request
        if self.state == "ended" or offered or not session_description(response):
            self.ack()

    def _answered_again(self, request: UacRequest, response: SipResponse) -> None:
        """A 2xx came again: its ACK was lost (RFC 3261 13.2.2.4)."""
        if request.ack and self.dialog is not None and request.request.cseq.number == response.cseq.number:
            self.agent.send_ack(request.ack, self.dialog.next_hop, self.resolve)

    def _send_ack(
        self,
        dialog: Dialog,
        request: UacRequest,
        cseq: int,
        body: bytes = b"",
        content_type: str = "",
        headers: Headers = (),
    ) -> bytes:
        """Send the ACK for a 2xx to our INVITE. Returns its octets: they are sent again when the 2xx is."""
        invite = request.request
        ack, next_hop = dialog.request_to("ACK", headers, body, content_type if body else "", cseq)
        if self.credentials is not None:
            # RFC 3261 13.2.2.4: the same credentials as the INVITE.
            for key, line in zip(invite.keys, invite.lines, strict=True):
                if key in ("authorization", "proxy-authorization"):
                    ack.write_line(key, line)
        self.agent.identify(ack)
        octets = ack.to_bytes()
        self.agent.send_ack(octets, next_hop, self.resolve)
        return octets

    def check_dead(self, result: Result) -> None:
        """481, 408 or silence end the dialog (RFC 3261 12.2.1.2)."""
        dead = result == "timeout" if isinstance(result, str) else result.status in DEAD
        if dead and self.state == "confirmed":
            reason = result if isinstance(result, str) else str(result.status)
            if not self.handler.dead(self, reason):
                return
            self.bye(headers=(("Reason", f'SIP;cause=408;text="dialog dead: {reason}"'),))
            self.handler.ended(self, f"dialog dead: {reason}", None)

    def remember_session(self, description: bytes | None) -> None:
        """The SDP that we sent, if any."""
        if description is not None:
            self.local_session = (description, SDP_TYPE)

    def _refresh_target(self, message: SipMessage) -> None:
        if self.dialog is not None:
            try:
                self.dialog.refresh_target(message)
            except SipError:
                pass  # keeps the target that worked
        if "allow" in message.keys:
            self.remote_allow = frozenset(message.tokens("allow"))

    def next_hop(self) -> Uri | None:
        """Where requests of this dialog go, if there is one."""
        return self.dialog.next_hop if self.dialog is not None else None
