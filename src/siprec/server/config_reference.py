"""``docs/configuration.md``, made from the types of the configuration: ``python -m siprec.server.config_reference``."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Final

from siprec.api import settings as api
from siprec.proxy import routes
from siprec.recording import recording_profile, srs_initiated, srs_route
from siprec.server import config
from siprec.sip import users

_CHOICES: Final = re.compile(r"Literal\[(.*)\]")
TABLES: Final = (
    ("", config, "Config"),
    ("[sip]", config, "SipConfig"),
    ("[media]", config, "MediaConfig"),
    ("[[media_server]]", config, "MediaServerConfig"),
    ("[relay]", config, "RelayConfig"),
    ("[recording.NAME]", recording_profile, "RecordingProfile"),
    ("one of `recording.NAME.servers`, a table", srs_route, "SrsSettings"),
    ("[[route]]", routes, "RouteRule"),
    ("one of `targets` as a table", routes, "RouteTarget"),
    ("[srs_requests]", srs_initiated, "RequestSettings"),
    ("[registrar]", config, "RegistrarConfig"),
    ("one of `users` as a table", users, "UserSecret"),
    ("[recorder]", config, "RecorderConfig"),
    ("[recorder.api]", api, "RecorderApiConfig"),
    ("[api]", api, "ApiConfig"),
    ("[[api.webhooks]]", api, "WebhookConfig"),
    ("[api.redis]", api, "RedisConfig"),
    ("[log]", config, "LogConfig"),
    ("[service]", config, "ServiceConfig"),
    ("[proof]", config, "ProofConfig"),
    ("[trace]", config, "TraceConfig"),
    ("[trace.hep]", config, "HepConfig"),
)
PARTS: Final = frozenset(
    {
        "sip",
        "media",
        "media_server",
        "relay",
        "registrar",
        "recorder",
        "api",
        "log",
        "service",
        "proof",
        "trace",
        "route",
        "recording",
        "srs_requests",
    }
)
NESTED: Final = frozenset({("[recorder]", "api"), ("[api]", "webhooks"), ("[api]", "redis"), ("[trace]", "hep")})
"""Keys that are tables with a heading of their own."""


def reference() -> str:
    """The page, in Markdown."""
    lines = [
        "# siprec.toml",
        "",
        "Made from the types by `python -m siprec.server.config_reference`. Every key is optional unless its default",
        "is *required*. A text of the form `env:NAME` is taken from the environment. `siprec config check FILE` says",
        "what is wrong with a file.",
    ]
    for title, module, name in TABLES:
        lines += ["", f"## {title or 'Top level'}", "", "| key | type | default | |", "|---|---|---|---|"]
        lines += [_row(field) for field in fields_of(module, name) if not has_heading(title, field)]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class Field:
    """A key of a table: its type and default as the source has them (empty: no default), its meaning."""

    key: str
    kind: str
    default: str
    text: str

    @property
    def choices(self) -> tuple[str, ...]:
        """The texts it may be, where they are listed."""
        match = _CHOICES.fullmatch(self.kind)
        return tuple(ast.literal_eval(f"({match[1]},)")) if match else ()


def fields_of(module: ModuleType, name: str) -> list[Field]:
    """The keys of the table that is the class `name`, in the order of the source."""
    tree = ast.parse(inspect.getsource(module))
    found = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    fields: list[Field] = []
    fresh = False
    for node in found.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            default = ast.unparse(node.value) if node.value is not None else ""
            fields.append(Field(node.target.id, ast.unparse(node.annotation), default, ""))
            fresh = True
        elif fresh and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            text = " ".join(str(node.value.value).split()).replace("``", "`")
            fields[-1] = replace(fields[-1], text=text)
            fresh = False
    return fields


def has_heading(title: str, field: Field) -> bool:
    """Whether it is a table with a heading of its own."""
    return field.key in PARTS if not title else (title, field.key) in NESTED


def _row(field: Field) -> str:
    default = f"`{field.default}`" if field.default else "*required*"
    cells = (f"`{field.key}`", f"`{field.kind}`", default, field.text)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    print(reference(), end="")
