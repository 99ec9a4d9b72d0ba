"""The pass over a head says the same as the thorough reader, or leaves the head to it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from siprec.sip.errors import SipError
from siprec.sip.message import MalformedRequest, SipMessage, SipRequest, SipResponse, parse_datagram, parse_head
from siprec.sip.scan import scan_head
from siprec.sip.validate import check_request, check_response
from tests.hostile.mutations import mutations
from tests.hostile.test_parsers import MULTIPART, SIP

INVITE = (
    b"INVITE sip:bob@biloxi.example.com SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKnashds8;rport\r\n"
    b"Max-Forwards: 70\r\n"
    b'From: "A \\" <x>;tag=no, B" <sip:alice@atlanta.example.com;x=y>;tag=1928301774;z\r\n'
    b"t: <sip:bob@biloxi.example.com>\r\n"
    b"i:a84b4c76e66710@pc33 \r\n"
    b"CSeq: 314159 INVITE\r\n"
    b"Contact: <sip:alice@192.0.2.1:5060>\r\n"
    b"l: 3\r\n\r\nabc"
)
RESPONSE = (
    b"SIP/2.0 200 All right\r\n"
    b"Via: SIP/2.0/UDP [2001:DB8::1];received=192.0.2.9;branch=z9hG4bKproxy1;rport=5060\r\n"
    b"Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKnashds8\r\n"
    b"From: Alice <sip:alice@atlanta.example.com>;tag=1\r\n"
    b"To: Bob <sip:bob@biloxi.example.com>;x=1;tag=2\r\n"
    b"Call-ID: c\r\n"
    b"CSeq: 0001 BYE\r\n"
    b"Content-Length: 0\r\n\r\n"
)
# Each of these is odd in one place, or looks so.
LINES = (
    ("Via: SIP/2.0/UDP 192.0.2.1:5060", "Via: SIP / 2.0 / UDP 192.0.2.1 : 5060"),
    ("Via: SIP/2.0/UDP 192.0.2.1:5060", "Via: SIP/2.0/UDP 192.0.2.1:99999"),
    ("Via: SIP/2.0/UDP 192.0.2.1:5060", "Via: SIP/2.0/UDP 192.0.2.1,"),
    ("Via: SIP/2.0/UDP 192.0.2.1:5060", "Via: sip/2.0/udp Host.Example:5060"),
    (";branch=z9hG4bKnashds8", ";x=1;BRANCH=z9hG4bKother;branch=z9hG4bKnashds8"),
    (";branch=z9hG4bKnashds8", "; branch = z9hG4bKother;branch=z9hG4bKnashds8"),
    (";branch=z9hG4bKnashds8", ";\xa0branch=z9hG4bKother;branch=z9hG4bKnashds8"),
    (";branch=z9hG4bKnashds8", ";branch;branch=z9hG4bKnashds8"),
    (";branch=z9hG4bKnashds8", ';x=";branch=z9hG4bKother";branch=z9hG4bKnashds8'),
    (";branch=z9hG4bKnashds8", ";branchy=z9hG4bKother;branch=z9hG4bKnashds8"),
    (";branch=z9hG4bKnashds8", ";branch=Z9HG4BK"),
    (";branch=z9hG4bKnashds8", ";branch="),
    (";branch=z9hG4bKnashds8", ""),
    (";tag=1928301774", ""),
    (";tag=1928301774", ";tag="),
    (";tag=1928301774", ";tag=a;tag=b"),
    (";tag=1928301774", ";x;tag=b"),
    (";tag=1928301774", ";tag = b"),
    (";tag=1928301774", ";TAG=b"),
    (";tag=1928301774", ';tag="b;c"'),
    (";tag=1928301774", ";tag=b,<sip:x>"),
    ("<sip:bob@biloxi.example.com>", "sip:bob@biloxi.example.com;tag=1"),
    ("<sip:bob@biloxi.example.com>", "<>"),
    ("<sip:bob@biloxi.example.com>", "< >;tag=1"),
    ("<sip:bob@biloxi.example.com>", "<sip:bob@biloxi.example.com"),
    ("<sip:bob@biloxi.example.com>", '"x <sip:bob@biloxi.example.com>'),
    ("<sip:bob@biloxi.example.com>", "a, b <sip:bob@biloxi.example.com>"),
    ("<sip:bob@biloxi.example.com>", "<sip:bob@biloxi.example.com>\r\n ;tag=folded"),
    ("<sip:bob@biloxi.example.com>", "<sip:bob@biloxi.example.com>;tag=a\rb"),
    ("i:a84b4c76e66710@pc33 ", "i: \t"),
    ("i:a84b4c76e66710@pc33 ", "i: a b"),
    ("CSeq: 314159 INVITE", "CSeq: 4294967296 INVITE"),
    ("CSeq: 314159 INVITE", "CSeq: 4294967295 INVITE"),
    ("CSeq: 314159 INVITE", "CSeq: 00000000000001 INVITE"),
    ("CSeq: 314159 INVITE", "CSeq: 1 ACK"),
    ("CSeq: 314159 INVITE", "CSeq: 1 INVITE x"),
    ("CSeq: 314159 INVITE", "CSeq: \u0661 INVITE"),
    ("Max-Forwards: 70", "Max-Forwards: 256"),
    ("Max-Forwards: 70", "Max-Forwards:255"),
    ("Max-Forwards: 70", "Max-Forwards: 007"),
    ("Max-Forwards: 70", "Max-Forwards: -1"),
    ("Max-Forwards: 70", "Max-Forwards: 1\r\nMax-Forwards: 1"),
    ("Max-Forwards: 70", "no header"),
    ("Max-Forwards: 70", ": no name"),
    ("Max-Forwards: 70", "X Y: blank in the name"),
    ("Max-Forwards: 70", "Call-ID: again"),
    ("Max-Forwards: 70", "Via: "),
    ("l: 3", "l: 2"),
    ("l: 3", "l: 4"),
    ("l: 3", "l: +3"),
    ("l: 3", "l: \u0663"),
    ("l: 3", "l: 3\r\nContent-Length: 4"),
    ("l: 3", "l: 3\r\nContent-Length: 3"),
    ("INVITE sip:bob@biloxi.example.com SIP/2.0", "INVITE sip:bob@biloxi.example.com SIP/3.0"),
    ("INVITE sip:bob@biloxi.example.com SIP/2.0", "INVITE  sip:bob@biloxi.example.com SIP/2.0"),
    ("INVITE sip:bob@biloxi.example.com SIP/2.0", "INVITE <sip:bob@biloxi.example.com> SIP/2.0"),
    ("INVITE sip:bob@biloxi.example.com SIP/2.0", "INVITE sip:bob\tx SIP/2.0"),
    ("INVITE sip:bob@biloxi.example.com SIP/2.0", "invite sip:bob@biloxi.example.com SIP/2.0"),
    ("INVITE sip:bob@biloxi.example.com SIP/2.0", "SIP/2.0 200"),
    ("INVITE sip:bob@biloxi.example.com SIP/2.0", "SIP/2.0 200 "),
    ("INVITE sip:bob@biloxi.example.com SIP/2.0", "SIP/2.0 200 SIP/2.0"),
    ("INVITE sip:bob@biloxi.example.com SIP/2.0", "SIP/2.0 99 x"),
    ("INVITE sip:bob@biloxi.example.com SIP/2.0", "sip/2.0 200 OK"),
)
ODD = [INVITE, RESPONSE, *(INVITE.replace(old.encode(), new.encode()) for old, new in LINES)]
VIEWS = (
    "branch",
    "sent_by",
    "from_tag",
    "to_tag",
    "call_id",
    "cseq",
    "max_forwards",
    "content_length",
    "problem",
)


def view(message: SipMessage, name: str) -> Any:
    try:
        return getattr(message, name)
    except SipError as error:
        return ("error", error.reason, error.status)


def outcome(message: SipRequest | SipResponse) -> list[Any]:
    """All that the pass over a head derives, and the checks."""
    found = [view(message, name) for name in VIEWS]
    try:
        check_request(message) if isinstance(message, SipRequest) else check_response(message)
    except SipError as error:
        found.append((error.reason, error.status))
    return found


def rebuilt(message: SipRequest | SipResponse) -> SipRequest | SipResponse:
    """The same message, from which nothing has been derived."""
    if isinstance(message, SipRequest):
        return SipRequest(message.method, message.uri, list(message.keys), list(message.lines))
    return SipResponse(message.status, message.reason, list(message.keys), list(message.lines))


def compare(data: bytes, scan: Callable[[bytes], Any] = scan_head) -> bool:
    """Whether the pass took the head; it must have found what the readers of single headers find."""
    head = data.partition(b"\r\n\r\n")[0]
    found = scan(head)
    try:
        message = parse_head(head)
    except MalformedRequest as error:
        message = error.request
        assert found is None
    except SipError:
        assert found is None
        return False
    assert outcome(message) == outcome(rebuilt(message))
    if found is not None:
        assert message.problem is None
        assert (message.keys, message.lines) == found[3:5]
    return found is not None


def test_ordinary_heads_take_the_fast_way() -> None:
    assert compare(INVITE)
    assert compare(SIP[0])
    assert compare(MULTIPART)
    message = parse_datagram(INVITE)
    assert (message.branch, message.sent_by, message.from_tag, message.to_tag, message.call_id) == (
        "z9hG4bKnashds8",
        "192.0.2.1:5060",
        "1928301774",
        "",
        "a84b4c76e66710@pc33",
    )
    assert (message.cseq, message.max_forwards, message.content_length) == ((314159, "INVITE"), 70, 3)
    assert message.problem is None


@pytest.mark.parametrize("data", ODD)
def test_odd_heads_read_the_same(data: bytes) -> None:
    compare(data)


@pytest.mark.parametrize("data", SIP)
def test_torture_messages_read_the_same(data: bytes) -> None:
    compare(data)


def test_damaged_heads_read_the_same() -> None:
    taken = sum(compare(data) for data in mutations([*SIP, *ODD, MULTIPART], 3000, seed=11))
    assert taken > 100


def test_spliced_heads_read_the_same() -> None:
    """Whole lines of all sorts in any order."""
    chance = random.Random(12)
    lines = [line for data in (*SIP, *ODD) for line in data.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]]
    good = INVITE.partition(b"\r\n\r\n")[0].split(b"\r\n")
    for _ in range(2000):
        head = good.copy()
        for _ in range(chance.randrange(1, 4)):
            if chance.random() < 0.5:
                head[chance.randrange(1, len(head))] = chance.choice(lines)
            else:
                head.insert(chance.randrange(1, len(head)), chance.choice(lines))
        compare(b"\r\n".join(head))
