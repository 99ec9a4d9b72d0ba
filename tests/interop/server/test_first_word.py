"""The first word of a call is in its recording whatever the SRSs do, what rang before is not: with real RTP."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from siprec import sdp
from siprec.audio.melody import callee_melody, caller_melody
from siprec.cli.phone import Phone
from siprec.cli.phone_media import PhoneMedia
from siprec.server.config_file import parse
from siprec.server.proxy_process import ProxyProcess
from siprec.sip.message import SipRequest
from siprec.sip.useragent import IncomingCall, session_description
from tests.interop.srsprobe.poor_srs import PoorSrs

HOST = "127.0.0.1"


@dataclass(eq=False)
class LateSrs(PoorSrs):
    """Says 100 and nothing else for `seconds`, then `status`; where that is 200 it takes media on real sockets.

    `packets` are the RTP packets of each m-line, in the order they came.
    """

    seconds: float = 0.0
    status: int = 200
    packets: list[list[bytes]] = field(default_factory=list)
    sockets: list[socket.socket] = field(default_factory=list)

    def _invited(self, request: SipRequest, addr: tuple[str, int]) -> None:
        if request.to.tag:
            self._answer(request, addr)
            return
        self._send(request, 100, addr)
        asyncio.get_running_loop().call_later(self.seconds, self._decide, request, addr)

    def _decide(self, request: SipRequest, addr: tuple[str, int]) -> None:
        if self.status != 200:
            self._send(request, self.status, addr)
            return
        offer = session_description(request)
        assert offer is not None
        lines = [sdp.answer_media(line, port=self._open()) for line in sdp.parse(offer).media]
        self._last = self._described(lines)
        self._send(request, 200, addr, self._contact(), self._last)

    def _open(self) -> int:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.bind((HOST, 0))
        heard: list[bytes] = []
        self.packets.append(heard)
        self.sockets.append(sock)

        def read() -> None:
            while True:
                try:
                    packet = sock.recv(2048)
                except OSError:
                    return
                if len(packet) >= 12 and packet[0] >> 6 == 2 and not 192 <= packet[1] <= 223:
                    heard.append(packet)

        asyncio.get_running_loop().add_reader(sock, read)
        return int(sock.getsockname()[1])

    def numbers(self, index: int) -> list[int]:
        """Sequence numbers of one m-line, as they came."""
        return [struct.unpack_from("!H", packet, 2)[0] for packet in self.packets[index]]

    def close(self) -> None:
        super().close()
        for sock in self.sockets:
            asyncio.get_running_loop().remove_reader(sock)
            sock.close()


class Ringer(Phone):
    """Sends early media after its 183 for a while, then answers; another stream then carries its words."""

    early: PhoneMedia | None = None
    rings = 1.5
    answers = True

    def _invited(self, call: IncomingCall) -> None:
        if self.media is not None:
            call.answer(486)
            return
        self.early = self.media = PhoneMedia(self.host, self.signal)
        self.call = call
        call.handler = self
        call.answer(183, self._offer(self.media))
        self._connect(session_description(call.invite))
        self.clock.call_later(self.rings, self._decide, call)

    def _decide(self, call: IncomingCall) -> None:
        assert self.early is not None
        if not self.answers:
            call.answer(603)
            return
        # From the same socket: another source, whose first packet is the first word.
        media = self.early
        if media._timer is not None:
            media._timer.cancel()
        call.answer(200, self._offer(media))
        media._ssrc ^= 0xFFFF
        media.first_word = media._sequence  # type: ignore[attr-defined]
        media._send()


async def until(condition: Callable[[], bool], limit: float = 60.0) -> None:
    async with asyncio.timeout(limit):
        while not condition():
            await asyncio.sleep(0.02)


def configuration(servers: list[str], more: str = "") -> str:
    listed = ", ".join(f'"{server}"' for server in servers)
    return f"""
[sip]
listen = ["udp:{HOST}:0", "tcp:{HOST}:0"]
domains = ["example.test"]
[recording.default]
srs = [{listed}]
{more}
[relay]
preroll = 2.0
[[route]]
method = "INVITE"
record = "default"
registrar = true
"""


class World:
    """Alice, Bob, a proxy with its relay, and SRSs in order."""

    def __init__(self, servers: list[LateSrs], more: str = "", callee: type[Phone] = Phone) -> None:
        self.servers, self._more, self._callee = servers, more, callee

    async def __aenter__(self) -> World:
        uris = [await server.start() for server in self.servers]
        self.proxy = ProxyProcess(parse(configuration(uris, self._more)))
        await self.proxy.start()
        address = next(x.address for x in self.proxy.transport.listeners if x.address.transport == "udp")
        where = (address.host, address.port)
        self.alice = Phone("alice", "Alice", "example.test", HOST, where, caller_melody(60.0, 8000))
        self.bob = self._callee("bob", "Bob", "example.test", HOST, where, callee_melody(60.0, 8000))
        for phone in (self.alice, self.bob):
            await phone.start()
            await phone.register()
        return self

    async def __aexit__(self, *_: object) -> None:
        for phone in (self.alice, self.bob):
            await phone.close()
        await self.proxy.stop()
        for server in self.servers:
            server.close()


def first_sent(media: PhoneMedia | None) -> int:
    assert media is not None
    return (media._sequence - media.sent) & 0xFFFF


def begins(numbers: list[int], media: PhoneMedia | None) -> bool:
    """Whether a recording of the callee begins with its first packet. Its RTP may be at the relay before its answer,
    which passes the proxy first: two packets at the most, 40 ms."""
    return 0 <= (numbers[0] - first_sent(media)) & 0xFFFF <= 2


def in_a_row(numbers: list[int]) -> bool:
    return all((after - before) & 0xFFFF == 1 for before, after in pairwise(numbers))


@pytest.mark.parametrize("failure", ["500", "no stream", "silent"])
def test_the_second_srs_has_the_first_packet_although_the_first_took_its_time_and_failed(failure: str) -> None:
    async def scenario() -> None:
        poor = {
            "500": LateSrs(seconds=3.0, status=500),
            "no stream": NoStreams(seconds=3.0),
            "silent": LateSrs(seconds=300.0),
        }[failure]
        good = LateSrs(seconds=0.5)
        async with World([poor, good], f"setup_timeout = {3.0 if failure == 'silent' else 30.0}") as w:
            await w.alice.dial("bob")
            await until(lambda: bool(good.packets) and min(len(each) for each in good.packets) > 300)
            caller, callee = good.numbers(0), good.numbers(1)
            assert caller[0] == first_sent(w.alice.media)
            assert begins(callee, w.bob.media)
            assert in_a_row(caller)
            assert in_a_row(callee)
            await w.alice.hang_up()

    asyncio.run(scenario())


class NoStreams(LateSrs):
    """Answers 200 and takes none of the streams."""

    def _decide(self, request: SipRequest, addr: tuple[str, int]) -> None:
        offer = session_description(request)
        assert offer is not None
        lines = [sdp.answer_media(line, port=0) for line in sdp.parse(offer).media]
        self._send(request, 200, addr, self._contact(), self._described(lines))


@pytest.mark.parametrize("start", ["answer", "early"])
def test_early_media_are_in_the_recording_only_when_asked_for(start: str) -> None:
    async def scenario() -> None:
        srs = LateSrs()
        async with World([srs], f'start = "{start}"', Ringer) as w:
            await w.alice.dial("bob")
            await until(lambda: bool(srs.packets) and min(len(each) for each in srs.packets) > 100)
            await until(lambda: len(srs.packets[1]) > 150)
            bob = w.bob.media
            assert bob is not None
            numbers = srs.numbers(1)
            assert in_a_row(numbers)
            word = bob.first_word  # type: ignore[attr-defined]
            if start == "early":
                assert begins(numbers, bob)
            else:
                # Not a packet of the ringing; of the words the very first may be faster than the 200.
                assert 0 <= (numbers[0] - word) & 0xFFFF <= 3
            await w.alice.hang_up()
            await until(lambda: "BYE" in srs.received)

    asyncio.run(scenario())


def test_early_media_of_a_call_that_is_declined_are_recorded_and_the_recording_ends() -> None:
    class Decliner(Ringer):
        answers = False

    async def scenario() -> None:
        srs = LateSrs()
        async with World([srs], 'start = "early"', Decliner) as w:
            with pytest.raises(Exception, match="603"):
                await w.alice.dial("bob")
            await until(lambda: "BYE" in srs.received)
            bob = w.bob.media
            assert bob is not None
            assert begins(srs.numbers(1), bob)
            last = next(body for method, body in reversed(srs.bodies) if method == "UPDATE")
            assert b'cause="603"' in last
            await until(lambda: not w.proxy.recording.info())

    asyncio.run(scenario())
