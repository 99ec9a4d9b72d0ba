"""Messages to be sent: patched, answered and built without a message object, line by line as RFC 3261 16 says."""

from __future__ import annotations

import pytest

from siprec.sip.errors import SipError, UnsafeText
from siprec.sip.forwarding import (
    build_request,
    build_response,
    compile_headers,
    forward_request,
    forward_response,
    push_via,
)
from siprec.sip.message import SipRequest, SipResponse, parse_datagram

SDP = b"v=0\r\ns=-\r\n"
INVITE = (
    b"INVITE sip:bob@biloxi.example.com SIP/2.0\r\n"
    b"v: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKa, SIP/2.0/TCP 192.0.2.0;branch=z9hG4bKb\r\n"
    b"max-forwards: 70\r\n"
    b"Route: <sip:192.0.2.9;lr>\r\n"
    b'From: "J\xc3\xbcrg \xff" <sip:alice@atlanta.example.com>;tag=1\r\n'
    b"To: <sip:bob@biloxi.example.com>\r\n"
    b"Call-ID: a84b4c\r\n"
    b"CSeq: 1 INVITE\r\n"
    b"X-Odd:kept   as it is \r\n"
    b"Content-Type: application/sdp\r\n"
    b"l: 10\r\n\r\n" + SDP
)
OK = (
    b"SIP/2.0 200 Well then\r\n"
    b"Via: SIP/2.0/UDP 192.0.2.9;branch=z9hG4bKp\r\n"
    b"Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKa\r\n"
    b"Record-Route: <sip:192.0.2.9;lr>\r\n"
    b"From: <sip:alice@atlanta.example.com>;tag=1\r\n"
    b"To: <sip:bob@biloxi.example.com>;tag=2\r\n"
    b"Call-ID: a84b4c\r\n"
    b"CSeq: 1 INVITE\r\n"
    b"Content-Type: application/sdp\r\n"
    b"Content-Length: 10\r\n\r\n" + SDP
)


def request(data: bytes = INVITE) -> SipRequest:
    message = parse_datagram(data)
    assert isinstance(message, SipRequest)
    return message


def response(data: bytes = OK) -> SipResponse:
    message = parse_datagram(data)
    assert isinstance(message, SipResponse)
    return message


def test_only_max_forwards_changes_unless_more_is_asked_for() -> None:
    assert forward_request(request()) == INVITE.replace(b"max-forwards: 70", b"Max-Forwards: 69")


def test_a_request_without_max_forwards_gets_70() -> None:
    data = forward_request(request(INVITE.replace(b"max-forwards: 70\r\n", b"")))
    assert b"l: 10\r\nMax-Forwards: 70\r\n\r\n" in data


def test_malformed_max_forwards_is_refused() -> None:
    with pytest.raises(SipError, match="Max-Forwards"):
        forward_request(request(INVITE.replace(b"70", b"-1")))


def test_all_that_a_proxy_changes_in_a_request() -> None:
    data = forward_request(
        request(),
        uri="sip:bob@192.0.2.4",
        route=(),
        record_route=("<sip:192.0.2.9;lr;did=1>", "<sip:10.0.0.9;lr;did=1>"),
        changes={"x-new": "1", "x-odd": None, "call-id": "other"},
        body=b"v=0\r\n",
    )
    assert push_via(data, "SIP/2.0/UDP 192.0.2.9;rport;branch=z9hG4bKc") == (
        b"INVITE sip:bob@192.0.2.4 SIP/2.0\r\n"
        b"Via: SIP/2.0/UDP 192.0.2.9;rport;branch=z9hG4bKc\r\n"
        b"Record-Route: <sip:192.0.2.9;lr;did=1>\r\n"
        b"Record-Route: <sip:10.0.0.9;lr;did=1>\r\n"
        b"v: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKa, SIP/2.0/TCP 192.0.2.0;branch=z9hG4bKb\r\n"
        b"Max-Forwards: 69\r\n"
        b'From: "J\xc3\xbcrg \xff" <sip:alice@atlanta.example.com>;tag=1\r\n'
        b"To: <sip:bob@biloxi.example.com>\r\n"
        b"Call-ID: other\r\n"
        b"CSeq: 1 INVITE\r\n"
        b"Content-Type: application/sdp\r\n"
        b"Content-Length: 5\r\n"
        b"X-New: 1\r\n\r\n"
        b"v=0\r\n"
    )


def test_record_route_goes_above_the_record_routes_of_others() -> None:
    data = forward_request(
        request(INVITE.replace(b"Call-ID", b"Record-Route: <sip:a;lr>\r\nRecord-Route: <sip:b;lr>\r\nCall-ID")),
        record_route=("<sip:p;lr>",),
    )
    assert parse_datagram(data).values("record-route") == ["<sip:p;lr>", "<sip:a;lr>", "<sip:b;lr>"]


@pytest.mark.parametrize("routes", [["<sip:a;lr>"], ["<sip:a;lr>", "<sip:b;lr>"]])
def test_routes_are_replaced_in_their_place_or_put_on_top(routes: list[str]) -> None:
    several = INVITE.replace(b"Call-ID", b"Route: <sip:x;lr>, <sip:y;lr>\r\nCall-ID")
    for data in (INVITE, several, INVITE.replace(b"Route: <sip:192.0.2.9;lr>\r\n", b"")):
        message = parse_datagram(forward_request(request(data), route=routes))
        assert message.values("route") == routes
        before = parse_datagram(data)
        at = before.keys.index("route") if "route" in before.keys else 0
        assert message.keys.index("route") == at
        assert message.get("call-id") == "a84b4c"
        assert len(message.lines) == len(message.keys)


def test_a_header_that_occurs_several_times_is_replaced_by_one() -> None:
    data = INVITE.replace(b"Call-ID", b"Supported: timer\r\nk: 100rel\r\nSupported: x\r\nCall-ID")
    message = parse_datagram(forward_request(request(data), changes={"supported": "y"}))
    assert message.get_all("supported") == ["y"]
    message = parse_datagram(forward_request(request(data), changes={"supported": None}))
    assert not message.has("supported")
    assert message.get("call-id") == "a84b4c"


def test_an_empty_body_takes_its_type_along() -> None:
    message = parse_datagram(forward_request(request(), body=b""))
    assert (message.body, message.get("content-type"), message.get("content-length")) == (b"", None, "0")


def test_a_body_of_another_type() -> None:
    message = parse_datagram(forward_request(request(), body=b"abc", content_type="text/plain"))
    assert (message.body, message.get("content-type"), message.get("content-length")) == (b"abc", "text/plain", "3")


def test_content_length_is_added_when_it_is_missing() -> None:
    message = forward_request(request(INVITE.replace(b"l: 10\r\n", b"")))
    assert b"\r\nContent-Length: 10\r\n\r\n" in message


def test_folded_lines_stay_as_they_came() -> None:
    folded = INVITE.replace(b"X-Odd:kept", b"X-Odd:kept\r\n  folded")
    assert forward_request(request(folded)) == folded.replace(b"max-forwards: 70", b"Max-Forwards: 69")


def test_a_response_loses_its_top_via() -> None:
    assert forward_response(response()) == OK.replace(b"Via: SIP/2.0/UDP 192.0.2.9;branch=z9hG4bKp\r\n", b"")
    joined = OK.replace(b"z9hG4bKp\r\nVia:", b"z9hG4bKp,")
    assert forward_response(response(joined)) == OK.replace(b"Via: SIP/2.0/UDP 192.0.2.9;branch=z9hG4bKp\r\n", b"")


def test_a_response_with_another_body_and_header() -> None:
    message = parse_datagram(forward_response(response(), body=b"v=0\r\n", changes={"session-expires": "90"}))
    assert (message.start_line, message.body) == ("SIP/2.0 200 Well then", b"v=0\r\n")
    assert (message.get("session-expires"), message.get("content-length")) == ("90", "5")


def test_a_response_copies_what_belongs_to_its_request() -> None:
    invite = request(INVITE.replace(b"Call-ID", b"Record-Route: <sip:a;lr>\r\nTimestamp: 1\r\nCall-ID"))
    for status, reason in ((100, ""), (180, ""), (200, "Fine"), (486, "")):
        data = build_response(invite, status, reason, to_tag="t" if status > 100 else "", headers=[("server", "s")])
        old = invite.response(status, reason, to_tag="t" if status > 100 else "", headers=[("server", "s")])
        assert data == old.to_bytes()
    data = build_response(invite, 200, to_tag="t", body=SDP, content_type="application/sdp")
    assert data == invite.response(200, to_tag="t", body=SDP, content_type="application/sdp").to_bytes()
    assert parse_datagram(data).to.tag == "t"


def test_an_own_request_from_compiled_headers() -> None:
    block = compile_headers([("user-agent", "x"), ("Require", "siprec")])
    assert block == ("User-Agent: x", "Require: siprec")
    lines = ("Max-Forwards: 70", "From: <sip:a@b>;tag=1", "To: <sip:c@d>", "Call-ID: 1", "CSeq: 1 INVITE", *block)
    data = build_request("INVITE", "sip:c@d", lines, SDP, "application/sdp", via="SIP/2.0/UDP h;branch=z9hG4bKq")
    assert data == (
        b"INVITE sip:c@d SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bKq\r\nMax-Forwards: 70\r\n"
        b"From: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\nCall-ID: 1\r\nCSeq: 1 INVITE\r\nUser-Agent: x\r\n"
        b"Require: siprec\r\nContent-Type: application/sdp\r\nContent-Length: 10\r\n\r\n" + SDP
    )


EVIL = "x\r\nEvil: 1"


def test_no_line_end_gets_into_a_message() -> None:
    with pytest.raises(UnsafeText):
        forward_request(request(), uri=EVIL)
    with pytest.raises(UnsafeText):
        forward_request(request(), route=[EVIL])
    with pytest.raises(UnsafeText):
        forward_request(request(INVITE.replace(b"Route: <sip:192.0.2.9;lr>\r\n", b"")), route=[EVIL])
    with pytest.raises(UnsafeText):
        forward_request(request(), record_route=[EVIL])
    with pytest.raises(UnsafeText):
        forward_request(request(), changes={"x-odd": EVIL})
    with pytest.raises(UnsafeText):
        forward_request(request(), body=b"x", content_type=EVIL)
    with pytest.raises(UnsafeText):
        forward_response(response(), changes={"x-odd": EVIL})
    with pytest.raises(UnsafeText):
        push_via(INVITE, EVIL)
    with pytest.raises(UnsafeText):
        build_response(request(), 400, EVIL)
    with pytest.raises(UnsafeText):
        build_response(request(), 400, headers=[("X", EVIL)])
    with pytest.raises(UnsafeText):
        compile_headers([(EVIL, "x")])
    with pytest.raises(UnsafeText):
        compile_headers([("x", EVIL)])
    for arguments in ((EVIL, ()), ("sip:a", (f"X: {EVIL}",)), ("sip:a", (), b"x", EVIL), ("sip:a", (), b"", "", EVIL)):
        with pytest.raises(UnsafeText):
            build_request("INVITE", *arguments)


def test_control_characters_of_strangers_become_blanks() -> None:
    assert b"X-Odd: a b\r\n" in forward_request(request(), changes={"x-odd": "a\x00b"})
    assert b"X: a b\r\n" in build_request("INVITE", "sip:a", ("X: a\x00b",))
