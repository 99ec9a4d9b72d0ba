"""A call of our own, once its dialog exists: exchanges one at a time, what the peer asks, ACK, BYE, session timer.

How a call begins is in :mod:`siprec.sip.useragent_outgoing` and :mod:`siprec.sip.useragent_incoming`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from siprec.sip.dialog import Dialog, DialogKey
from siprec.sip.errors import SipError
from siprec.sip.message import SipMessage, SipRequest, SipResponse
from siprec.sip.multipart import SDP_TYPE
from siprec.sip.transaction import ServerTransaction
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri
from siprec.sip.useragent_exchange import Exchange, Resolve, Result
from siprec.sip.useragent_handler import CallHandler, Done, Headers, ignore
from siprec.sip.useragent_queue import OfferQueue, Queued
from siprec.sip.useragent_reply import AnsweredInvite, Reply, described, describes, session_description
from siprec.sip.useragent_timer import Agreement, SessionTimer, agreed_as_uac
from siprec.sip.values import MIN_SE, session_expires

if TYPE_CHECKING:
    from siprec.sip.digest import CredentialStore
    from siprec.sip.useragent import UserAgent

_DEAD: Final = frozenset({408, 481})


class Call:
    """One call. `state` is ``calling``, ``early``, ``confirmed`` or ``ended``; `dialog` None until there is one."""

    def __init__(self, agent: UserAgent, handler: CallHandler, call_id: str) -> None:
        self.agent = agent
        self.handler = handler
        self.call_id = call_id
        self.state = "calling"
        self.dialog: Dialog | None = None
        self.contact = ""
        self.credentials: CredentialStore | None = None
        self.resolve: Resolve = agent.resolve
        """Finds the ways of our requests."""
        self.session_expires = 0
        self.remote_allow: set[str] = set()
        self.local_session: tuple[bytes, str] = (b"", "")
        """Body and type of the SDP we sent last: what a session refresh by re-INVITE repeats (UAC-13)."""
        self.refresh_headers: Headers = ()
        """More headers for the requests that refresh the session (RFC 4028)."""
        self.user: Any = None
        """Free for the owner."""
        self._keys: set[DialogKey] = set()
        self._queue = OfferQueue(self)
        self._ack: SipRequest | None = None
        self._ack_due: tuple[SipRequest, SipResponse] | None = None
        self._invite: Reply | None = None
        self._update: Reply | None = None
        self._answered: AnsweredInvite | None = None
        self._bye: tuple[Headers, bytes, str, Done] | None = None
        self.session_timer = SessionTimer(agent.clock, self._refresh, self._expired)

    # -- what the owner asks ---------------------------------------------------------------------------------------

    def ack(self, body: bytes = b"", content_type: str = SDP_TYPE, headers: Headers = ()) -> None:
        """Send the ACK that is due after a 2xx with the offer (the answer is `body`); otherwise nothing."""
        if self._ack_due is None or self.dialog is None:
            return
        invite, _ = self._ack_due
        self._ack_due = None
        if body:
            self.remember_session(body, content_type)
        self._ack = self._make_ack(self.dialog, invite, body, content_type, headers)
        self.agent.send_ack(self.dialog, self._ack, self.resolve)
        self._queue.pump()

    def reinvite(
        self, body: bytes = b"", content_type: str = SDP_TYPE, headers: Headers = (), done: Done = ignore
    ) -> None:
        """Send a re-INVITE as soon as no other exchange is open (UAC-06); 491 is tried again (UAC-07).

        Without a body the 2xx holds the offer, and `done` must call ``ack(body)``.
        """
        self._enqueue("INVITE", body, content_type, headers, done)

    def update(
        self, body: bytes = b"", content_type: str = SDP_TYPE, headers: Headers = (), done: Done = ignore
    ) -> None:
        """Send an UPDATE (RFC 3311) as soon as no other exchange is open."""
        self._enqueue("UPDATE", body, content_type, headers, done)

    def request(
        self, method: str, body: bytes = b"", content_type: str = "", headers: Headers = (), done: Done = ignore
    ) -> None:
        """Send any other request within the dialog, at once (INFO, OPTIONS, NOTIFY, MESSAGE, ...)."""
        if self.dialog is None or self.state == "ended":
            self.agent.clock.call_later(0, done, "ended")
            return

        def finished(exchange: Exchange, result: Result) -> None:
            done(result)
            self.check_dead(result)

        self._exchange(self.dialog, method, body, content_type, headers, finished)

    def bye(self, headers: Headers = (), body: bytes = b"", content_type: str = "", done: Done = ignore) -> None:
        """End the call. What waits in the queue ends with ``ended``; a BYE waits for the ACK of our 2xx (UAC-16)."""
        if self.state == "ended" or self.dialog is None:
            self.agent.clock.call_later(0, done, "ended")
            return
        self.ack()
        self._close()
        self._bye = (headers, body, content_type, done)
        if self._answered is None:
            self._send_bye()
        if self._invite is not None:
            self._invite(487)
        if self._update is not None:
            self._update(487)

    def to_dict(self) -> dict[str, Any]:
        """What has to be stored so that :meth:`UserAgent.restore` can go on with a confirmed call (UAC-20).

        Raises:
            ValueError: the call has no confirmed dialog.
        """
        if self.dialog is None or self.state != "confirmed":
            raise ValueError("only a confirmed call can be stored")
        return {
            "dialog": self.dialog.to_dict(),
            "contact": self.contact,
            "remote_allow": sorted(self.remote_allow),
            "session": (self.local_session[0].decode("utf-8", "surrogateescape"), self.local_session[1]),
            "timer": self.session_timer.agreement,
        }

    # -- exchanges of ours -----------------------------------------------------------------------------------------

    def _enqueue(self, method: str, body: bytes, content_type: str, headers: Headers, done: Done) -> None:
        if self.state in ("ended", "calling"):
            self.agent.clock.call_later(0, done, "ended" if self.state == "ended" else "no dialog")
        else:
            offer = method == "INVITE" or described(body, content_type) is not None
            self._queue.add(Queued(method, body, content_type, tuple(headers), done, offer))

    @property
    def supported(self) -> str:
        """The Supported header of our requests in this call; empty: none."""
        return self.agent.supported

    @property
    def busy(self) -> bool:
        """Whether an exchange of ours has to wait: an INVITE or offer is open, in either direction (UAC-06)."""
        return (
            self.state != "confirmed"
            or self._ack_due is not None
            or self._invite is not None
            or self._update is not None
            or self._answered is not None
        )

    def exchange(
        self,
        method: str,
        body: bytes,
        content_type: str,
        headers: Headers,
        on_done: Callable[[Exchange, Result], None],
        on_late: Callable[[Exchange, SipResponse], None] | None = None,
    ) -> Exchange | None:
        """Send a request within the dialog; None if there is no dialog or no way to the peer."""
        if self.dialog is None:
            return None
        return self._exchange(self.dialog, method, body, content_type, headers, on_done, on_late)

    def _exchange(
        self,
        dialog: Dialog,
        method: str,
        body: bytes,
        content_type: str,
        headers: Headers,
        on_done: Callable[[Exchange, Result], None],
        on_late: Callable[[Exchange, SipResponse], None] | None = None,
    ) -> Exchange | None:
        def next_cseq() -> int:
            dialog.local_cseq += 1
            return dialog.local_cseq

        try:
            request = dialog.request(method, headers=headers, body=body, content_type=content_type if body else "")
            uri = dialog.next_hop
        except SipError as error:
            # The peer's own Contact or Record-Route cannot be used.
            self.agent.clock.call_later(0, self._unroutable, error.reason)
            return None
        self.agent.identify(request)
        exchange = Exchange(
            self.agent,
            request,
            uri,
            on_done,
            next_cseq=next_cseq,
            credentials=self.credentials,
            on_late=on_late,
            resolve=self.resolve,
        )
        exchange.start()
        return exchange

    def _unroutable(self, reason: str) -> None:
        if self.state != "ended":
            self._over(f"dialog dead: {reason}", None)
        self.agent.forget(self)

    def accepted(self, request: SipRequest, response: SipResponse) -> None:
        """A 2xx to our re-INVITE or UPDATE came."""
        if self.dialog is None:
            return
        self._refresh_target(response)
        if self.state == "confirmed":
            self.session_timer.start(agreed_as_uac(response))
        if request.method == "INVITE":
            self._acknowledge(request, response)

    def _acknowledge(self, invite: SipRequest, response: SipResponse) -> None:
        """ACK at once, unless the 2xx has the offer: then the owner has to give the answer (OA-04)."""
        self._ack = None
        self._ack_due = (invite, response)
        if self.state == "ended" or session_description(invite) or not session_description(response):
            self.ack()

    def ack_again(self, exchange: Exchange, response: SipResponse) -> None:
        """A 2xx came again: its ACK was lost (UAC-03)."""
        if self._ack is not None and self.dialog is not None and self._ack.cseq.number == response.cseq.number:
            self.agent.send_ack(self.dialog, self._ack, self.resolve)

    def _make_ack(
        self, dialog: Dialog, invite: SipRequest, body: bytes = b"", content_type: str = "", headers: Headers = ()
    ) -> SipRequest:
        ack = dialog.request(
            "ACK", headers=headers, body=body, content_type=content_type if body else "", cseq=invite.cseq.number
        )
        # RFC 3261 13.2.2.4: the same credentials as the INVITE.
        for key, line in zip(invite.keys, invite.lines, strict=True):
            if key in ("authorization", "proxy-authorization"):
                ack.write_line(key, line)
        self.agent.identify(ack)
        return ack

    def check_dead(self, result: Result) -> None:
        """RFC 3261 12.2.1.2 (UAC-11): 481, 408 or silence end the dialog."""
        dead = result == "timeout" if isinstance(result, str) else result.status in _DEAD
        if dead and self.state == "confirmed":
            reason = result if isinstance(result, str) else str(result.status)
            if not self.handler.dead(self, reason):
                return
            self.bye(headers=(("Reason", f'SIP;cause=408;text="dialog dead: {reason}"'),))
            self.handler.ended(self, f"dialog dead: {reason}", None)

    # -- the end ---------------------------------------------------------------------------------------------------

    def _close(self) -> None:
        """No more exchanges of ours; what waits is told."""
        self.state = "ended"
        self.session_timer.stop()
        self._queue.close()

    def _over(self, reason: str, request: SipRequest | None) -> None:
        """The call is over without a BYE of ours."""
        self._close()
        self._ack_due = None
        if self._invite is not None:
            self._invite(487)
        if self._update is not None:
            self._update(487)
        if self._answered is not None:
            self._answered.stop()
            self._answered = None
        self.handler.ended(self, reason, request)

    def _send_bye(self) -> None:
        if self._bye is None or self.dialog is None:
            return
        headers, body, content_type, done = self._bye
        self._bye = None

        def finished(exchange: Exchange, result: Result) -> None:
            self.agent.forget(self)
            done(result)

        if self._exchange(self.dialog, "BYE", body, content_type, headers, finished) is None:
            self.agent.clock.call_later(0, done, "unroutable")

    # -- session timer ---------------------------------------------------------------------------------------------

    def start_timer(self, agreement: Agreement | None) -> None:
        """A 2xx of ours or the peer's says when the session expires (RFC 4028)."""
        if self.state == "confirmed":
            self.session_timer.start(agreement)

    def _refresh(self) -> None:
        if "update" in self.remote_allow:
            self._enqueue("UPDATE", b"", "", self.refresh_headers, self._refreshed)
        else:
            self._enqueue("INVITE", *self.local_session, self.refresh_headers, self._refreshed)

    def _refreshed(self, result: Result) -> None:
        status = result.status if isinstance(result, SipResponse) else 0
        if status in (405, 501):
            self.remote_allow.discard("update")
        if not 200 <= status < 300:
            self.session_timer.refused()
            if status and status not in _DEAD:
                self.handler.refresh_refused(self, status)

    def _expired(self) -> None:
        if self.state == "confirmed":
            if not self.handler.expired(self):
                self.session_timer.start(self.session_timer.agreement)
                return
            self.bye(headers=(("Reason", 'SIP;cause=408;text="session expired"'),))
            self.handler.ended(self, "session expired", None)

    def remember_session(self, body: bytes, content_type: str) -> None:
        description = described(body, content_type)
        if description is not None:
            self.local_session = (description, SDP_TYPE)

    def _refresh_target(self, message: SipMessage) -> None:
        if self.dialog is not None:
            try:
                self.dialog.refresh_target(message)
            except SipError:
                pass  # keeps the target that worked
        if message.has("allow"):
            self.remote_allow = message.tokens("allow")

    # -- what the peer asks ----------------------------------------------------------------------------------------

    def _dialog_for(self, request: SipRequest) -> Dialog | None:
        return self.dialog

    def receive(self, transaction: ServerTransaction) -> None:
        """A request of the peer within the dialog."""
        request = transaction.request
        method = request.method
        dialog = self._dialog_for(request)
        reply = Reply(self, transaction)
        if dialog is None or (self.state == "ended" and method != "BYE"):
            reply(481)
            return
        number = request.cseq.number
        if number <= dialog.remote_cseq:
            # RFC 3261 12.2.2 (UAC-09); the same number again came by another way, 8.2.2.2.
            reply(500 if number < dialog.remote_cseq else 482)
            if number < dialog.remote_cseq:
                self.handler.out_of_order(self, request)
            return
        dialog.remote_cseq = number
        if method == "BYE":
            if self.state == "ended":
                reply(200)
            else:
                self.handler.bye_received(self, request, reply)
            self._bye_received(request)
        elif method == "PRACK":
            reply(481)  # we never send a reliable provisional response (RFC 3262 3)
        elif method in ("INVITE", "UPDATE"):
            self._offer_received(request, reply)
        else:
            self.handler.request(self, request, reply)

    def _bye_received(self, request: SipRequest) -> None:
        if self.state != "ended":
            self._over("bye", request)
            self.agent.forget(self)
        elif self._bye is not None:
            # Our BYE was still waiting for an ACK; the peer's own makes it pointless.
            done = self._bye[3]
            self._bye = None
            if self._answered is not None:
                self._answered.stop()
                self._answered = None
            self.agent.forget(self)
            done("ended")

    def _offer_received(self, request: SipRequest, reply: Reply) -> None:
        """Glare (RFC 3261 14.2, RFC 3311 5.2; UAC-08), then the owner."""
        invite = request.method == "INVITE"
        offer = invite or describes(request)
        ours_open = self._offer_open()
        if offer and ours_open:
            reply(491)
        elif (self._their_invite_open() and offer) or (self._update is not None and (offer or not invite)):
            reply(500, headers=[("Retry-After", str(self.agent.random.randint(0, 10)))])
        elif (expires := session_expires(request)) is not None and expires.interval < MIN_SE:
            reply(422, headers=[("Min-SE", str(MIN_SE))])
        else:
            if self._answered is not None and invite:
                # The peer has our 2xx, or it would not begin another INVITE; its ACK was lost.
                self._answered.stop()
                self._answered = None
            if invite:
                self._invite = reply
                reply.transaction.on_cancel = lambda cancel: reply(487)
            else:
                self._update = reply
            self.handler.request(self, request, reply)

    def _their_invite_open(self) -> bool:
        """Whether an INVITE of the peer waits for its final response."""
        return self._invite is not None

    def _offer_open(self) -> bool:
        """Whether an offer, or an INVITE, of ours is unanswered."""
        if self._ack_due is not None or (self._answered is not None and self._answered.offered):
            return True
        return self._queue.offer_open

    def replied(self, reply: Reply, response: SipResponse) -> None:
        """A final response to a re-INVITE or UPDATE was sent (called by :class:`Reply`)."""
        request = reply.transaction.request
        if reply is self._invite:
            self._invite = None
        elif reply is self._update:
            self._update = None
        if 200 <= response.status < 300:
            self._refresh_target(request)
            if response.body:
                self.remember_session(response.body, response.get("content-type") or "")
            if request.method == "INVITE":
                self._answered = AnsweredInvite(self, reply.transaction, response)
        self._queue.pump()

    def ack_received(self, request: SipRequest) -> bool:
        """The peer's ACK for a 2xx of ours; false if none is expected."""
        answered = self._answered
        if answered is None or answered.cseq != request.cseq.number:
            return False
        answered.stop()
        self._answered = None
        if self._bye is not None:
            self._send_bye()
        else:
            self.handler.ack(self, request)
            self._queue.pump()
        return True

    def not_acknowledged(self) -> None:
        """64*T1 without an ACK: the session ends (RFC 3261 13.3.1.4, 14.2)."""
        self._answered = None
        if self._bye is not None:
            self._send_bye()
        elif self.state != "ended":
            self.bye(headers=(("Reason", 'SIP;cause=408;text="no ACK"'),))
            self.handler.ended(self, "no ACK", None)

    # -- used by the agent -----------------------------------------------------------------------------------------

    @property
    def keys(self) -> set[DialogKey]:
        """The dialogs, early ones included, this call is registered for."""
        return self._keys

    def contact_for(self, hop: Hop, params: str = "") -> str:
        """A Contact value for messages that go to `hop`."""
        return f"<{self.agent.contact(hop)}>{';' + params if params else ''}"

    @property
    def way(self) -> Hop | None:
        """The hop that the call was begun by, where it is known."""
        return None

    def next_hop(self) -> Uri | None:
        """Where requests of this dialog go, if there is one."""
        return self.dialog.next_hop if self.dialog is not None else None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.call_id} {self.state}>"
