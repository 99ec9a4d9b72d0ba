"""Noticing in mid-call that an SRS is gone, although nothing is to be said to it just now (RFC 7866 8.1.1).

Signs are looked for: ICMP errors and missing receiver reports by the media server's counters, a connection that closed,
an SRS that anything else found down (`suspect`). A sign alone ends nothing: the SRS is asked first, with an OPTIONS
inside the RS dialog. No answer in `PROBE` seconds, 408, 481 or a transport error: the RS is lost (RFC 7865 6.4). Any
other answer is life. Media that are refused (ICMP) in spite of it: the offer is repeated, and then the RS is lost too.

An SRS whose receiver reports are not seen, because it sends none or the media server does not show them, is asked every
`keepalive` seconds. By one or the other a hung SRS is replaced within 20 s.

One sweep a second for all recordings, while there are any; at most `RATE` of them are looked at in one, and while more
are due the next sweep follows after `BACKLOG`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from msgspec import Struct

from siprec.media.engine import ForkStatistics, MediaError, MediaStatistics, StatisticsResult, Subscription
from siprec.recording.call_metadata import RecordedCall
from siprec.recording.recording_profile import RecordingProfile
from siprec.recording.silence import AFTER
from siprec.recording.srs_health import SrsObserver
from siprec.sip.clock import Clock, Timer
from siprec.sip.message import SipResponse
from siprec.sip.transport import Hop
from siprec.sip.useragent import Result

RATE: Final = 100
SWEEP: Final = 1.0
BACKLOG: Final = 0.1
PROBE: Final = 4.0
"""Seconds that an SRS has for the answer to OPTIONS."""
LONGEST: Final = 14.0
"""Longest silence, in seconds, that the usual interval of an SRS's receiver reports excuses."""
REPEAT: Final = 2.0
"""Seconds between two looks once there is a sign."""
REOFFER_AT: Final = 2
LOST_AT: Final = 4
"""After so many looks in a row at which media did not arrive."""
_GONE: Final = frozenset({408, 481})


class Established(Protocol):
    """A recording that has a session with an SRS."""

    @property
    def call(self) -> RecordedCall:
        """The call."""

    @property
    def profile(self) -> RecordingProfile:
        """How it is recorded."""

    @property
    def server(self) -> str:
        """The SRS."""

    @property
    def rs_call_id(self) -> str:
        """Call-ID of the dialog with it."""

    @property
    def hop(self) -> Hop | None:
        """The hop that it was reached by."""

    @property
    def subscription(self) -> Subscription | None:
        """What the media server copies."""

    def query(self, done: StatisticsResult) -> None:
        """Ask the media server for its counters of the call."""

    def look_for_media(self, result: MediaStatistics, since: float) -> None:
        """Tell of streams that carry nothing since the recording began (`since`, seconds since the epoch)."""

    def offer_again(self) -> None:
        """Repeat the offer."""

    def lost(self, status: int, reason: str) -> None:
        """The SRS is gone."""

    def send(
        self,
        method: str,
        headers: tuple[tuple[str, str], ...],
        body: bytes,
        content_type: str,
        done: Callable[[Result], None],
    ) -> bool:
        """A request inside the dialog; false when there is none."""


class _Look(Struct, gc=False):
    """What is known of one recording: when it is looked at (`due`) and asked (`keepalive`), from when it is this SRS's
    (`since`, monotonic), `refused` packets, whether receiver reports came since then (`reporting`) and until when their
    silence is no sign (`excused`), and the bad looks in a row (`strikes`)."""

    due: float
    keepalive: float
    since: float
    refused: int = 0
    reporting: bool = False
    excused: float = 0.0
    strikes: int = 0
    asked: bool = False
    tag: str = ""
    uncounted: str = ""
    """The subscription whose copies the media server says nothing of."""
    first: float = 0.0
    began: float = 0.0
    """When it is to be seen whether the streams carry anything (monotonic; 0: it was), and when the recording began
    (since the epoch)."""


class LivenessMonitor(SrsObserver):
    """Looks after recordings that are established; see the module."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._looks: dict[Established, _Look] = {}
        self._timer: Timer | None = None
        self._asked: dict[str, float] = {}
        """When a session that several calls share was asked last, by its Call-ID."""

    def __len__(self) -> int:
        """Recordings looked after: for leak checks."""
        return len(self._looks)

    def add(self, recording: Established) -> None:
        """A recording session is established (again)."""
        profile, now = recording.profile, self._clock.now()
        if not profile.watch and not profile.keepalive:
            # Closed connections are noticed all the same.
            due = keepalive = float("inf")
        else:
            due = now + (profile.watch or float("inf"))
            keepalive = now + (profile.keepalive or float("inf"))
        first = now + AFTER
        self._looks[recording] = _Look(min(due, first), keepalive, now, first=first, began=self._clock.wall())
        self._wake()

    def discard(self, recording: Established) -> None:
        """It is over, or broken."""
        self._looks.pop(recording, None)
        self._asked.pop(recording.rs_call_id, None)
        if not self._looks and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def connection_closed(self, hop: Hop) -> None:
        """A connection to `hop` is gone, and not by our wish: whoever was reached by it is asked, some at a time."""
        now = self._clock.now()
        for recording, look in self._looks.items():
            hop_of = recording.hop
            if hop_of is not None and (hop_of.host, hop_of.port) == (hop.host, hop.port):
                look.keepalive = now
        self._wake(at_once=True)

    def srs_down(self, server: str) -> None:
        """`server` was found down by something else: its running sessions are asked now."""
        now = self._clock.now()
        for recording, look in self._looks.items():
            if recording.server == server:
                look.keepalive = now
        self._wake(at_once=True)

    def _wake(self, *, at_once: bool = False, delay: float = SWEEP) -> None:
        if at_once and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._timer is None and self._looks:
            self._timer = self._clock.call_later(0.0 if at_once else delay, self._sweep)

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
                self._keep_alive(recording, look)
            else:
                self._query(recording, look)
        self._wake(delay=BACKLOG if len(due) > RATE else SWEEP)

    def _keep_alive(self, recording: Established, look: _Look) -> None:
        period = recording.profile.keepalive
        if recording.profile.session != "per-call" and period:
            # One question is enough for all calls of a session.
            now, key = self._clock.now(), recording.rs_call_id
            if now - self._asked.get(key, -period) < PROBE:
                look.keepalive = now + period
                return
            self._asked[key] = now
        self._ask(recording, look, "no answer")

    # -- the media server's counters -----------------------------------------------------------------------------------

    def _query(self, recording: Established, look: _Look) -> None:
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
        copies = recording.subscription
        if not first and copies is not None and copies.tag == look.uncounted:
            return  # its counters would say nothing again

        def done(result: MediaStatistics | MediaError) -> None:
            subscription = recording.subscription
            if self._looks.get(recording) is not look or subscription is None or isinstance(result, MediaError):
                return
            if first:
                recording.look_for_media(result, look.began)
            if look.tag != subscription.tag:
                look.tag, look.refused = subscription.tag, 0
            forks = [fork for fork in result.forks if fork.tag == subscription.tag]
            if forks and not any(map(_is_counted, forks)):
                look.uncounted = subscription.tag
            silence = self._silence(recording, look, forks)
            sign = self._sign(look, forks)
            if not sign and silence:
                self._ask(recording, look, silence)
                return
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

    @staticmethod
    def _sign(look: _Look, forks: list[ForkStatistics]) -> str:
        """Why the media seem not to arrive; empty: they seem to."""
        refused = sum(fork.dropped.get("refused", 0) + fork.dropped.get("unreachable", 0) for fork in forks)
        before, look.refused = look.refused, refused
        return "the media are refused (ICMP)" if refused > before else ""

    def _silence(self, recording: Established, look: _Look, forks: list[ForkStatistics]) -> str:
        """What is to be said of an SRS that sent receiver reports and sends them no more; empty: nothing. Plans the
        next look for when that could be."""
        now, profile = self._clock.now(), recording.profile
        age = self._report_age(forks)
        # What an SRS before this one reported says nothing of it.
        look.reporting |= age is not None and now - age > look.since
        if not look.reporting or age is None or not profile.rtcp_timeout:
            # Reports that have come meanwhile spare the question.
            if profile.watch:
                look.due = min(look.due, max(look.keepalive - SWEEP, now + SWEEP))
            return ""
        interval = max((fork.report_interval for fork in forks), default=0.0)
        limit = max(profile.rtcp_timeout, min(3 * interval, LONGEST))
        quiet = max(now - age + limit, look.excused)
        if now < quiet:
            look.due = min(look.due, quiet)
            look.keepalive = max(look.keepalive, now + (profile.keepalive or float("inf")))
            return ""
        look.excused = now + limit
        look.due = min(look.due, look.excused)
        return f"no receiver report for {age:.0f} s"

    def _report_age(self, forks: list[ForkStatistics]) -> float | None:
        """Seconds since the SRS's last RTCP; None: none came, or the media server does not say."""
        wall = self._clock.wall()
        ages = [fork.report_age for fork in forks if fork.reports]
        # In seconds since the epoch: no clock of ours went backwards meanwhile.
        ages += [wall - fork.last_report for fork in forks if fork.rtcp_received and 0 < fork.last_report <= wall]
        return min(ages, default=None)

    # -- asking --------------------------------------------------------------------------------------------------------

    def _ask(self, recording: Established, look: _Look, sign: str) -> None:
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

        limit = self._clock.call_later(PROBE, done, None)
        if not recording.send("OPTIONS", (), b"", "", done):
            limit.cancel()
            limit = None
            look.asked = False

    def _lost(self, recording: Established, reason: str, status: int = 408) -> None:
        self.discard(recording)
        recording.lost(status, reason)


def _is_counted(fork: ForkStatistics) -> bool:
    """Whether the media server tells what becomes of a copy: ours does, RTPEngine and RTPProxy do not."""
    return fork.packets is not None or bool(fork.dropped) or fork.reports > 0 or bool(fork.rtcp_received)
