"""Whether a recording client still lives: sessions that fall silent, and those that are too long.

A client that died sends no BYE. A client without RTP for a minute is asked by OPTIONS within the dialog, again and
again for as long as it is silent. Any answer is life, so a session on hold or paused is never ended. Only 481 ends it,
or two questions in a row without an answer (408, or nothing) while no RTP comes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from siprec.recorder.session import RecordingSession
from siprec.sip.clock import Clock, Timer
from siprec.sip.message import SipResponse
from siprec.sip.useragent import Call, Result

log = logging.getLogger(__name__)

QUESTIONS: Final = 2
_AGAIN: Final = 1.0

End = Callable[[str, int], None]
"""Ends the session: the reason, and the cause for the Reason header."""


class Liveness:
    """Watches one session from now on. `silence`: seconds without RTP after which the client is asked (0: never);
    `limit`: seconds that the session may last (0: any)."""

    def __init__(
        self, clock: Clock, call: Call, session: RecordingSession, end: End, *, silence: float, limit: float = 0.0
    ) -> None:
        self._clock = clock
        self._call = call
        self._session = session
        self._end = end
        self._silence = silence
        self._unanswered = 0
        self._answered_at = float("-inf")
        self._asking = False
        self._stopped = False
        self._timer: Timer | None = clock.call_later(silence, self._look) if silence else None
        self._limit: Timer | None = clock.call_later(limit, self._too_long) if limit else None

    def stop(self) -> None:
        """The session is over."""
        for timer in (self._timer, self._limit):
            if timer is not None:
                timer.cancel()
        self._timer = self._limit = None
        self._stopped = True

    @property
    def flowing(self) -> bool:
        """Whether RTP has come lately."""
        return self._session.silent_for < max(self._silence, 5.0)

    def doubt(self, why: str) -> None:
        """Something speaks against the session: ask now."""
        if self._asking or self._stopped:
            return
        log.info("Call-ID %s: is the recording client still there? %s", self._call.call_id, why)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._ask()

    def _too_long(self) -> None:
        self._end("max_duration", 0)

    def _look(self) -> None:
        silent = self._session.silent_for
        if silent < self._silence:
            self._timer = self._clock.call_later(self._silence - silent, self._look)
        else:
            self._timer = None
            self._ask()

    def _ask(self) -> None:
        self._asking = True
        if not self._call.probe(self._answer):
            self._asking = False

    @property
    def answered_lately(self) -> bool:
        """Whether the client has answered something since it could last have been asked."""
        return self._clock.now() - self._answered_at < 2 * self._silence + 60.0

    def answered(self) -> None:
        """The client has answered a request of ours."""
        self._answered_at = self._clock.now()

    def _answer(self, result: Result) -> None:
        self._asking = False
        if self._stopped or self._call.state == "ended":
            return
        if isinstance(result, SipResponse) and result.status == 481:
            self._end("the recording client does not know the session (481)", 481)
            return
        if isinstance(result, SipResponse) and result.status != 408:
            self.answered()
            self._unanswered = 0
        else:
            self._unanswered += 1
            if self._unanswered >= QUESTIONS and not self.flowing:
                self._end("the recording client does not answer", 408)
                return
        if self._unanswered and not self.flowing:
            self._timer = self._clock.call_later(_AGAIN, self._ask)
        elif self._silence:
            self._unanswered = 0
            self._timer = self._clock.call_later(self._silence, self._look)
