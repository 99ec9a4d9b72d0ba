"""SIP messages: parsed once, lazily; order and bytes of what is not touched are kept.

A message is its start line, its header lines (:mod:`siprec.sip.lines`) and its body. Typed views (`top_via`, `from_`,
`cseq`, ...) are parsed on first use and kept until their header changes: change headers by the methods only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Self

from siprec.sip.errors import SipError
from siprec.sip.headers import TOKEN, CSeq, NameAddr, ParameterValue, Via, split_commas
from siprec.sip.lines import COMPACT as COMPACT
from siprec.sip.lines import HeaderLines, field_value, read_lines, safe
from siprec.sip.lines import encode as encode
from siprec.sip.lines import header_key as header_key
from siprec.sip.lines import header_name as header_name
from siprec.sip.status import REASONS as REASONS
from siprec.sip.uri import Uri

MAX_MESSAGE: Final = 65535
MAX_HEADERS: Final = 256
MAX_HEAD: Final = 49152
MAX_LINE: Final = 16384
MAX_VIAS: Final = 70

_START_RESPONSE: Final = re.compile(r"SIP/(\d+\.\d+) (\d{3})(?: (.*))?\Z", re.IGNORECASE | re.DOTALL)
# No list of what is allowed: these need no look at their letters.
_METHODS: Final = frozenset(
    {
        "INVITE",
        "ACK",
        "BYE",
        "CANCEL",
        "OPTIONS",
        "REGISTER",
        "UPDATE",
        "INFO",
        "PRACK",
        "MESSAGE",
        "NOTIFY",
        "SUBSCRIBE",
    }
)
# A line end that is no folding.
_LINE_END: Final = re.compile(r"\r(?!\n)|(?<!\r)\n|\r\n(?![ \t])")
_VERSION: Final = re.compile(r"SIP/\d+\.\d+\Z", re.IGNORECASE)


class SipMessage(HeaderLines):
    """What requests and responses share."""

    __slots__ = ("body",)

    body: bytes

    def __init__(self, lines: list[tuple[str, str]] | None = None, body: bytes = b"") -> None:
        self.lines = lines if lines is not None else []
        self._cache = {}
        self._index = None
        self.body = body

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
                    value = field_value(line)
                    if "," in value:
                        value = next(iter(split_commas(value)), "")
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

    # -- body and wire ---------------------------------------------------------------------------------------------

    def set_body(self, body: bytes, content_type: str | None = None) -> None:
        """Replace the body and Content-Length; `content_type` replaces Content-Type when given."""
        self.body = body
        if content_type is not None:
            self.set("content-type", content_type)
        elif not body:
            self.remove("content-type")
        self.set("content-length", str(len(body)))

    @property
    def start_line(self) -> str:
        """The start line without CRLF."""
        raise NotImplementedError

    def to_bytes(self) -> bytes:
        """The message on the wire; Content-Length is added when missing (RFC 3261 16.6 step 9)."""
        lines = self.lines
        parts = [line for _, line in lines]
        # Content-Length mostly comes last, where looking for it costs nothing.
        if not (lines and lines[-1][0] == "content-length") and not self.has("content-length"):
            parts.append(f"Content-Length: {len(self.body)}")
        head = "\r\n".join((self.start_line, *parts))
        if head.count("\n") != len(parts) or head.count("\r") != len(parts):
            # Folded lines of others, or a line end that somebody wrote past the methods.
            head = "\r\n".join(map(_one_line, (self.start_line, *parts)))
        return f"{head}\r\n\r\n".encode("utf-8", "surrogateescape") + self.body

    def _copy_into(self, other: SipMessage) -> None:
        other.lines = self.lines.copy()
        other.body = self.body
        other._cache = self._cache.copy()
        other._index = self._index

    def __repr__(self) -> str:
        return f"<{self.start_line}>"


def _one_line(line: str) -> str:
    """A line that is sent: folded or not, it is one line (RFC 3261 7.3.1)."""
    return _LINE_END.sub(" ", line) if "\n" in line or "\r" in line else line


class SipRequest(SipMessage):
    """A request. `uri` is the raw Request-URI, `ruri` its parsed form."""

    __slots__ = ("method", "uri")

    def __init__(self, method: str, uri: str, lines: list[tuple[str, str]] | None = None, body: bytes = b"") -> None:
        # Written out: a call to the base class costs as much as all of this.
        self.lines = lines if lines is not None else []
        self._cache = {}
        self._index = None
        self.body = body
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
        response = SipResponse(status, reason if reason.isprintable() else safe(reason, "reason phrase"), lines)
        for name, value in headers:
            response.add(name, value)
        response.set_body(body, content_type if body else None)
        return response


_COPIED: Final = frozenset({"via", "from", "to", "call-id", "cseq"})
_DIALOG_METHODS: Final = frozenset({"INVITE", "SUBSCRIBE", "REFER", "NOTIFY"})


def _has_tag(line: str) -> bool:
    try:
        return bool(NameAddr.parse(field_value(line)).tag)
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


def parse_head(head: bytes) -> SipRequest | SipResponse:
    """Parse start line and headers (everything before the empty line).

    Raises:
        SipError: no SIP start line (400, 505), a line end inside a line (400), too large or too many headers (513);
            `MalformedRequest` when it can still be answered.
    """
    problem = ""
    if len(head) > MAX_HEAD:
        problem = "header section too large"
        head = head[: max(head.rfind(b"\n", 0, MAX_HEAD), 0)].removesuffix(b"\r")
    text = head.decode("utf-8", "surrogateescape")
    if "\r\n" not in text and "\n" in text:
        text = text.replace("\n", "\r\n")
    start, _, rest = text.partition("\r\n")
    raw = rest.split("\r\n") if rest else []
    lines = read_lines(raw)
    if len(lines) > MAX_HEADERS:
        problem = "too many headers"
        del lines[MAX_HEADERS:]
    if len(text) > MAX_LINE and any(len(line) > MAX_LINE for _, line in lines):
        problem = "header line too long"
    message = _start(start, lines)
    if problem:
        raise _malformed(problem, message, 513)
    joined = "".join(raw)
    if "\n" in joined or "\r" in joined or "\n" in start or "\r" in start:
        # Others may take it for a line end: a header within a header.
        raise _malformed("CR or LF inside a line", message)
    return message


def _malformed(reason: str, message: SipRequest | SipResponse, status: int = 400) -> SipError:
    return MalformedRequest(reason, message, status) if isinstance(message, SipRequest) else SipError(reason, status)


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
    method, _, rest = start.partition(" ")
    uri, _, version = rest.rpartition(" ")
    if (version != "SIP/2.0" and _VERSION.match(version) is None) or (
        method not in _METHODS and TOKEN.match(method) is None
    ):
        raise MalformedRequest("malformed request line", _partial(method, lines))
    if version[4:] != "2.0":
        raise MalformedRequest("SIP version not supported", _partial(method, lines), 505)
    request = SipRequest(method, uri, lines)
    if not uri or " " in uri or "\t" in uri or uri[0] == "<":
        request.uri = "sip:invalid"
        raise MalformedRequest("malformed Request-URI", request)
    return request


def _partial(method: str, lines: list[tuple[str, str]]) -> SipRequest:
    return SipRequest(method if TOKEN.match(method) else "UNKNOWN", "sip:invalid", lines)


class MalformedRequest(SipError):
    """A request whose start line or framing is wrong; `request` has the headers, so that it can be answered."""

    def __init__(self, reason: str, request: SipRequest, status: int = 400) -> None:
        super().__init__(reason, status)
        self.request = request


def content_length(message: SipMessage) -> int | None:
    """The Content-Length, None when absent.

    Raises:
        SipError: no number, negative, absurdly large, or two different values.
    """
    found: int | None = None
    for key, line in message.lines:
        if key == "content-length":
            value = field_value(line)
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
        raise _malformed(error.reason, message) from None
    if length is not None and length != len(body):
        if length > len(body):
            raise _malformed("body shorter than Content-Length", message)
        body = body[:length]
    message.body = body
    return message
