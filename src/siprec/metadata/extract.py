"""What of a recording session's metadata concerns one of its communication sessions, and forgetting it afterwards."""

from __future__ import annotations

import copy
from typing import TypeVar

from siprec.metadata.history import Element
from siprec.metadata.merge import MetadataState

_E = TypeVar("_E", bound=Element)

_REMEMBERED = 1000
"""Identifiers of elements that are gone, so that late words about them are not taken for words about something new."""


def part(state: MetadataState, session: str | None) -> MetadataState:
    """The part about `session`: its participants, streams, associations and group. None: all of it if there is no
    session, else the streams of no session and who feeds them.

    The elements are the same objects.
    """
    out = MetadataState()
    if session is None:
        if not state.sessions:
            return state
        out.streams = {id_: stream for id_, stream in state.streams.items() if stream.session_id is None}
        _contributors(state, out, set())
        return out
    if session not in state.sessions:
        return out
    found = out.sessions[session] = state.sessions[session]
    if found.group_ref is not None and found.group_ref in state.groups:
        out.groups[found.group_ref] = state.groups[found.group_ref]
    out.streams = {id_: stream for id_, stream in state.streams.items() if stream.session_id == session}
    out.participant_assocs = {key: each for key, each in state.participant_assocs.items() if key[1] == session}
    _contributors(state, out, {participant for participant, _ in out.participant_assocs})
    out.complete_seen = state.complete_seen
    out.extensions = state.extensions
    return out


def _contributors(state: MetadataState, out: MetadataState, members: set[str]) -> None:
    """The participants `members`, and those who feed or hear the streams of `out`."""
    streams = set(out.streams)
    for id_, assoc in state.stream_assocs.items():
        if id_ in members or any(streams & {*sent, *heard} for _, sent, heard in assoc.history):
            out.stream_assocs[id_] = assoc
            members.add(id_)
    out.participants = {id_: who for id_, who in state.participants.items() if id_ in members}


def keys(state: MetadataState, session: str | None) -> set[str]:
    """Every identifier that has to do with `session`."""
    mine = part(state, session)
    return {id_ for table in (mine.groups, mine.sessions, mine.participants, mine.streams) for id_ in table}


def extract(state: MetadataState, session: str | None) -> MetadataState:
    """Take the part about `session` out of `state`; what is returned is a copy, for another thread to read."""
    mine = part(state, session)
    if mine is state:
        return state
    out = copy.deepcopy(mine)
    for id_ in out.sessions:
        _forget(state, id_, state.sessions)
    for id_ in out.streams:
        _forget(state, id_, state.streams)
    for key in out.participant_assocs:
        del state.participant_assocs[key]
    elsewhere = {participant for participant, _ in state.participant_assocs}
    streams = set(out.streams)
    for id_, assoc in list(state.stream_assocs.items()):
        assoc.send = tuple([s for s in assoc.send if s not in streams])
        assoc.recv = tuple([s for s in assoc.recv if s not in streams])
        if id_ in out.stream_assocs and id_ not in elsewhere and not (assoc.send or assoc.recv):
            del state.stream_assocs[id_]
    for id_ in out.participants:
        if id_ not in elsewhere and id_ not in state.stream_assocs:
            # Whoever takes part again is described again, or is remembered for as long as this goes.
            _forget(state, id_, state.participants)
    used = {s.group_ref for s in state.sessions.values()}
    for id_ in out.groups:
        if id_ not in used:
            _forget(state, id_, state.groups)
    return out


def trim(state: MetadataState, recorded: set[str | None]) -> None:
    """Let go of sessions that are over and not `recorded` (any more), and of parties that are in none."""
    for session in [s.id for s in state.sessions.values() if not s.live and s.id not in recorded]:
        extract(state, session)
    if len(state.participants) > _REMEMBERED:
        members = {participant for participant, _ in state.participant_assocs}
        for id_ in [i for i in state.participants if i not in members]:
            state.stream_assocs.pop(id_, None)
            _forget(state, id_, state.participants)


def _forget(state: MetadataState, id_: str, table: dict[str, _E]) -> None:
    state.gone[id_] = table.pop(id_)
    while len(state.gone) > _REMEMBERED:
        state.gone.pop(next(iter(state.gone)))
