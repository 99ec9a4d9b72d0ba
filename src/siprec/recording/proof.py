"""What a proof of recording says of one call, and how it is judged: plain values, no I/O.

docs/proof.md has the rules as a table.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Literal

import msgspec

from siprec.recording.events import ENDED_BY_SRS

Verdict = Literal["complete", "unconfirmed", "partial", "none"]
Confirm = Literal["required", "if-available"]
VERSION: Final = 2
"""Of the lines. What a process of before wrote as ``complete`` needed no confirmation by the SRS."""
KEPT: Final = 3.0
"""Seconds without a recording session that count as a gap where the media server does not count its copies."""
REPORT_INTERVAL: Final = 7.5
"""Longest usual time between two receiver reports (RFC 3550 6.3.1: 5 s, randomised): so long a tail is tolerated."""
SILENT: Final = 5.0
"""Seconds after which a stream that could flow, and of which nothing came, is missing."""


class Session(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """One recording session dialog that was established. `lost`: it broke down, it was not ended. `stored`: what the
    SRS said at the end of what it received (``complete``, ``pending``, ``failed``), where it says so."""

    server: str
    callid: str
    start: float
    end: float | None = None
    reason: str = ""
    status: int = 0
    lost: bool = False
    stored: str = ""


class Refusal(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """An SRS that did not take the recording, or why there was none at all (`server` empty)."""

    at: float
    reason: str
    server: str = ""
    status: int = 0


class Pause(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """Media withheld from `start` to `end`; `by` says who asked, as far as it was said."""

    start: float
    end: float | None = None
    by: str = ""
    resumed_by: str = ""


class Gap(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """Time within the call without a recording session.

    `kept`: the media of it were sent afterwards (pre-roll), as the packets prove. `unknown`: it is too short to matter
    where the media server does not count, or there are no counters. `why`: the end of the session before it.
    """

    start: float
    end: float
    kept: bool = False
    unknown: bool = False
    why: str = ""


class StreamProof(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """One m-line of one party. Packets; None: nobody counted them.

    Of the media server: `received` from the party (without what came before the recording was wanted), `lost_before`
    missing among them; `forked` copied to the SRS, `withheld` in pauses, `refused` while the SRS refused the stream,
    `waiting` kept for the SRS and not sent, `uncopied` that came while nothing was copied, `dropped` by reason.
    Of the SRS's receiver reports: `reports` on what it was sent, `srs_lost` packets that it misses, `report_age`
    seconds from the last one to the end, `report_interval` between two, `behind` packets that the last one knew
    nothing of. Of what the SRS said itself at the end: `srs_packets` came to it, `undecoded`, `unwritten` of them.
    `declined`: codecs of the call that it does not take. `ended`: in mid-call, with its counters. `silent`: seconds in
    which the stream could flow and nothing came. `srtp`: it went encrypted.
    """

    party: str
    kind: str
    label: str = ""
    srtp: bool = False
    received: int | None = None
    lost_before: int | None = None
    forked: int | None = None
    withheld: int = 0
    refused: int = 0
    waiting: int = 0
    uncopied: int = 0
    dropped: dict[str, int] = {}
    reports: int | None = None
    srs_lost: int | None = None
    report_age: float = 0.0
    report_interval: float = 0.0
    behind: int = 0
    srs_packets: int | None = None
    undecoded: int = 0
    unwritten: int = 0
    declined: list[str] = []
    ended: bool = False
    silent: float = 0.0


class Proof(msgspec.Struct, kw_only=True, tag_field="type", tag="end", gc=False):
    """What became of a recording that was wanted. Times are seconds since the epoch.

    `verdict`: ``complete``; ``unconfirmed``: nothing is known to be missing, but nobody says that it arrived;
    ``partial``; ``none``. `reasons` say why it is not ``complete``, `notes` what is tolerated. `confirmed`: the SRS
    said of every stream that it arrived. `wanted_by`: the route, script, API client or SRS that asked for it.
    """

    dlg_id: str
    call_id: str
    instance: str
    caller: str
    callee: str
    version: int = 1
    session_id: str = ""
    srs: list[str] = []
    wanted_by: str = ""
    confirm: Confirm = "if-available"
    answered: float
    ended: float = 0.0
    end_reason: str = ""
    verdict: Verdict = "none"
    confirmed: bool = False
    reasons: list[str] = []
    notes: list[str] = []
    sessions: list[Session] = []
    refusals: list[Refusal] = []
    pauses: list[Pause] = []
    gaps: list[Gap] = []
    streams: list[StreamProof] = []
    ignored: list[str] = []
    """Settings of a script that could not be used."""
    incidents: list[str] = []
    """What happened to the call that its recording cannot be whole after."""


class Begun(msgspec.Struct, kw_only=True, tag_field="type", tag="begin", gc=False):
    """A call that is to be recorded was answered."""

    dlg_id: str
    call_id: str
    instance: str
    caller: str
    callee: str
    answered: float


Line = Begun | Proof


_encoder = msgspec.json.Encoder()


def encoded(line: Line) -> bytes:
    """A line of the proof as JSON. What strangers wrote need not be UTF-8: such octets become U+FFFD."""
    try:
        return _encoder.encode(line)
    except UnicodeEncodeError:
        return _encoder.encode(_valid(msgspec.to_builtins(line)))


def _valid(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if isinstance(value, dict):
        return {key: _valid(each) for key, each in value.items()}
    return [_valid(each) for each in value] if isinstance(value, list) else value


ENDS: Final = {
    "shutdown": "the call goes on unrecorded: siprec serve ended",
    "idle": "the call was given up as idle, without a BYE: it may go on unrecorded",
}
"""Ends of a call that are the end of its recording, but not of what the parties say."""
UNSURE: Final = {
    "expired": "the session timer of the call ran out, without a BYE",
    "abandoned": "the call was given up without a BYE",
    "timeout": "the call was given up without a BYE",
}
"""Ends that leave open whether the parties went on."""


def assess(proof: Proof) -> None:
    """Find the gaps, and say whether the call was recorded wholly; fills `gaps`, `verdict`, `confirmed`, `reasons` and
    `notes`."""
    proof.notes, proof.confirmed, proof.gaps = [], False, []
    if not proof.sessions:
        last = proof.refusals[-1] if proof.refusals else None
        proof.verdict = "none"
        proof.reasons = [_why(last) if last is not None else "no recording session was set up"]
        return
    lasting, counted, kept = False, True, True
    for stream in proof.streams:
        if not stream.ended:
            lasting, counted = True, counted and stream.forked is not None
        if stream.dropped or stream.uncopied or stream.waiting:
            kept = kept and not _missing(stream)
    counted = lasting and counted
    kept = counted and kept
    proof.gaps = list(_gaps(proof, kept=kept, counted=counted))
    missing = list(_incomplete(proof))
    doubts = list(_doubts(proof))
    sent = [stream for stream in proof.streams if stream.forked or (stream.forked is None and stream.received)]
    proof.confirmed = bool(sent) and all(not _doubt(stream, proof) for stream in sent)
    if proof.confirm == "required" and doubts:
        missing, doubts = missing + doubts, []
    proof.verdict = "partial" if missing else "unconfirmed" if doubts else "complete"
    proof.reasons = missing + doubts
    proof.notes = list(_notes(proof))


# -- what is missing ---------------------------------------------------------------------------------------------------


def _incomplete(proof: Proof) -> Iterator[str]:
    yield from proof.incidents
    for session in proof.sessions:
        if session.lost:
            yield f"{session.server} was lost: {_status(session.status, session.reason)}"
        elif session.reason.startswith(ENDED_BY_SRS) and not session.status:
            yield f"{session.server}: {session.reason}"
        if session.stored == "failed":
            yield f"{session.server} could not write all of the recording"
    for gap in proof.gaps:
        if not gap.kept and not gap.unknown:
            at = max(0.0, gap.start - proof.answered)
            why = f" ({gap.why})" if gap.why else ""
            yield f"no recording session for {gap.end - gap.start:.1f} s, {at:.1f} s after the answer{why}"
    for stream in proof.streams:
        if stream.dropped:
            for reason, number in _dropped(stream):
                yield f"{_name(stream)}: {number} packets dropped ({reason})"
        for text in _lacking(stream, proof):
            yield f"{_name(stream)}: {text}"
    if proof.end_reason in ENDS:
        yield ENDS[proof.end_reason]


def _lacking(stream: StreamProof, proof: Proof) -> Iterator[str]:
    if stream.refused:
        yield f"the SRS refused the stream for {stream.refused} packets"
    if stream.withheld and not proof.pauses:
        yield f"the SRS wanted nothing of {stream.withheld} packets (inactive)"
    if stream.uncopied:
        yield f"{stream.uncopied} packets came while nothing was copied"
    elif stream.forked == 0 and stream.received and not (stream.withheld or stream.waiting or stream.refused):
        yield f"nothing of {stream.received} packets was copied"
    if stream.waiting and not _counted_by_srs(stream):
        yield f"{stream.waiting} packets were kept for the SRS and not sent"
    if stream.srs_lost is not None and stream.srs_lost > (stream.lost_before or 0):
        yield f"the SRS misses {stream.srs_lost - (stream.lost_before or 0)} packets"
    if stream.forked is not None and stream.srs_packets is not None and stream.srs_packets < stream.forked:
        yield f"{stream.forked - stream.srs_packets} of {stream.forked} packets did not reach the SRS"
    elif stream.srs_packets is None and stream.behind and stream.behind > _second(stream, proof):
        yield f"the SRS knows nothing of the last {stream.behind} packets before its last report"
    if stream.undecoded:
        codecs = f" ({', '.join(stream.declined)})" if stream.declined else ""
        yield f"{stream.undecoded} packets are not decodable by the SRS{codecs}"
    if stream.unwritten:
        yield f"the SRS did not write {stream.unwritten} packets"
    if stream.received == 0 and stream.silent >= SILENT:
        yield f"nothing came of it in {stream.silent:.0f} s"


def _missing(stream: StreamProof) -> bool:
    return bool(_dropped(stream) or stream.uncopied or stream.waiting)


def _dropped(stream: StreamProof) -> list[tuple[str, int]]:
    return [(reason, number) for reason, number in stream.dropped.items() if number and not reason.startswith("rtcp-")]


def _second(stream: StreamProof, proof: Proof) -> float:
    """Packets of two seconds, and a few: what may be under way when a report is made."""
    return 10 + 2 * (stream.forked or 0) / max(1.0, proof.ended - proof.answered)


# -- what nobody confirmed ---------------------------------------------------------------------------------------------


def _doubts(proof: Proof) -> Iterator[str]:
    for gap in proof.gaps:
        if gap.unknown:
            at = max(0.0, gap.start - proof.answered)
            yield f"whether {gap.end - gap.start:.1f} s without a recording session were kept is unknown, {at:.1f} s in"
    if proof.end_reason in UNSURE:
        yield UNSURE[proof.end_reason]
    if not proof.streams:
        yield "there are no counters of the media server"
    for stream in proof.streams:
        doubt = _doubt(stream, proof)
        if doubt:
            yield f"{_name(stream)}: {doubt}"
        if stream.declined and stream.srs_packets is None:
            yield f"{_name(stream)}: the SRS does not take {', '.join(stream.declined)}"


def _doubt(stream: StreamProof, proof: Proof) -> str:
    """Why it is not sure that all of a stream has arrived; empty: it is."""
    if stream.ended and stream.forked is None:
        return "it ended in mid-call, and its packets were not counted"
    if stream.received is None and stream.srs_packets is None:
        return "there are no counters of the media server"
    if stream.received == 0 and not stream.forked:
        return f"nothing came of it in {stream.silent:.1f} s" if 0 < stream.silent < SILENT else ""
    if stream.forked is None:
        if stream.srs_packets is None:
            return "the media server does not count its copies, and the SRS does not tell what it received"
        if stream.received is not None and stream.srs_packets < stream.received:
            return f"the SRS received {stream.srs_packets} of the {stream.received} packets that the media server did"
        return ""
    if not stream.forked or _counted_by_srs(stream):
        return ""
    if not stream.reports:
        return "the SRS has reported nothing of what it received"
    if stream.report_age > _tail(stream):
        return f"the SRS's last report came {stream.report_age:.1f} s before the end"
    return ""


def _counted_by_srs(stream: StreamProof) -> bool:
    return stream.srs_packets is not None and stream.srs_packets >= (stream.forked or 0) + stream.waiting


def _tail(stream: StreamProof) -> float:
    return max(REPORT_INTERVAL, 1.5 * stream.report_interval)


def _notes(proof: Proof) -> Iterator[str]:
    for stream in proof.streams:
        if (
            stream.forked
            and stream.reports
            and not _counted_by_srs(stream)
            and 0.5 < stream.report_age <= _tail(stream)
        ):
            yield f"{_name(stream)}: the last {stream.report_age:.1f} s are after the SRS's last report"
    for session in proof.sessions:
        if session.stored == "pending":
            yield f"{session.server} was still writing when it answered"
    for pause in proof.pauses:
        end = pause.end if pause.end is not None else proof.ended
        by = f" by {pause.by}" if pause.by else ""
        yield f"paused{by} for {max(0.0, end - pause.start):.1f} s"


# -- gaps --------------------------------------------------------------------------------------------------------------


def _gaps(proof: Proof, *, kept: bool, counted: bool) -> Iterator[Gap]:
    at, why = proof.answered, ""
    for session in proof.sessions:
        length = session.start - at
        if length > (0.0 if counted else 0.5):
            yield Gap(start=at, end=session.start, kept=kept, unknown=not counted and length <= KEPT, why=why)
        at = session.end if session.end is not None else proof.ended
        why = _status(session.status, session.reason)
    # The BYE to the SRS follows the end of the call; before it there was time for nothing else.
    if proof.ended - at > 0.5:
        yield Gap(start=at, end=proof.ended, why=why)


def _name(stream: StreamProof) -> str:
    return f"{stream.party or '?'} {stream.kind}"


def _why(refusal: Refusal) -> str:
    return f"{refusal.server}: {_status(refusal.status, refusal.reason)}" if refusal.server else refusal.reason


def _status(status: int, reason: str) -> str:
    return f"{status or ''} {reason}".strip()
