"""When a relay hangs, and when it is only slow."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from siprec.relay.heartbeat import STILL
from siprec.server.relaywatch import DEAF, LOOK, Effort, HangWatch, effort


class Relay:
    """A relay whose loops beat, and which answers, as told; looked at every half second for `seconds`."""

    def __init__(self, loops: int = 3) -> None:
        self.now = 100.0
        self.beats = [0] + [1] * loops
        self.moving = set(range(1, loops + 1))
        self.answers = True
        self.effort: Effort | None = Effort(10, False)
        self.calls = 1
        self.pings: list[Callable[[bool], None]] = []
        self.watch = HangWatch(self.now, self._ask, lambda: self.effort, lambda: not self.calls)

    def _ask(self, done: Callable[[bool], None]) -> None:
        self.pings.append(done)

    def run(self, seconds: float, step: float = LOOK) -> tuple[str, float]:
        """Why it hangs and after how long, or nothing."""
        began = self.now
        while self.now - began < seconds:
            self.now += step
            for slot in self.moving:
                self.beats[slot] += 1
            if self.answers:
                while self.pings:
                    self.pings.pop(0)(True)
            why = self.watch.look(self.now, tuple(self.beats))
            if why:
                return why, self.now - began
        return "", seconds


def test_one_that_stands_still_and_does_not_answer_hangs_after_three_seconds() -> None:
    relay = Relay()
    assert relay.run(60)[0] == ""
    relay.moving.clear()
    relay.answers = False
    why, after = relay.run(60)
    assert "stands still" in why
    assert STILL <= after <= STILL + 2 * LOOK


def test_one_loop_of_several_that_stands_still_is_enough() -> None:
    relay = Relay()
    relay.run(10)
    relay.moving.discard(2)
    relay.answers = False
    assert "stands still" in relay.run(10)[0]


@pytest.mark.parametrize("loops", [0, 1, 4])
def test_a_relay_that_answers_or_beats_does_not_hang(loops: int) -> None:
    relay = Relay(loops)
    relay.moving.clear()
    assert relay.run(600)[0] == ""  # it answers
    relay = Relay(loops)
    relay.answers = False
    assert relay.run(600)[0] == ""  # it beats, and carries calls


def test_one_that_beats_once_in_two_seconds_is_only_slow() -> None:
    relay = Relay()
    relay.answers = False
    for _ in range(100):
        relay.moving.clear()
        assert relay.run(2.0)[0] == ""
        relay.moving = {1, 2, 3}
        assert relay.run(0.5)[0] == ""


def test_one_that_wants_the_processor_and_does_not_get_it_is_left_alone() -> None:
    relay = Relay()
    relay.run(5)
    relay.moving.clear()
    relay.answers = False
    relay.effort = Effort(10, True)
    assert relay.run(120)[0] == ""
    # It gets it, and does nothing that counts: an endless loop.
    relay.effort = Effort(500, True)
    assert "stands still" in relay.run(10)[0]


def test_a_watch_that_stood_still_itself_begins_anew() -> None:
    relay = Relay()
    relay.run(5)
    relay.answers = False
    relay.moving.clear()
    relay.now += 3600  # the host was suspended
    relay.moving = {1, 2, 3}
    assert relay.run(1)[0] == ""
    relay.moving.clear()
    assert relay.run(60, step=2.0)[0] == ""  # we get no processor time either


def test_a_deaf_one_without_calls_is_started_anew_and_with_calls_it_is_not() -> None:
    relay = Relay()
    relay.answers = False
    relay.calls = 0
    why, after = relay.run(120)
    assert "does not answer" in why
    assert after >= DEAF


def test_a_ping_that_fails_is_asked_again() -> None:
    relay = Relay()
    relay.run(5)
    relay.moving.clear()
    relay.answers = False
    assert relay.run(2)[0] == ""
    while relay.pings:
        relay.pings.pop()(False)
    relay.answers = True
    assert relay.run(30)[0] == ""


def test_the_effort_of_a_process_says_who_works_and_who_is_stopped() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as child:
        try:
            end = time.monotonic() + 30
            before = effort(child.pid)
            while (found := effort(child.pid)) is None or before is None or found.ticks <= before.ticks:
                assert time.monotonic() < end
                before = before or found
                time.sleep(0.01)
            assert found.waits
            os.kill(child.pid, signal.SIGSTOP)
            while (found := effort(child.pid)) is None or found.waits:
                assert time.monotonic() < end
                time.sleep(0.01)
        finally:
            child.kill()
    assert effort(child.pid) is None
