"""The proxy ends a call, by policy: a call that must be recorded and cannot be.

A proxy may not do this any more than other requests of our own (:mod:`siprec.proxy.midcall_requests`); it is B2BUA
behaviour that has to be asked for. An INVITE that is not answered yet gets a final response and its branches a CANCEL;
in an answered call each party gets a BYE in the name of the other, with a Reason (RFC 3326) that says what happened.
"""

from __future__ import annotations

import logging
from typing import Final

from siprec.proxy.call import Call
from siprec.proxy.dialog import ProxiedDialog
from siprec.proxy.own_request import OwnRequest
from siprec.proxy.peers import SIDES, Side
from siprec.proxy.protocols import Proxy
from siprec.sip.clock import Timer
from siprec.sip.errors import SipError
from siprec.sip.message import SipRequest, SipResponse

log = logging.getLogger(__name__)

#: Seconds: between looks whether the ACK has come, and how long it is waited for; then how long for the answers.
LOOK: Final = 0.1
ACK_WAIT: Final = 4.0
ANSWER_WAIT: Final = 5.0


class HangUp:
    """Ends calls of one proxy: ``hang_up(call, reason)``; `status` answers an INVITE. Twice is once."""

    def __init__(self, core: Proxy, status: int = 503) -> None:
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
                core.run(context)
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

    def __init__(self, core: Proxy, dialog: ProxiedDialog, reason: str) -> None:
        self._core = core
        self._dialog = dialog
        self._reason = reason
        self._open = set(SIDES)
        self._bye: SipRequest | None = None
        self._limit: Timer | None = core.clock.call_later(ANSWER_WAIT, self._over)
        for side in SIDES:
            try:
                self._send(side)
            except SipError as error:
                log.info("no BYE as the %s: %s, Call-ID %s", side, error, dialog.call.call_id)
                self.through(side)

    def _send(self, side: Side) -> None:
        """BYE as the party on `side`, to the other one. Raises SipError."""
        bye = _Bye(self, self._core, self._dialog, side, self._reason)
        self._bye = self._bye or bye.request
        bye.start()

    def through(self, side: Side) -> None:
        """The BYE to the peer of `side` is answered, or will not be."""
        self._open.discard(side)
        if not self._open and self._limit is not None:
            self._limit.cancel()
            self._over()

    def _over(self) -> None:
        self._limit = None
        self._open.clear()
        self._core.dialogs.end(self._dialog, "recording failed", self._bye)


class _Bye(OwnRequest):
    """BYE to the peer of `side`."""

    __slots__ = ("_ending",)

    def __init__(self, ending: _Ending, core: Proxy, dialog: ProxiedDialog, side: Side, reason: str) -> None:
        super().__init__(core, dialog, side, "BYE")
        self._ending = ending
        self.request.add("Reason", _reason(500, reason))
        self.request.set_body(b"")

    def no_way(self) -> None:
        self._ending.through(self.side)

    def answered(self, response: SipResponse) -> None:
        self._ending.through(self.side)

    def failed(self) -> None:
        self._ending.through(self.side)


def _reason(cause: int, text: str) -> str:
    said = "".join(c for c in text if c.isprintable() and c not in '"\\')[:80]
    return f'SIP;cause={cause};text="recording failed: {said}"'
