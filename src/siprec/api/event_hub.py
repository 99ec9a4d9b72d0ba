"""Events on their way to those who listen: numbered, kept for a while, never waiting for anyone."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from siprec.api.model import Event
from siprec.recording.events import SiprecEvent


@dataclass(frozen=True, slots=True)
class Numbered:
    """An event with its number, and as JSON."""

    number: int
    id: str
    event: SiprecEvent
    data: bytes


Wanted = Callable[[SiprecEvent], bool]


class Subscriber:
    """One listener with a bounded queue. When that is full it is emptied, and the subscriber `dropped`."""

    def __init__(self, size: int, wanted: Wanted, allowed: Callable[[], bool] = lambda: True) -> None:
        self._size = size
        self._wanted = wanted
        self._allowed = allowed
        self._queue: deque[Numbered] = deque()
        self._wake = asyncio.Event()
        self.dropped = False
        self.closed = False

    def __len__(self) -> int:
        return len(self._queue)

    def offer(self, event: Numbered) -> None:
        """Queue an event if it is wanted; never waits."""
        if self.dropped or self.closed or not self._wanted(event.event):
            return
        if len(self._queue) >= self._size:
            self.dropped = True
            self._queue.clear()
        else:
            self._queue.append(event)
        self._wake.set()

    def close(self) -> None:
        """Nothing more will come."""
        self.closed = True
        self._wake.set()

    def check(self) -> None:
        """End here, with what waits, when the listener may not listen any more."""
        if not self._allowed():
            self._queue.clear()
            self.close()

    async def take(self, limit: float) -> list[Numbered]:
        """What is queued; waits for something for up to `limit` seconds."""
        if not (self._queue or self.dropped or self.closed):
            self._wake.clear()
            try:
                async with asyncio.timeout(limit):
                    await self._wake.wait()
            except TimeoutError:
                return []
        taken = list(self._queue)
        self._queue.clear()
        return taken


class EventHub:
    """A subscriber of recording events that passes them on, and keeps the last `ring` of them."""

    def __init__(self, ring: int = 1000) -> None:
        # A restart begins to count again: ids of before must not be taken for ours.
        self._epoch = secrets.token_hex(4)
        self._number = 0
        self._ring: deque[Numbered] = deque(maxlen=ring)
        self._subscribers: set[Subscriber] = set()
        self.sinks: list[Callable[[Numbered], None]] = []
        self.dropped_subscribers = 0

    def __len__(self) -> int:
        return len(self._subscribers)

    @property
    def queued(self) -> int:
        """Events that wait for subscribers."""
        return sum(len(subscriber) for subscriber in self._subscribers)

    @property
    def last_id(self) -> str:
        """The id of the newest event."""
        return f"{self._epoch}-{self._number}"

    def __call__(self, event: SiprecEvent) -> None:
        """Number an event and hand it on."""
        self._number += 1
        numbered = Numbered(self._number, self.last_id, event, b"")
        numbered = Numbered(self._number, numbered.id, event, msgspec.json.encode(describe(numbered)))
        self._ring.append(numbered)
        for subscriber in list(self._subscribers):
            subscriber.offer(numbered)
            if subscriber.dropped:
                self.drop(subscriber)
        for sink in self.sinks:
            sink(numbered)

    def subscribe(self, size: int, wanted: Wanted, allowed: Callable[[], bool] = lambda: True) -> Subscriber:
        """A new subscriber; :meth:`unsubscribe` it. `allowed` says whether it still may listen."""
        subscriber = Subscriber(size, wanted, allowed)
        self._subscribers.add(subscriber)
        return subscriber

    def drop(self, subscriber: Subscriber) -> None:
        """No more, and counted: it does not read."""
        if subscriber in self._subscribers:
            self._subscribers.discard(subscriber)
            self.dropped_subscribers += 1

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """No more."""
        self._subscribers.discard(subscriber)

    def check(self) -> None:
        """Who may listen has changed: end the subscriptions of those who may not any more."""
        for subscriber in self._subscribers:
            subscriber.check()

    def since(self, last_id: str) -> tuple[list[Numbered], bool]:
        """The events after `last_id`, and whether some of them are no longer kept."""
        epoch, _, number = last_id.rpartition("-")
        if epoch != self._epoch or not number.isdecimal() or len(number) > 18:
            return list(self._ring), True
        last = int(number)
        oldest = self._number - len(self._ring) + 1
        return [event for event in self._ring if event.number > last], last + 1 < oldest

    def close(self) -> None:
        """End all subscriptions."""
        for subscriber in list(self._subscribers):
            subscriber.close()
        self._subscribers.clear()


def describe(numbered: Numbered) -> Event:
    """An event as it goes over the wire."""
    event = numbered.event
    return Event(
        id=numbered.id,
        event=event.name,
        dlg_id=event.dlg_id,
        dlg_callid=event.dlg_callid,
        callid=event.callid,
        session_id=event.session_id,
        server=event.server,
        instance=event.instance,
        time=event.wall,
        reason=event.reason,
        status=event.status,
    )
