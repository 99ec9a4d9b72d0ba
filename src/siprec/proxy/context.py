"""The response context: one request, its branches, and the one answer that comes of them (RFC 3261 16.7 to 16.10)."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from siprec.proxy.bestresponse import Final as FinalResult
from siprec.proxy.bestresponse import choose
from siprec.proxy.forward import aim, breadth, count_hop
from siprec.proxy.routes import Target
from siprec.sip.errors import SipError
from siprec.sip.headers import NameAddr
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.transaction import ClientTransaction, ServerTransaction
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri
from siprec.sip.validate import check_response

if TYPE_CHECKING:
    from siprec.proxy.call import Call
    from siprec.proxy.core import ProxyCore
    from siprec.proxy.dialogs import ProxiedDialog, Side
    from siprec.sip.clock import Timer

log = logging.getLogger(__name__)

_ELSEWHERE: Final = ("Reason", 'SIP;cause=200;text="Call completed elsewhere"')
_MAX_TARGETS: Final = 64


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
        "transaction",
    )

    def __init__(self, context: ResponseContext, target: Target, number: int, breadth: int) -> None:
        self._context = context
        self.target = target
        self.number = number
        self.breadth = breadth
        self.transaction: ClientTransaction | None = None
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
        if flow is not None and not self.target.route:
            # A connection may be gone by now; then the URI is all there is.
            self._fallback = next_hop if flow.connection else None
            self._found([flow])
        else:
            context.core.resolve(next_hop, self._found)

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
        hop = self._hops.pop(0)
        request = self._request.copy() if self._hops or self._fallback is not None else self._request
        core = context.core
        core.add_record_route(context, request, hop)
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
                context.core.resolve(fallback, self._found_again)
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
        self._context.branch_done(self, FinalResult(status, response))

    def _stop_silence(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None

    def _stop(self) -> None:
        self._stop_silence()
        if self._timer_c is not None:
            self._timer_c.cancel()
            self._timer_c = None


class ResponseContext:
    """One request on its way. `base` is the request to be forwarded, Routes of ours removed; `loop` the loop part.

    `call` is set for an INVITE outside a dialog, `dialog` and `side` for requests within one. `reply_hook(response)` is
    asked before a response is forwarded or a final one chosen (reply route of a script); `on_final(status)` is called
    once, when the final response has been sent.
    """

    __slots__ = (
        "_branches",
        "_breadth",
        "_count",
        "_ended",
        "_groups",
        "_results",
        "_seen",
        "_starting",
        "base",
        "call",
        "call_id",
        "caller_flow",
        "cancelled",
        "core",
        "dialog",
        "final",
        "invite",
        "key",
        "loop",
        "on_final",
        "reply_hook",
        "side",
        "transaction",
    )

    def __init__(self, core: ProxyCore, transaction: ServerTransaction, base: SipRequest, loop: str) -> None:
        self.core = core
        self.transaction = transaction
        self.base = base
        self.loop = loop
        self.key = ""
        self.invite = base.method == "INVITE"
        self.call_id = base.call_id
        self.call: Call | None = None
        self.caller_flow: Hop | None = None
        self.dialog: ProxiedDialog | None = None
        self.side: Side = "caller"
        self.final = 0
        self.cancelled = False
        self.reply_hook: Callable[[SipResponse], None] | None = None
        self.on_final: Callable[[int, SipResponse], None] | None = None
        self._branches: list[Branch] = []
        self._groups: deque[list[Target]] = deque()
        self._results: list[FinalResult] = []
        self._seen: set[str] = set()
        self._count = 0
        self._breadth = 0
        self._ended = False
        self._starting = False

    def start(self, groups: Iterable[list[Target]]) -> None:
        """Forward: groups one after the other, the targets of one at once (FWD-11).

        Raises:
            SipError: 440, Max-Breadth is used up; 400, malformed headers.
        """
        self.watch()
        self.transaction.on_cancel = self._cancel_received
        self._add(groups)
        if self.dialog is None:
            self._breadth = breadth(self.base)
            if self._breadth < 1:
                raise SipError("Max-Breadth is used up", 440)
        count_hop(self.base)
        self._next_group()

    def watch(self) -> None:
        """Live as long as the server transaction does (RSP-12)."""
        self.transaction.on_end = self._transaction_ended
        self.core.contexts.add(self)

    def _add(self, groups: Iterable[list[Target]], *, first: bool = False) -> None:
        """REQ-11: no duplicates. What exceeds the breadth waits its turn (FWD-03)."""
        new = []
        for group in groups:
            kept = []
            for target in group:
                if target.uri.text not in self._seen and len(self._seen) < _MAX_TARGETS:
                    self._seen.add(target.uri.text)
                    kept.append(target)
            if kept:
                new.append(kept)
        if first:
            self._groups.extendleft(reversed(new))
        else:
            self._groups.extend(new)

    @property
    def has_more(self) -> bool:
        """Whether other targets wait."""
        return bool(self._groups)

    @property
    def may_go_on(self) -> bool:
        """Whether an answer would still be of use."""
        return not self._ended and not self.final

    def _next_group(self) -> None:
        group = self._groups.popleft()
        share = 0
        if self._breadth:
            if len(group) > self._breadth:
                self._groups.appendleft(group[self._breadth :])
                group = group[: self._breadth]
            share = self._breadth // len(group)
        branches = []
        for target in group:
            branches.append(Branch(self, target, self._count, share))
            self._count += 1
        self._branches += branches
        self._starting = True
        for branch in branches:
            branch.start()
        self._starting = False
        self._check_done()

    # -- through the media server ----------------------------------------------------------------------------------

    def pass_offer(self, branch: Branch, request: SipRequest, go_on: Callable[[], None]) -> None:
        """The request's description on its way out."""

        def passed(reject: int) -> None:
            if branch.done:
                return
            if reject:
                branch.finish(reject, None)
            else:
                go_on()

        self.core.media.request_out(self, branch, request, passed)

    def pass_response(
        self, branch: Branch, transaction: ClientTransaction, response: SipResponse, go_on: Callable[[], None]
    ) -> None:
        """The response's description on its way back; dialogs are followed here."""
        self.core.media.response_back(self, branch, transaction, response, go_on)

    # -- responses -------------------------------------------------------------------------------------------------

    def forward(self, branch: Branch, transaction: ClientTransaction, response: SipResponse) -> None:
        """1xx and 2xx go at once (RSP-02), untouched but for our Via."""
        status = response.status
        if status < 200:
            if self.final:
                return
        elif self.final and not self.invite:
            return  # the transaction itself drops a 2xx to INVITE that follows another class
        first = not self.final
        if self.reply_hook is not None:
            self.reply_hook(response)
        if status >= 200 and first:
            self.final = status
        self.transaction.respond(response)
        if status >= 200 and first:
            for other in self._branches:
                if other is not branch:
                    other.cancel((_ELSEWHERE,))  # RSP-09
            self._groups.clear()
        self.core.forwarded(self, branch, response, first)
        if status >= 200 and first and self.on_final is not None:
            self.on_final(status, response)

    def branch_done(self, branch: Branch, result: FinalResult) -> None:
        """A branch has its final result."""
        if 200 <= result.status < 300:
            return
        if 300 <= result.status < 400 and result.response is not None and self._recurse(result.response):
            self._check_done()
            return
        self._results.append(result)
        if result.status >= 600:
            self._groups.clear()  # RSP-04
            for other in self._branches:
                other.cancel()
        self._check_done()

    def _recurse(self, response: SipResponse) -> bool:
        """RSP-10: 3xx for a domain of ours, if wanted."""
        if not self.core.recurse or self.cancelled or self.final or self.dialog is not None:
            return False
        if not self.core.identity.serves(self.transaction.request.ruri):
            return False
        secure = self.base.ruri.scheme == "sips"
        found: list[Target] = []
        for value in response.values("contact"):
            try:
                contact = NameAddr.parse(value)
                uri: Uri = contact.uri
            except SipError:
                continue
            if uri.is_sip and (uri.scheme == "sips" or not secure):
                found.append(Target(uri, contact.q))
        before = len(self._groups)
        self._add(by_preference(found), first=True)
        return len(self._groups) > before

    def _check_done(self) -> None:
        if self._starting or self.final or any(not branch.done for branch in self._branches):
            return
        if self._groups and not self.cancelled and not self._ended and not self._decided():
            self._next_group()
            return
        self._answer()

    def _decided(self) -> bool:
        return any(result.status >= 600 for result in self._results)

    def _answer(self) -> None:
        """All branches are done without a 2xx: the best of what they said (RSP-05 to RSP-07)."""
        response = choose(self.transaction.request, self._results, self.core.to_tag(self), self.cancelled)
        if self.reply_hook is not None:
            self.reply_hook(response)
            if self._groups and not self.cancelled:
                self._next_group()  # the script has found another target
                return
        self.send_final(response)

    def send_final(self, response: SipResponse) -> None:
        """Send a final response that is no 2xx, whatever the branches do; they are cancelled."""
        if self.final:
            return
        self.final = response.status
        self._groups.clear()
        self.transaction.respond(response)
        for branch in self._branches:
            branch.cancel()
        self.core.refused(self, response)
        if self.on_final is not None:
            self.on_final(response.status, response)

    def add_targets(self, groups: Iterable[list[Target]]) -> None:
        """More targets, for when those at hand have failed (failure route of a script)."""
        self._add(groups)

    def fail(self, status: int, reason: str = "") -> None:
        """A final response of our own."""
        self.send_final(self.transaction.request.response(status, reason, to_tag=self.core.to_tag(self)))

    # -- upstream --------------------------------------------------------------------------------------------------

    def _cancel_received(self, cancel: SipRequest) -> None:
        """CAN-01; the layer has answered it."""
        self.cancelled = True
        self._groups.clear()
        reasons = tuple(("Reason", value) for value in cancel.get_all("reason"))  # CAN-06
        for branch in list(self._branches):
            branch.cancel(reasons)

    def _transaction_ended(self, reason: str) -> None:
        self._ended = True
        self.core.contexts.discard(self)
        self.core.context_ended(self)


def by_preference(targets: Iterable[Target]) -> list[list[Target]]:
    """Groups of equal q, the highest first (FWD-11)."""
    groups: dict[float, list[Target]] = {}
    for target in targets:
        groups.setdefault(target.q, []).append(target)
    return [groups[q] for q in sorted(groups, reverse=True)]
