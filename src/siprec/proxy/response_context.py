"""The response context: one request, its branches, and the one answer that comes of them (RFC 3261 16.7 to 16.10)."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from siprec.proxy.best_response import Final as FinalResult
from siprec.proxy.best_response import choose
from siprec.proxy.branch import Branch
from siprec.proxy.forward import breadth, count_hop
from siprec.proxy.routes import Target
from siprec.sip.errors import SipError
from siprec.sip.headers import NameAddr
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.transaction import ClientTransaction, ServerTransaction
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri

if TYPE_CHECKING:
    from siprec.proxy.authentication import Authenticated
    from siprec.proxy.call import Call
    from siprec.proxy.core import ProxyCore
    from siprec.proxy.dialogs import ProxiedDialog, Side

log = logging.getLogger(__name__)

_ELSEWHERE: Final = ("Reason", 'SIP;cause=200;text="Call completed elsewhere"')


class ResponseContext:
    """One request on its way. `base` is the request to be forwarded, Routes of ours removed; `loop` the loop part.

    `call` is set for an INVITE outside a dialog, `dialog` and `side` for requests within one. Of other dialogs `dlg_id`
    is the id, and `subscribed` whether we know them. `reply_hook(response)` is
    asked before a response is forwarded or a final one chosen (reply route of a script); `on_final(status)` is called
    once, when the final response has been sent. `authenticated` is who sent it, once that was asked (`Authenticated`).
    """

    __slots__ = (
        "_branches",
        "_breadth",
        "_count",
        "_ended",
        "_groups",
        "_results",
        "_seen",
        "_sent",
        "_starting",
        "authenticated",
        "base",
        "call",
        "call_id",
        "caller_flow",
        "cancelled",
        "core",
        "dialog",
        "dlg_id",
        "final",
        "invite",
        "key",
        "loop",
        "on_final",
        "reply_hook",
        "side",
        "subscribed",
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
        self.authenticated: Authenticated | None = None
        self.call: Call | None = None
        self.caller_flow: Hop | None = None
        self.dialog: ProxiedDialog | None = None
        self.side: Side = "caller"
        self.dlg_id = ""
        self.subscribed = False
        self.final = 0
        self.cancelled = False
        self.reply_hook: Callable[[SipResponse], None] | None = None
        self.on_final: Callable[[int, SipResponse], None] | None = None
        self._branches: list[Branch] = []
        self._groups: deque[list[Target]] = deque()
        self._results: list[FinalResult] = []
        self._seen: set[str] = set()
        self._count = 0
        self._sent = 0
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
                if target.uri.text not in self._seen and len(self._seen) < self.core.options.max_branches:
                    self._seen.add(target.uri.text)
                    kept.append(target)
            if kept:
                new.append(kept)
        if first:
            self._groups.extendleft(reversed(new))
        else:
            self._groups.extend(new)

    def may_send(self) -> bool:
        """Whether one more attempt may be made, parallel and serial ones counted together."""
        self._sent += 1
        limit = self.core.options.max_branches
        if self._sent == limit + 1:
            self.core.limit_reached("max_branches", f"{limit} branches", self.base, self.transaction.source)
        return self._sent <= limit

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
                self.fail(reject, "Media Server Unavailable")
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
        if self.call is not None and status < 200:
            self.core.media.progress(self.call, response)
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
        if 300 <= result.status < 400 and result.response is not None and self._recurse(branch, result.response):
            self._check_done()
            return
        self._results.append(result)
        if result.status >= 600:
            self._groups.clear()  # RSP-04
            for other in self._branches:
                other.cancel()
        self._check_done()

    def _recurse(self, branch: Branch, response: SipResponse) -> bool:
        """RSP-10: 3xx for a domain of ours, if wanted."""
        if not self.core.recurse or self.cancelled or self.final or self.dialog is not None:
            return False
        if not self.core.identity.serves(self.transaction.request.ruri):
            return False
        answered_by = branch.transaction.hop if branch.transaction is not None else None
        secure = self.base.ruri.scheme == "sips"
        found: list[Target] = []
        for value in response.values("contact"):
            try:
                contact = NameAddr.parse(value)
                uri: Uri = contact.uri
            except SipError:
                continue
            own = self.core.identity.serves(uri)
            if not own and (answered_by is None or not self.core.is_trusted(answered_by)):
                continue  # a phone does not send strangers' calls anywhere
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

    def fail(self, status: int, reason: str = "", headers: Iterable[tuple[str, str]] = ()) -> None:
        """A final response of our own (MSG-11)."""
        tag = self.core.to_tag(self)
        self.send_final(self.transaction.request.response(status, reason, to_tag=tag, headers=headers))

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
        self._branches.clear()  # they know us: no cycle is left behind


def by_preference(targets: Iterable[Target]) -> list[list[Target]]:
    """Groups of equal q, the highest first (FWD-11)."""
    groups: dict[float, list[Target]] = {}
    for target in targets:
        groups.setdefault(target.q, []).append(target)
    return [groups[q] for q in sorted(groups, reverse=True)]
