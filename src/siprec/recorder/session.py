"""One recording session, without SIP: offers and metadata in, answers out.

The SIP side feeds it what arrives in one dialog; what its m-lines receive goes to the recordings of the communication
sessions that the metadata name (:mod:`siprec.recorder.cs_recording`). Everything here runs in the event loop's thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from siprec import sdp
from siprec.metadata.document import Document
from siprec.metadata.extract import keys, trim
from siprec.metadata.values import Id
from siprec.recorder import headers, offering, recording_json, sdp_answer
from siprec.recorder.assignment import NOBODY, assign, match_by_order
from siprec.recorder.bodies import read_metadata
from siprec.recorder.cs_recording import Outcome, Recording
from siprec.recorder.errors import OfferError, RecorderError, RecorderFull
from siprec.recorder.media_stream import ReceivedStream
from siprec.recorder.recording_result import RecordingResult
from siprec.recorder.resources import Resources
from siprec.recorder.rs_context import RsContext
from siprec.recorder.rs_streams import RsStreams
from siprec.recorder.sdp_answer import LocalDescription
from siprec.recorder.snapshot_requests import SnapshotRequests
from siprec.recorder.tally import Tally
from siprec.sip.clock import Timer

log = logging.getLogger(__name__)

HOLD = 1.0
"""Seconds packets wait for their predecessors before they are written."""
TICK = 0.5
LINGER = 2.0
"""Seconds that a communication session which the metadata ended is still listened to: packets may be slower."""
VACANT = 30.0
"""Seconds that a recording may be without streams, while the RS goes on with others."""


def _ignored(reason: str) -> None:
    """Nobody is told of trouble any more, or yet."""


class RecordingSession:
    """One RS. Made by :meth:`Recorder.session`."""

    def __init__(
        self,
        resources: Resources,
        over: Callable[[RecordingSession], object],
        call_id: str,
        from_uri: str,
        src_address: str,
        started: float,
        kept: headers.Kept | None = None,
    ) -> None:
        self.resources = resources
        self.rs = RsContext(resources, call_id, from_uri, src_address, started, kept or [])
        self.call_id, self.from_uri, self.src_address = call_id, from_uri, src_address
        self.started = started
        self.state = self.rs.state
        self._over = over
        self.recordings: list[Recording] = []
        """Those that go on, in the order they began."""
        self.on_trouble: Callable[[str], None] = _ignored
        """Called once, with the reason, when what arrives can no longer be kept."""
        self._trouble = ""
        self._told = False
        self._clock = resources.clock
        self.streams = RsStreams(self.rs)
        self._labels: dict[str, int] = {}
        self._local = LocalDescription()
        self._timer: Timer | None = None
        self._sessions_seen = False
        self._recorded: set[Id] = set()
        """Communication sessions that have, or had, a recording."""
        self.snapshot_requests = SnapshotRequests(self._clock)
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
                self._over(self)  # it never began
            raise

    def _offer(self, offer: bytes, metadata: bytes | None, received_wall: float | None, charset: str | None) -> bytes:
        wall = self.wall() if received_wall is None else received_wall
        try:
            description = sdp.parse(offer)
        except sdp.SdpError as error:
            raise OfferError(error.reason, 400) from error
        document, problem = self._read(metadata, charset)
        tables = sdp_answer.acceptable(description, self.resources.settings)
        first = self._timer is None
        if first and not any(tables) and any(m.port for m in description.media):
            raise OfferError("nothing in the offer can be recorded")
        fresh = self.streams.acquire(description, tables)
        try:
            places = self._places(document, bool(fresh))
        except RecorderFull:
            self.streams.release(fresh)
            raise
        answers = [
            self.streams.answer(index, media, tables[index], fresh, wall)
            for index, media in enumerate(description.media)
        ]
        for index in [i for i in self.streams.by_index if i >= len(description.media)]:
            self.streams.drop(index, wall)  # m-lines must not vanish (RFC 7866 7.1.1.1), but if they do, they are gone
        self._labels = {m.label: i for i, m in enumerate(description.media) if m.label}
        self._apply(metadata, document, problem, places, wall)
        if first:
            self._tick()
        answer = self._local.build(answers, self._advertised)
        self._save()
        return answer

    def make_offer(self) -> bytes:
        """An offer of ours, to a client that began without one: audio that we receive. The answer goes to
        :meth:`offer`.

        Raises :class:`OfferError` where SRTP is demanded, :class:`RecorderFull`.
        """
        self._check_open()
        if self.resources.settings.srtp == "require":
            self._over(self)
            raise OfferError("SRTP is required, and there is no offer")
        media = sdp.parse(offering.description(self.resources.settings.offerless_streams)).media
        try:
            self.streams.offer(media)
        except RecorderFull:
            self._over(self)
            raise
        self._labels = {each.label: index for index, each in enumerate(media) if each.label}
        self._tick()
        return self._local.build(media, self._advertised)

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
        return self.rs.wall()

    @property
    def where(self) -> str:
        """Where the files go, for the log."""
        return ", ".join(str(recording.directory) for recording in self.recordings) or "nothing yet"

    @property
    def tally(self) -> Tally:
        """What became of the streams that are over."""
        return self.streams.tally

    @property
    def silent_for(self) -> float:
        """Seconds since any stream last received RTP, or since the start."""
        return self.streams.silent_for

    @property
    def wants_key_frame(self) -> bool:
        """Whether video began whose key frame cannot be asked for by RTCP; true once for each stream."""
        return self.streams.wants_key_frame

    @property
    def wants_snapshot(self) -> bool:
        """True if an UPDATE with a snapshot request should be sent now."""
        return self.state.wants_snapshot and self._result is None and self.snapshot_requests.allowed

    def close(self, reason: str = "BYE", *, wall: float | None = None) -> Future[RecordingResult]:
        """End the session: sockets are closed and ports free when this returns; the future is done when all files of
        its last recording are finished and the JSON says ``complete``. Closing again returns the same future."""
        if self._result is not None:
            return self._result
        self.rs.closing = True
        self.on_trouble = _ignored
        ended = self.wall() if wall is None else wall
        if self._timer is not None:
            self._timer.cancel()
        for line in self.streams.by_index.values():
            line.read_rtp()  # what lies in the socket came before the BYE did
            line.read_rtcp()
        for index in list(self.streams.by_index):
            self.streams.drop(index, ended)
        self._over(self)
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
    def lines(self) -> list[ReceivedStream]:
        """The streams of now, in the order of their m-lines."""
        return [line for _, line in sorted(self.streams.by_index.items())]

    @property
    def _advertised(self) -> str:
        """Our address in descriptions."""
        return self.resources.settings.advertised or self.resources.ports.address

    def _check_open(self) -> None:
        if self._result is not None:
            raise RecorderError("the recording session has ended", 481)

    # ---------------------------------------------------------------------------------------------------------- offers

    # -------------------------------------------------------------------------------------------------------- metadata

    def _read(self, data: bytes | None, charset: str | None) -> tuple[Document | None, str]:
        settings = self.resources.settings
        return read_metadata(
            data, charset, strict=settings.strict_metadata, reject=settings.reject_bad_metadata, call_id=self.call_id
        )

    def _apply(
        self, data: bytes | None, document: Document | None, problem: str, places: list[Path], wall: float
    ) -> None:
        entry: dict[str, Any] = {"received": recording_json.stamp(wall)}
        if document is not None:
            if document.mode == "complete":
                self.snapshot_requests.answered()
            errors = list(document.errors)
            findings = [*document.findings, *self.state.apply(document, wall=wall, labels=self._labels)]
            findings += match_by_order(self.state, document, sorted(self.streams.by_index), self._labels)
            entry["mode"] = document.mode
        else:
            errors, findings = [problem or "unreadable"], []
        entry["findings"] = [*errors, *findings]
        self._assign(places, wall)
        for unused in places:
            self.resources.library.remove_unused(unused)
        if data is not None:
            for recording in self._concerned(document):
                recording.document(data, entry, errors)

    def _concerned(self, document: Document | None) -> list[Recording]:
        """Whose documents these are: nobody else is to be read about in the directory of a recording."""
        if document is None or document.mode == "complete" or self.rs.begun <= 1:
            return list(self.recordings)
        named = document.identifiers()
        return [recording for recording in self.recordings if keys(self.state, recording.session) & named]

    # ------------------------------------------------------------------------------------- which stream is whose

    def _places(self, document: Document | None, fresh: bool) -> list[Path]:
        """Directories for the recordings that will begin, made before anything is promised; raises RecorderFull."""
        known = {recording.session for recording in self.recordings}
        sessions = {each.id for each in document.sessions} if document is not None else set()
        new = len(sessions - known) if self.rs.begun or not fresh else max(1, len(sessions))
        made: list[Path] = []
        try:
            while len(made) < new:
                made += [self.resources.library.new_directory(self._start(self.wall()))]
        except RecorderFull:
            for path in made:
                self.resources.library.remove_unused(path)
            raise
        return made

    def _start(self, wall: float) -> float:
        """When a recording begins: with the RS, or at `wall`."""
        return self.started if self._timer is None else wall

    def _assign(self, places: list[Path], wall: float) -> None:
        """Every m-line belongs to the recording of its communication session, or to none."""
        self._sessions_seen = self._sessions_seen or bool(self.state.sessions)
        live = [s.id for s in self.state.sessions.values() if s.live]
        lasting = {recording.session for recording in self.recordings if recording.lasting}
        owners = {index: owner.session for index, owner in self.streams.owners.items()}
        over = {id_ for id_ in self._recorded if id_ not in live} - lasting
        for index, session in assign(
            self.state, sorted(self.streams.by_index), owners, over, self._sessions_seen
        ).items():
            recording = None
            if session is not NOBODY:
                owner = self.streams.owners.get(index) if session is not None else None
                recording = self._recording_of(session, owner, places, wall)
            self.streams.move(index, recording, wall)
        for stream in self.state.streams.values():
            found = self.streams.by_index.get(stream.line) if stream.line is not None and stream.current else None
            if found is not None and (found.label == stream.label or stream.label not in self._labels):
                found.stream_ids.pop(stream.id, None)
                found.stream_ids[stream.id] = None
        for recording in self.recordings:
            # A session that was over before anything was recorded lasts as long as its streams do.
            recording.lasting = recording.lasting and recording.session not in live
            ended = recording.session is not None and recording.session not in live and not recording.lasting
            # Lines may also go without a word; in an RS of its own a session may be on hold that way.
            recording.patience = LINGER if ended or not recording.nameable else VACANT
            if not ended and (recording.live or (self.rs.begun == 1 and recording.nameable)):
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
            directory = places.pop() if places else self.resources.library.new_directory(wall)
        except RecorderFull as error:
            log.error("Call-ID %s: %s", self.call_id, error.reason)
            self._trouble = self._trouble or error.reason
            return None
        recording = Recording(self.rs, session, directory, self._start(wall))
        if session is not None:
            self._recorded.add(session)
            recording.lasting = not self.state.sessions[session].live
        self.recordings.append(recording)
        self.rs.begun += 1
        return recording

    def _unowned(self, index: int, line: ReceivedStream, now: float) -> None:
        """A line that belongs to no communication session. Media that arrive shortly after one ended were sent before.
        All others are recorded under no name: whatever is accepted is recorded."""
        until = self.streams.left.get(index, float("-inf")) + LINGER
        if line.receiving and line.last_media is not None and line.last_media > until:
            recording = self._recording_of(None, None, [], self.wall())
            if recording is not None:
                recording.nameable = not self.state.complete_seen
                self.streams.move(index, recording, self.wall())
                recording.configure()
                return
        line.take(now - HOLD)

    # ------------------------------------------------------------------------------------------------------------ work

    def _tick(self) -> None:
        self._timer = self._clock.call_later(TICK, self._tick)
        now = self._clock.now()
        for index, line in list(self.streams.by_index.items()):
            if index not in self.streams.owners:
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
        for index in [i for i, owner in self.streams.owners.items() if owner is recording]:
            self.streams.move(index, None, wall)
        self.recordings.remove(recording)
        self._review()
        self._ended.append(recording.outcome)
        self._last = recording.close(reason, wall)
        counters = self.resources.counters
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
