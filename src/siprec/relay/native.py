"""The packet loop in C, for every flow that needs nothing of Python; the others stay with the loop in Python.

A :class:`NativeFlow` keeps its state in C, and is served there by a thread, without the GIL. As soon as
somebody replaces its `receive` or `send`, or puts something into its `forks` that is not of this loop (a sound is mixed
in, media are encrypted), its socket is watched by Python instead: same state, same rules. It goes back when that ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from siprec import compiled
from siprec.relay.heartbeat import PYTHON, Heartbeat
from siprec.relay.learning import Expected, Latching
from siprec.relay.loop import Descriptor, PacketLoop
from siprec.relay.rtp_stream import Address, Flow, Role
from siprec.relay.sink import Sink

if TYPE_CHECKING:
    from siprec.relay import _native

log = logging.getLogger(__name__)

Choice: TypeAlias = Literal["auto", "native", "python"]

_VERSION: Final = 1
"""Of the C extension: one that was built from other sources is left alone. Raised with what it offers Python."""
MAX_THREADS: Final = 4
BUSY: Final = 1000
"""Sockets of a thread, of which half carry RTP, that make it take a quarter of a processor."""
_LEARN: Final = {"any": 0, "host": 1, "signalled": 2}
_ROLES: Final = {"rtp": 0, "control": 1, "opaque": 2}
_HALF: Final = (1 << 64) - 1


def packet_loop(loop: asyncio.AbstractEventLoop, now: Callable[[], float], choice: Choice = "auto") -> PacketLoop:
    """The native loop if it was built (``auto``; ``SIPREC_NATIVE=0`` in the environment forbids it), else the one in
    Python. Raises ImportError for ``native`` where it was not built."""
    if choice == "python" or (choice == "auto" and os.environ.get("SIPREC_NATIVE", "") == "0"):
        return PacketLoop(loop, now)
    try:
        return NativeLoop(loop, now)
    except ImportError:
        if choice == "native":
            raise
        return PacketLoop(loop, now)


def _of_channel(name: str, *, writable: bool = False) -> Any:
    def read(flow: NativeFlow) -> Any:
        return getattr(flow.channel, name)

    def write(flow: NativeFlow, value: Any) -> None:
        setattr(flow.channel, name, value)

    return property(read, write if writable else None)


class NativeFlow(Flow):
    """A flow whose state is in C."""

    __slots__ = (
        "_foreign",
        "_forks",
        "_loop",
        "_plain_receive",
        "_plain_send",
        "_receive",
        "_send",
        "channel",
        "thread",
    )

    source = _of_channel("source")
    signalled = _of_channel("signalled")
    tentative = _of_channel("tentative")
    target = _of_channel("target")
    control_target = _of_channel("control_target")
    held = _of_channel("held")
    blocked = _of_channel("blocked")
    ssrcs = _of_channel("ssrcs")
    packets = _of_channel("packets", writable=True)
    octets = _of_channel("octets", writable=True)
    rtcp_packets = _of_channel("rtcp_packets", writable=True)
    rtcp_octets = _of_channel("rtcp_octets", writable=True)
    gaps = _of_channel("gaps", writable=True)
    late = _of_channel("late", writable=True)
    unsent = _of_channel("unsent", writable=True)
    next_seq = _of_channel("next_seq", writable=True)
    ssrc = _of_channel("ssrc", writable=True)
    last = _of_channel("last", writable=True)
    heard = _of_channel("heard", writable=True)
    timestamp = _of_channel("timestamp", writable=True)
    paused = _of_channel("paused", writable=True)

    def __init__(
        self, loop: NativeLoop, thread: _native.Loop, sock: socket.socket, latching: Latching, role: Role
    ) -> None:
        # not Flow's, which would set what lives in the channel
        self.sock = sock
        self.latching = latching
        self.role = role
        self.peer = self.media = self.owner = self.notify = None
        self.authentic = None
        self._loop = loop
        self._foreign: dict[str, int] = {}
        self._forks: tuple[Sink, ...] = ()
        self._receive: Any = sock.recvfrom_into
        self._plain_receive = self._receive
        self._send: Callable[[memoryview, Address], int] | None = None
        self._plain_send: Callable[[memoryview, Address], int] | None = None
        self.thread = thread
        self.channel: _native.Channel = loop.module.Channel(
            thread, sock, _ROLES[role], _LEARN[latching.learn], latching.relearn
        )

    @property
    def in_python(self) -> bool:
        """Does it need Python for its packets?"""
        return (
            self._receive is not self._plain_receive
            or self._send is not self._plain_send
            or any(not self._loop.is_native(sink) for sink in self._forks)
        )

    @property
    def receive(self) -> Any:
        return self._receive

    @receive.setter
    def receive(self, value: Any) -> None:
        self._receive = value
        self._loop.place(self)

    @property
    def send(self) -> Callable[[memoryview, Address], int] | None:
        return self._send

    @send.setter
    def send(self, value: Callable[[memoryview, Address], int] | None) -> None:
        self._send = value
        self._loop.place(self)

    @property
    def forks(self) -> tuple[Sink, ...]:
        return self._forks

    @forks.setter
    def forks(self, value: tuple[Sink, ...]) -> None:
        self._forks = value
        self._loop.place(self)
        self.channel.set_forks(() if self.in_python else value)  # type: ignore[arg-type]  # all native then

    def attach(self, sinks: tuple[Sink, ...]) -> int:
        self._forks = sinks
        self._loop.place(self)
        return self.channel.set_forks(() if self.in_python else sinks)  # type: ignore[arg-type]  # all native then

    @property
    def dropped(self) -> dict[str, int]:  # type: ignore[override]
        found = self.channel.dropped
        for reason, count in self._foreign.items():
            found[reason] = found.get(reason, 0) + count
        return found

    def position(self) -> tuple[int, int, float]:
        return self.channel.position()

    def pair(self, peer: Flow | None) -> None:
        self.peer = peer
        self.channel.pair(peer.channel if isinstance(peer, NativeFlow) else None)
        self._plain_send = peer.sock.sendto if peer is not None else None
        self.send = self._plain_send

    def retarget(self) -> None:
        self.channel.retarget()

    def attend(self, media: Flow | None) -> None:
        self.media = media
        self.channel.attend(media.channel if isinstance(media, NativeFlow) else None)

    def expect(self, expected: Expected, authentic: Callable[[bytes], bool] | None = None) -> None:
        self.authentic = authentic
        bits = expected.payloads
        self.channel.expect(bits & _HALF, bits >> 64, expected.nat, expected.pauses, expected.secure)

    def signal(self, address: Address, *, held: bool = False, now: float | None = None) -> None:
        self.channel.signal(address, held, self.thread.now if now is None else now)

    def block(self, blocked: bool) -> None:
        self.channel.block(blocked)

    def drop(self, reason: str) -> None:
        self._foreign[reason] = self._foreign.get(reason, 0) + 1

    def admit(self, source: Address, now: float, packet: memoryview | bytes) -> bool:
        welcome = self.channel.admit(source, now, packet)
        self.look(now)
        return welcome or self.channel.source == source

    def admit_other(self, source: Address, now: float, *, rtcp: bool) -> bool:
        welcome = self.channel.admit_other(source, now, rtcp)
        self.look(now)
        return welcome

    def admit_control(self, source: Address, now: float) -> bool:
        return self.channel.admit_other(source, now, False)

    def look(self, now: float | None = None) -> None:
        """Do what the channel wants of Python: authenticate a packet, report changes of host."""
        unverified = self.channel.unverified()
        if unverified is not None:
            source, packet = unverified
            adopt = self.authentic is not None and self.authentic(packet)
            self.channel.adopt(source, adopt, self.thread.now if now is None else now)
        if self.notify is not None:
            for before, after in self.channel.moves():
                self.notify(self, before, after)

    def resequence(self, seq: int, ssrc: int) -> None:
        self.channel.resequence(seq, ssrc)


class NativeLoop(PacketLoop):
    """Several threads (0: as many as there are processors for us, four at most), of which each call has one. The next
    one is used when the ones before are busy: few wake-ups for many packets are cheaper than the opposite. Raises
    ImportError where the C extension was not built, or from other sources."""

    name = "native"

    def __init__(self, loop: asyncio.AbstractEventLoop, now: Callable[[], float], threads: int = 0) -> None:
        module = compiled.module("siprec.relay._native", _VERSION, forbidden=False)
        if module is None:
            raise ImportError("the packet loop in C was not built, or from other sources")
        super().__init__(loop, now)
        self.module = module
        count = threads or min(len(os.sched_getaffinity(0)), MAX_THREADS)
        self.threads: list[_native.Loop] = [module.Loop() for _ in range(count)]
        self._native: dict[int, NativeFlow] = {}
        self._in_python: set[int] = set()
        for thread in self.threads:
            loop.add_reader(thread.notify, self._noticed, thread)

    @property
    def sockets(self) -> int:
        return len(self._native) - len(self._in_python) + super().sockets

    def group(self) -> int:
        counts = [thread.channels for thread in self.threads]
        return next((i for i, count in enumerate(counts) if count < BUSY), counts.index(min(counts)))

    @property
    def datagrams(self) -> int:
        """What the threads have served so far."""
        return sum(thread.datagrams for thread in self.threads)

    def flow(self, sock: socket.socket, latching: Latching, group: int = 0, role: Role = "rtp") -> Flow:
        flow = NativeFlow(self, self.threads[group % len(self.threads)], sock, latching, role)
        flow.notify = self._moved
        flow.channel.watch(True)
        self._native[sock.fileno()] = flow
        return flow

    def _noticed(self, thread: _native.Loop) -> None:
        for channel in thread.notices():
            flow = self._native.get(channel.fileno())
            if flow is not None and flow.channel is channel:
                flow.look()

    def copies(self, source: Flow, seconds: float) -> Sink:
        assert isinstance(source, NativeFlow)
        copies: Sink = self.module.Copies(source.thread, seconds)
        return copies

    def is_native(self, sink: Sink) -> bool:
        """Can the thread serve it?"""
        return type(sink) is self.module.Copies

    def place(self, flow: NativeFlow) -> None:
        """Let Python or the thread read from `flow`, as it needs."""
        number = flow.sock.fileno()
        if number not in self._native or flow.in_python == (number in self._in_python):
            return
        if flow.in_python:
            flow.channel.watch(False)
            self._in_python.add(number)
            self._serve(flow)
            flow.look()
        else:
            super().remove(flow.sock)
            self._in_python.discard(number)
            flow.channel.set_forks(flow.forks)  # type: ignore[arg-type]  # all native then
            flow.channel.watch(True)

    def remove(self, sock: Descriptor) -> None:
        number = sock.fileno()
        found = self._native.pop(number, None)
        if found is None or number in self._in_python:
            self._in_python.discard(number)
            super().remove(sock)
        if found is not None:
            found.channel.close()
            found.look()

    def heartbeat(self, heartbeat: Heartbeat) -> None:
        if self._beat is None:
            for slot, thread in enumerate(self.threads, PYTHON + 1):
                thread.heartbeat(heartbeat.page, slot)
        super().heartbeat(heartbeat)

    @property
    def _at_work(self) -> bool:
        return super().sockets > 0

    def close(self) -> None:
        super().close()
        for thread in self.threads:
            self._loop.remove_reader(thread.notify)
        self._native.clear()
        self._in_python.clear()
        for thread in self.threads:
            thread.close()
