"""File descriptors, connections, ports, sessions: an alarm before they run out."""

from __future__ import annotations

import logging
import os
import resource
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from siprec.media.engine import MediaError
from siprec.media.pool import MediaPool
from siprec.sip.clock import Clock, Timer

log = logging.getLogger(__name__)

ALARM: Final = 0.8
"""Share in use from which there is an alarm; it is over below `CALM`."""
CALM: Final = 0.7
EVERY: Final = 5.0
RESERVE: Final = 256
"""Descriptors for all that is no connection: listeners, files, the API."""
MOST: Final = 1 << 20

Gauge = Callable[[], "tuple[int, int]"]
"""How many are in use, and how many there may be (0: no limit)."""


def raise_descriptor_limit() -> int:
    """Let this process, and those that it starts, open as many files as the system allows; returns that number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (OSError, ValueError) as error:
            log.warning("the limit of open files stays at %d: %s", soft, error)
    return MOST if soft == resource.RLIM_INFINITY else soft


def most_connections(wanted: int, descriptors: int) -> int:
    """How many stream connections there may be: `wanted`, or what half of the descriptors allows."""
    most = max(16, (descriptors - RESERVE) // 2)
    if most < wanted:
        log.warning(
            "%d open files allow %d stream connections instead of %d: raise LimitNOFILE", descriptors, most, wanted
        )
    return min(wanted, most)


def descriptors() -> tuple[int, int]:
    """Descriptors in use, and their limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return len(os.listdir("/proc/self/fd")), 0 if soft == resource.RLIM_INFINITY else soft


class RelayPorts:
    """Port pairs of our relays among the media servers of `pool`: a :data:`Gauge`."""

    def __init__(self, pool: MediaPool) -> None:
        self._pool = pool
        self._known: dict[str, tuple[int, int]] = {}

    def __call__(self) -> tuple[int, int]:
        """Of the relay that has the least left, as each said last; they are asked again."""

        def answered(name: str, result: dict[str, int] | MediaError) -> None:
            if not isinstance(result, MediaError):
                self._known[name] = (result.get("port pairs.used", 0), result.get("port pairs.limit", 0))

        members = [member for member in self._pool if member.server is not None and member.state == "up"]
        self._known = {member.name: self._known.get(member.name, (0, 0)) for member in members}
        for member in members:
            if member.kind in ("embedded", "ng") and member.server is not None:
                member.server.load(partial(answered, member.name), 2.0)
        known = [ports for ports in self._known.values() if ports[1]]
        return max(known, key=lambda ports: ports[0] / ports[1], default=(0, 0))


class Headroom:
    """Looks at each of `gauges` (name -> :data:`Gauge`) every five seconds. `alarm(name, used, limit)` is called when
    80 % are in use, and once more when it is below 70 % again (`used` is then the smaller number)."""

    def __init__(
        self, clock: Clock, gauges: Mapping[str, Gauge], alarm: Callable[[str, int, int], object] = lambda *_: None
    ) -> None:
        self._clock = clock
        self._gauges = dict(gauges)
        self._alarm = alarm
        self.low: set[str] = set()
        """What is running out."""
        self._timer: Timer | None = clock.call_later(EVERY, self._tick)

    def _tick(self) -> None:
        self._timer = self._clock.call_later(EVERY, self._tick)
        self.look()

    def look(self) -> None:
        """Compare now."""
        for name, gauge in self._gauges.items():
            used, limit = gauge()
            if not limit:
                continue
            share = used / limit
            if name not in self.low and share >= ALARM:
                self.low.add(name)
                log.warning("%s run out: %d of %d in use", name, used, limit)
                self._alarm(name, used, limit)
            elif name in self.low and share < CALM:
                self.low.discard(name)
                log.warning("%s are enough again: %d of %d in use", name, used, limit)
                self._alarm(name, used, limit)

    def shares(self) -> dict[str, float]:
        """What is in use of each, 0 to 1."""
        found = {name: gauge() for name, gauge in self._gauges.items()}
        return {name: used / limit for name, (used, limit) in found.items() if limit}

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
