"""One direction of media: what arrives from one party on one socket, where it goes, and what is counted.

Media may come from another address than the description says (NAT, a media gateway that hands over), so sources are
learned, by the rules of :mod:`siprec.relay.learning`. What comes from elsewhere is dropped and counted. Whatever is not
RTP is passed on as it is, from known sources; it is not copied.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

from siprec.relay.learning import (
    FAR_PACKETS,
    NEAR_PACKETS,
    NEAR_SECONDS,
    NOTHING,
    PAUSE_UNITS,
    REORDER,
    RIVAL_FRESH,
    VERIFY_PAUSE,
    WITH_PAUSES,
    Expected,
    Latching,
    Rival,
)
from siprec.relay.sink import Sink, reason_of
from siprec.rtp.rtcp import is_rtcp

Address: TypeAlias = Any
"""As the socket module reports it: (host, port) or (host, port, flow, scope)."""
Role: TypeAlias = Literal["rtp", "control", "opaque"]
"""What a socket carries: RTP, the RTCP of another one, or datagrams that are not looked into (T.38)."""

MAX_DROPOUT = 3000
"""A jump forward of more than that is a sender that restarted, not loss (RFC 3550 A.1)."""
MAX_SSRCS = 16


class Flow:
    """Datagrams from one party on `sock`. `target` is where the other party's socket (`send`) takes them.

    The packet loop reads and writes the plain attributes; everything out of the ordinary is a method. `owner` is
    whose it is; `notify` hears of each change of host (this flow, from, to); `authentic` says whether a packet is, of
    a party whose SRTP can be authenticated.
    """

    # fmt: off
    __slots__ = (
        "_clock", "authentic", "blocked", "dropped", "expected", "forks", "gaps", "heard", "held", "last",
        "latching", "late", "media", "next_seq", "notify", "octets", "old", "owner", "packets", "paused", "peer",
        "receive", "rival", "role", "rtcp_octets", "rtcp_packets", "send", "signalled", "since", "sock", "source",
        "ssrc", "ssrcs", "target", "tentative", "timestamp", "unsent", "verify_at",
    )
    # fmt: on

    def __init__(
        self,
        sock: socket.socket,
        latching: Latching,
        role: Role = "rtp",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self.sock = sock
        self.role = role
        self.expected = NOTHING
        self.authentic: Callable[[bytes], bool] | None = None
        self.owner: object = None
        self.notify: Moved | None = None
        self.media: Flow | None = None
        self.old: Address = None
        """The source before the present one."""
        self.tentative: Address = None
        """While no source is known: who sent something that is not RTP."""
        self.rival: Rival | None = None
        self.since = 0.0
        self.paused = False
        self.verify_at = 0.0
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
        return None if self.held else self.source or self.tentative or self.signalled

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

    def attend(self, media: Flow | None) -> None:
        """A flow of RTCP belongs to `media`, of the same party."""
        self.media = media

    def retarget(self) -> None:
        """Take the peer's present remote address as target."""
        self.target = self.peer.remote if self.peer is not None and not self.blocked else None

    def expect(self, expected: Expected, authentic: Callable[[bytes], bool] | None = None) -> None:
        """What descriptions say of this party; `authentic` is needed where that is `secure`."""
        self.expected = expected
        self.authentic = authentic

    def signal(self, address: Address, *, held: bool = False, now: float | None = None) -> None:
        """The party said where it receives. A change opens the latch; `held` (the zero address) stops sending to it."""
        self.held = held
        if address != self.signalled and not held:
            self.signalled = address
            self.source = self.old = self.tentative = self.rival = None
            self.paused = False
            self.since = self._clock() if now is None else now
        if self.peer is not None:
            self.peer.retarget()

    def block(self, blocked: bool) -> None:
        """Stop relaying what this party sends."""
        self.blocked = blocked
        self.retarget()

    def drop(self, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    # ---------- whose media are taken

    def admit(self, source: Address, now: float, packet: memoryview | bytes) -> bool:
        """May `source`, which is not the known one, send `packet`? Learns it if so, counts it as a stranger if not."""
        if source in (self.signalled, self.old):
            self._take(source)
            return True
        learn = self.latching.learn
        first = self.source is None and self._first_come
        if first and not self.expected.secure:
            self._take(source)
            return True
        if learn == "signalled":
            return self._stranger()
        near = self._known_host(source)
        if not first and not near and (learn != "any" or self.latching.relearn <= 0):
            return self._stranger()
        count = self._in_a_row(source, now, packet)
        if first:
            enough = count > 0
        elif near:
            enough = count >= NEAR_PACKETS or (
                count == NEAR_PACKETS - 1 and self.rival is not None and now - self.rival.since >= NEAR_SECONDS
            )
        else:
            pauses = self.expected.pauses or self.paused
            limit = self.latching.relearn * (WITH_PAUSES if pauses else 1)
            enough = count >= FAR_PACKETS and now - max(self.last, self.heard, self.since) >= limit
        if not enough:
            return self._stranger()
        if self.expected.secure and not self._verified(packet, now):
            return self._stranger()
        self._take(source)
        return True

    def _verified(self, packet: memoryview | bytes, now: float) -> bool:
        if self.authentic is None or now < self.verify_at or len(packet) > 2048:
            return False
        if self.authentic(bytes(packet)):
            return True
        self.rival = None
        self.verify_at = now + VERIFY_PAUSE
        return False

    def _stranger(self) -> bool:
        self.drop("stranger")
        return False

    @property
    def _first_come(self) -> bool:
        """Nothing says where this party sends from: whoever comes first is taken."""
        return self.latching.learn == "any" and (self.signalled is None or self.expected.nat)

    def _known_host(self, source: Address) -> bool:
        return _same_host(source, self.source) or _same_host(source, self.signalled)

    def _take(self, source: Address) -> None:
        settled = self.source is not None
        before = self.source or self.signalled
        told = self.notify if self.role != "control" and (settled or not self._first_come) else None
        if told is not None and before is not None and not _same_host(before, source):
            told(self, before, source)
        returned = source in (self.signalled, self.old) or self._returns(source)
        self.old = None if returned else self.source
        self.source = source
        self.tentative = self.rival = None
        self.paused = False
        if self.peer is not None:
            self.peer.retarget()

    def _interrupted(self, source: Address, rival: Rival) -> bool:
        """Has the known source spoken since the rival's newest packet? One from elsewhere does not hold up the
        signalled host."""
        return rival.mark != self.packets and not self._returns(source)

    def _returns(self, source: Address) -> bool:
        """Is `source` on the signalled host, and the known source is not?"""
        return _same_host(source, self.signalled) and not _same_host(self.source, self.signalled)

    def _in_a_row(self, source: Address, now: float, packet: memoryview | bytes) -> int:
        """Count a packet of a source that is not the known one; how many came in a row."""
        opaque = self.role == "opaque"
        seq = ssrc = 0
        if not opaque:
            if len(packet) < 12 or not self.expected.payloads >> (packet[1] & 0x7F) & 1:
                return 0
            seq, ssrc = int.from_bytes(packet[2:4]), int.from_bytes(packet[8:12])
        elif not self.expected.payloads:
            return 0
        rival = self.rival
        fresh = rival is not None and now - rival.last < RIVAL_FRESH
        if (
            rival is not None
            and fresh
            and source != rival.source
            and not self._interrupted(rival.source, rival)
            and (self._known_host(rival.source) or not self._known_host(source))
        ):
            return 0  # one at a time; a host that is known comes before others
        if (
            rival is None
            or not fresh
            or source != rival.source
            or ssrc != rival.ssrc
            or self._interrupted(source, rival)
            or not (opaque or (seq - rival.seq) & 0xFFFF <= REORDER or (rival.seq - seq) & 0xFFFF <= REORDER)
        ):
            rival = self.rival = Rival(source, now)
        elif not opaque and not 0 < (seq - rival.seq) & 0xFFFF <= REORDER:
            return rival.count  # doubled or late
        rival.mark = self.packets
        rival.ssrc = ssrc
        rival.seq = seq
        rival.last = now
        rival.count += 1
        return rival.count

    def admit_other(self, source: Address, now: float, *, rtcp: bool) -> bool:
        """The same for what is not RTP on a port of RTP. It proves nothing, so it is taken from known sources; where
        there is none yet, it is answered to until RTP shows who it is (DTLS, STUN and ZRTP come before it)."""
        if source in (self.source, self.signalled, self.old, self.tentative):
            if self.source is None and source == self.signalled:
                self._take(source)
            self.heard = now
            return True
        learn = self.latching.learn
        if (
            rtcp
            or self.source is not None
            or self.expected.secure
            or learn == "signalled"
            or not (self._known_host(source) or self._first_come)
        ):
            return self._stranger()
        self.tentative = source
        self.heard = now
        if self.peer is not None:
            self.peer.retarget()
        return True

    def admit_control(self, source: Address, now: float) -> bool:
        """The same for RTCP: from hosts that media come from, or that are signalled."""
        known = self.source is not None and self._control_host(self.source)
        if source == self.signalled:
            self.source = source
        elif self.latching.learn == "signalled" or not self._control_host(source):
            return self._stranger()
        elif not known or source == self.source or now - self.last >= self.latching.relearn:
            self.source = source
        if source == self.source:
            self.last = now
        self.heard = now
        return True

    def _control_host(self, source: Address) -> bool:
        media = self.media
        return _same_host(source, self.signalled) or (media is not None and media._known_host(source))

    @property
    def control_target(self) -> Address:
        """Where RTCP of this party goes: only to a host that something came from. None: nowhere."""
        peer = self.peer
        if peer is None or self.blocked or peer.held:
            return None
        if peer.role != "control":
            return peer.remote if peer.source is not None or peer.tentative is not None else None
        if peer.source is not None and peer._control_host(peer.source):
            return peer.source
        if peer.media is not None and _same_host(peer.signalled, peer.media.source):
            return peer.signalled
        return None

    # ---------- what is counted

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

    def resumed(self, seq: int, ssrc: int, timestamp: int) -> None:
        """A packet after a pause: was that one of the sender's (DTX), whose clock went on meanwhile?"""
        if seq == self.next_seq and ssrc == self.ssrc:
            ahead = (timestamp - self.timestamp) & 0xFFFFFFFF
            self.paused = self.paused or PAUSE_UNITS <= ahead < 0x80000000

    def not_rtp(self, source: Address, packet: memoryview, now: float) -> None:
        """Something else on the port of RTP: RTCP (RFC 5761), DTLS, STUN, ZRTP, keep-alives of any size."""
        rtcp = is_rtcp(packet)
        if not self.admit_other(source, now, rtcp=rtcp):
            return
        if rtcp:
            self._count_rtcp(packet)
        self.forward(packet, self.control_target if rtcp else self.target)

    def control(self, source: Address, packet: memoryview, now: float) -> None:
        """A datagram on the RTCP port: mostly RTCP."""
        if not self.admit_control(source, now):
            return
        if is_rtcp(packet):
            self._count_rtcp(packet)
        self.forward(packet, self.control_target)

    def _count_rtcp(self, packet: memoryview) -> None:
        self.rtcp_packets += 1
        self.rtcp_octets += len(packet)

    def opaque(self, source: Address, packet: memoryview, now: float) -> None:
        """A datagram of a stream that is not RTP: passed on and copied, whatever it is."""
        if source != self.source and not self.admit(source, now, packet):
            return
        self.packets += 1
        self.octets += len(packet)
        self.last = now
        target = self.target
        if target is None or self.send is None:
            self.unsent += 1
        else:
            try:
                self.send(packet, target)
            except OSError as error:
                self.send_failed(error)
        for fork in self.forks:
            try:
                fork.send(packet)
            except OSError as error:
                fork.failed(error.errno or 0, len(packet))

    def forward(self, packet: memoryview, target: Address) -> None:
        """Send one datagram on to the peer, outside of the packet loop."""
        if target is None or self.send is None:
            return
        try:
            self.send(packet, target)
        except OSError as error:
            self.drop(reason_of(error.errno or 0))

    def send_failed(self, error: OSError) -> None:
        """The peer's socket would not take an RTP packet."""
        self.unsent += 1
        self.drop(reason_of(error.errno or 0))


Moved: TypeAlias = Callable[[Flow, Address, Address], None]


def _same_host(one: Address, other: Address) -> bool:
    return one is not None and other is not None and one[0] == other[0] and one[3:] == other[3:]
