"""A sender's NTP clock against ours, by sender reports."""

from __future__ import annotations

import random

import pytest

from siprec.recorder.ntp import NtpClock


def test_the_fastest_report_counts() -> None:
    clock, rng = NtpClock(), random.Random(1)
    found = [clock.note(1000.0 + n, 50.0 + n + 0.01 + rng.random() * 0.2) for n in range(20)]
    assert found[-1] == pytest.approx(-949.99, abs=0.02)
    assert found == sorted(found, reverse=True)


def test_a_report_that_was_held_up_changes_nothing() -> None:
    clock = NtpClock()
    clock.note(1000.0, 50.0)
    assert clock.note(1005.0, 58.0) == -950.0
    assert clock.note(1010.0, 60.0) == -950.0


@pytest.mark.parametrize("leap", [-3600.0, -2.0, 2.0, 3600.0])
def test_a_leap_of_the_senders_clock_is_followed_with_the_second_report(leap: float) -> None:
    clock = NtpClock()
    clock.note(1000.0, 50.0)
    clock.note(1005.0 + leap, 55.0)
    assert clock.note(1010.0 + leap, 60.0) == pytest.approx(-950.0 - leap)


@pytest.mark.parametrize("drift", [-100e-6, 100e-6])
def test_a_clock_that_drifts_for_an_hour_is_followed(drift: float) -> None:
    clock = NtpClock()
    for n in range(0, 3600, 5):
        offset = clock.note(1000.0 + n * (1 + drift), 50.0 + n)
    assert offset == pytest.approx(-950.0 - 3600 * drift, abs=0.01)
