"""A session description: read, edited in place, written (RFC 8866, RFC 3264)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from siprec.sdp.values import (
    DIRECTIONS,
    LONG,
    MAX_FORMATS,
    PAYLOAD_TYPES,
    STATIC_PAYLOADS,
    TOKEN,
    Connection,
    Direction,
    Origin,
    RtpMap,
    SdpError,
    address_family,
    connection_line,
    is_number,
    known_connection,
    parse_connection,
    parse_rtpmap,
    payload_type,
)

MAX_SIZE: Final = 64 * 1024
"""Octets of a description that is accepted."""
MAX_MEDIA: Final = 64
"""m-lines of a description that is accepted."""
MAX_LINES: Final = 4096

_DIRECTION_LINES: Final[dict[str, Direction]] = {"a=" + word: word for word in DIRECTIONS}
_BREAK: Final = re.compile(r"\r?\n")
_PLAIN: Final = re.compile(r"(?:[A-Za-z]=[^\r\n]*+(?:\r?\n|\Z))++")
"""Lines of the form ``type=value``, none of them blank."""
_M_PORT: Final = re.compile(r"^(m=[^ \t]+[ \t]+)\d+")
_C_ADDRESS: Final = re.compile(r"^(c=[^ \t]+[ \t]+)[^ \t]+([ \t]+)[^ \t]+")
_FORMAT: Final = re.compile(r"[!-~]+")
_FORMATS: Final = re.compile(r"[!-~]+(?: [!-~]+)*")


class _Section:
    """Lines of the session part or of one media description, without their line ends."""

    __slots__ = ()
    lines: list[str]

    def attributes(self, name: str) -> list[str]:
        """Values of every ``a=name:value`` of this section, in order; "" for ``a=name``."""
        flag = "a=" + name
        size = len(flag)
        values: list[str] = []
        for line in self.lines:
            if line[:size] == flag:
                if line[size : size + 1] == ":":
                    values.append(line[size + 1 :].strip())
                elif line.rstrip() == flag:
                    values.append("")
        return values

    def attribute(self, name: str) -> str | None:
        """Value of the first ``a=name``; None if there is none."""
        flag = "a=" + name
        size = len(flag)
        for line in self.lines:
            if line[:size] == flag:
                if line[size : size + 1] == ":":
                    return line[size + 1 :].strip()
                if line.rstrip() == flag:
                    return ""
        return None

    def set_attribute(self, name: str, value: str = "") -> None:
        """Replace the first ``a=name`` where it stands and drop the others; append it if there was none."""
        if "\n" in value or "\r" in value or not TOKEN.fullmatch(name):
            raise SdpError(f"attribute {name!r} cannot be written")
        new = f"a={name}:{value}" if value else f"a={name}"
        done = False
        lines = []
        for line in self.lines:
            if _attribute_name(line) == name:
                if done:
                    continue
                line, done = new, True
            lines.append(line)
        if not done:
            lines.append(new)
        self.lines[:] = lines

    def remove_attributes(self, *names: str) -> None:
        """Drop every ``a=`` line with one of `names`."""
        self.lines[:] = [line for line in self.lines if _attribute_name(line) not in names]

    def own_connection(self) -> Connection | None:
        """The ``c=`` of this section itself."""
        for line in self.lines:
            if line[:2] == "c=":
                found = parse_connection(line) if line[LONG - 1 :] else known_connection(line)
                if found is not None:
                    return found
        return None

    def rewrite_connection(self, address: str) -> bool:
        """Point the ``c=`` of this section to `address`; false if it has none."""
        found = False
        for index, line in enumerate(self.lines):
            if line[:2] == "c=":
                found = True
                token = _C_ADDRESS.match(line)
                self.lines[index] = (
                    f"{token[1]}{address_family(address)}{token[2]}{address}{line[token.end() :]}"
                    if token is not None
                    else connection_line(address)
                )
        return found


def _last_direction(lines: Sequence[str]) -> Direction | None:
    for line in reversed(lines):
        if line in _DIRECTION_LINES:
            return _DIRECTION_LINES[line]
        # Only a line that has a blank at either end of its value needs a closer look.
        if line[:2] == "a=" and not ("!" <= line[-1] <= "~" and "!" <= line[2:3] <= "~"):
            word = line[2:].strip()
            if word in DIRECTIONS:
                return word
    return None


def _attribute_name(line: str) -> str | None:
    return line[2:].partition(":")[0].strip() if line.startswith("a=") else None


@dataclass(eq=False, slots=True)
class MediaDescription(_Section):
    """One ``m=`` line and what follows it. `lines` are the lines after it, in order.

    Fields and lines may be changed; :meth:`SessionDescription.to_bytes` writes what they say.
    """

    kind: str
    port: int
    proto: str
    formats: list[str]
    num_ports: int = 1
    lines: list[str] = field(default_factory=list)
    inherited: list[str] = field(default_factory=list, repr=False)
    """The lines of the session part: its ``c=`` and direction hold where this line has none of its own."""
    _line: str = field(default="", repr=False)
    """The m-line as it was read."""

    @property
    def rejected(self) -> bool:
        """Port 0: refused or removed (RFC 3264 6, 8.2). In an offer a bundle-only line is not (RFC 8843 6)."""
        return self.port == 0 and self.attribute("bundle-only") is None

    @property
    def direction(self) -> Direction:
        """This line's direction, else the session's, else ``sendrecv`` (RFC 8866 6.7)."""
        return _last_direction((*self.inherited, *self.lines)) or "sendrecv"

    @direction.setter
    def direction(self, value: Direction) -> None:
        if value not in DIRECTIONS:
            raise SdpError(f"no such direction: {value!r}")
        own = _last_direction(self.lines)
        if own == value:
            return
        if own is None:
            self.lines.append("a=" + value)
            return
        self.lines[:] = [
            "a=" + value if line.startswith("a=") and line[2:].strip() == own else line for line in self.lines
        ]

    @property
    def connection(self) -> Connection | None:
        """This line's ``c=``, else the session's; None if neither is there."""
        for line in (*self.lines, *self.inherited):
            if line[:2] == "c=":
                found = parse_connection(line) if line[LONG - 1 :] else known_connection(line)
                if found is not None:
                    return found
        return None

    def set_address(self, address: str) -> None:
        """Point the ``c=`` of this line to `address`; one is added if the line had none of its own."""
        if not self.rewrite_connection(address):
            # RFC 8866 9: c= follows i= and goes before b=, k= and a=
            at = next((i for i, line in enumerate(self.lines) if line[:2] != "i="), len(self.lines))
            self.lines.insert(at, connection_line(address))

    @property
    def rtcp(self) -> tuple[str, int] | None:
        """Where RTCP goes: ``a=rtcp`` (RFC 3605), the RTP port when multiplexed, else port + 1. None for no address."""
        connection = self.connection
        address = connection.address if connection else ""
        value = self.attribute("rtcp")
        if value:
            parts = value.split()
            if parts and is_number(parts[0]) and 0 < int(parts[0]) < 65536:
                if len(parts) >= 4:
                    address = parts[3]
                return (address, int(parts[0])) if address else None
        if not address or not self.port:
            return None
        if self.rtcp_mux:
            return address, self.port
        return (address, self.port + 1) if self.port < 65535 else None

    @property
    def rtcp_mux(self) -> bool:
        return self.attribute("rtcp-mux") is not None

    @property
    def rtpmaps(self) -> dict[int, RtpMap]:
        """Payload type -> meaning, for the formats of the line, in their order; static ones included (RFC 3551 6)."""
        said: dict[str, str] = {}
        for line in self.lines:
            if line[:9] == "a=rtpmap:":
                number, _, rest = line[9:].strip().partition(" ")
                if number not in said:
                    said[number] = rest
        maps: dict[int, RtpMap] = {}
        for text in self.formats:
            payload = PAYLOAD_TYPES[text] if text in PAYLOAD_TYPES else payload_type(text)
            if payload is None:
                continue
            meaning = said.get(text) or STATIC_PAYLOADS.get(payload)
            found = parse_rtpmap(meaning) if meaning else None
            if found is not None:
                maps[payload] = found
        return maps

    @property
    def fmtp(self) -> dict[str, str]:
        """Format -> parameters, as written."""
        found: dict[str, str] = {}
        for value in self.attributes("fmtp"):
            number, _, rest = value.partition(" ")
            found.setdefault(number, rest.strip())
        return found

    @property
    def ptime(self) -> float | None:
        """Milliseconds of media in a packet, if said (RFC 8866 6.4)."""
        try:
            value = float(self.attribute("ptime") or "nan")
        except ValueError:
            return None
        return value if 0 < value < 10_000 else None

    @property
    def mid(self) -> str | None:
        return self.attribute("mid")

    @property
    def label(self) -> str | None:
        """``a=label`` (RFC 4574)."""
        return self.attribute("label")

    @property
    def on_hold(self) -> bool:
        """Any of the forms of hold (RFC 3264 8.4): not sendrecv, the zero address, or port 0."""
        connection = self.connection
        return self.rejected or self.direction != "sendrecv" or (connection is not None and connection.is_zero)

    def to_line(self) -> str:
        """The ``m=`` line."""
        if not (0 <= self.port <= 65535 and self.num_ports >= 1):
            raise SdpError(f"port {self.port}/{self.num_ports} cannot be written")
        line = self._line
        if line:
            kind, ports, proto, *formats = line[2:].split()
            port, _, number = ports.partition("/")
            if (kind, proto, formats) == (self.kind, self.proto, self.formats) and int(number or 1) == self.num_ports:
                said = str(self.port)
                return line if port == said else _M_PORT.sub(rf"\g<1>{said}", line)
        if not (TOKEN.fullmatch(self.kind) and _FORMAT.fullmatch(self.proto)):
            raise SdpError(f"m={self.kind} {self.proto} cannot be written")
        joined = " ".join(self.formats)
        if not _FORMATS.fullmatch(joined) or joined.count(" ") != len(self.formats) - 1:
            raise SdpError("an m-line needs formats")  # RFC 8866 9: at least one fmt
        ports = str(self.port) if self.num_ports == 1 else f"{self.port}/{self.num_ports}"
        return f"m={self.kind} {ports} {self.proto} {joined}"


@dataclass(eq=False, slots=True)
class SessionDescription(_Section):
    """A description: `lines` are those of the session part (``v=``, ``o=``, ...), `media` the m-lines in order."""

    lines: list[str] = field(default_factory=list)
    media: list[MediaDescription] = field(default_factory=list)
    eol: str = "\r\n"

    @property
    def origin(self) -> Origin | None:
        """The ``o=`` line, None if it is missing or broken."""
        for line in self.lines:
            if line.startswith("o="):
                parts = line[2:].split()
                if len(parts) >= 6:
                    return Origin(parts[0], parts[1], parts[2], parts[5])
                return None
        return None

    @origin.setter
    def origin(self, value: Origin) -> None:
        new = value.to_line()
        for index, line in enumerate(self.lines):
            if line.startswith("o="):
                self.lines[index] = new
                return
        self.lines.insert(1 if self.lines[:1] and self.lines[0].startswith("v=") else 0, new)

    @property
    def connection(self) -> Connection | None:
        """The session's ``c=``."""
        return self.own_connection()

    @property
    def direction(self) -> Direction:
        """The default of the m-lines."""
        return _last_direction(self.lines) or "sendrecv"

    def set_address(self, address: str) -> None:
        """Point every ``c=`` to `address`, and add one to each m-line that would have none."""
        at_session = self.rewrite_connection(address)
        for media in self.media:
            if not media.rewrite_connection(address) and not at_session:
                media.set_address(address)

    @property
    def bundles(self) -> list[list[str]]:
        """The mids of each ``a=group:BUNDLE`` (RFC 8843)."""
        groups = [value.split() for value in self.attributes("group")]
        return [words[1:] for words in groups if words and words[0] == "BUNDLE"]

    def add(self, media: MediaDescription) -> None:
        """Append `media` (RFC 3264 8.1: new m-lines go last)."""
        media.inherited = self.lines
        self.media.append(media)

    def to_bytes(self) -> bytes:
        """The description as it goes out; raises :class:`SdpError` if what was edited cannot be written."""
        lines = list(self.lines)
        for media in self.media:
            lines.append(media.to_line())
            lines += media.lines
        text = self.eol.join(lines) + self.eol
        if text.count("\n") != len(lines) or "\0" in text or text.count("\r") != text.count("\r\n"):
            raise SdpError("a line with a line break in it cannot be written")
        return text.encode("utf-8", "surrogateescape")


def parse(data: bytes | str) -> SessionDescription:
    """Read a description; raises :class:`SdpError`, and nothing else, whatever comes in."""
    if len(data) > MAX_SIZE:
        raise SdpError(f"description of more than {MAX_SIZE} octets")
    text = data if isinstance(data, str) else data.decode("utf-8", "surrogateescape")
    text = text.lstrip("\r\n \t")
    if "\0" in text:
        raise SdpError("NUL in a description")
    rows = _BREAK.split(text)
    if len(rows) > MAX_LINES:
        raise SdpError(f"more than {MAX_LINES} lines")
    session: list[str] = []
    found: list[MediaDescription] = []
    lines = session
    plain = _PLAIN.fullmatch(text) is not None
    for number, row in enumerate(rows, 1):
        line = row if plain else _checked(row, number)
        if not line:
            continue
        if line[0] == "m":
            lines = []
            media = _parse_media(line, number, lines, session)
            if len(found) >= MAX_MEDIA:
                raise SdpError(f"more than {MAX_MEDIA} m-lines")
            found.append(media)
        else:
            lines += (line,)
    if not session or session[0][:2] != "v=":
        raise SdpError("a description begins with v=")
    if isinstance(data, str):
        try:
            text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise SdpError("text that is not Unicode") from error
    return SessionDescription(session, found, "\r\n" if "\r\n" in text or "\n" not in text else "\n")


def _checked(row: str, number: int) -> str:
    """A line of a description that is not made of ``type=value`` alone; "" for a blank one."""
    line = row.rstrip("\r")
    if not line.strip():
        return ""
    if len(line) < 2 or line[1] != "=" or not (line[0].isascii() and line[0].isalpha()) or "\r" in line:
        raise SdpError(f"line {number} is not type=value")
    return line


def _parse_media(line: str, number: int, lines: list[str], inherited: list[str]) -> MediaDescription:
    parts = line[2:].split()
    if len(parts) < 3 or line[2:3].isspace():
        raise SdpError(f"line {number}: m= needs media, port and protocol")
    kind, ports, proto, *formats = parts
    port, slash, count = ports.partition("/")
    if not (port.isascii() and port.isdecimal() and len(port) <= 9) or int(port) > 65535:
        raise SdpError(f"line {number}: no such port")
    if slash and not (is_number(count) and 1 <= int(count) <= 65535):
        raise SdpError(f"line {number}: no such number of ports")
    if len(formats) > MAX_FORMATS:
        raise SdpError(f"line {number}: more than {MAX_FORMATS} formats")
    return MediaDescription(kind, int(port), proto, formats, int(count) if slash else 1, lines, inherited, line)
