"""Copies of a call's media to a recorder: one :class:`Fork` per stream, a :class:`Subscription` per recorder.

A fork of its own pair of ports sends what its source flow receives: timestamps and SSRC stay as they are, sequence
numbers close the gap that a pause leaves. Towards the recorder it is an RTCP endpoint of its own (RFC 7866 8.2.3):
sender reports, CNAME and BYE go out, receiver reports are read; nothing of it reaches the call.

Until the recorder has answered that it wants them, packets are kept (bounded in seconds and octets), and then sent in
order, somewhat faster than real time, so that the recorder's socket buffer holds them. What was kept before there was a
fork (pre-roll) comes first. When a recorder is lost, packets are kept again until the next one has answered.
"""

from __future__ import annotations

import math
import random
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from socket import SO_ERROR, SOL_SOCKET, socket

from siprec.relay.loop import PacketLoop
from siprec.relay.ports import PortPair
from siprec.relay.rtp_stream import Address, Flow
from siprec.relay.secure import Exit, ForkKeys, Security
from siprec.relay.sink import Sink, reason_of
from siprec.rtp import rtcp
from siprec.sdp import MediaDescription
from siprec.sip.clock import Clock, Timer

HOLD = 60.0
"""Seconds that a fork keeps packets for a recorder to come: as long as several of them may take to be tried."""
DRAIN_BATCH = 16
DRAIN_INTERVAL = 0.004
RTCP_INTERVAL = 5.0


class Fork:
    """One stream of a subscription: copies of what `source` receives, sent from `pair`."""

    __slots__ = (
        "_blocks",
        "_clock",
        "_first_block",
        "_lost",
        "_refused",
        "_rtcp_at",
        "_rtcp_dropped",
        "_seconds",
        "_settled",
        "_timer",
        "answered",
        "attached",
        "before",
        "begun",
        "behind",
        "clock_rate",
        "cname",
        "copies",
        "exit",
        "from_tag",
        "gated",
        "index",
        "jitter_reported",
        "key_frame",
        "keys",
        "label",
        "last_block",
        "last_report",
        "muxed",
        "pair",
        "paused",
        "rejected",
        "remote",
        "remote_rtcp",
        "rtcp_received",
        "sealed",
        "section",
        "security",
        "short",
        "source",
        "ssrc",
        "unexpected",
    )

    def __init__(
        self, clock: Clock, source: Flow, pair: PortPair, copies: Sink, from_tag: str, index: int, preroll: float
    ) -> None:
        self._clock = clock
        self._seconds = max(preroll, HOLD)
        self.copies = copies
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
        self.muxed = False
        self.rtcp_received = 0
        self.unexpected = 0
        self._lost: dict[int, int] = {}
        self._blocks = 0
        self._first_block = self.last_block = 0.0
        self.behind = 0
        """Packets that the recorder had not seen yet, of those sent, at its last report."""
        self._settled = 0
        self._refused = 0
        self.before = 0
        """Packets that had come before the copies began and are not among them."""
        self.short = 0
        """Those of them that were wanted: the pre-roll was too short. An upper bound."""
        self.jitter_reported: int | None = None
        self.last_report = 0.0
        self.key_frame: Callable[[bytes], None] | None = None
        self.attached = False
        self.exit: Exit | None = None
        self.keys: ForkKeys | None = None  # offered to the recorder
        self.sealed: ForkKeys | None = None  # agreed on with it
        self.security = Security()  # of the source
        self._timer: Timer | None = None
        self._rtcp_dropped: dict[str, int] = {}
        self._rtcp_at = clock.now() + RTCP_INTERVAL * random.uniform(0.25, 1.0)
        self.settle()

    @property
    def packets(self) -> int:
        """RTP packets that went out."""
        return self.copies.packets - (self.exit.lost if self.exit is not None else 0)

    @property
    def octets(self) -> int:
        """Their size, RTP header included; of SRTP, that of what came."""
        return self.copies.octets - (self.exit.lost_octets if self.exit is not None else 0)

    @property
    def dropped(self) -> dict[str, int]:
        """What did not go out, by reason."""
        found = self.copies.dropped
        if self.short:
            found = {**found, "preroll": found.get("preroll", 0) + self.short}
        if self.exit is not None and self.exit.lost:
            found = {**found, "srtp": self.exit.lost}
        return {**found, **self._rtcp_dropped} if self._rtcp_dropped else found

    @property
    def withheld(self) -> int:
        """Packets that came while a pause or an inactive stream kept them back."""
        return self.copies.withheld - self.refused

    @property
    def refused(self) -> int:
        """Packets that came while the recorder refused the stream (port 0)."""
        return self._refused + (self.copies.withheld - self._settled if self.rejected else 0)

    @property
    def lost_reported(self) -> int | None:
        """Packets lost by the recorder's reports, over all sources there were; None: it has not reported on them."""
        return sum(self._lost.values()) if self._lost else None

    @property
    def reports(self) -> int:
        """Reports of the recorder on what it was sent."""
        return self._blocks

    @property
    def report_interval(self) -> float:
        """Seconds between two such reports, on average; 0: not known."""
        return (self.last_block - self._first_block) / (self._blocks - 1) if self._blocks > 1 else 0.0

    @property
    def flowing(self) -> bool:
        """Would a packet that comes now be sent, or kept for sending?"""
        # A recorder that is not ready yet (RFC 7866 7.2) gets the beginning when it is; one that wants a pause does
        # not.
        return not (self.rejected or self.paused or (self.gated and self.begun))

    def inherit(self, kept: Sink, since: float) -> None:
        """Begin with what was kept before there was a subscription, but for what came before `since` (monotonic)."""
        if self.flowing and not self.answered:
            self.before -= self.copies.inherit(kept, since)
            if kept.dropped_at >= since:
                self.short = min(self.before, kept.dropped.get("preroll", 0))

    @property
    def _out(self) -> socket:
        return self.pair.rtp if self.exit is None else self.exit.inner

    def seal(self, packets: PacketLoop, keys: ForkKeys | None) -> None:
        """Encrypt with `keys` from now on; None: plain RTP, whatever the source is. Raises OSError."""
        self.sealed = keys
        if keys is None and not self.security.secure and self.exit is None:
            return
        if self.exit is None:
            self.exit = Exit(packets, self.security, self.copies, self.pair.rtp)
            self.copies.off()  # stays off the direct way
        self.exit.flush()
        self.exit.encryptor = keys.encryptor if keys is not None else None
        self.settle()

    def hold(self) -> None:
        """The recorder is lost: keep what comes from now on, until another one answers (RFC 7865 6.4)."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._account()
        self.answered = self.begun = self.rejected = self.gated = False
        self.remote_rtcp = None
        self._seconds = HOLD
        self.settle()

    def _account(self) -> None:
        """Put down what was withheld so far to the state that ends now."""
        withheld = self.copies.withheld
        if self.rejected:
            self._refused += withheld - self._settled
        self._settled = withheld

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
        self._account()
        self.rejected = rejected
        self.gated = gated or remote is None
        if not (self.rejected or self.gated):
            self.begun = True
            self._seconds = math.inf  # what waits to be sent now does not grow too old
        self.settle()

    def pause(self, paused: bool) -> None:
        """Withhold media until the opposite is said, whatever answers say meanwhile."""
        self.paused = paused
        self.settle()

    def settle(self) -> None:
        """Bring what happens to packets in line with the state, at once."""
        copies = self.copies
        if not self.flowing:
            copies.withhold()  # Nothing that came before the pause is sent after it
            self._attach(True)
            if self.exit is not None:
                self.exit.drain()
        elif not self.answered or self.gated or copies.waiting:
            copies.keep(self._seconds)
            self._attach(True)
            if self.answered and not self.gated and self._timer is None:
                self._timer = self._clock.call_later(0, self._drain)
        else:
            copies.direct(self._out)
            self._attach(True)
        if self.exit is not None and self.flowing:
            self.exit.shift = copies.shift  # nothing of what comes now has passed it yet

    def close(self) -> None:
        """Stop, with an RTCP BYE to the recorder (RFC 3550 6.6)."""
        self._attach(False)
        self.copies.off()
        self.copies.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.exit is not None:
            self.exit.close()
        if self.answered and not self.rejected:
            self._send_rtcp(rtcp.goodbye(self._rtcp_ssrc, self.cname))

    def _attach(self, attach: bool) -> None:
        if attach != self.attached:
            self.attached = attach
            others = tuple(sink for sink in self.source.forks if sink is not self.copies)
            before = self.source.attach((*others, self.copies) if attach else others)
            self.before = before if attach else self.before

    def _drain(self) -> None:
        self._timer = None
        if self.copies.drain(self._out, DRAIN_BATCH):
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
        """Send a report when it is due (RFC 3550 6.2: 5 s, randomised); also while media are withheld (RFC 3264
        5.1)."""
        if now < self._rtcp_at:
            return
        self._rtcp_at = now + RTCP_INTERVAL * random.uniform(0.5, 1.5)
        if not self.answered or self.rejected:
            return  # RFC 3264 5.1: nothing at all on a stream that is refused
        packets = self.packets
        ssrc, newest, came = self.source.position()
        if packets <= 0 or ssrc < 0:
            self._send_rtcp(rtcp.empty_report(self.ssrc, self.cname))
            return
        timestamp = newest + round((now - came) * self.clock_rate)
        payload = max(0, self.octets - 12 * packets)
        self._send_rtcp(rtcp.sender_report(ssrc, wall, timestamp, packets, payload, self.cname))

    def _send_rtcp(self, packet: bytes) -> None:
        if self.remote_rtcp is None:
            return
        if self.sealed is not None and self.sealed.encryptor is not None:
            secured = self.sealed.encryptor.rtcp(packet)
            if secured is None:
                self._rtcp_dropped["rtcp-srtp"] = self._rtcp_dropped.get("rtcp-srtp", 0) + 1
                return
            packet = secured
        try:
            if self.muxed:
                self.pair.rtp.send(packet)
            else:
                self.pair.rtcp.sendto(packet, self.remote_rtcp)
        except OSError as error:
            reason = "rtcp-" + reason_of(error.errno or 0)
            self._rtcp_dropped[reason] = self._rtcp_dropped.get(reason, 0) + 1

    def rtcp_arrived(self, _now: float) -> None:
        """The recorder's RTCP: counted and read, never passed on; what asks for a key frame goes to `key_frame`."""
        try:
            packet, source = self.pair.rtcp.recvfrom(2048)
        except OSError:
            return
        self._report(packet, source)

    def _report(self, packet: bytes, source: Address) -> None:
        if self.sealed is not None and self.sealed.decryptor is not None:
            packet = self.sealed.decryptor.rtcp(packet) or b""
        blocks = rtcp.report_blocks(packet)
        if blocks is None or self.remote_rtcp is None or source[0] != self.remote_rtcp[0]:
            self.unexpected += 1
            return
        self.rtcp_received += 1
        self.last_report = self._clock.wall()
        if self.key_frame is not None:
            self.key_frame(packet)
        for block in blocks:
            if block.ssrc == self.source.ssrc or block.ssrc in self.source.ssrcs:
                self._confirmed(block)

    def _confirmed(self, block: rtcp.ReportBlock) -> None:
        """What the recorder says of what it was sent."""
        now = self._clock.now()
        if not self._blocks:
            self._first_block = now
        self._blocks += 1
        self.last_block = now
        self._lost[block.ssrc] = block.lost
        if block.ssrc == self.source.ssrc:
            self.jitter_reported = block.jitter
            sent = self.source.next_seq - 1 - self.copies.shift - self.copies.waiting
            behind = (sent - block.highest) & 0xFFFF
            self.behind = behind if behind < 0x8000 else 0

    def rtp_arrived(self, _now: float) -> None:
        """A recorder sends nothing here but RTCP, if that is multiplexed; what else comes is taken off and counted."""
        try:
            packet, source = self.pair.rtp.recvfrom(2048)
        except ConnectionRefusedError as error:
            self.copies.failed(error.errno or 0, 0)  # ICMP: one that was sent did not arrive (RFC 7866 8.1.1)
            return
        except OSError:
            return
        if self.muxed:
            self._report(packet, source)
        else:
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
