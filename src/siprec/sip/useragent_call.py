"""A call of our own, once its dialog exists: what the peer asks, the end, the session timer.

Our own requests are in :mod:`siprec.sip.call_requests`; how a call begins is in :mod:`siprec.sip.outgoing_call` and
:mod:`siprec.sip.incoming_call`.
"""

from __future__ import annotations

from siprec.sip.answered_invite import AnsweredInvite
from siprec.sip.call_handler import Done, Headers, Reply, Result, described, describes, ignore
from siprec.sip.call_requests import DEAD, CallRequests
from siprec.sip.dialog import Dialog
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.session_timer import Agreement, SessionTimer, agreed_as_uas
from siprec.sip.transaction import ServerTransaction
from siprec.sip.uac_request import UacRequest
from siprec.sip.values import MIN_SE, session_expires


class UserAgentCall(CallRequests):
    """A :class:`siprec.sip.call_handler.Call` of a user agent."""

    __slots__ = ()

    # -- what the peer asks ----------------------------------------------------------------------------------------

    def dialog_for(self, request: SipRequest) -> Dialog | None:
        """The dialog that a request of the peer belongs to."""
        return self.dialog

    def receive(self, transaction: ServerTransaction) -> None:
        """A request of the peer within the dialog."""
        request = transaction.request
        method = request.method
        dialog = self.dialog_for(request)
        reply = Reply(self, transaction)
        if dialog is None or (self.state == "ended" and method != "BYE"):
            reply(481)
            return
        number = request.cseq.number
        if number <= dialog.remote_cseq:
            # RFC 3261 12.2.2; the same number again came by another way, 8.2.2.2.
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
            self._stop_answered()
            self.agent.forget(self)
            done("ended")

    def _offer_received(self, request: SipRequest, reply: Reply) -> None:
        """Glare (RFC 3261 14.2, RFC 3311 5.2), then the owner."""
        invite = request.method == "INVITE"
        offer = invite or describes(request)
        if offer and self._offer_open():
            reply(491)
        elif (self._their_invite_open() and offer) or (self._update is not None and (offer or not invite)):
            reply(500, headers=[("Retry-After", str(self.agent.random.randint(0, 10)))])
        elif (expires := session_expires(request)) is not None and expires.interval < MIN_SE:
            reply(422, headers=[("Min-SE", str(MIN_SE))])
        else:
            if invite:
                # The peer has our 2xx, or it would not begin another INVITE; its ACK was lost.
                self._stop_answered()
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
        return self._queue is not None and self._queue.offer_open

    def respond(self, reply: Reply, status: int, body: bytes, content_type: str, headers: Headers, reason: str) -> None:
        """Send the response of a :class:`Reply`."""
        transaction = reply.transaction
        request = transaction.request
        opens = request.method in ("INVITE", "UPDATE")
        lines = list(headers)
        agreement = None
        if opens and 100 < status < 300:
            lines.append(("Contact", self.contact))
            if status >= 200:
                agreement, timer_headers = agreed_as_uas(request, self.session_expires)
                lines += timer_headers
        if status >= 200 and opens:
            lines.append(("Allow", self.agent.allow))
        response = request.response(status, reason, headers=lines, body=body, content_type=content_type)
        self.agent.identify_response(response)
        transaction.respond(response)
        if status < 200 or not opens:
            return
        if reply is self._invite:
            self._invite = None
        elif reply is self._update:
            self._update = None
        if status < 300:
            self._refresh_target(request)
            self.remember_session(described(body, content_type) if body else None)
            if request.method == "INVITE":
                self._await_ack(transaction, response)
        self._pump()
        if status < 300 and self.state == "confirmed":
            self.start_timer(agreement)

    def _await_ack(self, transaction: ServerTransaction, response: SipResponse) -> None:
        layer = self.agent.layer
        offered = not describes(transaction.request) and describes(response)
        self._answered = AnsweredInvite(
            self.agent.clock, (layer.t1, layer.t2), transaction, offered, self._not_acknowledged
        )

    def ack_received(self, request: SipRequest) -> bool:
        """The peer's ACK for a 2xx of ours; false if none is expected."""
        answered = self._answered
        if answered is None or answered.cseq != request.cseq.number:
            return False
        self._stop_answered()
        if self._bye is not None:
            self._send_bye()
        else:
            self.handler.ack(self, request)
            self._pump()
        return True

    def _not_acknowledged(self) -> None:
        """64*T1 without an ACK: the session ends (RFC 3261 13.3.1.4, 14.2)."""
        self._answered = None
        if self._bye is not None:
            self._send_bye()
        elif self.state != "ended":
            self.bye(headers=(("Reason", 'SIP;cause=408;text="no ACK"'),))
            self.handler.ended(self, "no ACK", None)

    # -- the end ---------------------------------------------------------------------------------------------------

    def bye(self, headers: Headers = (), body: bytes = b"", content_type: str = "", done: Done = ignore) -> None:
        """End the call."""
        if self.state == "ended" or self.dialog is None:
            self.agent.clock.call_later(0, done, "ended")
            return
        if self._ack_due is not None:
            self.ack()
        self._close()
        self._bye = (headers, body, content_type, done)
        if self._answered is None:
            self._send_bye()
        self._refuse_open()

    def _close(self) -> None:
        """No more requests of ours; what waits is told."""
        self.state = "ended"
        if self.session_timer is not None:
            self.start_timer(None)
        queue, self._queue = self._queue, None
        if queue is not None:
            queue.close()

    def _refuse_open(self) -> None:
        if self._invite is not None:
            self._invite(487)
        if self._update is not None:
            self._update(487)

    def _stop_answered(self) -> None:
        if self._answered is not None:
            self._answered.stop()
            self._answered = None

    def _over(self, reason: str, request: SipRequest | None) -> None:
        """The call is over without a BYE of ours."""
        self._close()
        self._ack_due = None
        self._refuse_open()
        self._stop_answered()
        self.handler.ended(self, reason, request)

    def _send_bye(self) -> None:
        if self._bye is None or self.dialog is None:
            return
        headers, body, content_type, done = self._bye
        self._bye = None

        def finished(request: UacRequest, result: Result) -> None:
            self.agent.forget(self)
            done(result)

        if self._send(self.dialog, "BYE", body, content_type, headers, finished) is None:
            self.agent.clock.call_later(0, done, "unroutable")

    # -- session timer ---------------------------------------------------------------------------------------------

    def start_timer(self, agreement: Agreement | None) -> None:
        """A 2xx of ours or the peer's says when the session expires (RFC 4028); None: it does not."""
        if self.session_timer is not None:
            self.session_timer.stop()
            self.session_timer = None
        if agreement is not None and self.state == "confirmed":
            self.session_timer = SessionTimer(self.agent.clock, agreement, self._refresh, self._expired)

    def _refresh(self) -> None:
        if "update" in self.remote_allow:
            self._enqueue("UPDATE", b"", "", self.refresh_headers, self._refreshed)
        else:
            self._enqueue("INVITE", *self.local_session, self.refresh_headers, self._refreshed)

    def _refreshed(self, result: Result) -> None:
        status = result.status if isinstance(result, SipResponse) else 0
        if status in (405, 501):
            self.remote_allow -= {"update"}
        if not 200 <= status < 300:
            if self.session_timer is not None:
                self.session_timer.refused()
            if status and status not in DEAD:
                self.handler.refresh_refused(self, status)

    def _expired(self) -> None:
        if self.state != "confirmed" or self.session_timer is None:
            return
        if not self.handler.expired(self):
            self.start_timer(self.session_timer.agreement)
            return
        self.bye(headers=(("Reason", 'SIP;cause=408;text="session expired"'),))
        self.handler.ended(self, "session expired", None)
