"""Both packet loops get the same datagrams and must do and count the same; and what only the native one can break."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siprec.relay.fork_sink import Copies
from siprec.relay.learning import ALL_PAYLOADS, Expected, Latching
from siprec.relay.loop import PacketLoop
from siprec.relay.native import NativeFlow, NativeLoop, packet_loop
from siprec.relay.rtp_stream import Flow

BOTH = ("native", "python")
COUNTERS = (
    *("packets", "octets", "rtcp_packets", "rtcp_octets", "gaps", "late", "unsent", "dropped"),
    *("next_seq", "ssrc", "ssrcs", "timestamp"),
)
both = pytest.mark.parametrize("kind", BOTH)


def udp() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.bind(("127.0.0.1", 0))
    return sock


def rtp(seq: int = 1, ssrc: int = 7, payload: bytes = b"\xff" * 160, first: int = 0x80) -> bytes:
    return struct.pack("!BBHII", first, 0, seq & 0xFFFF, seq * 160 & 0xFFFFFFFF, ssrc) + payload


def received(sock: socket.socket) -> list[bytes]:
    found = []
    try:
        while True:
            found.append(sock.recv(65536))
    except BlockingIOError:
        return found


class World:
    """Two parties of a call through a packet loop; whoever sends, `a` or others, sends to `port_a`."""

    def __init__(self, kind: str, stack: ExitStack, learn: Literal["any", "host", "signalled"] = "signalled") -> None:
        self.loop = asyncio.new_event_loop()
        stack.callback(self.loop.close)
        self.packets = packet_loop(self.loop, time.monotonic, kind)  # type: ignore[arg-type]
        stack.callback(self.packets.close)
        self._stack = stack
        self.sent = 0
        self.a, self.b, self.stranger, self.recorder = (self.open() for _ in range(4))
        self.port_a, self.port_b, self.port_r, self.port_c, self.port_o = (self.open() for _ in range(5))
        latching = Latching(learn=learn)
        self.from_a = self.packets.flow(self.port_a, latching)
        self.from_b = self.packets.flow(self.port_b, latching)
        self.control = self.packets.flow(self.port_c, latching, 0, "control")
        self.control.attend(self.from_a)
        self.opaque = self.packets.flow(self.port_o, latching, 0, "opaque")
        for sock in (self.port_a, self.port_b, self.port_c, self.port_o):
            stack.callback(self.packets.remove, sock)
        self.from_a.pair(self.from_b)
        self.from_b.pair(self.from_a)
        self.from_a.signal(self.a.getsockname())
        self.control.signal(self.a.getsockname())
        self.opaque.signal(self.a.getsockname())
        self.from_b.signal(self.b.getsockname())
        self.opaque.pair(self.from_b)
        self.port_r.connect(self.recorder.getsockname())
        self.copies = self.packets.copies(self.from_a, 10.0)
        self.copies.direct(self.port_r)
        self.from_a.forks = (self.copies,)
        self.copies_o = self.packets.copies(self.opaque, 10.0)
        self.copies_o.direct(self.port_r)
        self.opaque.forks = (self.copies_o,)

    def open(self) -> socket.socket:
        return self._stack.enter_context(udp())

    def send(self, packet: bytes, by: socket.socket | None = None, to: socket.socket | None = None) -> None:
        (by or self.a).sendto(packet, (to or self.port_a).getsockname())
        self.sent += 1
        if not isinstance(self.packets, NativeLoop):
            self.packets.pump()

    def until(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end, what
            self.packets.pump()
            time.sleep(0.0005)

    def settle(self) -> None:
        """Until everything sent was served. (Only while the thread serves all flows.)"""
        if isinstance(self.packets, NativeLoop):
            packets = self.packets
            self.until(lambda: packets.datagrams == self.sent, "the thread serves every datagram")

    def counters(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, flow in (("a", self.from_a), ("c", self.control), ("o", self.opaque)):
            for key in COUNTERS:
                found[f"{name} {key}"] = getattr(flow, key)
        found["copies"] = (self.copies.packets, self.copies.octets, self.copies.dropped)
        return found


@contextmanager
def world(kind: str, learn: Literal["any", "host", "signalled"] = "signalled") -> Iterator[World]:
    if kind == "native":
        pytest.importorskip("siprec.relay._native", reason="the native packet loop was not built (no C compiler)")
    with ExitStack() as stack:
        yield World(kind, stack, learn)


stream = st.builds(lambda seq: struct.pack("!BBHII", 0x80, 0, seq, seq * 160, 7) + b"x" * 20, st.integers(0, 9))
rtp_like = st.builds(
    lambda first, second, seq, timestamp, ssrc, rest: struct.pack("!BBHII", first, second, seq, timestamp, ssrc) + rest,
    st.one_of(st.just(0x80), st.integers(0, 255)),
    st.one_of(st.sampled_from([0, 0x80, 101, 200, 201]), st.integers(0, 255)),
    st.one_of(st.integers(0, 6), st.integers(65530, 65535), st.integers(0, 65535)),
    st.integers(0, 2**32 - 1),
    st.integers(0, 3) | st.integers(0, 2**32 - 1),
    st.binary(max_size=80),
)
stun = st.binary(max_size=30).map(lambda rest: b"\0\1\0\0\x21\x12\xa4\x42" + rest)
anything = st.one_of(stream, rtp_like, rtp_like, st.binary(max_size=60), stun)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["any", "host", "signalled"]),
    st.booleans(),
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from("aaco"), anything), max_size=40),
)
def test_whatever_arrives_both_loops_count_and_pass_on_the_same(
    learn: Literal["any", "host", "signalled"], nat: bool, secure: bool, datagrams: list[tuple[int, str, bytes]]
) -> None:
    outcomes = []
    for kind in BOTH:
        with world(kind, learn) as it:
            for flow in (it.from_a, it.opaque):
                flow.expect(Expected(ALL_PAYLOADS, nat, False, secure), lambda packet: False)
            senders, ports = (it.a, it.stranger, it.b), {"a": it.port_a, "c": it.port_c, "o": it.port_o}
            before = ""
            for sender, port, packet in datagrams:
                if port != before:
                    it.settle()  # which of two sockets is read first is nobody's to say
                before = port
                it.send(packet, senders[sender], ports[port])
            it.settle()
            outcomes.append((it.counters(), *(received(each) for each in (it.a, it.b, it.recorder, it.stranger))))
    assert outcomes[0] == outcomes[1]


@both
def test_every_datagram_of_a_known_source_passes_and_what_is_rtp_is_copied(kind: str) -> None:
    with world(kind) as it:
        good = [
            rtp(1),
            rtp(2, payload=b""),
            rtp(3, payload=os.urandom(60_000)),
            rtp(4, first=0x81, payload=bytes(4)),  # one CSRC and nothing else
            rtp(5, first=0x90, payload=b"\0\0\0\1" + bytes(4)),  # an extension and nothing else
            rtp(6, payload=b"\x05\x8a\x00\xa0").replace(b"\x80\x00", b"\x80\x65", 1),  # a DTMF event (RFC 4733)
            rtp(7, payload=b"\x40").replace(b"\x80\x00", b"\x80\x0d", 1),  # comfort noise (RFC 3389)
            rtp(8, first=0xA0, payload=b"\xff" * 4),  # padding longer than the packet: the payload is not ours to judge
        ]
        other = [
            rtp(9, first=0x8F, payload=bytes(59)),  # headers longer than the packet
            rtp(9, first=0x90, payload=b"\0\0\0\2" + bytes(7)),
            rtp(9, first=0x91, payload=bytes(7)),
            rtp()[:11],
            b"",
            b"\0",
            b"\r\n\r\n",
            b"\0\1\0\0\x21\x12\xa4\x42" + bytes(12),  # STUN
            b"\x16\xfe\xff" + bytes(200),  # DTLS
            b"\x10\0\0\1ZRTP" + bytes(60),
        ]
        for packet in (*good[:4], *other, *good[4:]):
            it.send(packet)
        it.settle()
        assert received(it.b) == [*good[:4], *other, *good[4:]]
        assert received(it.recorder) == good
        assert it.from_a.packets == len(good)
        assert it.from_a.dropped == {}
        assert it.from_a.lost == 0
        for packet in other:
            it.send(packet, it.stranger)
        it.settle()
        assert received(it.b) == []
        assert it.from_a.dropped == {"stranger": len(other)}


@both
def test_a_stream_that_is_not_rtp_passes_and_is_copied_whatever_it_looks_like(kind: str) -> None:
    with world(kind) as it:
        datagrams = [
            *(b"", b"\0", b"\0\1\6", b"\x80\0" * 5, rtp(1), rtp(9, first=0x8F, payload=bytes(59)), bytes(1501)),
            *(b"\x81\xc8" + bytes(30), b"\0\1\0\0\x21\x12\xa4\x42" + bytes(12), os.urandom(60_000), b"\xff" * 12),
        ]
        for packet in datagrams:
            it.send(packet, to=it.port_o)
        it.send(b"not mine", it.stranger, it.port_o)
        it.settle()
        assert received(it.b) == datagrams == received(it.recorder)
        assert (it.opaque.packets, it.opaque.octets) == (len(datagrams), sum(map(len, datagrams)))
        assert it.opaque.dropped == {"stranger": 1}
        assert it.opaque.rtcp_packets == 0


@both
def test_nobody_hears_what_is_said_while_blocked_or_held_and_it_is_counted(kind: str) -> None:
    with world(kind) as it:
        it.send(rtp(1))
        it.settle()
        it.from_a.block(True)
        it.send(rtp(2))
        it.settle()
        it.from_a.block(False)
        it.from_b.signal(None, held=True)
        it.send(rtp(3))
        it.settle()
        it.from_b.signal(it.b.getsockname())
        it.send(rtp(4))
        it.settle()
        assert received(it.b) == [rtp(1), rtp(4)]
        assert received(it.recorder) == [rtp(1), rtp(2), rtp(3), rtp(4)]  # RTP is recorded all the same
        assert (it.from_a.packets, it.from_a.unsent) == (4, 2)


@both
def test_what_is_kept_is_bounded_and_sent_in_order_with_what_comes_meanwhile(kind: str) -> None:
    with world(kind) as it:
        it.port_r.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        it.recorder.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        it.copies.keep(10.0)
        began = time.monotonic()
        big = [rtp(n, payload=bytes(50_000)) for n in range(60)]  # three MB, of which two are kept
        for packet in big:
            it.send(packet)
            it.settle()
        kept = (2 << 20) // len(big[0])
        assert it.copies.waiting == kept
        assert it.copies.dropped == {"preroll": 60 - kept}
        assert began <= it.copies.dropped_at <= time.monotonic()
        it.copies.clear()
        early = [rtp(n) for n in range(100, 150)]
        for packet in early:
            it.send(packet)
        it.settle()
        assert it.copies.drain(it.port_r, 20) == 30
        it.send(rtp(150))
        it.settle()
        assert it.copies.drain(it.port_r, 20) == 11
        it.copies.direct(it.port_r)
        it.send(rtp(151))
        it.settle()
        assert received(it.recorder) == [*early, rtp(150), rtp(151)]
        assert (it.copies.packets, it.copies.octets, it.copies.waiting) == (52, 52 * 172, 0)
        it.copies.off()
        it.send(rtp(152))
        it.settle()
        assert received(it.recorder) == []
        heir = it.packets.copies(it.from_a, 10.0)
        it.copies.keep(10.0)
        it.send(rtp(153))
        it.settle()
        heir.inherit(it.copies, time.monotonic() + 1)
        assert heir.waiting == 0
        heir.inherit(it.copies, time.monotonic() - 30)
        it.copies.clear()
        assert (heir.waiting, it.copies.waiting) == (1, 0)
        heir.direct(it.port_r)
        assert received(it.recorder) == [rtp(153)]


@both
@pytest.mark.parametrize("first", [0, 65533], ids=["plain", "numbers wrap"])
def test_withheld_packets_are_counted_and_leave_no_gap_in_the_numbers(kind: str, first: int) -> None:
    with world(kind) as it:
        numbers = [(first + number) & 0xFFFF for number in range(12)]
        it.copies.withhold()
        for number in numbers[:2]:
            it.send(rtp(number))
        it.settle()
        it.copies.direct(it.port_r)  # who has received nothing yet misses nothing
        for number in numbers[2:5]:
            it.send(rtp(number))
        it.settle()
        it.copies.withhold()
        it.copies.withhold()
        for number in numbers[5:8]:
            it.send(rtp(number))
        it.settle()
        it.copies.keep(10.0)
        for number in numbers[8:10]:
            it.send(rtp(number))
        it.settle()
        it.copies.direct(it.port_r)
        for number in numbers[10:]:
            it.send(rtp(number))
        it.settle()
        got = received(it.recorder)
        assert [packet[4:] for packet in got] == [rtp(n)[4:] for n in (*numbers[2:5], *numbers[8:])]
        assert [int.from_bytes(packet[2:4]) for packet in got] == numbers[2:9]
        assert (it.copies.packets, it.copies.withheld, it.copies.shift, it.copies.dropped) == (7, 5, 3, {})
        assert it.from_a.packets == 12


@both
def test_what_comes_while_a_fork_inherits_is_neither_lost_nor_doubled_nor_late(kind: str) -> None:
    with world(kind) as it:
        it.copies.keep(10.0)
        for number in range(5):
            it.send(rtp(number))
        it.settle()
        heir = it.packets.copies(it.from_a, 10.0)
        heir.keep(10.0)
        it.from_a.forks = (it.copies, heir)
        for number in range(5, 8):
            it.send(rtp(number))
        it.settle()
        heir.inherit(it.copies, 0.0)
        it.send(rtp(8))
        it.settle()
        heir.direct(it.port_r)
        assert received(it.recorder) == [rtp(number) for number in range(9)]


@both
def test_a_recorder_that_is_gone_is_counted_and_the_call_goes_on(kind: str) -> None:
    with world(kind) as it:
        it.recorder.close()
        for number in range(20):
            it.send(rtp(number))
            it.settle()
        assert len(received(it.b)) == 20
        assert it.copies.dropped["refused"] > 0
        assert it.copies.packets + sum(it.copies.dropped.values()) == 20


def test_a_flow_that_needs_python_is_served_there_and_goes_back() -> None:
    with world("native") as it:
        assert isinstance(it.packets, NativeLoop)
        assert isinstance(it.from_a, NativeFlow)
        packets, flow = it.packets, it.from_a
        for number in range(5):
            it.send(rtp(number))
        it.settle()
        plain = flow.send
        assert plain is not None
        through: list[bytes] = []

        def louder(packet: memoryview, target: Any) -> int:
            through.append(bytes(packet))
            return plain(memoryview(bytes(packet).swapcase()), target)

        sockets = it.packets.sockets
        flow.send = louder
        assert flow.in_python
        for number in range(5, 10):
            it.send(rtp(number, payload=b"Aa"))
        it.until(lambda: len(through) == 5, "Python serves it")
        assert (packets.datagrams, it.packets.sockets) == (5, sockets)
        flow.send = plain
        assert not flow.in_python
        for number in range(10, 15):
            it.send(rtp(number))
        it.until(lambda: packets.datagrams == 10, "the thread serves it again")
        foreign = Copies(flow, time.monotonic, 10.0)
        foreign.keep(10.0)
        flow.forks = (*flow.forks, foreign)
        for number in range(15, 20):
            it.send(rtp(number))
        it.until(lambda: foreign.waiting == 5, "Python serves it for the fork's sake")
        flow.forks = flow.forks[:1]
        it.send(rtp(20))
        it.until(lambda: packets.datagrams == 11, "the thread again")
        assert (flow.packets, flow.lost, flow.late, it.copies.packets) == (21, 0, 0, 21)
        heard = received(it.b)
        assert [struct.unpack_from("!H", packet, 2)[0] for packet in heard] == list(range(21))
        assert heard[5][12:] == b"aA"
        assert [struct.unpack_from("!H", packet, 2)[0] for packet in received(it.recorder)] == list(range(21))


def test_a_flow_that_python_serves_can_be_removed_like_any() -> None:
    with world("native") as it:
        it.from_a.send = lambda packet, target: 0
        it.packets.remove(it.port_a)
        assert it.packets.sockets == 3
        it.packets.remove(it.port_a)
        it.from_a.send = it.port_b.sendto  # no longer of interest
        assert it.packets.sockets == 3
        it.send(rtp(1))
        it.packets.pump()
        assert it.from_a.packets == 0


def test_calls_that_come_and_go_under_traffic_never_get_each_others_media() -> None:
    """Descriptors are used again at once here; a thread that kept one would send a call's media by another's socket."""
    pytest.importorskip("siprec.relay._native", reason="the native packet loop was not built (no C compiler)")
    loop = asyncio.new_event_loop()
    packets = packet_loop(loop, time.monotonic, "native")
    before = len(os.listdir("/proc/self/fd"))
    ports: set[int] = set()
    stop = threading.Event()
    blaster = udp()

    def blast() -> None:
        number = 0
        while not stop.is_set():
            for port in tuple(ports):
                number += 1
                try:
                    blaster.sendto(rtp(number, ssrc=port), ("127.0.0.1", port))
                except OSError:
                    pass

    thread = threading.Thread(target=blast, daemon=True)
    thread.start()
    heard = 0
    try:
        for round_number in range(150):
            with ExitStack() as stack:
                near, far, out, phone, srs = (stack.enter_context(udp()) for _ in range(5))
                port = near.getsockname()[1]
                flow, peer = (packets.flow(sock, Latching(), round_number) for sock in (near, far))
                flow.pair(peer)
                peer.pair(flow)
                peer.signal(phone.getsockname())
                out.connect(srs.getsockname())
                copies = packets.copies(flow, 10.0)
                copies.direct(out)
                flow.forks = (copies,)
                ports.add(port)
                if round_number % 3 == 0:
                    end = time.monotonic() + 30
                    while flow.packets < 3:
                        assert time.monotonic() < end
                        time.sleep(0.0002)
                if round_number % 2:  # in the wrong order, too: the peer goes first
                    packets.remove(far)
                    far.close()
                    time.sleep(0.0002)
                packets.remove(near)
                flow.forks = ()
                copies.off()
                flow.pair(None)
                if not round_number % 2:
                    packets.remove(far)
                peer.pair(None)
                ports.discard(port)
                for packet in (*received(phone), *received(srs)):
                    heard += 1
                    assert struct.unpack_from("!I", packet, 8)[0] == port
    finally:
        stop.set()
        thread.join()
        blaster.close()
    assert heard > 50
    assert packets.sockets == 0
    packets.close()
    loop.close()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) < before


def test_the_native_objects_refuse_what_makes_no_sense_and_survive_being_closed() -> None:
    native = pytest.importorskip("siprec.relay._native", reason="the native packet loop was not built (no C compiler)")
    thread, other = native.Loop(), native.Loop()
    with udp() as sock:
        channel = native.Channel(thread, sock, 0, 0, 1.0)
        wrongs: tuple[Callable[[], object], ...] = (
            lambda: channel.signal("127.0.0.1", False, 0.0),
            lambda: channel.signal((1, 2), False, 0.0),
            lambda: channel.pair(native.Channel(other, sock, 0, 0, 1.0)),
            lambda: channel.set_forks([]),
            lambda: channel.set_forks((native.Copies(thread, 1.0), 5)),
            lambda: channel.set_forks((native.Copies(other, 1.0),)),
            lambda: native.Copies(thread, 1.0).inherit(native.Copies(other, 1.0), 0.0),
            lambda: native.Copies(None, 1.0),
            lambda: native.Channel(thread, object(), 0, 0, 1.0),
            lambda: channel.attend(native.Channel(other, sock, 0, 0, 1.0)),
            lambda: channel.admit(("127.0.0.1", 5), 0.0, 5),
            lambda: channel.expect(0, 0, False, False),
        )
        for wrong in wrongs:
            with pytest.raises(TypeError):
                wrong()
        for address in (("nonsense", 5), ("127.0.0.1", 65536), ("127.0.0.1", -1), ("fe80::1%lo", 5, 0, 0)):
            with pytest.raises(ValueError):
                channel.signal(address, False, 0.0)
        for role, learn in ((3, 0), (-1, 0), (0, 3), (0, -1)):
            with pytest.raises(ValueError):
                native.Channel(thread, sock, role, learn, 1.0)
        with pytest.raises((ValueError, OverflowError)):
            channel.packets = -1
        with pytest.raises(AttributeError):
            del channel.last
        channel.watch(True)
        channel.watch(True)
        twin = native.Channel(thread, sock, 0, 0, 1.0)
        with pytest.raises(FileExistsError):
            twin.watch(True)
        channel.pair(channel)
        channel.signal(sock.getsockname(), False, 0.0)
        for _ in range(200):  # the table grows, and slots are used again
            several = [udp() for _ in range(3)]
            watched = [native.Channel(thread, each, 0, 0, 1.0) for each in several]
            for each in watched:
                each.watch(True)
            for each in watched[:2]:
                each.watch(False)
            for each, of in zip(watched, several, strict=True):
                each.close()
                each.watch(False)
                with pytest.raises(OSError):
                    each.watch(True)
                of.close()
        thread.close()
        thread.close()
        other.close()
        with pytest.raises(OSError):
            twin.watch(True)
        assert channel.watched is False
        channel.close()
    for _ in range(3):  # cycles go
        thread = native.Loop()
        with udp() as sock:
            one, two = (native.Channel(thread, sock, 0, 0, 1.0) for _ in range(2))
            one.pair(two)
            two.pair(one)
            copies = native.Copies(thread, 1.0)
            copies.keep(1.0)
            copies.send(memoryview(b"x" * 100))
            one.set_forks((copies, copies))
            assert copies.waiting == 1
        del one, two, copies
        thread.close()
        gc.collect()


def test_the_environment_turns_the_native_loop_off(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.new_event_loop()
    monkeypatch.setenv("SIPREC_NATIVE", "0")
    packets = packet_loop(loop, time.monotonic)
    assert type(packets) is PacketLoop
    sock = udp()
    assert type(packets.flow(sock, Latching())) is Flow
    packets.remove(sock)
    sock.close()
    packets.close()
    loop.close()
