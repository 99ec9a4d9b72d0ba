"""How often one Call-ID passes: a loop that loop detection cannot see is ended after some rounds.

Loop detection (RFC 3261 16.3, RFC 5393) compares what routing looks at. Whoever changes that on the way, another proxy
or an attacker's, makes a request come back as a new one each time, and where it forks, more of them each time.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from siprec.sip.clock import Clock
from siprec.sip.message import SipRequest, encode

WINDOW: Final = 32.0
MAX_KNOWN: Final = 100_000
MAX_KEY: Final = 128


class Passes:
    """Counts for `WINDOW` seconds from the first pass. Memory is bounded: the oldest counts go first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # Key -> the end of the window, with the passes once there are two; in the order of the ends.
        self._counts: dict[str, float | tuple[float, int]] = {}

    def count(self, request: SipRequest) -> int:
        """One more pass; how many there were in the window, this one included.

        INVITEs are counted by Call-ID. Other requests outside dialogs may share one (a conversation of MESSAGEs, RFC
        3428 4): there it is the same CSeq number that comes back.
        """
        key = request.call_id
        if len(key) > MAX_KEY:
            key = blake2b(encode(key), digest_size=16).hexdigest()
        if request.method != "INVITE" or request.to_tag:
            key = f"{key}\0{request.method} {request.cseq.number}"
        now = self._clock.now()
        counts = self._counts
        while counts:
            oldest = next(iter(counts))
            entry = counts[oldest]
            if (entry if isinstance(entry, float) else entry[0]) > now and len(counts) < MAX_KNOWN:
                break
            del counts[oldest]
        known = counts.get(key)
        if known is None:
            counts[key] = now + WINDOW
            return 1
        until, passes = (known, 1) if isinstance(known, float) else known
        counts[key] = (until, passes + 1)
        return passes + 1

    def __len__(self) -> int:
        return len(self._counts)
