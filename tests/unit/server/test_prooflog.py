"""Proofs on disk, and the audit that reads them."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from siprec.cli.audit import audit, main, moment
from siprec.recording.proof import VERSION, Begun, Proof, Verdict
from siprec.server.prooflog import ProofLog, files, read

NOW = 1_700_000_000.0


def begun(number: int, answered: float = NOW) -> Begun:
    return Begun(
        dlg_id=f"{number}.1",
        call_id=f"call-{number}",
        instance="default",
        caller="sip:a@x",
        callee="sip:b@x",
        answered=answered,
    )


def ended(number: int, verdict: Verdict, *reasons: str, answered: float = NOW) -> Proof:
    return Proof(
        **{name: getattr(begun(number, answered), name) for name in Begun.__struct_fields__},
        verdict=verdict,
        reasons=list(reasons),
        version=VERSION,
    )


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def written(directory: Path, *lines: Begun | Proof) -> ProofLog:
    log = ProofLog(directory)
    for line in lines:
        log.write(msgspec.json.encode(line))
    log.close()
    return log


def test_lines_are_read_as_they_were_written_and_by_nobody_else(tmp_path: Path) -> None:
    directory = tmp_path / "proof"
    lines: list[Begun | Proof] = [begun(1), ended(1, "complete"), begun(2)]
    log = written(directory, *lines)
    assert (log.written, log.lost) == (3, 0)
    assert list(read(directory)) == lines
    ((path, day),) = files(directory)
    assert path.name == f"proof-{time.strftime('%Y%m%d', time.gmtime())}.jsonl"
    assert day.hour == 0
    assert stat.S_IMODE(path.stat().st_mode) & 0o027 == 0


def test_a_second_process_goes_on_in_the_same_file(tmp_path: Path) -> None:
    written(tmp_path, begun(1))
    written(tmp_path, ended(1, "complete"))
    assert len(list(read(tmp_path))) == 2


def test_a_disk_that_takes_nothing_is_counted_and_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "proof").write_text("a file where the directory should be")
    log = ProofLog(tmp_path / "proof")
    for number in range(5):
        log.write(msgspec.json.encode(begun(number)))
    log.close()
    assert (log.written, log.lost) == (0, 5)
    assert len([record for record in caplog.records if "not written" in record.message]) == 1


def test_a_disk_that_has_room_again_gets_what_it_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = tmp_path / "proof"
    place.write_text("a file where the directory should be")
    log = ProofLog(place)
    assert log.probe() != ""
    log.write(msgspec.json.encode(begun(1)))
    place.unlink()
    log.write(msgspec.json.encode(begun(2)))
    log.close()
    assert list(read(place)) == [begun(1), begun(2)]
    assert (log.written, log.lost, log.error) == (2, 0, "")
    assert any("written again" in record.message for record in caplog.records)


def test_a_line_that_does_not_fit_is_taken_away_again_and_written_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = [40]

    def write(file: int, octets: memoryview, real: Callable[[int, memoryview], int] = os.write) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = real(file, octets[: room[0]])
        room[0] -= done
        return done

    log = ProofLog(tmp_path)
    first, second = msgspec.json.encode(begun(1)), msgspec.json.encode(begun(2))
    room[0] = len(first) + 1 + 20
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        log.write(first)
        log.write(second)
        until(lambda: log.error != "")
        ((path, _),) = files(tmp_path)
        assert path.read_bytes() == first + b"\n"
        assert (log.written, log.waiting, log.error) == (1, 1, "No space left on device")
    log.close()
    assert path.read_bytes() == first + b"\n" + second + b"\n"
    assert (log.written, log.waiting, log.error) == (2, 0, "")


def test_a_line_cut_short_does_not_swallow_the_next(tmp_path: Path) -> None:
    written(tmp_path, begun(1))
    ((path, _),) = files(tmp_path)
    path.write_bytes(path.read_bytes() + msgspec.json.encode(begun(2))[:30])  # a process that was killed
    written(tmp_path, begun(3))
    assert [line.call_id if isinstance(line, Begun) else "?" for line in read(tmp_path)] == ["call-1", "?", "call-3"]
    # What a version wrote that did not look is read as well.
    path.write_bytes(msgspec.json.encode(begun(4))[:30] + msgspec.json.encode(begun(5)) + b"\n\n")
    assert [line.call_id if isinstance(line, Begun) else "?" for line in read(tmp_path)] == ["?", "call-5"]


def test_what_is_no_file_is_left_alone(tmp_path: Path) -> None:
    written(tmp_path, begun(1))
    os.mkfifo(tmp_path / "proof-20200101.jsonl")
    (tmp_path / "proof-20200102.jsonl").mkdir()
    assert list(read(tmp_path)) == [begun(1)]


@pytest.mark.parametrize("full", [False, True])
def test_a_directory_that_takes_nothing_is_known_at_the_start(
    full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = ProofLog(tmp_path / "proof")
    assert log.probe() == ""
    assert list((tmp_path / "proof").iterdir()) == []
    if full:

        def fsync(file: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", fsync)
    else:
        (tmp_path / "other").write_text("")
        log = ProofLog(tmp_path / "other")
    assert log.probe() != ""
    assert len([record for record in caplog.records if "not written" in record.message]) == 1
    log.close()


def test_files_older_than_wanted_are_deleted_and_others_left_alone(tmp_path: Path) -> None:
    for name in ("proof-20200101.jsonl", "proof-2020.jsonl", "other.jsonl"):
        (tmp_path / name).write_text("")
    written(tmp_path, begun(1))
    assert (tmp_path / "proof-20200101.jsonl").exists()
    log = ProofLog(tmp_path, keep_days=30)
    log.write(msgspec.json.encode(begun(2)))
    log.close()
    names = {path.name for path in tmp_path.iterdir()}
    assert "proof-20200101.jsonl" not in names
    assert {"proof-2020.jsonl", "other.jsonl"} < names


def test_the_audit_tells_what_was_not_recorded_and_what_has_no_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = ended(9, "none", "too old to be told", answered=NOW - 1e6)
    written(
        tmp_path,
        *(begun(1), begun(2), begun(3), begun(4), old),
        *(ended(1, "complete"), ended(2, "partial", "the SRS misses 2 packets"), ended(3, "none", "486 Busy Here")),
    )
    found = audit(tmp_path, NOW - 60, float("inf"))
    assert (found.calls, found.complete, found.partial, found.none) == (4, 1, 1, 1)
    assert [line.call_id for line in found.unended] == ["call-4"]
    assert main(tmp_path, "2020-01-01", "", as_json=False) == 1
    said = capsys.readouterr().out
    assert "486 Busy Here" in said.replace("\n", " ")
    assert "5 recordings wanted" in said


def test_a_clean_audit_has_exit_status_0_and_an_unreadable_one_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path, begun(1), ended(1, "complete"))
    assert main(tmp_path, "2020-01-01", "", as_json=True) == 0
    assert msgspec.json.decode(capsys.readouterr().out)["complete"] == 1
    assert main(tmp_path / "nowhere", "24h", "", as_json=False) == 2
    assert main(tmp_path, "yesterday", "", as_json=False) == 2
    path = files(tmp_path)[0][0]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main(empty, "24h", "", as_json=False) == 2
    assert f"no proofs in {empty}" in capsys.readouterr().err
    path.write_bytes(path.read_bytes() + b'{"type":"end","dlg')  # a process that was killed while it wrote
    assert main(tmp_path, "2020-01-01", "", as_json=False) == 2
    assert f"{path}:3" in capsys.readouterr().err


def test_what_is_unconfirmed_counts_as_recorded_unless_strict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = ended(2, "complete")
    old.version = 1
    written(tmp_path, begun(1), ended(1, "unconfirmed", "the SRS has reported nothing"), begun(2), old)
    assert main(tmp_path, "2020-01-01", "", as_json=False) == 0
    said = capsys.readouterr().out
    assert "the SRS has reported nothing" in said
    assert "earlier version" in said
    assert "0 complete, 2 unconfirmed" in said
    assert main(tmp_path, "2020-01-01", "", as_json=False, strict=True) == 1
    assert main(tmp_path, "2020-01-01", "", as_json=True, strict=True, call_id="call-3") == 0


def test_what_is_piped_is_one_line_a_call_however_long(tmp_path: Path) -> None:
    written(tmp_path, *(ended(number, "none", "why " * 100) for number in range(3)))
    command = [sys.executable, "-m", "siprec", "audit", str(tmp_path), "--since", "2020-01-01"]
    found = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "40"})
    lines = found.stdout.splitlines()
    assert (found.returncode, len(lines)) == (1, 5)
    assert all(line.endswith("why " * 99 + "why") for line in lines[1:4])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", NOW - 90),
        ("24h", NOW - 86400),
        ("2w", NOW - 1209600),
        ("1970-01-02", 86400.0),
        ("1970-01-01T01:00+01:00", 0.0),
    ],
)
def test_periods_are_spans_dates_or_times(text: str, seconds: float) -> None:
    assert moment(text, NOW) == seconds


def test_lines_survive_kill_9(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from siprec.server.prooflog import ProofLog\n"
        "log = ProofLog(Path(sys.argv[1]))\n"
        "for line in sys.argv[2:]: log.write(line.encode())\n"
        "time.sleep(600)"
    )
    wanted = [begun(number) for number in range(3)]
    arguments = [str(tmp_path), *(msgspec.json.encode(line).decode() for line in wanted)]
    with subprocess.Popen([sys.executable, "-c", code, *arguments]) as child:
        try:
            until(lambda: len(list(read(tmp_path))) == 3)
        finally:
            child.kill()
    assert child.returncode == -signal.SIGKILL
    assert list(read(tmp_path)) == wanted


def test_lines_are_written_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = []

    def write(file: int, octets: memoryview, real: Callable[[int, memoryview], int] = os.write) -> int:
        writes.append(len(octets))
        return real(file, octets)

    monkeypatch.setattr(os, "write", write)
    log = ProofLog(tmp_path)
    for number in range(500):
        log.write(msgspec.json.encode(begun(number)))
    log.close()
    assert len(list(read(tmp_path))) == 500
    assert len(writes) <= 20


def test_a_backlog_is_bounded_and_what_it_costs_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("siprec.server.prooflog._BACKLOG", 3)
    (tmp_path / "proof").write_text("a file where the directory should be")
    log = ProofLog(tmp_path / "proof")
    for number in range(5):
        log.write(msgspec.json.encode(begun(number)))
    assert log.waiting == 3
    log.close()
    assert (log.written, log.lost) == (0, 5)
