"""How much each source holds at a time, and one log line when it is too much."""

from __future__ import annotations

import logging
from collections import Counter

from siprec.sip.clock import Clock
from siprec.sourcelog import SourceLog, source_key

log = logging.getLogger(__name__)


class SourceCounts:
    """Things by name, counted for the source that they belong to (IPv6: for its /64)."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._owners: dict[str, str] = {}
        self._counts: Counter[str] = Counter()
        self._lines = SourceLog(log, now=clock.now)

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
        self._lines.warning(host, "source=%s has %s", host, what)

    def __len__(self) -> int:
        return len(self._owners)
