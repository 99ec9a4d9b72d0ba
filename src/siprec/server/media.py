"""The media server of a proxy process: one that is configured, or a relay of our own as child process, kept running."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from siprec.media import lines, sockets
from siprec.media.engine import MediaError, MediaServer
from siprec.media.rtpengine import RtpEngine
from siprec.media.rtpproxy import RtpProxy
from siprec.net.address import split_host_port
from siprec.relay.child import RelayFailed, RelayProcess, start_relay
from siprec.server.config import Config, ConfigError
from siprec.server.config_check import SERVER_FORMS
from siprec.server.relay_process import relay_options
from siprec.sip.clock import Clock

log = logging.getLogger(__name__)

FIRST_PAUSE: Final = 0.2
LONGEST_PAUSE: Final = 10.0

Lost = Callable[[MediaServer, str], None]


class MediaSupervisor:
    """Gives the proxy its media server. `current` is None while there is none.

    An embedded relay that dies is started again, after a pause that doubles up to ten seconds; `lost(server, reason)`
    is called first, so that recordings which ran through it can end or move. Calls' signalling goes on meanwhile.
    """

    def __init__(self, clock: Clock, config: Config, lost: Lost) -> None:
        self._clock = clock
        self._config = config
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._relay: RelayProcess | None = None
        self._watch: asyncio.Task[None] | None = None
        self.current: MediaServer | None = None
        self.restarts = 0

    @property
    def relay_pid(self) -> int | None:
        """The embedded relay's process, if there is one."""
        return self._relay.pid if self._relay is not None else None

    async def start(self) -> None:
        """Start or reach the media server.

        Raises:
            ConfigError: ``media.server`` makes no sense.
            RelayFailed: the relay cannot be started.
        """
        server = self._config.media.server
        if server == "embedded":
            await self._embed()
            self._watch = asyncio.create_task(self._keep())
            return
        self.current = self._remote(server)
        await self._greet(self.current)

    def _remote(self, server: str) -> MediaServer:
        kind, transport, address = (*server.split(":", 2), "", "")[:3]
        if kind == "rtpproxy" and transport in ("unix", "cunix"):
            opener = (lines.unix if transport == "unix" else lines.cunix)(self._loop, address)
            return RtpProxy(self._clock, opener, name=address, prompt=self._config.media.prompt)
        openers = {"udp": sockets.udp, "tcp": lines.tcp if kind == "rtpproxy" else sockets.tcp}
        try:
            host, port = split_host_port(address)
        except ValueError:
            host, port = "", None
        if kind not in ("ng", "rtpproxy") or transport not in openers or not host or port is None:
            raise ConfigError(f"media.server: {server!r} is neither embedded nor of the form {SERVER_FORMS}")
        opener = openers[transport](self._loop, (host, port))
        if kind == "rtpproxy":
            return RtpProxy(self._clock, opener, name=f"{host}:{port}", prompt=self._config.media.prompt)
        return RtpEngine(self._clock, opener, name=f"{host}:{port}")

    async def _embed(self) -> None:
        self._relay = await start_relay(relay_options(self._config))
        server = RtpEngine(self._clock, sockets.udp(self._loop, self._relay.ng_address), name="embedded")
        await self._greet(server)
        self.current = server

    async def _greet(self, server: MediaServer) -> None:
        """What a server can do is learnt from its first reply; one that is silent now may come up later."""
        answered: asyncio.Future[MediaError | None] = self._loop.create_future()
        server.ping(answered.set_result)
        error = await answered
        if error is not None:
            log.warning("media server %s: %s", server.name, error)

    async def _keep(self) -> None:
        pause = FIRST_PAUSE
        while True:
            if self._relay is not None:
                started = self._clock.now()
                status = await self._relay.wait()
                if self._clock.now() - started > 60:
                    pause = FIRST_PAUSE
                self._gone(f"the relay ended with status {status}")
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
            try:
                await self._embed()
            except (RelayFailed, OSError) as error:
                log.error("the relay cannot be started again: %s", error)
            else:
                self.restarts += 1
                log.warning("the relay has been started again")

    def _gone(self, reason: str) -> None:
        self._relay = None
        server, self.current = self.current, None
        log.error("media: %s", reason)
        if server is not None:
            self._lost(server, reason)
            server.close()

    async def stop(self) -> None:
        """Close the connection, end the relay."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        if self.current is not None:
            self.current.close()
            self.current = None
        if self._relay is not None:
            await self._relay.stop()
            self._relay = None
