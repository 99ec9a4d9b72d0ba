"""What the lines of a description say, as values (RFC 8866 5, RFC 3551 6)."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Literal

MAX_FORMATS: Final = 256
"""Formats of an m-line that is accepted; RTP has 128 payload types."""
_MAX_VERSION: Final = 100
LONG: Final = 100
"""Characters from which on nothing is remembered of a line: a stranger must not fill the memory."""

Direction = Literal["sendrecv", "sendonly", "recvonly", "inactive"]
DIRECTIONS: Final[tuple[Direction, ...]] = ("sendrecv", "sendonly", "recvonly", "inactive")
TOKEN: Final = re.compile(r"[!#$%&'*+\-.0-9A-Z^_`a-z{|}~]+")

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
    """``IP4`` or ``IP6``, as the address is (RFC 8866 5.7). A host name counts as ``IP4``, the older default."""
    if ":" not in address:
        return "IP4"
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        return "IP4"
    return "IP6"


def connection_line(address: str) -> str:
    """A ``c=`` line for `address` (an IP address or name)."""
    return f"c=IN {address_family(address)} {address}"


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
        """The same session, one version later: what a changed description carries (RFC 3264 8)."""
        return replace(self, version=_next_version(self.version))

    def to_line(self) -> str:
        return f"o={self.username} {self.session_id} {self.version} IN {address_family(self.address)} {self.address}"


@dataclass(frozen=True, slots=True)
class Connection:
    """Where media are received: `family` is ``IP4``/``IP6``, `address` an address or a name, without TTL."""

    family: str
    address: str

    @property
    def is_zero(self) -> bool:
        """The old way to say hold (RFC 3264 8.4): 0.0.0.0, or :: for IPv6."""
        return self.address in ("0.0.0.0", "::", "0:0:0:0:0:0:0:0")


def parse_connection(line: str) -> Connection | None:
    """What a ``c=`` line says, None if it is broken."""
    parts = line[2:].split()
    return Connection(parts[1].upper(), parts[2].partition("/")[0]) if len(parts) >= 3 else None


known_connection = lru_cache(maxsize=512)(parse_connection)
"""As :func:`parse_connection`, for lines of fewer than :data:`LONG` characters: the addresses of servers come again and
again."""


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
    return _known_rtpmap(value) if len(value) < LONG else _rtpmap(value)


def _rtpmap(value: str) -> RtpMap | None:
    parts = value.strip().split("/")
    if len(parts) < 2 or not is_number(parts[1]) or not parts[0]:
        return None
    channels = int(parts[2]) if len(parts) > 2 and is_number(parts[2]) else 1
    return RtpMap(parts[0], int(parts[1]), channels or 1)


_known_rtpmap = lru_cache(maxsize=512)(_rtpmap)


def is_number(text: str) -> bool:
    """Whether `text` is a decimal number of up to nine digits."""
    return text.isascii() and text.isdecimal() and len(text) <= 9


def payload_type(text: str) -> int | None:
    """The RTP payload type that a format is, 0 to 127; None for another format."""
    return int(text) if is_number(text) and int(text) <= 127 else None


PAYLOAD_TYPES: Final = {str(number): number for number in range(128)}
"""Payload types as they are usually written; for others there is :func:`payload_type`."""
