"""Events about the process itself: limits, resources, media servers; and the log lines of all events."""

from __future__ import annotations

import logging
from collections import Counter

from siprec.media.engine import MediaServer, SourceMove
from siprec.recording.events import (
    FAILED,
    LOOP,
    MEDIA_DOWN,
    MEDIA_SOURCE,
    MEDIA_UP,
    RESOURCES,
    EventDispatcher,
    SiprecEvent,
)
from siprec.sip.clock import Clock
from siprec.sip.message import SipRequest
from siprec.sip.transport import Hop

log = logging.getLogger(__name__)


class ProcessEvents:
    """Turns what the parts of the process notice into events."""

    def __init__(self, clock: Clock, events: EventDispatcher) -> None:
        self._clock = clock
        self._events = events
        self.counters: Counter[str] = Counter()

    def limit_reached(self, limit: str, text: str, request: SipRequest, source: Hop) -> None:
        """A limit of the proxy stopped a request of `source`."""
        if limit == "max_passes":
            reason = f"{text} of {request.method} from {source}"
            self._events.emit(SiprecEvent(LOOP, "", request.call_id, "", "", "", "", self._clock.wall(), reason))

    def resources(self, name: str, used: int, limit: int) -> None:
        """A limited resource runs out, or there is enough of it again."""
        reason = f"{used} of {limit} in use"
        self._events.emit(SiprecEvent(RESOURCES, "", "", "", "", name, "", self._clock.wall(), reason))

    def media_health(self, name: str, up: bool, reason: str) -> None:
        """A media server answers, or does no more."""
        event = MEDIA_UP if up else MEDIA_DOWN
        self._events.emit(SiprecEvent(event, "", "", "", "", name, "", self._clock.wall(), reason))

    def media_source(self, server: MediaServer, move: SourceMove) -> None:
        """Media of a call come from another address now."""
        self.counters["media_sources_moved"] += 1
        reason = f"tag {move.tag}, m-line {move.index + 1}: {move.before} -> {move.now}"
        name, wall = server.name, self._clock.wall()
        self._events.emit(SiprecEvent(MEDIA_SOURCE, "", move.call_id, "", "", name, "", wall, reason))


def log_event(event: SiprecEvent) -> None:
    """One line per event."""
    # A call is not recorded although it should be: nobody may miss that.
    log.log(
        logging.WARNING if event.name == FAILED else logging.INFO,
        "%s dlg_callid=%s callid=%s session_id=%s server=%s instance=%s%s",
        event.name,
        event.dlg_callid,
        event.callid,
        event.session_id,
        event.server,
        event.instance,
        f" reason={event.reason}" if event.reason else "",
    )
