"""Which communication session a stream belongs to. Pure functions of the metadata.

RFC 7865 8.3 lets a stream name its session, and deployed recording clients leave it out: then its parties tell.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from siprec.metadata.document import Document
from siprec.metadata.history import StreamHistory
from siprec.metadata.merge import MetadataState
from siprec.metadata.values import Id


def session_of(state: MetadataState, stream: StreamHistory) -> Id | None:
    """The session of `stream`: the one it names, else the only live one that those who send or hear it take part in."""
    if stream.session_id is not None:
        return stream.session_id
    for parties in (state.senders(stream.id), state.receivers(stream.id)):
        members = {party.id for party in parties}
        found = {
            member.session_id
            for (participant, _), member in state.participant_assocs.items()
            if participant in members and member.present and state.sessions[member.session_id].live
        }
        if len(found) == 1:
            return found.pop()
    return None


def match_by_order(
    state: MetadataState, document: Document, lines: Iterable[int], labels: Collection[str]
) -> list[str]:
    """Give the streams that `document` describes without a usable label to the m-lines `lines` that have no stream, in
    their order, if there are as many of both. Returns findings.

    `labels` are those of the SDP. Labels that fit come first: where one of them does, the rest are really elsewhere.
    """
    loose = [
        stream
        for stream in (state.streams[each.id] for each in document.streams if each.id in state.streams)
        if stream.line is None and stream.current and (stream.label is None or stream.label not in labels)
    ]
    taken = {stream.line for stream in state.streams.values() if stream.current and stream.line is not None}
    free = [index for index in lines if index not in taken]
    if not loose or len(loose) != len(free) or taken:
        return []
    for stream, index in zip(loose, free, strict=True):
        stream.line = index
    return ["labels of streams are in no SDP: streams and media lines are matched in their order"]


NOBODY: Final = Id("")
"""Of a stream that belongs to no recording."""


def assign(
    state: MetadataState,
    lines: Iterable[int],
    owners: Mapping[int, Id | None],
    over: Collection[Id],
    sessions_seen: bool,
) -> dict[int, Id | None]:
    """The m-lines that are to change hands: to the recording of which session (None: that of nobody named), or to
    `NOBODY`. Every m-line belongs to the recording of its communication session, or to none.

    `owners`: the session of the recording that an m-line belongs to, for those that do. `over`: sessions that had a
    recording and go on no longer. `sessions_seen`: the metadata have told of a session.
    """
    live = [session.id for session in state.sessions.values() if session.live]
    described = {s.line: s for s in state.streams.values() if s.current and s.line is not None}
    sessions = {index: session_of(state, stream) for index, stream in described.items()}
    named = any(session is not None for session in sessions.values())
    found: dict[int, Id | None] = {}
    for index in lines:
        owned, owner = index in owners, owners.get(index)
        stream, session = described.get(index), sessions.get(index)
        if session is None and len(live) == 1 and (stream is None or not named):
            session = live[0]
        if session is not None:
            if not owned or owner != session:
                # One that is over keeps what is under way, and gets nothing new.
                found[index] = NOBODY if session in over else session
        elif not sessions_seen and (not state.complete_seen or state.participants):
            if not owned:
                found[index] = None
        elif stream is not None and owner is not None:
            found[index] = NOBODY
    return found
