"""Session timers as a proxy may ask for them (RFC 4028 8.1, 8.2)."""

from __future__ import annotations

from siprec.sip.errors import SipError
from siprec.sip.headers import SessionExpires
from siprec.sip.message import SipMessage, SipRequest, SipResponse
from siprec.sip.values import MIN_SE, min_se, session_expires


def ask(request: SipRequest, seconds: int) -> None:
    """Insert Session-Expires, or lower it; never below Min-SE, never touching the refresher.

    Raises:
        SipError: 422, the value is too small and the UAC does session timers (RFC 4028 8.1).
    """
    wanted = max(seconds, min_se(request))
    if "session-expires" not in request.keys:
        request.add("Session-Expires", str(wanted))
        return
    current = session_expires(request)
    if current is None:
        return  # malformed: not ours to judge
    if current.interval < MIN_SE:
        if "timer" in request.tokens("supported"):
            raise SipError("Session Interval Too Small", 422, (("Min-SE", str(MIN_SE)),))
        request.set("min-se", str(MIN_SE))
        request.set("session-expires", str(SessionExpires(MIN_SE, current.refresher)))
    elif current.interval > wanted:
        request.set("session-expires", str(SessionExpires(wanted, current.refresher)))


def smallest(*messages: SipMessage) -> int:
    """The shortest interval in seconds that may be counted down: 90, or the largest Min-SE (RFC 4028 4, 5)."""
    return max(map(min_se, messages))


def confirm(request: SipRequest, response: SipResponse, seconds: int) -> None:
    """RFC 4028 8.2: a 2xx without Session-Expires of a UAS that does no timers, when the UAC does: the UAC refreshes.

    `request` is as received, `seconds` what we asked for.
    """
    if "session-expires" in response.keys or "timer" not in request.tokens("supported"):
        return
    sent = request.copy()
    ask(sent, seconds)
    found = session_expires(sent)
    interval = found.interval if found is not None and found.interval else seconds
    response.add("Session-Expires", str(SessionExpires(interval, "uac")))
    if "timer" not in response.tokens("require"):
        response.add("Require", "timer")
