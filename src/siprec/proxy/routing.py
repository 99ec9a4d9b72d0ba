"""Where a request outside a dialog goes: what rules say, then the script, then what is sensible (RFC 3261 16.5)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final, Literal, Protocol

from siprec.proxy import session_timer
from siprec.proxy.actions import by_preference, our_tag
from siprec.proxy.authentication import Authenticated, Authentication, Users, strip_credentials
from siprec.proxy.calls import Calls
from siprec.proxy.passes import Passes
from siprec.proxy.protocols import Proxy
from siprec.proxy.registrar import Registrar
from siprec.proxy.response_context import ResponseContext
from siprec.proxy.routes import CompiledRule, Decision, Rules, Target
from siprec.sip.errors import SipError
from siprec.sip.message import SipRequest
from siprec.sip.transport import Hop

ALLOW: Final = (
    "INVITE, ACK, CANCEL, BYE, OPTIONS, REGISTER, UPDATE, PRACK, INFO, MESSAGE, SUBSCRIBE, NOTIFY, REFER, PUBLISH"
)


class ScriptHandler(Protocol):
    """A routing script, as far as it is asked here."""

    def outside(self, routing: Routing, context: ResponseContext) -> None:
        """A request outside a dialog."""
        ...

    def in_dialog(self, routing: Routing, context: ResponseContext, target: Target) -> None:
        """A request within a dialog, which is to go to `target`."""
        ...


class RoutingProxy(Proxy, Protocol):
    """What routing uses of the proxy besides."""

    registrar: Registrar | None
    rules: Rules
    authentication: Authentication | None
    passes: Passes
    timer_c: float

    @property
    def call_states(self) -> Calls: ...

    @property
    def script(self) -> ScriptHandler | None: ...

    @property
    def on_script_error(self) -> Literal["route", "reject"]: ...

    @property
    def relay_authenticated(self) -> bool: ...

    @property
    def max_passes(self) -> int: ...

    def watch(self, context: ResponseContext) -> None: ...

    def refuse(self, context: ResponseContext, error: SipError) -> None: ...

    def limit_reached(self, limit: str, text: str, request: SipRequest, source: Hop) -> None: ...


class Routing:
    """Of one proxy."""

    def __init__(self, core: RoutingProxy) -> None:
        self.core = core

    def outside(self, context: ResponseContext, flow: Hop | None) -> None:
        """A request outside a dialog; `flow` is the way back to its sender, if not by its Contact.

        Raises:
            SipError: it goes nowhere.
        """
        core, request, source = self.core, context.base, context.transaction.source
        uri, routed = request.ruri, "route" in request.keys
        if routed and not core.is_trusted(source):
            raise SipError("Relaying denied", 403)  # rules, script and registrar are not asked: nobody relays by Route
        if request.method == "OPTIONS" and uri.user is None and not routed and core.identity.is_us(uri):
            context.transaction.respond(
                request.response(
                    200, to_tag=our_tag(context.transaction), headers=[("Allow", ALLOW), ("Accept", "*/*")]
                )
            )
            return
        script = core.script
        call = None
        if context.is_invite:
            call = core.call_states.begin(context)
            context.caller_flow = flow
            core.watch(context)
            core.observers.tell("call_created", call)
        elif script is not None:
            core.watch(context)
        decision = self.decide(context)
        if call is not None:
            call.recordings += decision.record
            call.wanted_by = decision.record_by
            call.media_use = decision.media
            call.media_set = decision.media_set
            call.transport_protocol = decision.transport_protocol
            call.media_flags = decision.media_flags
        if decision.rule is not None:
            self.obey(context, decision.rule)
        elif script is not None:
            script.outside(self, context)
        else:
            self.default_route(context)

    def decide(self, context: ResponseContext, *, guarded: bool = False) -> Decision:
        """What the rules say of a request outside a dialog (see `Rules.decide`).

        Raises:
            SipError: malformed Request-URI; 401 or 407, a rule wants a password.
        """
        rules = self.core.rules
        asker = partial(self._by_password, context) if rules.authenticate else None
        return rules.decide(context.base, context.transaction.source, asker, guarded=guarded)

    def _by_password(self, context: ResponseContext, algorithms: Sequence[str]) -> str:
        return self.authenticate(context, algorithms=algorithms)

    def obey(self, context: ResponseContext, decided: CompiledRule) -> None:
        """Do what a rule says.

        Raises:
            SipError: see :meth:`to_registered` and :meth:`start`.
        """
        rule = decided.rule
        if rule.reply:
            context.fail(rule.reply, rule.reason)
            self.core.run(context)
        elif rule.registrar:
            self.to_registered(context)
        elif rule.relay:
            self.start(context, [[Target(context.base.ruri)]])
        else:
            self.start(context, decided.groups(context.base, self.core.random))

    def default_route(self, context: ResponseContext) -> None:
        """What becomes of a request that no rule and no script has decided about.

        Raises:
            SipError: 403, 404, 407 or 480.
        """
        core, request, source = self.core, context.base, context.transaction.source
        if core.identity.serves(request.ruri) and "route" not in request.keys:
            self.to_registered(context)
            return
        if not core.is_trusted(source):
            if not core.relay_authenticated:
                raise SipError("Relaying denied", 403)
            self.authenticate(context)  # RFC 3261 16.3 step 6
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
        authentication = self.core.authentication
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
        """REGISTER to the registrar, anything else to the contacts of the Request-URI (RFC 3261 10, 16.5).

        Raises:
            SipError: 404 or 480.
        """
        core = self.core
        registrar = core.registrar
        if registrar is None:
            raise SipError("Not Found", 404)
        if context.base.method == "REGISTER":
            known, source = context.authenticated, context.transaction.source
            same = known is not None and known.users is None and registrar.authentication is core.authentication
            username = known.user if known is not None and same else ""
            registrar.register(context.transaction, username, trusted=core.is_trusted(source))
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
        self.count_pass(context)
        seconds = self.core.session_expires
        if seconds and context.call is not None:
            session_timer.ask(context.base, seconds)
        self.forward(context, groups)

    def forward(self, context: ResponseContext, groups: list[list[Target]]) -> None:
        """Forward any request. Raises SipError: see :meth:`ResponseContext.start`."""
        self.core.watch(context)
        context.start(groups)
        self.core.run(context)

    def count_pass(self, context: ResponseContext) -> None:
        """Raises SipError: 482, the Call-ID has passed too often."""
        core = self.core
        passes, limit = core.passes.count(context.base), core.max_passes
        if passes > limit:
            if passes == limit + 1:
                source = context.transaction.source
                core.limit_reached("max_passes", f"more than {limit} passes", context.base, source)
            raise SipError("Loop Detected", 482)
