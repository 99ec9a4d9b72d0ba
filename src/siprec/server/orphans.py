"""Calls that an earlier run of ours has left at a media server: they are ended there, once nobody speaks in them.

A process that was killed deletes nothing. Its calls' copies would go on to recorders that hand out their ports anew: a
foreign voice in another recording. So copies end at once. The call itself is deleted as soon as it has been silent for
:data:`SILENT` seconds: its parties may still be talking, and the proxy has no dialog to tell them anything.

Calls are told by the label of their parties: who we are, and which run. Those of anybody else are not touched. RTPProxy
has neither labels nor a list of calls: there such calls end by its own time-out.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from siprec.media.engine import MediaError, MediaServer, MediaSession, MediaStatistics
from siprec.server.config import Config
from siprec.sip.clock import Clock, Timer

log = logging.getLogger(__name__)

SILENT: Final = 10.0
AGAIN: Final = 2.0
"""Seconds until a call that still speaks, or a server that did not answer, is looked at again."""


def owner(config: Config) -> str:
    """Who we are: the same at each start with the same listeners on the same host, and nobody else's; empty where the
    listeners are not fixed."""
    if not config.sip.listen or any(each.endswith(":0") for each in config.sip.listen):
        return ""
    try:
        machine = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        machine = ""
    words = [machine, socket.gethostname(), config.secret, config.sip.advertise, *sorted(config.sip.listen)]
    return "siprec-" + hashlib.sha256("\0".join(words).encode()).hexdigest()[:16]


class Orphans:
    """Of one process. `label` is for the parties of its calls, empty where nothing tells runs apart."""

    def __init__(self, clock: Clock, config: Config) -> None:
        self._clock = clock
        self._owner = owner(config)
        self.label = f"{self._owner}-{secrets.token_hex(4)}" if self._owner else ""
        self._timers: set[Timer] = set()
        self._closed = False

    def end(self, server: MediaServer) -> None:
        """End what an earlier run has left at `server`, now or when it answers."""
        if not self._owner or self._closed:
            return

        def found(result: list[MediaSession] | MediaError) -> None:
            if isinstance(result, MediaError):
                if result.timeout:
                    self._later(lambda: self.end(server))
                else:
                    log.info("media server %s does not list its calls: %s", server.name, result.reason)
                return
            if result:
                log.warning(
                    "media server %s: the copies of %d calls of an earlier run are ended", server.name, len(result)
                )
            for session in result:
                self._look(server, session)

        server.labelled(self._owner + "-", self.label, found)

    def close(self) -> None:
        """No more of it."""
        self._closed = True
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def _later(self, then: Callable[[], None]) -> None:
        if self._closed:
            return

        def fire() -> None:
            self._timers.discard(timer)
            then()

        timer = self._clock.call_later(AGAIN, fire)
        self._timers.add(timer)

    def _look(self, server: MediaServer, session: MediaSession) -> None:
        def counted(result: MediaStatistics | MediaError) -> None:
            if self._closed:
                return
            if isinstance(result, MediaError):
                if result.timeout:
                    self._later(lambda: self._look(server, session))
                return
            for tag in {fork.tag for fork in result.forks}:
                server.unsubscribe(session, tag)
            last = max([result.created, *(stream.last_packet for stream in result.streams)])
            if self._clock.wall() - last >= SILENT:
                log.info("media server %s: deleted, Call-ID %s", server.name, session.call_id)
                server.delete(session)
            else:
                self._later(lambda: self._look(server, session))

        server.query(session, counted)
