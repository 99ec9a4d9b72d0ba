"""Where the transport's messages come in: into the ring, and to Homer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from siprec.net.address import is_wildcard, source_address
from siprec.proxy.call import Call, CallObserver
from siprec.sip.transport import Hop
from siprec.trace.hep import HepSender
from siprec.trace.ring import TraceRing, call_id_of, without_keys

_MOST_PEERS: Final = 1000


class Tap(CallObserver):
    """An observer of calls. Give :attr:`sip` to the transport as its trace hook, `ring.media` to media servers.

    With `hep` there should be a ring too: it knows which recording session belongs to which call.
    """

    def __init__(self, ring: TraceRing | None, hep: HepSender | None, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._sources: dict[str, str] = {}
        self.ring = ring
        self.hep = hep
        self.sip: Callable[[str, Hop, bytes], None] = self._send
        """A message went (``out``) or came (``in``)."""
        if hep is None and ring is not None:
            self.sip = ring.sip

    def call_created(self, call: Call) -> None:
        """An INVITE outside a dialog came."""
        if self.ring is not None:
            self.ring.dialog(call.dlg_id, call.call_id)

    def _send(self, direction: str, hop: Hop, data: bytes) -> None:
        if is_wildcard(hop.local[0]):
            hop = replace(hop, local=(self._source(hop.host) or hop.local[0], hop.local[1]))
        call_id = call_id_of(data)
        if self.ring is not None:
            self.ring.sip(direction, hop, data)
            # A recording session carries the Call-ID of its call, as soon as it is known to belong to it.
            call_id = self.ring.owner(call_id)
        if self.hep is not None:
            self.hep.sip(self._wall(), direction, hop, without_keys(data), call_id)

    def _source(self, peer: str) -> str:
        """Our address towards a peer, for a socket that is bound to all of them."""
        if peer not in self._sources:
            if len(self._sources) >= _MOST_PEERS:
                self._sources.clear()
            self._sources[peer] = source_address(peer)
        return self._sources[peer]

    def close(self) -> None:
        """Let go of the socket."""
        if self.hep is not None:
            self.hep.close()
