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
from siprec.recording.settings import RecordingProfile, check_socket
from siprec.sip.clock import Clock, Timer
from siprec.sip.errors import SipError
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.uri import Uri
from siprec.sip.useragent import Result, UserAgent

log = logging.getLogger(__name__)

DOWN_PING: Final = 15.0
"""Seconds between two OPTIONS to an SRS that is down."""
MAX_RETRY_AFTER: Final = 3600.0
MAX_SERVERS: Final = 500


@dataclass(slots=True)
class Health:
    """One SRS. `state`: ``unknown``, ``up`` or ``down``; `failures` in a row; `busy_until`: monotonic."""

    profile: RecordingProfile
    state: str = "unknown"
    failures: int = 0
    busy_until: float = 0.0
    pinged: float = 0.0
    asking: bool = False


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

    def well(self, server: str, profile: RecordingProfile) -> None:
        """It took a recording, or answered."""
        found = self._entry(server, profile)
        if found is None:
            return
        found.failures, found.busy_until = 0, 0.0
        self._set(server, found, "up", 0, "")

    def failed(
        self, server: str, profile: RecordingProfile, status: int, reason: str, retry_after: float = 0.0
    ) -> None:
        """It refused with `status`; 408 and 503 also for silence and no way there."""
        found = self._entry(server, profile)
        if found is None:
            return
        if status == 503 and retry_after > 0:
            found.busy_until = self._clock.now() + min(retry_after, MAX_RETRY_AFTER)
        elif status == 408 or 500 <= status < 600:
            found.failures += 1
            self._set(server, found, "down", status, reason)
        elif status >= 300:
            # Any other refusal is the word of a server that is well.
            self._set(server, found, "up", 0, "")

    def _entry(self, server: str, profile: RecordingProfile) -> Health | None:
        found = self._known.get(server)
        if found is None and len(self._known) < MAX_SERVERS:
            found = self._known[server] = Health(profile, pinged=self._clock.now())
        return found

    def _set(self, server: str, found: Health, state: str, status: int, reason: str) -> None:
        before, found.state = found.state, state
        if state != before and not (before == "unknown" and state == "up"):
            name = events.SRS_UP if state == "up" else events.SRS_DOWN
            (log.info if state == "up" else log.warning)("SRS %s is %s %s %s", server, state, status or "", reason)
            self._dispatcher.emit(SiprecEvent(name, "", "", "", "", server, "", self._clock.wall(), reason, status))
        self._plan()

    # -- OPTIONS -------------------------------------------------------------------------------------------------------

    def _period(self, found: Health) -> float:
        if found.state == "down":
            return min(DOWN_PING, found.profile.ping or DOWN_PING)
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
                self.well(server, profile)
            else:
                status = result.status if isinstance(result, SipResponse) else 408
                self.failed(server, profile, status, result.reason if isinstance(result, SipResponse) else result)
            self._plan()

        where = reach.socket or profile.socket
        resolve = reach.through(self._agent.resolve, check_socket(where) if where else None)
        self._agent.request(request, way, done, resolve=resolve)
