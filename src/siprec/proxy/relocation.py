"""Calls whose media server is lost go on through another one, where the operator wants that (``media.on_lost``).

Both parties are told by an offer of our own (re-INVITE or UPDATE): B2BUA behaviour, as all own requests (CS-09). What
they agreed before is offered and answered at the other server first, so that each can be told at once where to send.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from siprec.media.engine import MediaSession

if TYPE_CHECKING:
    from siprec.proxy.call import Call
    from siprec.proxy.core import ProxyCore
    from siprec.proxy.dialogs import ProxiedDialog
    from siprec.proxy.media import CallMedia

log = logging.getLogger(__name__)

PATIENCE: Final = 15.0
"""Seconds in which another media server has to be there, and an exchange of the parties to be through."""
_AGAIN: Final = 0.25


class Relocation:
    """Of one proxy."""

    def __init__(self, core: ProxyCore) -> None:
        self._core = core
        self._moving: set[CallMedia] = set()

    def move(self, call: Call, reason: str) -> None:
        """Take the call to another media server, as soon as there is one and its dialog is at rest; `reason` says what
        befell the one it has. A call that is not answered yet does without."""
        path = call.media_path
        if path is not None and path.state == "active" and path not in self._moving:
            self._moving.add(path)
            self._try(call, path, reason, self._core.clock.now() + PATIENCE)

    def _try(self, call: Call, path: CallMedia, reason: str, deadline: float) -> None:
        if path.state != "active" or call.state == "terminated":
            self._moving.discard(path)
            return
        clock = self._core.clock
        found = [d for d in self._core.dialogs.of(call) if d.callee_tag == call.to_tag and d.state == "confirmed"]
        known = found and call.caller_sdp and call.callee_sdp
        if call.state != "confirmed" or not known or clock.now() > deadline:
            self._moving.discard(path)
            path.fail(reason)
            return
        dialog = found[0]
        server = self._core.media.choose(call)
        if server is None or path.busy or dialog.open is not None or dialog.unsettled:
            clock.call_later(_AGAIN, self._try, call, path, reason, deadline)
            return
        self._moving.discard(path)
        log.warning("the media go from %s to %s: %s, Call-ID %s", path.server.name, server.name, reason, call.call_id)
        session = MediaSession(call.call_id, call.from_tag, call.to_tag)
        path.move(
            server,
            session,
            call.caller_sdp,
            call.callee_sdp,
            lambda offer, answer: self._moved(call, path, dialog, session, offer, answer),
        )

    def _moved(
        self, call: Call, path: CallMedia, dialog: ProxiedDialog, session: MediaSession, offer: bytes, answer: bytes
    ) -> None:
        if call.state != "confirmed":
            return
        core = self._core
        call.media, call.media_session = path.server, session
        core.counters["media_moved"] += 1
        core.own.relocated(dialog, {"callee": offer, "caller": answer})
        core.observers.tell("call_media_moved", call)
