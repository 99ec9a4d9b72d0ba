"""A recorder on real sockets under virtual time: an hour of RTP passes in seconds, and always the same way."""

from __future__ import annotations

import heapq
import itertools
import random
import select
import socket
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile  # type: ignore[import-untyped]
from numpy.typing import NDArray

from siprec import sdp
from siprec.recorder.library import RecorderLibrary
from siprec.recorder.ports import PortPool
from siprec.recorder.recorder import Recorder
from siprec.recorder.recording_result import RecordingResult
from siprec.recorder.session import RecordingSession
from siprec.recorder.settings import RecorderSettings

WALL = 1_772_442_898.0  # 2026-03-02T09:14:58Z


class VirtualTimer:
    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self.callback = None


class VirtualClock:
    def __init__(self) -> None:
        self.time = 5000.0
        self._queue: list[tuple[float, int, VirtualTimer]] = []
        self._count = itertools.count()

    def now(self) -> float:
        return self.time

    def wall(self) -> float:
        return WALL + self.time - 5000.0

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> VirtualTimer:
        timer = VirtualTimer(lambda: callback(*args))
        heapq.heappush(self._queue, (self.time + delay, next(self._count), timer))
        return timer

    def advance(self, until: float) -> None:
        while self._queue and self._queue[0][0] <= until:
            when, _, timer = heapq.heappop(self._queue)
            self.time = max(self.time, when)
            if timer.callback is not None:
                timer.callback()
        self.time = max(self.time, until)

    @property
    def pending(self) -> int:
        return sum(timer.callback is not None for _, _, timer in self._queue)


class ManualPoller:
    """Calls the readers when told to: readiness comes from the real sockets."""

    def __init__(self) -> None:
        self.readers: dict[int, Callable[..., object]] = {}

    def add_reader(self, fd: int, callback: Callable[..., object], /, *args: object) -> None:
        self.readers[fd] = callback

    def remove_reader(self, fd: int, /) -> bool:
        return self.readers.pop(fd, None) is not None

    def pump(self) -> None:
        while self.readers:
            ready, _, _ = select.select(list(self.readers), [], [], 0)
            if not ready:
                return
            for fd in ready:
                self.readers[fd]()


@dataclass
class Bench:
    """A recorder, a session with `lines` m-lines, and a socket that sends to them."""

    root: Path
    settings: RecorderSettings = field(default_factory=RecorderSettings)
    address: str = "127.0.0.1"

    def __post_init__(self) -> None:
        self.clock = VirtualClock()
        self.poller = ManualPoller()
        self.library = RecorderLibrary(self.root)
        self.pool = PortPool(self.address, quarantine=30, now=self.clock.now)
        self.recorder = Recorder(self.library, self.pool, self.clock, self.poller, self.settings)
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_DGRAM)
        self.sock.bind((self.address, 0))
        self.rtcp = socket.socket(family, socket.SOCK_DGRAM)
        self.rtcp.bind((self.address, 0))
        self.rtcp.setblocking(False)
        self.ports: list[int] = []
        self._session: RecordingSession | None = None

    @property
    def session(self) -> RecordingSession:
        if self._session is None:
            self._session = self.recorder.session(
                call_id="rs-1@src", from_uri="sip:src@example.com", src_address=self.address
            )
        return self._session

    def body(self, *media: str) -> bytes:
        family = "IP6" if ":" in self.address else "IP4"
        lines = ["v=0", f"o=- 1 1 IN {family} {self.address}", "s=-", f"c=IN {family} {self.address}", "t=0 0"]
        for block in media:
            lines += block.strip().split("\n")
        return "\r\n".join(lines).encode() + b"\r\n"

    def audio(
        self, label: str, formats: str = "0", *attributes: str, direction: str = "sendonly", port: int | None = None
    ) -> str:
        number = self.sock.getsockname()[1] if port is None else port
        block = [f"m=audio {number} RTP/AVP {formats}", f"a=label:{label}", f"a={direction}"]
        if number:
            block.append(f"a=rtcp:{self.rtcp.getsockname()[1]}")
        return "\n".join([*block, *(f"a={a}" for a in attributes)])

    def offer(self, *media: str, metadata: bytes | None = None) -> sdp.SessionDescription:
        answer = sdp.parse(self.session.offer(self.body(*media), metadata))
        self.ports = [m.port for m in answer.media]
        return answer

    def play(self, *streams: Iterable[tuple[float, bytes]], lines: Iterable[int] = (0, 1, 2, 3)) -> None:
        """Send datagrams at their times (seconds from now), stream k to m-line lines[k]."""
        start = self.clock.now()
        merged: list[tuple[float, int, bytes]] = []
        for stream, line in zip(streams, lines, strict=False):
            merged += [(at, line, data) for at, data in stream]
        merged.sort(key=lambda item: item[0])
        for at, line, data in merged:
            self.clock.advance(start + at)
            self.sock.sendto(data, (self.address, self.ports[line]))
            self.poller.pump()

    def inject(self, *streams: Iterable[tuple[float, bytes]], address: tuple[str, int] | None = None) -> None:
        """Like :meth:`play` without sockets, for long streams: datagrams of stream k arrive on m-line k."""
        start = self.clock.now()
        lines = self.session.lines
        source = address or (self.address, self.sock.getsockname()[1])
        settled = 0.0
        for at, line, data in heapq.merge(*([(at, k, data) for at, data in s] for k, s in enumerate(streams))):
            while self.clock.now() < start + at - 20:
                self.clock.advance(self.clock.now() + 20)
                self.settle()
            self.clock.advance(start + at)
            if at > settled + 20:
                settled = at
                self.settle()
            lines[line].rtp_datagram(data, source, self.clock.now())

    def settle(self) -> None:
        """Let the disk thread, for which time is real, catch up."""
        self.recorder.writer.call(lambda: None).result(timeout=60)

    def wait(self, seconds: float) -> None:
        end = self.clock.now() + seconds
        settled = self.clock.now()
        while self.clock.now() < end:
            self.clock.advance(min(self.clock.now() + 0.1, end))
            self.poller.pump()
            if self.clock.now() > settled + 20:
                settled = self.clock.now()
                self.settle()

    def finish(self) -> RecordingResult:
        self.poller.pump()
        return self.session.close("BYE").result(timeout=60)

    def close(self) -> None:
        self.recorder.close()
        self.sock.close()
        self.rtcp.close()


def read(path: Path | None) -> NDArray[np.int16]:
    """Frames by channels."""
    assert path is not None
    data, _ = soundfile.read(str(path), dtype="int16", always_2d=True)
    found: NDArray[np.int16] = data
    return found


def with_network(
    stream: Iterable[tuple[float, bytes]],
    seed: int,
    *,
    loss: float = 0.0,
    duplicate: float = 0.0,
    jitter: float = 0.0,
) -> list[tuple[float, bytes]]:
    """The same datagrams as a bad network delivers them; the first always arrives."""
    rng = random.Random(seed)
    out = []
    for number, (at, data) in enumerate(stream):
        if number and rng.random() < loss:
            continue
        out.append((at + rng.random() * jitter, data))
        if rng.random() < duplicate:
            out.append((at + rng.random() * jitter, data))
    return sorted(out, key=lambda item: item[0])


def restamp(data: bytes, *, sequence: int = 0, timestamp: int = 0, ssrc: int | None = None) -> bytes:
    """Shift the sequence number and timestamp of an RTP packet, or give it another SSRC."""
    first, second, old_sequence, old_timestamp, old_ssrc = struct.unpack_from("!BBHII", data)
    head = struct.pack(
        "!BBHII", first, second, old_sequence + sequence & 0xFFFF, old_timestamp + timestamp & 0xFFFFFFFF,
        old_ssrc if ssrc is None else ssrc,
    )  # fmt: skip
    return head + data[12:]
