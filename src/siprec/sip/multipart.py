"""Bodies of one or several parts (RFC 2046 5.1, RFC 5621): lenient in reading, strict in writing, octets throughout.

Read: any depth of nesting, quoted boundaries, preamble and epilogue, LF line ends, a missing closing delimiter, part
headers that run into the content without an empty line (RFC 8068 shows all of these). Written: no preamble, and a
boundary that occurs in no part.
"""

from __future__ import annotations

import base64
import binascii
import quopri
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from siprec.sip.errors import SipError
from siprec.sip.headers import ParameterValue
from siprec.sip.message import SipMessage, encode

SDP_TYPE: Final = "application/sdp"
METADATA_TYPE: Final = "application/rs-metadata+xml"
LEGACY_METADATA_TYPE: Final = "application/rs-metadata"
METADATA_TYPES: Final = frozenset({METADATA_TYPE, LEGACY_METADATA_TYPE})
"""Metadata and snapshot requests: RFC 9806, and the type of the original RFC 7866 text."""

MAX_PARTS: Final = 64
MAX_DEPTH: Final = 8
MAX_BODY: Final = 1 << 20

_PART_HEADER: Final = re.compile(
    rb"([!#-'*+\-.0-9A-Z^-z|~]++)[ \t]*+:[ \t]*+([^\r\n]*+(?:\r?\n[ \t]++[^ \t\r\n][^\r\n]*+)*)(?:\r?\n|\Z)"
)
_ODD_HEADER: Final = re.compile(rb"(?!v=)[^\r\n:=<{]{0,200}:[^\r\n]*\r?\n")
"""A line among a part's headers that is none (a blank in its name, octets that no token has) and is passed over."""
_EMPTY_LINE: Final = re.compile(rb"[ \t]*(?:\r?\n|\Z)")
_FIRST_DELIMITER: Final = re.compile(rb"(?:\A|\n)--([^\r\n]*+)(?=\r?\n)")
_FOLD: Final = re.compile(r"\r?\n[ \t]+")
_PART_LENGTH: Final = re.compile(rb"(?i)(^|\n)(content-length[ \t]*:[ \t]*)\d+")
_DELIMITER_REST: Final = re.compile(rb"(--)?[ \t]*(?:\r?\n|\Z)")
_BOUNDARY: Final = re.compile(rb"siprec-part-([0-9]{1,9})")
_BODY_HEADERS: Final = (
    ("content-type", "Content-Type"),
    ("content-disposition", "Content-Disposition"),
    ("content-transfer-encoding", "Content-Transfer-Encoding"),
    ("content-encoding", "Content-Encoding"),
    ("content-id", "Content-ID"),
)
_SDP: Final = ParameterValue(SDP_TYPE, {})
_SDP_HEADERS: Final = (("Content-Type", SDP_TYPE),)
_SDP_LINES: Final = frozenset({f"Content-Type: {SDP_TYPE}", f"c: {SDP_TYPE}"})
_known_types: dict[str, ParameterValue] = {}
_DEFAULT_DISPOSITION: Final = {
    SDP_TYPE: "session",
    METADATA_TYPE: "recording-session",
    LEGACY_METADATA_TYPE: "recording-session",
}


class Part:
    """One leaf of a body.

    `media_type` is ``type/subtype`` in lower case, `headers` are the part's own headers (of the message, ``Content-*``
    only, when the body is not a multipart), `body` its octets. For parts that were read: `whole` is the body they were
    read from, `start` and `end` say where in it the content lies, `head` where the part's headers begin, `boundaries`
    are the delimiters around it, `alternative` numbers the multipart/alternative it belongs to (0: none).
    """

    __slots__ = (
        "alternative",
        "body",
        "boundaries",
        "content_type",
        "end",
        "head",
        "headers",
        "media_type",
        "start",
        "whole",
    )

    def __init__(
        self,
        content_type: ParameterValue,
        headers: Sequence[tuple[str, str]],
        body: bytes,
        *,
        whole: bytes = b"",
        head: int = 0,
        start: int = 0,
        end: int = 0,
        boundaries: tuple[bytes, ...] = (),
        alternative: int = 0,
    ) -> None:
        self.content_type = content_type
        self.media_type = content_type.value
        self.headers = headers
        self.body = body
        self.whole = whole
        self.head = head
        self.start = start
        self.end = end
        self.boundaries = boundaries
        self.alternative = alternative

    @classmethod
    def make(
        cls, content_type: str, body: bytes, *, disposition: str = "", headers: Iterable[tuple[str, str]] = ()
    ) -> Part:
        """A part to be written, with Content-Type, Content-Disposition if given, and further headers."""
        lines = [("Content-Type", content_type)]
        if disposition:
            lines.append(("Content-Disposition", disposition))
        return cls(parse_content_type(content_type), [*lines, *headers], body)

    def header(self, name: str) -> str | None:
        """The first value of a header of the part, None when absent. `name` in any case."""
        name = name.lower()
        for key, value in self.headers:
            if key.lower() == name:
                return value
        return None

    @property
    def disposition(self) -> str:
        """The disposition in lower case; the default is ``session`` for SDP and ``render`` for anything else
        (RFC 3261 20.11), but ``recording-session`` for metadata, whose header RFC 8068 forgets at times."""
        value = self.header("content-disposition")
        if value is not None and (disposition := ParameterValue.parse(value).value):
            return disposition
        return _DEFAULT_DISPOSITION.get(self.media_type, "render")

    @property
    def handling_required(self) -> bool:
        """Whether a UAS that does not understand the part has to answer 415 (RFC 5621 8.1; the default)."""
        return ParameterValue.parse(self.header("content-disposition") or "").param("handling").lower() != "optional"

    @property
    def content(self) -> bytes:
        """The body with its Content-Transfer-Encoding undone.

        Raises:
            SipError: 400, the encoding is broken; 415, it is unknown.
        """
        encoding = self.header("content-transfer-encoding")
        if encoding is None:
            return self.body
        encoding = encoding.strip().lower()
        if encoding in ("binary", "8bit", "7bit", ""):
            return self.body
        if encoding == "base64":
            try:
                return base64.b64decode(self.body)
            except binascii.Error as error:
                raise SipError(f"body part with broken base64: {error}") from None
        if encoding == "quoted-printable":
            return quopri.decodestring(self.body)
        raise SipError(f"unknown Content-Transfer-Encoding {encoding[:40]!r}", 415)


def parse_content_type(text: str) -> ParameterValue:
    """A Content-Type value; those without parameters are shared, so not to be changed."""
    known = _known_types.get(text)
    if known is None:
        known = ParameterValue.parse(text)
        if not known.params and len(text) <= 64:
            if len(_known_types) >= 256:
                _known_types.clear()
            _known_types[text] = known
    return known


def parts_of(message: SipMessage) -> list[Part]:
    """The leaves of a message's body in order; one Part when it is not a multipart, none when it is empty.

    Raises:
        SipError: 400, a multipart without a single delimiter; 413, too large, too many parts or nested too deep.
    """
    body = message.body
    if not body:
        return []
    keys = message.keys
    headers = [(name, message.get(key) or "") for key, name in _BODY_HEADERS if key in keys]
    if "content-type" in keys:
        text = headers[0][1]
    else:
        # A body needs a Content-Type (RFC 3261 20.15); who forgets it means SDP.
        text = SDP_TYPE if body.startswith(b"v=") else "application/octet-stream"
    return split_body(parse_content_type(text), body, headers)


def split_body(content_type: ParameterValue, body: bytes, headers: Iterable[tuple[str, str]] = ()) -> list[Part]:
    """The leaves of a body of the given type; `headers` go to a body that is no multipart. Raises as `parts_of`."""
    if len(body) > MAX_BODY:
        raise SipError("body too large", 413)
    whole = Part(content_type, list(headers), body, whole=body, end=len(body))
    if not content_type.value.startswith("multipart/"):
        return [whole]
    leaves: list[Part] = []
    _Reader(body, leaves).read(whole, 1)
    return leaves


def _first_boundary(body: bytes) -> bytes:
    """What the first line that looks like a delimiter says the boundary is; up to 200 octets."""
    for found in _FIRST_DELIMITER.finditer(body):
        boundary = found[1].rstrip(b" \t")
        if 0 < len(boundary) <= 200:
            return boundary
    raise SipError("multipart body without a boundary")


class _Reader:
    """Walks one multipart body; offsets are those of the whole body."""

    def __init__(self, octets: bytes, leaves: list[Part]) -> None:
        self.octets = octets
        self.leaves = leaves
        self.alternatives = 0
        self.parts = 0

    def read(self, container: Part, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise SipError("body parts nested too deep", 413)
        boundary = encode(container.content_type.param("boundary"))
        if not boundary:
            boundary = _first_boundary(container.body)
        alternative = container.alternative
        if container.media_type == "multipart/alternative":
            self.alternatives += 1
            alternative = self.alternatives
        default = "message/rfc822" if container.media_type == "multipart/digest" else "text/plain"
        boundaries = (*container.boundaries, boundary)
        for start, end in self._spans(boundary, container.start, container.end):
            self.parts += 1
            if self.parts > MAX_PARTS:
                raise SipError("too many body parts", 413)
            part = self._part(start, end, default)
            part.alternative = alternative
            part.boundaries = boundaries
            if part.media_type.startswith("multipart/") and self._divisible(part):
                self.read(part, depth + 1)
            else:
                self.leaves.append(part)

    def _divisible(self, part: Part) -> bool:
        """Whether a part that calls itself a multipart has a delimiter; one that has none is nothing we know."""
        boundary = encode(part.content_type.param("boundary"))
        return (b"--" + boundary in part.body) if boundary else _FIRST_DELIMITER.search(part.body) is not None

    def _spans(self, boundary: bytes, start: int, end: int) -> list[tuple[int, int]]:
        """Where the parts between the delimiters lie. The line end before a delimiter belongs to it."""
        spans: list[tuple[int, int]] = []
        begin = -1
        octets = self.octets
        delimiter = b"--" + boundary
        at = octets.find(delimiter, start, end)
        while at >= 0:
            rest = _DELIMITER_REST.match(octets, at + len(delimiter), end)
            if rest is not None and (at == start or octets[at - 1] == 10):
                if begin >= 0:
                    before = at - 2 if octets[at - 2 : at] == b"\r\n" else at - 1
                    spans.append((begin, max(begin, before)))
                if rest[1]:
                    return spans
                begin = rest.end()
            at = octets.find(delimiter, at + len(delimiter), end)
        if begin < 0:
            raise SipError("multipart body without its delimiter")
        return [*spans, (begin, end)]

    def _part(self, start: int, end: int, default: str) -> Part:
        headers: list[tuple[str, str]] = []
        content_type = default
        position = start
        blank = max(self.octets.find(b"\n\r\n", start, end), self.octets.find(b"\n\n", start, end))
        while True:
            match = _PART_HEADER.match(self.octets, position, end)
            if match is None:
                odd = _ODD_HEADER.match(self.octets, position, end)
                if odd is None or position > blank:
                    break
                position = odd.end()
                continue
            name = match[1].decode("ascii")
            value = _FOLD.sub(" ", match[2].decode("utf-8", "surrogateescape")).strip()
            headers.append((name, value))
            if name.lower() == "content-type":
                content_type = value
            position = match.end()
        if (empty := _EMPTY_LINE.match(self.octets, position, end)) is not None:
            position = empty.end()
        return Part(
            parse_content_type(content_type),
            headers,
            self.octets[position:end],
            whole=self.octets,
            head=start,
            start=position,
            end=end,
        )


def find_part(message: SipMessage, media_type: str | Collection[str], disposition: str | None = None) -> Part | None:
    """The part of a message with one of the given media types, however deep it lies, or None.

    `disposition` must match when given; it is ``session`` for ``application/sdp`` unless said otherwise. Of several
    matching parts the first counts, except inside a multipart/alternative, where the last is the best
    (RFC 2046 5.1.4). Raises as `parts_of`.
    """
    wanted = (media_type,) if isinstance(media_type, str) else media_type
    if disposition is None and SDP_TYPE in wanted:
        disposition = "session"
    found: Part | None = None
    for part in parts_of(message):
        if found is not None and (not found.alternative or part.alternative != found.alternative):
            break
        if part.media_type in wanted and (disposition is None or part.disposition == disposition):
            found = part
    return found


def sdp_part(message: SipMessage) -> Part | None:
    """The session description of a message: ``find_part(message, SDP_TYPE)``, looked for once per body.

    Raises as `parts_of`.
    """
    body = message.body
    keys = message.keys
    if (
        "content-type" in keys
        and message.lines[keys.index("content-type")] in _SDP_LINES
        and "content-disposition" not in keys
        and "content-transfer-encoding" not in keys
        and 0 < len(body) <= MAX_BODY
    ):
        # Nothing to look for: not worth its memory for as long as the message lives.
        return Part(_SDP, _SDP_HEADERS, body, whole=body, end=len(body))
    part: Part | None = message.sdp_part
    if part is None or part.whole is not body:
        part = message.sdp_part = find_part(message, SDP_TYPE) if body else None
        message.derived = True
    return part


def find_metadata(message: SipMessage) -> Part | None:
    """The recording metadata, or the snapshot request, of a message (RFC 7866 9.1). Raises as `parts_of`."""
    return find_part(message, METADATA_TYPES, "recording-session")


def replace_part(message: SipMessage, part: Part, body: bytes) -> None:
    """Put `body` in the place of a part's content; no other octet of the message's body changes.

    Content-Length follows, and so do the part's own Content-Length and Content-Transfer-Encoding where it has one.
    `part` must come from the present body of `message`: read the parts anew after each replacement.

    Raises:
        SipError: 500, `body` contains a delimiter of the multipart.
        ValueError: `part` is none of `message`.
    """
    old = message.body
    if old[part.start : part.end] != part.body or part.end > len(old):
        raise ValueError("the part is not from the present body of this message")
    encoding = (part.header("content-transfer-encoding") or "").strip().lower()
    if encoding == "base64":
        body = base64.encodebytes(body).replace(b"\n", b"\r\n")
    elif encoding == "quoted-printable":
        body = quopri.encodestring(body)
    if any(b"--" + boundary in body for boundary in part.boundaries):
        raise SipError("new content contains the boundary of the multipart", 500)
    head = old[part.head : part.start]
    if part.boundaries:
        head = _PART_LENGTH.sub(lambda found: b"%s%s%d" % (found[1], found[2], len(body)), head)
    message.body = old[: part.head] + head + body + old[part.end :]
    if message.content_length != len(message.body):
        message.set("content-length", str(len(message.body)))


def build_multipart(parts: Sequence[Part], subtype: str = "mixed") -> tuple[str, bytes]:
    """Write a multipart body: Content-Type value and octets.

    Raises:
        ValueError: no parts, or a part header that cannot be written.
    """
    if not parts:
        raise ValueError("a multipart body has at least one part")
    blocks: list[bytes] = []
    for part in parts:
        lines = [f"{name}: {value}" for name, value in part.headers]
        if part.header("content-type") is None:
            lines.insert(0, f"Content-Type: {part.content_type}")
        head = "\r\n".join(lines)
        if head.count("\r") != len(lines) - 1 or head.count("\n") != len(lines) - 1 or "\0" in head:
            raise ValueError("line end in a part header")
        blocks.append(b"%b\r\n\r\n%b" % (encode(head), part.body))
    boundary = _boundary(blocks)
    delimiter = b"--" + boundary.encode()
    body = delimiter + b"\r\n" + (b"\r\n" + delimiter + b"\r\n").join(blocks) + b"\r\n" + delimiter + b"--\r\n"
    return f"multipart/{subtype};boundary={boundary}", body


def _boundary(blocks: Iterable[bytes]) -> str:
    """The first of a series of boundaries that occurs in no part; all of token characters, so no quotes are needed."""
    whole = b"".join(blocks)
    number = 1
    if b"siprec-part-" in whole:
        taken: set[bytes] = set()
        for found in _BOUNDARY.finditer(whole):
            taken.update(found[1][:length] for length in range(1, len(found[1]) + 1))
        while b"%d" % number in taken:
            number += 1
    return f"siprec-part-{number}"
