"""When parties of a live call held each other, for the time line."""

from __future__ import annotations

from typing import Final, Literal

from siprec import sdp
from siprec.api import model
from siprec.proxy.call import Call, CallObserver
from siprec.sip.clock import Clock

_MOST: Final = 100
Holder = Literal["caller", "callee", "both"]


class HoldHistory(CallObserver):
    """The holds of each call that goes on; the last hundred of a call."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._holds: dict[str, list[model.Hold]] = {}

    def of(self, dlg_id: str) -> list[model.Hold]:
        """The holds of a call so far; the last one may have no end yet."""
        return list(self._holds.get(dlg_id, ()))

    def call_media_changed(self, call: Call, who: str) -> None:
        held_by = holder(call.caller_sdp, call.callee_sdp)
        holds = self._holds.get(call.dlg_id, [])
        last = holds[-1] if holds and holds[-1].end is None else None
        if (last.by if last is not None else "") == held_by:
            return
        now = call.wall(self._clock.now())
        if last is not None:
            last.end = now
        if held_by:
            self._holds[call.dlg_id] = [*holds[1 - _MOST :], model.Hold(start=now, by=held_by)]

    def call_ended(self, call: Call) -> None:
        self._holds.pop(call.dlg_id, None)


def holder(caller: bytes, callee: bytes) -> Holder | Literal[""]:
    """Who holds by what the parties last agreed (RFC 3264 8.4): ``caller``, ``callee``, ``both`` or nobody.

    A party holds the other when it takes nothing on any stream that both have: ``sendonly``, ``inactive``, or the null
    address.
    """
    try:
        lines = zip(sdp.parse(caller).media, sdp.parse(callee).media, strict=False)
    except sdp.SdpError:
        return ""
    live = [(a, b) for a, b in lines if not a.rejected and not b.rejected]
    caller_holds, callee_holds = (bool(live) and all(_takes_nothing(pair[side]) for pair in live) for side in (0, 1))
    if caller_holds and callee_holds:
        return "both"
    return "caller" if caller_holds else "callee" if callee_holds else ""


def _takes_nothing(media: sdp.MediaDescription) -> bool:
    connection = media.connection
    return media.direction in ("sendonly", "inactive") or (connection is not None and connection.is_zero)
