"""Several media servers: which one takes a call, and which ones are well.

Servers are in sets; a call is given the one of its set that carries the least for its weight. Each is asked by ping.
One that does not answer is down and gets no calls until it does; one that let a call wait is asked at once, and taken
only where no other is left meanwhile. One that drains gets no new calls, those it has go on. Time is handed in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from siprec.media.engine import MediaError, MediaServer
from siprec.sip.clock import Clock, Timer

log = logging.getLogger(__name__)

DEFAULT_SET: Final = "default"
PATIENCE: Final = 2.0
"""Seconds in which a ping has to be answered."""
WHILE_DOWN: Final = 5.0
"""Seconds between pings of a server that is down, at the most: it has to be usable soon after its return."""


@dataclass(slots=True, eq=False)
class Member:
    """A media server of the pool. `server` is None while its process does not run; `weight` 0 is for when no other is
    left. It has `patience` seconds to answer a ping. `state`: ``unknown`` (not asked yet), ``up`` or ``down``; `reason`
    says why it is down."""

    name: str
    kind: str
    server: MediaServer | None
    set: str = DEFAULT_SET
    weight: int = 1
    draining: bool = False
    patience: float = PATIENCE
    state: str = "unknown"
    reason: str = ""
    suspect: bool = False
    round_trip: float | None = None
    restarts: int = 0
    timer: Timer | None = None
    limit: Timer | None = None
    asked: int = 0

    @property
    def usable(self) -> bool:
        """Whether it may be given a call."""
        return self.server is not None and not self.draining and self.state != "down"


class MediaPool:
    """`changed(member, up, reason)` is told when a server goes down, or comes up after that. `load` counts the calls of
    each; `every` is the number of seconds between pings."""

    def __init__(
        self,
        clock: Clock,
        changed: Callable[[Member, bool, str], None],
        *,
        every: float = 2.0,
        load: Mapping[MediaServer, int] | None = None,
    ) -> None:
        self._clock = clock
        self._changed = changed
        self.every = every
        self.load: Mapping[MediaServer, int] = load if load is not None else {}
        self._members: list[Member] = []
        self._closed = False

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def find(self, server: MediaServer) -> Member | None:
        """The member that `server` is."""
        return next((member for member in self._members if member.server is server), None)

    def named(self, name: str) -> Member | None:
        """The member of that name."""
        return next((member for member in self._members if member.name == name), None)

    def calls(self, member: Member) -> int:
        """How many calls it carries."""
        return self.load.get(member.server, 0) if member.server is not None else 0

    # -- members -------------------------------------------------------------------------------------------------------

    def add(self, member: Member) -> None:
        """Take a server in, and begin to ask it."""
        self._members.append(member)
        if member.server is not None:
            self._plan(member, 0.0)

    def remove(self, member: Member) -> None:
        """Forget a server; closing it is up to the caller."""
        self._members.remove(member)
        self._stop(member)

    def replaced(self, member: Member, server: MediaServer | None, reason: str = "") -> None:
        """The process behind a member is another one now, or (None) has ended."""
        self._stop(member)
        member.server = server
        if server is None:
            self._down(member, reason)
        else:
            self._up(member)
            self._plan(member, self.every)

    def close(self) -> None:
        """Ask nobody any more."""
        self._closed = True
        for member in self._members:
            self._stop(member)

    # -- choosing ------------------------------------------------------------------------------------------------------

    def pick(self, wanted: str = "", without: Collection[MediaServer] = ()) -> MediaServer | None:
        """The server for a call of the set `wanted`; None if there is none, or none that is well."""
        name = wanted or DEFAULT_SET
        found = [m for m in self._members if m.set == name and m.usable and m.server not in without]
        found = [m for m in found if not m.suspect] or found
        found = [m for m in found if m.weight] or found
        best = min(found, key=lambda m: (self.calls(m) + 1) / max(m.weight, 1), default=None)
        return best.server if best is not None else None

    # -- health --------------------------------------------------------------------------------------------------------

    def trouble(self, server: MediaServer, error: MediaError) -> None:
        """A call's request failed there. Silence is looked into at once; a refusal is the word of a server that is
        well."""
        member = self.find(server)
        if member is not None and error.timeout and member.state != "down" and not member.suspect:
            member.suspect = True
            self._plan(member, 0.0)

    def _stop(self, member: Member) -> None:
        for timer in (member.timer, member.limit):
            if timer is not None:
                timer.cancel()
        member.timer = member.limit = None
        member.asked += 1

    def _plan(self, member: Member, delay: float) -> None:
        if member.timer is not None:
            member.timer.cancel()
        if not self._closed:
            member.timer = self._clock.call_later(delay, self._ping, member)

    def _ping(self, member: Member) -> None:
        server = member.server
        member.timer = None
        if server is None:
            return
        if member.limit is not None:
            member.limit.cancel()
        member.asked += 1
        asked, began = member.asked, self._clock.now()

        def answered(error: MediaError | None) -> None:
            if asked != member.asked or member.server is not server or self._closed:
                return
            member.asked += 1
            if member.limit is not None:
                member.limit.cancel()
                member.limit = None
            if error is None:
                member.round_trip = self._clock.now() - began
                self._up(member)
            else:
                self._down(member, error.reason)
            self._plan(member, self.every if error is None else min(self.every, WHILE_DOWN))

        member.limit = self._clock.call_later(member.patience, answered, MediaError("no reply to ping", timeout=True))
        server.ping(answered)

    def _up(self, member: Member) -> None:
        before, member.state = member.state, "up"
        member.suspect, member.reason = False, ""
        if before == "down":
            log.warning("media server %s is back", member.name)
            self._changed(member, True, "")

    def _down(self, member: Member, reason: str) -> None:
        before, member.state = member.state, "down"
        member.suspect, member.reason, member.round_trip = False, reason, None
        if before != "down":
            log.error("media server %s is down: %s", member.name, reason)
            self._changed(member, False, reason)
