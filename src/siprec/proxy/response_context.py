"""The response context: one request, its branches, and the one answer that comes of them (RFC 3261 16.5 to 16.10).

A machine without callbacks. What happens is told to it (:meth:`ResponseContext.start`, `resolved`, `received`,
`failed`...); what is to be done it appends to `out`, and :class:`siprec.proxy.core.ProxyCore` does it, in order. Each
branch goes through these states::

    opened -- resolve --> (hops known) -- offer --> (description passed) -- send --> sent -- received/failed --> done
                 |                           |                              ^  |
                 '-- no way there --> done   '-- rejected --> done          '--'  next hop (silence, 503, no connection)
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from siprec.proxy.actions import Action, Choices, Headers, by_preference, our_tag
from siprec.proxy.authentication import Authenticated
from siprec.proxy.best_response import choose
from siprec.proxy.branch import Branch
from siprec.proxy.call import Call
from siprec.proxy.dialog import ProxiedDialog
from siprec.proxy.forward import aim, breadth
from siprec.proxy.peers import Side
from siprec.proxy.routes import Target
from siprec.proxy.sdp_body import sdp_of
from siprec.sip.errors import SipError
from siprec.sip.headers import NameAddr
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.transaction import ClientTransaction, ServerTransaction
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri

log = logging.getLogger(__name__)

_ELSEWHERE: Final = ("Reason", 'SIP;cause=200;text="Call completed elsewhere"')
_NO_RESPONSE: Final = ("Reason", 'SIP;cause=408;text="no response"')
_TIMER_C: Final = ("Reason", 'SIP;cause=408;text="Timer C"')


class ResponseContext:
    """One request on its way. `base` is the request to be forwarded, Routes of ours removed; `loop` the loop part.

    `call` is set for an INVITE outside a dialog, `dialog` and `side` for requests within one. Of other dialogs `dlg_id`
    is the id, and `subscribed` whether we know them. `reply_hook(response)` is asked before a response is forwarded or
    a final one chosen (reply route of a script); `on_final(response)` is called once, when the final response has been
    sent. `authenticated` is who sent it, once that was asked.
    """

    __slots__ = (
        "_breadth",
        "_choices",
        "_count",
        "_groups",  # targets that wait: groups one after the other
        "_seen",
        "_starting",
        "attempts",
        "authenticated",
        "base",
        "branches",
        "call",
        "call_id",
        "caller_flow",
        "cancelled",
        "dialog",
        "dlg_id",
        "done",  # branches without a 2xx, in the order of their ends
        "ended",  # the server transaction is over
        "final",
        "is_acting",
        "is_invite",
        "loop",
        "on_final",
        "out",
        "reply_hook",
        "side",
        "subscribed",
        "transaction",
    )

    def __init__(self, choices: Choices, transaction: ServerTransaction, base: SipRequest, loop: str) -> None:
        self._choices = choices
        self.transaction = transaction
        self.base = base
        self.loop = loop
        self.is_invite = base.method == "INVITE"
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
        self.ended = False
        self.reply_hook: Callable[[SipResponse], None] | None = None
        self.on_final: Callable[[SipResponse], None] | None = None
        self.out: list[Action] = []
        self.is_acting = False
        self.branches: list[Branch] = []
        self.done: list[Branch] = []
        self.attempts = 0
        self._groups: deque[list[Target]] = deque()
        self._seen: set[str] = set()
        self._count = 0
        self._breadth = 0
        self._starting = False

    # -- targets -------------------------------------------------------------------------------------------------------

    def start(self, groups: Iterable[list[Target]]) -> None:
        """Forward: groups one after the other, the targets of one at once (RFC 3261 16.6).

        Raises:
            SipError: 440, Max-Breadth is used up; 400, malformed headers.
        """
        self.add_targets(groups)
        if self.dialog is None:
            self._breadth = breadth(self.base)
            if self._breadth < 1:
                raise SipError("Max-Breadth is used up", 440)
        self._next_group()

    def add_targets(self, groups: Iterable[list[Target]], *, first: bool = False) -> None:
        """More targets, none twice (RFC 3261 16.5), for when those at hand have failed."""
        new = []
        for group in groups:
            kept = []
            for target in group:
                text = target.uri.text
                if text not in self._seen and len(self._seen) < self._choices.max_branches:
                    self._seen.add(text)
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

    def via_branch(self, branch: Branch) -> str:
        """What tells the media of forked branches apart: empty for the first."""
        return "" if branch.number == 0 or self.call is None else f"{self.call.dlg_id}-{branch.number}"

    def _next_group(self) -> None:
        group = self._groups.popleft()
        share = 0
        if self._breadth:
            if len(group) > self._breadth:  # RFC 5393 5.3.3: what exceeds the breadth waits its turn
                self._groups.appendleft(group[self._breadth :])
                group = group[: self._breadth]
            share = self._breadth // len(group)
        branches = []
        for target in group:
            branches.append(Branch(target, self._count, share))
            self._count += 1
        self.branches += branches
        self._starting = True
        for branch in branches:
            self._open(branch)
        self._starting = False
        if self.done:
            self._check_done()

    def _open(self, branch: Branch) -> None:
        """Find the way there."""
        target = branch.target
        try:
            aimed = branch.aim = aim(self.base, target)
        except SipError as error:
            self.finish(branch, error.status)
            return
        flow = target.flow
        if flow is not None and (target.only_flow or not target.route):
            # A connection may be gone by now; then the URI is all there is.
            branch.fallback = aimed.hop if flow.connection and not target.only_flow else None
            branch.hops = [flow]
            self.out.append(("offer", branch))
        else:
            self.out.append(("resolve", branch, aimed.hop))

    def resolved(self, branch: Branch, result: list[Hop] | SipError) -> None:
        """The hops of a branch's URI are known, or there are none."""
        again = branch.transaction is not None
        if branch.done:
            return
        if isinstance(result, SipError) or not result:
            status = result.status if isinstance(result, SipError) else 480
            log.debug("no way to %s: %s, Call-ID %s", branch.target.uri, result, self.call_id)
            self.finish(branch, 503 if status < 400 or again else status)
            return
        branch.hops = list(result)
        self.out.append(("send", branch) if again else ("offer", branch))

    def offer_passed(self, branch: Branch, reject: int) -> None:
        """The description of a branch's request can go on; with `reject` the request cannot."""
        if branch.done:
            return
        if reject:
            self.fail(reject, "Media Server Unavailable")
        else:
            self.out.append(("send", branch))

    # -- what comes back -----------------------------------------------------------------------------------------------

    def received(self, branch: Branch, transaction: ClientTransaction, response: SipResponse, now: float) -> None:
        """A response came, ours the top Via."""
        status = response.status
        branch.was_answered = True
        if branch.silence is not None:
            branch.stop_silence()
        if status < 200:
            if status == 100:
                return  # RFC 3261 16.7 step 5: for us
            branch.deadline = now + self._choices.timer_c
        elif status >= 300 and transaction in branch.abandoned:
            branch.abandoned = tuple(each for each in branch.abandoned if each is not transaction)
            return
        if branch.queue is not None:
            branch.queue.append((transaction, response))  # order is kept while the media server works
            return
        self.take(branch, transaction, response)

    def take(self, branch: Branch, transaction: ClientTransaction, response: SipResponse) -> None:
        """Go on with a response whose turn it is."""
        status = response.status
        if status < 300:
            if status >= 200 and branch.timer_c is not None:
                branch.stop()
            self.out.append(("pass", branch, transaction, response))
            return
        if branch.done or transaction is not branch.transaction:
            return
        if status == 503 and branch.hops and not self.cancelled:
            self.out.append(("send", branch))  # RFC 3263 4.3
        else:
            self.finish(branch, status, response)

    def passed(self, branch: Branch, response: SipResponse, body: bytes | None = None) -> None:
        """The description in a 1xx or 2xx has passed: it goes on at once (RFC 3261 16.7 step 5), with another `body` if
        there is one."""
        status = response.status
        self._forward(branch, response, body)
        if status >= 200 and not branch.done:
            self.finish(branch, status, response)

    def _forward(self, branch: Branch, response: SipResponse, body: bytes | None) -> None:
        status = response.status
        if self.final and (status < 200 or not self.is_invite):
            return  # the transaction itself drops a 2xx to INVITE that follows another class
        call = self.call
        early = call is not None and status < 200 and call.state == "early" and response.body
        if early and call is not None and response.to_tag and sdp_of(response):
            call.early = response  # its branch has the early media
        if self.reply_hook is not None:
            self.reply_hook(response)
        first = status >= 200 and not self.final
        self.out.append(("forward", response, body))
        if first:
            self.final = status
            if len(self.branches) > 1:
                self.cancel((_ELSEWHERE,), but=branch)  # RFC 3261 16.7 step 10
            self._groups.clear()
        self.out.append(("forwarded", branch, response, first))
        if first and self.on_final is not None:
            self.out.append(("final", response))

    def failed(self, branch: Branch, transaction: ClientTransaction, reason: str) -> None:
        """A transaction ended without a final response."""
        branch.abandoned = tuple(each for each in branch.abandoned if each is not transaction)
        if branch.done or transaction is not branch.transaction:
            return
        branch.stop_silence()
        log.debug("%s: %s, Call-ID %s", transaction.hop, reason, self.call_id)
        if not self.cancelled and not branch.was_answered and not self.ended and not self.final:
            fallback, branch.fallback = branch.fallback, None
            if branch.hops:
                self.out.append(("send", branch))
                return
            if fallback is not None and reason != "timeout":
                self.out.append(("resolve", branch, fallback))
                return
        self.finish(branch, 408 if reason == "timeout" else 503)

    def silent(self, branch: Branch) -> None:
        """Not even a 100 came: go on with the next hop, but keep an ear open for this one."""
        branch.silence = None
        transaction = branch.transaction
        if branch.done or branch.was_answered or transaction is None or self.cancelled:
            return
        self.out.append(("cancel", transaction, (_NO_RESPONSE,)))
        branch.abandoned = (*branch.abandoned, transaction)
        if branch.hops:
            self.out.append(("send", branch))
        else:
            self.finish(branch, 408)

    def expired(self, branch: Branch) -> None:
        """Timer C (RFC 3261 16.8)."""
        if branch.done or branch.transaction is None:
            return
        self.out.append(("cancel", branch.transaction, (_TIMER_C,)))
        if not branch.was_answered:
            self.finish(branch, 408)

    # -- the result ----------------------------------------------------------------------------------------------------

    def finish(self, branch: Branch, status: int, response: SipResponse | None = None) -> None:
        """The branch has its final result; without a response it was made up here."""
        if branch.done:
            return
        branch.done = True
        if branch.timer_c is not None or branch.silence is not None:
            branch.stop()
        branch.status, branch.response = status, response
        if 200 <= status < 300:
            return
        if not (300 <= status < 400 and response is not None and self._redirected(branch, response)):
            self.done.append(branch)
            if status >= 600:
                self._groups.clear()  # RFC 3261 16.7 step 5
                self.cancel()
        self._check_done()

    def _redirected(self, branch: Branch, response: SipResponse) -> bool:
        """A 3xx for a domain of ours is followed, if wanted (RFC 3261 16.7 step 4)."""
        choices = self._choices
        if not choices.recurse or self.cancelled or self.final or self.dialog is not None:
            return False
        if not choices.serves(self.transaction.request.ruri):
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
            if not choices.serves(uri) and (answered_by is None or not choices.trusts(answered_by)):
                continue  # a phone does not send strangers' calls anywhere
            if uri.is_sip and (uri.scheme == "sips" or not secure):
                found.append(Target(uri, contact.q))
        before = len(self._groups)
        self.add_targets(by_preference(found), first=True)
        return len(self._groups) > before

    def _check_done(self) -> None:
        if self._starting or self.final:
            return
        for branch in self.branches:
            if not branch.done:
                return
        decided = any(branch.status >= 600 for branch in self.done)
        if self._groups and not self.cancelled and not self.ended and not decided:
            self._next_group()
            return
        # All branches are done without a 2xx: the best of what they said.
        response = choose(self.transaction.request, self.done, our_tag(self.transaction), self.cancelled)
        if self.reply_hook is not None:
            self.reply_hook(response)
            if self._groups and not self.cancelled:
                self._next_group()  # the script has found another target
                return
        self.send_final(response, forwarded=any(branch.response is response for branch in self.done))

    def send_final(self, response: SipResponse, *, forwarded: bool = False) -> None:
        """Send a final response that is no 2xx, whatever the branches do; they are cancelled. `forwarded`: it came from
        a branch."""
        if self.final:
            return
        self.final = response.status
        self._groups.clear()
        self.out.append(("forward", response, None) if forwarded else ("respond", response))
        self.cancel()
        self.out.append(("refused", response))
        if self.on_final is not None:
            self.out.append(("final", response))

    def fail(self, status: int, reason: str = "", headers: Headers = ()) -> None:
        """A final response of our own."""
        if self.final:
            return
        tag = our_tag(self.transaction)
        self.send_final(self.transaction.request.response(status, reason, to_tag=tag, headers=headers))

    # -- upstream ------------------------------------------------------------------------------------------------------

    def cancel(self, headers: Headers = (), but: Branch | None = None) -> None:
        """CANCEL pending branches (RFC 3261 16.10); one that has not been sent yet is simply dropped."""
        for branch in list(self.branches):
            if branch is but or branch.done:
                continue
            if branch.transaction is None:
                self.finish(branch, 487)
            else:
                branch.stop_silence()
                self.out.append(("cancel", branch.transaction, headers))

    def cancel_received(self, cancel: SipRequest) -> None:
        """The layer has answered it. Its Reason goes on (RFC 3326 2)."""
        self.cancelled = True
        self._groups.clear()
        self.cancel(tuple(("Reason", value) for value in cancel.get_all("reason")))

    def end(self) -> None:
        """The server transaction has ended. Nothing refers to the branches any more but their transactions."""
        self.ended = True
        self.branches.clear()
        self.reply_hook = None
