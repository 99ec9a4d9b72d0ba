"""Phones register, are found, and are reached the way they came."""

from __future__ import annotations

from typing import Any

import pytest

from siprec.proxy.authentication import Authentication
from siprec.proxy.options import ProxyOptions
from siprec.proxy.registrar import Registrar
from siprec.sip.digest import Credentials, CredentialStore, authorize
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri
from tests.simulation.phones import ANSWER
from tests.simulation.proxyworld import PROXY, ProxyWorld, raw_request

BOB = "<sip:bob@example.com>"


class Registering:
    """Sends REGISTERs as Bob's phone would."""

    def __init__(self, w: ProxyWorld, host: str = "10.0.0.2") -> None:
        self.w = w
        self.node = w.network.nodes.get((host, 5060)) or w.network.node(host)
        self.host = host
        self.count = 0
        self.last: SipResponse | None = None

    def request(self, contact: str, **headers: str) -> SipRequest:
        self.count += 1
        values = {
            "from_": f"{BOB};tag=b",
            "to": BOB,
            "call_id": "reg",
            "cseq": f"{self.count} REGISTER",
            "contact": contact,
            "via": f"SIP/2.0/UDP {self.host};branch=z9hG4bKreg{self.count}{self.host}",
            **headers,
        }
        return raw_request("REGISTER", "sip:example.com", **values)

    def send(self, request: SipRequest, transport: str = "udp") -> SipResponse:
        old = self.node.on_message
        got: list[Any] = []
        self.node.on_message = lambda message, source: got.append(message)
        self.node.send(request.to_bytes(), Hop(transport, PROXY, 5060))
        self.w.clock.run_for(0.5)
        self.node.on_message = old
        response = got[-1]
        assert isinstance(response, SipResponse)
        return response

    def __call__(self, contact: str, **headers: str) -> SipResponse:
        return self.send(self.request(contact, **headers))


def test_registered_phone_is_called_until_its_registration_runs_out() -> None:
    w = ProxyWorld()
    register = Registering(w)
    response = register("<sip:bob@10.0.0.2>;expires=120")
    assert response.status == 200
    assert response.get("contact") == "<sip:bob@10.0.0.2>;expires=120"
    call = w.call("sip:bob@example.com")
    w.clock.run_for(1)
    assert w.journal.events == ["created", "answered"]
    call.bye()
    w.clock.run_for(125)
    w.call("sip:bob@example.com")
    w.clock.run_for(1)
    assert w.journal.calls[-1].end_reason == "480", "known, but not there"
    w.call("sip:nobody@example.com")
    w.clock.run_for(1)
    assert w.journal.calls[-1].end_reason == "404"
    w.finish()
    assert len(w.registrar) == 0


def test_several_contacts_ring_by_preference() -> None:
    w = ProxyWorld(phones=3)
    register = Registering(w)
    register("<sip:bob@10.0.0.2>;q=0.5, <sip:bob@10.0.0.3>;q=0.9")
    assert w.registrar.lookup(Uri.parse("sip:bob@example.com")) is not None
    w.phones[2].take = lambda call: call.answer(486)
    w.call("sip:bob@example.com")
    w.clock.run_for(1)
    first, second = [s.destination[0] for s in w.sent("INVITE") if s.source[0] == PROXY]
    assert (first, second) == ("10.0.0.3", "10.0.0.2")
    w.alice.agent.calls()[0].bye()
    w.finish()


def test_query_refresh_and_removal() -> None:
    w = ProxyWorld()
    register = Registering(w)
    register("<sip:bob@10.0.0.2>, <sip:bob@10.0.0.3;transport=tcp>")
    assert len(register("").get_all("contact")) == 2
    assert len(register("<sip:bob@10.0.0.3;transport=tcp>;expires=0").get_all("contact")) == 1
    assert register("*").status == 400, "needs Expires: 0"
    response = register("*", expires="0")
    assert response.status == 200
    assert not response.has("contact")
    assert w.registrar.lookup(Uri.parse("sip:bob@example.com")) == []


def test_out_of_order_too_brief_and_foreign_registrations_are_refused() -> None:
    w = ProxyWorld()
    register = Registering(w)
    register("<sip:bob@10.0.0.2>")
    old = register.request("<sip:bob@10.0.0.2>;expires=0", cseq="1 REGISTER")
    assert register.send(old).status == 500
    brief = register("<sip:bob@10.0.0.4>;expires=5")
    assert (brief.status, brief.get("min-expires")) == (423, "60")
    assert register("<sip:bob@10.0.0.2>", to="<sip:bob@elsewhere.test>").status == 404
    assert register("<sip:bob@10.0.0.2>", require="path-of-glory").status == 420
    assert register("<sip:bob@10.0.0.2>;expires=99999999").get("contact") == "<sip:bob@10.0.0.2>;expires=7200"


def test_too_many_contacts_and_users_are_refused_without_change() -> None:
    w = ProxyWorld()
    w.registrar._max_contacts = 2
    w.registrar._max_users = 1
    register = Registering(w)
    assert register("<sip:b@10.0.0.2>, <sip:c@10.0.0.2>, <sip:d@10.0.0.2>").status == 403
    assert len(w.registrar) == 0
    assert register("<sip:b@10.0.0.2>").status == 200
    other = register.request("<sip:c@10.0.0.2>", to="<sip:carol@example.com>")
    assert register.send(other).status == 503


def test_phone_behind_nat_and_phone_on_a_connection_are_reached_where_they_came_from() -> None:
    w = ProxyWorld()
    register = Registering(w)
    assert (
        register("<sip:bob@192.168.1.9:5062>", via="SIP/2.0/UDP 192.168.1.9:5062;rport;branch=z9hG4bKnat").status == 200
    )
    assert w.registrar.describe(*next(w.registrar.bindings()))["flow"] == "udp:10.0.0.2:5060"
    w.bob.agent.contact = lambda hop: "sip:bob@192.168.1.9:5062"
    call = w.call("sip:bob@example.com")
    w.clock.run_for(1)
    assert w.sent("INVITE", "10.0.0.2")[0].line == "INVITE sip:bob@192.168.1.9:5062 SIP/2.0"
    call.reinvite(ANSWER)
    w.clock.run_for(1)
    call.bye()
    w.clock.run_for(1)
    assert w.sent("BYE", "10.0.0.2"), "also within the dialog"
    assert w.journal.events[-1] == "ended bye"
    over_tcp = register.request("<sip:bob@192.168.1.9:40000;transport=tcp>", call_id="reg2")
    over_tcp.set("via", "SIP/2.0/TCP 192.168.1.9:40000;branch=z9hG4bKtcp")
    register.send(over_tcp, "tcp")
    flow = next(t.flow for t in w.registrar.lookup(Uri.parse("sip:bob@example.com")) or [] if t.uri.transport == "tcp")
    assert flow is not None
    assert flow.transport == "tcp"
    assert flow.connection
    w.clock.run_until_idle()


def test_users_must_authenticate_as_themselves() -> None:
    w = ProxyWorld()
    users = Authentication(w.clock, "example.com", {"bob": "secret", "eve": "evil"})
    w.core.registrar = Registrar(w.clock, w.identity, authentication=users)
    register = Registering(w)

    def attempt(user: str, password: str) -> int:
        request = register.request("<sip:bob@10.0.0.2>")
        challenge = register.send(request)
        assert challenge.status == 401
        again = register.request("<sip:bob@10.0.0.2>")
        assert authorize(again, challenge, CredentialStore([Credentials(user, password)]))
        return register.send(again).status

    assert attempt("bob", "wrong") == 401
    assert attempt("eve", "evil") == 403
    assert attempt("bob", "secret") == 200
    assert w.core.registrar.lookup(Uri.parse("sip:eve@example.com")) == [], "exists, is not there"


def test_strangers_may_call_registered_users() -> None:
    w = ProxyWorld(options=ProxyOptions(trusted=[]))
    Registering(w)("<sip:bob@10.0.0.2>")
    w.call("sip:bob@example.com")
    w.clock.run_for(1)
    assert w.journal.events == ["created", "answered"]
    w.alice.agent.calls()[0].bye()
    w.finish()


@pytest.mark.parametrize("contact", ["<sip:bob@[bad>", "*, <sip:x@y>", "nonsense"])
def test_malformed_contacts_are_refused(contact: str) -> None:
    w = ProxyWorld()
    assert Registering(w)(contact).status == 400
    assert len(w.registrar) == 0


def test_phone_whose_connection_is_gone_is_looked_for_where_its_contact_says() -> None:
    w = ProxyWorld()
    register = Registering(w)
    request = register.request("<sip:bob@10.0.0.2;transport=tcp>", via="SIP/2.0/TCP 10.0.0.2;branch=z9hG4bKgone")
    register.send(request, "tcp")
    (target,) = w.registrar.lookup(Uri.parse("sip:bob@example.com")) or []
    assert target.flow is not None
    gone = target.flow.connection
    send = w.node.send

    def broken(data: bytes, hop: Hop, failed: Any = None) -> None:
        if hop.connection == gone and failed is not None:
            w.clock.call_later(0, failed, "connection closed")
        else:
            send(data, hop, failed)

    w.node.send = broken  # type: ignore[method-assign]
    w.call("sip:bob@example.com")
    w.clock.run_for(1)
    assert w.journal.events == ["created", "answered"]
    w.alice.agent.calls()[0].bye()
    w.finish()


@pytest.mark.parametrize("aor", ["sip:bob@[2001:db8::1]", "sip:bob@example.com", "sip:bob@[2001:DB8::0:1]:5060"])
def test_address_of_record_with_an_ipv6_host_is_registered_and_found(aor: str) -> None:
    w = ProxyWorld(addresses=(("udp", PROXY, 5060), ("udp", "2001:db8::1", 5060)))
    register = Registering(w)
    assert register("<sip:bob@10.0.0.2>", to=f"<{aor}>").status == 200
    assert w.registrar.describe(*next(w.registrar.bindings()))["aor"] == "bob@"
    for called in ("sip:bob@[2001:db8:0::1]", "sip:bob@example.com", f"sip:bob@{PROXY}"):
        assert w.registrar.lookup(Uri.parse(called)), called
    w.clock.run_until_idle()
