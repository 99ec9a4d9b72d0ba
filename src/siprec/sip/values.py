"""Typed values of less common headers. Each has `parse` for one value and `str` to write it back."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, NamedTuple

from siprec.sip.errors import SipError
from siprec.sip.headers import TOKEN, NameAddr, quote, unquote
from siprec.sip.uri import Params, Uri, format_params, parse_params, unescape

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DATE: Final = re.compile(
    r"\s*(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),\s+([0-9]{1,2})\s+([A-Z][a-z]{2})\s+([0-9]{4})\s+"
    r"([0-9]{2}):([0-9]{2}):([0-9]{2})\s+GMT\s*\Z"
)
_SESSION_ID: Final = re.compile(r"[0-9a-f]{32}\Z")
_RETRY_AFTER: Final = re.compile(
    r"\s*+([0-9]{1,10}+)\s*+(?:\(([^()\\]*+(?:\\.[^()\\]*+)*+)\)\s*+)?+((?:;.*+)?+)\Z", re.DOTALL
)
_WARNING: Final = re.compile(r'\s*+([0-9]{3})\s++([^\s"]++)\s++("[^"\\]*+(?:\\.[^"\\]*+)*+")\s*+\Z', re.DOTALL)
NIL_UUID: Final = "0" * 32


def parse_number(text: str, limit: int = 2**32) -> int:
    """A decimal number below `limit` (Min-SE without parameters, RSeq, Expires, ...).

    Raises:
        SipError: no number, or too large.
    """
    text = text.strip()
    if not (text.isdecimal() and text.isascii()) or len(text) > 20 or int(text) >= limit:
        raise SipError(f"not a number below {limit}: {text[:30]!r}")
    return int(text)


@dataclass(frozen=True, slots=True)
class MinSe:
    """Min-SE (RFC 4028 5): the shortest session interval in seconds."""

    interval: int

    @classmethod
    def parse(cls, value: str) -> MinSe:
        """Parse a value; parameters are ignored. Raises SipError when there is no number."""
        return cls(parse_number(value.partition(";")[0]))

    def __str__(self) -> str:
        return str(self.interval)


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
class ReferTo:
    """Refer-To (RFC 3515 2.1): where to go; `replaces` is what the URI carries for an attended transfer."""

    address: NameAddr
    replaces: Replaces | None = None

    @classmethod
    def parse(cls, value: str) -> ReferTo:
        """Parse a value. Raises SipError when the address, its URI or the Replaces inside is malformed."""
        address = NameAddr.parse(value)
        return cls(address, embedded_replaces(address.uri))

    @property
    def method(self) -> str:
        """The method to use: INVITE unless the URI says otherwise."""
        return self.address.uri.params.get("method") or "INVITE"

    def __str__(self) -> str:
        return str(self.address)


def embedded_replaces(uri: Uri) -> Replaces | None:
    """The Replaces header inside a URI (``?Replaces=...``, escaped), or None. Raises SipError when malformed."""
    for item in uri.headers.split("&"):
        name, eq, value = item.partition("=")
        if eq and unescape(name).lower() == "replaces":
            return Replaces.parse(unescape(value))
    return None


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

    def reversed(self) -> SessionId:
        """The same session as the other end writes it."""
        return SessionId(self.remote or NIL_UUID, self.local)

    def __str__(self) -> str:
        return f"{self.local};remote={self.remote}" if self.remote else self.local


@dataclass(frozen=True, slots=True)
class RetryAfter:
    """Retry-After (RFC 3261 20.33): seconds, comment, and for how many seconds the callee is reachable then."""

    seconds: int
    comment: str = ""
    params: Params = field(default_factory=dict)

    @classmethod
    def parse(cls, value: str) -> RetryAfter:
        """Parse a value. Raises SipError when malformed."""
        match = _RETRY_AFTER.match(value)
        if match is None:
            raise SipError("malformed Retry-After")
        return cls(int(match[1]), match[2] or "", parse_params(match[3]))

    @property
    def duration(self) -> int | None:
        """The duration parameter in seconds, or None."""
        value = self.params.get("duration") or ""
        return int(value) if value.isdecimal() and value.isascii() and len(value) < 11 else None

    def __str__(self) -> str:
        comment = f" ({self.comment})" if self.comment else ""
        return f"{self.seconds}{comment}{format_params(self.params)}"


@dataclass(frozen=True, slots=True)
class Warning:
    """One Warning value (RFC 3261 20.43): ``399 host "text"``."""

    code: int
    agent: str
    text: str

    @classmethod
    def parse(cls, value: str) -> Warning:
        """Parse a value. Raises SipError when malformed."""
        match = _WARNING.match(value)
        if match is None:
            raise SipError("malformed Warning")
        return cls(int(match[1]), match[2], unquote(match[3]))

    def __str__(self) -> str:
        return f"{self.code:03} {self.agent} {quote(self.text)}"


def parse_date(value: str) -> float:
    """A Date header (RFC 3261 20.17, GMT only) as seconds since the epoch.

    Raises:
        SipError: malformed, another zone, or no such day.
    """
    match = _DATE.match(value)
    if match is None or match[2] not in _MONTHS:
        raise SipError("malformed Date")
    day, year, hour, minute, second = (int(match[i]) for i in (1, 3, 4, 5, 6))
    try:
        # A leap second counts as the one before it.
        date = datetime(year, _MONTHS.index(match[2]) + 1, day, hour, minute, min(second, 59), tzinfo=UTC)
    except ValueError as error:
        raise SipError(f"malformed Date: {error}") from None
    return date.timestamp()


def format_date(wall: float) -> str:
    """A Date header value for seconds since the epoch: ``Sat, 13 Nov 2010 23:29:00 GMT``, whatever the locale."""
    date = datetime.fromtimestamp(int(wall), UTC)
    return f"{_DAYS[date.weekday()]}, {date.day:02} {_MONTHS[date.month - 1]} {date.year:04} {date:%H:%M:%S} GMT"


def parse_addresses(values: list[str]) -> list[NameAddr]:
    """Addresses of P-Asserted-Identity, P-Preferred-Identity, Remote-Party-ID, Diversion, History-Info: what
    ``message.values(name)`` gives, malformed ones left out, as none of them is worth losing a call."""
    result = []
    for value in values:
        try:
            address = NameAddr.parse(value)
            address.uri  # noqa: B018 - parsed for its errors
        except SipError:
            continue
        result.append(address)
    return result
