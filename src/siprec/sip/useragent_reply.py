"""Responses to requests within a dialog, and the 2xx to an INVITE, sent again until its ACK comes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from siprec.sip.errors import SipError
from siprec.sip.message import SipMessage, SipResponse
from siprec.sip.multipart import SDP_TYPE, sdp_part
from siprec.sip.transaction import ServerTransaction
from siprec.sip.useragent_timer import agreed_as_uas

if TYPE_CHECKING:
    from siprec.sip.clock import Timer
    from siprec.sip.useragent_call import Call


def session_description(message: SipMessage) -> bytes | None:
    """The SDP of a message, alone or in a multipart (OA-06), or None."""
    if not message.body:
        return None
    part = sdp_part(message)
    return part.content if part is not None else None


def describes(message: SipMessage) -> bool:
    """Whether a message has SDP, or may have: a body that cannot be taken apart is for the owner to judge."""
    try:
        return session_description(message) is not None
    except SipError:
        return True


def described(body: bytes, content_type: str) -> bytes | None:
    """As :func:`session_description`, for a body that is to be sent."""
    if content_type == SDP_TYPE:
        return body or None
    message = SipMessage()
    message.set_body(body, content_type)
    return session_description(message)


class Reply:
    """Answers one request of the peer: ``reply(200, body, content_type, headers)``; provisional ones may come before.

    After the final response further calls do nothing. For INVITE and UPDATE, Contact and the session timer's headers
    are added, and a 2xx to INVITE is repeated until its ACK.
    """

    __slots__ = ("_call", "final", "transaction")

    def __init__(self, call: Call, transaction: ServerTransaction) -> None:
        self._call = call
        self.transaction = transaction
        self.final = 0

    def __call__(
        self,
        status: int,
        body: bytes = b"",
        content_type: str = SDP_TYPE,
        headers: Iterable[tuple[str, str]] = (),
        reason: str = "",
    ) -> None:
        if self.final:
            return
        call = self._call
        transaction = self.transaction
        request = transaction.request
        opens = request.method in ("INVITE", "UPDATE")
        lines = list(headers)
        agreement = None
        if opens and 100 < status < 300:
            lines.append(("Contact", call.contact))
            if status >= 200:
                agreement, timer_headers = agreed_as_uas(request, call.session_expires)
                lines += timer_headers
        if status >= 200 and opens:
            lines.append(("Allow", call.agent.allow))
        response = request.response(status, reason, headers=lines, body=body, content_type=content_type)
        call.agent.identify_response(response)
        transaction.respond(response)
        if status < 200:
            return
        self.final = status
        if opens:
            call.replied(self, response)
            if status < 300:
                call.start_timer(agreement)


class AnsweredInvite:
    """A 2xx of ours that waits for its ACK: sent again at T1, doubling to T2, up to 64*T1 (RFC 3261 13.3.1.4)."""

    __slots__ = ("_call", "_elapsed", "_interval", "_response", "_timer", "_transaction", "cseq", "offered")

    def __init__(self, call: Call, transaction: ServerTransaction, response: SipResponse) -> None:
        self._call = call
        self._transaction = transaction
        self._response = response
        self.cseq = transaction.request.cseq.number
        self.offered = not describes(transaction.request) and describes(response)
        layer = call.agent.layer
        self._interval = layer.t1
        self._elapsed = 0.0
        self._timer: Timer | None = layer.clock.call_later(layer.t1, self._again)

    def _again(self) -> None:
        layer = self._call.agent.layer
        self._elapsed += self._interval
        if self._elapsed >= 64 * layer.t1:
            self._timer = None
            self._call.not_acknowledged()
            return
        self._transaction.respond(self._response)
        self._interval = min(self._interval * 2, layer.t2, 64 * layer.t1 - self._elapsed)
        self._timer = layer.clock.call_later(self._interval, self._again)

    def stop(self) -> None:
        """The ACK came, or nobody waits for it any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
