"""Parsers get damaged octets: a value or the error they promise, and nothing else."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from siprec import sdp
from siprec.media.bencode import BencodeError, decode, encode
from siprec.metadata.errors import MetadataError
from siprec.metadata.read import parse as parse_metadata
from siprec.sip.digest import AuthValue
from siprec.sip.errors import SipError
from siprec.sip.headers import CSeq, NameAddr, ParameterValue, Reason, SessionExpires, Via
from siprec.sip.message import SipMessage, SipRequest, parse_datagram
from siprec.sip.multipart import parts_of
from siprec.sip.uri import Uri
from siprec.sip.validate import check_for_endpoint, check_for_proxy, check_response
from siprec.trace.ring import call_id_of, without_keys
from tests.hostile.mutations import mutate, mutations
from tests.paths import DATA
from tests.simulation.reference_call import _invite, _statistics, party_sdp

Times = Callable[[int], int]


def files(*folders: str) -> list[bytes]:
    found = [path for folder in folders for path in sorted((DATA / folder).rglob("*")) if path.is_file()]
    return [path.read_bytes() for path in found if path.suffix != ".json"]


SIP = [_invite(1), *(data for data in files("rfc4475", "rfc5118") if data)]
MULTIPART = (
    b"INVITE sip:srs@x SIP/2.0\r\nVia: SIP/2.0/TCP 10.0.0.1;branch=z9hG4bK1\r\nFrom: <sip:a@x>;tag=1\r\n"
    b"To: <sip:b@x>\r\nCall-ID: c\r\nCSeq: 1 INVITE\r\nContact: <sip:a@10.0.0.1>;+sip.src\r\nRequire: siprec\r\n"
    b"Content-Type: multipart/mixed;boundary=b\r\n\r\n--b\r\nContent-Type: application/sdp\r\n\r\n"
    + party_sdp("10.0.0.1").encode()
    + b"\r\n--b\r\nContent-Type: application/rs-metadata+xml\r\nContent-Disposition: recording-session\r\n\r\n"
    b"<recording xmlns='urn:ietf:params:xml:ns:recording:1'/>\r\n--b--\r\n"
)


def read_everything(message: SipMessage) -> None:
    """Every view of a message, each with its own error."""
    views: tuple[Callable[[], Any], ...] = (
        lambda: message.top_via,
        lambda: message.vias,
        lambda: message.from_.uri,
        lambda: message.to.uri,
        lambda: message.contacts,
        lambda: [route.uri for route in message.routes + message.record_routes],
        lambda: message.cseq,
        lambda: message.call_id,
        lambda: message.max_forwards,
        lambda: message.content_type,
        lambda: [part.content for part in parts_of(message)],
        lambda: check_response(message) if not isinstance(message, SipRequest) else check_for_proxy(message),  # type: ignore[arg-type]
        lambda: check_for_endpoint(message) if isinstance(message, SipRequest) else None,
    )
    for view in views:
        try:
            view()
        except SipError:
            pass
    for line in message.lines:
        value = line.partition(":")[2]
        for read in (AuthValue.parse, Reason.parse, ParameterValue.parse):
            try:
                read(value)
            except SipError:
                pass


def test_damaged_sip_messages(times: Times) -> None:
    for data in mutations([*SIP, MULTIPART], times(4000), seed=1):
        call_id_of(data)
        assert len(without_keys(data)) == len(data)
        try:
            message = parse_datagram(data)
        except SipError:
            continue
        read_everything(message)
        message.to_bytes()


VALUES = (
    b'"Alice \\"A\\"" <sip:alice:pw@example.com:5060;transport=tcp?x=y>;tag=1;q=0.5;expires=60',
    b"SIP/2.0/UDP [2001:db8::1]:5060;branch=z9hG4bK1;rport=5060;received=[::1];maddr=224.0.1.75;ttl=16",
    b'Digest username="bob", realm="a b", nonce="n", uri="sip:x", response="0", qop=auth, nc=00000001, cnonce="c"',
    b"sip:%61lice@example.com;lr;x=%22?Subject=a&b=c",
    b"tel:+1-201-555-0123;phone-context=example.com",
    b'SIP;cause=200;text="Call completed elsewhere"',
    b"1800;refresher=uac",
    b"4294967295 INVITE",
)


@pytest.mark.parametrize(
    "read",
    [
        NameAddr.parse,
        Via.parse,
        CSeq.parse,
        Uri.parse,
        Reason.parse,
        SessionExpires.parse,
        ParameterValue.parse,
        AuthValue.parse,
    ],
    ids=lambda read: read.__self__.__name__,
)
def test_damaged_header_values(read: Callable[[str], Any], times: Times) -> None:
    for data in mutations(VALUES, times(400), seed=2):
        try:
            value = read(data.decode("utf-8", "surrogateescape"))
        except SipError:
            continue
        str(value)


SDP = [
    party_sdp("10.0.0.1").encode(),
    b"v=0\r\no=- 1 1 IN IP6 ::1\r\ns=-\r\nc=IN IP6 ::1/127\r\nb=AS:64\r\nt=0 0\r\na=group:BUNDLE a b\r\n"
    b"m=audio 9 UDP/TLS/RTP/SAVPF 111 0\r\na=mid:a\r\na=rtcp-mux\r\na=rtpmap:111 opus/48000/2\r\n"
    b"a=fmtp:111 useinbandfec=1\r\n"
    b"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz|2^20|1:4\r\na=label:1\r\n"
    b"m=video 0 RTP/AVP 31\r\na=inactive\r\nm=image 4000 udptl t38\r\n",
]


def test_damaged_session_descriptions(times: Times) -> None:
    for data in mutations(SDP, times(2500), seed=3):
        try:
            description = sdp.parse(data)
        except sdp.SdpError:
            continue
        for media in description.media:
            try:
                media.port, media.direction, media.rtpmaps, media.formats, media.label, media.connection  # noqa: B018
            except sdp.SdpError:
                pass
        description.to_bytes()


def test_damaged_metadata(times: Times) -> None:
    seeds = files("metadata", "rfc7865")
    for data in mutations(seeds, times(2500), seed=4):
        for strict in (False, True):
            try:
                parse_metadata(data, strict=strict)
            except MetadataError:
                pass


def test_damaged_bencode(times: Times) -> None:
    seeds: Sequence[bytes] = [
        encode(
            {"command": "offer", "sdp": party_sdp("10.0.0.1"), "flags": ["a", "b"], "call-id": "x", "from-tag": "y"}
        ),
        encode({"result": "ok", **_statistics("a", "b")}),
        b"d" * 40 + b"e" * 40,
    ]
    rng = random.Random(5)
    for _ in range(times(3000)):
        try:
            decode(mutate(rng, rng.choice(seeds)))
        except BencodeError:
            pass


def test_files_of_the_repository_are_the_seeds() -> None:
    assert len(SIP) > 50
    assert len(files("metadata", "rfc7865")) > 30
    assert Path(DATA).is_dir()
