"""An alarm before descriptors, connections, ports or sessions run out, and when there are enough again."""

from __future__ import annotations

import resource

import pytest

from siprec.server import headroom
from siprec.server.headroom import EVERY, Headroom
from tests.simulation.network import VirtualClock


def test_an_alarm_comes_once_and_its_end_once() -> None:
    clock = VirtualClock()
    used, told = {"ports": 0, "sessions": 0}, []
    watch = Headroom(
        clock,
        {"ports": lambda: (used["ports"], 100), "sessions": lambda: (used["sessions"], 0)},
        lambda name, number, limit: told.append((name, number, limit)),
    )
    for number in (79, 80, 95, 75, 70, 69, 60, 85):
        used["ports"] = number
        used["sessions"] = number  # without a limit there is no alarm
        clock.run_for(EVERY)
    assert told == [("ports", 80, 100), ("ports", 69, 100), ("ports", 85, 100)]
    assert watch.low == {"ports"}
    assert watch.shares() == {"ports": 0.85}
    watch.close()
    assert clock.pending == 0


def test_the_limit_of_descriptors_is_raised_to_what_the_system_allows() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
        raised = headroom.raise_descriptor_limit()
        assert raised == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        assert raised > 256
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_connections_get_half_of_the_descriptors_at_most(caplog: pytest.LogCaptureFixture) -> None:
    assert headroom.most_connections(10_000, 65_536) == 10_000
    assert not caplog.records
    assert headroom.most_connections(10_000, 1024) == 384
    assert "LimitNOFILE" in caplog.text
    assert headroom.most_connections(10_000, 100) == 16


def test_descriptors_are_counted() -> None:
    used, limit = headroom.descriptors()
    assert 0 < used < limit
