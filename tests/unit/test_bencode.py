from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siprec.media import bencode
from siprec.media.bencode import (
    MAX_DEPTH,
    MAX_SIZE,
    BencodeError,
    Incomplete,
    Value,
    decode,
    decode_dict,
    decode_prefix,
    encode,
)


@pytest.fixture(autouse=True, scope="module", params=["native", "python"])
def twin(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test runs with the twin in C and without it."""
    if request.param == "native" and not bencode.NATIVE:
        pytest.skip("the twin in C was not built")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "python":
            patch.setattr(bencode, "_encode_native", bencode._nothing)
            patch.setattr(bencode, "_decode_native", bencode._nothing)
        yield


_values = st.recursive(
    st.integers(-(10**17), 10**17) | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text("abc é\n", max_size=6), inner, max_size=5),
    max_leaves=20,
)


@given(_values)
def test_what_is_encoded_is_decoded(value: Value) -> None:
    assert decode(encode(value)) == value


@settings(deadline=None)
@given(_values, st.data())
def test_the_twin_in_c_says_the_same_of_damaged_octets(value: Value, data: st.DataObject) -> None:
    octets = encode(value)
    assert octets == bencode.encode_in_python(value)
    cut = data.draw(st.integers(0, len(octets)))
    more = data.draw(st.sampled_from([b"", b"0", b"7", b"d", b"e", b"i", b"l", b":", b"-", b"1:a", b"i3e", b"l" * 17]))
    damaged = octets[:cut] + more + octets[cut + data.draw(st.integers(0, 2)) :]
    results = []
    for decoder in (decode, bencode.decode_in_python):
        try:
            results.append(repr(decoder(damaged)))
        except BencodeError as error:
            results.append(f"{type(error).__name__}: {error}")
    assert results[0] == results[1]


@given(st.binary(max_size=80) | st.text("dlei0123:- ", max_size=60).map(str.encode))
def test_any_octets_decode_or_are_a_bencode_error(data: bytes) -> None:
    try:
        decode(data)
    except BencodeError:
        pass


def test_unsorted_keys_are_read_and_written_sorted_on_request() -> None:
    data = b"d6:result2:ok3:sdp3:v=0e"
    assert decode_dict(data) == {"result": b"ok", "sdp": b"v=0"}
    assert encode({"b": 1, "a": [True, "x", ("y",)]}) == b"d1:bi1e1:ali1e1:xl1:yeee"
    assert encode({"b": 1, "a": 2}, sort=True) == b"d1:ai2e1:bi1ee"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"d",
        b"i12",
        b"ie",
        b"i-e",
        b"i1-e",
        b"5:abc",
        b"1x:a",
        b"x",
        b"di1ei2ee",
        b"le1",
        b"l" * (MAX_DEPTH + 2) + b"e" * (MAX_DEPTH + 2),
        b"9999999999999999999999999999:x",
        b"%d:" % (MAX_SIZE + 1),
        b"i" + b"1" * 40 + b"e",
    ],
)
def test_broken_octets(data: bytes) -> None:
    with pytest.raises(BencodeError):
        decode(data)


def test_a_stream_can_wait_for_the_rest() -> None:
    whole = encode({"command": "ping", "x": [1, "abc"]})
    for cut in range(len(whole)):
        with pytest.raises(Incomplete):
            decode_prefix(whole[:cut], 0)
    assert decode_prefix(b"c1 " + whole + b"tail", 3)[1] == 3 + len(whole)


def test_what_has_no_encoding() -> None:
    with pytest.raises(BencodeError):
        encode({"x": 1.5})  # type: ignore[dict-item]
    with pytest.raises(BencodeError):
        decode_dict(b"le")


def test_keys_that_come_once_do_not_keep_out_those_that_always_come() -> None:
    for number in range(5000):
        bencode.decode_in_python(bencode.encode_in_python({f"once {number}": 1}))
    assert len(bencode._keys_in) <= bencode._MAX_KEYS
    assert len(bencode._keys_out) <= bencode._MAX_KEYS
    bencode.decode_in_python(bencode.encode_in_python({"result": "ok"}))
    assert b"result" in bencode._keys_in
    assert "result" in bencode._keys_out
