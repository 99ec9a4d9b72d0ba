"""The servers that bench/relay.py compares: each is started as a process of its own and set up for one-way streams."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

from siprec import sdp
from siprec.media import sockets
from siprec.media.engine import MediaError, MediaSession
from siprec.media.rtpengine import RtpEngine
from siprec.relay.child import start_relay
from siprec.relay.native import Choice
from siprec.relay.process import LoopClock, RelayOptions

PORTS = (20000, 32766)  # below the ports that the system gives to senders and receivers


class Server(Protocol):
    """A server that runs."""

    name: str
    pid: int

    async def stream(self, number: int, sender: int, receiver: int, recorder: int | None) -> int:
        """Have what `sender` sends relayed to `receiver`, and a copy to `recorder` (ports of 127.0.0.1); the port to
        send to."""

    async def end(self, count: int) -> None:
        """End streams 0 to `count`-1."""


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def description(port: int, direction: str = "sendrecv") -> bytes:
    return (
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
        f"m=audio {port} RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\na={direction}\r\n"
    ).encode()


class Ng:
    """RTPEngine, or our relay, spoken to in ng."""

    def __init__(self, name: str, pid: int, address: tuple[str, int]) -> None:
        loop = asyncio.get_running_loop()
        self.name, self.pid = name, pid
        self._loop = loop
        self._engine = RtpEngine(LoopClock(loop), sockets.udp(loop, address), name=name)
        self._sessions: list[MediaSession] = []
        self._run = 0

    def close(self) -> None:
        self._engine.close()

    async def _ask(self, start: Callable[[Callable[[Any], None]], None]) -> Any:
        future: asyncio.Future[Any] = self._loop.create_future()
        start(future.set_result)
        result = await future
        if isinstance(result, MediaError):
            raise result
        return result

    async def stream(self, number: int, sender: int, receiver: int, recorder: int | None) -> int:
        engine = self._engine
        self._run += number == 0
        session = MediaSession(f"{self._run}-{number}", "a", "b")
        self._sessions.append(session)
        await self._ask(lambda done: engine.offer(session, description(sender), done))
        body = await self._ask(lambda done: engine.answer(session, description(receiver), done))
        if recorder is not None:
            subscription = await self._ask(lambda done: engine.subscribe_request(session, ["a"], done))
            answer = description(recorder, "recvonly")
            await self._ask(lambda done: engine.subscribe_answer(session, subscription.tag, answer, done))
        return sdp.parse(body).media[0].port

    async def end(self, count: int) -> None:
        for session in self._sessions:
            await self._ask(lambda done, s=session: self._engine.delete(s, done))  # type: ignore[misc]
        self._sessions.clear()


class RtpProxy:
    """RTPProxy (``rtp.io``) over its control protocol."""

    name = "RTPProxy (rtp.io)"

    def __init__(self, pid: int, port: int) -> None:
        self.pid = pid
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.connect(("127.0.0.1", port))
        self._sock.settimeout(1.0)
        self._cookie = 0
        self._run = 0

    def close(self) -> None:
        self._sock.close()

    def ask(self, command: str) -> str:
        self._cookie += 1
        for _ in range(20):
            with contextlib.suppress(TimeoutError, ConnectionRefusedError):
                self._sock.send(f"{self._cookie} {command}".encode())
                cookie, _, reply = self._sock.recv(2048).decode().strip().partition(" ")
                if cookie == str(self._cookie):
                    if reply.startswith("E"):
                        raise RuntimeError(f"{command}: {reply}")
                    return reply
        raise RuntimeError(f"{command}: no reply")

    async def stream(self, number: int, sender: int, receiver: int, recorder: int | None) -> int:
        self._run += number == 0
        call = f"{self._run}-{number}"
        self.ask(f"U {call} 127.0.0.1 {sender} a;1")
        port = int(self.ask(f"L {call} 127.0.0.1 {receiver} a;1 b;1").split()[0])
        if recorder is not None:
            self.ask(f"C {call} udp:127.0.0.1:{recorder} a;1 b;1")
        return port

    async def end(self, count: int) -> None:
        for number in range(count):
            with contextlib.suppress(RuntimeError):
                self.ask(f"D {self._run}-{number} a")


@contextlib.asynccontextmanager
async def ours(choice: Choice) -> AsyncIterator[Server]:
    relay = await start_relay(RelayOptions(listen=("127.0.0.1", 0), ports=PORTS, packet_loop=choice))
    server = Ng(f"siprec relay, {relay.packet_loop}", relay.pid, relay.ng_address)
    try:
        yield server
    finally:
        server.close()
        await relay.stop()


@contextlib.asynccontextmanager
async def _process(command: list[str]) -> AsyncIterator[int]:
    nothing = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*command, stdin=nothing, stdout=nothing, stderr=nothing)
    try:
        await asyncio.sleep(1.5)
        if process.returncode is not None:
            sys.exit(f"{command[0]} does not start")
        yield process.pid
    finally:
        process.terminate()
        try:
            async with asyncio.timeout(10):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


@contextlib.asynccontextmanager
async def rtpengine() -> AsyncIterator[Server]:
    if shutil.which("rtpengine") is None:
        sys.exit("rtpengine is not installed (Debian: rtpengine-daemon)")
    port = free_port()
    command = ["rtpengine", "--config-file=none", "--table=-1", "--interface=127.0.0.1", "--foreground"]
    command += [f"--listen-ng=127.0.0.1:{port}", "--log-stderr", "--log-level=3", "--pidfile=/dev/null"]
    command += [f"--port-min={PORTS[0]}", f"--port-max={PORTS[1]}"]
    async with _process(command) as pid:
        server = Ng("RTPEngine (user space)", pid, ("127.0.0.1", port))
        try:
            yield server
        finally:
            server.close()


_RTPPROXY = """
import os, rtp.io, sys, tempfile, threading
os.chdir(tempfile.mkdtemp(prefix="rtpproxy-"))
proxy = rtp.io.rtpproxy(debug_level="err", port_min={low}, port_max={high},
                        extra_args=["-F", "-s", "udp:127.0.0.1:{port}", "-l", "127.0.0.1"])
threading.Event().wait()
"""


@contextlib.asynccontextmanager
async def rtpproxy() -> AsyncIterator[Server]:
    port = free_port()
    program = _RTPPROXY.format(low=PORTS[0], high=PORTS[1], port=port)
    async with _process([sys.executable, "-c", program]) as pid:
        server = RtpProxy(pid, port)
        try:
            yield server
        finally:
            server.close()


SERVERS: dict[str, Callable[[], contextlib.AbstractAsyncContextManager[Server]]] = {
    "native": lambda: ours("native"),
    "python": lambda: ours("python"),
    "rtpengine": rtpengine,
    "rtpproxy": rtpproxy,
}
