"""The media servers of a proxy process: those that are configured, and a relay of our own as child process, kept
running."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from siprec.media import sockets
from siprec.media.engine import MediaError, MediaServer, SourceMove
from siprec.media.pool import MediaPool, Member
from siprec.media.rtpengine import RtpEngine
from siprec.proxy.call import Call
from siprec.relay.child import RelayFailed, RelayProcess, start_relay
from siprec.server.config import Config, MediaServerConfig
from siprec.server.config_file import ConfigError
from siprec.server.media_uri import MediaUri, connect
from siprec.server.orphans import Orphans
from siprec.server.relay_process import relay_options
from siprec.server.relaywatch import LOOK, HangWatch, effort
from siprec.sip.clock import Clock, Timer

log = logging.getLogger(__name__)

FIRST_PAUSE: Final = 0.2
LONGEST_PAUSE: Final = 5.0
PATIENCE: Final = 8.0
"""Seconds that a child which runs has to answer a ping: its end would have been noticed, and it may be busy."""

Lost = Callable[[MediaServer, str], None]
Health = Callable[[str, bool, str], None]


class MediaSupervisor:
    """Gives the proxy its media servers.

    An embedded relay that dies is started again: at once, and after a pause that doubles up to five seconds when it
    dies again soon; one that hangs is killed first. `lost(server, reason)` is called before that, so that recordings
    which ran through it can end or move. `returned(server)` is called when a server
    that was silent answers again: it may have forgotten its calls. `silent(server, reason)` when one goes down whose
    process is not ours: its media may still flow. `health(name, up, reason)` hears of each server that goes down or
    comes back. Calls' signalling goes on meanwhile.
    """

    def __init__(
        self,
        clock: Clock,
        config: Config,
        lost: Lost,
        *,
        silent: Lost | None = None,
        returned: Callable[[MediaServer], None] | None = None,
        health: Health | None = None,
    ) -> None:
        self._clock = clock
        self._config = config
        self._lost = lost
        self._silent = silent
        self._returned = returned
        self._health = health
        self._loop = asyncio.get_running_loop()
        self._relay: RelayProcess | None = None
        self._embedded: Member | None = None
        self._watch: asyncio.Task[None] | None = None
        self._leaving: list[MediaServer] = []
        self._own: weakref.WeakSet[MediaServer] = weakref.WeakSet()
        self._orphans = Orphans(clock, config)
        self._hung = ""
        self._look: Timer | None = None
        self.traced: Callable[[MediaServer], None] | None = None
        """Sees each server before it is used."""
        self.on_source: Callable[[MediaServer, SourceMove], None] | None = None
        """Hears of parties whose media come from another host."""
        self.pool = MediaPool(clock, self._changed, every=config.media.ping)

    def carry(self, load: Mapping[MediaServer, int]) -> None:
        """Who counts the calls of each server."""
        self.pool.load = load

    def trouble(self, call: Call, server: MediaServer, error: MediaError) -> MediaServer | None:
        """A request of a call failed; another server for it, if there is one."""
        self.pool.trouble(server, error)
        return self.pool.pick(call.media_set, (server,))

    @property
    def current(self) -> MediaServer | None:
        """The server that a call of no particular set would get."""
        return self.pool.pick()

    @property
    def restarts(self) -> int:
        """Times the relay was started again."""
        return sum(member.restarts for member in self.pool)

    @property
    def relay_pid(self) -> int | None:
        """The embedded relay's process, if there is one."""
        return self._relay.pid if self._relay is not None else None

    async def start(self) -> None:
        """Start or reach the media servers.

        Raises:
            ConfigError: an address makes no sense.
            RelayFailed: the relay cannot be started.
        """
        for wanted in self._config.media_servers:
            await self._add(wanted)
        first = [member for member in self.pool if member.server is not None]
        if first:
            await asyncio.gather(*(self._greet(member) for member in first))

    async def _add(self, wanted: MediaServerConfig) -> None:
        member = self._member(wanted)
        if member.kind == "embedded":
            self._embedded = member
            member.patience = PATIENCE
            member.server = await self._embed()
            self._watch = asyncio.create_task(self._keep())
        self.pool.add(member)

    def _member(self, wanted: MediaServerConfig) -> Member:
        server = None if wanted.address == "embedded" else self._remote(wanted)
        kind = "embedded" if server is None else MediaUri.parse(wanted.address).kind
        return Member(wanted.called, kind, server, wanted.set, wanted.weight, wanted.drain)

    def _remote(self, wanted: MediaServerConfig) -> MediaServer:
        try:
            server = connect(
                self._clock,
                self._loop,
                wanted.address,
                name=wanted.called,
                prompt=wanted.prompt,
                label=self._orphans.label,
                secret=wanted.secret,
            )
        except (ValueError, OSError) as error:
            raise ConfigError(f"media server {wanted.address}: {error}") from None
        self._met(server)
        self._clock.call_later(0, self._orphans.end, server)
        return server

    def _met(self, server: MediaServer) -> None:
        if self.traced is not None:
            self.traced(server)
        if self.on_source is not None:
            server.on_source = partial(self.on_source, server)

    def apply(self, config: Config) -> None:
        """Another configuration: servers come, drain and go. One that goes keeps the calls it has. The embedded relay
        comes and goes with a restart only."""
        self._config = config
        wanted = {each.called: each for each in config.media_servers}
        for member in list(self.pool):
            found = wanted.pop(member.name, None)
            if found is not None:
                member.set, member.weight, member.draining = found.set, found.weight, found.drain
            elif member.kind == "embedded":
                member.draining = True
            else:
                self.pool.remove(member)
                if member.server is not None:
                    self._leaving.append(member.server)
        for each in wanted.values():
            if each.address != "embedded":
                self.pool.add(self._member(each))
        self._let_go()

    def _let_go(self) -> None:
        """Close the connections to servers that left the configuration, once their calls are over."""
        for server in list(self._leaving):
            if not self.pool.load.get(server, 0) and not server.pending:
                self._leaving.remove(server)
                server.close()
        if self._leaving:
            self._clock.call_later(1.0, self._let_go)

    async def _embed(self) -> MediaServer:
        self._relay = relay = await start_relay(relay_options(self._config, embedded=True))
        server = RtpEngine(self._clock, sockets.tcp(self._loop, relay.ng_address), name="embedded")
        self._own.add(server)
        self._met(server)
        watch = HangWatch(
            self._clock.now(),
            lambda done: server.ping(lambda error: done(error is None)),
            lambda: effort(relay.pid),
            lambda: not self.pool.load.get(server, 0),
        )
        self._look = self._clock.call_later(LOOK, self._looked, relay, watch)
        return server

    def _looked(self, relay: RelayProcess, watch: HangWatch) -> None:
        """End the relay if it hangs: :meth:`_keep` starts the next one."""
        if relay is not self._relay or not relay.running:
            return
        hung = watch.look(self._clock.now(), relay.beats)
        if hung:
            self._hung = hung
            log.error("the relay (process %d) hangs: %s; it is killed", relay.pid, hung)
            relay.kill()
        else:
            self._look = self._clock.call_later(LOOK, self._looked, relay, watch)

    def is_embedded(self, server: MediaServer) -> bool:
        """Whether `server` is, or was, the relay that is our child."""
        return server in self._own

    async def _greet(self, member: Member) -> None:
        """What a server can do is learnt from its first reply; one that is silent now may come up later."""
        server = member.server
        assert server is not None
        answered: asyncio.Future[MediaError | None] = self._loop.create_future()
        server.ping(answered.set_result)
        error = await answered
        if error is not None:
            log.warning("media server %s: %s", server.name, error)

    async def _keep(self) -> None:
        pause = 0.0
        member = self._embedded
        assert member is not None
        while True:
            if self._relay is not None:
                started = self._clock.now()
                status = await self._relay.wait()
                if self._clock.now() - started > 60:
                    pause = 0.0
                self._hung, why = "", f"the relay hung: {self._hung}" if self._hung else ""
                self._gone(member, why or f"the relay ended with status {status}")
            await asyncio.sleep(pause)
            pause = min(pause * 2 or FIRST_PAUSE, LONGEST_PAUSE)
            try:
                server = await self._embed()
            except (RelayFailed, OSError) as error:
                log.error("the relay cannot be started again: %s", error)
            else:
                member.restarts += 1
                log.warning("the relay has been started again")
                answered: asyncio.Future[MediaError | None] = self._loop.create_future()
                server.ping(answered.set_result)
                await answered
                self.pool.replaced(member, server)

    def _gone(self, member: Member, reason: str) -> None:
        self._relay = None
        server = member.server
        self.pool.replaced(member, None, reason)
        if server is not None:
            self._lost(server, reason)
            server.close()

    def _changed(self, member: Member, up: bool, reason: str) -> None:
        if self._health is not None:
            self._health(member.name, up, reason)
        server = member.server
        if server is None or member.kind == "embedded":
            return
        if up and self._returned is not None:
            self._returned(server)
        elif not up and self._silent is not None:
            self._silent(server, reason)

    async def stop(self) -> None:
        """Close the connections, end the relay."""
        if self._look is not None:
            self._look.cancel()
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        self.pool.close()
        self._orphans.close()
        for server in [*self._leaving, *(member.server for member in self.pool)]:
            if server is not None:
                server.close()
        for member in list(self.pool):
            self.pool.remove(member)
        if self._relay is not None:
            await self._relay.stop()
            self._relay = None
