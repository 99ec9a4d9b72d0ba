"""Putting right what a crash, a full disk or somebody's hand left in the library. Nothing in there stops the start.

Each directory that looks like a recording gets a ``recording.json`` that says what is there: one that still says
``recording`` is brought to its end, one that is missing or cannot be read is made anew from the files.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

import soundfile  # type: ignore[import-untyped]

from siprec.metadata.document import Document
from siprec.metadata.merge import MetadataState
from siprec.metadata.read import parse
from siprec.recorder import files, recording_json
from siprec.recorder.recording_json import FILE, stamp, write_json
from siprec.recorder.recording_result import RecordingResult
from siprec.recorder.space import RESERVE

log = logging.getLogger(__name__)

DAMAGED: Final = "recording.json.damaged"
_OURS: Final = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")
_STREAM: Final = re.compile(r"stream-(\d{1,6})\.(wav|flac|pcap)")
_MIX: Final = re.compile(r"mix\.(wav|flac)")
_METADATA: Final = re.compile(r"metadata-\d{4,}\.xml")
_MAX_DOCUMENTS: Final = 1000
_MAX_TOLD: Final = 20


class Library(Protocol):
    """Where recordings lie."""

    def everything(self, skipped: Callable[[Path, str], None]) -> Iterator[Path]:
        """Directories that are named as recordings are; `skipped` hears of what is not."""
        ...

    def read(self, directory: Path) -> RecordingResult:
        """One recording; raises OSError, ValueError."""
        ...


class Recovery:
    """One pass over `library`. `spare` are directories that this process writes to."""

    def __init__(self, library: Library, spare: Collection[str] = ()) -> None:
        self._library = library
        self._spare = spare
        self.skipped = 0
        """What was passed over, and said in the log."""

    def run(self) -> Iterator[RecordingResult]:
        """Recordings that were put right, one after the other."""
        for directory in self._library.everything(self.skip):
            if directory.name in self._spare:
                continue
            try:
                found = self._recover(directory)
            except Exception as error:
                self.skip(directory, f"{type(error).__name__}: {error}")
                continue
            if found is not None:
                yield found
        if self.skipped > _MAX_TOLD:
            log.warning("%d things in the library were skipped", self.skipped)

    def skip(self, path: Path, why: str) -> None:
        """`path` is passed over."""
        self.skipped += 1
        if self.skipped <= _MAX_TOLD:
            log.warning("library: %s skipped: %s", path, why)

    def _recover(self, directory: Path) -> RecordingResult | None:
        try:
            found = self._library.read(directory)
        except FileNotFoundError:
            if _OURS.fullmatch(directory.name) is None:
                self.skip(directory, "no recording")
                return None
            return self._rebuild(directory, f"{FILE} was missing")
        except ValueError as error:
            os.replace(directory / FILE, directory / DAMAGED)
            return self._rebuild(directory, f"{FILE} was damaged ({error}) and is now {DAMAGED}")
        if found.state != "recording":
            return None
        document = found.summary
        document["state"] = "interrupted"
        document["end_reason"] = "the recorder stopped"
        self._adopt(directory, document)
        parts = [*found.streams, *([document["mix"]] if document.get("mix") else [])]
        for part in parts:
            _repair(directory, part, document)
        document["duration"] = max((s.get("duration") or 0.0 for s in found.streams), default=None)
        return self._write(directory, document)

    def _write(self, directory: Path, document: dict[str, Any]) -> RecordingResult | None:
        try:
            write_json(directory / FILE, document)
        except OSError as error:
            self.skip(directory, f"{FILE} cannot be written: {error.strerror}")
            return None
        with suppress(OSError):
            (directory / RESERVE).unlink()
        return self._library.read(directory)

    def _adopt(self, directory: Path, document: dict[str, Any]) -> None:
        """Files that were begun after the JSON was last written."""
        known = {stream.get("number") for stream in document["streams"]}
        for stream in document["streams"]:
            for suffix in ("wav", "flac"):
                path = directory / f"stream-{stream.get('number')}.{suffix}"
                if not stream.get("file") and path.exists():
                    stream["file"] = path.name
        for number, stream in _streams(directory).items():
            if number not in known:
                document["streams"].append(stream)
        if not document.get("mix"):
            document["mix"] = _mix(directory)

    def _rebuild(self, directory: Path, why: str) -> RecordingResult | None:
        streams = [stream for _, stream in sorted(_streams(directory).items())]
        document: dict[str, Any] = {
            "format": recording_json.FORMAT,
            "recorder": "siprec",
            "id": directory.name,
            "state": "interrupted",
            "start": _start(directory.name),
            "end": stamp(_end(directory)),
            "end_reason": "the recorder stopped",
            "audio_start": None,
            "duration": None,
            "recording_session": {"call_id": "", "from": "", "src_address": "", "headers": [], "parties": []},
            "mix": _mix(directory),
            "streams": streams,
            "participants": [],
            "communication_sessions": [],
            "groups": [],
            "metadata": [],
            "errors": [why],
        }
        _describe(directory, document)
        for part in [*streams, *([document["mix"]] if document["mix"] else [])]:
            _repair(directory, part, document)
        document["duration"] = max((s.get("duration") or 0.0 for s in streams), default=None)
        if not streams:
            document["state"] = "failed"
            document["errors"].append("there is no audio")
        return self._write(directory, document)


def _streams(directory: Path) -> dict[int, dict[str, Any]]:
    """The streams that there are files of."""
    found: dict[int, dict[str, Any]] = {}
    for name in sorted(os.listdir(directory)):
        match = _STREAM.fullmatch(name)
        if match is None:
            continue
        stream = found.setdefault(
            int(match[1]),
            {
                "number": int(match[1]), "kind": "audio", "label": None, "stream_ids": [], "session_id": None,
                "participants": [], "file": None, "raw_file": None, "packets": {}, "pauses": [], "dtmf": [],
            },
        )  # fmt: skip
        stream["raw_file" if match[2] == "pcap" else "file"] = name
    return found


def _mix(directory: Path) -> dict[str, Any] | None:
    for name in sorted(os.listdir(directory)):
        if _MIX.fullmatch(name):
            return {"file": name, "channels": 2}
    return None


def _describe(directory: Path, document: dict[str, Any]) -> None:
    """Parties and sessions, from the metadata documents that were kept."""
    state = MetadataState()
    names = sorted(name for name in os.listdir(directory) if _METADATA.fullmatch(name))
    for name in names[:_MAX_DOCUMENTS]:
        entry: dict[str, Any] = {"file": name, "received": None, "findings": []}
        document["metadata"].append(entry)
        try:
            data = files.read_regular(directory / name)
            wall = (directory / name).stat().st_mtime
            entry["received"] = stamp(wall)
            found = parse(data)
        except (OSError, ValueError) as error:
            entry["findings"] = [str(error)]
            continue
        if isinstance(found, Document):
            entry["findings"] = [*found.findings, *state.apply(found, wall=wall, labels={})]
    document.update(recording_json.describe(state))


def _start(name: str) -> str | None:
    try:
        return stamp(datetime.strptime(name[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp())
    except ValueError:
        return None


def _end(directory: Path) -> float:
    """When something was last written there."""
    times = [directory.stat().st_mtime]
    for name in os.listdir(directory):
        with suppress(OSError):
            times.append((directory / name).stat().st_mtime)
    return max(times)


def _repair(directory: Path, part: dict[str, Any], document: dict[str, Any]) -> None:
    name = part.get("file")
    if not name:
        return
    try:
        frames = files.repair(directory / name)
        with soundfile.SoundFile(str(directory / name)) as audio:
            part["rate"], part["channels"] = audio.samplerate, audio.channels
            part["duration"] = round(frames / audio.samplerate, 3)
    except (OSError, ValueError, soundfile.LibsndfileError, RuntimeError) as error:
        document["errors"].append(f"{name} cannot be repaired: {error}")
