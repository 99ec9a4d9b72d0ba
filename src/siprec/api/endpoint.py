"""From a table of operations to an ASGI application: who asks, whether what is asked makes sense, the answer."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Final, Protocol

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from siprec.api import static_files
from siprec.api.auth import Authorization
from siprec.api.operation import Asked, Operation
from siprec.api.problem import Problem

log = logging.getLogger(__name__)

MAX_BODY: Final = 65536


class Owner(Protocol):
    """What handlers are given."""

    authorization: Authorization


def application(api: Owner, operations: Iterable[Operation], index: str) -> Starlette:
    """The operations, and the web page `index`."""
    return Starlette(
        routes=[
            *static_files.routes(index),
            *(Route(op.path, Endpoint(api, op), methods=[op.method]) for op in operations),
        ],
        exception_handlers={HTTPException: _http_error, Exception: _internal_error},
    )


class Endpoint:
    """One operation: who asks, whether what is asked makes sense, and the answer. An ASGI application."""

    def __init__(self, api: Owner, operation: Operation) -> None:
        self._api = api
        self._operation = operation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            answer = await self._answer(request)
        except Problem as problem:
            answer = problem.response(request.url.path)
        except ClientDisconnect:
            return
        if isinstance(answer, msgspec.Struct):
            headers = {"Cache-Control": "no-store"}
            answer = Response(msgspec.json.encode(answer), headers=headers, media_type="application/json")
        await answer(scope, receive, send)

    async def _answer(self, request: Request) -> Any:
        operation = self._operation
        if operation.role is not None:
            self._api.authorization.check(request, operation.role)
        try:
            query = msgspec.convert(_single(request), operation.query, strict=False)
        except msgspec.ValidationError as error:
            raise Problem(422, f"query: {error}") from None
        body = None
        if operation.body is not None:
            try:
                body = msgspec.json.decode(await _read(request), type=operation.body)
            except msgspec.ValidationError as error:
                raise Problem(422, f"body: {error}") from None
            except msgspec.DecodeError as error:
                raise Problem(400, f"body: {error}") from None
        return await operation.handler(self._api, Asked(request, query, body))


def _single(request: Request) -> dict[str, str]:
    items = request.query_params.multi_items()
    found = dict(items)
    if len(found) != len(items):
        raise Problem(422, "query: a parameter is given twice")
    return found


async def _read(request: Request) -> bytes:
    # A page of another site can send no JSON without asking first (CORS), and is never told yes.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Problem(415, "the body has to be application/json")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise Problem(413, f"the body is longer than {MAX_BODY} bytes")
    return bytes(body)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = {404: "no such resource; /openapi.json tells what there is", 405: "not with this method"}
    return Problem(error.status_code, detail.get(error.status_code, ""), dict(error.headers or {})).response(
        request.url.path
    )


async def _internal_error(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return Problem(500, "an internal error; the log has more").response(request.url.path)
