"""What a recorder gets of the time before it answered: all it should, and nothing more (R3, ERR-09, CTL-07)."""

from __future__ import annotations

import asyncio

import pytest

from siprec import sdp
from siprec.media.engine import MediaFlags, MediaSession
from siprec.relay.fork import HOLD
from tests.interop.media.localrelay import CALL, Local, each, local
from tests.interop.media.rig import Endpoint, recorder_answer, renumbered, target, until


@each
def test_what_was_said_before_the_recorder_answered_reaches_it_first_and_in_order(kind: str) -> None:
    async def scenario() -> None:
        async with local(kind) as it:
            await it.establish()
            subscription = await it.rig.subscribe(CALL, ["caller", "callee"])
            early = await it.talk(200)
            srs = [it.rig.endpoint(), it.rig.endpoint()]
            await it.rig.accept(CALL, subscription.tag, recorder_answer(subscription, srs))
            late: list[bytes] = []
            while len(late) < 100:  # goes on while what was kept is sent
                late += it.a.send(it.to_a)
                await asyncio.sleep(0.001)
            await until(lambda: len(srs[0].poll()) >= 300, "pre-roll and the rest")
            assert srs[0].received == early + late
            fork = (await it.rig.query(CALL)).forks[0]
            assert (fork.packets, fork.octets) == (300, 300 * 172)

    asyncio.run(scenario())


@each
def test_pre_roll_can_begin_before_there_is_a_subscription_and_is_bounded_in_time(kind: str) -> None:
    async def scenario() -> None:
        async with local(kind, preroll=10.0) as it:
            await it.establish(flags=("pre-roll",))
            early = await it.talk(30)
            first, second = await it.subscribed(), await it.subscribed()
            for _, srs in (first, second):
                await until(lambda s=srs: len(s[0].poll()) >= 30, "pre-roll")  # type: ignore[misc]
                assert srs[0].received == early
            it.later(10.1)
            assert all(
                not stream.rtp.forks or stream.keeper is None for _, _, stream in it.relay.calls[CALL.call_id].streams()
            )
            subscription = await it.rig.subscribe(CALL, ["caller"], "late")
            await it.talk(5)
            it.clock.skew += HOLD + 0.5
            kept = await it.talk(5)
            it.clock.skew += HOLD - 10
            kept += await it.talk(5)
            srs = [it.rig.endpoint()]
            await it.rig.accept(CALL, "late", recorder_answer(subscription, srs))
            await until(lambda: len(srs[0].poll()) >= 10, "all since the subscription, but for the first minute")
            assert srs[0].received == kept

    asyncio.run(scenario())


async def subscribed_late(it: Local, age: float, tag: str) -> list[Endpoint]:
    flags = MediaFlags(preroll=age)
    subscription = await it.rig.subscribe(CALL, ["caller", "callee"], tag, flags)
    srs = [it.rig.endpoint(), it.rig.endpoint()]
    await it.rig.accept(CALL, subscription.tag, recorder_answer(subscription, srs))
    return srs


@each
def test_what_rang_before_the_answer_is_in_no_recording_that_begins_with_it(kind: str) -> None:
    async def scenario() -> None:
        async with local(kind, preroll=30.0) as it:
            await it.establish(flags=("pre-roll",))
            ringing = await it.talk(20)
            it.clock.skew += 5.0
            first_words = await it.talk(20)
            it.clock.skew += 0.5
            begun = await subscribed_late(it, 3.0, "from the answer on")
            at_once = await subscribed_late(it, 0.0, "from now on")
            early = await subscribed_late(it, 60.0, "from the early media on")
            later = await it.talk(20)
            for srs, expected in (
                (begun, first_words + later),
                (at_once, later),
                (early, ringing + first_words + later),
            ):
                await until(lambda s=srs, e=expected: len(s[0].poll()) >= len(e), "copies")  # type: ignore[misc]
                assert srs[0].received == expected

    asyncio.run(scenario())


@each
def test_before_the_answer_pre_roll_does_not_run_out(kind: str) -> None:
    async def scenario() -> None:
        async with local(kind, preroll=2.0) as it:
            await it.rig.ping()  # tells that this server understands our flag
            flags = MediaFlags(flags=("pre-roll",))
            it.a, it.b = it.rig.endpoint("127.0.0.1", 0xA), it.rig.endpoint("127.0.0.1", 0xB)
            offered = await it.rig.offer(MediaSession(CALL.call_id, CALL.from_tag), it.a.sdp(), flags)
            it.to_b = target(offered)
            it.later(25.0)  # it rings for long
            packets = it.b.send(it.to_b, 3)  # faster than the 200
            answered = await it.rig.answer(CALL, it.b.sdp(), flags)
            it.to_a = target(answered)
            it.later(1.0)
            srs = await subscribed_late(it, 1.5, "s")
            await until(lambda: len(srs[1].poll()) >= 3, "what came before the answer")
            assert srs[1].received == packets

    asyncio.run(scenario())


@each
def test_a_recorder_that_is_not_ready_gets_the_beginning_when_it_is(kind: str) -> None:  # SRS-06
    async def scenario() -> None:
        async with local(kind) as it:
            await it.establish()
            subscription = await it.rig.subscribe(CALL, ["caller", "callee"])
            words = await it.talk(10)
            srs = [it.rig.endpoint(), it.rig.endpoint()]
            await it.rig.accept(CALL, subscription.tag, recorder_answer(subscription, srs, "inactive"))
            words += await it.talk(10)
            assert srs[0].poll() == []
            await it.rig.accept(CALL, subscription.tag, recorder_answer(subscription, srs))
            words += await it.talk(10)
            await until(lambda: len(srs[0].poll()) >= 30, "everything")
            # Later it is a pause, and what is said in it is lost (CTL-02).
            await it.rig.accept(CALL, subscription.tag, recorder_answer(subscription, srs, "inactive"))
            await it.talk(10)
            await it.rig.accept(CALL, subscription.tag, recorder_answer(subscription, srs))
            after = await it.talk(10)
            await until(lambda: len(srs[0].poll()) >= 40, "the rest")
            assert srs[0].received == words + renumbered(after, 10)

    asyncio.run(scenario())


@pytest.mark.parametrize("first", ["took both", "refused one", "was not ready"])
@each
def test_when_a_recorder_is_lost_the_next_one_gets_all_that_is_said_from_then_on(
    first: str, kind: str
) -> None:  # ERR-09
    async def scenario() -> None:
        async with local(kind) as it:
            await it.establish()
            subscription = await it.rig.subscribe(CALL, ["caller", "callee"])
            old: list[Endpoint] = [it.rig.endpoint(), it.rig.endpoint()]
            taken = [None, old[1]] if first == "refused one" else old
            direction: sdp.Direction = "inactive" if first == "was not ready" else "recvonly"
            await it.rig.accept(CALL, subscription.tag, recorder_answer(subscription, taken, direction))
            before = await it.talk(10)
            if first == "took both":
                await until(lambda: len(old[0].poll()) >= 10, "copies")
            renewed = await it.rig.subscribe(CALL, ["caller", "callee"], subscription.tag, MediaFlags(hold=True))
            words = await it.talk(20)
            new = [it.rig.endpoint(), it.rig.endpoint()]
            await it.rig.accept(CALL, subscription.tag, recorder_answer(renewed, new))
            words += await it.talk(10)
            expected = (before if first == "was not ready" else []) + words
            await until(lambda: len(new[0].poll()) >= len(expected), "what was said meanwhile")
            assert new[0].received == expected
            assert old[0].received == (before if first == "took both" else [])

    asyncio.run(scenario())


@each
def test_a_stream_that_joins_a_paused_recording_is_paused_too(kind: str) -> None:  # CTL-07
    async def scenario() -> None:
        async with local(kind) as it:
            await it.establish(flags=("pre-roll",))
            subscription = await it.rig.subscribe(CALL, ["callee"])
            srs = [it.rig.endpoint(), it.rig.endpoint()]
            await it.rig.accept(CALL, subscription.tag, recorder_answer(subscription, srs[1:]))
            await it.rig.raw("block media", call_id=CALL.call_id, to_tag=subscription.tag)
            await it.talk(10)
            renewed = await it.rig.subscribe(CALL, ["caller", "callee"], subscription.tag)
            await it.talk(10)
            await it.rig.accept(CALL, subscription.tag, recorder_answer(renewed, srs, "inactive"))
            await it.talk(10)
            await it.rig.accept(CALL, subscription.tag, recorder_answer(renewed, srs))
            await it.rig.raw("unblock media", call_id=CALL.call_id, to_tag=subscription.tag)
            after = await it.talk(10)
            await until(lambda: len(srs[0].poll()) >= 10, "copies after the pause")
            assert srs[0].received == after

    asyncio.run(scenario())


@each
def test_another_branch_takes_over_the_stream_and_its_copy(kind: str) -> None:  # SCN-13
    async def scenario() -> None:
        async with local(kind) as it:
            await it.establish()
            subscription, srs = await it.subscribed()
            ports = [stream.section.port for stream in subscription.streams]
            other = it.rig.endpoint("127.0.0.1", 0xC)
            second = MediaSession(CALL.call_id, "caller", "carol")
            await it.rig.answer(second, other.sdp(), MediaFlags())
            renewed = await it.rig.subscribe(second, ["caller", "carol"], subscription.tag)
            assert [stream.section.port for stream in renewed.streams] == ports
            assert [stream.from_tag for stream in renewed.streams] == ["caller", "carol"]
            words = other.send(it.to_b, 10)
            await until(lambda: len(srs[1].poll()) >= 10, "copies of the other branch")
            assert srs[1].received == words

    asyncio.run(scenario())
