"""What a proof of recording says of one call, and how it is judged: plain values, no I/O."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

import msgspec

Verdict = Literal["complete", "partial", "none"]
KEPT: Final = 3.0
"""Seconds without a recording session that count as a gap where the media server does not count its copies."""


class Session(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One recording session dialog that was established. `lost`: it broke down, it was not ended."""

    server: str
    callid: str
    start: float
    end: float | None = None
    reason: str = ""
    status: int = 0
    lost: bool = False


class Refusal(msgspec.Struct, kw_only=True, omit_defaults=True):
    """An SRS that did not take the recording, or why there was none at all (`server` empty)."""

    at: float
    reason: str
    server: str = ""
    status: int = 0


class Pause(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Media withheld from `start` to `end`; `by` says who asked, as far as it was said."""

    start: float
    end: float | None = None
    by: str = ""
    resumed_by: str = ""


class Gap(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Time within the call without a recording session. `kept`: the media of it were sent afterwards (pre-roll)."""

    start: float
    end: float
    kept: bool = False


class StreamProof(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One m-line of one party: packets that came from it, that were copied, that the SRS says it misses.

    None: this media server does not count it. `reports`: receiver reports of the SRS. `srtp`: it went encrypted.
    """

    party: str
    kind: str
    label: str = ""
    srtp: bool = False
    received: int = 0
    lost_before: int | None = None
    forked: int | None = None
    dropped: dict[str, int] = {}
    reports: int | None = None
    srs_lost: int | None = None


class Proof(msgspec.Struct, kw_only=True, tag_field="type", tag="end"):
    """What became of a recording that was wanted. Times are seconds since the epoch.

    `verdict`: ``complete``; ``partial``, and `reasons` say what is missing; ``none``. `confirmed`: the SRS reported on
    every stream that was sent to it. `ignored`: settings of a script that could not be used.
    """

    dlg_id: str
    call_id: str
    instance: str
    caller: str
    callee: str
    session_id: str = ""
    srs: list[str] = []
    answered: float
    ended: float = 0.0
    end_reason: str = ""
    verdict: Verdict = "none"
    confirmed: bool = False
    reasons: list[str] = []
    sessions: list[Session] = []
    refusals: list[Refusal] = []
    ignored: list[str] = []
    pauses: list[Pause] = []
    gaps: list[Gap] = []
    streams: list[StreamProof] = []


class Begun(msgspec.Struct, kw_only=True, tag_field="type", tag="begin"):
    """A call that is to be recorded was answered."""

    dlg_id: str
    call_id: str
    instance: str
    caller: str
    callee: str
    answered: float


Line = Begun | Proof


def judge(proof: Proof) -> None:
    """Find the gaps, and say whether the call was recorded wholly; fills `gaps`, `verdict`, `confirmed`, `reasons`."""
    counted = bool(proof.streams) and all(stream.forked is not None for stream in proof.streams)
    missing = {reason: number for stream in proof.streams for reason, number in stream.dropped.items() if number}
    missing = {reason: number for reason, number in missing.items() if not reason.startswith("rtcp-")}
    proof.gaps = list(_gaps(proof, counted and not missing))
    sent = [stream for stream in proof.streams if stream.forked]
    proof.confirmed = bool(sent) and all(stream.reports for stream in sent)
    reasons: list[str] = []
    if not proof.sessions:
        proof.verdict = "none"
        last = proof.refusals[-1] if proof.refusals else None
        reasons.append(_why(last) if last is not None else "no recording session was set up")
        proof.reasons = reasons
        return
    lost = [session for session in proof.sessions if session.lost]
    reasons += [f"{session.server} was lost: {_status(session.status, session.reason)}" for session in lost]
    for gap in proof.gaps:
        if not gap.kept:
            at = max(0.0, gap.start - proof.answered)
            reasons.append(f"no recording session for {gap.end - gap.start:.1f} s, {at:.1f} s after the answer")
    for stream in proof.streams:
        name = f"{stream.party or '?'} {stream.kind}"
        reasons += [f"{name}: {number} packets dropped ({reason})" for reason, number in _dropped(stream)]
        if stream.srs_lost is not None and stream.srs_lost > (stream.lost_before or 0):
            reasons.append(f"{name}: the SRS misses {stream.srs_lost - (stream.lost_before or 0)} packets")
        if stream.forked == 0 and stream.received and not proof.pauses:
            reasons.append(f"{name}: nothing of {stream.received} packets was copied")
    proof.verdict = "partial" if reasons else "complete"
    proof.reasons = reasons


def _dropped(stream: StreamProof) -> list[tuple[str, int]]:
    return [(reason, number) for reason, number in stream.dropped.items() if number and not reason.startswith("rtcp-")]


def _gaps(proof: Proof, kept: bool) -> Iterator[Gap]:
    at = proof.answered
    for session in proof.sessions:
        if session.start - at > (0.0 if kept else KEPT):
            yield Gap(start=at, end=session.start, kept=kept)
        at = session.end if session.end is not None else proof.ended
    # The BYE to the SRS follows the end of the call; before it there was time for nothing else.
    if proof.sessions and proof.ended - at > 0.5:
        yield Gap(start=at, end=proof.ended)


def _why(refusal: Refusal) -> str:
    return f"{refusal.server}: {_status(refusal.status, refusal.reason)}" if refusal.server else refusal.reason


def _status(status: int, reason: str) -> str:
    return f"{status or ''} {reason}".strip()
