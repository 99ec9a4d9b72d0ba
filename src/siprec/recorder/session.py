"""One recording session, without SIP: offers and metadata in, answers and files out.

The SIP side feeds it what arrives in one dialog. Everything here runs in the event loop's thread; decoding and writing
run in the disk thread, behind :class:`siprec.recorder.pipeline.Pipeline`.
"""

from __future__ import annotations

import ipaddress
import logging
import secrets
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from siprec import __version__, sdp
from siprec.recorder import summary
from siprec.recorder.errors import MetadataError, OfferError, RecorderError, RecorderFull
from siprec.recorder.files import Format
from siprec.recorder.library import RecorderLibrary, RecordingResult
from siprec.recorder.line import MediaLine, NtpClock, codec_table
from siprec.recorder.metadata import Document, SnapshotRequest, parse, snapshot_request
from siprec.recorder.metadata_state import MetadataState
from siprec.recorder.pipeline import Batch, Pipeline
from siprec.recorder.ports import Poller, PortPool
from siprec.recorder.writer import MAX_BACKLOG, DiskWriter
from siprec.sip.clock import Clock, Timer

log = logging.getLogger(__name__)

HOLD = 1.0
"""Seconds packets wait for their predecessors before they are written."""
TICK = 0.5
_JSON_INTERVAL = 5.0
_SNAPSHOT_INTERVAL = 10.0
_SNAPSHOT_LIMIT = 5
_PROTOCOLS = {"RTP/AVP", "RTP/AVPF"}


@dataclass(frozen=True, slots=True)
class RecorderSettings:
    """How recordings are made.

    `advertised` is the address in answers where it differs from the one bound; `mix_rate` in Hz (None: the highest of
    the streams); `kinds` the media that are accepted (all but audio is kept as raw RTP); `reject_bad_metadata` refuses
    requests whose metadata cannot be read, instead of recording without it.
    """

    audio_format: Format = "wav"
    advertised: str = ""
    max_sessions: int = 1000
    max_lines: int = 16
    mix_rate: int | None = None
    kinds: frozenset[str] = frozenset({"audio", "video", "text"})
    reject_bad_metadata: bool = False
    strict_metadata: bool = False


@dataclass(eq=False)
class Recorder:
    """What all recording sessions of a process share. `poller` is the event loop (``add_reader``)."""

    library: RecorderLibrary
    ports: PortPool
    clock: Clock
    poller: Poller
    settings: RecorderSettings = field(default_factory=RecorderSettings)
    writer: DiskWriter = field(default_factory=DiskWriter)
    sessions: set[RecordingSession] = field(default_factory=set)

    def __post_init__(self) -> None:
        if not self.settings.advertised and ipaddress.ip_address(self.ports.address).is_unspecified:
            raise ValueError(f"bound to {self.ports.address}: the address for answers (advertised) has to be given")

    def session(
        self, *, call_id: str, from_uri: str, src_address: str = "", wall: float | None = None
    ) -> RecordingSession:
        """Begin a recording session; raises :class:`RecorderFull`.

        `src_address` is where the request came from (an IP address, its media are trusted); `wall` its time of arrival
        or its Date (SRS-22), Unix seconds. The files are made with the first offer.
        """
        if len(self.sessions) >= self.settings.max_sessions:
            raise RecorderFull("too many recording sessions")
        started = self.clock.wall() if wall is None else wall
        session = RecordingSession(self, call_id, from_uri, src_address, started)
        self.sessions.add(session)
        return session

    def close(self) -> None:
        """End all sessions, finish all files; blocks until they are on the disk."""
        for session in list(self.sessions):
            session.close("recorder stopped")
        self.writer.close()


class RecordingSession:
    """One RS. Made by :meth:`Recorder.session`."""

    version = __version__

    def __init__(self, recorder: Recorder, call_id: str, from_uri: str, src_address: str, started: float) -> None:
        self.call_id, self.from_uri, self.src_address = call_id, from_uri, src_address
        self.started = started
        self.ended: float | None = None
        self.end_reason: str | None = None
        self.progress = "recording"
        self.directory = Path()
        """Where the files go; made with the first accepted offer."""
        self.state = MetadataState()
        self.documents: list[dict[str, Any]] = []
        self.all_lines: list[MediaLine] = []
        """Every stream there ever was, by number."""
        self._recorder = recorder
        self._clock = recorder.clock
        self.pipeline = Pipeline(
            recorder.settings.audio_format,
            wall_offset=self._clock.wall() - self._clock.now(),
            mix_rate=recorder.settings.mix_rate,
        )
        self._lines: dict[int, MediaLine] = {}
        self._labels: dict[str, int] = {}
        self._origin = sdp.Origin(session_id=str(secrets.randbits(62)), version="0")
        self._answer: bytes = b""
        self._ntp_clocks: dict[str, NtpClock] = {}
        self._began = self._clock.now()
        self._submitted = 0
        self._written = 0
        self._audio_lines = 0
        self._json_due = 0.0
        self._timer: Timer | None = None
        self._snapshot_asked: float | None = None
        self._snapshots_asked = 0
        self._result: Future[RecordingResult] | None = None
        self.on_closed: Callable[[RecordingSession], None] | None = None

    # --------------------------------------------------------------------------------------------------------- SIP side

    def offer(
        self,
        offer: bytes,
        metadata: bytes | None = None,
        *,
        received_wall: float | None = None,
        charset: str | None = None,
    ) -> bytes:
        """Take an SDP offer (first or later), with the metadata of the same message; returns the SDP answer.

        `received_wall` is the arrival of the message in Unix seconds. Raises :class:`OfferError`,
        :class:`MetadataError` or :class:`RecorderFull`, each with the SIP ``status`` to answer; then nothing has
        changed.
        """
        self._check_open()
        try:
            return self._offer(offer, metadata, received_wall, charset)
        except RecorderError:
            if self._timer is None:
                self._recorder.sessions.discard(self)  # it never began
            raise

    def _offer(self, offer: bytes, metadata: bytes | None, received_wall: float | None, charset: str | None) -> bytes:
        wall = self._clock.wall() if received_wall is None else received_wall
        try:
            description = sdp.parse(offer)
        except sdp.SdpError as error:
            raise OfferError(error.reason, 400) from error
        document, problem = self._read(metadata, charset)
        tables = [self._acceptable(index, media) for index, media in enumerate(description.media)]
        first = self._timer is None
        if first and not any(tables) and any(m.port for m in description.media):
            raise OfferError("nothing in the offer can be recorded")
        fresh = self._acquire(description, tables)
        if first:
            self._begin(fresh)
        self._audio_lines = sum(bool(t) and m.kind == "audio" for t, m in zip(tables, description.media, strict=True))
        answers = [
            self._answer_line(index, media, tables[index], fresh, wall) for index, media in enumerate(description.media)
        ]
        for index in [i for i in self._lines if i >= len(description.media)]:
            self._drop(index, wall)  # m-lines must not vanish (SDP-07), but if they do, they are gone
        self._labels = {m.label: i for i, m in enumerate(description.media) if m.label}
        self._apply(metadata, document, problem, wall)
        if first:
            self._tick()
        answer = self._build(answers)
        self._save()
        return answer

    def _begin(self, fresh: dict[int, MediaLine]) -> None:
        try:
            self.directory = self.pipeline.directory = self._recorder.library.new_directory(self.started)
        except RecorderFull:
            for line in fresh.values():
                self._recorder.ports.release(line.pair)
            raise

    def metadata(self, document: bytes, *, received_wall: float | None = None, charset: str | None = None) -> None:
        """Take a metadata document that came without SDP (UPDATE, BYE); raises :class:`MetadataError`."""
        self._check_open()
        wall = self._clock.wall() if received_wall is None else received_wall
        parsed, problem = self._read(document, charset)
        self._apply(document, parsed, problem, wall)
        self._save()

    @property
    def silent_for(self) -> float:
        """Seconds since any stream last received RTP (since the start if none did): when it is long and nothing is
        paused, the SRC has probably died without a BYE."""
        heard = [line.last_media for line in self.all_lines if line.last_media is not None]
        return self._clock.now() - max(heard, default=self._began)

    @property
    def wants_snapshot(self) -> bool:
        """True if an UPDATE with :meth:`snapshot_request` should be sent now: at most one is outstanding, they are
        10 s apart, and there is a limit to how often an SRC is asked."""
        if not self.state.wants_snapshot or self._snapshots_asked >= _SNAPSHOT_LIMIT or self._result is not None:
            return False
        return self._snapshot_asked is None or self._clock.now() - self._snapshot_asked >= _SNAPSHOT_INTERVAL

    def snapshot_request(self) -> bytes:
        """The body of that UPDATE (META-11, META-12); counts as asked."""
        self._snapshot_asked = self._clock.now()
        self._snapshots_asked += 1
        return snapshot_request("Partial update refers to what was never described")

    def close(self, reason: str = "BYE", *, wall: float | None = None) -> Future[RecordingResult]:
        """End the session: sockets are closed and ports free when this returns, the future is done when all files are
        finished and the JSON says ``complete``. Closing again returns the same future."""
        if self._result is not None:
            return self._result
        self.ended = self._clock.wall() if wall is None else wall
        self.end_reason = reason
        if self._timer is not None:
            self._timer.cancel()
        now = self._clock.now()
        for line in self._lines.values():
            line.read_rtp()  # what lies in the socket came before the BYE did
            line.read_rtcp()
        self._hand_over(float("inf"))
        for index in list(self._lines):
            self._drop(index, self.ended)
        self._recorder.sessions.discard(self)
        for line in self.all_lines:
            for pause in line.pauses:
                pause.end = pause.end or self.ended
        if self._timer is None:
            self._result = Future()  # it never began: there is nothing to finish
            self._result.set_result(RecordingResult(self.directory, {"state": "failed"}))
            return self._result
        self._result = self._recorder.writer.call(lambda: self._finish(now))
        if self.on_closed is not None:
            self.on_closed(self)
        return self._result

    def _check_open(self) -> None:
        if self._result is not None:
            raise RecorderError("the recording session has ended", 481)

    # ---------------------------------------------------------------------------------------------------------- offers

    def _acceptable(self, index: int, media: sdp.MediaDescription) -> list[str]:
        """Formats of an m-line that are taken; none: it is rejected with port 0."""
        settings = self._recorder.settings
        if media.port == 0 or media.proto not in _PROTOCOLS or media.kind not in settings.kinds:
            return []
        if index >= settings.max_lines:
            return []
        table = codec_table(media)
        known = [number for number, codec in table.items() if codec.kind != "unknown"]
        decodable = any(table[number].kind == "audio" for number in known)
        # With one format that can be heard the others are declined; without, all are kept as raw RTP.
        return [str(number) for number in (known if decodable else table)]

    def _acquire(self, description: sdp.SessionDescription, tables: list[list[str]]) -> dict[int, MediaLine]:
        """Open ports for all new m-lines, or for none."""
        fresh: dict[int, MediaLine] = {}
        ports = self._recorder.ports
        try:
            for index, media in enumerate(description.media):
                old = self._lines.get(index)
                if tables[index] and (old is None or old.kind != media.kind):
                    number = len(self.all_lines) + len(fresh) + 1
                    fresh[index] = MediaLine(number, index, media.kind, ports.acquire(), ports.address, self._clock)
        except RecorderFull:
            for line in fresh.values():
                ports.release(line.pair)
            raise
        for line in fresh.values():
            line.ntp_clocks = self._ntp_clocks
        return fresh

    def _answer_line(
        self, index: int, media: sdp.MediaDescription, formats: list[str], fresh: dict[int, MediaLine], wall: float
    ) -> sdp.MediaDescription:
        if not formats or index in fresh:
            self._drop(index, wall)
        if not formats:
            return sdp.answer_media(media, port=0)
        line = fresh.get(index) or self._lines[index]
        table = {number: codec for number, codec in codec_table(media).items() if str(number) in formats}
        if line.table and dict(line.table) != table:
            self._hand_over(float("inf"))  # what was received so far means what it meant
        line.table = table
        line.codec_names = [codec.name for codec in table.values()]
        line.label = media.label or line.label
        line.mux = media.rtcp_mux
        connection = media.connection
        trusted = frozenset(a for a in (connection.address if connection else "", self.src_address) if a)
        if trusted != line.trusted:
            line.trusted, line.source = trusted, line.source if line.source and line.source[0] in trusted else None
        target = media.rtcp
        line.rtcp_target = target if target and self._numeric(target[0]) else None
        answer = sdp.answer_media(media, port=line.pair.port, formats=formats, wanted="recvonly")
        if answer.direction == "recvonly":
            line.resume(wall)
        else:
            line.pause(wall)
        if index in fresh:
            self._lines[index] = line
            self.all_lines.append(line)
            line.open(self._recorder.poller)
        self._configure(line)
        return answer

    def _numeric(self, address: str) -> bool:
        return all(c in "0123456789abcdefABCDEF:." for c in address) and (":" in address) == (
            ":" in self._recorder.ports.address
        )

    def _configure(self, line: MediaLine) -> None:
        number, table, receiving = line.number, dict(line.table), line.receiving
        gains = self._gains(line)
        self._recorder.writer.submit(lambda: self.pipeline.configure(number, table, receiving, gains))

    def _gains(self, line: MediaLine) -> tuple[float, float]:
        """Place in the stereo mix: the first two audio streams left and right, a replacement where its predecessor was,
        further ones in the middle, a lone one on both sides."""
        audio = [other for other in self.all_lines if other.kind == "audio"]
        if line not in audio:
            return (0.0, 0.0)
        if line.side is None:
            taken = [other.side for other in audio if not other.closed and other is not line]
            line.side = next((side for side in ("left", "right") if side not in taken), "middle")
        if line.side == "middle":
            return (0.7, 0.7)
        if self._audio_lines == 1 and len(audio) == 1:
            return (1.0, 1.0)
        return (1.0, 0.0) if line.side == "left" else (0.0, 1.0)

    def _drop(self, index: int, wall: float) -> None:
        line = self._lines.pop(index, None)
        if line is None:
            return
        if self._result is None and self.ended is None:
            self._hand_over(float("inf"))
        line.closed = True
        if self.ended is None:
            line.pause(wall)
        line.receiving = False
        self._recorder.poller.remove_reader(line.pair.rtp.fileno())
        self._recorder.poller.remove_reader(line.pair.rtcp.fileno())
        line.report(self._clock.now(), last=True)
        self._recorder.ports.release(line.pair)
        self._configure(line)

    def _build(self, answers: list[sdp.MediaDescription]) -> bytes:
        address = self._recorder.settings.advertised or self._recorder.ports.address
        self._origin = replace(self._origin, address=address)
        same = sdp.build_session(self._origin, answers, name="siprec").to_bytes()
        if same != self._answer:
            # SDP-08: version + 1 with each change, and only then.
            self._origin = self._origin.bump()
            same = sdp.build_session(self._origin, answers, name="siprec").to_bytes()
        self._answer = same
        return same

    # -------------------------------------------------------------------------------------------------------- metadata

    def _read(self, data: bytes | None, charset: str | None) -> tuple[Document | None, str | None]:
        if data is None:
            return None, None
        settings = self._recorder.settings
        try:
            document = parse(data, charset=charset, strict=settings.strict_metadata)
        except MetadataError as error:
            if settings.reject_bad_metadata:
                raise
            log.warning("Call-ID %s: recording without metadata: %s", self.call_id, error.reason)
            return None, error.reason
        if isinstance(document, SnapshotRequest):
            # Only an SRS asks (META-11).
            return None, "a snapshot request is not for a recorder"
        return document, None

    def _apply(self, data: bytes | None, document: Document | None, problem: str | None, wall: float) -> None:
        if data is None:
            return
        name = f"metadata-{len(self.documents) + 1:04}.xml"
        entry: dict[str, Any] = {"file": name, "received": summary.stamp(wall)}
        if document is not None:
            if document.mode == "complete":
                self._snapshot_asked = None
            findings = [*document.findings, *self.state.apply(document, wall=wall, labels=self._labels)]
            entry["mode"] = document.mode
            self._bind()
        else:
            findings = [problem or "unreadable"]
        entry["findings"] = findings
        if len(self.documents) < 10_000:
            self.documents.append(entry)
            path = self.directory / name
            self._recorder.writer.submit(lambda: summary.write_private(path, data))

    def _bind(self) -> None:
        """Note which stream ids mean which of our streams, now that labels and SDP are at hand."""
        for stream in self.state.streams.values():
            line = self._lines.get(stream.line) if stream.line is not None and stream.current else None
            if line is not None and (line.label == stream.label or not line.label):
                line.stream_ids.pop(stream.id, None)
                line.stream_ids[stream.id] = None

    # ------------------------------------------------------------------------------------------------------------ work

    def _tick(self) -> None:
        self._timer = self._clock.call_later(TICK, self._tick)
        now = self._clock.now()
        self._hand_over(now - HOLD)
        for line in self._lines.values():
            if now >= line.reporter.due:
                line.report(now)
        if now >= self._json_due:
            self._save()

    def _hand_over(self, before: float) -> None:
        now = self._clock.now()
        parts = []
        for line in self._lines.values():
            part = line.take(before)
            if part is not None:
                if self._backlog >= MAX_BACKLOG:
                    line.dropped_disk += sum(len(s.items) for s in part.sources) + len(part.raw)
                else:
                    parts.append(part)
        if self._backlog >= MAX_BACKLOG or (not parts and self.pipeline.mix is None):
            return
        self._submitted += 1
        batch = Batch(now, min(before, now), parts)
        self._recorder.writer.submit(lambda: self._write(batch))

    @property
    def _backlog(self) -> int:
        return self._submitted - self._written

    def _write(self, batch: Batch) -> None:
        try:
            self.pipeline.write(batch)
        finally:
            self._written += 1

    def _save(self) -> None:
        """Write the JSON, built now, in the disk thread."""
        self._json_due = self._clock.now() + _JSON_INTERVAL
        if self._backlog < MAX_BACKLOG:
            document = summary.build(self)
            path = self.directory / summary.FILE
            self._recorder.writer.submit(lambda: self._write_json(path, document))

    def _write_json(self, path: Path, document: dict[str, Any], *, durable: bool = False) -> None:
        try:
            summary.write_json(path, document, durable=durable)
        except OSError as error:
            log.error("Call-ID %s: %s cannot be written: %s", self.call_id, path, error)

    def _finish(self, now: float) -> RecordingResult:
        self.pipeline.close(now if self.all_lines else None)
        self.progress = "failed" if self.pipeline.errors else "complete"
        document = summary.build(self)
        self._write_json(self.directory / summary.FILE, document, durable=True)
        return RecordingResult(self.directory, document)
