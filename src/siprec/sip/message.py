"""SIP messages: parsed once, lazily; order and bytes of what is not touched are kept.

A message is its start line, its header lines (:mod:`siprec.sip.header_list`) and its body. Typed views (`top_via`,
`from_`, `cseq`, ...) are parsed on first use and kept until their header changes: change headers by the methods only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, Self

from siprec.sip.errors import SipError
from siprec.sip.header_list import COMPACT as COMPACT
from siprec.sip.header_list import HeaderList, field_value, read_lines, safe, write
from siprec.sip.header_list import encode as encode
from siprec.sip.header_list import header_key as header_key
from siprec.sip.header_list import header_name as header_name
from siprec.sip.headers import TOKEN, CSeq, NameAddr, ParameterValue, Via
from siprec.sip.scan import MAX_HEADERS as MAX_HEADERS
from siprec.sip.scan import MAX_VIAS as MAX_VIAS
from siprec.sip.scan import METHODS, scan_head
from siprec.sip.status import REASONS as REASONS
from siprec.sip.status import reason_phrase as reason_phrase
from siprec.sip.uri import Uri, known_uris
from siprec.sip.views import READERS

MAX_MESSAGE: Final = 65535
MAX_HEAD: Final = 49152
MAX_LINE: Final = 16384

_START_RESPONSE: Final = re.compile(r"SIP/(\d+\.\d+) (\d{3})(?: (.*))?\Z", re.IGNORECASE | re.DOTALL)
_VERSION: Final = re.compile(r"SIP/\d+\.\d+\Z", re.IGNORECASE)


class SipMessage(HeaderList):
    """What requests and responses share.

    What is read from the headers is in slots: :func:`parse_head` fills those that everybody looks at, the others are
    filled when they are first asked for. They are kept until their header changes, and shared: not to be changed.
    Asking raises SipError when the header is missing (unless None says so), double or malformed.
    """

    __slots__ = (
        "body",
        "branch",
        "call_id",
        "contact",
        "content_length",
        "content_type",
        "cseq",
        "from_",
        "from_tag",
        "max_forwards",
        "problem",
        "sdp_part",
        "sent_by",
        "to",
        "to_tag",
        "top_via",
    )

    body: bytes
    branch: str
    """Of the first Via; empty when absent (RFC 2543 client)."""
    sent_by: str
    """Of the first Via: ``host`` or ``host:port`` in lower case, IPv6 in brackets."""
    from_tag: str
    """Empty when absent."""
    to_tag: str
    """Empty when absent."""
    call_id: str
    """Not empty."""
    cseq: CSeq
    max_forwards: int | None
    """0 to 255; None when absent."""
    content_length: int | None
    """None when absent; an error when negative, absurdly large, or two different values."""
    problem: tuple[str, int] | None
    """What keeps an element from acting on the message; see :func:`siprec.sip.scan.problem_of`."""
    top_via: Via
    from_: NameAddr
    to: NameAddr
    contact: NameAddr | None
    """The first Contact value; None when absent or ``*``."""
    content_type: ParameterValue | None
    """None when absent."""
    sdp_part: Any
    """Kept for :func:`siprec.sip.multipart.sdp_part`."""

    def __init__(self, keys: list[str] | None = None, lines: list[str] | None = None, body: bytes = b"") -> None:
        self.keys = keys if keys is not None else []
        self.lines = lines if lines is not None else []
        self.derived = False
        self.body = body

    if not TYPE_CHECKING:  # a type checker knows the slots by their annotations

        def __getattr__(self, name: str) -> object:
            """What has not been read yet; a slot that is filled does not come here."""
            read = READERS.get(name)
            if read is None:
                raise AttributeError(name)
            value = read(self)
            self.derived = True
            setattr(self, name, value)
            return value

    @property
    def vias(self) -> list[Via]:
        """All Via values, topmost first.

        Raises:
            SipError: one is malformed.
        """
        return [Via.parse(value) for value in self.values("via")]

    @property
    def contacts(self) -> list[NameAddr]:
        """All Contact values (``*`` left out). Raises SipError when one is malformed."""
        return [NameAddr.parse(value) for value in self.values("contact") if value != "*"]

    @property
    def routes(self) -> list[NameAddr]:
        """Route values, topmost first. Raises SipError when one is malformed."""
        return [NameAddr.parse(value) for value in self.values("route")]

    @property
    def record_routes(self) -> list[NameAddr]:
        """Record-Route values, topmost first. Raises SipError when one is malformed."""
        return [NameAddr.parse(value) for value in self.values("record-route")]

    # -- body and wire ---------------------------------------------------------------------------------------------

    def set_body(self, body: bytes, content_type: str | None = None) -> None:
        """Replace the body and Content-Length; `content_type` replaces Content-Type when given."""
        self.body = body
        if content_type is not None:
            self.set("content-type", content_type)
        elif not body and "content-type" in self.keys:
            self.remove("content-type")
        self.set("content-length", str(len(body)))

    @property
    def start_line(self) -> str:
        """The start line without CRLF."""
        raise NotImplementedError

    def to_bytes(self) -> bytes:
        """The message on the wire; Content-Length is added when missing (RFC 3261 16.6 step 9)."""
        parts = [self.start_line, *self.lines]
        if "content-length" not in self.keys:
            parts.append(f"Content-Length: {len(self.body)}")
        return write(parts, self.body)

    def _copy_into(self, other: SipMessage) -> None:
        other.keys = self.keys.copy()
        other.lines = self.lines.copy()
        other.body = self.body
        other.derived = False
        if self.derived and self.problem is None:
            other.derived = True
            other.problem = None
            other.branch = self.branch
            other.sent_by = self.sent_by
            other.from_tag = self.from_tag
            other.to_tag = self.to_tag
            other.call_id = self.call_id
            other.cseq = self.cseq

    def __repr__(self) -> str:
        return f"<{self.start_line}>"


class SipRequest(SipMessage):
    """A request. `uri` is the raw Request-URI, `ruri` its parsed form."""

    __slots__ = ("method", "uri")

    def __init__(
        self,
        method: str,
        uri: str,
        keys: list[str] | None = None,
        lines: list[str] | None = None,
        body: bytes = b"",
    ) -> None:
        # Written out: a call to the base class costs as much as all of this.
        self.keys = keys if keys is not None else []
        self.lines = lines if lines is not None else []
        self.derived = False
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
        text = self.uri
        return known_uris[text] if text in known_uris else Uri.parse(text)

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
        keys, lines = self.copied(status, to_tag)
        response = SipResponse(status, reason if reason.isprintable() else safe(reason, "reason phrase"), keys, lines)
        response.extend(headers)
        response.body = body
        if self.derived and self.problem is None:
            # What a transaction asks next.
            response.to_tag = self.to_tag or to_tag
            response.derived = True
        if body and content_type is not None:
            response.set("content-type", content_type)
        response.set("content-length", str(len(body)))
        return response

    def copied(self, status: int, to_tag: str) -> tuple[list[str], list[str]]:
        """Keys and lines of the headers that a response takes from its request, raw and in order (RFC 3261 8.2.6).

        `to_tag` is added to To when To has none. Record-Route is among them when a dialog may result (12.1.1).
        """
        establishes = 101 <= status <= 299 and self.method in _DIALOGMETHODS
        copied = _COPIED_FOR_DIALOG if establishes else _COPIED_FOR_TRYING if status == 100 else _COPIED
        keys: list[str] = []
        lines: list[str] = []
        for key, line in zip(self.keys, self.lines, strict=True):
            if key in copied:
                if key == "to" and to_tag and not _has_tag(line):
                    line = f"{line};tag={to_tag}"
                keys.append(key)
                lines.append(line)
        return keys, lines


_COPIED: Final = frozenset({"via", "from", "to", "call-id", "cseq"})
_COPIED_FOR_DIALOG: Final = _COPIED | {"record-route"}
_COPIED_FOR_TRYING: Final = _COPIED | {"timestamp"}
_DIALOGMETHODS: Final = frozenset({"INVITE", "SUBSCRIBE", "REFER", "NOTIFY"})


def _has_tag(line: str) -> bool:
    try:
        return bool(NameAddr.parse(field_value(line)).tag)
    except SipError:
        return ";tag=" in line.lower()


class SipResponse(SipMessage):
    """A response: `status` 100..699, `reason` phrase."""

    __slots__ = ("reason", "status")

    def __init__(
        self,
        status: int,
        reason: str = "",
        keys: list[str] | None = None,
        lines: list[str] | None = None,
        body: bytes = b"",
    ) -> None:
        self.keys = keys if keys is not None else []
        self.lines = lines if lines is not None else []
        self.derived = False
        self.body = body
        self.status = status
        self.reason = reason or reason_phrase(status)

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


_new: Final = object.__new__


def parse_head(head: bytes) -> SipRequest | SipResponse:
    """Parse start line and headers (everything before the empty line).

    Raises:
        SipError: no SIP start line (400, 505), a line end inside a line (400), too large or too many headers (513);
            `MalformedRequest` when it can still be answered.
    """
    found = scan_head(head) if len(head) <= MAX_LINE else None
    if found is None:
        return read_head(head)
    message: SipRequest | SipResponse
    if found[0]:
        message = _new(SipResponse)
        message.status, message.reason = found[0], found[1]
    else:
        message = _new(SipRequest)
        message.method, message.uri = found[1], found[2]
    (
        message.keys,
        message.lines,
        message.branch,
        message.sent_by,
        message.from_tag,
        message.to_tag,
        message.call_id,
        message.cseq,
        message.max_forwards,
        message.content_length,
    ) = found[3:]
    message.body = b""
    message.problem = None
    message.derived = True
    return message


def read_head(head: bytes) -> SipRequest | SipResponse:
    """The thorough reader, for what :func:`scan_head` does not take. Raises as :func:`parse_head`."""
    problem = ""
    if len(head) > MAX_HEAD:
        problem = "header section too large"
        head = head[: max(head.rfind(b"\n", 0, MAX_HEAD), 0)].removesuffix(b"\r")
    text = head.decode("utf-8", "surrogateescape")
    if "\r\n" not in text and "\n" in text:
        text = text.replace("\n", "\r\n")
    start, _, rest = text.partition("\r\n")
    raw = rest.split("\r\n") if rest else []
    keys, lines = read_lines(raw)
    if len(lines) > MAX_HEADERS:
        problem = "too many headers"
        del keys[MAX_HEADERS:], lines[MAX_HEADERS:]
    if len(text) > MAX_LINE and max(map(len, lines), default=0) > MAX_LINE:
        problem = "header line too long"
    message = _start(start, keys, lines)
    if problem:
        raise _malformed(problem, message, 513)
    joined = "".join(raw)
    if "\n" in joined or "\r" in joined or "\n" in start or "\r" in start:
        # Others may take it for a line end: a header within a header.
        raise _malformed("CR or LF inside a line", message)
    return message


def _malformed(reason: str, message: SipRequest | SipResponse, status: int = 400) -> SipError:
    return MalformedRequest(reason, message, status) if isinstance(message, SipRequest) else SipError(reason, status)


def _start(start: str, keys: list[str], lines: list[str]) -> SipRequest | SipResponse:
    if start[:4].upper() == "SIP/":
        match = _START_RESPONSE.match(start)
        if match is None:
            raise SipError("malformed status line")
        if match[1] != "2.0":
            raise SipError("SIP version not supported", 505)
        status = int(match[2])
        if not 100 <= status <= 699:
            raise SipError("status code out of range")
        response = SipResponse(status, match[3] or "", keys, lines)
        response.reason = match[3] or ""
        return response
    method, _, rest = start.partition(" ")
    uri, _, version = rest.rpartition(" ")
    if (version != "SIP/2.0" and _VERSION.match(version) is None) or (
        method not in METHODS and TOKEN.match(method) is None
    ):
        raise MalformedRequest("malformed request line", _partial(method, keys, lines))
    if version[4:] != "2.0":
        raise MalformedRequest("SIP version not supported", _partial(method, keys, lines), 505)
    request = SipRequest(method, uri, keys, lines)
    if not uri or " " in uri or "\t" in uri or uri[0] == "<":
        request.uri = "sip:invalid"
        raise MalformedRequest("malformed Request-URI", request)
    return request


def _partial(method: str, keys: list[str], lines: list[str]) -> SipRequest:
    return SipRequest(method if TOKEN.match(method) else "UNKNOWN", "sip:invalid", keys, lines)


class MalformedRequest(SipError):
    """A request whose start line or framing is wrong; `request` has the headers, so that it can be answered."""

    def __init__(self, reason: str, request: SipRequest, status: int = 400) -> None:
        super().__init__(reason, status)
        self.request = request


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
        length = message.content_length
    except SipError as error:
        raise _malformed(error.reason, message) from None
    if length is not None and length != len(body):
        if length > len(body):
            raise _malformed("body shorter than Content-Length", message)
        body = body[:length]
    message.body = body
    return message
