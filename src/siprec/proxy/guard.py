"""Scanners: who names a known tool in User-Agent, or gets one refusal after the other, is dropped without an answer.

Over UDP an address can be forged: whoever is known (trusted, named in a rule, registered) is never banned, so that
nobody can be shut out in its name.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection
from typing import Any, Final

from siprec.sip.clock import Clock
from siprec.sip.errors import SipError
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.transport import Hop
from siprec.sourcelog import SourceLog, source_key

log = logging.getLogger(__name__)

AGENTS: Final = (
    "friendly-scanner",
    "sipvicious",
    "sip-scan",
    "sipscan",
    "sipcli",
    "sundayddr",
    "vaxsipuseragent",
    "pplsip",
    "smap",
    "iwar",
    "sipptk",
    "nmap",
)
Receive = Callable[[SipRequest | SipResponse, Hop], None]
ReceiveMalformed = Callable[[SipError, Hop], None]
WINDOW: Final = 32.0
MAX_KEPT: Final = 20_000


class Guard:
    """Of one proxy. `is_known(host)` names those who are never dropped; responses never are, nor are requests within
    calls (`is_in_call`).

    `agents` are texts looked for in User-Agent, without regard to case. A refusal (4xx) counts one, a success (2xx)
    takes two off: `refusals` within 32 s ban a source for `ban` seconds.
    """

    def __init__(
        self,
        clock: Clock,
        is_known: Callable[[str], bool],
        *,
        agents: Collection[str] = AGENTS,
        refusals: int = 30,
        ban: float = 300.0,
        is_in_call: Callable[[SipRequest], bool] = lambda request: False,
    ) -> None:
        self._is_in_call = is_in_call
        self._clock = clock
        self._is_known = is_known
        self.counters: Counter[str] = Counter()
        self._scores: OrderedDict[str, tuple[int, float]] = OrderedDict()  # points, and when they are forgotten
        self._bans: OrderedDict[str, float] = OrderedDict()
        self._lines = SourceLog(log, now=clock.now)
        self.configure(agents, refusals, ban)

    def configure(self, agents: Collection[str], refusals: int, ban: float) -> None:
        """Go on with other rules."""
        self._agents = tuple(agent.lower() for agent in agents if agent)
        self._refusals = refusals
        self._ban = ban

    def admits(self, message: SipRequest | SipResponse | None, source: Hop) -> bool:
        """Whether a message from there may come in; `message` None: it could not be parsed."""
        if isinstance(message, SipResponse):
            return True
        key = source_key(source.host)
        if self._bans and key in self._bans:
            if self._bans[key] > self._clock.now():
                if self._is_known(source.host) or (message is not None and self._is_in_call(message)):
                    return True
                self.counters["guard_dropped"] += 1
                return False
            del self._bans[key]
        if message is not None:
            agent = (message.get("user-agent") or "")[:256].lower()
            if agent and any(each in agent for each in self._agents) and not self._is_known(source.host):
                self.counters["guard_dropped"] += 1
                self._lines.warning(source.host, "source=%s dropped: User-Agent %r", source.host, agent[:80])
                return False
        return True

    def before(self, receive: Receive) -> Receive:
        """`receive` of a transaction layer, for what is admitted."""

        def guarded(message: SipRequest | SipResponse, source: Hop) -> None:
            if self.admits(message, source):
                receive(message, source)

        return guarded

    def before_malformed(self, receive: ReceiveMalformed) -> ReceiveMalformed:
        """The same for what could not be parsed."""

        def guarded(error: SipError, source: Hop) -> None:
            if self.admits(None, source):
                receive(error, source)

        return guarded

    def answered(self, status: int, source: Hop) -> None:
        """A final response was sent there."""
        if not 200 <= status < 500 or 300 <= status < 400:
            return
        key, now = source_key(source.host), self._clock.now()
        points, until = self._scores.get(key, (0, 0.0))
        if until <= now:
            points, until = 0, now + WINDOW
        points += -2 if status < 300 else 1
        if points <= 0:
            self._scores.pop(key, None)
            return
        self._scores[key] = (points, until)
        _trim(self._scores)
        if points >= self._refusals and not self._is_known(source.host):
            del self._scores[key]
            self._bans[key] = now + self._ban
            self._bans.move_to_end(key)
            _trim(self._bans)
            self.counters["guard_banned"] += 1
            log.warning("source=%s banned for %.0f s: %d refusals", source.host, self._ban, points)


def _trim(table: OrderedDict[str, Any]) -> None:
    while len(table) > MAX_KEPT:
        table.popitem(last=False)
