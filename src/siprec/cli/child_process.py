"""Child processes of the demo: our own commands, started with a configuration, stopped for certain."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import signal
import sys
from collections import deque
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def end_with_parent() -> None:
    """Have the kernel end this process when its parent dies (Linux; best effort elsewhere)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class ChildError(Exception):
    """A child did not come up; the text holds what it said."""


class Child:
    """One ``siprec`` command as child process."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready: dict[str, str] = {}
        """Listening sockets, transport -> ``transport:address:port``, from the ready line."""
        self._process: asyncio.subprocess.Process | None = None
        self._errors: deque[str] = deque(maxlen=30)
        self._readers: list[asyncio.Task[None]] = []

    async def start(self, *arguments: str, limit: float = 20.0) -> None:
        """Start it and wait for its ready line, `limit` seconds at the most.

        Raises:
            ChildError: it ended or stayed silent.
        """
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "siprec",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            preexec_fn=end_with_parent,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._readers.append(asyncio.create_task(self._collect(self._process.stderr)))
        try:
            async with asyncio.timeout(limit):
                while line := (await self._process.stdout.readline()).decode(errors="replace"):
                    if ": ready" in line:
                        for listener in line.split(": ready", 1)[1].split():
                            self.ready.setdefault(listener.split(":", 1)[0], listener)
                        self._readers.append(asyncio.create_task(self._collect(self._process.stdout)))
                        return
        except TimeoutError:
            pass
        await self.stop()
        said = "\n".join(self._errors) or "(nothing)"
        raise ChildError(f"siprec {arguments[0]} did not start; it said:\n{said}")

    def address(self, transport: str = "udp") -> tuple[str, int]:
        """Address and port of a listening socket."""
        _, _, rest = self.ready[transport].partition(":")
        host, _, port = rest.rpartition(":")
        return host.strip("[]"), int(port)

    async def _collect(self, stream: asyncio.StreamReader) -> None:
        while line := await stream.readline():
            self._errors.append(line.decode(errors="replace").rstrip())

    @property
    def pid(self) -> int | None:
        """Its process, None before the start."""
        return self._process.pid if self._process is not None else None

    @property
    def errors(self) -> list[str]:
        """The last lines it wrote."""
        return list(self._errors)

    async def stop(self) -> None:
        """End it: SIGTERM, then SIGKILL after 5 seconds."""
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 5)
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        self._readers.clear()
