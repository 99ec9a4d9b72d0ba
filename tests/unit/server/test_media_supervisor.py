"""Media servers that come, change, drain and go with the configuration."""

from __future__ import annotations

import asyncio
from collections import Counter

from siprec.media.engine import MediaServer
from siprec.net.timers import TimerWheel
from siprec.server.config import Config
from siprec.server.config_file import parse
from siprec.server.media_supervisor import MediaSupervisor


def config(*servers: str) -> Config:
    return parse("".join(f"[[media_server]]\n{text}\n" for text in servers))


A, B = 'name = "a"\naddress = "ng:udp:127.0.0.1:9"', 'name = "b"\naddress = "rtpproxy:udp:127.0.0.1:9"'
C = 'name = "c"\naddress = "ng:tcp:127.0.0.1:9"\nset = "west"\nweight = 3'


def test_servers_come_change_drain_and_go_while_calls_go_on() -> None:
    async def scenario() -> None:
        load: Counter[MediaServer] = Counter()
        health: list[tuple[str, bool]] = []
        clock = TimerWheel(asyncio.get_running_loop())
        supervisor = MediaSupervisor(
            clock, config(A, B), lambda server, why: None, health=lambda name, up, why: health.append((name, up))
        )
        supervisor.carry(load)
        await supervisor.start()
        pool = supervisor.pool
        assert [(member.name, member.kind, member.weight) for member in pool] == [("a", "ng", 1), ("b", "rtpproxy", 1)]
        first, second = (member.server for member in pool)
        assert first is not None
        assert second is not None
        load[second] = 1

        supervisor.apply(config(A + "\ndrain = true", C))
        assert [(m.name, m.set, m.weight, m.draining) for m in pool] == [
            ("a", "default", 1, True),
            ("c", "west", 3, False),
        ]
        assert pool.named("a") is not None
        assert pool.pick() is None  # what drains gets none, and the other is of another set
        assert second in supervisor._leaving  # it has a call
        load[second] = 0
        async with asyncio.timeout(20):
            while supervisor._leaving:
                await asyncio.sleep(0.05)
        replies: list[object] = []
        second.ping(replies.append)
        async with asyncio.timeout(20):
            while not replies:
                await asyncio.sleep(0.01)
        assert "closed" in str(replies[0])

        supervisor.apply(config(A, C))
        member = pool.named("a")
        assert member is not None
        assert not member.draining
        assert member.server is first  # the same connection all the time
        # Nobody listens there: it is down, told once.
        async with asyncio.timeout(20):
            while ("a", False) not in health:
                await asyncio.sleep(0.02)
        assert pool.pick() is None
        await supervisor.stop()
        assert len(pool) == 0
        assert health.count(("a", False)) == 1
        clock.close()

    asyncio.run(scenario())


def test_the_one_server_of_media_is_a_pool_of_one() -> None:
    [only] = parse('[media]\nserver = "ng:udp:192.0.2.1:2223"').media_servers
    assert (only.called, only.address, only.set) == ("192.0.2.1:2223", "ng:udp:192.0.2.1:2223", "default")
    [only] = Config().media_servers
    assert only.called == "embedded"
