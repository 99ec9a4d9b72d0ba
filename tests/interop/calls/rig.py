"""The system under test: proxy with embedded relay, recorder, and what stands for broken recorders."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.interop.calls.harness import HOST, Command, Sipp, free_port, until
from tests.interop.calls.scenarios import Scenario
from tests.parallel import share, unused_port

# Two runs at the same time should not see each other's media.
_SHARE = share(2000, 5)
RELAY_PORTS = (30000 + _SHARE, 31999 + _SHARE)
RECORDER_PORTS = (40000 + _SHARE, 41999 + _SHARE)


class Rig:
    """Users say what becomes of a call: ``bob`` is recorded, ``plain`` is not, ``gone``, ``silent`` and ``busy`` have
    a recorder of that kind, ``direct`` does not even meet the relay; ``tcp-`` before it is reached by TCP."""

    def __init__(
        self,
        directory: Path,
        *,
        relay_ports: tuple[int, int] = RELAY_PORTS,
        recorder_ports: tuple[int, int] = RECORDER_PORTS,
        more: str = "",
    ) -> None:
        self._more = more
        self.directory = directory
        self._relay_ports = relay_ports
        self._recorder_ports = recorder_ports
        self.callee_port = free_port()
        self.busy_port = free_port()
        self.gone_port = unused_port()
        self._stack = ExitStack()
        self._runs = 0

    def __enter__(self) -> Self:
        with self._stack as stack:
            silent = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            silent.bind((HOST, 0))
            recorder = f"""
[recorder]
listen = ["udp:{HOST}:0", "tcp:{HOST}:0"]
directory = {json.dumps(str(self.directory / "recordings"))}
ports = "{self._recorder_ports[0]}-{self._recorder_ports[1]}"
"""
            self.recorder = stack.enter_context(Command("recorder", recorder, self.directory / "recorder"))
            recorders = {
                "default": self.recorder.port(),
                "silent": silent.getsockname()[1],
                "busy": self.busy_port,
                "gone": self.gone_port,
            }
            lines = [
                f'[sip]\nlisten = ["udp:{HOST}:0", "tcp:{HOST}:0"]',
                f'[relay]\nports = "{self._relay_ports[0]}-{self._relay_ports[1]}"',
                # On a busy host the relay may be late, which is not what these tests are about.
                "[media]\ntimeout = 2.0",
            ]
            for name, port in recorders.items():
                # UDP, or TCP where the metadata makes the message too large for it (RFC 3261 18.1.1).
                lines.append(f'[recording.{name}]\nsrs = ["sip:{HOST}:{port}"]')
            target = f'targets = ["sip:{HOST}:{self.callee_port}"]'
            tcp = f'targets = ["sip:{HOST}:{self.callee_port};transport=tcp"]'
            lines.append(f'[[route]]\nuser = "tcp-.*"\nrecord = "default"\n{tcp}')
            lines.append(f'[[route]]\nuser = "bob"\nrecord = "default"\n{target}')
            lines += [f'[[route]]\nuser = "{name}"\nrecord = "{name}"\n{target}' for name in recorders]
            lines.append(f'[[route]]\nuser = "plain"\nmedia = "always"\n{target}')
            lines.append(f'[[route]]\nuser = "direct"\nmedia = "never"\n{target}')
            # Phones that register are found by the registrar; the calls between them are recorded.
            lines.append('[[route]]\nrecord = "default"\nregistrar = true')
            lines.append(self._more)
            self.proxy = stack.enter_context(Command("serve", "\n".join(lines) + "\n", self.directory / "serve"))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            error.add_note(f"siprec serve said:\n{self.proxy.text[-3000:]}\nrecorder:\n{self.recorder.text[-3000:]}")
        self._stack.close()

    def new_directory(self, name: str) -> Path:
        """A fresh directory for one run."""
        self._runs += 1
        directory = self.directory / f"{self._runs:03d}-{name}"
        directory.mkdir()
        return directory

    def call(
        self,
        caller: Scenario,
        callee: Scenario,
        *,
        user: str = "bob",
        transport: str = "u1",
        calls: int = 1,
        rate: float = 10,
        audio: tuple[Path, Path] | None = None,
        trace: bool = True,
        limit: float = 60,
        port: int | None = None,
        check: bool = True,
    ) -> tuple[Sipp, Sipp]:
        """Run both sides to their ends; all calls must succeed on both unless `check`
        is off. `audio`: what caller and callee play."""
        directory = self.new_directory(user)
        for side, file in zip(("caller", "callee"), audio or (), strict=False):
            (directory / side).mkdir()
            (directory / side / "audio.pcap").symlink_to(file)
        b = Sipp(callee, directory / "callee", port=self.callee_port, calls=calls, transport=transport, trace=trace,
                 limit=limit)  # fmt: skip
        with (
            b,
            Sipp(
                caller,
                directory / "caller",
                port=port or free_port(),
                proxy=self.proxy.port("tcp" if transport == "t1" else "udp"),
                service=user,
                calls=calls,
                rate=rate,
                transport=transport,
                trace=trace,
                limit=limit,
            ) as a,
        ):
            a.finish(limit + 20, check=check)
            b.finish(limit + 20, check=check)
        return a, b

    def recordings(self) -> dict[str, dict[str, Any]]:
        """The recordings of the recorder: directory -> contents of ``recording.json``."""
        files = (self.directory / "recordings").rglob("recording.json")
        return {str(file.parent): json.loads(file.read_text()) for file in files}

    def completed(self, known: set[str], number: int = 1) -> dict[str, dict[str, Any]]:
        """Wait until `number` recordings that were not `known` are complete."""

        def new() -> dict[str, dict[str, Any]]:
            return {k: v for k, v in self.recordings().items() if k not in known and v["state"] == "complete"}

        assert until(lambda: len(new()) >= number, 30), f"{len(new())} of {number} recordings are complete"
        return new()

    def at_rest(self) -> bool:
        """No call, dialog, recording or media session is alive."""
        counts = self.proxy.counts()
        proxy, agent = counts["proxy"], counts["agent"]
        return not (
            proxy["calls"] or proxy["dialogs"] or proxy["media_sessions"] or any(agent.values()) or counts["recordings"]
        )
