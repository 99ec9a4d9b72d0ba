"""Log lines that a stranger can cause: one per source and interval, the others counted.

Whoever sends a thousand broken packets a second fills neither the disk nor the reader's screen: the first gives a line,
the next line says how many more there were.
"""

from __future__ import annotations

import ipaddress
import logging
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from time import monotonic
from typing import Final

INTERVAL: Final = 60.0
MAX_KEPT: Final = 10_000


@lru_cache(maxsize=4096)
def source_key(host: str) -> str:
    """What counts as one source: an IPv4 address, or the /64 of an IPv6 address, which one host can fill alone."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


class SourceLog:
    """Writes to `log`. Each template has its own line per source and `interval` seconds; `now` is a monotonic clock.

    Sources are kept in the order of their last line; at most 10,000 of them.
    """

    def __init__(self, log: logging.Logger, interval: float = INTERVAL, now: Callable[[], float] = monotonic) -> None:
        self._log = log
        self._interval = interval
        self._now = now
        # (source, template) -> when the next line may be written, and how many were not.
        self._kept: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def warning(self, source: str, template: str, *args: object) -> bool:
        """A line at WARNING about what came from the host `source`, unless one like it was written lately.

        Returns whether it was written.
        """
        return self.write(logging.WARNING, source, template, *args)

    def exception(self, source: str, template: str, *args: object) -> None:
        """The same at ERROR with the traceback of the exception that is being handled."""
        self.write(logging.ERROR, source, template, *args, exc_info=True)

    def write(
        self, level: int, source: str, template: str, *args: object, exc_info: bool | BaseException = False
    ) -> bool:
        """The same at any level; returns whether it was written."""
        now = self._now()
        key = (source_key(source), template)
        until, left_out = self._kept.get(key, (0.0, 0))
        if until > now:
            self._kept[key] = (until, left_out + 1)
            return False
        self._kept[key] = (now + self._interval, 0)
        self._kept.move_to_end(key)
        if left_out:
            template, args = template + " (%d more before)", (*args, left_out)
        self._log.log(level, template, *args, exc_info=exc_info, stacklevel=3)
        self._forget(now)
        return True

    def _forget(self, now: float) -> None:
        """Sources that went quiet: the count of what they sent after their last line is told once."""
        while self._kept:
            key = next(iter(self._kept))
            until, left_out = self._kept[key]
            if until > now and len(self._kept) <= MAX_KEPT:
                return
            del self._kept[key]
            if left_out:
                self._log.warning("source=%s: %d more like %r", key[0], left_out, key[1])
