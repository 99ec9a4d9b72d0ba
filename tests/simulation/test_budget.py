"""The budget of a call: function calls, objects and bytes, counted, not timed. It only goes down.

``python bench/call_budget.py --functions 40`` says where they go.
"""

from __future__ import annotations

import gc
import json

import pytest

from siprec.media import bencode
from siprec.sip import scan
from tests.simulation.reference_call import ReferenceCall, alive_per_call, function_calls

PROXIED = (700, 820)
RECORDED = (1670, 1945)
SHIPPED = (1855, 2250)
"""Python and C function calls of the reference call: proxied only, recorded, recorded with trace and proof."""
WITHOUT_C = (300, 650)
"""What is added where the modules in C were not built."""
INSTANCES, OCTETS = 30, 25_600
"""What one confirmed recorded call keeps alive: instances of our classes, bytes."""


def test_the_reference_call_is_a_whole_recorded_call() -> None:
    world = ReferenceCall()
    world.run()
    assert [line.partition(" ")[2] for line in world.seen if line.startswith("10.0.0.1 ")] == [
        "SIP/2.0 100 Trying",
        "SIP/2.0 180 Ringing",
        "SIP/2.0 200 OK",
        "SIP/2.0 200 OK",
    ]
    assert [line.split()[1] for line in world.seen if line.startswith("10.0.0.2 ")] == ["INVITE", "ACK", "BYE"]
    assert [line.split()[1] for line in world.seen if line.startswith("10.0.0.50 ")] == [
        "INVITE",
        "ACK",
        "UPDATE",
        "BYE",
    ]
    assert world.commands == ["offer", "answer", "subscribe request", "subscribe answer", "delete"]
    assert world.events == ["E_SIPREC_START", "E_SIPREC_STOP"]
    assert len(world.proofs) == 2
    proof = json.loads(world.proofs[1])
    assert [stream["received"] for stream in proof["streams"]] == [500, 500], "counted by the reply to delete"


def test_a_call_leaves_nothing_behind() -> None:
    world = ReferenceCall()
    for _ in range(3):
        world.run()
    for counts in (world.core.counts(), world.layer.counts(), world.agent.counts(), world.recording.counts()):
        assert not any(counts.values()), counts


@pytest.mark.parametrize(
    ("recorded", "observed", "budget"), [(False, True, PROXIED), (True, False, RECORDED), (True, True, SHIPPED)]
)
def test_a_call_stays_within_its_budget_of_function_calls(
    recorded: bool, observed: bool, budget: tuple[int, int]
) -> None:
    counted = function_calls(recorded=recorded, observed=observed)
    built = bencode.NATIVE and scan.NATIVE
    assert counted.python <= budget[0] + (0 if built else WITHOUT_C[0])
    assert counted.c <= budget[1] + (0 if built else WITHOUT_C[1])


def test_a_confirmed_recorded_call_stays_within_its_budget_of_memory() -> None:
    alive = alive_per_call()
    assert alive.instances <= INSTANCES, alive.kinds.most_common()
    assert alive.octets <= OCTETS


def test_memory_stays_flat_over_many_calls() -> None:
    world = ReferenceCall()
    world.tap = world.transport.tap = None  # its store of messages is bounded by itself

    def objects_after(calls: int) -> int:
        for _ in range(calls):
            world.run()
        world.seen.clear()
        world.commands.clear()
        world.proofs.clear()
        world.events.clear()
        world.clock.run_for(3600)  # ended dialogs are remembered for a while
        gc.collect()
        return len(gc.get_objects())

    before = objects_after(20)
    assert objects_after(200) <= before + 20
