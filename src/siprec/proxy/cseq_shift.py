"""What our own requests in the name of a party change: the CSeq numbers of what that party sends later (RFC 3261
12.2.1.1). Allocated for a dialog in which we speak, see :mod:`siprec.proxy.midcall_requests`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from siprec.sip.clock import Timer


class Held(Protocol):
    """A request that waits, with all that is needed to let it go on."""

    def let_go(self) -> None: ...


@dataclass(slots=True)
class CseqShift:
    """One direction of a dialog: what we have sent as the party on one side.

    `steps` are pairs: above which CSeq number of that party, how much is to be added.
    """

    steps: list[tuple[int, int]] = field(default_factory=list)
    busy: bool = False
    waiting: bool = False
    by_invite: bool = False
    """The peer refuses UPDATE, whatever its Allow says."""
    tries: int = 0
    given_up: bool = False
    held: list[Held] = field(default_factory=list)
    """INVITE and UPDATE requests of the party that wait for our exchange."""
    hold: Timer | None = None
    patience: Timer | None = None

    def number(self, number: int) -> int:
        """A CSeq number of the party as its peer has to see it."""
        return number + sum(add for above, add in self.steps if above < number)

    def take(self, highest: int) -> int:
        """The number of a request of our own; `highest` is the party's last one (-1: it sent none yet).

        The numbers of a party that has sent none may begin with 0, and ours has to be below them.
        """
        first = highest < 0 and not self.steps
        number = 1 if first else highest + 1 + sum(add for _, add in self.steps)
        self.steps.append((highest, 2 if first else 1))
        return number
