"""A proxy between phones gets damaged messages from strangers, from its phones and from its carrier: it goes on."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

import pytest

from siprec.sip.transport import Hop
from tests.hostile.mutations import mutate
from tests.hostile.test_parsers import MULTIPART, SIP
from tests.simulation.proxyworld import PROXY, ProxyWorld
from tests.simulation.reference_call import ReferenceCall

Times = Callable[[int], int]


@pytest.mark.parametrize("seed", range(8))
def test_a_proxy_survives_damaged_messages_and_keeps_nothing(
    seed: int, times: Times, caplog: pytest.LogCaptureFixture
) -> None:
    rng = random.Random(seed)
    world = ProxyWorld(relay=bool(seed % 2))
    sources = [Hop("udp", "198.51.100.7", 5060, (PROXY, 5060)), Hop("udp", "10.0.0.1", 5060, (PROXY, 5060))]
    with caplog.at_level(logging.WARNING, "siprec"):
        call = world.call()
        world.clock.run_for(1)
        seeds = [*SIP, MULTIPART, *(sent.data for sent in world.network.trace)]
        for number in range(times(350)):
            world.node.deliver(mutate(rng, rng.choice(seeds)), rng.choice(sources))
            world.clock.run_for(0.05)
            if number % 50 == 0:
                assert world.alice.diary.events == ["answered"]
        call.bye()
        world.clock.run_for(600)
    assert not [record.getMessage() for record in caplog.records if record.exc_info]
    assert not any(world.layer.counts().values())
    assert world.core.counts()["contexts"] == 0
    world.alice.diary.events.clear()
    again = world.call()
    world.clock.run_for(1)
    assert world.alice.diary.events == ["answered"]
    again.bye()
    world.clock.run_for(60)


@pytest.mark.parametrize("seed", range(4))
def test_a_recorded_call_survives_damaged_messages_of_its_peers(
    seed: int, times: Times, caplog: pytest.LogCaptureFixture
) -> None:
    """Damaged copies of what caller, callee, SRS and media server say arrive beside the good ones."""
    rng = random.Random(seed)
    world = ReferenceCall(seed=seed)
    deliver, budget = world._deliver, times(250)

    def with_noise(data: bytes, source: Hop) -> None:
        nonlocal budget
        for _ in range(rng.randrange(12)):
            if budget:
                budget -= 1
                world.receive(mutate(rng, data), source)
        deliver(data, source)

    world._deliver = with_noise  # type: ignore[method-assign]
    answer = world._on_ng

    def noisy(message: bytes) -> None:
        for _ in range(rng.randrange(4)):
            answer(mutate(rng, message))
        answer(message)

    world._on_ng = noisy
    with caplog.at_level(logging.WARNING, "siprec"):
        while budget:
            world.run()
    assert not [record.getMessage() for record in caplog.records if record.exc_info]
    # What a damaged copy began, as a call in its own right, ends by its timers.
    world._pass(4 * 3600)
    assert not any(world.layer.counts().values())
    world._deliver, world._on_ng = deliver, answer  # type: ignore[method-assign]
    world.seen.clear()
    world.events.clear()
    world.run()
    assert world.events == ["E_SIPREC_START", "E_SIPREC_STOP"]
