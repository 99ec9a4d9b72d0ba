"""A handler of the routing script fails: the call goes on where it may, and nobody gets more than without it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from siprec import Request
from siprec.proxy.authentication import Authentication
from siprec.proxy.options import ProxyOptions
from siprec.proxy.registrar import Registrar
from siprec.proxy.routes import RouteRule, Rules
from siprec.proxy.script import Script
from siprec.sip.digest import Credentials, CredentialStore
from siprec.sip.message import parse_datagram
from siprec.sip.transport import Hop
from tests.simulation.proxyworld import ProxyWorld, raw_request

ALICE = CredentialStore([Credentials("alice", "secret")])


async def broken(request: Request) -> None:
    raise ZeroDivisionError


def world(*rules: RouteRule, trusted: tuple[str, ...] = (), policy: Any = "route", **handlers: Any) -> ProxyWorld:
    options = ProxyOptions(trusted=trusted, on_script_error=policy)
    w = ProxyWorld(rules=Rules(rules), options=options, script=Script(handlers or {"on_invite": broken}))
    w.core.authentication = Authentication(w.clock, "example.com", {"alice": "secret", "bob": "other"})
    w.core.registrar = Registrar(w.clock, w.identity, authentication=w.core.authentication)
    register = raw_request("REGISTER", "sip:example.com", contact="<sip:bob@10.0.0.2>", to="<sip:bob@example.com>")
    w.core.registrar._register(register, Hop("udp", "10.0.0.2", 5060), "bob", False)
    return w


def statuses(w: ProxyWorld) -> list[str]:
    return [sent.line.split()[1] for sent in w.sent("SIP/2.0", "10.0.0.1")]


def hang_up(w: ProxyWorld) -> None:
    for call in w.alice.agent.calls():
        call.bye()
    w.clock.run_for(1)


def test_a_registered_user_is_reached_recorded_as_the_rules_say_and_as_it_was_sent() -> None:
    async def half(request: Request) -> None:
        request.set_header("X-Half", "done")
        request.uri = "sip:+49900123@10.0.0.9"
        raise KeyError("customer")

    w = world(RouteRule(record="main"), on_invite=half)
    w.call("sip:bob@example.com")
    w.clock.run_for(1)
    assert w.journal.events == ["created", "answered"]
    assert w.journal.calls[0].recordings == ["main"]
    forwarded = parse_datagram(w.sent("INVITE", "10.0.0.2")[0].data)
    assert not forwarded.has("x-half")
    assert w.core.counters["script_errors"] == 1
    hang_up(w)


@pytest.mark.parametrize("uri", ["sip:nobody@example.com", "sip:alice@example.com", "sip:bob@10.0.0.2", "tel:+49900"])
@pytest.mark.parametrize("trusted", [(), ("10.0.0.0/8",)])
def test_anything_else_is_refused(uri: str, trusted: tuple[str, ...]) -> None:
    w = world(trusted=trusted)
    w.call(uri)
    w.clock.run_for(1)
    assert statuses(w) == ["100", "500"]
    assert not w.sent("INVITE", "10.0.0.2")


def reloaded(*rules: RouteRule) -> ProxyWorld:
    """The rules came while the handler was at work, so that they have not been asked."""

    async def on_invite(request: Request) -> None:
        w.core.rules = Rules(rules)
        raise ZeroDivisionError

    w = world(on_invite=on_invite)
    return w


def test_rules_that_say_whom_they_are_for_still_hold() -> None:
    w = reloaded(RouteRule(source="10.0.0.1", targets=["sip:10.0.0.2"], record="main"))
    w.call("sip:123@example.com")
    w.clock.run_for(1)
    assert w.journal.events == ["created", "answered"]
    hang_up(w)


@pytest.mark.parametrize(
    "rule",
    [
        RouteRule(targets=["sip:10.0.0.2"]),
        RouteRule(relay=True),
        RouteRule(source="10.0.0.77", targets=["sip:10.0.0.2"]),
    ],
)
def test_rules_for_everybody_or_for_others_do_not(rule: RouteRule) -> None:
    w = reloaded(rule)
    w.call("sip:123@10.0.0.2")
    w.clock.run_for(1)
    assert statuses(w) == ["100", "500"]
    assert not w.sent("INVITE", "10.0.0.2")


def test_a_rule_that_wants_a_password_asks_for_it() -> None:
    w = reloaded(RouteRule(authenticated=True, targets=["sip:10.0.0.2"]))
    w.call("sip:123@example.com")
    w.clock.run_for(1)
    assert statuses(w) == ["100", "407"]
    assert not w.sent("INVITE", "10.0.0.2")


def test_by_policy_every_failure_is_refused() -> None:
    w = world(policy="reject")
    w.call("sip:bob@example.com")
    w.clock.run_for(1)
    assert statuses(w) == ["100", "500"]


async def before(request: Request) -> None:
    await request.authenticate()
    raise ZeroDivisionError


async def after_forwarding(request: Request) -> None:
    await request.authenticate()
    request.forward("sip:10.0.0.2")
    raise ZeroDivisionError


async def caught(request: Request) -> None:
    try:
        await request.authenticate()
    except Exception:
        raise ZeroDivisionError from None


@pytest.mark.parametrize(
    ("handler", "credentials", "status"),
    [
        (before, ALICE, "500"),
        (before, None, "407"),
        (after_forwarding, ALICE, "500"),
        (after_forwarding, None, "407"),
        (caught, None, "407"),
        (caught, CredentialStore([Credentials("alice", "guess")]), "407"),
    ],
)
def test_after_a_password_was_asked_for_every_failure_is_refused(
    handler: Callable[[Request], Awaitable[None]], credentials: CredentialStore | None, status: str
) -> None:
    w = world(on_invite=handler)
    w.call("sip:bob@example.com", credentials=credentials)
    w.clock.run_for(1)
    assert statuses(w)[-1] == status
    assert "answered" not in w.journal.events


def test_what_was_forwarded_before_the_failure_stays_so() -> None:
    async def late(request: Request) -> None:
        request.forward("sip:10.0.0.2")
        raise ZeroDivisionError

    w = world(on_invite=late)
    w.call("sip:123@example.com")
    w.clock.run_for(1)
    assert w.journal.events == ["created", "answered"]
    hang_up(w)


@pytest.mark.parametrize(("policy", "events"), [("route", ["created", "answered", "ended bye"]), ("reject", None)])
def test_a_failure_within_a_dialog_does_not_keep_the_call_up(policy: str, events: list[str] | None) -> None:
    async def in_dialog(request: Request) -> None:
        raise ZeroDivisionError

    w = world(policy=policy, in_dialog=in_dialog)
    w.call("sip:bob@example.com")
    w.clock.run_for(1)
    hang_up(w)
    assert len(w.sent("BYE", "10.0.0.2")) == (policy == "route")
    if events is not None:
        assert w.journal.events == events


def test_registrations_go_to_the_registrar_with_their_password() -> None:
    w = world(request=broken)
    answers: list[Any] = []
    for store in (None, ALICE):
        request = raw_request("REGISTER", "sip:example.com", to="<sip:alice@example.com>", via="", call_id="", cseq="")
        w.alice.agent.request(request, request.ruri, answers.append, credentials=store)
        w.clock.run_for(1)
    assert [answer.status for answer in answers] == [401, 200]


def test_credentials_of_an_earlier_rule_do_not_go_on_either() -> None:
    w = world(RouteRule(authenticated=True, record="main"))
    w.call("sip:bob@example.com", credentials=ALICE)
    w.clock.run_for(1)
    assert w.journal.events[-1] == "answered"
    assert not parse_datagram(w.sent("INVITE", "10.0.0.2")[0].data).has("proxy-authorization")
    hang_up(w)


async def hangs(request: Request) -> None:
    await asyncio.Event().wait()


async def run_for(w: ProxyWorld, seconds: float) -> None:
    """Virtual time goes by, and the tasks of the handlers run."""
    await asyncio.sleep(0)
    w.clock.run_for(seconds)
    for _ in range(5):
        await asyncio.sleep(0)
    w.clock.run_for(1)


@pytest.mark.parametrize(("policy", "last"), [("route", "200"), ("reject", "500")])
def test_a_handler_that_hangs_has_failed_when_a_call_has_waited_for_timer_c(policy: str, last: str) -> None:
    async def main() -> None:
        w = world(policy=policy, on_invite=hangs)
        w.core.timer_c = 100.0
        w.call("sip:bob@example.com")
        await run_for(w, 90)
        assert statuses(w) == ["100"]
        await run_for(w, 20)
        assert statuses(w)[-1] == last
        assert w.core.script is not None
        assert w.core.script.tasks == 0

    asyncio.run(main())


def test_a_handler_that_hangs_does_not_keep_the_call_up() -> None:
    async def main() -> None:
        w = world(in_dialog=hangs)
        w.call("sip:bob@example.com")
        w.clock.run_for(1)
        hang_up(w)
        assert not w.sent("BYE", "10.0.0.2")
        await run_for(w, 20)
        assert w.journal.events == ["created", "answered", "ended bye"]

    asyncio.run(main())


def test_a_handler_that_decides_late_or_waits_for_the_outcome_has_not_failed() -> None:
    async def main() -> None:
        gate, outcome = asyncio.Event(), []

        async def late(request: Request) -> None:
            await gate.wait()
            outcome.append((await request.forward("sip:10.0.0.9")).status)

        w = world(on_invite=late)
        w.call("sip:bob@example.com")
        w.core.timer_c = 100.0
        await run_for(w, 90)
        gate.set()
        await run_for(w, 1)
        await run_for(w, 50)
        assert outcome == [408]
        assert w.core.counters["script_errors"] == 0

    asyncio.run(main())
