"""What bench/calls.py puts under load: ``siprec serve``, and Kamailio for comparison, with the same media server."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from bench.call_load import HOST, start_srs
from tests.interop.calls.harness import Command, Process, Sipp, free_port, until

Media = Literal["rtpengine", "relay"]
Srs = Literal["sipp", "recorder"]
KINDS = {"proxied": "direct", "relayed": "plain", "recorded": "bob"}
"""What a server does with a call, and the user whose calls it does it with."""
_TICK = 1e6 / os.sysconf("SC_CLK_TCK")
_MEDIA_PORTS = (10000, 24999)  # below the ephemeral ones; a recorded call takes eight
_SRS_PORTS = (40000, 49999)
_MODULES = ("/usr/lib/x86_64-linux-gnu/kamailio/modules", "/usr/lib/aarch64-linux-gnu/kamailio/modules",
            "/usr/lib/kamailio/modules", "/usr/lib64/kamailio/modules")  # fmt: skip

KAMAILIO = """\
#!KAMAILIO
debug=-1
log_stderror=yes
fork=yes
children={children}
disable_tcp=yes
auto_aliases=no
listen=udp:{host}:{port}

mpath="{modules}"
loadmodule "tm.so"
loadmodule "sl.so"
loadmodule "rr.so"
loadmodule "pv.so"
loadmodule "textops.so"
loadmodule "siputils.so"
loadmodule "maxfwd.so"
loadmodule "dialog.so"
loadmodule "rtpengine.so"

modparam("rr", "enable_full_lr", 1)
modparam("dialog", "db_mode", 0)
modparam("rtpengine", "rtpengine_sock", "udp:{host}:{ng}")

request_route {{
    if (!mf_process_maxfwd_header("10")) {{ sl_send_reply("483", "Too Many Hops"); exit; }}
    if (has_totag()) {{
        loose_route();
        # Only calls that are relayed carry the mark in their route.
        if (is_method("BYE") && check_route_param("relay=1")) {{ rtpengine_delete(); }}
        t_relay();
        exit;
    }}
    if (is_method("CANCEL")) {{ t_relay(); exit; }}
    if (!is_method("INVITE")) {{ sl_send_reply("405", "Method Not Allowed"); exit; }}
    dlg_manage();
    if ($rU == "{relayed}") {{
        record_route_preset("{host}:{port};relay=1");
        rtpengine_offer("replace-origin trust-address");
        t_on_reply("media");
    }} else {{
        record_route();
    }}
    $ru = "sip:" + $rU + "@{host}:{callee}";
    t_relay();
}}

onreply_route[media] {{
    if (has_body("application/sdp")) {{ rtpengine_answer("replace-origin trust-address"); }}
}}
"""


def kamailio_configuration(
    *, port: int, callee: int, ng: int, modules: str, children: int = 2, host: str = HOST
) -> str:
    """Transactions, Record-Route, dialogs and, for calls of the user ``plain``, RTPEngine: what our proxy does.

    Args:
        port: where Kamailio listens for SIP over UDP.
        callee: where every call goes.
        ng: RTPEngine's control port.
        modules: the directory of its modules.
        children: processes per listener.
    """
    return KAMAILIO.format(
        port=port, callee=callee, ng=ng, modules=modules, children=children, host=host, relayed=KINDS["relayed"]
    )


def siprec_configuration(*, callee: int, srs: int, ng: int | None) -> str:
    """One route per kind of call; `ng` is RTPEngine's port, None for our own relay."""
    if ng is None:
        media = f'[media]\ntimeout = 2.0\n[relay]\nports = "{_MEDIA_PORTS[0]}-{_MEDIA_PORTS[1]}"\n'
    else:
        media = f'[media]\nserver = "ng:udp:{HOST}:{ng}"\ntimeout = 2.0\n'
    target = f'targets = ["sip:{HOST}:{callee}"]'
    return (
        f'[sip]\nlisten = ["udp:{HOST}:0", "tcp:{HOST}:0"]\n{media}'
        f'[recording.default]\nsrs = ["sip:{HOST}:{srs};transport=tcp"]\n'
        f'[[route]]\nuser = "{KINDS["recorded"]}"\nrecord = "default"\n{target}\n'
        f'[[route]]\nuser = "{KINDS["relayed"]}"\nmedia = "always"\n{target}\n'
        f'[[route]]\nuser = "{KINDS["proxied"]}"\nmedia = "never"\n{target}\n'
    )


def cpu(pids: Sequence[int]) -> float:
    """User and system time of the processes in µs."""
    total = 0.0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) * _TICK
    return total


def memory(pids: Sequence[int]) -> int:
    """Memory of the processes in octets; what several share is counted once (PSS)."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def children(pid: int) -> list[int]:
    """Process ids of a process's children."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def rtpengine(stack: ExitStack, directory: Path) -> tuple[int, Process]:
    """RTPEngine in user space: its control port and the process."""
    program = _program("rtpengine", "rtpengine-daemon")
    port = free_port()
    command = [program, "--config-file=none", "--table=-1", f"--interface={HOST}", f"--listen-ng={HOST}:{port}"]
    command += ["--foreground", "--log-stderr", "--log-level=3", "--num-threads=2", "--pidfile=/dev/null"]
    command += ["--delete-delay=0", f"--port-min={_MEDIA_PORTS[0]}", f"--port-max={_MEDIA_PORTS[1]}"]
    process = stack.enter_context(Process(command, directory / "rtpengine.log"))
    time.sleep(1)
    if process.child.poll() is not None:
        raise RuntimeError(f"rtpengine does not start: {process.text[-1000:]}")
    return port, process


def _program(name: str, package: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if found is None:
        sys.exit(f"{name} is not installed (Debian: {package})")
    return found


@dataclass
class Siprec:
    """``siprec serve`` with a media server and an SRS.

    `parts` are the process ids whose time and memory count, by column; `port` is where it takes calls.
    """

    directory: Path
    media: Media = "rtpengine"
    srs_kind: Srs = "sipp"
    name: str = "siprec"
    callee: int = field(default_factory=free_port)
    parts: dict[str, list[int]] = field(default_factory=dict)
    srs: Sipp | None = None
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        with self._stack as stack:
            ng = engine = None
            if self.media == "rtpengine":
                ng, engine = rtpengine(stack, self.directory)
            if self.srs_kind == "sipp":
                srs_port = free_port()
                self.srs = stack.enter_context(start_srs(self.directory / "srs", srs_port, seconds=3600))
                recorder = [self.srs.child.pid]
            else:
                command = Command("recorder", self._recorder(), self.directory / "recorder")
                srs_port, recorder = stack.enter_context(command).port("tcp"), [command.child.pid]
            text = siprec_configuration(callee=self.callee, srs=srs_port, ng=ng)
            self._serve = stack.enter_context(Command("serve", text, self.directory / "serve"))
            self.port = self._serve.port()
            pid = self._serve.child.pid
            self.parts = {"proxy": [pid], "media": [engine.child.pid] if engine else children(pid), "SRS": recorder}
            self._stack = stack.pop_all()
        return self

    def _recorder(self) -> str:
        directory = self.directory / "recordings"
        ports = f"{_SRS_PORTS[0]}-{_SRS_PORTS[1]}"
        return f'[recorder]\nlisten = ["tcp:{HOST}:0"]\ndirectory = "{directory}"\nports = "{ports}"\n'

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def settle(self, seconds: float = 60.0) -> bool:
        """Wait until no call and no transaction is left. Asked seldom: the answer costs the proxy time too."""

        def rest() -> bool:
            time.sleep(1)
            counts = self._serve.counts()
            return not (
                counts["proxy"]["calls"] or any(counts["agent"].values()) or sum(counts["transactions"].values())
            )

        return until(rest, seconds)


@dataclass
class Kamailio:
    """Debian's Kamailio with RTPEngine; it does not record. The fields are as in :class:`Siprec`."""

    directory: Path
    name: str = "kamailio"
    callee: int = field(default_factory=free_port)
    parts: dict[str, list[int]] = field(default_factory=dict)
    srs: Sipp | None = None
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        program = _program("kamailio", "kamailio")
        modules = next((path for path in _MODULES if Path(path, "dialog.so").exists()), "")
        if not modules:
            sys.exit("Kamailio's modules are in none of " + ", ".join(_MODULES))
        self.directory.mkdir(parents=True, exist_ok=True)
        with self._stack as stack:
            ng, engine = rtpengine(stack, self.directory)
            self.port = free_port()
            file = self.directory / "kamailio.cfg"
            file.write_text(kamailio_configuration(port=self.port, callee=self.callee, ng=ng, modules=modules))
            command = [program, "-f", str(file), "-DD", "-E", "-m", "128", "-M", "16", "-Y", str(self.directory)]
            process = stack.enter_context(Process(command, self.directory / "kamailio.log"))
            pid = process.child.pid
            until(lambda: process.child.poll() is not None or len(children(pid)) >= 4, 10)
            time.sleep(1)
            if process.child.poll() is not None:
                raise RuntimeError(f"kamailio does not start: {process.text[-2000:]}")
            self.parts = {"proxy": [pid, *children(pid)], "media": [engine.child.pid]}
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._stack.close()

    def settle(self, seconds: float = 7.0) -> bool:
        """Wait for the last of its timers: it keeps a transaction for five seconds."""
        time.sleep(seconds)
        return True


Server = Siprec | Kamailio
