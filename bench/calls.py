"""CPU of the proxy per call.

    python bench/calls.py [--rate R] [--seconds S] [--hold S] [--no-settle]

SIPp calls SIPp through ``siprec serve`` on loopback at R calls a second for S seconds: once proxied only, once with the
media relay in the path, once recorded by ``siprec recorder``. The parties send no RTP (see bench/relay.py for that).
Prints user + system time per call of the proxy process, of the relay and of the recorder, which are processes of their
own. The time until the last transaction timer has run (32 s) is counted in, unless ``--no-settle`` is given.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.interop.calls import scenarios
from tests.interop.calls.harness import Sipp, until
from tests.interop.calls.rig import Rig

_TICK = 1e6 / os.sysconf("SC_CLK_TCK")
KINDS = (("direct", "proxied"), ("plain", "proxied and relayed"), ("bob", "recorded"))


def cpu(pid: int) -> float:
    """User and system time of a process in µs."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK


def rss(pid: int) -> float:
    """Resident memory in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass(frozen=True, slots=True)
class Result:
    name: str
    calls: int
    failed: int
    retransmitted: int
    rate: float
    cost: dict[str, float]
    memory: dict[str, float]

    def line(self) -> str:
        cost = "  ".join(f"{name} {value:6.0f}" for name, value in self.cost.items())
        memory = " / ".join(f"{value:.0f}" for value in self.memory.values())
        return (
            f"{self.name:20} {self.calls:6} calls at {self.rate:5.1f}/s  µs CPU per call: {cost}   "
            f"failed {self.failed}, retransmitted {self.retransmitted}, RSS {memory} MiB"
        )


def settled(rig: Rig) -> bool:
    """No call and no transaction is left. Asked seldom, because the answer costs the proxy time too."""
    time.sleep(1)
    return rig.at_rest() and not sum(rig.proxy.counts()["transactions"].values())


def statistic(sides: tuple[Sipp, ...], name: str) -> int:
    return sum(int(side.statistics()[name]) for side in sides)


def measure(rig: Rig, user: str, name: str, options: argparse.Namespace) -> Result:
    """One run."""
    known = len(rig.recordings())
    calls = round(options.rate * options.seconds)
    pids = {"proxy": rig.proxy.child.pid, "relay": rig.proxy.children()[0], "recorder": rig.recorder.child.pid}
    before = {who: cpu(pid) for who, pid in pids.items()}
    start = time.monotonic()
    sides = rig.call(
        scenarios.caller(options.hold),
        scenarios.callee(),
        user=user,
        calls=calls,
        rate=options.rate,
        trace=False,
        limit=options.seconds + 60,
        check=False,
    )
    took = time.monotonic() - start - options.hold
    if not until(lambda: settled(rig) if options.settle else rig.at_rest(), 60):
        print(f"{name}: not at rest after a minute: {rig.proxy.counts()}", file=sys.stderr)
    after = {who: cpu(pid) for who, pid in pids.items()}
    if user == "bob" and len(rig.recordings()) - known != calls:
        print(f"{name}: {len(rig.recordings()) - known} recordings of {calls} calls", file=sys.stderr)
    return Result(
        name,
        calls,
        max(int(side.statistics()["FailedCall(C)"]) for side in sides),
        statistic(sides, "Retransmissions(C)"),
        calls / took,
        {who: (after[who] - before[who]) / calls for who in pids},
        {who: rss(pid) for who, pid in pids.items()},
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=50, help="calls per second (default 50)")
    parser.add_argument("--seconds", type=float, default=20, help="length of each run (default 20)")
    parser.add_argument("--hold", type=float, default=1, help="length of a call in seconds (default 1)")
    parser.add_argument("--no-settle", dest="settle", action="store_false", help="do not wait for the last timers")
    options = parser.parse_args()
    if not 0 < options.rate <= 2000 or not 0 < options.seconds <= 600 or not 0 <= options.hold <= 60:
        parser.error("rate up to 2000, seconds up to 600, hold up to 60")
    print(f"{platform.python_implementation()} {platform.python_version()} ({sys.executable})")
    with (
        tempfile.TemporaryDirectory() as directory,
        Rig(Path(directory), relay_ports=(30000, 39999), recorder_ports=(40000, 49999)) as rig,
    ):  # a recorded call takes eight ports of the relay and four of the recorder
        for user, _ in KINDS:
            rig.call(scenarios.caller(0.1), scenarios.callee(), user=user, calls=20, rate=50, trace=False)
        until(lambda: settled(rig) if options.settle else rig.at_rest(), 60)
        failed = 0
        for user, name in KINDS:
            result = measure(rig, user, name, options)
            failed += result.failed
            print(result.line(), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
