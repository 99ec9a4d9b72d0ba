"""What becomes of a request whose handler in the routing script has failed (``on_script_error``).

``reject`` answers 500. ``route`` lets the request go where it would go without the script, but gives its sender no more
than that: it reaches a user who is registered here, or what a rule decides that says by ``source`` or ``authenticated``
whom it is for; anything else is 500. After the script has asked for a password, every failure is 500.
"""

from __future__ import annotations

from siprec.proxy.authentication import strip_credentials
from siprec.proxy.forward import preprocess
from siprec.proxy.response_context import ResponseContext
from siprec.proxy.routes import Target
from siprec.proxy.routing import Routing
from siprec.sip.errors import SipError


def handler_failed(
    routing: Routing, context: ResponseContext, target: Target | None, *, decided: bool, asked: bool
) -> None:
    """A handler has raised. `target`: where a request within a dialog was to go; `decided`: the handler had forwarded
    or answered it already; `asked`: it had called ``authenticate``."""
    if context.final or context.cancelled:
        return
    if asked or routing.core.on_script_error == "reject":
        context.fail(500)
        routing.core.run(context)
        return
    if decided:
        return  # it goes the way the script has sent it
    try:
        if target is not None:
            routing.forward(context, [[target]])
        else:
            _without_script(routing, context)
    except SipError as error:
        routing.core.refuse(context, error)


def _without_script(routing: Routing, context: ResponseContext) -> None:
    core = routing.core
    # As it was before the script began to change it.
    base = context.transaction.request.copy()
    preprocess(base, core.identity)
    if context.authenticated is not None:
        strip_credentials(base, context.authenticated.realm)
    context.base = base
    registrar = core.registrar if core.identity.serves(base.ruri) and "route" not in base.keys else None
    if registrar is not None and (base.method == "REGISTER" or registrar.lookup(base.ruri)):
        routing.to_registered(context)
        return
    decision = routing.decide(context, guarded=True)
    if decision.rule is not None:
        routing.obey(context, decision.rule)
        return
    context.fail(500)
    core.run(context)
