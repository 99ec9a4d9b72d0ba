"""Which of several hops is tried first: those that kept silent lately come last."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from siprec.sip.clock import Clock
from siprec.sip.transport import Hop

MAX_KEPT: Final = 1000
Place = tuple[str, str, int]


def _place(hop: Hop) -> Place:
    return hop.transport, hop.host, hop.port


class SilentHops:
    """Hops that did not answer an INVITE, each for a while."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.until: dict[Place, float] = {}
        """When each may be tried in its turn again; empty: none was silent."""

    def __len__(self) -> int:
        return len(self.until)

    def add(self, hop: Hop, seconds: float) -> None:
        """`hop` kept silent: it comes last for so many seconds."""
        if seconds <= 0:
            return
        now = self._clock.now()
        if len(self.until) >= MAX_KEPT:
            self.until = {place: until for place, until in self.until.items() if until > now}
            if len(self.until) >= MAX_KEPT:
                self.until.clear()
        self.until[_place(hop)] = now + seconds

    def discard(self, hop: Hop) -> None:
        """It was heard of."""
        if self.until:
            self.until.pop(_place(hop), None)

    def last(self, hops: Iterable[Hop]) -> list[Hop]:
        """`hops` in their order, those that kept silent lately behind the others."""
        if not self.until:
            return list(hops)
        now = self._clock.now()
        return sorted(hops, key=lambda hop: self.until.get(_place(hop), 0.0) > now)
