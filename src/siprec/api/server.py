"""The web server of the API: uvicorn, on the event loop that is there."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import ssl
from collections.abc import Iterator, Mapping
from typing import Final, Protocol

import uvicorn
from starlette.types import ASGIApp

from siprec.api import protocol
from siprec.api.app import Api
from siprec.api.auth import Authorization
from siprec.api.context import ApiContext
from siprec.api.routes import OPERATIONS
from siprec.api.settings import ApiConfig, ListenConfig, Role
from siprec.net.handshake import Handshakes, SecureListener
from siprec.net.tls import TlsSettings

UNSENT: Final = 32768
"""Octets that the kernel takes for a client beyond what it can send: one that does not read is noticed soon, and a
hundred of them hold no hundreds of megabytes."""


class _Server(uvicorn.Server):
    """`secure`: the TLS context of connections. TLS is done here, not by uvicorn, so that handshakes are bounded."""

    def __init__(self, config: uvicorn.Config, secure: ssl.SSLContext | None) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()
        self._secure = secure
        self._handshakes = Handshakes(protocol.HEAD_TIME, most=protocol.MAX_CONNECTIONS)
        self._listeners: list[SecureListener] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets if self._secure is None else [])
        if self._secure is not None:
            self._listeners = [
                SecureListener(each, self._secure, self._connection, self._handshakes) for each in sockets or ()
            ]
        self.listening.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in self._listeners:
            listener.close()
        self._handshakes.close()
        await super().shutdown(sockets=sockets)

    def _connection(self) -> asyncio.Protocol:
        return protocol.Protocol(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state, _loop=None
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # signals are the process's own business


class Service(Protocol):
    """What is served: an ASGI application that has something to do before and after."""

    authorization: Authorization

    @property
    def application(self) -> ASGIApp: ...

    async def started(self) -> None: ...

    def tokens_changed(self) -> None: ...

    def close(self) -> None: ...

    async def stopped(self) -> None: ...


class WebServer:
    """Serves `api` from :meth:`start` to :meth:`stop`."""

    def __init__(self, api: Service, config: ListenConfig) -> None:
        self.config = config
        self._api = api
        self._socket: socket.socket | None = None
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None
        self._tls = TlsSettings(config.tls_certificate, config.tls_key) if config.tls_certificate else None
        self._context: ssl.SSLContext | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens. Raises RuntimeError before :meth:`start`."""
        if self._socket is None:
            raise RuntimeError("not started")
        host, port = self._socket.getsockname()[:2]
        return str(host), int(port)

    @property
    def url(self) -> str:
        """The same as a URL."""
        host, port = self.address
        scheme = "https" if self.config.tls_certificate else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    @property
    def ready(self) -> str:
        """For the ready line: ``http:HOST:PORT``."""
        return self.url.replace("://", ":", 1)

    def check_tokens(self, tokens: Mapping[str, Role]) -> None:
        """Raises ValueError where `tokens` would leave open what others can reach."""
        if not tokens and not ipaddress.ip_address(self.config.address[0]).is_loopback:
            raise ValueError(f"api.tokens: needed while listening on {self.config.address[0]}")

    def set_tokens(self, tokens: Mapping[str, Role]) -> None:
        """Other tokens from the next request on; event streams of tokens that are gone end. Raises ValueError."""
        self.check_tokens(tokens)
        self._api.authorization = Authorization(tokens)
        self._api.tokens_changed()

    def refresh_tls(self) -> None:
        """Read the certificate again. Raises OSError: it cannot be used; the old one stays."""
        if self._tls is not None and self._context is not None:
            self._tls.refresh(self._context)

    async def start(self) -> None:
        """Listen. TLS is as strict as that of SIP (:mod:`siprec.net.tls`).

        Raises:
            OSError: the address is taken, or certificate or key cannot be read.
        """
        host, port = self.config.address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError, AttributeError):  # connections inherit it
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
            listener.bind((host, port))
            crowd = protocol.Crowd(self._api.application)
            options = uvicorn.Config(
                crowd,
                http=protocol.Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=1,
            )
            options.load()
            if self._tls is not None:
                self._context = self._tls.server_context()
        except (OSError, ValueError) as error:
            listener.close()
            what = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise OSError(f"api: {self.config.listen}: {what}") from None
        # Below, it tells of its own coming and going, and of each request that is none (see `Protocol`).
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        self._socket = listener
        self._server = server = _Server(options, self._context)
        crowd.connections = server.server_state.connections
        self._task = asyncio.create_task(server.serve(sockets=[listener]))
        listening = asyncio.create_task(server.listening.wait())
        await asyncio.wait((self._task, listening), return_when=asyncio.FIRST_COMPLETED)
        if not server.listening.is_set():
            listening.cancel()
            listener.close()
            raise OSError(f"the API cannot be served at {host}:{port}")
        await self._api.started()

    async def stop(self) -> None:
        """End streams and connections, put undelivered events on disk."""
        self._api.close()
        await self._api.stopped()
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await asyncio.gather(self._task, return_exceptions=True)
        if self._socket is not None:
            self._socket.close()


class ApiServer(WebServer):
    """The API of a proxy."""

    def __init__(self, context: ApiContext, config: ApiConfig) -> None:
        self.api = Api(context, config, OPERATIONS)
        super().__init__(self.api, config)
