"""What an error of the system means for who typed the command, and what may be done about it."""

from __future__ import annotations

import errno
from typing import Final

_HINTS: Final = {
    errno.EADDRINUSE: "another process has that port (`ss -lntup` tells which)",
    errno.EADDRNOTAVAIL: "no interface of this host has that address (`ip address` lists them)",
    errno.EACCES: "this user may not; ports below 1024 take CAP_NET_BIND_SERVICE (packaging/siprec.service has it)",
}


def why(error: Exception) -> str:
    """An exception in words: without numbers, with the file, and a hint where there is one."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    text = error.strerror
    if isinstance(error.filename, str | bytes) and error.filename:
        name = error.filename if isinstance(error.filename, str) else error.filename.decode("utf-8", "replace")
        return f"{name}: {text}"
    hint = _HINTS.get(error.errno or 0, "")
    return f"{text}: {hint}" if hint else text
