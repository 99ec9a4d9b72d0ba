"""Cutting a byte stream into messages (MSG-06)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siprec.net.framing import PING, StreamFramer
from siprec.sip.errors import SipError
from siprec.sip.message import MAX_HEAD, MalformedRequest, SipRequest, SipResponse
from tests.unit.net.net_support import options

BODIES = [b"", b"v=0\r\n\r\nOPTIONS x SIP/2.0\r\n\r\n", b"\r\n\r\n\r\n", bytes(range(256)) * 8]
STREAM = b"\r\n\r\n".join(options(body, call_id=str(number)) for number, body in enumerate(BODIES)) + b"\r\n\r\n"


def _bodies(events: Sequence[object]) -> list[bytes]:
    return [event.body for event in events if isinstance(event, SipRequest | SipResponse)]


def test_byte_by_byte_and_at_once_give_the_same() -> None:
    slow, fast = StreamFramer(), StreamFramer()
    one_by_one = [event for octet in STREAM for event in slow.feed(bytes([octet]))]
    at_once = fast.feed(STREAM)
    for events in (one_by_one, at_once):
        assert _bodies(events) == BODIES
        assert sum(event is PING for event in events) == 4
    assert slow.buffered == fast.buffered == 0


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.binary(max_size=300), max_size=6),
    st.lists(st.integers(min_value=0, max_value=4000), max_size=40),
    st.sampled_from([b"", b"\r\n", b"\r\n\r\n", b"\r\n\r\n\r\n\r\n\r\n"]),
)
def test_any_fragmentation_gives_the_same_messages(bodies: list[bytes], cuts: list[int], between: bytes) -> None:
    stream = b"".join(between + options(body, call_id=str(number)) for number, body in enumerate(bodies)) + between
    framer = StreamFramer()
    events: list[object] = []
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    for start, end in pairwise(places):
        events += framer.feed(stream[start:end])
    assert framer.error is None
    assert _bodies(events) == bodies
    whole = StreamFramer().feed(stream)
    assert [event is PING for event in events] == [event is PING for event in whole]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=10))
def test_garbage_never_raises_and_is_never_kept_for_ever(chunks: list[bytes]) -> None:
    framer = StreamFramer()
    for chunk in chunks:
        framer.feed(chunk)
        assert framer.buffered <= MAX_HEAD + 200


def test_single_crlf_is_no_ping_and_two_of_them_are() -> None:
    framer = StreamFramer()
    assert framer.feed(b"\r\n") == []
    assert len(framer.feed(options())) == 1
    assert framer.feed(b"\r") == []
    assert framer.feed(b"\n") == []
    assert framer.feed(b"\r\n") == [PING]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (options().replace(b"Content-Length: 0\r\n", b""), 400),
        (options().replace(b"Content-Length: 0", b"Content-Length: -1"), 400),
        (options().replace(b"Content-Length: 0", b"Content-Length: 3\r\nContent-Length: 4"), 400),
        (options(length=70000), 513),
    ],
)
def test_an_unknown_length_ends_the_stream_with_an_answerable_error(head: bytes, status: int) -> None:
    framer = StreamFramer()
    events = framer.feed(options(b"first") + head + options(b"never read"))
    assert _bodies(events) == [b"first"]
    assert isinstance(framer.error, MalformedRequest)
    assert framer.error.status == status
    assert framer.error.request.call_id == "a"
    assert framer.feed(options()) == []


def test_an_endless_head_ends_the_stream() -> None:
    framer = StreamFramer()
    for _ in range(100):
        framer.feed(b"X-Long: " + b"x" * 1000 + b"\r\n")
    assert framer.error is not None
    assert framer.error.status == 513
    assert framer.buffered == 0


def test_a_malformed_request_whose_end_is_known_costs_only_itself() -> None:
    framer = StreamFramer()
    wrong = options(b"body").replace(b"SIP/2.0\r\nVia", b"SIP/7.0\r\nVia", 1)
    first, second = framer.feed(wrong + options(b"next"))
    assert isinstance(first, SipError)
    assert first.status == 505
    assert isinstance(second, SipRequest)
    assert second.body == b"next"
    assert framer.error is None
