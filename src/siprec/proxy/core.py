"""The proxy core: takes what the transaction layer brings, asks those who decide, and does what they say (RFC 3261 16).

An INVITE goes through these files: `core` (here) checks it, `routing` says where it goes, `calls` begins the call,
`response_context` makes branches, `media_path` passes its description, `driver` sends it. Its responses come back to
`driver`, pass `media_path` and `response_context`, and go upstream from `driver`.
"""

from __future__ import annotations

import logging
import random
import secrets
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Literal

from siprec.proxy.actions import Choices
from siprec.proxy.authentication import Authentication
from siprec.proxy.call import Call, CallObserver, Observers, Recorder
from siprec.proxy.calls import Calls
from siprec.proxy.connected_identity import ConnectedIdentity
from siprec.proxy.dialogs import DialogTable
from siprec.proxy.drain import Drain
from siprec.proxy.driver import Driver
from siprec.proxy.forward import aim, has_looped, loop_part, preprocess
from siprec.proxy.in_dialog import InDialog
from siprec.proxy.life_check import LifeCheck
from siprec.proxy.local_domain import LocalDomain, Networks
from siprec.proxy.media_failover import MediaFailover
from siprec.proxy.media_path import MediaPath
from siprec.proxy.media_sessions import PickMedia
from siprec.proxy.midcall_requests import MidcallRequests
from siprec.proxy.nat_flow import way_back
from siprec.proxy.options import ProxyOptions
from siprec.proxy.passes import Passes
from siprec.proxy.protocols import Indicator
from siprec.proxy.record_route import Cookies
from siprec.proxy.registrar import Registrar
from siprec.proxy.response_context import ResponseContext
from siprec.proxy.routes import Rules, Target
from siprec.proxy.routing import Routing
from siprec.proxy.script import Script
from siprec.proxy.subscriptions import Subscriptions
from siprec.proxy.transfer import Transfers
from siprec.sip.clock import Clock
from siprec.sip.errors import SipError
from siprec.sip.forwarding import forward_request
from siprec.sip.message import SipRequest
from siprec.sip.transaction import ServerTransaction, TransactionLayer
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri
from siprec.sip.useragent import Resolve, UserAgent
from siprec.sip.validate import check_forwarding, check_request
from siprec.sourcelog import SourceLog

log = logging.getLogger(__name__)


class ProxyCore(Driver):
    """A transaction-stateful, record-routing, dialog-tracking proxy; a `TransactionUser`.

    Make it first, then the layer with it as user, then :meth:`attach` the layer::

        core = ProxyCore(clock, identity, resolve, registrar=registrar, pick_media=lambda call: relay)
        layer = TransactionLayer(clock, transport, core)
        core.attach(layer, agent)

    Arguments: `resolve` finds next hops (RFC 3263); `pick_media` the media server of a call; `observers` hear of calls;
    `recorder` is what scripts' ``siprec_*`` calls go to; `settings` makes the recording settings holder of a request
    (``request.siprec``); `authentication` knows the users that rules and scripts may demand.
    """

    def __init__(
        self,
        clock: Clock,
        identity: LocalDomain,
        resolve: Resolve,
        *,
        registrar: Registrar | None = None,
        rules: Rules | None = None,
        script: Script | None = None,
        pick_media: PickMedia | None = None,
        observers: Iterable[CallObserver] = (),
        recorder: Recorder | None = None,
        settings: Callable[[], object] | None = None,
        authentication: Authentication | None = None,
        options: ProxyOptions | None = None,
        rng: random.Random | None = None,
    ) -> None:
        options = options or ProxyOptions()
        self.clock = clock
        self.identity = identity
        self.resolve = resolve
        self.registrar = registrar
        self.recorder = recorder
        self.indicator: Indicator | None = None
        self.settings = settings
        self.authentication = authentication
        self.observers = Observers(observers)
        self.counters: Counter[str] = Counter()
        self.random: random.Random = rng or random.SystemRandom()
        self._lines = SourceLog(log, now=clock.now)
        self.on_limit: Callable[[str, str, SipRequest, Hop], None] | None = None
        """Told of limits that a request has reached: ``max_branches`` or ``max_passes``, what happened, the request and
        its source."""
        self.drain = Drain()
        self.cookies = Cookies(options.cookie_secret)
        self.contexts: set[ResponseContext] = set()
        self.call_states = Calls(self)
        self.calls: dict[str, Call] = self.call_states.all
        self.dialogs = DialogTable(
            clock, self.call_states.dialog_ended, idle=options.dialog_idle, max_age=options.dialog_max_age
        )
        self.dialogs.check = LifeCheck(self)
        self.subscriptions = Subscriptions(clock)
        self.parties = ConnectedIdentity(clock, self.observers)
        self.transfers = Transfers(clock, self.dialogs)
        self.midcall = MidcallRequests(self)
        self.failover = MediaFailover(self)
        self.passes = Passes(clock)
        self.media = MediaPath(
            self,
            pick_media,
            use=options.media_use,
            on_failure=options.on_media_failure,
            times=options.media_times,
            flags=options.media_flags,
        )
        self.routing = Routing(self)
        self.in_dialog = InDialog(self)
        self._choices = Choices(identity.serves, self.is_trusted)
        self._agent: UserAgent | None = None
        self._layer: TransactionLayer | None = None
        self.reconfigure(options, rules or Rules(), script)

    def attach(self, layer: TransactionLayer, agent: UserAgent | None = None) -> None:
        """The layer that sends, and our own user agent, which is asked first."""
        self._layer = layer
        self._agent = agent

    def counts(self) -> dict[str, int]:
        """What is alive: for leak checks and metrics."""
        return {
            "contexts": len(self.contexts),
            "calls": len(self.calls),
            "dialogs": len(self.dialogs),
            "media_sessions": self.media.sessions,
        }

    def reconfigure(self, options: ProxyOptions, rules: Rules, script: Script | None) -> None:
        """Go on with other choices, for requests and calls that are yet to come. `cookie_secret`, `dialog_idle`,
        `dialog_max_age` and `media_flags` stay as they were at the start."""
        self.options = options
        self.timer_c = options.timer_c
        self.session_expires: int = options.session_expires
        self.max_unanswered: int = options.max_unanswered
        self.max_passes: int = options.max_passes
        self.relay_authenticated: bool = options.relay_authenticated
        self.on_script_error: Literal["route", "reject"] = options.on_script_error
        self.rules = rules
        self.script = script
        self._trusted = Networks(options.trusted)
        choices = self._choices
        choices.max_branches = options.max_branches
        choices.recurse = options.recurse
        choices.timer_c = options.timer_c
        choices.silence_timeout = options.silence_timeout
        self.media.use = options.media_use
        self.media.on_failure = options.on_media_failure
        self.media.times = options.media_times

    def is_for_our_agent(self, uri: Uri, source: Hop) -> bool:
        """Whether a request that our user agent did not take is for it all the same: for a dialog that it has no more
        (RFC 3261 12.2.2)."""
        if self._agent is None or not self.identity.is_us(uri):
            return False
        return uri.user is not None and uri.user == Uri.parse(self._agent.contact(source)).user

    def shutdown(self) -> None:
        """Let go of all calls; nothing is sent to the parties."""
        for call in list(self.calls.values()):
            self.call_states.end(call, "shutdown")

    # -- TransactionUser -----------------------------------------------------------------------------------------------

    def request_received(self, transaction: ServerTransaction) -> None:
        """A new server transaction."""
        request = transaction.request
        if self.drain.draining and self.drain.refuses(request):
            headers = (("Retry-After", str(self.drain.retry_after)),)
            transaction.respond(request.response(503, to_tag=secrets.token_hex(5), headers=headers))
            return
        self.counters["requests"] += 1
        if self._agent is not None and self._agent.request_received(transaction):
            return
        context = None
        try:
            check_request(request)
            if request.method == "INVITE":
                transaction.respond(request.response(100))  # RFC 3261 17.2.1
            check_forwarding(request)
            loop = loop_part(request)
            if has_looped(request, self.identity, loop):
                raise SipError("Loop Detected", 482)
            base = request.copy()
            ours, cookie = preprocess(base, self.identity)
            context = ResponseContext(self._choices, transaction, base, loop)
            if not (base.to_tag and self.in_dialog.request(context, ours, cookie)):
                self.routing.outside(context, way_back(request, transaction.source) if context.is_invite else None)
        except SipError as error:
            if context is not None:
                self.refuse(context, error)
                return
            self.counters["refused"] += 1
            tag = transaction.to_tag or secrets.token_hex(5)
            transaction.respond(request.response(error.status, _phrase(error), to_tag=tag, headers=error.headers))

    def refuse(self, context: ResponseContext, error: SipError) -> None:
        """A request cannot be forwarded."""
        self.counters["refused"] += 1
        context.fail(error.status, _phrase(error), error.headers)
        self.run(context)

    def ack_received(self, request: SipRequest, source: Hop) -> None:
        """The ACK for a 2xx: routed like a request, never answered (RFC 3261 13.2.2.4)."""
        if self._agent is not None and self._agent.ack_received(request, source):
            return
        try:
            self.in_dialog.ack(request, source)
        except SipError as error:
            self.layer.dropped["ACK"] += 1
            log.debug("ACK dropped: %s, from %s", error, source)

    def cancel_received(self, request: SipRequest, source: Hop) -> None:
        """A CANCEL of nothing we know: forwarded statelessly (RFC 3261 16.10), or 481 when it goes no further."""
        base = request.copy()
        try:
            check_request(base)
            check_forwarding(base)
            preprocess(base, self.identity)
            if self.identity.serves(base.ruri) or not self.is_trusted(source):
                self.layer.reply(request, source, request.response(481, to_tag=secrets.token_hex(5)))
                return
            loop = loop_part(request)
            if has_looped(request, self.identity, loop):
                self.layer.dropped["CANCEL"] += 1
                return
            target = Target(base.ruri)
            aimed = aim(base, target)
            self.send_stateless(forward_request(base, uri=aimed.uri, route=aimed.route), aimed, loop, target)
        except SipError as error:
            self.layer.dropped["CANCEL"] += 1
            log.debug("CANCEL dropped: %s, from %s", error, source)

    def malformed(self, error: SipError, request: SipRequest | None, source: Hop) -> None:
        """The layer has answered."""
        self.counters["malformed"] += 1


def _phrase(error: SipError) -> str:
    return error.reason[:80] if error.reason.isprintable() else ""
