"""A call we get: from the INVITE to its final response."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from siprec.sip.call_handler import CallHandler, Done, Headers, described, ignore
from siprec.sip.clock import Timer
from siprec.sip.dialog import Dialog
from siprec.sip.headers import NameAddr
from siprec.sip.message import SipRequest
from siprec.sip.multipart import SDP_TYPE
from siprec.sip.session_timer import agreed_as_uas
from siprec.sip.transaction import ServerTransaction
from siprec.sip.useragent_base import UserAgentBase
from siprec.sip.useragent_call import UserAgentCall

_REPEAT: Final = 60.0


class IncomingCall(UserAgentCall):
    """A call of ours as UAS: set `handler`, then :meth:`answer`, now or later. `request` is the INVITE.

    `local_tag` is our To tag. A handler hears of a CANCEL, or of a caller who hangs up early, by ``ended``.
    """

    __slots__ = ("_limit", "_repeat", "contact_params", "invite", "local_tag", "transaction")

    def __init__(self, agent: UserAgentBase, transaction: ServerTransaction) -> None:
        invite = transaction.request
        super().__init__(agent, CallHandler(), invite.call_id)
        self.invite = invite
        self.transaction = transaction
        self.local_tag = transaction.to_tag = agent.new_token()
        self.contact_params = ""
        self.dialog = Dialog.from_request(invite, self.local_tag, secure=transaction.source.transport == "tls")
        self.remote_allow = frozenset(invite.tokens("allow"))
        self._repeat: Timer | None = None
        self._limit: Timer | None = agent.clock.call_later(agent.ring_timeout, self._unanswered)
        transaction.on_cancel = self._cancelled

    @property
    def from_(self) -> NameAddr:
        """Who calls."""
        return self.invite.from_

    def answer(
        self,
        status: int,
        body: bytes = b"",
        content_type: str = SDP_TYPE,
        headers: Headers = (),
        reason: str = "",
    ) -> None:
        """Respond to the INVITE: provisional responses (kept alive every minute), then one final one.

        After a 2xx the call is confirmed and ``handler.ack`` follows; with the offer in the 2xx the ACK has the answer.
        After the final response, or when the caller has gone, further calls do nothing.
        """
        if self.state not in ("calling", "early"):
            return
        invite = self.invite
        lines = list(headers)
        agreement = None
        if 100 < status < 300:
            if not self.contact:
                params = f";{self.contact_params}" if self.contact_params else ""
                self.contact = f"<{self.agent.contact(self.transaction.source)}>{params}"
            lines.append(("Contact", self.contact))
        if status >= 200:
            lines.append(("Allow", self.agent.allow))
        if 200 <= status < 300:
            if not any(name.lower() == "supported" for name, _ in lines):
                lines.append(("Supported", self.agent.supported))
            agreement, timer_headers = agreed_as_uas(invite, self.session_expires)
            lines += timer_headers
        response = invite.response(
            status,
            reason,
            to_tag=self.local_tag if status > 100 else "",
            headers=lines,
            body=body,
            content_type=content_type,
        )
        self.agent.identify_response(response)
        if status < 200:
            if status > 100:
                self.state = "early"
                self._keep()
            self.transaction.respond(response)
            return
        self._stop_ringing()
        if status >= 300:
            self._close()
            self.agent.forget(self)
            self.transaction.respond(response)
            return
        self.state = "confirmed"
        if body:
            self.remember_session(described(body, content_type))
        self._await_ack(self.transaction, response)
        self.transaction.respond(response)
        self.start_timer(agreement)

    def bye(self, headers: Headers = (), body: bytes = b"", content_type: str = "", done: Done = ignore) -> None:
        """End the call; before the answer that is a 480."""
        if self.state in ("calling", "early"):
            self.answer(480, headers=headers)
            self.agent.clock.call_later(0, done, "ended")
        else:
            super().bye(headers, body, content_type, done)

    def _keep(self) -> None:
        """RFC 3261 13.3.1.1: every minute, so that no proxy's Timer C runs out."""
        if self._repeat is not None:
            self._repeat.cancel()
        self._repeat = self.agent.clock.call_later(_REPEAT, self._ring_again)

    def _ring_again(self) -> None:
        self.transaction.respond_again()
        self._keep()

    def _stop_ringing(self) -> None:
        for timer in (self._repeat, self._limit):
            if timer is not None:
                timer.cancel()
        self._repeat = self._limit = None

    def _unanswered(self) -> None:
        self._gone("no answer", None, 480)

    def _cancelled(self, request: SipRequest) -> None:
        self._gone("cancelled", request, 487)

    def _gone(self, reason: str, request: SipRequest | None, status: int) -> None:
        if self.state in ("calling", "early"):
            self.answer(status)
            self.handler.ended(self, reason, request)

    def _their_invite_open(self) -> bool:
        return self.state in ("calling", "early") or super()._their_invite_open()

    def _bye_received(self, request: SipRequest) -> None:
        if self.state in ("calling", "early"):
            # The caller may end an early dialog by BYE (RFC 3261 15.1.2).
            self._gone("bye", request, 487)
        else:
            super()._bye_received(request)


OnInvite = Callable[[IncomingCall], None]
