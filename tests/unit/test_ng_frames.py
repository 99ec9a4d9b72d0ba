"""ng over a byte stream: messages come out whole however they are cut, and no input costs more than its length."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siprec.media.bencode import MAX_SIZE, BencodeError, decode, encode
from siprec.media.ngframes import StreamFramer

_leaves = st.one_of(st.binary(max_size=30), st.integers(-(10**15), 10**15))
_values = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5).filter(str.isascii), inner, max_size=4)
    ),
    max_leaves=12,
)
_cookies = st.binary(min_size=1, max_size=40).filter(lambda cookie: not set(cookie) & set(b" \r\n"))
_json = st.recursive(
    st.one_of(st.text(max_size=20), st.integers(-(10**18), 10**18), st.none(), st.booleans()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)


def cut(stream: bytes, sizes: list[int]) -> list[bytes]:
    pieces = []
    for size in sizes:
        pieces.append(stream[:size])
        stream = stream[size:]
    return [*pieces, stream]


@given(
    st.lists(st.tuples(_cookies, st.one_of(_values, st.dictionaries(st.text(max_size=5), _json)), st.booleans())),
    st.lists(st.integers(1, 9), max_size=60),
)
def test_messages_come_out_as_they_went_in(messages: list[tuple[bytes, object, bool]], sizes: list[int]) -> None:
    sent = []
    for cookie, value, line_end in messages:
        try:
            body = encode(value)  # type: ignore[arg-type]
        except BencodeError:
            body = json.dumps(value).encode()
        sent.append(cookie + b" " + body)
        if line_end:
            sent.append(b"")
    stream = b"\n".join(sent) if sent else b""
    framer = StreamFramer()
    heard = [message for piece in cut(stream, sizes) for message in framer.feed(piece)]
    assert heard == [message for message in sent if message]


@given(st.binary(max_size=300), st.lists(st.integers(1, 5), max_size=40))
def test_any_octets_are_messages_or_a_typed_error(data: bytes, sizes: list[int]) -> None:
    framer = StreamFramer()
    try:
        for piece in cut(data, sizes):
            for message in framer.feed(piece):
                body = message.partition(b" ")[2]
                if not body.startswith(b"{"):
                    decode(body)
    except BencodeError:
        pass


@pytest.mark.parametrize(
    "stream",
    [
        b"c " + b"d" * 100,
        b"c " + b"l" * 100,
        b"c {" * 1 + b'"a":[' * 40,
        b"x" * 300,
        b"c 99999999999999999999999:",
        b"c 300000:",
        b"c i" + b"1" * 40,
        b"c d" + (b"1:a" + b"200000:" + b"x" * 200_000) * 2,
        b"c {" + b" " * (MAX_SIZE + 10),
        b"c e",
        b"c x",
    ],
)
def test_what_exceeds_the_limits_is_refused(stream: bytes) -> None:
    def feed() -> None:
        framer = StreamFramer()
        for piece in cut(stream, [1000] * (len(stream) // 1000)):
            framer.feed(piece)

    with pytest.raises(BencodeError):
        feed()


@pytest.mark.parametrize(
    "unit",
    [b"1:a1:b", b"1:ali1ei2ee", b"1:a0:", b"1:a" + b"4000:" + b"y" * 4000],
    ids=["pairs", "lists", "empty", "long"],
)
def test_small_pieces_cost_no_more_than_their_octets(unit: bytes) -> None:
    def cost(octets: int) -> float:
        stream = b"c d" + unit * (octets // len(unit))
        best = 1e9
        for _ in range(3):
            framer = StreamFramer()
            begin = time.process_time()
            for at in range(0, len(stream), 3):
                framer.feed(stream[at : at + 3])
            best = min(best, time.process_time() - begin)
        return best / len(stream)

    small, large = cost(8_000), cost(128_000)
    assert large < 4 * small + 1e-6, (small, large)
