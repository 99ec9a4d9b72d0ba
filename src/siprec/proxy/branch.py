"""A branch: one target of a forwarded request, and the transactions that try to reach it (RFC 3261 16.6 to 16.9)."""

from __future__ import annotations

from collections import deque

from siprec.proxy.forward import Aim
from siprec.proxy.record_attribute import SentSdp
from siprec.proxy.routes import Target
from siprec.sip.clock import Timer
from siprec.sip.message import SipResponse
from siprec.sip.transaction import ClientTransaction
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri


class Branch:
    """One target; its next hops are tried in order, each with a transaction of its own (RFC 3263 4.3)."""

    __slots__ = (
        "abandoned",  # transactions of hops that were silent: a late answer still counts
        "aim",  # where its request goes
        "body",  # the body of its request; None: that of the request as it came
        "breadth",  # Max-Breadth that it may use; 0: not in the request
        "deadline",  # when Timer C expires
        "done",
        "fallback",  # the URI to resolve when the flow is gone
        "hops",  # those that were not tried yet
        "number",
        "queue",  # responses that wait while the media server works: their order is kept
        "response",  # its final response; None: none came, or it was made up
        "sent_sdp",  # what it was offered, where that came from the media server
        "silence",
        "status",  # the final status; 0: none yet
        "target",
        "timer_c",
        "transaction",  # the last one; None: nothing was sent
        "was_answered",  # a provisional response came to the last transaction
    )

    def __init__(self, target: Target, number: int, breadth: int) -> None:
        self.target = target
        self.number = number
        self.breadth = breadth
        self.aim: Aim | None = None
        self.body: bytes | None = None
        self.transaction: ClientTransaction | None = None
        self.hops: list[Hop] = []
        self.fallback: Uri | None = None
        self.was_answered = False
        self.done = False
        self.status = 0
        self.response: SipResponse | None = None
        self.sent_sdp: SentSdp | None = None
        self.timer_c: Timer | None = None
        self.silence: Timer | None = None
        self.deadline = 0.0
        self.queue: deque[tuple[ClientTransaction, SipResponse]] | None = None
        self.abandoned: tuple[ClientTransaction, ...] = ()

    def stop_silence(self) -> None:
        """The next hop has said something."""
        if self.silence is not None:
            self.silence.cancel()
            self.silence = None

    def stop(self) -> None:
        """No timer is needed any more."""
        self.stop_silence()
        if self.timer_c is not None:
            self.timer_c.cancel()
            self.timer_c = None
