"""Nobody relays through the proxy: not by Route, not with a Record-Route cookie, in no method, by no transport."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from siprec.proxy.options import ProxyOptions
from siprec.proxy.routes import RouteRule, Rules
from siprec.proxy.script import Script
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.transaction import ServerTransaction
from siprec.sip.transport import Hop
from tests.simulation.phones import ANSWER, SDP
from tests.simulation.proxyworld import PROXY, ProxyWorld, raw_request
from tests.simulation.test_proxy_registrar import Registering
from tests.simulation.test_proxy_routing import Stranger, last_request

VICTIM = "10.66.0.66"
LOOPBACK = "127.0.0.1"
METHODS = (
    "INVITE",
    "BYE",
    "OPTIONS",
    "MESSAGE",
    "SUBSCRIBE",
    "NOTIFY",
    "REFER",
    "PRACK",
    "UPDATE",
    "INFO",
    "PUBLISH",
    "X",
)


class Attack:
    """Everybody is a stranger. Bob is registered; whatever reaches the victim or a port of our own host is a relay."""

    def __init__(self, **core: Any) -> None:
        rules, script = core.pop("rules", None), core.pop("script", None)
        self.w = w = ProxyWorld(options=core.pop("options", ProxyOptions(trusted=[])), **core)
        for host in (VICTIM, LOOPBACK, "2001:db8::66"):
            w.network.node(host)
            w.network.node(host, 5061)
            w.network.node(host, 22)
        w.hosts["victim.test"] = [Hop("udp", VICTIM, 5060)]
        w.hosts["2001:db8::66"] = [Hop("udp", "2001:db8::66", 5060)]
        assert Registering(w)("<sip:bob@10.0.0.2:5060>").status == 200
        w.core.rules, w.core.script = rules or w.core.rules, script
        self.s = Stranger(w)
        self.count = 0

    def relayed(self) -> list[str]:
        """What came where nothing may come."""
        places = (VICTIM, LOOPBACK, "2001:db8::66")
        return [
            f"{s.transport}:{s.destination[0]} {s.line}" for s in self.w.network.trace if s.destination[0] in places
        ]

    def established(self) -> None:
        """Alice calls Bob."""
        self.call = self.w.call("sip:bob@example.com")
        self.w.clock.run_for(1)
        assert self.w.journal.events[-1] == "answered"
        self.live = self.w.journal.calls[-1]
        self.cookie = last_request(self.w, "INVITE", "10.0.0.2").record_routes[0].uri_text

    def tags(self, of: str = "caller", **changes: str) -> dict[str, str]:
        """The headers of a request within the call."""
        caller, callee = (
            f"<sip:alice@example.com>;tag={self.live.from_tag}",
            f"<sip:bob@example.com>;tag={self.live.to_tag}",
        )
        values = {"from_": caller, "to": callee} if of == "caller" else {"from_": callee, "to": caller}
        return {**values, "call_id": self.live.call_id, "route": f"<{self.cookie}>", **changes}


def send(a: Attack, method: str, uri: str, transport: str = "udp", host: str = "", **headers: str) -> int:
    """A raw request from the stranger, or from a phone's own address; returns the final status (0: none)."""
    if not host:
        before = len(a.s.responses)
        a.s.send(method, uri, transport, cseq=headers.pop("cseq", f"{2_000_000 + before} {method}"), **headers)
        new = reversed(a.s.responses[before:])
        return next((r.status for r in new if r.status >= 200 and r.cseq.method == method), 0)
    a.count += 1
    node = a.w.network.nodes[host, 5060]
    old, got = node.on_message, []

    def take(message: Any, source: Hop) -> None:
        if isinstance(message, SipResponse):
            got.extend([message.status] if message.cseq.method == method else [])
        else:
            old(message, source)

    node.on_message = take
    via = f"SIP/2.0/{transport.upper()} {host};branch=z9hG4bKown{a.count}"
    request = raw_request(method, uri, **{"via": via, "cseq": f"{2_000_000 + a.count} {method}", **headers})
    node.send(request.to_bytes(), Hop(transport, PROXY, 5060))
    a.w.clock.run_for(1)
    node.on_message = old
    return next((status for status in reversed(got) if status >= 200), 0)


# -- outside a dialog --------------------------------------------------------------------------------------------------


def answers(handler: str) -> Script:
    async def request(request: Any) -> None:
        getattr(request, handler)()

    return Script({"request": request})


PATHS: dict[str, Callable[[], dict[str, Any]]] = {
    "defaults": dict,
    "registrar rule": lambda: {"rules": Rules([RouteRule(registrar=True)])},
    "targets": lambda: {"rules": Rules([RouteRule(targets=["sip:10.0.0.2"])])},
    "outbound proxy": lambda: {"rules": Rules([RouteRule(targets=["sip:10.0.0.2;lr"])])},
    "relay": lambda: {"rules": Rules([RouteRule(relay=True)])},
    "script, registered": lambda: {"script": answers("forward_to_registered")},
    "script, forward": lambda: {"script": answers("forward")},
    "script that does nothing": lambda: {"script": Script({})},
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "route",
    [
        f"<sip:{VICTIM};lr>",
        f"<sip:{VICTIM}>",
        f"<sip:{LOOPBACK}:22;transport=tcp;lr>",
        f"<sip:{PROXY};lr>, <sip:{LOOPBACK};transport=tcp>",
        f"<sip:{PROXY};lr>, <sip:victim.test;lr>",
        f"<sip:{PROXY};lr;did=0-00>, <sips:{VICTIM};lr>",
        "<sip:[2001:db8::66];lr>",
        f"<sip:x@{PROXY};maddr={VICTIM};lr>, <sip:{VICTIM};lr>",
    ],
)
def test_route_of_a_stranger_is_refused_on_every_path(path: str, route: str) -> None:
    a = Attack(**PATHS[path]())
    for method in METHODS:
        assert send(a, method, "sip:bob@example.com", route=route) == 403, method
    assert send(a, "REGISTER", "sip:example.com", route=route, contact="<sip:x@10.0.0.50>") == 403
    assert a.relayed() == []
    a.w.finish()


@pytest.mark.parametrize("uri", ["sip:bob@example.com", f"sip:bob@{PROXY}", "tel:+123", "sips:bob@example.com"])
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_route_of_a_stranger_is_refused_for_every_uri_and_transport(uri: str, transport: str) -> None:
    a = Attack()
    assert send(a, "INVITE", uri, transport, route=f"<sip:{VICTIM};lr>") == 403
    # A strict router's form: what looks like our Record-Route, and the last Route as the target.
    strict = f"sip:{PROXY};lr;did=00-00"
    assert send(a, "INVITE", strict, transport, route=f"<sip:{VICTIM};lr>, <sip:bob@{VICTIM}>") == 403
    assert send(a, "INVITE", strict, transport, route=f"<sip:bob@{VICTIM}>") == 403
    assert send(a, "CANCEL", uri, transport, route=f"<sip:{VICTIM};lr>") in (0, 481)
    assert send(a, "ACK", uri, transport, route=f"<sip:{VICTIM};lr>") == 0
    assert a.relayed() == []
    a.w.finish()


def test_trusted_source_may_still_use_route() -> None:
    a = Attack(options=ProxyOptions(trusted=["10.0.0.50/32"]))
    send(a, "MESSAGE", "sip:bob@example.com", route=f"<sip:{VICTIM};lr>")
    assert set(a.relayed()) == {f"udp:{VICTIM} MESSAGE sip:bob@example.com SIP/2.0"}
    a.w.clock.run_for(40)


# -- with a cookie -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_cookie_with_other_tags_is_refused(method: str) -> None:
    a = Attack()
    a.established()
    foreign = f"sip:x@{VICTIM}"
    for changes in (
        {"to": "<sip:x@y>;tag=other"},
        {"from_": "<sip:x@y>;tag=other"},
        {"from_": "<sip:x@y>;tag=1", "to": "<sip:x@y>;tag=2"},
    ):
        assert send(a, method, foreign, **a.tags(**changes)) == 481
        assert send(a, method, "sip:bob@10.0.0.2:5060", host="10.0.0.1", **a.tags(**changes)) == 481
    # No To tag: a request outside a dialog, whatever its Route says.
    assert send(a, method, foreign, **a.tags(to="<sip:x@y>")) == 403
    assert send(a, method, foreign, **a.tags(to="<sip:x@y>;tag=1", call_id="another")) == 403
    # Without the cookie the Call-ID is known all the same.
    assert send(a, method, "sip:bob@example.com", **a.tags(to="<sip:x@y>;tag=1", route="")) == 481
    assert a.relayed() == []
    a.call.bye()
    a.w.finish()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("of", ["caller", "callee"])
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_request_within_a_call_goes_to_the_peer_and_nowhere_else(method: str, of: str, transport: str) -> None:
    a = Attack()
    a.established()
    w = a.w
    phone, peer = ("10.0.0.1", "10.0.0.2") if of == "caller" else ("10.0.0.2", "10.0.0.1")
    headers = a.tags(of)
    for uri in (
        f"sip:x@{VICTIM}",
        f"sip:{LOOPBACK}:22;transport=tcp",
        f"sips:x@{VICTIM}",
        "tel:+123",
        "sip:x@[2001:db8::66]",
        f"sip:{peer}:5060;maddr={VICTIM}",
        f"sip:{peer}:22;transport=tcp",
    ):
        assert send(a, method, uri, transport, **headers) == 403, uri
    for route in (
        f"<{a.cookie}>, <sip:{VICTIM};lr>",
        f"<{a.cookie}>, <sip:{LOOPBACK};transport=tcp>",
        f"<{a.cookie}>, <sip:{PROXY};lr>, <sip:{VICTIM};lr>",
    ):
        assert send(a, method, f"sip:{peer}:5060", transport, **{**headers, "route": route}) == 403
        assert send(a, method, f"sip:{peer}:5060", transport, host=phone, **{**headers, "route": route}) == 403
    assert a.relayed() == []
    w.network.trace.clear()
    # From the party's own address it is not refused, and goes to its peer.
    send(a, method, f"sip:x@{VICTIM}", transport, host=phone, **headers)
    assert a.relayed() == []
    assert w.sent(method, peer)[0].line == f"{method} sip:{peer}:5060 SIP/2.0"
    w.network.trace.clear()
    if method != "BYE":
        # The peer's Contact by any spelling of RFC 3261 19.1.4 is the peer's Contact, from anywhere.
        send(a, method, f"SIP:{peer}:5060;any=thing", transport, **headers)
        assert w.sent(method, peer)
    w.clock.run_for(40)


def test_ack_within_a_call_goes_to_the_peer_or_nowhere_and_is_never_answered() -> None:
    a = Attack()
    a.established()
    a.w.network.trace.clear()
    for changes in ({}, {"to": "<sip:x@y>;tag=1"}, {"from_": "<sip:x@y>;tag=1"}, {"call_id": "another"}):
        for uri in (f"sip:x@{VICTIM}", f"sip:{LOOPBACK}:22;transport=tcp", "sip:bob@example.com", f"sip:x@{PROXY}"):
            for route in (f"<{a.cookie}>", f"<{a.cookie}>, <sip:{VICTIM};lr>"):
                assert send(a, "ACK", uri, **a.tags(**{"route": route, **changes})) == 0
                assert send(a, "ACK", uri, host="10.0.0.1", **a.tags(**{"route": route, **changes})) == 0
    assert a.relayed() == []
    assert not a.w.sent("SIP/2.0")
    assert {s.line for s in a.w.sent("ACK", "10.0.0.2")} == {"ACK sip:10.0.0.2:5060 SIP/2.0"}
    a.call.bye()
    a.w.finish()


@pytest.mark.parametrize("ends", ["caller", "callee"])
def test_cookie_of_a_call_that_is_over_leads_nowhere(ends: str) -> None:
    a = Attack()
    a.established()
    w = a.w
    (a.call if ends == "caller" else w.bob.calls[0]).bye()
    w.clock.run_for(1)
    assert w.journal.events[-1] == "ended bye"
    for wait in (0, 61, 200):
        w.clock.run_for(wait)
        w.network.trace.clear()
        for method in METHODS:
            for host in ("", "10.0.0.1"):
                status = send(a, method, f"sip:x@{VICTIM}", host=host, **a.tags())
                crossing = method in ("BYE", "NOTIFY") and wait < 200
                assert status in ((403, 481) if crossing else (481,)), (method, host, wait)
        send(a, "ACK", f"sip:x@{VICTIM}", **a.tags())
        assert a.relayed() == []
    w.finish()


def test_bye_and_ack_that_crossed_the_end_of_a_call_reach_their_peer() -> None:
    a = Attack()
    a.established()
    a.call.bye()
    a.w.clock.run_for(1)
    a.w.network.trace.clear()
    send(a, "BYE", "sip:10.0.0.1:5060", host="10.0.0.2", **a.tags("callee"))
    send(a, "ACK", "sip:10.0.0.2:5060", host="10.0.0.1", **a.tags())
    assert a.w.sent("BYE", "10.0.0.1")
    assert a.w.sent("ACK", "10.0.0.2")
    a.w.finish()


def test_call_that_is_followed_no_longer_can_still_be_ended_by_its_parties() -> None:
    a = Attack(options=ProxyOptions(trusted=[], dialog_idle=60))
    a.w.core.dialogs.check = None
    a.call = a.w.call("sip:bob@example.com", supported=())
    a.w.clock.run_for(1)
    a.live = a.w.journal.calls[-1]
    a.cookie = last_request(a.w, "INVITE", "10.0.0.2").record_routes[0].uri_text
    a.w.clock.run_for(600)
    assert a.w.journal.events[-1] == "ended idle"
    assert send(a, "BYE", f"sip:x@{VICTIM}", **a.tags()) == 403
    a.call.bye()
    a.w.clock.run_for(1)
    assert a.w.sent("BYE", "10.0.0.2")
    assert a.relayed() == []
    a.w.finish()


# -- every Contact that was seen ---------------------------------------------------------------------------------------


def test_each_early_dialog_is_reached_at_its_own_contact() -> None:
    a = Attack()
    w = a.w
    third = w.network.node("10.0.0.3")
    assert Registering(w)("<sip:bob@10.0.0.2:5060>").status == 200
    from tests.simulation.phones import Phone

    carol = Phone(w.clock, third, 99, resolve=w.resolve)
    w.phones.append(carol)
    register = Registering(w, "10.0.0.3")
    assert register("<sip:bob@10.0.0.3:5060>", call_id="reg3").status == 200
    w.bob.take = lambda call: call.answer(180)
    carol.take = lambda call: call.answer(183, ANSWER)
    w.call("sip:bob@example.com")
    w.clock.run_for(1)
    live = w.journal.calls[-1]
    for phone in ("10.0.0.2", "10.0.0.3"):
        invite = last_request(w, "INVITE", phone)
        tag = next(d.callee_tag for d in w.core.dialogs.all() if phone in d.callee.hosts)
        headers = {
            "from_": f"<sip:alice@example.com>;tag={live.from_tag}",
            "to": f"<sip:bob@example.com>;tag={tag}",
            "call_id": live.call_id,
            "route": f"<{invite.record_routes[0].uri_text}>",
        }
        send(a, "UPDATE", f"sip:{phone}:5060", **headers)
        assert w.sent("UPDATE", phone), "its Contact was in a provisional response"
        assert send(a, "UPDATE", f"sip:x@{VICTIM}", **headers) == 403
        # Some phones go on with the Contact of another early dialog of the call.
        other = "10.0.0.3" if phone == "10.0.0.2" else "10.0.0.2"
        before = len(w.sent("PRACK", other))
        send(a, "PRACK", f"sip:{other}:5060", **headers)
        assert len(w.sent("PRACK", other)) > before
    w.alice.agent.calls()[0].bye()
    w.finish()


def test_last_two_targets_of_a_side_are_both_known() -> None:
    a = Attack()
    a.established()
    w = a.w
    for n in range(1, 9):
        w.bob.agent.contact = lambda hop, n=n: f"sip:bob{n}@10.0.0.2:5060"  # type: ignore[misc]
        w.bob.calls[0].contact = f"<sip:bob{n}@10.0.0.2:5060>"
        update = raw_request(
            "UPDATE",
            "sip:10.0.0.1:5060",
            **{
                **a.tags("callee"),
                "via": f"SIP/2.0/UDP 10.0.0.2;branch=z9hG4bKrefresh{n}",
                "cseq": f"{100 + n} UPDATE",
                "contact": f"<sip:bob{n}@10.0.0.2:5060>",
            },
        )
        w.bob.node.send(update.to_bytes(), Hop("udp", PROXY, 5060))
        w.clock.run_for(1)
    assert w.core.dialogs.all()[0].callee.target == "sip:bob8@10.0.0.2:5060"
    for user, status in (("bob8@", 0), ("bob7@", 0), ("bob1@", 403)):
        w.network.trace.clear()
        answered = send(a, "INFO", f"sip:{user}10.0.0.2:5060", **a.tags())
        assert bool(w.sent("INFO", "10.0.0.2")) == (not status), user
        assert not status or answered == status
    w.clock.run_for(40)


def test_refused_target_refreshes_do_not_push_out_the_target() -> None:
    a = Attack()
    a.established()
    a.w.bob.diary.on["request"] = lambda call, request, reply: reply(488)
    dialog = a.w.core.dialogs.all()[0]
    for n in range(20):
        changed = a.tags(contact=f"<sip:a{n}@10.0.0.1:5060>")
        assert send(a, "UPDATE", "sip:10.0.0.2:5060", host="10.0.0.1", **changed) == 488
    assert dialog.caller.target in dialog.caller.contacts
    assert len(dialog.caller.contacts) <= 4
    a.w.network.trace.clear()
    send(a, "INFO", "sip:10.0.0.1:5060", host="10.0.0.2", **a.tags("callee"))
    assert a.w.sent("INFO", "10.0.0.1")[0].line == "INFO sip:10.0.0.1:5060 SIP/2.0"
    a.w.clock.run_for(40)


def test_route_set_of_other_proxies_is_followed() -> None:
    """A proxy beyond us has record-routed: what follows it is no foreign Route, and another Route is one."""
    a = Attack(rules=Rules([RouteRule(method="INVITE", targets=["sip:10.0.0.70"])]))
    w = a.w
    beyond = w.network.node("10.0.0.70")
    got: list[SipRequest] = []

    def take(message: Any, source: Hop) -> None:
        if isinstance(message, SipRequest):
            got.append(message)
            if message.method == "INVITE" and not message.to.tag:
                message.prepend("record-route", "<sip:10.0.0.70;lr;x=1>")
                ok = message.response(200, to_tag="b", headers=[("Contact", "<sip:bob@192.168.5.5>")], body=ANSWER)
                ok.set("content-type", "application/sdp")
                beyond.send(ok.to_bytes(), source)
            elif message.method != "ACK":
                beyond.send(message.response(200).to_bytes(), source)

    beyond.on_message = take
    call = w.call("sip:bob@example.com")
    w.clock.run_for(1)
    assert call.state == "confirmed"
    call.reinvite(SDP)
    w.clock.run_for(1)
    call.bye()
    w.clock.run_for(1)
    assert [r.method for r in got] == ["INVITE", "ACK", "INVITE", "ACK", "BYE"]
    assert all(r.routes[0].uri_text == "sip:10.0.0.70;lr;x=1" for r in got[1:])
    w.finish()


# -- dialogs without INVITE --------------------------------------------------------------------------------------------


class Watched:
    """Alice subscribes to Bob."""

    def __init__(self, a: Attack, method: str = "SUBSCRIBE") -> None:
        self.a, w = a, a.w
        self.asked: list[SipRequest] = []

        def take(transaction: ServerTransaction) -> bool:
            request = transaction.request
            self.asked.append(request)
            headers = [("Contact", "<sip:bob@10.0.0.2:5060>"), ("Expires", "600")]
            transaction.respond(request.response(202, to_tag="bt", headers=headers))
            return True

        w.bob.agent.on_request = take
        status = send(
            a, method, "sip:bob@example.com", host="10.0.0.1", contact="<sip:alice@10.0.0.1:5060>", event="presence"
        )
        assert status == 202
        self.cookie = self.asked[0].record_routes[0].uri_text

    def headers(self, of: str, **changes: str) -> dict[str, str]:
        one, other = "<sip:alice@example.com>;tag=a1", "<sip:bob@example.com>;tag=bt"
        values = {"from_": one, "to": other} if of == "caller" else {"from_": other, "to": one}
        return {**values, "call_id": "raw-call", "route": f"<{self.cookie}>", "event": "presence", **changes}


@pytest.mark.parametrize("begun", ["SUBSCRIBE", "REFER", "X"])
@pytest.mark.parametrize("method", METHODS)
def test_cookie_of_a_subscription_reaches_its_peer_only(begun: str, method: str) -> None:
    a = Attack()
    d = Watched(a, begun)
    for of, peer in (("caller", "10.0.0.2"), ("callee", "10.0.0.1")):
        for uri in (f"sip:x@{VICTIM}", f"sip:{LOOPBACK}:22;transport=tcp"):
            assert send(a, method, uri, **d.headers(of)) == 403
        assert send(a, method, f"sip:x@{VICTIM}", **d.headers(of, from_="<sip:x@y>;tag=9", to="<sip:x@y>;tag=8")) == 481
        route = f"<{d.cookie}>, <sip:{VICTIM};lr>"
        assert send(a, method, f"sip:x@{peer}:5060", **d.headers(of, route=route)) == 403
        a.w.network.trace.clear()
        user = "bob" if of == "caller" else "alice"
        host = "10.0.0.1" if of == "caller" else "10.0.0.2"
        send(a, method, f"sip:{user}@{peer}:5060", host=host, **d.headers(of))
        assert a.w.sent(method, peer)
    assert a.relayed() == []
    a.w.clock.run_for(90_000)
    assert len(a.w.core.subscriptions) == 0


def test_notify_that_overtakes_the_answer_passes_and_the_end_is_remembered() -> None:
    a = Attack()
    d = Watched(a)
    new = {"from_": "<sip:bob@example.com>;tag=fork", "subscription_state": "active;expires=300"}
    send(a, "NOTIFY", "sip:alice@10.0.0.1:5060", host="10.0.0.2", **d.headers("callee", **new))
    assert len(a.w.sent("NOTIFY", "10.0.0.1")) >= 1
    assert send(a, "NOTIFY", f"sip:x@{VICTIM}", **d.headers("callee", **new)) == 403
    a.w.clock.run_for(700)
    assert send(a, "NOTIFY", "sip:alice@10.0.0.1:5060", **d.headers("callee")) == 481
    assert len(a.w.core.subscriptions) == 0
    a.w.clock.run_for(40)


def test_many_pending_subscriptions_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("siprec.proxy.subscriptions.MAX_PENDING", 10)
    a = Attack()
    Watched(a)
    for n in range(40):
        send(a, "SUBSCRIBE", "sip:bob@example.com", call_id=f"flood{n}")
        assert len(a.w.core.subscriptions._pending) <= 10
    a.w.clock.run_for(40)


def test_long_texts_of_strangers_are_not_kept() -> None:
    a = Attack()
    d = Watched(a)
    long = f"<sip:{'x' * 5000}@10.0.0.50>"
    send(a, "SUBSCRIBE", "sip:bob@example.com", call_id="long", contact=long)
    assert d.asked[-1].call_id == "long", "it is forwarded all the same"
    assert {each.call_id for each in a.w.core.subscriptions._known.values()} == {"raw-call"}
    a.established()
    dialog = a.w.core.dialogs.all()[0]
    send(a, "UPDATE", "sip:10.0.0.2:5060", **a.tags(contact=long))
    assert max(map(len, dialog.caller.contacts)) < 100
    send(a, "MESSAGE", "sip:bob@example.com", call_id="c" * 5000)
    assert max(map(len, a.w.core.passes._counts)) < 200
    a.w.clock.run_for(40)
    a.w.core.shutdown()


# -- from before a restart ---------------------------------------------------------------------------------------------


def test_cookies_of_an_earlier_process_are_taken_and_our_own_are_not() -> None:
    secret = ProxyOptions(trusted=[], cookie_secret=b"s")
    a = Attack(options=secret)
    a.established()
    b = Attack(options=secret)  # another process with the same secret
    assert not b.w.core.cookies.is_issued(a.live.dlg_id)
    send(b, "BYE", "sip:10.0.0.2:5060", **a.tags())
    assert b.w.sent("BYE", "10.0.0.2"), "the call goes on after a restart"
    ours = b.w.core.cookies.make(b.w.core.cookies.new_id(), a.live.call_id)
    for method in METHODS:
        route = f"<sip:{PROXY};lr;did={ours}>"
        assert send(b, method, f"sip:x@{VICTIM}", **a.tags(route=route)) == 481
    send(b, "ACK", f"sip:x@{VICTIM}", **a.tags(route=f"<sip:{PROXY};lr;did={ours}>"))
    assert b.relayed() == []
    # Of a cookie that is taken on trust, nothing comes into a narrower network than its sender's.
    for uri in (f"sip:{LOOPBACK}:22;transport=tcp", f"sip:{PROXY}"):
        send(b, "INFO", uri, **a.tags())
        send(b, "ACK", uri, **a.tags())
        send(b, "INFO", "sip:10.0.0.2:5060", **a.tags(route=f"<{a.cookie}>, <{uri};lr>"))
    assert b.relayed() == []
    a.w.clock.run_for(40)
    b.w.clock.run_for(40)


def test_2xx_and_invite_without_contact_still_make_a_call_that_can_be_ended() -> None:
    a = Attack()
    w = a.w
    got: list[SipRequest] = []

    def take(message: Any, source: Hop) -> None:
        if isinstance(message, SipRequest):
            got.append(message)
            if message.method != "ACK":
                w.bob.node.send(message.response(200, to_tag="bt").to_bytes(), source)

    w.bob.node.on_message = take
    assert send(a, "INVITE", "sip:bob@example.com", host="10.0.0.1") == 200
    a.live, a.cookie = w.journal.calls[-1], got[0].record_routes[0].uri_text
    send(a, "ACK", "sip:bob@example.com", host="10.0.0.1", **a.tags())
    assert got[-1].method == "ACK"
    assert send(a, "INFO", f"sip:x@{VICTIM}", **a.tags()) == 403
    assert send(a, "INFO", f"sip:x@{VICTIM}", **a.tags("callee")) == 403
    send(a, "BYE", "sip:alice@example.com", host="10.0.0.2", **a.tags("callee"))
    assert w.sent("BYE", "10.0.0.1"), "to where the INVITE came from"
    assert a.relayed() == []
    w.clock.run_for(40)


# -- what parties signal of themselves ---------------------------------------------------------------------------------


@pytest.mark.parametrize("signalled", ["contact", "record-route"])
@pytest.mark.parametrize(
    "place",
    [
        f"sip:x@{LOOPBACK}:22;transport=tcp;lr",
        f"sip:{LOOPBACK};lr",
        "sip:[::1];lr",
        f"sip:x@{PROXY}:5060;transport=tcp",
    ],
)
def test_two_strangers_cannot_have_us_reach_what_they_cannot(signalled: str, place: str) -> None:
    """The callee names a port of our own host as its Contact, or as a proxy that has record-routed; the caller asks."""
    a = Attack()
    w = a.w
    for host in ("::1",):
        w.network.node(host)
    w.hosts["::1"] = [Hop("udp", "::1", 5060)]
    got: list[SipRequest] = []

    def take(message: Any, source: Hop) -> None:
        if isinstance(message, SipRequest):
            got.append(message)
            if message.method != "ACK":
                if signalled == "record-route" and message.method == "INVITE":
                    message.prepend("record-route", f"<{place}>")
                contact = place.removesuffix(";lr") if signalled == "contact" else "sip:bob@10.0.0.2:5060"
                response = message.response(200, to_tag="bt", headers=[("Contact", f"<{contact}>")])
                w.bob.node.send(response.to_bytes(), source)

    w.bob.node.on_message = take
    assert send(a, "INVITE", "sip:bob@example.com", contact="<sip:a@10.0.0.50>") == 200
    a.live = w.journal.calls[-1]
    a.cookie = next(r.record_routes[-1].uri_text for r in got)
    uri, route = f"{place.removesuffix(';lr')}", f"<{a.cookie}>"
    if signalled == "record-route":
        uri, route = "sip:bob@10.0.0.2:5060", f"<{a.cookie}>, <{place}>"
    w.network.trace.clear()
    for method in METHODS:
        send(a, method, uri, **a.tags(route=route))
    send(a, "ACK", uri, **a.tags(route=route))
    w.clock.run_for(40)
    assert a.relayed() == []
    assert not [s for s in w.network.trace if s.destination[0] == "::1"]
    if signalled == "contact":
        assert not [s for s in w.sent("", PROXY) if s.source[0] == PROXY]
    w.core.shutdown()


def test_address_of_a_stranger_takes_no_partys_place_before_the_peer_has_accepted_it() -> None:
    a = Attack()
    a.established()
    w = a.w
    for method in ("OPTIONS", "INFO", "MESSAGE"):
        forged = a.tags(contact="<sip:a@192.168.9.9>", via=f"SIP/2.0/UDP 192.168.9.9;rport;branch=z9hG4bKh{method}")
        send(a, method, "sip:10.0.0.2:5060", **forged)
    w.network.trace.clear()
    send(a, "INFO", "sip:10.0.0.1:5060", host="10.0.0.2", **a.tags("callee"))
    assert w.sent("INFO", "10.0.0.1")
    assert not w.sent("INFO", "10.0.0.50")
    # A party that has moved says so in a re-INVITE or UPDATE.
    moved = a.tags(contact="<sip:a@192.168.9.9>", via="SIP/2.0/UDP 192.168.9.9;rport;branch=z9hG4bKmoved")
    assert send(a, "UPDATE", "sip:10.0.0.2:5060", **moved) == 200
    w.network.trace.clear()
    send(a, "INFO", "sip:a@192.168.9.9", host="10.0.0.2", **a.tags("callee"))
    assert w.sent("INFO", "10.0.0.50")
    w.clock.run_for(40)
    w.core.shutdown()


def test_ack_and_bye_reach_a_fork_that_answers_when_the_call_is_over() -> None:
    a = Attack()
    w = a.w
    carol = w.network.node("10.0.0.3")
    assert Registering(w, "10.0.0.3")("<sip:bob@10.0.0.3:5060>", call_id="reg3").status == 200
    got: list[SipRequest] = []

    def take(message: Any, source: Hop) -> None:
        if isinstance(message, SipRequest):
            got.append(message)
            if message.method == "INVITE":
                carol.send(message.response(180, to_tag="ct").to_bytes(), source)
                contact = [("Contact", "<sip:carol@10.0.0.3:5060>")]
                answer = message.response(200, to_tag="ct", headers=contact, body=ANSWER)
                answer.set("content-type", "application/sdp")
                w.clock.call_later(5, carol.send, answer.to_bytes(), source)
            elif message.method == "BYE":
                carol.send(message.response(200).to_bytes(), source)

    carol.on_message = take
    call = w.call("sip:bob@example.com")
    w.clock.run_for(1)
    call.bye()
    w.clock.run_for(1)
    assert w.journal.events[-1] == "ended bye"
    w.clock.run_for(10)
    assert [r.method for r in got if r.method in ("ACK", "BYE")][:2] == ["ACK", "BYE"]
    w.finish()
