"""A media server that really runs (our relay, RTPEngine or RTPProxy), a client for it, and endpoints that speak RTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

import pytest

from siprec import sdp
from siprec.media import rtpproxy_stream, sockets
from siprec.media.engine import (
    MediaError,
    MediaFlags,
    MediaServer,
    MediaSession,
    MediaStatistics,
    Subscription,
)
from siprec.media.ng import Reply
from siprec.media.request_tracker import Opener
from siprec.media.rtpengine import RtpEngine
from siprec.media.rtpproxy import RtpProxy
from siprec.relay.child import start_relay
from siprec.relay.ports import Interface
from siprec.relay.process import LoopClock, RelayOptions
from tests.parallel import own_port, share

T = TypeVar("T")
KINDS = ("native", "python", "rtpengine", "rtpproxy")
"""Our relay with either packet loop, RTPEngine, and RTPProxy."""
NG = KINDS[:3]
OURS = KINDS[:2]
PATIENCE = 20.0


def free_port(kind: int = socket.SOCK_DGRAM, host: str = "127.0.0.1") -> int:
    if ":" not in host:
        return own_port()
    with socket.socket(socket.AF_INET6, kind) as sock:
        sock.bind((host, 0))
        return int(sock.getsockname()[1])


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until `condition` holds, long; fail with `what`."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"never happened: {what}")
        await asyncio.sleep(0.005)


class Endpoint:
    """A phone's or a recorder's RTP port (and RTCP on the next): sends numbered packets, keeps what it receives."""

    def __init__(self, host: str = "127.0.0.1", ssrc: int = 0x11223344) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.host = host
        self.ssrc = ssrc
        self.seq = 1000
        self.timestamp = 5000
        for _ in range(200):
            self.rtp = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self.rtcp = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self.rtp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            try:
                self.rtp.bind((host, 0))
                self.port = int(self.rtp.getsockname()[1])
                if self.port % 2 == 0 and self.port < 65535:
                    self.rtcp.bind((host, self.port + 1))
                    break
            except OSError:
                pass
            self.close()
        self.received: list[bytes] = []
        self.sources: list[Any] = []
        self.reports: list[bytes] = []

    def close(self) -> None:
        self.rtp.close()
        self.rtcp.close()

    def send(self, to: tuple[str, int], count: int = 1, payload_type: int = 0) -> list[bytes]:
        packets = []
        for _ in range(count):
            self.seq = (self.seq + 1) & 0xFFFF
            self.timestamp += 160
            payload = struct.pack("!I", self.seq) * 40
            packet = struct.pack("!BBHII", 0x80, payload_type, self.seq, self.timestamp, self.ssrc) + payload
            self.rtp.sendto(packet, to)
            packets.append(packet)
        return packets

    def poll(self) -> list[bytes]:
        """Take what has arrived; everything so far."""
        with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
            while True:
                packet, source = self.rtp.recvfrom(2048)
                self.received.append(packet)
                self.sources.append(source)
        with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
            while True:
                self.reports.append(self.rtcp.recv(2048))
        return self.received

    def sdp(self, *, version: int = 1, direction: str = "", formats: str = "0 8 101", connection: str = "") -> bytes:
        family = sdp.address_family(self.host)
        lines = [
            "v=0",
            f"o=- 77 {version} IN {family} {self.host}",
            "s=-",
            connection or f"c=IN {family} {self.host}",
            "t=0 0",
            f"m=audio {self.port} RTP/AVP {formats}",
            "a=rtpmap:0 PCMU/8000",
            *(["a=rtpmap:8 PCMA/8000"] if " 8" in formats else []),
            "a=rtpmap:101 telephone-event/8000",
            "a=fmtp:101 0-15",
            "a=x-unknown:kept  as it is",
            *([f"a={direction}"] if direction else []),
        ]
        return ("\r\n".join(lines) + "\r\n").encode()


def renumbered(packets: list[bytes], by: int) -> list[bytes]:
    """The packets with sequence numbers that are lower by `by`: so many were withheld before them."""
    return [packet[:2] + ((int.from_bytes(packet[2:4]) - by) & 0xFFFF).to_bytes(2) + packet[4:] for packet in packets]


def target(body: bytes, index: int = 0) -> tuple[str, int]:
    """Where `body` says m-line `index` receives."""
    media = sdp.parse(body).media[index]
    assert media.connection is not None
    return media.connection.address, media.port


class Rig:
    """The client's callbacks as awaitables."""

    def __init__(self, engine: MediaServer, kind: str) -> None:
        self.engine = engine
        self.kind = kind
        self.endpoints: list[Endpoint] = []

    def endpoint(self, host: str = "127.0.0.1", ssrc: int = 0x11223344) -> Endpoint:
        endpoint = Endpoint(host, ssrc)
        self.endpoints.append(endpoint)
        return endpoint

    async def _call(self, start: Callable[[Callable[[Any], None]], None]) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        start(future.set_result)
        result = await future
        if isinstance(result, MediaError):
            raise result
        return result

    async def offer(self, session: MediaSession, body: bytes, flags: MediaFlags | None = None) -> bytes:
        wish = flags or MediaFlags(replace=("origin",))
        result: bytes = await self._call(lambda done: self.engine.offer(session, body, done, flags=wish))
        return result

    async def answer(self, session: MediaSession, body: bytes, flags: MediaFlags | None = None) -> bytes:
        wish = flags or MediaFlags(replace=("origin",))
        result: bytes = await self._call(lambda done: self.engine.answer(session, body, done, flags=wish))
        return result

    async def subscribe(
        self, session: MediaSession, tags: Sequence[str], tag: str = "", flags: MediaFlags | None = None
    ) -> Subscription:
        result: Subscription = await self._call(
            lambda done: self.engine.subscribe_request(session, tags, done, flags=flags or MediaFlags(), tag=tag)
        )
        return result

    async def accept(self, session: MediaSession, tag: str, body: bytes) -> None:
        await self._call(lambda done: self.engine.subscribe_answer(session, tag, body, done))

    async def pause(self, session: MediaSession, tag: str) -> None:
        await self._call(lambda done: self.engine.pause(session, tag, done))

    async def resume(self, session: MediaSession, tag: str) -> None:
        await self._call(lambda done: self.engine.resume(session, tag, done))

    async def unsubscribe(self, session: MediaSession, tag: str) -> None:
        await self._call(lambda done: self.engine.unsubscribe(session, tag, done))

    async def delete(self, session: MediaSession) -> MediaStatistics | None:
        found: MediaStatistics | None = await self._call(lambda done: self.engine.delete(session, done))
        return found

    async def query(self, session: MediaSession) -> MediaStatistics:
        result: MediaStatistics = await self._call(lambda done: self.engine.query(session, done))
        return result

    async def ping(self) -> None:
        await self._call(self.engine.ping)

    async def raw(self, command: str, **arguments: object) -> Reply:
        assert isinstance(self.engine, RtpEngine)
        client = self.engine.client
        named = {key.replace("_", "-"): value for key, value in arguments.items()}
        result: Reply = await self._call(lambda done: client.request(command, named, done))
        return result


def recorder_answer(
    subscription: Subscription, recorders: Sequence[Endpoint | None], direction: sdp.Direction = "recvonly"
) -> bytes:
    """What an SRS answers: one port per stream, all formats; None refuses the stream."""
    host = next((each.host for each in recorders if each is not None), "127.0.0.1")
    sections = [
        sdp.answer_media(stream.section, port=each.port if each is not None else 0, wanted=direction)
        for stream, each in zip(subscription.streams, recorders, strict=True)
    ]
    if direction == "inactive":
        for section in sections:
            section.direction = "inactive"
    return sdp.build_session(sdp.Origin(address=host), sections).to_bytes()


@contextlib.asynccontextmanager
async def running(kind: str, *, transport: str = "udp", options: RelayOptions | None = None) -> AsyncIterator[Rig]:
    """Start a server of `kind`, connect to it, and end both."""
    async with contextlib.AsyncExitStack() as stack:
        loop = asyncio.get_running_loop()
        engine: MediaServer
        if kind == "rtpproxy":
            engine = RtpProxy(
                LoopClock(loop), stack.enter_context(rtpproxy(loop, transport)), name=kind, timeout=PATIENCE
            )
        else:
            if kind in OURS:
                need(kind)
                relay = await start_relay(options or relay_options(packet_loop=kind))
                stack.push_async_callback(relay.stop)
                address = relay.ng_address
            else:
                address = ("127.0.0.1", free_port(socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM))
                stack.enter_context(rtpengine(address[1], transport))
            opener = (sockets.udp if transport == "udp" else sockets.tcp)(loop, address)
            engine = RtpEngine(LoopClock(loop), opener, name=kind, timeout=PATIENCE)
        stack.callback(engine.close)
        rig = Rig(engine, kind)
        end = time.monotonic() + PATIENCE
        while True:
            try:
                await rig.ping()
                break
            except MediaError:
                if time.monotonic() > end:
                    raise
                await asyncio.sleep(0.05)
        try:
            yield rig
        finally:
            for endpoint in rig.endpoints:
                endpoint.close()


def need(kind: str) -> None:
    """Skip the test where the native packet loop was not built."""
    if kind == "native":
        pytest.importorskip("siprec.relay._native", reason="the native packet loop was not built (no C compiler)")


def _is_free(low: int) -> bool:
    """Whether nobody else has this range just now, as far as a look at both ends of it tells."""
    for port in (low, low + 1, low + 398, low + 399):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True


def relay_options(**changes: Any) -> RelayOptions:
    ours = 20000 + share(1000, 5)
    low = next((low for low in (ours + (free_port() % 12) * 50 for _ in range(200)) if _is_free(low)), ours)
    return RelayOptions(
        **{
            "listen": ("127.0.0.1", 0),
            "interfaces": (Interface("127.0.0.1"), Interface("::1")),
            "ports": (low, low + 399),
            **changes,
        }
    )


@contextlib.contextmanager
def rtpengine(port: int, transport: str, interfaces: Sequence[str] = ("127.0.0.1",)) -> Any:
    if shutil.which("rtpengine") is None:
        pytest.skip("rtpengine is not installed (Debian: rtpengine-daemon)")
    low = 10000 + share(2000, 5) + port % 16 * 100
    process = subprocess.Popen(
        [
            "rtpengine",
            "--config-file=none",  # the packaged one opens further, fixed ports
            "--table=-1",
            *(f"--interface={each}" for each in interfaces),
            f"--listen-{'tcp-' if transport == 'tcp' else ''}ng=127.0.0.1:{port}",
            "--foreground",
            "--log-stderr",
            "--log-level=3",
            "--num-threads=2",
            "--pidfile=/dev/null",
            f"--port-min={low}",
            f"--port-max={low + 399}",
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


_RTPPROXY = """
import json, sys, rtp.io
server = rtp.io.rtpproxy(**json.loads(sys.argv[1]))
print("up", flush=True)
sys.stdin.read()
"""


RTPPROXY_KINDS = ("udp", "tcp", "unix", "cunix")


@contextlib.contextmanager
def rtpproxy_control(transport: str = "udp", listen: Sequence[str] = ("-l", "127.0.0.1")) -> Iterator[str]:
    """The real engine (``rtp.io``) as a process: where it is controlled, ``udp:127.0.0.1:PORT`` or ``unix:PATH``."""
    pytest.importorskip("rtp.io", reason="rtp.io is missing: pip install -e '.[test]'")
    with tempfile.TemporaryDirectory() as directory:  # it writes its accounts into the working directory
        port = free_port(socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM)
        control = f"{transport}:{directory}/control" if "unix" in transport else f"{transport}:127.0.0.1:{port}"
        low = 10000 + share(2000, 5) + port % 16 * 100
        arguments = {"debug_level": "crit", "port_min": low, "port_max": low + 398}
        process = subprocess.Popen(
            [sys.executable, "-c", _RTPPROXY, json.dumps({**arguments, "extra_args": ["-F", "-s", control, *listen]})],
            cwd=directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            yield control
        finally:
            process.kill()
            process.communicate()


@contextlib.contextmanager
def rtpproxy(
    loop: asyncio.AbstractEventLoop, transport: str = "udp", listen: Sequence[str] = ("-l", "127.0.0.1")
) -> Iterator[Opener]:
    """The same, as the opener of a connection to it."""
    with rtpproxy_control(transport, listen) as control:
        place = control.partition(":")[2]
        if "unix" in transport:
            yield (rtpproxy_stream.unix if transport == "unix" else rtpproxy_stream.cunix)(loop, place)
        else:
            host, _, port = place.rpartition(":")
            yield (rtpproxy_stream.tcp if transport == "tcp" else sockets.udp)(loop, (host, int(port)))


def drive(kind: str, scenario: Callable[[Rig], Coroutine[Any, Any, None]], **options: Any) -> None:
    """Run `scenario` against a server of `kind`."""

    async def whole() -> None:
        async with running(kind, **options) as rig:
            await scenario(rig)

    asyncio.run(whole())


_M_PORTS = re.compile(rb"m=\w+ (\d+)")


def ports_of(body: bytes) -> list[int]:
    return [int(port) for port in _M_PORTS.findall(body)]
