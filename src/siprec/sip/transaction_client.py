"""The two client transaction machines: INVITE (RFC 3261 17.1.1 with RFC 6026 8.4) and non-INVITE (17.1.2).

Each machine is a table ``(state, event) -> Step``; an event without a row is ignored, which is what the RFC's figures
mean by having no arrow for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from siprec.sip.message import SipRequest, SipResponse

if TYPE_CHECKING:
    from siprec.sip.clock import Timer
    from siprec.sip.transaction import TransactionLayer
    from siprec.sip.transport import Hop

OnResponse = Callable[["ClientTransaction", SipResponse], None]
OnFailure = Callable[["ClientTransaction", str], None]


class Step(NamedTuple):
    """A row of a machine: the state to go to, then what is done, in order."""

    state: str
    actions: tuple[Callable[[Any, Any], None], ...]


def _nobody(transaction: ClientTransaction, told: Any) -> None:
    """Who is told of what happens to a transaction that is over."""


class ClientTransaction:
    """One request sent and its responses.

    `request` carries our Via, `hop` is where it went (after UDP may have become TCP), `branch` names it.
    `on_response` gets every provisional and final response, for INVITE also every further 2xx; `on_failure` is called
    once instead of a final response, with ``timeout`` or ``transport: ...``.
    """

    __slots__ = (
        "_cancel",
        "_data",
        "_interval",
        "_layer",
        "_resend",
        "_timer",
        "_udp",
        "branch",
        "hop",
        "method",
        "on_failure",
        "on_response",
        "request",
        "sent_by",
        "state",
    )
    table: ClassVar[dict[tuple[str, str], Step]]

    def __init__(
        self,
        layer: TransactionLayer,
        request: SipRequest,
        hop: Hop,
        branch: str,
        on_response: OnResponse,
        on_failure: OnFailure,
    ) -> None:
        self._layer = layer
        self.request = request
        self.method = request.method
        self.hop = hop
        self.branch = branch
        self.sent_by = ""
        self.on_response = on_response
        self.on_failure = on_failure
        self.state = ""
        self._data = b""
        self._interval = 0.0
        self._resend: Timer | None = None
        self._timer: Timer | None = None
        self._udp: Hop | None = None
        self._cancel: Iterable[tuple[str, str]] | None = None

    def cancel(self, headers: Iterable[tuple[str, str]] = ()) -> None:
        """Ask for the request to be cancelled; only an INVITE can be (RFC 3261 9.1).

        The CANCEL waits for a provisional response if none came yet (CAN-03); after a final response nothing is done.
        `headers` (Reason, for instance) are added to it.
        """

    def start(self, udp: Hop | None) -> None:
        """Send for the first time. `udp`: the way to retry when the TCP attempt, made because of size, fails."""
        self._udp = udp
        self._data = self.request.to_bytes()
        self._fire("start")

    def received(self, response: SipResponse) -> None:
        """A response that matched."""
        raise NotImplementedError

    def _fire(self, event: str, argument: Any = None) -> None:
        step = self.table.get((self.state, event))
        if step is None:
            return
        self.state = step.state
        for action in step.actions:
            action(self, argument)
        if self.state == "terminated":
            # Nothing is told any more; whoever was told knows us, and no cycle is left behind.
            self.on_response = self.on_failure = _nobody

    # -- actions ---------------------------------------------------------------------------------------------------

    def _send(self, _: Any) -> None:
        self._layer.transport.send(self._data, self.hop, self._transport_failed)

    def _transport_failed(self, reason: str) -> None:
        if self._udp is not None and self.state in ("calling", "trying"):
            # RFC 3261 18.1.1 (TRN-04): the peer does not do TCP, so the large datagram has to do.
            hop, self._udp = self._udp, None
            self._stop_resend(None)
            self._layer.change_hop(self, hop)
            self._data = self.request.to_bytes()
            self._send(None)
            self._start_resend(None)
            return
        self._fire("transport error", f"transport: {reason}")

    def _start_resend(self, _: Any) -> None:
        if not self.hop.reliable:
            layer = self._layer
            self._interval = layer.t1
            self._resend = layer.clock.call_later(layer.t1, self._fire, "resend")

    def _start_timeout(self, _: Any) -> None:
        self._set_timer(self._layer.t1 * 64, "timeout")

    def _set_timer(self, delay: float, event: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._layer.clock.call_later(delay, self._fire, event)

    def _stop_resend(self, _: Any) -> None:
        if self._resend is not None:
            self._resend.cancel()
            self._resend = None

    def _stop(self, _: Any) -> None:
        if self._resend is not None:
            self._resend.cancel()
            self._resend = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _pass(self, response: SipResponse) -> None:
        self.on_response(self, response)

    def _fail(self, reason: str | None) -> None:
        self.on_failure(self, reason or "timeout")

    def _end(self, _: Any) -> None:
        self._stop(None)
        self.state = "terminated"
        self._layer.forget_client(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.method} {self.branch} {self.state}>"


class InviteClientTransaction(ClientTransaction):
    """INVITE client: calling, proceeding, completed, accepted, terminated."""

    __slots__ = ("_ack",)

    def __init__(
        self,
        layer: TransactionLayer,
        request: SipRequest,
        hop: Hop,
        branch: str,
        on_response: OnResponse,
        on_failure: OnFailure,
    ) -> None:
        super().__init__(layer, request, hop, branch, on_response, on_failure)
        self._ack = b""

    def received(self, response: SipResponse) -> None:
        """A response that matched."""
        status = response.status
        self._fire("1xx" if status < 200 else "2xx" if status < 300 else "300-699", response)

    def cancel(self, headers: Iterable[tuple[str, str]] = ()) -> None:
        """See :meth:`ClientTransaction.cancel`. A second call does nothing."""
        if self._cancel is not None or self.state not in ("calling", "proceeding"):
            return
        self._cancel = tuple(headers)
        if self.state == "proceeding":
            self._send_cancel(None)

    def _retransmit(self, _: Any) -> None:
        self._send(None)
        self._interval *= 2
        self._resend = self._layer.clock.call_later(self._interval, self._fire, "resend")

    def _send_cancel(self, _: Any) -> None:
        """CAN-04: Request-URI, Call-ID, From, To, CSeq number, Route and Via of the INVITE; same destination."""
        if self._cancel is None:
            return
        request = SipRequest("CANCEL", self.request.uri, *self._own_lines(_CANCEL_LINES, "CANCEL"))
        for name, value in self._cancel:
            request.add(name, value)
        request.set_body(b"")
        self._layer.start_cancel(self, request, (_ignore_response, _ignore_failure))
        # RFC 3261 9.1 (CAN-05): no final response within 64*T1 means the INVITE is gone.
        self._set_timer(self._layer.t1 * 64, "timeout")

    def _own_lines(self, copied: frozenset[str], method: str) -> tuple[list[str], list[str]]:
        """Keys and header lines of the ACK or CANCEL that goes with the request."""
        keys = ["via", "max-forwards"]
        lines = [f"Via: {self.request.values('via')[0]}", "Max-Forwards: 70"]
        for key, line in zip(self.request.keys, self.request.lines, strict=True):
            if key in copied:
                keys.append(key)
                lines.append(line)
        keys.append("cseq")
        lines.append(f"CSeq: {self.request.cseq.number} {method}")
        return keys, lines

    def _send_ack(self, response: SipResponse) -> None:
        """ACK for 300-699 (RFC 3261 17.1.1.3, TXN-07)."""
        if not self._ack:
            keys, lines = self._own_lines(_ACK_LINES, "ACK")
            if response.has("to"):
                keys.append("to")
                lines.append(response.lines[response.keys.index("to")])
            request = SipRequest("ACK", self.request.uri, keys, lines)
            request.set_body(b"")
            self._ack = request.to_bytes()
        self._layer.transport.send(self._ack, self.hop, self._transport_failed)

    def _start_d(self, _: Any) -> None:
        if self.hop.reliable:
            self._end(None)
        else:
            self._set_timer(max(32.0, self._layer.t1 * 64), "timer D")

    def _start_m(self, _: Any) -> None:
        self._set_timer(self._layer.t1 * 64, "timer M")


_CANCEL_LINES: Final = frozenset({"from", "to", "call-id", "route"})
_ACK_LINES: Final = frozenset({"from", "call-id", "route"})


def _ignore_response(transaction: ClientTransaction, response: SipResponse) -> None:
    """The answer to a CANCEL says nothing: the INVITE's final response does (RFC 3261 9.1)."""


def _ignore_failure(transaction: ClientTransaction, reason: str) -> None:
    """As above; CAN-05 takes care of the INVITE."""


_I = InviteClientTransaction
_I.table = {
    # RFC 3261 17.1.1.2. Timer A is "resend", Timer B is "timeout" in Calling.
    ("", "start"): Step("calling", (_I._start_timeout, _I._start_resend, _I._send)),
    ("calling", "resend"): Step("calling", (_I._retransmit,)),
    ("calling", "timeout"): Step("terminated", (_I._end, _I._fail)),
    ("calling", "transport error"): Step("terminated", (_I._end, _I._fail)),
    ("calling", "1xx"): Step("proceeding", (_I._stop, _I._send_cancel, _I._pass)),
    ("calling", "2xx"): Step("accepted", (_I._stop, _I._start_m, _I._pass)),  # RFC 6026 8.4
    ("calling", "300-699"): Step("completed", (_I._stop, _I._send_ack, _I._start_d, _I._pass)),
    ("proceeding", "1xx"): Step("proceeding", (_I._pass,)),
    ("proceeding", "2xx"): Step("accepted", (_I._stop, _I._start_m, _I._pass)),  # RFC 6026 8.4
    ("proceeding", "300-699"): Step("completed", (_I._stop, _I._send_ack, _I._start_d, _I._pass)),
    ("proceeding", "timeout"): Step("terminated", (_I._end, _I._fail)),  # 9.1: CANCEL without effect
    ("completed", "300-699"): Step("completed", (_I._send_ack,)),
    ("completed", "timer D"): Step("terminated", (_I._end,)),
    ("completed", "transport error"): Step("terminated", (_I._end,)),  # 17.1.1.2; the TU has its final response
    ("accepted", "2xx"): Step("accepted", (_I._pass,)),  # RFC 6026 7.2 (TXN-04)
    ("accepted", "timer M"): Step("terminated", (_I._end,)),
}


class NonInviteClientTransaction(ClientTransaction):
    """Any other request: trying, proceeding, completed, terminated."""

    __slots__ = ()

    def received(self, response: SipResponse) -> None:
        """A response that matched."""
        self._fire("1xx" if response.status < 200 else "final", response)

    def _retransmit(self, _: Any) -> None:
        self._send(None)
        layer = self._layer
        # Doubling up to T2; straight T2 once a provisional response came (RFC 3261 17.1.2.2).
        self._interval = layer.t2 if self.state == "proceeding" else min(self._interval * 2, layer.t2)
        self._resend = layer.clock.call_later(self._interval, self._fire, "resend")

    def _start_k(self, _: Any) -> None:
        if self.hop.reliable:
            self._end(None)
        else:
            self._set_timer(self._layer.t4, "timer K")


_N = NonInviteClientTransaction
_N.table = {
    # RFC 3261 17.1.2.2. Timer E is "resend", Timer F is "timeout".
    ("", "start"): Step("trying", (_N._start_timeout, _N._start_resend, _N._send)),
    ("trying", "resend"): Step("trying", (_N._retransmit,)),
    ("trying", "timeout"): Step("terminated", (_N._end, _N._fail)),
    ("trying", "transport error"): Step("terminated", (_N._end, _N._fail)),
    ("trying", "1xx"): Step("proceeding", (_N._pass,)),
    ("trying", "final"): Step("completed", (_N._stop, _N._start_k, _N._pass)),
    ("proceeding", "resend"): Step("proceeding", (_N._retransmit,)),
    ("proceeding", "timeout"): Step("terminated", (_N._end, _N._fail)),
    ("proceeding", "transport error"): Step("terminated", (_N._end, _N._fail)),
    ("proceeding", "1xx"): Step("proceeding", (_N._pass,)),
    ("proceeding", "final"): Step("completed", (_N._stop, _N._start_k, _N._pass)),
    ("completed", "timer K"): Step("terminated", (_N._end,)),
}
