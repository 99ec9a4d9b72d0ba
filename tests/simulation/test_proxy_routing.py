"""Record-Route, loose and strict routing, loops, refusals, relaying, dialogs that die, torture messages."""

from __future__ import annotations

import json
from typing import Any

import pytest

from siprec.proxy.authentication import Authentication
from siprec.proxy.options import ProxyOptions
from siprec.proxy.routes import RouteRule, Rules
from siprec.sip.digest import Credentials, CredentialStore
from siprec.sip.message import SipRequest, SipResponse, parse_datagram
from siprec.sip.transaction import ServerTransaction
from siprec.sip.transport import Hop
from tests.paths import DATA
from tests.simulation.proxyworld import PROXY, ProxyWorld, raw_request


class Stranger:
    """A bare node that sends requests and keeps what comes."""

    def __init__(self, w: ProxyWorld, host: str = "10.0.0.50") -> None:
        self.w = w
        self.node = w.network.node(host)
        self.responses: list[SipResponse] = []
        self.requests: list[SipRequest] = []
        self.node.on_message = self._got
        self.host = host
        self._count = 0

    def _got(self, message: Any, source: Hop) -> None:
        (self.responses if isinstance(message, SipResponse) else self.requests).append(message)

    def send(self, method: str, uri: str, transport: str = "udp", **headers: str) -> None:
        self._count += 1
        headers.setdefault("via", f"SIP/2.0/{transport.upper()} {self.host};branch=z9hG4bKs{self._count}")
        request = raw_request(method, uri, **headers)
        self.node.send(request.to_bytes(), Hop(transport, PROXY, 5060))
        self.w.clock.run_for(1)

    @property
    def statuses(self) -> list[int]:
        return [response.status for response in self.responses]


def last_request(w: ProxyWorld, method: str, to: str) -> SipRequest:
    message = parse_datagram(w.sent(method, to)[-1].data)
    assert isinstance(message, SipRequest)
    return message


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_options_to_ourselves_is_answered() -> None:
    w = ProxyWorld()
    s = Stranger(w)
    s.send("OPTIONS", f"sip:{PROXY}")
    assert s.statuses == [200]
    assert "INVITE" in (s.responses[0].get("allow") or "")


@pytest.mark.parametrize(
    ("method", "uri", "headers", "status"),
    [
        ("MESSAGE", "sip:nobody@example.com", {}, 404),
        ("MESSAGE", "soap:x", {}, 416),
        ("MESSAGE", "sip:x@10.0.0.2", {"max_forwards": "0"}, 483),
        ("MESSAGE", "sip:x@10.0.0.2", {"proxy_require": "teleport"}, 420),
        ("MESSAGE", "sip:x@10.0.0.2", {"cseq": "x MESSAGE"}, 400),
        ("BYE", f"sip:{PROXY}", {"to": "<sip:b@example.com>;tag=gone"}, 481),
        ("MESSAGE", "sip:x@nowhere.invalid", {}, 404),
    ],
)
def test_what_cannot_be_forwarded_is_refused(method: str, uri: str, headers: dict[str, str], status: int) -> None:
    w = ProxyWorld()
    s = Stranger(w)
    s.send(method, uri, **headers)
    assert s.statuses == [status]
    if status == 420:
        assert s.responses[0].get("unsupported") == "teleport"
    w.finish()


def test_strangers_cannot_relay_but_reach_our_users() -> None:
    w = ProxyWorld(options=ProxyOptions(trusted=["10.0.0.1/32"]))
    s = Stranger(w)
    s.send("MESSAGE", "sip:x@10.0.0.2")
    s.send("MESSAGE", "sip:x@10.0.0.2", route=f"<sip:{PROXY};lr>,<sip:10.0.0.2;lr>")
    s.send("MESSAGE", "sip:x@10.0.0.2", to="<sip:b@x>;tag=b", route=f"<sip:{PROXY};lr;did=0-0123456789abcdef0123>")
    s.send("CANCEL", "sip:x@10.0.0.2")
    assert s.statuses == [403, 403, 403, 481]
    assert not [sent for sent in w.network.trace if sent.destination[0] == "10.0.0.2"]
    w.finish()


def test_a_cancel_that_cancels_nothing_here_is_passed_on_without_state() -> None:  # CAN-02
    w = ProxyWorld()
    s = Stranger(w)
    s.send("CANCEL", "sip:x@10.0.0.2")
    got = last_request(w, "CANCEL", "10.0.0.2")
    assert [via.host for via in got.vias] == [PROXY, "10.0.0.50"]
    assert got.max_forwards == 69
    assert s.statuses == []  # the next element's answer is for us alone (TXN-05)
    assert not any(w.layer.counts().values())
    w.clock.run_until_idle()


def test_strangers_with_a_password_may_relay_and_it_goes_no_further() -> None:
    w = ProxyWorld(options=ProxyOptions(trusted=[], relay_authenticated=True))
    w.core.authentication = Authentication(w.clock, "example.com", {"alice": "secret"})
    for password, events in (("wrong", ["created", "ended 407"] * 2), ("secret", ["created", "ended 407"])):
        w.journal.events.clear()
        w.network.trace.clear()
        w.call(credentials=CredentialStore([Credentials("alice", password)]))
        w.clock.run_for(1)
        assert w.journal.events[: len(events)] == events
    assert w.journal.events[-1] == "answered"
    assert not last_request(w, "INVITE", "10.0.0.2").has("proxy-authorization")
    w.alice.agent.calls()[0].bye()
    w.clock.run_for(1)
    assert w.journal.events[-1] == "ended bye", "nothing within the dialog is challenged"
    w.finish()


def test_request_that_comes_back_unchanged_is_a_loop_and_a_changed_one_a_spiral() -> None:
    w = ProxyWorld()
    s = Stranger(w)
    w.hosts["loop.test"] = [Hop("udp", PROXY, 5060)]
    w.hosts["spiral.test"] = [Hop("udp", "10.0.0.50", 5060)]
    s.send("MESSAGE", "sip:x@loop.test")
    assert s.statuses == [482]
    s.send("MESSAGE", "sip:x@spiral.test")
    back = s.requests[0].copy()
    back.uri = "sip:bob@10.0.0.2"  # other routing from here on
    back.prepend("via", "SIP/2.0/UDP 10.0.0.50;branch=z9hG4bKback")
    s.node.send(back.to_bytes(), Hop("udp", PROXY, 5060))
    w.clock.run_for(1)
    assert w.sent("MESSAGE", "10.0.0.2")
    w.clock.run_until_idle()


# -- Record-Route ------------------------------------------------------------------------------------------------------


def test_change_of_transport_makes_two_record_routes_that_are_used_up_together() -> None:
    w = ProxyWorld(rules=Rules([RouteRule(method="INVITE", targets=["sip:10.0.0.2;transport=tcp"])]))
    call = w.call("sip:bob@example.com")
    w.clock.run_for(1)
    invite = last_request(w, "INVITE", "10.0.0.2")
    upper, lower = (value.uri for value in invite.record_routes)
    assert (upper.transport, lower.transport) == ("tcp", "udp")
    assert upper.params["did"] == lower.params["did"]
    assert w.sent("INVITE", "10.0.0.2")[0].transport == "tcp"
    w.bob.calls[0].bye()
    w.clock.run_for(1)
    assert [s.transport for s in w.sent("BYE")] == ["tcp", "udp"]
    assert not last_request(w, "BYE", "10.0.0.1").has("route")
    assert call.state == "ended"
    w.finish()


def test_next_strict_router_gets_its_uri_as_request_uri() -> None:
    w = ProxyWorld()
    s = Stranger(w)
    s.send("MESSAGE", "sip:x@far.test", route="<sip:10.0.0.2>")
    got = last_request(w, "MESSAGE", "10.0.0.2")
    assert got.uri == "sip:10.0.0.2"
    assert [route.uri_text for route in got.routes] == ["sip:x@far.test"]


def test_strict_router_before_us_is_repaired() -> None:
    w = ProxyWorld()
    w.call()
    w.clock.run_for(1)
    ours = last_request(w, "INVITE", "10.0.0.2").record_routes[0].uri_text
    live = w.journal.calls[0]
    s = Stranger(w)
    s.send(
        "INFO",
        ours,
        route="<sip:bob@10.0.0.2:5060>",
        from_=f"<sip:alice@example.com>;tag={live.from_tag}",
        to=f"<sip:bob@example.com>;tag={live.to_tag}",
        call_id=live.call_id,
        cseq="900 INFO",
    )
    got = last_request(w, "INFO", "10.0.0.2")
    assert got.uri == "sip:bob@10.0.0.2:5060"
    assert not got.has("route")
    w.alice.agent.calls()[0].bye()
    w.finish()


def test_maddr_that_means_us_is_taken_off() -> None:
    w = ProxyWorld()
    s = Stranger(w)

    def take(transaction: ServerTransaction) -> bool:
        transaction.respond(transaction.request.response(202))
        return True

    w.bob.agent.on_request = take
    s.send("MESSAGE", f"sip:bob@10.0.0.2;maddr={PROXY}")
    assert last_request(w, "MESSAGE", "10.0.0.2").uri == "sip:bob@10.0.0.2"
    assert s.statuses == [202]
    w.finish()


# -- dialogs -----------------------------------------------------------------------------------------------------------


def test_session_that_is_not_refreshed_is_forgotten_and_no_bye_is_sent() -> None:
    w = ProxyWorld()
    w.call(session_expires=90)
    w.clock.run_for(1)
    assert w.core.dialogs.all()[0].session_interval == 90
    w.clock.run_for(300)
    assert w.core.counts()["dialogs"] == 1, "refreshed in time"
    w.network.drop = lambda sent: True
    before = len([s for s in w.network.trace if s.source[0] == PROXY and s.line.startswith("BYE")])
    w.clock.run_for(150)
    assert w.core.counts()["dialogs"] == 0
    assert w.journal.events[-1].startswith("ended")
    after = len([s for s in w.network.trace if s.source[0] == PROXY and s.line.startswith("BYE")])
    assert after - before <= len(w.sent("BYE", PROXY)) * 12, "only what the parties sent was passed on"
    w.clock.run_until_idle()


def test_request_for_a_dialog_that_is_over_is_481() -> None:
    w = ProxyWorld()
    call = w.call()
    w.clock.run_for(1)
    ours = last_request(w, "INVITE", "10.0.0.2").record_routes[0].uri_text
    live = w.journal.calls[0]
    call.bye()
    w.clock.run_for(1)
    s = Stranger(w)
    s.send(
        "INFO",
        "sip:bob@10.0.0.2",
        route=f"<{ours}>",
        from_=f"<sip:alice@example.com>;tag={live.from_tag}",
        to=f"<sip:bob@example.com>;tag={live.to_tag}",
        call_id=live.call_id,
        cseq="900 INFO",
    )
    assert s.statuses == [481]
    w.finish()


def test_bye_that_nobody_answers_ends_the_dialog_all_the_same() -> None:
    w = ProxyWorld()
    call = w.call()
    w.clock.run_for(1)
    w.network.drop = lambda sent: sent.destination[0] == "10.0.0.2"
    call.bye()
    w.clock.run_for(40)
    assert w.core.counts()["dialogs"] == 0
    assert w.journal.events[-1] == "ended bye"
    w.clock.run_until_idle()


def test_snapshot_lists_dialogs_as_plain_values() -> None:
    w = ProxyWorld()
    w.call()
    w.clock.run_for(1)
    (entry,) = json.loads(json.dumps(w.core.dialogs.snapshot()))
    assert entry["state"] == "confirmed"
    assert entry["caller"] == "sip:alice@example.com"
    assert entry["callee_contact"] == "sip:10.0.0.2:5060"
    assert entry["caller_tag"] == w.journal.calls[0].from_tag
    assert json.loads(json.dumps(w.journal.calls[0].snapshot()))["state"] == "confirmed"
    w.alice.agent.calls()[0].bye()
    w.finish()


def test_phone_behind_nat_is_reached_the_way_it_came_for_requests_within_the_call() -> None:
    w = ProxyWorld()
    w.alice.agent.contact = lambda hop: "sip:alice@192.168.7.7:5060"
    w.alice.node.advertised = "192.168.7.7"
    w.call()
    w.clock.run_for(1)
    w.bob.calls[0].bye()
    w.clock.run_for(1)
    assert w.sent("BYE", "10.0.0.1"), "not to 192.168.7.7"
    w.finish()


def test_session_timer_is_asked_for_if_configured() -> None:
    w = ProxyWorld(options=ProxyOptions(trusted=["10.0.0.0/8"], session_expires=1800))
    w.call(session_expires=None)
    w.clock.run_for(1)
    assert last_request(w, "INVITE", "10.0.0.2").get("session-expires") == "1800"
    assert w.core.dialogs.all()[0].session_interval == 1800
    w.alice.agent.calls()[0].bye()
    w.finish()


@pytest.mark.parametrize(
    ("said", "min_se", "runs"), [("1", "", 90), ("89", "", 90), ("1", "120", 120), ("300", "", 300), ("0", "", 0)]
)
def test_own_timer_of_a_session_is_never_shorter_than_min_se_and_the_header_passes(
    said: str, min_se: str, runs: int
) -> None:
    w = ProxyWorld()
    old = w.node.on_message

    def rewrite(message: Any, source: Hop) -> None:
        if isinstance(message, SipResponse) and message.status == 200 and source.host == "10.0.0.2":
            message.set("session-expires", f"{said};refresher=uac")
        old(message, source)

    w.node.on_message = rewrite
    s = Stranger(w)
    s.send("INVITE", "sip:bob@10.0.0.2", contact="<sip:a@10.0.0.50>", min_se=min_se, supported="timer")
    answer = next(r for r in s.responses if r.status == 200)
    assert answer.get("session-expires") == f"{said};refresher=uac", "passed on unchanged"
    s.send("ACK", "sip:10.0.0.2:5060", to=answer.get("to") or "", cseq="1 ACK")
    dialog = w.core.dialogs.all()[0]
    assert dialog.session_interval == runs
    if runs:
        w.clock.run_for(runs - 10)
        assert not w.sent("OPTIONS", "10.0.0.2"), "nobody is asked before the timer runs out"
        w.clock.run_for(45)
        assert w.sent("OPTIONS", "10.0.0.2")
    w.core.shutdown()


# -- torture -----------------------------------------------------------------------------------------------------------


def load(name: str) -> list[dict[str, Any]]:
    index = DATA / name / "index.json"
    return [{**case, "path": DATA / name / case["file"]} for case in json.loads(index.read_text())["messages"]]


TORTURE = [case for case in load("rfc4475") + load("rfc5118") if case["kind"] == "request"]


@pytest.mark.parametrize("case", TORTURE, ids=[case["name"] for case in TORTURE])
def test_torture_request_is_forwarded_or_refused_as_the_index_says(case: dict[str, Any]) -> None:
    w = ProxyWorld()
    s = Stranger(w)
    w.identity.domains.clear()  # all of them are foreign
    everywhere = w.network.node("10.0.0.60")
    forwarded: list[SipRequest] = []
    everywhere.on_message = lambda message, source: (
        forwarded.append(message) if isinstance(message, SipRequest) else None
    )
    w.core.resolve = lambda uri, done: done([Hop("udp", "10.0.0.60", 5060)])
    appended: str = case.get("wire_fixup", {}).get("append", "")
    data = case["path"].read_bytes() + appended.encode()
    everywhere.max_udp = w.node.max_udp = 65535
    s.node.send(data, Hop("udp", PROXY, 5060))
    w.clock.run_for(2)
    answers = [int(s.line.split()[1]) for s in w.sent("SIP/2.0") if s.source[0] == PROXY]
    finals = sorted({status for status in answers if status >= 200})
    wanted, codes = case["proxy"]["action"], case["proxy"].get("codes", [])
    if wanted == "forward":
        assert forwarded or (finals and finals[0] in codes), (finals, w.lines())
    elif wanted == "reject":
        assert not forwarded, w.lines()
        assert not finals or finals[0] in codes, finals
    else:
        assert forwarded or not finals or finals[0] in codes or not codes, finals
    if forwarded and case["valid"]:
        original = parse_datagram(data)
        assert forwarded[0].body == original.body
        changed = {"via", "route", "max-forwards", "max-breadth", "record-route", "content-length"}
        assert [
            line for key, line in zip(forwarded[0].keys, forwarded[0].lines, strict=True) if key not in changed
        ] == [line for key, line in zip(original.keys, original.lines, strict=True) if key not in changed]
    w.clock.run_until_idle()
    assert w.core.counts()["contexts"] == 0


def test_party_that_ignores_contact_and_record_route_reaches_its_peer_all_the_same() -> None:
    w = ProxyWorld()
    w.call()
    w.clock.run_for(1)
    live = w.journal.calls[0]
    s = Stranger(w)
    s.send(
        "BYE",
        f"sip:bob@{PROXY}",
        from_=f"<sip:alice@example.com>;tag={live.from_tag}",
        to=f"<sip:bob@example.com>;tag={live.to_tag}",
        call_id=live.call_id,
        cseq="2000000000 BYE",
    )
    assert s.statuses == [200]
    assert w.sent("BYE", "10.0.0.2")
    assert w.core.counts()["calls"] == 0
