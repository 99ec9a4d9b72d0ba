"""Headers without a value, of commas, or with empty angle brackets: an answer or nothing, never an exception."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from siprec.proxy.options import ProxyOptions
from siprec.sip.errors import SipError
from siprec.sip.message import SipRequest, SipResponse, parse_datagram
from siprec.sip.transport import Hop
from tests.simulation.phones import ANSWER, SDP, TwoPhones
from tests.simulation.proxyworld import PROXY, ProxyWorld, raw_request
from tests.simulation.test_proxy_registrar import Registering
from tests.simulation.test_proxy_routing import Stranger, last_request
from tests.simulation.transferworld import SRS, TransferWorld

HEADERS = (
    "Accept",
    "Accept-Contact",
    "Alert-Info",
    "Allow",
    "Allow-Events",
    "Authorization",
    "Call-ID",
    "Call-Info",
    "Contact",
    "Content-Disposition",
    "Content-Encoding",
    "Content-Length",
    "Content-Type",
    "CSeq",
    "Date",
    "Diversion",
    "Error-Info",
    "Event",
    "Expires",
    "From",
    "History-Info",
    "Identity",
    "Join",
    "Max-Breadth",
    "Max-Forwards",
    "MIME-Version",
    "Min-Expires",
    "Min-SE",
    "P-Asserted-Identity",
    "P-Preferred-Identity",
    "Path",
    "Proxy-Authenticate",
    "Proxy-Authorization",
    "Proxy-Require",
    "RAck",
    "Reason",
    "Record-Route",
    "Refer-To",
    "Referred-By",
    "Remote-Party-ID",
    "Replaces",
    "Require",
    "Retry-After",
    "Route",
    "RSeq",
    "Service-Route",
    "Session-Expires",
    "Session-ID",
    "Subscription-State",
    "Supported",
    "Timestamp",
    "To",
    "Unsupported",
    "User-Agent",
    "User-to-User",
    "Via",
    "Warning",
    "WWW-Authenticate",
    "X-Unknown",
)
VALUES = ("", ",", "<>", "<>,<>", ";", "<sip:>", "@")
METHODS = (
    "INVITE",
    "ACK",
    "BYE",
    "CANCEL",
    "OPTIONS",
    "MESSAGE",
    "SUBSCRIBE",
    "NOTIFY",
    "REFER",
    "PRACK",
    "UPDATE",
    "REGISTER",
    "X",
)


def put(message: SipRequest | SipResponse, header: str, value: str, how: str) -> bytes:
    """The message with such a header in place of its own, or above or below it."""
    key = header.lower()
    if how == "instead":
        message.remove(key)
    line = f"{header}: {value}"
    if how == "below":
        message.write_line(key, line)
    else:
        message.keys.insert(0, key)
        message.lines.insert(0, line)
    return message.to_bytes()


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing raises."""
    with caplog.at_level(logging.WARNING, "siprec"):
        yield
    assert not [record.getMessage() for record in caplog.records if record.exc_info]


def within(w: ProxyWorld) -> dict[str, str]:
    """The headers of a request within the latest call."""
    live = w.journal.calls[-1]
    return {
        "from_": f"<sip:alice@example.com>;tag={live.from_tag}",
        "to": f"<sip:bob@example.com>;tag={live.to_tag}",
        "call_id": live.call_id,
        "route": f"<{last_request(w, 'INVITE', '10.0.0.2').record_routes[0].uri_text}>",
    }


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("header", HEADERS)
def test_proxy_and_registrar_answer_every_empty_header(header: str) -> None:
    w = ProxyWorld(options=ProxyOptions(trusted=["10.0.0.50/32"], session_expires=1800), relay=True)
    w.core.media.use = "always"
    Registering(w)("<sip:bob@10.0.0.2:5060>")
    strangers = Stranger(w), Stranger(w, "10.0.0.51")
    w.call("sip:bob@example.com")
    w.clock.run_for(1)
    inside = within(w)
    combinations = itertools.product(VALUES, METHODS, (True, False))
    for n, (value, method, in_dialog) in enumerate(combinations):
        stranger, how = strangers[n // 3 % 2], ("instead", "above", "below")[n % 3]
        uri = "sip:10.0.0.2:5060" if in_dialog else "sip:bob@example.com"
        if method == "REGISTER":
            in_dialog, uri = False, "sip:example.com"
        via = f"SIP/2.0/UDP {stranger.host};branch=z9hG4bKe{n}"
        more = inside if in_dialog else {"call_id": f"empty{n}"}
        headers = {"contact": f"<sip:x@{stranger.host}>", "cseq": f"{5000 + n} {method}", **more}
        request = raw_request(method, uri, via=via, **headers)
        if method in ("INVITE", "UPDATE"):
            request.set_body(SDP, "application/sdp")
        stranger.node.send(put(request, header, value, how), Hop("udp", PROXY, 5060))
        w.clock.run_for(0.05)
    w.clock.run_for(40)
    assert not [s.line for s in w.sent("SIP/2.0 500") if s.source[0] == PROXY and s.destination[0] != "10.0.0.1"]
    w.core.shutdown()


@pytest.mark.parametrize("value", ["", ",", " , ,", "<>", "<>,<>", ";"])
@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("in_dialog", [True, False])
@pytest.mark.usefixtures("quiet")
def test_empty_route_is_a_bad_request(value: str, trusted: bool, in_dialog: bool) -> None:
    w = ProxyWorld(options=ProxyOptions(trusted=["10.0.0.50/32"] if trusted else []))
    Registering(w)("<sip:bob@10.0.0.2:5060>")
    w.call("sip:bob@example.com")
    w.clock.run_for(1)
    s = Stranger(w)
    for method in ("INVITE", "MESSAGE", "BYE", "REFER", "X"):
        s.responses.clear()
        more = within(w) if in_dialog else {}
        request = raw_request(
            method,
            "sip:bob@example.com",
            **{**more, "via": f"SIP/2.0/UDP 10.0.0.50;branch=z9hG4bKr{method}", "cseq": f"5000 {method}"},
        )
        s.node.send(put(request, "Route", value, "instead"), Hop("udp", PROXY, 5060))
        w.clock.run_for(0.2)
        assert {r.status for r in s.responses if r.status >= 200 and r.cseq.method == method} == {400}, method
    w.core.shutdown()


@pytest.mark.usefixtures("quiet")
def test_commas_after_our_own_route_are_no_route() -> None:
    w = ProxyWorld(options=ProxyOptions(trusted=[]))
    Registering(w)("<sip:bob@10.0.0.2:5060>")
    request = raw_request("MESSAGE", "sip:bob@example.com", via="SIP/2.0/UDP 10.0.0.50;branch=z9hG4bKc")
    request.add("Route", f"<sip:{PROXY};lr>,")
    request.add("Route", " , ,")
    Stranger(w).node.send(request.to_bytes(), Hop("udp", PROXY, 5060))
    w.clock.run_for(1)
    assert not last_request(w, "MESSAGE", "10.0.0.2").has("route")
    w.clock.run_for(40)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("header", HEADERS)
def test_proxy_forwards_or_drops_responses_with_every_empty_header(header: str) -> None:
    options = ProxyOptions(trusted=["10.0.0.0/8"], media_use="always", recurse=True)
    w = ProxyWorld(relay=True, options=options)
    phone = w.bob.node
    for n, value in enumerate(VALUES):
        sent = 0

        def take(message: Any, source: Hop, value: str = value, n: int = n) -> None:
            nonlocal sent
            if isinstance(message, SipRequest) and message.method != "ACK":
                for status in (183, (200, 302, 401, 407, 422, 486, 503)[n % 7]):
                    how = ("instead", "above", "below")[sent % 3]
                    sent += 1
                    headers = [("Contact", "<sip:bob@10.0.0.2:5060>")]
                    response = message.response(status, to_tag=f"b{n}", headers=headers, body=ANSWER)
                    response.set("content-type", "application/sdp")
                    phone.send(put(response, header, value, how), Hop("udp", PROXY, 5060))

        phone.on_message = take
        for method in ("INVITE", "SUBSCRIBE", "BYE", "UPDATE"):
            via = f"SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKp{n}{method}"
            contact = "<sip:a@10.0.0.1:5060>"
            request = raw_request(method, "sip:bob@10.0.0.2", via=via, call_id=f"c{n}{method}", contact=contact)
            request.set_body(SDP, "application/sdp")
            w.alice.node.send(request.to_bytes(), Hop("udp", PROXY, 5060))
        w.clock.run_for(2)
        assert sent
    w.core.shutdown()


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("header", HEADERS)
def test_user_agent_takes_requests_and_responses_with_every_empty_header(header: str) -> None:
    w = TwoPhones()
    call, incoming = w.established(session_expires=1800)
    assert incoming.dialog is not None
    remote_tag = incoming.dialog.remote_tag
    bob, alice = w.bob.node, w.alice.node
    old = alice.on_message
    for n, value in enumerate(VALUES):
        for m, method in enumerate(METHODS):
            for in_dialog in (True, False):
                how = ("instead", "above", "below")[(n + m) % 3]
                via = f"SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKu{n}{method}{in_dialog}"
                more = {"call_id": f"ua{n}{m}"}
                if in_dialog:
                    tags = {"from_": f"<sip:alice@example.com>;tag={remote_tag}"}
                    more = {**tags, "to": f"<sip:b@x>;tag={incoming.local_tag}", "call_id": call.call_id}
                headers = {"contact": "<sip:a@10.0.0.1>", "cseq": f"{9000 + n * 20 + m} {method}", **more}
                request = raw_request(method, "sip:10.0.0.2:5060", via=via, **headers)
                if method in ("INVITE", "UPDATE"):
                    request.set_body(SDP, "application/sdp")
                bob.deliver(put(request, header, value, how), Hop("udp", "10.0.0.1", 5060, ("10.0.0.2", 5060)))
        w.clock.run_for(0.5)

        def spoilt(message: Any, source: Hop, value: str = value, n: int = n) -> None:
            if isinstance(message, SipResponse) and message.status > 100:
                how = ("instead", "above", "below")[n % 3]
                try:
                    message = parse_datagram(put(message, header, value, how))
                except SipError:
                    return
            old(message, source)

        alice.on_message = spoilt
        w.call()
        w.clock.run_for(2)
        alice.on_message = old
    for each in (*w.alice.agent.calls(), *w.bob.agent.calls()):
        each.bye()
    w.clock.run_for(100)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("header", HEADERS)
def test_recording_client_takes_answers_of_an_srs_with_every_empty_header(header: str) -> None:
    w = TransferWorld(2, setup_timeout=2.0, end_timeout=2.0, watch=0)
    take, count = w.node.on_message, 0
    values = itertools.cycle(VALUES)

    def spoilt(message: Any, source: Hop) -> None:
        nonlocal count
        if source.host == SRS and isinstance(message, SipResponse) and message.status > 100:
            count += 1
            try:
                message = parse_datagram(put(message, header, next(values), ("above", "instead", "below")[count % 3]))
            except SipError:
                return
        take(message, source)

    w.node.on_message = spoilt
    for status in (200, 302, 401, 422, 503, 200, 200, 491, 200):
        w.srs.status = status
        call = w.call(session_expires=1800)
        w.clock.run_for(1)
        live = w.journal.calls[-1]
        assert live.state == "confirmed", "the call is never harmed"
        live.siprec_pause_recording()
        w.clock.run_for(1)
        call.bye()
        w.clock.run_for(5)
        assert live.state == "terminated"
    assert count
    w.clock.run_for(100)
