"""Passwords demanded by rules: who is asked, how, and what goes no further."""

from __future__ import annotations

from typing import Any

import pytest

from siprec.proxy.authentication import Authentication
from siprec.proxy.core import ProxyOptions
from siprec.proxy.registrar import Registrar
from siprec.proxy.routes import RouteRule, Rules
from siprec.sip.digest import AuthValue, Credentials, CredentialStore, hash_password
from siprec.sip.message import SipRequest, SipResponse, parse_datagram
from tests.simulation.proxyworld import ProxyWorld

ALICE = CredentialStore([Credentials("alice", "secret")])
CARRIER = RouteRule(method="INVITE", user=r"\d+", authenticated=True, targets=["sip:10.0.0.2"])


def world(*rules: RouteRule, users: dict[str, Any] | None = None, **options: Any) -> ProxyWorld:
    w = ProxyWorld(rules=Rules(rules), options=ProxyOptions(trusted=[]))
    table = {"alice": "secret", "eve": "evil"} if users is None else users
    w.core.authentication = Authentication(w.clock, "example.com", table, **options)
    w.core.registrar = Registrar(w.clock, w.identity, authentication=w.core.authentication)
    return w


def challenges(w: ProxyWorld, name: str = "proxy-authenticate") -> list[AuthValue]:
    """Those of the first response with any."""
    for sent in w.sent("SIP/2.0 40", "10.0.0.1"):
        found = parse_datagram(sent.data).get_all(name)
        if found:
            return [AuthValue.parse(value) for value in found]
    return []


def hang_up(w: ProxyWorld) -> None:
    w.alice.agent.calls()[0].bye()
    w.finish()


def test_a_rule_that_wants_a_password_asks_for_it_and_forwards_without() -> None:
    w = world(CARRIER)
    w.call("sip:123@example.com", credentials=ALICE)
    w.clock.run_for(1)
    assert w.journal.events == ["created", "ended 407", "created", "answered"]
    (challenge,) = challenges(w)
    assert (challenge.get("realm"), challenge.algorithm, challenge.qop) == ("example.com", "MD5", ["auth"])
    (forwarded,) = w.sent("INVITE", "10.0.0.2")
    assert not parse_datagram(forwarded.data).has("proxy-authorization")
    hang_up(w)
    assert w.journal.events[-1] == "ended bye", "nothing within the dialog is challenged"


@pytest.mark.parametrize("credentials", [None, ("alice", "guess"), ("bob", ""), ("", ""), ("alice", "")])
def test_without_the_password_nothing_is_forwarded(credentials: tuple[str, str] | None) -> None:
    w = world(CARRIER)
    store = CredentialStore([Credentials(*credentials)]) if credentials else None
    w.call("sip:123@example.com", credentials=store)
    w.clock.run_for(60)
    assert set(w.journal.events) == {"created", "ended 407"}
    assert not w.sent("INVITE", "10.0.0.2")
    w.finish()


def test_nobody_is_asked_whom_another_rule_or_the_rest_of_this_one_tells_apart() -> None:
    w = world(RouteRule(user=r"\d+", source="10.0.0.1", targets=["sip:10.0.0.2"]), CARRIER)
    w.call("sip:123@example.com")
    w.clock.run_for(1)
    assert w.journal.events == ["created", "answered"]
    hang_up(w)
    w = world(CARRIER)
    w.call("sip:nobody@example.com")
    w.clock.run_for(1)
    assert w.journal.events == ["created", "ended 404"]
    assert challenges(w) == []
    w.finish()


def test_a_rule_that_only_records_may_want_a_password_too_and_one_answer_serves_both() -> None:
    w = world(RouteRule(authenticated=True, record="main"), CARRIER)
    w.call("sip:123@example.com", credentials=ALICE)
    w.clock.run_for(1)
    assert w.journal.events == ["created", "ended 407", "created", "answered"]
    assert w.journal.calls[-1].recordings == ["main"]
    hang_up(w)


def test_a_registration_that_a_rule_and_the_registrar_want_a_password_for_is_asked_once() -> None:
    w = world(RouteRule(method="REGISTER", authenticated=True, registrar=True))
    answers: list[SipResponse | str] = []
    for store in (ALICE, CredentialStore([Credentials("eve", "evil")])):
        request = SipRequest("REGISTER", "sip:example.com")
        for name in ("From", "To"):
            request.add(name, "<sip:alice@example.com>" + ";tag=r" * (name == "From"))
        w.alice.agent.request(request, request.ruri, answers.append, credentials=store)
        w.clock.run_for(1)
    assert [answer.status for answer in answers if isinstance(answer, SipResponse)] == [200, 403]
    (challenge,) = challenges(w, "www-authenticate")
    assert challenge.get("realm") == "example.com"
    assert len(w.sent("SIP/2.0 401")) == 2


def test_algorithms_are_offered_in_order_of_preference_and_a_rule_may_have_its_own() -> None:
    w = world(CARRIER, algorithms=["SHA-256", "MD5"])
    w.call("sip:123@example.com", credentials=ALICE)
    w.clock.run_for(1)
    assert [each.algorithm for each in challenges(w)] == ["SHA-256", "MD5"]
    assert w.journal.events[-1] == "answered"
    hang_up(w)
    only = RouteRule(user=r"\d+", authenticated=True, algorithms=["SHA-512-256"], targets=["sip:10.0.0.2"])
    w = world(only, algorithms=["MD5"])
    w.call("sip:123@example.com", credentials=ALICE)
    w.clock.run_for(1)
    assert [each.algorithm for each in challenges(w)] == ["SHA-512-256"]
    assert w.journal.events[-1] == "answered"
    hang_up(w)


def test_hashes_serve_as_well_as_passwords_and_none_means_no_entry() -> None:
    hashes = {"SHA-256": hash_password("SHA-256", "alice", "example.com", "secret")}
    w = world(CARRIER, users={"alice": hashes}, algorithms=["SHA-256"])
    w.call("sip:123@example.com", credentials=ALICE)
    w.clock.run_for(1)
    assert w.journal.events[-1] == "answered"
    hang_up(w)
    w = world(CARRIER, users={"alice": hashes}, algorithms=["MD5"])
    w.call("sip:123@example.com", credentials=ALICE)
    w.clock.run_for(1)
    assert w.journal.events[-1] == "ended 407"
    w.finish()


def test_without_users_a_rule_that_wants_a_password_lets_nobody_through() -> None:
    w = world(CARRIER, users={})
    w.call("sip:123@example.com", credentials=ALICE)
    w.clock.run_for(1)
    assert w.journal.events == ["created", "ended 403"]
    w.finish()


def test_credentials_for_others_are_forwarded() -> None:
    w = world(CARRIER)
    theirs = 'Digest username="a", realm="carrier", nonce="1", uri="sip:x", response="0"'
    w.call("sip:123@example.com", credentials=ALICE, headers=[("Proxy-Authorization", theirs)])
    w.clock.run_for(1)
    (forwarded,) = w.sent("INVITE", "10.0.0.2")
    assert parse_datagram(forwarded.data).get_all("proxy-authorization") == [theirs]
    hang_up(w)


def test_a_caller_that_gives_up_while_it_is_asked_leaves_nothing() -> None:
    w = world(CARRIER)
    call = w.call("sip:123@example.com", credentials=ALICE)
    call.cancel()
    w.finish()
    assert not w.sent("INVITE", "10.0.0.2")
