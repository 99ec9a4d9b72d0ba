"""Requests to a media server: cookies, retransmission with back-off, time-outs, late and double replies.

A message is ``cookie SP body`` in both directions (`ng`, RTPProxy); the server answers a repeated cookie with the reply
it gave before, so a request may be repeated safely. Sockets and time are handed in.
"""

from __future__ import annotations

import logging
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, Protocol, TypeAlias, TypeVar

from msgspec import Struct

from siprec.media.engine import MediaError, MediaTrace
from siprec.sip.clock import Clock, Timer

log = logging.getLogger(__name__)

R = TypeVar("R")

MAX_PENDING = 65536
"""Requests that wait for a reply; more fail at once."""


class Connection(Protocol):
    """A way to one server. `reliable`: messages are neither lost nor repeated (TCP), so nothing is retransmitted."""

    reliable: bool

    def send(self, message: bytes) -> str | None:
        """Send one message; returns why this one alone cannot be sent. Failures of the connection go to the error
        callback, nothing is raised."""
        ...

    def close(self) -> None: ...


Opener: TypeAlias = Callable[[Callable[[bytes], None], Callable[[str], None]], Connection]
"""``open(on_message, on_error)``: on_message gets each whole message, on_error why the peer is not
there."""


class Malformed(Exception):
    """A reply that cannot be read."""


class _Pending(Struct, Generic[R]):
    command: str
    call_id: str
    message: bytes
    done: Callable[[R | MediaError], None]
    deadline: float
    wait: float
    sent: int = 1
    timer: Timer | None = None


class RequestTracker(ABC, Generic[R]):
    """Requests to one server, whose replies are read by :meth:`read`.

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
        self._pending: dict[str, _Pending[R]] = {}
        self._closed = False
        self.trace: MediaTrace | None = None
        self.counters = {"requests": 0, "retransmissions": 0, "timeouts": 0, "unmatched": 0, "malformed": 0}
        self._connection = opener(self._on_message, self._on_error)

    @property
    def pending(self) -> int:
        """Requests that wait for their reply."""
        return len(self._pending)

    @abstractmethod
    def read(self, body: bytes) -> R | MediaError:
        """What came after the cookie as a value, or as the refusal it is.

        Raises:
            Malformed: it is neither.
        """

    def submit(
        self,
        command: str,
        body: bytes,
        done: Callable[[R | MediaError], None],
        *,
        call_id: str = "",
        timeout: float | None = None,
    ) -> None:
        """Send `body` under a fresh cookie; `command` names it in errors, `call_id` in traces."""
        if self._closed or len(self._pending) >= MAX_PENDING:
            self.fail_soon("connection closed" if self._closed else "too many requests pending", done)
            return
        self._serial += 1
        cookie = f"{self._prefix}_{self._serial}"
        limit = self._timeout if timeout is None else timeout
        message = b"%b %b" % (cookie.encode(), body)
        deadline = self._clock.now() + limit
        pending: _Pending[R] = _Pending(command, call_id, message, done, deadline, min(self._first_retry, limit))
        self._pending[cookie] = pending
        if self.trace is not None and call_id:
            self.trace("out", self.name, call_id, message)
        self.counters["requests"] += 1
        reliable = self._connection.reliable
        pending.timer = self._clock.call_later(limit if reliable else pending.wait, self._expired, cookie)
        refused = self._connection.send(message)
        if refused:
            self._clock.call_later(0, self._fail, cookie, refused)

    def fail_soon(self, reason: str, done: Callable[[R | MediaError], None]) -> None:
        """Fail a request that was not sent, not from inside of it."""
        self._clock.call_later(0, done, MediaError(reason, server=self.name))

    def close(self) -> None:
        """Close the connection; what is pending fails."""
        if self._closed:
            return
        self._closed = True
        self._connection.close()
        for cookie in list(self._pending):
            self._fail(cookie, "connection closed")

    def _on_message(self, message: bytes) -> None:
        octets, _, body = message.partition(b" ")
        cookie = octets.decode("latin-1")
        pending = self._pending.get(cookie)
        if pending is None:
            self.counters["unmatched"] += 1
            return
        try:
            reply = self.read(body)
        except Malformed as error:
            # Not settled: a good copy may follow the retransmission.
            self.counters["malformed"] += 1
            log.warning("%s: reply to %s cannot be read: %s", self.name, pending.command, error)
            return
        del self._pending[cookie]
        if self.trace is not None and pending.call_id:
            self.trace("in", self.name, pending.call_id, message)
        if pending.timer is not None:
            pending.timer.cancel()
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
