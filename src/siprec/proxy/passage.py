"""A message on its way through the media server: what is needed to let it go on when its description has passed."""

from __future__ import annotations

from typing import Literal

from siprec.media.engine import MediaSession
from siprec.proxy.branch import Branch
from siprec.proxy.call import Call
from siprec.proxy.call_media_session import Waiting
from siprec.proxy.dialog import ProxiedDialog
from siprec.proxy.forward import Aim
from siprec.proxy.peers import Side
from siprec.proxy.response_context import ResponseContext
from siprec.proxy.routes import Target
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.transaction import ClientTransaction


class Ack:
    """The ACK of `side` for a 2xx, aimed at `target`; `received` is how it came, `loop` the loop part of its branch."""

    __slots__ = ("aim", "dialog", "loop", "message", "received", "side", "target")

    def __init__(
        self,
        dialog: ProxiedDialog,
        side: Side,
        received: SipRequest,
        message: SipRequest,
        aim: Aim,
        target: Target,
        loop: str,
    ) -> None:
        self.dialog = dialog
        self.side: Side = side
        self.received = received
        self.message = message
        self.aim = aim
        self.target = target
        self.loop = loop


class Passage(Waiting):
    """One message with a description. `message` is a request of `context` that goes out by `branch`, or a response
    that came to `transaction` of it, or an `ack`. Within a dialog, `receiver` is who gets it, `kind` what its
    description is, and `changed_by` who had begun the exchange that is complete with it."""

    __slots__ = (
        "ack",
        "body",  # the body that it goes on with; None: its own
        "branch",
        "call",
        "changed_by",
        "context",
        "dialog",
        "kind",
        "message",
        "receiver",
        "reject",  # the status that the request is refused with; 0: it goes on
        "transaction",
        "went_on",
    )

    def __init__(
        self,
        call: Call,
        message: SipRequest | SipResponse,
        kind: Literal["offer", "answer"],
        context: ResponseContext | None = None,
        branch: Branch | None = None,
        ack: Ack | None = None,
    ) -> None:
        self.ack = ack
        self.body: bytes | None = None
        self.reject = 0
        self.call = call
        self.message = message
        self.kind = kind
        self.context = context
        self.branch = branch
        self.transaction: ClientTransaction | None = None
        self.dialog: ProxiedDialog | None = None
        self.receiver: Side = "callee"
        self.changed_by: Side | None = None
        self.went_on = False


class OwnExchange(Waiting):
    """An offer and its answer that are passed without a message: what the media server has to hear.

    ``changed``: a party has answered an offer of our own with something new. ``rolled back``: an offer of the parties
    was refused. ``moved``: what was agreed, at another media server. `answer` follows when the offer has passed.
    """

    __slots__ = ("answer", "dialog", "offer", "session", "side", "why")

    def __init__(
        self,
        why: Literal["changed", "rolled back", "moved"],
        dialog: ProxiedDialog,
        session: MediaSession,
        answer: bytes,
        side: Side,
    ) -> None:
        self.why = why
        self.dialog = dialog
        self.session = session
        self.answer: bytes | None = answer
        self.side: Side = side
        self.offer = b""
