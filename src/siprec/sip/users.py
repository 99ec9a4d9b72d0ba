"""Users and what they are authenticated by: passwords, or hashes of them (HA1, RFC 7616 3.4.2) by algorithm."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from siprec.sip.digest import ALGORITHMS

_DIGITS: Final = {"MD5": 32, "SHA-256": 64, "SHA-512-256": 64}
"""Hexadecimal digits of a hash."""
_HEX: Final = re.compile(r"[0-9A-Fa-f]+\Z")


class UserSecret(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A user of ``registrar.users``, ``recorder.users`` or a `users_file` as a table.

    Raises:
        ValueError: from the constructor: neither or both of the two, or no hash.
    """

    password: str = ""
    """The password; better kept out of the file with ``env:NAME``."""
    ha1: str | dict[str, str] = {}
    """In place of the password: the hash of ``USER:REALM:PASSWORD`` in hexadecimal, by algorithm:
    ``{ MD5 = "...", SHA-256 = "..." }``. A single text is a hash for MD5 (32 digits) or SHA-256 (64 digits)."""

    def __post_init__(self) -> None:
        if bool(self.password) == bool(self.ha1):
            raise ValueError("either password or ha1 is needed")
        for algorithm, value in self.hashes.items():
            check_hash(algorithm, value)

    @property
    def hashes(self) -> dict[str, str]:
        """`ha1` by algorithm, in upper case."""
        if isinstance(self.ha1, str):
            return {algorithm_of(self.ha1): self.ha1} if self.ha1 else {}
        return {algorithm.upper(): value for algorithm, value in self.ha1.items()}


User = str | UserSecret
"""A password, or a table."""


def algorithm_of(value: str) -> str:
    """The algorithm a hash is of, by its length; SHA-256 of the two with 64 digits."""
    return "MD5" if len(value) == _DIGITS["MD5"] else "SHA-256"


def check_hash(algorithm: str, value: str) -> None:
    """Raises ValueError for an unknown algorithm, or a text that is no hash of it. The text itself is not named."""
    digits = _DIGITS.get(algorithm.upper())
    if digits is None or algorithm.upper() not in ALGORITHMS:
        raise ValueError(f"ha1: {algorithm!r} is none of {', '.join(_DIGITS)}")
    if len(value) != digits or _HEX.match(value) is None:
        raise ValueError(f"ha1: a hash of {algorithm} has {digits} hexadecimal digits")


def secrets_of(users: Mapping[str, User]) -> dict[str, str | Mapping[str, str]]:
    """The users as :data:`siprec.sip.digest_server.Lookup` wants them: password, or hashes by algorithm."""
    return {name: user if isinstance(user, str) else (user.password or user.hashes) for name, user in users.items()}


def without_hash(users: Mapping[str, User], algorithms: tuple[str, ...]) -> list[tuple[str, str]]:
    """User and algorithm, where a user with hashes has none for one of `algorithms`."""
    return [
        (name, algorithm)
        for name, user in users.items()
        if not isinstance(user, str) and user.ha1
        for algorithm in algorithms
        if algorithm.upper().removesuffix("-SESS") not in user.hashes
    ]


def parse_htdigest(text: str, realm: str) -> dict[str, User]:
    """The users of `realm` in a file of lines ``USER:REALM:HA1`` (Apache's htdigest), with ``:ALGORITHM`` behind where
    the length of the hash does not tell. One user may have a line per algorithm. Empty lines and ``#`` are left out.

    Raises:
        ValueError: a line is not of that form; the text names its number.
    """
    found: dict[str, dict[str, str]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        parts = line.strip().split(":")
        if not 3 <= len(parts) <= 4 or not parts[0]:
            raise ValueError(f"line {number}: not of the form USER:REALM:HA1")
        name, where, value = parts[:3]
        algorithm = parts[3].upper() if len(parts) == 4 else algorithm_of(value)
        try:
            check_hash(algorithm, value)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        if where != realm:
            continue
        hashes = found.setdefault(name, {})
        if algorithm in hashes:
            raise ValueError(f"line {number}: {name!r} has a hash for {algorithm} already")
        hashes[algorithm] = value
    return {name: UserSecret(ha1=hashes) for name, hashes in found.items()}
