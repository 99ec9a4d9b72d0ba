"""The web page: some files that come with the package, no build step, nothing from elsewhere."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; media-src blob:; form-action 'none'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # A new version is seen at once.
    "Cache-Control": "no-cache",
}


def routes(index: str) -> list[BaseRoute]:
    """``/``, which is `index`, and ``/static/...``. They hold nothing that needs a token; what they show, they ask the
    API for."""
    kept: dict[str, Response] = {}
    for entry in files("siprec.api").joinpath("web").iterdir():
        suffix = entry.name.rpartition(".")[2]
        if suffix in _TYPES:
            kept[entry.name] = Response(entry.read_bytes(), headers=_HEADERS, media_type=_TYPES[suffix])

    async def page(request: Request) -> Response:
        return kept[index]

    async def static(request: Request) -> Response:
        return kept.get(request.path_params["name"]) or Response("no such file", 404, media_type="text/plain")

    async def icon(request: Request) -> Response:
        return RedirectResponse("static/icon.svg")

    return [Route("/", page), Route("/static/{name}", static), Route("/favicon.ico", icon)]
