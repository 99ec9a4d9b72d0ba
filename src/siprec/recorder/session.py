"""One recording session, without SIP: offers and metadata in, answers out.

The SIP side feeds it what arrives in one dialog; what its m-lines receive goes to the recordings of the communication
sessions that the metadata name (:mod:`siprec.recorder.recording`). Everything here runs in the event loop's thread.
"""

from __future__ import annotations

import ipaddress
import logging
import secrets
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from siprec import __version__, sdp
from siprec.metadata.document import Document, SnapshotRequest
from siprec.metadata.errors import MetadataError
from siprec.metadata.extract import keys, trim
from siprec.metadata.merge import MetadataState
from siprec.metadata.read import parse
from siprec.metadata.values import Id
from siprec.metadata.write import snapshot_request
from siprec.recorder import headers, offering, summary
from siprec.recorder.assignment import match_by_order, session_of
from siprec.recorder.errors import MetadataRefused, OfferError, RecorderError, RecorderFull
from siprec.recorder.files import Format
from siprec.recorder.formats import accepted_formats, codec_table
from siprec.recorder.latch import Latch, Learn
from siprec.recorder.library import RecorderLibrary, RecordingResult
from siprec.recorder.line import MediaLine
from siprec.recorder.ports import Poller, PortPool
from siprec.recorder.recording import Outcome, Recording
from siprec.recorder.secure import SrtpPolicy, keys_for
from siprec.recorder.space import Space
from siprec.recorder.tally import Tally
from siprec.recorder.writer import DiskWriter
from siprec.sip.clock import Clock, Timer

log = logging.getLogger(__name__)

HOLD = 1.0
"""Seconds packets wait for their predecessors before they are written."""
TICK = 0.5
LINGER = 2.0
"""Seconds that a communication session which the metadata ended is still listened to: packets may be slower."""
VACANT = 30.0
"""Seconds that a recording may be without streams, while the RS goes on with others."""
_SNAPSHOT_INTERVAL = 10.0
_SNAPSHOT_LIMIT = 5


@dataclass(frozen=True, slots=True)
class RecorderSettings:
    """How recordings are made.

    `advertised` is the address in answers where it differs from the one bound; `mix_rate` in Hz (None: the highest of
    the streams); `max_lines` the streams a recording session may have at a time; `kinds` the media that are accepted
    (all but audio is kept as raw RTP); `reject_bad_metadata` refuses requests whose metadata cannot be read, instead of
    recording without it; `srtp` says which transports are taken, `keep` what of the metadata is written down (RFC 7865
    10); `min_free` octets have to be free on the disk for a session to be accepted; `offerless_streams` audio streams
    are offered to a client that offers none; `max_sessions_per_client` sessions a client may have at a time (0: any
    number); `headers` of the INVITE are kept with the recording; `learn` and
    `relearn` (seconds) are the rules of :class:`~siprec.recorder.latch.Latch`.
    """

    audio_format: Format = "wav"
    advertised: str = ""
    max_sessions: int = 1000
    max_lines: int = 256
    mix_rate: int | None = None
    kinds: frozenset[str] = frozenset({"audio", "video", "text"})
    reject_bad_metadata: bool = False
    strict_metadata: bool = False
    srtp: SrtpPolicy = "allow"
    min_free: int = 0
    offerless_streams: int = 2
    max_sessions_per_client: int = 0
    headers: tuple[str, ...] = headers.DEFAULT
    keep: frozenset[summary.Kept] = summary.EVERYTHING
    learn: Learn = "any"
    relearn: float = 1.0


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
    counters: Counter[str] = field(default_factory=Counter)
    """Since the start: ``sessions`` accepted and ``refused``; of recordings that ended: ``recordings``,
    ``recordings_failed`` and ``recordings_interrupted`` (counted in the disk thread), ``packets``,
    ``lost``, ``dropped_by_disk``, ``not_decodable``, ``source_changes`` and ``second_sources``."""

    def __post_init__(self) -> None:
        self.space = Space(self.library.root, self.writer, self.settings.min_free)
        if not self.settings.advertised and ipaddress.ip_address(self.ports.address).is_unspecified:
            raise ValueError(f"bound to {self.ports.address}: the address for answers (advertised) has to be given")

    def session(
        self,
        *,
        call_id: str,
        from_uri: str,
        src_address: str = "",
        wall: float | None = None,
        kept: headers.Kept | None = None,
    ) -> RecordingSession:
        """Begin a recording session; raises :class:`RecorderFull`.

        `src_address` is where the request came from (an IP address, its media are trusted); `wall` its time of arrival
        or its Date (RFC 7865 6.1.1), Unix seconds; `kept` headers of the request that are kept with the recordings. The
        files are made with the first offer.
        """
        if len(self.sessions) >= self.settings.max_sessions:
            raise RecorderFull("too many recording sessions")
        if problem := self.space.problem():
            raise RecorderFull(problem)
        most = self.settings.max_sessions_per_client
        if most and sum(each.src_address == src_address for each in self.sessions) >= most:
            raise RecorderFull(f"too many recording sessions of {src_address}")
        started = self.clock.wall() if wall is None else wall
        session = RecordingSession(self, call_id, from_uri, src_address, started)
        session.headers = kept or []
        self.sessions.add(session)
        return session

    def close(self) -> None:
        """End all sessions, finish all files; blocks until they are on the disk."""
        for session in list(self.sessions):
            session.close("the recorder stopped")
        self.ports.close()
        self.writer.close()


def _ignored(reason: str) -> None:
    """Nobody is told of trouble any more, or yet."""


class RecordingSession:
    """One RS. Made by :meth:`Recorder.session`."""

    version = __version__

    def __init__(self, recorder: Recorder, call_id: str, from_uri: str, src_address: str, started: float) -> None:
        self.recorder = recorder
        self.call_id, self.from_uri, self.src_address = call_id, from_uri, src_address
        self.started = started
        self.state = MetadataState()
        self.recordings: list[Recording] = []
        """Those that go on, in the order they began."""
        self.begun = 0
        """How many recordings there have been."""
        self.closing = False
        self.headers: headers.Kept = []
        """Headers of the INVITE that are kept."""
        self.on_trouble: Callable[[str], None] = _ignored
        """Called once, with the reason, when what arrives can no longer be kept."""
        self._trouble = ""
        self._told = False
        self._clock = recorder.clock
        self.wall_offset = recorder.clock.wall() - recorder.clock.now()
        """Unix seconds are monotonic seconds plus this, for as long as the session lasts: the system's clock may be set
        meanwhile."""
        self._lines: dict[int, MediaLine] = {}
        self._owners: dict[int, Recording] = {}
        self._labels: dict[str, int] = {}
        self._origin = sdp.Origin(session_id=str(secrets.randbits(62)), version="0")
        self._answer: bytes = b""
        self._heard = self._clock.now()
        self._timer: Timer | None = None
        self._sessions_seen = False
        self._recorded: set[Id] = set()
        """Communication sessions that have, or had, a recording."""
        self._left: dict[int, float] = {}
        """Since when (monotonic) lines that belonged to a recording belong to none."""
        self._snapshot_asked: float | None = None
        self._snapshots_asked = 0
        self._key_frames: set[int] = set()
        self.tally = Tally()
        self._failed = False
        self._ended: list[Outcome] = []
        """Of the recordings that are over, and not all on the disk."""
        self._result: Future[RecordingResult] | None = None
        self._last: Future[RecordingResult] | None = None

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
        :class:`MetadataRefused` or :class:`RecorderFull`, each with the SIP ``status`` to answer; then nothing has
        changed.
        """
        self._check_open()
        try:
            return self._offer(offer, metadata, received_wall, charset)
        except RecorderError:
            if self._timer is None:
                self.recorder.sessions.discard(self)  # it never began
            raise

    def _offer(self, offer: bytes, metadata: bytes | None, received_wall: float | None, charset: str | None) -> bytes:
        wall = self.wall() if received_wall is None else received_wall
        try:
            description = sdp.parse(offer)
        except sdp.SdpError as error:
            raise OfferError(error.reason, 400) from error
        document, problem = self._read(metadata, charset)
        tables = self._acceptable(description)
        first = self._timer is None
        if first and not any(tables) and any(m.port for m in description.media):
            raise OfferError("nothing in the offer can be recorded")
        fresh = self._acquire(description, tables)
        try:
            places = self._places(document, bool(fresh))
        except RecorderFull:
            for line in fresh.values():
                self.recorder.ports.release(line.pair)
            raise
        answers = [
            self._answer_line(index, media, tables[index], fresh, wall) for index, media in enumerate(description.media)
        ]
        for index in [i for i in self._lines if i >= len(description.media)]:
            self._drop(index, wall)  # m-lines must not vanish (RFC 7866 7.1.1.1), but if they do, they are gone
        self._labels = {m.label: i for i, m in enumerate(description.media) if m.label}
        self._apply(metadata, document, problem, places, wall)
        if first:
            self._tick()
        answer = self._build(answers)
        self._save()
        return answer

    def make_offer(self) -> bytes:
        """An offer of ours, to a client that began without one: audio that we receive. The answer goes to
        :meth:`offer`.

        Raises :class:`OfferError` where SRTP is demanded, :class:`RecorderFull`.
        """
        self._check_open()
        if self.recorder.settings.srtp == "require":
            self.recorder.sessions.discard(self)
            raise OfferError("SRTP is required, and there is no offer")
        ports, settings = self.recorder.ports, self.recorder.settings
        media = sdp.parse(offering.description(settings.offerless_streams)).media
        try:
            for index, each in enumerate(media):
                latch = Latch(settings.learn, settings.relearn, self._clock.now())
                latch.signal(None, self.src_address, self._clock.now())
                line = self._lines[index] = MediaLine(
                    0, index, "audio", ports.acquire(), ports.address, self._clock, each.label or "", latch=latch
                )
                line.call_id = self.call_id
                table = codec_table(each)
                line.negotiated(table, table)
                line.codec_names = [codec.name for codec in table.values()]
                each.port = line.pair.port
        except RecorderFull:
            self.recorder.sessions.discard(self)
            for line in self._lines.values():
                ports.release(line.pair)
            self._lines.clear()
            raise
        for line in self._lines.values():
            line.open(self.recorder.poller)
        self._labels = {each.label: index for index, each in enumerate(media) if each.label}
        self._tick()
        return self._build(media)

    def metadata(self, document: bytes, *, received_wall: float | None = None, charset: str | None = None) -> None:
        """Take a metadata document that came without SDP (UPDATE, BYE); raises :class:`MetadataRefused`, and
        :class:`RecorderFull` when it begins a communication session for which there is no place."""
        self._check_open()
        wall = self.wall() if received_wall is None else received_wall
        parsed, problem = self._read(document, charset)
        self._apply(document, parsed, problem, self._places(parsed, False), wall)
        self._save()

    def wall(self) -> float:
        """Unix seconds, by the clock of this session."""
        return self._clock.now() + self.wall_offset

    @property
    def where(self) -> str:
        """Where the files go, for the log."""
        return ", ".join(str(recording.directory) for recording in self.recordings) or "nothing yet"

    @property
    def silent_for(self) -> float:
        """Seconds since any stream last received RTP (since the start if none did): when it is long and nothing is
        paused, the SRC has probably died without a BYE."""
        heard = [line.last_media for line in self._lines.values() if line.last_media is not None]
        self._heard = max([self._heard, *heard])
        return self._clock.now() - self._heard

    @property
    def wants_snapshot(self) -> bool:
        """True if an UPDATE with :meth:`snapshot_request` should be sent now: at most one is outstanding, they are
        10 s apart, and there is a limit to how often an SRC is asked."""
        if not self.state.wants_snapshot or self._snapshots_asked >= _SNAPSHOT_LIMIT or self._result is not None:
            return False
        return self._snapshot_asked is None or self._clock.now() - self._snapshot_asked >= _SNAPSHOT_INTERVAL

    def snapshot_request(self) -> bytes:
        """The body of that UPDATE (RFC 7866 9.2, RFC 7865 7); counts as asked."""
        self._snapshot_asked = self._clock.now()
        self._snapshots_asked += 1
        return snapshot_request("Partial update refers to what was never described")

    def ask_no_more(self) -> None:
        """The client refuses snapshot requests."""
        self._snapshots_asked = _SNAPSHOT_LIMIT

    def close(self, reason: str = "BYE", *, wall: float | None = None) -> Future[RecordingResult]:
        """End the session: sockets are closed and ports free when this returns; the future is done when all files of
        its last recording are finished and the JSON says ``complete``. Closing again returns the same future."""
        if self._result is not None:
            return self._result
        self.closing = True
        self.on_trouble = _ignored
        ended = self.wall() if wall is None else wall
        if self._timer is not None:
            self._timer.cancel()
        for line in self._lines.values():
            line.read_rtp()  # what lies in the socket came before the BYE did
            line.read_rtcp()
        for index in list(self._lines):
            self._drop(index, ended)
        self.recorder.sessions.discard(self)
        for recording in list(self.recordings):
            self._end(recording, reason, ended)
        self._result = self._last
        if self._result is None:
            self._result = Future()  # nothing was ever recorded
            self._result.set_result(RecordingResult(Path(), {"state": "failed"}))
        return self._result

    @property
    def progress(self) -> str:
        """What became of what was received: ``complete``, ``pending`` (not all is on the disk yet), ``failed``."""
        self._review()
        if self._failed or any(
            recording.trouble or recording.disk.refused_since is not None for recording in self.recordings
        ):
            return "failed"
        return "pending" if self.recordings or self._ended else "complete"

    def _review(self) -> None:
        """What has become of the recordings that are over."""
        # The sound is written then; the JSON that says so may follow.
        done = [outcome for outcome in self._ended if outcome.progress != "recording"]
        self._failed |= any(outcome.progress == "failed" for outcome in done)
        self._ended = [outcome for outcome in self._ended if outcome not in done]

    @property
    def lines(self) -> list[MediaLine]:
        """The streams of now, in the order of their m-lines."""
        return [line for _, line in sorted(self._lines.items())]

    def _check_open(self) -> None:
        if self._result is not None:
            raise RecorderError("the recording session has ended", 481)

    # ---------------------------------------------------------------------------------------------------------- offers

    def _acceptable(self, description: sdp.SessionDescription) -> list[list[str]]:
        """Formats of each m-line that are taken; none: it is rejected with port 0."""
        tables: list[list[str]] = []
        settings = self.recorder.settings
        left = settings.max_lines
        for media in description.media:
            formats = accepted_formats(media, settings.kinds, settings.srtp) if left > 0 else []
            left -= bool(formats)
            tables.append(formats)
        return tables

    def _acquire(self, description: sdp.SessionDescription, tables: list[list[str]]) -> dict[int, MediaLine]:
        """Open ports for all new m-lines, or for none."""
        fresh: dict[int, MediaLine] = {}
        ports, settings = self.recorder.ports, self.recorder.settings
        try:
            for index, media in enumerate(description.media):
                old = self._lines.get(index)
                if tables[index] and (old is None or old.kind != media.kind):
                    latch = Latch(settings.learn, settings.relearn, self._clock.now())
                    fresh[index] = MediaLine(
                        0, index, media.kind, ports.acquire(), ports.address, self._clock, latch=latch
                    )
                    fresh[index].call_id = self.call_id
        except RecorderFull:
            for line in fresh.values():
                ports.release(line.pair)
            raise
        return fresh

    def _answer_line(
        self, index: int, media: sdp.MediaDescription, formats: list[str], fresh: dict[int, MediaLine], wall: float
    ) -> sdp.MediaDescription:
        if not formats or index in fresh:
            self._drop(index, wall)
        if not formats:
            return sdp.answer_media(media, port=0)
        line = fresh.get(index) or self._lines[index]
        offered = codec_table(media)
        table = {number: codec for number, codec in offered.items() if str(number) in formats}
        if line.table and dict(line.table) != table and index in self._owners:
            self._owners[index].hand_over(float("inf"))  # what was received so far means what it meant
        line.negotiated(table, offered)
        line.codec_names = [codec.name for codec in table.values()]
        line.label = media.label or line.label
        line.mux = media.rtcp_mux
        line.keys = keys_for(media, line.keys)
        connection = media.connection
        known = connection is not None and self._numeric(connection.address) and connection.address.strip("0.:")
        where = (connection.address, media.port) if connection and known else None
        line.latch.signal(where, self.src_address, self._clock.now())
        target = media.rtcp
        line.rtcp_target = target if target and self._numeric(target[0]) else None
        answer = sdp.answer_media(media, port=line.pair.port, formats=formats, wanted="recvonly")
        if line.keys is not None:
            answer.set_attribute("crypto", line.keys.answer)
        line.fir = media.kind == "video" and media.proto.endswith("AVPF") and _offers_fir(media)
        if line.fir:
            answer.lines.append("a=rtcp-fb:* ccm fir")
        if answer.direction == "recvonly":
            line.resume(wall)
        else:
            line.pause(wall)
        if index in fresh:
            self._lines[index] = line
            line.open(self.recorder.poller)
        return answer

    @property
    def wants_key_frame(self) -> bool:
        """Whether video begins whose key frame cannot be asked for by RTCP; true once for each stream (RFC 7866
        8.1.7.1.1)."""
        fresh = [i for i, line in self._lines.items() if line.kind == "video" and line.receiving and not line.fir]
        wanted = not self._key_frames.issuperset(fresh)
        self._key_frames = set(fresh)
        return wanted

    def _numeric(self, address: str) -> bool:
        return all(c in "0123456789abcdefABCDEF:." for c in address) and (":" in address) == (
            ":" in self.recorder.ports.address
        )

    def _drop(self, index: int, wall: float) -> None:
        line = self._lines.pop(index, None)
        if line is None:
            return
        owner = self._owners.pop(index, None)
        self.tally.add(line, kept=owner is not None)
        if owner is not None:
            if not self.closing:
                line.pause(wall)
            owner.leave(line)
        self._left.pop(index, None)
        self._heard = max(self._heard, line.last_media or 0.0)
        self.recorder.poller.remove_reader(line.pair.rtp.fileno())
        self.recorder.poller.remove_reader(line.pair.rtcp.fileno())
        line.report(self._clock.now(), last=True)
        self.recorder.ports.release(line.pair)

    def _build(self, answers: list[sdp.MediaDescription]) -> bytes:
        address = self.recorder.settings.advertised or self.recorder.ports.address
        self._origin = replace(self._origin, address=address)
        same = sdp.build_session(self._origin, answers, name="siprec").to_bytes()
        if same != self._answer:
            # RFC 3264 8: version + 1 with each change, and only then.
            self._origin = self._origin.bump()
            same = sdp.build_session(self._origin, answers, name="siprec").to_bytes()
        self._answer = same
        return same

    # -------------------------------------------------------------------------------------------------------- metadata

    def _read(self, data: bytes | None, charset: str | None) -> tuple[Document | None, str | None]:
        if data is None:
            return None, None
        settings = self.recorder.settings
        try:
            document = parse(data, charset=charset, strict=settings.strict_metadata)
            if settings.reject_bad_metadata and isinstance(document, Document) and document.errors:
                raise MetadataError(f"metadata is damaged: {document.errors[0]}")
        except MetadataError as error:
            if settings.reject_bad_metadata:
                raise MetadataRefused(error.reason) from error
            log.warning("Call-ID %s: recording without metadata: %s", self.call_id, error.reason)
            return None, error.reason
        if isinstance(document, SnapshotRequest):
            # Only an SRS asks (RFC 7866 9.2).
            return None, "a snapshot request is not for a recorder"
        return document, None

    def _apply(
        self, data: bytes | None, document: Document | None, problem: str | None, places: list[Path], wall: float
    ) -> None:
        entry: dict[str, Any] = {"received": summary.stamp(wall)}
        if document is not None:
            if document.mode == "complete":
                self._snapshot_asked = None
            errors = list(document.errors)
            findings = [*document.findings, *self.state.apply(document, wall=wall, labels=self._labels)]
            findings += match_by_order(self.state, document, sorted(self._lines), self._labels)
            entry["mode"] = document.mode
        else:
            errors, findings = [problem or "unreadable"], []
        entry["findings"] = [*errors, *findings]
        self._assign(places, wall)
        for unused in places:
            self.recorder.library.remove_unused(unused)
        if data is not None:
            for recording in self._concerned(document):
                recording.document(data, entry, errors)

    def _concerned(self, document: Document | None) -> list[Recording]:
        """Whose documents these are: nobody else is to be read about in the directory of a recording."""
        if document is None or document.mode == "complete" or self.begun <= 1:
            return list(self.recordings)
        named = document.identifiers()
        return [recording for recording in self.recordings if keys(self.state, recording.session) & named]

    # ------------------------------------------------------------------------------------- which stream is whose

    def _places(self, document: Document | None, fresh: bool) -> list[Path]:
        """Directories for the recordings that will begin, made before anything is promised; raises RecorderFull."""
        known = {recording.session for recording in self.recordings}
        sessions = {each.id for each in document.sessions} if document is not None else set()
        new = len(sessions - known) if self.begun or not fresh else max(1, len(sessions))
        made: list[Path] = []
        try:
            while len(made) < new:
                made += [self.recorder.library.new_directory(self._start(self.wall()))]
        except RecorderFull:
            for path in made:
                self.recorder.library.remove_unused(path)
            raise
        return made

    def _start(self, wall: float) -> float:
        """When a recording begins: with the RS, or at `wall`."""
        return self.started if self._timer is None else wall

    def _assign(self, places: list[Path], wall: float) -> None:
        """Every m-line belongs to the recording of its communication session, or to none."""
        self._sessions_seen = self._sessions_seen or bool(self.state.sessions)
        live = [s.id for s in self.state.sessions.values() if s.live]
        described = {s.line: s for s in self.state.streams.values() if s.current and s.line is not None}
        sessions = {index: session_of(self.state, stream) for index, stream in described.items()}
        named = any(session is not None for session in sessions.values())
        known = {recording.session for recording in self.recordings if recording.lasting}
        over = {id_ for id_ in self._recorded if id_ not in live} - known
        for index, line in sorted(self._lines.items()):
            stream = described.get(index)
            owner = self._owners.get(index)
            session = sessions.get(index)
            if session is None and len(live) == 1 and (stream is None or not named):
                session = live[0]
            if session in over:
                # It is over: what is under way still belongs to it, nothing new does.
                if owner is None or owner.session != session:
                    self._move(index, line, None, wall)
            elif session is not None:
                if owner is None or owner.session != session:
                    self._move(index, line, self._recording_of(session, owner, places, wall), wall)
            elif not self._sessions_seen and (not self.state.complete_seen or self.state.participants):
                if owner is None:
                    self._move(index, line, self._recording_of(None, None, places, wall), wall)
            elif stream is not None and owner is not None and owner.session is not None:
                self._move(index, line, None, wall)
        for stream in self.state.streams.values():
            found = self._lines.get(stream.line) if stream.line is not None and stream.current else None
            if found is not None and (found.label == stream.label or stream.label not in self._labels):
                found.stream_ids.pop(stream.id, None)
                found.stream_ids[stream.id] = None
        for recording in self.recordings:
            # A session that was over before anything was recorded lasts as long as its streams do.
            recording.lasting = recording.lasting and recording.session not in live
            ended = recording.session is not None and recording.session not in live and not recording.lasting
            # Lines may also go without a word; in an RS of its own a session may be on hold that way.
            recording.patience = LINGER if ended or not recording.nameable else VACANT
            if not ended and (recording.live or (self.begun == 1 and recording.nameable)):
                recording.over_since = None
            elif recording.over_since is None:
                recording.over_since = self._clock.now()
            recording.configure()
        trim(self.state, {recording.session for recording in self.recordings})

    def _recording_of(
        self, session: Id | None, owner: Recording | None, places: list[Path], wall: float
    ) -> Recording | None:
        found = next((r for r in self.recordings if r.session == session and r.result is None), None)
        if found is not None:
            return found
        if owner is not None and owner.session is None and owner.nameable and session is not None:
            owner.session = session  # now it has a name
            self._recorded.add(session)
            return owner
        try:
            directory = places.pop() if places else self.recorder.library.new_directory(wall)
        except RecorderFull as error:
            log.error("Call-ID %s: %s", self.call_id, error.reason)
            self._trouble = self._trouble or error.reason
            return None
        recording = Recording(self, session, directory, self._start(wall))
        if session is not None:
            self._recorded.add(session)
            recording.lasting = not self.state.sessions[session].live
        self.recordings.append(recording)
        self.begun += 1
        return recording

    def _move(self, index: int, line: MediaLine, recording: Recording | None, wall: float) -> None:
        owner = self._owners.get(index)
        if owner is recording:
            return
        if owner is not None:
            # What comes from now on is another stream, on the same socket.
            fresh = self._lines[index] = line.successor(wall)
            owner.leave(line)
            self.tally.add(line, kept=True)
            del self._owners[index]
            self._left[index] = self._clock.now()
            line = fresh
            self.recorder.poller.remove_reader(line.pair.rtp.fileno())
            self.recorder.poller.remove_reader(line.pair.rtcp.fileno())
            line.open(self.recorder.poller)
        if recording is not None:
            recording.add(line)
            self._owners[index] = recording
            self._left.pop(index, None)

    def _unowned(self, index: int, line: MediaLine, now: float) -> None:
        """A line that belongs to no communication session. Media that arrive shortly after one ended were sent before.
        All others are recorded under no name: whatever is accepted is recorded."""
        until = self._left.get(index, float("-inf")) + LINGER
        if line.receiving and line.last_media is not None and line.last_media > until:
            recording = self._recording_of(None, None, [], self.wall())
            if recording is not None:
                recording.nameable = not self.state.complete_seen
                self._move(index, line, recording, self.wall())
                recording.configure()
                return
        line.take(now - HOLD)

    # ------------------------------------------------------------------------------------------------------------ work

    def _tick(self) -> None:
        self._timer = self._clock.call_later(TICK, self._tick)
        now = self._clock.now()
        for index, line in list(self._lines.items()):
            if index not in self._owners:
                self._unowned(index, line, now)
            if now >= line.reporter.due:
                line.report(now)
        for recording in list(self.recordings):
            recording.tick(now - HOLD)
            since = recording.over_since
            if since is not None and now >= since + recording.patience:
                self._end(recording, "the communication session ended", self.wall() - now + since)
            self._trouble = self._trouble or recording.trouble
        if self._trouble and not self._told:
            self._told = True
            log.error("Call-ID %s: cannot be recorded any longer: %s", self.call_id, self._trouble)
            self.on_trouble(self._trouble)

    def _end(self, recording: Recording, reason: str, wall: float) -> None:
        for index in [i for i, owner in self._owners.items() if owner is recording]:
            self._move(index, self._lines[index], None, wall)
        self.recordings.remove(recording)
        self._review()
        self._ended.append(recording.outcome)
        self._last = recording.close(reason, wall)
        counters = self.recorder.counters
        counters["recordings"] += 1
        for line in recording.lines:
            total = line.receiver.total()
            counters["packets"] += total.received
            counters["lost"] += total.lost
            counters["dropped_by_disk"] += line.dropped_disk
            counters["not_decodable"] += sum(line.not_decodable.values())
            counters["source_changes"] += line.moves
            counters["second_sources"] += len(line.second_sources)

    def _save(self) -> None:
        for recording in self.recordings:
            recording.save()


def _offers_fir(media: sdp.MediaDescription) -> bool:
    return any(value.lower().split()[1:] == ["ccm", "fir"] for value in media.attributes("rtcp-fb"))
