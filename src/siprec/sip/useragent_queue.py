"""The re-INVITEs and UPDATEs of a call: one at a time (UAC-06), again after 491 or 500 (UAC-07, ERR-08)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from siprec.sip.message import SipResponse
from siprec.sip.useragent_exchange import Exchange, Result
from siprec.sip.useragent_handler import Done
from siprec.sip.values import MIN_SE, retry_after

if TYPE_CHECKING:
    from siprec.sip.clock import Timer
    from siprec.sip.useragent_call import Call

_MAX_TRIES: Final = 10


@dataclass(slots=True)
class Queued:
    """A request that waits for its turn."""

    method: str
    body: bytes
    content_type: str
    headers: tuple[tuple[str, str], ...]
    done: Done
    offer: bool
    """Whether it opens an offer/answer exchange."""
    tries: int = 0


class OfferQueue:
    """What waits, what is on its way, and the pause before it is tried again."""

    __slots__ = ("_backoff", "_call", "_current", "_waiting")

    def __init__(self, call: Call) -> None:
        self._call = call
        self._waiting: deque[Queued] = deque()
        self._current: tuple[Queued, Exchange] | None = None
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
        call = self._call
        if not self._waiting or self._current is not None or self._backoff is not None or call.busy:
            return
        item = self._waiting.popleft()
        headers = [("Contact", call.contact), *item.headers, *self._timer_headers(item)]
        exchange = call.exchange(item.method, item.body, item.content_type, headers, self._exchanged, call.ack_again)
        if exchange is not None:
            self._current = (item, exchange)
            if item.body:
                call.remember_session(item.body, item.content_type)

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

    def _timer_headers(self, item: Queued) -> list[tuple[str, str]]:
        call = self._call
        headers = [("Allow", call.agent.allow)]
        if call.supported:
            headers.append(("Supported", call.supported))
        agreement = call.session_timer.agreement
        if agreement is not None:
            # RFC 4028 7.4: keep interval and role.
            role = "uac" if agreement.we_refresh else "uas"
            headers.append(("Session-Expires", f"{agreement.interval};refresher={role}"))
            headers.append(("Min-SE", str(min(agreement.interval, MIN_SE))))
        elif call.session_expires:
            headers.append(("Session-Expires", str(call.session_expires)))
        given = {name.lower() for name, _ in item.headers}
        return [(name, value) for name, value in headers if name.lower() not in given]

    def _exchanged(self, exchange: Exchange, result: Result) -> None:
        if self._current is None or self._current[1] is not exchange:
            return
        item, _ = self._current
        self._current = None
        call = self._call
        if isinstance(result, SipResponse):
            if 200 <= result.status < 300:
                call.accepted(exchange.request, result)
            elif self._try_again(item, result):
                return
        item.done(result)
        call.check_dead(result)
        self.pump()

    def _try_again(self, item: Queued, response: SipResponse) -> bool:
        call = self._call
        rng = call.agent.random
        delay: float | None = None
        if response.status == 491:
            # RFC 3261 14.1: the owner of the Call-ID waits longer, in steps of 10 ms.
            owner = call.dialog is not None and call.dialog.owner
            delay = (rng.randint(210, 400) if owner else rng.randint(0, 200)) / 100
        elif response.status == 500:
            seconds = retry_after(response)
            delay = float(seconds) if seconds is not None and seconds < 100 else None
        if delay is None or call.state != "confirmed" or item.tries >= _MAX_TRIES:
            return False
        item.tries += 1
        self._waiting.appendleft(item)
        self._backoff = call.agent.clock.call_later(delay, self._backed_off)
        return True

    def _backed_off(self) -> None:
        self._backoff = None
        self.pump()
