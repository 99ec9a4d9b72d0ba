"""One direction of media: what arrives from one party on one socket, where it goes, and what is counted.

Latching. Media may come from another address than the description says (NAT), so the first source is learned; but
whoever knows a port could then send first, or take over later. Hence, per :class:`Latching`:

- the signalled address is always right: it wins at once, and takes over from any other source;
- another source is learned only while none is (after an offer/answer that changed the address), if `learn` allows it;
- afterwards everything from elsewhere is dropped and counted, except the same host on a new port after `port_silence`
  seconds without media (NAT rebinding), and any host after `host_silence` (0: never).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

Address: TypeAlias = Any
"""As the socket module reports it: (host, port) or (host, port, flow, scope)."""

MAX_DROPOUT = 3000
"""A jump forward of more than that is a sender that restarted, not loss (RFC 3550 A.1)."""
MAX_SSRCS = 16


@dataclass(frozen=True, slots=True)
class Latching:
    """Policy of learning sources, times in seconds. `learn`: ``any`` host, the signalled ``host`` on any port, or only
    what is ``signalled``."""

    learn: Literal["any", "host", "signalled"] = "any"
    port_silence: float = 2.0
    host_silence: float = 0.0


class Flow:
    """Datagrams from one party on `sock`. `target` is where the other party's socket (`send`) takes them.

    The packet loop reads and writes the plain attributes; everything out of the ordinary is a method.
    """

    __slots__ = (
        "blocked",
        "dropped",
        "forks",
        "gaps",
        "heard",
        "held",
        "last",
        "latching",
        "late",
        "next_seq",
        "octets",
        "packets",
        "peer",
        "receive",
        "rtcp_octets",
        "rtcp_packets",
        "send",
        "signalled",
        "sock",
        "source",
        "ssrc",
        "ssrcs",
        "target",
        "timestamp",
        "unsent",
    )

    def __init__(self, sock: socket.socket, latching: Latching) -> None:
        self.sock = sock
        self.receive = sock.recvfrom_into
        self.latching = latching
        self.source: Address = None
        self.signalled: Address = None
        self.peer: Flow | None = None
        self.send: Callable[[memoryview, Address], int] | None = None
        self.target: Address = None
        self.forks: tuple[Sink, ...] = ()
        self.blocked = False
        self.held = False
        self.packets = 0
        self.octets = 0
        self.rtcp_packets = 0
        self.rtcp_octets = 0
        self.last = 0.0  # RTP
        self.heard = 0.0  # anything else
        self.next_seq = -1
        self.ssrc = -1
        self.ssrcs: list[int] = []
        self.timestamp = 0
        self.gaps = 0
        self.late = 0
        self.unsent = 0
        """RTP packets that were received but not sent on to the peer."""
        self.dropped: dict[str, int] = {}

    @property
    def remote(self) -> Address:
        """Where this party receives: the source it sends from, else what it signalled. None: nowhere."""
        return None if self.held else self.source or self.signalled

    @property
    def lost(self) -> int:
        """Packets missing by sequence number; late ones are not."""
        return max(0, self.gaps - self.late)

    def position(self) -> tuple[int, int, float]:
        """SSRC (-1: none yet) and timestamp of the newest RTP packet, and when it came (monotonic seconds)."""
        return self.ssrc, self.timestamp, self.last

    def attach(self, sinks: tuple[Sink, ...]) -> int:
        """Make `sinks` the forks; returns how many packets had come before."""
        self.forks = sinks
        return self.packets

    def pair(self, peer: Flow | None) -> None:
        """What comes here goes to `peer`'s party."""
        self.peer = peer
        self.send = peer.sock.sendto if peer is not None else None
        self.retarget()

    def retarget(self) -> None:
        """Take the peer's present remote address as target."""
        self.target = self.peer.remote if self.peer is not None and not self.blocked else None

    def signal(self, address: Address, *, held: bool = False) -> None:
        """The party said where it receives. A change opens the latch; `held` (the zero address) stops sending to it."""
        self.held = held
        if address != self.signalled and not held:
            self.signalled = address
            self.source = None
        if self.peer is not None:
            self.peer.retarget()

    def block(self, blocked: bool) -> None:
        """Stop relaying what this party sends."""
        self.blocked = blocked
        self.retarget()

    def drop(self, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def admit(self, source: Address, now: float) -> bool:
        """May `source`, which is not the latched one, send? Latches to it if so, counts it as a stranger if not."""
        policy = self.latching
        if self.source is None:
            welcome = (
                source == self.signalled
                or policy.learn == "any"
                or (policy.learn == "host" and self.signalled is not None and source[0] == self.signalled[0])
            )
        elif source == self.signalled:
            welcome = True
        elif source[0] == self.source[0] and policy.learn != "signalled":
            welcome = now - self.last >= policy.port_silence
        else:
            welcome = policy.learn == "any" and 0 < policy.host_silence <= now - self.last
        if not welcome:
            self.drop("stranger")
            return False
        self.source = source
        if self.peer is not None:
            self.peer.retarget()
        return True

    def resequence(self, seq: int, ssrc: int) -> None:
        """A packet that is not the next of its source: a new source, a gap, or one that is late."""
        if ssrc != self.ssrc or self.next_seq < 0:
            self.ssrc = ssrc
            if ssrc not in self.ssrcs:
                self.ssrcs.append(ssrc)
                del self.ssrcs[:-MAX_SSRCS]
        else:
            ahead = (seq - self.next_seq) & 0xFFFF
            if ahead >= 0x8000:
                self.late += 1
                return
            if ahead <= MAX_DROPOUT:
                self.gaps += ahead
        self.next_seq = (seq + 1) & 0xFFFF

    def not_rtp(self, source: Address, packet: memoryview, now: float) -> None:
        """RTCP on the RTP port (RFC 5761), DTLS, T.38: relayed from whom it may come, never forked. STUN is dropped:
        candidates are not passed on, so nobody has reason to check."""
        first = packet[0]
        if first < 4 and len(packet) >= 20 and bytes(packet[4:8]) == b"\x21\x12\xa4\x42":
            self.drop("stun")
            return
        # only RTP may teach a source: a lone datagram of anything else proves nothing
        if source != self.source and source != self.signalled:
            self.drop("stranger")
            return
        if first >> 6 == 2:
            self.rtcp_packets += 1
            self.rtcp_octets += len(packet)
        self.heard = now
        self.forward(packet)

    def control(self, source: Address, packet: memoryview, now: float) -> None:
        """A datagram on the RTCP port."""
        if len(packet) < 8 or packet[0] >> 6 != 2 or not 192 <= packet[1] <= 223:
            self.drop("malformed")
            return
        if source != self.source and not self.admit(source, now):
            return
        self.rtcp_packets += 1
        self.rtcp_octets += len(packet)
        self.last = self.heard = now
        self.forward(packet)

    def forward(self, packet: memoryview) -> None:
        """Send one datagram on to the peer, outside of the packet loop."""
        if self.target is None or self.send is None:
            return
        try:
            self.send(packet, self.target)
        except OSError as error:
            self.drop(reason_of(error.errno or 0))

    def send_failed(self, error: OSError) -> None:
        """The peer's socket would not take an RTP packet."""
        self.unsent += 1
        self.drop(reason_of(error.errno or 0))


class Sink(Protocol):
    """Copies of one stream (:class:`siprec.relay.copies.Copies`). `packets` and `octets` (RTP headers included) went
    out; `waiting` packets are kept; `dropped` counts by reason."""

    @property
    def packets(self) -> int: ...
    @property
    def octets(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def dropped(self) -> dict[str, int]: ...

    @property
    def withheld(self) -> int:
        """Packets that came while the stream was withheld."""

    @property
    def shift(self) -> int:
        """By how much sequence numbers are lower than those that came (modulo 65536): nothing is missing, to the
        recorder, of what was withheld after its first packet."""

    @property
    def dropped_at(self) -> float:
        """When the newest packet had come that was kept and then dropped as too old or too much (monotonic; -inf: none
        was)."""

    @property
    def send(self) -> Callable[[memoryview], object]:
        """Takes one packet, at once. May raise OSError, which then goes to :meth:`failed`."""

    def keep(self, seconds: float, /) -> None:
        """Keep the newest packets: no older than `seconds`, no more than :data:`siprec.relay.copies.PREROLL_OCTETS`."""

    def direct(self, sock: socket.socket, /) -> None:
        """Send from the connected `sock` what is kept, and from now on what comes."""

    def off(self) -> None:
        """Neither keep nor send; what is kept stays."""

    def withhold(self) -> None:
        """Neither keep nor send, and count what comes; what is kept is forgotten."""

    def renumber(self, wanted: bool, /) -> None:
        """Whether sequence numbers close the gap that withheld packets leave; somebody else may do it. Default: yes."""

    def clear(self) -> None:
        """Forget what is kept."""

    def inherit(self, other: Any, since: float, /) -> int:
        """Begin with what `other`, of the same loop and source, has kept from before we did; but not with what came
        before `since` (monotonic). It has kept what we have. Returns how many packets that are."""

    def drain(self, sock: socket.socket, count: int, /) -> int:
        """Send up to `count` of the packets kept, oldest first; how many are left."""

    def failed(self, error: int, size: int, /) -> None:
        """One that was counted as sent, of `size` octets, was not: `error` is an errno."""


def reason_of(error: int) -> str:
    """Why a send failed (an errno), in a word."""
    return _REASONS.get(error, "send")


_REASONS = {
    errno.EAGAIN: "congested",
    errno.ECONNREFUSED: "refused",
    errno.ENETUNREACH: "unreachable",
    errno.EHOSTUNREACH: "unreachable",
}
