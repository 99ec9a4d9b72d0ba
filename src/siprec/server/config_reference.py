"""``docs/configuration.md``, made from the types of the configuration: ``python -m siprec.server.config_reference``."""

from __future__ import annotations

import ast
import inspect
from types import ModuleType
from typing import Final

from siprec.api import settings as api
from siprec.proxy import routes
from siprec.recording import settings as recording
from siprec.server import config

_TABLES: Final = (
    ("", config, "Config"),
    ("[sip]", config, "SipConfig"),
    ("[media]", config, "MediaConfig"),
    ("[[media_server]]", config, "MediaServerConfig"),
    ("[relay]", config, "RelayConfig"),
    ("[recording.NAME]", recording, "RecordingProfile"),
    ("[[route]]", routes, "RouteRule"),
    ("one of `targets` as a table", routes, "RouteTarget"),
    ("[registrar]", config, "RegistrarConfig"),
    ("[recorder]", config, "RecorderConfig"),
    ("[api]", api, "ApiConfig"),
    ("[[api.webhooks]]", api, "WebhookConfig"),
    ("[api.redis]", api, "RedisConfig"),
    ("[log]", config, "LogConfig"),
    ("[service]", config, "ServiceConfig"),
    ("[proof]", config, "ProofConfig"),
    ("[trace]", config, "TraceConfig"),
    ("[trace.hep]", config, "HepConfig"),
)
_PARTS: Final = frozenset(
    [
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
    ]
)


def reference() -> str:
    """The page, in Markdown."""
    lines = [
        "# siprec.toml",
        "",
        "Made from the types by `python -m siprec.server.config_reference`. Every key is optional unless its default",
        "is *required*. A text of the form `env:NAME` is taken from the environment. `siprec config check FILE` says",
        "what is wrong with a file.",
    ]
    for title, module, name in _TABLES:
        lines += ["", f"## {title or 'Top level'}", "", "| key | type | default | |", "|---|---|---|---|"]
        lines += [row for row in _rows(module, name) if title or row.split("`")[1] not in _PARTS]
    return "\n".join(lines) + "\n"


def _rows(module: ModuleType, name: str) -> list[str]:
    tree = ast.parse(inspect.getsource(module))
    found = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    rows: list[str] = []
    pending: tuple[str, str, str] | None = None
    for node in found.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            default = ast.unparse(node.value) if node.value is not None else "*required*"
            default = f"`{default}`" if node.value is not None else default
            rows.append("")
            pending = (node.target.id, ast.unparse(node.annotation), default)
            rows[-1] = _row(*pending, "")
        elif pending is not None and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            rows[-1] = _row(*pending, " ".join(str(node.value.value).split()).replace("``", "`"))
            pending = None
    return rows


def _row(key: str, kind: str, default: str, text: str) -> str:
    cells = (f"`{key}`", f"`{kind}`", default, text)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    print(reference(), end="")
