"""ng over a byte stream (TCP, a UNIX socket): messages are a cookie, a space, and one dictionary in bencode or JSON.

A message is looked at once, however small the pieces are that it comes in.
"""

from __future__ import annotations

import re
from typing import Final

from siprec.media.bencode import MAX_DEPTH, MAX_SIZE, BencodeError

MAX_COOKIE: Final = 255
_DIGITS: Final = 20
_ENDS: Final = re.compile(rb'[{}\[\]"]')
_IN_TEXT: Final = re.compile(rb'["\\]')


class StreamFramer:
    """Cuts a byte stream into ng messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._body = 0  # where the body of the message at hand begins; 0: its cookie is not whole
        self._at = 0  # how far the body was looked at
        self._depth = 0
        self._text = False  # within a text of JSON

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are whole now; raises :class:`BencodeError` when the stream cannot be understood."""
        buffer = self._buffer
        buffer += data
        messages: list[bytes] = []
        start = 0
        while True:
            if not self._body:
                while bytes(buffer[start : start + 1]) in (b"\r", b"\n"):
                    start += 1
                space = buffer.find(b" ", start, start + MAX_COOKIE + 1)
                if space < 0:
                    if len(buffer) - start > MAX_COOKIE:
                        raise BencodeError(f"a cookie of more than {MAX_COOKIE} octets")
                    break
                self._body = self._at = space + 1
                self._depth, self._text = 0, False
            json = buffer[self._body : self._body + 1] == b"{"
            whole = self._json() if json else self._bencode()
            if max(self._at, len(buffer) if not whole else 0) - self._body > MAX_SIZE:
                raise BencodeError(f"more than {MAX_SIZE} octets")
            if not whole:
                break
            messages.append(bytes(buffer[start : self._at]))
            start = self._at
            self._body = 0
        if start:
            del buffer[:start]
            self._body = max(0, self._body - start)
            self._at = max(0, self._at - start)
        return messages

    def _bencode(self) -> bool:
        """Go on to the end of the value; false: it is not there yet."""
        buffer, size = self._buffer, len(self._buffer)
        if not self._depth and self._at > self._body:
            return self._at <= size
        while self._at < size:
            head = buffer[self._at]
            if 48 <= head <= 57:
                colon = self._find(b":")
                if colon < 0:
                    return False
                try:
                    length = int(buffer[self._at : colon])
                except ValueError:
                    raise BencodeError("not a string length") from None
                if length > MAX_SIZE:
                    raise BencodeError(f"a string of more than {MAX_SIZE} octets")
                self._at = colon + 1 + length
            elif head == 105:  # i
                end = self._find(b"e")
                if end < 0:
                    return False
                self._at = end + 1
            elif head in (100, 108):  # d, l
                self._depth += 1
                self._at += 1
                if self._depth > MAX_DEPTH:
                    raise BencodeError("nested too deeply")
            elif head == 101 and self._depth:  # e
                self._depth -= 1
                self._at += 1
            else:
                raise BencodeError(f"no value begins with {bytes((head,))!r}")
            if not self._depth:
                return self._at <= size
        return False

    def _find(self, mark: bytes) -> int:
        end = self._buffer.find(mark, self._at, self._at + _DIGITS + 2)
        if end < 0 and len(self._buffer) - self._at > _DIGITS + 1:
            raise BencodeError("a number without an end")
        return end

    def _json(self) -> bool:
        buffer = self._buffer
        while True:
            found = (_IN_TEXT if self._text else _ENDS).search(buffer, self._at)
            if found is None:
                self._at = len(buffer)
                return False
            mark, self._at = found.group(), found.end()
            if mark == b"\\":
                if self._at == len(buffer):
                    self._at -= 1
                    return False
                self._at += 1
            elif mark == b'"':
                self._text = not self._text
            elif mark in b"{[":
                self._depth += 1
                if self._depth > MAX_DEPTH:
                    raise BencodeError("nested too deeply")
            else:
                self._depth -= 1
                if not self._depth:
                    return True
