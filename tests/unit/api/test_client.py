"""The client of the commands: what it makes of URLs and of answers that are none of ours."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from siprec.cli.client import ApiClient, ApiError
from siprec.cli.client_commands import _find, _length
from siprec.cli.commands import clean


@pytest.mark.parametrize("url", ["ftp://x", "", "http://", "http://[::1", "http://h:99999", "nonsense://h"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ApiError, match="no URL"):
        ApiClient(url)


def test_a_bare_address_will_do() -> None:
    assert ApiClient("127.0.0.1:1234").url == "http://127.0.0.1:1234"
    assert ApiClient("https://h/prefix/").url == "https://h"


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (200, b"<html>", "not the API of siprec"),
        (500, b"<html>", "500"),
        (404, b"[]", "404"),
        (409, b'{"status":409,"title":"Conflict","detail":"not now"}', "not now"),
        (401, b'{"detail":"a bearer token is needed"}', "SIPREC_TOKEN"),
    ],
)
def test_answers_become_errors_for_people(status: int, body: bytes, told: str) -> None:
    with answering(status, body) as url, pytest.raises(ApiError, match=told) as caught:
        ApiClient(url).get("/calls")
    assert caught.value.status == (0 if status == 200 else status)


def test_names_from_the_network_cannot_steer_the_terminal() -> None:
    assert clean("sip:\x1b[2Jx\r@h\u202e") == "sip:?[2Jx?@h?"


def test_lengths_are_read_like_a_clock() -> None:
    assert [_length(seconds) for seconds in (0, 61, 3600, 90061)] == ["0:00", "1:01", "1:00:00", "25:01:01"]


class _Known(ApiClient):
    """Knows these calls, without a server."""

    calls = ({"dlg_id": "aaaa11", "call_id": "x1@h"}, {"dlg_id": "aaaa22", "call_id": "x2@h"})

    def get(self, path: str, **query: object) -> Any:
        if path == "/calls":
            wanted = query.get("call_id")
            return {"calls": [each for each in self.calls if wanted in (None, each["call_id"])], "next": ""}
        for each in self.calls:
            if path == f"/calls/{each['dlg_id']}":
                return each
        raise ApiError("no such call", 404)


def test_a_call_goes_by_its_ids_or_by_a_beginning_that_is_its_own() -> None:
    client = _Known()
    for name in ("aaaa11", "x1@h", "aaaa1"):
        assert _find(client, name)["dlg_id"] == "aaaa11"
    for name, said in (
        ("aaaa", "fits 2 calls: aaaa11, aaaa22"),
        ("aaa", "no call"),
        ("bbbb", "no call"),
        ("", "which"),
    ):
        with pytest.raises(ApiError, match=said):
            _find(client, name)
