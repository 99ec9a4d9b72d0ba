"""A finished recording as a vCon, the IETF's container for conversations (draft-ietf-vcon-vcon-core-04, syntax 0.4.0).

One dialog for the stereo mix, whose channels are the parties; one per stream on request. What was written of the
conversation goes with it: who was there when, digits pressed, and the metadata documents as attachments.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from siprec.recorder.recording_result import RecordingResult

SYNTAX: Final = "0.4.0"
PIECE: Final = 3 << 16
"""Octets of audio in one piece: a multiple of three, so that the base64 of the pieces joins without padding."""
_TYPES: Final = {".wav": "audio/x-wav", ".flac": "audio/flac"}


class VconError(Exception):
    """A recording cannot be exported; the text says why."""


def export(recording: RecordingResult, *, streams: bool = False) -> Iterator[bytes]:
    """The vCon of a recording as JSON, piece by piece: the audio is read while it is written, however long it is.

    `streams`: each participant's audio by itself instead of the mix.

    Raises:
        VconError: before the first piece: the recording goes on, or has no audio.
        OSError: a file cannot be read.
    """
    summary = recording.summary
    if recording.state == "recording":
        raise VconError("the recording goes on")
    people = [p for p in summary.get("participants", []) if isinstance(p, dict)]
    parties = [_party(person) for person in people]
    index = {str(person.get("participant_id")): number for number, person in enumerate(people)}
    dialogs = list(_dialogs(recording, index, streams))
    if not dialogs:
        raise VconError("the recording has no audio")
    history = list(_history(summary, index))
    for _, dialog in dialogs:
        dialog["party_history"] = history
    end = summary.get("end") or summary["start"]
    head = {
        "vcon": SYNTAX,
        "uuid": _uuid(recording.id, summary),
        "created_at": end,
        "subject": f"Recording {recording.id}",
        "parties": parties,
    }
    tail = {"attachments": list(_attachments(recording)), "analysis": []}
    return _pieces(head, dialogs, tail)


def _pieces(head: dict[str, Any], dialogs: list[tuple[Path, dict[str, Any]]], tail: dict[str, Any]) -> Iterator[bytes]:
    yield _encode(head)[:-1] + b',"dialog":'
    before = b"["
    for path, dialog in dialogs:
        yield before + _encode(dialog)[:-1] + b',"body":"'
        digest = hashlib.sha512()
        with path.open("rb") as audio:
            while octets := audio.read(PIECE):
                digest.update(octets)
                yield urlsafe_b64encode(octets).rstrip(b"=")
        yield f'","content_hash":"sha512-{_base64url(digest.digest())}"}}'.encode()
        before = b","
    yield b"]," + _encode(tail)[1:]


def _encode(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _party(person: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in person.get("names", []):
        aor = str(name.get("aor") or "")
        if aor.startswith("tel:"):
            found.setdefault("tel", aor)
        elif aor:
            found.setdefault("sip", aor)
        if name.get("name"):
            found.setdefault("name", str(name["name"]))
    if person.get("uuid"):
        found["uuid"] = person["uuid"]
    return found


def _dialogs(recording: RecordingResult, index: dict[str, int], streams: bool) -> Iterator[tuple[Path, dict[str, Any]]]:
    mix = recording.summary.get("mix")
    by_number = {stream.get("number"): stream for stream in recording.streams}
    if mix and not streams:
        sides = [_side(mix.get(side, []), by_number, index) for side in ("left", "right")]
        yield _dialog(recording, str(mix["file"]), mix.get("duration"), sides)
        return
    for stream in recording.streams:
        if stream.get("file") and stream.get("kind") == "audio":
            parties = _side([stream.get("number")], by_number, index)
            yield _dialog(recording, str(stream["file"]), stream.get("duration"), [parties])


def _side(numbers: list[Any], streams: dict[Any, dict[str, Any]], index: dict[str, int]) -> int | list[int]:
    """The parties heard in one channel: one number, or a list of several."""
    names = [name for number in numbers for name in streams.get(number, {}).get("participants", [])]
    found = list(dict.fromkeys(index[name] for name in names if name in index))
    return found[0] if len(found) == 1 else found


def _dialog(
    recording: RecordingResult, name: str, duration: float | None, parties: list[int | list[int]]
) -> tuple[Path, dict[str, Any]]:
    """A file of audio, and the dialog object without its body."""
    path = recording.directory / name
    if not path.is_file():
        raise VconError(f"{name} is missing")
    found: dict[str, Any] = {
        "type": "recording",
        "start": recording.summary.get("audio_start") or recording.summary["start"],
        "duration": duration or 0.0,
        "parties": parties,
        "mediatype": _TYPES.get(path.suffix, "application/octet-stream"),
        "filename": name,
        "encoding": "base64url",
        "application": "SIPREC",
    }
    ids = [pair for session in recording.summary.get("communication_sessions", []) for pair in _session_ids(session)]
    if ids:
        found["session_id"] = ids[0] if len(ids) == 1 else ids
    return path, found


def _session_ids(session: dict[str, Any]) -> Iterator[dict[str, str]]:
    """RFC 7989 identifiers, ``local;remote=...`` in the metadata."""
    for text in session.get("sip_session_ids", []):
        local, _, rest = str(text).partition(";")
        yield {"local": local.strip(), "remote": rest.strip().removeprefix("remote=")}


def _history(summary: dict[str, Any], index: dict[str, int]) -> Iterator[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    for session in summary.get("communication_sessions", []):
        for member in session.get("participants", []):
            party = index.get(str(member.get("participant_id")))
            for interval in member.get("intervals", []) if party is not None else []:
                for key, event in (("from", "join"), ("to", "drop")):
                    if interval.get(key):
                        events.append({"party": party, "time": interval[key], "event": event})
    for stream in summary.get("streams", []):
        senders = [index[name] for name in stream.get("participants", []) if name in index]
        for digit in stream.get("dtmf", []) if len(senders) == 1 else []:
            button = {"party": senders[0], "button": digit["digit"]}
            events.append({**button, "time": digit["time"], "event": "keydown"})
    yield from sorted(events, key=lambda event: str(event["time"]))


def _attachments(recording: RecordingResult) -> Iterator[dict[str, Any]]:
    for document in recording.summary.get("metadata", []):
        name = str(document.get("file"))
        path = recording.directory / Path(name).name
        if path.is_file():
            yield {
                "purpose": "SIPREC metadata (RFC 7865)",
                "start": document.get("received"),
                "party": 0,
                "dialog": 0,
                "mediatype": "application/rs-metadata+xml",
                "filename": name,
                "body": path.read_text("utf-8", "replace"),
                "encoding": "none",
            }


def _uuid(name: str, summary: dict[str, Any]) -> str:
    """The same whenever asked (a version 8 UUID, RFC 9562 5.8)."""
    call = summary.get("recording_session", {}).get("call_id", "")
    octets = bytearray(hashlib.sha256(f"siprec {name} {call}".encode()).digest()[:16])
    octets[6] = octets[6] & 0x0F | 0x80
    octets[8] = octets[8] & 0x3F | 0x80
    return str(uuid.UUID(bytes=bytes(octets)))


def _base64url(octets: bytes) -> str:
    return urlsafe_b64encode(octets).rstrip(b"=").decode("ascii")
