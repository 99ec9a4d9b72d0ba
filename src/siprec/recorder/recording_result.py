"""A recording as its ``recording.json`` describes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class RecordingResult:
    """A recording as its JSON describes it: `directory`, the parsed `summary`, and paths out of it."""

    directory: Path
    summary: dict[str, Any] = field(repr=False)

    @property
    def id(self) -> str:
        """Name of the directory."""
        return self.directory.name

    @property
    def state(self) -> str:
        """``recording``, ``complete``, ``interrupted`` or ``failed``."""
        return str(self.summary.get("state", "unknown"))

    @property
    def mix(self) -> Path | None:
        """The stereo mix, None if no audio came."""
        mix = self.summary.get("mix")
        return self.directory / mix["file"] if mix else None

    @property
    def streams(self) -> list[dict[str, Any]]:
        """One entry per stream: ``file``, ``packets``, ``participants``..."""
        found = self.summary.get("streams", [])
        return found if isinstance(found, list) else []

    def stream_file(self, number: int) -> Path | None:
        """The audio file of stream `number` (from 1), None if it has none."""
        for stream in self.streams:
            if stream.get("number") == number and stream.get("file"):
                return self.directory / str(stream["file"])
        return None
