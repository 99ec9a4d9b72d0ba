"""The last messages of the last calls, bounded in octets; two dictionary lookups a message.

Messages are kept as they were on the wire, by Call-ID; which recording session belongs to which call is told when its
SRS is called. Nothing is parsed before somebody looks.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from siprec.recording.events import SiprecEvent
from siprec.sip.transport import Hop

MAX_STEPS: Final = 500
"""Messages kept of one dialog: the first half, and the newest."""
OVERHEAD: Final = 300
"""What Python needs for a message beside its octets: the tuple, its address, time, and place in a list."""
DIALOG_OVERHEAD: Final = 800
"""The same for a dialog: its Call-ID in four dictionaries, two lists."""
_NO_CALL: Final = (b"SIP/2.0", b"REGISTER", b"OPTIONS", b"PUBLISH")
"""What begins nothing that is kept: registrations and pings would push the calls out."""
_CALL_ID: Final = re.compile(rb"^(?:call-id|i)[ \t]*+:([^\r\n]*+)", re.I | re.M)
_KEYS: Final = re.compile(rb"(inline:)([A-Za-z0-9+/=_-]+)")
_CREDENTIALS: Final = re.compile(rb"^(?:proxy-)?authorization[ \t]*:", re.I | re.M)
_RESPONSE: Final = re.compile(rb"(\bresponse[ \t]*=[ \t]*\"?)([0-9a-z+/=_-]+)", re.I)


class Step(NamedTuple):
    """One message. `direction` is ``in`` or ``out``; `peer` and `local` are address and port; `kind` ``sip`` or
    ``media``; `time` seconds since the epoch."""

    time: float
    direction: str
    kind: str
    transport: str
    local: tuple[str, int]
    peer: tuple[str, int]
    data: bytes


@dataclass(slots=True)
class Kept:
    """The messages of one Call-ID. `dropped`: how many of the middle are gone."""

    first: list[Step] = field(default_factory=list)
    last: list[Step] = field(default_factory=list)
    octets: int = 0
    dropped: int = 0

    def steps(self) -> Iterator[Step]:
        """All that is kept, in order."""
        yield from self.first
        yield from self.last


class TraceRing:
    """Messages by Call-ID, and the recording sessions of calls. `limit`: octets kept in all."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.octets = 0
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._sessions: dict[str, list[str]] = {}
        self._owner: dict[str, str] = {}
        self._dialogs: dict[str, str] = {}

    def __len__(self) -> int:
        """Dialogs that are kept."""
        return len(self._kept)

    def sip(self, wall: float, direction: str, hop: Hop, data: bytes) -> None:
        """A SIP message went or came."""
        call_id = call_id_of(data)
        if call_id and (call_id in self._kept or not data.startswith(_NO_CALL)):
            step = Step(wall, direction, "sip", hop.transport, hop.local, (hop.host, hop.port), without_keys(data))
            self._add(call_id, step)

    def media(self, wall: float, direction: str, server: str, call_id: str, data: bytes) -> None:
        """A command for a call went to a media server, or its reply came. Only of calls that are kept."""
        if call_id in self._kept:
            self._add(call_id, Step(wall, direction, "media", "", ("", 0), (server, 0), without_keys(data)))

    def event(self, event: SiprecEvent) -> None:
        """A subscriber of the recordings' events: learns which session belongs to which call."""
        if event.dlg_callid and event.callid:
            self.link(event.dlg_callid, event.callid)

    def dialog(self, dlg_id: str, call_id: str) -> None:
        """A call has this dialog id."""
        self._dialogs[dlg_id] = call_id

    def link(self, call_id: str, session: str) -> None:
        """The recording session with the Call-ID `session` belongs to the call."""
        if call_id in self._kept and session not in self._owner:
            self._owner[session] = call_id
            self._sessions.setdefault(call_id, []).append(session)

    def owner(self, call_id: str) -> str:
        """The Call-ID of the call that a recording session belongs to; of a call its own."""
        return self._owner.get(call_id, call_id)

    def find(self, name: str) -> str:
        """The Call-ID of a call by its dialog id, its Call-ID or that of its recording session; empty: not kept."""
        call_id = self.owner(self._dialogs.get(name, name))
        return call_id if call_id in self._kept else ""

    def steps(self, call_id: str) -> list[tuple[str, Step]]:
        """All messages of a call in order, each with the Call-ID it had."""
        found = [(call_id, step) for step in self._steps(call_id)]
        for session in self._sessions.get(call_id, ()):
            found += [(session, step) for step in self._steps(session)]
        return sorted(found, key=lambda each: each[1].time)

    def dropped(self, call_id: str) -> int:
        """How many messages of a call and its sessions are not kept any more."""
        names = [call_id, *self._sessions.get(call_id, ())]
        return sum(self._kept[name].dropped for name in names if name in self._kept)

    def _steps(self, call_id: str) -> Iterator[Step]:
        kept = self._kept.get(call_id)
        return kept.steps() if kept is not None else iter(())

    def _add(self, call_id: str, step: Step) -> None:
        kept = self._kept.get(call_id)
        if kept is None:
            kept = self._kept[call_id] = Kept(octets=DIALOG_OVERHEAD)
            self.octets += DIALOG_OVERHEAD
        size = len(step.data) + OVERHEAD
        if len(kept.first) < MAX_STEPS // 2:
            kept.first.append(step)
        else:
            kept.last.append(step)
            if len(kept.last) > MAX_STEPS // 2:
                gone = kept.last.pop(0)
                kept.dropped += 1
                size -= len(gone.data) + OVERHEAD
        kept.octets += size
        self.octets += size
        while self.octets > self.limit and len(self._kept) > 1:
            self._forget()

    def _forget(self) -> None:
        """Let go of the dialog that began first."""
        call_id, kept = self._kept.popitem(last=False)
        self.octets -= kept.octets
        for session in self._sessions.pop(call_id, ()):
            self._owner.pop(session, None)
        owner = self._owner.pop(call_id, "")
        if owner in self._sessions:
            self._sessions[owner].remove(call_id)
        if len(self._dialogs) > 2 * len(self._kept) + 100:
            self._dialogs = {name: value for name, value in self._dialogs.items() if value in self._kept}


def call_id_of(data: bytes) -> str:
    """The Call-ID of a message as it was on the wire; empty if there is none."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        end = len(data)
    at = data.find(b"\r\nCall-ID: ", 0, end)
    if at >= 0:
        stop = data.find(b"\r\n", at + 11, end)
        return data[at + 11 : stop if stop >= 0 else end].strip().decode("utf-8", "replace")
    match = _CALL_ID.search(data, 0, end)
    return match[1].strip(b" \t").decode("utf-8", "replace") if match is not None else ""


def without_keys(data: bytes) -> bytes:
    """The same octets with media keys (SDES, RFC 4568) and the responses of digest (RFC 7616), from which passwords can
    be guessed, made unreadable; lengths stay as they are."""
    if b"inline:" in data:
        data = _KEYS.sub(_stars, data)
    if _CREDENTIALS.search(data) is not None:
        data = _RESPONSE.sub(_stars, data)
    return data


def _stars(match: re.Match[bytes]) -> bytes:
    return match[1] + b"*" * len(match[2])
