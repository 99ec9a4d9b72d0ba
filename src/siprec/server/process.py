"""The parts every SIP process of ours is made of: clock, sockets, resolver, transactions, user agent."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from siprec.net.transport import SocketTransport
from siprec.server.garbage import SELDOM, YOUNG
from siprec.server.headroom import raise_descriptor_limit
from siprec.sip.transport import Hop

log = logging.getLogger(__name__)


def run(main: Coroutine[Any, Any, int]) -> int:
    """Run a process's main coroutine on uvloop (asyncio's own loop where uvloop is absent); returns the exit status."""
    raise_descriptor_limit()
    # What was imported is left out for good.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*YOUNG, SELDOM)
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)


class Signals:
    """SIGINT and SIGTERM as something to wait for, SIGHUP as a call of `on_hangup`. A context manager."""

    def __init__(self, on_hangup: Callable[[], object] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._handled = [signal.SIGINT, signal.SIGTERM]
        self._arrived: asyncio.Queue[int] = asyncio.Queue()
        self._on_hangup = on_hangup

    def __enter__(self) -> Signals:
        for number in self._handled:
            self._loop.add_signal_handler(number, self._arrived.put_nowait, number)
        if self._on_hangup is not None:
            self._loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
            self._handled.append(signal.SIGHUP)
        return self

    def __exit__(self, *exception: object) -> None:
        for number in self._handled:
            self._loop.remove_signal_handler(number)

    async def wait(self) -> signal.Signals:
        """The next SIGINT or SIGTERM; none is lost between two calls."""
        return signal.Signals(await self._arrived.get())


async def wait_for_signal() -> None:
    """Return on SIGINT or SIGTERM."""
    with Signals() as signals:
        await signals.wait()


def state_directory(file: Path | None) -> Path:
    """What relative paths of files that we write start from: ``STATE_DIRECTORY`` (systemd), else where the
    configuration file lies, else the working directory."""
    given = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return Path(given) if given else file.parent if file is not None else Path()


def announce(line: str) -> None:
    """One line on standard output, at once: what a parent process waits for. A closed pipe is no error."""
    with contextlib.suppress(BrokenPipeError):
        print(line, flush=True)


def contact_uri(transport: SocketTransport, hop: Hop, user: str = "") -> str:
    """The Contact URI for messages that go to `hop`."""
    host, port = transport.sent_by(hop)
    scheme = "sips" if hop.transport == "tls" else "sip"
    where = f"{f'[{host}]' if ':' in host else host}:{port}"
    parameter = ";transport=tcp" if hop.transport == "tcp" else ""
    return f"{scheme}:{user + '@' if user else ''}{where}{parameter}"
