"""The two server transactions: INVITE (RFC 3261 17.2.1, RFC 6026) and any other method (17.2.2, RFC 4320).

Tables: :data:`siprec.sip.transaction_fsm.INVITE_SERVER` and :data:`siprec.sip.transaction_fsm.SERVER`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Final

from siprec.sip import transaction_fsm
from siprec.sip.errors import SipError
from siprec.sip.forwarding import build_response
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.transaction_base import Transaction, TransactionServices, table_of
from siprec.sip.transport import Hop

_TRYING: Final = b"SIP/2.0 100 "


class ServerTransaction(Transaction):
    """One request received and the responses sent to it.

    `request` has `received`/`rport` filled in, `source` says where it came from, `hop` where responses go (None:
    nowhere). `on_cancel(request)` is called when a CANCEL came while no final response was sent (the layer answered
    it); `on_end(reason)` once, with ``done``, ``timeout`` (no ACK, or no response given in time) or ``transport``.
    """

    __slots__ = (
        "_failure",  # why the transaction ends, if not for the usual reason
        "on_cancel",
        "on_end",
        "source",
        "to_tag",
    )
    callbacks = ("on_end", "on_cancel")
    sends: ClassVar[tuple[str, ...]]
    """The event by the class of a response that is to be sent: its status divided by 100."""
    special: ClassVar[dict[int, str]] = {}
    """The event by status, where that is another one."""

    def __init__(
        self,
        layer: TransactionServices,
        request: SipRequest,
        source: Hop,
        hop: Hop | None,
        key: tuple[str, ...],
    ) -> None:
        self._layer = layer
        self.key = key
        self.request = request
        self.method = request.method
        self.source = source
        self.hop = hop
        self.reliable = source.reliable
        self.on_cancel: Callable[[SipRequest], None] | None = None
        self.on_end: Callable[[str], None] | None = None
        self.to_tag = ""
        self.state = ""
        self._data = b""
        self._failure = ""
        self._timer = None
        getattr(layer, self.home)[key] = self
        self.fire("request")

    def respond(self, response: SipResponse) -> None:
        """Send a response: provisional ones any number of times, then a final one; for INVITE further 2xx may follow.

        What a state does not allow (a second final response, a response after the end) is dropped.
        """
        try:
            tag = response.to_tag
        except SipError:
            tag = ""  # forwarded as it came
        self.send(response.status, response.to_bytes(), tag)

    def send(self, status: int, octets: bytes, to_tag: str = "") -> None:
        """As :meth:`respond`, with the octets of a response whose To has this tag."""
        if to_tag:
            self.to_tag = to_tag
        self.fire(self.special.get(status) or self.sends[status // 100], octets)

    def respond_again(self) -> None:
        """Send the last response again: a provisional one of an INVITE, or its 2xx."""
        self.fire("send again")

    # -- actions ---------------------------------------------------------------------------------------------------

    def _send_response(self, octets: bytes | None) -> None:
        """Send a response; None: the last one again."""
        if octets is not None:
            self._data = octets
        data, hop, layer = self._data, self.hop, self._layer
        if not data or hop is None:
            return
        if layer.on_response is not None:
            layer.on_response(int(data[8:11]), hop)
        # Nobody waits for a 100: it is not worth another way.
        layer.transport.send(data, hop, None if data.startswith(_TRYING) else partial(self._undelivered, data))

    _send_response_again = _send_response

    def _undelivered(self, data: bytes, reason: str) -> None:
        """The transport could not deliver a response: look for another way (RFC 3261 18.2.2, RFC 3263 5)."""
        layer, hop = self._layer, self.hop
        if hop is not None:
            layer.delivery.elsewhere(data, self.request.top_via, hop, self._transport_failed, layer.resolve, reason)

    def _transport_failed(self, reason: str) -> None:
        self._failure = "transport"
        self.fire("transport error")

    def _report_end(self, _: Any) -> None:
        if self.on_end is not None:
            self.on_end(self._failure or "done")

    def _report_timeout(self, _: Any) -> None:
        if self.on_end is not None:
            self.on_end(self._failure or "timeout")


class InviteServerTransaction(ServerTransaction):
    """INVITE server: proceeding, completed, confirmed, accepted, terminated."""

    __slots__ = ()
    home = "invite_servers"
    sends = ("", "send 1xx", "send 2xx", "send 300-699", "send 300-699", "send 300-699", "send 300-699")
    again = "timer G"
    timeout = "timer H"

    def _report_cancel(self, request: SipRequest) -> None:
        if self.on_cancel is not None:
            self.on_cancel(request)

    def _pass_ack(self, ack: tuple[SipRequest, Hop]) -> None:
        self._layer.pass_ack(*ack)

    _start_timers_g_and_h = Transaction._start_resending

    def _restart_timer_g(self, _: Any) -> None:
        self._restart(min(2 * self._interval, self._layer.t2))


class NonInviteServerTransaction(ServerTransaction):
    """Any other request: trying, proceeding, completed, terminated."""

    __slots__ = ()
    home = "servers"
    sends = ("", "", "send final", "send final", "send final", "send final", "send final")
    special = {100: "send 100", 408: "send nothing"}

    def _start_100_timer(self, _: Any) -> None:
        # Timer E fires at T1, 3*T1, 7*T1 and is T2 from there on (RFC 4320 4.1).
        self._set_timer(self._layer.t1 * 7, "100 timer")

    def _send_100(self, _: Any) -> None:
        self._send_response(build_response(self.request, 100))

    def _start_late_timer(self, _: Any) -> None:
        # Timer F of the client ran out: RFC 4320 4.2 forbids any response from here on.
        self._set_timer(self._layer.t1 * 57, "late")

    def _forget_response(self, _: Any) -> None:
        self._data = b""


InviteServerTransaction.table = table_of(transaction_fsm.INVITE_SERVER, InviteServerTransaction)
NonInviteServerTransaction.table = table_of(transaction_fsm.SERVER, NonInviteServerTransaction)
