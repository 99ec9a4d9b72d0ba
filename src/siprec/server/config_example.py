"""``siprec config example``: a complete siprec.toml with every key, its default and its meaning, made from the types.

Lines that begin with ``# `` are words, those that begin with ``#`` and a key are defaults to be changed; the rest is a
small system that works: registered phones, whose calls are recorded.
"""

from __future__ import annotations

import json
import textwrap
from typing import Any, Final

import msgspec

from siprec.server.config_reference import TABLES, Field, fields_of, has_heading

_INTRODUCTION: Final = """\
siprec.toml, with every key there is. Keys behind a # have the value that they have anyway. A text of the form
"env:NAME" is taken from the environment. `siprec config check FILE` says what is wrong with a file.

`siprec serve`, `siprec recorder` and `siprec relay` read the same file."""

_LIVE: Final = {
    ("[recording.NAME]", "srs"): '["sip:127.0.0.1:5090"]',
    ("[[route]]", "method"): '"INVITE"',
    ("[[route]]", "record"): '"default"',
    ("[[route]]", "registrar"): "true",
    ("[api]", "listen"): '"127.0.0.1:8060"',
}
"""What the small system needs."""
_REQUIRED: Final = {
    "address": '"ng:udp:192.0.2.30:2223"',
    "uri": '"sip:192.0.2.20"',
    "url": '"https://192.0.2.20/hook"',
    "redis": '"redis://192.0.2.20"',
    "secret": '"change-me"',
    "collector": '"192.0.2.20:9060"',
}
"""Values of keys that have no default, in sections that are not there unless somebody wants them."""
_OPTIONAL: Final = ("[[media_server]]", "[[api.webhooks]]", "[api.redis]", "[trace.hep]")
_WIDTH: Final = 100


def example() -> str:
    """The file."""
    lines = [f"# {line}".rstrip() for line in _INTRODUCTION.splitlines()]
    for title, module, name in TABLES:
        kind = getattr(module, name)
        live = title not in _OPTIONAL
        fields = [each for each in fields_of(module, name) if not has_heading(title, each)]
        about = " ".join((kind.__doc__ or "").split("\n\n", 1)[0].split()).replace("``", "`")
        if title.startswith("["):
            heading = title.replace("NAME", "default")
            about = about.removeprefix(f"`{title}`").lstrip(":. ")
            about = about[:1].upper() + about[1:]
            lines += ["", "", *_words(about), heading if live else f"#{heading}"]
            for each in fields:
                lines += _entry(title, each, kind)
        elif title:
            # Within a table that is there: told, not shown.
            lines += ["", f"# {title[0].upper()}{title[1:]}:"]
            for each in fields:
                lines += [f"#   {line}" for line in _told(each, kind)]
        else:
            for each in fields:
                lines += ["", *_entry(title, each, kind)]
    return "\n".join(lines) + "\n"


def _entry(title: str, field: Field, kind: type[msgspec.Struct]) -> list[str]:
    live = _LIVE.get((title, field.key))
    value = live or _value(field, kind)
    assignment = f"{field.key} = {value}"
    return [*_words(_meaning(field)), assignment if live else f"#{assignment}"]


def _told(field: Field, kind: type[msgspec.Struct]) -> list[str]:
    return [f"{field.key} = {_value(field, kind)}", *textwrap.wrap(field.text, _WIDTH - 4, initial_indent="  ")]


def _meaning(field: Field) -> str:
    choices = [json.dumps(each) for each in field.choices]
    return f"{field.text} One of {', '.join(choices)}.".strip() if choices else field.text


def _words(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _value(field: Field, kind: type[msgspec.Struct]) -> str:
    found = next(each for each in msgspec.structs.fields(kind) if each.name == field.key)
    if found.default is not msgspec.NODEFAULT:
        return toml(found.default)
    if found.default_factory is not msgspec.NODEFAULT:
        return toml(found.default_factory())
    return _REQUIRED["redis" if kind.__name__ == "RedisConfig" and field.key == "url" else field.key]


def toml(value: Any) -> str:
    """A value as TOML writes it in one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value)  # TOML's basic strings have the escapes of JSON
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple | set | frozenset):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return (
            "{ " + ", ".join(f"{json.dumps(key)} = {toml(each)}" for key, each in value.items()) + " }"
            if value
            else "{}"
        )
    raise TypeError(f"no value of TOML: {value!r}")
