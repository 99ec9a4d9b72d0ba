"""What a recording session's metadata add up to: snapshots and partial updates merged.

RFC 7865 and 7866 define no merge; the rules are those that fit all their examples: a complete document becomes the
current state, a partial one inserts by key and replaces the kinds of children it names, associations keep the list of
their intervals, and a party that left a session no longer counts in that session's streams.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from siprec.recorder.metadata import Document, Extension, Id, Item, Name, Reason, Time

_T = TypeVar("_T")


@dataclass(slots=True)
class Interval:
    """From `start` to `end` (None: open). `implied` times are ours, taken from the arrival of a message."""

    start: Time | None
    end: Time | None = None
    implied: bool = False

    def as_dict(self) -> dict[str, object]:
        """For the JSON."""
        out: dict[str, object] = {"from": _time(self.start), "to": _time(self.end)}
        if self.implied:
            out["implied"] = True
        return out


def _time(time: Time | None) -> str | None:
    return Time.at(time.seconds).text if time is not None else None


@dataclass(slots=True)
class Element:
    """What all elements have. `placeholder`: referred to, but not described so far."""

    id: Id
    current: bool = True
    placeholder: bool = False
    extensions: tuple[Extension, ...] = ()


@dataclass(slots=True)
class Group(Element):
    intervals: list[Interval] = field(default_factory=list)


@dataclass(slots=True)
class Session(Element):
    sip_session_ids: list[str] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)
    group: Id | None = None
    start: Time | None = None
    stop: Time | None = None
    recorded: list[Interval] = field(default_factory=list)

    @property
    def live(self) -> bool:
        """Neither stopped nor dropped out of a snapshot nor detached from the recording session."""
        return self.current and self.stop is None and not (self.recorded and self.recorded[-1].end is not None)


@dataclass(slots=True)
class Participant(Element):
    names: list[Name] = field(default_factory=list)


@dataclass(slots=True)
class Stream(Element):
    """`line` is the m-line index its label meant when it was announced; None if it could not be resolved."""

    session: Id | None = None
    label: str | None = None
    line: int | None = None


@dataclass(slots=True)
class Membership:
    """A participant in a session."""

    participant: Id
    session: Id
    intervals: list[Interval] = field(default_factory=list)
    params: list[tuple[str, str]] = field(default_factory=list)

    @property
    def present(self) -> bool:
        return bool(self.intervals) and self.intervals[-1].end is None


@dataclass(slots=True)
class Contribution:
    """Which streams a participant feeds and hears, now and before: `history` holds arrival time, send and recv."""

    participant: Id
    send: list[Id] = field(default_factory=list)
    recv: list[Id] = field(default_factory=list)
    intervals: list[Interval] = field(default_factory=list)
    history: list[tuple[float, tuple[str, ...], tuple[str, ...]]] = field(default_factory=list)


_MAX_HISTORY = 2000


class MetadataState:
    """The merged metadata of one recording session."""

    def __init__(self) -> None:
        self.groups: dict[Id, Group] = {}
        self.sessions: dict[Id, Session] = {}
        self.participants: dict[Id, Participant] = {}
        self.streams: dict[Id, Stream] = {}
        self.memberships: dict[tuple[Id, Id], Membership] = {}
        self.contributions: dict[Id, Contribution] = {}
        self.extensions: tuple[Extension, ...] = ()
        """Foreign elements of the document itself."""
        self.gone: dict[Id, Element] = {}
        """What has been forgotten lately (:mod:`siprec.recorder.metadata_parts`)."""
        self.complete_seen = False
        self.wants_snapshot = False
        """A partial update could not be understood fully; a snapshot would help."""

    def apply(self, document: Document, *, wall: float, labels: Mapping[str, int]) -> list[str]:
        """Merge `document`, received at `wall` (Unix seconds); returns what was odd about it.

        `labels` maps the ``a=label`` values of the SDP of the same SIP message to m-line indexes. Call it only for a
        document that was accepted.
        """
        now = Time.at(wall)
        findings: list[str] = []
        if document.mode == "complete":
            self.complete_seen = True
            self.wants_snapshot = False
        elif not self.complete_seen:
            self.wants_snapshot = True
            findings.append("partial update before any snapshot")
        if document.extensions or document.mode == "complete":
            self.extensions = document.extensions
        items = self._unambiguous(document, findings)
        if document.mode == "complete":
            self._retire(items, now)
        merge = _Merge(self, document.mode == "complete", now, labels, findings)
        for item in items:
            merge.item(item)
        for session in self.sessions.values():
            if session.stop is not None:
                self._everyone_leaves(session, session.stop)
        return findings

    def _unambiguous(self, document: Document, findings: list[str]) -> list[Item]:
        """Without the elements that use an id which names something else (ID-09)."""
        owner: dict[str, str] = {}
        tables: tuple[tuple[str, Mapping[Id, Element]], ...] = (
            ("group", self.groups),
            ("session", self.sessions),
            ("participant", self.participants),
            ("stream", self.streams),
        )
        for kind, table in tables:
            for id_, element in table.items():
                if not element.placeholder:
                    owner[id_.key] = kind
        seen: set[str] = set()
        kept = []
        for item in document.items:
            own = item.ids.get(f"{item.kind}_id")
            if own is not None:
                if owner.setdefault(own.key, item.kind) != item.kind or own.key in seen:
                    findings.append(f"{item.kind} {own.text}: this id names another element, ignored")
                    continue
                seen.add(own.key)
            kept.append(item)
        return kept

    def _retire(self, items: list[Item], now: Time) -> None:
        """A snapshot: what it does not mention is no longer current; open intervals end."""
        mentioned = {(item.kind, *sorted(i.key for i in item.ids.values())) for item in items}
        plain = {(item.kind, item.ids[f"{item.kind}_id"].key) for item in items if f"{item.kind}_id" in item.ids}
        for kind, table in (
            ("group", self.groups), ("session", self.sessions), ("participant", self.participants),
            ("stream", self.streams),
        ):  # fmt: skip
            for id_, element in table.items():
                element.current = (kind, id_.key) in plain
        for group in self.groups.values():
            if not group.current:
                _close(group.intervals, now, implied=True)
        for session in self.sessions.values():
            if ("sessionrecordingassoc", session.id.key) not in mentioned and not session.current:
                _close(session.recorded, now, implied=True)
        for (participant, session_id), membership in self.memberships.items():
            key = ("participantsessionassoc", *sorted((participant.key, session_id.key)))
            if key not in mentioned:
                _close(membership.intervals, now, implied=True)
        for participant, contribution in self.contributions.items():
            if ("participantstreamassoc", participant.key) not in mentioned:
                _contribute(contribution, [], [], now)
                _close(contribution.intervals, now, implied=True)

    def _everyone_leaves(self, session: Session, when: Time) -> None:
        for (_, session_id), membership in self.memberships.items():
            if session_id == session.id:
                _close(membership.intervals, when, implied=True)

    def senders(self, stream: Id) -> list[Participant]:
        """Who feeds `stream` now: parties that left its session do not."""
        return self._parties(stream, sending=True)

    def receivers(self, stream: Id) -> list[Participant]:
        """Who hears `stream` now."""
        return self._parties(stream, sending=False)

    def _parties(self, stream_id: Id, *, sending: bool) -> list[Participant]:
        stream = self.streams.get(stream_id)
        out = []
        for participant, contribution in self.contributions.items():
            if stream_id not in (contribution.send if sending else contribution.recv):
                continue
            if contribution.intervals and contribution.intervals[-1].end is not None:
                continue
            if stream is not None and stream.session is not None:
                membership = self.memberships.get((participant, stream.session))
                if membership is not None and not membership.present:
                    continue
            out.append(self.participants[participant])
        return out

    def ever_senders(self, stream: Id) -> list[Participant]:
        """Everyone who ever fed `stream`, in order of appearance: who can be heard in its file."""
        return [
            self.participants[c.participant]
            for c in self.contributions.values()
            if any(stream.key in send for _, send, _ in c.history)
        ]

    def on_line(self, line: int) -> list[Stream]:
        """Streams announced for m-line `line`, the current one last."""
        found = [stream for stream in self.streams.values() if stream.line == line]
        return sorted(found, key=lambda stream: stream.current)


class _Merge:
    """One document on its way in."""

    def __init__(
        self, state: MetadataState, complete: bool, now: Time, labels: Mapping[str, int], findings: list[str]
    ) -> None:
        self.state, self.complete, self.now, self.labels, self.findings = state, complete, now, labels, findings

    def item(self, item: Item) -> None:
        getattr(self, "_" + item.kind)(item)

    def _keep(self, element: Element, item: Item) -> None:
        element.current, element.placeholder = True, False
        if item.extensions or self.complete:
            element.extensions = item.extensions

    def _dangling(self, what: str, id_: Id) -> None:
        self.findings.append(f"{what} {id_.text} is referred to but not described")
        if not self.complete:
            # Another snapshot cannot tell more than the one that lacks it (SRS-18: it may be another SRC's).
            self.state.wants_snapshot = True

    def _session_of(self, id_: Id) -> Session:
        if id_ not in self.state.sessions:
            gone = self.state.gone.pop(id_, None)
            if isinstance(gone, Session):
                gone.current = False  # late words about what is over; or it is back, as its description will say
                self.state.sessions[id_] = gone
            else:
                self._dangling("session", id_)
                self.state.sessions[id_] = Session(id_, placeholder=True)
        return self.state.sessions[id_]

    def _participant_of(self, id_: Id) -> Participant:
        if id_ not in self.state.participants:
            gone = self.state.gone.pop(id_, None)
            if isinstance(gone, Participant):
                gone.current = False  # late words about what is over; or it is back, as its description will say
                self.state.participants[id_] = gone
            else:
                self._dangling("participant", id_)
                self.state.participants[id_] = Participant(id_, placeholder=True)
        return self.state.participants[id_]

    def _stream_of(self, id_: Id) -> Stream:
        if id_ not in self.state.streams:
            gone = self.state.gone.pop(id_, None)
            if isinstance(gone, Stream):
                gone.current = False  # late words about what is over; or it is back, as its description will say
                self.state.streams[id_] = gone
            else:
                self._dangling("stream", id_)
                self.state.streams[id_] = Stream(id_, placeholder=True)
        return self.state.streams[id_]

    def _group(self, item: Item) -> None:
        id_ = item.ids["group_id"]
        group = self.state.groups.setdefault(id_, Group(id_))
        self._keep(group, item)
        self._times(group.intervals, item)

    def _session(self, item: Item) -> None:
        id_ = item.ids["session_id"]
        session = self.state.sessions.setdefault(id_, Session(id_))
        self._keep(session, item)
        session.sip_session_ids = self._values(item, "sipSessionID", str, session.sip_session_ids)
        session.reasons = self._values(item, "reason", Reason, session.reasons)
        group = self._one(item, "group-ref", Id, session.group)
        if group is not None and group not in self.state.groups:
            if group not in self.state.gone:
                self._dangling("group", group)
            self.state.groups[group] = Group(group, placeholder=True)
        session.group = group
        session.start = self._one(item, "start-time", Time, session.start)
        session.stop = self._one(item, "stop-time", Time, session.stop)
        if session.start is not None and session.stop is not None and session.stop.seconds < session.start.seconds:
            self.findings.append(f"stop-time {session.stop.text} lies before start-time {session.start.text}")
            session.stop = max(session.start, self.now, key=_seconds)

    def _participant(self, item: Item) -> None:
        id_ = item.ids["participant_id"]
        participant = self.state.participants.setdefault(id_, Participant(id_))
        self._keep(participant, item)
        participant.names = self._values(item, "nameID", Name, participant.names)

    def _stream(self, item: Item) -> None:
        id_ = item.ids["stream_id"]
        stream = self.state.streams.setdefault(id_, Stream(id_))
        self._keep(stream, item)
        session = item.ids.get("session_id")
        if session is not None:
            self._session_of(session)
            stream.session = session
        elif self.complete:
            stream.session = None
        label = self._one(item, "label", str, None)
        if label is not None:
            stream.label = label
            stream.line = self.labels.get(label)
            if stream.line is None:
                self.findings.append(f"label {label!r} is in no SDP")
            for other in self.state.streams.values():
                if other is not stream and stream.line is not None and other.line == stream.line:
                    other.current = False  # the slot has been given to another stream

    def _sessionrecordingassoc(self, item: Item) -> None:
        self._times(self._session_of(item.ids["session_id"]).recorded, item)

    def _participantsessionassoc(self, item: Item) -> None:
        participant, session = item.ids["participant_id"], item.ids["session_id"]
        self._participant_of(participant)
        self._session_of(session)
        key = (participant, session)
        membership = self.state.memberships.setdefault(key, Membership(participant, session))
        self._times(membership.intervals, item)
        if "param" in item.children or self.complete:
            membership.params = [p for p in item.children.get("param", []) if isinstance(p, tuple)]

    def _participantstreamassoc(self, item: Item) -> None:
        participant = item.ids["participant_id"]
        self._participant_of(participant)
        contribution = self.state.contributions.setdefault(participant, Contribution(participant))
        send = self._values(item, "send", Id, [])
        recv = self._values(item, "recv", Id, [])
        for stream in (*send, *recv):
            self._stream_of(stream)
        # Both sets are replaced as a whole; absent is empty.
        _contribute(contribution, send, recv, self.now)
        self._times(contribution.intervals, item)

    def _values(self, item: Item, name: str, kind: type[_T], old: list[_T]) -> list[_T]:
        if name in item.children:
            return [value for value in item.children[name] if isinstance(value, kind)]
        return [] if self.complete else old

    def _one(self, item: Item, name: str, kind: type[_T], old: _T | None) -> _T | None:
        values = self._values(item, name, kind, [])
        if values:
            return values[0]
        return None if self.complete else old

    def _times(self, intervals: list[Interval], item: Item) -> None:
        start = self._one(item, "associate-time", Time, None)
        end = self._one(item, "disassociate-time", Time, None)
        last = intervals[-1] if intervals else None
        if start is not None:
            if last is None or not _same(last.start, start):
                if last is not None and last.end is None:
                    if last.start is None or last.implied:
                        last.start, last.implied = start, False
                    else:
                        last.end = max(last.start, start, key=_seconds)
                if last is None or last.end is not None:
                    intervals.append(Interval(start))
            elif last.end is not None and end is None and self.complete:
                # A snapshot repeats the interval as open: it was only closed by inference.
                last.end = None if last.implied else last.end
        elif last is None:
            intervals.append(Interval(None if end else self.now, implied=end is None))
        elif last.end is not None and end is None and self.complete:
            intervals.append(Interval(self.now, implied=True))
        if end is not None:
            last = intervals[-1]
            if last.end is None or last.implied:
                if last.start is not None and end.seconds < last.start.seconds:
                    self.findings.append(f"disassociate-time {end.text} lies before associate-time {last.start.text}")
                    end = max(last.start, self.now, key=_seconds)
                last.end = end
            elif not _same(last.end, end):
                intervals.append(Interval(None, end))
        del intervals[:-_MAX_HISTORY]


def _seconds(time: Time) -> float:
    return time.seconds


def _same(a: Time | None, b: Time) -> bool:
    return a is not None and abs(a.seconds - b.seconds) < 0.0005


def _close(intervals: list[Interval], when: Time, *, implied: bool) -> None:
    if intervals and intervals[-1].end is None:
        last = intervals[-1]
        # The start may come from the client's clock and the end from ours: it is not over before it began.
        last.end = last.start if last.start is not None and when.seconds < last.start.seconds else when
        last.implied = last.implied or implied


def _contribute(contribution: Contribution, send: list[Id], recv: list[Id], now: Time) -> None:
    entry = (now.seconds, tuple(i.key for i in send), tuple(i.key for i in recv))
    if not contribution.history or contribution.history[-1][1:] != entry[1:]:
        contribution.history.append(entry)
        del contribution.history[:-_MAX_HISTORY]
    contribution.send, contribution.recv = send, recv
