"""The last messages of the last calls, by Call-ID, bounded in octets.

Which recording session belongs to which call is told when its SRS is called. Nothing is parsed before somebody looks.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final, NamedTuple

from siprec.net.address import is_wildcard, source_address
from siprec.recording.events import SiprecEvent
from siprec.sip.transport import Hop

MAX_STEPS: Final = 500
"""Messages kept of one dialog: the first half, and the newest."""
OVERHEAD: Final = 300
"""What Python needs for a message beside its octets: the tuple, its way, its time, and its place in a list."""
DIALOG_OVERHEAD: Final = 800
"""The same for a dialog: its Call-ID in four dictionaries, two lists."""
_NO_CALL: Final = (b"SIP/2.0", b"REGISTER", b"OPTIONS", b"PUBLISH")
"""What begins nothing that is kept: registrations and pings would push the calls out."""
_BLANK: Final = frozenset((b"", b" ", b"\t"))
"""What a Call-ID neither begins nor ends with."""
_CALL_ID: Final = re.compile(rb"^(?:call-id|i)[ \t]*+:([^\r\n]*+)", re.I | re.M)
_KEYS: Final = re.compile(rb"(inline:)([A-Za-z0-9+/=_-]+)")
_CREDENTIALS: Final = re.compile(rb"^(?:proxy-)?authorization[ \t]*:", re.I | re.M)
_RESPONSE: Final = re.compile(rb"(\bresponse[ \t]*=[ \t]*\"?)([0-9a-z+/=_-]+)", re.I)


class Step(NamedTuple):
    """One message as it is shown: without secrets. `direction` is ``in`` or ``out``; `peer` and `local` are address and
    port; `kind` ``sip`` or ``media``; `time` seconds since the epoch."""

    time: float
    direction: str
    kind: str
    transport: str
    local: tuple[str, int]
    peer: tuple[str, int]
    data: bytes


_Message = tuple[float, str, Hop | str, bytes]
"""Time, direction, way (of a media command: the server's name), and the octets as they were on the wire."""


class _Dialog:
    """The messages of one Call-ID."""

    __slots__ = ("dropped", "first", "last", "octets", "room", "sessions")

    def __init__(self) -> None:
        self.first: list[_Message] = []
        self.last: deque[_Message] | None = None
        """The newest messages, once `first` is full."""
        self.room = MAX_STEPS // 2
        """How many more `first` takes."""
        self.octets = DIALOG_OVERHEAD
        self.dropped = 0
        """How many of the middle are gone."""
        self.sessions: list[str] | None = None
        """The Call-IDs of the call's recording sessions."""

    def messages(self) -> list[_Message]:
        """All that is kept, in order."""
        return [*self.first, *(self.last or ())]


class TraceRing:
    """Messages by Call-ID, and the recording sessions of calls.

    What is kept are references to the octets as they were on the wire. They are looked at, and secrets in them made
    unreadable, when somebody asks for them (:meth:`steps`).

    Args:
        limit: octets kept in all.
        wall: seconds since the epoch.
        source: our address towards a peer, for sockets that are bound to every address.
    """

    def __init__(
        self,
        limit: int,
        wall: Callable[[], float] = time.time,
        source: Callable[[str], str] = source_address,
    ) -> None:
        self.limit = limit
        self.octets = 0
        self._wall = wall
        self._source = source
        self._kept: OrderedDict[bytes, _Dialog] = OrderedDict()
        self._owner: dict[str, str] = {}
        self._dialogs: dict[str, str] = {}

    def __len__(self) -> int:
        """Dialogs that are kept."""
        return len(self._kept)

    def sip(self, direction: str, hop: Hop, data: bytes) -> None:
        """A SIP message went or came."""
        # One look at the head in place of `call_id_of`, for the way in which almost everybody writes it.
        at = data.find(b"\r\nCall-ID: ") + 11
        end = data.find(b"\r\n", at)
        key = data[at:end]
        if at < 11 or end < 0 or b"\r\n\r\n" in data[:at] or b"\n" in key or key[:1] in _BLANK or key[-1:] in _BLANK:
            key = _call_id(data)
        if key in self._kept:
            dialog = self._kept[key]
        elif key and not data.startswith(_NO_CALL):
            dialog = self._kept[key] = _Dialog()
            self.octets += DIALOG_OVERHEAD
        else:
            return
        size = len(data) + OVERHEAD
        if dialog.room:
            dialog.room -= 1
            dialog.first += ((self._wall(), direction, hop, data),)
        else:
            size -= self._replace(dialog, (self._wall(), direction, hop, data))
        dialog.octets += size
        self.octets += size
        if self.octets > self.limit:
            self._forget()

    def media(self, direction: str, server: str, call_id: str, data: bytes) -> None:
        """A command for a call went to a media server, or its reply came. Only of calls that are kept."""
        key = call_id.encode("utf-8", "surrogateescape")
        if key not in self._kept:
            return
        dialog = self._kept[key]
        size = len(data) + OVERHEAD
        if dialog.room:
            dialog.room -= 1
            dialog.first += ((self._wall(), direction, server, data),)
        else:
            size -= self._replace(dialog, (self._wall(), direction, server, data))
        dialog.octets += size
        self.octets += size
        if self.octets > self.limit:
            self._forget()

    def event(self, event: SiprecEvent) -> None:
        """A subscriber of the recordings' events: learns which session belongs to which call."""
        if event.callid and event.callid not in self._owner and event.dlg_callid:
            self.link(event.dlg_callid, event.callid)

    def dialog(self, dlg_id: str, call_id: str) -> None:
        """A call has this dialog id."""
        self._dialogs[dlg_id] = call_id

    def link(self, call_id: str, session: str) -> None:
        """The recording session with the Call-ID `session` belongs to the call."""
        key = _key(call_id)
        if key in self._kept and session not in self._owner:
            self._owner[session] = call_id
            dialog = self._kept[key]
            dialog.sessions = [*(dialog.sessions or ()), session]

    def owner(self, call_id: str) -> str:
        """The Call-ID of the call that a recording session belongs to; of a call its own."""
        return self._owner.get(call_id, call_id)

    def find(self, name: str) -> str:
        """The Call-ID of a call by its dialog id, its Call-ID or that of its recording session; empty: not kept."""
        call_id = self.owner(self._dialogs.get(name, name))
        return call_id if _key(call_id) in self._kept else ""

    def steps(self, call_id: str) -> list[tuple[str, Step]]:
        """All messages of a call in order, each with the Call-ID it had."""
        found = [(name, self._step(message)) for name in self._names(call_id) for message in self._messages(name)]
        return sorted(found, key=lambda each: each[1].time)

    def dropped(self, call_id: str) -> int:
        """How many messages of a call and its sessions are not kept any more."""
        dialogs = [self._kept.get(_key(name)) for name in self._names(call_id)]
        return sum(dialog.dropped for dialog in dialogs if dialog is not None)

    def _names(self, call_id: str) -> list[str]:
        """A call's Call-ID and those of its recording sessions."""
        dialog = self._kept.get(_key(call_id))
        return [call_id, *((dialog.sessions or ()) if dialog is not None else ())]

    def _messages(self, call_id: str) -> list[_Message]:
        dialog = self._kept.get(_key(call_id))
        return dialog.messages() if dialog is not None else []

    def _step(self, message: _Message) -> Step:
        wall, direction, hop, data = message
        if isinstance(hop, str):
            return Step(wall, direction, "media", "", ("", 0), (hop, 0), without_keys(data))
        host, port = hop.local
        if is_wildcard(host):
            host = self._source(hop.host) or host
        return Step(wall, direction, "sip", hop.transport, (host, port), (hop.host, hop.port), without_keys(data))

    def _replace(self, dialog: _Dialog, message: _Message) -> int:
        """Keep a message in place of the oldest one that is not of the first; returns what that occupied."""
        if dialog.last is None:
            dialog.last = deque()
        dialog.last.append(message)
        if len(dialog.last) <= MAX_STEPS // 2:
            return 0
        dialog.dropped += 1
        return len(dialog.last.popleft()[3]) + OVERHEAD

    def _forget(self) -> None:
        """Let go of the dialogs that began first, until what is left fits."""
        while self.octets > self.limit and len(self._kept) > 1:
            key, dialog = self._kept.popitem(last=False)
            self.octets -= dialog.octets
            for session in dialog.sessions or ():
                self._owner.pop(session, None)
            name = key.decode("utf-8", "surrogateescape")
            owner = self._kept.get(_key(self._owner.pop(name, "")))
            if owner is not None and owner.sessions is not None:
                owner.sessions.remove(name)
            if len(self._dialogs) > 2 * len(self._kept) + 100:
                self._dialogs = {dlg_id: name for dlg_id, name in self._dialogs.items() if _key(name) in self._kept}


def _key(call_id: str) -> bytes:
    """A Call-ID as it is on the wire."""
    return call_id.encode("utf-8", "surrogateescape")


def call_id_of(data: bytes) -> str:
    """The Call-ID of a message as it was on the wire; empty if there is none."""
    return _call_id(data).decode("utf-8", "replace")


def _call_id(data: bytes) -> bytes:
    end = data.find(b"\r\n\r\n")
    if end < 0:
        end = len(data)
    match = _CALL_ID.search(data, 0, end)
    return match[1].strip(b" \t") if match is not None else b""


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
