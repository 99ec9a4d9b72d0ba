"""Recordings on the disk: where they lie, finding them again, and putting right what a crash left behind.

Layout: ``ROOT/YYYY/MM/DD/YYYYMMDDThhmmssZ-xxxxxxxx/`` (UTC) with ``recording.json``, ``stream-N.wav`` (or ``.flac``),
``mix.wav``, ``stream-N.pcap`` for what is not decoded, and ``metadata-NNNN.xml``.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import soundfile  # type: ignore[import-untyped]

from siprec.recorder import files
from siprec.recorder.errors import RecorderFull
from siprec.recorder.space import RESERVE, reserve
from siprec.recorder.summary import FILE, write_json

log = logging.getLogger(__name__)

_NAME: Final = re.compile(r"[0-9]{8}[0-9A-Za-z_.-]{1,56}")
"""Names of directories of recordings."""


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


class RecorderLibrary:
    """All recordings below `root`, which is created."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o750)
        except OSError as error:
            # It may come back: until then every recording session is refused.
            log.error("recordings cannot be kept: %s", error)

    def new_directory(self, wall: float) -> Path:
        """A fresh directory for a recording that begins at `wall` (Unix seconds); raises RecorderFull if the disk
        refuses."""
        moment = datetime.fromtimestamp(wall, UTC)
        day = self.root / f"{moment:%Y}" / f"{moment:%m}" / f"{moment:%d}"
        try:
            day.mkdir(parents=True, exist_ok=True, mode=0o750)
            while True:
                directory = day / f"{moment:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
                try:
                    directory.mkdir(mode=0o750)
                except FileExistsError:
                    continue
                try:
                    reserve(directory / RESERVE)
                except OSError:
                    directory.rmdir()
                    raise
                return directory
        except OSError as error:
            raise RecorderFull(f"no place for a recording: {error.strerror}") from error

    def remove_unused(self, directory: Path) -> None:
        """Take back a directory of :meth:`new_directory` that nothing was written to."""
        with suppress(OSError):
            (directory / RESERVE).unlink(missing_ok=True)
            directory.rmdir()

    def directories(self) -> Iterator[Path]:
        """Directories of recordings, newest first."""
        for json_file in sorted(self.root.glob(f"[0-9]*/[0-9]*/[0-9]*/*/{FILE}"), reverse=True):
            yield json_file.parent

    def load(self, directory: Path) -> RecordingResult | None:
        """One recording; None if its JSON cannot be read."""
        try:
            summary = json.loads((directory / FILE).read_bytes())
        except (OSError, ValueError) as error:
            log.warning("recording %s: %s", directory.name, error)
            return None
        return RecordingResult(directory, summary) if isinstance(summary, dict) else None

    def __iter__(self) -> Iterator[RecordingResult]:
        """All recordings, newest first."""
        for directory in self.directories():
            found = self.load(directory)
            if found is not None:
                yield found

    def by_id(self, name: str) -> RecordingResult | None:
        """The recording of that id (name of its directory); None if there is none."""
        if _NAME.fullmatch(name) is None:
            return None
        directory = self.root / name[:4] / name[4:6] / name[6:8] / name
        return self.load(directory) if (directory / FILE).is_file() else None

    def find(
        self, *, call_id: str | None = None, session_id: str | None = None, aor: str | None = None
    ) -> list[RecordingResult]:
        """Recordings, newest first, that match everything given: Call-ID of the recording session; id of a
        communication session (as in the metadata, or as UUID); address of record of a participant."""
        out = []
        for recording in self:
            summary = recording.summary
            if call_id is not None and summary.get("recording_session", {}).get("call_id") != call_id:
                continue
            sessions = summary.get("communication_sessions", [])
            if session_id is not None and not any(session_id in (s.get("session_id"), s.get("uuid")) for s in sessions):
                continue
            names = [n.get("aor") for p in summary.get("participants", []) for n in p.get("names", [])]
            if aor is not None and aor not in names:
                continue
            out.append(recording)
        return out

    def recover(self) -> list[RecordingResult]:
        """Mark recordings that still say ``recording`` as ``interrupted`` and repair their files.

        Call it once at the start, before the first recording of this process.
        """
        out = []
        for recording in self:
            if recording.state == "recording":
                summary = recording.summary
                summary["state"] = "interrupted"
                summary["end_reason"] = "the recorder stopped"
                parts = [*recording.streams, *([summary["mix"]] if summary.get("mix") else [])]
                self._adopt(recording.directory, summary)
                for part in parts:
                    self._repair(recording.directory, part, summary)
                summary["duration"] = max((s.get("duration") or 0.0 for s in recording.streams), default=None)
                write_json(recording.directory / FILE, summary)
                out.append(recording)
        return out

    def _adopt(self, directory: Path, summary: dict[str, Any]) -> None:
        """Files that were begun after the JSON was last written."""
        for stream in summary.get("streams", []):
            for suffix in ("wav", "flac"):
                path = directory / f"stream-{stream.get('number')}.{suffix}"
                if not stream.get("file") and path.exists():
                    stream["file"] = path.name
        for path in directory.glob("mix.*"):
            if not summary.get("mix"):
                summary["mix"] = {"file": path.name, "channels": 2}

    def _repair(self, directory: Path, part: dict[str, Any], summary: dict[str, Any]) -> None:
        name = part.get("file")
        if not name:
            return
        try:
            frames = files.repair(directory / name)
            with soundfile.SoundFile(str(directory / name)) as audio:
                part["rate"], part["channels"] = audio.samplerate, audio.channels
                part["duration"] = round(frames / audio.samplerate, 3)
        except (OSError, ValueError, soundfile.LibsndfileError, RuntimeError) as error:
            summary.setdefault("errors", []).append(f"{name} cannot be repaired: {error}")
