"""CPU of media relays per packet, and what they add in delay and loss.

    python bench/relay.py [--streams 100,1000,2000] [--seconds S] [--servers native,rtpengine,python,rtpproxy] [--limit]

Plays N one-way RTP streams (50 packets a second each, 172 octets, evenly spread) through each server, which runs as a
process of its own on loopback: once relayed only, once relayed and forked to a recorder; and, for comparison, without
any server. Prints per packet received the user + system time of the server process, what was lost on the way, and the
delay from sender to receiver (bench/traffic.c sends and receives; it is compiled on the spot), then how the first
server compares with each other one in the same run: CPU as a ratio, and what each adds to the delay. ``--limit`` looks
for the number of streams at which more than one packet in a thousand is lost, in steps of 1,000.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.relay_servers import SERVERS, Server
from siprec.media.engine import MediaError

PAYLOAD = 160
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Result:
    """Of one run. `p50`, `p99`: µs from sending to receiving; `cpu`: seconds of the server. `rate`: packets
    a second that were sent; less than 50 a stream if the host had no time for it."""

    name: str
    streams: int
    sent: int
    relayed: int
    forked: int
    copies: bool
    p50: int
    p99: int
    cpu: float
    rate: float

    @property
    def lost(self) -> int:
        """Packets that did not come out, relayed or forked."""
        return max(0, self.sent - self.relayed) + (max(0, self.sent - self.forked) if self.copies else 0)

    @property
    def loss(self) -> float:
        return self.lost / max(1, self.sent * (1 + self.copies))

    def line(self) -> str:
        kind = "relayed and forked" if self.copies else "relayed"
        return (
            f"{self.name:24} {self.streams:5} streams, {self.rate:6.0f}/s {kind:18}"
            f" {self.cpu / max(1, self.sent) * 1e6:7.2f} µs CPU"
            f"   lost {self.lost:6} of {self.sent * (1 + self.copies):8}   delay p50 {self.p50:5} p99 {self.p99:6} µs"
        )


def compared(ours: Result, other: Result, direct: Result) -> str:
    """CPU of `ours` per packet as a ratio to that of `other`, and the delay that each adds to `direct`."""
    ratio = ours.cpu / max(1, ours.sent) / max(1e-9, other.cpu / max(1, other.sent))
    added = [f"p50 {max(0, each.p50 - direct.p50)} p99 {max(0, each.p99 - direct.p99)} µs" for each in (ours, other)]
    kind = "relayed and forked" if ours.copies else "relayed"
    return (
        f"    {kind}, {ours.streams} streams: {ours.name} takes {ratio:.2f} of the CPU of {other.name}; "
        f"added delay {added[0]} against {added[1]}"
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


def udp() -> socket.socket:
    """A socket on an even port, as RTP has them."""
    while True:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.bind(("127.0.0.1", 0))
        if sock.getsockname()[1] % 2 == 0:
            return sock
        sock.close()


def compile_traffic(folder: str) -> str:
    """bench/traffic.c as a program; its path."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        sys.exit("bench/relay.py needs a C compiler for its load (Debian: gcc)")
    program = f"{folder}/traffic"
    source = Path(__file__).with_name("traffic.c")
    subprocess.run([compiler, "-O2", "-pthread", "-o", program, str(source)], check=True)
    return program


async def play(program: str, lines: list[str], descriptors: list[int], seconds: float) -> list[list[str]]:
    process = await asyncio.create_subprocess_exec(
        program, f"{seconds}", f"{PAYLOAD}", stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=descriptors
    )
    out, _ = await process.communicate("\n".join(lines).encode())
    if process.returncode != 0:
        sys.exit(f"traffic ended with status {process.returncode}")
    return [line.split() for line in out.decode().splitlines()]


async def measure(server: Server | None, program: str, streams: int, seconds: float, *, fork: bool) -> Result:
    """One run through `server`, or from sender to receiver directly."""
    with contextlib.ExitStack() as opened:
        lines, descriptors = [], []
        for number in range(streams):
            sender, receiver = opened.enter_context(udp()), opened.enter_context(udp())
            recorder = opened.enter_context(udp()) if fork else None
            names = [each.getsockname()[1] for each in (sender, receiver, recorder) if each is not None]
            port = names[1]
            if server is not None:
                port = await server.stream(number, names[0], names[1], names[2] if fork else None)
            lines += [f"S {sender.fileno()} {port}", f"R {receiver.fileno()}"]
            descriptors += [sender.fileno(), receiver.fileno()]
            if recorder is not None:
                lines.append(f"F {recorder.fileno()}")
                descriptors.append(recorder.fileno())
        await asyncio.sleep(0.5)
        before = cpu(server.pid) if server is not None else 0.0
        sent, relayed, forked = await play(program, lines, descriptors, seconds)
        used = cpu(server.pid) - before if server is not None else 0.0
        if server is not None:
            await server.end(streams)
        name = server.name if server is not None else "no server"
        delays = int(relayed[3]), int(relayed[5])
        return Result(
            name,
            streams,
            int(sent[1]),
            int(relayed[1]),
            int(forked[1]),
            fork,
            *delays,
            used,
            int(sent[1]) / float(sent[3]),
        )


async def bench(names: list[str], counts: list[int], seconds: float, *, limit: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        program = compile_traffic(folder)
        for streams in counts:
            direct = await measure(None, program, streams, seconds, fork=False)
            print(direct.line(), flush=True)
            found: dict[bool, list[Result]] = {False: [], True: []}
            for name in names:
                async with SERVERS[name]() as server:
                    for fork in (False, True):
                        result = await measure(server, program, streams, seconds, fork=fork)
                        found[fork].append(result)
                        print(result.line(), flush=True)
            for results in found.values():
                for other in results[1:]:
                    print(compared(results[0], other, direct), flush=True)
        for name in names if limit else ():
            for streams in range(1000, 6001, 1000):
                async with SERVERS[name]() as server:
                    try:
                        result = await measure(server, program, streams, seconds, fork=True)
                    except (MediaError, RuntimeError) as error:
                        print(f"{name:24} {streams:5} streams: {error}", flush=True)
                        break
                    print(result.line(), flush=True)
                if result.loss > 0.001:
                    break


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", default="100,1000,2000", help="numbers of streams, separated by commas")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--servers", default="native,rtpengine", help=f"of {', '.join(SERVERS)}; or all")
    parser.add_argument("--limit", action="store_true", help="look for the number of streams each server holds")
    found = parser.parse_args()
    names = list(SERVERS) if found.servers == "all" else found.servers.split(",")
    if unknown := set(names) - set(SERVERS):
        sys.exit(f"no such server: {', '.join(sorted(unknown))}")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(bench(names, [int(each) for each in found.streams.split(",")], found.seconds, limit=found.limit))


if __name__ == "__main__":
    main()
