"""SDP security descriptions (RFC 4568): `a=crypto` lines read, chosen from and answered.

Suites: RFC 4568 6.2 (AES-128, tags of 80 and 32 bits), RFC 6188 (AES-256, the same tags) and RFC 7714 (GCM); F8 is
not taken.
Nothing here encrypts; nothing here shows a key: `repr` leaves it out (it is safe to log), errors never quote a line.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

__all__ = ["SUITES", "Crypto", "CryptoError", "Suite", "answer", "choose", "generate", "matches", "parse"]

_MAX_LINE = 2048  # what no honest line reaches; a longer one is not looked at
_TAG = re.compile(r"[0-9]{1,9}", re.ASCII)  # RFC 4568 9.2: 1*9DIGIT
_LIFETIME = re.compile(r"(?:2\^[0-9]{1,2}|[0-9]{1,15})", re.ASCII)
_MKI = re.compile(r"([0-9]{1,10}):([0-9]{1,3})", re.ASCII)


class CryptoError(ValueError):
    """An `a=crypto` line cannot be used. The text says why and never quotes the line: it may hold a key."""


@dataclass(frozen=True, slots=True)
class Suite:
    """One crypto suite: lengths in octets, as keyed by RFC 4568 6.2, RFC 6188 4 and RFC 7714 14.2."""

    name: str
    key_length: int
    salt_length: int = 14

    @property
    def material_length(self) -> int:
        """Octets of master key and master salt together."""
        return self.key_length + self.salt_length


SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite("AES_CM_128_HMAC_SHA1_80", 16),
        Suite("AES_CM_128_HMAC_SHA1_32", 16),
        Suite("AES_256_CM_HMAC_SHA1_80", 32),
        Suite("AES_256_CM_HMAC_SHA1_32", 32),
        Suite("AEAD_AES_128_GCM", 16, 12),
        Suite("AEAD_AES_256_GCM", 32, 12),
    )
}


@dataclass(frozen=True, slots=True)
class Crypto:
    """One usable `a=crypto` attribute: `key` is master key followed by master salt, `suite.material_length` octets.

    `lifetime` is kept as written; `mki` is the MKI's value and `mki_length` its octets in the packet (0: no MKI).
    `params` are the session parameters as written; `parse` says which are taken.
    """

    tag: int
    suite: Suite
    key: bytes = field(repr=False)
    lifetime: str = ""
    mki: int = 0
    mki_length: int = 0
    params: tuple[str, ...] = ()

    def value(self) -> str:
        """The attribute's value: what comes after `a=crypto:`. Holds the key: for the wire, never for a log."""
        inline = "inline:" + base64.b64encode(self.key).decode("ascii")
        if self.lifetime:
            inline += "|" + self.lifetime
        if self.mki_length:
            inline += f"|{self.mki}:{self.mki_length}"
        return " ".join((str(self.tag), self.suite.name, inline, *self.params))


def parse(value: str) -> Crypto:
    """Read the value of one `a=crypto` line.

    Raises `CryptoError` for an unknown suite, a key of the wrong length, several keys (to tell
    them apart takes an MKI in each packet), or a session parameter that changes the transform: RFC 4568 6.3.7
    lets unknown ones be ignored only with a leading `-`.
    """
    if len(value) > _MAX_LINE:
        raise CryptoError("crypto line too long")
    words = value.split()
    if len(words) < 3:
        raise CryptoError("crypto line needs tag, suite and key")
    tag, name, keys, *params = words
    if not _TAG.fullmatch(tag):
        raise CryptoError("crypto tag is no number of up to 9 digits")
    suite = SUITES.get(name.upper())
    if suite is None:
        raise CryptoError("unknown crypto suite")
    if ";" in keys:
        raise CryptoError("several keys in one crypto line")
    for param in params:
        if not param.startswith("-") and not param.upper().startswith("WSH="):
            raise CryptoError("session parameter that is not supported")
    method, colon, info = keys.partition(":")
    if not colon or method.lower() != "inline":
        raise CryptoError("key method is not inline")
    material, *rest = info.split("|")
    if len(rest) > 2:
        raise CryptoError("key has too many parts")
    lifetime, mki, mki_length = "", 0, 0
    for position, part in enumerate(rest):
        if found := _MKI.fullmatch(part):
            if position != len(rest) - 1:
                raise CryptoError("MKI before lifetime")
            mki, mki_length = int(found[1]), int(found[2])
            if not 1 <= mki_length <= 128 or mki >= 1 << (8 * mki_length):
                raise CryptoError("MKI out of range")
        elif position == 0 and _LIFETIME.fullmatch(part):
            lifetime = part
        else:
            raise CryptoError("neither lifetime nor MKI")
    return Crypto(int(tag), suite, _material(material, suite), lifetime, mki, mki_length, tuple(params))


def _material(text: str, suite: Suite) -> bytes:
    try:  # padding is left out by some: put it back, to the multiple of four and no further
        key = base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise CryptoError("key is not base64") from None  # the cause would carry the key into a traceback
    if len(key) != suite.material_length:
        raise CryptoError(f"key has {len(key)} octets, {suite.name} needs {suite.material_length}")
    return key


def choose(values: Iterable[str], allowed: Sequence[str] = tuple(SUITES)) -> Crypto | None:
    """The first usable line of an offer, in the offerer's order of preference (RFC 4568 5.1.2), or None.

    Lines that cannot be used, and lines with an MKI (packets would carry it), are passed over; never raises.
    """
    for value in values:
        try:
            crypto = parse(value)
        except CryptoError:
            continue
        if crypto.suite.name in allowed and not crypto.mki_length:
            return crypto
    return None


def generate(tag: int = 1, suite: str = "AES_CM_128_HMAC_SHA1_80") -> Crypto:
    """A line with a fresh random key (RFC 7866 12.2). Raises `KeyError` for a suite that is not in `SUITES`."""
    chosen = SUITES[suite]
    return Crypto(tag, chosen, secrets.token_bytes(chosen.material_length))


def answer(offered: Crypto) -> Crypto:
    """The answer to the chosen line: its tag and suite, a key of our own, no parameters (RFC 4568 5.1.2)."""
    return generate(offered.tag, offered.suite.name)


def matches(offered: Iterable[Crypto], answered: Crypto) -> Crypto | None:
    """The offered line which an answer accepted (same tag and suite); None: not a valid answer (RFC 4568 5.1.3)."""
    return next((line for line in offered if line.tag == answered.tag and line.suite == answered.suite), None)
