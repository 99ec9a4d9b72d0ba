"""The proxy ends a call, by policy: a call that must be recorded and cannot be (ERR-10).

A proxy may not do this any more than other requests of our own (:mod:`siprec.proxy.midcall_requests`); it is B2BUA
behaviour that has to be asked for. An INVITE that is not answered yet gets a final response and its branches a CANCEL;
in an answered call each party gets a BYE in the name of the other, with a Reason (RFC 3326) that says what happened.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from siprec.proxy.call import Leg
from siprec.proxy.forward import aim
from siprec.proxy.midcall_requests import CseqShift
from siprec.proxy.routes import Target
from siprec.sip.errors import SipError
from siprec.sip.headers import NameAddr
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.transaction import ClientTransaction
from siprec.sip.transport import Hop

if TYPE_CHECKING:
    from siprec.proxy.call import Call
    from siprec.proxy.core import ProxyCore
    from siprec.proxy.dialogs import ProxiedDialog, Side

log = logging.getLogger(__name__)

_SIDES: Final[tuple[Leg, Leg]] = ("caller", "callee")
#: Seconds: between looks whether the ACK has come, and how long it is waited for; then how long for the answers.
LOOK: Final = 0.1
ACK_WAIT: Final = 4.0
ANSWER_WAIT: Final = 5.0


class HangUp:
    """Ends calls of one proxy: ``hang_up(call, reason)``; `status` answers an INVITE. Twice is once."""

    def __init__(self, core: ProxyCore, status: int = 503) -> None:
        self._core = core
        self._status = status
        self._ending: set[str] = set()

    def __call__(self, call: Call, reason: str) -> None:
        """End the call, soon: never from inside of what is going on."""
        if call.state != "terminated" and call.dlg_id not in self._ending:
            self._ending.add(call.dlg_id)
            log.warning("the call is ended: %s, Call-ID %s", reason, call.call_id)
            self._core.clock.call_later(0, self._end, call, reason, self._core.clock.now() + ACK_WAIT)

    def _end(self, call: Call, reason: str, limit: float) -> None:
        core = self._core
        if call.state == "early":
            self._ending.discard(call.dlg_id)
            for context in [each for each in core.contexts if each.call is call]:
                context.fail(self._status, "Recording Failed", (("Reason", _reason(self._status, reason)),))
            return
        dialog = next((each for each in core.dialogs.of(call) if each.callee_tag == call.to_tag), None)
        if call.state != "confirmed" or dialog is None:
            self._ending.discard(call.dlg_id)
            return
        if dialog.unsettled and core.clock.now() < limit:
            # RFC 3261 15: the callee may not send a BYE before the ACK came; and a re-INVITE had better be over.
            core.clock.call_later(LOOK, self._end, call, reason, limit)
            return
        _Ending(core, dialog, reason)
        self._ending.discard(call.dlg_id)


class _Ending:
    """Two BYEs, and the end of the dialog when both are through."""

    def __init__(self, core: ProxyCore, dialog: ProxiedDialog, reason: str) -> None:
        self._core = core
        self._dialog = dialog
        self._reason = reason
        self._open = set(_SIDES)
        self._bye: SipRequest | None = None
        self._limit = core.clock.call_later(ANSWER_WAIT, self._over)
        for side in _SIDES:
            try:
                self._send(side)
            except SipError as error:
                log.info("no BYE as the %s: %s, Call-ID %s", side, error, dialog.call.call_id)
                self._through(side)

    def _send(self, side: Side) -> None:
        """BYE as the party on `side`, to the other one. Raises SipError."""
        core, dialog = self._core, self._dialog
        request = core.midcall.request_as(dialog, side, "BYE")
        request.add("Reason", _reason(500, self._reason))
        request.set_body(b"")
        self._bye = self._bye or request
        next_hop = aim(request, Target(NameAddr("", request.uri).uri))

        def found(result: list[Hop] | SipError) -> None:
            if isinstance(result, SipError) or not result:
                self._through(side)
                return
            lane = dialog.lanes.setdefault(side, CseqShift())
            request.set("cseq", f"{lane.take(dialog.cseq.get(side, -1))} BYE")
            core.counters["own_requests"] += 1
            core.layer.send_request(request, result[0], on_response=answered, on_failure=lambda *_: self._through(side))

        def answered(transaction: ClientTransaction, response: SipResponse) -> None:
            if response.status >= 200:
                self._through(side)

        flow = dialog.flow.get("callee" if side == "caller" else "caller") if not request.has("route") else None
        if flow is not None:
            found([flow])
        else:
            given_by = dialog.peers["callee" if side == "caller" else "caller"].given_by
            core.resolve_contact(next_hop, given_by, found, by_route=request.has("route"))

    def _through(self, side: Side) -> None:
        self._open.discard(side)
        if not self._open:
            self._limit.cancel()
            self._over()

    def _over(self) -> None:
        self._open.clear()
        self._core.dialogs.end(self._dialog, "recording failed", self._bye)


def _reason(cause: int, text: str) -> str:
    said = "".join(c for c in text if c.isprintable() and c not in '"\\')[:80]
    return f'SIP;cause={cause};text="recording failed: {said}"'
