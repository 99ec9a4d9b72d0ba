"""The relay as a child process: started, watched and ended by whoever embeds it. It cannot outlive its parent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import siprec
from siprec.logs import child_arguments
from siprec.relay.__main__ import READY, SECRET
from siprec.relay.heartbeat import Heartbeat
from siprec.relay.process import PRIVATE, RelayOptions

_ROOT = str(Path(siprec.__file__).resolve().parent.parent)


class RelayFailed(Exception):
    """The relay did not start; the text is what it said."""


class RelayProcess:
    """A relay that runs. Its standard input is our end of a pipe: when we are gone, however that came, it ends.
    `packet_loop` is ``native`` or ``python``."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        ng_address: tuple[str, int],
        packet_loop: str = "",
        heartbeat: Heartbeat | None = None,
        directory: str = "",
    ) -> None:
        self._process = process
        self._heartbeat = heartbeat
        self._directory = directory
        self.ng_address = ng_address
        self.packet_loop = packet_loop

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    @property
    def beats(self) -> tuple[int, ...]:
        """The heartbeats of its packet loops (:mod:`siprec.relay.heartbeat`)."""
        return self._heartbeat.beats if self._heartbeat is not None else ()

    async def wait(self) -> int:
        """Until it ends, noticed at once; its exit status."""
        with contextlib.suppress(OSError):  # an old kernel, or gone by now
            descriptor = os.pidfd_open(self._process.pid)
            try:
                await _readable(descriptor)
            finally:
                os.close(descriptor)
        status = await self._process.wait()
        self._let_go()
        return status

    def kill(self) -> None:
        """End it at once, also when it hangs or is stopped."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def _let_go(self) -> None:
        heartbeat, self._heartbeat = self._heartbeat, None
        if heartbeat is not None:
            heartbeat.close()
        directory, self._directory = self._directory, ""
        _remove(directory)
        _close(self._process)

    async def stop(self, timeout: float = 5.0) -> None:
        """End it: its calls are released; after `timeout` seconds it is killed. Harmless when it has ended already."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            async with asyncio.timeout(timeout):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()
        self._let_go()


async def _readable(descriptor: int) -> None:
    loop, arrived = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, arrived.set)
    try:
        await arrived.wait()
    finally:
        loop.remove_reader(descriptor)


async def start_relay(options: RelayOptions | None = None, *, timeout: float = 20.0) -> RelayProcess:
    """Start ``python -m siprec.relay`` and wait until it listens; raises :class:`RelayFailed`.

    Without an address to listen on, it is a UNIX socket in a directory that only our user may enter. Its log goes to
    our standard error. `timeout` is in seconds.
    """
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [_ROOT, environment.get("PYTHONPATH", "")]))
    options = options or RelayOptions()
    directory = ""
    if options.listen == PRIVATE:
        directory = _private_directory()
        options = replace(options, listen=(f"{directory}/ng", 0))
    if options.secret:
        environment[SECRET] = options.secret
    heartbeat = Heartbeat()
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "siprec.relay",
            "--exit-with-parent",
            f"--heartbeat={heartbeat.descriptor}",
            *arguments(options),
            *child_arguments("siprec.relay"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
            pass_fds=(heartbeat.descriptor,),
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )
    except BaseException:
        heartbeat.close()
        _remove(directory)
        raise
    assert process.stdout is not None
    try:
        async with asyncio.timeout(timeout):
            line = (await process.stdout.readline()).decode("utf-8", "replace")
        if not line.startswith(READY):
            raise RelayFailed("the relay ended before it was ready" if not line else f"the relay said {line!r}")
        words = dict(word.split("=", 1) for word in line.split() if "=" in word)
        host, _, port = words["ng"].rpartition(":")
        address = options.listen if host == "unix" else (host.strip("[]"), int(port))
        return RelayProcess(process, address, words.get("packet-loop", ""), heartbeat, directory)
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        _close(process)
        heartbeat.close()
        _remove(directory)
        if isinstance(error, TimeoutError):
            raise RelayFailed(f"the relay was not ready after {timeout:g} s") from error
        raise


def _private_directory() -> str:
    """A directory for a UNIX socket: only our user may enter, and its path is short enough (``sun_path``)."""
    for parent in (os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0], tempfile.gettempdir(), "/tmp"):
        if parent and len(parent) <= 64 and os.access(parent, os.W_OK):
            return tempfile.mkdtemp(prefix="siprec-relay-", dir=parent)
    return tempfile.mkdtemp(prefix="siprec-relay-")


def _remove(directory: str) -> None:
    if directory:
        for remove, path in ((os.unlink, f"{directory}/ng"), (os.rmdir, directory)):
            with contextlib.suppress(OSError):
                remove(path)


def _close(process: asyncio.subprocess.Process) -> None:
    """Close our ends of the pipes now rather than when the collector comes by."""
    transport = getattr(process, "_transport", None)
    if transport is not None:
        transport.close()


def arguments(options: RelayOptions) -> list[str]:
    """`options` as a command line; the secret goes by the environment."""
    host, port = options.listen
    words = [
        f"--listen-ng={'unix:' + host if host.startswith('/') else f'{host}:{port}'}",
        f"--port-min={options.ports[0]}",
        f"--port-max={options.ports[1]}",
        f"--media-timeout={options.timeouts.media}",
        f"--held-timeout={options.timeouts.held}",
        f"--setup-timeout={options.timeouts.setup}",
        f"--preroll={options.preroll}",
        f"--learn={options.latching.learn}",
        f"--relearn={options.latching.relearn}",
        f"--max-calls={options.max_calls}",
        f"--packet-loop={options.packet_loop}",
        f"--dscp={options.dscp}",
        *(["--rtcp-mux"] if options.rtcp_mux else []),
    ]
    words += [f"--peer={peer}" for peer in options.peers]
    for interface in options.interfaces:
        advertised = "!" + interface.advertised if interface.advertised else ""
        words.append(f"--interface={interface.name}/{interface.address}{advertised}")
    return words
