"""A stranger causes one line per interval, and the number of the others is told."""

from __future__ import annotations

import logging

import pytest

from siprec.sourcelog import INTERVAL, MAX_KEPT, SourceLog, source_key

log = logging.getLogger("siprec.test.sourcelog")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_one_line_per_source_and_interval_with_the_number_of_the_others(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    lines = SourceLog(log, now=clock)
    for _ in range(1000):
        lines.warning("192.0.2.1", "broken message from %s", "192.0.2.1")
    lines.warning("192.0.2.2", "broken message from %s", "192.0.2.2")
    lines.warning("192.0.2.1", "something else of %s", "192.0.2.1")
    assert caplog.messages == [
        "broken message from 192.0.2.1",
        "broken message from 192.0.2.2",
        "something else of 192.0.2.1",
    ]
    caplog.clear()
    clock.now += INTERVAL
    lines.warning("192.0.2.1", "broken message from %s", "192.0.2.1")
    assert caplog.messages == ["broken message from 192.0.2.1 (999 more before)"]


def test_what_a_source_sent_last_is_told_when_it_has_gone_quiet(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    lines = SourceLog(log, now=clock)
    for _ in range(5):
        lines.warning("192.0.2.1", "broken")
    clock.now += INTERVAL + 1
    caplog.clear()
    lines.warning("192.0.2.9", "broken")
    assert caplog.messages == ["broken", "source=192.0.2.1: 4 more like 'broken'"]
    assert len(lines) == 1


def test_many_sources_take_bounded_memory() -> None:
    clock = Clock()
    lines = SourceLog(log, now=clock)
    for number in range(2 * MAX_KEPT):
        lines.warning(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", "broken")
    assert len(lines) <= MAX_KEPT


def test_a_network_of_ipv6_is_one_source() -> None:
    assert source_key("2001:db8::1") == source_key("2001:db8::ffff") == "2001:db8::/64"
    assert source_key("::ffff:192.0.2.1") == "192.0.2.1"
    assert source_key("fe80::1%eth0") == "fe80::/64"
    assert source_key("no address") == "no address"


def test_an_exception_keeps_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    lines = SourceLog(log, now=Clock())
    for _ in range(3):
        try:
            raise ValueError("it broke")
        except ValueError:
            lines.exception("192.0.2.1", "error while handling a message from %s", "192.0.2.1")
    (record,) = caplog.records
    assert record.exc_info is not None
