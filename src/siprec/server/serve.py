"""``siprec serve``: from the configuration file to the exit status."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from siprec import compiled
from siprec.logs import setup_logging
from siprec.proxy.script import Script, ScriptError
from siprec.relay.child import RelayFailed
from siprec.server.config import Config
from siprec.server.config_check import log_warnings
from siprec.server.config_file import ConfigError
from siprec.server.notify import Notifier
from siprec.server.oserror_hints import why
from siprec.server.process import Signals, announce, run
from siprec.server.proxy_process import ProxyProcess
from siprec.server.reload import read

log = logging.getLogger(__name__)


def main(file: Path | None) -> int:
    """Run until SIGINT, or until SIGTERM and the last call; returns the exit status."""
    try:
        config, script = read(file)
        setup_logging(config.log.level, config.log.format, config.log.levels)
        log_warnings(config, file, but="recorder.")
        return run(_main(config, script, file))
    except (ConfigError, ScriptError, RelayFailed, OSError, ValueError) as error:
        print(f"siprec serve: {why(error)}", file=sys.stderr)
        return 1


async def _main(config: Config, script: Script | None, file: Path | None) -> int:
    async with AsyncExitStack() as stack:
        notifier = Notifier()
        stack.callback(notifier.close)
        proxy = ProxyProcess(config, script, file)
        stack.push_async_callback(proxy.stop)
        await proxy.start()
        addresses = " ".join(str(listener.address) for listener in proxy.transport.listeners)
        http = f" {proxy.api.ready}" if proxy.api is not None else ""

        def reload() -> None:
            notifier.reloading()
            with contextlib.suppress(ConfigError, ScriptError):
                proxy.reload()
            notifier.ready(addresses)

        with Signals(reload) as signals:
            announce(f"siprec serve: ready {addresses}{http} compiled={compiled.used()}")
            notifier.ready(addresses)
            notifier.keep_alive(proxy.clock)
            if await signals.wait() == signal.SIGTERM:
                await _drain(proxy, signals, notifier)
            notifier.stopping("ending the recordings", 10.0)
    return 0


async def _drain(proxy: ProxyProcess, signals: Signals, notifier: Notifier) -> None:
    """Let calls end by themselves, for the configured time; another signal ends the wait."""
    limit = proxy.config.service.drain
    deadline = proxy.loop.time() + limit
    proxy.core.drain.draining = True
    again = asyncio.create_task(signals.wait())
    reported = -1
    try:
        while proxy.core.calls and (left := deadline - proxy.loop.time()) > 0:
            if reported != len(proxy.core.calls):
                reported = len(proxy.core.calls)
                log.info("draining: %d calls left, at most %.0f seconds more", reported, left)
                notifier.stopping(f"draining: {reported} calls left", left + 15)
            done, _ = await asyncio.wait({again}, timeout=min(left, 0.2))
            if done:
                break
    finally:
        again.cancel()
    if proxy.core.calls:
        log.warning("ending with %d calls left", len(proxy.core.calls))
