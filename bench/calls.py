"""CPU and memory of the proxy per call, its highest clean rate, and the same of Kamailio.

    python bench/calls.py [--rates 50,150,300] [--seconds S] [--hold S] [--kinds proxied,relayed,recorded]
                          [--media rtpengine|relay] [--srs sipp|recorder] [--against kamailio]
                          [--memory CALLS] [--ramp] [--no-settle]

SIPp calls SIPp through ``siprec serve`` on loopback: proxied only, with media relayed, recorded (by SIPp as SRS, or by
``siprec recorder``). The parties send no RTP (see bench/relay.py for that). Prints user + system time per call of the
proxy process, of the media server and of the SRS. The time until the last transaction timer has run (32 s) is counted
in, unless ``--no-settle`` is given.

``--ramp`` looks for the highest rate at which no call fails and nothing is retransmitted. ``--against kamailio`` runs
Debian's Kamailio with tm, rr, dialog and rtpengine on the same calls and prints the ratio.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.call_load import Load, highest_clean, place_calls
from bench.call_servers import KINDS, Kamailio, Server, Siprec, cpu, memory

_TITLE = (
    f"{'server':9} {'calls are':9} {'asked/s':>7} {'placed/s':>8} {'calls':>6} {'failed':>6} {'resent':>6}"
    f" {'proxy':>7} {'media':>7} {'SRS':>7}   µs of CPU per call"
)


@dataclass(frozen=True, slots=True)
class Result:
    """One run. `cost` is µs of CPU per call, by part."""

    server: str
    kind: str
    asked: float
    load: Load
    cost: dict[str, float]

    def line(self) -> str:
        cost = " ".join(f"{self.cost[part]:7.0f}" if part in self.cost else f"{'-':>7}" for part in ("proxy", "media"))
        srs = f"{self.cost['SRS']:7.0f}" if self.kind == "recorded" else f"{'-':>7}"
        load = self.load
        return (
            f"{self.server:9} {self.kind:9} {self.asked:7.0f} {load.rate:8.1f} {load.calls:6} {load.failed:6}"
            f" {load.retransmitted:6} {cost} {srs}{'' if load.clean else '   overloaded'}"
        )


def ratios(results: list[Result]) -> list[str]:
    """Our CPU per call as a multiple of Kamailio's, for each kind and rate that both have run."""
    theirs = {(each.kind, each.asked): each.cost["proxy"] for each in results if each.server == "kamailio"}
    found = []
    for each in results:
        cost = theirs.get((each.kind, each.asked))
        if each.server == "siprec" and cost:
            found.append(f"{each.kind:9} at {each.asked:4.0f}/s: {each.cost['proxy'] / cost:.2f} x Kamailio's")
    return found


class Runs:
    """Numbers the directories of the runs."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._number = 0

    def directory(self) -> Path:
        self._number += 1
        return self._directory / f"{self._number:03}"

    def calls(
        self, server: Server, kind: str, calls: int, rate: float, hold: float,
        established: Callable[[], object] | None = None,
    ) -> Load:  # fmt: skip
        srs = server.srs if kind == "recorded" else None
        return place_calls(
            self.directory(), proxy=server.port, callee=server.callee, user=KINDS[kind], calls=calls, rate=rate,
            hold=hold, established=established, srs=srs,
        )  # fmt: skip


def measure(runs: Runs, server: Server, kind: str, rate: float, options: argparse.Namespace) -> Result:
    """CPU per call at one rate."""
    before = {part: cpu(pids) for part, pids in server.parts.items()}
    load = runs.calls(server, kind, round(rate * options.seconds), rate, options.hold)
    # After an overload some calls never end.
    if options.settle and load.clean and not server.settle():
        print(f"{server.name} {kind}: not at rest after a minute", file=sys.stderr)
    cost = {part: (cpu(pids) - before[part]) / load.calls for part, pids in server.parts.items()}
    return Result(server.name, kind, rate, load, cost)


def memory_per_call(runs: Runs, server: Server, kind: str, calls: int) -> float:
    """Octets that the proxy needs per call that is up, after its set-up's transactions are gone."""
    found: list[int] = []
    before = memory(server.parts["proxy"])
    runs.calls(server, kind, calls, 50, 36, lambda: found.append(memory(server.parts["proxy"])))
    return (found[0] - before) / calls if found else 0.0


def is_clean(runs: Runs, make: Callable[[Path], Server], kind: str, seconds: float, rate: float) -> bool:
    """A fresh server at `rate`: an overloaded one would begin the next run with calls of the last."""
    with make(runs.directory()) as server:
        runs.calls(server, kind, 20, 20, 0.2)
        load = runs.calls(server, kind, round(rate * seconds), rate, 1)
    # SIPp places fewer calls than it should once too many are open.
    clean = load.clean and load.rate > 0.9 * rate
    print(f"    {kind} at {rate:.0f}/s: {load.failed} failed, {load.retransmitted} retransmitted", flush=True)
    return clean


class Candidate:
    """One program to measure: a server that runs, a fresh one after a run that overloaded it."""

    def __init__(self, runs: Runs, name: str, kinds: list[str], make: Callable[[Path], Server], settle: bool) -> None:
        self.name, self.kinds, self.make = name, kinds, make
        self._runs, self._settle = runs, settle
        self._stack = ExitStack()
        self._server: Server | None = None

    def server(self) -> Server:
        """The server, warm and at rest: a process is not at its speed with the first calls."""
        if self._server is not None:
            return self._server
        server = self.make(self._runs.directory())
        self._stack.enter_context(server)
        self._server = server
        for kind in self.kinds:
            self._runs.calls(server, kind, 30, 30, 0.1)
        if self._settle:
            server.settle()
        return server

    def stop(self) -> None:
        """End the server: it still has calls of the last run."""
        self._stack.close()
        self._server = None


def run(options: argparse.Namespace, directory: Path) -> int:
    runs = Runs(directory)
    ours = partial(Siprec, media=options.media, srs_kind=options.srs)
    candidates = [Candidate(runs, "siprec", options.kinds, ours, options.settle)]
    if options.against == "kamailio":
        kinds = [kind for kind in options.kinds if kind != "recorded"]
        candidates.append(Candidate(runs, "kamailio", kinds, Kamailio, options.settle))
    results: list[Result] = []
    lines: list[str] = []
    if options.rates:
        print(_TITLE, flush=True)
    for each in candidates:
        try:
            for kind in each.kinds if options.memory else ():
                per_call = memory_per_call(runs, each.server(), kind, options.memory)
                lines.append(f"{each.name:9} {kind:9} {per_call / 1000:7.1f} kB of memory per call that is up")
                each.stop()
            for kind in each.kinds:
                for rate in options.rates:
                    results.append(measure(runs, each.server(), kind, rate, options))
                    print(results[-1].line(), flush=True)
                    if not results[-1].load.clean:
                        each.stop()
        finally:
            each.stop()
    for line in lines + ratios(results):
        print(line, flush=True)
    for each in candidates if options.ramp else ():
        for kind in each.kinds:
            clean = partial(is_clean, runs, each.make, kind, options.ramp_seconds)
            highest = highest_clean(clean, start=100, limit=options.ramp_limit)
            print(f"{each.name:9} {kind:9} {highest:5.0f}/s is the highest clean rate", flush=True)
    return 1 if any(result.load.failed for result in results) else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", default="50,150,300", help="calls per second, by commas; empty for none")
    parser.add_argument("--seconds", type=float, default=10, help="length of each run (default 10)")
    parser.add_argument("--hold", type=float, default=1, help="length of a call in seconds (default 1)")
    parser.add_argument("--kinds", default=",".join(KINDS), help="what to do with the calls (default: all three)")
    parser.add_argument("--media", choices=("rtpengine", "relay"), default="rtpengine", help="the media server")
    parser.add_argument("--srs", choices=("sipp", "recorder"), default="sipp", help="who records")
    parser.add_argument("--against", choices=("kamailio",), help="run this as well and print the ratio")
    parser.add_argument("--memory", type=int, default=0, metavar="CALLS", help="memory per call, with so many up")
    parser.add_argument("--ramp", action="store_true", help="look for the highest clean rate")
    parser.add_argument("--ramp-seconds", type=float, default=8, help="length of each run of it (default 8)")
    parser.add_argument("--ramp-limit", type=float, default=1600, help="highest rate to try (default 1600)")
    parser.add_argument("--no-settle", dest="settle", action="store_false", help="do not wait for the last timers")
    options = parser.parse_args()
    options.rates = [float(rate) for rate in options.rates.split(",") if rate]
    options.kinds = options.kinds.split(",")
    if any(kind not in KINDS for kind in options.kinds):
        parser.error(f"kinds are {', '.join(KINDS)}")
    if any(not 0 < rate <= 2000 for rate in (*options.rates, options.ramp_limit)):
        parser.error("rates up to 2000")
    if not 0 < options.seconds <= 600 or not 0 < options.ramp_seconds <= 60 or not 0 <= options.hold <= 60:
        parser.error("seconds up to 600, of the ramp up to 60, hold up to 60")
    if not 0 <= options.memory <= 1500:
        parser.error("memory with up to 1500 calls")
    load = os.getloadavg()[0]
    print(f"{platform.python_implementation()} {platform.python_version()} ({sys.executable})")
    print(f"{os.cpu_count()} cores, load before the start {load:.2f}; media server {options.media}, SRS {options.srs}")
    print(time.strftime("%Y-%m-%d %H:%M:%S"), flush=True)
    with tempfile.TemporaryDirectory() as directory:
        return run(options, Path(directory))


if __name__ == "__main__":
    sys.exit(main())
