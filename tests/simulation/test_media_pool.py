"""Several media servers: new calls go to the next one, established ones to another when theirs is lost."""

from __future__ import annotations

from typing import Any

import pytest

from siprec.proxy.call import Call as ProxyCall
from siprec.proxy.call import CallObserver
from siprec.proxy.options import ProxyOptions
from siprec.sip.message import parse_datagram
from siprec.sip.useragent import Call, IncomingCall
from tests.simulation.phones import ANSWER, SDP
from tests.simulation.proxyworld import ProxyWorld, Relay


class Pool:
    """Two media servers, whose addresses tell them apart: 192.0.2.x and 198.51.100.x."""

    def __init__(self, policy: str = "pass") -> None:
        options = ProxyOptions(trusted=["10.0.0.0/8"], media_use="always", on_media_failure=policy)  # type: ignore[arg-type]
        self.w = ProxyWorld(relay=True, options=options)
        self.first, self.second = self.w.relay, Relay(self.w.clock)
        self.second.name = "second"
        self.second.address = b"IN IP4 198.51.100."
        self.servers = [self.first, self.second]
        self.moved: list[ProxyCall] = []
        self.w.core.media.pick = lambda call: next(iter(self.servers), None)
        self.w.core.media.on_trouble = lambda call, server, error: next(
            (s for s in self.servers if s is not server), None
        )
        self.w.core.observers.add(self)  # type: ignore[arg-type]
        self.w.alice.diary.on["request"] = lambda call, request, reply: reply(200, SDP)
        self.w.bob.diary.on["request"] = lambda call, request, reply: reply(200, ANSWER)

    def __getattr__(self, name: str) -> Any:
        return getattr(CallObserver(), name)

    def call_media_moved(self, call: ProxyCall) -> None:
        self.moved.append(call)

    def established(self) -> Call:
        call = self.w.call()
        self.w.clock.run_for(2)
        self.w.alice.diary.requests.clear()
        self.w.bob.diary.requests.clear()
        return call

    def lose(self) -> None:
        self.servers.remove(self.first)
        self.first.silent |= {"offer", "answer"}
        self.w.core.failover.move(self.w.journal.calls[0], "it is lost")

    def end(self, call: Call) -> None:
        call.bye()
        self.w.finish()
        assert not self.second.live
        assert not self.w.core.media.load


def answer_later(pool: Pool, seconds: float) -> None:
    def take(call: IncomingCall) -> None:
        pool.w.clock.call_later(seconds, call.answer, 200, ANSWER)

    pool.w.bob.take = take


def offered(phone: Any) -> list[bytes]:
    return [request.body for request in phone.diary.requests if request.method in ("INVITE", "UPDATE")]


@pytest.mark.parametrize("how", ["silent", "fail"])
def test_a_new_call_goes_to_the_next_server_within_one_time_out(how: str) -> None:
    pool = Pool()
    getattr(pool.first, how).add("offer")
    begun = pool.w.clock.now()
    pool.w.bob.take = lambda call: call.answer(200, ANSWER)
    call = pool.w.call()
    pool.w.clock.run_for(2)
    assert [line.split()[0] for line in pool.first.log] == ["offer", "delete"]
    assert [line.split()[0] for line in pool.second.log] == ["offer", "answer"]
    invite = pool.w.sent("INVITE", "10.0.0.2")[0]
    assert b"198.51.100.1" in invite.data
    assert invite.time - begun < 0.4
    assert pool.w.core.media.load == {pool.second: 1}
    assert pool.w.journal.calls[0].media is pool.second
    assert "media failed" not in pool.w.journal.events
    pool.end(call)


@pytest.mark.parametrize("second", [0.005, 0.25])
def test_a_late_answer_of_the_server_that_a_call_has_left_is_not_taken(second: float) -> None:
    pool = Pool()
    pool.first.delay, pool.second.delay = 0.5, second
    call = pool.w.call()
    pool.w.clock.run_for(3)
    assert [line.split()[0] for line in pool.first.log] == ["offer", "delete"]
    # Bob is called once, and nobody ever hears of the first server, which answers after the second one or before it.
    assert len({sent.data for sent in pool.w.sent("INVITE", "10.0.0.2")}) == 1
    assert not [sent for sent in pool.w.network.trace if b"192.0.2." in sent.data]
    assert b"198.51.100.1" in pool.w.sent("INVITE", "10.0.0.2")[0].data
    assert b"198.51.100.2" in pool.w.sent("SIP/2.0 200", "10.0.0.1")[0].data
    assert pool.w.journal.calls[0].media is pool.second
    pool.end(call)


@pytest.mark.parametrize("late", [0.5, 1.5])
def test_a_late_answer_to_a_reinvite_does_not_bring_a_call_back_to_the_server_that_was_lost(late: float) -> None:
    pool = Pool()
    call = pool.established()
    proxied = pool.w.journal.calls[0]

    def lost(call: ProxyCall, server: Any, error: Any) -> bool:
        pool.servers.remove(pool.first)
        pool.w.core.failover.move(proxied, "it is silent")
        return True

    pool.w.core.media.on_unanswered = lost
    pool.first.delay = late
    begun = len(pool.w.network.trace)
    results: list[Any] = []
    call.reinvite(SDP.replace(b"1 1 IN", b"1 2 IN") + b"a=sendonly\r\n", done=results.append)
    pool.w.clock.run_for(5)
    assert [result.status for result in results] == [200]
    assert proxied.media is pool.second
    assert not [sent for sent in pool.w.network.trace[begun:] if b"192.0.2." in sent.data]
    assert b"198.51.100.1" in offered(pool.w.bob)[-1]
    assert b"a=sendonly" in offered(pool.w.bob)[-1]
    assert b"198.51.100.2" in offered(pool.w.alice)[-1]
    pool.end(call)


def test_where_all_servers_are_silent_the_call_goes_through_by_itself() -> None:
    pool = Pool()
    for server in pool.servers:
        server.silent.add("offer")
    call = pool.w.call()
    pool.w.clock.run_for(3)
    assert pool.w.journal.events.count("media failed") == 1
    assert pool.w.journal.calls[0].state == "confirmed"
    assert b"10.0.0.1" in parse_datagram(pool.w.sent("INVITE", "10.0.0.2")[0].data).body
    pool.end(call)


def test_where_all_servers_are_silent_the_call_is_rejected_if_that_is_the_policy() -> None:
    pool = Pool("reject")
    for server in pool.servers:
        server.silent.add("offer")
    pool.w.call()
    pool.w.clock.run_for(3)
    assert pool.w.sent("SIP/2.0 503", "10.0.0.1")
    pool.w.finish()
    assert not pool.second.live


def test_branches_of_a_forked_call_go_to_the_next_server_together() -> None:
    pool = Pool()
    pool.first.silent.add("offer")
    answer_later(pool, 1)
    call = pool.w.call()
    pool.w.clock.run_for(3)
    assert {line.split()[0] for line in pool.second.log} == {"offer", "answer"}
    pool.end(call)


def test_a_lost_server_is_left_by_a_reinvite_to_both_parties() -> None:
    pool = Pool()
    call = pool.established()
    pool.lose()
    pool.w.clock.run_for(2)
    [to_bob], [to_alice] = offered(pool.w.bob), offered(pool.w.alice)
    # Each is told where to send now: what the other one said, through the other server, as a new version.
    assert b"c=IN IP4 198.51.100.1" in to_bob
    assert b"c=IN IP4 198.51.100.2" in to_alice
    assert b"o=- 1 2 IN" in to_bob
    assert b"o=- 1 2 IN" in to_alice
    proxied = pool.w.journal.calls[0]
    assert proxied.media is pool.second
    assert pool.moved == [proxied]
    assert pool.w.core.counters["media_moved"] == 1
    # The parties' own offers go on through it, with numbers that fit.
    for party in (call, pool.w.bob.calls[0]):
        results: list[Any] = []
        party.reinvite((SDP if party is call else ANSWER).replace(b"1 1 IN", b"1 2 IN"), done=results.append)
        pool.w.clock.run_for(2)
        assert [result.status for result in results] == [200]
    assert b"198.51.100." in offered(pool.w.bob)[-1]
    assert [line for line in pool.second.log if line.startswith("offer")][1:] != []
    pool.end(call)


def test_a_call_waits_for_a_server_that_comes_up_again() -> None:
    pool = Pool()
    call = pool.established()
    pool.servers.remove(pool.second)
    pool.lose()
    pool.w.clock.run_for(3)
    assert offered(pool.w.bob) == []
    pool.servers.append(pool.second)
    pool.w.clock.run_for(2)
    assert len(offered(pool.w.bob)) == len(offered(pool.w.alice)) == 1
    pool.end(call)


def test_without_any_other_server_the_call_stays_where_its_media_may_still_flow() -> None:
    pool = Pool()
    call = pool.established()
    pool.servers.remove(pool.second)
    pool.lose()
    pool.w.clock.run_for(20)
    assert "media failed" not in pool.w.journal.events
    assert offered(pool.w.bob) == []
    proxied = pool.w.journal.calls[0]
    assert proxied.state == "confirmed"
    # The server is back and has forgotten the call: it goes through it again.
    pool.servers.append(pool.second)
    pool.w.core.failover.move(proxied, "it has forgotten the call", dead=True)
    pool.w.clock.run_for(2)
    assert len(offered(pool.w.bob)) == len(offered(pool.w.alice)) == 1
    assert pool.moved == [proxied]
    pool.end(call)


def test_a_party_that_refuses_to_be_told_keeps_its_call() -> None:
    pool = Pool()
    call = pool.established()
    pool.w.bob.diary.on["request"] = lambda call, request, reply: reply(
        488 if request.method in ("INVITE", "UPDATE") else 200
    )
    pool.lose()
    pool.w.clock.run_for(30)
    # By UPDATE, then by INVITE.
    assert [request.method for request in pool.w.bob.diary.requests][:2] == ["UPDATE", "INVITE"]
    assert len(offered(pool.w.bob)) == 2
    assert len(offered(pool.w.alice)) == 1
    assert pool.w.journal.calls[0].state == "confirmed"
    pool.end(call)


def test_an_exchange_of_the_parties_is_waited_for() -> None:
    pool = Pool()
    call = pool.established()
    pool.w.bob.diary.on["request"] = lambda call, request, reply: pool.w.clock.call_later(1.5, reply, 200, ANSWER)
    call.reinvite(SDP.replace(b"1 1 IN", b"1 2 IN") + b"a=sendonly\r\n")
    pool.w.clock.run_for(0.5)
    pool.w.bob.diary.on["request"] = lambda call, request, reply: reply(200, ANSWER)
    pool.first.silent.clear()
    pool.servers.remove(pool.first)
    pool.w.core.failover.move(pool.w.journal.calls[0], "it is lost")
    pool.w.clock.run_for(0.5)
    assert len(offered(pool.w.bob)) == 1  # that of Alice
    pool.w.clock.run_for(3)
    assert b"198.51.100.1" in offered(pool.w.bob)[1]
    assert b"a=sendonly" in offered(pool.w.bob)[1]
    assert b"198.51.100.2" in offered(pool.w.alice)[0]
    pool.end(call)


def test_a_call_that_is_not_answered_yet_is_moved_when_it_is() -> None:
    pool = Pool()
    answer_later(pool, 3)
    call = pool.w.call()
    pool.w.clock.run_for(1)
    pool.lose()
    pool.w.clock.run_for(4)
    proxied = pool.w.journal.calls[0]
    assert proxied.state == "confirmed"
    assert "media failed" not in pool.w.journal.events
    assert b"c=IN IP4 198.51.100.1" in offered(pool.w.bob)[-1]
    assert b"c=IN IP4 198.51.100.2" in offered(pool.w.alice)[-1]
    assert pool.moved == [proxied]
    pool.end(call)


def test_the_end_of_a_call_that_waits_to_be_moved_leaves_nothing() -> None:
    pool = Pool()
    call = pool.established()
    pool.servers.remove(pool.second)
    pool.lose()
    pool.w.clock.run_for(1)
    pool.end(call)
