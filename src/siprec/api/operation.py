"""One route of the API as a value: what it takes, what it answers, and who may ask."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from siprec.api import model
from siprec.api.settings import Role
from siprec.api.sse import EventStream

Answer: TypeAlias = "msgspec.Struct | Response | EventStream"
Handler: TypeAlias = "Callable[[Any, Asked], Awaitable[Answer]]"
"""The first is whoever owns the table: :class:`siprec.api.app.Api`, or the recorder's."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request whose parameters and body have been checked against their types."""

    request: Request
    query: msgspec.Struct
    body: msgspec.Struct | None

    def path(self, name: str) -> str:
        """A parameter of the path."""
        return str(self.request.path_params[name])


@dataclass(frozen=True, slots=True)
class Operation:
    """One route. `role` is what it takes, None: nothing. `answer` is a type, or a media type where it is no JSON."""

    method: str
    path: str
    role: Role | None
    summary: str
    handler: Handler
    answer: type[msgspec.Struct] | str
    query: type[model.Query] = model.NoQuery
    body: type[msgspec.Struct] | None = None
    problems: tuple[int, ...] = ()
