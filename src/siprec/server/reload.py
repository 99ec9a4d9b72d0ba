"""Reading the configuration again while calls go on: what takes effect at once, and what waits for a restart."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from siprec.proxy.routes import RouteRule
from siprec.proxy.script import Script, load_script
from siprec.recording.events import EVENTS
from siprec.server.config import Config
from siprec.server.config_file import load

log = logging.getLogger(__name__)

AT_ONCE: Final = frozenset(
    {
        "sip.domains",
        "sip.trusted",
        "sip.session_expires",
        "media.use",
        "media.on_failure",
        "media.timeout",
        "media.on_lost",
        "media_server",
        "registrar.min_expires",
        "registrar.max_expires",
        "registrar.default_expires",
        "registrar.max_contacts",
        "registrar.users",
        "registrar.users_file",
        "registrar.algorithms",
        "registrar.legacy_agents",
        "api.tokens",
        "log.level",
        "log.format",
        "log.levels",
        "service.drain",
        "script",
        "on_script_error",
        "route",
        "recording",
        "srs_requests.allow",
        "srs_requests.scope",
        "srs_requests.profile",
        "srs_requests.max_sessions",
    }
)
"""Keys whose new values hold for the next request or call. A certificate is read again in any case."""
_ELSEWHERE: Final = "recorder."
"""Read by another process (``siprec recorder``)."""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a reload did: keys that hold now, and keys that differ but need a restart."""

    changed: tuple[str, ...]
    restart: tuple[str, ...]

    def __str__(self) -> str:
        text = f"in effect: {', '.join(self.changed) or 'nothing new'}"
        return f"{text}; after a restart: {', '.join(self.restart)}" if self.restart else text


def script_path(file: Path | None, config: Config) -> Path | None:
    """Where the routing script lies, if there is one: relative to the configuration file."""
    return (file.parent if file is not None else Path()) / config.script if config.script else None


def read(file: Path | None) -> tuple[Config, Script | None]:
    """The configuration and its routing script.

    Raises:
        ConfigError: the file cannot be used.
        ScriptError: the script cannot be used.
    """
    config = load(file)
    path = script_path(file, config)
    return config, load_script(path, EVENTS) if path is not None else None


def compare(old: Config, new: Config) -> Reloaded:
    """Which keys differ. A section is named key by key, ``route`` and ``recording`` as a whole."""
    differing = list(_differing(old, new, ""))
    return Reloaded(
        tuple(key for key in differing if key in AT_ONCE), tuple(key for key in differing if key not in AT_ONCE)
    )


def _differing(old: Any, new: Any, prefix: str) -> Iterator[str]:
    for field in msgspec.structs.fields(old):
        key = prefix + field.name
        before, after = getattr(old, field.name), getattr(new, field.name)
        if before == after:
            continue
        if isinstance(before, msgspec.Struct) and not prefix:
            yield from _differing(before, after, f"{key}.")
        elif not key.startswith(_ELSEWHERE):
            yield key


def merged(old: Config, new: Config) -> Config:
    """`old` with the values of `new` for the keys that take effect at once: what a process goes on with."""
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(old):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if field.name in AT_ONCE:
            values[field.name] = after
        elif isinstance(before, msgspec.Struct):
            inner = {
                name: getattr(after, name) for name in before.__struct_fields__ if f"{field.name}.{name}" in AT_ONCE
            }
            values[field.name] = msgspec.structs.replace(before, **inner)
    return msgspec.structs.replace(old, **values)


# -- what is recorded --------------------------------------------------------------------------------------------------


def refusal(old: Config, new: Config) -> str:
    """Why `new` must be a mistake: it has none of the profiles and routes of the configuration that runs. Empty: it has
    some, or there are none now."""
    if not (old.recording or old.route):
        return ""
    if old.recording.keys() & new.recording.keys() or any(rule in new.route for rule in old.route):
        return ""
    if new.route and not old.recording:
        return ""  # routes were edited, and nothing was recorded before
    if not new.recording and not new.route:
        return "the file has no route and no recording profile, the running configuration has (reload --force)"
    return "the file has none of the routes and recording profiles of the running configuration (reload --force)"


def recording_changes(old: Config, new: Config) -> list[str]:
    """What the reload changes in what is recorded, with the names of routes and profiles."""
    before, after = _recorded_by(old.route, new.route), _recorded_by(new.route, old.route)
    found = []
    for route, profiles in before.items():
        now = after.get(route, ())
        lost, more = _missing(profiles, now), _missing(now, profiles)
        if route not in after and not _has(new.route, route):
            found.append(f"route {route} is gone: it recorded with {', '.join(profiles)}")
        elif lost or more:
            found.append(f"route {route} records with {', '.join(now) or 'nothing'} (before: {', '.join(profiles)})")
    for route, profiles in after.items():
        if route not in before:
            found.append(f"route {route} records with {', '.join(profiles)} (new)")
    gone = _missing(tuple(old.recording), tuple(new.recording))
    if gone:
        found.append(f"recording profiles are gone: {', '.join(gone)}; recordings that run keep theirs")
    return found


def route_name(number: int, rule: RouteRule) -> str:
    """What a route is called: its name, else its place in the file."""
    return rule.name or f"route[{number}]"


def _recorded_by(rules: Sequence[RouteRule], others: Sequence[RouteRule]) -> dict[str, tuple[str, ...]]:
    """Profiles by route, of those that are not among the others as they are."""
    found: dict[str, tuple[str, ...]] = {}
    for number, rule in enumerate(rules):
        names = (rule.record,) if isinstance(rule.record, str) else tuple(rule.record)
        if names and rule not in others:
            found[route_name(number, rule)] = tuple(dict.fromkeys((*found.get(route_name(number, rule), ()), *names)))
    return found


def _has(rules: Sequence[RouteRule], name: str) -> bool:
    return any(route_name(number, rule) == name for number, rule in enumerate(rules))


def _missing(these: tuple[str, ...], those: tuple[str, ...]) -> list[str]:
    return [each for each in these if each not in those]
