"""Whether a dialog that nobody has spoken in for long is still alive, before it is forgotten.

Its media counters are asked first: a call whose RTP flows is not idle. Then both parties are asked, by an OPTIONS in
the dialog (RFC 3261 11; numbered as all own requests). One that answers 481 has forgotten the dialog, which is
the end of it. One that says anything else (200, 405, 500, 501...) is alive. Where neither answers (408, or no way
there), the dialog ends if there was no RTP for a minute either.
"""

from __future__ import annotations

import logging
from typing import Final

from siprec.media.engine import MediaError, MediaStatistics, StatisticsResult
from siprec.proxy.dialog import ProxiedDialog
from siprec.proxy.own_request import OwnRequest
from siprec.proxy.peers import OTHER, SIDES, Side
from siprec.proxy.protocols import Proxy
from siprec.sip.errors import SipError
from siprec.sip.message import SipResponse

log = logging.getLogger(__name__)

QUIET: Final = 60.0
"""Seconds without RTP."""
AT_ONCE: Final = 32
"""Dialogs that are asked about at the same time; others wait for the next sweep."""
_SILENT: Final = 408


class LifeCheck:
    """Of one proxy."""

    def __init__(self, core: Proxy) -> None:
        self._core = core
        self._asked: set[int] = set()

    def __call__(self, dialog: ProxiedDialog, reason: str) -> None:
        """Ask whether the dialog lives; it is ended with `reason` if it does not, else it counts as used just now."""
        if id(dialog) not in self._asked and len(self._asked) < AT_ONCE:
            self._asked.add(id(dialog))
            self._core.counters["life_checks"] += 1
            _Check(self._core, dialog, reason, self._asked)


class _Check:
    """One dialog. `rtp` is the number of packets so far; None: nobody knows."""

    def __init__(self, core: Proxy, dialog: ProxiedDialog, reason: str, asked: set[int]) -> None:
        self._core = core
        self._dialog = dialog
        self._reason = reason
        self._asked = asked
        self._began = core.clock.now()
        self._quiet = False
        self._rtp: int | None = None
        self._statuses: dict[Side, int] = {}
        call = dialog.call
        self._relayed = call.media is not None and dialog.callee_tag == call.to_tag
        if self._relayed:
            self._count(self._counted)
        else:
            self._speak()

    # -- the media -----------------------------------------------------------------------------------------------------

    def _count(self, done: StatisticsResult) -> None:
        call = self._dialog.call
        if call.media is None or call.media_session is None:
            done(MediaError("no media server", timeout=True))
        else:
            call.media.query(call.media_session, done)

    def _counted(self, result: MediaStatistics | MediaError) -> None:
        if isinstance(result, MediaStatistics):
            self._rtp = sum(stream.packets for stream in result.streams)
            heard = [stream.last_packet for stream in result.streams if stream.packets]
            ago = self._core.clock.wall() - max(heard, default=0.0)
            if all(heard):
                self._quiet = ago >= QUIET
                if not self._quiet:
                    self._over(True, "its media flow")
                    return
        elif not result.timeout:
            self._quiet = True  # the media server does not know the call any more
        self._speak()

    # -- the parties ---------------------------------------------------------------------------------------------------

    def _speak(self) -> None:
        for side in SIDES:
            if self._dialog.state == "confirmed":
                try:
                    self._send(side)
                except SipError as error:
                    log.info("no OPTIONS to the %s: %s, Call-ID %s", OTHER[side], error, self._dialog.call.call_id)
                    self.heard(side, _SILENT)
            else:
                self.heard(side, 200)

    def _send(self, side: Side) -> None:
        """OPTIONS as the party on `side`, to the other one. Raises SipError."""
        _Options(self, self._core, self._dialog, side).start()

    def heard(self, side: Side, status: int) -> None:
        """The peer of `side` has answered, or not (408)."""
        self._statuses.setdefault(OTHER[side], status)
        if len(self._statuses) < len(SIDES):
            return
        statuses = set(self._statuses.values())
        gone = next((each for each, status in self._statuses.items() if status == 481), None)
        if gone is not None:
            self._over(False, f"the {gone} does not know it any more")
        elif statuses != {_SILENT}:
            self._over(True, "its parties answer")
        elif not self._relayed or self._quiet:
            self._over(False, "neither party answers")
        elif self._rtp is None:
            self._over(True, "its media server does not answer")
        else:
            # The server does not say when the last packet came: see whether more come.
            left = max(0.0, self._began + QUIET - self._core.clock.now())
            self._core.clock.call_later(left, self._count, self._counted_again)

    def _counted_again(self, result: MediaStatistics | MediaError) -> None:
        if isinstance(result, MediaError):
            self._over(result.timeout, "neither party answers")
            return
        flows = sum(stream.packets for stream in result.streams) != self._rtp
        self._over(flows, "its media flow" if flows else "neither party answers, and no media flow")

    def _over(self, alive: bool, why: str) -> None:
        core, dialog = self._core, self._dialog
        self._asked.discard(id(dialog))
        if dialog.state != "confirmed":
            return
        now = core.clock.now()
        if not alive and dialog.seen > self._began:
            alive, why = True, "it was used meanwhile"
        log.info("dialog %s: %s, Call-ID %s", "alive" if alive else self._reason, why, dialog.call.call_id)
        if alive:
            dialog.seen = now
            if dialog.expires is not None:
                dialog.expires = now + dialog.session_interval
        else:
            core.dialogs.end(dialog, self._reason)


class _Options(OwnRequest):
    """OPTIONS to the peer of `side`."""

    __slots__ = ("_check",)

    def __init__(self, check: _Check, core: Proxy, dialog: ProxiedDialog, side: Side) -> None:
        super().__init__(core, dialog, side, "OPTIONS")
        self._check = check
        self.request.add("Accept", "application/sdp")
        self.request.set_body(b"")

    def is_ready(self) -> bool:
        if self.dialog.state != "confirmed":
            self.failed()
            return False
        return True

    def no_way(self) -> None:
        self.failed()

    def answered(self, response: SipResponse) -> None:
        self._check.heard(self.side, response.status)

    def failed(self) -> None:
        self._check.heard(self.side, _SILENT)
