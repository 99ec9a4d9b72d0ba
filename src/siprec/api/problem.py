"""Errors of the API as problem details (RFC 9457)."""

from __future__ import annotations

from http import HTTPStatus

import msgspec
from starlette.responses import Response


class ProblemDetails(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What went wrong (RFC 9457)."""

    status: int
    title: str
    detail: str = ""
    instance: str = ""
    type: str = "about:blank"


class Problem(Exception):
    """A request that cannot be done: HTTP status, and what the caller should know."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers or {}

    def response(self, path: str = "") -> Response:
        """The answer to send."""
        details = ProblemDetails(
            status=self.status, title=HTTPStatus(self.status).phrase, detail=self.detail, instance=path
        )
        return Response(msgspec.json.encode(details), self.status, self.headers, media_type="application/problem+json")
