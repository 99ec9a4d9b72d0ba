"""Does what response contexts say is to be done, and tells them what happens (RFC 3261 16.6 to 16.10)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from functools import partial

from siprec.proxy import record_route
from siprec.proxy.actions import Choices
from siprec.proxy.branch import Branch
from siprec.proxy.call import Observers
from siprec.proxy.calls import Calls
from siprec.proxy.connected_identity import ConnectedIdentity
from siprec.proxy.contacts import may_reach
from siprec.proxy.dialogs import DialogTable
from siprec.proxy.forward import Aim
from siprec.proxy.in_dialog import InDialog
from siprec.proxy.local_domain import LocalDomain, Networks
from siprec.proxy.media_path import MediaPath
from siprec.proxy.midcall_requests import MidcallRequests
from siprec.proxy.nat_flow import way_back
from siprec.proxy.offer_answer import refused
from siprec.proxy.options import ProxyOptions
from siprec.proxy.passage import Passage
from siprec.proxy.record_route import Cookies
from siprec.proxy.response_context import ResponseContext
from siprec.proxy.routes import Target
from siprec.proxy.subscriptions import Subscriptions
from siprec.proxy.transfer import Transfers
from siprec.sip.clock import Clock
from siprec.sip.errors import SipError
from siprec.sip.forwarding import NO_CHANGES, forward_request, forward_response
from siprec.sip.headers import Via
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.transaction import ClientTransaction, TransactionLayer
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri
from siprec.sip.useragent import Resolve
from siprec.sip.validate import check_response
from siprec.sourcelog import SourceLog

log = logging.getLogger(__name__)


class Driver:
    """The part of the proxy between contexts and transactions."""

    call_states: Calls
    clock: Clock
    contexts: set[ResponseContext]
    cookies: Cookies
    counters: Counter[str]
    dialogs: DialogTable
    identity: LocalDomain
    in_dialog: InDialog
    media: MediaPath
    midcall: MidcallRequests
    observers: Observers
    on_limit: Callable[[str, str, SipRequest, Hop], None] | None
    options: ProxyOptions
    parties: ConnectedIdentity
    subscriptions: Subscriptions
    resolve: Resolve
    transfers: Transfers
    _choices: Choices
    _layer: TransactionLayer | None
    _lines: SourceLog
    _trusted: Networks

    @property
    def layer(self) -> TransactionLayer:
        """The transaction layer. Raises RuntimeError before `attach`."""
        if self._layer is None:
            raise RuntimeError("attach() a transaction layer first")
        return self._layer

    def limit_reached(self, limit: str, text: str, request: SipRequest, source: Hop) -> None:
        """A request, or its Call-ID, has reached a limit. Log line and event come once a minute for a source."""
        self.counters[limit] += 1
        told = self._lines.warning(
            source.host, limit + ": %s of %s from %s, Call-ID %s", text, request.method, source, request.call_id
        )
        if told and self.on_limit is not None:
            self.on_limit(limit, text, request, source)

    def resolve_contact(
        self, uri: Uri, given_by: str, done: Callable[[list[Hop] | SipError], None], *, by_route: bool = False
    ) -> None:
        """Like `resolve`, for a Contact (or a Route, `by_route`) that somebody gave us: what leads back to us, or where
        its giver could not go itself, is left out."""
        if given_by:
            self.resolve(uri, partial(self._resolved_contact, uri, given_by, by_route, done))
        else:
            self.resolve(uri, done)

    def _resolved_contact(
        self,
        uri: Uri,
        given_by: str,
        by_route: bool,
        done: Callable[[list[Hop] | SipError], None],
        result: list[Hop] | SipError,
    ) -> None:
        if not isinstance(result, SipError):
            allowed = [hop for hop in result if may_reach(hop, given_by, self.identity, by_route)]
            if len(allowed) < len(result):
                self.counters["contacts_refused"] += 1
                self._lines.warning(given_by, "%s leads to %s: refused, given by %s", uri, result[0], given_by)
            result = allowed or SipError("Loop Detected" if result else "no hop", 482)
        done(result)

    def is_trusted(self, source: Hop) -> bool:
        """Whether requests from there may go anywhere."""
        return self.options.allow_relay or source.host in self._trusted

    def watch(self, context: ResponseContext) -> None:
        """A context lives as long as its server transaction does."""
        transaction = context.transaction
        transaction.on_end = partial(self._transaction_ended, context)
        transaction.on_cancel = partial(self._cancel_received, context)
        self.contexts.add(context)

    def run(self, context: ResponseContext) -> None:
        """Do what a context has said is to be done, in order."""
        if context.is_acting:
            return  # whoever does it now comes to it
        context.is_acting = True
        out = context.out
        try:
            while out:
                match out.pop(0):
                    case ("resolve", branch, uri):
                        done = partial(self._resolved, context, branch)
                        routed = branch.aim is not None and branch.aim.routed
                        self.resolve_contact(uri, branch.target.given_by, done, by_route=routed)
                    case ("offer", branch):
                        self.media.request_out(context, branch)
                    case ("send", branch):
                        self._send(context, branch)
                    case ("pass", branch, client, response):
                        if branch.queue is not None:
                            branch.queue.append((client, response))
                        elif self.media.response_back(context, branch, client, response):
                            context.passed(branch, response)
                    case ("respond", response):
                        context.transaction.respond(response)
                    case ("forward", response, body):
                        self._forward(context, response, body)
                    case ("forwarded", branch, response, first):
                        self._forwarded(context, branch, response, first)
                    case ("cancel", client, headers):
                        client.cancel(headers)
                    case ("refused", response):
                        self._refused(context, response)
                    case ("final", response):
                        told, context.on_final = context.on_final, None
                        if told is not None:
                            told(response)
        finally:
            context.is_acting = False

    def _send(self, context: ResponseContext, branch: Branch) -> None:
        """Send the request of a branch to its next hop."""
        base, aimed = context.base, branch.aim
        if branch.done or aimed is None:
            return
        limit = self._choices.max_branches
        context.attempts += 1
        if context.attempts > limit:
            if context.attempts == limit + 1:
                self.limit_reached("max_branches", f"{limit} branches", context.base, context.transaction.source)
            context.finish(branch, 503)
            return
        hop = branch.hops.pop(0)
        changes = NO_CHANGES
        dialog = context.dialog
        if dialog is not None:
            shift = (dialog.caller if context.side == "caller" else dialog.callee).shift
            if shift is not None:
                changes = self.midcall.outgoing(shift, base)
        elif branch.breadth:
            changes = {"max-breadth": str(branch.breadth)}
        octets = forward_request(
            base,
            uri=aimed.uri,
            route=aimed.route,
            record_route=self._record_route(context, aimed, hop) if record_route.wanted(base.method) else (),
            changes=changes,
            body=branch.body,
        )
        branch.was_answered = False
        layer = self._layer or self.layer
        branch.transaction = layer.send_request(
            base,
            hop,
            octets=octets,
            on_response=partial(self._received, context, branch),
            on_failure=partial(self._failed, context, branch),
            branch=f"{layer.new_branch()}-{context.loop}",
        )
        if context.is_invite:
            clock, choices = self.clock, self._choices
            branch.deadline = clock.now() + choices.timer_c
            if branch.timer_c is None:
                branch.timer_c = clock.call_later(choices.timer_c, self._timer_c, context, branch)
            if branch.hops or context.has_more:
                # Whoever does not even say 100 is not there: others wait in line (RFC 3263 4.3).
                branch.silence = clock.call_later(choices.silence_timeout, self._silent, context, branch)

    def _record_route(self, context: ResponseContext, aimed: Aim, hop: Hop) -> tuple[str, ...]:
        """RFC 3261 16.6 step 4."""
        call = context.call if context.dialog is None else context.dialog.call
        dlg_id, source = call.dlg_id if call is not None else context.dlg_id, context.transaction.source
        if not dlg_id:
            dlg_id = context.dlg_id = self.cookies.new_id()
            context.subscribed = True
            given_by = "" if self.is_trusted(source) else source.host
            self.subscriptions.begin(dlg_id, context.transaction.request, source, given_by)
        cookie = self.cookies.make(dlg_id, context.call_id)
        transport = (self._layer or self.layer).transport
        return record_route.values(
            transport, self.identity, source, transport.route(hop, 0), cookie, secure=aimed.is_secure
        )

    @staticmethod
    def _forward(context: ResponseContext, response: SipResponse, body: bytes | None) -> None:
        """A response that came goes on without our Via (RFC 3261 16.7 step 9)."""
        try:
            tag = response.to_tag
        except SipError:
            tag = ""  # a script has broken it
        context.transaction.send(response.status, forward_response(response, body=body), tag)

    # -- what happens to contexts --------------------------------------------------------------------------------------

    def _resolved(self, context: ResponseContext, branch: Branch, result: list[Hop] | SipError) -> None:
        context.resolved(branch, result)
        self.run(context)

    def _received(
        self, context: ResponseContext, branch: Branch, transaction: ClientTransaction, response: SipResponse
    ) -> None:
        try:
            check_response(response)
            _check_next_via(response, context.transaction.request)
        except SipError as error:
            log.debug("response dropped: %s, Call-ID %s", error, context.call_id)
            if response.status >= 200 and transaction is branch.transaction:
                context.finish(branch, 502)
                self.run(context)
            return
        self.counters["responses"] += 1
        dialog = context.dialog
        if dialog is not None:
            shift = (dialog.caller if context.side == "caller" else dialog.callee).shift
            if shift is not None:
                self.midcall.incoming(shift, context.transaction.request, response)
        context.received(branch, transaction, response, self.clock.now())
        self.run(context)

    def _failed(self, context: ResponseContext, branch: Branch, transaction: ClientTransaction, reason: str) -> None:
        context.failed(branch, transaction, reason)
        self.run(context)

    def _silent(self, context: ResponseContext, branch: Branch) -> None:
        context.silent(branch)
        self.run(context)

    def _timer_c(self, context: ResponseContext, branch: Branch) -> None:
        branch.timer_c = None
        left = branch.deadline - self.clock.now()
        if left > 0.001 and not branch.done:
            branch.timer_c = self.clock.call_later(left, self._timer_c, context, branch)
            return
        context.expired(branch)
        self.run(context)

    def _cancel_received(self, context: ResponseContext, cancel: SipRequest) -> None:
        context.cancel_received(cancel)
        self.run(context)

    def _transaction_ended(self, context: ResponseContext, reason: str) -> None:
        self.contexts.discard(context)
        context.end()
        if context.call is not None:
            self.call_states.abandoned(context.call)

    def passed(self, passage: Passage) -> None:
        """A message may go on."""
        context, branch, message = passage.context, passage.branch, passage.message
        if passage.ack is not None:
            self.in_dialog.send_ack(passage.ack, passage.body)
        elif context is None or branch is None:
            return
        elif isinstance(message, SipResponse):
            context.passed(branch, message, passage.body)
            self.run(context)
            queue, branch.queue = branch.queue, None
            while queue:
                context.take(branch, *queue.popleft())
                self.run(context)
                if branch.queue is not None:
                    branch.queue.extend(queue)
                    return
        else:
            branch.body = passage.body
            context.offer_passed(branch, passage.reject)
            self.run(context)

    def _forwarded(self, context: ResponseContext, branch: Branch, response: SipResponse, first: bool) -> None:
        """A provisional response or a 2xx has been forwarded."""
        call, dialog, status = context.call, context.dialog, response.status
        request = context.transaction.request
        if call is not None:
            made = self.dialogs.made_by(call, response)
            if made is not None:
                self.parties.initial(made, response)
            if status < 200:
                self.observers.tell("call_progress", call, response)
                if response is call.early and call.state == "early" and call.caller_sdp and call.callee_sdp:
                    self.observers.tell("call_early_media", call)
                    call.early_media = True
            elif first and call.state == "early":
                self.call_states.answered(call, response, context, branch)
        elif dialog is not None and status >= 200:
            if request.method == "BYE":
                self.dialogs.bye_answered(dialog, request, context.side, status)
            elif request.method in ("INVITE", "UPDATE"):
                flow = way_back(request, context.transaction.source)
                if flow is not None:
                    dialog[context.side].flow = flow
                self.parties.response(dialog, context.side, request, response)
                if request.method == "UPDATE":
                    self.midcall.settled(dialog, context.side, request.cseq.number)
            elif request.method == "REFER":
                self.transfers.referred(dialog, context.side, request)
        elif context.subscribed and 200 <= status < 300 and branch.transaction is not None:
            host = branch.transaction.hop.host
            self.subscriptions.response(context.dlg_id, context.side, request, response, host, branch.target)

    def _refused(self, context: ResponseContext, response: SipResponse) -> None:
        """A final response that is no 2xx has been sent."""
        call, dialog, side = context.call, context.dialog, context.side
        if call is not None:
            self.call_states.end(call, "cancelled" if context.cancelled else str(response.status), response)
        elif dialog is not None:
            if context.base.method == "BYE":
                self.dialogs.bye_answered(dialog, context.transaction.request, side, response.status)
            elif (offer := refused(dialog, side, context.base)) is not None:
                self.media.rolled_back(dialog, offer)
            self.midcall.settled(dialog, side, context.base.cseq.number)

    # -- stateless -----------------------------------------------------------------------------------------------------

    def send_stateless(self, octets: bytes, aimed: Aim, loop: str, target: Target) -> None:
        """Send an ACK or a CANCEL that has no transaction of its own."""
        layer = self._layer or self.layer
        branch = f"{layer.new_branch()}-{loop}"
        if target.flow is not None:
            # As with a branch: a connection may be gone.
            failed = partial(self._stateless_by_name, octets, aimed, branch, target.given_by)
            layer.send_stateless(octets, target.flow, add_via=branch, failed=None if target.only_flow else failed)
        else:
            self._stateless_by_name(octets, aimed, branch, target.given_by)

    def _stateless_by_name(self, octets: bytes, aimed: Aim, branch: str, given_by: str, reason: str = "") -> None:
        found = partial(self._send_stateless, octets, branch)
        self.resolve_contact(aimed.hop, given_by, found, by_route=aimed.routed)

    def _send_stateless(self, octets: bytes, branch: str, result: list[Hop] | SipError) -> None:
        if not isinstance(result, SipError) and result:
            self.layer.send_stateless(octets, result[0], add_via=branch)


def _check_next_via(response: SipResponse, request: SipRequest) -> None:
    """RFC 3261 16.7 step 3: without another Via than ours, a response was for us.

    Raises:
        SipError: there is none, or it is malformed.
    """
    keys = response.keys
    at = keys.index("via") + 1
    if "via" in keys[at:] and "," not in response.lines[at - 1]:
        line = response.lines[keys.index("via", at)]
        if line in request.lines:
            return  # as it came
    values = response.values("via")
    if len(values) < 2:
        raise SipError("Via is missing")
    Via.parse(values[1])
