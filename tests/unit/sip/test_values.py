"""Typed header values: read, written, and refused when malformed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from siprec.sip.digest import AuthValue
from siprec.sip.errors import SipError
from siprec.sip.headers import CSeq, NameAddr, ParameterValue, Reason, SessionExpires, Via
from siprec.sip.message import SipRequest
from siprec.sip.values import (
    MIN_SE,
    NIL_UUID,
    RAck,
    Replaces,
    SessionId,
    min_se,
    parse_number,
    retry_after,
    session_expires,
    session_uuids,
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
        (RAck.parse, "776656 1 INVITE"),
        (Replaces.parse, "425928@bobster.example.org;to-tag=7743;from-tag=6472;early-only"),
        (SessionId.parse, f"{UUID};remote={NIL_UUID}"),
        (SessionId.parse, UUID),
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
        (RAck.parse, "1 INVITE"),
        (Replaces.parse, "a;to-tag=b"),
        (SessionId.parse, "xyz"),
        (SessionId.parse, f"{UUID};remote=1"),
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


def message(name: str, value: str) -> SipRequest:
    request = SipRequest("INVITE", "sip:b@c")
    request.add(name, value)
    return request


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("18000 (I'm in a meeting);duration=3600", 18000),
        (" 5 ", 5),
        ("0", 0),
        ("0000000005;duration=60", 5),
        ("later", None),
        ("-1", None),
        ("5 seconds", None),
        ("", None),
        ("12345678", None),
        ("\u0665", None),
    ],
)
def test_retry_after(text: str, seconds: int | None) -> None:
    assert retry_after(message("Retry-After", text)) == seconds
    assert retry_after(message("X", text)) is None


def test_session_timer_headers() -> None:
    for text, seconds in (("1800;x=y", 1800), ("60", MIN_SE), ("-1", MIN_SE), ("9" * 5000, MIN_SE), ("", MIN_SE)):
        assert min_se(message("Min-SE", text)) == seconds
    assert min_se(message("X", "1800")) == MIN_SE
    assert session_expires(message("x", "1800;refresher=UAS")) == SessionExpires(1800, "uas")
    assert session_expires(message("Session-Expires", "soon")) is None
    assert session_expires(message("Other", "1800")) is None


def test_session_uuids_of_both_ends() -> None:
    for text, found in (
        (f"{UUID};remote={NIL_UUID}", (UUID, "")),
        (f"{NIL_UUID}; remote = {UUID.upper()}", ("", UUID)),
        (UUID, (UUID, "")),
        ("xyz", ("", "")),
        (f"{UUID};remote=1", ("", "")),
    ):
        assert session_uuids(message("Session-ID", text)) == found
    assert session_uuids(message("X", UUID)) == ("", "")
