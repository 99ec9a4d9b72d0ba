"""Answers that do not fit their offer."""

from __future__ import annotations

import pytest

from siprec import sdp
from siprec.sdp.repair import fitted

HEAD = b"v=0\r\no=- 1 1 IN IP4 10.0.0.2\r\ns=-\r\nc=IN IP4 10.0.0.2\r\nt=0 0\r\n"
AUDIO = b"m=audio 4000 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n"
VIDEO = b"m=video 4002 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
IMAGE = b"m=image 4004 udptl t38\r\na=T38FaxVersion:0\r\n"
NO_VIDEO, NO_IMAGE = b"m=video 0 RTP/AVP 96\r\n", b"m=image 0 udptl t38\r\n"


def lines(octets: bytes) -> list[tuple[str, int]]:
    return [(line.kind, line.port) for line in sdp.parse(octets).media]


@pytest.mark.parametrize(
    ("offered", "answered", "result"),
    [
        (AUDIO, AUDIO, [("audio", 4000)]),
        (AUDIO + VIDEO, AUDIO, [("audio", 4000), ("video", 0)]),
        (AUDIO + IMAGE, AUDIO, [("audio", 4000), ("image", 0)]),
        (AUDIO + VIDEO, VIDEO, [("audio", 0), ("video", 4002)]),
        (VIDEO + AUDIO, AUDIO, [("video", 0), ("audio", 4000)]),
        (AUDIO + VIDEO, VIDEO + AUDIO, [("audio", 4000), ("video", 4002)]),
        (AUDIO, AUDIO + NO_VIDEO, [("audio", 4000)]),
        (AUDIO, NO_VIDEO + AUDIO, [("audio", 4000)]),
        (AUDIO, AUDIO + VIDEO, [("audio", 4000)]),
        (AUDIO, VIDEO, [("audio", 0)]),
        (AUDIO + VIDEO, b"", [("audio", 0), ("video", 0)]),
        (AUDIO, AUDIO.replace(b"audio", b"AUDIO"), [("audio", 4000)]),
        (AUDIO + IMAGE + VIDEO, NO_IMAGE + AUDIO, [("audio", 4000), ("image", 0), ("video", 0)]),
    ],
)
def test_the_answer_has_the_lines_of_the_offer(offered: bytes, answered: bytes, result: list[tuple[str, int]]) -> None:
    assert lines(fitted(HEAD + offered, HEAD + answered)) == result


def test_an_answer_that_fits_is_left_as_it_came() -> None:
    for answer in (
        HEAD + AUDIO + NO_VIDEO,
        (HEAD + AUDIO + VIDEO).replace(b"\r\n", b"\n"),
        HEAD.replace(b"c=IN IP4 10.0.0.2\r\n", b"") + b"".join(x + b"c=IN IP4 10.0.0.9\r\n" for x in (AUDIO, VIDEO)),
        HEAD + AUDIO + VIDEO + b"\r\n\r\n",
    ):
        assert fitted(HEAD + AUDIO + VIDEO, answer) is answer


def test_one_of_two_audio_lines_answers_the_line_of_its_mid_else_of_its_protocol() -> None:
    secure = AUDIO.replace(b"RTP/AVP", b"RTP/SAVP").replace(b"4000", b"5000")
    both = HEAD + secure + AUDIO
    assert lines(fitted(both, HEAD + AUDIO)) == [("audio", 0), ("audio", 4000)]
    assert lines(fitted(both, HEAD + secure)) == [("audio", 5000), ("audio", 0)]
    named = HEAD + AUDIO + b"a=mid:a\r\n" + AUDIO + b"a=mid:b\r\n"
    assert lines(fitted(named, HEAD + AUDIO + b"a=mid:b\r\n")) == [("audio", 0), ("audio", 4000)]


def test_a_line_that_was_refused_already_is_not_answered() -> None:
    offer = HEAD + AUDIO.replace(b"4000", b"0") + AUDIO
    assert lines(fitted(offer, HEAD + AUDIO)) == [("audio", 0), ("audio", 4000)]


def test_an_answer_without_an_address_gets_that_of_its_origin() -> None:
    bare = HEAD.replace(b"c=IN IP4 10.0.0.2\r\n", b"") + AUDIO
    [line] = sdp.parse(fitted(HEAD + AUDIO, bare)).media
    assert line.connection == sdp.Connection("IP4", "10.0.0.2")
    six = bare.replace(b"IP4 10.0.0.2", b"IP6 2001:db8::2")
    [line] = sdp.parse(fitted(HEAD + AUDIO, six)).media
    assert line.connection == sdp.Connection("IP6", "2001:db8::2")
    for useless in (b"example.com", b"0.0.0.0"):
        answer = bare.replace(b"10.0.0.2", useless)
        assert fitted(HEAD + AUDIO, answer) == answer


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b"what is this\r\n" + AUDIO,
        HEAD + AUDIO + b"a\r\n",
        b"o=- 1 1 IN IP4 10.0.0.2\r\ns=-\r\nc=IN IP4 10.0.0.2\r\nt=0 0\r\n" + AUDIO,
        b"junk\r\n" + HEAD + AUDIO,
        HEAD + b" \t\0\r\n" + AUDIO,
    ],
)
def test_lines_that_are_no_sdp_are_left_out(answer: bytes) -> None:
    result = fitted(HEAD + AUDIO, answer)
    assert lines(result) == [("audio", 4000)]
    assert sdp.parse(result).connection == sdp.Connection("IP4", "10.0.0.2")


@pytest.mark.parametrize("answer", [b"", b"not SDP at all", b"\xff\xfe\0\0", b"m=audio\r\n", b"v=0\r\nm=audio x y\r\n"])
def test_what_cannot_be_read_is_returned_as_it_came(answer: bytes) -> None:
    assert fitted(HEAD + AUDIO, answer) == answer


def test_the_cost_is_linear_in_the_answer() -> None:
    for piece in (b"a=\r\n", b"v=0\r\n", b"\n", b"\r", b"m=", b"a", b" ", b"c=", b"a=x\n", b"\n\r"):
        fitted(HEAD + AUDIO, piece * (500_000 // len(piece)))
        fitted(HEAD + AUDIO, HEAD + piece * (500_000 // len(piece)))
