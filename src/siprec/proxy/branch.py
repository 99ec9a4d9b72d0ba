"""A branch: one target of a forwarded request, and the transactions that try to reach it (RFC 3261 16.6 to 16.9)."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from siprec.proxy.best_response import Final
from siprec.proxy.forward import aim
from siprec.proxy.record_attribute import SentSdp
from siprec.proxy.routes import Target
from siprec.sip.errors import SipError
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.transaction import ClientTransaction
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri
from siprec.sip.validate import check_response

if TYPE_CHECKING:
    from siprec.proxy.response_context import ResponseContext
    from siprec.sip.clock import Timer

log = logging.getLogger(__name__)


class Branch:
    """One target of a context; its next hops are tried in order, each with a transaction of its own (FWD-10)."""

    __slots__ = (
        "_abandoned",
        "_context",
        "_deadline",
        "_fallback",
        "_hops",
        "_queue",
        "_request",
        "_silence",
        "_timer_c",
        "breadth",
        "done",
        "number",
        "progressed",
        "provisional",
        "target",
        "told",
        "transaction",
    )

    def __init__(self, context: ResponseContext, target: Target, number: int, breadth: int) -> None:
        self._context = context
        self.target = target
        self.number = number
        self.breadth = breadth
        self.transaction: ClientTransaction | None = None
        self.told: SentSdp | None = None
        self.done = False
        self.provisional = False
        self.progressed = False
        self._hops: list[Hop] = []
        self._fallback: Uri | None = None
        self._request: SipRequest | None = None
        self._timer_c: Timer | None = None
        self._silence: Timer | None = None
        self._deadline = 0.0
        self._queue: deque[tuple[ClientTransaction, SipResponse]] | None = None
        self._abandoned: set[ClientTransaction] = set()

    @property
    def via_branch(self) -> str:
        """What tells the media of forked branches apart: empty for the first."""
        return "" if self.number == 0 else f"{self._context.key}-{self.number}"

    # -- out -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Find the way there."""
        context = self._context
        request = context.base.copy()
        try:
            next_hop = aim(request, self.target)
            if self.breadth:
                request.set("max-breadth", str(self.breadth))
        except SipError as error:
            self.finish(error.status, None)
            return
        self._request = request
        flow = self.target.flow
        if flow is not None and (self.target.only_flow or not self.target.route):
            # A connection may be gone by now; then the URI is all there is.
            self._fallback = next_hop if flow.connection and not self.target.only_flow else None
            self._found([flow])
        else:
            context.core.resolve_contact(next_hop, self.target.given_by, self._found, by_route=request.has("route"))

    def _found(self, result: list[Hop] | SipError) -> None:
        if self.done:
            return
        if isinstance(result, SipError) or not result:
            status = result.status if isinstance(result, SipError) else 480
            log.debug("no way to %s: %s, Call-ID %s", self.target.uri, result, self._context.call_id)
            self.finish(503 if status < 400 else status, None)
            return
        self._hops = list(result)
        assert self._request is not None
        self._context.pass_offer(self, self._request, self._send)

    def _found_again(self, result: list[Hop] | SipError) -> None:
        if isinstance(result, SipError) or not result:
            self.finish(503, None)
        elif not self.done:
            self._hops = list(result)
            self._send()

    def _send(self) -> None:
        """Send to the next hop in the list."""
        context = self._context
        if self.done or self._request is None:
            return
        if not context.may_send():
            self.finish(503, None)
            return
        hop = self._hops.pop(0)
        request = self._request.copy() if self._hops or self._fallback is not None else self._request
        core = context.core
        core.add_record_route(context, request, hop)
        if context.dialog is not None:
            core.midcall.outgoing(context.dialog, context.side, request)
        self.provisional = False
        branch = f"{core.layer.new_branch()}-{context.loop}"
        self.transaction = core.layer.send_request(
            request, hop, on_response=self._received, on_failure=self._failed, branch=branch
        )
        if context.invite:
            self._deadline = core.clock.now() + core.timer_c
            if self._timer_c is None:
                self._timer_c = core.clock.call_later(core.timer_c, self._expired)
            if self._hops or context.has_more:
                # Whoever does not even say 100 is not there: others wait in line (DNS-04).
                self._silence = core.clock.call_later(core.silence_timeout, self._silent)

    # -- in --------------------------------------------------------------------------------------------------------

    def _received(self, transaction: ClientTransaction, response: SipResponse) -> None:
        context = self._context
        status = response.status
        try:
            check_response(response)
            response.remove_first_value("via")
            response.top_via  # noqa: B018 - RSP-01: without another Via it was for us
        except SipError as error:
            log.debug("response dropped: %s, Call-ID %s", error, context.call_id)
            if status >= 200 and transaction is self.transaction:
                self.finish(502, None)
            return
        context.core.counters["responses"] += 1
        if context.dialog is not None:
            context.core.midcall.incoming(context.dialog, context.side, context.transaction.request, response)
        self.provisional = True
        self._stop_silence()
        if status < 200:
            if status > 100:
                self.progressed = True
                self._deadline = context.core.clock.now() + context.core.timer_c
            else:
                return  # RSP-03
        elif status >= 300 and transaction in self._abandoned:
            self._abandoned.discard(transaction)
            return
        if self._queue is not None:
            self._queue.append((transaction, response))  # order is kept while the media server works
            return
        self._pass(transaction, response)

    def _pass(self, transaction: ClientTransaction, response: SipResponse) -> None:
        status = response.status
        if status >= 300:
            self._refused(transaction, response)
            return
        finished: list[bool] = []

        def go_on() -> None:
            finished.append(True)
            self._context.forward(self, transaction, response)
            if 200 <= status < 300 and not self.done:
                self.finish(status, response)
            queue, self._queue = self._queue, None
            while queue:
                self._pass(*queue.popleft())
                if self._queue is not None:
                    self._queue.extend(queue)
                    return

        if 200 <= status < 300:
            self._stop()
        self._context.pass_response(self, transaction, response, go_on)
        if not finished and self._queue is None:
            self._queue = deque()

    def _refused(self, transaction: ClientTransaction, response: SipResponse) -> None:
        if self.done or transaction is not self.transaction:
            return
        if response.status == 503 and self._hops and not self._context.cancelled:
            self._send()  # DNS-04
            return
        self.finish(response.status, response)

    def _failed(self, transaction: ClientTransaction, reason: str) -> None:
        self._abandoned.discard(transaction)
        if self.done or transaction is not self.transaction:
            return
        self._stop_silence()
        context = self._context
        log.debug("%s: %s, Call-ID %s", transaction.hop, reason, context.call_id)
        if not context.cancelled and not self.provisional and context.may_go_on:
            fallback, self._fallback = self._fallback, None
            if self._hops:
                self._send()  # FWD-10
                return
            if fallback is not None and reason != "timeout":
                context.core.resolve_contact(fallback, self.target.given_by, self._found_again)
                return
        self.finish(408 if reason == "timeout" else 503, None)

    def _silent(self) -> None:
        """Not even a 100: go on with the next, but keep an ear open for this one."""
        self._silence = None
        transaction, context = self.transaction, self._context
        if self.done or self.provisional or transaction is None or context.cancelled:
            return
        transaction.cancel((("Reason", 'SIP;cause=408;text="no response"'),))
        self._abandoned.add(transaction)
        if self._hops:
            self._send()
        else:
            self.finish(408, None)

    def _expired(self) -> None:
        """Timer C (FWD-09, RFC 3261 16.8)."""
        self._timer_c = None
        if self.done or self.transaction is None:
            return
        now = self._context.core.clock.now()
        if now < self._deadline - 0.001:
            self._timer_c = self._context.core.clock.call_later(self._deadline - now, self._expired)
            return
        self.transaction.cancel((("Reason", 'SIP;cause=408;text="Timer C"'),))
        if not self.provisional:
            self.finish(408, None)

    def cancel(self, headers: Iterable[tuple[str, str]] = ()) -> None:
        """CANCEL a pending branch (CAN-01); one that has not been sent yet is simply dropped."""
        if self.done:
            return
        if self.transaction is None:
            self.finish(487, None)
        else:
            self._stop_silence()
            self.transaction.cancel(headers)

    def finish(self, status: int, response: SipResponse | None) -> None:
        """The branch has its final result; None: made up here."""
        if self.done:
            return
        self.done = True
        self._stop()
        self._context.branch_done(self, Final(status, response))

    def _stop_silence(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None

    def _stop(self) -> None:
        self._stop_silence()
        if self._timer_c is not None:
            self._timer_c.cancel()
            self._timer_c = None
