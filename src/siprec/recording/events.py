"""What recordings tell the outside: the events of the reference and a few more, and who listens."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

log = logging.getLogger(__name__)

START: Final = "E_SIPREC_START"
"""A recording session is established."""
STOP: Final = "E_SIPREC_STOP"
"""An established recording session ended: exactly one for each START."""
FAILED: Final = "E_SIPREC_FAILED"
"""A call is not, or no longer, recorded although it should be; or a script's setting for it was ignored (`IGNORED`)."""
FAILOVER: Final = "E_SIPREC_FAILOVER"
"""An SRS did not take the recording, or was lost; another attempt follows. `server` is the one given up."""
PAUSED: Final = "E_SIPREC_PAUSED"
"""The SRS confirmed that nothing is streamed any more."""
RESUMED: Final = "E_SIPREC_RESUMED"
"""The SRS confirmed that streaming goes on."""
UPDATED: Final = "E_SIPREC_UPDATED"
"""The SRS took a change of the call: metadata (hold, a party that came or left) or streams. Pauses have their own."""
UPDATE_FAILED: Final = "E_SIPREC_UPDATE_FAILED"
"""The SRS refused a change; the recording goes on as before it."""
NO_MEDIA: Final = "E_SIPREC_NO_MEDIA"
"""Five seconds after the start a negotiated stream has carried nothing; `reason` says which. The recording goes on."""
NOT_DECODABLE: Final = "E_SIPREC_NOT_DECODABLE"
"""The SRS takes a stream, but not a codec of it that the call may use, and the media server does not transcode: what is
sent in it may not be decodable at the SRS. `reason` names stream and codecs. The recording goes on."""
SRS_DOWN: Final = "E_SIPREC_SRS_DOWN"
"""An SRS is silent, unreachable or answers 5xx: others are tried first. `server` says which; there is no call."""
SRS_UP: Final = "E_SIPREC_SRS_UP"
"""It is back."""
MEDIA_DOWN: Final = "E_SIPREC_MEDIA_DOWN"
"""A media server does not answer, or its process ended: new calls go to others. `server` says which; there is no
call."""
MEDIA_UP: Final = "E_SIPREC_MEDIA_UP"
"""It is back."""
LOOP: Final = "E_SIPREC_LOOP"
"""A Call-ID passed more often than `sip.max_passes`: a loop, or an attack. `dlg_callid` and `reason` are set."""
RESOURCES: Final = "E_SIPREC_RESOURCES"
"""File descriptors, connections or ports run out: 80 % are in use; once more when it is below 70 % again. `server` says
which, `reason` how many; there is no call."""
IGNORED: Final = "setting ignored: "
"""How the reason of a `FAILED` begins that is about a setting only: the recording goes on without it."""
ENDED_BY_SRS: Final = "ended by SRS"
"""How the reason of a `STOP` or `FAILOVER` begins when the SRS sent BYE. The status is 0 when that is its decision."""
MEDIA_SOURCE: Final = "E_SIPREC_MEDIA_SOURCE"
"""Media of a party come from another host, without a description that says so. `server` is the media server."""
OF_SERVERS: Final = frozenset({SRS_DOWN, SRS_UP, MEDIA_DOWN, MEDIA_UP, RESOURCES})
"""Those that belong to no call."""
EVENTS: Final = (
    frozenset({START, STOP, FAILED, FAILOVER, PAUSED, RESUMED, UPDATED, UPDATE_FAILED})
    | {NO_MEDIA, NOT_DECODABLE, LOOP, MEDIA_SOURCE}
    | OF_SERVERS
)


@dataclass(frozen=True, slots=True)
class SiprecEvent:
    """One event.

    `dlg_id`, `dlg_callid`: dialog id and Call-ID of the recorded call; `callid`: Call-ID of the RS (empty if there was
    none yet); `session_id`: SIPREC UUID; `server`: URI of the SRS; `wall`: seconds since the epoch; `reason` and
    `status` (SIP, 0 if none) say why.
    """

    name: str
    dlg_id: str
    dlg_callid: str
    callid: str
    session_id: str
    server: str
    instance: str
    wall: float
    reason: str = ""
    status: int = 0


Subscriber = Callable[[SiprecEvent], object]


class EventDispatcher:
    """Hands each event to its subscribers at once, in the order they came. A subscriber's error is logged and stays
    its own."""

    def __init__(self) -> None:
        self._subscribers: list[tuple[Subscriber, frozenset[str]]] = []

    def subscribe(self, subscriber: Subscriber, names: Collection[str] = EVENTS) -> Callable[[], None]:
        """Have `subscriber` called with each event of these names; returns what ends that.

        Raises:
            ValueError: an unknown event name.
        """
        unknown = set(names) - EVENTS
        if unknown:
            raise ValueError(f"unknown event {sorted(unknown)[0]!r}; known: {', '.join(sorted(EVENTS))}")
        entry = (subscriber, frozenset(names))
        self._subscribers.append(entry)

        def unsubscribe() -> None:
            self._subscribers = [other for other in self._subscribers if other is not entry]

        return unsubscribe

    def emit(self, event: SiprecEvent) -> None:
        """Tell everyone; never raises."""
        for subscriber, names in self._subscribers:
            if event.name in names:
                try:
                    subscriber(event)
                except Exception:
                    log.exception("subscriber of %s failed (call %s)", event.name, event.dlg_callid)
