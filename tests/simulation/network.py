"""A virtual clock and a simulated network.

::

    clock = VirtualClock()
    network = SimulatedNetwork(clock, seed=7)
    alice = network.node("10.0.0.1")                # a Transport: hand it to a TransactionLayer
    layer = TransactionLayer(clock, alice, user)
    alice.attach(layer)                             # or alice.on_message = ..., alice.on_malformed = ...
    network.link("10.0.0.1", "10.0.0.2", LinkQuality(loss=0.2, duplicate=0.1, jitter=0.3))   # both directions
    clock.run_until_idle()

What is sent are octets: they go through the real parser at the other end. UDP datagrams are lost, doubled, delayed
and so overtake each other as the link's quality says; "tcp" and "tls" are delayed only and keep their order. A stream
to an address nobody listens at, or that refuses it, fails as a refused connection does. The same seed gives the same
run. `network.trace` holds every message sent: (time, from, to, transport, first line, octets, lost).
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, NamedTuple

from siprec.sip.errors import SipError
from siprec.sip.message import SipRequest, SipResponse, parse_datagram
from siprec.sip.transaction import TransactionLayer
from siprec.sip.transport import Connected, Hop, SendFailed


class VirtualTimer:
    """A timer of :class:`VirtualClock`."""

    __slots__ = ("args", "callback", "clock", "done", "when")

    def __init__(
        self, clock: VirtualClock, when: float, callback: Callable[..., object], args: tuple[Any, ...]
    ) -> None:
        self.clock = clock
        self.when = when
        self.callback = callback
        self.args = args
        self.done = False

    def cancel(self) -> None:
        """Harmless when it fired already."""
        if not self.done:
            self.done = True
            self.clock.pending -= 1
            self.release()

    def release(self) -> None:
        """Let go of what was to be called at once, as the wheel does."""
        self.callback, self.args = _nothing, ()


def _nothing() -> None:
    """What a timer calls that is over."""


class VirtualClock:
    """A clock that moves only when told to. `pending` is the number of timers that are neither cancelled nor fired."""

    def __init__(self, start: float = 1000.0, wall: float = 1_700_000_000.0) -> None:
        self._now = start
        self._offset = wall - start
        self._heap: list[tuple[float, int, VirtualTimer]] = []
        self._numbers = count()
        self.pending = 0

    def now(self) -> float:
        """Monotonic seconds."""
        return self._now

    def wall(self) -> float:
        """Seconds since the epoch."""
        return self._now + self._offset

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> VirtualTimer:
        """Call ``callback(*args)`` in `delay` seconds; equal times fire in the order set."""
        timer = VirtualTimer(self, self._now + max(delay, 0.0), callback, args)
        heapq.heappush(self._heap, (timer.when, next(self._numbers), timer))
        self.pending += 1
        return timer

    def _fire_next(self) -> bool:
        when, _, timer = heapq.heappop(self._heap)
        if timer.done:
            return False
        self._now = max(self._now, when)
        timer.done = True
        self.pending -= 1
        callback, args = timer.callback, timer.args
        timer.release()
        callback(*args)
        return True

    def run_until(self, when: float) -> None:
        """Fire everything due up to the monotonic time `when`, and be there."""
        while self._heap and self._heap[0][0] <= when:
            self._fire_next()
        self._now = max(self._now, when)

    def run_for(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self.run_until(self._now + seconds)

    def run_until_idle(self, limit: float = 86400.0) -> None:
        """Run until no timer is left.

        Raises:
            AssertionError: timers are still being set after `limit` seconds.
        """
        end = self._now + limit
        while self._heap:
            if self._heap[0][0] > end and not self._heap[0][2].done:
                raise AssertionError(f"not idle after {limit} s: {self._heap[0][2].callback!r}")
            self._fire_next()

    def run_until_true(self, condition: Callable[[], object], limit: float = 600.0) -> None:
        """Run until `condition()` is true.

        Raises:
            AssertionError: it is not after `limit` seconds, or nothing is left that could make it so.
        """
        end = self._now + limit
        while not condition():
            if not self._heap or self._heap[0][0] > end:
                raise AssertionError("the condition did not come true")
            self._fire_next()


@dataclass(frozen=True, slots=True)
class LinkQuality:
    """How one direction between two hosts treats datagrams: probabilities 0..1, times in seconds.

    A datagram takes `delay` plus up to `jitter`, so a jitter above the sending interval reorders. `mtu`: larger ones
    vanish.
    """

    loss: float = 0.0
    duplicate: float = 0.0
    delay: float = 0.01
    jitter: float = 0.0
    mtu: int = 65535


class Sent(NamedTuple):
    """One message put on the network."""

    time: float
    source: tuple[str, int]
    destination: tuple[str, int]
    transport: str
    line: str
    data: bytes
    lost: bool


class SimulatedNetwork:
    """Hosts and the links between them; see the module's docstring."""

    def __init__(self, clock: VirtualClock, seed: int = 0, quality: LinkQuality | None = None) -> None:
        self.clock = clock
        self.random = random.Random(seed)
        self.quality = quality or LinkQuality()
        self.nodes: dict[tuple[str, int], Node] = {}
        self.links: dict[tuple[str, str], LinkQuality] = {}
        self.trace: list[Sent] = []
        self.drop: Callable[[Sent], bool] | None = None
        """Set it to lose chosen messages: called with each before it is sent, true means lost."""
        self._arrivals: dict[tuple[object, ...], float] = {}
        self.connections = count(1)
        self.filtered: set[tuple[str, int]] = set()
        """Addresses behind a filter that drops connection attempts; see :meth:`Node.race`."""
        self.attempts: list[tuple[float, str, str]] = []

    def node(self, host: str, port: int = 5060, **options: Any) -> Node:
        """A new host (or another port of one) with UDP and TCP; `options` as of :class:`Node`."""
        node = self.nodes[host, port] = Node(self, host, port, **options)
        return node

    def link(self, a: str, b: str, quality: LinkQuality, *, both: bool = True) -> None:
        """Set the quality between two hosts."""
        self.links[a, b] = quality
        if both:
            self.links[b, a] = quality

    def lines(self) -> list[str]:
        """The first lines of everything sent so far, in order."""
        return [sent.line for sent in self.trace]

    def carry(self, node: Node, data: bytes, hop: Hop, source: Hop, failed: SendFailed | None) -> None:
        """Take one message from a node; `source` is the Hop the receiver will see."""
        quality = self.links.get((node.host, hop.host), self.quality)
        target = self.nodes.get((hop.host, hop.port))
        reliable = hop.transport != "udp"
        if reliable and (target is None or not target.accepts_streams):
            if failed is not None:
                self.clock.call_later(quality.delay * 2, failed, "connection refused")
            lost = True
        else:
            lost = not reliable and (len(data) > quality.mtu or self.random.random() < quality.loss)
        line = data.partition(b"\r\n")[0].decode("utf-8", "replace")
        sent = Sent(self.clock.now(), (node.host, node.port), (hop.host, hop.port), hop.transport, line, data, lost)
        if self.drop is not None and not lost and self.drop(sent):
            sent = sent._replace(lost=True)
        self.trace.append(sent)
        if sent.lost or target is None:
            return
        if reliable:
            key = (node.host, node.port, hop.host, hop.port)
            at = max(self.clock.now() + quality.delay, self._arrivals.get(key, 0.0))
            self._arrivals[key] = at
            self.clock.call_later(at - self.clock.now(), target.deliver, data, source)
            return
        copies = 2 if self.random.random() < quality.duplicate else 1
        for _ in range(copies):
            delay = quality.delay + self.random.random() * quality.jitter
            self.clock.call_later(delay, target.deliver, data, source)


class Node:
    """One address of the network: a Transport.

    `max_udp`: larger requests go over TCP (TRN-04). `accepts_streams` false: TCP to this node is refused.
    `advertised`: the host written into Via.
    """

    def __init__(
        self,
        network: SimulatedNetwork,
        host: str,
        port: int,
        *,
        max_udp: int = 1300,
        accepts_streams: bool = True,
        advertised: str = "",
    ) -> None:
        self.network = network
        self.host = host
        self.port = port
        self.max_udp = max_udp
        self.accepts_streams = accepts_streams
        self.advertised = advertised
        self.on_message: Callable[[SipRequest | SipResponse, Hop], None] = lambda message, source: None
        self.on_malformed: Callable[[SipError, Hop], None] = lambda error, source: None
        self.refused_tcp: set[tuple[str, int]] = set()
        self._connections: dict[tuple[str, int, str], int] = {}

    def attach(self, layer: TransactionLayer) -> None:
        """Give what arrives to a transaction layer."""
        self.on_message = layer.receive
        self.on_malformed = layer.receive_malformed

    def hop(self, transport: str = "udp") -> Hop:
        """How others reach this node."""
        return Hop(transport, self.host, self.port)

    def deliver(self, data: bytes, source: Hop) -> None:
        """A message has arrived."""
        try:
            message = parse_datagram(data)
        except SipError as error:
            self.on_malformed(error, source)
        else:
            self.on_message(message, source)

    # -- Transport -------------------------------------------------------------------------------------------------

    def route(self, hop: Hop, size: int) -> Hop:
        """See :class:`siprec.sip.transport.Transport`."""
        large = size > self.max_udp and (hop.host, hop.port) not in self.refused_tcp
        transport = "tcp" if hop.transport == "udp" and large else hop.transport
        return replace(hop, transport=transport, local=(self.host, self.port))

    def sent_by(self, hop: Hop) -> tuple[str, int]:
        """See :class:`siprec.sip.transport.Transport`."""
        return (self.advertised or self.host, self.port)

    def race(self, hops: Sequence[Hop], limit: float, connected: Connected) -> Callable[[], None]:
        """See :data:`siprec.sip.transport.Race`. Those of `network.filtered` neither take nor refuse a connection."""
        clock = self.network.clock
        timers: list[VirtualTimer] = []
        left = len(hops)

        def finish(hop: Hop | None, reason: str) -> None:
            for timer in timers:
                timer.cancel()
            connected(hop, reason)

        def attempt(hop: Hop) -> None:
            self.network.attempts.append((clock.now(), hop.host, hop.transport))
            if (hop.host, hop.port) not in self.network.filtered:
                timers.append(clock.call_later(2 * self.network.quality.delay, outcome, hop))

        def outcome(hop: Hop) -> None:
            nonlocal left
            target = self.network.nodes.get((hop.host, hop.port))
            if target is not None and target.accepts_streams:
                finish(hop, "")
                return
            left -= 1
            if not left:
                finish(None, "connection refused")

        def out_of_time() -> None:
            self.refused_tcp |= {(hop.host, hop.port) for hop in hops}
            finish(None, "no connection in time")

        timers += [clock.call_later(0.25 * number, attempt, hop) for number, hop in enumerate(hops)]
        timers.append(clock.call_later(limit, out_of_time))

        def cancel() -> None:
            for timer in timers:
                timer.cancel()

        return cancel

    def send(self, data: bytes, hop: Hop, failed: SendFailed | None = None) -> None:
        """See :class:`siprec.sip.transport.Transport`."""
        connection = 0
        if hop.reliable:
            key = (hop.host, hop.port, hop.transport)
            connection = self._connections.setdefault(key, 0) or next(self.network.connections)
            self._connections[key] = connection
        source = Hop(hop.transport, self.host, self.port, (hop.host, hop.port), connection)
        self.network.carry(self, data, hop, source, failed)
