"""When the garbage collector runs: often for what is young, and for everything only while nobody is in a call.

Calls and recording sessions leave no reference cycles behind (tests count them), so what they need is freed at once.
Cycles come from elsewhere, and rarely: HTTP connections, tasks, tracebacks. A collection of everything looks at each
object of each call, 0.7 µs an object and 75 objects a call, and nothing else happens meanwhile: 50 ms with 1,000 calls.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Final

from siprec.sip.clock import Clock, Timer

YOUNG: Final = (2000, 5)
"""The youngest objects are looked at once 2,000 more of them are there than before (1 ms), those that survived that
after 5 such collections (4 ms)."""
SELDOM: Final = 50
"""Everything, after 50 of the latter: in processes without calls."""
_NEVER: Final = 1_000_000
_EVERY: Final = 60.0
_LONGEST: Final = 86400.0


class FullCollections:
    """Collects everything at moments when the process is not `busy`, at most once a minute and if there is anything
    new; once a day in any case. Nothing else collects everything from now on."""

    def __init__(self, clock: Clock, busy: Callable[[], object]) -> None:
        self._clock = clock
        self._busy = busy
        self._since = clock.now()
        gc.set_threshold(*YOUNG, _NEVER)
        self._timer: Timer = clock.call_later(_EVERY, self._check)

    def _check(self) -> None:
        self._timer = self._clock.call_later(_EVERY, self._check)
        now = self._clock.now()
        if gc.get_count()[2] and (not self._busy() or now - self._since >= _LONGEST):
            gc.collect()
            self._since = now

    def close(self) -> None:
        """As it was before."""
        self._timer.cancel()
        gc.set_threshold(*YOUNG, SELDOM)
