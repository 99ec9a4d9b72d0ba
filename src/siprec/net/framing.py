"""Messages out of a byte stream (RFC 3261 7.5, 18.3; RFC 5626 4.4.1). Knows no socket."""

from __future__ import annotations

from typing import Final

from siprec.sip.errors import SipError
from siprec.sip.message import (
    MAX_HEAD,
    MAX_MESSAGE,
    MalformedRequest,
    SipRequest,
    SipResponse,
    parse_head,
)


class Ping:
    """A double CRLF between messages: a keep-alive that wants a single CRLF back (RFC 5626 4.4.1)."""


PING: Final = Ping()

Event = SipRequest | SipResponse | SipError | Ping


class StreamFramer:
    """Cuts the octets of one connection into messages.

    `error` is set when the stream cannot be read any further; nothing is read after that. `max_message` limits a
    body (octets), the header section has the parser's limit.
    """

    __slots__ = ("_buffer", "_half_ping", "_head", "_length", "_max", "_scanned", "error")

    def __init__(self, max_message: int = MAX_MESSAGE) -> None:
        self._buffer = bytearray()
        self._max = max_message
        self._scanned = 0
        self._half_ping = False
        self._head: SipRequest | SipResponse | MalformedRequest | None = None
        self._length = 0
        self.error: SipError | None = None

    @property
    def buffered(self) -> int:
        """Octets of an unfinished message."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Event]:
        """What `data` completes, in order: messages, pings, and errors of requests that could be skipped.

        Never raises; see `error`.
        """
        events: list[Event] = []
        if self.error is None:
            self._buffer += data
            try:
                while self._step(events):
                    pass
            except SipError as error:
                self.error = error
        if self.error is not None:
            self._buffer.clear()
            self._head = None
        return events

    def _step(self, events: list[Event]) -> bool:
        buffer = self._buffer
        if self._head is None:
            if not self._scanned:
                self._skip_blank(events)
            if not buffer:
                return False
            end = buffer.find(b"\r\n\r\n", self._scanned)
            if end > MAX_HEAD or (end < 0 and len(buffer) > MAX_HEAD):
                raise SipError("header section too large", 513)
            if end < 0:
                self._scanned = max(0, len(buffer) - 3)
                return False
            head = bytes(buffer[:end])
            del buffer[: end + 4]
            self._scanned = 0
            self._read_head(head)
        message = self._head
        if message is None or len(buffer) < self._length:
            return False
        if not isinstance(message, MalformedRequest):
            message.body = bytes(buffer[: self._length])
        del buffer[: self._length]
        self._head = None
        events.append(message)
        return True

    def _read_head(self, head: bytes) -> None:
        message: SipRequest | SipResponse | MalformedRequest
        try:
            message = parse_head(head)
            parsed: SipRequest | SipResponse = message
        except MalformedRequest as error:
            # Its end is known all the same: other calls on this connection need not suffer.
            message, parsed = error, error.request
        try:
            length = parsed.content_length
            if length is None:
                raise SipError("Content-Length is missing")
            if length > self._max:
                raise SipError("message too large", 513)
        except SipError as error:
            if isinstance(parsed, SipRequest):
                raise MalformedRequest(error.reason, parsed, error.status) from None
            raise
        self._head = message
        self._length = length

    def _skip_blank(self, events: list[Event]) -> None:
        """Drop the line ends before a message, with as little work for each as can be."""
        buffer = self._buffer
        rest = len(buffer.lstrip(b"\r\n"))
        blank = len(buffer) - rest
        if not rest and buffer.endswith(b"\r"):
            blank -= 1  # the other half of it is still to come
        if blank:
            ends = buffer.count(b"\r\n", 0, blank) + self._half_ping
            events += [PING] * (ends // 2)
            self._half_ping = ends % 2 > 0
            del buffer[:blank]
        if rest:
            self._half_ping = False
