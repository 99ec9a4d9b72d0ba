"""What passed through the relay in all calls, also those that have ended: counters that never go back."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from siprec.relay.rtp_stream import Flow


@dataclass(slots=True)
class Totals:
    """RTP packets `received` from parties, `relayed`, and `forked` to recorders; `dropped` of all kinds, by reason
    (``fork`` and the reason: copies)."""

    received: int = 0
    relayed: int = 0
    forked: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def add_flows(self, rtp: Flow, rtcp: Flow) -> None:
        """Count a stream."""
        packets = rtp.packets
        self.received += packets
        self.relayed += max(0, packets - rtp.unsent)
        self.dropped.update(rtp.dropped)
        self.dropped.update(rtcp.dropped)

    def add_fork(self, packets: int, dropped: dict[str, int]) -> None:
        """Count copies of a stream to a recorder."""
        self.forked += packets
        self.dropped.update({f"fork {reason}": count for reason, count in dropped.items()})

    def add(self, other: Totals) -> None:
        """Count what `other` has counted."""
        self.received += other.received
        self.relayed += other.relayed
        self.forked += other.forked
        self.dropped.update(other.dropped)
