"""Recordings on the disk: where they lie, finding them again, and putting right what a crash left behind.

Layout: ``ROOT/YYYY/MM/DD/YYYYMMDDThhmmssZ-xxxxxxxx/`` (UTC) with ``recording.json``, ``stream-N.wav`` (or ``.flac``),
``mix.wav``, ``stream-N.pcap`` for what is not decoded, and ``metadata-NNNN.xml``.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from siprec.recorder import files
from siprec.recorder.errors import RecorderFull
from siprec.recorder.recording_json import FILE
from siprec.recorder.recording_result import RecordingResult
from siprec.recorder.recovery import Recovery
from siprec.recorder.space import RESERVE, reserve

log = logging.getLogger(__name__)

_NAME: Final = re.compile(r"[0-9]{8}[0-9A-Za-z_.-]{1,56}")
"""Names of directories of recordings."""
_YEAR: Final = re.compile(r"[0-9]{4}")
_TWO: Final = re.compile(r"[0-9]{2}")
_FILE_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,100}")
MAX_JSON: Final = 64 << 20


class RecorderLibrary:
    """All recordings below `root`, which is created."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self._made: set[str] = set()
        self._recovered = False
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
                if not self._recovered:
                    self._made.add(directory.name)
                return directory
        except OSError as error:
            raise RecorderFull(f"no place for a recording: {error.strerror}") from error

    def remove_unused(self, directory: Path) -> None:
        """Take back a directory of :meth:`new_directory` that nothing was written to."""
        with suppress(OSError):
            (directory / RESERVE).unlink(missing_ok=True)
            directory.rmdir()

    def everything(self, skipped: Callable[[Path, str], None] = lambda path, why: None) -> Iterator[Path]:
        """Directories that are named as recordings are, newest first. `skipped` hears of what is not, and of what
        cannot be looked into."""
        for year in _inside(self.root, _YEAR, skipped):
            for month in _inside(year, _TWO, skipped):
                for day in _inside(month, _TWO, skipped):
                    yield from _inside(day, _NAME, skipped)

    def directories(self) -> Iterator[Path]:
        """Directories of recordings, newest first."""
        for directory in self.everything():
            if (directory / FILE).is_file():
                yield directory

    def read(self, directory: Path) -> RecordingResult:
        """One recording.

        Raises:
            OSError: it cannot be read.
            ValueError: it is no JSON, or none of a recording.
        """
        data = files.read_regular(directory / FILE, MAX_JSON)
        try:
            document = json.loads(data)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        if not isinstance(document, dict) or not isinstance(document.get("state"), str):
            raise ValueError("it describes no recording")
        return RecordingResult(directory, sound(document))

    def load(self, directory: Path) -> RecordingResult | None:
        """One recording; None if its JSON cannot be read."""
        try:
            return self.read(directory)
        except (OSError, ValueError) as error:
            log.warning("recording %s: %s", directory.name, error)
            return None

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
        self,
        *,
        call_id: str | None = None,
        session_id: str | None = None,
        aor: str | None = None,
        text: str | None = None,
    ) -> list[RecordingResult]:
        """Recordings, newest first, that match everything given: Call-ID of the recording session; id of a
        communication session (as in the metadata, or as UUID); address of record of a participant, or of a party that
        the headers of the recording session name; `text` that occurs in any of these, in a name, a header or a foreign
        element of the metadata."""
        out = []
        for recording in self:
            summary = recording.summary
            if call_id is not None and summary.get("recording_session", {}).get("call_id") != call_id:
                continue
            sessions = summary.get("communication_sessions", [])
            if session_id is not None and not any(session_id in (s.get("session_id"), s.get("uuid")) for s in sessions):
                continue
            names = [n.get("aor") for p in summary.get("participants", []) for n in p.get("names", [])]
            parties = summary["recording_session"].get("parties")
            if isinstance(parties, list):
                names += [party.get("aor") for party in parties if isinstance(party, dict)]
            if aor is not None and aor not in names:
                continue
            if text is not None and not any(text.casefold() in word for word in index(summary)):
                continue
            out.append(recording)
        return out

    def recover(self) -> list[RecordingResult]:
        """Bring recordings to their end that a process left behind, repair their files, and make a ``recording.json``
        where there is none that can be read. What is no recording, or cannot be read, is named in the log.

        Call it once at the start. What this process has begun meanwhile is left alone.
        """
        found = list(Recovery(self, self._made).run())
        self._recovered = True
        self._made.clear()
        return found


def _inside(directory: Path, name: re.Pattern[str], skipped: Callable[[Path, str], None]) -> Iterator[Path]:
    """Directories in `directory` that are called so, the last first."""
    try:
        with os.scandir(directory) as entries:
            found = sorted(((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries), reverse=True)
    except OSError as error:
        skipped(directory, str(error.strerror))
        return
    for text, is_directory in found:
        if is_directory and name.fullmatch(text):
            yield directory / text
        elif not text.startswith("."):
            skipped(directory / text, "no recording")


def index(document: dict[str, Any]) -> Iterator[str]:
    """Words that a recording is found by, in lower case: ids, addresses, names, headers, foreign elements."""
    rs = document["recording_session"]
    yield str(rs.get("call_id") or "").casefold()
    for key in ("headers", "parties"):
        for each in _list(rs, key):
            if isinstance(each, dict):
                yield from (str(each.get(name) or "").casefold() for name in ("value", "aor", "name"))
    for session in document["communication_sessions"]:
        yield from (str(session.get(name) or "").casefold() for name in ("session_id", "uuid"))
        yield from (str(each).casefold() for each in _list(session, "sip_session_ids"))
    for participant in document["participants"]:
        for each in participant["names"]:
            yield from (str(each.get(name) or "").casefold() for name in ("aor", "name"))
    parents = [
        document,
        *(each for key in ("communication_sessions", "participants", "groups", "streams") for each in document[key]),
    ]
    for parent in parents:
        yield from (
            str(each["text"]).casefold()
            for each in _list(parent, "extensions")
            if isinstance(each, dict) and "text" in each
        )


_LISTS: Final = ("streams", "participants", "communication_sessions", "groups", "metadata")


def sound(document: dict[str, Any]) -> dict[str, Any]:
    """A recording's JSON with every part of the type it should have: what is of another type is left out. Files are
    names in the recording's own directory, nothing else."""
    for key in _LISTS:
        document[key] = [each for each in _list(document, key) if isinstance(each, dict)]
    document["errors"] = [str(each) for each in _list(document, "errors")]
    rs = document.get("recording_session")
    document["recording_session"] = rs if isinstance(rs, dict) else {}
    for participant in document["participants"]:
        participant["names"] = [each for each in _list(participant, "names") if isinstance(each, dict)]
    for stream in document["streams"]:
        stream["packets"] = stream["packets"] if isinstance(stream.get("packets"), dict) else {}
        for key in ("participants", "stream_ids", "dtmf", "pauses"):
            stream[key] = _list(stream, key)
        for key in ("file", "raw_file"):
            stream[key] = _plain(stream.get(key))
        stream["duration"] = _number(stream.get("duration"))
    mix = document.get("mix")
    document["mix"] = mix if isinstance(mix, dict) and _plain(mix.get("file")) else None
    document["duration"] = _number(document.get("duration"))
    return document


def _list(parent: dict[str, Any], key: str) -> list[Any]:
    found = parent.get(key)
    return found if isinstance(found, list) else []


def _plain(name: object) -> str | None:
    """The name of a file of a recording, and no path to anything else."""
    return name if isinstance(name, str) and _FILE_NAME.fullmatch(name) else None


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None
