"""Offer/answer in the messages of a dialog: what a description is, and what was agreed (RFC 3264, RFC 3261 13.2, RFC
3262 5, RFC 3311, RFC 6337). Functions of a dialog and a message; nothing is sent from here."""

from __future__ import annotations

from typing import Final, Literal

from siprec.proxy.dialog import OpenOffer, ProxiedDialog
from siprec.proxy.peers import OTHER, Side
from siprec.sip.message import SipRequest, SipResponse

Kind = Literal["", "offer", "answer"]

OFFERS: Final = frozenset({"INVITE", "UPDATE", "PRACK"})
"""Methods whose requests and responses may carry a description of the session."""


def in_request(dialog: ProxiedDialog, side: Side, request: SipRequest, sdp: bytes) -> Literal["offer", "answer"]:
    """What the SDP in a request of `side` is: the answer to an offer of the other side (in ACK and PRACK), else an
    offer. An offer is open from now on."""
    offer = dialog.open
    if offer is not None and offer.offerer != side and request.method in ("ACK", "PRACK"):
        _complete(dialog, offer, side, sdp)
        return "answer"
    if request.method == "ACK":
        return "answer"  # of a 2xx that came again: the exchange is complete
    dialog.open = OpenOffer(side, sdp, request.method, request.cseq.number)
    return "offer"


def in_response(
    dialog: ProxiedDialog, side: Side, request: SipRequest, response: SipResponse, sdp: bytes
) -> tuple[Kind, bool]:
    """What the SDP of the other side is, in a response to a request of `side` (empty: of no concern), and whether an
    exchange is complete with it."""
    offer, answerer = dialog.open, OTHER[side]
    ours = offer is not None and offer.is_of(request)
    status, method = response.status, request.method
    if status >= 300:
        if ours:
            dialog.open = None  # RFC 3264 8: the session stays as it was
        return "", False
    if not sdp or method not in OFFERS:
        if ours and status >= 200 and method != "INVITE":
            dialog.open = None  # an offer that was not answered
        return "", False
    number = request.cseq.number
    if offer is not None and ours and offer.offerer == side:
        if method == "INVITE" and status < 200 and "rseq" not in response.keys:
            # RFC 6337 2.2: may be lost; what it says is good for early media, the 2xx has the last word.
            dialog[side].sdp = offer.sdp
            dialog[answerer].sdp = sdp
            return "answer", False
        _complete(dialog, offer, answerer, sdp)
        if method == "INVITE":
            dialog.answered_in = number
            dialog.offered_late = False
        return "answer", True
    if method == "INVITE" and offer is None:
        if dialog.answered_in == number:
            return "offer" if dialog.offered_late else "answer", False  # came before in this transaction
        if status >= 200 or "rseq" in response.keys:
            # A late offer; the ACK or PRACK has its answer.
            dialog.open = OpenOffer(answerer, sdp, "INVITE", number)
            dialog.answered_in = number
            dialog.offered_late = True
            return "offer", False
    if offer is not None and offer.offerer == answerer and method == "INVITE":
        return "offer", False  # the late offer came again
    return "", False


def acknowledged(dialog: ProxiedDialog, side: Side, number: int) -> bool:
    """The ACK of `side` for its INVITE has no description: what that INVITE offered was answered in a response before,
    or never will be (RFC 3261 13.2.1). Returns whether an offer was open."""
    offer = dialog.open
    if offer is None or offer.offerer != side or offer.method != "INVITE" or offer.number != number:
        return False
    dialog.open = None
    dialog[side].sdp = dialog[side].sdp or offer.sdp
    return True


def refused(dialog: ProxiedDialog, side: Side, request: SipRequest) -> OpenOffer | None:
    """A request of `side` was refused; the offer in it, which leaves the session as it was (RFC 3264 8)."""
    offer = dialog.open
    if offer is None or offer.offerer != side or offer.number != request.cseq.number:
        return None
    dialog.open = None
    return offer


def take(dialog: ProxiedDialog) -> None:
    """What was agreed in the dialog is what its call has."""
    call = dialog.call
    if not call.to_tag or call.to_tag == dialog.callee_tag:
        call.caller_sdp = dialog.caller.sdp or call.caller_sdp
        call.callee_sdp = dialog.callee.sdp or call.callee_sdp


def _complete(dialog: ProxiedDialog, offer: OpenOffer, answerer: Side, sdp: bytes) -> None:
    dialog.open = None
    if answerer == "callee":
        dialog.caller.sdp, dialog.callee.sdp = offer.sdp, sdp
    else:
        dialog.caller.sdp, dialog.callee.sdp = sdp, offer.sdp
