"""Session descriptions (RFC 8866, RFC 3264): parse, edit in place, build. No I/O.

Reading is lenient (CRLF or LF, missing lines, unknown lines and attributes, stray blanks), writing strict. What is not
edited is written as it was read: lines keep their order and octets, and an edit of an address or a port touches only
that token. Line ends are those of the description (CRLF as soon as one line has it); blank lines are not kept.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

MAX_SIZE: Final = 64 * 1024
"""Octets of a description that is accepted."""
MAX_MEDIA: Final = 64
"""m-lines of a description that is accepted."""
MAX_LINES: Final = 4096
_MAX_VERSION: Final = 100
MAX_FORMATS: Final = 256
"""Formats of an m-line that is accepted; RTP has 128 payload types."""

Direction = Literal["sendrecv", "sendonly", "recvonly", "inactive"]
DIRECTIONS: Final[tuple[Direction, ...]] = ("sendrecv", "sendonly", "recvonly", "inactive")
_REVERSED: Final[dict[Direction, Direction]] = {
    "sendrecv": "sendrecv",
    "sendonly": "recvonly",
    "recvonly": "sendonly",
    "inactive": "inactive",
}

_BREAK: Final = re.compile(r"\r?\n")
_M_PORT: Final = re.compile(r"^(m=[^ \t]+[ \t]+)\d+")
_C_ADDRESS: Final = re.compile(r"^(c=[^ \t]+[ \t]+)[^ \t]+([ \t]+)[^ \t]+")
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.0-9A-Z^_`a-z{|}~]+")
_FORMAT: Final = re.compile(r"[!-~]+")

# RFC 3551 6: what a payload type without rtpmap means.
STATIC_PAYLOADS: Final[dict[int, str]] = {
    0: "PCMU/8000",
    3: "GSM/8000",
    4: "G723/8000",
    5: "DVI4/8000",
    6: "DVI4/16000",
    7: "LPC/8000",
    8: "PCMA/8000",
    9: "G722/8000",
    10: "L16/44100/2",
    11: "L16/44100",
    12: "QCELP/8000",
    13: "CN/8000",
    14: "MPA/90000",
    15: "G728/8000",
    16: "DVI4/11025",
    17: "DVI4/22050",
    18: "G729/8000",
    25: "CelB/90000",
    26: "JPEG/90000",
    28: "nv/90000",
    31: "H261/90000",
    32: "MPV/90000",
    33: "MP2T/90000",
    34: "H263/90000",
}


class SdpError(Exception):
    """A session description that cannot be used; `reason` says why, with the line where there is one."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def address_family(address: str) -> Literal["IP4", "IP6"]:
    """``IP4`` or ``IP6``, as the address is (SDP-17). A host name counts as ``IP4``, the older default."""
    try:
        return "IP6" if ipaddress.ip_address(address).version == 6 else "IP4"
    except ValueError:
        return "IP4"


def _next_version(version: str) -> str:
    """One more, however many digits it has, as long as that is possible."""
    return str(int(version) + 1) if version.isdecimal() and len(version) <= _MAX_VERSION else "1"


@dataclass(frozen=True, slots=True)
class Origin:
    """The ``o=`` line (RFC 8866 5.2). `session_id` and `version` are decimal strings, unbounded as in the RFC."""

    username: str = "-"
    session_id: str = "0"
    version: str = "0"
    address: str = "0.0.0.0"

    @property
    def family(self) -> Literal["IP4", "IP6"]:
        return address_family(self.address)

    def bump(self) -> Origin:
        """The same session, one version later: what a changed description carries (SDP-08)."""
        return replace(self, version=_next_version(self.version))

    def to_line(self) -> str:
        return f"o={self.username} {self.session_id} {self.version} IN {self.family} {self.address}"


@dataclass(frozen=True, slots=True)
class Connection:
    """Where media are received: `family` is ``IP4``/``IP6``, `address` an address or a name, without TTL."""

    family: str
    address: str

    @property
    def is_zero(self) -> bool:
        """The old way to say hold (OA-08): 0.0.0.0, or :: for IPv6."""
        return self.address in ("0.0.0.0", "::", "0:0:0:0:0:0:0:0")


@dataclass(frozen=True, slots=True)
class RtpMap:
    """What a payload type means (RFC 8866 6.6): ``PCMU``, 8000 Hz, 1 channel."""

    encoding: str
    clock_rate: int
    channels: int = 1

    def __str__(self) -> str:
        return f"{self.encoding}/{self.clock_rate}" + (f"/{self.channels}" if self.channels != 1 else "")


def parse_rtpmap(value: str) -> RtpMap | None:
    """``PCMU/8000[/channels]`` as a value, None if it is none."""
    parts = value.strip().split("/")
    if len(parts) < 2 or not _number(parts[1]) or not parts[0]:
        return None
    channels = int(parts[2]) if len(parts) > 2 and _number(parts[2]) else 1
    return RtpMap(parts[0], int(parts[1]), channels or 1)


def _number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 9


def payload_type(text: str) -> int | None:
    """The RTP payload type that a format is, 0 to 127; None for another format."""
    return int(text) if _number(text) and int(text) <= 127 else None


class _Section:
    """Lines of the session part or of one media description, without their line ends."""

    lines: list[str]

    def attributes(self, name: str) -> list[str]:
        """Values of every ``a=name:value`` of this section, in order; "" for ``a=name``."""
        flag, prefix = "a=" + name, "a=" + name + ":"
        values = []
        for line in self.lines:
            if line.startswith(prefix):
                values.append(line[len(prefix) :].strip())
            elif line.rstrip() == flag:
                values.append("")
        return values

    def attribute(self, name: str) -> str | None:
        """Value of the first ``a=name``; None if there is none."""
        values = self.attributes(name)
        return values[0] if values else None

    def set_attribute(self, name: str, value: str = "") -> None:
        """Replace the first ``a=name`` where it stands and drop the others; append it if there was none."""
        if "\n" in value or "\r" in value or not _TOKEN.fullmatch(name):
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

    def _own_direction(self) -> Direction | None:
        for line in reversed(self.lines):
            if line.startswith("a=") and (word := line[2:].strip()) in DIRECTIONS:
                return word
        return None

    def own_connection(self) -> Connection | None:
        """The ``c=`` of this section itself."""
        for line in self.lines:
            if line.startswith("c="):
                parts = line[2:].split()
                if len(parts) >= 3:
                    return Connection(parts[1].upper(), parts[2].partition("/")[0])
        return None

    def rewrite_connection(self, address: str) -> bool:
        """Point the ``c=`` of this section to `address`; false if it has none."""
        found = False
        for index, line in enumerate(self.lines):
            if line.startswith("c="):
                found = True
                new = _C_ADDRESS.sub(lambda m: f"{m[1]}{address_family(address)}{m[2]}{address}", line)
                self.lines[index] = new if _C_ADDRESS.match(line) else connection_line(address)
        return found


def _attribute_name(line: str) -> str | None:
    return line[2:].partition(":")[0].strip() if line.startswith("a=") else None


def connection_line(address: str) -> str:
    """A ``c=`` line for `address` (an IP address or name)."""
    return f"c=IN {address_family(address)} {address}"


@dataclass(eq=False)
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
    session: SessionDescription | None = field(default=None, repr=False)
    _line: str = field(default="", repr=False)
    _read: tuple[object, ...] = field(default=(), repr=False)

    @property
    def rejected(self) -> bool:
        """Port 0: refused or removed (RFC 3264 6, 8.2). In an offer a bundle-only line is not (RFC 8843 6)."""
        return self.port == 0 and self.attribute("bundle-only") is None

    @property
    def direction(self) -> Direction:
        """This line's direction, else the session's, else ``sendrecv`` (RFC 8866 6.7)."""
        own = self._own_direction()
        if own is None and self.session is not None:
            own = self.session._own_direction()
        return own or "sendrecv"

    @direction.setter
    def direction(self, value: Direction) -> None:
        if value not in DIRECTIONS:
            raise SdpError(f"no such direction: {value!r}")
        own = self._own_direction()
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
        own = self.own_connection()
        if own is None and self.session is not None:
            own = self.session.own_connection()
        return own

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
            if parts and _number(parts[0]) and 0 < int(parts[0]) < 65536:
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
        for value in self.attributes("rtpmap"):
            number, _, rest = value.partition(" ")
            said.setdefault(number, rest)
        maps: dict[int, RtpMap] = {}
        for text in self.formats:
            payload = payload_type(text)
            if payload is None:
                continue
            found = parse_rtpmap(said.get(text) or STATIC_PAYLOADS.get(payload, ""))
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
        """Any of the forms of hold (OA-08): not sendrecv, the zero address, or port 0."""
        connection = self.connection
        return self.rejected or self.direction != "sendrecv" or (connection is not None and connection.is_zero)

    def to_line(self) -> str:
        """The ``m=`` line."""
        if not (0 <= self.port <= 65535 and self.num_ports >= 1):
            raise SdpError(f"port {self.port}/{self.num_ports} cannot be written")
        if self._line and self._read == (self.kind, self.num_ports, self.proto, tuple(self.formats)):
            return _M_PORT.sub(lambda m: f"{m[1]}{self.port}", self._line)
        if not (_TOKEN.fullmatch(self.kind) and _FORMAT.fullmatch(self.proto)):
            raise SdpError(f"m={self.kind} {self.proto} cannot be written")
        if not self.formats or not all(_FORMAT.fullmatch(text) for text in self.formats):
            raise SdpError("an m-line needs formats")  # RFC 8866 9: at least one fmt
        ports = str(self.port) if self.num_ports == 1 else f"{self.port}/{self.num_ports}"
        return f"m={self.kind} {ports} {self.proto} {' '.join(self.formats)}"


@dataclass(eq=False)
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
        return self._own_direction() or "sendrecv"

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
        """Append `media` (SDP-06: new m-lines go last)."""
        media.session = self
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
    description = SessionDescription(eol="\r\n" if "\r\n" in text or "\n" not in text else "\n")
    target: list[str] = description.lines
    rows = _BREAK.split(text)
    if len(rows) > MAX_LINES:
        raise SdpError(f"more than {MAX_LINES} lines")
    for number, row in enumerate(rows, 1):
        line = row.rstrip("\r")
        if not line.strip():
            continue
        if len(line) < 2 or line[1] != "=" or not (line[0].isascii() and line[0].isalpha()) or "\r" in line:
            raise SdpError(f"line {number} is not type=value")
        if line[0] == "m":
            media = _parse_media(line, number)
            if len(description.media) >= MAX_MEDIA:
                raise SdpError(f"more than {MAX_MEDIA} m-lines")
            description.add(media)
            target = media.lines
        else:
            target.append(line)
    if not description.lines or not description.lines[0].startswith("v="):
        raise SdpError("a description begins with v=")
    if isinstance(data, str):
        try:
            text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise SdpError("text that is not Unicode") from error
    return description


def _parse_media(line: str, number: int) -> MediaDescription:
    parts = line[2:].split()
    if len(parts) < 3 or line[2:3].isspace():
        raise SdpError(f"line {number}: m= needs media, port and protocol")
    port, slash, count = parts[1].partition("/")
    if not _number(port) or int(port) > 65535:
        raise SdpError(f"line {number}: no such port")
    if slash and not (_number(count) and 1 <= int(count) <= 65535):
        raise SdpError(f"line {number}: no such number of ports")
    if len(parts) - 3 > MAX_FORMATS:
        raise SdpError(f"line {number}: more than {MAX_FORMATS} formats")
    num_ports = int(count) if slash else 1
    media = MediaDescription(parts[0], int(port), parts[2], parts[3:], num_ports)
    media._line = line
    media._read = (media.kind, num_ports, media.proto, tuple(media.formats))
    return media


# ------------------------------------------------------------------------------------------------------------- building


def answer_direction(offered: Direction, ready: bool = True, wanted: Direction = "sendrecv") -> Direction:
    """The direction of an answer (RFC 3264 6.1, SDP-09).

    `wanted` is what this side would do, seen from here: a recorder wants ``recvonly`` (SRS-06), so that an offer of
    ``sendonly`` or ``sendrecv`` is answered ``recvonly``. Not `ready`: ``inactive``.
    """
    if not ready:
        return "inactive"
    mirrored = _REVERSED[offered]
    send = "send" in mirrored and "send" in wanted
    receive = "recv" in mirrored and "recv" in wanted
    if send and receive:
        return "sendrecv"
    return "sendonly" if send else "recvonly" if receive else "inactive"


def build_media(
    kind: str,
    port: int,
    formats: Sequence[str | int],
    *,
    proto: str = "RTP/AVP",
    address: str = "",
    rtcp_port: int | None = None,
    rtcp_mux: bool = False,
    rtpmaps: dict[int, RtpMap] | None = None,
    fmtp: dict[str, str] | None = None,
    ptime: float | None = None,
    direction: Direction | None = None,
    label: str = "",
    attributes: Iterable[str] = (),
) -> MediaDescription:
    """A fresh m-line (SDP-14). `address` gives it a ``c=`` of its own, `rtcp_port` an ``a=rtcp`` where it is not
    `port` + 1 (SDP-15), `attributes` are further ``name:value`` strings."""
    if label and not _TOKEN.fullmatch(label):
        raise SdpError(f"label {label!r} is not a token")  # SDP-02
    media = MediaDescription(kind, port, proto, [str(text) for text in formats])
    lines = media.lines
    if address:
        lines.append(connection_line(address))
    if label:
        lines.append(f"a=label:{label}")
    for number, meaning in (rtpmaps or {}).items():
        lines.append(f"a=rtpmap:{number} {meaning}")
    for text, parameters in (fmtp or {}).items():
        if text in media.formats:
            lines.append(f"a=fmtp:{text} {parameters}")
    if ptime:
        lines.append(f"a=ptime:{ptime:g}")
    lines += [f"a={attribute}" for attribute in attributes]
    if rtcp_mux:
        lines.append("a=rtcp-mux")
    if rtcp_port is not None and rtcp_port != port + 1 and port:
        lines.append(f"a=rtcp:{rtcp_port}")
    if direction:
        lines.append(f"a={direction}")
    return media


def build_session(origin: Origin, media: Iterable[MediaDescription], *, name: str = "-") -> SessionDescription:
    """A fresh description (RFC 8866 5). m-lines without a ``c=`` of their own get the session's, `origin`'s address."""
    description = SessionDescription(["v=0", origin.to_line(), f"s={name or '-'}"])
    for each in media:
        description.add(each)
    if any(each.own_connection() is None for each in description.media) or not description.media:
        description.lines.append(connection_line(origin.address))
    description.lines.append("t=0 0")
    return description


KEY_FRAME_FEEDBACK: Final = ("rtcp-fb:* ccm fir", "rtcp-fb:* nack pli")
"""What our relay can have a party asked for (RFC 5104 7.1, RFC 4585 4.2); what else a party understands is its own."""
_COPIED: Final = ("rtpmap", "fmtp", "ptime", "maxptime", "framerate", "imageattr", "content")
"""What describes a format and may go to a recorder; all else is private to the call (SDP-14)."""


def recording_media(
    source: MediaDescription,
    *,
    label: str,
    direction: Direction = "sendonly",
    port: int | None = None,
    address: str | None = None,
    proto: str | None = None,
) -> MediaDescription:
    """An m-line for the offer to an SRS, from what the media server offers for one forked stream (SDP-01, 02, 12, 14).

    Address, port, RTCP port, protocol and formats are `source`'s, unless given; format attributes are copied, nothing
    else of it is.
    """
    connection = source.connection
    where = address if address is not None else (connection.address if connection else "")
    rtcp = source.rtcp
    known = {str(number) for number in source.rtpmaps}
    media = build_media(
        source.kind,
        source.port if port is None else port,
        source.formats,
        proto=proto or source.proto,
        address=where,
        label=label,
    )
    media.lines += [
        line
        for line in source.lines
        if ((attribute := _attribute_name(line)) in _COPIED or line[2:] in KEY_FRAME_FEEDBACK)
        and (attribute != "rtpmap" or line[9:].split(" ", 1)[0] in known)
        and (attribute != "fmtp" or line[7:].split(" ", 1)[0] in source.formats)
    ]
    if source.rtcp_mux:
        media.lines.append("a=rtcp-mux")
    if rtcp and port is None and source.port and rtcp[1] != source.port + 1 and not source.rtcp_mux:
        media.lines.append(f"a=rtcp:{rtcp[1]}")
    media.lines.append(f"a={direction}")
    return media


def answer_media(
    offered: MediaDescription,
    *,
    port: int,
    formats: Sequence[str] | None = None,
    address: str = "",
    rtcp_port: int | None = None,
    ready: bool = True,
    wanted: Direction = "recvonly",
    label: bool = True,
) -> MediaDescription:
    """The answer to one m-line (RFC 3264 6). Port 0, or no format in common: rejected (SRS-09).

    `formats` are those of the offer that are accepted (None: all), in the answerer's order. The label is echoed
    (SRS-14), ``rtcp-mux`` accepted if it was offered and no `rtcp_port` is given.
    """
    accepted = [text for text in (offered.formats if formats is None else formats) if text in offered.formats]
    if port == 0 or offered.rejected or not accepted:
        return MediaDescription(offered.kind, 0, offered.proto, list(offered.formats) or ["0"])
    maps = {number: meaning for number, meaning in offered.rtpmaps.items() if str(number) in accepted}
    return build_media(
        offered.kind,
        port,
        accepted,
        proto=offered.proto,
        address=address,
        rtpmaps=maps,
        fmtp={text: value for text, value in offered.fmtp.items() if text in accepted},
        ptime=offered.ptime,
        rtcp_port=rtcp_port,
        rtcp_mux=offered.rtcp_mux and rtcp_port is None,
        label=(offered.label or "") if label and _TOKEN.fullmatch(offered.label or "") else "",
        direction=answer_direction(offered.direction, ready, wanted),
    )
