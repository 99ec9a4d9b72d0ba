"""Numbers with any number of digits, where strangers write numbers: read, or refused, but never Python's ValueError
(it does not convert more than 4,300 digits)."""

from __future__ import annotations

import pytest

from siprec import sdp
from siprec.media.rtpproxy_protocol import counts, place
from siprec.recorder.formats import codec_table
from siprec.recording.rs_sdp import _codecs
from siprec.sip.errors import SipError
from siprec.sip.headers import CSeq, NameAddr, Reason, SessionExpires
from siprec.sip.message import MalformedRequest, SipRequest, parse_datagram
from siprec.sip.uri import Uri
from siprec.sip.values import RAck, min_se, retry_after

DIGITS = ["1" * 5000, "0" * 5000 + "1", "9" * 20, "²" * 3, "٣" * 5000]


def message(name: str, value: str) -> SipRequest:
    request = SipRequest("INVITE", "sip:b@c")
    request.add(name, value)
    return request


@pytest.mark.parametrize("digits", DIGITS)
def test_numbers_in_headers_are_read_or_refused(digits: str) -> None:
    for read in (
        lambda: CSeq.parse(f"{digits} INVITE"),
        lambda: SessionExpires.parse(digits),
        lambda: min_se(message("min-se", digits)),
        lambda: RAck.parse(f"{digits} {digits} INVITE"),
        lambda: retry_after(message("retry-after", f"{digits};duration={digits}")),
        lambda: Reason.parse(f"SIP;cause={digits}"),
        lambda: NameAddr.parse(f"<sip:a@b>;expires={digits};q={digits}").expires,
        lambda: NameAddr.parse(f"<sip:a@b>;expires={digits};q=0.{digits}").q,
        lambda: Uri.parse(f"sip:a@b:{digits}"),
    ):
        try:
            read()
        except SipError:
            continue


def test_leading_zeros_are_plain_numbers() -> None:
    assert CSeq.parse("0" * 9000 + "17 INVITE") == (17, "INVITE")
    with pytest.raises(SipError):
        CSeq.parse("0" * 9000 + "4294967296 INVITE")


@pytest.mark.parametrize("digits", DIGITS)
@pytest.mark.parametrize("header", ["Content-Length", "l", "Max-Forwards", "CSeq", "Expires", "Min-SE"])
def test_numbers_in_messages_are_read_or_refused(header: str, digits: str) -> None:
    data = f"OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP c;branch=z9hG4bK1\r\n{header}: {digits}\r\n\r\n".encode()
    try:
        message = parse_datagram(data)
        assert message.max_forwards is None
    except (MalformedRequest, SipError):
        pass


@pytest.mark.parametrize("digits", DIGITS)
def test_numbers_in_descriptions_are_read_or_left_alone(digits: str) -> None:
    body = sdp.parse(
        f"v=0\r\no=- {digits} {digits} IN IP4 192.0.2.1\r\ns=-\r\nt=0 0\r\n"
        f"m=audio 4000 RTP/AVP 0 {digits}\r\na=rtpmap:{digits} X/{digits}\r\na=ptime:{digits}\r\na=rtcp:{digits}\r\n"
    )
    [media] = body.media
    assert body.origin is not None
    assert body.origin.bump().version not in ("", digits)
    assert list(media.rtpmaps) == list(codec_table(media)) == [0]
    assert _codecs(media) == {"0": "PCMU", digits: digits}
    assert media.ptime in (None, 1.0)
    for line in (f"m=audio {digits} RTP/AVP 0", f"m=audio 4000/{digits} RTP/AVP 0"):
        with pytest.raises(sdp.SdpError):
            sdp.parse(f"v=0\r\n{line}\r\n")


@pytest.mark.parametrize("digits", DIGITS)
def test_numbers_in_replies_of_media_servers_are_read_or_refused(digits: str) -> None:
    assert set(counts(f"a={digits} b=1")) <= {"a", "b"}
    with pytest.raises(ValueError, match=r"makes no sense|no session"):
        place(f"{digits} 192.0.2.1")
