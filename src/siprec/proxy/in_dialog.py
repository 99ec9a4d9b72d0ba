"""Requests within dialogs: which dialog they belong to, and whether they may go where they say (RFC 3261 12.2, 16.4).

What belongs to no dialog that is followed goes on only as far as its cookie or its sender allow.
"""

from __future__ import annotations

from typing import Protocol

from siprec.proxy.connected_identity import ConnectedIdentity
from siprec.proxy.contacts import place
from siprec.proxy.dialog import EndedDialog, ProxiedDialog
from siprec.proxy.forward import Aim, aim, has_looped, loop_part, preprocess
from siprec.proxy.media_path import MediaPath
from siprec.proxy.midcall_requests import MidcallRequests
from siprec.proxy.nat_flow import way_back
from siprec.proxy.passage import Ack
from siprec.proxy.peers import OTHER, REFRESHING, Ends, Side
from siprec.proxy.record_route import Cookies
from siprec.proxy.response_context import ResponseContext
from siprec.proxy.routes import TRUSTED, Target
from siprec.proxy.routing import Routing, RoutingProxy
from siprec.proxy.subscriptions import Subscriptions
from siprec.sip.errors import SipError
from siprec.sip.forwarding import NO_CHANGES, forward_request
from siprec.sip.message import SipRequest
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri
from siprec.sip.validate import check_forwarding, check_request


class InDialogProxy(RoutingProxy, Protocol):
    """What this uses of the proxy besides."""

    cookies: Cookies
    subscriptions: Subscriptions
    parties: ConnectedIdentity
    routing: Routing
    media: MediaPath
    midcall: MidcallRequests

    def is_for_our_agent(self, uri: Uri, source: Hop) -> bool: ...

    def refuse(self, context: ResponseContext, error: SipError) -> None: ...

    def send_stateless(self, octets: bytes, aimed: Aim, loop: str, target: Target) -> None: ...


class _HeldRequest:
    """A request that waits until an exchange of ours is over."""

    __slots__ = ("_context", "_owner", "_target")

    def __init__(self, owner: InDialog, context: ResponseContext, target: Target) -> None:
        self._owner = owner
        self._context = context
        self._target = target

    def let_go(self) -> None:
        """It goes on."""
        self._owner.go_on(self._context, self._target)


class InDialog:
    """Of one proxy."""

    def __init__(self, core: InDialogProxy) -> None:
        self._core = core

    def request(self, context: ResponseContext, ours: bool, cookie: str) -> bool:
        """A request with a To tag; `ours`: a Route value of ours was used up, with this cookie. False when nothing says
        that it belongs to a dialog through here.

        Raises:
            SipError: it goes nowhere.
        """
        core, base, source = self._core, context.base, context.transaction.source
        dlg_id = core.cookies.check(cookie, context.call_id) if cookie else None
        found = core.dialogs.find(base, dlg_id or "")
        if found is None:
            return self._other(context, ours, dlg_id)
        dialog, side = found
        self._aim_at_peer(base, source, side, dialog, dialog)
        context.dialog, context.side = dialog, side
        self._sent(dialog, side, base, context.transaction.request, source)
        peer = dialog.callee if side == "caller" else dialog.caller
        target = _peer(base, peer.flow, peer.given_by)
        if base.method in ("INVITE", "UPDATE") and core.midcall.holds(
            dialog, side, base, _HeldRequest(self, context, target)
        ):
            return True
        self.go_on(context, target)
        return True

    def go_on(self, context: ResponseContext, target: Target) -> None:
        """A request within a dialog is sent to `target`, unless the script has other ideas."""
        core = self._core
        script = core.script
        try:
            if script is not None:
                script.in_dialog(core.routing, context, target)
            else:
                core.routing.forward(context, [[target]])
        except SipError as error:
            core.refuse(context, error)

    def _other(self, context: ResponseContext, ours: bool, dlg_id: str | None) -> bool:
        """A request with a To tag that belongs to no call that is followed."""
        core, base, source = self._core, context.base, context.transaction.source
        over = core.dialogs.find_over(base, dlg_id or "")
        if over is not None:
            dialog, side = over
            # BYEs cross. What came of a REFER goes on after the call (RFC 5057 4.1).
            if not dialog.forgotten and base.method not in ("BYE", "NOTIFY"):
                raise SipError("Call/Transaction Does Not Exist", 481)
            self._aim_at_peer(base, source, side, dialog, dialog)
            context.dlg_id = dialog.dlg_id
            flow, given_by = dialog[OTHER[side]].flow, dialog[OTHER[side]].given_by
        elif dlg_id is not None and (subscribed := core.subscriptions.find(base, dlg_id)) is not None:
            known, end, side = subscribed
            self._aim_at_peer(base, source, side, end)
            core.subscriptions.request(known, end, side, context.transaction.request, source)
            context.dlg_id, context.side, context.subscribed = dlg_id, side, True
            flow, given_by = end[OTHER[side]].flow, end[OTHER[side]].given_by
        elif (dlg_id is not None and core.cookies.is_issued(dlg_id)) or core.dialogs.knows(context.call_id):
            raise SipError("Call/Transaction Does Not Exist", 481)
        else:
            if "route" not in base.keys and (
                (core.identity.serves(base.ruri) and not base.ruri.user) or core.is_for_our_agent(base.ruri, source)
            ):
                raise SipError("Call/Transaction Does Not Exist", 481)
            if dlg_id is None:
                if ours and not core.is_trusted(source):
                    raise SipError("Not one of our dialogs", 403)
                return False
            context.dlg_id = dlg_id  # from before a restart
            core.routing.count_pass(context)
            # Nobody knows any more whose dialog it is: the sender goes nowhere that it could not go itself.
            flow, given_by = None, "" if core.is_trusted(source) else source.host
        core.routing.forward(context, [[_peer(base, flow, given_by)]])
        return True

    def _sent(self, dialog: ProxiedDialog, side: Side, base: SipRequest, received: SipRequest, source: Hop) -> None:
        """A request of `side` within a dialog goes on."""
        flow = way_back(received, source)
        if flow is not None and not _is_known(dialog, side, source):
            flow = None  # somebody else's address until the peer has accepted it
        self._core.dialogs.request(dialog, side, base, flow)
        if received.method in REFRESHING:
            dialog[side].sent(received)

    def ack(self, request: SipRequest, source: Hop) -> None:
        """The ACK for a 2xx. Raises SipError: it leads nowhere."""
        core = self._core
        check_request(request)
        check_forwarding(request)
        loop = loop_part(request)
        if has_looped(request, core.identity, loop):
            raise SipError("Loop Detected", 482)
        base = request.copy()
        _, cookie = preprocess(base, core.identity)
        dlg_id = core.cookies.check(cookie, request.call_id) if cookie else None
        found = core.dialogs.find(base, dlg_id or "")
        if found is None:
            over = core.dialogs.find_over(base, dlg_id or "")
            if over is not None:  # the 2xx came again and the call is over
                ended, side = over
                self._aim_at_peer(base, source, side, ended, ended)
                target = _peer(base, ended[OTHER[side]].flow, ended[OTHER[side]].given_by)
                aimed = aim(base, target)
                core.send_stateless(forward_request(base, uri=aimed.uri, route=aimed.route), aimed, loop, target)
                return
            before = dlg_id is not None and not core.cookies.is_issued(dlg_id)  # a restart
            if not before and (dlg_id is not None or not core.is_trusted(source)):
                raise SipError("no dialog", 481)
        else:
            self._aim_at_peer(base, source, found[1], found[0], found[0])
        if core.identity.is_us(base.ruri) and not base.ruri.user and "route" not in base.keys:
            raise SipError("for ourselves, and nobody is waiting for it", 481)
        if found is None:
            target = _peer(base, None, "" if core.is_trusted(source) else source.host)
            aimed = aim(base, target)
            core.send_stateless(forward_request(base, uri=aimed.uri, route=aimed.route), aimed, loop, target)
            return
        dialog, side = found
        self._sent(dialog, side, base, request, source)
        peer = dialog.callee if side == "caller" else dialog.caller
        target = _peer(base, peer.flow, peer.given_by)
        core.media.ack_out(Ack(dialog, side, request, base, aim(base, target), target, loop))

    def send_ack(self, ack: Ack, body: bytes | None) -> None:
        """Its description has passed."""
        core, dialog, side, aimed = self._core, ack.dialog, ack.side, ack.aim
        shift = (dialog.caller if side == "caller" else dialog.callee).shift
        changes = core.midcall.outgoing(shift, ack.message) if shift is not None else NO_CHANGES
        octets = forward_request(ack.message, uri=aimed.uri, route=aimed.route, changes=changes, body=body)
        core.send_stateless(octets, aimed, ack.loop, ack.target)
        if dialog.unnamed is not None:
            core.parties.acknowledged(dialog, side, ack.received)
        core.midcall.settled(dialog, side, ack.received.cseq.number)

    def _aim_at_peer(
        self,
        base: SipRequest,
        source: Hop,
        side: Side,
        ends: Ends,
        dialog: ProxiedDialog | EndedDialog | None = None,
    ) -> None:
        """Make sure that a request of `side` goes to its peer in the dialog.

        A party that ignores Contact and Record-Route (SIPp's built-in scenarios do) sends to us what is for its peer:
        the dialog says where that is. The same is done when a Request-URI is nothing that the peer has signalled, but
        the sender's address is one that the sender has signalled. Trusted sources may relay anywhere.

        Raises:
            SipError: 403, Request-URI or Route lead out of the dialog; 400, malformed.
        """
        core, peer = self._core, ends.callee if side == "caller" else ends.caller
        trusted = core.is_trusted(source)
        if not trusted and "route" in base.keys and not peer.is_on_route(base, core.identity):
            raise SipError("Route leads out of the dialog", 403)
        if base.uri in peer.contacts or peer.is_target(base):
            return
        if dialog is not None and any(
            each[OTHER[side]].is_target(base) for each in core.dialogs.siblings(dialog.dlg_id, dialog.callee_tag)
        ):
            return
        contact = peer.target or peer.last
        known = ends[side].has_signalled(source.host) or (dialog is not None and _is_known(dialog, side, source))
        if contact and (known or core.identity.serves(base.ruri)):
            base.uri = contact
        elif not trusted:
            raise SipError("Request-URI leads out of the dialog", 403)


def _is_known(ends: Ends, side: Side, source: Hop) -> bool:
    """Whether an address is one that a side has signalled, or comes from since."""
    peer = ends.caller if side == "caller" else ends.callee
    return peer.has_signalled(source.host) or (peer.flow is not None and peer.flow.host == source.host)


def _peer(base: SipRequest, flow: Hop | None, given_by: str) -> Target:
    """The target of a request within a dialog: its Route, else the way to the peer whose Contact `given_by` gave us."""
    if "route" in base.keys:
        return Target(base.ruri, given_by=given_by)
    stranger = flow is not None and given_by not in ("", TRUSTED)
    inside = stranger and place(base.ruri, Hop("", given_by, 0)) == "inside"
    return Target(base.ruri, flow=flow, given_by=given_by, only_flow=inside)
