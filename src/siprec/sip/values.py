"""Less common headers, one parser each: `parse` for one value, or a function that reads the header of a message."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from siprec.sip.errors import SipError
from siprec.sip.headers import TOKEN, SessionExpires
from siprec.sip.message import SipMessage
from siprec.sip.uri import parse_params

MIN_SE: Final = 90
"""Seconds: no session interval is shorter (RFC 4028 5)."""
NIL_UUID: Final = "0" * 32
_SESSION_ID: Final = re.compile(r"[0-9a-f]{32}\Z")
_RETRY_AFTER: Final = re.compile(r"\s*+([0-9]{1,20}+)\s*+(?:[;(]|\Z)")


def parse_number(text: str, limit: int = 2**32) -> int:
    """A decimal number below `limit` (RSeq, the parts of RAck, ...).

    Raises:
        SipError: no number, or too large.
    """
    text = text.strip()
    if not (text.isdecimal() and text.isascii()) or len(text) > 20 or int(text) >= limit:
        raise SipError(f"not a number below {limit}: {text[:30]!r}")
    return int(text)


def retry_after(message: SipMessage) -> int | None:
    """Retry-After (RFC 3261 20.33) in seconds; None when absent, malformed, or more than 115 days."""
    if "retry-after" not in message.keys:
        return None
    match = _RETRY_AFTER.match(message.get("retry-after") or "")
    return int(match[1]) if match is not None and int(match[1]) < 10_000_000 else None


def session_expires(message: SipMessage) -> SessionExpires | None:
    """Session-Expires (RFC 4028 4); None when absent or malformed."""
    if "session-expires" not in message.keys:
        return None
    try:
        return SessionExpires.parse(message.get("session-expires") or "")
    except SipError:
        return None


def min_se(message: SipMessage) -> int:
    """Min-SE (RFC 4028 5), the shortest session interval in seconds: at least `MIN_SE`, also when malformed."""
    if "min-se" not in message.keys:
        return MIN_SE
    try:
        return max(MIN_SE, parse_number((message.get("min-se") or "").partition(";")[0]))
    except SipError:
        return MIN_SE


class RAck(NamedTuple):
    """RAck (RFC 3262 7.2): the RSeq and CSeq of the provisional response that is acknowledged."""

    rseq: int
    cseq: int
    method: str

    @classmethod
    def parse(cls, value: str) -> RAck:
        """Parse a value. Raises SipError when malformed."""
        parts = value.split()
        if len(parts) != 3 or TOKEN.match(parts[2]) is None:
            raise SipError("malformed RAck")
        return cls(parse_number(parts[0]), parse_number(parts[1]), parts[2])

    def __str__(self) -> str:
        return f"{self.rseq} {self.cseq} {self.method}"


@dataclass(frozen=True, slots=True)
class Replaces:
    """Replaces (RFC 3891 6.1): the dialog to be replaced, as its receiver sees it."""

    call_id: str
    to_tag: str
    from_tag: str
    early_only: bool = False

    @classmethod
    def parse(cls, value: str) -> Replaces:
        """Parse a value. Raises SipError when Call-ID or a tag is missing."""
        call_id, _, rest = value.partition(";")
        params = parse_params(rest)
        to_tag, from_tag = params.get("to-tag"), params.get("from-tag")
        if not call_id.strip() or not to_tag or not from_tag:
            raise SipError("malformed Replaces")
        return cls(call_id.strip(), to_tag, from_tag, "early-only" in params)

    def __str__(self) -> str:
        early = ";early-only" if self.early_only else ""
        return f"{self.call_id};to-tag={self.to_tag};from-tag={self.from_tag}{early}"


@dataclass(frozen=True, slots=True)
class SessionId:
    """Session-ID (RFC 7989 5): UUIDs of both ends as 32 lower-case hex digits; `remote` is "" in the old form of
    RFC 7329, and `NIL_UUID` when not yet known."""

    local: str
    remote: str = ""

    @classmethod
    def parse(cls, value: str) -> SessionId:
        """Parse a value. Raises SipError when malformed."""
        local, _, rest = value.partition(";")
        local = local.strip().lower()
        remote = (parse_params(rest).get("remote") or "").lower()
        if _SESSION_ID.match(local) is None or (remote and _SESSION_ID.match(remote) is None):
            raise SipError("malformed Session-ID")
        return cls(local, remote)

    def __str__(self) -> str:
        return f"{self.local};remote={self.remote}" if self.remote else self.local


def session_uuids(message: SipMessage) -> tuple[str, str]:
    """The UUIDs of a message's Session-ID: the sender's and the other one's, empty where unknown or malformed."""
    if "session-id" not in message.keys:
        return "", ""
    try:
        found = SessionId.parse(message.get("session-id") or "")
    except SipError:
        return "", ""
    return found.local if found.local != NIL_UUID else "", found.remote if found.remote != NIL_UUID else ""
