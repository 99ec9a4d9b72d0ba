"""What a stranger sends is never sent on many times, to ourselves, or to somebody who has asked for nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from siprec.proxy.contacts import may_reach, place
from siprec.proxy.local_domain import LocalDomain
from siprec.proxy.options import ProxyOptions
from siprec.proxy.routes import RouteRule, Rules
from siprec.sip.addresses import EVERYWHERE, HOST, LINK, SITE, numeric, scope
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri
from tests.simulation.proxyworld import PROXY, ProxyWorld
from tests.simulation.test_proxy_registrar import Registering
from tests.simulation.test_proxy_routing import Stranger

PUBLIC, THIRD = "198.51.100.7", "203.0.113.9"
SOCKETS = (("udp", PROXY, 5060), ("tcp", PROXY, 5060), ("tls", PROXY, 5061), ("udp", "sip.example.net", 5060))


class World(ProxyWorld):
    """Nobody is trusted; `PUBLIC` is a stranger with a public address, `THIRD` who has asked for nothing."""

    def __init__(self, trusted: tuple[str, ...] = (), **options: Any) -> None:
        super().__init__(options=ProxyOptions(trusted=trusted, **options), addresses=SOCKETS)
        self.third = self.network.node(THIRD)
        self.hosts["third.test"] = [Hop("udp", THIRD, 5060)]
        for transport, port in (("udp", 5060), ("tcp", 5060), ("tls", 5061)):
            self.hosts[f"us-{transport}.test"] = [Hop(transport, PROXY, port)]
        self.hosts["us6.test"] = [Hop("udp", "::ffff:10.0.0.100", 5060)]
        self.phone = Registering(self, PUBLIC)
        self.got: list[Any] = []
        self.phone.node.on_message = self._take
        self.answer: Callable[[SipRequest], SipResponse | None] = lambda request: request.response(200, to_tag="p")

    def _take(self, message: Any, source: Hop) -> None:
        self.got.append(message)
        if isinstance(message, SipRequest) and message.method != "ACK":
            response = self.answer(message)
            if response is not None:
                self.phone.node.send(response.to_bytes(), source)

    def message(self, method: str = "MESSAGE", to: str = "sip:bob@example.com", **headers: str) -> list[int]:
        """One request of another stranger; the statuses it gets."""
        stranger = self.__dict__.setdefault("stranger", None) or Stranger(self)
        self.stranger = stranger
        before = len(stranger.responses)
        stranger.send(method, to, **headers)
        self.clock.run_for(60)
        return [r.status for r in stranger.responses[before:] if r.status >= 200]

    def out(self) -> list[tuple[str, str]]:
        """Requests sent by the proxy: transport and host."""
        return [
            (s.transport, s.destination[0])
            for s in self.network.trace
            if s.source[0] == PROXY and not s.line.startswith("SIP/")
        ]


def _answer(w: World, message: Any, source: Hop) -> None:
    w.third.send(message.response(200).to_bytes(), source)


# -- Contacts that are ourselves ---------------------------------------------------------------------------------------

OURS = [
    f"<sip:bob@{PROXY}>",
    f"<sip:x@{PROXY}:5060>",
    f"<sip:{PROXY};transport=tcp>",
    f"<sip:{PROXY};transport=UDP>",
    f"<sips:bob@{PROXY}>",
    f"<sip:bob@{PROXY}:5061;transport=tls>",
    f"<sip:bob@[::ffff:{PROXY}]>",
    "<sip:bob@sip.example.net>",
    "<sip:bob@SIP.EXAMPLE.NET:5060>",
    "<sip:bob@example.com>",
    f"<sip:bob@{PUBLIC};maddr={PROXY}>",
    f'"x" <sip:bob@{PROXY}>;expires=60',
]


@pytest.mark.parametrize("contact", OURS)
@pytest.mark.parametrize("trusted", [(), (PUBLIC,)])
def test_contact_that_is_ourselves_is_refused(contact: str, trusted: tuple[str, ...]) -> None:
    w = World(trusted)
    assert w.phone(contact).status == 403
    assert w.phone(f"<sip:bob@{PUBLIC}>, {contact}").status == 403, "nothing of it is taken"
    assert len(w.registrar) == 0


def test_contact_at_our_address_with_another_transport_or_port_is_no_contact_of_ours() -> None:
    identity = LocalDomain([("udp", PROXY, 5060)])
    assert identity.is_own_contact(Uri.parse(f"sip:x@{PROXY}"))
    for text in (f"sip:x@{PROXY}:5062", f"sip:x@{PROXY};transport=tcp", f"sips:x@{PROXY}", "tel:+1", "sip:x@10.0.0.7"):
        assert not identity.is_own_contact(Uri.parse(text)), text


@pytest.mark.parametrize("name", ["us-udp.test", "us-tcp.test", "us-tls.test", "us6.test"])
def test_name_that_resolves_to_ourselves_is_left_out(name: str) -> None:
    w = World((PUBLIC,))
    assert w.phone(f"<sip:bob@{name}>").status == 200, "names are checked when they are resolved"
    assert w.message() == [482]
    assert w.out() == []
    w.hosts[name] = [Hop("udp", PROXY, 5060), Hop("udp", PUBLIC, 5060)]
    assert w.message() == [200]
    assert w.out() == [("udp", PUBLIC)]


def test_sockets_that_listen_everywhere_are_ourselves_at_each_address_of_the_host() -> None:
    identity = LocalDomain([("udp", "10.0.0.1", 5060)])
    identity.listens_everywhere("udp", 5060, lambda host: host == "10.0.0.9")
    assert identity.leads_here(Hop("udp", "10.0.0.9", 5060))
    assert not identity.leads_here(Hop("udp", "10.0.0.9", 5062))
    assert not identity.leads_here(Hop("udp", "10.0.0.8", 5060))


def test_five_contacts_that_lead_back_to_us_make_no_storm() -> None:
    w = World((PUBLIC,))
    for n in range(5):
        w.hosts[f"me{n}.test"] = [Hop("udp", PROXY, 5060)]
    assert w.phone(", ".join(f"<sip:bob@me{n}.test>" for n in range(5))).status == 200
    assert w.message("INVITE") != []
    assert w.out() == []


def test_contact_in_a_dialog_that_is_ourselves_makes_no_loop() -> None:
    w = World()
    assert w.phone(f"<sip:bob@{PUBLIC}>").status == 200
    w.answer = lambda request: request.response(200, to_tag="p", headers=[("Contact", f"<sip:x@{PROXY}>")])
    stranger = Stranger(w)
    stranger.send("INVITE", "sip:bob@example.com", contact="<sip:a@10.0.0.50>")
    live = w.journal.calls[-1]
    cookie = next(m for m in w.got if isinstance(m, SipRequest)).record_routes[0].uri_text
    w.network.trace.clear()
    stranger.send(
        "INFO",
        f"sip:x@{PROXY}",
        to=f"<sip:bob@example.com>;tag={live.to_tag}",
        cseq="9 INFO",
        route=f"<{cookie}>",
    )
    w.clock.run_for(40)
    assert ("udp", PROXY) not in w.out()


# -- Contacts of somebody else -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("contact", "status"),
    [
        (f"<sip:bob@{PUBLIC}:5060>", 200),
        ("<sip:bob@192.168.1.9:5062>", 200),
        ("<sip:bob@10.0.0.2>", 200),
        ("<sip:bob@127.0.0.1>", 200),
        ("<sip:bob@100.64.1.1>", 200),
        ("<sip:bob@[fd00::1]>", 200),
        ("<sip:bob@[::1]>", 200),
        ("<sip:bob@df7jal23ls0d.invalid;transport=ws>", 200),
        ("<sip:bob@df7jal23ls0d.invalid>", 200),
        ("<sip:bob@third.test>", 200),
        (f"<sip:bob@{PUBLIC};maddr=third.test>", 200),
        (f"<sip:bob@{THIRD}>", 403),
        (f"<sip:bob@{THIRD}:5062;transport=tcp>", 403),
        (f"<sip:bob@{PUBLIC};maddr={THIRD}>", 403),
        (f"<sip:bob@[::ffff:{THIRD}]>", 403),
        ("<sip:bob@[2001:db8::9]>", 403),
    ],
)
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_contact_of_a_stranger_is_reached_where_it_registered_from(contact: str, status: int, transport: str) -> None:
    w = World()
    request = w.phone.request(contact, via=f"SIP/2.0/{transport.upper()} 192.168.1.9;rport;branch=z9hG4bKr")
    assert w.phone.send(request, transport).status == status
    if status == 200:
        assert w.message() == [200]
    assert {host for _, host in w.out()} <= {PUBLIC}
    assert not w.third.network.trace or THIRD not in {s.destination[0] for s in w.network.trace}


def test_trusted_source_and_allow_foreign_contacts_may_name_a_third_host() -> None:
    for w in (World((PUBLIC,)), World()):
        w.registrar._allow_foreign = not w.core.is_trusted(Hop("udp", PUBLIC, 5060))
        w.third.on_message = partial(_answer, w)
        assert w.phone(f"<sip:bob@{THIRD}>").status == 200
        assert w.message() == [200]
        assert w.out() == [("udp", THIRD)]
        assert w.phone("<sip:bob@third.test>, <sip:bob@192.168.7.7>", call_id="r2").status == 200


def test_path_of_the_proxy_that_registers_is_used_and_other_paths_are_refused() -> None:
    w = World()
    ok = w.phone(f"<sip:bob@{THIRD}>", path=f"<sip:edge@{PUBLIC};lr>, <sip:{THIRD};lr>", supported="path")
    assert ok.status == 200
    assert ok.values("path") == [f"<sip:edge@{PUBLIC};lr>", f"<sip:{THIRD};lr>"]
    assert w.message() == [200]
    assert w.out() == [("udp", PUBLIC)]
    request = next(m for m in w.got if isinstance(m, SipRequest))
    assert request.uri == f"sip:bob@{THIRD}"
    assert [r.uri_text for r in request.routes] == [f"sip:edge@{PUBLIC};lr", f"sip:{THIRD};lr"]
    for path, status in (
        (f"<sip:{THIRD};lr>", 403),
        (f"<sip:{PROXY};lr>", 403),
        (f"<sip:{PUBLIC};lr>, <sip:{PROXY};lr>", 403),
        ("<sip:edge.private;lr>", 200),  # only over the address it came from
        ("<tel:+1>", 400),
    ):
        assert w.phone(f"<sip:bob@{THIRD}>", path=path, call_id="r2").status == status, path
    assert w.phone(f"<sip:bob@{PUBLIC}>", require="path", call_id="r3").status == 200


def test_connection_of_a_private_contact_that_is_gone_is_not_replaced_by_its_host() -> None:
    w = World()
    request = w.phone.request("<sip:bob@10.66.0.66;transport=tcp>", via="SIP/2.0/TCP 10.66.0.66;branch=z9hG4bKg")
    assert w.phone.send(request, "tcp").status == 200
    send = w.node.send

    def broken(data: bytes, hop: Hop, failed: Any = None) -> None:
        if hop.connection and failed is not None:
            w.clock.call_later(0, failed, "connection closed")
        else:
            send(data, hop, failed)

    w.node.send = broken  # type: ignore[method-assign]
    w.network.trace.clear()
    w.message()
    assert "10.66.0.66" not in {host for _, host in w.out()}


def test_redirection_of_a_stranger_is_not_followed_to_others() -> None:
    w = World(recurse=True)
    assert w.phone(f"<sip:bob@{PUBLIC}>").status == 200
    w.answer = lambda request: request.response(302, to_tag="p", headers=[("Contact", f"<sip:x@{THIRD}>")])
    assert w.message() == [302]
    assert w.out() == [("udp", PUBLIC)]


def test_maddr_in_via_is_not_followed() -> None:
    w = World()
    s = Stranger(w)
    for via in (f"10.0.0.50;maddr={THIRD}", f"{THIRD};maddr={THIRD}", f"10.0.0.50:5060;rport;maddr={THIRD}"):
        s.send("OPTIONS", f"sip:{PROXY}", via=f"SIP/2.0/UDP {via};branch=z9hG4bK{len(via)}m")
    w.clock.run_for(40)
    assert THIRD not in {sent.destination[0] for sent in w.network.trace}
    assert s.statuses == [200, 200, 200]


# -- how many ----------------------------------------------------------------------------------------------------------


def test_one_request_is_sent_on_sixty_times_at_the_most() -> None:
    w = World((PUBLIC,))
    w.registrar._max_contacts = 1000
    w.answer = lambda request: request.response(486, to_tag="p")
    contacts = ", ".join(f"<sip:bob{n}@{PUBLIC}>;q={n % 5 / 10}" for n in range(100))
    assert w.phone(contacts).status == 200
    for method in ("MESSAGE", "INVITE"):
        w.network.trace.clear()
        w.got.clear()
        w.message(method, call_id=f"many-{method}")
        assert len([m for m in w.got if isinstance(m, SipRequest) and m.method == method]) == 60


def test_attempts_at_many_hops_of_many_targets_count_together() -> None:
    w = World((PUBLIC,), max_branches=20)
    for n in range(5):
        w.hosts[f"many{n}.test"] = [Hop("tcp", f"203.0.113.{10 * n + k}", 5060) for k in range(10)]
    assert w.phone(", ".join(f"<sip:bob@many{n}.test>;q=0.{n}" for n in range(5))).status == 200
    w.network.trace.clear()
    w.message("INVITE")
    assert len(w.out()) == 20
    assert w.core.counters["max_branches"] == 1


def test_max_breadth_of_the_request_limits_what_goes_out_at_once() -> None:
    w = World((PUBLIC,))
    w.answer = lambda request: None if request.method == "INVITE" else request.response(200, to_tag="p")
    assert w.phone(", ".join(f"<sip:bob{n}@{PUBLIC}>" for n in range(8))).status == 200
    s = Stranger(w)
    s.send("INVITE", "sip:bob@example.com", max_breadth="3")
    first = {m.uri for m in w.got if isinstance(m, SipRequest)}
    assert len(first) == 3
    assert {m.get("max-breadth") for m in w.got if isinstance(m, SipRequest)} == {"1"}
    assert s.statuses == [100]
    s.send("MESSAGE", "sip:bob@example.com", max_breadth="0")
    assert s.statuses[-1] == 440


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
def test_request_that_a_helper_sends_back_is_ended_after_ten_passes(method: str) -> None:
    w = World((PUBLIC,))
    told: list[str] = []
    reflected: list[SipRequest] = []
    w.core.on_limit = lambda limit, text, request, source: told.append(limit)

    def reflect(message: Any, source: Hop) -> None:
        if isinstance(message, SipRequest) and message.method == method and len(reflected) < 60:
            reflected.append(message)
            back = message.copy()
            back.uri = f"sip:bob@example.com;n={len(told)}{w.clock.now()}"  # loop detection sees another request
            back.remove("record-route")
            back.remove("max-forwards")
            back.prepend("via", f"SIP/2.0/UDP {PUBLIC};branch=z9hG4bKb{len(w.network.trace)}")
            w.phone.node.send(back.to_bytes(), Hop("udp", PROXY, 5060))

    assert w.phone(f"<sip:a@{PUBLIC}>, <sip:b@{PUBLIC}>, <sip:c@{PUBLIC}>").status == 200
    w.phone.node.on_message = reflect
    w.network.trace.clear()
    w.message(method)
    sent = {
        s.data.split(b"branch=")[1][:30] for s in w.network.trace if s.source[0] == PROXY and s.line.startswith(method)
    }
    assert len(sent) <= 30
    assert told[0] == "max_passes"
    assert told.count("max_passes") == 1
    assert w.sent("SIP/2.0 482")
    assert w.core.counters["max_passes"] == 1


def test_passes_are_counted_for_32_seconds_and_a_conversation_may_go_on() -> None:
    w = World()
    assert w.phone(f"<sip:bob@{PUBLIC}>").status == 200
    s = Stranger(w)
    for n in range(12):
        s.send("INVITE", "sip:bob@example.com", cseq=f"{n + 1} INVITE")
    finals = [r.status for r in s.responses if r.status >= 200 and r.cseq.method == "INVITE"]
    assert finals.count(482) >= 1
    assert {r.cseq.number for r in s.responses if r.status == 482} == {11, 12}
    w.clock.run_for(40)
    s.responses.clear()
    s.send("INVITE", "sip:bob@example.com", cseq="99 INVITE")
    assert 200 in s.statuses
    s.responses.clear()
    for n in range(30):
        s.send("MESSAGE", "sip:bob@example.com", cseq=f"{n + 1} MESSAGE", call_id="conversation")
    assert 482 not in s.statuses
    w.clock.run_for(40)
    assert len(w.core.passes) <= 31


def test_counts_of_passes_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("siprec.proxy.passes.MAX_KNOWN", 50)
    w = World()
    assert w.phone(f"<sip:bob@{PUBLIC}>").status == 200
    s = Stranger(w)
    for n in range(80):
        s.send("MESSAGE", "sip:bob@example.com", call_id=f"c{n}")
    assert len(w.core.passes) <= 51


# -- the rules by themselves -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "text", "far"),
    [
        ("127.0.0.1", "127.0.0.1", HOST),
        ("[::1]", "::1", HOST),
        ("0:0:0:0:0:0:0:1", "::1", HOST),
        ("::ffff:127.0.0.1", "127.0.0.1", HOST),
        ("0.0.0.0", "0.0.0.0", HOST),
        ("10.1.2.3", "10.1.2.3", SITE),
        ("172.31.0.1", "172.31.0.1", SITE),
        ("172.32.0.1", "172.32.0.1", EVERYWHERE),
        ("169.254.1.1", "169.254.1.1", LINK),
        ("fe80::1%eth0", "fe80::1", LINK),
        ("100.127.0.1", "100.127.0.1", SITE),
        ("192.0.2.1", "192.0.2.1", EVERYWHERE),
        ("2001:DB8::1", "2001:db8::1", EVERYWHERE),
    ],
)
def test_scope_of_addresses(host: str, text: str, far: int) -> None:
    assert numeric(host) == text
    assert scope(text) == far


def test_names_and_odd_spellings_are_no_addresses() -> None:
    for host in ("localhost", "0x7f.1", "2130706433", "127.1", "1.2.3.4.5", ""):
        assert numeric(host) == ""
        assert place(Uri("sip", None, host or "x"), Hop("udp", PUBLIC, 5060)) == "inside"


def test_hop_is_refused_where_the_giver_of_the_contact_could_not_go() -> None:
    identity = LocalDomain([("udp", PROXY, 5060)])
    for hop, giver, allowed in (
        ("127.0.0.1", PUBLIC, False),
        ("127.0.0.1", "10.0.0.5", False),
        ("127.0.0.1", "127.0.0.1", True),
        ("10.0.0.5", PUBLIC, False),
        ("10.0.0.5", "10.0.0.6", True),
        (THIRD, PUBLIC, True),
        (THIRD, "10.0.0.6", True),
        (PROXY, "10.0.0.6", False),
        (PROXY, "trusted", False),
        ("127.0.0.1", "trusted", True),
    ):
        assert may_reach(Hop("udp", hop, 5060), giver, identity) == allowed, (hop, giver)


def test_rules_may_send_a_call_back_to_ourselves() -> None:
    """A spiral that the operator wants is no Contact of a stranger."""
    w = World((PUBLIC,))
    w.core.rules = Rules([RouteRule(user="alias", targets=["sip:bob@example.com"])])
    assert w.phone(f"<sip:bob@{PUBLIC}>").status == 200
    w.core.options = ProxyOptions(trusted=(PROXY,))
    assert w.message(to="sip:alias@example.com") == [200]
    assert ("udp", PROXY) in w.out()
