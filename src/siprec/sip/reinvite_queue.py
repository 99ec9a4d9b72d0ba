"""The re-INVITEs and UPDATEs of a call: one at a time, again after 491 or 500 (RFC 3261 14.1, RFC 3311 5.1)."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from siprec.sip.call_handler import Done, Headers, Result
from siprec.sip.clock import Clock, Timer
from siprec.sip.message import SipResponse
from siprec.sip.uac_request import UacRequest
from siprec.sip.values import retry_after

_MAX_TRIES: Final = 10


@dataclass(slots=True)
class Queued:
    """A request that waits for its turn."""

    method: str
    body: bytes
    content_type: str
    headers: tuple[tuple[str, str], ...]
    done: Done
    description: bytes | None
    """The SDP in the body."""
    offer: bool
    """Whether it opens an offer/answer exchange."""
    tries: int = 0


class RequestingCall(Protocol):
    """The call, as its queue needs it."""

    @property
    def busy(self) -> bool:
        """Whether an INVITE or an offer is open, in either direction, apart from what the queue has sent."""
        ...

    @property
    def owns_call_id(self) -> bool | None:
        """Whether the Call-ID is ours; None: the call is over."""
        ...

    def offer_headers(self, given: Headers) -> list[tuple[str, str]]:
        """The headers of a re-INVITE or UPDATE: Contact, `given` and those that are not among them."""
        ...

    def exchange(
        self, item: Queued, headers: Headers, on_done: Callable[[UacRequest, Result], None]
    ) -> UacRequest | None:
        """Send a request within the dialog; None if there is no way to the peer."""
        ...

    def accepted(self, item: Queued, request: UacRequest, response: SipResponse) -> None:
        """A 2xx to a request of the queue came."""
        ...

    def check_dead(self, result: Result) -> None:
        """A request got its result: perhaps the dialog is dead."""
        ...

    def queue_idle(self) -> None:
        """Nothing waits, and nothing is on its way."""
        ...


class ReinviteQueue:
    """What waits, what is on its way, and the pause before it is tried again. A call has one while it needs it."""

    __slots__ = ("_backoff", "_call", "_clock", "_current", "_random", "_waiting")

    def __init__(self, call: RequestingCall, clock: Clock, rng: random.Random) -> None:
        self._call = call
        self._clock = clock
        self._random = rng
        self._waiting: deque[Queued] = deque()
        self._current: tuple[Queued, UacRequest] | None = None
        self._backoff: Timer | None = None

    def add(self, item: Queued) -> None:
        """Put in the queue; it goes out at once if nothing is open."""
        self._waiting.append(item)
        self.pump()

    @property
    def offer_open(self) -> bool:
        """Whether an INVITE, or an UPDATE with an offer, of ours has no final response yet."""
        return self._current is not None and self._current[0].offer

    def pump(self) -> None:
        """Send what waits, if nothing is open in either direction."""
        if self._current is not None or self._backoff is not None:
            return
        if not self._waiting:
            self._call.queue_idle()
            return
        if self._call.busy:
            return
        item = self._waiting.popleft()
        request = self._call.exchange(item, self._call.offer_headers(item.headers), self._done)
        if request is not None:
            self._current = (item, request)

    def close(self) -> None:
        """The call is over: what waits ends with ``ended``, a re-INVITE that is out is cancelled."""
        if self._backoff is not None:
            self._backoff.cancel()
            self._backoff = None
        if self._current is not None:
            self._current[1].cancel()
        waiting = [*self._waiting]
        self._waiting.clear()
        for item in waiting:
            item.done("ended")

    def _done(self, request: UacRequest, result: Result) -> None:
        if self._current is None or self._current[1] is not request:
            return
        item, _ = self._current
        self._current = None
        if isinstance(result, SipResponse):
            if 200 <= result.status < 300:
                self._call.accepted(item, request, result)
            elif self._try_again(item, result):
                return
        item.done(result)
        self._call.check_dead(result)
        self.pump()

    def _try_again(self, item: Queued, response: SipResponse) -> bool:
        delay: float | None = None
        owner = self._call.owns_call_id
        if response.status == 491:
            # RFC 3261 14.1: the owner of the Call-ID waits longer, in steps of 10 ms.
            delay = (self._random.randint(210, 400) if owner else self._random.randint(0, 200)) / 100
        elif response.status == 500:
            seconds = retry_after(response)
            delay = float(seconds) if seconds is not None and seconds < 100 else None
        if delay is None or owner is None or item.tries >= _MAX_TRIES:
            return False
        item.tries += 1
        self._waiting.appendleft(item)
        self._backoff = self._clock.call_later(delay, self._backed_off)
        return True

    def _backed_off(self) -> None:
        self._backoff = None
        self.pump()
