"""A relay in this process, with a call through it and time that can be put forward."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from siprec.media import sockets
from siprec.media.engine import MediaFlags, MediaSession, Subscription
from siprec.media.rtpengine import RtpEngine
from siprec.relay.loop import PacketLoop
from siprec.relay.native import NativeLoop
from siprec.relay.process import LoopClock, RunningRelay, run_relay
from siprec.sip.clock import Timer
from tests.interop.media.rig import OURS, Endpoint, Rig, need, recorder_answer, relay_options, target, until

each = pytest.mark.parametrize("kind", OURS)
CALL = MediaSession("a-call@example.com", "caller", "callee")


class SkewedClock:
    """Real time that can be put forward."""

    def __init__(self, packets: PacketLoop) -> None:
        self._skew = 0.0
        self._packets = packets
        self._loop = asyncio.get_running_loop()
        packets._now = self.now

    @property
    def skew(self) -> float:
        return self._skew

    @skew.setter
    def skew(self, seconds: float) -> None:
        self._skew = seconds
        if isinstance(self._packets, NativeLoop):
            for thread in self._packets.threads:
                thread.offset = seconds

    def now(self) -> float:
        return time.monotonic() + self._skew

    def wall(self) -> float:
        return time.time() + self._skew

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Timer:
        return self._loop.call_later(delay, callback, *args)


class Local:
    """A relay in this process, a call through it, and a clock to put forward."""

    def __init__(self, running: RunningRelay, rig: Rig, clock: SkewedClock) -> None:
        self.running, self.rig, self.clock = running, rig, clock
        self.relay = running.relay

    async def establish(self, host: str = "127.0.0.1", flags: tuple[str, ...] = ()) -> None:
        wish = MediaFlags(flags=flags)
        self.a, self.b = self.rig.endpoint(host, 0xA), self.rig.endpoint(host, 0xB)
        offered = await self.rig.offer(MediaSession(CALL.call_id, CALL.from_tag), self.a.sdp(), wish)
        answered = await self.rig.answer(CALL, self.b.sdp(), wish)
        self.to_b, self.to_a = target(offered), target(answered)

    async def subscribed(self, host: str = "127.0.0.1", *, plain: bool = False) -> tuple[Subscription, list[Endpoint]]:
        flags = MediaFlags(transport_protocol="RTP/AVP" if plain else "")
        subscription = await self.rig.subscribe(CALL, ["caller", "callee"], flags=flags)
        srs = [self.rig.endpoint(host), self.rig.endpoint(host)]
        await self.rig.accept(CALL, subscription.tag, recorder_answer(subscription, srs))
        return subscription, srs

    async def talk(self, count: int) -> list[bytes]:
        """The caller talks; the callee hears all of it."""
        before = len(self.b.poll())
        sent: list[bytes] = []
        for _ in range(count):
            sent += self.a.send(self.to_a)
            await asyncio.sleep(0)
        await until(lambda: len(self.b.poll()) >= before + count, "packets at the callee")
        return sent

    def later(self, seconds: float) -> None:
        self.clock.skew += seconds
        self.relay.tick()


@contextlib.asynccontextmanager
async def local(kind: str, **changes: Any) -> AsyncIterator[Local]:
    need(kind)
    loop = asyncio.get_running_loop()
    relay = await run_relay(relay_options(packet_loop=kind, **changes))
    assert relay.packet_loop == kind
    clock = SkewedClock(relay._packets)
    relay.relay.plane.clock = clock
    engine = RtpEngine(LoopClock(loop), sockets.udp(loop, relay.ng_address), name="local", timeout=20)
    rig = Rig(engine, kind)
    try:
        yield Local(relay, rig, clock)
    finally:
        engine.close()
        await relay.close()
        for endpoint in rig.endpoints:
            endpoint.close()
