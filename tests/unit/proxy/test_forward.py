"""What is done to a request on its way through: target, next hop, loop part, Record-Route."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from siprec.proxy import record_route
from siprec.proxy.forward import aim, loop_part
from siprec.proxy.local_domain import LocalDomain
from siprec.proxy.routes import Target
from siprec.sip.transport import Hop, SendFailed
from siprec.sip.uri import Uri
from tests.simulation.proxyworld import raw_request

HERE, THERE = ("10.0.0.1", 5060), ("192.0.2.1", 5080)


def test_the_request_uri_is_the_target_without_what_is_not_allowed_there() -> None:  # FWD-01
    request = raw_request("INVITE", "sip:bob@example.com")
    aimed = aim(request, Target(Uri.parse("sip:bob@10.0.0.2;method=BYE;user=phone?Subject=x")))
    assert aimed.uri == aimed.hop.text == "sip:bob@10.0.0.2;user=phone"
    assert (aimed.route, aimed.routed) == (None, False)


def test_the_next_hop_is_the_top_route_and_never_less_secure_than_the_request_uri() -> None:  # FWD-06
    request = raw_request("INVITE", "sip:bob@example.com", route="<sip:p1.example.net;lr>, <sip:p2.example.net;lr>")
    aimed = aim(request, Target(request.ruri))
    assert (aimed.hop.text, aimed.routed) == ("sip:p1.example.net;lr", True)
    assert (aimed.uri, aimed.route) == ("sip:bob@example.com", None)
    secure = raw_request("INVITE", "sips:bob@example.com", route="<sip:p1.example.net;lr>")
    assert aim(secure, Target(secure.ruri)).hop.scheme == "sips"
    loose = raw_request("INVITE", "sip:bob@example.com")
    aimed = aim(loose, Target(loose.ruri, route=("<sip:edge.example.net;lr>",)))
    assert (aimed.hop.host, aimed.route) == ("edge.example.net", ["<sip:edge.example.net;lr>"])


def test_a_strict_router_gets_its_own_uri_and_the_target_becomes_the_last_route() -> None:
    request = raw_request("INVITE", "sip:bob@example.com", route="<sip:strict.example.net>, <sip:p2.example.net;lr>")
    aimed = aim(request, Target(request.ruri))
    assert aimed.uri == aimed.hop.text == "sip:strict.example.net"
    assert aimed.route == ["<sip:p2.example.net;lr>", "<sip:bob@example.com>"]


def test_the_loop_part_covers_what_routing_looks_at_and_never_the_method() -> None:  # FWD-07, LOOP-02
    base = raw_request("INVITE", "sip:bob@example.com", route="<sip:p1;lr>")
    assert loop_part(base) == loop_part(
        raw_request("CANCEL", "sip:bob@example.com", route="<sip:p1;lr>", cseq="1 CANCEL")
    )
    others = [
        raw_request("INVITE", "sip:carol@example.com", route="<sip:p1;lr>"),
        raw_request("INVITE", "sip:bob@example.com", route="<sip:p2;lr>"),
        raw_request("INVITE", "sip:bob@example.com", route="<sip:p1;lr>", cseq="2 INVITE"),
        raw_request("INVITE", "sip:bob@example.com", route="<sip:p1;lr>", call_id="other"),
        raw_request("INVITE", "sip:bob@example.com", route="<sip:p1;lr>", to="<sip:bob@example.com>;tag=b"),
        raw_request("INVITE", "sip:bob@example.com", route="<sip:p1;lr>", proxy_require="x"),
        raw_request("INVITE", "sip:bob@example.com", route="<sip:p1;lr>", proxy_authorization="Digest x"),
    ]
    assert len({loop_part(each) for each in [base, *others]}) == len(others) + 1


# -- Record-Route ------------------------------------------------------------------------------------------------------


@dataclass
class Sockets:
    """Tells what would stand in Via: the local address."""

    def sent_by(self, hop: Hop) -> tuple[str, int]:
        return hop.local

    def route(self, hop: Hop, size: int) -> Hop:
        return hop

    def send(self, data: bytes, hop: Hop, failed: SendFailed | None = None) -> None:
        raise AssertionError("nothing is sent")


def routes(uri: str, source: Hop, out: Hop) -> list[str]:
    """Our Record-Route values, without the cookie."""
    identity = LocalDomain([("udp", *HERE), ("tcp", *HERE), ("tls", HERE[0], 5061), ("tcp", *THERE)])
    values = record_route.values(Sockets(), identity, source, out, "d-1", secure=uri.startswith("sips:"))
    assert all(value.endswith(";lr;did=d-1>") for value in values)  # RR-01, RR-07
    return [value.removesuffix(";lr;did=d-1>").removeprefix("<") for value in values]


def at(transport: str, local: tuple[str, int] = HERE) -> Hop:
    return Hop(transport, "203.0.113.9", 5060, local)


SECURE = (HERE[0], 5061)


@pytest.mark.parametrize(
    ("uri", "source", "out", "expected"),
    [
        # RR-05: one value, and no transport where UDP reaches us there too
        ("sip:b@x", at("udp"), at("udp"), ["sip:10.0.0.1:5060"]),
        ("sip:b@x", at("tcp"), at("tcp"), ["sip:10.0.0.1:5060"]),
        ("sip:b@x", at("tcp", THERE), at("tcp", THERE), ["sip:192.0.2.1:5080;transport=tcp"]),
        # RR-03: the sides differ, the upper value is for who is reached next
        ("sip:b@x", at("udp"), at("tcp"), ["sip:10.0.0.1:5060;transport=tcp", "sip:10.0.0.1:5060;transport=udp"]),
        (
            "sip:b@x",
            at("udp"),
            at("tcp", THERE),
            ["sip:192.0.2.1:5080;transport=tcp", "sip:10.0.0.1:5060;transport=udp"],
        ),
        # RR-04: the scheme says TLS, the transport never does
        ("sip:b@x", at("udp"), at("tls", SECURE), ["sips:10.0.0.1:5061", "sip:10.0.0.1:5060;transport=udp"]),
        # RR-02
        ("sips:b@x", at("tls", SECURE), at("tls", SECURE), ["sips:10.0.0.1:5061"]),
        (
            "sip:b@x",
            at("udp", ("2001:db8::1", 5060)),
            at("udp"),
            ["sip:10.0.0.1:5060;transport=udp", "sip:[2001:db8::1]:5060;transport=udp"],
        ),
    ],
)
def test_record_route_names_the_way_back_on_either_side(uri: str, source: Hop, out: Hop, expected: list[str]) -> None:
    assert routes(uri, source, out) == expected


@pytest.mark.parametrize(
    ("uri", "route", "secure"),
    [
        ("sip:b@x", "<sips:next.example.net;lr>", True),
        ("sips:b@x", "<sip:next.example.net;lr>", True),
        ("sip:b@x", "<sip:next.example.net;lr>", False),
        ("SIPS:b@x", "", True),
        ("sip:b@x", "", False),
    ],
)
def test_a_sips_route_or_request_uri_makes_a_sips_record_route(uri: str, route: str, secure: bool) -> None:
    request = raw_request("INVITE", uri, route=route)
    assert aim(request, Target(request.ruri)).is_secure == secure


def test_what_makes_or_refreshes_a_dialog_or_is_unknown_is_record_routed() -> None:  # FWD-04
    wanted = [record_route.wanted(m) for m in ("INVITE", "SUBSCRIBE", "REFER", "UPDATE", "NOVEL")]
    assert all(wanted)
    assert not any(record_route.wanted(m) for m in ("BYE", "INFO", "REGISTER", "MESSAGE"))
