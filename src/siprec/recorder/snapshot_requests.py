"""When an SRC is asked for a complete snapshot of its metadata (RFC 7866 9.2, RFC 7865 7)."""

from __future__ import annotations

from typing import Final

from siprec.metadata.write import snapshot_request
from siprec.sip.clock import Clock

_INTERVAL: Final = 10.0
_LIMIT: Final = 5


class SnapshotRequests:
    """Those of one recording session: at most one is outstanding, they are 10 s apart, and there is a limit to how
    often an SRC is asked."""

    __slots__ = ("_asked", "_clock", "_since")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since: float | None = None
        """When one was sent that has not been answered by a snapshot."""
        self._asked = 0

    @property
    def allowed(self) -> bool:
        """Whether the SRC may be asked now."""
        if self._asked >= _LIMIT:
            return False
        return self._since is None or self._clock.now() - self._since >= _INTERVAL

    def make(self) -> bytes:
        """The body of the UPDATE; counts as asked."""
        self._since = self._clock.now()
        self._asked += 1
        return snapshot_request("Partial update refers to what was never described")

    def answered(self) -> None:
        """A snapshot came."""
        self._since = None

    def stop(self) -> None:
        """The client refuses them."""
        self._asked = _LIMIT
