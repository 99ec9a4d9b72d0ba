"""Calls that a killed process has left at a media server: their copies end, and they go when they are silent."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

from siprec.audio.melody import callee_melody, caller_melody
from siprec.cli.phone import Phone
from siprec.media.engine import MediaServer, MediaSession
from siprec.relay.process import LoopClock
from siprec.server import orphans
from siprec.server.config_file import parse
from siprec.server.media_uri import connect
from siprec.server.orphans import Orphans, owner
from tests.interop.calls.harness import HOST, Command
from tests.interop.media.rig import Rig, drive, recorder_answer, target, until
from tests.parallel import own_port

CONFIG = '[sip]\nlisten = ["udp:127.0.0.1:5062"]\nadvertise = "{}"\n'


def test_who_we_are_is_the_same_at_each_start_and_nobody_elses() -> None:
    ours = owner(parse(CONFIG.format("a.example.com")))
    assert ours == owner(parse(CONFIG.format("a.example.com")))
    assert ours.startswith("siprec-")
    assert ours != owner(parse(CONFIG.format("b.example.com")))
    assert ours != owner(parse(CONFIG.format("a.example.com").replace("5062", "5064")))
    assert owner(parse('[sip]\nlisten = ["udp:127.0.0.1:0"]')) == ""


async def run(rig: Rig, name: str, label: str) -> tuple[Rig, MediaServer]:
    """A client of the same server, as another process has it."""
    client: Any = rig.engine
    opener = client.client._connection
    address = opener._socket.getpeername()
    loop = asyncio.get_running_loop()
    server = connect(LoopClock(loop), loop, f"ng:udp:{address[0]}:{address[1]}", name=name, label=label)
    return Rig(server, rig.kind), server


async def recorded(rig: Rig, call_id: str) -> tuple[Any, Any, Any]:
    """A call with copies to a recorder: its parties, their targets, and the recorder's endpoints."""
    parties = [rig.endpoint(), rig.endpoint()]
    recorder = [rig.endpoint(), rig.endpoint()]
    offer = await rig.offer(MediaSession(call_id, "a"), parties[0].sdp())
    answer = await rig.answer(MediaSession(call_id, "a", "b"), parties[1].sdp())
    subscription = await rig.subscribe(MediaSession(call_id, "a", "b"), ["a", "b"])
    await rig.accept(MediaSession(call_id, "a", "b"), subscription.tag, recorder_answer(subscription, recorder))
    return parties, [target(answer), target(offer)], recorder


async def calls(rig: Rig) -> set[str]:
    reply = await rig.raw("list", limit=100)
    return {each.decode() for each in reply["calls"]}  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["native", "rtpengine"])
def test_copies_of_an_earlier_run_end_at_once_and_its_calls_when_they_are_silent(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "AGAIN", 0.2)

    async def scenario(rig: Rig) -> None:
        clock = LoopClock(asyncio.get_running_loop())
        mine, theirs = parse(CONFIG.format("a.example.com")), parse(CONFIG.format("b.example.com"))
        before, other, now = Orphans(clock, mine), Orphans(clock, theirs), Orphans(clock, mine)
        first, server1 = await run(rig, "before", before.label)
        foreign, server2 = await run(rig, "other", other.label)
        present, server3 = await run(rig, "now", now.label)
        everyone = [first, foreign, present]
        try:
            talking = {each: await recorded(each, name) for each, name in zip(everyone, "xyz", strict=True)}
            await recorded(rig, "nobody's")
            assert await calls(rig) == {"x", "y", "z", "nobody's"}

            async def packets(whose: Rig, count: int = 5) -> tuple[int, int]:
                """How many more the other party and the recorder get."""
                (a, b), (to, _), recorder = talking[whose]
                heard, copied = len(b.poll()), len(recorder[0].poll())
                for _ in range(count):
                    a.send(to)
                    await asyncio.sleep(0.02)
                await until(lambda: len(b.poll()) >= heard + count, "the other party hears it")
                await asyncio.sleep(0.05)
                return len(b.poll()) - heard, len(recorder[0].poll()) - copied

            for each in everyone:
                heard, copied = await packets(each)
                assert heard == copied == 5
            now.end(server3)
            copied = 1
            for _ in range(100):
                heard, copied = await packets(first)
                assert heard == 5, "its parties go on talking"
                if not copied:
                    break
            assert copied == 0
            for each in (foreign, present):
                assert (await packets(each)) == (5, 5)
            assert await calls(rig) == {"x", "y", "z", "nobody's"}
            monkeypatch.setattr(orphans, "SILENT", 0.0)
            for _ in range(200):
                if await calls(rig) == {"y", "z", "nobody's"}:
                    break
                await asyncio.sleep(0.05)
            assert await calls(rig) == {"y", "z", "nobody's"}
        finally:
            now.close()
            for server in (server1, server2, server3):
                server.close()
            for each in everyone:
                for endpoint in each.endpoints:
                    endpoint.close()

    drive(kind, scenario)


def test_a_proxy_that_was_killed_cleans_up_at_its_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(rig: Rig) -> None:
        client: Any = rig.engine
        host, port = client.client._connection._socket.getpeername()
        sip = own_port()
        configuration = (
            f'secret = "s"\n[sip]\nlisten = ["udp:{HOST}:{sip}"]\ndomains = ["example.test"]\n'
            f'[media]\nserver = "ng:udp:{host}:{port}"\nuse = "always"\ntimeout = 2.0\n'
        )
        await rig.offer(MediaSession("foreign", "f"), rig.endpoint().sdp())
        phones = [
            Phone(user, user, "example.test", HOST, (HOST, sip), melody(20.0, 8000))
            for user, melody in (("alice", caller_melody), ("bob", callee_melody))
        ]
        try:
            with Command("serve", configuration, tmp_path / "first") as proxy:
                for phone in phones:
                    await phone.start()
                    await phone.register()
                await phones[0].dial("bob")
                assert len(await calls(rig)) == 2
                proxy.child.send_signal(signal.SIGKILL)
                proxy.child.wait()
            for phone in phones:
                assert phone.media is not None
                phone.media.close()
            with Command("serve", configuration, tmp_path / "second"):
                for _ in range(600):
                    if await calls(rig) == {"foreign"}:
                        break
                    await asyncio.sleep(0.05)
                assert await calls(rig) == {"foreign"}
        finally:
            for phone in phones:
                await phone.close()

    drive("native", scenario)


def test_a_server_that_does_not_answer_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphans, "AGAIN", 0.05)

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        clock = LoopClock(loop)
        asked: list[bytes] = []
        port = own_port()
        server = connect(clock, loop, f"ng:udp:{HOST}:{port}", name="late", label="x")
        ours = Orphans(clock, parse(CONFIG.format("a.example.com")))
        ours.end(server)

        class Late(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, addr: Any) -> None:
                asked.append(data)

        await asyncio.sleep(0.3)
        transport, _ = await loop.create_datagram_endpoint(Late, local_addr=(HOST, port))
        await until(lambda: any(b"4:list" in each for each in asked), "the list is asked for")
        ours.close()
        transport.close()
        server.close()

    asyncio.run(scenario())


def test_rtpproxy_has_no_list_of_calls() -> None:
    async def scenario(rig: Rig) -> None:
        found: list[Any] = []
        rig.engine.labelled("siprec-", "", found.append)
        assert found == [[]]

    drive("rtpproxy", scenario)
