"""Password guessing becomes slow: failed attempts are counted per source, and per pair of source and user.

They are never counted for a user alone: whoever could spend that count from anywhere would lock the user out.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Hashable
from typing import Final

from siprec.sip.clock import Clock
from siprec.sip.errors import SipError
from siprec.sourcelog import SourceLog, source_key

log = logging.getLogger(__name__)

#: Failures at once, and seconds after which one more is allowed.
PAIR: Final = (5, 30.0)
SOURCE: Final = (30, 5.0)
#: Seconds for which a user that was right stays apart from the failures of its source.
KNOWN_GOOD: Final = 86400.0
MAX_KEPT: Final = 20_000


class _Buckets:
    """Failures by key: `burst` at once, then one each `seconds`. Only keys with failures take memory, and only so
    many: those that failed least lately go first."""

    def __init__(self, burst: int, seconds: float) -> None:
        self._burst = burst
        self._seconds = seconds
        self._full_at: OrderedDict[Hashable, float] = OrderedDict()  # when nothing of the failures is left

    def wait(self, key: Hashable, now: float) -> float:
        """Seconds until the next attempt may fail; 0: now."""
        return max(0.0, self._full_at.get(key, now) - now - (self._burst - 1) * self._seconds)

    def failed(self, key: Hashable, now: float) -> None:
        """One more failure."""
        self._full_at[key] = max(self._full_at.get(key, now), now) + self._seconds
        self._full_at.move_to_end(key)
        while self._full_at and (len(self._full_at) > MAX_KEPT or self._full_at[next(iter(self._full_at))] <= now):
            self._full_at.popitem(last=False)

    def forget(self, key: Hashable) -> None:
        """All its failures are forgotten."""
        self._full_at.pop(key, None)

    def __len__(self) -> int:
        return len(self._full_at)


class GuessThrottle:
    """Of one place where passwords are asked for."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pairs = _Buckets(*PAIR)
        self._sources = _Buckets(*SOURCE)
        self._good: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._lines = SourceLog(log, now=clock.now)
        self.counters: Counter[str] = Counter()

    def check(self, host: str, user: str) -> None:
        """Before credentials of `user` from `host` are looked at.

        Raises:
            SipError: 503 with Retry-After: not now, right or wrong.
        """
        now, source = self._clock.now(), source_key(host)
        pair = (source, user[:128])
        wait = self._pairs.wait(pair, now)
        if self._good.get(pair, 0.0) < now:
            wait = max(wait, self._sources.wait(source, now))
        if wait <= 0:
            return
        self.counters["guesses_slowed"] += 1
        self._lines.warning(host, "password guessing: source=%s user=%r is slowed down", host, user[:128])
        raise SipError("Too Many Failed Attempts", 503, (("Retry-After", str(int(wait) + 1)),))

    def failed(self, host: str, user: str) -> None:
        """They were wrong."""
        now, source = self._clock.now(), source_key(host)
        self._pairs.failed((source, user[:128]), now)
        self._sources.failed(source, now)

    def succeeded(self, host: str, user: str) -> None:
        """They were right."""
        pair = (source_key(host), user[:128])
        self._pairs.forget(pair)
        self._good[pair] = self._clock.now() + KNOWN_GOOD
        self._good.move_to_end(pair)
        while len(self._good) > MAX_KEPT:
            self._good.popitem(last=False)

    def __len__(self) -> int:
        return len(self._pairs) + len(self._sources) + len(self._good)
