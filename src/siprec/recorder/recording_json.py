"""``recording.json``: who, when, which file. Built in the event loop's thread out of a :class:`Snapshot`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from siprec import __version__
from siprec.metadata.document import Extension
from siprec.metadata.history import ParticipantHistory, SessionHistory
from siprec.metadata.merge import MetadataState
from siprec.metadata.values import Id, rfc3339
from siprec.recorder import headers
from siprec.recorder.media_stream import ReceivedStream
from siprec.recorder.pipeline import Line, Pipeline
from siprec.recorder.settings import EVERYTHING, Kept

_HAND_OVER = 3  # half seconds in which two sources may overlap, where one follows the other
FILE = "recording.json"
FORMAT = 1


def write_json(path: Path, value: object, *, durable: bool = True) -> None:
    """Replace `path` atomically; if `durable`, wait until it is on the disk."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        _write(temporary, os.O_CREAT | os.O_TRUNC, _json(value), durable=durable)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
    os.replace(temporary, path)


def overwrite_json(path: Path, value: object) -> None:
    """Write into the room that the file at `path` occupies. Raises OSError if it needs more than there is."""
    _write(path, 0, _json(value), durable=True)


def _json(value: object) -> bytes:
    # Indentation by json itself is slow, and leaves a cycle of closures behind each time.
    octets = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
    return msgspec.json.format(octets, indent=2) + b"\n"


def _write(path: Path, flags: int, data: bytes, *, durable: bool) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | flags, 0o640)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.ftruncate(fd, len(data))
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only owner and group may read, like the others of a recording."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640), "wb") as file:
        file.write(data)


def stamp(wall: float | None) -> str | None:
    """Unix seconds as RFC 3339 in UTC."""
    return rfc3339(wall) if wall is not None else None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A recording, running or ended, as its JSON is to describe it: made in the event loop's thread."""

    name: str
    progress: str
    started: float
    ended: float | None
    end_reason: str | None
    call_id: str
    """Of the recording session."""
    from_uri: str
    src_address: str
    headers: headers.Kept
    pipeline: Pipeline
    lines: Sequence[ReceivedStream]
    state: MetadataState
    documents: Sequence[dict[str, Any]]
    errors: Sequence[str]
    keep: frozenset[Kept]


def build(recording: Snapshot) -> dict[str, Any]:
    """The whole document."""
    pipeline, state = recording.pipeline, recording.state
    origin = pipeline.origin
    document = {
        "format": FORMAT,
        "recorder": f"siprec {__version__}",
        "id": recording.name,
        "state": recording.progress,
        "start": stamp(recording.started),
        "end": stamp(recording.ended),
        "end_reason": recording.end_reason,
        "audio_start": stamp(origin + pipeline.wall_offset) if origin is not None else None,
        "duration": _duration(pipeline),
        "recording_session": {
            "call_id": recording.call_id,
            "from": recording.from_uri,
            "src_address": recording.src_address,
            "headers": [{"name": name, "value": value} for name, value in recording.headers],
            "parties": headers.parties(recording.headers),
        },
        "mix": _mix(pipeline),
        "streams": [_stream(line, pipeline, state) for line in recording.lines],
        **describe(state),
        "metadata": recording.documents,
        "errors": recording.errors,
    }
    _forget(document, recording.keep)
    return document


def describe(state: MetadataState) -> dict[str, Any]:
    """Parties, sessions and groups of the metadata, and the foreign elements of the document itself."""
    return {
        "participants": [_participant(p) for p in state.participants.values()],
        "communication_sessions": [_session(s, state) for s in state.sessions.values()],
        "groups": [
            {**_id("group_id", g.id), "intervals": [i.as_dict() for i in g.intervals], **_rest(g.extensions)}
            for g in state.groups.values()
        ],
        **_rest(state.extensions),
    }


def _forget(document: dict[str, Any], keep: frozenset[Kept]) -> None:
    """Take out what is not to be kept."""
    if keep == EVERYTHING:
        return
    rs = document["recording_session"]
    if "names" not in keep:
        rs["headers"] = [each for each in rs["headers"] if each["name"].lower() not in headers.PERSONAL]
        rs["parties"] = []
        for participant in document["participants"]:
            participant["names"] = []
    if "extensions" not in keep:
        document.pop("extensions", None)
        rs["headers"] = [each for each in rs["headers"] if each["name"].lower() in headers.PERSONAL]
        for kind in ("participants", "communication_sessions", "groups", "streams"):
            for element in document[kind]:
                element.pop("extensions", None)
    if "digits" not in keep:
        for stream in document["streams"]:
            stream["dtmf"] = []


def _duration(pipeline: Pipeline) -> float | None:
    tracks = [line.track for line in list(pipeline.lines.values()) if line.track is not None]
    return round(max(t.file.frames / t.rate for t in tracks), 3) if tracks else None


def _mix(pipeline: Pipeline) -> dict[str, Any] | None:
    if pipeline.mix is None:
        return None
    sides = {
        "left": [n for n, line in list(pipeline.lines.items()) if line.track and line.gains[0] > 0],
        "right": [n for n, line in list(pipeline.lines.items()) if line.track and line.gains[1] > 0],
    }
    file = pipeline.mix.file
    return {
        "file": file.path.name,
        "rate": pipeline.mix.rate,
        "channels": 2,
        "duration": round(file.frames / pipeline.mix.rate, 3),
        **sides,
    }


def _id(name: str, id_: Id) -> dict[str, Any]:
    return {name: id_.text, "uuid": id_.uuid}


def _rest(extensions: Iterable[Extension]) -> dict[str, Any]:
    found = [_extension(e) for e in extensions]
    return {"extensions": found} if found else {}


def _extension(extension: Extension) -> dict[str, Any]:
    out: dict[str, Any] = {"element": extension.name, "text": extension.text}
    if extension.attributes:
        out["attributes"] = dict(extension.attributes)
    if extension.children:
        out["children"] = [_extension(child) for child in extension.children]
    return out


def _participant(participant: ParticipantHistory) -> dict[str, Any]:
    names = [{"aor": n.aor, "name": n.name, **({"lang": n.lang} if n.lang else {})} for n in participant.name_ids]
    out = {**_id("participant_id", participant.id), "names": names, **_rest(participant.extensions)}
    return {**out, "placeholder": True} if participant.placeholder else out


def _session(session: SessionHistory, state: MetadataState) -> dict[str, Any]:
    members = [
        {
            "participant_id": m.participant_id.text,
            "intervals": [i.as_dict() for i in m.intervals],
            **({"params": dict(m.params)} if m.params else {}),
        }
        for (_, session_id), m in state.participant_assocs.items()
        if session_id == session.id
    ]
    return {
        **_id("session_id", session.id),
        "sip_session_ids": session.sip_session_ids,
        "group_id": session.group_ref.text if session.group_ref else None,
        "start": stamp(session.start_time),
        "stop": stamp(session.stop_time),
        "reasons": [{"protocol": r.protocol, "cause": r.cause, "text": r.text} for r in session.reasons],
        "recorded": [i.as_dict() for i in session.recorded],
        "participants": members,
        **({"placeholder": True} if session.placeholder else {}),
        **_rest(session.extensions),
    }


def _stream(line: ReceivedStream, pipeline: Pipeline, state: MetadataState) -> dict[str, Any]:
    work = pipeline.lines.get(line.number)
    offset = pipeline.wall_offset
    ids = list(line.stream_ids)
    latest = state.streams.get(ids[-1]) if ids else None
    counters: dict[str, int | float] = line.counters().as_dict()
    counters["discarded_while_paused"] = line.discarded_paused
    counters["dropped_by_disk"] = line.dropped_disk
    out: dict[str, Any] = {
        "number": line.number,
        "kind": line.kind,
        "m_line": line.index,
        "label": line.label or None,
        "stream_ids": [_id("stream_id", i) for i in ids],
        "session_id": latest.session_id.text if latest and latest.session_id else None,
        "participants": [p.id.text for i in ids for p in state.ever_senders(i)],
        "file": None,
        "raw_file": None,
        "offered_codecs": line.codec_names,
        "srtp": line.keys.remote.suite.name if line.keys else None,
        "source": f"{line.source[0]} port {line.source[1]}" if line.source else None,
        "port": line.pair.port,
        "packets": counters,
        "pauses": [{"from": stamp(p.start), "to": stamp(p.end)} for p in line.pauses],
        "dtmf": [],
        "cnames": {f"{ssrc:08x}": name for ssrc, name in line.cnames.items()},
        "rtcp_received": line.rtcp_received,
        "rtcp_sent": line.reporter.sent,
        "rtcp_bye": [f"{ssrc:08x}" for ssrc in line.byes],
        **_rest(e for i in ids if i in state.streams for e in state.streams[i].extensions),
        "sources": [
            {"address": f"{host} port {port}", "from": stamp(since + offset)} for since, (host, port) in line.sources
        ],
        "rtp_faults": _faults(line, work, offset),
    }
    if work is not None:
        out.update(_work(work, pipeline, offset))
    return out


def _drift(work: Line) -> float | None:
    """How fast the sender's clock runs against ours: of the source that was measured longest."""
    found = [clock.drift for clock in work.all_clocks if clock.drift.ppm is not None]
    longest = max(found, key=lambda drift: drift.measured, default=None)
    return round(longest.ppm or 0.0, 1) if longest is not None else None


def _faults(line: ReceivedStream, work: Line | None, offset: float) -> list[dict[str, Any]]:
    """What was wrong with the RTP of a stream, and what we made of it."""
    found = [
        {"fault": name, "count": fault.count, "first": stamp(fault.first + offset), "detail": fault.detail}
        for clock in (work.all_clocks if work is not None else [])
        for name, fault in list(clock.faults.items())
    ]
    if work is not None and work.together > _HAND_OVER:
        found.append({"fault": "several-ssrcs-at-once", "count": work.together})
    if line.receiver.restarts:
        found.append({"fault": "sequence-restart", "count": line.receiver.restarts})
    found += [{"fault": "not-decodable", "count": count, "detail": name} for name, count in line.not_decodable.items()]
    found += [
        {"fault": "second-source", "count": 1, "detail": f"{host} port {port}, SSRC {ssrc:08x}, was not recorded"}
        for (host, port), ssrc in line.second_sources.items()
    ]
    if line.moves:
        found.append({"fault": "source-changed", "count": line.moves})
    return found


def _work(work: Line, pipeline: Pipeline, offset: float) -> dict[str, Any]:
    out: dict[str, Any] = {
        "codecs": dict(work.used),
        "ssrcs": [f"{ssrc:08x}" for ssrc in work.ssrcs],
        "csrcs": [f"{csrc:08x}" for csrc in work.csrcs],
        "first_audio": stamp(work.first_audio + offset) if work.first_audio is not None else None,
        "last_audio": stamp(work.last_audio + offset) if work.first_audio is not None else None,
        "dtmf": [
            {
                "time": stamp(event.start + offset),
                "position": round(event.start - pipeline.origin, 3) if pipeline.origin is not None else None,
                "digit": event.digit,
                "duration": round(event.duration, 3),
                "complete": event.ended,
            }
            for event in list(work.events)
        ],
        "time_corrections": [
            {"time": stamp(when + offset), "seconds": round(change, 4)}
            for clock in work.all_clocks
            for when, change in list(clock.corrections)
        ],
        "clock_drift_ppm": _drift(work),
    }
    if work.shifted:
        out["displaced_seconds"] = round(work.shifted, 4)
    if work.pcap is not None:
        out["raw_file"] = work.pcap.path.name
        out["raw_packets"] = work.pcap.packets
    track = work.track
    if track is not None:
        out.update(
            file=track.file.path.name,
            rate=track.rate,
            channels=track.channels,
            duration=round(track.file.frames / track.rate, 3),
            audio_seconds=round(track.audio_frames / track.rate, 3),
            overlap_lost_seconds=round(track.trimmed / track.rate, 4),
        )
    return out
