"""The message type: nothing touched changes, anything random is refused politely, others read the same."""

from __future__ import annotations

import string
from collections.abc import Callable

import pytest
import sipmessage
from hypothesis import given
from hypothesis import strategies as st

from siprec.sip.errors import SipError
from siprec.sip.headers import CSeq, NameAddr, Via
from siprec.sip.message import (
    MAX_HEAD,
    MAX_HEADERS,
    MAX_LINE,
    MAX_VIAS,
    MalformedRequest,
    SipRequest,
    SipResponse,
    header_key,
    parse_datagram,
)
from siprec.sip.uri import Uri
from siprec.sip.validate import check_for_endpoint, check_for_proxy, check_request, check_response

TOKEN = string.ascii_letters + string.digits + "-.!%*_+`'~"
tokens = st.text(TOKEN, min_size=1, max_size=12)
# sipmessage resolves %-escapes in parameters, where RFC 3261 has none (RFC 4475 3.1.1.2).
plain_tokens = st.text(TOKEN.replace("%", ""), min_size=1, max_size=12)
words = st.text(string.ascii_letters + string.digits, min_size=1, max_size=10)
hosts = st.one_of(
    st.lists(st.text(string.ascii_lowercase, min_size=1, max_size=8), min_size=1, max_size=3).map(".".join),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
)
ports = st.one_of(st.just(""), st.integers(1, 65535).map(lambda port: f":{port}"))
users = st.text(string.ascii_letters + string.digits + "-_.!~*'()&=+$,;?/", min_size=1, max_size=12)
parameters = st.dictionaries(words.map(str.lower), st.one_of(st.none(), words), max_size=3).map(
    lambda found: "".join(f";{name}" if value is None else f";{name}={value}" for name, value in found.items())
)


@st.composite
def uris(draw: st.DrawFn) -> str:
    user = draw(st.one_of(st.just(""), users.map(lambda text: text + "@")))
    return f"{draw(st.sampled_from(['sip', 'sips']))}:{user}{draw(hosts)}{draw(ports)}{draw(parameters)}"


@st.composite
def vias(draw: st.DrawFn) -> str:
    transport = draw(st.sampled_from(["UDP", "TCP", "TLS", "WS"]))
    return f"SIP/2.0/{transport} {draw(hosts)}{draw(ports)};branch=z9hG4bK{draw(plain_tokens)}{draw(parameters)}"


@st.composite
def addresses(draw: st.DrawFn) -> str:
    name = draw(st.text(string.ascii_letters + ' ,;<>"\\', max_size=10))
    quoted = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '" ' if name else ""
    return f"{quoted}<{draw(uris())}>;tag={draw(plain_tokens)}"


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    method = draw(st.sampled_from(["INVITE", "BYE", "OPTIONS", "NOVEL"]))
    if draw(st.booleans()):
        start = f"{method} {draw(uris())} SIP/2.0"
    else:
        start = f"SIP/2.0 {draw(st.integers(100, 699))} {draw(st.text('abc é', max_size=8))}"
    body = draw(st.binary(max_size=60))
    headers = [f"Via: {draw(vias())}", f"v:\t{draw(vias())},\r\n {draw(vias())}", f"From: {draw(addresses())}"]
    headers += [f"t :{draw(addresses())}", f"Call-ID: {draw(tokens)}@{draw(tokens)}", f"CSEQ: 1 {method}"]
    unknown = draw(
        st.dictionaries(words.map(lambda word: f"X-{word}"), st.text('a;,<>" é:=\\', max_size=12), max_size=4)
    )
    headers += [f"{name}:{value}" for name, value in unknown.items()]
    headers = draw(st.permutations(headers))
    head = "\r\n".join([start, *headers, f"l: {len(body)}"])
    return head.encode() + b"\r\n\r\n" + body


@given(messages())
def test_reading_and_writing_gives_the_same_octets_and_the_same_message(data: bytes) -> None:
    message = parse_datagram(data)
    written = message.to_bytes()
    assert written == data
    again = parse_datagram(written)
    assert (again.start_line, again.lines, again.body) == (message.start_line, message.lines, message.body)
    assert (again.cseq, again.from_.tag, again.to.tag, len(again.vias)) == (
        message.cseq,
        message.from_.tag,
        message.to.tag,
        3,
    )


@given(messages())
def test_forwarding_leaves_all_other_lines_alone(data: bytes) -> None:
    message = parse_datagram(data)
    before = [
        line
        for key, line in zip(message.keys, message.lines, strict=True)
        if key not in ("via", "record-route", "max-forwards")
    ]
    first = message.top_via
    message.set("Max-Forwards", "69")
    message.prepend("Record-Route", "<sip:p;lr>")
    message.prepend("Via", "SIP/2.0/UDP p;branch=z9hG4bKnew")
    forwarded = parse_datagram(message.to_bytes())
    assert [v.branch for v in forwarded.vias][:2] == ["z9hG4bKnew", first.branch]
    after = [
        line
        for key, line in zip(forwarded.keys, forwarded.lines, strict=True)
        if key not in ("via", "record-route", "max-forwards")
    ]
    assert after == before
    assert forwarded.remove_first_value("via") == "SIP/2.0/UDP p;branch=z9hG4bKnew"
    assert forwarded.top_via.branch == first.branch
    assert data.endswith(forwarded.body)


def exercise(data: bytes) -> None:
    """All that is done to what a stranger sends; only SipError may come out of any step."""
    try:
        message = parse_datagram(data)
    except MalformedRequest as error:
        error.request.response(error.status, to_tag="x").to_bytes()
        return
    except SipError:
        return
    message.to_bytes()
    checks = [check_request, check_for_proxy, check_for_endpoint] if isinstance(message, SipRequest) else []
    for check in checks:
        try:
            check(message)  # type: ignore[arg-type]
        except SipError:
            pass
    if isinstance(message, SipResponse):
        try:
            check_response(message)
        except SipError:
            pass
    for view in ("top_via", "vias", "from_", "to", "call_id", "cseq", "max_forwards", "contacts", "contact", "routes"):
        try:
            getattr(message, view)
        except SipError:
            pass
    for value in message.values("contact"):
        try:
            address = NameAddr.parse(value)
            assert str(address)
            assert address.uri.equivalent(address.uri)
        except SipError:
            pass
    _ = message.record_routes if not message.has("record-route") else None
    message.remove_first_value("via")
    message.replace_first_value("route", "<sip:a>")


@given(st.binary(max_size=300))
def test_random_octets_raise_nothing_but_sip_errors(data: bytes) -> None:
    exercise(data)
    exercise(b"INVITE sip:a@b SIP/2.0\r\n" + data)


@given(messages(), st.lists(st.tuples(st.integers(0, 2000), st.binary(min_size=1, max_size=3)), max_size=6))
def test_damaged_messages_raise_nothing_but_sip_errors(data: bytes, damage: list[tuple[int, bytes]]) -> None:
    octets = bytearray(data)
    for at, noise in damage:
        at %= len(octets)
        octets[at : at + len(noise)] = noise
    exercise(bytes(octets))


@pytest.mark.parametrize("length", [1, 100, MAX_LINE - 20, MAX_HEAD])
@pytest.mark.parametrize("unit", ["(", '"', "<", "\\", " ", ";", ",", ";a=", '"a" ', "\r\n ", "[", "%4", "@", "?", ":"])
def test_long_rows_of_special_characters_cost_no_more_than_their_length(unit: str, length: int) -> None:
    row = unit * (length // len(unit))
    for name in ("Via: SIP/2.0/UDP a", "From: ", "Contact: sip:a", "CSeq: "):
        exercise(f"INVITE sip:a SIP/2.0\r\n{name}{row}\r\nTo: <sip:a>\r\n\r\n".encode())


@given(uris())
def test_uris_are_read_as_sipmessage_reads_them(text: str) -> None:
    try:
        other = sipmessage.URI.parse(text)
    except ValueError:
        return  # stricter than RFC 3261 in some characters
    mine = Uri.parse(text)
    assert str(mine) == text
    assert (mine.scheme, mine.user, mine.port) == (other.scheme, other.user, other.port)
    assert mine.host == other.host.strip("[]").lower()
    assert mine.params == dict(other.parameters.items())


@given(vias())
def test_vias_are_read_as_sipmessage_reads_them(text: str) -> None:
    other = sipmessage.Via.parse(text)
    mine = Via.parse(text)
    assert (mine.transport, mine.port) == (other.transport, other.port)
    assert mine.host == other.host.strip("[]")
    assert mine.params == dict(other.parameters.items())
    assert mine.branch == mine.params["branch"]
    assert str(Via.parse(str(mine))) == str(mine)


@given(addresses())
def test_addresses_are_read_as_sipmessage_reads_them(text: str) -> None:
    try:
        other = sipmessage.Address.parse(text)
    except ValueError:
        return
    mine = NameAddr.parse(text)
    assert (mine.display_name, mine.tag) == (other.name, other.parameters.get("tag"))
    assert mine.uri.equivalent(Uri.parse(str(other.uri)))


def test_sipmessage_does_accept_ordinary_values() -> None:
    """The comparisons above are worth something."""
    assert sipmessage.URI.parse("sips:alice;x=1@[2001:db8::1]:5061;lr").port == 5061
    assert sipmessage.Address.parse('"A \\"B\\"" <sip:a@b>;tag=1').name == 'A "B"'


@given(st.integers(0, 2**32 - 1), tokens)
def test_cseq_is_read_as_sipmessage_reads_it(number: int, method: str) -> None:
    mine = CSeq.parse(f"  {number:012} \t{method} ")
    assert mine == (number, method)
    try:
        other = sipmessage.CSeq.parse(f"{number} {method}")
    except ValueError:
        return
    assert mine == (other.sequence, other.method)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtLanTa.CoM;Transport=tcp", True),
        ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5", True),
        ("sip:carol@chicago.com", "sip:carol@chicago.com;security=on", True),
        (
            "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
            "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
            True,
        ),
        (
            "sip:alice@atlanta.com?subject=project%20x&priority=urgent",
            "sip:alice@atlanta.com?priority=urgent&subject=project%20x",
            True,
        ),
        ("SIP:ALICE@AtLanTa.CoM;Transport=udp", "sip:alice@AtLanTa.CoM;Transport=UDP", False),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060", False),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp", False),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com:6000;transport=tcp", False),
        ("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting", False),
        ("sip:bob@phone21.boxesbybob.com", "sip:bob@192.0.2.4", False),
        ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;security=off", False),
        ("tel:+1-201-555-0123", "tel:+12015550123", True),
    ],
)
def test_uri_comparison_of_rfc_3261_19_1_4(one: str, other: str, same: bool) -> None:
    assert Uri.parse(one).equivalent(Uri.parse(other)) is same
    assert Uri.parse(other).equivalent(Uri.parse(one)) is same


def test_limits_are_answered_and_not_exceeded() -> None:
    top = b"INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP a;branch=z9hG4bKx\r\nCSeq: 1 INVITE\r\n"
    for rest in (b"X: y\r\n" * MAX_HEADERS, b"X: " + b"y" * MAX_LINE + b"\r\n", (b"X: " + b"y" * 999 + b"\r\n") * 60):
        with pytest.raises(MalformedRequest) as caught:
            parse_datagram(top + rest + b"\r\n")
        assert caught.value.status == 513
        assert caught.value.request.response(513).top_via.branch == "z9hG4bKx"
    headers = b"From: <sip:a>;tag=1\r\nTo: <sip:b>\r\nCall-ID: c\r\n"
    for lines in (b"Via: SIP/2.0/UDP a\r\n" * MAX_VIAS, b"Via: " + b"SIP/2.0/UDP a," * MAX_VIAS + b"SIP/2.0/UDP a\r\n"):
        request = parse_datagram(top + headers + lines + b"\r\n")
        assert isinstance(request, SipRequest)
        with pytest.raises(SipError, match="too many Via"):
            check_for_proxy(request)


@pytest.mark.parametrize("end", [b"\n", b"\r"])
def test_header_hidden_behind_half_a_line_end_is_refused(end: bytes) -> None:
    with pytest.raises(MalformedRequest):
        parse_datagram(
            b"OPTIONS sip:a SIP/2.0\r\nSubject: x" + end + b"Route: <sip:evil;lr>\r\nCSeq: 1 OPTIONS\r\n\r\n"
        )


def test_whole_message_with_bare_line_feeds_is_read() -> None:
    message = parse_datagram(b"OPTIONS sip:a SIP/2.0\nSubject: x\n y\nl: 2\n\nabc")
    assert (message.get("subject"), message.body) == ("x y", b"ab")


def test_header_names_in_any_spelling() -> None:
    message = parse_datagram(b"OPTIONS sip:a SIP/2.0\r\nm: <sip:1>\r\nCONTACT\t: <sip:2>, <sip:3>\r\nno header\r\n\r\n")
    assert [contact.uri_text for contact in message.contacts] == ["sip:1", "sip:2", "sip:3"]
    assert header_key("M") == header_key(" Contact ") == "contact"
    assert (message.keys[-1], message.lines[-1]) == ("", "no header")


def test_changes_show_in_the_typed_views() -> None:
    request = SipRequest("INVITE", "sip:a@b")
    for name, value in (("From", "<sip:a>;tag=1"), ("To", "<sip:b>"), ("CSeq", "1 INVITE"), ("Call-ID", "x")):
        request.add(name, value)
    copy = request.copy()
    assert (request.to.tag, request.cseq.number) == ("", 1)
    request.set("to", "<sip:b>;tag=2")
    request.set("CSeq", "2 INVITE")
    assert (request.to.tag, request.cseq.number) == ("2", 2)
    assert (copy.to.tag, copy.cseq.number) == ("", 1)
    request.add("To", "<sip:c>")
    with pytest.raises(SipError, match="twice"):
        _ = request.to
    request.set("t", "<sip:c>")
    assert request.get_all("to") == ["<sip:c>"]
    assert request.remove("to") == 1
    with pytest.raises(SipError, match="missing"):
        _ = request.to


@pytest.mark.parametrize(
    "line",
    [
        *("f: <sip:c>;tag=2", "To: <sip:c>", "i: y", "CSeq: 2 OPTIONS", "MAX-FORWARDS: 70"),
        *("c: text/plain", "Expires: 5", "min-expires: 6"),
    ],
)
def test_second_line_of_a_header_that_occurs_once_is_refused(line: str) -> None:
    head = (
        "Via: SIP/2.0/UDP a;branch=z9hG4bKx\r\nFrom: <sip:a>;tag=1\r\nTo: <sip:b>\r\nCall-ID: x\r\nCSeq: 1 OPTIONS\r\n"
        "Max-Forwards: 70\r\nContent-Type: text/plain\r\nExpires: 5\r\nMin-Expires: 5\r\n"
    )

    def check(start: str, more: str) -> None:
        message = parse_datagram(f"{start}\r\n{head}{more}\r\n".encode())
        if isinstance(message, SipRequest):
            check_request(message)
        else:
            check_response(message)

    for start in ("OPTIONS sip:a@b SIP/2.0", "SIP/2.0 200 OK"):
        check(start, "")
        with pytest.raises(SipError, match="occurs twice") as caught:
            check(start, f"{line}\r\n")
        assert caught.value.status == 400


def test_proxy_require_is_refused_by_name_but_never_for_ack() -> None:
    request = SipRequest("INVITE", "sip:a@b")
    for name, value in (
        ("Via", "SIP/2.0/UDP a;branch=z9hG4bKx"),
        ("From", "<sip:a>;tag=1"),
        ("To", "<sip:b>"),
        ("CSeq", "1 INVITE"),
        ("Call-ID", "x"),
        ("Proxy-Require", "Foo, path"),
    ):
        request.add(name, value)
    with pytest.raises(SipError) as caught:
        check_for_proxy(request, supported={"path"})
    assert (caught.value.status, caught.value.headers) == (420, (("Unsupported", "Foo"),))
    check_for_proxy(request, supported={"path", "foo"})
    request.method = "ACK"
    request.set("CSeq", "1 ACK")
    check_for_proxy(request)


def test_several_headers_are_added_as_one_by_one() -> None:
    pairs = [("subject", "a"), ("X-Own", "b"), ("k", "timer"), ("To", "<sip:a@b>;tag=2"), ("x-odd", "a\x00b")]
    one, many = SipRequest("INVITE", "sip:a@b"), SipRequest("INVITE", "sip:a@b")
    for message in (one, many):
        message.add("To", "<sip:a@b>")
        assert message.to_tag == ""
    for name, value in pairs:
        one.add(name, value)
    many.extend(pairs)
    assert (many.keys, many.lines) == (one.keys, one.lines)
    with pytest.raises(SipError, match="To occurs twice"):
        many.to_tag  # noqa: B018 - read again, as its header changed
    with pytest.raises(SipError):
        many.extend([("X", "a\r\nb")])


def test_what_was_read_is_read_again_when_its_header_changes() -> None:
    message = SipRequest("INVITE", "sip:a@b")
    views: dict[str, tuple[str, Callable[[], object]]] = {
        "Via": ("SIP/2.0/UDP h;branch=z9hG4bK%d", lambda: (message.branch, message.top_via.branch)),
        "From": ("<sip:a@b>;tag=%d", lambda: (message.from_tag, message.from_.tag)),
        "To": ("<sip:a@b>;tag=%d", lambda: (message.to_tag, message.to.tag)),
        "Call-ID": ("%d", lambda: message.call_id),
        "CSeq": ("%d INVITE", lambda: message.cseq.number),
        "Max-Forwards": ("%d", lambda: message.max_forwards),
        "Content-Length": ("%d", lambda: message.content_length),
        "Contact": ("<sip:a@b:%d>", lambda: message.contact and message.contact.uri.port),
        "Content-Type": ("text/%d", lambda: message.content_type and message.content_type.value),
    }
    for name, (text, view) in views.items():
        seen = []
        for number in (1, 2, 3):
            message.set(name, text % number)
            seen.append(view())
        assert len(set(seen)) == 3, name
    assert message.problem is None
    message.set("CSeq", "1 BYE")
    assert message.problem is not None
    message.set("CSeq", "1 INVITE")
    message.add("Max-Forwards", "70")
    assert message.problem == ("Max-Forwards occurs twice", 400)


def test_uris_that_differ_in_case_are_not_taken_for_each_other() -> None:
    texts = ("sip:bob@example.com", "sip:BOB@example.com", "SIP:bob@EXAMPLE.com")
    for _ in range(2):
        assert [Uri.parse(text).text for text in texts] == list(texts)
    assert [Uri.parse(text).user for text in texts] == ["bob", "BOB", "bob"]
