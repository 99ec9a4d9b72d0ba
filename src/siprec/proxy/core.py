"""The proxy core: what happens to a request between its server transaction and its branches (RFC 3261 16)."""

from __future__ import annotations

import logging
import random
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from siprec.media.engine import NO_FLAGS, MediaFlags
from siprec.proxy import record_route, session_timer
from siprec.proxy.authentication import Authenticated, Authentication, Users, strip_credentials
from siprec.proxy.branch import Branch
from siprec.proxy.call import Call, CallObserver, Observers, Recorder
from siprec.proxy.call_media_session import MediaTimes
from siprec.proxy.connected_identity import PartyWatch
from siprec.proxy.contacts import may_reach, place
from siprec.proxy.dialogs import OTHER, DialogTable, EndedDialog, ProxiedDialog, Side
from siprec.proxy.drain import Drain
from siprec.proxy.forward import aim, count_hop, has_looped, loop_part, preprocess
from siprec.proxy.life_check import LifeCheck
from siprec.proxy.local_domain import LocalDomain, Networks
from siprec.proxy.media_failover import MediaFailover
from siprec.proxy.media_path import Negotiation, PickMedia
from siprec.proxy.midcall_requests import MidcallRequests
from siprec.proxy.nat_flow import flow_of
from siprec.proxy.passes import Passes
from siprec.proxy.peers import Peers
from siprec.proxy.record_attribute import Indicator
from siprec.proxy.record_route import Cookies
from siprec.proxy.registrar import Registrar
from siprec.proxy.response_context import ResponseContext, by_preference
from siprec.proxy.routes import TRUSTED, Authenticate, CompiledRule, Decision, Rules, Target
from siprec.proxy.script_failure import OnScriptError
from siprec.proxy.source_counts import SourceCounts
from siprec.proxy.subscriptions import Subscriptions
from siprec.proxy.transfer import Transfers
from siprec.sip.clock import Clock
from siprec.sip.errors import SipError
from siprec.sip.message import SipMessage, SipRequest, SipResponse
from siprec.sip.transaction import ServerTransaction, TransactionLayer
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri
from siprec.sip.useragent import Resolve, UserAgent
from siprec.sip.validate import check_forwarding, check_request
from siprec.sourcelog import SourceLog

if TYPE_CHECKING:
    from siprec.proxy.script import Script

log = logging.getLogger(__name__)

ALLOW = "INVITE, ACK, CANCEL, BYE, OPTIONS, REGISTER, UPDATE, PRACK, INFO, MESSAGE, SUBSCRIBE, NOTIFY, REFER, PUBLISH"


@dataclass(frozen=True, slots=True)
class ProxyOptions:
    """Choices of a deployment; times in seconds.

    `trusted` networks may be relayed to foreign domains, everybody with `allow_relay`, and users with a password with
    `relay_authenticated`. `silence_timeout`: how long a next hop may say nothing at all while another one waits.
    `session_expires`: session timer to ask for (RFC 4028; 0: only observe). `recurse`: follow 3xx for own domains.
    `max_unanswered`: calls of one source that wait for an answer, unless it is trusted (0: any number).
    `max_branches` of one request, parallel and serial together; `max_passes` of one Call-ID within 32 s.
    `cookie_secret` signs Record-Route (random when empty). `on_script_error`: see :mod:`siprec.proxy.script_failure`.
    """

    trusted: Collection[str] = ("127.0.0.0/8", "::1/128")
    allow_relay: bool = False
    relay_authenticated: bool = False
    timer_c: float = 185.0
    silence_timeout: float = 4.0
    recurse: bool = False
    session_expires: int = 0
    dialog_idle: float = 43200.0
    dialog_max_age: float = 0.0
    max_unanswered: int = 500
    max_branches: int = 60
    max_passes: int = 10
    on_script_error: OnScriptError = "route"
    cookie_secret: bytes = b""
    media_use: Literal["recorded", "always", "never"] = "recorded"
    on_media_failure: Literal["pass", "reject"] = "pass"
    media_times: MediaTimes = field(default_factory=MediaTimes)
    media_flags: MediaFlags = NO_FLAGS


class ProxyCore:
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
        self.rules = rules or Rules()
        self.script = script
        self.recorder = recorder
        self.indicator: Indicator | None = None
        self.settings = settings
        self.authentication = authentication
        self.options = options
        self.timer_c = options.timer_c
        self.silence_timeout = options.silence_timeout
        self.recurse = options.recurse
        self.observers = Observers(observers)
        self.counters: Counter[str] = Counter()
        self.drain = Drain()
        self._lines = SourceLog(log, now=clock.now)
        self.contexts: set[ResponseContext] = set()
        self.calls: dict[str, Call] = {}
        self.dialogs = DialogTable(clock, self._dialog_ended, idle=options.dialog_idle, max_age=options.dialog_max_age)
        self.subscriptions = Subscriptions(clock)
        self.parties = PartyWatch(clock, self.observers)
        self.transfers = Transfers(clock, self.dialogs)
        self.midcall = MidcallRequests(self)
        self.failover = MediaFailover(self)
        self.dialogs.check = LifeCheck(self)
        self.passes = Passes(clock)
        self._unanswered = SourceCounts(clock)
        self.on_limit: Callable[[str, str, SipRequest, Hop], None] | None = None
        """Told of limits that a request has reached: ``max_branches`` or ``max_passes``, what happened, the request and
        its source."""
        self.cookies = Cookies(options.cookie_secret)
        self.media = Negotiation(
            self,
            pick_media,
            use=options.media_use,
            on_failure=options.on_media_failure,
            times=options.media_times,
            flags=options.media_flags,
        )
        self.random = rng or random.SystemRandom()
        self._trusted = Networks(options.trusted)
        self._agent: UserAgent | None = None
        self._layer: TransactionLayer | None = None

    def attach(self, layer: TransactionLayer, agent: UserAgent | None = None) -> None:
        """The layer that sends, and our own user agent, which is asked first."""
        self._layer = layer
        self._agent = agent

    @property
    def layer(self) -> TransactionLayer:
        """The transaction layer. Raises RuntimeError before `attach`."""
        if self._layer is None:
            raise RuntimeError("attach() a transaction layer first")
        return self._layer

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
        self.silence_timeout = options.silence_timeout
        self.recurse = options.recurse
        self.rules = rules
        self.script = script
        self._trusted = Networks(options.trusted)
        self.media.use = options.media_use
        self.media.on_failure = options.on_media_failure
        self.media.times = options.media_times

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
        if not given_by:
            self.resolve(uri, done)
            return

        def found(result: list[Hop] | SipError) -> None:
            if not isinstance(result, SipError):
                allowed = [hop for hop in result if may_reach(hop, given_by, self.identity, by_route)]
                if len(allowed) < len(result):
                    self.counters["contacts_refused"] += 1
                    self._lines.warning(given_by, "%s leads to %s: refused, given by %s", uri, result[0], given_by)
                result = allowed or SipError("Loop Detected" if result else "no hop", 482)
            done(result)

        self.resolve(uri, found)

    def is_trusted(self, source: Hop) -> bool:
        """Whether requests from there may go anywhere."""
        return self.options.allow_relay or source.host in self._trusted

    def to_tag(self, context: ResponseContext) -> str:
        """The To tag of our own responses to one request: always the same."""
        tag = context.transaction.to_tag
        if not tag:
            tag = context.transaction.to_tag = secrets.token_hex(5)
        return tag

    # -- TransactionUser -----------------------------------------------------------------------------------------------

    def request_received(self, transaction: ServerTransaction) -> None:
        """See :class:`siprec.sip.transaction.TransactionUser`."""
        if self.drain.draining and self.drain.refuses(transaction.request):
            headers = (("Retry-After", str(self.drain.retry_after)),)
            transaction.respond(transaction.request.response(503, to_tag=secrets.token_hex(5), headers=headers))
            return
        self.counters["requests"] += 1
        if self._agent is not None and self._agent.request_received(transaction):
            return
        try:
            context, ours, cookie = self._examine(transaction)
        except SipError as error:
            self.counters["refused"] += 1
            tag = transaction.to_tag or secrets.token_hex(5)
            request = transaction.request
            transaction.respond(request.response(error.status, _phrase(error), to_tag=tag, headers=error.headers))
            return
        try:
            if not (context.base.to_tag and self._in_dialog(context, ours, cookie)):
                self._outside(context)
        except SipError as error:
            self.counters["refused"] += 1
            context.fail(error.status, _phrase(error), error.headers)

    def ack_received(self, request: SipRequest, source: Hop) -> None:
        """The ACK for a 2xx: routed like a request, never answered (TXN-08)."""
        if self._agent is not None and self._agent.ack_received(request, source):
            return
        try:
            self._forward_ack(request, source)
        except SipError as error:
            self.layer.dropped["ACK"] += 1
            log.debug("ACK dropped: %s, from %s", error, source)

    def cancel_received(self, request: SipRequest, source: Hop) -> None:
        """A CANCEL of nothing we know: forwarded statelessly (CAN-02), or 481 when it goes no further."""
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
            count_hop(base)
            self._stateless(base, aim(base, Target(base.ruri)), loop)
        except SipError as error:
            self.layer.dropped["CANCEL"] += 1
            log.debug("CANCEL dropped: %s, from %s", error, source)

    def malformed(self, error: SipError, request: SipRequest | None, source: Hop) -> None:
        """The layer has answered."""
        self.counters["malformed"] += 1

    # -- requests ------------------------------------------------------------------------------------------------------

    def _examine(self, transaction: ServerTransaction) -> tuple[ResponseContext, bool, str]:
        """Checks and Route information (RFC 3261 16.3, 16.4): what is to be forwarded, whether a Route value of ours
        was used up, and the cookie in it."""
        request = transaction.request
        check_request(request)  # REQ-02
        if request.method == "INVITE":
            transaction.respond(request.response(100))  # REQ-01
        check_forwarding(request)  # REQ-03, REQ-04, REQ-06
        loop = loop_part(request)
        if has_looped(request, self.identity, loop):
            raise SipError("Loop Detected", 482)  # REQ-05
        base = request.copy()
        ours, cookie = preprocess(base, self.identity)
        return ResponseContext(self, transaction, base, loop), ours, cookie

    def _in_dialog(self, context: ResponseContext, ours: bool, cookie: str) -> bool:
        """A request with a To tag; false when nothing says that it belongs to a dialog through here."""
        base, source = context.base, context.transaction.source
        dlg_id = self.cookies.check(cookie, context.call_id) if cookie else None
        found = self.dialogs.find(base, dlg_id or "")
        if found is None:
            return self._in_other_dialog(context, ours, dlg_id)
        dialog, side = found
        self._aim_at_peer(base, source, side, dialog.peers, dialog)
        context.dialog, context.side = dialog, side
        self._sent(dialog, side, base, context.transaction.request, source)
        flow = dialog.flow.get(OTHER[side])
        given_by = dialog.peers[OTHER[side]].given_by
        target = _peer(base, flow, given_by)

        def go_on() -> None:
            try:
                if self.script is not None:
                    self.script.in_dialog(self, context, target)
                else:
                    context.start([[target]])
            except SipError as error:
                self.counters["refused"] += 1
                context.fail(error.status, _phrase(error), error.headers)

        self.midcall.ready(dialog, side, base, go_on)
        return True

    def _in_other_dialog(self, context: ResponseContext, ours: bool, dlg_id: str | None) -> bool:
        """A request with a To tag that belongs to no call that is followed."""
        base, source = context.base, context.transaction.source
        over = self.dialogs.find_over(base, dlg_id or "")
        if over is not None:
            dialog, side = over
            # BYEs cross. What came of a REFER goes on after the call (RFC 5057 4.1).
            if not dialog.forgotten and base.method not in ("BYE", "NOTIFY"):
                raise SipError("Call/Transaction Does Not Exist", 481)  # RR-08
            self._aim_at_peer(base, source, side, dialog.peers, dialog)
            context.dlg_id = dialog.dlg_id
            flow, given_by = dialog.flow.get(OTHER[side]), dialog.peers[OTHER[side]].given_by
        elif dlg_id is not None and (subscribed := self.subscriptions.find(base, dlg_id)) is not None:
            known, end, side = subscribed
            self._aim_at_peer(base, source, side, end.peers)
            self.subscriptions.request(known, end, side, context.transaction.request, source)
            context.dlg_id, context.side, context.subscribed = dlg_id, side, True
            flow, given_by = end.flow.get(OTHER[side]), end.peers[OTHER[side]].given_by
        elif (dlg_id is not None and self.cookies.is_issued(dlg_id)) or self.dialogs.knows(context.call_id):
            raise SipError("Call/Transaction Does Not Exist", 481)
        else:
            if not base.has("route") and (
                (self.identity.serves(base.ruri) and not base.ruri.user) or self._was_ours(base.ruri, source)
            ):
                raise SipError("Call/Transaction Does Not Exist", 481)
            if dlg_id is None:
                if ours and not self.is_trusted(source):
                    raise SipError("Not one of our dialogs", 403)
                return False
            context.dlg_id = dlg_id  # from before a restart
            self._count_pass(context)
            # Nobody knows any more whose dialog it is: the sender goes nowhere that it could not go itself.
            flow, given_by = None, "" if self.is_trusted(source) else source.host
        context.start([[_peer(base, flow, given_by)]])
        return True

    def _sent(self, dialog: ProxiedDialog, side: Side, base: SipRequest, received: SipRequest, source: Hop) -> None:
        """A request of `side` within a dialog goes on."""
        flow = _sender(received, source)
        if flow is not None and not self._is_known(dialog, side, source):
            flow = None  # somebody else's address until the peer has accepted it (see `forwarded`)
        self.dialogs.request(dialog, side, base, flow)
        dialog.peers[side].sent(received, dialog.contact.get(side, ""))

    @staticmethod
    def _is_known(dialog: ProxiedDialog | EndedDialog, side: Side, source: Hop) -> bool:
        """Whether an address is one that a side has signalled, or comes from since."""
        flow = dialog.flow.get(side)
        return dialog.peers[side].has_signalled(source.host) or (flow is not None and flow.host == source.host)

    def _was_ours(self, uri: Uri, source: Hop) -> bool:
        """Whether a request that our user agent did not take is for it all the same: for a dialog that it has no more
        (RFC 3261 12.2.2)."""
        if self._agent is None or not self.identity.is_us(uri):
            return False
        return uri.user is not None and uri.user == Uri.parse(self._agent.contact(source)).user

    def _outside(self, context: ResponseContext) -> None:
        """A request outside a dialog: rules, then the script, then what is sensible."""
        request, source = context.base, context.transaction.source
        uri = request.ruri
        if request.has("route") and not self.is_trusted(source):
            raise SipError("Relaying denied", 403)  # rules, script and registrar are not asked: nobody relays by Route
        if self.identity.is_us(uri) and uri.user is None and request.method == "OPTIONS" and not request.has("route"):
            context.transaction.respond(
                request.response(200, to_tag=self.to_tag(context), headers=[("Allow", ALLOW), ("Accept", "*/*")])
            )
            return
        if request.method == "INVITE":
            context.call = self._new_call(context)
        elif self.script is not None:
            context.watch()
        decision = self.decide(context)
        if context.call is not None:
            context.call.recordings += decision.record
            context.call.wanted_by = decision.record_by
            context.call.media_use = decision.media
            context.call.media_set = decision.media_set
            context.call.transport_protocol = decision.transport_protocol
            context.call.media_flags = decision.media_flags
        if decision.rule is not None:
            self.obey(context, decision.rule)
        elif self.script is not None:
            self.script.outside(self, context)
        else:
            self.default_route(context)

    def decide(self, context: ResponseContext, *, guarded: bool = False) -> Decision:
        """What the rules say of a request outside a dialog (see `Rules.decide`).

        Raises:
            SipError: malformed Request-URI; 401 or 407, a rule wants a password.
        """
        asker: Authenticate | None = None
        if self.rules.authenticate:

            def asker(algorithms: Sequence[str]) -> str:
                return self.authenticate(context, algorithms=algorithms)

        return self.rules.decide(context.base, context.transaction.source, asker, guarded=guarded)

    def obey(self, context: ResponseContext, decided: CompiledRule) -> None:
        """Do what a rule says.

        Raises:
            SipError: see :meth:`to_registered` and :meth:`start`.
        """
        rule = decided.rule
        if rule.reply:
            context.fail(rule.reply, rule.reason)
        elif rule.registrar:
            self.to_registered(context)
        elif rule.relay:
            self.start(context, [[Target(context.base.ruri)]])
        else:
            self.start(context, decided.groups(context.base, self.random))

    def default_route(self, context: ResponseContext) -> None:
        """What becomes of a request that no rule and no script has decided about.

        Raises:
            SipError: 403, 404, 407 or 480.
        """
        request, source = context.base, context.transaction.source
        if self.identity.serves(request.ruri) and not request.has("route"):
            self.to_registered(context)
            return
        if not self.is_trusted(source):
            if not self.options.relay_authenticated:
                raise SipError("Relaying denied", 403)
            self.authenticate(context)  # REQ-07
        self.start(context, [[Target(request.ruri)]])

    def authenticate(
        self,
        context: ResponseContext,
        *,
        proxy: bool | None = None,
        realm: str = "",
        users: Users | None = None,
        algorithms: Sequence[str] = (),
    ) -> str:
        """The user that sent a request (see `Authentication.check`); asked once, however often this is called. Its
        credentials for the realm are not forwarded.

        Raises:
            SipError: 401 or 407 with challenges, 403 when there are no users.
        """
        authentication = self.authentication
        if authentication is None or not (authentication.users if users is None else users):
            raise SipError("Forbidden", 403)
        realm = realm or authentication.realm
        before = context.authenticated
        if before is not None and before[1:] == (realm, users, tuple(algorithms)):
            return before.user
        user = authentication.check(
            context.transaction.request,
            proxy=proxy,
            realm=realm,
            users=users,
            algorithms=algorithms,
            again=before is not None and before.realm == realm,
            source=context.transaction.source.host,
        )
        context.authenticated = Authenticated(user, realm, users, tuple(algorithms))
        strip_credentials(context.base, realm)
        return user

    def to_registered(self, context: ResponseContext) -> None:
        """REGISTER to the registrar, anything else to the contacts of the Request-URI (REQ-11).

        Raises:
            SipError: 404 or 480.
        """
        registrar = self.registrar
        if registrar is None:
            raise SipError("Not Found", 404)
        if context.base.method == "REGISTER":
            known, source = context.authenticated, context.transaction.source
            same = known is not None and known.users is None and registrar.authentication is self.authentication
            username = known.user if known is not None and same else ""
            registrar.register(context.transaction, username, trusted=self.is_trusted(source))
            return
        targets = registrar.lookup(context.base.ruri)
        if targets is None:
            raise SipError("Not Found", 404)
        if not targets:
            raise SipError("Temporarily Unavailable", 480)
        self.start(context, by_preference(targets))

    def start(self, context: ResponseContext, groups: list[list[Target]]) -> None:
        """Forward a request outside a dialog.

        Raises:
            SipError: see :meth:`ResponseContext.start`.
        """
        self._count_pass(context)
        call = context.call
        if call is not None:
            seconds = self.options.session_expires
            if seconds:
                session_timer.ask(context.base, seconds)  # TMR-01 to TMR-03
        context.start(groups)

    def _count_pass(self, context: ResponseContext) -> None:
        """Raises SipError: 482, the Call-ID has passed too often."""
        passes, limit = self.passes.count(context.base), self.options.max_passes
        if passes > limit:
            if passes == limit + 1:
                request, source = context.base, context.transaction.source
                self.limit_reached("max_passes", f"more than {limit} passes", request, source)
            raise SipError("Loop Detected", 482)

    # -- for the contexts ----------------------------------------------------------------------------------------------

    def add_record_route(self, context: ResponseContext, request: SipRequest, hop: Hop) -> None:
        """FWD-04."""
        if record_route.wanted(request):
            call = context.call
            if call is None and context.dialog is not None:
                call = context.dialog.call
            dlg_id = call.dlg_id if call is not None else context.dlg_id
            if not dlg_id:
                dlg_id = context.dlg_id = self.cookies.new_id()
                context.subscribed = True
                source = context.transaction.source
                given_by = "" if self.is_trusted(source) else source.host
                self.subscriptions.begin(dlg_id, context.transaction.request, source, given_by)
            cookie = self.cookies.make(dlg_id, context.call_id)
            transport = self.layer.transport
            record_route.insert(
                request, transport, self.identity, context.transaction.source, transport.route(hop, 0), cookie
            )

    def forwarded(self, context: ResponseContext, branch: Branch, response: SipResponse, first: bool) -> None:
        """A provisional response or a 2xx has been forwarded."""
        call, dialog, status = context.call, context.dialog, response.status
        request = context.transaction.request
        if call is not None:
            made = self.dialogs.made_by(call, response)
            if made is not None:
                self.parties.response(made, "caller", request, response)
            if status < 200:
                self.observers.tell("call_progress", call, response)
                if response is call.early and call.state == "early" and call.caller_sdp and call.callee_sdp:
                    self.observers.tell("call_early_media", call)
                    call.early_media = True
            elif first and call.state == "early":
                self._answered(call, response, branch)
        elif dialog is not None and status >= 200:
            if request.method == "BYE":
                self.dialogs.bye_answered(dialog, request, context.side, status)
            elif request.method in ("INVITE", "UPDATE"):
                flow = _sender(request, context.transaction.source) if status < 300 else None
                if flow is not None:
                    dialog.flow[context.side] = flow
                self.parties.response(dialog, context.side, request, response)
                if request.method == "UPDATE":
                    self.midcall.settled(dialog, context.side, request.cseq.number)
            elif request.method == "REFER":
                self.transfers.referred(dialog, context.side, request)
        elif context.subscribed and 200 <= status < 300 and branch.transaction is not None:
            host = branch.transaction.hop.host
            self.subscriptions.response(context.dlg_id, context.side, request, response, host, branch.target)

    def _answered(self, call: Call, response: SipResponse, branch: Branch) -> None:
        call.to_tag = response.to_tag
        call.response = response
        call.answer_wall = call.wall(self.clock.now())
        call.state = "confirmed"
        self._unanswered.remove(call.dlg_id)
        found = [dialog for dialog in self.dialogs.of(call) if dialog.callee_tag == call.to_tag]
        if found:
            self.media.take(found[0])
            self.parties.taken(found[0])
        self._bind_media(call, branch.via_branch)
        self.counters["answered"] += 1
        self.observers.tell("call_answered", call)

    def _bind_media(self, call: Call, via_branch: str = "") -> None:
        session = call.media_session
        if session is not None:
            call.media_session = type(session)(call.call_id, call.from_tag, call.to_tag, via_branch)

    def refused(self, context: ResponseContext, response: SipResponse) -> None:
        """A final response that is no 2xx has been sent."""
        call, dialog = context.call, context.dialog
        if call is not None:
            reason = "cancelled" if context.cancelled else str(response.status)
            self.end_call(call, reason, response)
        elif dialog is not None:
            if context.base.method == "BYE":
                self.dialogs.bye_answered(dialog, context.transaction.request, context.side, response.status)
            elif (offer := self.dialogs.refused(dialog, context.side, context.base)) is not None:
                self.media.rolled_back(dialog, offer)
            self.midcall.settled(dialog, context.side, context.base.cseq.number)

    def context_ended(self, context: ResponseContext) -> None:
        """The server transaction has ended."""
        call = context.call
        if call is not None:
            self.dialogs.end_early(call, call.to_tag)
            if call.state == "early":
                self.end_call(call, "abandoned")

    # -- calls ---------------------------------------------------------------------------------------------------------

    def _new_call(self, context: ResponseContext) -> Call:
        transaction = context.transaction
        source, limit = transaction.source, self.options.max_unanswered
        bounded = limit > 0 and not self.is_trusted(source)
        if bounded and self._unanswered.count(source.host) >= limit:
            self.counters["max_unanswered"] += 1
            self._unanswered.tell(source.host, f"{limit} unanswered calls: refused (max_unanswered)")
            raise SipError("Too Many Unanswered Calls", 503, (("Retry-After", "10"),))
        clock = self.clock
        call = Call(self.cookies.new_id(), transaction.request, str(transaction.source), clock.wall(), clock.now())
        call.recorder = self.recorder
        call.settings = self.settings() if self.settings is not None else None
        call.relations = self.transfers.relations(transaction.request)
        self.calls[call.dlg_id] = call
        if bounded:
            self._unanswered.add(call.dlg_id, source.host)
        context.key = call.dlg_id
        context.caller_flow = _sender(transaction.request, transaction.source)
        context.watch()
        self.observers.tell("call_created", call)
        return call

    def _dialog_ended(self, dialog: ProxiedDialog, reason: str, message: SipMessage | None, side: str) -> None:
        call = dialog.call
        if call.state != "confirmed" or dialog.callee_tag != call.to_tag:
            return
        left = [other for other in self.dialogs.of(call) if other.state == "confirmed"]
        if left:
            # Two answered (a fork) and the caller has kept the other one.
            call.to_tag = left[0].callee_tag
            self.media.take(left[0])
            self.parties.taken(left[0])
            self._bind_media(call)
            self.observers.tell("call_media_changed", call, "callee")
            self.media.settle(left[0])
            return
        self.end_call(call, reason, message, side)

    def end_call(self, call: Call, reason: str, message: SipMessage | None = None, side: str = "") -> None:
        """The call is over; everything of it goes."""
        if call.state == "terminated":
            return
        call.state = "terminated"
        self._unanswered.remove(call.dlg_id)
        call.end_wall = call.wall(self.clock.now())
        call.end_reason, call.end_message, call.end_side = reason, message, side
        for dialog in self.dialogs.of(call):
            self.dialogs.end(dialog, reason)
        if self.calls.pop(call.dlg_id, None) is not None:
            self.observers.tell("call_ended", call)
        self.media.release(call)
        call.relations = ()  # a chain of transfers holds no chain of calls

    def shutdown(self) -> None:
        """Let go of all calls; nothing is sent to the parties (DLG-09)."""
        for call in list(self.calls.values()):
            self.end_call(call, "shutdown")

    # -- stateless -----------------------------------------------------------------------------------------------------

    def _forward_ack(self, request: SipRequest, source: Hop) -> None:
        """Raises SipError: it leads nowhere."""
        check_request(request)
        check_forwarding(request)
        loop = loop_part(request)
        if has_looped(request, self.identity, loop):
            raise SipError("Loop Detected", 482)
        base = request.copy()
        _, cookie = preprocess(base, self.identity)
        dlg_id = self.cookies.check(cookie, request.call_id) if cookie else None
        found = self.dialogs.find(base, dlg_id or "")
        if found is None:
            over = self.dialogs.find_over(base, dlg_id or "")
            if over is not None:  # the 2xx came again and the call is over
                ended, side = over
                self._aim_at_peer(base, source, side, ended.peers, ended)
                count_hop(base)
                target = _peer(base, ended.flow.get(OTHER[side]), ended.peers[OTHER[side]].given_by)
                self._stateless(base, aim(base, target), loop, target)
                return
            before = dlg_id is not None and not self.cookies.is_issued(dlg_id)  # a restart
            if not before and (dlg_id is not None or not self.is_trusted(source)):
                raise SipError("no dialog", 481)
        else:
            self._aim_at_peer(base, source, found[1], found[0].peers, found[0])
        if self.identity.is_us(base.ruri) and not base.ruri.user and not base.has("route"):
            raise SipError("for ourselves, and nobody is waiting for it", 481)
        count_hop(base)
        if found is None:
            target = _peer(base, None, "" if self.is_trusted(source) else source.host)
            self._stateless(base, aim(base, target), loop, target)
            return
        dialog, side = found
        self._sent(dialog, side, base, request, source)
        target = _peer(base, dialog.flow.get(OTHER[side]), dialog.peers[OTHER[side]].given_by)
        next_hop = aim(base, target)

        def send() -> None:
            self.midcall.outgoing(dialog, side, base)
            self._stateless(base, next_hop, loop, target)
            self.parties.acknowledged(dialog, side, request)
            self.midcall.settled(dialog, side, request.cseq.number)

        self.media.ack_out(dialog, side, base, send)

    def _aim_at_peer(
        self,
        base: SipRequest,
        source: Hop,
        side: Side,
        peers: Peers,
        dialog: ProxiedDialog | EndedDialog | None = None,
    ) -> None:
        """See to it that a request of `side` goes to its peer in the dialog.

        A party that ignores Contact and Record-Route (SIPp's built-in scenarios do) sends to us what is for its peer:
        the dialog says where that is. The same is done when a Request-URI is nothing that the peer has signalled, but
        the sender's address is one that the sender has signalled. Trusted sources may relay anywhere.

        Raises:
            SipError: 403, Request-URI or Route lead out of the dialog; 400, malformed.
        """
        other = OTHER[side]
        trusted = self.is_trusted(source)
        if base.has("route") and not trusted and not peers[other].is_on_route(base, self.identity):
            raise SipError("Route leads out of the dialog", 403)
        if peers[other].is_target(base):
            return
        if dialog is not None and any(
            each[other].is_target(base) for each in self.dialogs.siblings(dialog.dlg_id, dialog.callee_tag)
        ):
            return
        contact = (dialog.contact.get(other) if dialog is not None else "") or peers[other].last
        known = peers[side].has_signalled(source.host)
        known = known or (dialog is not None and self._is_known(dialog, side, source))
        if contact and (known or self.identity.serves(base.ruri)):
            base.uri = contact
        elif not trusted:
            raise SipError("Request-URI leads out of the dialog", 403)

    def _stateless(self, request: SipRequest, next_hop: Uri, loop: str, target: Target | None = None) -> None:
        branch = f"{self.layer.new_branch()}-{loop}"

        def found(result: list[Hop] | SipError) -> None:
            if not isinstance(result, SipError) and result:
                self.layer.send_stateless(request, result[0], add_via=branch)

        def by_name(reason: str = "") -> None:
            given_by = target.given_by if target is not None else ""
            self.resolve_contact(next_hop, given_by, found, by_route=request.has("route"))

        if target is not None and target.flow is not None:
            # As in `Branch`: a connection may be gone.
            failed = None if target.only_flow else by_name
            self.layer.send_stateless(request.copy(), target.flow, add_via=branch, failed=failed)
        else:
            by_name()


def _peer(base: SipRequest, flow: Hop | None, given_by: str) -> Target:
    """The target of a request within a dialog: its Route, else the way to the peer whose Contact `given_by` gave us."""
    if base.has("route"):
        return Target(base.ruri, given_by=given_by)
    stranger = flow is not None and given_by not in ("", TRUSTED)
    inside = stranger and place(base.ruri, Hop("", given_by, 0)) == "inside"
    return Target(base.ruri, flow=flow, given_by=given_by, only_flow=inside)


def _phrase(error: SipError) -> str:
    return error.reason[:80] if error.reason.isprintable() else ""


def _sender(request: SipRequest, source: Hop) -> Hop | None:
    try:
        return flow_of(request, request.contact, source)
    except SipError:
        return None


__all__ = ["ALLOW", "OTHER", "ProxyCore", "ProxyOptions", "Side"]
