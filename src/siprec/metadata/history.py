"""What a recording session's metadata said of each element over time."""

from __future__ import annotations

from dataclasses import dataclass, field

from siprec.metadata.document import Extension, NameId, Reason
from siprec.metadata.values import Id, rfc3339


@dataclass(slots=True)
class Interval:
    """From `start` (seconds since the epoch; None: not told) to `end` (None: open). `implied` times are ours, taken
    from the arrival of a message."""

    start: float | None
    end: float | None = None
    implied: bool = False

    def as_dict(self) -> dict[str, object]:
        """For the JSON."""
        out: dict[str, object] = {
            "from": rfc3339(self.start) if self.start is not None else None,
            "to": rfc3339(self.end) if self.end is not None else None,
        }
        if self.implied:
            out["implied"] = True
        return out


@dataclass(slots=True)
class Element:
    """What all elements have. `placeholder`: referred to, but not described so far."""

    id: Id
    current: bool = True
    placeholder: bool = False
    extensions: tuple[Extension, ...] = ()


@dataclass(slots=True)
class GroupHistory(Element):
    intervals: list[Interval] = field(default_factory=list)


@dataclass(slots=True)
class SessionHistory(Element):
    sip_session_ids: tuple[str, ...] = ()
    reasons: tuple[Reason, ...] = ()
    group_ref: Id | None = None
    start_time: float | None = None
    stop_time: float | None = None
    recorded: list[Interval] = field(default_factory=list)

    @property
    def live(self) -> bool:
        """Neither stopped nor dropped out of a snapshot nor detached from the recording session."""
        return self.current and self.stop_time is None and not (self.recorded and self.recorded[-1].end is not None)


@dataclass(slots=True)
class ParticipantHistory(Element):
    name_ids: tuple[NameId, ...] = ()


@dataclass(slots=True)
class StreamHistory(Element):
    """`line` is the m-line index its label meant when it was announced; None if it could not be resolved."""

    session_id: Id | None = None
    label: str | None = None
    line: int | None = None


@dataclass(slots=True)
class ParticipantSessionHistory:
    """A participant in a session."""

    participant_id: Id
    session_id: Id
    intervals: list[Interval] = field(default_factory=list)
    params: tuple[tuple[str, str], ...] = ()

    @property
    def present(self) -> bool:
        return bool(self.intervals) and self.intervals[-1].end is None


@dataclass(slots=True)
class ParticipantStreamHistory:
    """Which streams a participant feeds and hears, now and before: `history` holds arrival time, send and recv."""

    participant_id: Id
    send: tuple[str, ...] = ()
    recv: tuple[str, ...] = ()
    intervals: list[Interval] = field(default_factory=list)
    history: list[tuple[float, tuple[str, ...], tuple[str, ...]]] = field(default_factory=list)
