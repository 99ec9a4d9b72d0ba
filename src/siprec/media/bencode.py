"""Bencode, as the ng protocol uses it: strings of octets, integers, lists, dictionaries.

RTPEngine does not sort the keys of its dictionaries, so unsorted ones are read and, unless asked for, written.

Where its twin in C was built (``csrc/bencode.c``; ``SIPREC_NATIVE=0`` in the environment forbids it), that does what is
well-formed and usual. For all else it says None, and what is here does the work and names the error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

from siprec import compiled

Value: TypeAlias = "bytes | int | list[Value] | dict[str, Value]"
"""What is decoded. Keys are text (octets that are not UTF-8 as surrogate escapes)."""
Encodable: TypeAlias = "str | bytes | int | Sequence[Encodable] | Mapping[str, Encodable]"

MAX_SIZE: Final = 256 * 1024
MAX_DEPTH: Final = 16
_MAX_DIGITS: Final = 20
_MAX_KEYS, _MAX_KEY = 512, 32
_COLON, _DICT, _END, _INTEGER, _LIST = b":deil"

_VERSION: Final = 1
"""Of the twin in C: one that was built from other sources is left alone."""

_keys_in: dict[bytes, str] = {}
_keys_out: dict[object, bytes] = {}


class BencodeError(Exception):
    """Octets that are not bencode, or exceed the limits; or a value that has no encoding."""


class Incomplete(BencodeError):
    """The octets are the beginning of a value that may still come (streams)."""


def _nothing(value: object) -> None:
    """What the twin says where there is none."""


_module = compiled.module("siprec.media._bencode", _VERSION)
NATIVE: Final = _module is not None
_encode_native: Callable[[Encodable], bytes | None] = _nothing if _module is None else _module.encode
_decode_native: Callable[[bytes], Value | None] = _nothing if _module is None else _module.decode


def encode(value: Encodable, *, sort: bool = False) -> bytes:
    """`value` as octets; text as UTF-8, dictionaries in their own order unless `sort`."""
    octets = None if sort else _encode_native(value)
    return encode_in_python(value, sort=sort) if octets is None else octets


def encode_in_python(value: Encodable, *, sort: bool = False) -> bytes:
    """As :func:`encode`, without the twin in C."""
    parts: list[bytes] = []
    _encode(value, parts, sort, 0)
    return b"".join(parts)


def _encode(value: Encodable, parts: list[bytes], sort: bool, depth: int) -> None:
    # Strings and numbers within a container are written in its loop: a call for each would cost more than the writing.
    if isinstance(value, str | bytes | bytearray | int):
        parts += (_scalar(value),)
        return
    if depth >= MAX_DEPTH:
        raise BencodeError("nested too deeply")
    if isinstance(value, Mapping):
        parts += (b"d",)
        for key in sorted(value) if sort else value:
            try:
                encoded = _keys_out[key]
            except KeyError:
                encoded = _key(key)
            item = value[key]
            if isinstance(item, str | bytes | int):
                parts += (encoded, _scalar(item))
            else:
                parts += (encoded,)
                _encode(item, parts, sort, depth + 1)
    elif isinstance(value, Sequence):
        parts += (b"l",)
        for item in value:
            if isinstance(item, str | bytes | int):
                parts += (_scalar(item),)
            else:
                _encode(item, parts, sort, depth + 1)
    else:
        raise BencodeError(f"{type(value).__name__} has no encoding")
    parts += (b"e",)


def _scalar(value: str | bytes | bytearray | int) -> bytes:
    if isinstance(value, int):
        return b"i%de" % value
    octets = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else bytes(value)
    return b"%d:%b" % (len(octets), octets)


def _key(key: object) -> bytes:
    """A key of a dictionary, which is a string."""
    if not isinstance(key, str | bytes):
        raise BencodeError("a key that is not a string")
    encoded = _scalar(key)
    if isinstance(key, str) and len(key) <= _MAX_KEY:
        if len(_keys_out) >= _MAX_KEYS:
            _keys_out.clear()
        _keys_out[key] = encoded
    return encoded


def decode(data: bytes) -> Value:
    """The one value `data` holds; raises :class:`BencodeError` and nothing else."""
    value = _decode_native(data)
    return decode_in_python(data) if value is None else value


def decode_in_python(data: bytes) -> Value:
    """As :func:`decode`, without the twin in C."""
    value, end = decode_prefix(data, 0)
    if end != len(data):
        raise BencodeError(f"{len(data) - end} octets after the value")
    return value


def decode_dict(data: bytes) -> dict[str, Value]:
    """As :func:`decode`, for a dictionary."""
    value = _decode_native(data)
    if value is None:
        value = decode_in_python(data)
    if not isinstance(value, dict):
        raise BencodeError("not a dictionary")
    return value


def decode_prefix(data: bytes, start: int) -> tuple[Value, int]:
    """The value that begins at `start`, and where it ends; :class:`Incomplete` if more octets are needed."""
    if len(data) - start > MAX_SIZE:
        raise BencodeError(f"more than {MAX_SIZE} octets")
    try:
        head = data[start]
        if head == _DICT:
            return _dictionary(data, start + 1, 0)
        if head == _LIST:
            return _list(data, start + 1, 0)
        return _atom(data, start)
    except IndexError:
        raise Incomplete("ends in the middle of a value") from None


# The decoder reads octets by index and makes no function call but one for each container, and for what is rare: a reply
# of RTPEngine holds a hundred strings and numbers.


def _dictionary(data: bytes, at: int, depth: int) -> tuple[dict[str, Value], int]:
    if depth >= MAX_DEPTH:
        raise BencodeError("nested too deeply")
    found: dict[str, Value] = {}
    size = len(data)
    head = data[at]
    while head != _END:
        length = head - 48
        if not 0 <= length <= 9:
            raise BencodeError("a key that is not a string")
        at += 1
        head = data[at]
        first = at
        while head != _COLON:
            length = length * 10 + head - 48
            if not 48 <= head <= 57 or at - first > _MAX_DIGITS:
                raise BencodeError("not a string length")
            at += 1
            head = data[at]
        at += 1
        end = at + length
        if end > size:
            raise _too_short(length)
        octets = data[at:end]
        try:
            key = _keys_in[octets]
        except KeyError:
            key = _new_key(octets)
        at = end
        head = data[at]
        if 48 <= head <= 57:
            length = head - 48
            at += 1
            head = data[at]
            first = at
            while head != _COLON:
                length = length * 10 + head - 48
                if not 48 <= head <= 57 or at - first > _MAX_DIGITS:
                    raise BencodeError("not a string length")
                at += 1
                head = data[at]
            at += 1
            end = at + length
            if end > size:
                raise _too_short(length)
            found[key] = data[at:end]
            at = end
        elif head == _DICT:
            found[key], at = _dictionary(data, at + 1, depth + 1)
        elif head == _LIST:
            found[key], at = _list(data, at + 1, depth + 1)
        else:
            found[key], at = _atom(data, at)
        head = data[at]
    return found, at + 1


def _list(data: bytes, at: int, depth: int) -> tuple[list[Value], int]:
    if depth >= MAX_DEPTH:
        raise BencodeError("nested too deeply")
    items: list[Value] = []
    value: Value
    head = data[at]
    while head != _END:
        if head == _DICT:
            value, at = _dictionary(data, at + 1, depth + 1)
        elif head == _LIST:
            value, at = _list(data, at + 1, depth + 1)
        else:
            value, at = _atom(data, at)
        items += (value,)
        head = data[at]
    return items, at + 1


def _atom(data: bytes, at: int) -> tuple[bytes | int, int]:
    """A string or an integer."""
    head = data[at]
    if 48 <= head <= 57:
        colon = _find(data, b":", at)
        digits = data[at:colon]
        if not digits.isdigit():
            raise BencodeError("not a string length")
        length = int(digits)
        end = colon + 1 + length
        if end > len(data):
            raise _too_short(length)
        return data[colon + 1 : end], end
    if head != _INTEGER:
        raise BencodeError(f"no value begins with {data[at : at + 1]!r}")
    end = _find(data, b"e", at + 1)
    text = data[at + 1 : end]
    if not text.removeprefix(b"-").isdigit():
        raise BencodeError("not an integer")
    return int(text), end + 1


def _too_short(length: int) -> BencodeError:
    if length > MAX_SIZE:
        return BencodeError(f"a string of more than {MAX_SIZE} octets")
    return Incomplete("ends in the middle of a string")


def _new_key(octets: bytes) -> str:
    """Text of a key; those of servers are few and the same in each reply."""
    key = octets.decode("utf-8", "surrogateescape")
    if len(octets) <= _MAX_KEY:
        if len(_keys_in) >= _MAX_KEYS:
            _keys_in.clear()  # keys that come once must not keep those out that always come
        _keys_in[octets] = key
    return key


def _find(data: bytes, mark: bytes, at: int) -> int:
    end = data.find(mark, at, at + _MAX_DIGITS + 2)
    if end < 0:
        if len(data) - at > _MAX_DIGITS:
            raise BencodeError("a number without an end")
        raise Incomplete("ends in the middle of a number")
    return end
