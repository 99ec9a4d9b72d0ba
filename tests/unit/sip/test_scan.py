"""The pass over a head says the same as the thorough reader, or leaves the head to it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siprec.sip.errors import SipError
from siprec.sip.headers import CSeq
from siprec.sip.message import SipMessage, SipRequest, SipResponse, parse_datagram, parse_head, read_head
from siprec.sip.scan import NATIVE, Head, scan_head, scan_head_in_python
from siprec.sip.validate import check_request, check_response
from tests.hostile.mutations import mutations
from tests.hostile.test_parsers import MULTIPART, SIP

Scan = Callable[[bytes], Head | None]

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
ODD = [
    INVITE,
    RESPONSE,
    RESPONSE.replace(b"192.0.2.1;branch", b"255.255.255.255;branch").replace(b";x=1;tag=2", b";tag=2"),
    RESPONSE.replace(b"192.0.2.1;branch", b"192.0.2.1;maddr=255.255.255.255;branch").replace(b";x=1;tag=2", b";tag=2"),
    *(INVITE.replace(old.encode(), new.encode()) for old, new in LINES),
]
VIEWS = (
    "branch",
    "sent_by",
    "from_tag",
    "to_tag",
    "call_id",
    "cseq",
    "max_forwards",
    "content_length",
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


@pytest.fixture(params=["native", "python"])
def scan(request: pytest.FixtureRequest) -> Scan:
    """Each test runs with the twin in C and without it."""
    if request.param == "python":
        return scan_head_in_python
    if not NATIVE:
        pytest.skip("the twin in C was not built")
    return scan_head


def compare(data: bytes, scan: Scan) -> bool:
    """Whether the pass took the head; it must have found what the thorough reader and those of single headers find."""
    head = data.partition(b"\r\n\r\n")[0]
    found = scan(head)
    if found is None:
        return False
    message = read_head(head)
    assert message.problem is None
    start = (
        (0, message.method, message.uri) if isinstance(message, SipRequest) else (message.status, message.reason, "")
    )
    assert found[:3] == start
    assert found[3:5] == (message.keys, message.lines)
    assert found[5:] == tuple(getattr(message, name) for name in VIEWS)
    assert type(found[10]) is CSeq
    # And what comes of it is a message like any other.
    parsed = parse_head(head)
    assert outcome(parsed) == outcome(message)
    assert parsed.start_line == message.start_line
    return True


def test_ordinary_heads_take_the_fast_way(scan: Scan) -> None:
    assert compare(INVITE, scan)
    assert compare(SIP[0], scan)
    assert compare(MULTIPART, scan)
    assert compare(INVITE.replace(b"l: 3", b"l: 60000"), scan)
    assert compare(INVITE.replace(b'"A ', b'"\xc3\xa4 \xff\xc3 '), scan)
    assert compare(INVITE.replace(b"sip:bob@biloxi", b"sip:b\xffb@biloxi"), scan)
    assert compare(RESPONSE.replace(b";x=1;tag=2", b";tag=2"), scan)
    assert compare(RESPONSE.replace(b";x=1;tag=2", b";tag=2").replace(b"All right", b""), scan)
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
def test_odd_heads_read_the_same(data: bytes, scan: Scan) -> None:
    compare(data, scan)


@pytest.mark.parametrize("data", SIP)
def test_torture_messages_read_the_same(data: bytes, scan: Scan) -> None:
    compare(data, scan)


def test_damaged_heads_read_the_same(scan: Scan) -> None:
    taken = sum(compare(data, scan) for data in mutations([*SIP, *ODD, MULTIPART], 3000, seed=11))
    assert taken > 100


def test_spliced_heads_read_the_same(scan: Scan) -> None:
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
        compare(b"\r\n".join(head), scan)


@given(st.binary(max_size=60), st.integers(0, 400), st.integers(0, 12))
def test_any_octets_in_a_head_read_the_same(more: bytes, at: int, cut: int) -> None:
    for data in (INVITE, RESPONSE):
        damaged = data[:at] + more + data[at + cut :]
        compare(damaged, scan_head)
        compare(damaged, scan_head_in_python)


def test_the_twin_in_c_takes_octets_only() -> None:
    if NATIVE:
        with pytest.raises(TypeError):
            scan_head("INVITE")  # type: ignore[arg-type]


def test_limits_are_left_to_the_thorough_reader(scan: Scan) -> None:
    head = INVITE.partition(b"\r\n\r\n")[0]
    assert scan(head + b"\r\nX: y" * 57) is None
    assert scan(head + b"\r\n" + b"X" * 41 + b": y" * 2000) is None or scan is scan_head_in_python
    many = parse_head(head + b"\r\nX: y" * 200)
    assert len(many.lines) == 208
