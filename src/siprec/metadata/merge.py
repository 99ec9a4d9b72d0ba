"""What a recording session's metadata add up to: snapshots and partial updates merged.

RFC 7865 and 7866 define no merge; the rules are those that fit all their examples: a complete document becomes the
current state, a partial one inserts by key and replaces the kinds of children it names, associations keep the list of
their intervals, and a party that left a session no longer counts in that session's streams.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

from siprec.metadata.document import (
    Document,
    Extension,
    Group,
    Participant,
    ParticipantSessionAssoc,
    ParticipantStreamAssoc,
    Session,
    SessionRecordingAssoc,
    Stream,
)
from siprec.metadata.history import (
    Element,
    GroupHistory,
    Interval,
    ParticipantHistory,
    ParticipantSessionHistory,
    ParticipantStreamHistory,
    SessionHistory,
    StreamHistory,
)
from siprec.metadata.values import Id, rfc3339

_D = TypeVar("_D", Group, Session, Participant, Stream)
_E = TypeVar("_E", GroupHistory, SessionHistory, ParticipantHistory, StreamHistory)

_MAX_HISTORY: Final = 2000


class MetadataState:
    """The merged metadata of one recording session."""

    def __init__(self) -> None:
        self.groups: dict[str, GroupHistory] = {}
        self.sessions: dict[str, SessionHistory] = {}
        self.participants: dict[str, ParticipantHistory] = {}
        self.streams: dict[str, StreamHistory] = {}
        self.participant_assocs: dict[tuple[str, str], ParticipantSessionHistory] = {}
        """By participant and session."""
        self.stream_assocs: dict[str, ParticipantStreamHistory] = {}
        """By participant."""
        self.extensions: tuple[Extension, ...] = ()
        """Foreign elements of the document itself."""
        self.gone: dict[str, Element] = {}
        """What has been forgotten lately (:mod:`siprec.metadata.extract`)."""
        self.complete_seen = False
        self.wants_snapshot = False
        """A partial update could not be understood fully; a snapshot would help."""

    def apply(self, document: Document, *, wall: float, labels: Mapping[str, int]) -> list[str]:
        """Merge `document`, received at `wall` (Unix seconds); returns what was odd about it.

        `labels` maps the ``a=label`` values of the SDP of the same SIP message to m-line indexes. Call it only for a
        document that was accepted.
        """
        findings: list[str] = []
        complete = document.mode == "complete"
        if complete:
            self.complete_seen = True
            self.wants_snapshot = False
        elif not self.complete_seen:
            self.wants_snapshot = True
            findings.append("partial update before any snapshot")
        if document.extensions or complete:
            self.extensions = document.extensions
        groups, sessions, participants, streams = self._unambiguous(document, findings)
        if complete:
            self._retire(document, (groups, sessions, participants, streams), wall)
        merge = _Merge(self, complete, wall, labels, findings)
        for group in groups:
            merge.group(group)
        for session in sessions:
            merge.session(session)
        for participant in participants:
            merge.participant(participant)
        for stream in streams:
            merge.stream(stream)
        for recorded in document.session_assocs:
            merge.session_assoc(recorded)
        for member in document.participant_assocs:
            merge.participant_assoc(member)
        for feed in document.stream_assocs:
            merge.stream_assoc(feed)
        for each in self.sessions.values():
            if each.stop_time is not None:
                self._everyone_leaves(each, each.stop_time)
        return findings

    def _unambiguous(
        self, document: Document, findings: list[str]
    ) -> tuple[list[Group], list[Session], list[Participant], list[Stream]]:
        """Without the elements that use an id which names something else."""
        owner: dict[str, str] = {}
        tables: tuple[tuple[str, Mapping[str, Element]], ...] = (
            ("group", self.groups),
            ("session", self.sessions),
            ("participant", self.participants),
            ("stream", self.streams),
        )
        for kind, table in tables:
            for id_, element in table.items():
                if not element.placeholder:
                    owner[id_] = kind
        seen: set[str] = set()

        def kept(kind: str, elements: tuple[_D, ...]) -> list[_D]:
            out = []
            for each in elements:
                if owner.setdefault(each.id, kind) != kind or each.id in seen:
                    findings.append(f"{kind} {_id(each.id).text}: this id names another element, ignored")
                    continue
                seen.add(each.id)
                out.append(each)
            return out

        return (
            kept("group", document.groups),
            kept("session", document.sessions),
            kept("participant", document.participants),
            kept("stream", document.streams),
        )

    def _retire(
        self,
        document: Document,
        described: tuple[list[Group], list[Session], list[Participant], list[Stream]],
        now: float,
    ) -> None:
        """A snapshot: what it does not mention is no longer current; open intervals end."""
        groups, sessions, participants, streams = described
        tables: tuple[tuple[Mapping[str, Element], set[str]], ...] = (
            (self.groups, {each.id for each in groups}),
            (self.sessions, {each.id for each in sessions}),
            (self.participants, {each.id for each in participants}),
            (self.streams, {each.id for each in streams}),
        )
        for table, ids in tables:
            for id_, element in table.items():
                element.current = id_ in ids
        for group in self.groups.values():
            if not group.current:
                _close(group.intervals, now, implied=True)
        recorded = {assoc.session_id for assoc in document.session_assocs}
        for session in self.sessions.values():
            if session.id not in recorded and not session.current:
                _close(session.recorded, now, implied=True)
        members = {(assoc.participant_id, assoc.session_id) for assoc in document.participant_assocs}
        for key, member in self.participant_assocs.items():
            if key not in members:
                _close(member.intervals, now, implied=True)
        parties = {assoc.participant_id for assoc in document.stream_assocs}
        for participant, feed in self.stream_assocs.items():
            if participant not in parties:
                _feed(feed, (), (), now)
                _close(feed.intervals, now, implied=True)

    def _everyone_leaves(self, session: SessionHistory, when: float) -> None:
        for (_, session_id), member in self.participant_assocs.items():
            if session_id == session.id:
                _close(member.intervals, when, implied=True)

    def senders(self, stream: str) -> list[ParticipantHistory]:
        """Who feeds `stream` now: parties that left its session do not."""
        return self._parties(stream, sending=True)

    def receivers(self, stream: str) -> list[ParticipantHistory]:
        """Who hears `stream` now."""
        return self._parties(stream, sending=False)

    def _parties(self, stream_id: str, *, sending: bool) -> list[ParticipantHistory]:
        stream = self.streams.get(stream_id)
        out = []
        for participant, feed in self.stream_assocs.items():
            if stream_id not in (feed.send if sending else feed.recv):
                continue
            if feed.intervals and feed.intervals[-1].end is not None:
                continue
            if stream is not None and stream.session_id is not None:
                member = self.participant_assocs.get((participant, stream.session_id))
                if member is not None and not member.present:
                    continue
            out.append(self.participants[participant])
        return out

    def ever_senders(self, stream: str) -> list[ParticipantHistory]:
        """Everyone who ever fed `stream`, in order of appearance: who can be heard in its file."""
        return [
            self.participants[participant]
            for participant, feed in self.stream_assocs.items()
            if any(stream in send for _, send, _ in feed.history)
        ]

    def on_line(self, line: int) -> list[StreamHistory]:
        """Streams announced for m-line `line`, the current one last."""
        found = [stream for stream in self.streams.values() if stream.line == line]
        return sorted(found, key=lambda stream: stream.current)


class _Merge:
    """One document on its way in."""

    def __init__(
        self, state: MetadataState, complete: bool, now: float, labels: Mapping[str, int], findings: list[str]
    ) -> None:
        self.state, self.complete, self.now, self.labels, self.findings = state, complete, now, labels, findings

    def _describe(self, element: Element, extensions: tuple[Extension, ...]) -> None:
        element.current, element.placeholder = True, False
        if extensions or self.complete:
            element.extensions = extensions

    def _referred(self, kind: str, table: dict[str, _E], make: type[_E], id_: str) -> _E:
        """The element that is referred to: as described, as it was before it was forgotten, or a placeholder."""
        found = table.get(id_)
        if found is not None:
            return found
        gone = self.state.gone.pop(id_, None)
        if isinstance(gone, make):
            gone.current = False  # a late mention of what is over; or it is back, as its description will say
            found = gone
        else:
            self._dangling(kind, id_)
            found = make(_id(id_), placeholder=True)
        table[id_] = found
        return found

    def _dangling(self, kind: str, id_: str) -> None:
        self.findings.append(f"{kind} {_id(id_).text} is referred to but not described")
        if not self.complete:
            # Another snapshot cannot tell more than the one that lacks it: it may be another SRC's.
            self.state.wants_snapshot = True

    def _session_of(self, id_: str) -> SessionHistory:
        return self._referred("session", self.state.sessions, SessionHistory, id_)

    def _participant_of(self, id_: str) -> ParticipantHistory:
        return self._referred("participant", self.state.participants, ParticipantHistory, id_)

    def group(self, told: Group) -> None:
        group = self.state.groups.setdefault(told.id, GroupHistory(_id(told.id)))
        self._describe(group, told.extensions)
        self._times(group.intervals, told.associate_time, told.disassociate_time)

    def session(self, told: Session) -> None:
        session = self.state.sessions.setdefault(told.id, SessionHistory(_id(told.id)))
        self._describe(session, told.extensions)
        if told.sip_session_ids or self.complete:
            session.sip_session_ids = told.sip_session_ids
        if told.reasons or self.complete:
            session.reasons = told.reasons
        if told.group_ref:
            group = _id(told.group_ref)
            if group not in self.state.groups:
                if group not in self.state.gone:
                    self._dangling("group", group)
                self.state.groups[group] = GroupHistory(group, placeholder=True)
            session.group_ref = group
        elif self.complete:
            session.group_ref = None
        if told.start_time is not None or self.complete:
            session.start_time = told.start_time
        if told.stop_time is not None or self.complete:
            session.stop_time = told.stop_time
        start, stop = session.start_time, session.stop_time
        if start is not None and stop is not None and stop < start:
            self.findings.append(f"stop-time {rfc3339(stop)} lies before start-time {rfc3339(start)}")
            session.stop_time = max(start, self.now)

    def participant(self, told: Participant) -> None:
        participant = self.state.participants.setdefault(told.id, ParticipantHistory(_id(told.id)))
        self._describe(participant, told.extensions)
        if told.name_ids or self.complete:
            participant.name_ids = told.name_ids

    def stream(self, told: Stream) -> None:
        stream = self.state.streams.setdefault(told.id, StreamHistory(_id(told.id)))
        self._describe(stream, told.extensions)
        if told.session_id:
            self._session_of(told.session_id)
            stream.session_id = _id(told.session_id)
        elif self.complete:
            stream.session_id = None
        if told.label is not None:
            stream.label = told.label
            stream.line = self.labels.get(told.label)
            if stream.line is None:
                self.findings.append(f"label {told.label!r} is in no SDP")
            for other in self.state.streams.values():
                if other is not stream and stream.line is not None and other.line == stream.line:
                    other.current = False  # the slot has been given to another stream

    def session_assoc(self, told: SessionRecordingAssoc) -> None:
        self._times(self._session_of(told.session_id).recorded, told.associate_time, told.disassociate_time)

    def participant_assoc(self, told: ParticipantSessionAssoc) -> None:
        self._participant_of(told.participant_id)
        self._session_of(told.session_id)
        key = (told.participant_id, told.session_id)
        member = self.state.participant_assocs.get(key)
        if member is None:
            member = ParticipantSessionHistory(_id(told.participant_id), _id(told.session_id))
            self.state.participant_assocs[key] = member
        self._times(member.intervals, told.associate_time, told.disassociate_time)
        if told.params or self.complete:
            member.params = told.params

    def stream_assoc(self, told: ParticipantStreamAssoc) -> None:
        self._participant_of(told.participant_id)
        feed = self.state.stream_assocs.get(told.participant_id)
        if feed is None:
            feed = self.state.stream_assocs[told.participant_id] = ParticipantStreamHistory(_id(told.participant_id))
        for stream in (*told.send, *told.recv):
            self._referred("stream", self.state.streams, StreamHistory, stream)
        # Both sets are replaced as a whole; absent is empty.
        _feed(feed, told.send, told.recv, self.now)
        self._times(feed.intervals, told.associate_time, told.disassociate_time)

    def _times(self, intervals: list[Interval], start: float | None, end: float | None) -> None:
        last = intervals[-1] if intervals else None
        if start is not None:
            if last is None or not _same(last.start, start):
                if last is not None and last.end is None:
                    if last.start is None or last.implied:
                        last.start, last.implied = start, False
                    else:
                        last.end = max(last.start, start)
                if last is None or last.end is not None:
                    intervals.append(Interval(start))
            elif last.end is not None and end is None and self.complete:
                # A snapshot repeats the interval as open: it was only closed by inference.
                last.end = None if last.implied else last.end
        elif last is None:
            intervals.append(Interval(None if end is not None else self.now, implied=end is None))
        elif last.end is not None and end is None and self.complete:
            intervals.append(Interval(self.now, implied=True))
        if end is not None:
            last = intervals[-1]
            if last.end is None or last.implied:
                if last.start is not None and end < last.start:
                    self.findings.append(
                        f"disassociate-time {rfc3339(end)} lies before associate-time {rfc3339(last.start)}"
                    )
                    end = max(last.start, self.now)
                last.end = end
            elif not _same(last.end, end):
                intervals.append(Interval(None, end))
        del intervals[:-_MAX_HISTORY]


def _id(text: str) -> Id:
    """Documents of our own making have their identifiers as plain text."""
    return text if isinstance(text, Id) else Id(text)


def _same(a: float | None, b: float) -> bool:
    return a is not None and abs(a - b) < 0.0005


def _close(intervals: list[Interval], when: float, *, implied: bool) -> None:
    if intervals and intervals[-1].end is None:
        last = intervals[-1]
        # The start may come from the client's clock and the end from ours: it is not over before it began.
        last.end = last.start if last.start is not None and when < last.start else when
        last.implied = last.implied or implied


def _feed(feed: ParticipantStreamHistory, send: tuple[str, ...], recv: tuple[str, ...], now: float) -> None:
    if not feed.history or feed.history[-1][1:] != (send, recv):
        feed.history.append((now, send, recv))
        del feed.history[:-_MAX_HISTORY]
    feed.send, feed.recv = send, recv
