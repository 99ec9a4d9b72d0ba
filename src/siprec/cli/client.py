"""A client of the HTTP API, for the commands: plain requests, errors that say what to do."""

from __future__ import annotations

import http.client
import json
import os
import ssl
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

DEFAULT: Final = "http://127.0.0.1:8060"
TOKEN: Final = "SIPREC_TOKEN"
TIMEOUT: Final = 40.0


class ApiError(Exception):
    """The API cannot be reached, or says no; the text is for people. `status` is 0 where nothing answered."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


class ApiClient:
    """Asks the API at `url`, waits `timeout` seconds for each piece of an answer; the token comes from the environment
    (``SIPREC_TOKEN``).

    Raises:
        ApiError: from the constructor, `url` is no URL of a web server.
    """

    def __init__(self, url: str = DEFAULT, timeout: float = TIMEOUT) -> None:
        try:
            parts = urlsplit(url if "//" in url else f"http://{url}")
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ApiError(f"{url!r} is no URL of an API, such as {DEFAULT}")
        self.url = f"{parts.scheme}://{parts.netloc}"
        self._host, self._tls = parts.hostname, parts.scheme == "https"
        self._port = port or (443 if self._tls else 80)
        self._prefix = parts.path.rstrip("/")
        self._timeout = timeout
        self._token = os.environ.get(TOKEN, "")

    def get(self, path: str, **query: object) -> Any:
        """GET; `query` without what is empty or None. Returns the decoded JSON. Raises ApiError."""
        given = {key: _text(value) for key, value in query.items() if value not in ("", None, False)}
        return self._ask("GET", f"{path}?{urlencode(given)}" if given else path, None)

    def octets(self, path: str, **query: object) -> bytes:
        """GET something that is no JSON. Raises ApiError."""
        given = {key: _text(value) for key, value in query.items() if value not in ("", None, False)}
        connection, response = self._open("GET", f"{path}?{urlencode(given)}" if given else path, None, {})
        try:
            return response.read()
        except (OSError, http.client.HTTPException) as error:
            raise ApiError(f"{self.url}: the answer broke off: {error}") from None
        finally:
            connection.close()

    def send(self, method: str, path: str, body: Mapping[str, object]) -> Any:
        """POST or PUT `body` as JSON. Returns the decoded JSON. Raises ApiError."""
        return self._ask(method, path, {key: value for key, value in body.items() if value not in ("", None)})

    def pages(self, path: str, key: str, limit: int, **query: object) -> Iterator[Any]:
        """The entries of a list, page by page, `limit` at the most. Raises ApiError."""
        after = ""
        while limit > 0:
            page = self.get(path, limit=min(limit, 500), after=after, **query)
            yield from page[key]
            limit -= len(page[key])
            after = page["next"]
            if not after:
                return

    def events(self, last: str = "", **query: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Events as they happen, as id and value, until the connection ends. Raises ApiError."""
        given = {key: value for key, value in query.items() if value}
        path = f"/events?{urlencode(given)}" if given else "/events"
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last} if last else {})}
        connection, response = self._open("GET", path, None, headers)
        try:
            found: dict[str, str] = {}
            while line := response.readline():
                text = line.decode("utf-8", "replace").rstrip("\r\n")
                name, _, value = text.partition(":")
                if text:
                    found[name] = value.removeprefix(" ")
                    continue
                if found.get("event", "gap") != "gap":
                    yield found.get("id", ""), json.loads(found.get("data", "{}"))
                found = {}
        except (OSError, http.client.HTTPException):
            return
        finally:
            connection.close()

    def _ask(self, method: str, path: str, body: Mapping[str, object] | None) -> Any:
        connection, response = self._open(method, path, body, {})
        try:
            octets = response.read()
            return json.loads(octets)
        except (OSError, http.client.HTTPException) as error:
            raise ApiError(f"{self.url}: the answer broke off: {error}") from None
        except ValueError:
            raise ApiError(f"{self.url}: this is not the API of siprec") from None
        finally:
            connection.close()

    def _open(
        self, method: str, path: str, body: Mapping[str, object] | None, headers: Mapping[str, str]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection: http.client.HTTPConnection
        if self._tls:
            context = ssl.create_default_context(cafile=os.environ.get("SIPREC_API_CA") or None)
            connection = http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout, context=context)
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        sent = dict(headers)
        if self._token:
            sent["Authorization"] = f"Bearer {self._token}"
        octets = None
        if body is not None:
            octets = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        try:
            connection.request(method, self._prefix + path, octets, sent)
            response = connection.getresponse()
        except ssl.SSLError as error:
            connection.close()
            raise ApiError(_insecure(self.url, error)) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            raise ApiError(_unreachable(self.url, error)) from None
        if response.status >= 300:
            try:
                raise ApiError(_refusal(self.url, response), response.status)
            finally:
                connection.close()
        return connection, response


def _text(value: object) -> str:
    return "true" if value is True else str(value)


def _insecure(url: str, error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        why = f"its certificate is not trusted ({error.verify_message})"
        return f"{url}: {why}. SIPREC_API_CA names a file of CAs to trust."
    return f"{url}: no TLS is spoken there ({error.reason}). Without: http://"


def _unreachable(url: str, error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"{url} does not answer"
    if isinstance(error, ConnectionRefusedError):
        return (
            f"nothing listens at {url}. Is `siprec serve` running, with\n"
            '  [api]\n  listen = "127.0.0.1:8060"\n'
            "in its configuration? If it is elsewhere: --api URL, or SIPREC_API=URL."
        )
    if isinstance(error, http.client.RemoteDisconnected | http.client.BadStatusLine | ConnectionResetError):
        return f"{url}: no answer that could be understood. Is it TLS there? Then https:// is needed."
    return f"{url}: {getattr(error, 'strerror', None) or error}"


def _refusal(url: str, response: http.client.HTTPResponse) -> str:
    try:
        problem = json.loads(response.read(65536))
        detail = str(problem.get("detail") or problem.get("title"))
    except (OSError, ValueError, AttributeError, http.client.HTTPException):
        return f"{url}: {response.status} {response.reason}"
    if response.status == 403 and "role" in detail:
        return f"{url}: {detail}; the one in {TOKEN} has less"
    if response.status == 401:
        return f"{url}: {detail}; {TOKEN} in the environment is where it is taken from"
    return detail
