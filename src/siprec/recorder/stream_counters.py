"""What happened on a stream that is received, counted (RFC 3550 6.4.1, A.3)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """What happened on a stream or source; packets unless named otherwise."""

    received: int = 0
    octets: int = 0
    expected: int = 0
    distinct: int = 0
    """Packets that came in time, each counted once (RFC 3550 A.3, with duplicates counted apart)."""
    duplicate: int = 0
    reordered: int = 0
    late: int = 0
    malformed: int = 0
    stranger: int = 0
    srtp_rejected: int = 0
    """SRTP and SRTCP that was not authentic (the wrong key, damage, forgery), or came twice."""
    unknown_payload_type: int = 0
    probation: int = 0
    jitter: float = 0.0
    """Interarrival jitter in seconds (RFC 3550 6.4.1)."""

    @property
    def lost(self) -> int:
        """Packets that never came (late ones did come, but count: they are not in the audio)."""
        return max(self.expected - self.distinct, 0)

    def add(self, other: Counters) -> None:
        """Sum `other` into this one; the jitter kept is the larger."""
        for name in (
            "received", "octets", "expected", "distinct", "duplicate", "reordered", "late", "malformed", "stranger",
            "srtp_rejected", "unknown_payload_type", "probation",
        ):  # fmt: skip
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.jitter = max(self.jitter, other.jitter)

    def as_dict(self) -> dict[str, int | float]:
        """For the JSON: jitter in milliseconds."""
        return {
            "received": self.received,
            "octets": self.octets,
            "expected": self.expected,
            "lost": self.lost,
            "duplicate": self.duplicate,
            "reordered": self.reordered,
            "late": self.late,
            "malformed": self.malformed,
            "stranger": self.stranger,
            "srtp_rejected": self.srtp_rejected,
            "unknown_payload_type": self.unknown_payload_type,
            "probation": self.probation,
            "jitter_ms": round(self.jitter * 1000, 3),
        }
