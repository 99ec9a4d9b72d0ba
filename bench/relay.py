"""CPU of the media relay per packet.

    python bench/relay.py [--streams N] [--seconds S] [--against rtpengine]

Plays N one-way RTP streams (50 packets a second each, 172 octets) through a relay that runs as a process of its own on
loopback: once relayed only, once relayed and forked to a recorder. Prints user + system time of the relay process per
packet received, and what was lost. A receiver whose socket is too small counts as loss, so the sockets here are large.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from siprec import sdp
from siprec.media import sockets
from siprec.media.engine import MediaError, MediaSession
from siprec.media.rtpengine import RtpEngine
from siprec.relay.child import start_relay
from siprec.relay.process import LoopClock, RelayOptions

INTERVAL = 0.02
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Result:
    name: str
    received: int
    sent: int
    copies: int
    seconds: float

    def line(self) -> str:
        cost = self.seconds / max(1, self.received) * 1e6
        expected = self.received * (2 if self.copies else 1)
        got = self.sent + self.copies
        return (
            f"{self.name:42} {self.received:8} packets  {cost:6.2f} µs CPU per packet"
            f"  lost {max(0, expected - got):5} of {expected} sent on"
        )


def cpu(pid: int) -> float:
    """Seconds of user and system time, from /proc; in nanoseconds where the scheduler tells them."""
    total = 0.0
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/schedstat", encoding="ascii") as file:
            total += int(file.read().split()[0]) / 1e9
    if total:
        return total
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def udp_pair() -> tuple[socket.socket, int]:
    while True:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.bind(("127.0.0.1", 0))
        port = int(sock.getsockname()[1])
        if port % 2 == 0:
            return sock, port
        sock.close()


def description(port: int, direction: str = "sendrecv") -> bytes:
    return (
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
        f"m=audio {port} RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\na={direction}\r\n"
    ).encode()


class Sink(threading.Thread):
    """Counts datagrams on many sockets."""

    def __init__(self, targets: list[socket.socket]) -> None:
        super().__init__(daemon=True)
        self._epoll = select.epoll()
        self._sockets = {sock.fileno(): sock for sock in targets}
        for sock in targets:
            sock.setblocking(False)
            self._epoll.register(sock.fileno(), select.EPOLLIN)
        self.count = 0
        self._run = True

    def run(self) -> None:
        buffer = bytearray(2048)
        while self._run:
            for number, _ in self._epoll.poll(0.2):
                with contextlib.suppress(OSError):
                    while True:
                        self._sockets[number].recv_into(buffer)
                        self.count += 1

    def stop(self) -> None:
        self._run = False
        self.join()
        self._epoll.close()


def play(senders: list[tuple[socket.socket, tuple[str, int]]], seconds: float) -> int:
    """Send in real time, spread over each interval; how many packets went out."""
    payload = b"\xff" * 160
    start = time.monotonic()
    step = INTERVAL / max(1, len(senders))
    sent = 0
    for tick in range(round(seconds / INTERVAL)):
        for number, (sock, target) in enumerate(senders):
            due = start + tick * INTERVAL + number * step
            wait = due - time.monotonic()
            if wait > 0.0005:
                time.sleep(wait)
            sock.sendto(struct.pack("!BBHII", 0x80, 0, tick & 0xFFFF, tick * 160, number + 1) + payload, target)
            sent += 1
    return sent


@contextlib.contextmanager
def rtpengine() -> Iterator[tuple[int, tuple[str, int]]]:
    if shutil.which("rtpengine") is None:
        sys.exit("rtpengine is not installed (Debian: rtpengine-daemon)")
    sock, port = udp_pair()
    sock.close()
    command = [
        "rtpengine",
        "--config-file=none",
        "--table=-1",
        "--interface=127.0.0.1",
        f"--listen-ng=127.0.0.1:{port}",
        "--foreground",
    ]
    command += ["--log-stderr", "--log-level=3", "--pidfile=/dev/null", "--port-min=40000", "--port-max=59999"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process.pid, ("127.0.0.1", port)
    finally:
        process.terminate()
        process.wait(20)


async def measure(engine: RtpEngine, pid: int, name: str, streams: int, seconds: float, *, fork: bool) -> Result:
    loop = asyncio.get_running_loop()

    async def ask(start: object) -> object:
        future: asyncio.Future[object] = loop.create_future()
        start(future.set_result)  # type: ignore[operator]
        result = await future
        if isinstance(result, MediaError):
            raise result
        return result

    senders, receivers, recorders, sessions = [], [], [], []
    for number in range(streams):
        (a, port_a), (b, port_b) = udp_pair(), udp_pair()
        session = MediaSession(f"{name}-{fork}-{number}", "a", "b")
        sessions.append(session)
        await ask(lambda done, s=session, p=port_a: engine.offer(s, description(p), done))
        body = await ask(lambda done, s=session, p=port_b: engine.answer(s, description(p), done))
        assert isinstance(body, bytes)
        senders.append((a, ("127.0.0.1", sdp.parse(body).media[0].port)))
        receivers.append(b)
        if fork:
            subscription = await ask(lambda done, s=session: engine.subscribe_request(s, ["a"], done))
            recorder, port = udp_pair()
            recorders.append(recorder)
            tag = subscription.tag  # type: ignore[attr-defined]
            answer = description(port, "recvonly")
            await ask(lambda done, s=session, t=tag, body=answer: engine.subscribe_answer(s, t, body, done))
    sinks = [Sink(receivers), *([Sink(recorders)] if fork else [])]
    for sink in sinks:
        sink.start()
    before = cpu(pid)
    sent = await asyncio.to_thread(play, senders, seconds)
    await asyncio.sleep(1)
    used = cpu(pid) - before
    for sink in sinks:
        sink.stop()
    for session in sessions:
        await ask(lambda done, s=session: engine.delete(s, done))
    for sock in [*(sock for sock, _ in senders), *receivers, *recorders]:
        sock.close()
    return Result(
        f"{name}, {'relayed and forked' if fork else 'relayed'}", sent, sinks[0].count, sinks[-1].count * fork, used
    )


async def bench(streams: int, seconds: float, against: str) -> None:
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        relay = await start_relay(RelayOptions(ports=(20000, 39999)))
        stack.push_async_callback(relay.stop)
        servers = [("siprec relay", relay.pid, relay.ng_address)]
        if against == "rtpengine":
            pid, address = stack.enter_context(rtpengine())
            await asyncio.sleep(1)
            servers.append(("rtpengine (user space)", pid, address))
        print(f"{streams} streams, {seconds:g} s, 50 packets/s each")
        for name, pid, address in servers:
            engine = RtpEngine(LoopClock(loop), sockets.udp(loop, address), name=name)
            stack.callback(engine.close)
            for fork in (False, True):
                print((await measure(engine, pid, name, streams, seconds, fork=fork)).line(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--against", choices=("rtpengine",), default="")
    found = parser.parse_args()
    asyncio.run(bench(found.streams, found.seconds, found.against))


if __name__ == "__main__":
    main()
