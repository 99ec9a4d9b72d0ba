"""The client side of the ng protocol: cookies, retransmission with back-off, time-outs, late and double replies.

A message is ``cookie SP bencoded-dictionary`` in both directions; the server answers a repeated cookie with the
reply it gave before, so a request may be repeated safely. Sockets and time are handed in.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias, cast

from siprec.media.bencode import BencodeError, Encodable, Incomplete, Value, decode_dict, decode_prefix, encode
from siprec.media.engine import MediaError
from siprec.sip.clock import Clock, Timer

log = logging.getLogger(__name__)

Reply: TypeAlias = dict[str, Value]
ReplyResult: TypeAlias = Callable[["Reply | MediaError"], None]

MAX_PENDING = 65536
"""Requests that wait for a reply; more fail at once."""


class NgConnection(Protocol):
    """A way to one server. `reliable`: messages are neither lost nor repeated (TCP), so nothing is retransmitted."""

    reliable: bool

    def send(self, message: bytes) -> None:
        """Send one message; failures go to the error callback, nothing is raised."""
        ...

    def close(self) -> None: ...


Opener: TypeAlias = Callable[[Callable[[bytes], None], Callable[[str], None]], NgConnection]
"""``open(on_message, on_error)``: on_message gets each whole message, on_error why the peer is not
there."""


MediaTrace: TypeAlias = Callable[[str, str, str, bytes], None]
"""``trace(direction, server, call_id, message)``: a command of a call goes (``out``), its reply comes (``in``)."""


class _Pending:
    __slots__ = ("call_id", "command", "deadline", "done", "message", "sent", "timer", "wait")

    def __init__(self, command: str, message: bytes, done: ReplyResult, deadline: float, wait: float) -> None:
        self.command = command
        self.message = message
        self.done = done
        self.deadline = deadline
        self.wait = wait
        self.sent = 1
        self.timer: Timer | None = None
        self.call_id = ""


class NgClient:
    """Requests to one server.

    `first_retry` (seconds) doubles with each repetition up to `max_retry`; after `timeout` seconds the request fails
    with :attr:`MediaError.timeout`. `counters` tell what happened to messages that are otherwise silent.
    """

    def __init__(
        self,
        clock: Clock,
        opener: Opener,
        *,
        name: str,
        timeout: float = 3.0,
        first_retry: float = 0.1,
        max_retry: float = 1.0,
    ) -> None:
        self.name = name
        self._clock = clock
        self._timeout = timeout
        self._first_retry = first_retry
        self._max_retry = max_retry
        self._prefix = secrets.token_hex(6)
        self._serial = 0
        self._pending: dict[str, _Pending] = {}
        self._closed = False
        self.trace: MediaTrace | None = None
        self.counters = {"requests": 0, "retransmissions": 0, "timeouts": 0, "unmatched": 0, "malformed": 0}
        self._connection = opener(self._on_message, self._on_error)

    @property
    def pending(self) -> int:
        """Requests that wait for their reply."""
        return len(self._pending)

    def request(
        self, command: str, arguments: Mapping[str, object], done: ReplyResult, *, timeout: float | None = None
    ) -> None:
        """Send `command` with `arguments`; `done` gets the reply whose ``result`` is not ``error``, or the error."""
        if self._closed or len(self._pending) >= MAX_PENDING:
            reason = "connection closed" if self._closed else "too many requests pending"
            self._clock.call_later(0, done, MediaError(reason, server=self.name))
            return
        self._serial += 1
        cookie = f"{self._prefix}_{self._serial}"
        try:
            body = encode(cast("Mapping[str, Encodable]", {"command": command, **arguments}))
        except BencodeError as error:
            self._clock.call_later(0, done, MediaError(f"{command}: {error}", server=self.name))
            return
        limit = self._timeout if timeout is None else timeout
        pending = _Pending(
            command, cookie.encode() + b" " + body, done, self._clock.now() + limit, min(self._first_retry, limit)
        )
        self._pending[cookie] = pending
        if self.trace is not None and "call-id" in arguments:
            pending.call_id = str(arguments["call-id"])
            self.trace("out", self.name, pending.call_id, pending.message)
        self.counters["requests"] += 1
        reliable = self._connection.reliable
        pending.timer = self._clock.call_later(limit if reliable else pending.wait, self._expired, cookie)
        self._connection.send(pending.message)

    def close(self) -> None:
        """Close the connection; what is pending fails."""
        if self._closed:
            return
        self._closed = True
        self._connection.close()
        for cookie in list(self._pending):
            self._fail(cookie, "connection closed")

    def _on_message(self, message: bytes) -> None:
        cookie, _, body = message.partition(b" ")
        pending = self._pending.get(cookie.decode("latin-1"))
        if pending is None:
            self.counters["unmatched"] += 1
            return
        try:
            reply = decode_dict(body)
        except BencodeError as error:
            # Not settled: a good copy may follow the retransmission.
            self.counters["malformed"] += 1
            log.warning("%s: reply to %s is not bencode: %s", self.name, pending.command, error)
            return
        del self._pending[cookie.decode("latin-1")]
        if self.trace is not None and pending.call_id:
            self.trace("in", self.name, pending.call_id, message)
        if pending.timer is not None:
            pending.timer.cancel()
        if reply.get("result") == b"error" or "result" not in reply:
            reason = reply.get("error-reason", b"error without a reason")
            text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
            pending.done(MediaError(text, server=self.name))
            return
        pending.done(reply)

    def _on_error(self, reason: str) -> None:
        """The host says that nobody listens. One repetition is allowed for a server that just restarts."""
        for cookie, pending in list(self._pending.items()):
            if pending.sent > 1 or self._connection.reliable:
                self._fail(cookie, reason, timeout=True)

    def _expired(self, cookie: str) -> None:
        pending = self._pending.get(cookie)
        if pending is None:
            return
        left = pending.deadline - self._clock.now()
        if left <= 0.001:
            self.counters["timeouts"] += 1
            self._fail(cookie, f"no reply to {pending.command}", timeout=True)
            return
        pending.wait = min(pending.wait * 2, self._max_retry)
        pending.timer = self._clock.call_later(min(pending.wait, left), self._expired, cookie)
        if not self._connection.reliable:
            pending.sent += 1
            self.counters["retransmissions"] += 1
            self._connection.send(pending.message)

    def _fail(self, cookie: str, reason: str, *, timeout: bool = False) -> None:
        pending = self._pending.pop(cookie, None)
        if pending is None:
            return
        if pending.timer is not None:
            pending.timer.cancel()
        pending.done(MediaError(reason, timeout=timeout, server=self.name))


class StreamFramer:
    """Cuts a byte stream (TCP) into ng messages: a cookie, a space, one bencoded value."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are whole now; raises :class:`BencodeError` when the stream cannot be understood."""
        buffer = self._buffer + data
        messages = []
        at = 0
        while True:
            while buffer[at : at + 1] in (b"\r", b"\n"):
                at += 1
            space = buffer.find(b" ", at, at + 256)
            if space < 0:
                if len(buffer) - at > 255:
                    raise BencodeError("a cookie of more than 255 octets")
                break
            try:
                _, end = decode_prefix(buffer, space + 1)
            except Incomplete:
                break
            messages.append(buffer[at:end])
            at = end
        self._buffer = buffer[at:]
        return messages
