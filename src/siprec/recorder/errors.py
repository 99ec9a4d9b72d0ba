"""Why a recording session, or a change to one, is refused."""

from __future__ import annotations


class RecorderError(Exception):
    """`status` and `reason` are for the SIP response."""

    status = 500

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        if status is not None:
            self.status = status


class OfferError(RecorderError):
    """The SDP offer cannot be read (400), or nothing of it can be recorded (488)."""

    status = 488


class MetadataRefused(RecorderError):
    """The metadata document is refused (400)."""

    status = 400


class RecorderFull(RecorderError):
    """Sessions, ports or disk are used up (503)."""

    status = 503
