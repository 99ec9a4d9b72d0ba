"""The configuration file: TOML, with errors that name file and key.

Values of the form ``"env:NAME"`` are taken from the environment, so that secrets stay out of the file.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from siprec.recording.recording_profile import RecordingProfile
from siprec.server.config import Config
from siprec.server.config_check import problems
from siprec.sip.header_list import has_control
from siprec.sip.users import User, parse_htdigest

_T = TypeVar("_T")


class ConfigError(Exception):
    """The configuration cannot be used; the text says which file, which key and why."""


_USER: Final[Any] = User
_LINES: Final = frozenset(("headers", "caller", "callee", "group_custom_extension", "session_custom_extension"))
_PATH: Final = re.compile(r" - at `\$\.?([^`]*)`$")
_CHOICE: Final = re.compile(r"Invalid enum value (.*)$")
_STEP: Final = re.compile(r"(?:\[(?:\d+|\.\.\.)\]|([^.\[]+))\.?")
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`$")


def load(path: Path | None) -> Config:
    """Read and check a configuration file; None gives the defaults.

    Raises:
        ConfigError: unreadable, no TOML, unknown or wrong key.
    """
    if path is None:
        return Config()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file; `siprec config example` prints one to begin with") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: no text in UTF-8: {error.reason}") from None
    return parse(text, str(path))


def parse(text: str, name: str = "siprec.toml") -> Config:
    """Check a configuration given as text; `name` is used in errors.

    Raises:
        ConfigError: no TOML, unknown or wrong key.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: {error}") from None
    data = _environment(data, name, "")
    controls = [f"{name}: {key}: control character in it" for key in _with_controls(data, "")]
    if controls:
        raise ConfigError("\n".join(controls))
    profiles = data.get("recording")
    codes = data.get("skip_failover_codes")
    if isinstance(profiles, dict) and isinstance(codes, str):
        for values in profiles.values():
            if isinstance(values, dict):
                values.setdefault("skip_failover_codes", codes)
    if isinstance(profiles, dict):
        # One by one, so that an error names the profile.
        for profile, values in profiles.items():
            _convert(values, RecordingProfile, name, f"recording.{profile}")
    for section in ("registrar", "recorder"):
        table = data.get(section)
        users = table.get("users") if isinstance(table, dict) else None
        if isinstance(users, dict):
            for user, entry in users.items():
                _convert(entry, _USER, name, f"{section}.users.{user}")
    config = _with_users_file(_convert(data, Config, name, ""), name)
    found = [f"{name}: {key}: {reason}" for key, reason in problems(config)]
    if found:
        raise ConfigError("\n".join(found))
    return config


def _with_users_file(config: Config, name: str) -> Config:
    """`config` with the users of ``registrar.users_file`` among ``registrar.users``."""
    registrar = config.registrar
    if not registrar.users_file:
        return config
    path = Path(name).parent / registrar.users_file
    key = f"{name}: registrar.users_file"
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".toml":
            data = _environment(tomllib.loads(text), str(path), "")
            users = {user: _convert(entry, _USER, str(path), user) for user, entry in data.items()}
        else:
            users = parse_htdigest(text, config.realm)
    except OSError as error:
        raise ConfigError(f"{key}: {path}: {error.strerror}") from None
    except ValueError as error:  # of TOML and of UTF-8, too
        raise ConfigError(f"{key}: {path}: {error}") from None
    if not users:
        raise ConfigError(f"{key}: {path}: no user of realm {config.realm!r} in it")
    twice = sorted(users.keys() & registrar.users.keys())
    if twice:
        raise ConfigError(f"{key}: {path}: {twice[0]!r} is in registrar.users, too")
    users |= registrar.users
    return msgspec.structs.replace(config, registrar=msgspec.structs.replace(registrar, users=users))


def _convert(value: Any, kind: type[_T], name: str, place: str) -> _T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        message = str(error)
        match = _PATH.search(message)
        keys = [place] if place else []
        if match:
            keys.append(match[1])
            message = message[: match.start()]
        choice = _CHOICE.match(message)
        choices = _choices(msgspec.inspect.type_info(kind), match[1] if match else "") if choice else ()
        if choice and choices:
            message = f"{choice[1]} is none of {', '.join(choices)}"
        unknown = _UNKNOWN.match(message)
        if unknown:
            keys.append(unknown[1])
            message = "unknown key"
        raise ConfigError(f"{name}: {'.'.join(keys)}: {message}") from None


def _choices(kind: msgspec.inspect.Type, path: str) -> tuple[str, ...]:
    """What a value at `path` within a `kind` may be, where those are named."""
    if isinstance(kind, msgspec.inspect.UnionType):
        return next((found for each in kind.types if (found := _choices(each, path))), ())
    if isinstance(kind, msgspec.inspect.LiteralType):
        return tuple(str(value) or '""' for value in kind.values) if not path else ()
    step = _STEP.match(path)
    if step is None:
        return ()
    rest = path[step.end() :]
    if isinstance(kind, msgspec.inspect.StructType):
        return next((_choices(field.type, rest) for field in kind.fields if field.encode_name == step[1]), ())
    if isinstance(kind, msgspec.inspect.DictType):
        return _choices(kind.value_type, rest)
    if isinstance(kind, msgspec.inspect.ListType | msgspec.inspect.VarTupleType):
        return _choices(kind.item_type, rest)
    return ()


def _with_controls(value: Any, key: str) -> Iterator[str]:
    """The keys of texts with control characters, which can go into no message; XML and header lines have rules of
    their own."""
    if isinstance(value, dict):
        for name, each in value.items():
            if isinstance(name, str) and has_control(name):
                yield f"{key}.{name!r}"
            if name not in _LINES:
                yield from _with_controls(each, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from _with_controls(each, f"{key}[{number}]")
    elif isinstance(value, str) and has_control(value):
        yield key


def _environment(value: Any, name: str, key: str) -> Any:
    if isinstance(value, dict):
        return {
            # Keys too: API tokens are keys.
            _environment(k, name, f"{key}.{k}"): _environment(v, name, f"{key}.{k}" if key else k)
            for k, v in value.items()
        }
    if isinstance(value, list):
        return [_environment(v, name, f"{key}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, str) and value.startswith("env:"):
        found = os.environ.get(value[4:])
        if found is None:
            raise ConfigError(f"{name}: {key}: environment variable {value[4:]} is not set")
        return found
    return value
