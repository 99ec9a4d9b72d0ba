"""Bencode, as the ng protocol uses it: strings of octets, integers, lists, dictionaries.

RTPEngine does not sort the keys of its dictionaries, so unsorted ones are read and, unless asked for, written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

Value: TypeAlias = "bytes | int | list[Value] | dict[str, Value]"
"""What is decoded. Keys are text (octets that are not UTF-8 as surrogate escapes)."""
Encodable: TypeAlias = "str | bytes | int | Sequence[Encodable] | Mapping[str, Encodable]"

MAX_SIZE: Final = 256 * 1024
MAX_DEPTH: Final = 16
_MAX_DIGITS: Final = 20


class BencodeError(Exception):
    """Octets that are not bencode, or exceed the limits; or a value that has no encoding."""


class Incomplete(BencodeError):
    """The octets are the beginning of a value that may still come (streams)."""


def encode(value: Encodable, *, sort: bool = False) -> bytes:
    """`value` as octets; text as UTF-8, dictionaries in their own order unless `sort`."""
    parts: list[bytes] = []
    _encode(value, parts, sort, 0)
    return b"".join(parts)


def _encode(value: Encodable, parts: list[bytes], sort: bool, depth: int) -> None:
    if isinstance(value, str):
        value = value.encode("utf-8", "surrogateescape")
    if isinstance(value, (bytes, bytearray)):
        parts.append(b"%d:" % len(value))
        parts.append(bytes(value))
    elif isinstance(value, int):
        parts.append(b"i%de" % value)
    elif depth >= MAX_DEPTH:
        raise BencodeError("nested too deeply")
    elif isinstance(value, Mapping):
        parts.append(b"d")
        for key in sorted(value) if sort else value:
            _encode(key, parts, sort, depth + 1)
            _encode(value[key], parts, sort, depth + 1)
        parts.append(b"e")
    elif isinstance(value, Sequence):
        parts.append(b"l")
        for item in value:
            _encode(item, parts, sort, depth + 1)
        parts.append(b"e")
    else:
        raise BencodeError(f"{type(value).__name__} has no encoding")


def decode(data: bytes) -> Value:
    """The one value `data` holds; raises :class:`BencodeError` and nothing else."""
    value, end = decode_prefix(data, 0)
    if end != len(data):
        raise BencodeError(f"{len(data) - end} octets after the value")
    return value


def decode_dict(data: bytes) -> dict[str, Value]:
    """As :func:`decode`, for a dictionary."""
    value = decode(data)
    if not isinstance(value, dict):
        raise BencodeError("not a dictionary")
    return value


def decode_prefix(data: bytes, start: int) -> tuple[Value, int]:
    """The value that begins at `start`, and where it ends; :class:`Incomplete` if more octets are needed."""
    if len(data) - start > MAX_SIZE:
        raise BencodeError(f"more than {MAX_SIZE} octets")
    return _decode(data, start, 0)


def _decode(data: bytes, at: int, depth: int) -> tuple[Value, int]:
    if depth > MAX_DEPTH:
        raise BencodeError("nested too deeply")
    head = data[at : at + 1]
    if head.isdigit():
        return _string(data, at)
    if head == b"i":
        end = _find(data, b"e", at + 1)
        text = data[at + 1 : end]
        if not text.removeprefix(b"-").isdigit():
            raise BencodeError("not an integer")
        return int(text), end + 1
    if head == b"l":
        items: list[Value] = []
        at += 1
        while data[at : at + 1] != b"e":
            item, at = _decode(data, at, depth + 1)
            items.append(item)
        return items, at + 1
    if head == b"d":
        found: dict[str, Value] = {}
        at += 1
        while data[at : at + 1] != b"e":
            if not data[at : at + 1].isdigit() and at < len(data):
                raise BencodeError("a key that is not a string")
            key, at = _string(data, at)
            found[key.decode("utf-8", "surrogateescape")], at = _decode(data, at, depth + 1)
        return found, at + 1
    if not head:
        raise Incomplete("ends in the middle of a value")
    raise BencodeError(f"no value begins with {head!r}")


def _string(data: bytes, at: int) -> tuple[bytes, int]:
    colon = _find(data, b":", at)
    digits = data[at:colon]
    if not digits.isdigit():
        raise BencodeError("not a string length")
    end = colon + 1 + int(digits)
    if end - at > MAX_SIZE:
        raise BencodeError(f"a string of more than {MAX_SIZE} octets")
    if end > len(data):
        raise Incomplete("ends in the middle of a string")
    return data[colon + 1 : end], end


def _find(data: bytes, mark: bytes, at: int) -> int:
    end = data.find(mark, at, at + _MAX_DIGITS + 2)
    if end < 0:
        if len(data) - at > _MAX_DIGITS:
            raise BencodeError("a number without an end")
        raise Incomplete("ends in the middle of a number")
    return end
