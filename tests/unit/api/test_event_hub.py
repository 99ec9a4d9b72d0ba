"""Events: numbers, the ring, and queues that never make anyone wait."""

from __future__ import annotations

import asyncio
import json

from siprec.api.event_hub import EventHub
from siprec.recording import events
from siprec.recording.events import SiprecEvent


def event(number: int, name: str = events.START) -> SiprecEvent:
    return SiprecEvent(name, f"d{number}", f"c{number}", "r", "s", "sip:srs", "default", float(number), "why", 7)


def test_all_parameters_are_in_the_json() -> None:
    hub = EventHub()
    hub(event(1))
    [numbered] = hub.since("x-0")[0]
    assert json.loads(numbered.data) == {
        "id": numbered.id,
        "event": "E_SIPREC_START",
        "dlg_id": "d1",
        "dlg_callid": "c1",
        "callid": "r",
        "session_id": "s",
        "server": "sip:srs",
        "instance": "default",
        "time": 1.0,
        "reason": "why",
        "status": 7,
    }


def test_the_ring_keeps_the_last_and_says_when_some_are_missing() -> None:
    hub = EventHub(ring=3)
    ids = []
    for number in range(5):
        hub(event(number))
        ids.append(hub.last_id)
    kept = [numbered.id for numbered in hub.since("other-1")[0]]
    assert kept == ids[2:]
    assert hub.since("other-1")[1] is True
    for last, missed, gap in ((0, 3, True), (1, 3, False), (2, 2, False), (4, 0, False)):
        found, lost = hub.since(ids[last])
        assert ([each.id for each in found], lost) == (ids[5 - missed :], gap)
    for nonsense in ("", "x", ids[0] + "x", ids[0].replace("-", "--"), ids[0].split("-")[0] + "-" + "9" * 30):
        assert hub.since(nonsense)[1] is True


def test_ids_of_another_process_are_not_taken_for_ours() -> None:
    first, second = EventHub(), EventHub()
    for hub in (first, second):
        hub(event(1))
    assert first.last_id != second.last_id
    assert second.since(first.last_id) == (list(second.since("")[0]), True)


def test_a_subscriber_gets_what_it_wants_in_order() -> None:
    async def scenario() -> None:
        hub = EventHub()
        subscriber = hub.subscribe(10, lambda each: each.name == events.STOP)
        waiting = asyncio.create_task(subscriber.take(30))
        await asyncio.sleep(0)
        hub(event(1))
        hub(event(2, events.STOP))
        hub(event(3, events.STOP))
        assert [each.event.dlg_id for each in await waiting] == ["d2", "d3"]
        assert await subscriber.take(0.01) == []
        hub.unsubscribe(subscriber)
        hub(event(4, events.STOP))
        assert await subscriber.take(0.01) == []

    asyncio.run(scenario())


def test_a_full_queue_drops_the_subscriber_and_frees_its_memory() -> None:
    async def scenario() -> None:
        hub = EventHub()
        slow, quick = hub.subscribe(3, lambda each: True), hub.subscribe(100, lambda each: True)
        for number in range(3):
            hub(event(number))
        assert not slow.dropped
        assert hub.queued == 6
        hub(event(3))
        assert slow.dropped
        assert await slow.take(30) == []
        assert (len(hub), hub.dropped_subscribers, hub.queued) == (1, 1, 4)
        assert len(await quick.take(30)) == 4

    asyncio.run(scenario())


def test_closing_wakes_everyone() -> None:
    async def scenario() -> None:
        hub = EventHub()
        subscriber = hub.subscribe(3, lambda each: True)
        waiting = asyncio.create_task(subscriber.take(30))
        await asyncio.sleep(0)
        hub.close()
        assert await waiting == []
        assert subscriber.closed
        assert len(hub) == 0

    asyncio.run(scenario())
