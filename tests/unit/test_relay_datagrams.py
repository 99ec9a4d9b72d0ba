"""What descriptions say is relayed, in both packet loops: T.38, DTLS, STUN, ZRTP, keep-alives of any size, over IPv4,
IPv6 and between addresses; and it goes on when a party's media come from elsewhere."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from siprec import sdp
from siprec.relay.call import Plane
from siprec.relay.learning import Latching
from siprec.relay.native import packet_loop
from siprec.relay.ports import Interface, PortPool
from siprec.relay.process import LoopClock
from siprec.relay.server import Relay
from siprec.rtp import srtp
from siprec.sdp import crypto as sdp_crypto
from tests.unit.test_relay_server import bad, good

HOSTS = {"four": "127.0.0.1", "six": "::1", "other": "127.0.0.2"}
T38 = "udptl t38"
KINDS = [T38, "RTP/AVP 0", "UDP/TLS/RTP/SAVPF 0", "RTP/SAVP 0", "UDP/BFCP *", "UDP/TLS/UDPTL t38"]
SIZES = [0, 1, 3, 6, 11, 12, 13, 100, 1500, 1501, 9000, 60_000]


class Phone:
    """A party of a call at the relay, at an address of this host."""

    def __init__(self, it: World, host: str) -> None:
        self.it = it
        self.host = host
        self.sock = it.stack.enter_context(
            socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        )
        self.sock.bind((host, 0))
        self.to: tuple[str, int] = ("", 0)
        self.heard: list[bytes] = []

    @property
    def port(self) -> int:
        return int(self.sock.getsockname()[1])

    def description(self, line: str, *attributes: str) -> str:
        family = "IP6" if ":" in self.host else "IP4"
        name = "image" if "t38" in line else "application" if "BFCP" in line else "audio"
        proto, formats = line.split()
        lines = ["v=0", f"o=- 1 1 IN {family} {self.host}", "s=-", f"c=IN {family} {self.host}", "t=0 0"]
        return "\r\n".join([*lines, f"m={name} {self.port} {proto} {formats}", *attributes, ""])

    def told(self, body: bytes) -> None:
        media = sdp.parse(body).media[0]
        assert media.connection is not None
        self.to = media.connection.address, media.port

    def send(self, packet: bytes) -> None:
        self.sock.sendto(packet, self.to)

    def poll(self) -> list[bytes]:
        try:
            while True:
                self.heard.append(self.sock.recv(65536))
        except BlockingIOError:
            return self.heard


class World:
    def __init__(self, kind: str, stack: ExitStack, latching: Latching) -> None:
        self.stack = stack
        self.loop = asyncio.new_event_loop()
        stack.callback(self.loop.close)
        clock = LoopClock(self.loop)
        self.packets = packet_loop(self.loop, clock.now, kind)  # type: ignore[arg-type]
        stack.callback(self.packets.close)
        interfaces = [Interface("127.0.0.1"), Interface("::1", name="six"), Interface("127.0.0.2", name="other")]
        self.relay = Relay(Plane(clock, self.packets, PortPool(interfaces, 47400, 47499), latching))
        stack.callback(self.relay.close)

    def call(self, a: Phone, b: Phone, line: str, *attributes: str, **keys: Any) -> None:
        names = {"::1": "six", "127.0.0.2": "other"}
        direction = [names.get(phone.host, "default") for phone in (a, b)]
        offered = good(
            *(self.relay, "offer"),
            call_id="c", from_tag="a", sdp=a.description(line, *attributes), direction=direction, **keys,
        )  # fmt: skip
        b.told(offered["sdp"])
        answer = b.description(line, *attributes)
        a.told(good(self.relay, "answer", call_id="c", from_tag="a", to_tag="b", sdp=answer, **keys)["sdp"])

    def until(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end, what
            self.loop.run_until_complete(asyncio.sleep(0.001))

    def hear(self, phone: Phone, expected: list[bytes]) -> None:
        self.until(lambda: len(phone.poll()) >= len(expected), "all of it is heard")
        assert phone.heard == expected
        phone.heard = []


@contextmanager
def world(kind: str, latching: Latching | None = None) -> Iterator[World]:
    if kind == "native":
        pytest.importorskip("siprec.relay._native", reason="the native packet loop was not built (no C compiler)")
    with ExitStack() as stack:
        yield World(kind, stack, latching or Latching())


both = pytest.mark.parametrize("kind", ["native", "python"])


@both
@pytest.mark.parametrize(
    "route", [("four", "four"), ("six", "six"), ("four", "six"), ("other", "four"), ("six", "other")]
)
@pytest.mark.parametrize("line", KINDS)
def test_datagrams_of_any_size_and_kind_pass_both_ways(kind: str, route: tuple[str, str], line: str) -> None:
    with world(kind) as it:
        a, b = (Phone(it, HOSTS[each]) for each in route)
        it.call(a, b, line)
        datagrams = [
            *(b"\0\1\2" * size for size in (0, 1)),
            *(os.urandom(1) * size for size in SIZES),
            b"\0\1\0\0\x21\x12\xa4\x42" + bytes(12),  # STUN
            b"\x16\xfe\xfd" + bytes(180),  # DTLS
            b"\x10\0\0\1ZRTP" + bytes(60),
            struct.pack("!BBHII", 0x8F, 0, 1, 1, 1),  # a header that is longer than the packet
            struct.pack("!BBHII", 0x80, 0, 1, 1, 1) + bytes(160),
        ]
        for phone, other in ((a, b), (b, a)):
            for packet in datagrams:
                phone.send(packet)
                it.hear(other, [packet])


@both
def test_t38_that_follows_audio_passes_from_its_first_indicator(kind: str) -> None:
    with world(kind) as it:
        a, b = Phone(it, "127.0.0.1"), Phone(it, "127.0.0.1")
        it.call(a, b, "RTP/AVP 0")
        for phone, other in ((a, b), (b, a)):
            phone.send(struct.pack("!BBHII", 0x80, 0, 1, 1, 1) + bytes(160))
            it.until(lambda other=other: len(other.poll()) == 1, "audio")  # type: ignore[misc]
            other.heard = []
        reply = good(it.relay, "offer", call_id="c", from_tag="b", to_tag="a", sdp=b.description(T38))
        a.told(reply["sdp"])
        b.told(good(it.relay, "answer", call_id="c", from_tag="b", to_tag="a", sdp=a.description(T38))["sdp"])
        indicators = [struct.pack("!HBBBBB", number, 1, 6, 0, 0, 0)[:6] for number in range(0x7FFD, 0x8005)]
        for phone, other in ((b, a), (a, b)):
            for packet in indicators:
                phone.send(packet)
            it.hear(other, indicators)


@both
def test_audio_goes_on_when_t38_is_refused(kind: str) -> None:
    with world(kind) as it:
        a, b, recorder = (Phone(it, "127.0.0.1") for _ in range(3))
        it.call(a, b, "RTP/AVP 0")
        copies = good(it.relay, "subscribe request", call_id="c", from_tags=["a"], flags=["SIPREC"])
        tag = copies["to-tag"].decode()
        good(it.relay, "subscribe answer", call_id="c", to_tag=tag, sdp=recorder.description("RTP/AVP 0"))
        used = it.relay.plane.pool.in_use
        audio = [struct.pack("!BBHII", 0x80, 0, n, n, 1) + bytes(160) for n in range(5)]
        ports = a.to, b.to

        def talk() -> None:
            for phone, other in ((a, b), (b, a)):
                for packet in audio:
                    phone.send(packet)
                it.hear(other, audio)
            it.hear(recorder, audio)

        talk()
        for kind_of_fax in (T38, "UDP/TLS/UDPTL t38", T38):
            good(it.relay, "offer", call_id="c", from_tag="b", to_tag="a", sdp=b.description(kind_of_fax))
            talk()  # 488 for it: what was agreed on before holds
        # Some then offer what they had.
        a.told(good(it.relay, "offer", call_id="c", from_tag="b", to_tag="a", sdp=b.description("RTP/AVP 0"))["sdp"])
        answer = a.description("RTP/AVP 0")
        b.told(good(it.relay, "answer", call_id="c", from_tag="b", to_tag="a", sdp=answer)["sdp"])
        assert (a.to, b.to) == ports
        talk()
        assert it.relay.plane.pool.in_use == used
        good(it.relay, "offer", call_id="c", from_tag="b", to_tag="a", sdp=b.description(T38))
        good(it.relay, "answer", call_id="c", from_tag="b", to_tag="a", sdp=a.description(T38))
        assert it.relay.plane.pool.in_use == used
        good(it.relay, "offer", call_id="c", from_tag="b", to_tag="a", sdp=b.description("RTP/AVP 0"))
        good(it.relay, "delete", call_id="c", from_tag="a")
        assert it.relay.plane.pool.in_use == 0


@both
def test_t38_is_copied_to_a_recorder_that_takes_it(kind: str) -> None:
    with world(kind) as it:
        a, b, recorder = (Phone(it, "127.0.0.1") for _ in range(3))
        it.call(a, b, T38)
        offered = good(it.relay, "subscribe request", call_id="c", from_tags=["a"], flags=["SIPREC"])
        line = sdp.parse(offered["sdp"]).media[0]
        assert (line.kind, line.proto, line.formats) == ("image", "udptl", ["t38"])
        answer = recorder.description(T38)
        good(it.relay, "subscribe answer", call_id="c", to_tag=offered["to-tag"].decode(), sdp=answer)
        datagrams = [struct.pack("!H", number) + b"\1\6\0\0" for number in (1, 2, 0x8000, 0x80C8)]
        for packet in datagrams:
            a.send(packet)
        it.hear(b, datagrams)
        it.hear(recorder, datagrams)
        it.relay.tick()
        for fork in it.relay.calls["c"].subscriptions[offered["to-tag"].decode()].forks:
            assert fork.remote_rtcp is None  # there is no RTCP with T.38


@both
def test_a_party_whose_media_come_from_another_host_is_heard_copied_and_told_of(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with world(kind, Latching(relearn=0.2)) as it:
        a, b, recorder = Phone(it, "127.0.0.1"), Phone(it, "127.0.0.1"), Phone(it, "127.0.0.1")
        gateway = Phone(it, "127.0.0.2")
        it.call(a, b, "RTP/AVP 0")
        offered = good(it.relay, "subscribe request", call_id="c", from_tags=["a"], flags=["SIPREC"])
        answer = recorder.description("RTP/AVP 0")
        good(it.relay, "subscribe answer", call_id="c", to_tag=offered["to-tag"].decode(), sdp=answer)
        first = [struct.pack("!BBHII", 0x80, 0, n, n * 160, 7) + bytes(160) for n in range(5)]
        for packet in first:
            a.send(packet)
        it.hear(b, first)
        gateway.to = a.to
        then = [struct.pack("!BBHII", 0x80, 0, 500 + n, n * 160, 8) + bytes(160) for n in range(200)]
        for packet in then:
            gateway.send(packet)
            if it.loop.run_until_complete(asyncio.sleep(0.02)) or b.poll():
                break
        assert b.heard
        it.until(lambda: len(recorder.poll()) == 5 + len(b.poll()), "copies go on")
        assert recorder.heard == [*first, *b.heard]
        b.send(first[0])
        it.hear(gateway, [first[0]])
        moved = {"call-id": b"c", "tag": b"a", "index": 1, "from": f"127.0.0.1:{a.port}".encode()}
        it.until(lambda: it.relay.counters["moved"] == 1, "it is counted")
        assert "moved" not in good(it.relay, "ping")
        assert good(it.relay, "ping", events=1)["moved"] == [moved | {"to": f"127.0.0.2:{gateway.port}".encode()}]
        assert "moved" not in good(it.relay, "ping", events=1)
        assert good(it.relay, "statistics")["statistics"]["moved"] == 1
        assert f"Call-ID c: media of tag a, m-line 1, come from 127.0.0.2:{gateway.port}" in caplog.text


@both
@pytest.mark.parametrize("received", [["IP4", "127.0.0.1"], ["IP4", "0.0.0.0"], None, "junk"])
def test_the_first_source_is_taken_where_signalling_shows_nat(kind: str, received: Any) -> None:
    with world(kind) as it:
        a, b = Phone(it, "127.0.0.1"), Phone(it, "127.0.0.1")
        keys = {"received_from": received} if received is not None else {}
        host, a.host = a.host, "10.1.2.3"
        it.call(a, b, "RTP/AVP 0", **keys)
        a.host = host
        a.send(struct.pack("!BBHII", 0x80, 0, 1, 1, 1) + bytes(160))
        it.until(lambda: len(b.poll()) == 1, "heard at once")


@both
@pytest.mark.skipif(not srtp.SUPPORTED, reason="no libsrtp")
def test_srtp_of_another_host_is_taken_only_when_it_is_the_partys(kind: str) -> None:
    with world(kind, Latching(relearn=0.05)) as it:
        a, b, gateway, stranger = (Phone(it, host) for host in ("127.0.0.1", "127.0.0.1", "127.0.0.2", "127.0.0.3"))
        key = sdp_crypto.generate(1, "AES_CM_128_HMAC_SHA1_80")
        it.call(a, b, "RTP/SAVP 0", f"a=crypto:{key.value()}")
        right, wrong = srtp.Encryptor(key), srtp.Encryptor(sdp_crypto.generate(1, "AES_CM_128_HMAC_SHA1_80"))

        def talk(phone: Phone, sender: srtp.Encryptor, first: int, count: int) -> None:
            phone.to = a.to
            for n in range(first, first + count):
                packet = sender.rtp(struct.pack("!BBHII", 0x80, 0, n, n * 160, 8) + bytes(160))
                assert packet is not None
                phone.send(packet)
                it.loop.run_until_complete(asyncio.sleep(0.01))

        talk(stranger, wrong, 1, 40)
        assert b.poll() == []
        it.loop.run_until_complete(asyncio.sleep(1.1))  # as long as another attempt is not looked at
        talk(gateway, right, 1, 40)
        assert b.poll()
        flow = next(stream.rtp for party, _, stream in it.relay.calls["c"].streams() if party.tag == "a")
        assert flow.remote == ("127.0.0.2", gateway.port)


def test_a_subscription_of_a_stream_that_no_recorder_knows_is_refused() -> None:
    with world("python") as it:
        a, b = Phone(it, "127.0.0.1"), Phone(it, "127.0.0.1")
        it.call(a, b, "UDP/BFCP *")
        assert b"Nothing to subscribe to" in bad(it.relay, "subscribe request", call_id="c", from_tags=["a"])


@both
def test_media_leave_from_the_address_that_descriptions_name(kind: str) -> None:
    with world(kind) as it:
        pool = PortPool([Interface("0.0.0.0", "127.0.0.2"), Interface("0.0.0.0", "192.0.2.77", "nat")], 47400, 47499)
        it.relay.plane.pool = pool
        a, b = Phone(it, "127.0.0.1"), Phone(it, "127.0.0.1")
        it.call(a, b, "RTP/AVP 0")
        assert (a.to[0], b.to[0]) == ("127.0.0.2", "127.0.0.2")
        b.sock.connect(b.to)  # takes nothing from anywhere else
        a.send(b"hello")
        it.hear(b, [b"hello"])
        assert pool.interfaces[1].address == "0.0.0.0"  # an address of the NAT before us
