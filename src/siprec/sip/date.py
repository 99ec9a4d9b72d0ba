"""The Date header (RFC 3261 20.17): RFC 1123 dates, always GMT."""

from __future__ import annotations

from datetime import UTC
from email.utils import formatdate, parsedate_to_datetime


def format_date(wall: float) -> str:
    """`wall`, in seconds since the epoch, as ``Sat, 13 Nov 2010 23:29:00 GMT``."""
    return formatdate(wall, usegmt=True)


def parse_date(text: str | None) -> float | None:
    """Seconds since the epoch; None for what is missing or no date (it never raises)."""
    if not text or len(text) > 64:
        return None
    try:
        found = parsedate_to_datetime(text.strip())
        return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
