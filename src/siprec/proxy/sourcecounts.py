"""How much each source holds at a time, and one log line when it is too much."""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from typing import Final

from siprec.sip.clock import Clock
from siprec.sip.throttle import source_key

log = logging.getLogger(__name__)

TELL_EVERY: Final = 60.0
MAX_TOLD: Final = 10_000


class SourceCounts:
    """Things by name, counted for the source that they belong to (IPv6: for its /64)."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._owners: dict[str, str] = {}
        self._counts: Counter[str] = Counter()
        self._told: OrderedDict[str, float] = OrderedDict()

    def count(self, host: str) -> int:
        """How many belong to a source."""
        return self._counts[source_key(host)]

    def add(self, name: str, host: str) -> None:
        """One more, which must not be there yet."""
        key = source_key(host)
        self._owners[name] = key
        self._counts[key] += 1

    def remove(self, name: str) -> None:
        """One less; harmless for what was never added."""
        key = self._owners.pop(name, None)
        if key is not None:
            self._counts[key] -= 1
            if not self._counts[key]:
                del self._counts[key]

    def tell(self, host: str, what: str) -> None:
        """Log that a source has reached a limit: once a minute."""
        key, now = source_key(host), self._clock.now()
        if self._told.get(key, 0.0) <= now:
            self._told[key] = now + TELL_EVERY
            self._told.move_to_end(key)
            while len(self._told) > MAX_TOLD:
                self._told.popitem(last=False)
            log.warning("source=%s has %s", host, what)

    def __len__(self) -> int:
        return len(self._owners)
