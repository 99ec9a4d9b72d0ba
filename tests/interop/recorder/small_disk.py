"""Run by test_recorder_process.py, where ``$SMALL_DISK`` is a file system that is soon full."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.interop.recorder.recorder_process import RecorderProcess, RecordingClient, until

DISK = Path(os.environ["SMALL_DISK"])
NO_LIMIT = "[recorder.api]\nmin_free = 0"


def fill(path: Path) -> None:
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def full_disk() -> None:
    with ExitStack() as stack:
        recorder = RecorderProcess(DISK.parent / "process", NO_LIMIT, recordings=str(DISK / "rec"))
        stack.callback(recorder.stop)
        one, two, three = (RecordingClient(recorder) for _ in range(3))
        for each in (one, two, three):
            stack.callback(each.close)
        # The disk fills while the session is under way.
        assert one.begin().status == 200
        one.talk(2)
        fill(DISK / "fill")
        one.talk(30, lambda: bool(one.requests("BYE")))
        (bye,) = one.requests("BYE")
        assert str(bye.get("reason")).startswith("SIP;cause=503")
        failed = until(lambda: [each for each in recorder.recordings() if each["state"] == "failed"])
        assert "No space left on device" in str(failed[0]["errors"])
        # It is full before a session begins.
        refused = two.begin()
        assert refused.status == 503
        assert refused.get("retry-after")
        # There is room again: the next is taken, and the first gets what it still has to write.
        (DISK / "fill").unlink()
        assert three.begin().status == 200
        three.talk(0.5)
        three.send("BYE")
        until(lambda: [each for each in recorder.recordings() if each["state"] == "complete"])
        recorder.stop()
        (first,) = [each for each in recorder.recordings() if each["state"] == "failed"]
        assert "not on the disk" not in str(first["errors"])
        assert first["streams"][0]["audio_seconds"] > 3.5


def no_inodes() -> None:
    with ExitStack() as stack:
        recorder = RecorderProcess(DISK.parent / "process", NO_LIMIT, recordings=str(DISK / "rec"))
        stack.callback(recorder.stop)
        one = RecordingClient(recorder)
        stack.callback(one.close)
        assert one.begin().status == 503
        assert "inodes" in recorder.text
        assert not recorder.recordings()


if __name__ == "__main__":
    {"full_disk": full_disk, "no_inodes": no_inodes}[sys.argv[1]]()
