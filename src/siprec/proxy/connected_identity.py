"""Connected identity in the dialogs that pass (RFC 4916, RFC 3325), and another party who takes a place within the same
dialog. Messages are read, never changed; see :mod:`siprec.proxy.party` for what they mean.

The parties of most calls say nothing new after the answer. So a party is made only when it names itself otherwise, or
when a later request has to be compared with what the INVITE and its answer said.
"""

from __future__ import annotations

from siprec.proxy.call import Observers
from siprec.proxy.dialog import ProxiedDialog
from siprec.proxy.party import Party, names_itself, party_from, told
from siprec.proxy.peers import OTHER, SIDES, Side
from siprec.proxy.sdp_body import sdp_of
from siprec.sip.clock import Clock
from siprec.sip.errors import SipError
from siprec.sip.message import SipMessage, SipRequest, SipResponse


class ConnectedIdentity:
    """Follows the parties of dialogs; tells observers ``party_identified`` and ``party_replaced``."""

    def __init__(self, clock: Clock, observers: Observers) -> None:
        self._clock = clock
        self._observers = observers

    def initial(self, dialog: ProxiedDialog, response: SipResponse) -> None:
        """A 1xx or 2xx to the INVITE of a call was forwarded."""
        with_media = response.status < 200 and response.body
        again = dialog.call.response is not None  # two have answered
        if dialog.callee.party is not None or with_media or again or names_itself(response):
            self._told(dialog, "callee", response, sdp_of(response))

    def response(self, dialog: ProxiedDialog, side: Side, request: SipRequest, response: SipResponse) -> None:
        """A 2xx was forwarded to `side`, who sent `request` (INVITE or UPDATE) within the dialog."""
        if request.method == "INVITE" and not sdp_of(request) and sdp_of(response):
            dialog.unnamed = request  # a late offer: the ACK tells where the media of this side come from
        else:
            self._told(dialog, side, request, sdp_of(request))
        self._told(dialog, OTHER[side], response, sdp_of(response))

    def acknowledged(self, dialog: ProxiedDialog, side: Side, ack: SipRequest) -> None:
        """The ACK with the answer to a late offer was forwarded."""
        request, dialog.unnamed = dialog.unnamed, None
        if request is not None:
            self._told(dialog, side, request, sdp_of(ack))

    @staticmethod
    def taken(dialog: ProxiedDialog) -> None:
        """The dialog is the one that the call has now."""
        known = dialog.call.parties
        for side in SIDES:
            party = dialog[side].party
            if party is not None:
                known[side] = party
            elif known:
                known.pop(side, None)

    def _told(self, dialog: ProxiedDialog, side: Side, message: SipMessage, sdp: bytes) -> None:
        before = party_of(dialog, side)
        try:
            party, change = told(before, message, sdp, dialog.call.wall(self._clock.now()))
        except SipError:
            return
        dialog[side].party = party
        call = dialog.call
        if call.state == "confirmed" and dialog.callee_tag == call.to_tag:
            if change:
                # First the news, so that observers find the party that was there before.
                self._observers.tell(f"party_{change}", call, side, party.address, party.message)
            call.parties[side] = party


def party_of(dialog: ProxiedDialog, side: Side) -> Party:
    """Who is on one side of a dialog, as far as is known."""
    party = dialog[side].party
    if party is not None:
        return party
    call = dialog.call
    if side == "caller":
        return party_from(call.invite, call.caller, sdp_of(call.invite))
    party = Party(call.callee)
    answer = call.response
    if answer is not None and call.to_tag == dialog.callee_tag:
        try:
            party, _ = told(party, answer, sdp_of(answer), call.answer_wall or 0.0)
        except SipError:
            pass
    return party
