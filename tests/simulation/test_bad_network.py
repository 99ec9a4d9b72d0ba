"""Whatever the network does: both sides come to an end, to the same end, and nothing is left."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siprec.sip.message import SipResponse
from siprec.sip.useragent import Call, IncomingCall
from tests.simulation.network import LinkQuality
from tests.simulation.phones import ANSWER, SDP, Diary, TwoPhones

BAD = LinkQuality(loss=0.3, duplicate=0.2, delay=0.02, jitter=0.6)
HOLD = SDP + b"a=sendonly\r\n"

qualities = st.builds(
    LinkQuality,
    loss=st.sampled_from([0.0, 0.1, 0.3, 0.5]),
    duplicate=st.sampled_from([0.0, 0.3]),
    delay=st.sampled_from([0.001, 0.1, 0.7]),
    jitter=st.sampled_from([0.0, 0.4, 3.0]),
)


def ends(diary: Diary) -> Counter[str]:
    """How often each kind of end was told."""
    return Counter(event.split()[0] for event in diary.events if event.split()[0] in ("failed", "answered", "ended"))


def check_told_once(w: TwoPhones, by_alice: bool) -> None:
    """Each side was told once how it ended, except who hung up itself."""
    alice, bob = ends(w.alice.diary), ends(w.bob.diary)
    assert alice["failed"] + alice["answered"] == 1, w.alice.diary.events
    assert alice["ended"] <= alice["answered"]
    assert bob["ended"] <= 1
    if alice["answered"]:
        assert by_alice or alice["ended"], (w.alice.diary.events, w.bob.diary.events)
        assert not by_alice or bob["ended"], (w.alice.diary.events, w.bob.diary.events)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    quality=qualities,
    seed=st.integers(0, 10**6),
    ring=st.sampled_from([0.0, 0.3, 5.0, 40.0]),
    talk=st.sampled_from([0.0, 0.05, 1.0, 20.0]),
    by_alice=st.booleans(),
    late_offer=st.booleans(),
    transport=st.sampled_from(["udp", "tcp"]),
)
def test_call_always_ends_with_nothing_left(
    quality: LinkQuality, seed: int, ring: float, talk: float, by_alice: bool, late_offer: bool, transport: str
) -> None:
    w = TwoPhones(quality, seed)

    def take(call: IncomingCall) -> None:
        if ring:
            call.answer(180)
        w.clock.call_later(ring, call.answer, 200, SDP if late_offer else ANSWER)

    w.bob.take = take
    # The session timer is what ends a call whose BYE, eleven times sent, never came through.
    target = f"sip:bob@10.0.0.2;transport={transport}"
    w.alice.call(target, b"" if late_offer else SDP, session_expires=90)

    def answered(call: Call, response: SipResponse) -> None:
        call.ack(ANSWER)
        if by_alice:
            w.clock.call_later(talk, call.bye)

    w.alice.diary.on["answered"] = answered
    if not by_alice:
        w.bob.diary.on["ack"] = lambda call, request: w.clock.call_later(talk, call.bye)
    w.finish()
    check_told_once(w, by_alice)


@pytest.mark.parametrize("seed", range(150))
def test_cancel_and_answer_cross(seed: int) -> None:
    rng = random.Random(seed)
    quality = LinkQuality(delay=0.1) if seed % 3 else BAD
    w = TwoPhones(quality, seed)

    def take(call: IncomingCall) -> None:
        call.answer(180)
        w.clock.call_later(rng.uniform(0.8, 1.2), call.answer, 200, ANSWER)

    w.bob.take = take
    call = w.call()
    w.clock.run_for(rng.uniform(0.8, 1.2) + 0.1)
    call.cancel()
    w.clock.call_later(5, call.bye)
    w.finish()
    alice, bob = ends(w.alice.diary), ends(w.bob.diary)
    assert alice["failed"] + alice["answered"] == 1
    assert alice["ended"] == 0 or alice["answered"] == 1
    assert bob["ended"] <= 1
    if quality is not BAD and w.bob.calls:
        assert bob["ended"] == 1
        answered = "ack" in w.bob.diary.events
        assert ("ended bye" in w.bob.diary.events) == answered
        assert ("ended cancelled" in w.bob.diary.events) != answered


@pytest.mark.parametrize("seed", range(150))
def test_bye_and_reinvite_cross(seed: int) -> None:
    rng = random.Random(seed)
    w = TwoPhones(LinkQuality(delay=0.1), seed)
    call, incoming = w.established()
    sides: list[Call] = [call, incoming]
    rng.shuffle(sides)
    if seed % 3 == 0:
        w.network.quality = BAD
    results: list[object] = []
    for _ in range(3):
        w.clock.call_later(rng.uniform(0, 0.4), sides[0].reinvite, HOLD, "application/sdp", (), results.append)
    w.clock.call_later(rng.uniform(0, 0.4), sides[1].bye)
    w.finish()
    assert len(results) == 3
    assert call.state == incoming.state == "ended"
    hearer = w.alice.diary if sides[0] is call else w.bob.diary
    assert ends(hearer)["ended"] == 1


@pytest.mark.parametrize("seed", range(100))
def test_reinvites_from_both_sides_all_come_through(seed: int) -> None:
    rng = random.Random(seed)
    w = TwoPhones(LinkQuality(delay=0.1, jitter=0.2, duplicate=0.2, loss=0.1 if seed % 2 else 0.0), seed)
    call = w.call()
    w.clock.run_until_true(lambda: "ack" in w.bob.diary.events)
    incoming = w.bob.calls[0]
    results: list[SipResponse | str] = []
    for side in (call, incoming):
        for _ in range(3):
            what = side.reinvite if rng.random() < 0.7 else side.update
            w.clock.call_later(rng.uniform(0, 3), what, HOLD, "application/sdp", (), results.append)
    w.clock.run_for(200)
    assert [result.status if isinstance(result, SipResponse) else result for result in results] == [200] * 6
    assert call.state == incoming.state == "confirmed"
    call.bye()
    w.finish()


@pytest.mark.parametrize("seed", range(40))
def test_many_calls_over_a_bad_network_leave_nothing(seed: int) -> None:
    rng = random.Random(seed)
    w = TwoPhones(BAD, seed)
    diaries: list[Diary] = []

    def take(call: IncomingCall) -> None:
        action = rng.random()
        if action < 0.5:
            call.answer(200, ANSWER)
        elif action < 0.7:
            call.answer(486)
        else:
            call.answer(180)
            w.clock.call_later(rng.uniform(0, 20), call.answer, 200, ANSWER)
        w.clock.call_later(rng.uniform(0, 60), call.bye)

    w.bob.take = take
    for _ in range(10):
        diary = Diary()
        diaries.append(diary)
        call = w.call(handler=diary, setup_timeout=rng.choice([None, 1.0, 4.0]), session_expires=rng.choice([0, 90]))
        w.clock.call_later(rng.uniform(0, 60), call.cancel)
        w.clock.call_later(rng.uniform(0, 90), call.bye)
        w.clock.run_for(rng.uniform(0, 2))
    w.clock.run_for(100)
    w.finish()
    for diary in diaries:
        told = ends(diary)
        assert told["failed"] + told["answered"] == 1
        assert told["ended"] <= told["answered"]
