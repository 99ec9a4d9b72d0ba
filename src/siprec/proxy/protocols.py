"""What the features of the proxy use of it and of each other. They import this file, never the proxy's core.

The one who implements :class:`Proxy` is :class:`siprec.proxy.core.ProxyCore`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from siprec.media.engine import MediaServer
from siprec.proxy.call import Call, Leg, Observers
from siprec.proxy.dialog import OpenOffer, ProxiedDialog
from siprec.proxy.dialogs import DialogTable
from siprec.proxy.local_domain import LocalDomain
from siprec.proxy.passage import Passage
from siprec.proxy.peers import Side
from siprec.proxy.record_attribute import Preference, State
from siprec.proxy.response_context import ResponseContext
from siprec.sip.clock import Clock
from siprec.sip.errors import SipError
from siprec.sip.transaction import TransactionLayer
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri


class Indicator(Protocol):
    """What records, as far as the parties of a call are concerned; handed in from above (:mod:`siprec.recording`)."""

    def state(self, call: Call) -> State:
        """What record-aware parties are to be told now (RFC 7866 7.1.2); empty: nothing is indicated in this call."""
        ...

    def preference(self, call: Call, leg: Leg, preference: Preference) -> None:
        """A party said what it prefers (RFC 7866 7.1.3); before the answer to its offer is forwarded."""
        ...

    def signals(self, call: Call) -> bool:
        """Whether changes in mid-call may be told by requests of our own."""
        ...

    def tones(self, call: Call) -> bool:
        """Whether a recording that is wanted now is told by a tone."""
        ...


class Media(Protocol):
    """Descriptions on their way: :class:`siprec.proxy.media_path.MediaPath`."""

    def choose(self, call: Call) -> MediaServer | None: ...

    def fail(self, call: Call, reason: str, *, gone: bool = False) -> None: ...

    def move(self, dialog: ProxiedDialog, server: MediaServer) -> None: ...

    def settle(self, dialog: ProxiedDialog) -> None: ...

    def rolled_back(self, dialog: ProxiedDialog, offer: OpenOffer) -> None: ...

    def answered_ours(self, dialog: ProxiedDialog, side: Side, answer: bytes) -> None: ...


class Midcall(Protocol):
    """Requests of our own: :class:`siprec.proxy.midcall_requests.MidcallRequests`."""

    def changed(self, call: Call) -> None: ...

    def relocated(self, dialog: ProxiedDialog, told: dict[Side, bytes], *, relayed: bool = True) -> None: ...


class Failover(Protocol):
    """Calls from one media server to another: :class:`siprec.proxy.media_failover.MediaFailover`."""

    def moves(self, call: Call) -> bool: ...

    def move(self, call: Call, reason: str, *, dead: bool = False) -> None: ...

    def moved(self, dialog: ProxiedDialog, offer: bytes, answer: bytes) -> None: ...


class Proxy(Protocol):
    """The proxy, as its features see it."""

    clock: Clock
    counters: Counter[str]
    observers: Observers
    dialogs: DialogTable
    identity: LocalDomain
    indicator: Indicator | None
    random: random.Random
    contexts: set[ResponseContext]

    @property
    def layer(self) -> TransactionLayer: ...

    @property
    def media(self) -> Media: ...

    @property
    def midcall(self) -> Midcall: ...

    @property
    def failover(self) -> Failover: ...

    @property
    def session_expires(self) -> int:
        """The session timer to ask for in seconds (RFC 4028); 0: none."""
        ...

    def is_trusted(self, source: Hop) -> bool: ...

    def resolve_contact(
        self, uri: Uri, given_by: str, done: Callable[[list[Hop] | SipError], None], *, by_route: bool = False
    ) -> None: ...

    def run(self, context: ResponseContext) -> None:
        """Do what a context has said is to be done."""
        ...

    def passed(self, passage: Passage) -> None:
        """A message may go on: its description has passed the media server, or goes as it came."""
        ...
