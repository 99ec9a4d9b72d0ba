"""Where the transport's messages come in: into the ring, and to Homer."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from siprec.net.address import is_wildcard, source_address
from siprec.proxy.call import Call, CallObserver
from siprec.sip.clock import Clock
from siprec.sip.transport import Hop
from siprec.trace.hep import HepSender
from siprec.trace.ring import TraceRing, call_id_of, without_keys

_MOST_PEERS: Final = 1000


class Tap(CallObserver):
    """An observer of calls. Give :meth:`sip` to the transport as its trace hook, :meth:`media` to media servers.

    With `hep` there should be a ring too: it knows which recording session belongs to which call.
    """

    def __init__(self, clock: Clock, ring: TraceRing | None, hep: HepSender | None) -> None:
        self._clock = clock
        self._sources: dict[str, str] = {}
        self.ring = ring
        self.hep = hep

    def call_created(self, call: Call) -> None:
        """See :class:`siprec.proxy.call.CallObserver`."""
        if self.ring is not None:
            self.ring.dialog(call.dlg_id, call.call_id)

    def sip(self, direction: str, hop: Hop, data: bytes) -> None:
        """A message went or came."""
        wall = self._clock.wall()
        if is_wildcard(hop.local[0]):
            hop = replace(hop, local=(self._source(hop.host) or hop.local[0], hop.local[1]))
        if self.ring is not None:
            self.ring.sip(wall, direction, hop, data)
        if self.hep is not None:
            call_id = call_id_of(data)
            # A recording session carries the Call-ID of its call, as soon as it is known to belong to it.
            self.hep.sip(
                wall,
                direction,
                hop,
                without_keys(data),
                self.ring.owner(call_id) if self.ring is not None else call_id,
            )

    def _source(self, peer: str) -> str:
        """Our address towards a peer, for a socket that is bound to all of them."""
        found = self._sources.get(peer)
        if found is None:
            if len(self._sources) >= _MOST_PEERS:
                self._sources.clear()
            found = self._sources[peer] = source_address(peer)
        return found

    def media(self, direction: str, server: str, call_id: str, data: bytes) -> None:
        """A media command went, or its reply came."""
        if self.ring is not None:
            self.ring.media(self._clock.wall(), direction, server, call_id, data)

    def close(self) -> None:
        """Let go of the socket."""
        if self.hep is not None:
            self.hep.close()
