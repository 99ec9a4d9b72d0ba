"""A library as crashes, full disks and people leave it: the start neither hangs nor fails, and nothing stays hidden."""

from __future__ import annotations

import json
import logging
import os
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st

from siprec.metadata.values import NAMESPACE
from siprec.recorder import files
from siprec.recorder.library import RecorderLibrary, index, sound
from siprec.recorder.recording_json import write_json
from siprec.recorder.recording_result import RecordingResult
from siprec.recorder.recovery import DAMAGED
from siprec.recorder.space import RESERVE

WALL = 1_772_442_898.0
XML = (
    f'<recording xmlns="{NAMESPACE}"><datamode>complete</datamode><session session_id="AQEBAQEBAQEBAQEBAQEBAQ=="/>'
    '<participant participant_id="AgICAgICAgICAgICAgICAg=="><nameID aor="sip:dan@example.net"><name>Dan</name></nameID>'
    "</participant></recording>"
)


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Fails if it takes longer: a FIFO that is opened waits for ever."""

    def late(number: int, frame: object) -> None:
        raise KeyboardInterrupt("it hangs")  # nothing catches that on its way

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def audio(path: Path, frames: int = 8000) -> None:
    out = files.create(path, "wav", 8000, 1)
    out.write(np.full((frames, 1), 1000, np.int16))
    out.close()


def running(library: RecorderLibrary, **more: Any) -> Path:
    """A recording that a process has left behind."""
    directory = library.new_directory(WALL)
    audio(directory / "stream-1.wav")
    document = {
        "state": "recording",
        "streams": [{"number": 1, "file": "stream-1.wav"}],
        "recording_session": {"call_id": "a"},
    }
    write_json(directory / "recording.json", {**document, **more})
    return directory


def recovered(root: Path) -> list[RecordingResult]:
    """What the next start finds to put right."""
    with within(30):
        return RecorderLibrary(root).recover()


def test_a_directory_without_json_is_listed_and_repaired(tmp_path: Path) -> None:
    directory = RecorderLibrary(tmp_path).new_directory(WALL)
    audio(directory / "stream-1.wav")
    audio(directory / "stream-2.wav", 16_000)
    audio(directory / "mix.wav", 16_000)
    (directory / "stream-3.pcap").write_bytes(b"\xd4\xc3\xb2\xa1")
    (directory / "metadata-0001.xml").write_text(XML)
    os.truncate(directory / "stream-2.wav", 80 + 2 * 12_000)
    (found,) = recovered(tmp_path)
    (listed,) = RecorderLibrary(tmp_path)
    assert listed.summary == found.summary
    assert found.state == "interrupted"
    assert found.summary["start"] == "2026-03-02T09:14:58.000Z"
    assert [(s["number"], s["file"], s["duration"]) for s in found.streams] == [
        (1, "stream-1.wav", 1.0),
        (2, "stream-2.wav", 1.5),
        (3, None, None),
    ]
    assert found.streams[2]["raw_file"] == "stream-3.pcap"
    assert found.mix == directory / "mix.wav"
    assert found.summary["participants"][0]["names"] == [{"aor": "sip:dan@example.net", "name": "Dan"}]
    assert "was missing" in found.summary["errors"][0]
    assert soundfile.info(str(directory / "stream-2.wav")).frames == 12_000
    assert not (directory / RESERVE).exists()
    assert RecorderLibrary(tmp_path).find(aor="sip:dan@example.net")
    assert recovered(tmp_path) == []


def test_a_directory_with_nothing_in_it_is_a_recording_that_failed(tmp_path: Path) -> None:
    RecorderLibrary(tmp_path).new_directory(WALL)
    (found,) = recovered(tmp_path)
    assert found.state == "failed"
    assert "there is no audio" in found.summary["errors"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"state": "comp', b"null", b"[]", b"5", b"\xff\xfe\x00", b'{"streams": []}', b"[" * 100_000, b"{}"],
)
def test_a_damaged_json_is_kept_and_made_anew(tmp_path: Path, content: bytes) -> None:
    directory = running(RecorderLibrary(tmp_path))
    (directory / "recording.json").write_bytes(content)
    (found,) = recovered(tmp_path)
    assert found.state == "interrupted"
    assert found.streams[0]["duration"] == 1.0
    assert (directory / DAMAGED).read_bytes() == content
    assert DAMAGED in found.summary["errors"][0]


Break = Callable[[Path], object]


def fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def link(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/etc/passwd")


def directory(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


@pytest.mark.parametrize("kind", [fifo, link, directory], ids=["fifo", "link", "directory"])
@pytest.mark.parametrize("name", ["recording.json", "stream-1.wav", "mix.wav", "metadata-0001.xml", ".reserve"])
def test_what_is_no_regular_file_hangs_nothing_and_leads_nowhere(tmp_path: Path, kind: Break, name: str) -> None:
    library = RecorderLibrary(tmp_path)
    broken = running(library)
    kind(broken / name)
    whole = running(library)
    before = Path("/etc/passwd").read_bytes()
    assert whole.name in {each.id for each in recovered(tmp_path)}
    with within(30):
        states = {each.id: each.state for each in RecorderLibrary(tmp_path)}
    assert states[whole.name] == "interrupted"
    assert Path("/etc/passwd").read_bytes() == before


@pytest.mark.parametrize(
    "name", ["../../../../precious.wav", "/etc/passwd", "..", ".hidden", "a/b", "", None, 5, ["x"]]
)
def test_a_json_does_not_lead_out_of_its_directory(tmp_path: Path, name: object) -> None:
    precious = tmp_path / "precious.wav"
    audio(precious)
    os.truncate(precious, 1000)
    root = tmp_path / "rec"
    running(RecorderLibrary(root), streams=[{"number": 7, "file": name}], mix={"file": name})
    (found,) = recovered(root)
    assert precious.stat().st_size == 1000
    assert found.mix is None
    assert found.stream_file(7) is None
    assert found.stream_file(1) is not None  # it was there, though the JSON did not say


def test_foreign_things_are_left_alone_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    library = RecorderLibrary(tmp_path)
    whole = running(library)
    day = whole.parent
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "2026" / "notes.txt").write_text("x")
    (tmp_path / "2025").write_text("a file")
    (day / "20260302-backup").mkdir()
    (day / "somebody").mkdir()
    (tmp_path / "2026" / "03" / "99").symlink_to(day)
    caplog.set_level(logging.WARNING)
    assert [each.id for each in recovered(tmp_path)] == [whole.name]
    for name in ("lost+found", "notes.txt", "2025", "20260302-backup", "somebody"):
        assert name in caplog.text
    assert not list((day / "20260302-backup").iterdir())


def test_a_link_to_a_file_elsewhere_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious.wav"
    audio(precious)
    os.truncate(precious, 1000)
    broken = running(RecorderLibrary(tmp_path / "rec"))
    (broken / "stream-1.wav").unlink()
    (broken / "stream-1.wav").symlink_to(precious)
    before = precious.read_bytes()
    (found,) = recovered(tmp_path / "rec")
    assert "stream-1.wav cannot be repaired" in str(found.summary["errors"])
    assert precious.read_bytes() == before


def test_a_fifo_among_the_files_of_a_directory_without_json_hangs_nothing(tmp_path: Path) -> None:
    directory = RecorderLibrary(tmp_path).new_directory(WALL)
    for name in ("stream-1.wav", "metadata-0001.xml", "mix.wav"):
        os.mkfifo(directory / name)
    (found,) = recovered(tmp_path)
    assert "no regular file" in str(found.summary)


def test_many_foreign_things_do_not_flood_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = running(RecorderLibrary(tmp_path))
    for number in range(200):
        (whole.parent / f"foreign-{number}").mkdir()
    caplog.set_level(logging.WARNING)
    recovered(tmp_path)
    assert len(caplog.records) < 30
    assert "200 things" in caplog.text


def test_what_may_not_be_read_is_named_and_the_rest_put_right(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = RecorderLibrary(tmp_path)
    closed, whole = running(library), running(library)
    opened, scanned = os.open, os.scandir
    month = tmp_path / "2024" / "01"
    month.mkdir(parents=True)

    def open_(path: Any, *more: Any, **other: Any) -> int:
        if str(path).startswith(str(closed)):
            raise PermissionError(13, "Permission denied")
        return opened(path, *more, **other)

    def scandir(path: Any) -> Any:
        if Path(path) == month:
            raise PermissionError(13, "Permission denied")
        return scanned(path)

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "scandir", scandir)
    caplog.set_level(logging.WARNING)
    assert [each.id for each in recovered(tmp_path)] == [whole.name]
    assert closed.name in caplog.text
    assert str(month) in caplog.text


def test_a_library_on_a_disk_that_takes_nothing_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    running(RecorderLibrary(tmp_path))
    monkeypatch.setattr("siprec.recorder.recovery.write_json", lambda *a, **k: (_ for _ in ()).throw(OSError(30, "ro")))
    assert recovered(tmp_path) == []
    assert "cannot be written" in caplog.text
    assert [each.state for each in RecorderLibrary(tmp_path)] == ["recording"]


def test_what_this_process_records_is_left_alone(tmp_path: Path) -> None:
    left = running(RecorderLibrary(tmp_path))
    library = RecorderLibrary(tmp_path)
    mine = running(library)
    with within(30):
        assert [each.id for each in library.recover()] == [left.name]
    assert next(each for each in library if each.id == mine.name).state == "recording"


@pytest.mark.parametrize("content", [b"", b"RIFF", b"RIFF" + bytes(200), b"fLaC", b"fLaC" + bytes(100), bytes(500)])
def test_a_broken_audio_file_is_named_in_errors(tmp_path: Path, content: bytes) -> None:
    directory = running(RecorderLibrary(tmp_path))
    (directory / "stream-1.wav").write_bytes(content)
    (found,) = recovered(tmp_path)
    assert found.state == "interrupted"
    assert "stream-1.wav cannot be repaired" in str(found.summary["errors"])


def test_a_wav_without_channels_is_no_wav(tmp_path: Path) -> None:
    audio(tmp_path / "a.wav")
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[58:60] = b"\0\0"
    (tmp_path / "a.wav").write_bytes(data)
    with pytest.raises(ValueError, match="channels"):
        files.repair(tmp_path / "a.wav")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["names", "file", "packets", "streams", "parties", "headers", "participants", "extensions"]),
        inner, max_size=4,
    ),
    max_leaves=20,
)  # fmt: skip
KEYS = (
    "streams", "participants", "communication_sessions", "groups", "metadata", "errors", "mix", "recording_session",
    "extensions", "duration",
)  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=8))
def test_any_json_becomes_one_that_can_be_searched(document: dict[str, Any]) -> None:
    result = RecordingResult(Path("x"), sound({**document, "state": "complete"}))
    assert all(isinstance(word, str) for word in index(result.summary))
    assert result.mix is None or isinstance(result.mix, Path)
    assert result.stream_file(1) is None or result.stream_file(1) == Path("x") / str(result.streams[0]["file"])
    json.dumps(result.summary)


def test_recordings_are_found_by_what_vendors_say(tmp_path: Path) -> None:
    running(
        RecorderLibrary(tmp_path),
        recording_session={
            "call_id": "a",
            "headers": [{"name": "User-to-User", "value": "00FA08;encoding=hex"}],
            "parties": [{"aor": "sip:+1202@example.net", "name": "Dan"}],
        },
        communication_sessions=[{"session_id": "s", "extensions": [{"element": "{x}ucid", "text": "UCID-77"}]}],
    )
    library = RecorderLibrary(tmp_path)
    for text in ("00fa08", "ucid-77", "+1202", "DAN"):
        assert len(library.find(text=text)) == 1
    assert len(library.find(aor="sip:+1202@example.net")) == 1
    assert library.find(text="nobody") == []


def test_recovered_files_are_private(tmp_path: Path) -> None:
    RecorderLibrary(tmp_path).new_directory(WALL)
    (found,) = recovered(tmp_path)
    assert stat.S_IMODE((found.directory / "recording.json").stat().st_mode) & 0o007 == 0
