"""Session timers (RFC 4028; UAC-13, UAC-14)."""

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
    """Calls `refresh()` at half the interval if that is our part, and `expired()` shortly before the end."""

    __slots__ = ("_clock", "_expired", "_expiry", "_half", "_refresh", "agreement")

    def __init__(self, clock: Clock, refresh: Callable[[], None], expired: Callable[[], None]) -> None:
        self._clock = clock
        self._refresh = refresh
        self._expired = expired
        self._half: Timer | None = None
        self._expiry: Timer | None = None
        self.agreement: Agreement | None = None

    def start(self, agreement: Agreement | None) -> None:
        """A 2xx was sent or received: begin anew with what it says, or turn the timer off."""
        self.stop()
        self.agreement = agreement
        if agreement is None:
            return
        interval = agreement.interval
        if agreement.we_refresh:
            self._half = self._clock.call_later(interval / 2, self._refresh)
        # RFC 4028 10: BYE min(32 s, interval/3) before the session expires.
        self._expiry = self._clock.call_later(interval - min(32.0, interval / 3), self._expired)

    def refused(self) -> None:
        """A refresh failed: try again in a tenth of the interval, as long as the session lives."""
        if self.agreement is not None and self.agreement.we_refresh:
            if self._half is not None:
                self._half.cancel()
            self._half = self._clock.call_later(self.agreement.interval / 10, self._refresh)

    def stop(self) -> None:
        """The session is over."""
        for timer in (self._half, self._expiry):
            if timer is not None:
                timer.cancel()
        self._half = self._expiry = None
        self.agreement = None
