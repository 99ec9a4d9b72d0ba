"""Requests as clients of RTPEngine write them, in one form: keys and flags are matched whatever their case, and with
``-``, ``_`` or a blank between words; flags come as a list, as one text (``rtpp-flags``) or as a dictionary, alone
(``siprec``), with a key in front (``replace-origin``, ``SDES-no-AES_256_CM_HMAC_SHA1_80``) or as ``key=value``."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec

from siprec.media.bencode import MAX_DEPTH, MAX_SIZE, BencodeError, Encodable, Value
from siprec.relay.ng_wishes import CallError, Wishes
from siprec.relay.player import Sound

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


def number(value: Value | None) -> int:
    """A whole number, which may come as text; 0 for what is none."""
    if isinstance(value, bytes) and value.isdigit() and len(value) < 16:
        return int(value)
    return value if isinstance(value, int) else 0


def named(request: dict[str, Value], key: str) -> str:
    """The text of a key; empty if there is none."""
    return text(request.get(key))


def needed(request: dict[str, Value], key: str) -> str:
    """The text of a key; raises :class:`~siprec.relay.ng_wishes.CallError` when there is none."""
    found = text(request.get(key))
    if not found:
        raise CallError(f"No {key} in message")
    return found


def body_of(request: dict[str, Value]) -> bytes:
    """The session description; raises :class:`~siprec.relay.ng_wishes.CallError` when there is none."""
    body = request.get("sdp")
    if not isinstance(body, bytes) or not body:
        raise CallError("No SDP body in message")
    return body


def wishes_of(request: dict[str, Value]) -> Wishes:
    """What an :func:`expanded` request asks for besides."""
    age = request.get("pre-roll-age")
    replace = {word(each) for each in words(request.get("replace"))}
    single = named(request, "interface")
    received = words(request.get("received-from"))
    return Wishes(
        origin="origin" in replace,
        session_name="session-name" in replace,
        interfaces=tuple(words(request.get("direction"))) or ((single,) if single else ()),
        media_address=named(request, "media-address"),
        family=named(request, "address-family").upper(),
        flags=frozenset(words(request.get("flags"))),
        label=named(request, "label") or named(request, "set-label"),
        preroll=max(0, age) / 1000 if isinstance(age, int) else None,
        hold=request.get("pre-roll-hold") == 1,
        transport=named(request, "transport-protocol"),
        sdes=frozenset(words(request.get("sdes"))),
        received_from=_address(received[-1] if received else ""),
        via_branch=named(request, "via-branch"),
    )


def _address(said: str) -> str:
    """The address of ``received-from``, as :mod:`ipaddress` writes it; "" where it says nothing."""
    try:
        address = ipaddress.ip_address(said)
    except ValueError:
        return ""
    return "" if address.is_unspecified else address.compressed


def tone_of(tone: dict[str, Value]) -> Sound:
    def number(key: str, default: int, low: int, high: int) -> int:
        value = tone.get(key, default)
        if not isinstance(value, int) or not low <= value <= high:
            raise CallError(f"tone: {key} must lie in {low}..{high}")
        return value

    sound = Sound(
        number("frequency", 1400, 50, 7000),
        number("duration", 200, 20, 10_000) / 1000,
        number("interval", 0, 0, 3_600_000) / 1000,
        number("level", 20, 0, 60),
    )
    if sound.interval and sound.interval < sound.duration + 0.5:
        raise CallError("tone: interval is too short")
    return sound


def from_json(body: bytes) -> dict[str, Value]:
    """A request in JSON, which RTPEngine takes as well; raises :class:`~siprec.media.bencode.BencodeError`."""
    if len(body) > MAX_SIZE:
        raise BencodeError(f"more than {MAX_SIZE} octets")
    try:
        found = _value(msgspec.json.decode(body), 0)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BencodeError(f"no JSON: {error}") from None
    if not isinstance(found, dict):
        raise BencodeError("not a dictionary")
    return found


def _value(found: Any, depth: int) -> Value:
    if depth > MAX_DEPTH:
        raise BencodeError("nested too deeply")
    if isinstance(found, dict):
        return {key: _value(each, depth + 1) for key, each in found.items()}
    if isinstance(found, list):
        return [_value(each, depth + 1) for each in found]
    if isinstance(found, bool):
        return b"yes" if found else b"no"
    if isinstance(found, int):
        return found
    return b"" if found is None else str(found).encode("utf-8", "surrogateescape")


def to_json(reply: Mapping[str, Encodable]) -> bytes:
    """A reply in JSON. Octets that are no text become the replacement character."""
    return msgspec.json.encode(_readable(reply))


def _readable(value: Encodable) -> Any:
    if isinstance(value, bytes | bytearray):
        return value.decode("utf-8", "replace")
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if isinstance(value, Mapping):
        return {_readable(key): _readable(each) for key, each in value.items()}
    return value if isinstance(value, int) else [_readable(each) for each in value]
