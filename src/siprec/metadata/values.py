"""Identifiers, times, addresses and text of metadata documents."""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from os import urandom
from typing import Final, Self

NAMESPACE: Final = "urn:ietf:params:xml:ns:recording:1"
#: RFC 9806; the older name, without ``+xml``, is what RFC 7866 first had and some recorders still want.
MEDIA_TYPE: Final = "application/rs-metadata+xml"
LEGACY_MEDIA_TYPE: Final = "application/rs-metadata"
DISPOSITION: Final = "recording-session"
#: Our own elements in documents. RFC 7865 10.1 wants extensions in a namespace of their own.
OWN_NAMESPACE: Final = "urn:x-siprec:metadata:1"
#: A participant needs an address, also when nobody knows one (RFC 3323 4.1.1.3).
ANONYMOUS: Final = "sip:anonymous@anonymous.invalid"

IdSource = Callable[[], str]

# XML 1.0 2.2 Char; lone surrogates are octets of a SIP message which were no UTF-8.
_ILLEGAL: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
#: What :func:`escape` changes.
SPECIAL: Final = re.compile('[&<>"\x00-\x1f\ud800-\udfff\ufffe\uffff]')
# What a URI may hold (RFC 3986 3, as xs:anyURI is checked in practice). Brackets belong in an authority, which a SIP
# URI has none of, so those around an IPv6 host are escaped too.
_NOT_URI: Final = re.compile(r"%(?![0-9A-Fa-f]{2})|[^A-Za-z0-9\-._~:/?@!$&'()*+,;=%]")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:(?:(?!//).|//[A-Za-z0-9.\-]+(?::\d{1,5})?(?:[/?]|\Z))")
_UUID: Final = re.compile(r"(?:urn:uuid:)?\{?([0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12})\}?")
_TIME: Final = re.compile(r"(\d{4})-(\d\d)-(\d\d)([Tt ])(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?\s*(Z|z|[+-]\d\d:?\d\d)?")


# -- written -----------------------------------------------------------------------------------------------------------


def new_id() -> str:
    """A random identifier: base64 of a version 4 UUID (RFC 7865 6.10, RFC 4122 4.4)."""
    octets = bytearray(urandom(16))
    octets[6] = octets[6] & 0x0F | 0x40
    octets[8] = octets[8] & 0x3F | 0x80
    return binascii.b2a_base64(octets, newline=False).decode()


def is_id(text: str) -> bool:
    """Whether `text` is base64 of exactly 16 octets in its one canonical spelling (RFC 7865 6.10)."""
    return len(text) == 24 and re.fullmatch(r"[A-Za-z0-9+/]{21}[AQgw]==", text) is not None


def rfc3339(wall: float) -> str:
    """Seconds since the epoch as RFC 3339 UTC with milliseconds and ``Z`` (RFC 7865 6.9)."""
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds")[:23] + "Z"


def escape(text: str) -> str:
    """Text or attribute value for XML 1.0: markup escaped, characters XML cannot hold dropped."""
    if SPECIAL.search(text) is None:
        return text
    text = _ILLEGAL.sub("", text)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    # Character references survive line-end and attribute normalisation (XML 1.0 2.11, 3.3.3).
    return text.replace("\t", "&#9;").replace("\n", "&#10;").replace("\r", "&#13;")


def clean_aor(text: str) -> str:
    """`text` as a URI that passes xs:anyURI: stray characters %-escaped; nothing usable gives `ANONYMOUS`."""
    text = _ILLEGAL.sub("", text).strip()
    if _SCHEME.match(text) is None:
        return ANONYMOUS
    if _NOT_URI.search(text) is not None:
        text = _NOT_URI.sub(_percent, text)
    return text


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{octet:02X}" for octet in match[0].encode("utf-8"))


# -- read --------------------------------------------------------------------------------------------------------------


class Id(str):
    """An identifier as read. The string is what identifies it: the text form of its UUID, so that identifiers are equal
    by octets, or the text of one that is not 16 octets. `text` is how it was spelt."""

    __slots__ = ("text",)
    text: str

    def __new__(cls, key: str, text: str = "") -> Self:
        self = super().__new__(cls, key)
        self.text = text or key
        return self

    @property
    def uuid(self) -> str | None:
        """The UUID in its usual form, None for an id that is not 16 octets."""
        try:
            return str(self) if str(uuid.UUID(self)) == self else None
        except ValueError:
            return None

    def __deepcopy__(self, memo: object) -> Self:
        return self


def identifier(text: str) -> tuple[Id, str | None]:
    """An id as written, and what is wrong with it (None: nothing)."""
    text = "".join(text.split())
    found = _UUID.fullmatch(text)
    if found is not None:
        return Id(found[1].lower(), text), "schema: a UUID in its text form, not in base64"
    try:
        octets = base64.b64decode(text, validate=True)
        problem = None
    except (binascii.Error, ValueError):
        try:
            octets = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
            problem = "schema: base64 padding is missing"
        except (binascii.Error, ValueError):
            return Id(text), "schema: not base64"
    if len(octets) != 16:
        return Id(text), problem or f"{len(octets)} octets instead of 16"
    return Id(str(uuid.UUID(bytes=octets)), text), problem


def parse_time(text: str) -> tuple[float | None, str | None]:
    """RFC 3339, with the common mistakes understood, as seconds since the epoch; and what is wrong (None: nothing)."""
    text = text.strip()
    found = _TIME.fullmatch(text)
    if not found:
        return None, "schema: not a time"
    year, month, day, separator, hour, minute, second, fraction, offset = found.groups()
    problem = None
    if separator != "T" or offset == "z":
        problem = "schema: T and Z have to be capital"
    if offset is None:
        problem = problem or "no offset, taken as UTC"
        shift = "+00:00"
    elif offset in "Zz":
        shift = "+00:00"
    else:
        if ":" not in offset:
            problem = "schema: colon missing in the offset"
        shift = f"{offset[:3]}:{offset[-2:]}"
    micro = (fraction or "0")[:6].ljust(6, "0")
    leap = second == "60"
    try:
        moment = datetime.fromisoformat(
            f"{year}-{month}-{day}T{hour}:{minute}:{'59' if leap else second}.{micro}{shift}"
        )
        seconds = moment.timestamp() + leap
        rfc3339(seconds)  # the years 1 to 9999 are left only by an offset
        return seconds, problem
    except (ValueError, OverflowError):
        return None, "schema: no such time"
