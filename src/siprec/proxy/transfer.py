"""Calls that come of other calls: an INVITE that replaces a dialog (RFC 3891), or that was asked for by REFER
(RFC 3515, RFC 3892). Noted so that their recordings can be grouped (RFC 7989 7, RFC 8068 3.2.3); everything passes
untouched."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from siprec.proxy.call import Call, Relation
from siprec.proxy.connected_identity import party_of
from siprec.proxy.dialog import ProxiedDialog
from siprec.proxy.dialogs import DialogTable
from siprec.proxy.peers import OTHER, Side
from siprec.sip.clock import Clock
from siprec.sip.errors import SipError
from siprec.sip.headers import NameAddr
from siprec.sip.message import SipMessage, SipRequest
from siprec.sip.values import Replaces

#: Seconds in which a REFER has to be followed by its INVITE, and how many are remembered at once.
REFER_LIFE: Final = 180.0
REFERS_KEPT: Final = 1000


@dataclass(frozen=True, slots=True)
class _Refer:
    until: float
    call: Call
    referee: Side
    target: str
    referrer: frozenset[str]
    referees: frozenset[str]


class Transfers:
    """The REFERs seen of late, and what an INVITE has to do with them and with live dialogs."""

    def __init__(self, clock: Clock, dialogs: DialogTable) -> None:
        self._clock = clock
        self._dialogs = dialogs
        self._refers: deque[_Refer] = deque(maxlen=REFERS_KEPT)

    def referred(self, dialog: ProxiedDialog, side: Side, request: SipRequest) -> None:
        """A REFER of `side` within the dialog was accepted."""
        try:
            refer_to = NameAddr.parse(request.get("refer-to") or "").uri
            method = refer_to.params.get("method") or "INVITE"
            by = _aors(request, "referred-by") | {request.from_.uri.aor}
        except SipError:
            return
        if method.upper() != "INVITE" or not refer_to.is_sip:
            return
        self._expire()
        call = dialog.call
        referee = OTHER[side]
        known = set(party_of(dialog, referee).aors)
        with suppress(SipError):
            known.add((call.caller if referee == "caller" else call.callee).uri.aor)
        self._refers.append(
            _Refer(self._clock.now() + REFER_LIFE, call, referee, refer_to.aor, frozenset(by), frozenset(known))
        )

    def relations(self, invite: SipRequest) -> tuple[Relation, ...]:
        """What calls a new INVITE continues, none twice."""
        found: dict[str, Relation] = {}
        self._expire()
        with suppress(SipError):  # what cannot be read relates to nothing
            if self._refers:
                self._by_refer(invite, found)
            if "replaces" in invite.keys:
                self._by_replaces(invite, found)
        return tuple(found.values())

    def _by_refer(self, invite: SipRequest, found: dict[str, Relation]) -> None:
        targets = {invite.ruri.aor, invite.to.uri.aor}
        referrers = _aors(invite, "referred-by")
        callers = {invite.from_.uri.aor} | _aors(invite, "p-asserted-identity")
        for refer in self._refers:
            if refer.target not in targets:
                continue
            if (referrers & refer.referrer) if referrers else (callers & refer.referees):
                found.setdefault(refer.call.dlg_id, Relation(refer.call, refer.referee, "caller", "refer"))

    def _by_replaces(self, invite: SipRequest, found: dict[str, Relation]) -> None:
        replaces = Replaces.parse(invite.get("replaces") or "")
        # RFC 3891 3: to-tag is the local tag of who receives this INVITE.
        match = self._dialogs.by_tags(replaces.call_id, replaces.to_tag, replaces.from_tag)
        if match is not None:
            dialog, side = match
            call = dialog.call
            found.setdefault(call.dlg_id, Relation(call, side, "callee", "replaces"))

    def _expire(self) -> None:
        now = self._clock.now()
        while self._refers and self._refers[0].until <= now:
            self._refers.popleft()


def _aors(message: SipMessage, header: str) -> set[str]:
    found = set()
    for value in message.values(header) if message.has(header) else ():
        try:
            found.add(NameAddr.parse(value).uri.aor)
        except SipError:
            continue
    return found
