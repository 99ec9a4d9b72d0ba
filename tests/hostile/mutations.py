"""Damage to octets, at random but repeatable: what a stranger, a bad line or a fuzzer makes of a message."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Final

#: What parsers stumble over: ends, separators, numbers at the edge, octets that are no text.
TOKENS: Final = (
    *(b"", b"\r\n", b"\n", b"\r", b"\r\n ", b"\r\n\r\n", b"\0", b"\xff", b"\xc3\x28", b"\xed\xa0\x80"),
    *(
        b'"',
        b"\\",
        b"<",
        b">",
        b"<>",
        b",",
        b";",
        b":",
        b"=",
        b"@",
        b"%",
        b"%00",
        b"%zz",
        b"[",
        b"]",
        b"::",
        b"*",
        b"?",
    ),
    *(b"#", b" ", b"\t", b"-1", b"0", b"00000000001", b"4294967295", b"4294967296", b"18446744073709551616", b"9" * 40),
    *(b"1e9", b"NaN", b"e", b"i1e", b"le", b"de", b"999999:", b"&amp;", b"&x;", b"<!--", b"]]>", b"<![CDATA[", b"--"),
    *(b"z9hG4bK", b"sip:", b"tel:", b"sips:"),
)


def _delete(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.choice((1, 1, 2, 8, 64))]


def _insert(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.choice(TOKENS)


def _overwrite(rng: random.Random, data: bytearray) -> None:
    data[rng.randrange(len(data))] = rng.randrange(256)


def _flip(rng: random.Random, data: bytearray) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _repeat(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data))
    piece = bytes(data[at : at + rng.choice((1, 2, 16))])
    data[at:at] = piece * rng.choice((2, 10, 200))


def _move(rng: random.Random, data: bytearray) -> None:
    first, second = sorted((rng.randrange(len(data)), rng.randrange(len(data))))
    piece = bytes(data[first : first + 32])
    del data[first : first + 32]
    data[second:second] = piece


def _cut(rng: random.Random, data: bytearray) -> None:
    del data[rng.randrange(len(data)) :]


def _line(rng: random.Random, data: bytearray) -> None:
    lines = bytes(data).split(b"\r\n")
    at = rng.randrange(len(lines))
    kind = rng.randrange(5)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(at, lines[rng.randrange(len(lines))])
    elif kind == 2:
        name, colon, _ = lines[at].partition(b":")
        lines[at] = name + colon + rng.choice((b"", b" ", b",", b"<>", b" ,,", b";", b'"'))
    elif kind == 3:
        name, _, value = lines[at].partition(b":")
        lines[at] = name + b":" + value[::-1]
    else:
        lines[at] = lines[at] + b", " + lines[rng.randrange(len(lines))].partition(b":")[2]
    data[:] = b"\r\n".join(lines)


_DAMAGES: Final[Sequence[Callable[[random.Random, bytearray], None]]] = (
    _delete, _insert, _insert, _overwrite, _flip, _repeat, _move, _cut, _line, _line, _line,
)  # fmt: skip


def mutate(rng: random.Random, data: bytes, longest: int = 65000) -> bytes:
    """One to four damages to `data`; the result has at most `longest` octets."""
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if damaged:
            rng.choice(_DAMAGES)(rng, damaged)
    return bytes(damaged[:longest])


def mutations(seeds: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """`count` damaged copies of `seeds`, always the same ones for a seed."""
    rng = random.Random(seed)
    for _ in range(count):
        yield mutate(rng, rng.choice(seeds))
