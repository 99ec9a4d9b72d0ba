"""Draining: no new calls, those that exist go on to their end."""

from __future__ import annotations

from siprec.sip.errors import SipError
from siprec.sip.message import SipRequest


class Drain:
    """Of one proxy. While `draining`, an INVITE outside a dialog is answered 503 with Retry-After (`retry_after`
    seconds); everything else passes. `refused` counts them."""

    __slots__ = ("draining", "refused", "retry_after")

    def __init__(self) -> None:
        self.draining = False
        self.retry_after = 30
        self.refused = 0

    def refuses(self, request: SipRequest) -> bool:
        """Whether a request is a new call that has to go elsewhere; it is counted then."""
        if request.method != "INVITE":
            return False
        try:
            if request.to_tag:
                return False
        except SipError:
            return False  # a broken To gets its 400
        self.refused += 1
        return True
