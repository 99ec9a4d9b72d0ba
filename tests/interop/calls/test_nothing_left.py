"""A thousand calls in a row leave nothing behind."""

from __future__ import annotations

import os
from typing import Any

from tests.interop.calls import scenarios
from tests.interop.calls.harness import until
from tests.interop.calls.rig import Rig
from tests.parallel import Machine

CALLS = 1000


def numbers(value: Any, prefix: str = "") -> dict[str, int]:
    """All counts, flattened."""
    if isinstance(value, dict):
        return {k: n for key, inner in value.items() for k, n in numbers(inner, f"{prefix}{key}.").items()}
    return {prefix.rstrip("."): value}


def relay_sockets(rig: Rig) -> int:
    """File descriptors of the proxy's children (the relay has one per port)."""
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in rig.proxy.children())


def test_a_thousand_calls_leave_nothing_behind(rig: Rig, machine: Machine) -> None:
    rig.call(scenarios.caller(0.1), scenarios.callee())  # what is made once is made now
    assert until(lambda: rig.at_rest() and not sum(rig.proxy.counts()["transactions"].values()), 60)
    before, before_recorder = numbers(rig.proxy.counts()), len(os.listdir(f"/proc/{rig.recorder.child.pid}/fd"))
    sockets = relay_sockets(rig)
    known = set(rig.recordings())

    # A call shorter than the SRS takes to answer is not recorded: a second leaves room on a busy host.
    with machine.alone():
        caller, callee = rig.call(
            scenarios.caller(1.0), scenarios.callee(), calls=CALLS, rate=40, trace=False, limit=120
        )  # fmt: skip
    for side in (caller, callee):
        assert side.statistics()["SuccessfulCall(C)"] == str(CALLS)
        assert side.statistics()["FailedCall(C)"] == "0"
    assert len(rig.completed(known, CALLS)) == CALLS

    def left() -> dict[str, tuple[int, int]]:
        now = numbers(rig.proxy.counts())
        return {key: (before.get(key, 0), n) for key, n in now.items() if n > before.get(key, 0)}

    # Timers F and J, and those of the 2xx, run for 32 s.
    assert until(lambda: not left(), 70), left()
    assert until(lambda: relay_sockets(rig) <= sockets), (sockets, relay_sockets(rig))
    assert until(lambda: len(os.listdir(f"/proc/{rig.recorder.child.pid}/fd")) <= before_recorder)
