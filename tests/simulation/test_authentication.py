"""Passwords demanded by rules: who is asked, how, and what goes no further."""

from __future__ import annotations

from typing import Any

import pytest

from siprec import NotAuthenticated, Request
from siprec.proxy.authentication import Authentication
from siprec.proxy.options import ProxyOptions
from siprec.proxy.registrar import Registrar
from siprec.proxy.routes import RouteRule, Rules
from siprec.proxy.script import Script
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


# -- scripts -----------------------------------------------------------------------------------------------------------


def scripted(handler: Any, *rules: RouteRule, **options: Any) -> ProxyWorld:
    w = world(*rules, **options)
    w.core.script = Script({"request": handler, "in_dialog": handler})
    return w


@pytest.mark.parametrize("credentials", [None, CredentialStore([Credentials("alice", "guess")]), ALICE])
def test_a_script_goes_on_with_the_user_or_ends_there(credentials: CredentialStore | None) -> None:
    users: list[str] = []
    went_on: list[str] = []

    async def handler(request: Request) -> None:
        if request.has_call and request.call.state == "early":
            try:
                users.append(await request.authenticate())
            finally:
                went_on.append(request.method)
            request.forward("sip:10.0.0.2")

    w = scripted(handler)
    w.call("sip:123@example.com", credentials=credentials)
    w.clock.run_for(1)
    if credentials is ALICE:
        assert (users, went_on) == (["alice"], ["INVITE"] * 2)
        assert w.journal.events[-1] == "answered"
        assert not parse_datagram(w.sent("INVITE", "10.0.0.2")[0].data).has("proxy-authorization")
        hang_up(w)
    else:
        assert users == []
        assert w.journal.events[-1] == "ended 407"
        assert not w.sent("INVITE", "10.0.0.2")
        w.finish()
    assert w.core.counters["script_errors"] == 0


def test_a_script_may_ask_with_other_users_realm_algorithms_and_status() -> None:
    async def handler(request: Request) -> None:
        user = await request.authenticate("lab", {"carol": "hers"}, ["SHA-256", "MD5"], proxy=False)
        assert user == await request.authenticate("lab", {"carol": "hers"}, ["SHA-256", "MD5"], proxy=False)
        request.reply(486, headers=[("X-User", user)])

    w = scripted(handler, users={})
    w.call("sip:123@example.com", credentials=CredentialStore([Credentials("carol", "hers", "lab")]))
    w.clock.run_for(1)
    found = challenges(w, "www-authenticate")
    assert [(each.get("realm"), each.algorithm) for each in found] == [("lab", "SHA-256"), ("lab", "MD5")]
    assert parse_datagram(w.sent("SIP/2.0 486")[0].data).get("x-user") == "carol"
    w.finish()


def test_one_answer_serves_a_rule_and_the_script_after_it() -> None:
    async def handler(request: Request) -> None:
        if request.call.state == "early":
            assert await request.authenticate() == "alice"
            with pytest.raises(NotAuthenticated):
                await request.authenticate(users={"bob": "his"})
            assert request.handled

    w = scripted(handler, RouteRule(authenticated=True, record="main"))
    w.call("sip:123@example.com", credentials=ALICE)
    w.clock.run_for(1)
    assert w.journal.events == ["created", "ended 407", "created", "ended 407"]
    w.finish()


def test_an_answer_that_a_rule_has_taken_still_serves_where_the_script_looks_elsewhere() -> None:
    async def handler(request: Request) -> None:
        assert await request.authenticate(users={"alice": "secret"}) == "alice"
        request.reply(486)

    w = scripted(handler, RouteRule(authenticated=True, record="main"))
    w.call("sip:123@example.com", credentials=ALICE)
    w.clock.run_for(1)
    assert w.journal.events == ["created", "ended 407", "created", "ended 486"]
    w.finish()


def test_a_request_within_a_dialog_may_be_asked_as_well() -> None:
    async def handler(request: Request) -> None:
        if request.method == "INFO":
            await request.authenticate()

    w = scripted(handler, RouteRule(method="INVITE", targets=["sip:10.0.0.2"]))
    call = w.call("sip:123@example.com", credentials=ALICE)
    w.clock.run_for(1)
    call.request("INFO")
    w.clock.run_for(1)
    assert [sent.line.split()[1] for sent in w.sent("SIP/2.0 4", "10.0.0.1")] == ["407"]
    (info,) = w.sent("INFO", "10.0.0.2")
    assert not parse_datagram(info.data).has("proxy-authorization")
    hang_up(w)


@pytest.mark.parametrize(
    ("arguments", "users", "message"),
    [
        ({}, {}, "needs users"),
        ({"users": {}}, {"a": "b"}, "needs users"),
        ({"algorithms": ["ROT13"]}, {"a": "b"}, "unsupported 'ROT13'"),
        ({"realm": 'x"\r\nEvil: yes'}, {"a": "b"}, "line end"),
    ],
)
def test_what_authenticate_cannot_do_is_named_and_refused(
    arguments: dict[str, Any], users: dict[str, str], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(request: Request) -> None:
        await request.authenticate(**arguments)

    w = scripted(handler, users=users)
    w.call("sip:123@example.com", credentials=ALICE)
    w.clock.run_for(1)
    assert w.journal.events == ["created", "ended 500"]
    assert message in caplog.text
    w.finish()


def sdp(*lines: str) -> bytes:
    head = ["v=0", "o=- 1 1 IN IP4 192.0.2.1", "s=-", "c=IN IP4 192.0.2.1", "t=0 0"]
    return "".join(f"{line}\r\n" for line in [*head, *lines]).encode()


AUDIO, VIDEO = "m=audio 4000 RTP/AVP 0", "m=video 4002 RTP/AVP 96"


@pytest.mark.parametrize(
    ("body", "held"),
    [
        (sdp(AUDIO), False),
        (sdp(AUDIO, "a=recvonly"), False),
        (sdp(AUDIO, "a=sendonly"), True),
        (sdp(AUDIO, "a=inactive"), True),
        (sdp("a=sendonly", AUDIO), True),
        (sdp("a=inactive", AUDIO, "a=sendrecv"), False),
        (sdp(AUDIO, "c=IN IP4 0.0.0.0"), True),
        (sdp(AUDIO, "c=IN IP6 ::"), True),
        (sdp(AUDIO, "c=IN IP6 hold.invalid"), True),
        (sdp(AUDIO).replace(b"c=IN IP4 192.0.2.1", b"c=IN IP4 0.0.0.0"), True),
        (sdp(AUDIO, VIDEO, "a=inactive"), False),
        (sdp(AUDIO, AUDIO, "a=sendonly"), True),
        (sdp("m=audio 0 RTP/AVP 0", "a=inactive", AUDIO), False),
        (b"nonsense", False),
        (b"", False),
    ],
)
def test_a_script_can_tell_whether_audio_is_on_hold(body: bytes, held: bool) -> None:
    found: list[bool] = []

    async def handler(request: Request) -> None:
        found.append(request.is_audio_on_hold())
        request.reply(486)

    w = scripted(handler)
    w.call("sip:bob@example.com", body)
    w.clock.run_for(1)
    assert found == [held]
    w.finish()
