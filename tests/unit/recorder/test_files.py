"""Files survive what kills the process that writes them."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile  # type: ignore[import-untyped]

from siprec.audio.melody import caller_melody, matches, to_int16
from siprec.recorder import files
from siprec.recorder.library import RecorderLibrary
from siprec.recorder.recording_json import write_json

WRITER = """
import sys, time
from pathlib import Path
from siprec.audio.melody import caller_melody, to_int16
from siprec.recorder.files import create
out = create(Path(sys.argv[1]), sys.argv[2], 8000, 1)
tune = to_int16(caller_melody(600, 8000)).reshape(-1, 1)
for start in range(0, len(tune), 4001):
    out.write(tune[start:start + 4001])
    print(out.frames, flush=True)
    time.sleep(0.002)
"""


def kill_in_the_middle(path: Path, audio_format: str) -> int:
    """Run a writer, kill -9 it after 30 blocks; frames it said it had written."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), audio_format], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    frames = 0
    with process.stdout:
        for number, line in enumerate(process.stdout):
            frames = int(line)
            if number == 30:
                os.kill(process.pid, signal.SIGKILL)
                break
        assert process.wait(timeout=60) == -signal.SIGKILL
    return frames


@pytest.mark.parametrize("audio_format", ["wav", "flac"])
def test_a_file_is_playable_after_kill_9_and_whole_after_repair(tmp_path: Path, audio_format: str) -> None:
    path = tmp_path / f"a.{audio_format}"
    written = kill_in_the_middle(path, audio_format)
    block = 4096 if audio_format == "flac" else 0  # what the encoder had not finished
    before, rate = soundfile.read(str(path), dtype="int16")
    assert rate == 8000
    assert len(before) >= written - block - 4001
    frames = files.repair(path)
    after, _ = soundfile.read(str(path), dtype="int16")
    assert len(after) == frames >= written - block - 1
    tune = to_int16(caller_melody(600, 8000))
    assert np.array_equal(after, tune[: len(after)])
    assert files.repair(path) == frames


@pytest.mark.parametrize("audio_format", ["wav", "flac"])
def test_a_file_torn_in_its_last_block_is_repaired(tmp_path: Path, audio_format: files.Format) -> None:
    path = tmp_path / f"a.{audio_format}"
    tune = to_int16(caller_melody(20, 8000)).reshape(-1, 1)
    out = files.create(path, audio_format, 8000, 1)
    out.write(tune[:100_000])
    out.write_silence(12_000)
    out.write(tune[100_000:])
    out.close()
    out.close()
    whole = path.read_bytes()
    for cut in (1, 777, 20_000):
        path.write_bytes(whole[:-cut])
        frames = files.repair(path)
        got, _ = soundfile.read(str(path), dtype="int16")
        assert len(got) == frames
        assert frames >= len(tune) + 12_000 - 4096 - 2 * cut  # cut counts octets, compressed for FLAC
        assert np.array_equal(got[:100_000], tune[:100_000, 0])
        assert not got[100_000:112_000].any()
    path.write_bytes(whole)
    assert files.repair(path) == len(tune) + 12_000
    assert path.read_bytes() == whole


def test_a_wav_beyond_4_gib_is_rf64(tmp_path: Path) -> None:
    path = tmp_path / "big.wav"
    out = files.create(path, "wav", 48000, 2)
    out.write_silence(1_200_000_000)  # a hole: costs no disk
    mark = np.full((100, 2), 1234, np.int16)
    out.write(mark)
    out.close()
    assert path.stat().st_blocks * 512 < 10_000_000
    with soundfile.SoundFile(str(path)) as file:
        assert file.frames == 1_200_000_100
        file.seek(1_200_000_000)
        assert np.array_equal(file.read(dtype="int16"), mark)
    assert files.repair(path) == 1_200_000_100


def test_something_else_is_not_repaired(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(b"RIFF" + b"\0" * 200)
    with pytest.raises(ValueError, match="neither"):
        files.repair(path)


def test_existing_files_are_never_overwritten(tmp_path: Path) -> None:
    for audio_format in ("wav", "flac"):
        path = tmp_path / f"a.{audio_format}"
        path.write_bytes(b"precious")
        with pytest.raises(FileExistsError):
            files.create(path, "wav" if audio_format == "wav" else "flac", 8000, 1)
        assert path.read_bytes() == b"precious"


RECORDER = """
import asyncio, sys
from siprec.audio.codecs import codec
from siprec.audio.melody import caller_melody, to_int16
from siprec.audio.packets import packets
from tests.unit.recorder.recorder_harness import Bench
from siprec.recorder.settings import RecorderSettings
from pathlib import Path
b = Bench(Path(sys.argv[1]), RecorderSettings(audio_format=sys.argv[2]))
b.offer(b.audio("1"), b.audio("2"))
tune = to_int16(caller_melody(60, 8000))
pcmu = codec("PCMU", 8000)
number = 0
for second in range(60):
    part = tune[second * 8000:(second + 1) * 8000]
    step = dict(sequence=second * 50, timestamp=second * 8000)
    b.play(packets(part, pcmu, 0, ssrc=1, **step), packets(part, pcmu, 0, ssrc=2, **step))
    b.clock.advance(b.clock.now() + 0.02)
    b.recorder.writer.call(lambda: None).result()
    print(second, flush=True)
"""


@pytest.mark.parametrize("audio_format", ["wav", "flac"])
def test_a_killed_recorder_leaves_recordings_that_the_next_start_puts_right(tmp_path: Path, audio_format: str) -> None:
    root = Path(__file__).parents[3]
    process = subprocess.Popen(
        [sys.executable, "-c", RECORDER, str(tmp_path), audio_format],
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            if int(line) == 20:
                os.kill(process.pid, signal.SIGKILL)
                break
        assert process.wait(timeout=60) == -signal.SIGKILL
    library = RecorderLibrary(tmp_path)
    (found,) = library
    assert found.state == "recording"
    (recovered,) = library.recover()
    assert recovered.state == "interrupted"
    (again,) = library
    assert again.summary == recovered.summary
    assert again.summary["duration"] > 18
    tune = to_int16(caller_melody(60, 8000))
    for number in (1, 2):
        path = again.stream_file(number)
        assert path is not None
        got, _ = soundfile.read(str(path), dtype="int16")
        assert len(got) > 18 * 8000
        assert matches(got, tune[: len(got)], 8000) > 0.99
    assert again.mix is not None
    mix, _ = soundfile.read(str(again.mix), dtype="int16")
    assert matches(mix[:, 0], tune[: len(mix)], 8000) > 0.99
    assert library.recover() == []


def test_json_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "recording.json"
    write_json(path, {"a": 1})
    write_json(path, {"name": "Zoë"}, durable=False)
    assert json.loads(path.read_bytes()) == {"name": "Zoë"}
    assert [p.name for p in tmp_path.iterdir()] == ["recording.json"]


def test_a_broken_recording_does_not_hide_the_others(tmp_path: Path) -> None:
    library = RecorderLibrary(tmp_path)
    for wall in (1_772_442_898.0, 1_772_542_898.0, 1_772_642_898.0):
        directory = library.new_directory(wall)
        write_json(directory / "recording.json", {"state": "complete", "id": directory.name})
    newest, middle, _ = library.directories()
    (middle / "recording.json").write_text("{")
    assert next(r.directory for r in library) == newest
    assert len(list(library)) == 2


def test_wav_header_is_one_that_other_programs_read(tmp_path: Path) -> None:
    out = files.create(tmp_path / "a.wav", "wav", 8000, 2)
    out.write(np.zeros((10, 2), np.int16))
    out.close()
    data = (tmp_path / "a.wav").read_bytes()
    assert data[:4] == b"RIFF"
    assert struct.unpack_from("<I", data, 4)[0] == len(data) - 8
    assert len(data) == 80 + 40
