"""The hosts file: names known without DNS."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path
from time import monotonic
from typing import Final

from siprec.net.address import family_of

log = logging.getLogger(__name__)

CHECK_EVERY: Final = 5.0
_LOCALHOST: Final = ("127.0.0.1", "::1")


class HostsFile:
    """Names of a hosts(5) file, read again when the file changes (looked at every 5 s at most)."""

    def __init__(self, path: str | Path = "/etc/hosts") -> None:
        self._path = Path(path)
        self._names: dict[str, list[str]] = {}
        self._stamp: tuple[int, int] | None = None
        self._checked = float("-inf")

    def lookup(self, name: str) -> tuple[str, ...]:
        """Addresses of a name, in the file's order; empty when it is not there. ``localhost`` is always known."""
        now = monotonic()
        if now - self._checked >= CHECK_EVERY:
            self._checked = now
            self._refresh()
        name = name.rstrip(".").lower()
        found = self._names.get(name)
        if found:
            return tuple(found)
        # RFC 6761 6.3: never asked of DNS.
        return _LOCALHOST if name == "localhost" or name.endswith(".localhost") else ()

    def _refresh(self) -> None:
        try:
            status = os.stat(self._path)
            stamp = (status.st_mtime_ns, status.st_size)
            if stamp == self._stamp:
                return
            text = self._path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            if self._stamp is not None or not isinstance(error, FileNotFoundError):
                log.warning("hosts file %s: %s", self._path, error.strerror)
            self._names = {}
            self._stamp = None
            return
        names: dict[str, list[str]] = {}
        for line in text.splitlines():
            address, *aliases = line.partition("#")[0].split() or [""]
            if family_of(address) == socket.AF_UNSPEC:
                continue
            for alias in aliases:
                addresses = names.setdefault(alias.rstrip(".").lower(), [])
                if address not in addresses:
                    addresses.append(address)
        self._names = names
        self._stamp = stamp
