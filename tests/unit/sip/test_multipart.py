"""Multipart bodies: what is read in spite of slips, and what is written."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siprec.sip.errors import SipError
from siprec.sip.headers import ParameterValue
from siprec.sip.message import SipRequest, parse_datagram
from siprec.sip.multipart import (
    MAX_DEPTH,
    MAX_PARTS,
    METADATA_TYPES,
    Part,
    build_multipart,
    find_metadata,
    find_part,
    parts_of,
    replace_part,
    sdp_part,
    split_body,
)

SDP = b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\n"
XML = b"<?xml version='1.0'?>\r\n<recording xmlns='urn:ietf:params:xml:ns:recording:1'/>"


def invite(content_type: str | None, body: bytes) -> SipRequest:
    head = f"Content-Type: {content_type}\r\n" if content_type is not None else ""
    octets = f"INVITE sip:srs@example.com SIP/2.0\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    message = parse_datagram(octets)
    assert isinstance(message, SipRequest)
    return message


def test_body_without_multipart_is_one_part_with_the_message_headers() -> None:
    message = invite("Application/SDP ; charset=x", SDP)
    message.add("Content-Disposition", "session;handling=optional")
    (part,) = parts_of(message)
    assert (part.media_type, part.disposition, part.body, part.handling_required) == (
        "application/sdp",
        "session",
        SDP,
        False,
    )
    assert parts_of(invite(None, b"")) == []


def test_sdp_and_metadata_are_found_with_their_dispositions() -> None:
    body = (
        b"a preamble\r\n--foobar\r\nContent-Type: application/sdp\r\n\r\n" + SDP + b"\r\n--foobar  \r\n"
        b"content-type : application/rs-metadata\r\nContent-Disposition:\r\n recording-session\r\n\r\n"
        + XML
        + b"\r\n--foobar--\r\nepilogue"
    )
    message = invite('multipart/mixed;boundary="foobar"', body)
    sdp = find_part(message, "application/sdp")
    assert sdp is not None
    assert sdp.body == SDP
    assert sdp.handling_required
    metadata = find_metadata(message)
    assert metadata is not None
    assert metadata.body == XML
    assert metadata.header("CONTENT-DISPOSITION") == "recording-session"
    assert find_part(message, "text/plain") is None
    assert find_part(message, METADATA_TYPES, "session") is None


def test_slips_of_rfc_8068_are_read() -> None:
    # No empty line after the part headers, no disposition, no closing delimiter, bare LF.
    body = (
        b"--foobar\nContent-Type: application/sdp\n"
        + SDP
        + b"\n--foobar\nContent-Type: application/rs-metadata+xml\n"
        + XML
    )
    message = invite("multipart/mixed; boundary=foobar", body)
    assert [(part.media_type, part.disposition, part.body) for part in parts_of(message)] == [
        ("application/sdp", "session", SDP),
        ("application/rs-metadata+xml", "recording-session", XML),
    ]


def test_missing_boundary_parameter_is_read_from_the_body() -> None:
    content_type, body = build_multipart([Part.make("application/sdp", SDP)])
    assert "boundary" in content_type
    assert [part.body for part in parts_of(invite("multipart/mixed", body))] == [SDP]


def test_boundary_that_is_the_prefix_of_another_does_not_end_the_part() -> None:
    body = b"--a\r\n\r\none\r\n--ab\r\ntwo\r\n--a--"
    assert [part.body for part in parts_of(invite("multipart/mixed;boundary=a", body))] == [b"one\r\n--ab\r\ntwo"]


def test_empty_and_headerless_parts_are_kept() -> None:
    body = b"--a\r\n--a\r\n\r\n\r\n--a\r\n\r\nContent-Type: no/header\r\n--a--"
    parts = parts_of(invite("multipart/mixed;boundary=a", body))
    assert [part.body for part in parts] == [b"", b"", b"Content-Type: no/header"]
    assert {part.media_type for part in parts} == {"text/plain"}


def test_nested_parts_are_flattened_and_the_last_alternative_wins() -> None:
    kind, alternatives = build_multipart(
        [Part.make("application/sdp", b"v=0\r\ns=old\r\n"), Part.make("application/sdp", b"v=0\r\ns=new\r\n")],
        "alternative",
    )
    content_type, body = build_multipart(
        [Part.make("text/plain", b"hello"), Part.make(kind, alternatives), Part.make("application/sdp", SDP)]
    )
    message = invite(content_type, body)
    assert [part.alternative for part in parts_of(message)] == [0, 1, 1, 0]
    found = find_part(message, "application/sdp")
    assert found is not None
    assert found.body == b"v=0\r\ns=new\r\n"


def test_replacing_a_nested_part_leaves_all_other_octets_alone() -> None:
    inner = b"--in\r\nContent-Length: 4\r\nContent-Type:  application/sdp\r\n\r\nv=0\n\r\n--in--\r\nodd"
    outer = b"pre\r\n--out\r\nContent-Type: multipart/alternative;boundary=in\r\n\r\n" + inner + b"\r\n--out--\r\npost"
    message = invite("multipart/mixed;boundary=out", outer)
    message.add("Subject", "  kept")
    part = find_part(message, "application/sdp")
    assert part is not None
    replace_part(message, part, SDP)
    expected = outer.replace(b"v=0\n", SDP).replace(b"Content-Length: 4", b"Content-Length: %d" % len(SDP))
    assert message.body == expected
    assert message.get("content-length") == str(len(expected))
    assert parse_datagram(message.to_bytes()).body == expected
    with pytest.raises(ValueError, match="present body"):
        replace_part(message, part, b"v=0\r\n")
    again = find_part(message, "application/sdp")
    assert again is not None
    assert again.body == SDP
    with pytest.raises(SipError):
        replace_part(message, again, b"v=0\r\n--out--\r\n")


def test_replacing_a_plain_body_keeps_the_content_type_line() -> None:
    message = invite("application/sdp;x=Y", SDP)
    replace_part(message, parts_of(message)[0], b"v=0\r\n")
    assert message.to_bytes().endswith(b"Content-Type: application/sdp;x=Y\r\nContent-Length: 5\r\n\r\nv=0\r\n")


def test_transfer_encodings_are_undone_and_redone() -> None:
    encoded = Part.make("application/sdp", b"dj0wDQo=\r\n", headers=[("Content-Transfer-Encoding", "BASE64")])
    content_type, body = build_multipart([encoded])
    message = invite(content_type, body)
    part = parts_of(message)[0]
    assert part.content == b"v=0\r\n"
    replace_part(message, part, SDP)
    assert parts_of(message)[0].content == SDP
    assert Part.make("a/b", b"v=3D0", headers=[("content-transfer-encoding", "quoted-printable")]).content == b"v=0"
    with pytest.raises(SipError, match="unknown"):
        _ = Part.make("a/b", b"", headers=[("content-transfer-encoding", "x-uu")]).content
    with pytest.raises(SipError, match="base64"):
        _ = Part.make("a/b", b"abc", headers=[("content-transfer-encoding", "base64")]).content


def test_limits_and_hopeless_bodies_raise_typed_errors() -> None:
    many = b"--a\r\n\r\nx\r\n" * (MAX_PARTS + 1) + b"--a--"
    with pytest.raises(SipError, match="too many") as caught:
        parts_of(invite("multipart/mixed;boundary=a", many))
    assert caught.value.status == 413
    kind, body = build_multipart([Part.make("text/plain", b"x")])
    for _ in range(MAX_DEPTH):
        kind, body = build_multipart([Part.make(kind, body)])
    with pytest.raises(SipError, match="deep"):
        parts_of(invite(kind, body))
    for content_type in ("multipart/mixed;boundary=other", "multipart/mixed"):
        with pytest.raises(SipError):
            parts_of(invite(content_type, b"nothing here"))


def test_written_boundary_does_not_occur_in_the_content() -> None:
    first, body = build_multipart([Part.make("text/plain", b"x")])
    second, outer = build_multipart([Part.make(first, body), Part.make("text/plain", b"siprec-part-2")])
    assert second == "multipart/mixed;boundary=siprec-part-3"
    assert outer.endswith(b"\r\n--siprec-part-3--\r\n")
    with pytest.raises(ValueError, match="line end"):
        build_multipart([Part.make("text/plain", b"", disposition="x\r\nEvil: y")])
    with pytest.raises(ValueError, match="at least one"):
        build_multipart([])


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=6))
def test_what_is_written_is_read_back_octet_for_octet(contents: list[bytes]) -> None:
    content_type, body = build_multipart(
        [Part.make("application/octet-stream", content, disposition="render") for content in contents]
    )
    assert [part.body for part in parts_of(invite(content_type, body))] == contents


@given(st.binary(max_size=400), st.sampled_from(["a", "", "-", "\r", "=;"]))
def test_random_octets_raise_nothing_but_sip_errors(noise: bytes, boundary: str) -> None:
    message = SipRequest("INVITE", "sip:a@b", ["content-type"], [f'c: multipart/mixed;boundary="{boundary}"'])
    message.body = noise.replace(b"\x00", b"--" + boundary.encode() + b"\r\n")
    try:
        parts = parts_of(message)
    except SipError:
        return
    for part in parts:
        assert message.body[part.start : part.end] == part.body


@pytest.mark.parametrize(
    "odd",
    [b"Odd Header: x", b"X\xe9: y", b": nameless", b"(comment): z", b"a b c: d"],
)
def test_an_odd_line_among_the_headers_of_a_part_is_passed_over(odd: bytes) -> None:
    body = b"--b\r\n" + odd + b"\r\nContent-Type: application/sdp\r\n\r\nv=0\r\n--b--\r\n"
    (part,) = parts_of(invite("multipart/mixed;boundary=b", body))
    assert (part.media_type, part.body) == ("application/sdp", b"v=0")
    # Without an empty line the content begins there (RFC 8068 shows such parts).
    (part,) = parts_of(invite("multipart/mixed;boundary=b", b"--b\r\n" + odd + b"\r\nrest\r\n--b--\r\n"))
    assert part.body == odd + b"\r\nrest"


def test_a_part_that_only_calls_itself_a_multipart_is_one_part() -> None:
    body = b"--b\r\nContent-Type: multipart/related\r\n\r\nnothing\r\n"
    body += b"--b\r\nContent-Type: application/sdp\r\n\r\nv=0\r\n--b--"
    first, second = parts_of(invite("multipart/mixed;boundary=b", body))
    assert (first.media_type, first.body) == ("multipart/related", b"nothing")
    assert (second.media_type, second.body) == ("application/sdp", b"v=0")


@pytest.mark.parametrize("line", [b"Odd Header: x\r\n", b"x y:\n", b"X: y\r\n", b"no colon\r\n"])
def test_a_part_of_many_lines_is_read_in_linear_time(line: bytes) -> None:
    def seconds(count: int) -> float:
        body = b"--b\r\n" + line * count + b"\r\nx\r\n--b--\r\n"
        kind = ParameterValue.parse("multipart/mixed;boundary=b")
        best = float("inf")
        for _ in range(7):
            begun = time.thread_time()
            split_body(kind, body)
            best = min(best, time.thread_time() - begun)
        return best

    assert seconds(40_000) < 50 * max(seconds(4_000), 0.001)


def test_the_description_of_a_message_is_located_once_and_again_after_each_change() -> None:
    message = SipRequest("INVITE", "sip:a@b")
    assert sdp_part(message) is None
    message.set_body(SDP, "application/sdp")
    part = sdp_part(message)
    assert part is not None
    assert (part.content, part.disposition, part.header("content-type")) == (SDP, "session", "application/sdp")
    replace_part(message, part, SDP + b"a=x\r\n")
    part = sdp_part(message)
    assert part is not None
    assert part.content == SDP + b"a=x\r\n"
    message.set("Content-Disposition", "early-session")
    assert sdp_part(message) is None
    message.remove("content-disposition")
    message.set("Content-Type", "text/plain")
    assert sdp_part(message) is None
    message.set_body(b"")
    assert sdp_part(message) is None
    content_type, octets = build_multipart([Part.make("text/plain", b"x"), Part.make("application/sdp", SDP)])
    message.set_body(octets, content_type)
    part = sdp_part(message)
    assert part is not None
    assert part.content == SDP
    assert sdp_part(message) is part
    message.body = bytes(bytearray(octets.replace(b"s=-", b"s=x")))
    part = sdp_part(message)
    assert part is not None
    assert part.content == SDP.replace(b"s=-", b"s=x")
