"""Where copies of a stream go: what :mod:`siprec.relay.fork_sink` and the native packet loop both are."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Any, Protocol


class Sink(Protocol):
    """Copies of one stream (:class:`siprec.relay.fork_sink.Copies`). `packets` and `octets` (RTP headers included) went
    out; `waiting` packets are kept; `dropped` counts by reason."""

    @property
    def packets(self) -> int: ...
    @property
    def octets(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def dropped(self) -> dict[str, int]: ...

    @property
    def withheld(self) -> int:
        """Packets that came while the stream was withheld."""

    @property
    def shift(self) -> int:
        """By how much sequence numbers are lower than those that came (modulo 65536): nothing is missing, to the
        recorder, of what was withheld after its first packet."""

    @property
    def dropped_at(self) -> float:
        """When the newest packet had come that was kept and then dropped as too old or too much (monotonic; -inf: none
        was)."""

    @property
    def send(self) -> Callable[[memoryview], object]:
        """Takes one packet, at once. May raise OSError, which then goes to :meth:`failed`."""

    def keep(self, seconds: float, /) -> None:
        """Keep the newest packets: no older than `seconds`, no more than
        :data:`siprec.relay.fork_sink.PREROLL_OCTETS`."""

    def direct(self, sock: socket.socket, /) -> None:
        """Send from the connected `sock` what is kept, and from now on what comes."""

    def off(self) -> None:
        """Neither keep nor send; what is kept stays."""

    def withhold(self) -> None:
        """Neither keep nor send, and count what comes; what is kept is forgotten."""

    def renumber(self, wanted: bool, /) -> None:
        """Whether sequence numbers close the gap that withheld packets leave; somebody else may do it. Default: yes."""

    def clear(self) -> None:
        """Forget what is kept."""

    def inherit(self, other: Any, since: float, /) -> int:
        """Begin with what `other`, of the same loop and source, has kept from before we did; but not with what came
        before `since` (monotonic). It has kept what we have. Returns how many packets that are."""

    def drain(self, sock: socket.socket, count: int, /) -> int:
        """Send up to `count` of the packets kept, oldest first; how many are left."""

    def failed(self, error: int, size: int, /) -> None:
        """One that was counted as sent, of `size` octets, was not: `error` is an errno."""


def reason_of(error: int) -> str:
    """Why a send failed (an errno), in a word."""
    return _REASONS.get(error, "send")


_REASONS = {
    errno.EAGAIN: "congested",
    errno.ECONNREFUSED: "refused",
    errno.ENETUNREACH: "unreachable",
    errno.EHOSTUNREACH: "unreachable",
}
