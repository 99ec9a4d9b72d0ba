"""What is counted of calls as they come and go."""

from __future__ import annotations

from collections import Counter
from typing import Final

from siprec.media.engine import MediaError, MediaStatistics
from siprec.proxy.call import Call, CallObserver

_REASONS: Final = frozenset({"bye", "cancelled", "expired", "abandoned", "shutdown", "idle", "timeout"})


class CallCounters(CallObserver):
    """Counts calls and how they ended: a few increments per call; and the packets of those that were recorded, by one
    question to the media server at the end where that is wanted. It has to hear of it before the recording does."""

    def __init__(self, count_packets: bool = True) -> None:
        self._count_packets = count_packets
        self.packets: Counter[str] = Counter()
        self.created = 0
        self.replies: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()

    def call_created(self, call: Call) -> None:
        self.created += 1

    def call_answered(self, call: Call) -> None:
        status = call.response.status if call.response is not None else 200
        self.replies[str(status)] += 1

    def call_ended(self, call: Call) -> None:
        reason = call.end_reason
        if call.answer_wall is None:
            failed = reason.isdecimal() and len(reason) == 3
            self.replies[reason if failed else ("487" if reason == "cancelled" else "none")] += 1
        else:
            self.ends[reason if reason in _REASONS else "other"] += 1
            media, session = call.media, call.media_session
            if not self._count_packets or not call.recordings or media is None or session is None:
                return
            # The media server tells as it ends the call there, whenever that may be.
            if call.media_path is None or not call.media_path.at_end(self.counted):
                media.query(session, self.counted)

    def counted(self, result: MediaStatistics | MediaError | None) -> None:
        """Take note of the media server's counters of a call that ended."""
        if not isinstance(result, MediaStatistics):
            self.packets["unknown_calls"] += 1
            return
        for stream in result.streams:
            self.packets["received"] += stream.packets
            self.packets["forked"] += stream.forked or 0
            self.packets["lost"] += stream.lost or 0
