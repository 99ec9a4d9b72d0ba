"""Dialogs that nobody speaks in: the media counters and both parties decide whether they are forgotten."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from siprec.media.engine import MediaError, MediaStatistics, StreamStatistics
from siprec.proxy.options import ProxyOptions
from siprec.sip.message import SipRequest, parse_datagram
from siprec.sip.useragent import OutgoingCall
from tests.simulation.phones import ANSWER, SDP
from tests.simulation.proxyworld import PROXY, ProxyWorld

IDLE = 600


class World(ProxyWorld):
    """A call, relayed or not. `silent` are the hosts that answer no OPTIONS, `statuses` what the others say."""

    def __init__(self, *, relay: bool = True, idle: float = IDLE, **options: Any) -> None:
        super().__init__(
            relay=relay,
            options=ProxyOptions(
                trusted=["10.0.0.0/8"], dialog_idle=idle, media_use="always" if relay else "never", **options
            ),
        )
        self.silent: set[str] = set()
        self.statuses = {"10.0.0.1": 200, "10.0.0.2": 200}
        for phone in self.phones:
            host = phone.node.host
            phone.diary.on["request"] = lambda call, request, reply, host=host: self.asked(host, request, reply)

    def asked(self, host: str, request: SipRequest, reply: Any) -> None:
        if request.method == "OPTIONS":
            if host not in self.silent:
                reply(self.statuses[host])
        else:
            reply(200, (SDP if host == "10.0.0.1" else ANSWER) if request.body else b"")

    def established(self, **options: Any) -> OutgoingCall:
        call = self.call(supported=(), **options)
        self.clock.run_for(2)
        assert self.core.counts()["dialogs"] == 1
        return call

    def options_sent(self) -> list[SipRequest]:
        found = [parse_datagram(sent.data) for sent in self.sent("OPTIONS") if sent.source[0] == PROXY]
        return [message for message in found if isinstance(message, SipRequest)]

    @property
    def alive(self) -> bool:
        return self.core.counts()["dialogs"] == 1

    def rtp(self, packets: Callable[[], int], last: Callable[[], float]) -> None:
        """The media server's counters: packets so far, and when the last one came (0: it does not say)."""
        self.relay.statistics = lambda: MediaStatistics(
            0.0, packets(), 0, 0, (StreamStatistics("a", 0, "audio", packets(), 0, last_packet=last()),)
        )


def counter(step: int) -> Callable[[], int]:
    numbers = count(1000, step)
    return lambda: next(numbers)


def test_a_call_whose_rtp_flows_is_not_idle_and_nobody_is_asked() -> None:
    w = World()
    w.silent = {"10.0.0.1", "10.0.0.2"}
    w.rtp(counter(50), lambda: w.clock.wall() - 5)
    call = w.established()
    w.clock.run_for(20 * IDLE)
    assert w.alive
    assert not w.options_sent()
    call.bye()
    w.finish()


@pytest.mark.parametrize("status", [200, 405, 500, 501, 488, 404, 401, 403, 603])
@pytest.mark.parametrize("relay", [True, False])
def test_a_party_that_answers_anything_but_481_is_alive(status: int, relay: bool) -> None:
    w = World(relay=relay)
    w.statuses = {"10.0.0.1": status, "10.0.0.2": status}
    call = w.established()
    w.clock.run_for(3 * IDLE)
    assert w.alive
    assert len(w.options_sent()) >= 4
    call.bye()
    w.finish()


@pytest.mark.parametrize("host", ["10.0.0.1", "10.0.0.2"])
def test_a_party_that_has_forgotten_the_dialog_ends_it(host: str) -> None:
    w = World()
    w.statuses[host] = 481
    w.established()
    w.clock.run_for(IDLE + 60)
    assert not w.alive
    assert w.journal.events[-1] == "ended idle"
    assert not w.relay.live
    assert not [s for s in w.sent("BYE") if s.source[0] == PROXY], "DLG-09"
    w.clock.run_until_idle()


def test_one_silent_party_does_not_end_it() -> None:
    w = World()
    w.silent = {"10.0.0.2"}
    call = w.established()
    w.clock.run_for(3 * IDLE)
    assert w.alive
    call.bye()
    w.finish()


@pytest.mark.parametrize(
    ("packets", "last", "alive"),
    [
        (counter(0), lambda w: 0.0, False),  # the server does not say when, and nothing more comes
        (counter(50), lambda w: 0.0, True),  # more came within a minute
        (counter(0), lambda w: w.clock.wall() - 3000, False),  # it says that it was long ago
    ],
)
def test_two_silent_parties_end_it_only_without_rtp(
    packets: Callable[[], int], last: Callable[[World], float], alive: bool
) -> None:
    w = World()
    w.silent = {"10.0.0.1", "10.0.0.2"}
    w.rtp(packets, lambda: last(w))
    w.established()
    w.clock.run_for(IDLE + 160)
    assert w.alive == alive
    if not alive:
        assert w.journal.events[-1] == "ended idle"
    w.core.shutdown()
    w.clock.run_until_idle()


def test_two_silent_parties_of_a_media_server_that_does_not_answer_either_are_asked_again_later() -> None:
    w = World()
    w.silent = {"10.0.0.1", "10.0.0.2"}
    w.relay.statistics = lambda: MediaError("no reply", timeout=True)
    w.established()
    w.clock.run_for(3 * IDLE)
    assert w.alive
    w.relay.statistics = lambda: MediaError("Unknown call-id")
    w.clock.run_for(IDLE + 200)
    assert not w.alive
    w.clock.run_until_idle()


def test_two_silent_parties_whose_media_pass_no_server_end_it() -> None:
    w = World(relay=False)
    w.silent = {"10.0.0.1", "10.0.0.2"}
    w.established()
    w.clock.run_for(IDLE + 160)
    assert not w.alive
    w.clock.run_until_idle()


def test_parties_that_cannot_be_reached_are_silent() -> None:
    w = World(relay=False)
    w.established()
    w.network.drop = lambda sent: sent.line.startswith("OPTIONS")
    w.clock.run_for(IDLE + 160)
    assert not w.alive
    w.clock.run_until_idle()


def test_requests_of_both_parties_go_on_after_the_question_with_numbers_that_fit() -> None:
    w = World()
    call = w.established()
    w.clock.run_for(IDLE + 100)
    first, second = w.options_sent()[:2]
    for request in (first, second):
        assert request.cseq.method == "OPTIONS"
        assert request.from_.tag
        assert request.to.tag
        assert request.get("max-forwards") == "70"
    numbers = {request.from_.tag: request.cseq.number for request in (first, second)}
    done: list[Any] = []
    call.reinvite(SDP, done=done.append)
    w.clock.run_for(2)
    w.bob.calls[0].reinvite(ANSWER, done=done.append)
    w.clock.run_for(2)
    assert [result.status for result in done] == [200, 200]
    for sent in [s for s in w.sent("INVITE") if s.source[0] == PROXY][-2:]:
        later = parse_datagram(sent.data)
        assert later.cseq.number > numbers[later.from_.tag]
    call.bye()
    w.clock.run_for(2)
    w.finish()


def test_a_call_that_is_used_while_it_is_asked_about_goes_on() -> None:
    w = World(relay=False)
    call = w.established()
    w.silent = {"10.0.0.1", "10.0.0.2"}
    w.clock.run_until_true(w.options_sent, IDLE + 100)
    call.reinvite(SDP)
    w.clock.run_for(120)
    assert w.alive
    call.bye()
    w.finish()


def test_the_end_of_the_call_meanwhile_is_the_end() -> None:
    w = World()
    call = w.established()
    w.silent = {"10.0.0.1", "10.0.0.2"}
    w.clock.run_until_true(w.options_sent, IDLE + 100)
    call.bye()
    w.finish()


def test_idle_never_asks_nobody() -> None:
    w = World(idle=0)
    call = w.established()
    w.clock.run_for(200_000)
    assert w.alive
    assert not w.options_sent()
    call.bye()
    w.finish()


def test_a_session_timer_that_ran_out_does_not_end_a_call_whose_parties_live() -> None:
    w = World()
    call = w.established()
    [dialog] = w.core.dialogs.all()
    # As if both had promised refreshes and forgot them.
    dialog.session_interval, dialog.expires = 90, w.clock.now() + 90
    w.clock.run_for(400)
    assert w.alive
    assert len(w.options_sent()) >= 4
    w.statuses["10.0.0.2"] = 481
    w.clock.run_for(200)
    assert not w.alive
    assert w.journal.events[-1] == "ended expired"
    call.bye()
    w.clock.run_until_idle()


def test_thousands_of_idle_calls_are_asked_about_a_few_at_a_time() -> None:
    w = World(relay=False)
    calls = [w.call(supported=()) for _ in range(100)]
    w.clock.run_for(2)
    most = 0
    before = len(w.options_sent())
    for _ in range(40):
        w.clock.run_for(30)
        now = len(w.options_sent())
        most, before = max(most, now - before), now
    assert w.core.counts()["dialogs"] == 100
    assert 0 < most <= 64
    for call in calls:
        call.bye()
    w.finish()
