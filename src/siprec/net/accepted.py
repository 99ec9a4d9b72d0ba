"""Fair shares of the stream connections that others open to us: by number, and by octets of unfinished messages."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from siprec.sourcelog import SourceLog, source_key

if TYPE_CHECKING:
    from siprec.net.tcp import StreamConnection, StreamLimits

log = logging.getLogger(__name__)

FULL: Final = "all"
"""What the log names as the source when the limit of all connections is reached."""


class AcceptedConnections:
    """Those that are open, the one idle for longest first, in all and by source (IPv6: its /64).

    `close(connection)` ends one; `is_known(host)` names sources without a limit of their own.
    """

    def __init__(self, limits: StreamLimits, close: Callable[[StreamConnection, str], None]) -> None:
        self._limits = limits
        self._close = close
        self._all: OrderedDict[int, StreamConnection] = OrderedDict()
        self._by_source: dict[str, OrderedDict[int, StreamConnection]] = {}
        self._buffered: dict[str, int] = {}
        self._held: dict[int, int] = {}
        self._lines = SourceLog(log)
        self.is_known: Callable[[str], bool] = lambda host: False

    def __len__(self) -> int:
        return len(self._all)

    def sources(self) -> int:
        """How many sources have connections."""
        return len(self._by_source)

    def add(self, connection: StreamConnection, others: int) -> None:
        """A new one. Where its source, or all together (with `others` that we opened), have too many, the one that is
        idle for longest goes: of that source, or of the source with the most."""
        host = connection.hop.host
        source = source_key(host)
        own = self._by_source.get(source)
        limit = self._limits.max_per_source
        if own is not None and limit and len(own) >= limit and not self.is_known(host):
            self._lines.warning(host, "source=%s has %d connections: the idlest is closed", host, len(own))
            self._close(next(iter(own.values())), "too many of its source")
        elif len(self._all) + others >= self._limits.max_connections and self._all:
            self._lines.warning(FULL, "%d stream connections: the idlest is closed", len(self._all) + others)
            most = max(self._by_source.values(), key=len)
            crowd = most if len(most) > 1 else self._all
            self._close(next(iter(crowd.values())), "too many connections")
        self._all[connection.id] = connection
        self._by_source.setdefault(source, OrderedDict())[connection.id] = connection

    def remove(self, connection: StreamConnection) -> None:
        """It is gone; harmless for one that is not here."""
        if self._all.pop(connection.id, None) is None:
            return
        source = source_key(connection.hop.host)
        own = self._by_source[source]
        del own[connection.id]
        if not own:
            del self._by_source[source]
        self.holds(connection, 0)

    def active(self, connection: StreamConnection) -> None:
        """A whole message came on it, or a keep-alive."""
        if connection.id in self._all:
            self._all.move_to_end(connection.id)
            self._by_source[source_key(connection.hop.host)].move_to_end(connection.id)

    def holds(self, connection: StreamConnection, octets: int) -> None:
        """It has so many octets of an unfinished message. A source with too many in all loses this connection."""
        before = self._held.get(connection.id, 0)
        if before == octets:
            return
        source = source_key(connection.hop.host)
        total = self._buffered.get(source, 0) + octets - before
        if octets:
            self._held[connection.id] = octets
        else:
            self._held.pop(connection.id, None)
        if total > 0:
            self._buffered[source] = total
        else:
            self._buffered.pop(source, None)
        if octets > before and total > self._limits.max_unfinished:
            host = connection.hop.host
            self._lines.warning(host, "source=%s holds %d octets of unfinished messages: closed", host, total)
            self._close(connection, "too many unfinished messages of its source")

    def unfinished(self, host: str) -> int:
        """Octets of unfinished messages of a source."""
        return self._buffered.get(source_key(host), 0)
