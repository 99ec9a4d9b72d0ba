"""The relay as a child process: started, watched and ended by whoever embeds it. It cannot outlive its parent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path

import siprec
from siprec.logs import child_arguments
from siprec.relay.__main__ import READY
from siprec.relay.process import RelayOptions

_ROOT = str(Path(siprec.__file__).resolve().parent.parent)


class RelayFailed(Exception):
    """The relay did not start; the text is what it said."""


class RelayProcess:
    """A relay that runs. Its standard input is our end of a pipe: when we are gone, however that came, it ends.
    `packet_loop` is ``native`` or ``python``."""

    def __init__(self, process: asyncio.subprocess.Process, ng_address: tuple[str, int], packet_loop: str = "") -> None:
        self._process = process
        self.ng_address = ng_address
        self.packet_loop = packet_loop

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    async def wait(self) -> int:
        """Until it ends; its exit status."""
        return await self._process.wait()

    async def stop(self, timeout: float = 5.0) -> None:
        """End it: its calls are released; after `timeout` seconds it is killed. Harmless when it has ended already."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            async with asyncio.timeout(timeout):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        _close(self._process)


async def start_relay(options: RelayOptions | None = None, *, timeout: float = 20.0) -> RelayProcess:
    """Start ``python -m siprec.relay`` and wait until it listens; raises :class:`RelayFailed`.

    Its log goes to our standard error. `timeout` is in seconds.
    """
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [_ROOT, environment.get("PYTHONPATH", "")]))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "siprec.relay",
        "--exit-with-parent",
        *arguments(options or RelayOptions()),
        *child_arguments("siprec.relay"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment,
        start_new_session=True,  # Ctrl-C is the parent's to handle
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(timeout):
            line = (await process.stdout.readline()).decode("utf-8", "replace")
        if not line.startswith(READY):
            raise RelayFailed("the relay ended before it was ready" if not line else f"the relay said {line!r}")
        words = dict(word.split("=", 1) for word in line.split() if "=" in word)
        host, _, port = words["ng"].rpartition(":")
        return RelayProcess(process, (host.strip("[]"), int(port)), words.get("packet-loop", ""))
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        _close(process)
        if isinstance(error, TimeoutError):
            raise RelayFailed(f"the relay was not ready after {timeout:g} s") from error
        raise


def _close(process: asyncio.subprocess.Process) -> None:
    """Close our ends of the pipes now rather than when the collector comes by."""
    transport = getattr(process, "_transport", None)
    if transport is not None:
        transport.close()


def arguments(options: RelayOptions) -> list[str]:
    """`options` as a command line."""
    host, port = options.listen
    words = [
        f"--listen-ng={host}:{port}",
        f"--port-min={options.ports[0]}",
        f"--port-max={options.ports[1]}",
        f"--media-timeout={options.timeouts.media}",
        f"--held-timeout={options.timeouts.held}",
        f"--setup-timeout={options.timeouts.setup}",
        f"--preroll={options.preroll}",
        f"--learn={options.latching.learn}",
        f"--relearn-after={options.latching.host_silence}",
        f"--max-calls={options.max_calls}",
        f"--packet-loop={options.packet_loop}",
        f"--dscp={options.dscp}",
        *(["--rtcp-mux"] if options.rtcp_mux else []),
    ]
    for interface in options.interfaces:
        advertised = "!" + interface.advertised if interface.advertised else ""
        words.append(f"--interface={interface.name}/{interface.address}{advertised}")
    return words
