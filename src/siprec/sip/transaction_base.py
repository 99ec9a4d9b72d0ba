"""What all four transaction machines have in common: state, one timer, the run through the table.

The rows are in :mod:`siprec.sip.transaction_fsm`; a class binds each action to its method of that name.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar, Final

from siprec.sip.clock import Clock, Timer
from siprec.sip.fsm import Machine, Row
from siprec.sip.message import SipRequest
from siprec.sip.response_routing import Resolve, ResponseDelivery
from siprec.sip.transport import Hop, Transport

_ROUNDING: Final = 0.001
"""Seconds that make no difference between two times."""


class TransactionServices:
    """What transactions need of their layer: time, transport, intervals, and the ways for responses."""

    def __init__(self, clock: Clock, transport: Transport, t1: float, t2: float, t4: float) -> None:
        self.clock = clock
        self.transport = transport
        self.t1 = t1
        self.t2 = t2
        self.t4 = t4
        self.resolve: Resolve | None = None
        """RFC 3263, for responses that cannot be delivered otherwise (RFC 3263 5)."""
        self.on_response: Callable[[int, Hop], None] | None = None
        """Told of responses that are sent: status, and where to."""
        self.delivery = ResponseDelivery(transport)
        self.quarantines = {
            "64*T1": Quarantine(clock, 64 * t1),
            "D": Quarantine(clock, max(32.0, 64 * t1)),
            "T4": Quarantine(clock, t4),
            "0": Quarantine(clock, 0.0),
        }
        self._vias: dict[tuple[str, str, int], tuple[bytes, str]] = {}

    def with_via(self, octets: bytes, hop: Hop, branch: str) -> tuple[bytes, str]:
        """The octets of a request with our Via for `hop` on top (RFC 3261 18.1.1), and its sent-by as the answers
        have it."""
        host, port = self.transport.sent_by(hop)
        key = hop.transport, host, port
        if key not in self._vias:
            sent_by = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            if len(self._vias) >= 256:
                self._vias.clear()
            line = f"\r\nVia: SIP/2.0/{hop.transport.upper()} {sent_by};rport;branch="
            self._vias[key] = line.encode(), sent_by.lower()
        via, sent_by = self._vias[key]
        start = octets.index(b"\r\n")
        return b"%b%b%b%b" % (octets[:start], via, branch.encode(), octets[start:]), sent_by

    def pass_ack(self, request: SipRequest, source: Hop) -> None:
        """An ACK that no transaction waits for goes to the transaction user."""
        raise NotImplementedError


class Quarantine:
    """Transactions that do nothing but absorb what is repeated, all for the same time (Timers D, I, J, K, L, M).

    They leave in the order they came, so that one timer of the clock serves them all.
    """

    __slots__ = ("_clock", "_delay", "_waiting")

    def __init__(self, clock: Clock, delay: float) -> None:
        self._clock = clock
        self._delay = delay
        self._waiting: deque[tuple[float, Transaction, str]] = deque()

    def add(self, transaction: Transaction, event: str) -> None:
        """`event` happens to the transaction when the time is over."""
        waiting = self._waiting
        waiting.append((self._clock.now() + self._delay, transaction, event))
        if len(waiting) == 1:
            self._clock.call_later(self._delay, self._due)

    def _due(self) -> None:
        waiting, clock = self._waiting, self._clock
        now = clock.now()
        try:
            while waiting and waiting[0][0] <= now + _ROUNDING:
                # It stays at the head meanwhile, so that nobody else starts the timer.
                _, transaction, event = waiting[0]
                try:
                    transaction.fire(event)
                finally:
                    waiting.popleft()
        finally:
            if waiting:
                clock.call_later(max(0.0, waiting[0][0] - now), self._due)


_WAITING: Final = {
    "start timer D": ("timer D", "D", "0"),
    "start timer I": ("timer I", "T4", "0"),
    "start timer J": ("timer J", "64*T1", "0"),
    "start timer K": ("timer K", "T4", "0"),
    "start timer L": ("timer L", "64*T1", "64*T1"),
    "start timer M": ("timer M", "64*T1", "64*T1"),
}
"""The timers of those that only absorb repetitions: event, where they wait over UDP and over reliable transports."""
_NEVER_AGAIN: Final = frozenset({"timer K", "timer M"})
"""While these run, nothing is sent again."""


class Step:
    """A row of a table, ready to be run. What is in most rows is done by the machine itself, without a call."""

    __slots__ = ("actions", "ends", "guard", "passes", "row", "stops", "to", "waits", "wanted")

    def __init__(self, row: Row, cls: type[Transaction]) -> None:
        names = row.actions
        self.row = row
        self.to = row.to
        self.guard = row.guard.removeprefix("not ")
        self.wanted = not row.guard.startswith("not ")
        self.stops = "stop timers" in names
        self.passes = "pass response" in names
        self.waits = next((_WAITING[name] for name in names if name in _WAITING), None)
        self.ends = row.to == "terminated"
        self.actions: tuple[Callable[[Any, Any], None], ...] = tuple(
            getattr(cls, "_" + name.lower().replace(" ", "_"))
            for name in names
            if name not in ("stop timers", "pass response") and name not in _WAITING
        )


class Transaction:
    """One request and its responses, from either side. `state` is as in the tables; `reliable` says whether the
    transport retransmits by itself."""

    __slots__ = (
        "_data",  # octets to be sent again: the request or ACK of a client, the last response of a server
        "_interval",  # seconds until it is sent again
        "_layer",
        "_left",  # seconds until the time-out, counted from when `_timer` is due
        "_timer",
        "hop",
        "key",
        "method",
        "reliable",
        "request",
        "state",
    )
    table: ClassVar[dict[tuple[str, str], tuple[Step, ...]]]
    home: ClassVar[str]
    """The attribute of the layer that such transactions are in."""
    callbacks: ClassVar[tuple[str, ...]]
    """The attributes with functions of the transaction user."""
    again: ClassVar[str] = ""
    """The event of the timer that sends again."""
    timeout: ClassVar[str] = ""
    """The event of the timer that gives up."""

    hop: Hop | None
    key: Any
    method: str
    on_response: Callable[[Any, Any], None]
    state: str
    request: SipRequest
    reliable: bool
    _data: bytes
    _interval: float
    _layer: TransactionServices
    _left: float
    _timer: Timer | None

    def fire(self, event: str, argument: Any = None) -> None:
        """Something happened: run the row for it, if there is one."""
        for step in self.table.get((self.state, event), ()):
            if not step.guard or bool(getattr(self, step.guard)) is step.wanted:
                break
        else:
            return
        self.state = step.to
        if (step.stops or step.ends) and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if step.ends:
            getattr(self._layer, self.home).pop(self.key, None)
        for action in step.actions:
            action(self, argument)
        if step.waits is not None:
            event, unreliable, reliable = step.waits
            if event in _NEVER_AGAIN:
                self._data = b""
            self._layer.quarantines[reliable if self.reliable else unreliable].add(self, event)
        if step.passes:
            self.on_response(self, argument)
        if step.ends:
            # Whoever was told knows us: no reference cycle is left behind.
            for name in self.callbacks:
                setattr(self, name, None)

    # -- timers ----------------------------------------------------------------------------------------------------

    def _start_resending(self, _: Any) -> None:
        """Send again from T1 on where the transport does not, and give up after 64*T1."""
        layer = self._layer
        self._left = 64 * layer.t1
        self._interval = self._left if self.reliable else layer.t1
        self._timer = layer.clock.call_later(self._interval, self._due)

    def _restart(self, interval: float) -> None:
        """Send again after `interval`, or give up when the time is over before."""
        self._interval = min(interval, self._left)
        self._timer = self._layer.clock.call_later(self._interval, self._due)

    def _due(self) -> None:
        self._timer = None
        self._left -= self._interval
        self.fire(self.again if self._left > _ROUNDING else self.timeout)

    def _set_timer(self, delay: float, event: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._layer.clock.call_later(delay, self.fire, event)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.method} {self.key} {self.state}>"


def table_of(machine: Machine, cls: type[Transaction]) -> dict[tuple[str, str], tuple[Step, ...]]:
    """The rows of a machine by state and event, bound to the methods of `cls`.

    Raises:
        AttributeError: there is no method for an action.
    """
    table: dict[tuple[str, str], tuple[Step, ...]] = {}
    for row in machine.rows:
        key = row.state, row.event
        table[key] = (*table.get(key, ()), Step(row, cls))
    return table
