"""A proxy with any of the media servers, two recorders, and phones that can hold, move and show video."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile  # type: ignore[import-untyped]
from numpy.typing import NDArray

from siprec import sdp
from siprec.audio.melody import callee_melody, caller_melody
from siprec.cli.child_process import Child
from siprec.cli.phone import Phone
from siprec.cli.phone_media import PhoneMedia
from siprec.recording.events import SiprecEvent
from siprec.server.config_file import parse
from siprec.server.proxy_process import ProxyProcess
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.useragent import Call, Reply
from siprec.sip.useragent import session_description as body_sdp
from tests.interop.media.rig import RTPPROXY_KINDS, free_port, rtpengine, rtpproxy_control
from tests.parallel import share

ENGINES = ("embedded", "rtpengine", "rtpproxy")
DOMAIN = "example.test"
RATE = 8000
SECONDS = 60.0


class Camera(asyncio.DatagramProtocol):
    """The video of a phone: a packet of RTP every 20 ms to where the other side wants it, each with its number."""

    def __init__(self, host: str, ssrc: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind((host, 0))
        self.port = int(self._socket.getsockname()[1])
        self.ssrc, self.sent = ssrc, 0
        self.seen: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self._to: tuple[str, int] | None = None
        self._loop.add_reader(self._socket, self._read)

    def show(self, to: tuple[str, int]) -> None:
        """Begin to send, or go on to another address."""
        first, self._to = self._to is None, to
        if first:
            self._send()

    def _send(self) -> None:
        assert self._to is not None
        self.sent += 1
        head = struct.pack("!BBHII", 0x80, 0x80 | 96, self.sent, self.sent * 1800, self.ssrc)
        # One slice of H.264 per packet.
        self._socket.sendto(head + b"\x65" + struct.pack("!II", self.ssrc, self.sent) * 20, self._to)
        self._timer = self._loop.call_later(0.02, self._send)

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.seen.append(self._socket.recv(2048))

    def stop(self) -> None:
        self._loop.remove_reader(self._socket)
        if self._to is not None:
            self._timer.cancel()
        self._socket.close()


class Caller(Phone):
    """A phone that re-INVITEs: another direction, another port; and answers such offers as it should. With a `camera`
    it has video, too."""

    direction: sdp.Direction = "sendrecv"
    version = 1
    camera: Camera | None = None

    def _connect(self, description: bytes | None) -> None:
        super()._connect(description)
        lines = sdp.parse(description or b"v=0\r\n").media
        if self.camera is not None and len(lines) > 1 and lines[1].port and lines[1].connection is not None:
            self.camera.show((lines[1].connection.address, lines[1].port))

    def _offer(self, media: PhoneMedia) -> bytes:
        description = sdp.parse(super()._offer(media))
        if self.camera is not None:
            maps = {96: sdp.RtpMap("H264", 90000)}
            description.add(sdp.build_media("video", self.camera.port, ["96"], rtpmaps=maps, direction="sendrecv"))
        description.media[0].direction = self.direction
        if description.origin is not None:
            description.origin = sdp.Origin(self.user, "77", str(self.version), description.origin.address)
        return description.to_bytes()

    async def offer_again(self, direction: sdp.Direction) -> None:
        """Re-INVITE; raises what the other side refused it with."""
        assert self.call is not None
        assert self.media is not None
        self.direction, self.version = direction, self.version + 1
        done: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self.call.reinvite(self._offer(self.media), done=done.set_result)
        result = await asyncio.wait_for(done, 10)
        assert isinstance(result, SipResponse), result
        assert result.status == 200, result.status
        self._connect(body_sdp(result))

    def forget(self) -> None:
        """Be ready for another call."""
        if self.media is not None:
            self.media.close()
        self.media = self.call = None
        self.direction, self.version = "sendrecv", 1
        loop = asyncio.get_running_loop()
        self.answered_, self.ended_ = loop.create_future(), loop.create_future()

    async def move(self) -> None:
        """Media on another port from now on; the signal begins anew there."""
        assert self.media is not None
        self.media.close()
        self.media = PhoneMedia(self.host, self.signal)
        await self.offer_again(self.direction)

    def request(self, call: Call, request: SipRequest, reply: Reply) -> None:
        if request.method not in ("INVITE", "UPDATE") or self.media is None or not request.body:
            super().request(call, request, reply)
            return
        body = body_sdp(request)
        self._connect(body)
        self.version += 1
        self.direction = sdp.answer_direction(sdp.parse(body or b"").media[0].direction)
        reply(200, self._offer(self.media))


@dataclass
class World:
    """What runs. `recorders`: URI and directory of each."""

    proxy: ProxyProcess
    recorders: list[tuple[str, Path, Child]]
    alice: Caller
    bob: Caller
    events: list[SiprecEvent] = field(default_factory=list)

    def names(self) -> list[str]:
        return [event.name.removeprefix("E_SIPREC_") for event in self.events]

    def recordings(self, index: int) -> list[tuple[Path, dict[str, Any]]]:
        found = self.recorders[index][1].rglob("recording.json")
        return [(path.parent, json.loads(path.read_text())) for path in found]

    async def talk(self, packets: int = 60) -> None:
        """Until each phone has heard that many more packets."""
        media = [phone.media for phone in (self.alice, self.bob)]
        heard = [each.received for each in media if each is not None]
        await until(
            lambda: all(m is not None and m.received >= n + packets for m, n in zip(media, heard, strict=True)),
            "both are heard",
        )


async def until(condition: Any, what: str, limit: float = 40.0) -> None:
    try:
        async with asyncio.timeout(limit):
            while not condition():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"never happened: {what}") from None


@asynccontextmanager
async def world(
    tmp_path: Path, engine: str, *, host: str = "127.0.0.1", recorders: int = 1, servers: str = ""
) -> AsyncIterator[World]:
    """`host`: the parties' and the proxy's address; recorders are on 127.0.0.1. `servers`: the configuration of the
    media servers, for engines of the test's own."""
    bracketed = f"[{host}]" if ":" in host else host
    async with AsyncExitStack() as stack:
        media = f'[relay]\ninterfaces = ["127.0.0.1", "::1"]\nports = "{_ports(30000)}"\n'
        if servers:
            media = servers
        elif engine == "rtpengine":
            port = free_port()
            stack.enter_context(rtpengine(port, "udp", interfaces=("127.0.0.1", "::1")))
            media = f'[media]\nserver = "ng:udp:127.0.0.1:{port}"\n'
        elif engine == "rtpproxy":
            listen = ("-6", host) if ":" in host else ("-l", host)
            kind = RTPPROXY_KINDS[len(str(tmp_path)) % len(RTPPROXY_KINDS)]
            media = f'[media]\nserver = "rtpproxy:{stack.enter_context(rtpproxy_control(kind, listen))}"\n'
        running = []
        for index in range(recorders):
            child = Child(f"recorder-{index}")
            stack.push_async_callback(child.stop)
            file, directory = tmp_path / f"recorder-{index}.toml", tmp_path / f"recordings-{index}"
            file.write_text(
                f'[recorder]\nlisten = ["tcp:127.0.0.1:0"]\ndirectory = {json.dumps(str(directory))}\n'
                f'ports = "{_ports(40000 + 500 * index)}"\n'
            )
            await child.start("recorder", "--config", str(file))
            running.append((f"sip:127.0.0.1:{child.address('tcp')[1]};transport=tcp", directory, child))
        proxy = ProxyProcess(
            parse(
                f'[sip]\nlisten = ["udp:{bracketed}:0", "tcp:127.0.0.1:0"]\ndomains = ["{DOMAIN}"]\n{media}'
                f"[recording.default]\nsrs = {json.dumps([uri for uri, _, _ in running])}\nwatch = 2.0\n"
                'setup_timeout = 2.0\n[[route]]\nmethod = "INVITE"\nregistrar = true\nrecord = "default"\n'
            )
        )
        stack.push_async_callback(proxy.stop)
        await proxy.start()
        callers = await phones(stack, proxy, host)
        found = World(proxy, running, callers[0], callers[1])
        proxy.events.subscribe(found.events.append)
        yield found


async def phones(stack: AsyncExitStack, proxy: ProxyProcess, host: str = "127.0.0.1") -> list[Caller]:
    """Alice and Bob, registered. A phone makes one call in its life."""
    address = next(x.address for x in proxy.transport.listeners if x.address.transport == "udp")
    callers = []
    for user, name, melody in (("alice", "Alice", caller_melody), ("bob", "Bob", callee_melody)):
        caller = Caller(user, name, DOMAIN, host, (address.host, address.port), melody(SECONDS, RATE))
        stack.push_async_callback(caller.close)
        await caller.start()
        await caller.register()
        callers.append(caller)
    return callers


def _ports(base: int) -> str:
    first = base + share(2000, 5)
    return f"{first}-{first + 399}"


def holds(signal: NDArray[Any], piece: NDArray[Any]) -> float:
    """How alike `piece` is to that part of `signal` that is most like it, from 0 to 1."""
    size = 1 << int(np.ceil(np.log2(len(signal) + len(piece))))
    product = np.fft.irfft(np.fft.rfft(signal, size) * np.conj(np.fft.rfft(piece, size)), size)[: len(signal)]
    energy = np.concatenate(([0.0], np.cumsum(np.square(signal, dtype=np.float64))))
    windows = np.sqrt(np.maximum(energy[len(piece) :] - energy[: -len(piece)], 1e-9))
    whole = float(np.sqrt(np.square(piece, dtype=np.float64).sum())) or 1e-9
    return float((product[: len(windows)] / windows / whole).max())


def check_audio(world: World, directory: Path, recording: dict[str, Any], *, last: bool = False) -> None:
    """A second of each stream, the first or the last one, is what that party said, and not what the other one did."""
    names = {p["participant_id"]: p["names"][0]["aor"] for p in recording["participants"]}
    heard = set()
    for stream in recording["streams"]:
        who = names[stream["participants"][0]].removeprefix("sip:").partition("@")[0]
        audio, rate = soundfile.read(directory / stream["file"], dtype="float32")
        assert rate == RATE
        sounding = audio[np.abs(audio) > 1e-4]
        assert len(sounding) > RATE, (who, len(audio))
        start = max(0, len(audio) - int(1.2 * RATE)) if last else int(np.argmax(np.abs(audio) > 1e-4))
        piece = audio[start : start + RATE]
        scores = {phone.user: holds(np.asarray(phone.signal, np.float64), piece) for phone in (world.alice, world.bob)}
        assert scores[who] > 0.95, (who, scores)
        assert min(scores.values()) < 0.6, (who, scores)
        heard.add(who)
    assert heard == {"alice", "bob"}
