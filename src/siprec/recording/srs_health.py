"""What is known of the SRSs, shared by all recordings: who is tried first, who is asked whether it is back.

An SRS that was silent, unreachable or answered 5xx is down, and tried last until it answers again; one that said
``Retry-After`` with a 503 likewise until that time has passed (RFC 3261 21.5.4). None is ever left out: where no other
is left, a try may still save the recording. SRSs that are down are asked by OPTIONS; others where a profile says so.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from siprec.recording import events
from siprec.recording.events import EventDispatcher, SiprecEvent
from siprec.recording.recording_profile import RecordingProfile
from siprec.recording.settings import check_socket
from siprec.sip.clock import Clock, Timer
from siprec.sip.errors import SipError
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.uri import Uri
from siprec.sip.useragent import Result, UserAgent

log = logging.getLogger(__name__)

DOWN_PING: Final = 15.0
"""Longest time between two OPTIONS to an SRS that is down, in seconds: one that is back soon is found soon."""
FIRST_PING: Final = 1.0
"""Seconds to the first of them. Doubled with each, and with each recording that it refused meanwhile."""
MAX_RETRY_AFTER: Final = 3600.0
MAX_SERVERS: Final = 500


@dataclass(slots=True)
class Health:
    """One SRS. `state`: ``unknown``, ``up`` or ``down``; `failures` in a row; `busy_until`: monotonic; `patience`:
    doublings of the time to the next OPTIONS, `refusals` how often it went down since it last took a recording."""

    profile: RecordingProfile
    state: str = "unknown"
    failures: int = 0
    busy_until: float = 0.0
    pinged: float = 0.0
    asking: bool = False
    patience: int = 0
    refusals: int = 0


class SrsObserver:
    """Hears of SRSs that come and go."""

    def srs_down(self, server: str) -> None:
        """`server` seems not to be there any more."""

    def srs_up(self, server: str) -> None:
        """`server` is back."""


class HealthTable:
    """The SRSs of all profiles, and those that scripts named.

    Args:
        clock, agent: see `RecordingService`.
        dispatcher: is told when an SRS goes down or comes up.
    """

    def __init__(self, clock: Clock, agent: UserAgent, dispatcher: EventDispatcher) -> None:
        self._clock = clock
        self._agent = agent
        self._dispatcher = dispatcher
        self._known: dict[str, Health] = {}
        self._timer: Timer | None = None
        self.observers: list[SrsObserver] = []

    def watch(self, profiles: list[RecordingProfile]) -> None:
        """Know the SRSs of these profiles; begin to ask those that are to be asked regularly."""
        for profile in profiles:
            for server in profile.targets:
                self._entry(server, profile)
        self._plan()

    def close(self) -> None:
        """Ask nobody any more."""
        self._known.clear()
        self._plan()

    def state(self, server: str) -> str:
        """``unknown``, ``up`` or ``down``."""
        found = self._known.get(server)
        return found.state if found is not None else "unknown"

    def retry_in(self, server: str) -> float:
        """Seconds for which the SRS asked to be left alone, 0 if none."""
        found = self._known.get(server)
        return max(0.0, found.busy_until - self._clock.now()) if found is not None else 0.0

    def order(self, targets: tuple[str, ...]) -> tuple[str, ...]:
        """The SRSs in the order they should be tried: as given, but those in trouble last."""
        if len(targets) < 2:
            return targets
        now = self._clock.now()

        def trouble(server: str) -> int:
            found = self._known.get(server)
            if found is None:
                return 0
            return 2 if found.state == "down" else int(found.busy_until > now)

        return tuple(sorted(targets, key=trouble))

    # -- what became of attempts ---------------------------------------------------------------------------------------

    def mark_up(self, server: str, profile: RecordingProfile, *, took: bool = False) -> None:
        """It answered, or `took` a recording."""
        found = self._entry(server, profile)
        if found is None:
            return
        if took:
            found.refusals, found.busy_until = 0, 0.0
        found.failures = 0
        self._set(server, found, "up", 0, "")

    def mark_down(
        self,
        server: str,
        profile: RecordingProfile,
        status: int,
        reason: str,
        retry_after: float = 0.0,
        *,
        probe: bool = True,
    ) -> None:
        """It refused with `status`; 408 and 503 also for silence and no way there. `probe`: ask in the sessions it has
        whether it is still there, if this is what it is found down by; else it said so, and others come first for a
        while although it answers."""
        found = self._entry(server, profile)
        if found is None:
            return
        if status == 503 and retry_after > 0:
            found.busy_until = self._clock.now() + min(retry_after, MAX_RETRY_AFTER)
        elif status == 408 or 500 <= status < 600:
            found.failures += 1
            if not probe:
                found.busy_until = max(found.busy_until, self._clock.now() + DOWN_PING)
            self._set(server, found, "down", status, reason, probe=probe)
        elif status >= 300:
            # Any other refusal is the word of a server that is well.
            self._set(server, found, "up", 0, "")

    def _entry(self, server: str, profile: RecordingProfile) -> Health | None:
        found = self._known.get(server)
        if found is None and len(self._known) < MAX_SERVERS:
            found = self._known[server] = Health(profile, pinged=self._clock.now())
        return found

    def _set(self, server: str, found: Health, state: str, status: int, reason: str, *, probe: bool = False) -> None:
        before, found.state = found.state, state
        if state == "down" and before != "down":
            found.pinged, found.patience = self._clock.now(), found.refusals
            found.refusals += 1
        if state != before and not (before == "unknown" and state == "up"):
            name = events.SRS_UP if state == "up" else events.SRS_DOWN
            (log.info if state == "up" else log.warning)("SRS %s is %s %s %s", server, state, status or "", reason)
            self._dispatcher.emit(SiprecEvent(name, "", "", "", "", server, "", self._clock.wall(), reason, status))
        self._plan()
        if state == "up" and before == "down":
            for observer in self.observers:
                observer.srs_up(server)
        elif state == "down" and before != "down" and probe:
            for observer in self.observers:
                observer.srs_down(server)

    # -- OPTIONS -------------------------------------------------------------------------------------------------------

    def _period(self, found: Health) -> float:
        if found.state == "down":
            wait = FIRST_PING * (1 << min(found.patience, 10))
            return min(DOWN_PING, found.profile.ping or DOWN_PING, wait)
        return found.profile.ping or float("inf")

    def _plan(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = [each.pinged + self._period(each) for each in self._known.values() if not each.asking]
        first = min(due, default=float("inf"))
        if first < float("inf"):
            self._timer = self._clock.call_later(max(0.05, first - self._clock.now()), self._ping)

    def _ping(self) -> None:
        self._timer = None
        now = self._clock.now()
        for server, found in list(self._known.items()):
            if not found.asking and found.pinged + self._period(found) <= now + 0.01:
                self._ask(server, found)
        self._plan()

    def _ask(self, server: str, found: Health) -> None:
        found.pinged = self._clock.now()
        found.patience += 1
        profile = found.profile
        try:
            reach = profile.reach(server)
            target = reach.target(Uri.parse(server))
            way = Uri.parse(reach.outbound_proxy) if reach.outbound_proxy else target
        except SipError:
            return
        request = SipRequest("OPTIONS", target.text)
        if reach.route:
            request.add("Route", f"<{reach.route}>")
        request.add("Accept", "application/sdp")
        found.asking = True

        def done(result: Result) -> None:
            found.asking = False
            if self._known.get(server) is not found:
                return
            # Whatever it says, it is there: a recorder need not know OPTIONS.
            if isinstance(result, SipResponse) and result.status not in (408, 503):
                self.mark_up(server, profile)
            else:
                status = result.status if isinstance(result, SipResponse) else 408
                self.mark_down(server, profile, status, result.reason if isinstance(result, SipResponse) else result)
            self._plan()

        where = reach.socket or profile.socket
        resolve = reach.through(self._agent.resolve, check_socket(where) if where else None)
        self._agent.request(request, way, done, resolve=resolve)
