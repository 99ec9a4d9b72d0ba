"""Set-up delay of calls while a hundred listeners do not listen.

    python bench/listeners.py [--rate R] [--calls N]

SIPp calls SIPp through ``siprec serve``, each call recorded by ``siprec recorder``; once with nobody who wants to know,
once with 100 subscribers to ``/events`` that never read a byte, a webhook whose server is dead, and one whose server
never answers. Prints the time from INVITE to 200 as the caller sees it, and what became of the listeners.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.interop.calls.listeners import BOUND, Figures, measure


def line(name: str, found: Figures) -> str:
    at = (found.median, found.quantile(0.95), found.quantile(0.99), max(found.delays))
    quantiles = zip(("p50", "p95", "p99", "max"), at, strict=True)
    times = "  ".join(f"{quantile} {value * 1000:6.1f}" for quantile, value in quantiles)
    return (
        f"{name:18} {found.calls} calls  set-up delay in ms: {times}   failed {found.failed}, listeners dropped "
        f"{found.dropped}, most events waiting {found.most_queued} (bound {BOUND}), dead letters {found.dead_letters}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=50, help="calls per second (default 50)")
    parser.add_argument("--calls", type=int, default=500, help="calls of each run (default 500)")
    options = parser.parse_args()
    if not 0 < options.rate <= 500 or not 20 <= options.calls <= 5000:
        parser.error("rate up to 500, 20 to 5000 calls")
    print(f"{platform.python_implementation()} {platform.python_version()} ({sys.executable})")
    failed = 0
    for name, deaf in (("nobody listens", 0), ("100 deaf listeners", 100)):
        with tempfile.TemporaryDirectory() as directory:
            found = measure(Path(directory), deaf=deaf, user="bob", calls=options.calls, rate=options.rate)
        failed += found.failed
        print(line(name, found), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
