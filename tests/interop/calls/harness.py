"""Child processes of the call tests: our commands and SIPp, on free ports, never left behind."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from siprec.cli.child_process import end_with_parent
from tests.interop.calls.scenarios import Scenario
from tests.parallel import own_port, share

HOST = "127.0.0.1"


def free_port(kind: socket.SocketKind = socket.SOCK_DGRAM) -> int:
    """A port that nobody has now, whatever `kind`, nor will have by chance."""
    return own_port()


def media_port(_given: list[int] = []) -> int:  # noqa: B006 -- counts through the whole test run
    """An even port of this worker's own with some free ports above it, another one at each call."""
    first = 25000 + share(600, 5)
    for _ in range(200):
        start = _given[-1] + 40 if _given else first
        _given.append(start if start < first + 600 else first)
        if all(_free(_given[-1] + offset) for offset in range(4)):
            break
    return _given[-1]


def _free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def until(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Poll; returns whether the condition came true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


class Process:
    """A child whose output is kept in a file, and which ends with the ``with`` block."""

    end_signal = signal.SIGTERM

    def __init__(self, command: list[str], output: Path, *, stdin: int = subprocess.DEVNULL) -> None:
        self.command = command
        self.output = output
        self._file: IO[bytes] = output.open("wb")
        self.child = subprocess.Popen(
            command,
            cwd=output.parent,
            stdin=stdin,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            preexec_fn=end_with_parent,
        )

    @property
    def text(self) -> str:
        """What it has written so far."""
        return self.output.read_text(errors="replace")

    def stop(self) -> None:
        """The signal that ends it, SIGKILL after ten seconds."""
        if self.child.poll() is None:
            self.child.send_signal(self.end_signal)
            try:
                self.child.wait(10)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
        if self.child.stdin is not None:
            self.child.stdin.close()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if error is not None:
            error.add_note(f"{' '.join(self.command)} said:\n{self.text[-4000:]}")


class Command(Process):
    """``siprec serve`` or ``siprec recorder`` with a configuration."""

    end_signal = signal.SIGINT  # at once: SIGTERM would wait for calls

    def __init__(self, name: str, configuration: str, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        file = directory / f"{name}.toml"
        file.write_text(configuration)
        super().__init__([sys.executable, "-m", "siprec", name, "--config", str(file)], directory / f"{name}.log")
        if not until(lambda: ": ready" in self.text or self.child.poll() is not None) or self.child.poll() is not None:
            self.stop()
            raise AssertionError(f"siprec {name} did not start; it said:\n{self.text}")

    def port(self, transport: str = "udp") -> int:
        """Where it listens."""
        found = re.search(rf": ready.*?{transport}:{re.escape(HOST)}:(\d+)", self.text)
        assert found, self.text
        return int(found[1])

    def counts(self) -> dict[str, Any]:
        """What is alive in the process, asked for by SIGUSR1."""
        before = len(self._lines())
        self.child.send_signal(signal.SIGUSR1)
        assert until(lambda: len(self._lines()) > before), self.text
        return dict(json.loads(self._lines()[-1]))

    def _lines(self) -> list[str]:
        return [line for line in self.text.splitlines(keepends=True) if line.startswith("{") and line.endswith("}\n")]

    def children(self) -> list[int]:
        """Process ids of its children: the relay."""
        listed = Path(f"/proc/{self.child.pid}/task/{self.child.pid}/children").read_text()
        return [int(pid) for pid in listed.split()]


@dataclass(frozen=True, slots=True)
class Message:
    """One message as SIPp logged it: seconds, direction and text."""

    time: float
    sent: bool
    text: str

    @property
    def title(self) -> str:
        """``> 200 INVITE``: direction, method or status, method of the CSeq."""
        first = self.text.split(None, 2)
        cseq = re.search(r"^CSeq:\s*\d+\s+(\w+)", self.text, re.M | re.I)
        what = first[1] if first[0].startswith("SIP/") else first[0]
        return f"{'>' if self.sent else '<'} {what} {cseq[1] if cseq else ''}"


class Sipp(Process):
    """SIPp as caller (with a `proxy` port to call) or callee."""

    def __init__(
        self,
        scenario: Scenario,
        directory: Path,
        *,
        port: int,
        proxy: int | None = None,
        service: str = "bob",
        calls: int = 1,
        rate: float = 10,
        transport: str = "u1",
        trace: bool = True,
        limit: float = 60,
        options: tuple[str, ...] = (),
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        file = directory / "scenario.xml"
        file.write_text(scenario.xml())
        self.media = media_port()
        command = ["sipp", *([f"{HOST}:{proxy}"] if proxy is not None else []), "-sf", str(file), "-s", service]
        command += ["-i", HOST, "-p", str(port), "-mi", HOST, "-mp", str(self.media), "-m", str(calls), "-t", transport]
        command += ["-timeout", f"{limit}s", "-timeout_error", "-nostdin", "-trace_err", "-error_file", "errors.log"]
        command += ["-r", str(rate), "-trace_stat", "-stf", "stat.csv", "-fd", "1", "-trace_screen"]
        command += ["-screen_file", "screen.log", "-recv_timeout", "40000"]
        command += options
        if trace:
            command += ["-trace_msg", "-message_file", "messages.log"]
        super().__init__(command, directory / "output.log")
        self.directory = directory

    def finish(self, limit: float = 90, *, check: bool = True) -> None:
        """Wait for its end; all calls must have succeeded unless `check` is off."""
        status = self.child.wait(limit)
        errors = self.directory / "errors.log"
        said = errors.read_text(errors="replace") if errors.exists() else self.text[-3000:]
        assert status == 0 or not check, f"SIPp ended with {status}:\n{said}"

    def statistics_text(self) -> str:
        """The file of SIPp's statistics as far as it is written: a row of titles, then one a second."""
        file = self.directory / "stat.csv"
        return file.read_text() if file.exists() else ""

    def statistics(self) -> dict[str, str]:
        """The last line of SIPp's statistics."""
        lines = self.statistics_text().splitlines()
        return dict(zip(lines[0].split(";"), lines[-1].split(";"), strict=False))

    def messages(self) -> list[Message]:
        """All messages sent and received, in order."""
        text = (self.directory / "messages.log").read_bytes().decode(errors="replace").replace("\r\n", "\n")
        found = []
        for part in re.split(r"^-{30,} ", text, flags=re.M)[1:]:
            # Date, tab or blank, time of day, tab, seconds since 1970; then a line that says which way.
            head, _, rest = part.partition("\n")
            stamp = re.search(r"(\d{9,}\.\d+)|(\d\d):(\d\d):(\d\d\.\d+)", head)
            assert stamp, head
            seconds = float(stamp[1]) if stamp[1] else int(stamp[2]) * 3600 + int(stamp[3]) * 60 + float(stamp[4])
            way, _, body = rest.partition("\n\n")
            found.append(Message(seconds, "sent" in way, body.strip("\n")))
        return found
