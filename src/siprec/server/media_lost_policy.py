"""What becomes of calls whose media server is lost (``media.on_lost``)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from siprec.media.engine import MediaError, MediaServer, MediaStatistics
from siprec.proxy.call import Call
from siprec.proxy.core import ProxyCore


class MediaLostPolicy:
    """`policy` is ``keep``, ``move`` or nothing, see :class:`siprec.server.config.MediaConfig`; `embedded` says whether
    a server is our own child. Recordings hear from the proxy what becomes of their call."""

    def __init__(
        self, core: ProxyCore, policy: Literal["", "keep", "move"], embedded: Callable[[MediaServer], bool]
    ) -> None:
        self._core = core
        self.policy = policy
        self._embedded = embedded
        core.media.on_unanswered = self.unanswered

    def moves(self, server: MediaServer) -> bool:
        """Whether calls of that server are moved when it is lost."""
        return (self.policy or ("move" if self._embedded(server) else "keep")) == "move"

    def lost(self, server: MediaServer, reason: str) -> None:
        """It has ended, and all its media with it."""
        for call in self._of(server):
            self._without(call, reason)

    def silent(self, server: MediaServer, reason: str) -> None:
        """It does not answer; its media may still flow."""
        if self.moves(server):
            for call in self._of(server):
                self._core.failover.move(call, f"media server {server.name}: {reason}")

    def unanswered(self, call: Call, server: MediaServer, error: MediaError) -> bool:
        """An offer in mid-call got no answer there; true: the call is moved."""
        if not error.timeout or not self.moves(server):
            return False
        self._core.failover.move(call, f"media server {server.name}: {error.reason}")
        return True

    def returned(self, server: MediaServer) -> None:
        """It answers again, and may have been started anew: calls that it does not know any more are lost."""
        for call in self._of(server):
            if call.state == "confirmed" and call.media_session is not None:
                server.query(call.media_session, partial(self._known, call, server))

    def leave(self) -> int:
        """The embedded relay is about to end: its calls go on without it. Returns how many there are."""
        calls = [call for call in self._core.calls.values() if call.media is not None and self._embedded(call.media)]
        calls = [call for call in calls if call.media is not None and self.moves(call.media)]
        for call in calls:
            self._core.media.fail(call, "siprec serve ends", gone=True)
        return len(calls)

    def _known(self, call: Call, server: MediaServer, result: MediaStatistics | MediaError) -> None:
        if isinstance(result, MediaError) and not result.timeout and call.media is server:
            self._without(call, f"media server {server.name} has forgotten the call")

    def _of(self, server: MediaServer) -> list[Call]:
        return [call for call in self._core.calls.values() if call.media is server and call.media_path is not None]

    def _without(self, call: Call, reason: str) -> None:
        if call.media is not None and self.moves(call.media):
            self._core.failover.move(call, reason, dead=True)
        else:
            self._core.media.fail(call, reason)
