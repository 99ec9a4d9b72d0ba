"""Work on a stranger's octets is linear: the cost of an octet does not grow with the number of them.

Each parser is fed with growing runs of one octet and of pairs of octets, alone and within frames: in each header, in
names and values, within quotes, angle brackets, parameters, comments and folded lines, in bodies and documents.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations

import pytest

from tests.unit.linear import parsers
from tests.unit.linear.cost import grows
from tests.unit.linear.parsers import HEAD, SDP, TAIL, VALUES, XML, Work, sip_frames

SMALL, LARGE, QUICK = 400, 9_000, 0.004
SINGLES = b" \t\r\na0,;:<>\"\\()[]=@%/-.?&*'{}|~\x00\x7f\x80\xc3\xff"
PAIRED = b' ,;"\\<a=\n'
MORE = (
    b"\r\n",
    b"\r\n ",
    b";a",
    b",<a>",
    b"a=1,",
    b"%41",
    b";a=b",
    b"\r\na: b",
    b"--b\r\n",
    b'\\\\"',
    b"i:",
    b"<a>;b,",
)
FEW = (
    b" ",
    b"\t",
    b"a",
    b"0",
    b",",
    b";",
    b'"',
    b"\\",
    b"<",
    b"\n",
    b"\r\n ",
    b"<a>,",
    b";a=b,",
    b"\0",
    b"\xff",
    b'\\"',
)
"""For functions that take long."""
EXPENSIVE = ("message", "message with a header", "header value", "octet by octet", "names in metadata")

# Place and frame, by function. ``%s`` is where the octets go.
FRAMES: dict[str, tuple[Work, list[tuple[str, bytes]]]] = {
    "message": (parsers.message, list(sip_frames())),
    "header value": (parsers.header_value, [(frame.decode(), frame) for frame in VALUES]),
    "message with a header": (
        parsers.message,
        [(f"Contact {frame.decode()}", HEAD + b"Contact: " + frame + b"\r\n" + TAIL) for frame in VALUES[::3]],
    ),
    "stream": (parsers.stream, [("alone", b"%s"), ("head", HEAD + b"%s"), ("after", HEAD + TAIL + b"%s")]),
    "octet by octet": (parsers.octet_by_octet, [("alone", b"%s"), ("head", HEAD + b"%s")]),
    "trace": (
        parsers.trace,
        [("alone", b"%s"), ("Call-ID", b"OPTIONS a\r\ni%s"), ("value", b"INVITE a\r\ni:a%sb\r\n")],
    ),
    "log": (parsers.log_line, [("alone", b"%s")]),
    "description": (
        parsers.description,
        [
            ("alone", b"%s"),
            ("lines", SDP + b"%s"),
            ("o=", b"v=0\r\no=%s\r\n"),
            ("m=", SDP + b"m=%s"),
            ("formats", SDP + b"m=audio 1 RTP/AVP %s\r\na=rtpmap:0 PCMU/8000\r\n"),
            ("c=", SDP + b"c=%s\r\n"),
            ("attribute", SDP + b"a=%s\r\n"),
            ("rtpmap", SDP + b"a=rtpmap:%s\r\n"),
            ("fmtp", SDP + b"a=fmtp:0 %s\r\n"),
            ("crypto", SDP + b"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:%s\r\n"),
            ("rtcp", SDP + b"a=rtcp:%s\r\n"),
            ("group", b"v=0\r\na=group:%s\r\n" + SDP[5:]),
        ],
    ),
    "multipart": (
        parsers.any_multipart,
        [
            ("alone", b"%s"),
            ("preamble", b"%s\r\n--b\r\n\r\na\r\n--b--"),
            ("delimiter", b"--b%s\r\n\r\na"),
            ("header", b"--b\r\n%s"),
            ("header name", b"--b\r\nContent-Type%s: a\r\n\r\n"),
            ("header value", b"--b\r\nContent-Type:%s\r\n\r\n"),
            ("ends in CR", b"--b\r\nContent-Type:%s\r--b--"),
            ("folded", b"--b\r\nContent-Type: a\r\n %s"),
            ("base64", b"--b\r\nContent-Transfer-Encoding: base64\r\n\r\n%s"),
            ("quoted-printable", b"--b\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n%s"),
            ("boundary", b"--%s\r\n\r\na"),
            ("nested", b"--b\r\nContent-Type: multipart/mixed;boundary=c\r\n\r\n--c\r\n%s"),
        ],
    ),
    "metadata": (
        parsers.document,
        [
            ("alone", b"%s"),
            ("declaration", b"<?xml %s?>" + XML + b"</recording>"),
            ("within", XML + b"%s</recording>"),
            ("cut short", XML + b"%s"),
            ("element", XML + b"<%s</recording>"),
            ("attribute", XML + b'<session session_id="%s"></session></recording>'),
            ("attributes", XML + b"<session %s></session></recording>"),
            ("text", XML + b'<session session_id="a"><start-time>%s</start-time></session></recording>'),
            ("foreign", XML + b"<x xmlns='urn:x'>%s</x></recording>"),
        ],
    ),
    "ng": (
        parsers.ng_reply,
        [("alone", b"%s"), ("dictionary", b"d%se"), ("list", b"d6:resultl%see"), ("string", b"d6:result%s")],
    ),
    "ng stream": (
        parsers.ng_stream,
        [
            ("string", b"c 60000:%s"),
            ("list", b"c l%s"),
            ("dictionary", b"c d%s"),
            ("cookie", b"%s"),
            ("many", b"%s c le"),
        ],
    ),
    "rtpproxy stream": (parsers.rtpproxy_stream, [("alone", b"%s")]),
    "rtpproxy": (parsers.rtpproxy_reply, [("alone", b"%s"), ("number", b"1%s"), ("count", b"a=%s")]),
    "rtcp": (parsers.control_packet, [("alone", b"%s"), ("reports", b"\x81\xc8%s"), ("sdes", b"\x9f\xca\x0f\xff%s")]),
    "api": (parsers.api_path, [("alone", b"%s"), ("stream", b"stream-1%s"), ("mix", b"mix%s")]),
    "names in metadata": (parsers.names_into_metadata, [("alone", b"%s"), ("aor", b"sip:%s@b")]),
}
# What repeats as a whole, with numbers that differ: where work is done for each pair of them.
NUMBERED: dict[str, tuple[Work, str]] = {
    "parameters": (parsers.header_value, "sip:a@b{};p%d=1"),
    "addresses": (parsers.header_value, "<sip:a%d@b>,"),
    "digest parameters": (parsers.header_value, "Digest {}p%d=1,"),
    "headers": (parsers.message, "INVITE sip:b SIP/2.0\r\n{}X%d: a\r\n"),
    "folded lines": (parsers.message, "INVITE sip:b SIP/2.0\r\nSubject: a\r\n{} \r\n"),
    "Via values": (parsers.message, "INVITE sip:b SIP/2.0\r\n{}Via: SIP/2.0/UDP h%d\r\n"),
    "challenges": (parsers.message, 'SIP/2.0 401 a\r\n{}WWW-Authenticate: Digest realm="%d",nonce="a"\r\n'),
    "formats": (parsers.description, SDP.decode() + "m=audio 1 RTP/AVP {}%d "),
    "formats and fmtp": (parsers.description, SDP.decode() + "m=audio 1 RTP/AVP {}%d 0\r\na=fmtp:%d a\r\n"),
    "rtpmaps": (parsers.description, SDP.decode() + "{}a=rtpmap:%d A/8000\r\n"),
    "attributes": (parsers.description, SDP.decode() + "{}a=x%d:1\r\n"),
    "m-lines": (parsers.description, SDP.decode() + "{}m=audio %d RTP/AVP 0\r\n"),
    "crypto lines": (parsers.description, SDP.decode() + "{}a=crypto:%d AES_CM_128_HMAC_SHA1_80 inline:a\r\n"),
    "parts": (parsers.any_multipart, "{}--b\r\nX-%d: a\r\n\r\na\r\n"),
    "part headers": (parsers.any_multipart, "--b\r\n{}X-%d: a\r\n"),
    "boundaries in content": (parsers.any_multipart, "{}siprec-part-%d "),
    "XML attributes": (parsers.document, XML.decode() + '<session {}a%d="1" '),
    "XML namespaces": (parsers.document, XML.decode() + '<session {}xmlns:a%d="urn:%d" '),
    "unknown elements": (parsers.document, XML.decode() + "{}<a%d/>"),
    "sessions": (
        parsers.document,
        XML.decode() + '{}<session session_id="s%d"><stop-time>2020-01-01T00:00:00Z</stop-time></session>',
    ),
    "participants": (
        parsers.document,
        XML.decode() + '{}<participant participant_id="p%d"><nameID aor="a"/></participant>',
    ),
    "memberships": (
        parsers.document,
        XML.decode() + '{}<session session_id="s%d"><stop-time>2020-01-01T00:00:00Z</stop-time></session>'
        '<participantsessionassoc session_id="s%d" participant_id="p%d"/>',
    ),
    "streams": (
        parsers.document,
        XML.decode() + '{}<stream stream_id="s%d"><label>%d</label></stream>'
        '<participantstreamassoc participant_id="p%d"><send>s%d</send></participantstreamassoc>',
    ),
    "draft participants": (
        parsers.document,
        XML.decode() + '{}<participant id="p%d" session="s%d"><send>a</send><start-time>x</start-time></participant>',
    ),
    "draft sessions": (
        parsers.document,
        XML.decode() + '{}<session id="s%d"><associate-time>a</associate-time></session>',
    ),
    "draft children": (
        parsers.document,
        XML.decode() + '<session id="s">{}<participant id="%d"><aor>a</aor></participant>',
    ),
    "draft addresses": (parsers.document, XML.decode() + '<participant id="s">{}<aor>a%d</aor>'),
    "draft streams": (
        parsers.document,
        XML.decode() + '<participantstreamassoc participant_id="p">{}<send><id>%d</id></send>',
    ),
    "draft sessions of a participant": (parsers.document, XML.decode() + '<participant id="p" session="{}a%d '),
    "extension data": (
        parsers.document,
        XML.decode() + '{}<extensiondata xmlns="urn:x" parent="p%d">a</extensiondata><stream id="p%d"/>',
    ),
    "registered contacts": (
        parsers.registration,
        "REGISTER sip:example.com SIP/2.0\r\n{}m: " + ",".join(["<sip:a@h%d>"] * 30) + "\r\n",
    ),
    "ng keys": (parsers.ng_reply, "d{}6:%06di1e"),
    "rtpproxy counts": (parsers.rtpproxy_reply, "{}a%d=1 "),
}


_NUMBER = re.compile("%(?:06)?d")


def units(name: str) -> Iterator[bytes]:
    if name in EXPENSIVE:
        yield from FEW
        return
    if name == "ng stream":
        yield from (b"a", b"i0e", b"0:", b"1:a", b"le", b"1:ale", b"1:ai0e", b"\n", b"1", b"l", b"d")
        return
    yield from (bytes([octet]) for octet in SINGLES)
    yield from (bytes(pair) for pair in combinations(PAIRED, 2))
    yield from MORE


def check(work: Work, frame: bytes, unit: bytes) -> str:
    before, _, after = frame.partition(b"%s")
    problem = grows(work, lambda n: before + unit * (n // len(unit)) + after, small=SMALL, large=LARGE, quick=QUICK)
    return f"{unit!r}: {problem}" if problem else ""


@pytest.mark.parametrize("name", FRAMES)
def test_octets_and_pairs_of_octets_cost_the_same_however_many(name: str) -> None:
    work, frames = FRAMES[name]
    wrong = {}
    for place, frame in frames:
        problems = [problem for unit in units(name) if (problem := check(work, frame, unit))]
        if problems:
            wrong[place] = problems[:3]
    assert wrong == {}


@pytest.mark.parametrize("name", ["message", "description", "metadata", "ng", "rtpproxy", "rtcp", "header value"])
def test_every_single_octet_costs_the_same_however_often_it_comes(name: str) -> None:
    work, _ = FRAMES[name]
    assert [problem for octet in range(256) if (problem := check(work, b"%s", bytes([octet])))] == []


@pytest.mark.parametrize("name", NUMBERED)
def test_many_different_items_cost_the_same_each(name: str) -> None:
    work, text = NUMBERED[name]
    before, brace, item = text.partition("{}")
    if not brace:
        before, item = "", text

    def make(n: int) -> bytes:
        items = (_NUMBER.sub(lambda found, i=i: found[0] % i, item) for i in range(n // len(item)))  # type: ignore[misc]
        return (before + "".join(items)).encode()

    assert grows(work, make, small=2000, large=45_000, quick=0.006) == ""


def test_quadratic_work_is_found() -> None:
    assert check(lambda data: sum(1 for at in range(len(data)) for _ in range(at // 20)), b"%s", b"a")
    assert check(lambda data: [data[at:].count(b"ab") for at in range(len(data))], b"%s", b"a")
