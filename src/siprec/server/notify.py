"""What systemd is told about a service (sd_notify(3)): ready, reloading, stopping, alive."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from typing import Final

from siprec.sip.clock import Clock, Timer

log = logging.getLogger(__name__)

_MICRO: Final = 1_000_000


class Notifier:
    """Speaks to the service manager, or does nothing where there is none.

    ``NOTIFY_SOCKET`` names its socket (a path, or ``@name`` in the abstract namespace); ``WATCHDOG_USEC`` and
    ``WATCHDOG_PID`` say whether and how often it wants a sign of life. Both variables are taken out of the environment,
    so that children do not speak for us. A manager that does not listen is no error.
    """

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        taken: os._Environ[str] | dict[str, str] = os.environ if environment is None else environment
        path = taken.pop("NOTIFY_SOCKET", "")
        period = taken.pop("WATCHDOG_USEC", "")
        pid = taken.pop("WATCHDOG_PID", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        ours = not pid or pid == str(os.getpid())
        self.watchdog = int(period) / _MICRO if self._address and ours and period.isdecimal() else 0.0
        """Seconds within which a sign of life is wanted; 0: none is."""
        self._timer: Timer | None = None
        self._socket: socket.socket | None = None

    def tell(self, *lines: str) -> None:
        """Send assignments such as ``READY=1``."""
        if not self._address:
            return
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
                self._socket.setblocking(False)
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            log.debug("the service manager cannot be told: %s", error)

    def ready(self, status: str) -> None:
        """Start-up, or a reload, is complete."""
        self.tell("READY=1", f"STATUS={status}")

    def status(self, text: str) -> None:
        """The line that ``systemctl status`` shows."""
        self.tell(f"STATUS={text}")

    def reloading(self) -> None:
        """The configuration is being read again; :meth:`ready` follows."""
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str, seconds: float) -> None:
        """The end has begun and may take `seconds`."""
        self.tell("STOPPING=1", f"STATUS={status}", f"EXTEND_TIMEOUT_USEC={int(seconds * _MICRO)}")

    def keep_alive(self, clock: Clock, alive: Callable[[], bool] = lambda: True) -> None:
        """Give signs of life, twice as often as asked for, as long as the event loop turns and `alive` says so."""
        if self.watchdog:
            if alive():
                self.tell("WATCHDOG=1")
            self._timer = clock.call_later(self.watchdog / 2, lambda: self.keep_alive(clock, alive))

    def close(self) -> None:
        """No more of it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None
