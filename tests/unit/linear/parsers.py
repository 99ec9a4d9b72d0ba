"""All that reads octets of strangers, as functions of octets; and frames with a place where the stranger's octets go.

A function does what the product does with such a message, and then asks for everything that can be asked of it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, Final

from siprec import sdp
from siprec.api.library import _FILE
from siprec.logs import TextFormatter, visible
from siprec.media import ngreplies
from siprec.media.bencode import decode_dict
from siprec.media.ng import NgClient
from siprec.media.ngframes import StreamFramer as NgFramer
from siprec.media.rtpproxy_protocol import RtpProxyClient, counts, place, word
from siprec.media.rtpproxy_stream import LineFramer
from siprec.metadata import read
from siprec.metadata import values as written
from siprec.metadata.document import Document
from siprec.metadata.merge import MetadataState
from siprec.net.framing import StreamFramer
from siprec.proxy import party
from siprec.proxy.record_route import Cookies, cookie_of
from siprec.proxy.registrar import Registrar
from siprec.recording import participants
from siprec.rtp import rtcp
from siprec.rtp import rtcp as relay_rtcp
from siprec.sdp import crypto as sdp_crypto
from siprec.sip import digest, digest_server, multipart, scan, validate, values
from siprec.sip.headers import NameAddr, ParameterValue, Reason, SessionExpires, Via
from siprec.sip.message import SipMessage, SipRequest, SipResponse, parse_datagram
from siprec.sip.response_routing import stamp
from siprec.sip.transaction import old_key
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri
from siprec.trace import hep, ladder
from siprec.trace.ring import TraceRing, call_id_of, without_keys

Work = Callable[[bytes], object]
HOP: Final = Hop("udp", "192.0.2.1", 5060, ("192.0.2.2", 5060))
CLOCK: Final = SimpleNamespace(now=lambda: 0.0, wall=lambda: 0.0, call_later=lambda *_: SimpleNamespace(cancel=id))


def tried(*works: Callable[[], object]) -> None:
    """Each of these; what one raises does not keep the next from being done."""
    for work in works:
        with suppress(Exception):
            work()


def all_of(value: Any, *names: str) -> None:
    tried(*(lambda name=name: getattr(value, name) for name in names))


def uri(text: str) -> None:
    parsed = Uri.parse(text)
    all_of(parsed, "aor", "user_unescaped", "transport", "effective_port")
    tried(
        lambda: parsed.equivalent(Uri.parse(text + ";x")),
        lambda: Cookies().check(cookie_of(parsed), "call"),
        lambda: str(parsed.replace(port=5060)),
    )


def address(text: str) -> None:
    parsed = NameAddr.parse(text)
    all_of(parsed, "tag", "q", "expires", "params")
    tried(
        lambda: uri(parsed.uri_text),
        lambda: str(parsed),
        lambda: parsed.has_feature("+sip.src"),
    )


_VALUES: Final[tuple[Callable[[str], object], ...]] = (
    address,
    Via.parse,
    Reason.parse,
    SessionExpires.parse,
    ParameterValue.parse,
    digest.AuthValue.parse,
    values.RAck.parse,
    values.Replaces.parse,
    values.SessionId.parse,
    uri,
)


def header_value(data: bytes) -> None:
    """One header value through every reader of header values."""
    text = data.decode("utf-8", "surrogateescape")
    tried(*(lambda read=read: read(text) for read in _VALUES))
    via = Via.parse(text)
    all_of(via, "branch", "received", "sent_by", "params")
    str(via)


def views(message: SipMessage) -> None:
    """Everything that is asked of a message anywhere."""
    all_of(
        message,
        *("top_via", "vias", "from_", "to", "call_id", "cseq", "max_forwards", "contacts", "contact", "routes"),
        *("record_routes", "content_type", "start_line", "branch", "sent_by", "from_tag", "to_tag"),
        *("content_length", "problem"),
    )
    for name in set(message.keys):
        tried(lambda name=name: message.values(name), lambda name=name: message.get(name))  # type: ignore[misc]
        tried(lambda name=name: message.tokens(name))  # type: ignore[misc]
    tried(
        lambda: multipart.find_metadata(message),
        lambda: multipart.find_part(message, "application/sdp"),
        lambda: participants.reasons(message),
        lambda: participants.feature_params(message),
        lambda: participants.sip_session_id(message, message),
        lambda: party.asserted(message),
        lambda: values.min_se(message),
        lambda: values.retry_after(message),
        lambda: values.session_expires(message),
        lambda: values.session_uuids(message),
        lambda: scan.problem_of(message.keys, message.lines, "INVITE"),
        lambda: message.copy().remove_first_value("route") if isinstance(message, SipRequest) else None,
        lambda: message.copy().replace_first_value("via", "x") if isinstance(message, SipRequest) else None,
        message.to_bytes,
    )


def message(data: bytes) -> None:
    """A datagram: parsed, checked, answered."""
    try:
        parsed = parse_datagram(data)
    except Exception as error:
        parsed = getattr(error, "request")  # noqa: B009 - a MalformedRequest can be answered
    views(parsed)
    if isinstance(parsed, SipRequest):
        request = parsed
        server = digest_server.DigestServer(CLOCK, "realm", secret=b"x")
        tried(
            lambda: validate.check_for_proxy(request),
            lambda: validate.check_for_endpoint(request),
            lambda: old_key(request),
            lambda: stamp(request.copy(), HOP),
            lambda: request.response(200, to_tag="a", headers=server.challenge()).to_bytes(),
            lambda: server.verify(request, lambda user: "secret"),
            lambda: uri(request.uri),
        )
    else:
        assert isinstance(parsed, SipResponse)
        response = parsed
        request = SipRequest("INVITE", "sip:a@b")
        store = digest.CredentialStore([digest.Credentials("user", "secret", "realm")])
        tried(lambda: validate.check_response(response), lambda: digest.authorize(request, response, store))


def registration(data: bytes) -> None:
    """A REGISTER at an open registrar."""
    request = parse_datagram(data + b"From: <sip:a@b>;tag=1\r\nTo: <sip:a@b>\r\nCall-ID: a\r\nCSeq: 1 REGISTER\r\n")
    assert isinstance(request, SipRequest)
    request.prepend("via", "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKa")
    us = SimpleNamespace(serves=lambda uri: True, is_us=lambda uri: False, is_own_contact=lambda uri: False)
    Registrar(CLOCK, us)._register(request, HOP, "", True)  # type: ignore[arg-type]


def trace(data: bytes) -> None:
    ring = TraceRing(1 << 20)
    ring.sip("in", HOP, data)
    call_id = call_id_of(data)
    hep.encode(0.0, "udp", ("192.0.2.1", 5060), ("192.0.2.2", 5060), without_keys(data), node=1, correlation=call_id)
    ladder.build(call_id, ring.steps(call_id))


def log_line(data: bytes) -> None:
    record = logging.makeLogRecord({"msg": "from %s", "args": (data.decode("latin-1"),), "name": "siprec"})
    TextFormatter().format(record)
    visible(data.decode("utf-8", "surrogateescape"))


def stream(data: bytes) -> None:
    """Messages on TCP, in pieces of all sizes."""
    for size in (len(data) or 1, 1460, 100):
        framer = StreamFramer()
        for at in range(0, len(data), size):
            framer.feed(data[at : at + size])


def octet_by_octet(data: bytes) -> None:
    framer = StreamFramer()
    for at in range(len(data)):
        framer.feed(data[at : at + 1])


def description(data: bytes) -> None:
    tried(lambda: party.party_from(SipRequest("INVITE", "sip:a@b"), NameAddr("", "sip:a@b"), data))
    body = sdp.parse(data)
    all_of(body, "origin", "connection", "direction", "bundles")
    for media in body.media:
        all_of(media, "rejected", "direction", "connection", "rtcp", "rtcp_mux", "rtpmaps", "fmtp", "ptime", "on_hold")
        tried(
            lambda media=media: sdp.recording_media(media, label="1"),  # type: ignore[misc]
            lambda media=media: sdp.answer_media(media, port=4000),  # type: ignore[misc]
            lambda media=media: sdp_crypto.choose(media.attributes("crypto")),  # type: ignore[misc]
            lambda media=media: media.set_attribute("label", "2"),  # type: ignore[misc]
        )
    tried(lambda: body.set_address("192.0.2.9"), body.to_bytes)


def body_parts(content_type: str) -> Work:
    def work(data: bytes) -> None:
        parts = multipart.split_body(ParameterValue.parse(content_type), data)
        for part in parts:
            all_of(part, "disposition", "handling_required", "content")
        multipart.build_multipart([multipart.Part.make("application/sdp", data)])

    return work


def any_multipart(data: bytes) -> None:
    """A body in a message whose boundary is told, not told, or nonsense."""
    for kind in ('multipart/mixed;boundary="b"', "multipart/mixed", 'multipart/mixed;boundary=" "'):
        tried(lambda kind=kind: body_parts(kind)(data))  # type: ignore[misc]


def document(data: bytes) -> None:
    """Recording metadata."""
    tried(lambda: read.parse(data, charset="iso-8859-1"))
    parsed = read.parse(data)
    if isinstance(parsed, Document):
        state = MetadataState()
        state.apply(parsed, wall=0.0, labels={})
        state.apply(parsed, wall=1.0, labels={})


def ng_reply(data: bytes) -> None:
    reply = decode_dict(data)
    tried(
        lambda: ngreplies.read_statistics(reply),
        lambda: ngreplies.read_subscription(reply, ["a"]),
        lambda: ngreplies.numbers(reply),
        lambda: NgClient.read(SimpleNamespace(name="m"), data),  # type: ignore[arg-type]
    )


def ng_stream(data: bytes) -> None:
    """ng over TCP, in small pieces."""
    framer = NgFramer()
    for at in range(0, len(data), 16):
        framer.feed(data[at : at + 16])


def rtpproxy_stream(data: bytes) -> None:
    """RTPProxy's lines over a stream, in small pieces."""
    framer = LineFramer(deque([b"c"] * len(data)))
    for at in range(0, len(data), 16):
        framer.feed(data[at : at + 16])


def rtpproxy_reply(data: bytes) -> None:
    text = RtpProxyClient.read(SimpleNamespace(name="m"), data)  # type: ignore[arg-type]
    tried(lambda: counts(str(text)), lambda: place(str(text)))
    word(data.decode("latin-1"))


def control_packet(data: bytes) -> None:
    tried(lambda: rtcp.parse(data), lambda: relay_rtcp.report_blocks(data))


def api_path(data: bytes) -> None:
    _FILE.fullmatch(data.decode("latin-1"))


def names_into_metadata(data: bytes) -> None:
    """What the SRC writes into its documents."""
    text = data.decode("utf-8", "surrogateescape")
    tried(lambda: written.clean_aor(text), lambda: written.escape(text), lambda: participants.group(text, b"s"))


# -- frames ------------------------------------------------------------------------------------------------------------

HEAD: Final = (
    b"INVITE sip:bob@example.com SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKa\r\nFrom: <sip:alice@example.com>;tag=1\r\n"
    b"To: <sip:bob@example.com>\r\nCall-ID: a\r\nCSeq: 1 INVITE\r\nMax-Forwards: 70\r\n"
)
TAIL: Final = b"Content-Length: 0\r\n\r\n"
STATUS: Final = HEAD.replace(b"INVITE sip:bob@example.com SIP/2.0", b"SIP/2.0 200 OK")
SDP: Final = b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n"
XML: Final = b'<recording xmlns="urn:ietf:params:xml:ns:recording:1">'

_NAMES: Final = (
    "Via", "v", "From", "f", "To", "t", "Call-ID", "i", "CSeq", "Contact", "m", "Route", "Record-Route", "Path",
    "Max-Forwards", "Require", "Supported", "k", "Proxy-Require", "Content-Type", "c", "Content-Length", "l",
    "Content-Disposition", "Authorization", "Proxy-Authorization", "Reason", "Session-Expires", "x", "Replaces",
    "Refer-To", "r", "Session-ID", "P-Asserted-Identity", "Remote-Party-ID", "Retry-After", "Warning", "Date",
    "WWW-Authenticate", "Proxy-Authenticate", "User-Agent", "X-Unknown", "Subject",
)  # fmt: skip
VALUES: Final = (
    b"%s",
    b'"%s" <sip:a@b>',
    b'"%s',
    b"%s <sip:a@b>;tag=1",
    b"<sip:%s@b>",
    b"<sip:a@b;%s>",
    b"<sip:a@b?%s",
    b"<%s",
    b"<sip:a@b>%s",
    b"<sip:a@b>;%s",
    b'<sip:a@b>;x="%s',
    b"<sip:a@%s>",
    b"sip:a@b;%s",
    b"sip:a:%s@b",
    b"tel:%s",
    b"SIP/2.0/UDP %s",
    b"SIP/2.0/UDP host%s:5060;x",
    b"SIP/2.0/UDP host:5060%s;x",
    b"SIP / 2.0 %s / UDP h",
    b"SIP/2.0/UDP host%s!;x",
    b"SIP/2.0/UDP host:1%s!;x",
    b"SIP/2.0/UDP [::1]%s!;x",
    b"SIP/2.0%s!UDP host",
    b"%s,<sip:a@b>",
    b'%s"<sip:a@b>',
    b'"a"%s,<sip:a@b>',
    b"<sip:a@b>%s,",
    b"1 INVITE%s,",
    b"1%s INVITE",
    b"1 INVITE%s",
    b"18000;duration=%s",
    b"120 (%s)",
    b"120 (%s",
    b"120%s!",
    b'399 host "%s"',
    b'399 %s "a"',
    b"Digest %s",
    b'Digest realm="%s", nonce="x"',
    b'Digest realm="a", %s',
    b'SIP;cause=200;text="%s"',
    b"multipart/mixed;boundary=%s",
    b"callid;to-tag=%s;from-tag=a",
    b"Sat, 13%s Nov 2010 23:29:00 GMT",
    b"a\r\n %s",
)


def sip_frames() -> Iterable[tuple[str, bytes]]:
    """Messages with a place in them."""
    for name in _NAMES:
        yield f"{name} header", HEAD + name.encode() + b": %s\r\n" + TAIL
    yield from {
        "at the beginning": b"%s" + HEAD + TAIL,
        "method": HEAD.replace(b"INVITE sip", b"%s sip") + TAIL,
        "Request-URI": HEAD.replace(b"sip:bob@example.com SIP", b"sip:%s SIP") + TAIL,
        "version": HEAD.replace(b"SIP/2.0\r\n", b"SIP/%s\r\n") + TAIL,
        "reason phrase": STATUS.replace(b"200 OK", b"200 %s") + TAIL,
        "header name": HEAD + b"X%s: a\r\n" + TAIL,
        "before the colon": HEAD + b"i%s: a\r\n" + TAIL,
        "a line": HEAD + b"%s\r\n" + TAIL,
        "a folded line": HEAD + b"Subject: a\r\n %s\r\n" + TAIL,
        "after everything": HEAD + TAIL + b"%s",
        "a head without end": HEAD + b"%s",
        "challenge": STATUS.replace(b"200 OK", b"401 No") + b"WWW-Authenticate: Digest %s\r\n" + TAIL,
        "body": HEAD + b"Content-Type: application/sdp\r\n\r\n" + SDP + b"%s",
        "multipart": HEAD + b"Content-Type: multipart/mixed;boundary=b\r\n\r\n--b\r\n%s",
    }.items()
