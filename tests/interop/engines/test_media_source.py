"""A party's media come from another host in mid-call, without a description: as carriers and media gateways do."""

from __future__ import annotations

import asyncio
from pathlib import Path

from siprec.cli.phone_media import PhoneMedia
from tests.interop.engines.world import until, world


def test_the_call_and_its_recording_go_on_and_an_event_tells_of_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path, "relay") as it:
            await it.alice.dial("bob")
            await until(lambda: it.proxy.recording.counts().get("active") == 1, "it is recorded")
            await it.talk(60)
            [call] = it.proxy.core.calls.values()
            alice, before = it.alice.media, it.bob.media
            assert alice is not None
            assert before is not None
            assert before._remote is not None
            before.close()
            gateway = it.bob.media = PhoneMedia("127.0.0.7", it.bob.signal)
            gateway.start(*before._remote)
            heard = alice.received
            await until(lambda: alice.received >= heard + 60 and gateway.received >= 60, "both hear each other")
            await until(lambda: "MEDIA_SOURCE" in it.names(), "the event")
            [event] = [each for each in it.events if each.name == "E_SIPREC_MEDIA_SOURCE"]
            assert event.dlg_callid == call.call_id
            assert event.server == "embedded"
            assert event.reason == f"tag {call.to_tag}, m-line 1: 127.0.0.1:{before.port} -> 127.0.0.7:{gateway.port}"
            assert it.proxy.core.counters["media_sources_moved"] == 1
            passed = alice.received
            await it.alice.hang_up()
            await until(lambda: any(r["state"] == "complete" for _, r in it.recordings(0)), "the recording is complete")
            [(_, recording)] = it.recordings(0)
            kept = [stream["packets"]["received"] for stream in recording["streams"]]
            assert min(kept) >= passed - 10, (kept, passed)

    asyncio.run(scenario())
