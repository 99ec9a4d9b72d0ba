"""The parts every SIP process of ours is made of: clock, sockets, resolver, transactions, user agent."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Coroutine
from typing import Any

from siprec.net.transport import SocketTransport
from siprec.sip.transport import Hop

log = logging.getLogger(__name__)


def run(main: Coroutine[Any, Any, int]) -> int:
    """Run a process's main coroutine on uvloop (asyncio's own loop where uvloop is absent); returns the exit status."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)


def setup_logging(level: str) -> None:
    """Log to standard error, one line per event."""
    logging.basicConfig(
        level=level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)-7s %(name)s %(message)s", force=True
    )


async def wait_for_signal() -> None:
    """Return on SIGINT or SIGTERM."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, stopped.set)
    try:
        await stopped.wait()
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


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
