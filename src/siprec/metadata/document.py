"""The model of RFC 7865: a metadata document and its elements, as the SRC writes them and the SRS reads them.

Identifiers that we make are base64 of 16 octets (RFC 7865 6.10); those read are :class:`~siprec.metadata.values.Id`.
Times are seconds since the Unix epoch, UTC. A partial document leaves out what did not change: None, or an empty tuple
or text, is "not mentioned".

All are immutable and hold only immutable values, so that the garbage collector need not know them.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct
from msgspec.structs import replace


class Reason(Struct, frozen=True, gc=False):
    """Why a session ended: one Reason header value (RFC 3326). `cause` is an xs:short, None if none was read."""

    cause: int | None
    protocol: str = "SIP"
    text: str = ""


class NameId(Struct, frozen=True, gc=False):
    """One address of a participant, with at most one display name."""

    aor: str
    name: str = ""
    lang: str = ""


class Extension(Struct, frozen=True, gc=False):
    """A foreign element that was read: ``{namespace}name``, its whole text, its attributes and the elements in it."""

    name: str
    text: str
    attributes: tuple[tuple[str, str], ...] = ()
    children: tuple[Extension, ...] = ()


class Group(Struct, frozen=True, gc=False):
    """A CS group (RFC 7865 6.2). `extension` is checked foreign XML to be written; `extensions` is what was read."""

    id: str
    associate_time: float | None = None
    disassociate_time: float | None = None
    extension: str = ""
    extensions: tuple[Extension, ...] = ()


class Session(Struct, frozen=True, gc=False):
    """A communication session (RFC 7865 6.3). `sip_session_ids` are RFC 7989 pairs, one per dialog."""

    id: str
    sip_session_ids: tuple[str, ...] = ()
    reasons: tuple[Reason, ...] = ()
    group_ref: str = ""
    start_time: float | None = None
    stop_time: float | None = None
    extension: str = ""
    extensions: tuple[Extension, ...] = ()


class Participant(Struct, frozen=True, gc=False):
    """A party (RFC 7865 6.5). `custom` is checked XML to be written in place of the name-ids."""

    id: str
    name_ids: tuple[NameId, ...]
    custom: str = ""
    extension: str = ""
    extensions: tuple[Extension, ...] = ()


class Stream(Struct, frozen=True, gc=False):
    """A media stream (RFC 7865 6.7). `label` is that of the SDP in the message that was read; what is written gets its
    labels from the message that carries it."""

    id: str
    session_id: str = ""
    label: str | None = None
    extensions: tuple[Extension, ...] = ()


class SessionRecordingAssoc(Struct, frozen=True, gc=False):
    """CS attached to this RS (RFC 7865 6.4)."""

    session_id: str
    associate_time: float | None = None
    disassociate_time: float | None = None


class ParticipantSessionAssoc(Struct, frozen=True, gc=False):
    """Party in a CS (RFC 7865 6.6); `params` are Contact feature parameters, name and bare value (RFC 4235 4.1.6.2)."""

    participant_id: str
    session_id: str
    associate_time: float | None = None
    disassociate_time: float | None = None
    params: tuple[tuple[str, str], ...] = ()


class ParticipantStreamAssoc(Struct, frozen=True, gc=False):
    """Who feeds and who hears which streams (RFC 7865 6.8): always the whole sets."""

    participant_id: str
    send: tuple[str, ...] = ()
    recv: tuple[str, ...] = ()
    associate_time: float | None = None
    disassociate_time: float | None = None


class Document(Struct, frozen=True, gc=False):
    """One metadata document, the ``recording`` element: ``complete``, or ``partial`` relative to the last one that the
    SRS accepted.

    Of one that was read, `findings` is what was odd about it, `errors` what was damaged and may therefore be missing.
    """

    mode: Literal["complete", "partial"] = "complete"
    groups: tuple[Group, ...] = ()
    sessions: tuple[Session, ...] = ()
    participants: tuple[Participant, ...] = ()
    streams: tuple[Stream, ...] = ()
    session_assocs: tuple[SessionRecordingAssoc, ...] = ()
    participant_assocs: tuple[ParticipantSessionAssoc, ...] = ()
    stream_assocs: tuple[ParticipantStreamAssoc, ...] = ()
    extensions: tuple[Extension, ...] = ()
    findings: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()

    def stopped(self, wall: float, reasons: tuple[Reason, ...] = ()) -> Document:
        """This document with every session ended at `wall`: stop-time, reason and disassociate-times."""
        sessions, assocs = [], []
        for session in self.sessions:
            if session.stop_time is None:
                start = session.start_time
                ended = wall if start is None or start < wall else start  # none ends before it began
                session = replace(session, stop_time=ended, reasons=reasons)
            sessions.append(session)
        for assoc in self.participant_assocs:
            if assoc.disassociate_time is None:
                since = assoc.associate_time
                assoc = replace(assoc, disassociate_time=wall if since is None or since < wall else since)
            assocs.append(assoc)
        return replace(
            self,
            sessions=tuple(sessions),
            session_assocs=self._closed(wall),
            participant_assocs=tuple(assocs),
        )

    def detached(self, wall: float) -> Document:
        """This document with the sessions going on but no longer recorded here (recording stopped before the call)."""
        return replace(self, session_assocs=self._closed(wall))

    def attached(self, wall: float) -> Document:
        """This document for a new RS: sessionrecordingassoc open since `wall`, all ids as they were."""
        return replace(
            self, session_assocs=tuple([SessionRecordingAssoc(a.session_id, wall) for a in self.session_assocs])
        )

    def identifiers(self) -> set[str]:
        """Every identifier that an element of this document has or is about; not those it only refers to."""
        found = {each.id for part in (self.groups, self.sessions, self.participants, self.streams) for each in part}
        found.update([each.session_id for each in self.streams if each.session_id])
        found.update([each.session_id for each in self.session_assocs])
        for assoc in self.participant_assocs:
            found |= {assoc.participant_id, assoc.session_id}
        found.update([each.participant_id for each in self.stream_assocs])
        return found

    def _closed(self, wall: float) -> tuple[SessionRecordingAssoc, ...]:
        closed = []
        for assoc in self.session_assocs:
            if assoc.disassociate_time is None:
                since = assoc.associate_time
                assoc = replace(assoc, disassociate_time=wall if since is None or since < wall else since)
            closed.append(assoc)
        return tuple(closed)


class SnapshotRequest(Struct, frozen=True, gc=False):
    """A ``requestsnapshot`` document (RFC 7866 9.2): the SRS asks for a complete one."""

    reason: str
    findings: tuple[str, ...] = ()
