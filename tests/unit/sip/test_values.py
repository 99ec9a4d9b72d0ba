"""Typed header values: read, written, and refused when malformed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from siprec.sip.digest import AuthValue
from siprec.sip.errors import SipError
from siprec.sip.headers import CSeq, NameAddr, ParameterValue, Reason, SessionExpires, Via
from siprec.sip.message import SipRequest
from siprec.sip.values import (
    NIL_UUID,
    MinSe,
    RAck,
    ReferTo,
    Replaces,
    RetryAfter,
    SessionId,
    Warning,
    format_date,
    parse_addresses,
    parse_date,
    parse_number,
)

UUID = "ab30317f1a784dc48ff824d0d3715d86"


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (Via.parse, "SIP/2.0/TCP [2001:db8::1]:5062;branch=z9hG4bKx;rport"),
        (CSeq.parse, "4294967295 INVITE"),
        (NameAddr.parse, '"A \\"B\\" \\\\" <sip:a@b;lr>;tag=x;y="q;r"'),
        (Reason.parse, 'Q.850;cause=16;text="Terminated"'),
        (SessionExpires.parse, "1800;refresher=uas"),
        (MinSe.parse, "90"),
        (RAck.parse, "776656 1 INVITE"),
        (Replaces.parse, "425928@bobster.example.org;to-tag=7743;from-tag=6472;early-only"),
        (SessionId.parse, f"{UUID};remote={NIL_UUID}"),
        (SessionId.parse, UUID),
        (RetryAfter.parse, "18000 (I'm in a meeting);duration=3600"),
        (RetryAfter.parse, "5"),
        (Warning.parse, '370 devnull "Choose a \\"bigger\\" pipe"'),
        (ParameterValue.parse, 'multipart/mixed;boundary="a b"'),
        (AuthValue.parse, 'Digest realm="a, b", nonce="x\\"y", algorithm=MD5, stale=true'),
    ],
)
def test_values_are_written_as_they_were_read(parse: Callable[[str], object], text: str) -> None:
    assert str(parse(text)) == text


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (Via.parse, "SIP/3.0/UDP a"),
        (Via.parse, "SIP/2.0/UDP a:65536"),
        (Via.parse, ""),
        (CSeq.parse, "4294967296 INVITE"),
        (CSeq.parse, "1"),
        (CSeq.parse, "１ INVITE"),
        (NameAddr.parse, '"x <sip:a@b>'),
        (NameAddr.parse, "Bell, Alexander <sip:a@b>"),
        (NameAddr.parse, "<sip:a@b"),
        (NameAddr.parse, "<>"),
        (NameAddr.parse, '"x" sip:a@b'),
        (NameAddr.parse, "<sip:a@b> x"),
        (NameAddr.parse, "sip:a@b?x=y"),
        (SessionExpires.parse, "soon"),
        (MinSe.parse, "-1"),
        (RAck.parse, "1 INVITE"),
        (Replaces.parse, "a;to-tag=b"),
        (SessionId.parse, "xyz"),
        (SessionId.parse, f"{UUID};remote=1"),
        (RetryAfter.parse, "later"),
        (Warning.parse, "370 devnull pipe"),
        (parse_date, "Fri, 01 Jan 2010 16:00:00 EST"),
        (parse_date, "Fri, 31 Feb 2010 16:00:00 GMT"),
        (parse_number, "9" * 5000),
    ],
)
def test_malformed_values_are_refused_with_a_sip_error(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(SipError):
        parse(text)


def test_parameters_of_a_contact() -> None:
    contact = NameAddr.parse('<sip:a@b>;q=0.7;expires=60;+sip.src;+sip.instance="<urn:uuid:1>";video="FALSE"')
    assert (contact.q, contact.expires) == (0.7, 60)
    assert [contact.has_feature(name) for name in ("+sip.src", "+sip.instance", "video", "audio")] == [
        True,
        True,
        False,
        False,
    ]
    plain = NameAddr.parse("sip:a@b;q=2;expires=soon")
    assert (plain.q, plain.expires) == (1.0, None)


def test_branch_and_tag_are_those_of_the_parameters() -> None:
    via = Via.parse("SIP/2.0/UDP a;branch=z9hG4bK1;rport")
    assert via.branch == "z9hG4bK1"
    via.params["rport"] = "5070"
    assert str(via) == "SIP/2.0/UDP a;branch=z9hG4bK1;rport=5070"
    to = NameAddr.parse("<sip:a@b>")
    assert (to.tag, str(to)) == ("", "<sip:a@b>")
    assert NameAddr("", "sip:a@b", {"tag": "x"}).tag == "x"
    assert str(NameAddr("", "sip:a@b", {"tag": "x"})) == "<sip:a@b>;tag=x"


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("<sip:a@b>;tag=x", "x"),
        ("<sip:a@b> ; TAG = x ;y", "x"),
        ("<sip:a@b>;a=1;tag=x", "x"),
        ('<sip:a@b>;a="tag=y";tag=x', "x"),
        ("sip:a@b;tag=x", "x"),
        ("<sip:a@b;tag=no>", ""),
        ("<sip:a@b>;tag", ""),
    ],
)
def test_tag(text: str, tag: str) -> None:
    assert NameAddr.parse(text).tag == tag


def test_attended_transfer_is_understood() -> None:
    refer = ReferTo.parse("<sip:bob@b.example?Replaces=12345%40a.example%3Bto-tag%3D1%3Bfrom-tag%3D2>")
    assert refer.method == "INVITE"
    assert refer.replaces == Replaces("12345@a.example", "1", "2")
    assert ReferTo.parse("<sip:bob@b.example;method=BYE>").method == "BYE"


def test_session_id_turned_round() -> None:
    assert str(SessionId(UUID).reversed()) == f"{NIL_UUID};remote={UUID}"


def test_date_there_and_back() -> None:
    assert format_date(parse_date("Sat, 13 Nov 2010 23:29:00 GMT")) == "Sat, 13 Nov 2010 23:29:00 GMT"
    assert format_date(0.9) == "Thu, 01 Jan 1970 00:00:00 GMT"


def test_retry_after_duration() -> None:
    assert [RetryAfter.parse(text).duration for text in ("5;duration=60", "5", "5;duration=x")] == [60, None, None]


def test_identities_are_plain_lists_without_the_broken_ones() -> None:
    request = SipRequest("INVITE", "sip:b@c")
    request.add("P-Asserted-Identity", '"Cullen" <sip:fluffy@cisco.com>, tel:+14085264000')
    request.add("P-Asserted-Identity", "<broken")
    request.add("Diversion", "<sip:x@y>;reason=unconditional;counter=1")
    found = parse_addresses(request.values("p-asserted-identity"))
    assert [address.uri.user for address in found] == ["fluffy", "+14085264000"]
    assert parse_addresses(request.values("diversion"))[0].params["reason"] == "unconditional"
