"""One entry of the library: the streams of one communication session, from its first to its last.

A recording session may carry several communication sessions, at once or one after the other (RFC 7866 5.1), and
each of them is a recording of its own: directory, files, mix and JSON. What an RS brings without saying whose it is
makes one as well.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from siprec.audio.codecs import Codec
from siprec.metadata.extract import extract, part
from siprec.metadata.merge import MetadataState
from siprec.metadata.values import Id
from siprec.recorder import recording_json
from siprec.recorder.disk_thread import MAX_BACKLOG
from siprec.recorder.media_stream import ReceivedStream
from siprec.recorder.ntp import NtpClock
from siprec.recorder.pipeline import Batch, Pipeline
from siprec.recorder.recording_disk import RecordingDisk
from siprec.recorder.recording_json import Snapshot
from siprec.recorder.recording_result import RecordingResult
from siprec.recorder.rs_context import RsContext

log = logging.getLogger(__name__)

PATIENCE = 2.0
"""Seconds that a disk may refuse before the recording client is told to take another SRS."""
_AGREE = 60.0
"""Seconds that an end may differ from the beginning and what was measured since."""
TOO_SLOW = 30.0
"""Seconds that data may wait for the disk before the same."""
_JSON_INTERVAL = 5.0
_ORDERLY = frozenset({"BYE", "the communication session ended"})
"""How a recording ends that is complete: the recording client said so."""
_MAX_DOCUMENTS = 10_000
_MAX_PROBLEMS = 100


class Outcome:
    """What becomes of a recording, as the disk thread finds out: `progress` is ``recording``, then ``complete``,
    ``failed`` or ``interrupted``."""

    __slots__ = ("progress",)

    def __init__(self) -> None:
        self.progress = "recording"


class Recording:
    """The recording of `session` (None: of nobody named) in `rs`, which began at `started` (Unix seconds)."""

    def __init__(self, rs: RsContext, session: Id | None, directory: Path, started: float) -> None:
        resources = rs.resources
        self.rs = rs
        self.session = session
        self.directory = directory
        self.started = started
        self.ended: float | None = None
        self.end_reason: str | None = None
        self.outcome = Outcome()
        self.documents: list[dict[str, Any]] = []
        self.problems: list[str] = []
        """What could not be read of the metadata, and the like; the audio is not concerned."""
        self.nameable = True
        """Whether it takes the name of a session that the metadata tell later."""
        self.incomplete = ""
        """What was lost by a fault of ours."""
        self.lasting = False
        """Its session was over when it began: it ends with its streams."""
        self.lines: list[ReceivedStream] = []
        """Every stream there ever was, by number."""
        self.over_since: float | None = None
        """Monotonic time since which nothing more is to come, while the RS goes on."""
        self.patience = 0.0
        """Seconds from then on after which it ends."""
        self.pipeline = Pipeline(
            resources.settings.audio_format,
            wall_offset=rs.wall_offset,
            mix_rate=resources.settings.mix_rate,
        )
        self.pipeline.directory = directory
        self.disk = RecordingDisk(self.pipeline, directory, resources.clock.now)
        self.trouble = ""
        """Why the recording cannot go on here; empty: it can."""
        self._clock = resources.clock
        self._writer = resources.writer
        self._begun = resources.clock.now()
        self._ntp_clocks: dict[str, NtpClock] = {}
        self._configured: dict[int, object] = {}
        self._submitted = 0
        self._written = 0
        self._json_due = 0.0
        self._state: MetadataState | None = None
        self.result: Future[RecordingResult] | None = None

    @property
    def progress(self) -> str:
        """``recording``, then ``complete``, ``failed`` or ``interrupted``."""
        return self.outcome.progress

    @property
    def state(self) -> MetadataState:
        """The metadata that concern this recording; after its end as they were then."""
        if self._state is not None:
            return self._state
        return self.rs.state if self.rs.begun == 1 else part(self.rs.state, self.session)

    @property
    def live(self) -> list[ReceivedStream]:
        """The streams that go on."""
        return [line for line in self.lines if not line.closed]

    # -- streams -------------------------------------------------------------------------------------------------------

    def add(self, line: ReceivedStream) -> None:
        """Another stream; :meth:`configure` follows when all are there."""
        line.number = len(self.lines) + 1
        line.ntp_clocks = self._ntp_clocks
        self.lines.append(line)

    def configure(self) -> None:
        """Tell the disk thread what the streams are, as far as that changed."""
        for line in self.lines:
            number, table, receiving = line.number, line.meanings, line.receiving
            gains = self._gains(line)
            wanted = (table, receiving, gains)
            if self._configured.get(number) != wanted:
                self._configured[number] = wanted
                self._submit_configuration(number, table, receiving, gains)

    def _submit_configuration(
        self, number: int, table: Mapping[int, Codec], active: bool, gains: tuple[float, float]
    ) -> None:
        self._writer.submit(lambda: self.pipeline.configure(number, table, active, gains))

    def _gains(self, line: ReceivedStream) -> tuple[float, float]:
        """Place in the stereo mix: the first two audio streams left and right, a replacement where its predecessor was,
        further ones in the middle, a lone one on both sides."""
        audio = [other for other in self.lines if other.kind == "audio"]
        if line not in audio:
            return (0.0, 0.0)
        if line.side is None:
            taken = [other.side for other in audio if not other.closed and other is not line]
            line.side = next((side for side in ("left", "right") if side not in taken), "middle")
        if line.side == "middle":
            return (0.7, 0.7)
        if len(audio) == 1:
            return (1.0, 1.0)
        return (1.0, 0.0) if line.side == "left" else (0.0, 1.0)

    def leave(self, line: ReceivedStream) -> None:
        """`line` is no longer part of this: what it received so far is."""
        self.hand_over(float("inf"))
        line.receiver.counters.stranger += line.latch.undecided
        line.closed = True
        line.receiving = False
        self.configure()

    # -- work ----------------------------------------------------------------------------------------------------------

    def hand_over(self, before: float) -> None:
        """Packets that arrived before `before` (monotonic) go to the disk thread."""
        now = self._clock.now()
        full = self._submitted - self._written >= MAX_BACKLOG
        parts = []
        for line in self.lines:
            part = line.take(before) if not line.closed else None
            if part is not None:
                if full:
                    line.dropped_disk += sum(len(s.items) for s in part.sources) + len(part.raw)
                    self.incomplete = "packets lost: the disk was too slow"
                else:
                    parts.append(part)
        if full or (not parts and self.pipeline.mix is None and self.disk.refused_since is None):
            return
        self._submitted += 1
        batch = Batch(now, min(before, now), parts)
        self._writer.submit(lambda: self._write(batch))

    def _write(self, batch: Batch) -> None:
        try:
            self.pipeline.write(batch)
        except Exception as error:
            # Not the disk: a fault of ours, and what it costs is told.
            log.exception("Call-ID %s: a batch of packets is lost", self.rs.call_id)
            self.incomplete = f"packets lost by an internal error: {type(error).__name__}"
        finally:
            self._written += 1
            self.disk.check()

    def document(self, data: bytes, entry: dict[str, Any], errors: Sequence[str] = ()) -> None:
        """Keep a metadata document: its octets as a file, if that is wanted, and what there is to say about it in the
        JSON. `errors` is what could not be read of it."""
        if len(self.documents) >= _MAX_DOCUMENTS:
            return
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems += [f"metadata document {len(self.documents) + 1}: {error}" for error in errors]
        if "documents" not in self.rs.resources.settings.keep:
            self.documents.append({"file": None, **entry})
            return
        name = f"metadata-{len(self.documents) + 1:04}.xml"
        self.documents.append({"file": name, **entry})
        path = self.directory / name
        self._writer.submit(lambda: self._write_document(path, data))

    def _write_document(self, path: Path, data: bytes) -> None:
        try:
            recording_json.write_private(path, data)
        except OSError as error:
            log.error("Call-ID %s: %s cannot be written: %s", self.rs.call_id, path, error)
            self.problems.append(f"{path.name} is missing: {error.strerror}")

    def tick(self, before: float) -> None:
        """Twice a second."""
        self.hand_over(before)
        since = self.disk.refused_since
        if not self.trouble and since is not None and self._clock.now() - since >= PATIENCE:
            self.trouble = self.disk.reason
        if not self.trouble and self._writer.delay > TOO_SLOW:
            self.trouble = "disk: too slow"
        if self._clock.now() >= self._json_due or self.disk.json_failed:
            self.save()

    def save(self) -> None:
        """Write the JSON, built now, in the disk thread."""
        self._json_due = self._clock.now() + _JSON_INTERVAL
        if self._submitted - self._written < MAX_BACKLOG:
            document = recording_json.build(self._snapshot())
            self._writer.submit(lambda: self._write_json(document))

    def _snapshot(self) -> Snapshot:
        rs, disk = self.rs, self.disk
        errors = [*self.pipeline.errors, *disk.refusals, *self.problems]
        if disk.lost:
            errors.append(f"{disk.lost} octets are not on the disk")
        errors += [each for each in (self.incomplete, self.trouble) if each]
        return Snapshot(
            name=self.directory.name,
            progress=self.progress,
            started=self.started,
            ended=self.ended,
            end_reason=self.end_reason,
            call_id=rs.call_id,
            from_uri=rs.from_uri,
            src_address=rs.src_address,
            headers=rs.kept,
            pipeline=self.pipeline,
            lines=self.lines,
            state=self.state,
            documents=self.documents,
            errors=errors,
            keep=rs.resources.settings.keep,
        )

    def _write_json(self, document: dict[str, Any]) -> None:
        self.disk.write_json(document)
        self.disk.check()

    def close(self, reason: str, wall: float) -> Future[RecordingResult]:
        """End it at `wall` (Unix seconds); done when all files are finished and the JSON says ``complete``.

        Its lines have left before, and its metadata are now its own.
        """
        if self.result is None:
            until = self.over_since if self.over_since is not None else self._clock.now()
            # What the clocks of both sides say may jump; how long it lasted is known.
            lasted = self.started + max(until - self._begun, 0.0)
            self.ended = wall if wall >= self.started and abs(wall - lasted) <= _AGREE else lasted
            self.end_reason = reason
            for line in self.lines:
                for pause in line.pauses:
                    pause.end = pause.end or max(pause.start, self.rs.wall())
            alone = self.rs.closing and self.rs.begun == 1
            self._state = self.rs.state if alone else extract(self.rs.state, self.session)
            self.result = self._writer.call(self._finish)
        return self.result

    def _finish(self) -> RecordingResult:
        self.pipeline.close()
        self.disk.check()
        document = self._conclude()
        if self.progress != "complete":
            self.rs.resources.counters[f"recordings_{self.progress}"] += 1
        written = self.disk.write_json(document, durable=True, last=True)
        if not written or self.disk.unfinished:
            # Tried again for as long as the process lives; after that, recovery has what there is.
            self._writer.retry(self._finish_later)
        return RecordingResult(self.directory, document)

    def _conclude(self) -> dict[str, Any]:
        failed = self.trouble or self.incomplete or self.pipeline.errors or self.disk.unfinished or self.disk.lost
        if failed:
            self.outcome.progress = "failed"
        elif self.end_reason in _ORDERLY:
            self.outcome.progress = "complete"
        else:
            self.outcome.progress = "interrupted"
        return recording_json.build(self._snapshot())

    def _finish_later(self) -> bool:
        self.disk.check()
        if self.disk.unfinished:
            return False
        self.disk.refused_since = None
        return self.disk.write_json(self._conclude(), durable=True, last=True)
