"""Partial updates: the document that leads from what the SRS accepted to what is so now (RFC 7866 9.1)."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Final, TypeVar

from msgspec import Struct
from msgspec.structs import astuple, fields, replace

from siprec.metadata.document import (
    Document,
    Group,
    Participant,
    ParticipantSessionAssoc,
    ParticipantStreamAssoc,
    Session,
    SessionRecordingAssoc,
    Stream,
)

_Element = TypeVar("_Element", Group, Session, SessionRecordingAssoc, ParticipantSessionAssoc)

_KEY: Final = attrgetter("id")
_SESSION: Final = attrgetter("session_id")
_PARTY: Final = attrgetter("participant_id", "session_id")


def diff(told: Document, now: Document) -> Document | None:
    """The document that brings an SRS which knows `told` to `now`: partial, or None when nothing changed.

    Where a partial update cannot say it (a child element vanished, and an absent child means "as before"), the answer
    is `now` itself, complete. A stream nobody feeds any more may simply be missing in `now`: the stream associations
    tell.
    """
    groups = _changed(told.groups, now.groups, _KEY) if told.groups != now.groups else ()
    sessions = _changed(told.sessions, now.sessions, _KEY) if told.sessions != now.sessions else ()
    session_assocs: tuple[SessionRecordingAssoc, ...] | None = ()
    if told.session_assocs != now.session_assocs:
        session_assocs = _changed(told.session_assocs, now.session_assocs, _SESSION)
    participant_assocs: tuple[ParticipantSessionAssoc, ...] | None = ()
    if told.participant_assocs != now.participant_assocs:
        participant_assocs = _changed(told.participant_assocs, now.participant_assocs, _PARTY)
    if groups is None or sessions is None or session_assocs is None or participant_assocs is None:
        return replace(now, mode="complete")
    # Names are required children, send and recv are sets: both always go out whole.
    participants: tuple[Participant, ...] = ()
    if told.participants != now.participants:
        participants = tuple([each for each in now.participants if each not in told.participants])
    streams: tuple[Stream, ...] = ()
    if told.streams != now.streams:
        streams = tuple([each for each in now.streams if each not in told.streams])
    stream_assocs = _feeds(told, now) if told.stream_assocs != now.stream_assocs else ()
    if not (groups or sessions or participants or streams or session_assocs or participant_assocs or stream_assocs):
        return None
    return Document(
        "partial", groups, sessions, participants, streams, session_assocs, participant_assocs, stream_assocs
    )


def _feeds(told: Document, now: Document) -> tuple[ParticipantStreamAssoc, ...]:
    before = {}
    for assoc in told.stream_assocs:
        before[assoc.participant_id] = assoc
    changed = []
    for assoc in now.stream_assocs:
        old = before.get(assoc.participant_id)
        if old == assoc:
            continue
        if old is not None:
            since, until = _new_times(old, assoc)
            assoc = replace(assoc, associate_time=since, disassociate_time=until)
        changed.append(assoc)
    return tuple(changed)


def _new_times(old: ParticipantStreamAssoc, new: ParticipantStreamAssoc) -> tuple[float | None, float | None]:
    """The times of `new` that the SRS does not know: of a reopened interval both ends belong together."""
    reopened = new.associate_time != old.associate_time
    closed = reopened or new.disassociate_time != old.disassociate_time
    return new.associate_time if reopened else None, new.disassociate_time if closed else None


def _changed(
    told: tuple[_Element, ...], now: tuple[_Element, ...], key: Callable[[_Element], object]
) -> tuple[_Element, ...] | None:
    """New elements whole, known ones with the changed kinds of children only; None when a kind vanished.

    The interval of an association may be reopened: a new associate-time alone opens another.
    """
    before = {}
    for item in told:
        before[key(item)] = item
    result = []
    for item in now:
        old = before.get(key(item))
        if old is None:
            result.append(item)
        elif old != item:
            partial = _partial(old, item)
            if partial is None:
                return None
            result.append(partial)
    return tuple(result)


def _partial(old: _Element, item: _Element) -> _Element | None:
    kind = type(item)
    values, before = [*astuple(item)], astuple(old)
    for at, empty in _CHILDREN[kind]:
        if values[at] == before[at]:
            values[at] = empty
        elif values[at] in (None, "", ()):
            return None
    at = _INTERVAL[kind]
    if at:
        if values[at] is None and before[at] is not None:
            return None
        if values[at] == before[at]:
            values[at] = None
            # Of a reopened interval both ends belong together.
            if values[at + 1] == before[at + 1]:
                values[at + 1] = None
    return kind(*values)


def _at(kind: type[Struct], *names: str) -> tuple[tuple[int, object], ...]:
    """Place and empty value of fields."""
    found = {field.name: (at, field.default) for at, field in enumerate(fields(kind))}
    return tuple(found[name] for name in names)


_CHILDREN: Final[dict[type, tuple[tuple[int, object], ...]]] = {
    Group: _at(Group, "associate_time", "disassociate_time", "extension"),
    Session: _at(Session, "sip_session_ids", "reasons", "group_ref", "start_time", "stop_time", "extension"),
    SessionRecordingAssoc: (),
    ParticipantSessionAssoc: _at(ParticipantSessionAssoc, "params"),
}
"""The kinds of children that a partial update may leave out, and what stands for "not mentioned"."""
_INTERVAL: Final[dict[type, int]] = {
    Group: 0,
    Session: 0,
    SessionRecordingAssoc: _at(SessionRecordingAssoc, "associate_time")[0][0],
    ParticipantSessionAssoc: _at(ParticipantSessionAssoc, "associate_time")[0][0],
}
"""The place of associate-time, with disassociate-time after it; 0: the element is no association."""
