"""What one recorded call costs the proxy, without sockets and in virtual time.

    python bench/call_budget.py [--calls N] [--functions N] [--profile]

Runs the reference call (tests/simulation/reference_call.py): INVITE 100 180 200 ACK BYE 200, an RTPEngine over ``ng``,
an SRS with INVITE 200 ACK, the last metadata and BYE. Prints Python and C function calls, µs of CPU per call in a hot
loop, and the objects and bytes that one confirmed recorded call keeps alive. `--functions` names the most called
functions, `--profile` where the time goes.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import platform
import pstats
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from siprec import compiled
from tests.simulation.reference_call import ReferenceCall, alive_per_call, function_calls


class Stopwatch:
    """CPU time of the product's own work."""

    def __init__(self) -> None:
        self.total = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        start = time.process_time_ns()
        try:
            yield
        finally:
            self.total += time.process_time_ns() - start


def hot_loop(calls: int, recorded: bool, observed: bool) -> float:
    """µs of CPU per call."""
    world = ReferenceCall(recorded=recorded, observed=observed)
    for _ in range(50):
        world.run()
    gc.collect()
    gc.freeze()
    watch = Stopwatch()
    for _ in range(calls):
        world.run(watch.running)
    return watch.total / calls / 1000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=500, help="calls in the hot loop (default 500)")
    parser.add_argument("--functions", type=int, default=0, help="name the N most called functions")
    parser.add_argument("--profile", action="store_true", help="print where the time goes (cProfile)")
    options = parser.parse_args()
    if not 1 <= options.calls <= 100_000:
        parser.error("calls: 1 to 100000")
    print(
        f"{platform.python_implementation()} {platform.python_version()} ({sys.executable}), "
        f"compiled: {compiled.used()}"
    )
    kinds = (("proxied", False, True), ("recorded, no trace or proof", True, False), ("recorded", True, True))
    for name, recorded, observed in kinds:
        counted = function_calls(recorded=recorded, observed=observed, names=bool(options.functions))
        took = hot_loop(options.calls, recorded, observed)
        print(f"{name:28} Python calls {counted.python:5}   C calls {counted.c:5}   µs per call {took:6.0f}")
        for function, number in counted.by_function.most_common(options.functions):
            print(f"    {number:5}  {function}")
    alive = alive_per_call()
    print(
        f"alive per confirmed recorded call: {alive.instances:.0f} instances of {len(alive.kinds)} classes of ours, "
        f"{alive.objects:.0f} objects in all, {alive.octets / 1000:.1f} kB"
    )
    if options.functions:
        for kind, number in alive.kinds.most_common():
            print(f"    {number / 50:5.1f}  {kind}")
    if options.profile:
        world = ReferenceCall()
        for _ in range(50):
            world.run()
        profile = cProfile.Profile()

        @contextmanager
        def profiled() -> Iterator[None]:
            profile.enable()
            try:
                yield
            finally:
                profile.disable()

        for _ in range(options.calls):
            world.run(profiled)
        pstats.Stats(profile).sort_stats("tottime").print_stats(40)
    return 0


if __name__ == "__main__":
    sys.exit(main())
