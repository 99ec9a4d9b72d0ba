"""Bencode in C (csrc/bencode.c): None stands for what :mod:`siprec.media.bencode` itself has to look at."""

from siprec.media.bencode import Encodable, Value

VERSION: int

def decode(data: bytes, /) -> Value | None: ...
def encode(value: Encodable, /) -> bytes | None: ...
