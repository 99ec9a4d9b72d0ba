"""What the recordings of one recording session have in common."""

from __future__ import annotations

from siprec.metadata.merge import MetadataState
from siprec.recorder import headers
from siprec.recorder.resources import Resources


class RsContext:
    """Where a recording session comes from, what its metadata say, and its clock.

    `started`: Unix seconds; `kept`: headers of the INVITE that are kept.
    """

    __slots__ = (
        "begun",
        "call_id",
        "closing",
        "from_uri",
        "kept",
        "resources",
        "src_address",
        "started",
        "state",
        "wall_offset",
    )

    def __init__(
        self, resources: Resources, call_id: str, from_uri: str, src_address: str, started: float, kept: headers.Kept
    ) -> None:
        self.resources = resources
        self.call_id, self.from_uri, self.src_address = call_id, from_uri, src_address
        self.started = started
        self.kept = kept
        self.state = MetadataState()
        self.begun = 0
        """How many recordings there have been."""
        self.closing = False
        """The recording session ends."""
        self.wall_offset = resources.clock.wall() - resources.clock.now()
        """Unix seconds are monotonic seconds plus this, for as long as the session lasts: the system's clock may be set
        meanwhile."""

    def wall(self) -> float:
        """Unix seconds, by the clock of this session."""
        return self.resources.clock.now() + self.wall_offset
