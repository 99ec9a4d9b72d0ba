"""Which media server takes a call, and which ones are well: virtual time, servers that answer or do not."""

from __future__ import annotations

from collections import Counter

import pytest

from siprec.media.engine import MediaError, MediaServer, Result
from siprec.media.pool import MediaPool, Member
from tests.simulation.network import VirtualClock
from tests.simulation.proxyworld import Relay


class Server(Relay):
    """Answers pings after 10 ms, unless it is `mute`."""

    def __init__(self, clock: VirtualClock, name: str) -> None:
        super().__init__(clock)
        self.name = name
        self.mute = False
        self.pings = 0

    def ping(self, done: Result) -> None:
        self.pings += 1
        if not self.mute:
            self.clock.call_later(0.01, done, None)


class World:
    def __init__(self, *members: tuple[str, str, int]) -> None:
        self.clock = VirtualClock()
        self.told: list[tuple[str, bool]] = []
        self.load: Counter[MediaServer] = Counter()
        self.pool = MediaPool(self.clock, lambda m, up, why: self.told.append((m.name, up)), load=self.load)
        self.servers = {name: Server(self.clock, name) for name, _, _ in members}
        for name, group, weight in members:
            self.pool.add(Member(name, "ng", self.servers[name], group, weight))

    def take(self, group: str = "", number: int = 1) -> list[str]:
        taken = []
        for _ in range(number):
            server = self.pool.pick(group)
            if server is not None:
                self.load[server] += 1
            taken.append(server.name if server is not None else "-")
        return taken

    def silence(self, name: str) -> None:
        self.servers[name].mute = True
        self.clock.run_for(6)


def test_calls_are_shared_by_weight_and_stay_in_their_set() -> None:
    w = World(("a", "default", 2), ("b", "default", 1), ("c", "other", 1))
    assert Counter(w.take(number=9)) == {"a": 6, "b": 3}
    assert w.take("other", 2) == ["c", "c"]
    assert w.take("nobody") == ["-"]


def test_weight_0_is_for_when_no_other_is_left() -> None:
    w = World(("a", "default", 1), ("spare", "default", 0))
    assert w.take(number=5) == ["a"] * 5
    w.silence("a")
    assert w.take() == ["spare"]


def test_one_that_is_silent_gets_no_calls_until_it_answers() -> None:
    w = World(("a", "default", 1), ("b", "default", 1))
    w.clock.run_for(3)
    w.silence("a")
    assert w.take(number=4) == ["b"] * 4
    w.servers["a"].mute = False
    w.clock.run_for(6)
    assert w.told == [("a", False), ("a", True)]
    assert w.take() == ["a"]


def test_where_all_are_down_there_is_none() -> None:
    w = World(("a", "default", 1))
    w.silence("a")
    assert w.take() == ["-"]


def test_a_late_answer_to_a_ping_is_none() -> None:
    w = World(("a", "default", 1))
    w.clock.run_for(3)
    answers: list[Result] = []
    w.servers["a"].ping = answers.append  # type: ignore[method-assign, assignment]
    w.clock.run_for(4.5)
    assert w.told == [("a", False)]
    answers[0](None)
    assert w.told == [("a", False)]


def test_one_that_let_a_call_wait_is_asked_at_once_and_is_the_last_choice_meanwhile() -> None:
    w = World(("a", "default", 5), ("b", "default", 1))
    w.clock.run_for(1)
    a = w.servers["a"]
    a.mute = True
    before = a.pings
    w.pool.trouble(a, MediaError("no reply", timeout=True))
    assert w.take(number=3) == ["b"] * 3
    assert w.told == []
    w.clock.run_for(0.1)
    assert a.pings == before + 1
    assert w.pool.pick("", [w.servers["b"]]) is a  # better than none
    w.clock.run_for(2.0)
    assert w.told == [("a", False)]


def test_a_refusal_is_the_word_of_a_server_that_is_well() -> None:
    w = World(("a", "default", 5), ("b", "default", 1))
    w.clock.run_for(1)
    w.pool.trouble(w.servers["a"], MediaError("no ports"))
    assert w.take() == ["a"]


@pytest.mark.parametrize("back", [False, True])
def test_one_that_drains_gets_no_calls(back: bool) -> None:
    w = World(("a", "default", 9), ("b", "default", 1))
    member = w.pool.named("a")
    assert member is not None
    member.draining = True
    assert w.take(number=3) == ["b"] * 3
    if back:
        member.draining = False
        assert w.take() == ["a"]


def test_a_process_that_ends_and_is_started_again_is_another_server() -> None:
    w = World(("a", "default", 1))
    member = w.pool.named("a")
    assert member is not None
    w.pool.replaced(member, None, "it ended")
    assert w.take() == ["-"]
    again = Server(w.clock, "a")
    w.pool.replaced(member, again)
    assert w.pool.pick() is again
    assert w.told == [("a", False), ("a", True)]


def test_nobody_is_asked_after_the_end() -> None:
    w = World(("a", "default", 1), ("b", "default", 1))
    w.clock.run_for(5)
    member = w.pool.named("b")
    assert member is not None
    w.pool.remove(member)
    asked = w.servers["b"].pings
    w.clock.run_for(10)
    assert w.servers["b"].pings == asked
    w.pool.close()
    w.clock.run_until_idle()
    assert w.clock.pending == 0


def test_one_that_was_lost_is_usable_within_ten_seconds_of_its_return_however_seldom_it_is_asked() -> None:
    w = World(("a", "default", 1))
    w.pool.every = 60.0
    w.clock.run_for(1)
    w.servers["a"].mute = True
    w.clock.run_for(70)
    assert w.take() == ["-"]
    w.servers["a"].mute = False
    w.clock.run_for(10)
    assert w.take() == ["a"]
    w.pool.close()
