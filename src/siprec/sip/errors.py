"""Errors of the SIP core."""

from __future__ import annotations


class SipError(Exception):
    """A SIP message, or a part of one, breaks the rules.

    `status` is the response a UAS or proxy owes the sender (RFC 3261 21), `reason` says what was wrong.
    """

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
