"""A call leaves no reference cycle: what it used is freed at its end, not when the garbage collector comes by."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable
from functools import partial
from types import FunctionType, MethodType

import pytest

from siprec.media.engine import MediaError, MediaServer
from siprec.proxy.call import Call
from siprec.proxy.options import ProxyOptions
from siprec.proxy.routes import RouteRule, Rules
from siprec.proxy.script import Script
from siprec.proxy.script_request import Reply, Request
from siprec.sip.useragent import OutgoingCall
from tests.simulation.phones import ANSWER, SDP
from tests.simulation.proxyworld import ProxyWorld, Relay
from tests.simulation.reference_call import ReferenceCall

ALWAYS = ProxyOptions(trusted=["10.0.0.0/8"], media_use="always", recurse=True)
B, C = "sip:10.0.0.2", "sip:10.0.0.3"


def garbage_of(run: Callable[[], None], room: str) -> Counter[str]:
    """The objects of a room of the product that only the garbage collector frees after `run`."""
    gc.collect()
    gc.disable()
    try:
        run()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        return Counter(name for name in map(_name, gc.garbage) if name.startswith(room))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def _name(thing: object) -> str:
    if isinstance(thing, partial):
        thing = thing.func
    if isinstance(thing, MethodType | FunctionType):
        return f"{thing.__module__}.{thing.__qualname__}"
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def world(*targets: str, parallel: bool = True, script: Script | None = None) -> ProxyWorld:
    rules = Rules([RouteRule(method="INVITE", targets=list(targets), fork=parallel)]) if targets else None
    return ProxyWorld(phones=3, relay=True, options=ALWAYS, rules=rules, script=script)


def hang_up(w: ProxyWorld, call: OutgoingCall) -> None:
    w.clock.run_for(1)
    call.bye()


def answered(w: ProxyWorld) -> None:
    hang_up(w, w.call())


def refused(w: ProxyWorld) -> None:
    w.bob.take = lambda call: call.answer(486)
    w.call()


def cancelled(w: ProxyWorld) -> None:
    w.bob.take = lambda call: call.answer(183, ANSWER)
    call = w.call()
    w.clock.run_for(1)
    call.bye()


def renegotiated(w: ProxyWorld) -> None:
    call = w.call()
    w.clock.run_for(1)
    for version in (b"2", b"3"):
        call.reinvite(SDP.replace(b"o=- 1 1", b"o=- 1 " + version))
        w.clock.run_for(1)
    w.bob.calls[-1].bye()


def without_an_answer_of_the_media_server(w: ProxyWorld) -> None:
    w.relay.silent.add("answer")
    hang_up(w, w.call())


def without_media_server(w: ProxyWorld) -> None:
    w.relay.fail.add("offer")
    hang_up(w, w.call())


def moved_to_another_media_server(w: ProxyWorld) -> None:
    other: MediaServer = Relay(w.clock)

    def trouble(call: Call, server: MediaServer, error: MediaError) -> MediaServer:
        return other

    call = w.call()
    w.clock.run_for(1)
    w.core.media.on_trouble = trouble
    w.core.media.pick = lambda call: other
    w.core.failover.move(w.journal.calls[-1], "it is lost", dead=True)
    w.clock.run_for(2)
    call.bye()


def nobody_answers(w: ProxyWorld) -> None:
    w.bob.take = lambda call: None
    w.call()


KINDS = [
    answered,
    refused,
    cancelled,
    renegotiated,
    without_an_answer_of_the_media_server,
    without_media_server,
    moved_to_another_media_server,
    nobody_answers,
]


def leaves_nothing(make: Callable[[], ProxyWorld], kind: Callable[[ProxyWorld], None]) -> None:
    w = make()

    def run() -> None:
        kind(w)
        w.clock.run_for(300)
        for call in w.alice.agent.calls():
            call.bye()
        w.clock.run_until_idle()
        w.journal.calls.clear()
        w.network.trace.clear()

    run()  # what is made once is there now
    found = garbage_of(run, "siprec.proxy.")
    assert not any(w.core.counts().values())
    assert not found, found


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_call_that_is_proxied_leaves_no_cycle(kind: Callable[[ProxyWorld], None]) -> None:
    leaves_nothing(world, kind)


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("kind", [answered, refused, cancelled, nobody_answers], ids=lambda kind: kind.__name__)
def test_a_call_that_forks_leaves_no_cycle(parallel: bool, kind: Callable[[ProxyWorld], None]) -> None:
    leaves_nothing(lambda: world(B, C, parallel=parallel), kind)


async def _route(request: Request) -> None:
    request.forward(B)


async def _reply(reply: Reply) -> None:
    if reply.status == 486:
        reply.forward(C)


@pytest.mark.parametrize("kind", [answered, refused, cancelled], ids=lambda kind: kind.__name__)
def test_a_call_that_a_script_routes_leaves_no_cycle(kind: Callable[[ProxyWorld], None]) -> None:
    leaves_nothing(lambda: world(script=Script({"request": _route, "reply": _reply})), kind)


def test_a_call_without_recording_leaves_nothing_to_the_garbage_collector() -> None:
    reference = ReferenceCall(recorded=False)
    for _ in range(3):
        reference.run()
    reference._pass(200)

    def run() -> None:
        reference.run()
        reference._pass(200)

    assert not garbage_of(run, "siprec.")
