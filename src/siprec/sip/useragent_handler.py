"""What a call tells its owner."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.useragent_exchange import Result
from siprec.sip.useragent_reply import Reply, session_description

if TYPE_CHECKING:
    from siprec.sip.useragent_call import Call

Headers = Iterable[tuple[str, str]]
Done = Callable[[Result], None]


def ignore(result: Result) -> None:
    """For who does not want to know how a request ended."""


class CallHandler:
    """What a call tells its owner; a base class whose methods do nothing, or refuse what needs an answer.

    For an outgoing call exactly one of :meth:`answered` and :meth:`failed` is called. :meth:`ended` is called once if
    the call ends other than by our own ``cancel()`` or ``bye()``.
    """

    def progress(self, call: Call, response: SipResponse) -> None:
        """A provisional response above 100."""

    def answered(self, call: Call, response: SipResponse) -> None:
        """The 2xx came. With the offer in it (the INVITE had none), ``call.ack(body)`` is now due."""

    def failed(self, call: Call, status: int, response: SipResponse | None, reason: str) -> None:
        """No dialog came about. `status` is that of `response`; without one 408 (timeout), 503 (transport) or 487.

        `reason` is the reason phrase, or ``timeout``, ``transport: ...``, ``resolve: ...``, ``cancelled``.
        """

    def prack(self, call: Call, response: SipResponse) -> tuple[bytes, str]:
        """Body and content type for the PRACK of a reliable provisional response: the answer if that had an offer."""
        return b"", ""

    def ack(self, call: Call, request: SipRequest) -> None:
        """The ACK for a 2xx of ours came; it holds the answer if the 2xx had the offer."""

    def request(self, call: Call, request: SipRequest, reply: Reply) -> None:
        """A request within the dialog: re-INVITE, UPDATE, INFO, OPTIONS, ... CSeq and glare are checked already.

        ``reply(status, body, content_type, headers)`` may be called later. BYE, PRACK, ACK and CANCEL do not come here.
        """
        if request.method == "OPTIONS" or (request.method == "UPDATE" and session_description(request) is None):
            reply(200)
        elif request.method in ("INVITE", "UPDATE"):
            reply(488)
        else:
            reply(501)

    def bye_received(self, call: Call, request: SipRequest, reply: Reply) -> None:
        """A BYE came. `reply` has to be called, at once or soon; :meth:`ended` follows either way."""
        reply(200)

    def out_of_order(self, call: Call, request: SipRequest) -> None:
        """A request of the peer had a lower CSeq than one before it. It got 500 (RFC 3261 12.2.2)."""

    def dead(self, call: Call, reason: str) -> bool:
        """A request of ours got 481, 408 or no answer; true: the call ends (RFC 3261 12.2.1.2, UAC-11)."""
        return True

    def refresh_refused(self, call: Call, status: int) -> None:
        """A session refresh of ours (RFC 4028) got `status`, which is neither a 2xx nor 408 nor 481."""

    def expired(self, call: Call) -> bool:
        """The session timer ran out (RFC 4028 10); true: the call ends, false: the timer begins anew."""
        return True

    def ended(self, call: Call, reason: str, request: SipRequest | None) -> None:
        """The call is over: ``bye`` (with the BYE), ``cancelled`` (with the CANCEL), ``no ACK``, ``session expired``,
        ``dialog dead: ...``, ``no answer``."""
