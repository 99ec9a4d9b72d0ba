"""Calls go on through another media server when theirs is lost, or anew through the same one.

Both parties are told by an offer of our own (re-INVITE or UPDATE): B2BUA behaviour, as all own requests, so the
operator decides (``media.on_lost``), but for one case: where an answer did not pass the media server, the parties were
told different things already. What they agreed before is offered and answered at the other server first, so that each
can be told at once where to send.
"""

from __future__ import annotations

import logging
from typing import Final

from siprec.media.engine import MediaServer
from siprec.proxy.call import Call
from siprec.proxy.call_media_session import CallMedia
from siprec.proxy.dialog import ProxiedDialog
from siprec.proxy.protocols import Proxy

log = logging.getLogger(__name__)

PATIENCE: Final = 15.0
"""Seconds in which a media server has to be there, and an exchange of the parties to be through."""
_AGAIN: Final = 0.25


class MediaFailover:
    """Of one proxy."""

    def __init__(self, core: Proxy) -> None:
        self._core = core
        self._moving: set[CallMedia] = set()

    def moves(self, call: Call) -> bool:
        """Whether the call is about to be moved."""
        return call.media_path in self._moving

    def move(self, call: Call, reason: str, *, dead: bool = False) -> None:
        """Take the call to a media server, as soon as there is one and its dialog is at rest; one that is not answered
        yet waits for that. `reason` says what befell the server it has; `dead`: its media are gone for certain. Then,
        where no server turns up, the parties are told each other's addresses; else the call stays where it is."""
        path = call.media_path
        if path is None or path.state != "active":
            return
        path.lost = path.lost or reason
        path.gone |= dead
        if path not in self._moving:
            self._moving.add(path)
            self._try(call, path, None)

    def _try(self, call: Call, path: CallMedia, deadline: float | None) -> None:
        clock = self._core.clock
        if path.state != "active" or call.state == "terminated":
            self._moving.discard(path)
            return
        if call.state == "early":
            clock.call_later(_AGAIN, self._try, call, path, None)
            return
        limit = clock.now() + PATIENCE if deadline is None else deadline
        dialog = next(
            (d for d in self._core.dialogs.of(call) if d.callee_tag == call.to_tag and d.state == "confirmed"), None
        )
        server = self._core.media.choose(call)
        if dialog is None or clock.now() > limit:
            self._give_up(call, path, dialog)
        elif server is None or path.busy or dialog.open is not None or dialog.unsettled:
            clock.call_later(_AGAIN, self._try, call, path, limit)
        elif not call.caller_sdp or not call.callee_sdp:
            self._give_up(call, path, dialog)  # nobody knows what they agreed
        else:
            self._moving.discard(path)
            self._go(call, path, dialog, server)

    def _go(self, call: Call, path: CallMedia, dialog: ProxiedDialog, server: MediaServer) -> None:
        why = path.lost
        log.warning("the media go from %s to %s: %s, Call-ID %s", path.server.name, server.name, why, call.call_id)
        self._core.media.move(dialog, server)

    def _give_up(self, call: Call, path: CallMedia, dialog: ProxiedDialog | None) -> None:
        self._moving.discard(path)
        reason = path.lost
        if dialog is None or path.gone or len(dialog.relaying) < 2:
            self._core.media.fail(call, reason)
        else:
            log.warning("no other media server: the call stays, %s, Call-ID %s", reason, call.call_id)
            path.lost = ""

    def moved(self, dialog: ProxiedDialog, offer: bytes, answer: bytes) -> None:
        """The call is at another media server, which has made an offer for the callee and an answer for the caller."""
        call, core = dialog.call, self._core
        if call.media_path is not None:
            call.media_path.gone = False
        core.counters["media_moved"] += 1
        core.midcall.relocated(dialog, {"callee": offer, "caller": answer})
        core.observers.tell("call_media_moved", call)
