"""The SRC's session description: version discipline, m-lines that stay, answers by direction."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siprec import sdp
from siprec.media.engine import ForkedStream, Subscription
from siprec.recording.rs_sdp import RecordingSdp
from siprec.sdp import Direction, SdpError


def subscription(*streams: tuple[str, int, int], kind: str = "audio", address: str = "10.0.0.9") -> Subscription:
    """Streams as (tag, index, port)."""
    lines = [
        sdp.build_media(kind, port, ["0"], address=address, rtcp_port=port + 7, attributes=["crypto:1 x", "mid:1"])
        for _, _, port in streams
    ]
    forked = tuple(ForkedStream(tag, index, kind, line) for (tag, index, _), line in zip(streams, lines, strict=True))
    return Subscription("s", forked)


def described(*streams: tuple[str, int, int], address: str = "10.0.0.9") -> RecordingSdp:
    description = RecordingSdp("77")
    description.update(subscription(*streams, address=address), "a")
    return description


def version(octets: bytes) -> int:
    origin = sdp.parse(octets).origin
    assert origin is not None
    return int(origin.version)


def test_caller_comes_first_and_nothing_private_goes_out() -> None:
    description = described(("b", 0, 3000), ("a", 0, 4000))
    offer = sdp.parse(description.offer())
    assert [(line.port, line.label) for line in offer.media] == [(4000, "1"), (3000, "2")]
    assert description.labels == {("a", 0): "1", ("b", 0): "2"}
    text = description.offer().decode()
    assert "a=rtcp:4007" in text
    assert "crypto" not in text
    assert "mid" not in text


def test_addresses_of_either_family() -> None:
    text = described(("a", 0, 4000), address="2001:db8::9").offer().decode()
    assert "o=siprec 77 1 IN IP6 2001:db8::9" in text
    assert "c=IN IP6 2001:db8::9" in text


def test_the_version_moves_exactly_when_something_changed() -> None:
    description = described(("a", 0, 4000))
    first = description.offer()
    assert description.offer() == first
    paused = description.offer(inactive=True)
    assert version(paused) == version(first) + 1
    assert description.offer(inactive=True) == paused
    assert version(description.offer()) == version(first) + 2
    description.update(subscription(("a", 0, 4000)), "a")
    assert version(description.offer()) == version(first) + 2


ops = st.lists(st.sets(st.tuples(st.sampled_from("ab"), st.integers(0, 2)), max_size=4), min_size=1, max_size=8)


@given(ops)
def test_m_lines_never_vanish_and_streams_keep_theirs(steps: list[set[tuple[str, int]]]) -> None:
    description = RecordingSdp("1")
    count, places = 0, dict[tuple[str, int], int]()
    last, last_version = b"", 0
    for keys in steps:
        description.update(subscription(*[(tag, index, 4000 + 10 * index + ord(tag)) for tag, index in keys]), "a")
        offer = description.offer()
        media = sdp.parse(offer).media
        assert len(media) >= count
        assert set(description.labels) == keys
        for key, label in description.labels.items():
            if key in places:
                assert places[key] == int(label)
            assert not media[int(label) - 1].rejected
        assert sum(not line.rejected for line in media) == len(keys)
        assert version(offer) == last_version + 1 or offer == last or not last
        count = len(media)
        places = {key: int(label) for key, label in description.labels.items()}
        last, last_version = offer, version(offer)


@pytest.mark.parametrize(
    ("theirs", "inactive", "ours"),
    [
        ("recvonly", False, "sendonly"),
        ("sendrecv", False, "sendonly"),
        ("sendonly", False, "inactive"),
        ("inactive", False, "inactive"),
        ("recvonly", True, "inactive"),
    ],
)
def test_answers_to_the_srs_follow_rfc_3264(theirs: Direction, inactive: bool, ours: Direction) -> None:
    description = described(("a", 0, 4000))
    description.offer()
    offered = sdp.parse(description.offer())
    offered.media[0].direction = theirs
    offered.media[0].port = 9000
    answer = sdp.parse(description.answer(offered, inactive))
    assert [(line.port, line.direction) for line in answer.media] == [(4000, ours)]


def test_feedback_that_the_srs_did_not_offer_is_not_in_the_answer() -> None:  # RFC 4585 4.2
    line = sdp.build_media(
        "video", 4000, ["96"], proto="RTP/AVPF", address="10.0.0.9", attributes=sdp.KEY_FRAME_FEEDBACK
    )
    description = RecordingSdp("77")
    description.update(Subscription("s", (ForkedStream("a", 0, "video", line),)), "a")
    offered = sdp.parse(description.offer())
    assert offered.media[0].attributes("rtcp-fb") == ["* ccm fir", "* nack pli"]
    offered.media[0].remove_attributes("rtcp-fb")
    offered.media[0].lines.append("a=rtcp-fb:* ccm fir")
    assert sdp.parse(description.answer(offered)).media[0].attributes("rtcp-fb") == ["* ccm fir"]
    offered.media[0].remove_attributes("rtcp-fb")
    offered.media[0].proto = "RTP/AVP"
    answer = sdp.parse(description.answer(offered)).media[0]
    assert (answer.proto, answer.attributes("rtcp-fb")) == ("RTP/AVP", [])


def test_rejected_added_and_foreign_lines_are_answered_with_port_0() -> None:
    description = described(("a", 0, 4000), ("b", 0, 3000))
    offered = sdp.parse(description.offer())
    offered.media[0].port = 0
    offered.media[1].formats = ["99"]
    offered.add(sdp.build_media("video", 7000, ["96"]))
    answer = sdp.parse(description.answer(offered))
    assert [(line.kind, line.port) for line in answer.media] == [("audio", 0), ("audio", 0), ("video", 0)]
    with pytest.raises(SdpError, match="1 m-lines where 2"):
        description.answer(sdp.parse(described(("a", 0, 4000)).offer()))


def test_the_answer_goes_to_the_media_server_in_its_own_order() -> None:
    forked = subscription(("b", 0, 3000), ("a", 0, 4000))
    description = RecordingSdp("1")
    description.update(forked, "a")
    answer = sdp.parse(description.offer())
    answer.media[0].port, answer.media[1].port = 5001, 5002
    given = sdp.parse(description.for_media_server(answer, forked))
    assert [line.port for line in given.media] == [5002, 5001]
    withheld = sdp.parse(description.for_media_server(answer, forked, withheld=True))
    assert [line.direction for line in withheld.media] == ["inactive", "inactive"]
    # A short answer: what is missing is rejected.
    del answer.media[1]
    assert [line.port for line in sdp.parse(description.for_media_server(answer, forked)).media] == [0, 5001]
