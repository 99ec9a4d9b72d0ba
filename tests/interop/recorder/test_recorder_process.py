"""The recorder as a process: how it is stopped, and what a small disk does to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.interop.recorder.recorder_process import RecorderProcess, RecordingClient, until


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


def start(stack: ExitStack, directory: Path, more: str = "", **options: str) -> RecorderProcess:
    recorder = RecorderProcess(directory, more, **options)
    stack.callback(recorder.stop)
    return recorder


def client(stack: ExitStack, recorder: RecorderProcess) -> RecordingClient:
    found = RecordingClient(recorder)
    stack.callback(found.close)
    return found


def test_sigterm_hands_the_sessions_over(tmp_path: Path, stack: ExitStack) -> None:
    recorder = start(stack, tmp_path)
    clients = [client(stack, recorder) for _ in range(5)]
    for each in clients:
        assert each.begin().status == 200
    clients[0].talk(1)
    recorder.signal(signal.SIGTERM)
    for each in clients:
        (bye,) = until(partial(each.requests, "BYE"))
        assert bye.get("reason") == 'SIP;cause=503;text="the recorder stops"'
    assert recorder.process.wait(60) == 0
    found = recorder.recordings()
    assert [each["state"] for each in found] == ["interrupted"] * 5
    assert max(each["duration"] or 0 for each in found) > 0.9


def test_a_drain_waits_for_the_sessions_and_refuses_others(tmp_path: Path, stack: ExitStack) -> None:
    recorder = start(stack, tmp_path, 'on_stop = "drain"', rest="[service]\ndrain = 60")
    first, late = client(stack, recorder), client(stack, recorder)
    first.begin()
    first.talk(0.5)
    recorder.signal(signal.SIGTERM)
    until(lambda: "stopping:" in recorder.text)
    late.send("INVITE", "v=0\r\n", ("Require: siprec",))
    assert late.response().status == 503
    assert not first.requests("BYE")
    first.talk(0.5)
    first.send("BYE")
    assert first.response().status == 200
    assert recorder.process.wait(60) == 0
    assert [each["state"] for each in recorder.recordings()] == ["complete"]


def test_a_drain_has_an_end(tmp_path: Path, stack: ExitStack) -> None:
    recorder = start(stack, tmp_path, 'on_stop = "drain"', rest="[service]\ndrain = 0.5")
    first = client(stack, recorder)
    first.begin()
    recorder.signal(signal.SIGTERM)
    (bye,) = until(lambda: first.requests("BYE"))
    assert str(bye.get("reason")).startswith("SIP;cause=503")
    assert recorder.process.wait(60) == 0


def test_a_second_signal_ends_a_drain(tmp_path: Path, stack: ExitStack) -> None:
    recorder = start(stack, tmp_path, 'on_stop = "drain"', rest="[service]\ndrain = 3600")
    first = client(stack, recorder)
    first.begin()
    recorder.signal(signal.SIGTERM)
    until(lambda: "stopping:" in recorder.text)
    recorder.signal(signal.SIGTERM)
    assert recorder.process.wait(60) == 0
    assert until(lambda: first.requests("BYE"))


def test_a_corrupt_library_does_not_keep_it_from_starting(tmp_path: Path, stack: ExitStack) -> None:
    day = tmp_path / "rec" / "2026" / "03" / "02"
    for number in range(3):
        (day / f"20260302T091458Z-0000000{number}").mkdir(parents=True)
    os.mkfifo(day / "20260302T091458Z-00000000" / "recording.json")
    (day / "20260302T091458Z-00000001" / "recording.json").write_text('{"state": "recor')
    (day / "notes.txt").write_text("not ours")
    recorder = start(stack, tmp_path)
    until(lambda: "notes.txt" in recorder.text)
    one = client(stack, recorder)
    one.begin()
    one.send("BYE")
    assert one.response().status == 200
    until(lambda: len(recorder.recordings()) == 4)
    assert {each["state"] for each in recorder.recordings()} == {"failed", "complete"}


SMALL = """
import subprocess, sys
subprocess.run(["mount", "-t", "tmpfs", "-o", sys.argv[1], "tmpfs", sys.argv[2]], check=True)
subprocess.run([sys.executable, "-m", "tests.interop.recorder.small_disk", sys.argv[3]], check=True)
"""


@pytest.mark.parametrize(
    ("options", "name"),
    [("size=300k", "full_disk"), ("size=100m,nr_inodes=12", "no_inodes")],
)
def test_on_a_small_disk(tmp_path: Path, options: str, name: str) -> None:
    """In a mount namespace of its own, which an ordinary user may have as well."""
    disk = tmp_path / "disk"
    disk.mkdir()
    found = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", SMALL, options, str(disk), name],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "SMALL_DISK": str(disk)},
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
