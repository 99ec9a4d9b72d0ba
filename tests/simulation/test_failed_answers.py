"""Answers that do not pass the media server, wherever they stand: in the end both parties send to it, or each to the
other, never one of them to it and the other past it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from siprec.media.engine import NO_FLAGS, MediaError, MediaFlags, MediaSession, SdpResult
from siprec.proxy.call import Call as ProxyCall
from siprec.proxy.options import ProxyOptions
from siprec.proxy.routes import RouteRule, Rules
from siprec.proxy.sdp_body import sdp_of
from siprec.sip.message import parse_datagram
from siprec.sip.multipart import Part, build_multipart
from siprec.sip.useragent import Call, IncomingCall
from tests.simulation.network import LinkQuality
from tests.simulation.phones import ANSWER, SDP
from tests.simulation.proxyworld import PROXY, ProxyWorld, Relay
from tests.simulation.transferworld import CallMediaServer, TransferWorld

VIDEO = b"m=video 4002 RTP/AVP 96\r\n"
RELAYED, DIRECT = b"192.0.2.", b"10.0.0."


class Unsteady(Relay):
    """A relay whose answers fail, `failures` times (-1: always): ``fail``, ``silent``, or ``late``."""

    how = "fail"
    failures = 0

    def answer(self, session: MediaSession, sdp: bytes, done: SdpResult, *, flags: MediaFlags = NO_FLAGS) -> None:
        if not self.failures:
            super().answer(session, sdp, done, flags=flags)
            return
        self.failures -= 1
        self.log.append("failed answer")
        if self.how == "fail":
            self.clock.call_later(self.delay, done, MediaError("refused"))
        elif self.how == "late":
            self.clock.call_later(3.0, done, sdp.replace(b"IN IP4 10.0.0.", self.address))


class World(ProxyWorld):
    """Alice and Bob answer offers in mid-call with their own descriptions, as the one who offered last."""

    def __init__(self, failures: int = -1, how: str = "fail", **options: Any) -> None:
        options.setdefault("options", ProxyOptions(trusted=["10.0.0.0/8"], media_use="always"))
        super().__init__(relay=True, **options)
        self.relay: Unsteady = Unsteady(self.clock)
        self.relay.how, self.relay.failures = how, failures
        self.alice.diary.on["request"] = lambda call, request, reply: reply(200, SDP if request.body else b"")
        for phone in self.phones[1:]:
            phone.diary.on["request"] = lambda call, request, reply: reply(200, ANSWER if request.body else b"")

    def told(self, host: str) -> bytes:
        """The last description that a phone got."""
        found = [sdp_of(parse_datagram(sent.data)) for sent in self.network.trace if sent.destination[0] == host]
        return [octets for octets in found if octets][-1]

    def addresses(self) -> tuple[bytes, bytes]:
        """Whom Alice and Bob send to."""
        told = self.told("10.0.0.1"), self.told("10.0.0.2")
        first, second = (RELAYED if b"c=IN IP4 " + RELAYED in each else DIRECT for each in told)
        return first, second

    def settled(self, kind: bytes, call: Call) -> None:
        """Both send to the same kind of address; nothing is left when the call is over."""
        self.clock.run_for(40)
        proxied = self.journal.calls[0]
        assert proxied.state == "confirmed"
        assert self.addresses() == (kind, kind)
        assert (proxied.media is not None) == (kind == RELAYED)
        assert bool(self.relay.live) == (kind == RELAYED), "the media server holds nothing that nobody sends to"
        call.bye()
        self.finish()


def in_the_200(w: World) -> Call:
    return w.call()


def early(w: World) -> Call:
    def take(call: IncomingCall) -> None:
        call.answer(183, ANSWER)
        w.clock.call_later(2, call.answer, 200, ANSWER)

    w.bob.take = take
    return w.call()


def early_only(w: World) -> Call:
    def take(call: IncomingCall) -> None:
        call.answer(183, ANSWER)
        w.clock.call_later(2, call.answer, 200)

    w.bob.take = take
    return w.call()


def in_the_ack(w: World) -> Call:
    w.bob.take = lambda call: call.answer(200, ANSWER)
    w.alice.diary.on["answered"] = lambda call, response: call.ack(SDP)
    return w.call(body=b"")


def established(w: World) -> Call:
    failures, w.relay.failures = w.relay.failures, 0
    call = w.call()
    w.clock.run_for(2)
    assert w.addresses() == (RELAYED, RELAYED)
    w.relay.failures = failures
    return call


def changed(octets: bytes) -> bytes:
    return octets.replace(b"1 1 IN", b"1 2 IN").replace(b"4000", b"4100")


def reinvite_of_the_caller(w: World) -> Call:
    call = established(w)
    call.reinvite(changed(SDP))
    return call


def reinvite_of_the_callee(w: World) -> Call:
    call = established(w)
    w.bob.calls[0].reinvite(changed(ANSWER))
    return call


def update_of_the_callee(w: World) -> Call:
    call = established(w)
    w.bob.calls[0].update(changed(ANSWER))
    return call


PLACES = [
    in_the_200,
    early,
    early_only,
    in_the_ack,
    reinvite_of_the_caller,
    reinvite_of_the_callee,
    update_of_the_callee,
]


@pytest.mark.parametrize("how", ["fail", "silent", "late"])
@pytest.mark.parametrize("place", PLACES)
def test_an_offer_whose_answers_the_media_server_never_takes_is_taken_back(
    place: Callable[[World], Call], how: str
) -> None:
    w = World(how=how)
    w.settled(DIRECT, place(w))


@pytest.mark.parametrize("how", ["fail", "silent"])
@pytest.mark.parametrize("place", PLACES)
def test_a_call_whose_answer_was_lost_is_led_through_the_media_server_anew(
    place: Callable[[World], Call], how: str
) -> None:
    w = World(1, how)
    w.settled(RELAYED, place(w))
    assert "media failed" not in w.journal.events


@pytest.mark.parametrize("place", PLACES)
def test_another_server_takes_the_call_whose_answer_was_lost(place: Callable[[World], Call]) -> None:
    w = World(-1, "silent")
    other = Relay(w.clock)
    w.core.media.on_trouble = lambda call, server, error: other
    w.core.media.pick = lambda call: other if "failed answer" in w.relay.log else w.relay
    call = place(w)
    w.clock.run_for(40)
    assert w.addresses() == (RELAYED, RELAYED)
    assert w.journal.calls[0].media is other
    assert not w.relay.live
    call.bye()
    w.finish()
    assert not other.live


@pytest.mark.parametrize("place", [in_the_200, early, in_the_ack])
def test_a_server_lost_between_offer_and_answer_and_nobody_to_take_over(place: Callable[[World], Call]) -> None:
    w = World(0)
    call = place(w)
    # The offer has gone out, the answer has not come yet.
    w.clock.run_until_true(lambda: any(line.startswith("offer") for line in w.relay.log))
    w.clock.run_for(0.012)
    w.core.media.pick = lambda call: None
    w.relay.silent |= {"offer", "answer"}
    w.core.failover.move(w.journal.calls[0], "it has died", dead=True)
    w.relay.live.clear()
    w.settled(DIRECT, call)
    assert w.journal.events.count("media failed") == 1


def test_media_of_a_dead_server_go_past_it_when_no_other_turns_up() -> None:
    w = World(0)
    call = established(w)
    w.core.media.pick = lambda call: None
    w.core.failover.move(w.journal.calls[0], "it has died", dead=True)
    w.settled(DIRECT, call)
    assert w.journal.events.count("media failed") == 1


def test_descriptions_that_passed_by_while_a_server_was_silent_leave_the_call_without_it() -> None:
    w = World(0)
    call = established(w)
    w.core.media.pick = lambda call: None
    w.core.failover.move(w.journal.calls[0], "it is silent")
    call.reinvite(changed(SDP))
    w.settled(DIRECT, call)
    assert w.journal.events.count("media failed") == 1


def test_a_policy_to_reject_counts_a_server_that_is_lost_before_another_branch() -> None:
    rules = Rules([RouteRule(method="INVITE", targets=["sip:10.0.0.2", "sip:10.0.0.3"])])
    options = ProxyOptions(trusted=["10.0.0.0/8"], media_use="always", on_media_failure="reject")
    w = World(0, phones=3, rules=rules, options=options)

    def take(call: IncomingCall) -> None:
        w.core.failover.move(w.journal.calls[0], "it is lost")
        call.answer(486)

    w.bob.take = take
    w.call("sip:bob@example.com")
    w.clock.run_for(5)
    assert [s.line.split()[1] for s in w.sent("SIP/2.0", "10.0.0.1")] == ["100", "503"]
    w.finish()


def test_the_party_is_told_by_invite_when_it_refuses_update_and_again_when_it_is_busy() -> None:
    w = World()
    replies = iter([(488, ()), (500, (("Retry-After", "2"),)), (200, ())])
    asked: list[str] = []

    def request(call: Call, request: Any, reply: Any) -> None:
        asked.append(request.method)
        status, headers = next(replies) if request.method in ("INVITE", "UPDATE") else (200, ())
        reply(status, ANSWER if status == 200 and request.body else b"", headers=headers)

    w.bob.diary.on["request"] = request
    call = w.call()
    w.settled(DIRECT, call)
    assert asked[:3] == ["UPDATE", "INVITE", "INVITE"]


def test_a_party_that_is_told_and_receives_elsewhere_then_has_its_peer_told_too() -> None:
    w = World()
    w.bob.diary.on["request"] = lambda call, request, reply: reply(
        200, ANSWER.replace(b"4000", b"4600") if request.body else b""
    )
    call = w.call()
    w.clock.run_for(30)
    assert b"m=audio 4600" in w.told("10.0.0.1")
    assert w.addresses() == (DIRECT, DIRECT)
    call.bye()
    w.finish()


def test_two_parties_that_move_at_every_offer_do_not_keep_each_other_busy_for_ever() -> None:
    w = World()
    ports = iter(range(5000, 9000))

    def request(call: Call, request: Any, reply: Any) -> None:
        reply(200, SDP.replace(b"4000", str(next(ports)).encode()) if request.body else b"")

    w.alice.diary.on["request"] = w.bob.diary.on["request"] = request
    call = w.call()
    w.clock.run_for(60)
    assert len(w.sent("UPDATE")) + len(w.sent("INVITE")) < 40
    call.bye()
    w.finish()


@pytest.mark.parametrize("status", [488, 487, 503])
@pytest.mark.parametrize("side", ["caller", "callee"])
def test_a_refused_offer_in_mid_call_leaves_the_media_server_with_what_was_agreed(side: str, status: int) -> None:
    w = World(0)
    call = established(w)
    asker, answerer = (w.alice, w.bob) if side == "caller" else (w.bob, w.alice)
    party: Call = call if side == "caller" else w.bob.calls[0]
    answerer.diary.on["request"] = lambda call, request, reply: reply(status if request.method == "INVITE" else 200)
    said: list[bytes] = []
    exchange = w.relay._exchange

    def listen(command: str, session: MediaSession, sdp: bytes, done: SdpResult, flags: MediaFlags) -> None:
        said.append(sdp)
        exchange(command, session, sdp, done, flags)

    w.relay._exchange = listen  # type: ignore[method-assign]
    own = SDP if side == "caller" else ANSWER
    party.reinvite(changed(own))
    w.clock.run_for(3)
    assert said == [changed(own), own, ANSWER if side == "caller" else SDP]
    assert asker.diary is not answerer.diary
    answerer.diary.on["request"] = lambda call, request, reply: reply(200, ANSWER if request.body else b"")
    w.settled(RELAYED, call)


def test_a_refused_offer_that_changes_nothing_asks_nothing() -> None:
    w = World(0)
    call = established(w)
    call.reinvite(SDP)
    w.clock.run_for(1)
    before = len(w.relay.log)
    w.bob.diary.on["request"] = lambda call, request, reply: reply(491 if request.method == "INVITE" else 200)
    call.reinvite(SDP)
    w.clock.run_for(1)
    assert w.relay.log[before:] == []
    call.bye()
    w.finish()


def test_the_caller_keeps_the_second_of_two_that_answered_and_hears_it_through_the_media_server() -> None:
    rules = Rules([RouteRule(method="INVITE", targets=["sip:10.0.0.2", "sip:10.0.0.3"], fork=True)])
    w = World(0, phones=3, rules=rules)
    w.network.link(PROXY, "10.0.0.3", LinkQuality(delay=0.2))
    w.network.drop = lambda sent: sent.line.startswith("BYE") and sent.destination[0] == PROXY
    w.call("sip:bob@example.com")
    w.clock.run_for(2)
    first, second = w.core.dialogs.all()
    assert b"c=IN IP4 " + RELAYED in w.told("10.0.0.3")
    w.core.dialogs.end(first, "bye")
    assert w.journal.calls[0].to_tag == second.callee_tag
    w.clock.run_for(5)
    assert w.addresses()[0] == RELAYED
    assert w.relay.log[-1].split()[:3] == ["answer", second.caller_tag, second.callee_tag]
    w.core.dialogs.end(second, "bye")
    w.clock.run_until_idle()
    assert not any(w.core.counts().values())
    assert not w.relay.live


# -- answers that are mended -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["200", "183", "reliable", "multipart", "no type", "wrong type"])
@pytest.mark.parametrize(
    ("offer", "answer"),
    [(SDP + VIDEO, ANSWER), (SDP, ANSWER + VIDEO.replace(b"4002", b"0")), (SDP + VIDEO, VIDEO)],
)
def test_an_answer_with_other_lines_passes_with_those_of_the_offer(place: str, offer: bytes, answer: bytes) -> None:
    w = World(0)
    reordered = answer == VIDEO
    if reordered:
        answer = ANSWER.replace(b"m=audio", VIDEO + b"m=audio")

    def take(call: IncomingCall) -> None:
        if place == "183":
            call.answer(183, answer)
        if place == "reliable":
            call.answer(183, answer, headers=(("Require", "100rel"), ("RSeq", "1")))
            w.clock.call_later(1, call.answer, 200)
        elif place == "multipart":
            kind, octets = build_multipart(
                [Part.make("application/x-isup", b"\x01\x02"), Part.make("application/sdp", answer)]
            )
            call.answer(200, octets, content_type=kind)
        elif place == "wrong type":
            call.answer(200, answer, content_type="text/plain")
        else:
            call.answer(200, answer)

    if place == "no type":
        w.network.drop = None
        deliver = w.node.deliver

        def untyped(data: bytes, source: Any) -> None:
            if data.startswith(b"SIP/2.0 200") and b"CSeq: 1 INVITE" in data:
                data = data.replace(b"Content-Type: application/sdp\r\n", b"")
            deliver(data, source)

        w.node.deliver = untyped  # type: ignore[method-assign]
    w.bob.take = take
    call = w.call(body=offer)
    w.clock.run_for(3)
    told = w.told("10.0.0.1")
    assert [line.split()[0] for line in told.splitlines() if line.startswith(b"m=")] == [
        line.split()[0] for line in offer.splitlines() if line.startswith(b"m=")
    ]
    proxied: ProxyCall = w.journal.calls[0]
    assert proxied.callee_sdp.count(b"m=") == offer.count(b"m=")
    assert (b"m=video 0" in told) == (VIDEO in offer and not reordered)
    assert w.core.counters["answers_mended"] >= 1
    w.settled(RELAYED, call)


def test_an_answer_in_the_ack_is_mended_too() -> None:
    w = World(0)
    w.bob.take = lambda call: call.answer(200, ANSWER + VIDEO)
    w.alice.diary.on["answered"] = lambda call, response: call.ack(SDP)
    call = w.call(body=b"")
    w.clock.run_for(1)
    assert b"m=video 0" in w.told("10.0.0.2")
    w.settled(RELAYED, call)


def test_an_answer_in_mid_call_is_mended_too() -> None:
    w = World(0)
    call = established(w)
    w.bob.diary.on["request"] = lambda call, request, reply: reply(200, ANSWER if request.body else b"")
    call.reinvite(changed(SDP) + VIDEO)
    w.clock.run_for(1)
    assert b"m=video 0" in w.told("10.0.0.1")
    w.alice.diary.on["request"] = lambda call, request, reply: reply(
        200, SDP + VIDEO.replace(b"4002", b"0") if request.body else b""
    )
    w.bob.calls[0].update(changed(ANSWER))
    w.clock.run_for(1)
    assert b"m=video" not in w.told("10.0.0.2")
    w.settled(RELAYED, call)


def test_an_answer_that_only_the_caller_can_read_goes_past_the_media_server() -> None:
    w = World(0)
    w.bob.take = lambda call: call.answer(200, b"--x\r\n\r\n" + ANSWER, content_type="multipart/mixed")
    call = w.call()
    w.clock.run_for(5)
    assert b"c=IN IP4 " + DIRECT in w.told("10.0.0.2")
    assert not w.relay.live
    call.bye()
    w.finish()


# -- and the recording -------------------------------------------------------------------------------------------------


class Flaky(CallMediaServer):
    """Loses its first `failures` answers."""

    failures = 0

    def answer(self, session: MediaSession, sdp: bytes, done: SdpResult, *, flags: MediaFlags = NO_FLAGS) -> None:
        self.failures -= 1
        if self.failures < 0:
            super().answer(session, sdp, done, flags=flags)
        elif self.failures % 2:
            self.clock.call_later(0.01, done, MediaError("Unknown call-id"))


@pytest.mark.parametrize("start", ["answer", "early"])
@pytest.mark.parametrize("failures", [1, 2])
def test_a_call_whose_answer_was_lost_is_recorded_once_it_runs_through_the_media_server(
    start: str, failures: int
) -> None:
    w = TransferWorld(start=start)
    w.server = Flaky(w.clock)
    w.server.failures = failures

    def take(call: IncomingCall) -> None:
        call.answer(183, ANSWER)
        w.clock.call_later(1, call.answer, 200, ANSWER)

    w.bob.take = take
    for phone, answer in ((w.alice, SDP), (w.bob, ANSWER)):
        phone.diary.on["request"] = lambda call, request, reply, answer=answer: reply(
            200, answer if request.body else b""
        )
    call = w.call()
    w.clock.run_for(10)
    if failures == 1:
        assert [info.state for info in w.service.info()] == ["active"]
        assert w.told() == ["START"]
    else:
        # It loses the answer again when the call is moved: direct, and said so.
        assert w.told()[-1] == "FAILED"
        assert not w.server.live
    call.bye()
    w.finish()


def test_a_recording_whose_srs_is_being_called_goes_on_through_another_media_server() -> None:
    w = TransferWorld()
    for phone, answer in ((w.alice, SDP), (w.bob, ANSWER)):
        phone.diary.on["request"] = lambda call, request, reply, answer=answer: reply(
            200, answer if request.body else b""
        )
    w.srs.answer_delay = 1.0
    call = w.call()
    w.clock.run_until_true(lambda: w.srs.calls)
    first, w.server = w.server, CallMediaServer(w.clock)
    w.core.failover.move(w.journal.calls[0], "it is lost", dead=True)
    w.clock.run_for(5)
    assert w.told() == ["START"]
    assert len(w.server.targets) == 1
    assert len(w.srs.calls) == 1
    assert not first.live
    first.subscriptions.clear()
    call.bye()
    w.finish()


def test_a_recording_that_waits_for_copies_asks_the_other_media_server() -> None:
    w = TransferWorld()
    for phone, answer in ((w.alice, SDP), (w.bob, ANSWER)):
        phone.diary.on["request"] = lambda call, request, reply, answer=answer: reply(
            200, answer if request.body else b""
        )
    w.server.subscribe_request = lambda *arguments, **options: None  # type: ignore[method-assign]
    call = w.call()
    w.clock.run_for(0.5)
    assert [info.state for info in w.service.info()] == ["forking"]
    w.server = CallMediaServer(w.clock)
    w.core.failover.move(w.journal.calls[0], "it is lost", dead=True)
    w.clock.run_for(5)
    assert w.told() == ["START"]
    call.bye()
    w.finish()
