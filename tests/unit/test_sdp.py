from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siprec import sdp
from siprec.sdp import Origin, SdpError

PHONE = b"\r\n".join(
    [
        b"v=0",
        b"o=alice 2890844526 2890844527 IN IP4 host.atlanta.example.com",
        b"s=",
        b"c=IN IP4 192.0.2.101",
        b"t=0 0",
        b"a=x-vendor:  odd   spacing ",
        b"m=audio 49172 RTP/AVP 0 9 18 101",
        b"a=rtpmap:0 PCMU/8000",
        b"a=rtpmap:101 telephone-event/8000",
        b"a=fmtp:101 0-16",
        b"a=fmtp:18 annexb=no",
        b"a=ptime:20",
        b"a=sendonly",
        b"m=video  51372/2  RTP/AVPF 99",
        b"c=IN IP6 2001:db8::5",
        b"a=rtpmap:99 h263-1998/90000",
        b"a=rtcp:53020 IN IP6 2001:db8::6",
        b"m=audio 0 RTP/AVP 0",
        b"",
    ]
)

WEBRTC = b"\r\n".join(
    [
        b"v=0",
        b"o=- 4611731400430051336 2 IN IP4 127.0.0.1",
        b"s=-",
        b"t=0 0",
        b"a=group:BUNDLE 0 1",
        b"m=audio 9 UDP/TLS/RTP/SAVPF 111 0",
        b"c=IN IP4 203.0.113.9",
        b"a=rtcp:9 IN IP4 0.0.0.0",
        b"a=mid:0",
        b"a=rtcp-mux",
        b"a=rtpmap:111 opus/48000/2",
        b"a=fmtp:111 minptime=10;useinbandfec=1",
        b"a=candidate:1 1 UDP 2122252543 192.0.2.4 50001 typ host",
        b"m=video 0 UDP/TLS/RTP/SAVPF 96",
        b"a=bundle-only",
        b"a=mid:1",
        b"a=rtpmap:96 VP8/90000",
        b"",
    ]
)


def test_what_is_not_edited_is_written_byte_for_byte() -> None:
    for data in (PHONE, WEBRTC, PHONE.replace(b"\r\n", b"\n"), PHONE + b"a=caf\xe9\xff\r\n"):
        assert sdp.parse(data).to_bytes() == data


def test_an_edit_touches_only_its_token() -> None:
    description = sdp.parse(PHONE)
    description.set_address("198.51.100.1")
    description.media[0].port = 30000
    description.media[1].port = 30002
    assert description.to_bytes() == (
        PHONE.replace(b"c=IN IP4 192.0.2.101", b"c=IN IP4 198.51.100.1")
        .replace(b"c=IN IP6 2001:db8::5", b"c=IN IP4 198.51.100.1")
        .replace(b"m=audio 49172", b"m=audio 30000")
        .replace(b"m=video  51372/2", b"m=video  30002/2")
    )


def test_views_of_an_ordinary_phone() -> None:
    description = sdp.parse(PHONE)
    audio, video, refused = description.media
    assert description.origin == Origin("alice", "2890844526", "2890844527", "host.atlanta.example.com")
    assert (audio.kind, audio.port, audio.num_ports, audio.proto) == ("audio", 49172, 1, "RTP/AVP")
    assert audio.formats == ["0", "9", "18", "101"]
    assert audio.direction == "sendonly"
    assert audio.on_hold
    assert audio.ptime == 20
    assert {pt: str(meaning) for pt, meaning in audio.rtpmaps.items()} == {
        0: "PCMU/8000",
        9: "G722/8000",
        18: "G729/8000",
        101: "telephone-event/8000",
    }
    assert audio.fmtp == {"101": "0-16", "18": "annexb=no"}
    assert audio.connection == sdp.Connection("IP4", "192.0.2.101")
    assert audio.rtcp == ("192.0.2.101", 49173)
    assert (video.port, video.num_ports) == (51372, 2)
    assert video.connection == sdp.Connection("IP6", "2001:db8::5")
    assert video.rtcp == ("2001:db8::6", 53020)
    assert video.direction == "sendrecv"
    assert not video.on_hold
    assert refused.rejected
    assert refused.on_hold
    assert refused.rtcp is None


def test_a_bundle_only_line_is_not_rejected_and_mux_puts_rtcp_on_the_rtp_port() -> None:
    description = sdp.parse(WEBRTC)
    assert description.bundles == [["0", "1"]]
    assert [media.mid for media in description.media] == ["0", "1"]
    assert not description.media[1].rejected
    assert description.media[0].rtcp_mux
    assert str(description.media[0].rtpmaps[111]) == "opus/48000/2"
    description.media[0].remove_attributes("rtcp")
    assert description.media[0].rtcp == ("203.0.113.9", 9)


def test_missing_connection_is_added_where_it_belongs() -> None:
    description = sdp.parse(b"v=0\r\nm=audio 5004 RTP/AVP 0\r\ni=title\r\na=ptime:20\r\n")
    assert description.media[0].connection is None
    description.set_address("2001:db8::1")
    assert description.to_bytes() == (
        b"v=0\r\nm=audio 5004 RTP/AVP 0\r\ni=title\r\nc=IN IP6 2001:db8::1\r\na=ptime:20\r\n"
    )


def test_session_direction_is_the_default_and_a_line_overrides_it() -> None:
    description = sdp.parse(b"v=0\r\na=inactive\r\nm=audio 4 RTP/AVP 0\r\nm=audio 6 RTP/AVP 0\r\na=recvonly\r\n")
    assert [media.direction for media in description.media] == ["inactive", "recvonly"]
    description.media[0].direction = "sendonly"
    description.media[1].direction = "sendrecv"
    assert description.to_bytes() == (
        b"v=0\r\na=inactive\r\nm=audio 4 RTP/AVP 0\r\na=sendonly\r\nm=audio 6 RTP/AVP 0\r\na=sendrecv\r\n"
    )


@pytest.mark.parametrize(
    ("tail", "held"),
    [
        (b"", False),
        (b"a=sendrecv\r\n", False),
        (b"a=sendonly\r\n", True),
        (b"a=recvonly\r\n", True),
        (b"a=inactive\r\n", True),
        (b"c=IN IP4 0.0.0.0\r\n", True),
        (b"c=IN IP6 ::\r\n", True),
    ],
)
def test_forms_of_hold(tail: bytes, held: bool) -> None:  # OA-08
    description = sdp.parse(b"v=0\r\nc=IN IP4 192.0.2.1\r\nm=audio 5004 RTP/AVP 0\r\n" + tail)
    assert description.media[0].on_hold is held


def test_lenient_reading() -> None:
    description = sdp.parse("\r\nv=0\no=broken\nz=?\nm=audio 5004 RTP/AVP\nc=IN IP4 239.1.1.1/127\na=rtpmap:x\n\n\n")
    assert description.origin is None
    assert description.media[0].connection == sdp.Connection("IP4", "239.1.1.1")
    assert description.media[0].rtpmaps == {}
    assert description.to_bytes().startswith(b"v=0\no=broken\nz=?\nm=audio 5004 RTP/AVP\n")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage",
        b"o=- 1 1 IN IP4 1.1.1.1\r\n",
        b"v=0\r\nm=audio\r\n",
        b"v=0\r\nm=audio 65536 RTP/AVP 0\r\n",
        b"v=0\r\nm=audio -1 RTP/AVP 0\r\n",
        b"v=0\r\nm=audio 99999999999999999999 RTP/AVP 0\r\n",
        b"v=0\r\nm=audio 5004/0 RTP/AVP 0\r\n",
        "v=0\r\nm=audio ٣٤ RTP/AVP 0\r\n".encode(),
        b"v=0\r\n: no\r\n",
        b"v=0\r\na=x\0y\r\n",
        b"v=0\r\na=x\ry\r\n",
        b"v=0\r\n" + b"m=audio 5004 RTP/AVP 0\r\n" * (sdp.MAX_MEDIA + 1),
        b"v=0\r\na=" + b"x" * sdp.MAX_SIZE,
        b"v=0\r\n" + b"a=x\r\n" * (sdp.MAX_LINES + 1),
        "v=0\r\na=\ud800",
    ],
)
def test_bad_descriptions_are_an_sdp_error(data: bytes | str) -> None:
    with pytest.raises(SdpError):
        sdp.parse(data)


def _touch(description: sdp.SessionDescription) -> None:
    _ = description.origin, description.bundles, description.connection, description.direction
    for media in description.media:
        _ = media.direction, media.connection, media.rtcp, media.rtpmaps, media.fmtp, media.ptime, media.on_hold
        _ = media.mid, media.label, media.rejected


_words = st.sampled_from(
    [
        b"v=0",
        b"m=audio 5 RTP/AVP 0",
        b"m=",
        b"c=IN IP4 1.2.3.4",
        b"c=",
        b"a=rtcp:",
        b"a=rtcp:9 IN IP4 x",
        b"a=fmtp:",
        b"a=rtpmap:0 x/9/9",
        b"o=",
        b"o=a 1 x IN IP4 y",
        b"a=ptime:nan",
        b"a=group:",
        b"\r\n",
        b"\n",
        b" ",
        b"\xff",
        b"/",
    ]
)


@settings(max_examples=400, deadline=None)
@given(
    st.one_of(st.binary(max_size=300), st.lists(_words, max_size=30).map(b"\r\n".join), st.lists(_words).map(b"".join))
)
def test_whatever_comes_in_only_sdp_errors_come_out(data: bytes) -> None:
    try:
        description = sdp.parse(data)
    except SdpError:
        return
    _touch(description)
    again = description.to_bytes()
    assert sdp.parse(again).to_bytes() == again
    description.set_address("192.0.2.77")
    assert {media.connection for media in sdp.parse(description.to_bytes()).media} <= {
        sdp.Connection("IP4", "192.0.2.77")
    }


def test_origin_version_rises_by_one() -> None:
    assert Origin("-", "5", "18446744073709551615", "192.0.2.1").bump().version == "18446744073709551616"
    assert Origin("-", "5", "7", "2001:db8::1").to_line() == "o=- 5 7 IN IP6 2001:db8::1"


def test_answer_directions_follow_rfc_3264() -> None:  # SDP-09, SRS-06
    recorder = {offered: sdp.answer_direction(offered, wanted="recvonly") for offered in sdp.DIRECTIONS}
    assert recorder == {"sendrecv": "recvonly", "sendonly": "recvonly", "recvonly": "inactive", "inactive": "inactive"}
    source = {offered: sdp.answer_direction(offered, wanted="sendonly") for offered in sdp.DIRECTIONS}
    assert source == {"sendrecv": "sendonly", "sendonly": "inactive", "recvonly": "sendonly", "inactive": "inactive"}
    assert [sdp.answer_direction(offered) for offered in sdp.DIRECTIONS] == [
        "sendrecv",
        "recvonly",
        "sendonly",
        "inactive",
    ]
    assert sdp.answer_direction("sendonly", ready=False) == "inactive"


FORKED = (
    b"v=0\r\no=- 1 1 IN IP4 192.0.2.9\r\ns=-\r\nt=0 0\r\nm=audio 40000 RTP/SAVP 0 101\r\nc=IN IP4 192.0.2.9\r\n"
    b"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:secret\r\na=mid:0\r\na=ssrc:5 cname:x\r\n"
    b"a=rtpmap:101 telephone-event/8000\r\n"
    b"a=fmtp:101 0-15\r\na=rtpmap:8 PCMA/8000\r\na=sendrecv\r\na=rtcp:40009\r\na=ptime:20\r\na=record:on\r\n"
)


def test_recording_offer_copies_formats_and_nothing_private() -> None:  # SDP-01, 02, 12, 14, 15
    source = sdp.parse(FORKED).media[0]
    offer = sdp.build_session(
        Origin("SRC", "7", "1", "192.0.2.9"), [sdp.recording_media(source, label="96", proto="RTP/AVP")], name="rec"
    )
    assert offer.to_bytes() == (
        b"v=0\r\no=SRC 7 1 IN IP4 192.0.2.9\r\ns=rec\r\nt=0 0\r\nm=audio 40000 RTP/AVP 0 101\r\nc=IN IP4 192.0.2.9\r\n"
        b"a=label:96\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=ptime:20\r\n"
        b"a=rtcp:40009\r\na=sendonly\r\n"
    )


def test_recorder_answer_echoes_labels_and_rejects_with_port_zero() -> None:  # SRS-06, 09, 14
    offer = sdp.build_session(
        Origin(address="2001:db8::9"),
        [
            sdp.build_media("audio", 4000, [0, 101], label="1", direction="sendonly", fmtp={"101": "0-15"}),
            sdp.build_media(
                "video", 4002, [96], label="2", rtpmaps={96: sdp.RtpMap("VP8", 90000)}, direction="sendonly"
            ),
            sdp.build_media("audio", 4004, [0], label="3", direction="inactive"),
        ],
    )
    read = sdp.parse(offer.to_bytes())
    assert read.connection == sdp.Connection("IP6", "2001:db8::9")
    first, second, third = read.media
    answer = sdp.build_session(
        Origin(address="2001:db8::1"),
        [
            sdp.answer_media(first, port=5000, formats=["0"]),
            sdp.answer_media(second, port=5002, formats=["97"]),
            sdp.answer_media(third, port=5004),
        ],
    )
    media = sdp.parse(answer.to_bytes()).media
    assert [(m.port, m.label, m.direction) for m in media[::2]] == [(5000, "1", "recvonly"), (5004, "3", "inactive")]
    assert media[0].formats == ["0"]
    assert media[1].rejected
    assert media[1].formats == ["96"]


@pytest.mark.parametrize("label", ["a b", "x/y", "x:y", "ü", 'q"'])
def test_a_label_is_a_token(label: str) -> None:
    with pytest.raises(SdpError):
        sdp.build_media("audio", 4000, [0], label=label)


def test_strict_writing() -> None:
    description = sdp.parse(PHONE)
    description.lines.append("a=x\r\na=injected")
    with pytest.raises(SdpError):
        description.to_bytes()
    description = sdp.parse(PHONE)
    description.media[0].port = 65536
    with pytest.raises(SdpError):
        description.to_bytes()
    with pytest.raises(SdpError):
        sdp.build_session(Origin(), [sdp.build_media("audio", 1, [])]).to_bytes()
    with pytest.raises(SdpError):
        description.media[1].set_attribute("x", "a\r\nb")


def test_attributes_are_edited_in_place() -> None:
    media = sdp.parse(PHONE).media[0]
    media.set_attribute("ptime", "40")
    media.set_attribute("rtcp", "49999")
    assert media.lines[-2:] == ["a=sendonly", "a=rtcp:49999"]
    assert "a=ptime:40" in media.lines
    assert media.rtcp == ("192.0.2.101", 49999)
    media.remove_attributes("fmtp")
    assert media.fmtp == {}
