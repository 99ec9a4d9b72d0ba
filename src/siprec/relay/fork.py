"""Copies of a call's media to a recorder: one :class:`Fork` per stream, a :class:`Subscription` per recorder.

A fork of its own pair of ports sends what its source flow receives: sequence numbers, timestamps and SSRC stay as they
are. Towards the recorder it is an RTCP endpoint of its own (ROLE-4): sender reports, CNAME and BYE go out, receiver
reports are read; nothing of it reaches the call.

Until the recorder has answered that it wants them, packets are kept (bounded in seconds and octets), and then sent in
order, somewhat faster than real time, so that the recorder's socket buffer holds them. What was kept before there was a
fork (pre-roll) comes first. When a recorder is lost, packets are kept again until the next one has answered.
"""

from __future__ import annotations

import math
import random
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from socket import SO_ERROR, SOL_SOCKET

from siprec.relay import rtcp
from siprec.relay.flow import Address, Flow, ForkSink, reason_of
from siprec.relay.loop import PacketLoop
from siprec.relay.ports import PortPair
from siprec.sdp import MediaDescription
from siprec.sip.clock import Clock, Timer

PREROLL_OCTETS = 2 << 20
HOLD = 60.0
"""Seconds that a fork keeps packets for a recorder to come: as long as several of them may take to be tried."""
DRAIN_BATCH = 16
DRAIN_INTERVAL = 0.004
RTCP_INTERVAL = 5.0


class Keeper(ForkSink):
    """Packets of the last `seconds`, in order."""

    __slots__ = ("_now", "kept", "kept_octets", "seconds", "since")

    def __init__(self, now: Callable[[], float], seconds: float) -> None:
        super().__init__()
        self._now = now
        self.seconds = seconds
        self.since = now()
        self.kept: deque[tuple[float, bytes]] = deque()
        self.kept_octets = 0
        self.send = self.keep

    def keep(self, packet: memoryview) -> None:
        now = self._now()
        self.kept.append((now, bytes(packet)))
        self.kept_octets += len(packet)
        while self.kept_octets > PREROLL_OCTETS or self.kept[0][0] < now - self.seconds:
            self.kept_octets -= len(self.kept.popleft()[1])
            self.dropped["preroll"] = self.dropped.get("preroll", 0) + 1
            if not self.kept:
                break

    def clear(self) -> None:
        self.kept.clear()
        self.kept_octets = 0


class Fork(Keeper):
    """One stream of a subscription: copies of what `source` receives, sent from `pair`."""

    __slots__ = (
        "_base",
        "_clock",
        "_direct",
        "_packets",
        "_rtcp_at",
        "_timer",
        "answered",
        "attached",
        "begun",
        "clock_rate",
        "cname",
        "from_tag",
        "gated",
        "index",
        "jitter_reported",
        "label",
        "last_report",
        "lost_reported",
        "pair",
        "paused",
        "rejected",
        "remote",
        "remote_rtcp",
        "rtcp_received",
        "section",
        "source",
        "ssrc",
        "unexpected",
    )

    def __init__(self, clock: Clock, source: Flow, pair: PortPair, from_tag: str, index: int, preroll: float) -> None:
        super().__init__(clock.now, max(preroll, HOLD))
        self._clock = clock
        self.source = source
        self.pair = pair
        self.from_tag = from_tag
        self.index = index
        self.label = ""
        self.section: MediaDescription | None = None
        self.clock_rate = 8000
        self.cname = rtcp.make_cname()
        self.ssrc = secrets.randbits(32)
        self.answered = False
        self.begun = False
        self.rejected = False
        self.gated = False
        self.paused = False
        self.remote: Address = None
        self.remote_rtcp: Address = None
        self.rtcp_received = 0
        self.unexpected = 0
        self.lost_reported: int | None = None
        self.jitter_reported: int | None = None
        self.last_report = 0.0
        self.attached = False
        self._direct = False
        self._packets = [0, 0]
        self._base = (0, 0)
        self._timer: Timer | None = None
        self._rtcp_at = clock.now() + RTCP_INTERVAL * random.uniform(0.25, 1.0)
        self.settle()

    @property
    def packets(self) -> int:
        """RTP packets that went out."""
        return self._packets[0] + (self.source.packets - self._base[0] if self._direct else 0) - self.unsent

    @property
    def octets(self) -> int:
        """Their size, RTP header included."""
        return self._packets[1] + (self.source.octets - self._base[1] if self._direct else 0) - self.unsent_octets

    @property
    def flowing(self) -> bool:
        """Would a packet that comes now be sent, or kept for sending?"""
        # A recorder that is not ready yet (SRS-06) gets the beginning when it is; one that wants a pause does not.
        return not (self.rejected or self.paused or (self.gated and self.begun))

    def inherit(self, keeper: Keeper, since: float) -> None:
        """Begin with what was kept before there was a subscription, but for what came before `since` (monotonic)."""
        if self.flowing and not self.answered:
            for kept in keeper.kept:
                if kept[0] >= since:
                    self.kept.append(kept)
                    self.kept_octets += len(kept[1])

    def hold(self) -> None:
        """The recorder is lost: keep what comes from now on, until another one answers (ERR-09)."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.answered = self.begun = self.rejected = self.gated = False
        self.remote_rtcp = None
        self.seconds = HOLD
        self.settle()

    def answer(self, remote: Address, remote_rtcp: Address, *, rejected: bool, gated: bool) -> None:
        """The recorder said where it receives (`remote`), that it refuses the stream, or that it wants no media now.

        May come again, with another address (SRS re-INVITE, failover). Raises OSError for an address that cannot be
        reached from here.
        """
        if not rejected and remote is not None and remote != self.remote:
            self.pair.rtp.connect(remote)
            self._drain_errors()
        if not rejected:
            self.remote = remote or self.remote
            self.remote_rtcp = remote_rtcp
        self.answered = True
        self.rejected = rejected
        self.gated = gated or remote is None
        if not (self.rejected or self.gated):
            self.begun = True
            self.seconds = math.inf  # what waits to be sent now does not grow too old
        self.settle()

    def pause(self, paused: bool) -> None:
        """Withhold media until the opposite is said, whatever answers say meanwhile."""
        self.paused = paused
        self.settle()

    def settle(self) -> None:
        """Bring what happens to packets in line with the state, at once."""
        if not self.flowing:
            self.clear()  # CTL-07: nothing that came before the pause is sent after it
            self._attach(False)
        elif not self.answered or self.gated or self.kept:
            self._stop_direct()
            self.send = self.keep
            self._attach(True)
            if self.answered and not self.gated and self._timer is None:
                self._timer = self._clock.call_later(0, self._drain)
        else:
            self._attach(True)
            self._start_direct()

    def close(self) -> None:
        """Stop, with an RTCP BYE to the recorder (MEDIA-13)."""
        self._attach(False)
        self.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.answered and not self.rejected:
            self._send_rtcp(rtcp.goodbye(self._rtcp_ssrc, self.cname))

    def _attach(self, attach: bool) -> None:
        if not attach:
            self._stop_direct()
        if attach != self.attached:
            self.attached = attach
            others = tuple(sink for sink in self.source.forks if sink is not self)
            self.source.forks = (*others, self) if attach else others

    def _start_direct(self) -> None:
        if not self._direct:
            self._base = (self.source.packets, self.source.octets)
            self._direct = True
            self.send = self.pair.rtp.send

    def _stop_direct(self) -> None:
        if self._direct:
            self._packets[0] += self.source.packets - self._base[0]
            self._packets[1] += self.source.octets - self._base[1]
            self._direct = False

    def _drain(self) -> None:
        self._timer = None
        for _ in range(DRAIN_BATCH):
            if not self.kept:
                break
            _, packet = self.kept.popleft()
            self.kept_octets -= len(packet)
            self._packets[0] += 1
            self._packets[1] += len(packet)
            try:
                self.pair.rtp.send(packet)
            except OSError as error:
                self.failed(error, len(packet))
        if self.kept:
            self._timer = self._clock.call_later(DRAIN_INTERVAL, self._drain)
        else:
            self.settle()

    def _drain_errors(self) -> None:
        """Forget an ICMP error of the address before: the next send would report it."""
        self.pair.rtp.getsockopt(SOL_SOCKET, SO_ERROR)

    @property
    def _rtcp_ssrc(self) -> int:
        return self.source.ssrc if self.packets > 0 and self.source.ssrc >= 0 else self.ssrc

    def tick(self, now: float, wall: float) -> None:
        """Send a report when it is due (RFC 3550 6.2: 5 s, randomised); also while media are withheld (CTL-05)."""
        if now < self._rtcp_at:
            return
        self._rtcp_at = now + RTCP_INTERVAL * random.uniform(0.5, 1.5)
        if not self.answered or self.rejected:
            return  # SDP-10: nothing at all on a stream that is refused
        packets, flow = self.packets, self.source
        if packets <= 0 or flow.ssrc < 0:
            self._send_rtcp(rtcp.empty_report(self.ssrc, self.cname))
            return
        timestamp = flow.timestamp + round((now - flow.last) * self.clock_rate)
        payload = max(0, self.octets - 12 * packets)
        self._send_rtcp(rtcp.sender_report(flow.ssrc, wall, timestamp, packets, payload, self.cname))

    def _send_rtcp(self, packet: bytes) -> None:
        if self.remote_rtcp is None:
            return
        try:
            self.pair.rtcp.sendto(packet, self.remote_rtcp)
        except OSError as error:
            reason = "rtcp-" + reason_of(error)
            self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def rtcp_arrived(self, _now: float) -> None:
        """The recorder's RTCP: counted and read, never passed on."""
        try:
            packet, source = self.pair.rtcp.recvfrom(2048)
        except OSError:
            return
        blocks = rtcp.report_blocks(packet)
        if blocks is None or self.remote_rtcp is None or source[0] != self.remote_rtcp[0]:
            self.unexpected += 1
            return
        self.rtcp_received += 1
        self.last_report = self._clock.wall()
        for block in blocks:
            if block.ssrc == self.source.ssrc:
                self.lost_reported = block.lost
                self.jitter_reported = block.jitter

    def rtp_arrived(self, _now: float) -> None:
        """A recorder sends nothing here; whatever comes is taken off the socket and counted."""
        try:
            self.pair.rtp.recv(16)
        except ConnectionRefusedError as error:
            self.failed(error, 0)  # ICMP: one that was sent did not arrive (ERR-11)
            return
        except OSError:
            return
        self.unexpected += 1


@dataclass(eq=False)
class Subscription:
    """What one recorder gets. `forks` are in the order of the m-lines of its description."""

    tag: str
    forks: list[Fork] = field(default_factory=list)
    session_id: int = field(default_factory=lambda: secrets.randbits(62))
    version: int = 0
    created: float = 0.0
    label: str = ""


def watch(fork: Fork, packets: PacketLoop) -> None:
    """Have the fork's sockets read."""
    packets.add(fork.pair.rtp, fork.rtp_arrived)
    packets.add(fork.pair.rtcp, fork.rtcp_arrived)


def release(fork: Fork, packets: PacketLoop) -> None:
    """End the fork and give its ports back."""
    fork.close()
    packets.remove(fork.pair.rtp)
    packets.remove(fork.pair.rtcp)
    fork.pair.close()
