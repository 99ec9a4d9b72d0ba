"""A call of our own as its owner sees it: what the owner asks of it, and what it tells its owner."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from siprec.sip.dialog import Dialog
from siprec.sip.errors import SipError
from siprec.sip.message import SipMessage, SipRequest, SipResponse
from siprec.sip.multipart import SDP_TYPE, sdp_part
from siprec.sip.transaction import ServerTransaction
from siprec.sip.transport import Hop

Headers = Iterable[tuple[str, str]]
Result = SipResponse | str
"""A final response, or why there is none: ``timeout``, ``transport: ...``, ``resolve: ...``, ``cancelled``..."""
Done = Callable[[Result], None]
_NOTHING: Final[frozenset[str]] = frozenset()


def ignore(result: Result) -> None:
    """For who does not want to know how a request ended."""


class Call:
    """One call. `state` is ``calling``, ``early``, ``confirmed`` or ``ended``; `dialog` None until there is one."""

    __slots__ = (
        "call_id",
        "contact",  # our Contact value, once the hop is known
        "dialog",
        "handler",
        "local_session",
        "refresh_headers",
        "remote_allow",
        "state",
        "user",
    )

    handler: CallHandler
    dialog: Dialog | None
    local_session: tuple[bytes, str]
    """Body and type of the SDP we sent last: what a session refresh by re-INVITE repeats."""
    remote_allow: frozenset[str]
    """The methods that the peer allows, in lower case; empty where it has not said."""
    refresh_headers: Headers
    """More headers for the requests that refresh the session (RFC 4028)."""
    user: Any
    """Free for the owner."""

    def __init__(self, handler: CallHandler, call_id: str) -> None:
        self.handler = handler
        self.call_id = call_id
        self.state = "calling"
        self.dialog = None
        self.contact = ""
        self.local_session = (b"", "")
        self.remote_allow = _NOTHING
        self.refresh_headers = ()
        self.user = None

    @property
    def way(self) -> Hop | None:
        """The hop that the call was begun by, where it is known."""
        return None

    def ack(self, body: bytes = b"", content_type: str = SDP_TYPE, headers: Headers = ()) -> None:
        """Send the ACK that is due after a 2xx with the offer (the answer is `body`); otherwise nothing."""
        raise NotImplementedError

    def reinvite(
        self, body: bytes = b"", content_type: str = SDP_TYPE, headers: Headers = (), done: Done = ignore
    ) -> None:
        """Send a re-INVITE as soon as no other offer or INVITE is open; 491 is tried again (RFC 3261 14.1).

        Without a body the 2xx holds the offer, and `done` must call ``ack(body)``.
        """
        raise NotImplementedError

    def update(
        self, body: bytes = b"", content_type: str = SDP_TYPE, headers: Headers = (), done: Done = ignore
    ) -> None:
        """Send an UPDATE (RFC 3311) as soon as no other offer or INVITE is open."""
        raise NotImplementedError

    def request(
        self, method: str, body: bytes = b"", content_type: str = "", headers: Headers = (), done: Done = ignore
    ) -> None:
        """Send any other request within the dialog, at once (INFO, OPTIONS, NOTIFY, MESSAGE, ...)."""
        raise NotImplementedError

    def probe(self, done: Done) -> bool:
        """Send an OPTIONS within the dialog; whatever its result, the call goes on. False: there is no way."""
        raise NotImplementedError

    def bye(self, headers: Headers = (), body: bytes = b"", content_type: str = "", done: Done = ignore) -> None:
        """End the call. What waits in the queue ends with ``ended``; a BYE waits for the ACK of our 2xx."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """What has to be stored so that :meth:`UserAgent.restore` can go on with a confirmed call.

        Raises:
            ValueError: the call has no confirmed dialog.
        """
        raise NotImplementedError

    def respond(self, reply: Reply, status: int, body: bytes, content_type: str, headers: Headers, reason: str) -> None:
        """Send the response of a :class:`Reply`."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.call_id} {self.state}>"


class Reply:
    """Answers one request of the peer: ``reply(200, body, content_type, headers)``; provisional ones may come before.

    After the final response, whose status is `final`, further calls do nothing. For INVITE and UPDATE, Contact and the
    session timer's headers are added, and a 2xx to INVITE is repeated until its ACK.
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
        headers: Headers = (),
        reason: str = "",
    ) -> None:
        if not self.final:
            if status >= 200:
                self.final = status
            self._call.respond(self, status, body, content_type, headers, reason)


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
        """A request of ours got 481, 408 or no answer; true: the call ends (RFC 3261 12.2.1.2)."""
        return True

    def refresh_refused(self, call: Call, status: int) -> None:
        """A session refresh of ours (RFC 4028) got `status`, which is neither a 2xx nor 408 nor 481."""

    def expired(self, call: Call) -> bool:
        """The session timer ran out (RFC 4028 10); true: the call ends, false: the timer begins anew."""
        return True

    def ended(self, call: Call, reason: str, request: SipRequest | None) -> None:
        """The call is over: ``bye`` (with the BYE), ``cancelled`` (with the CANCEL), ``no ACK``, ``session expired``,
        ``dialog dead: ...``, ``no answer``."""


def session_description(message: SipMessage) -> bytes | None:
    """The SDP of a message, alone or in a multipart, or None."""
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
    if content_type.lower() == SDP_TYPE:
        return body or None
    if b"application/sdp" not in body.lower():
        return None
    message = SipMessage()
    message.set_body(body, content_type)
    return session_description(message)
