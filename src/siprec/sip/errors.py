"""Errors of the SIP core."""

from __future__ import annotations


class SipError(Exception):
    """A SIP message, or a part of one, breaks the rules.

    `status` is the response a UAS or proxy owes the sender (RFC 3261 21), `reason` says what was wrong, `headers` are
    what that response must carry besides (``Unsupported`` of a 420, for instance).
    """

    def __init__(self, reason: str, status: int = 400, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.headers = headers


class UnsafeText(SipError, ValueError):
    """A line end in a value of a message that is to be sent: it would become a header, or a message, of its own."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: a line end would begin another line of the message", 500)
