"""Session timers as a proxy may ask for them (RFC 4028 8; TMR-01 to TMR-04)."""

from __future__ import annotations

from typing import Final

from siprec.sip.errors import SipError
from siprec.sip.headers import SessionExpires
from siprec.sip.message import SipMessage, SipRequest, SipResponse

MIN_SE: Final = 90


def ask(request: SipRequest, seconds: int) -> None:
    """Insert Session-Expires, or lower it; never below Min-SE, never touching the refresher.

    Raises:
        SipError: 422, the value is too small and the UAC does session timers (TMR-03).
    """
    minimum = max(MIN_SE, _seconds(request.get("min-se")))
    wanted = max(seconds, minimum)
    value = request.get("session-expires")
    if value is None:
        request.add("Session-Expires", str(wanted))
        return
    try:
        current = SessionExpires.parse(value)
    except SipError:
        return  # not ours to judge (MSG-02)
    if current.interval < MIN_SE:
        if "timer" in request.tokens("supported"):
            raise SipError("Session Interval Too Small", 422, (("Min-SE", str(MIN_SE)),))
        request.set("min-se", str(MIN_SE))
        request.set("session-expires", str(SessionExpires(MIN_SE, current.refresher)))
    elif current.interval > wanted:
        request.set("session-expires", str(SessionExpires(wanted, current.refresher)))


def smallest(*messages: SipMessage) -> int:
    """The shortest interval in seconds that may be counted down: 90, or the largest Min-SE (RFC 4028 4, 5)."""
    return max(MIN_SE, *(_seconds(message.get("min-se")) for message in messages))


def confirm(request: SipRequest, response: SipResponse, seconds: int) -> None:
    """TMR-04: a 2xx without Session-Expires of a UAS that does no timers, when the UAC does: the UAC refreshes.

    `request` is as received, `seconds` what we asked for.
    """
    if response.has("session-expires") or "timer" not in request.tokens("supported"):
        return
    sent = request.copy()
    ask(sent, seconds)
    interval = _seconds((sent.get("session-expires") or "").partition(";")[0])
    response.add("Session-Expires", str(SessionExpires(interval or seconds, "uac")))
    if "timer" not in response.tokens("require"):
        response.add("Require", "timer")


def _seconds(value: str | None) -> int:
    text = (value or "").partition(";")[0].strip()
    return int(text) if text.isdecimal() and len(text) <= 10 else 0
