"""Session timers (RFC 4028)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from siprec.sip.clock import Clock, Timer
from siprec.sip.headers import SessionExpires
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.values import min_se, session_expires


class Agreement(NamedTuple):
    """What an exchange agreed on: interval in seconds and whether we refresh."""

    interval: int
    we_refresh: bool


def agreed_as_uac(response: SipResponse) -> Agreement | None:
    """What a 2xx says to us; None: no session timer (RFC 4028 7.2)."""
    expires = session_expires(response)
    if expires is None or expires.interval <= 0:
        return None
    # Whatever the peer says, nobody has to refresh more often than that (RFC 4028 4).
    return Agreement(max(expires.interval, min_se(response)), expires.refresher != "uas")


def agreed_as_uas(request: SipRequest, wanted: int = 0) -> tuple[Agreement | None, list[tuple[str, str]]]:
    """What we agree to in a 2xx, and its headers (RFC 4028 9, table 2).

    `wanted`: the interval we ask for ourselves, in seconds; 0: none. A too small request is refused with 422 before
    this.
    """
    expires = session_expires(request)
    peer_can = "timer" in request.tokens("supported")
    if expires is None and not wanted:
        return None, []
    interval = expires.interval if expires is not None else max(wanted, min_se(request))
    if wanted and expires is not None:
        interval = max(min(interval, wanted), min_se(request))
    chosen = (expires.refresher if expires is not None else "") or "uac"
    refresher = chosen if peer_can else "uas"
    headers = [("Session-Expires", str(SessionExpires(interval, refresher)))]
    if refresher == "uac":
        headers.append(("Require", "timer"))
    return Agreement(max(interval, min_se(request)), refresher == "uas"), headers


class SessionTimer:
    """Calls `refresh()` at half the interval if that is our part, and `expired()` shortly before the end.

    It begins when it is made: a 2xx with this agreement was sent or received.
    """

    __slots__ = ("_clock", "_expired", "_expires_at", "_refresh", "_timer", "agreement")

    def __init__(
        self, clock: Clock, agreement: Agreement, refresh: Callable[[], None], expired: Callable[[], None]
    ) -> None:
        self._clock = clock
        self._refresh = refresh
        self._expired = expired
        self.agreement = agreement
        interval = agreement.interval
        # RFC 4028 10: BYE min(32 s, interval/3) before the session expires.
        left = interval - min(32.0, interval / 3)
        self._expires_at = clock.now() + left
        self._timer: Timer = (
            clock.call_later(interval / 2, self._due) if agreement.we_refresh else clock.call_later(left, expired)
        )

    def _due(self) -> None:
        self._timer = self._clock.call_later(max(0.0, self._expires_at - self._clock.now()), self._expired)
        self._refresh()

    def refused(self) -> None:
        """A refresh failed: try again in a tenth of the interval, as long as the session lives."""
        delay = self.agreement.interval / 10
        if self.agreement.we_refresh and self._clock.now() + delay < self._expires_at:
            self._timer.cancel()
            self._timer = self._clock.call_later(delay, self._due)

    def stop(self) -> None:
        """The session is over, or another agreement holds."""
        self._timer.cancel()
