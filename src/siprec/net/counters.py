"""What a transport counts."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(slots=True)
class Counters:
    """Counts since the start. Messages are SIP messages, not keep-alives."""

    received: int = 0
    sent: int = 0
    malformed: int = 0
    ignored: int = 0
    """Datagrams that are no SIP: keep-alives, STUN, junk."""
    unparsed: int = 0
    """Datagrams on which the parser failed, which is a fault of ours."""
    pings: int = 0
    send_errors: int = 0
    send_blocked: int = 0
    """Datagrams that had to wait because the socket was full."""
    icmp_errors: int = 0
    accepted: int = 0
    connected: int = 0
    connect_failed: int = 0
    closed: int = 0
    idle_closed: int = 0
    refused: int = 0
    """Connections closed at once because there were too many."""
    crowded_out: int = 0
    """Accepted connections closed for others: too many in all, too many or too much unfinished of their source."""
    slow_closed: int = 0
    """Connections closed because the peer did not read."""

    def as_dict(self) -> dict[str, int]:
        """All counts by name."""
        return asdict(self)
