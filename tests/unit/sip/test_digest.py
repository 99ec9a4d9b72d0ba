"""Digest authentication: published examples, both sides against each other, and attacks."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from siprec.sip.digest import (
    AuthValue,
    Credentials,
    CredentialStore,
    authorize,
    digest_response,
    hash_password,
    unanswered,
)
from siprec.sip.digest_server import DigestServer
from siprec.sip.message import SipRequest, SipResponse


class Time:
    """Wall and monotonic time set by the test."""

    def __init__(self) -> None:
        self.value = 1_700_000_000.0

    def now(self) -> float:
        return self.value

    def wall(self) -> float:
        return self.value

    def call_later(self, delay: float, callback: Callable[..., object], *args: object) -> Time:
        raise AssertionError("no timers here")

    def cancel(self) -> None:
        pass


def register(body: bytes = b"") -> SipRequest:
    return SipRequest("REGISTER", "sip:example.com", body=body)


def store(password: str = "zanzibar", realm: str = "") -> CredentialStore:
    numbers = itertools.count(1)
    return CredentialStore([Credentials("bob", password, realm)], cnonce=lambda: f"c{next(numbers)}")


def unauthorized(server: DigestServer, *, stale: bool = False) -> SipResponse:
    response = SipResponse(407 if server.proxy else 401)
    for name, value in server.challenge(stale=stale):
        response.add(name, value)
    return response


def users(name: str) -> str | None:
    return {"bob": "zanzibar"}.get(name)


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_examples_of_rfc_7616(algorithm: str, response: str) -> None:
    ha1 = hash_password(algorithm, "Mufasa", "http-auth@example.org", "Circle of Life")
    assert response == digest_response(
        algorithm,
        ha1,
        "GET",
        "/dir/index.html",
        "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
        qop="auth",
        nc="00000001",
        cnonce="f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
    )


def test_example_of_rfc_2069_without_qop() -> None:
    ha1 = hash_password("MD5", "Mufasa", "testrealm@host.com", "CircleOfLife")
    nonce = "dcd98b7102dd2f0e8b11d0f600bfb0c093"
    assert digest_response("MD5", ha1, "GET", "/dir/index.html", nonce) == "1949323746fe6a43ef61f9606e7febea"


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256", "SHA-512-256", "MD5-sess", "SHA-256-sess", "SHA-512-256-sess"])
@pytest.mark.parametrize("proxy", [True, False])
def test_client_and_server_agree(algorithm: str, proxy: bool) -> None:
    server = DigestServer(Time(), 'my "realm"', algorithms=[algorithm], proxy=proxy)
    request = register(b"body")
    assert server.verify(request, users).outcome == "absent"
    assert authorize(request, unauthorized(server), store())
    assert request.has("proxy-authorization") is proxy
    result = server.verify(request, users)
    assert (result.ok, result.username) == (True, "bob")


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256-sess"])
def test_integrity_of_the_body_is_protected_where_only_that_is_offered(algorithm: str) -> None:
    response = SipResponse(401)
    response.add("WWW-Authenticate", f'Digest realm="r", nonce="1", algorithm={algorithm}, qop="auth-int"')
    request = register(b"body")
    assert authorize(request, response, store())
    answer = AuthValue.parse(request.get("authorization") or "")
    ha1 = hash_password(algorithm, "bob", "r", "zanzibar")
    assert answer.qop == ["auth-int"]
    assert answer.get("response") == digest_response(
        algorithm, ha1, "REGISTER", "sip:example.com", "1", qop="auth-int", nc="00000001", cnonce="c1", body=b"body"
    )


def test_wrong_password_unknown_user_and_other_uri_are_denied() -> None:
    server = DigestServer(Time(), "example.com")
    request = register()
    assert authorize(request, unauthorized(server), store("guess"))
    assert server.verify(request, users).outcome == "denied"
    assert server.verify(request, lambda _: None).outcome == "denied"
    # An unknown user is not let in with an empty password either.
    empty = register()
    assert authorize(empty, unauthorized(server), store(""))
    assert server.verify(empty, lambda _: None).outcome == "denied"
    right = register()
    assert authorize(right, unauthorized(server), store())
    right.uri = "sip:elsewhere.example.com"
    assert server.verify(right, users).outcome == "denied"


def test_hashed_passwords_serve_and_missing_hash_denies() -> None:
    server = DigestServer(Time(), "example.com", algorithms=["SHA-256-sess"])
    hashed = {"sha-256": hash_password("SHA-256", "bob", "example.com", "zanzibar")}
    request = register()
    assert authorize(request, unauthorized(server), store())
    assert server.verify(request, lambda _: {"MD5": hashed["sha-256"]}).outcome == "denied"
    assert server.verify(request, lambda _: hashed).ok


@pytest.mark.parametrize("known", [{}, {"SHA-256": "0" * 64}, {"MD5": ""}])
def test_a_user_without_a_hash_for_the_algorithm_is_not_let_in_by_an_empty_one(known: dict[str, str]) -> None:
    server = DigestServer(Time(), "r", algorithms=["MD5"])
    challenge = AuthValue.parse(dict(server.challenge())["WWW-Authenticate"])
    params = {"username": "bob", "realm": "r", "nonce": challenge.get("nonce"), "uri": "sip:example.com"}
    params |= {"qop": "auth", "nc": "00000001", "cnonce": "c", "algorithm": "MD5"}
    params["response"] = digest_response(
        "MD5", "", "REGISTER", "sip:example.com", params["nonce"], qop="auth", nc="00000001", cnonce="c"
    )
    request = register()
    request.add("Authorization", str(AuthValue("Digest", params)))
    assert server.verify(request, lambda _: known).outcome == "denied"


def test_nonce_ages_and_the_stale_challenge_is_answered_once_more() -> None:
    time = Time()
    server = DigestServer(time, "example.com", lifetime=60)
    request = register()
    credentials = store()
    assert authorize(request, unauthorized(server), credentials)
    time.value += 61
    assert server.verify(request, users).outcome == "stale"
    assert authorize(request, unauthorized(server, stale=True), credentials)
    assert server.verify(request, users).ok
    assert len(request.get_all("authorization")) == 1
    assert not authorize(request, unauthorized(server), credentials)  # refused: no endless loop


def test_foreign_and_forged_nonces_are_stale_only_with_the_right_password() -> None:
    time = Time()
    mine, other = DigestServer(time, "r"), DigestServer(time, "r")
    request = register()
    assert authorize(request, unauthorized(other), store())
    assert mine.verify(request, users).outcome == "stale"
    guess = register()
    assert authorize(guess, unauthorized(other), store("guess"))
    assert mine.verify(guess, users).outcome == "denied"


def test_replay_is_refused_but_reordering_is_not() -> None:
    server = DigestServer(Time(), "r")
    challenge, credentials = unauthorized(server), store()
    requests = [register() for _ in range(4)]
    for request in requests:
        assert authorize(request, challenge, credentials)
    nc = [AuthValue.parse(request.get("authorization") or "").get("nc") for request in requests]
    assert nc == ["00000001", "00000002", "00000003", "00000004"]
    order = [requests[i] for i in (0, 3, 1, 2)]
    assert [server.verify(request, users).outcome for request in order] == ["ok"] * 4
    assert [server.verify(request, users).outcome for request in requests] == ["stale"] * 4


def test_memory_of_used_nonces_is_bounded_and_forgets_safely() -> None:
    time = Time()
    server = DigestServer(time, "r", max_nonces=3)
    requests = []
    for _ in range(10):
        request = register()
        assert authorize(request, unauthorized(server), store())
        assert server.verify(request, users).ok
        requests.append(request)
        time.value += 1
    assert len(server._used) == 3
    assert {server.verify(request, users).outcome for request in requests} == {"stale"}


def test_credentials_without_qop_are_refused_since_every_challenge_asks_for_it() -> None:
    server = DigestServer(Time(), "r", algorithms=["SHA-256", "MD5"])
    challenges = [AuthValue.parse(value) for _, value in server.challenge()]
    assert [(each.algorithm, each.qop) for each in challenges] == [("SHA-256", ["auth"]), ("MD5", ["auth"])]
    nonce = challenges[0].get("nonce")
    ha1 = hash_password("MD5", "bob", "r", "zanzibar")
    params = {"username": "bob", "realm": "r", "nonce": nonce, "uri": "sip:example.com"}
    params["response"] = digest_response("MD5", ha1, "REGISTER", "sip:example.com", nonce)
    request = register()
    request.add("Authorization", str(AuthValue("Digest", params)))
    result = server.verify(request, users)
    assert (result.outcome, result.reason[:11]) == ("denied", "no qop=auth")


def test_legacy_agents_are_offered_and_may_use_md5_only() -> None:
    server = DigestServer(Time(), "r", algorithms=["SHA-256"], legacy_agents=["^baresip v1"])

    def asked(agent: str) -> list[str]:
        request = register()
        request.add("User-Agent", agent)
        return [AuthValue.parse(value).algorithm for _, value in server.challenge(request)]

    assert asked("Baresip v1.0.0 (x86_64/linux)") == ["MD5"]
    assert asked("baresip v3.1") == asked("x baresip v1") == ["SHA-256"]
    assert asked(" " * 300 + "x") == ["SHA-256"]
    old = SipResponse(401)
    request = register()
    request.add("User-Agent", "baresip v1.0.0")
    for name, value in server.challenge(request):
        old.add(name, value)
    assert authorize(request, old, store())
    assert server.verify(request, users).ok
    # Who does not look like one has no use for MD5.
    modern = register()
    assert authorize(modern, old, store())
    assert server.verify(modern, users).outcome == "absent"


def test_what_cannot_be_used_is_named_at_once() -> None:
    with pytest.raises(ValueError, match="legacy_agents"):
        DigestServer(Time(), "r", legacy_agents=["("])
    with pytest.raises(ValueError, match="at least one"):
        DigestServer(Time(), "r", algorithms=[])


def test_strongest_challenge_of_each_realm_is_answered() -> None:
    response = SipResponse(401)
    for value in (
        'Basic realm="a"',
        'Digest realm="a", nonce="0", algorithm=SHA3-512, qop="auth"',
        'Digest realm="a", nonce="2", qop="auth"',
        'Digest realm="a",nonce="1",algorithm=sha-256,qop="auth-int , auth",opaque="x,\\"y"',
        'Digest realm="a",nonce="6",algorithm=SHA-256-sess,qop="auth"',
        'Digest realm="b", nonce="3", qop="token"',
        'Digest realm="c", nonce="4", qop="auth"',
    ):
        response.add("WWW-Authenticate", value)
    response.add("Proxy-Authenticate", 'DIGEST realm="a", nonce="5"')
    request = register()
    keys = CredentialStore([Credentials("x", "p", "b"), Credentials("bob", "zanzibar", "a", allow_no_qop=True)])
    assert authorize(request, response, keys)
    (answer,) = map(AuthValue.parse, request.get_all("authorization"))
    assert (answer.get("nonce"), answer.get("algorithm"), answer.qop, answer.get("opaque")) == (
        "1",
        "sha-256",
        ["auth"],
        'x,"y',
    )
    assert "nc=00000001" in str(answer)
    assert "qop=auth," in f"{answer},"
    (proxy,) = map(AuthValue.parse, request.get_all("proxy-authorization"))
    assert (proxy.get("nonce"), proxy.qop, proxy.get("algorithm")) == ("5", [], "")
    assert not authorize(register(), response, CredentialStore([Credentials("x", "p", "nowhere")]))


def test_a_challenge_without_qop_is_answered_only_where_that_is_allowed() -> None:
    response = SipResponse(401)
    response.add("WWW-Authenticate", 'Digest realm="a", nonce="1"')
    assert not authorize(register(), response, CredentialStore([Credentials("bob", "zanzibar")]))
    old = CredentialStore([Credentials("bob", "zanzibar", allow_no_qop=True)])
    assert authorize(register(), response, old)
    assert unanswered(response, CredentialStore([Credentials("bob", "zanzibar")])) == (
        "realm 'a' offers no qop, and allow_no_qop is not set"
    )
    assert unanswered(response, CredentialStore([Credentials("bob", "x", "b")])) == "no credentials for realm 'a'"
    assert unanswered(response, old) == ""
    # One with qop beside it is taken, weaker or not.
    response.add("WWW-Authenticate", 'Digest realm="a", nonce="2", qop="auth"')
    request = register()
    assert authorize(request, response, CredentialStore([Credentials("bob", "zanzibar")]))
    assert AuthValue.parse(request.get("authorization") or "").get("nonce") == "2"


def test_second_challenger_leaves_the_first_answer_valid() -> None:
    time = Time()
    proxy = DigestServer(time, "p", proxy=True)
    target = DigestServer(time, "t")
    credentials = store()
    request = register()
    assert authorize(request, unauthorized(proxy), credentials)
    assert proxy.verify(request, users).ok
    assert authorize(request, unauthorized(target), credentials)
    # The proxy sees the request again: the same count would be a replay.
    assert proxy.verify(request, users).ok
    assert target.verify(request, users).ok


def test_garbage_credentials_never_raise() -> None:
    server = DigestServer(Time(), "r")
    for value in (
        "",
        "Digest",
        "Digest realm=r",
        'Digest realm="r", algorithm=MD5, nc=zz, qop=auth, response="é"',
        'Digest realm="r", algorithm=MD5, uri="sip:example.com", nonce="-", response="\udcff"',
        'Digest realm="r", algorithm=MD5, uri="sip:example.com", nc=-0000001, qop=auth',
    ):
        request = register()
        request.add("Authorization", value)
        assert not server.verify(request, users).ok


def test_passwords_do_not_show() -> None:
    assert "zanzibar" not in repr(Credentials("bob", "zanzibar"))


def test_exact_realm_comes_before_any_realm_and_adding_replaces() -> None:
    keys = CredentialStore([Credentials("any", "1"), Credentials("one", "2", "r")])
    keys.add(Credentials("two", "3", "r"))
    assert [getattr(keys.find(realm), "username", None) for realm in ("r", "other")] == ["two", "any"]


def test_unsupported_algorithm_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="unsupported"):
        DigestServer(Time(), "r", algorithms=["CRC32"])
