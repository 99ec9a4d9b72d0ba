"""A 2xx to an INVITE, sent again until its ACK comes."""

from __future__ import annotations

from collections.abc import Callable

from siprec.sip.clock import Clock, Timer
from siprec.sip.transaction import ServerTransaction


class AnsweredInvite:
    """A 2xx of ours that waits for its ACK: sent again at T1, doubling to T2, up to 64*T1 (RFC 3261 13.3.1.4).

    `offered`: the 2xx has the offer, the ACK is to bring the answer. `silent()` is called when no ACK came. The octets
    are those that the transaction has.
    """

    __slots__ = ("_clock", "_interval", "_left", "_silent", "_t2", "_timer", "_transaction", "cseq", "offered")

    def __init__(
        self,
        clock: Clock,
        intervals: tuple[float, float],
        transaction: ServerTransaction,
        offered: bool,
        silent: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._interval, self._t2 = intervals
        self._left = 64 * self._interval
        self._transaction = transaction
        self._silent = silent
        self.cseq = transaction.request.cseq.number
        self.offered = offered
        self._timer: Timer = clock.call_later(self._interval, self._again)

    def _again(self) -> None:
        self._left -= self._interval
        if self._left <= 0.001:
            self._silent()
            return
        self._transaction.respond_again()
        self._interval = min(self._interval * 2, self._t2, self._left)
        self._timer = self._clock.call_later(self._interval, self._again)

    def stop(self) -> None:
        """The ACK came, or nobody waits for it any more."""
        self._timer.cancel()
