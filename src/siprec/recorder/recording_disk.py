"""The files of one recording on a disk that may refuse them: noticing, trying again, and a JSON in any case.

Everything here runs in the disk thread, but for `refused_since` and `reason`, which the event loop reads.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from siprec.recorder import recording_json
from siprec.recorder.disk import DiskFile
from siprec.recorder.pipeline import Pipeline
from siprec.recorder.space import RESERVE

log = logging.getLogger(__name__)

_ESSENTIAL = (
    "format", "recorder", "id", "state", "start", "end", "end_reason", "audio_start", "duration", "recording_session",
    "mix", "streams", "participants", "communication_sessions", "errors",
)  # fmt: skip


class RecordingDisk:
    """What `pipeline` writes into `directory`. `now` is the monotonic clock."""

    def __init__(self, pipeline: Pipeline, directory: Path, now: Callable[[], float]) -> None:
        self.pipeline = pipeline
        self.directory = directory
        self.refused_since: float | None = None
        """Monotonic time since which the disk has refused; None: it takes everything."""
        self.reason = ""
        self.refusals: list[str] = []
        """What there is to say about it in the JSON."""
        self._now = now
        self._json_error: OSError | None = None

    @property
    def _files(self) -> list[DiskFile]:
        return [file.disk for file in self.pipeline.open_files]

    @property
    def json_failed(self) -> bool:
        """Whether the last JSON could not be written."""
        return self._json_error is not None

    @property
    def unfinished(self) -> bool:
        """Whether something of the audio waits for the disk."""
        return any(file.unfinished for file in self._files)

    @property
    def lost(self) -> int:
        """Octets that are on no disk and never will be."""
        return sum(file.lost for file in self._files)

    def check(self) -> None:
        """After each write: does the disk take what it is given? What waits is tried again."""
        for file in self._files:
            file.check()
            file.retry()
        error = next((file.error for file in self._files if file.error is not None), self._json_error)
        if error is not None:
            self.reason = f"disk: {error.strerror or error}"
            if self.refused_since is None:
                self.refused_since = self._now()
                log.error("recording %s: writing failed: %s", self.directory.name, error)
                self.refusals.append(f"writing failed: {error.strerror or error}")
        elif self.refused_since is not None:
            seconds = self._now() - self.refused_since
            self.refused_since = None
            log.warning("recording %s: the disk takes data again after %.1f s", self.directory.name, seconds)
            self.refusals.append(f"the disk took data again after {seconds:.1f} s; what waited has been written")

    def write_json(self, document: dict[str, Any], *, durable: bool = False, last: bool = False) -> bool:
        """Replace ``recording.json``. The `last` one takes the room that was set aside if there is no other."""
        path = self.directory / recording_json.FILE
        try:
            if last:
                self.directory.mkdir(parents=True, exist_ok=True, mode=0o750)
            recording_json.write_json(path, document, durable=durable)
        except OSError as error:
            if self._json_error is None:
                log.error("%s cannot be written: %s", path, error)
            self._json_error = error
            return last and self._into_reserve(path, document)
        self._json_error = None
        if last:
            with suppress(OSError):
                (self.directory / RESERVE).unlink()
        return True

    def _into_reserve(self, path: Path, document: dict[str, Any]) -> bool:
        essential = {key: document[key] for key in _ESSENTIAL if key in document}
        for content in (document, essential, {**essential, "participants": [], "communication_sessions": []}):
            try:
                recording_json.overwrite_json(self.directory / RESERVE, content)
                os.replace(self.directory / RESERVE, path)
            except OSError:
                continue
            return True
        return False

    def abandon(self) -> None:
        """Nothing more is to be expected of the disk."""
        for file in self._files:
            file.abandon()
