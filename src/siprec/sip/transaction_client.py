"""The two client transactions: INVITE (RFC 3261 17.1.1, RFC 6026) and any other method (17.1.2).

Tables: :data:`siprec.sip.transaction_fsm.INVITE_CLIENT` and :data:`siprec.sip.transaction_fsm.CLIENT`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Final

from siprec.sip import transaction_fsm
from siprec.sip.message import SipRequest, SipResponse, parse_head
from siprec.sip.transaction_base import Transaction, TransactionServices, table_of
from siprec.sip.transport import Hop

OnResponse = Callable[["ClientTransaction", SipResponse], None]
OnFailure = Callable[["ClientTransaction", str], None]

_CANCEL_LINES: Final = frozenset({"from", "to", "call-id", "route"})
_ACK_LINES: Final = frozenset({"from", "call-id", "route"})


def _nobody(transaction: ClientTransaction, told: Any) -> None:
    """Who is told of the answer to a CANCEL: the INVITE's final response says what became of it (RFC 3261 9.1)."""


class ClientTransaction(Transaction):
    """One request sent and its responses.

    `hop` is where it went (after UDP may have become TCP), `branch` names it; `request` does not have our Via, `data`
    are the octets with it. `fallback` is where to send over UDP when the TCP attempt, made because of size, fails.
    `on_response` gets every provisional and final response, for INVITE also every further 2xx;
    `on_failure` is called once instead of a final response, with ``timeout`` or ``transport: ...``.
    """

    __slots__ = (
        "_cancel_headers",  # for the CANCEL, once it was asked for
        "branch",
        "fallback",  # the hop over UDP, where the request went over TCP only because of its size
        "on_failure",
        "on_response",
        "sent_by",
    )
    callbacks = ("on_response", "on_failure")
    events: ClassVar[tuple[str, ...]]
    """The event by the class of a response: its status divided by 100."""
    hop: Hop

    def __init__(
        self,
        layer: TransactionServices,
        request: SipRequest,
        hop: Hop,
        branch: str,
        sent_by: str,
        data: bytes,
        on_response: OnResponse,
        on_failure: OnFailure,
        fallback: Hop | None = None,
    ) -> None:
        self._layer = layer
        self.key = branch.lower()
        self.request = request
        self.method = request.method
        self.hop = hop
        self.reliable = hop.reliable
        self.branch = branch
        self.sent_by = sent_by
        self.on_response = on_response
        self.on_failure = on_failure
        self._cancel_headers: tuple[tuple[str, str], ...] | None = None
        self.fallback = fallback
        self.state = ""
        self._data = data
        self._timer = None
        getattr(layer, self.home)[self.key] = self
        self.fire("send")

    def cancel(self, headers: Iterable[tuple[str, str]] = ()) -> None:
        """Ask for the request to be cancelled; only an INVITE can be (RFC 3261 9.1).

        The CANCEL waits for a provisional response if none came yet; after a final response, or a second time, nothing
        is done. `headers` (Reason, for instance) are added to it.
        """
        if self._cancel_headers is None:
            self._cancel_headers = tuple(headers)
            self.fire("cancel")

    @property
    def cancelling(self) -> bool:
        """Whether a CANCEL was asked for."""
        return self._cancel_headers is not None

    @property
    def for_size(self) -> bool:
        """Whether the request went over TCP only because it is too large for UDP (RFC 3261 18.1.1)."""
        return self.fallback is not None

    def transport_failed(self, reason: str) -> None:
        """The transport could not deliver what was sent last."""
        self.fire("transport error", f"transport: {reason}")

    # -- actions ---------------------------------------------------------------------------------------------------

    def _send_request(self, _: Any) -> None:
        self._layer.transport.send(self._data, self.hop, self.transport_failed)

    def _send_over_udp(self, _: Any) -> None:
        assert self.fallback is not None
        self.hop, self.fallback = self.fallback, None
        self.reliable = self.hop.reliable
        start, _, rest = self._data.partition(b"\r\nVia: ")
        rest = rest[rest.index(b"\r\n") :]
        self._data, self.sent_by = self._layer.with_via(start + rest, self.hop, self.branch)
        if self._timer is not None:
            self._timer.cancel()
        self._start_resending(None)
        self._send_request(None)

    def _report_timeout(self, _: Any) -> None:
        self.on_failure(self, "timeout")

    def _report_failure(self, reason: str) -> None:
        self.on_failure(self, reason)


class InviteClientTransaction(ClientTransaction):
    """INVITE client: calling, proceeding, completed, accepted, terminated."""

    __slots__ = ()
    home = "invite_clients"
    events = ("", "1xx", "2xx", "300-699", "300-699", "300-699", "300-699")
    again = "timer A"
    timeout = "timer B"

    _start_timers_a_and_b = Transaction._start_resending

    def _restart_timer_a(self, _: Any) -> None:
        self._restart(2 * self._interval)

    def _send_cancel(self, _: Any) -> None:
        """Request-URI, Call-ID, From, To, CSeq number, Route and Via of the INVITE; same destination (9.1)."""
        layer = self._layer
        request = self._own_request("CANCEL", _CANCEL_LINES)
        for name, value in self._cancel_headers or ():
            request.add(name, value)
        request.set_body(b"")
        NonInviteClientTransaction(
            layer, request, self.hop, self.branch, self.sent_by, request.to_bytes(), _nobody, _nobody
        )
        # No final response within 64*T1 means the INVITE is gone.
        self._set_timer(64 * layer.t1, "CANCEL timer")

    def _send_ack(self, response: SipResponse) -> None:
        """ACK for 300-699 (RFC 3261 17.1.1.3)."""
        if not self._data.startswith(b"ACK "):
            request = self._own_request("ACK", _ACK_LINES)
            if "to" in response.keys:
                request.write_line("to", response.lines[response.keys.index("to")])
            request.set_body(b"")
            self._data = request.to_bytes()
        self._send_request(None)

    def _own_request(self, method: str, copied: frozenset[str]) -> SipRequest:
        """The ACK or CANCEL that goes with the INVITE, with our Via and the header lines of `copied`."""
        invite = parse_head(self._data.partition(b"\r\n\r\n")[0])
        assert isinstance(invite, SipRequest)
        keys, lines = ["via", "max-forwards"], [invite.lines[0], "Max-Forwards: 70"]
        for key, line in zip(invite.keys, invite.lines, strict=True):
            if key in copied:
                keys.append(key)
                lines.append(line)
        keys.append("cseq")
        lines.append(f"CSeq: {invite.cseq.number} {method}")
        return SipRequest(method, invite.uri, keys, lines)


class NonInviteClientTransaction(ClientTransaction):
    """Any other request: trying, proceeding, completed, terminated."""

    __slots__ = ()
    home = "clients"
    events = ("", "1xx", "200-699", "200-699", "200-699", "200-699", "200-699")
    again = "timer E"
    timeout = "timer F"

    _start_timers_e_and_f = Transaction._start_resending

    def _restart_timer_e(self, _: Any) -> None:
        t2 = self._layer.t2
        self._restart(t2 if self.state == "proceeding" else min(2 * self._interval, t2))


InviteClientTransaction.table = table_of(transaction_fsm.INVITE_CLIENT, InviteClientTransaction)
NonInviteClientTransaction.table = table_of(transaction_fsm.CLIENT, NonInviteClientTransaction)
