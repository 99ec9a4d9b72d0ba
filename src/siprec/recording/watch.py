"""Noticing in mid-call that an SRS is gone, although nothing is to be said to it just now (ERR-11).

Signs are looked for: ICMP errors and missing receiver reports by the media server's counters, a connection that closed.
A sign alone ends nothing: the SRS is asked first, with an OPTIONS inside the RS dialog. No answer, 408 or 481: the RS
is lost (ERR-09). An answer, and yet the media do not arrive: the offer is repeated, and then the RS is lost too.

One sweep a second for all recordings, while there are any; at most `RATE` of them are looked at in one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from siprec.media.engine import ForkStatistics, MediaError, MediaStatistics
from siprec.recording.silence import AFTER
from siprec.sip.clock import Clock, Timer
from siprec.sip.message import SipResponse
from siprec.sip.transport import Hop
from siprec.sip.useragent import Result

if TYPE_CHECKING:
    from siprec.recording.active import ActiveRecording

RATE: Final = 100
SWEEP: Final = 1.0
REPEAT: Final = 2.0
"""Seconds between two looks once there is a sign."""
REOFFER_AT: Final = 2
LOST_AT: Final = 4
"""After so many looks in a row at which media did not arrive."""
_GONE: Final = frozenset({408, 481})


@dataclass(slots=True)
class _Look:
    """What is known of one recording: `refused` packets, `reports`, and the bad looks in a row (`strikes`)."""

    due: float
    keepalive: float
    refused: int = 0
    reports: int = 0
    strikes: int = 0
    asked: bool = False
    tag: str = ""
    first: float = 0.0
    began: float = 0.0
    """When it is to be seen whether the streams carry anything (monotonic; 0: it was), and when the recording began
    (since the epoch)."""


class SrsWatch:
    """Looks after recordings that are established; see the module."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._looks: dict[ActiveRecording, _Look] = {}
        self._timer: Timer | None = None

    def __len__(self) -> int:
        """Recordings looked after: for leak checks."""
        return len(self._looks)

    def add(self, recording: ActiveRecording) -> None:
        """A recording session is established (again)."""
        profile, now = recording.profile, self._clock.now()
        if not profile.watch and not profile.keepalive:
            # Closed connections are noticed all the same.
            due = keepalive = float("inf")
        else:
            due = now + (profile.watch or float("inf"))
            keepalive = now + (profile.keepalive or float("inf"))
        first = now + AFTER
        self._looks[recording] = _Look(min(due, first), keepalive, first=first, began=self._clock.wall())
        self._wake()

    def discard(self, recording: ActiveRecording) -> None:
        """It is over, or broken."""
        self._looks.pop(recording, None)
        if not self._looks and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def connection_closed(self, hop: Hop) -> None:
        """A connection to `hop` is gone, and not by our wish: whoever was reached by it is asked, some at a time."""
        now = self._clock.now()
        for recording, look in self._looks.items():
            way = recording.way
            if way is not None and (way.host, way.port) == (hop.host, hop.port):
                look.keepalive = now

    def _wake(self) -> None:
        if self._timer is None and self._looks:
            self._timer = self._clock.call_later(SWEEP, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        now = self._clock.now()
        due = [each for each in self._looks.items() if not each[1].asked and min(each[1].due, each[1].keepalive) <= now]
        # Who is to be asked comes before those whose counters are only looked at.
        due.sort(key=lambda each: each[1].keepalive > now)
        for recording, look in due[:RATE]:
            if self._looks.get(recording) is not look:
                continue
            if look.keepalive <= now:
                self._ask(recording, look, "no answer")
            else:
                self._query(recording, look)
        self._wake()

    # -- the media server's counters -----------------------------------------------------------------------------------

    def _query(self, recording: ActiveRecording, look: _Look) -> None:
        now = self._clock.now()
        look.due = now + (recording.profile.watch or float("inf"))
        first = 0.0 < look.first <= now
        if first:
            # Early media may well be silent: what counts is what comes after the answer.
            answered = recording.call.answer_wall
            talked = recording.call.wall(now) - answered if answered is not None else 0.0
            first, look.first = talked >= AFTER, now + AFTER - talked if talked < AFTER else 0.0
            look.began = max(look.began, answered or 0.0)
        if look.first:
            look.due = min(look.due, look.first)

        def done(result: MediaStatistics | MediaError) -> None:
            subscription = recording.subscription
            if self._looks.get(recording) is not look or subscription is None or isinstance(result, MediaError):
                return
            if first:
                recording.look_for_media(result, look.began)
            if look.tag != subscription.tag:
                look.tag, look.refused, look.reports = subscription.tag, 0, 0
            sign = self._sign(recording, look, [fork for fork in result.forks if fork.tag == subscription.tag])
            if not sign:
                look.strikes = 0
                return
            look.strikes += 1
            look.due = self._clock.now() + REPEAT
            if look.strikes >= LOST_AT:
                self._lost(recording, sign)
            elif look.strikes == REOFFER_AT:
                recording.offer_again()
            else:
                self._ask(recording, look, sign)

        recording.query(done)

    def _sign(self, recording: ActiveRecording, look: _Look, forks: list[ForkStatistics]) -> str:
        """Why the media seem not to arrive; empty: they seem to."""
        refused = sum(fork.dropped.get("refused", 0) + fork.dropped.get("unreachable", 0) for fork in forks)
        reports = sum(fork.rtcp_received or 0 for fork in forks)
        last = max((fork.last_report for fork in forks), default=0.0)
        before, look.refused = look.refused, refused
        had, look.reports = look.reports, max(look.reports, reports)
        if refused > before:
            return "the media are refused (ICMP)"
        limit = recording.profile.rtcp_timeout
        # Only of an SRS that did report can be said that it stopped.
        if had and limit and reports == had and last and self._clock.wall() - last > limit:
            return f"no receiver report for {self._clock.wall() - last:.0f} s"
        return ""

    # -- asking --------------------------------------------------------------------------------------------------------

    def _ask(self, recording: ActiveRecording, look: _Look, sign: str) -> None:
        look.keepalive = self._clock.now() + (recording.profile.keepalive or float("inf"))
        look.asked = True
        limit: Timer | None = None

        def done(result: Result | None) -> None:
            nonlocal limit
            if limit is None or self._looks.get(recording) is not look:
                return
            limit.cancel()
            limit = None
            look.asked = False
            if isinstance(result, SipResponse) and result.status not in _GONE:
                return
            if isinstance(result, SipResponse):
                self._lost(recording, f"{sign}; OPTIONS: {result.status}", result.status)
            elif result != "ended":
                self._lost(recording, f"{sign}; OPTIONS: {result or 'silence'}")

        limit = self._clock.call_later(recording.profile.setup_timeout, done, None)
        if not recording.send("OPTIONS", (), b"", "", done):
            limit.cancel()
            limit = None
            look.asked = False

    def _lost(self, recording: ActiveRecording, reason: str, status: int = 408) -> None:
        self.discard(recording)
        recording.lost(status, reason)
