"""A recording as a vCon: the fields that draft-ietf-vcon-vcon-core-04 asks for, and the audio itself."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tracemalloc
import uuid
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile  # type: ignore[import-untyped]

from siprec.cli.vcon import main
from siprec.recorder.library import RecorderLibrary
from siprec.recorder.recording_result import RecordingResult
from siprec.recorder.vcon import PIECE, VconError, export

ALICE, BOB = "f+W63ZtJQB6EjXMnq+yS9A==", "93n+JQnCSk6nwGY1vugYng=="
START, END = "2026-11-23T06:37:47.365Z", "2026-11-23T06:37:50.578Z"


def interval() -> dict[str, Any]:
    return {"from": START, "to": END}


def summary() -> dict[str, Any]:
    return {
        "state": "complete",
        "start": START,
        "end": END,
        "audio_start": START,
        "recording_session": {"call_id": "rs"},
        "mix": {"file": "mix.wav", "duration": 0.1, "left": [1], "right": [2]},
        "streams": [
            {
                "number": 1,
                "kind": "audio",
                "participants": [ALICE],
                "file": "stream-1.wav",
                "duration": 0.1,
                "dtmf": [{"time": "2026-11-23T06:37:48.000Z", "digit": "5"}],
            },
            {"number": 2, "kind": "audio", "participants": [BOB], "file": "stream-2.wav", "duration": 0.1, "dtmf": []},
        ],
        "participants": [
            {
                "participant_id": ALICE,
                "uuid": "7fe5badd-9b49-401e-848d-7327abec92f4",
                "names": [{"aor": "sip:alice@example.com", "name": "Alice"}],
            },
            {"participant_id": BOB, "names": [{"aor": "tel:+15551234", "name": ""}]},
        ],
        "communication_sessions": [
            {
                "sip_session_ids": ["a" * 32 + ";remote=" + "b" * 32],
                "participants": [
                    {"participant_id": ALICE, "intervals": [interval()]},
                    {"participant_id": BOB, "intervals": [interval()]},
                ],
            }
        ],
        "metadata": [{"file": "metadata-0001.xml", "received": START}],
    }


@pytest.fixture
def recording(tmp_path: Path) -> RecordingResult:
    directory = RecorderLibrary(tmp_path).new_directory(1_790_000_000.0)
    for name, channels in (("mix.wav", 2), ("stream-1.wav", 1), ("stream-2.wav", 1)):
        soundfile.write(str(directory / name), np.full((800, channels), 1000, np.int16), 8000)
    (directory / "metadata-0001.xml").write_text("<recording/>")
    (directory / "recording.json").write_text(json.dumps(summary()))
    return RecordingResult(directory, summary())


def vcon(recording: RecordingResult, *, streams: bool = False) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(b"".join(export(recording, streams=streams)))
    return found


def test_parties_times_and_identifiers_are_as_the_draft_asks(recording: RecordingResult) -> None:
    found = vcon(recording)
    assert found["vcon"] == "0.4.0"
    assert uuid.UUID(found["uuid"]).version == 8
    assert found["uuid"] == vcon(recording)["uuid"]
    assert datetime.fromisoformat(found["created_at"]).tzinfo is not None
    assert found["parties"] == [
        {"sip": "sip:alice@example.com", "name": "Alice", "uuid": "7fe5badd-9b49-401e-848d-7327abec92f4"},
        {"tel": "tel:+15551234"},
    ]


def test_the_mix_is_one_dialog_whose_channels_are_the_parties(recording: RecordingResult) -> None:
    (dialog,) = vcon(recording)["dialog"]
    assert (dialog["type"], dialog["parties"], dialog["encoding"]) == ("recording", [0, 1], "base64url")
    assert re.fullmatch(r"[A-Za-z0-9_-]+", dialog["body"])
    octets = urlsafe_b64decode(dialog["body"] + "==")
    samples, rate = soundfile.read(io.BytesIO(octets), dtype="int16")
    assert (samples.shape, rate) == ((800, 2), 8000)
    digest = urlsafe_b64decode(dialog["content_hash"].removeprefix("sha512-") + "==")
    assert digest == hashlib.sha512(octets).digest()
    assert dialog["session_id"] == {"local": "a" * 32, "remote": "b" * 32}


def test_who_came_and_went_and_pressed_digits_is_in_the_history(recording: RecordingResult) -> None:
    (dialog,) = vcon(recording)["dialog"]
    events = [(event["party"], event["event"], event.get("button")) for event in dialog["party_history"]]
    assert events == [(0, "join", None), (1, "join", None), (0, "keydown", "5"), (0, "drop", None), (1, "drop", None)]


def test_streams_can_be_exported_one_by_one(recording: RecordingResult) -> None:
    dialogs = vcon(recording, streams=True)["dialog"]
    assert [(dialog["filename"], dialog["parties"]) for dialog in dialogs] == [
        ("stream-1.wav", [0]),
        ("stream-2.wav", [1]),
    ]


def test_the_metadata_goes_with_it(recording: RecordingResult) -> None:
    (attachment,) = vcon(recording)["attachments"]
    assert (attachment["body"], attachment["encoding"]) == ("<recording/>", "none")
    assert {"start", "party", "dialog"} <= set(attachment)


def test_what_goes_on_or_is_silent_is_not_exported(recording: RecordingResult) -> None:
    with pytest.raises(VconError, match="goes on"):
        export(RecordingResult(recording.directory, {**recording.summary, "state": "recording"}))
    with pytest.raises(VconError, match="no audio"):
        export(RecordingResult(recording.directory, {**recording.summary, "mix": None, "streams": []}))


def test_the_audio_is_read_piece_by_piece(recording: RecordingResult) -> None:
    mix = recording.directory / "mix.wav"
    with mix.open("r+b") as file:
        file.truncate(200_000_000)  # sparse
    tracemalloc.start()
    try:
        digest, size, tail = hashlib.sha256(), 0, b""
        for piece in export(recording):
            assert len(piece) <= 2 * PIECE
            digest.update(piece)
            size += len(piece)
            tail = (tail + piece)[-2000:]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size > 200_000_000 * 4 // 3
    assert peak < 4_000_000
    hashed = hashlib.sha512()
    with mix.open("rb") as file:
        while octets := file.read(1 << 20):
            hashed.update(octets)
    assert urlsafe_b64encode(hashed.digest()).rstrip(b"=") in tail


def test_the_command_writes_a_file_for_owner_and_group(
    recording: RecordingResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "call.vcon"
    assert main(recording.directory, output, streams=False) == 0
    assert json.loads(output.read_text())["vcon"] == "0.4.0"
    assert output.stat().st_mode & 0o007 == 0
    assert main(tmp_path / "nowhere", None, streams=False) == 1
    assert "nowhere" in capsys.readouterr().err


def test_a_recording_is_found_by_its_id(recording: RecordingResult, tmp_path: Path) -> None:
    library = RecorderLibrary(tmp_path)
    found = library.by_id(recording.id)
    assert found is not None
    assert found.directory == recording.directory
    for name in ("", "../../etc/passwd", "20260101T000000Z-00000000", "x" * 40):
        assert library.by_id(name) is None
