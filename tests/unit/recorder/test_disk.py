"""A disk that is full, over quota, read-only, slow or gone: before a session, in the middle of one, and after it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from siprec.audio.codecs import codec
from siprec.audio.g711 import ulaw_decode, ulaw_encode
from siprec.audio.melody import caller_melody, to_int16
from siprec.audio.packets import packets
from siprec.recorder import space
from siprec.recorder.disk import DiskFile
from siprec.recorder.disk_thread import DiskWriter
from siprec.recorder.errors import RecorderFull
from siprec.recorder.library import RecorderLibrary
from siprec.recorder.recording_json import write_json
from siprec.recorder.settings import RecorderSettings
from siprec.recorder.space import RESERVE, Space
from tests.unit.recorder.recorder_harness import Bench, read

PCMU = codec("PCMU", 8000)
TUNE = to_int16(caller_melody(12, 8000))
CODED = ulaw_decode(ulaw_encode(TUNE))
Open = Callable[..., Bench]
REFUSALS = [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Open]:
    made: list[Bench] = []

    def make(**settings: Any) -> Bench:
        made.append(Bench(tmp_path / "rec", RecorderSettings(**settings)))
        return made[-1]

    yield make
    for each in made:
        each.close()


class Disk:
    """Refuses all that would need room, from :meth:`fail` on until :meth:`mend`."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch
        self._number = 0
        for name in ("pwrite", "write", "ftruncate", "mkdir", "posix_fallocate"):
            self._wrap(name)
        opened = os.open

        def open_(path: Any, flags: int, *more: Any, **other: Any) -> int:
            if self._number and flags & os.O_CREAT and "siprec" not in str(path):
                self._refuse()
            return opened(path, flags, *more, **other)

        patch.setattr(os, "open", open_)

    def _wrap(self, name: str) -> None:
        real = getattr(os, name)

        def call(*arguments: Any, **other: Any) -> Any:
            if self._number and not (name == "write" and arguments[0] == self.spared):
                self._refuse()
            return real(*arguments, **other)

        self._patch.setattr(os, name, call)

    spared = -1

    def _refuse(self) -> None:
        raise OSError(self._number, os.strerror(self._number))

    def fail(self, number: int = errno.ENOSPC) -> None:
        self._number = number

    def mend(self) -> None:
        self._number = 0


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def play(b: Bench, first: int, last: int) -> None:
    """The tune from second `first` to second `last`; the next part follows without a gap."""
    b.play(seconds(first, last))
    b.clock.advance(b.clock.now() + 0.02)
    settled(b)


def settled(b: Bench) -> None:
    b.recorder.writer.call(lambda: None).result(timeout=60)


def seconds(first: int, last: int, ssrc: int = 1) -> Any:
    part = TUNE[first * 8000 : last * 8000]
    return packets(part, PCMU, 0, ssrc=ssrc, sequence=first * 50, timestamp=first * 8000)


# -- before a session --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", REFUSALS)
def test_a_session_for_which_there_is_no_room_is_refused_and_leaves_nothing(
    bench: Open, disk: Disk, number: int
) -> None:
    b = bench()
    disk.fail(number)
    with pytest.raises(RecorderFull) as refused:
        b.offer(b.audio("1"))
    assert refused.value.status == 503
    assert os.strerror(number) in refused.value.reason
    assert b.pool.open == 0
    assert not b.recorder.sessions
    disk.mend()
    assert not [path for path in b.root.rglob("*") if not path.is_dir()]
    b._session = None
    assert b.offer(b.audio("1")).media[0].port


def statvfs(**values: int) -> SimpleNamespace:
    usual = {"f_bavail": 1 << 30, "f_frsize": 4096, "f_flag": 0, "f_files": 1000, "f_favail": 900}
    return SimpleNamespace(**{**usual, **values})


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({}, ""),
        ({"f_bavail": 100}, "min_free"),
        ({"f_favail": 3}, "inodes"),
        ({"f_files": 0, "f_favail": 0}, ""),  # btrfs has no number of them
        ({"f_flag": os.ST_RDONLY}, "Read-only"),
    ],
)
def test_room_is_looked_for_before_a_session_is_accepted(
    bench: Open, monkeypatch: pytest.MonkeyPatch, values: dict[str, int], problem: str
) -> None:
    b = bench(min_free=1 << 20)
    monkeypatch.setattr(space, "os", SimpleNamespace(statvfs=lambda path: statvfs(**values), ST_RDONLY=os.ST_RDONLY))
    if problem:
        with pytest.raises(RecorderFull, match=problem):
            b.session  # noqa: B018 - it is made there
    else:
        assert b.session
    assert problem in b.recorder.space.problem()


def test_a_disk_that_is_late_takes_no_further_session(bench: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    b = bench()
    gate = threading.Event()
    b.recorder.writer.submit(gate.wait)
    try:
        b.offer(b.audio("1"))
        monkeypatch.setattr(space, "SLOW", -1.0)
        with pytest.raises(RecorderFull, match="slow"):
            b.recorder.session(call_id="x", from_uri="sip:x@x")
    finally:
        gate.set()
    settled(b)


def test_a_removed_library_is_made_again(bench: Open) -> None:
    b = bench()
    shutil.rmtree(b.root)
    b.offer(b.audio("1"))
    b.play(seconds(0, 1))
    assert b.finish().state == "complete"


def test_the_probe_finds_what_only_writing_tells(tmp_path: Path, disk: Disk) -> None:
    there = Space(tmp_path, DiskWriter())
    assert there.probe() == ""
    disk.fail(errno.EDQUOT)
    assert there.problem() == ""
    assert os.strerror(errno.EDQUOT) in there.probe()
    disk.mend()
    assert not list(tmp_path.iterdir())


def test_a_library_that_cannot_be_made_does_not_stop_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    library = RecorderLibrary(tmp_path / "file" / "rec")
    assert list(library) == []
    assert library.recover() == []
    assert Space(library.root, DiskWriter()).problem()


# -- in the middle of one ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("audio_format", ["wav", "flac"])
def test_a_disk_that_refuses_for_a_moment_costs_nothing(bench: Open, disk: Disk, audio_format: str) -> None:
    b = bench(audio_format=audio_format)
    troubles: list[str] = []
    b.session.on_trouble = troubles.append
    b.offer(b.audio("1"), b.audio("2", "4", "rtpmap:4 G723/8000"))
    play(b, 0, 4)
    disk.fail()
    play(b, 4, 5)
    disk.mend()
    recording = b.session.recordings[0]
    recording.save()
    b.recorder.writer.call(recording.disk.check).result(timeout=60)
    play(b, 5, 8)
    result = b.finish()
    assert troubles == []
    assert result.state == "complete"
    assert next(e.split(":")[0] for e in result.summary["errors"]) == "writing failed"
    assert np.array_equal(read(result.stream_file(1))[: 8 * 8000, 0], CODED[: 8 * 8000])
    assert not (result.directory / RESERVE).exists()


@pytest.mark.parametrize("number", REFUSALS)
def test_a_disk_that_refuses_for_longer_ends_the_session_and_is_told_even_on_the_full_disk(
    bench: Open, disk: Disk, number: int
) -> None:
    b = bench()
    troubles: list[str] = []

    def give_up(reason: str) -> None:
        troubles.append(reason)
        b.session.close(reason)

    b.session.on_trouble = give_up
    b.offer(b.audio("1"))
    play(b, 0, 4)
    disk.fail(number)
    reserve = next(b.root.rglob(RESERVE))
    disk.spared = os.open(reserve, os.O_WRONLY)  # the descriptor that the next open() gets
    os.close(disk.spared)
    for second in range(4, 10):
        if not troubles:
            play(b, second, second + 1)
    assert troubles == [f"disk: {os.strerror(number)}"]
    result = b.session.close().result(timeout=60)
    assert result.state == "failed"
    assert any(os.strerror(number) in error for error in result.summary["errors"])
    disk.mend()
    for _ in range(100):
        settled(b)
        b.recorder.writer._run_again()
        if not b.recorder.writer._again:
            break
    (found,) = b.library
    assert found.state == "failed"
    assert "not on the disk" not in str(found.summary["errors"])
    # All of it is there, now that there is room again: what came before the session ended is kept.
    got = read(found.stream_file(1))[:, 0]
    frames = found.streams[0]["packets"]["received"] * 160
    assert frames >= 6 * 8000
    assert np.array_equal(got[:frames], CODED[:frames])


def test_the_last_json_takes_the_room_that_was_set_aside(bench: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    b = bench()
    b.offer(b.audio("1"))
    play(b, 0, 2)
    (reserve,) = b.root.rglob(RESERVE)
    assert reserve.stat().st_blocks * 512 >= space.RESERVE_SIZE
    opened = os.open

    def full(path: Any, flags: int, *more: Any, **other: Any) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opened(path, flags, *more, **other)

    monkeypatch.setattr(os, "open", full)
    b.session.close("disk: full").result(timeout=60)
    (found,) = b.library
    assert found.state == "interrupted"
    assert found.summary["end_reason"] == "disk: full"
    assert not reserve.exists()


def test_a_deleted_recording_ends_the_session(bench: Open) -> None:
    b = bench()
    troubles: list[str] = []
    b.session.on_trouble = troubles.append
    b.offer(b.audio("1"))
    play(b, 0, 3)
    shutil.rmtree(next(b.root.rglob("mix.wav")).parent)
    for second in range(3, 9):
        play(b, second, second + 1)
    assert troubles == ["disk: a file of the recording was deleted"]
    result = b.finish()
    assert result.state == "failed"
    (found,) = b.library
    assert found.state == "failed"


def test_a_disk_that_hangs_ends_the_session_before_packets_are_dropped(
    bench: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = bench()
    troubles: list[str] = []
    b.session.on_trouble = troubles.append
    b.offer(b.audio("1"))
    b.play(seconds(0, 1))
    gate = threading.Event()
    b.recorder.writer.submit(gate.wait)
    monkeypatch.setattr("siprec.recorder.cs_recording.TOO_SLOW", -1.0)
    try:
        b.play(packets(to_int16(caller_melody(40, 8000)), PCMU, 0, ssrc=1, sequence=50, timestamp=8000))
    finally:
        gate.set()
    assert troubles == ["disk: too slow"]
    assert b.session.lines[0].dropped_disk == 0


def test_a_fault_of_ours_in_the_disk_thread_is_told(bench: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    b = bench()
    b.offer(b.audio("1"))
    play(b, 0, 2)
    pipeline = b.session.recordings[0].pipeline
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "write", lambda batch: 1 / 0)
        play(b, 2, 4)
    b.play(seconds(4, 6))
    result = b.finish()
    assert result.state == "failed"
    assert "ZeroDivisionError" in str(result.summary["errors"])


def test_a_json_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "recording.json"
    written = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: written(fd, bytes(data)[:10]))
    write_json(path, {"a": "x" * 1000})
    assert json.loads(path.read_bytes()) == {"a": "x" * 1000}
    left = [5]

    def full(fd: int, data: Any) -> int:
        if not left:
            raise OSError(errno.ENOSPC, "full")
        return written(fd, bytes(data)[: left.pop()])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="full"):
        write_json(path, {"b": 1})
    assert json.loads(path.read_bytes()) == {"a": "x" * 1000}
    assert [each.name for each in tmp_path.iterdir()] == ["recording.json"]


# -- files -------------------------------------------------------------------------------------------------------------


def test_what_cannot_even_wait_is_counted(tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("siprec.recorder.disk.SPOOL_LIMIT", 100)
    file = DiskFile(tmp_path / "a")
    disk.fail()
    file.pwrite(b"x" * 80, 0)
    file.pwrite(b"y" * 80, 80)
    assert (file.waiting, file.lost) == (80, 80)
    disk.mend()
    file.close()
    assert file.waiting == 0
    assert (tmp_path / "a").read_bytes() == b"x" * 80


def test_a_file_that_could_not_be_made_is_made_later(tmp_path: Path, disk: Disk) -> None:
    disk.fail()
    file = DiskFile(tmp_path / "a")
    file.pwrite(b"hello", 0)
    file.truncate(10)
    file.close()
    assert file.unfinished
    assert not (tmp_path / "a").exists()
    disk.mend()
    assert file.retry()
    assert (tmp_path / "a").read_bytes() == b"hello".ljust(10, b"\0")
    assert file.error is None
