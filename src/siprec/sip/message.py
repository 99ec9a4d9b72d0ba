"""SIP messages: parsed once, lazily; order and bytes of what is not touched are kept.

A message is its start line and a list of ``(key, line)`` pairs: `key` is the canonical lower-case header name
(compact forms resolved), `line` the raw header line as received, folding included, without the final CRLF. Text is
UTF-8 with surrogate escapes, so any octet survives. Typed views (`top_via`, `from_`, `cseq`, ...) are parsed on first
use.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, Self

from siprec.sip.errors import SipError
from siprec.sip.headers import TOKEN, CSeq, NameAddr, ParameterValue, Via, split_commas
from siprec.sip.uri import Uri

MAX_MESSAGE: Final = 65535
MAX_HEADERS: Final = 256
MAX_HEAD: Final = 49152
MAX_VIAS: Final = 70

COMPACT: Final = {
    "a": "accept-contact",
    "b": "referred-by",
    "c": "content-type",
    "d": "request-disposition",
    "e": "content-encoding",
    "f": "from",
    "i": "call-id",
    "j": "reject-contact",
    "k": "supported",
    "l": "content-length",
    "m": "contact",
    "n": "identity-info",
    "o": "event",
    "r": "refer-to",
    "s": "subject",
    "t": "to",
    "u": "allow-events",
    "v": "via",
    "x": "session-expires",
    "y": "identity",
}
_NAMES: Final = {
    "call-id": "Call-ID",
    "cseq": "CSeq",
    "mime-version": "MIME-Version",
    "www-authenticate": "WWW-Authenticate",
    "rack": "RAck",
    "rseq": "RSeq",
    "min-se": "Min-SE",
    "sip-etag": "SIP-ETag",
    "sip-if-match": "SIP-If-Match",
    "session-id": "Session-ID",
    "p-asserted-identity": "P-Asserted-Identity",
}
# Requests of methods whose headers may be listed with commas; anything else is one value per line (RFC 3261 7.3.1).
_SINGLE: Final = frozenset({"call-id", "cseq", "from", "to", "max-forwards", "content-length", "content-type"})
_START_RESPONSE: Final = re.compile(r"SIP/(\d+\.\d+) (\d{3})(?: (.*))?\Z", re.IGNORECASE | re.DOTALL)
_VERSION: Final = re.compile(r"SIP/\d+\.\d+\Z", re.IGNORECASE)
_FOLD: Final = re.compile(r"\r?\n[ \t]+")

_key_cache: dict[str, str] = {}


def header_key(name: str) -> str:
    """Canonical lower-case key of a header name, compact forms resolved."""
    key = _key_cache.get(name)
    if key is None:
        key = name.strip().lower()
        key = COMPACT.get(key, key)
        if len(_key_cache) < 4096:
            _key_cache[name] = key
    return key


def header_name(key: str) -> str:
    """The usual spelling for a header key: ``record-route`` -> ``Record-Route``."""
    name = _NAMES.get(key)
    if name is None:
        name = "-".join(part.capitalize() for part in key.split("-"))
        if len(_NAMES) < 4096:
            _NAMES[key] = name
    return name


def encode(text: str) -> bytes:
    """Text of a message to octets: the inverse of how it was read."""
    return text.encode("utf-8", "surrogateescape")


class SipMessage:
    """What requests and responses share."""

    __slots__ = ("_cache", "body", "lines")

    lines: list[tuple[str, str]]
    body: bytes

    def __init__(self, lines: list[tuple[str, str]] | None = None, body: bytes = b"") -> None:
        self.lines = lines if lines is not None else []
        self.body = body
        self._cache: dict[str, Any] = {}

    # -- reading ---------------------------------------------------------------------------------------------------

    def get(self, name: str) -> str | None:
        """The first field value of a header (unfolded, stripped), or None. `name` in any case, compact or long."""
        key = header_key(name)
        for k, line in self.lines:
            if k == key:
                return _value(line)
        return None

    def get_all(self, name: str) -> list[str]:
        """All field values of a header, one per header line."""
        key = header_key(name)
        return [_value(line) for k, line in self.lines if k == key]

    def values(self, name: str) -> list[str]:
        """All elements of a comma-separated header, over all its lines, in order."""
        key = header_key(name)
        result: list[str] = []
        for k, line in self.lines:
            if k == key:
                value = _value(line)
                if "," in value:
                    result += split_commas(value)
                elif value:
                    result.append(value)
        return result

    def has(self, name: str) -> bool:
        """Whether the header occurs."""
        key = header_key(name)
        return any(k == key for k, _ in self.lines)

    def tokens(self, name: str) -> set[str]:
        """The elements of a list header such as Supported, Require or Allow, in lower case."""
        return {value.lower() for value in self.values(name)}

    def _required(self, key: str) -> str:
        found: str | None = None
        for k, line in self.lines:
            if k == key:
                if found is not None:
                    raise SipError(f"{header_name(key)} occurs twice")
                found = line
        if found is None:
            raise SipError(f"{header_name(key)} is missing")
        return _value(found)

    @property
    def top_via(self) -> Via:
        """The first Via value.

        Raises:
            SipError: missing or malformed.
        """
        via: Via | None = self._cache.get("via")
        if via is None:
            for k, line in self.lines:
                if k == "via":
                    value = _value(line)
                    if "," in value:
                        value = split_commas(value)[0]
                    via = self._cache["via"] = Via.parse(value)
                    return via
            raise SipError("Via is missing")
        return via

    @property
    def vias(self) -> list[Via]:
        """All Via values, topmost first.

        Raises:
            SipError: one is malformed.
        """
        return [Via.parse(value) for value in self.values("via")]

    @property
    def from_(self) -> NameAddr:
        """The From header. Raises SipError when missing, double or malformed."""
        value: NameAddr | None = self._cache.get("from")
        if value is None:
            value = self._cache["from"] = NameAddr.parse(self._required("from"))
        return value

    @property
    def to(self) -> NameAddr:
        """The To header. Raises SipError when missing, double or malformed."""
        value: NameAddr | None = self._cache.get("to")
        if value is None:
            value = self._cache["to"] = NameAddr.parse(self._required("to"))
        return value

    @property
    def call_id(self) -> str:
        """The Call-ID. Raises SipError when missing, double or empty."""
        value: str | None = self._cache.get("call-id")
        if value is None:
            value = self._cache["call-id"] = self._required("call-id")
            if not value:
                raise SipError("Call-ID is empty")
        return value

    @property
    def cseq(self) -> CSeq:
        """The CSeq. Raises SipError when missing, double or malformed."""
        value: CSeq | None = self._cache.get("cseq")
        if value is None:
            value = self._cache["cseq"] = CSeq.parse(self._required("cseq"))
        return value

    @property
    def max_forwards(self) -> int | None:
        """Max-Forwards, None when absent. Raises SipError when no number in 0..255."""
        value = self.get("max-forwards")
        if value is None:
            return None
        if not value.isdecimal() or len(value) > 10 or int(value) > 255:
            raise SipError("malformed Max-Forwards")
        return int(value)

    @property
    def contacts(self) -> list[NameAddr]:
        """All Contact values (``*`` left out). Raises SipError when one is malformed."""
        return [NameAddr.parse(value) for value in self.values("contact") if value != "*"]

    @property
    def contact(self) -> NameAddr | None:
        """The first Contact value, None when absent. Raises SipError when malformed."""
        values = self.values("contact")
        return NameAddr.parse(values[0]) if values and values[0] != "*" else None

    @property
    def routes(self) -> list[NameAddr]:
        """Route values, topmost first. Raises SipError when one is malformed."""
        return [NameAddr.parse(value) for value in self.values("route")]

    @property
    def record_routes(self) -> list[NameAddr]:
        """Record-Route values, topmost first. Raises SipError when one is malformed."""
        return [NameAddr.parse(value) for value in self.values("record-route")]

    @property
    def content_type(self) -> ParameterValue | None:
        """Content-Type, None when absent."""
        value = self.get("content-type")
        return ParameterValue.parse(value) if value is not None else None

    # -- changing --------------------------------------------------------------------------------------------------

    def add(self, name: str, value: str) -> None:
        """Append a header at the end."""
        key = header_key(name)
        self._cache.pop(key, None)
        self.lines.append((key, f"{name if not name.islower() else header_name(key)}: {value}"))

    def set(self, name: str, value: str) -> None:
        """Replace all occurrences of a header by one, in the place of the first; append it if there was none."""
        key = header_key(name)
        self._cache.pop(key, None)
        line = (key, f"{header_name(key)}: {value}")
        lines = self.lines
        for i, (k, _) in enumerate(lines):
            if k == key:
                lines[i] = line
                if any(k == key for k, _ in lines[i + 1 :]):
                    lines[i + 1 :] = [item for item in lines[i + 1 :] if item[0] != key]
                return
        lines.append(line)

    def prepend(self, name: str, value: str) -> None:
        """Insert a header above the first of its kind, or on top of all headers."""
        key = header_key(name)
        self._cache.pop(key, None)
        position = next((i for i, (k, _) in enumerate(self.lines) if k == key), 0)
        self.lines.insert(position, (key, f"{header_name(key)}: {value}"))

    def remove(self, name: str) -> int:
        """Remove all occurrences; returns how many there were."""
        key = header_key(name)
        self._cache.pop(key, None)
        kept = [item for item in self.lines if item[0] != key]
        removed = len(self.lines) - len(kept)
        self.lines = kept
        return removed

    def remove_first_value(self, name: str) -> str | None:
        """Remove the topmost value of a list header (Via, Route); returns it, or None."""
        key = header_key(name)
        self._cache.pop(key, None)
        for i, (k, line) in enumerate(self.lines):
            if k == key:
                values = split_commas(_value(line))
                if len(values) <= 1:
                    del self.lines[i]
                else:
                    self.lines[i] = (key, f"{header_name(key)}: {', '.join(values[1:])}")
                if values:
                    return values[0]
                return self.remove_first_value(name)
        return None

    def replace_first_value(self, name: str, value: str) -> None:
        """Replace the topmost value of a list header; the other values stay. Adds the header if there is none."""
        key = header_key(name)
        self._cache.pop(key, None)
        for i, (k, line) in enumerate(self.lines):
            if k == key:
                rest = split_commas(_value(line))[1:]
                self.lines[i] = (key, f"{header_name(key)}: {', '.join([value, *rest])}")
                return
        self.lines.append((key, f"{header_name(key)}: {value}"))

    def set_body(self, body: bytes, content_type: str | None = None) -> None:
        """Replace the body and Content-Length; `content_type` replaces Content-Type when given."""
        self.body = body
        if content_type is not None:
            self.set("content-type", content_type)
        elif not body:
            self.remove("content-type")
        self.set("content-length", str(len(body)))

    # -- writing ---------------------------------------------------------------------------------------------------

    @property
    def start_line(self) -> str:
        """The start line without CRLF."""
        raise NotImplementedError

    def to_bytes(self) -> bytes:
        """The message on the wire; Content-Length is added when missing (RFC 3261 16.6 step 9)."""
        parts = [self.start_line]
        has_length = False
        for key, line in self.lines:
            parts.append(line)
            if key == "content-length":
                has_length = True
        if not has_length:
            parts.append(f"Content-Length: {len(self.body)}")
        parts.append("\r\n")
        return "\r\n".join(parts).encode("utf-8", "surrogateescape") + self.body

    def _copy_into(self, other: SipMessage) -> None:
        other.lines = self.lines.copy()
        other.body = self.body
        other._cache = self._cache.copy()

    def __repr__(self) -> str:
        return f"<{self.start_line}>"


class SipRequest(SipMessage):
    """A request. `uri` is the raw Request-URI, `ruri` its parsed form."""

    __slots__ = ("method", "uri")

    def __init__(self, method: str, uri: str, lines: list[tuple[str, str]] | None = None, body: bytes = b"") -> None:
        super().__init__(lines, body)
        self.method = method
        self.uri = uri

    @property
    def start_line(self) -> str:
        """The request line."""
        return f"{self.method} {self.uri} SIP/2.0"

    @property
    def ruri(self) -> Uri:
        """The Request-URI. Raises SipError when malformed."""
        value: Uri | None = self._cache.get("ruri")
        if value is None or value.text != self.uri:
            value = self._cache["ruri"] = Uri.parse(self.uri)
        return value

    def copy(self) -> Self:
        """An independent copy (header lines and parsed views are shared values)."""
        other = type(self).__new__(type(self))
        self._copy_into(other)
        other.method = self.method
        other.uri = self.uri
        return other

    def response(
        self,
        status: int,
        reason: str = "",
        *,
        to_tag: str = "",
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        content_type: str | None = None,
    ) -> SipResponse:
        """A response as a UAS makes it (RFC 3261 8.2.6): Via, From, To, Call-ID, CSeq copied, raw and in order.

        `to_tag` is added to To when To has none. Record-Route is copied when a dialog may result (12.1.1).
        """
        establishes = 101 <= status <= 299 and self.method in _DIALOG_METHODS
        lines: list[tuple[str, str]] = []
        for item in self.lines:
            key = item[0]
            if key in _COPIED or (establishes and key == "record-route"):
                if key == "to" and to_tag and not _has_tag(item[1]):
                    item = (key, f"{item[1]};tag={to_tag}")
                lines.append(item)
        if status == 100:
            lines += [item for item in self.lines if item[0] == "timestamp"]
        response = SipResponse(status, reason, lines)
        for name, value in headers:
            response.add(name, value)
        response.set_body(body, content_type if body else None)
        return response


_COPIED: Final = frozenset({"via", "from", "to", "call-id", "cseq"})
_DIALOG_METHODS: Final = frozenset({"INVITE", "SUBSCRIBE", "REFER", "NOTIFY"})


def _has_tag(line: str) -> bool:
    try:
        return bool(NameAddr.parse(_value(line)).tag)
    except SipError:
        return ";tag=" in line.lower()


class SipResponse(SipMessage):
    """A response: `status` 100..699, `reason` phrase."""

    __slots__ = ("reason", "status")

    def __init__(
        self, status: int, reason: str = "", lines: list[tuple[str, str]] | None = None, body: bytes = b""
    ) -> None:
        super().__init__(lines, body)
        self.status = status
        self.reason = reason or REASONS.get(status) or REASONS.get(status // 100 * 100) or "Unknown"

    @property
    def start_line(self) -> str:
        """The status line."""
        return f"SIP/2.0 {self.status} {self.reason}"

    def copy(self) -> Self:
        """An independent copy (header lines and parsed views are shared values)."""
        other = type(self).__new__(type(self))
        self._copy_into(other)
        other.status = self.status
        other.reason = self.reason
        return other


def _value(line: str) -> str:
    value = line[line.find(":") + 1 :]
    if "\n" in value:
        value = _FOLD.sub(" ", value)
    return value.strip(" \t\r\n")


def parse_head(head: bytes) -> SipRequest | SipResponse:
    """Parse start line and headers (everything before the empty line).

    Raises:
        SipError: no SIP start line (400, 505), too large or too many headers (400, 513).
    """
    if len(head) > MAX_HEAD:
        raise SipError("header section too large", 513)
    text = head.decode("utf-8", "surrogateescape")
    if "\r\n" not in text and "\n" in text:
        text = text.replace("\n", "\r\n")
    start, _, rest = text.partition("\r\n")
    raw = rest.split("\r\n") if rest else []
    if "\r\n " in rest or "\r\n\t" in rest:
        raw = _unfold(raw)
    if len(raw) > MAX_HEADERS:
        raise SipError("too many headers", 513)
    lines: list[tuple[str, str]] = []
    cache = _key_cache
    for line in raw:
        colon = line.find(":")
        if colon <= 0:
            # No header at all: kept in place under an empty key, so that it can never be mistaken for one.
            lines.append(("", line))
            continue
        name = line[:colon]
        lines.append((cache.get(name) or header_key(name), line))
    return _start(start, lines)


def _start(start: str, lines: list[tuple[str, str]]) -> SipRequest | SipResponse:
    if start[:4].upper() == "SIP/":
        match = _START_RESPONSE.match(start)
        if match is None:
            raise SipError("malformed status line")
        if match[1] != "2.0":
            raise SipError("SIP version not supported", 505)
        status = int(match[2])
        if not 100 <= status <= 699:
            raise SipError("status code out of range")
        response = SipResponse(status, match[3] or "", lines)
        response.reason = match[3] or ""
        return response
    method, sp, rest = start.partition(" ")
    uri, sp2, version = rest.rpartition(" ")
    if not sp or not sp2 or TOKEN.match(method) is None or _VERSION.match(version) is None:
        raise MalformedRequest("malformed request line", _partial(method, lines))
    if version[4:] != "2.0":
        raise MalformedRequest("SIP version not supported", _partial(method, lines), 505)
    request = SipRequest(method, uri, lines)
    if not uri or " " in uri or "\t" in uri or uri[0] == "<":
        raise MalformedRequest("malformed Request-URI", request)
    return request


def _partial(method: str, lines: list[tuple[str, str]]) -> SipRequest:
    return SipRequest(method if TOKEN.match(method) else "UNKNOWN", "sip:invalid", lines)


class MalformedRequest(SipError):
    """A request whose start line or framing is wrong; `request` has the headers, so that it can be answered."""

    def __init__(self, reason: str, request: SipRequest, status: int = 400) -> None:
        super().__init__(reason, status)
        self.request = request


def _unfold(raw: list[str]) -> list[str]:
    """Join continuation lines to the header they belong to; the CRLF stays in the line."""
    lines: list[str] = []
    for line in raw:
        if line[:1] in (" ", "\t") and lines:
            lines[-1] = f"{lines[-1]}\r\n{line}"
        else:
            lines.append(line)
    return lines


def content_length(message: SipMessage) -> int | None:
    """The Content-Length, None when absent.

    Raises:
        SipError: no number, negative, absurdly large, or two different values.
    """
    found: int | None = None
    for key, line in message.lines:
        if key == "content-length":
            value = _value(line)
            if not value.isdecimal() or not value.isascii() or len(value) > 9:
                raise SipError("malformed Content-Length")
            if found is not None and found != int(value):
                raise SipError("Content-Length occurs twice")
            found = int(value)
    return found


def parse_datagram(data: bytes) -> SipRequest | SipResponse:
    """Parse one datagram (RFC 3261 18.3): octets after the body are dropped, a short body is an error.

    Raises:
        SipError: not a SIP message (`MalformedRequest` when it can still be answered).
    """
    if len(data) > MAX_MESSAGE:
        raise SipError("message too large", 513)
    end = data.find(b"\r\n\r\n")
    width = 4
    if end < 0:
        end = data.find(b"\n\n") if b"\r\n" not in data else -1
        width = 2
        if end < 0:
            end, width = len(data.rstrip(b"\r\n")), len(data)
    message = parse_head(data[:end])
    body = data[end + width :]
    try:
        length = content_length(message)
    except SipError as error:
        if isinstance(message, SipRequest):
            raise MalformedRequest(error.reason, message) from None
        raise
    if length is not None and length != len(body):
        if length > len(body):
            if isinstance(message, SipRequest):
                raise MalformedRequest("body shorter than Content-Length", message)
            raise SipError("body shorter than Content-Length")
        body = body[:length]
    message.body = body
    return message


REASONS: Final[dict[int, str]] = {
    100: "Trying",
    180: "Ringing",
    181: "Call Is Being Forwarded",
    182: "Queued",
    183: "Session Progress",
    199: "Early Dialog Terminated",
    200: "OK",
    202: "Accepted",
    204: "No Notification",
    300: "Multiple Choices",
    301: "Moved Permanently",
    302: "Moved Temporarily",
    305: "Use Proxy",
    380: "Alternative Service",
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    407: "Proxy Authentication Required",
    408: "Request Timeout",
    410: "Gone",
    412: "Conditional Request Failed",
    413: "Request Entity Too Large",
    414: "Request-URI Too Long",
    415: "Unsupported Media Type",
    416: "Unsupported URI Scheme",
    420: "Bad Extension",
    421: "Extension Required",
    422: "Session Interval Too Small",
    423: "Interval Too Brief",
    429: "Provide Referrer Identity",
    430: "Flow Failed",
    433: "Anonymity Disallowed",
    436: "Bad Identity Info",
    439: "First Hop Lacks Outbound Support",
    440: "Max-Breadth Exceeded",
    469: "Bad Info Package",
    470: "Consent Needed",
    480: "Temporarily Unavailable",
    481: "Call/Transaction Does Not Exist",
    482: "Loop Detected",
    483: "Too Many Hops",
    484: "Address Incomplete",
    485: "Ambiguous",
    486: "Busy Here",
    487: "Request Terminated",
    488: "Not Acceptable Here",
    489: "Bad Event",
    491: "Request Pending",
    493: "Undecipherable",
    494: "Security Agreement Required",
    500: "Server Internal Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Server Time-out",
    505: "Version Not Supported",
    513: "Message Too Large",
    600: "Busy Everywhere",
    603: "Decline",
    604: "Does Not Exist Anywhere",
    606: "Not Acceptable",
}
