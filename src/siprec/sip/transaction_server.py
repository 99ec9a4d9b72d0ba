"""The two server transaction machines: INVITE (RFC 3261 17.2.1 with RFC 6026 8.3) and non-INVITE (17.2.2, RFC 4320)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from siprec.sip.errors import SipError
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.transaction_client import Step

if TYPE_CHECKING:
    from siprec.sip.clock import Timer
    from siprec.sip.transaction import TransactionLayer
    from siprec.sip.transport import Hop


class ServerTransaction:
    """One request received and the responses sent to it.

    `request` has `received`/`rport` filled in, `source` says where it came from. `on_cancel(request)` is called when
    a CANCEL came while no final response was sent (the layer answered it); `on_ack(request)` when an ACK with the
    INVITE's branch came after a 2xx; `on_end(reason)` once, with ``done``, ``timeout`` (no ACK, or no response given
    in time) or ``transport``.
    """

    __slots__ = (
        "_data",
        "_failure",
        "_interval",
        "_layer",
        "_resend",
        "_timer",
        "hop",
        "key",
        "method",
        "on_ack",
        "on_cancel",
        "on_end",
        "request",
        "source",
        "state",
        "to_tag",
    )
    table: ClassVar[dict[tuple[str, str], Step]]

    def __init__(
        self, layer: TransactionLayer, request: SipRequest, source: Hop, hop: Hop | None, key: tuple[str, ...]
    ) -> None:
        self._layer = layer
        self.request = request
        self.method = request.method
        self.source = source
        self.hop = hop
        self.key = key
        self.on_cancel: Callable[[SipRequest], None] | None = None
        self.on_ack: Callable[[SipRequest], None] | None = None
        self.on_end: Callable[[str], None] | None = None
        self.state = ""
        self.to_tag = ""
        self._data = b""
        self._failure = ""
        self._interval = 0.0
        self._resend: Timer | None = None
        self._timer: Timer | None = None

    def start(self) -> None:
        """Enter the first state."""
        self._fire("start")

    def respond(self, response: SipResponse) -> None:
        """Send a response: provisional ones any number of times, then a final one; for INVITE further 2xx may follow.

        What a state does not allow (a second final response, a response after the end) is dropped.
        """
        raise NotImplementedError

    def retransmitted(self) -> None:
        """The request came again."""
        self._fire("request")

    def _fire(self, event: str, argument: Any = None) -> None:
        step = self.table.get((self.state, event))
        if step is None:
            return
        self.state = step.state
        for action in step.actions:
            action(self, argument)

    # -- actions ---------------------------------------------------------------------------------------------------

    def _send(self, response: SipResponse) -> None:
        try:
            self.to_tag = response.to.tag or self.to_tag
        except SipError:
            pass  # forwarded as it came (MSG-02)
        self._data = response.to_bytes()
        self._send_again(None)

    def _send_again(self, _: Any) -> None:
        if self._data:
            self._layer.send_response(self._data, self.request, self.hop, self._transport_failed)

    def _transport_failed(self, reason: str) -> None:
        self._failure = "transport"
        self._fire("transport error")

    def _set_timer(self, delay: float, event: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._layer.clock.call_later(delay, self._fire, event)

    def _stop(self, _: Any) -> None:
        if self._resend is not None:
            self._resend.cancel()
            self._resend = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _done(self, _: Any) -> None:
        self._end(self._failure or "done")

    def _timed_out(self, _: Any) -> None:
        self._end(self._failure or "timeout")

    def _end(self, reason: str) -> None:
        self._stop(None)
        self.state = "terminated"
        self._layer.forget_server(self)
        told, self.on_end, self.on_cancel, self.on_ack = self.on_end, None, None, None  # no cycle is left behind
        if told is not None:
            told(reason)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.method} {self.key[0]} {self.state}>"


class InviteServerTransaction(ServerTransaction):
    """INVITE server: proceeding, completed, confirmed, accepted, terminated."""

    __slots__ = ()

    def respond(self, response: SipResponse) -> None:
        """See :meth:`ServerTransaction.respond`."""
        status = response.status
        self._fire("send 1xx" if status < 200 else "send 2xx" if status < 300 else "send 300-699", response)

    def acknowledged(self, request: SipRequest) -> None:
        """An ACK with the INVITE's branch came."""
        self._fire("ack", request)

    def cancelled(self, request: SipRequest) -> None:
        """A CANCEL came and was answered."""
        self._fire("cancel", request)

    def _cancel(self, request: SipRequest) -> None:
        if self.on_cancel is not None:
            self.on_cancel(request)

    def _ack(self, request: SipRequest) -> None:
        if self.on_ack is not None:
            self.on_ack(request)
        else:
            self._layer.user.ack_received(request, self.source)

    def _start_g(self, _: Any) -> None:
        if not self.source.reliable:
            layer = self._layer
            self._interval = layer.t1
            self._resend = layer.clock.call_later(layer.t1, self._fire, "timer G")

    def _retransmit(self, _: Any) -> None:
        self._send_again(None)
        layer = self._layer
        self._interval = min(self._interval * 2, layer.t2)
        self._resend = layer.clock.call_later(self._interval, self._fire, "timer G")

    def _start_h(self, _: Any) -> None:
        self._set_timer(self._layer.t1 * 64, "timer H")

    def _start_i(self, _: Any) -> None:
        if self.source.reliable:
            self._done(None)
        else:
            self._set_timer(self._layer.t4, "timer I")

    def _start_l(self, _: Any) -> None:
        self._set_timer(self._layer.t1 * 64, "timer L")


_I = InviteServerTransaction
_I.table = {
    # RFC 3261 17.2.1; there is no arrow for "transport error": RFC 6026 7.1 (TXN-06).
    ("", "start"): Step("proceeding", ()),
    ("proceeding", "request"): Step("proceeding", (_I._send_again,)),
    ("proceeding", "cancel"): Step("proceeding", (_I._cancel,)),  # 9.2
    ("proceeding", "send 1xx"): Step("proceeding", (_I._send,)),
    ("proceeding", "send 2xx"): Step("accepted", (_I._start_l, _I._send)),  # RFC 6026 8.3
    ("proceeding", "send 300-699"): Step("completed", (_I._start_h, _I._start_g, _I._send)),
    ("completed", "request"): Step("completed", (_I._send_again,)),
    ("completed", "timer G"): Step("completed", (_I._retransmit,)),
    ("completed", "ack"): Step("confirmed", (_I._stop, _I._start_i)),
    ("completed", "timer H"): Step("terminated", (_I._timed_out,)),
    ("confirmed", "timer I"): Step("terminated", (_I._done,)),
    ("accepted", "ack"): Step("accepted", (_I._ack,)),  # RFC 6026 7.1 (TXN-03): retransmitted INVITEs are absorbed
    ("accepted", "send 2xx"): Step("accepted", (_I._send,)),
    ("accepted", "timer L"): Step("terminated", (_I._done,)),
}


class NonInviteServerTransaction(ServerTransaction):
    """Any other request: trying, proceeding, completed, terminated.

    RFC 4320: no provisional response but 100, and that not over UDP before the client's Timer E reaches T2, but then
    surely; no 408; nothing at all once the client has given up.
    """

    __slots__ = ()

    def respond(self, response: SipResponse) -> None:
        """See :meth:`ServerTransaction.respond`. A 1xx is dropped (TXN-09), a 408 only ends the waiting (TXN-10)."""
        status = response.status
        if status >= 200:
            self._fire("send nothing" if status == 408 else "send final", response)
        elif status == 100 and self.source.reliable:
            self._fire("send 100", response)

    def _start_trying(self, _: Any) -> None:
        # Timer E fires at T1, 3*T1, 7*T1 and is T2 from there on (RFC 4320 4.1).
        self._set_timer(self._layer.t1 * 7, "trying")

    def _send_trying(self, _: Any) -> None:
        self._send(self.request.response(100))
        self._start_late(None)

    def _start_late(self, _: Any) -> None:
        # Timer F of the client ran out: RFC 4320 4.2 forbids any response from here on.
        self._set_timer(self._layer.t1 * 57, "late")

    def _start_j(self, _: Any) -> None:
        if self.source.reliable:
            self._done(None)
        else:
            self._set_timer(self._layer.t1 * 64, "timer J")

    def _forget(self, _: Any) -> None:
        self._data = b""


_N = NonInviteServerTransaction
_N.table = {
    # RFC 3261 17.2.2
    ("", "start"): Step("trying", (_N._start_trying,)),
    ("trying", "trying"): Step("proceeding", (_N._send_trying,)),  # RFC 4320 4.1
    ("trying", "send 100"): Step("proceeding", (_N._send, _N._start_late)),
    ("trying", "send final"): Step("completed", (_N._send, _N._start_j)),
    ("trying", "send nothing"): Step("completed", (_N._forget, _N._start_j)),  # RFC 4320 4.2
    ("proceeding", "request"): Step("proceeding", (_N._send_again,)),
    ("proceeding", "send final"): Step("completed", (_N._send, _N._start_j)),
    ("proceeding", "send nothing"): Step("completed", (_N._forget, _N._start_j)),  # RFC 4320 4.2
    ("proceeding", "late"): Step("terminated", (_N._timed_out,)),  # RFC 4320 4.2
    ("completed", "request"): Step("completed", (_N._send_again,)),
    ("completed", "timer J"): Step("terminated", (_N._done,)),
    ("completed", "transport error"): Step("terminated", (_N._done,)),  # 17.2.4
}
