"""Requests as clients of RTPEngine write them, in one form: keys and flags are matched whatever their case, and with
``-``, ``_`` or a blank between words; flags come as a list, as one text (``rtpp-flags``) or as a dictionary, alone
(``siprec``), with a key in front (``replace-origin``, ``SDES-no-AES_256_CM_HMAC_SHA1_80``) or as ``key=value``."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from siprec.media.bencode import Value

MAX_ID: Final = 512
"""Octets of a Call-ID or tag."""
MAX_WORDS: Final = 256
_LISTS: Final = ("replace", "direction", "sdes", "from-tags", "received-from")
_PREFIXES: Final = _LISTS[:4]
_SINGLE: Final = frozenset(
    {
        *("call-id", "from-tag", "to-tag", "via-branch", "transport-protocol", "media-address", "address-family"),
        *("interface", "label", "set-label", "from-label", "to-label", "all"),
    }
)
_NO: Final = frozenset({"no", "off", "0", "false", "none", "disable"})


@lru_cache(maxsize=1024)
def word(text: str) -> str:
    """A key or flag as it is compared."""
    return text.strip().lower().replace("_", "-").replace(" ", "-")


def text(value: Value | None) -> str:
    """A Call-ID, tag or word; empty for what is none."""
    if isinstance(value, bytes) and len(value) <= MAX_ID:
        return value.decode("utf-8", "surrogateescape")
    return ""


def words(value: Value | None) -> list[str]:
    """A list of words, or one text with blanks or commas between them; of a dictionary the keys that are not ``no``,
    those of a list with each of its words behind."""
    if isinstance(value, list):
        return [one for one in map(text, value[:MAX_WORDS]) if one]
    if isinstance(value, dict):
        found: list[str] = []
        for key, each in list(value.items())[:MAX_WORDS]:
            if isinstance(each, list | dict):
                found += [f"{key}-{name}" for name in words(each)]
            elif isinstance(each, int):
                found += [key] if each else []
            elif word(text(each)) not in _NO:
                found.append(key if word(text(each)) in ("", "yes", "on", "true", "1") else f"{key}={text(each)}")
        return found[:MAX_WORDS]
    return (
        value[: 64 * MAX_ID].decode("utf-8", "surrogateescape").replace(",", " ").split()
        if isinstance(value, bytes)
        else []
    )


def expanded(request: dict[str, Value]) -> dict[str, Value]:
    """`request` with keys in their one form; ``flags`` are a list of words in theirs, and what flags say for a key is
    said by that key."""
    found: dict[str, Value] = {}
    for key, value in request.items():
        found.setdefault(word(key) if len(key) <= MAX_ID else key, value)
    lists = {name: words(found[name]) if name in found else [] for name in _LISTS}
    flags: list[str] = []
    for each in (*words(found.pop("flags", None)), *words(found.pop("rtpp-flags", None))):
        name, equals, said = each.partition("=")
        name = word(name)
        if equals and name in _LISTS:
            lists[name].append(said)
        elif equals and name in _SINGLE:
            found.setdefault(name, said.encode("utf-8", "surrogateescape"))
        elif equals:
            flags.append(f"{name}={said}")
        else:
            prefix = next(
                (prefix for prefix in _LISTS if name.startswith(prefix + "-") and prefix != "received-from"), ""
            )
            if prefix:
                lists[prefix].append(each[len(prefix) + 1 :])
            else:
                flags.append(name)
    for name, listed in lists.items():
        if listed:
            found[name] = [one.encode("utf-8", "surrogateescape") for one in listed[:MAX_WORDS]]
    found["flags"] = [flag.encode("utf-8", "surrogateescape") for flag in flags]
    return found
