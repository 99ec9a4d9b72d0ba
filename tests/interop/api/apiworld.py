"""A proxy with its API, a recorder and two phones, all real, on loopback."""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from siprec.audio.melody import callee_melody, caller_melody
from siprec.cli.child_process import Child
from siprec.server.config_file import parse
from siprec.server.proxy_process import ProxyProcess
from tests.interop.engines.world import Caller

HOST = "127.0.0.1"
DOMAIN = "example.test"
READ = "read-token-0123456789"
CONTROL = "control-token-0123456789"


def configuration(srs: str, directory: Path, api: str = "", recorded: bool = True, use: str = "always") -> str:
    return f"""
[sip]
listen = ["udp:{HOST}:0", "tcp:{HOST}:0"]
domains = ["{DOMAIN}"]
[media]
use = "{use}"
[recording.default]
srs = {srs}
setup_timeout = 2.0
[[route]]
method = "INVITE"
registrar = true
{'record = "default"' if recorded else ""}
[recorder]
listen = ["udp:{HOST}:0", "tcp:{HOST}:0"]
directory = {json.dumps(str(directory / "recordings"))}
[api]
listen = "{HOST}:0"
dead_letters = {json.dumps(str(directory / "dead.jsonl"))}
{api}
"""


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """Asks the API from a thread, as somebody else would."""

    address: tuple[str, int]
    token: str = ""
    context: ssl.SSLContext | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def _ask(self, method: str, path: str, body: object, headers: dict[str, str]) -> Reply:
        if self.context is not None:
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                *self.address, timeout=20, context=self.context
            )
        else:
            connection = http.client.HTTPConnection(*self.address, timeout=20)
        sent = dict(self.headers)
        if self.token:
            sent["Authorization"] = f"Bearer {self.token}"
        octets = None
        if body is not None:
            octets = body if isinstance(body, bytes) else json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        try:
            connection.request(method, path, octets, {**sent, **headers})
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, found, response.read())
        finally:
            connection.close()

    async def ask(self, method: str, path: str, body: object = None, **headers: str) -> Reply:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return await asyncio.to_thread(self._ask, method, path, body, given)

    async def get(self, path: str, **headers: str) -> Reply:
        return await self.ask("GET", path, **headers)

    async def post(self, path: str, **body: object) -> Reply:
        return await self.ask("POST", path, body)


@asynccontextmanager
async def recorder_process(tmp_path: Path, more: str = "") -> AsyncIterator[Child]:
    """A recorder process."""
    child = Child("recorder")
    file = tmp_path / "recorder.toml"
    file.write_text(configuration('["sip:127.0.0.1:1"]', tmp_path, more))
    try:
        await child.start("recorder", "--config", str(file))
        yield child
    finally:
        await child.stop()


@asynccontextmanager
async def recorder(tmp_path: Path) -> AsyncIterator[str]:
    """A recorder process: its URI."""
    async with recorder_process(tmp_path) as child:
        yield f"sip:{HOST}:{child.address()[1]}"


@asynccontextmanager
async def proxy(
    tmp_path: Path, *servers: str, api: str = "", recorded: bool = True, use: str = "always"
) -> AsyncIterator[ProxyProcess]:
    """The proxy in this process, its relay as child."""
    process = ProxyProcess(parse(configuration(json.dumps(list(servers)), tmp_path, api, recorded, use)))
    try:
        await process.start()
        yield process
    finally:
        await process.stop()


def client(process: ProxyProcess, token: str = "") -> Client:
    assert process.api is not None
    return Client(process.api.address, token)


@asynccontextmanager
async def phones(process: ProxyProcess, seconds: float = 30.0) -> AsyncIterator[tuple[Caller, Caller]]:
    """Alice and Bob, registered."""
    address = next(x.address for x in process.transport.listeners if x.address.transport == "udp")
    pair = (
        Caller("alice", "Alice", DOMAIN, HOST, (address.host, address.port), caller_melody(seconds, 8000)),
        Caller("bob", "Bob", DOMAIN, HOST, (address.host, address.port), callee_melody(seconds, 8000)),
    )
    try:
        for phone in pair:
            await phone.start()
            await phone.register()
        yield pair
    finally:
        for phone in pair:
            await phone.close()


async def until(condition: Callable[[], object], limit: float = 30.0) -> None:
    async with asyncio.timeout(limit):
        while not condition():
            await asyncio.sleep(0.02)


async def until_reply(ask: Callable[[], Any], fine: Callable[[Any], object], limit: float = 30.0) -> Any:
    """Ask again and again until the answer is fine."""
    async with asyncio.timeout(limit):
        while True:
            reply = await ask()
            if fine(reply):
                return reply
            await asyncio.sleep(0.05)
