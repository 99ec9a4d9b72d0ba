"""What of a recording session's metadata concerns one of its communication sessions, and forgetting it afterwards."""

from __future__ import annotations

import copy
from typing import TypeVar

from siprec.recorder.metadata import Id
from siprec.recorder.metadata_state import Element, MetadataState

_E = TypeVar("_E", bound=Element)

_REMEMBERED = 1000
"""Identifiers of elements that are gone, so that late words about them are not taken for words about something new."""


def part(state: MetadataState, session: Id | None) -> MetadataState:
    """The part about `session`: its participants, streams, associations and group. None: all of it if there is no
    session, else the streams of no session and who feeds them.

    The elements are the same objects.
    """
    out = MetadataState()
    if session is None:
        if not state.sessions:
            return state
        out.streams = {id_: stream for id_, stream in state.streams.items() if stream.session is None}
        _contributors(state, out, set())
        return out
    if session not in state.sessions:
        return out
    found = out.sessions[session] = state.sessions[session]
    if found.group is not None and found.group in state.groups:
        out.groups[found.group] = state.groups[found.group]
    out.streams = {id_: stream for id_, stream in state.streams.items() if stream.session == session}
    out.memberships = {key: each for key, each in state.memberships.items() if key[1] == session}
    _contributors(state, out, {participant for participant, _ in out.memberships})
    out.complete_seen = state.complete_seen
    out.extensions = state.extensions
    return out


def _contributors(state: MetadataState, out: MetadataState, members: set[Id]) -> None:
    """The participants `members`, and those who feed or hear the streams of `out`."""
    streams = {id_.key for id_ in out.streams}
    for id_, contribution in state.contributions.items():
        if id_ in members or any(streams & {*sent, *heard} for _, sent, heard in contribution.history):
            out.contributions[id_] = contribution
            members.add(id_)
    out.participants = {id_: who for id_, who in state.participants.items() if id_ in members}


def keys(state: MetadataState, session: Id | None) -> set[str]:
    """Every identifier that has to do with `session`."""
    mine = part(state, session)
    return {id_.key for table in (mine.groups, mine.sessions, mine.participants, mine.streams) for id_ in table}


def extract(state: MetadataState, session: Id | None) -> MetadataState:
    """Take the part about `session` out of `state`; what is returned is a copy, for another thread to read."""
    mine = part(state, session)
    if mine is state:
        return state
    out = copy.deepcopy(mine)
    for id_ in out.sessions:
        _forget(state, id_, state.sessions)
    for id_ in out.streams:
        _forget(state, id_, state.streams)
    for key in out.memberships:
        del state.memberships[key]
    elsewhere = {participant for participant, _ in state.memberships}
    streams = set(out.streams)
    for id_, contribution in list(state.contributions.items()):
        contribution.send = [s for s in contribution.send if s not in streams]
        contribution.recv = [s for s in contribution.recv if s not in streams]
        if id_ in out.contributions and id_ not in elsewhere and not (contribution.send or contribution.recv):
            del state.contributions[id_]
    for id_ in out.participants:
        if id_ not in elsewhere and id_ not in state.contributions:
            # Whoever takes part again is described again, or is remembered for as long as this goes.
            _forget(state, id_, state.participants)
    used = {s.group for s in state.sessions.values()}
    for id_ in out.groups:
        if id_ not in used:
            _forget(state, id_, state.groups)
    return out


def trim(state: MetadataState, recorded: set[Id | None]) -> None:
    """Let go of sessions that are over and not `recorded` (any more), and of parties that are in none."""
    for session in [s.id for s in state.sessions.values() if not s.live and s.id not in recorded]:
        extract(state, session)
    if len(state.participants) > _REMEMBERED:
        members = {participant for participant, _ in state.memberships}
        for id_ in [i for i in state.participants if i not in members]:
            state.contributions.pop(id_, None)
            _forget(state, id_, state.participants)


def _forget(state: MetadataState, id_: Id, table: dict[Id, _E]) -> None:
    state.gone[id_] = table.pop(id_)
    while len(state.gone) > _REMEMBERED:
        state.gone.pop(next(iter(state.gone)))
