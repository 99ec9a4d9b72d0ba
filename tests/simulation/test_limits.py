"""What one source may have at a time, how fast it may guess passwords, and scanners. Others are never concerned."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from siprec.logs import TextFormatter
from siprec.proxy.authentication import Authentication
from siprec.proxy.guard import Guard
from siprec.proxy.options import ProxyOptions
from siprec.proxy.registrar import Registrar
from siprec.recorder.client_access import Admission
from siprec.sip.digest import Credentials, CredentialStore, authorize
from siprec.sip.errors import SipError
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.throttle import PAIR, SOURCE, GuessThrottle
from siprec.sip.transport import Hop
from siprec.sourcelog import source_key
from tests.simulation.network import VirtualClock
from tests.simulation.phones import SDP
from tests.simulation.proxyworld import PROXY, ProxyWorld, raw_request
from tests.simulation.test_proxy_registrar import Registering
from tests.simulation.test_proxy_routing import Stranger


def test_source_key_is_the_network_that_one_host_can_fill() -> None:
    assert source_key("192.0.2.1") == "192.0.2.1"
    assert source_key("::ffff:192.0.2.1") == "192.0.2.1"
    assert source_key("2001:db8::1") == source_key("2001:db8:0:0:ffff::2") == "2001:db8::/64"
    assert source_key("2001:db8:0:1::1") != source_key("2001:db8::1")


def banned_by_fail2ban(records: list[logging.LogRecord]) -> list[str]:
    """The hosts that the filter in docs/service.md finds in the log lines."""
    text = (Path(__file__).parents[2] / "docs" / "service.md").read_text()
    block = re.search(r"failregex = (.*?)\n```", text, re.DOTALL)
    assert block is not None
    filters = [line.strip().replace("<HOST>", r"(?P<host>[0-9a-fA-F.:]+)") for line in block[1].splitlines()]
    assert len(filters) == 2
    lines = [TextFormatter().format(record) for record in records]
    return [found["host"] for line in lines for each in filters if (found := re.search(each, line))]


# -- unanswered calls --------------------------------------------------------------------------------------------------


def ringing(**options: Any) -> tuple[ProxyWorld, Stranger, Stranger]:
    w = ProxyWorld(options=ProxyOptions(**{"trusted": [], "max_unanswered": 5, **options}))
    Registering(w)("<sip:bob@10.0.0.2:5060>")
    w.bob.take = lambda call: call.answer(180)
    return w, Stranger(w), Stranger(w, "10.0.0.51")


def calls(s: Stranger, many: int, start: int = 0) -> list[int]:
    """The statuses of so many new calls; 180 where it rings."""
    found = []
    for n in range(start, start + many):
        s.responses.clear()
        s.send("INVITE", "sip:bob@example.com", call_id=f"{s.host}-{n}", contact=f"<sip:a@{s.host}>")
        found.append(max(r.status for r in s.responses if r.call_id == f"{s.host}-{n}"))
    return found


def test_source_with_too_many_unanswered_calls_gets_503_and_others_call_on(caplog: pytest.LogCaptureFixture) -> None:
    w, one, other = ringing()
    with caplog.at_level(logging.WARNING, "siprec.proxy"):
        assert calls(one, 8) == [180] * 5 + [503] * 3
    assert next(r for r in one.responses if r.status == 503).get("retry-after") == "10"
    assert [r.getMessage() for r in caplog.records if "max_unanswered" in r.getMessage()] == [
        "source=10.0.0.50 has 5 unanswered calls: refused (max_unanswered)"
    ]
    assert w.core.counters["max_unanswered"] == 3
    assert calls(other, 2) == [180] * 2
    # An answer, a refusal and a CANCEL make room.
    w.bob.calls[0].answer(200, b"")
    w.bob.calls[1].answer(486)
    one.send("CANCEL", "sip:bob@example.com", call_id="10.0.0.50-2", via=f"SIP/2.0/UDP {one.host};branch=z9hG4bKs3")
    w.clock.run_for(1)
    assert calls(one, 4, 20) == [180] * 3 + [503]
    w.core.shutdown()
    assert w.core.call_states.unanswered == 0


def test_trusted_sources_and_zero_have_no_limit_of_unanswered_calls() -> None:
    for options in ({"trusted": ["10.0.0.0/8"]}, {"max_unanswered": 0}):
        w, one, _ = ringing(**options)
        assert calls(one, 8) == [180] * 8
        assert w.core.call_states.unanswered == 0
        w.core.shutdown()


def test_calls_that_nobody_answers_leave_no_count() -> None:
    w, one, _ = ringing()
    calls(one, 6)
    w.clock.run_for(400)
    assert w.core.call_states.unanswered == 0
    assert w.core.counts()["calls"] == 0


# -- registrations -----------------------------------------------------------------------------------------------------


def register(w: ProxyWorld, s: Stranger, user: str, contact: str = "", **headers: str) -> int:
    s.responses.clear()
    values = {
        "from_": f"<sip:{user}@example.com>;tag=r",
        "to": f"<sip:{user}@example.com>",
        "contact": contact or f"<sip:{user}@{s.host}>",
        "call_id": f"r{user}",
        **headers,
    }
    s.send("REGISTER", "sip:example.com", **values)
    return s.responses[-1].status


def test_open_registrar_is_bounded_per_source() -> None:
    w = ProxyWorld(options=ProxyOptions(trusted=[]))
    w.core.registrar = w.registrar = Registrar(w.clock, w.identity, max_per_source=5)
    one, other = Stranger(w), Stranger(w, "10.0.0.51")
    assert [register(w, one, f"u{n}") for n in range(7)] == [200] * 5 + [403] * 2
    assert register(w, one, "u0", cseq="99 REGISTER") == 200, "a refresh"
    assert [register(w, other, f"v{n}") for n in range(3)] == [200] * 3
    assert register(w, one, "u0", cseq="100 REGISTER", expires="0") == 200
    assert register(w, one, "u9") == 200, "there is room again"
    w.clock.run_for(3700)
    assert not w.registrar._by_source
    assert register(w, one, "u10", cseq="101 REGISTER") == 200


def test_registrations_of_trusted_sources_and_with_passwords_are_not_counted() -> None:
    w = ProxyWorld(options=ProxyOptions(trusted=["10.0.0.50/32"]))
    w.core.registrar = w.registrar = Registrar(w.clock, w.identity, max_per_source=2)
    one = Stranger(w)
    assert [register(w, one, f"u{n}") for n in range(5)] == [200] * 5


@pytest.mark.parametrize("header", ["contact", "call_id", "to", "path"])
def test_registrations_keep_no_long_texts(header: str) -> None:
    w = ProxyWorld(options=ProxyOptions(trusted=[]))
    one = Stranger(w)
    long = {
        "contact": f"<sip:{'x' * 2000}@10.0.0.50>",
        "call_id": "c" * 2000,
        "to": f"<sip:{'x' * 2000}@example.com>",
        "path": f"<sip:{'x' * 2000}@10.0.0.50;lr>",
    }
    assert register(w, one, "bob", **{header: long[header]}) == 400
    assert len(w.registrar) == 0


def test_taking_away_what_nobody_has_registered_takes_no_memory() -> None:
    w = ProxyWorld(options=ProxyOptions(trusted=[]))
    one = Stranger(w)
    for n in range(20):
        assert register(w, one, f"u{n}", expires="0") == 200
        assert register(w, one, f"v{n}", contact="*", expires="0") == 200
    assert not w.registrar._bindings


# -- passwords ---------------------------------------------------------------------------------------------------------


class Guessing:
    """A registrar that asks for passwords, and who tries them."""

    def __init__(self) -> None:
        self.w = w = ProxyWorld(options=ProxyOptions(trusted=[]))
        self.auth = Authentication(w.clock, "example.com", {"bob": "secret", "eve": "evil"})
        w.core.registrar = w.registrar = Registrar(w.clock, w.identity, authentication=self.auth)
        self.nodes: dict[str, Registering] = {}

    def attempt(self, host: str, user: str, password: str) -> int:
        """401 (wrong), 200, 403 (right, but somebody else), or 503."""
        phone = self.nodes.setdefault(host, Registering(self.w, host))
        headers = {"to": f"<sip:{user}@example.com>", "from_": f"<sip:{user}@example.com>;tag=g"}
        contact = f"<sip:{user}@{host}>"
        challenge = phone.send(phone.request(contact, **headers))
        assert challenge.status == 401
        again = phone.request(contact, **headers)
        assert authorize(again, challenge, CredentialStore([Credentials(user, password)]))
        return phone.send(again).status


def test_guessing_slows_down_for_the_pair_and_not_for_the_user() -> None:
    g = Guessing()
    found = [g.attempt("10.0.0.66", "bob", f"guess{n}") for n in range(12)]
    assert found[: PAIR[0]] == [401] * PAIR[0]
    assert set(found[PAIR[0] :]) == {503}
    assert g.attempt("10.0.0.66", "bob", "secret") == 503, "right or wrong cannot be told"
    assert g.attempt("10.0.0.2", "bob", "secret") == 200, "the victim is not locked out"
    assert g.attempt("10.0.0.66", "eve", "evil") == 200, "nor is another user at the same source"
    g.w.clock.run_for(PAIR[1])
    assert g.attempt("10.0.0.66", "bob", "secret") == 200
    assert g.w.core.registrar is not None


def test_guessing_of_many_users_slows_down_the_source_and_those_who_were_right_go_on() -> None:
    g = Guessing()
    assert g.attempt("10.0.0.66", "bob", "secret") == 200
    found = [g.attempt("10.0.0.66", f"user{n}", "x") for n in range(SOURCE[0] + 10)]
    # Waiting for answers takes a second each in the test, which gives some attempts back.
    assert found.count(503) >= 3
    assert found[: SOURCE[0]] == [401] * SOURCE[0]
    assert 503 in [g.attempt("10.0.0.66", f"newcomer{n}", "x") for n in range(3)]
    assert g.attempt("10.0.0.66", "bob", "secret") == 200, "known good behind the same NAT"
    assert g.attempt("10.0.0.67", "eve", "evil") == 200, "another source"


def test_one_line_says_that_guessing_is_slowed_down(caplog: pytest.LogCaptureFixture) -> None:
    g = Guessing()
    with caplog.at_level(logging.WARNING, "siprec"):
        for n in range(12):
            g.attempt("10.0.0.66", "bob", f"guess{n}")
    assert banned_by_fail2ban(caplog.records) == ["10.0.0.66"]
    lines = [r.getMessage() for r in caplog.records if "guessing" in r.getMessage()]
    assert lines == ["password guessing: source=10.0.0.66 user='bob' is slowed down"]
    assert g.auth.throttle.counters["guesses_slowed"] == 7


def test_throttle_takes_bounded_memory_and_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("siprec.sip.throttle.MAX_KEPT", 100)
    clock = VirtualClock()
    throttle = GuessThrottle(clock)
    for n in range(1000):
        throttle.failed(f"10.{n // 250}.0.{n % 250}", "x" * 100_000)
        throttle.succeeded(f"10.{n // 250}.1.{n % 250}", "bob")
    assert len(throttle) <= 300
    clock.run_for(PAIR[1] * PAIR[0] + 1)
    throttle.failed("10.0.0.1", "bob")
    assert len(throttle._pairs) == 1
    throttle.check("10.0.0.1", "bob")


def test_recorder_slows_guessing_down_too() -> None:
    clock = VirtualClock()
    admission = Admission(clock, users={"src": "secret"})

    def attempt(host: str, password: str) -> int:
        request = raw_request("INVITE", "sip:srs@x")
        with pytest.raises(SipError) as challenge:
            admission.check(request, Hop("udp", host, 5060))
        response = request.response(401, headers=challenge.value.headers)
        again = raw_request("INVITE", "sip:srs@x")
        assert authorize(again, response, CredentialStore([Credentials("src", password)]))
        try:
            admission.check(again, Hop("udp", host, 5060))
        except SipError as error:
            return error.status
        return 200

    assert [attempt("10.0.0.66", "x") for _ in range(PAIR[0] + 2)] == [401] * PAIR[0] + [503] * 2
    assert attempt("10.0.0.1", "secret") == 200


# -- scanners ----------------------------------------------------------------------------------------------------------


class Guarded(ProxyWorld):
    """A proxy behind a guard."""

    def __init__(self, **options: Any) -> None:
        super().__init__(options=ProxyOptions(trusted=["10.0.0.1/32"]))
        self.guard = Guard(self.clock, self.known, **options)
        self.node.on_message = self.guard.before(self.layer.receive)
        self.node.on_malformed = self.guard.before_malformed(self.layer.receive_malformed)
        self.layer.on_response = self.guard.answered

    def known(self, host: str) -> bool:
        return self.core.is_trusted(Hop("udp", host, 0)) or self.registrar.has_contacts_of(host)


def test_known_scanner_is_dropped_without_an_answer_and_one_line_says_so(caplog: pytest.LogCaptureFixture) -> None:
    w = Guarded()
    s = Stranger(w)
    with caplog.at_level(logging.WARNING, "siprec.proxy.guard"):
        for n in range(50):
            s.send("OPTIONS", f"sip:{PROXY}", user_agent=f"Friendly-Scanner {n}")
    assert s.responses == []
    assert [r.getMessage() for r in caplog.records] == [
        "source=10.0.0.50 dropped: User-Agent 'friendly-scanner 0'",
    ]
    s.send("OPTIONS", f"sip:{PROXY}", user_agent="Phone/1.0")
    assert s.statuses == [200], "the tool is dropped, not the address"
    assert w.guard.counters["guard_dropped"] == 50
    with caplog.at_level(logging.WARNING, "siprec.proxy.guard"):
        w.clock.run_for(60)
        s.send("OPTIONS", f"sip:{PROXY}", user_agent="sipvicious x")
    assert caplog.records[-1].getMessage().endswith("(49 more before)")


def test_flood_of_refusals_bans_a_source_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    w = Guarded(refusals=10, ban=100.0)
    s, other = Stranger(w), Stranger(w, "10.0.0.51")
    with caplog.at_level(logging.WARNING, "siprec.proxy.guard"):
        for n in range(20):
            s.send("MESSAGE", f"sip:{n}@example.com")
    assert s.statuses == [404] * 10
    assert banned_by_fail2ban(caplog.records) == ["10.0.0.50"]
    s.node.send(b"garbage\r\n\r\n", Hop("udp", PROXY, 5060))
    s.send("OPTIONS", f"sip:{PROXY}")
    assert len(s.responses) == 10
    other.send("OPTIONS", f"sip:{PROXY}")
    assert other.statuses == [200]
    w.clock.run_for(100)
    s.send("OPTIONS", f"sip:{PROXY}")
    assert s.statuses[-1] == 200


def test_who_succeeds_meanwhile_or_is_known_is_never_banned() -> None:
    w = Guarded(refusals=10)
    s, phone = Stranger(w), Stranger(w, "10.0.0.51")
    for n in range(40):
        s.send("MESSAGE", f"sip:{n}@example.com")
        if n % 2:
            s.send("OPTIONS", f"sip:{PROXY}")
    assert len(s.responses) == 60
    assert register(w, phone, "carol") == 200
    for n in range(40):
        phone.send("MESSAGE", f"sip:{n}@example.com")
    assert len(phone.responses) == 41
    w.alice.node.on_message = lambda message, source: None
    for n in range(40):
        request = raw_request("MESSAGE", "sip:x@example.com", via=f"SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKt{n}")
        w.alice.node.send(request.to_bytes(), Hop("udp", PROXY, 5060))
    w.clock.run_for(1)
    assert len(w.sent("SIP/2.0 404", "10.0.0.1")) == 40


def test_responses_and_calls_of_a_banned_source_go_on() -> None:
    w = Guarded(refusals=5)
    w.guard._is_in_call = lambda request: w.core.dialogs.knows(request.call_id)
    call = w.call("sip:bob@10.0.0.2")
    w.clock.run_for(1)
    for _ in range(5):
        w.guard.answered(404, Hop("udp", "10.0.0.2", 5060))
    assert w.guard.counters["guard_banned"] == 1
    assert w.guard.admits(SipResponse(200), Hop("udp", "10.0.0.2", 5060)), "it answers what was asked"
    call.reinvite(SDP)
    w.clock.run_for(1)
    w.bob.calls[0].bye()
    w.clock.run_for(1)
    assert w.journal.events[-1] == "ended bye"
    assert call.state == "ended"
    w.finish()


def test_guard_takes_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("siprec.proxy.guard.MAX_KEPT", 50)
    guard = Guard(VirtualClock(), lambda host: False, refusals=2)
    scanner = SipRequest("OPTIONS", "sip:x", ["user-agent"], ["User-Agent: smap"])
    for n in range(500):
        source = Hop("udp", f"10.0.{n // 250}.{n % 250}", 5060)
        for _ in range(1 + n % 2):
            guard.answered(404, source)
        guard.admits(scanner, source)
    assert len(guard._scores) <= 50
    assert len(guard._bans) <= 50
