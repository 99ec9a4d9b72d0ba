"""How a proof of recording is judged."""

from __future__ import annotations

import pytest

from siprec.recording.verdict import Pause, Proof, Refusal, Session, StreamProof, judge

SRS = "sip:srs.test"


def proof(*sessions: Session, **more: object) -> Proof:
    found = Proof(
        dlg_id="1.1",
        call_id="c",
        instance="default",
        caller="sip:a@x",
        callee="sip:b@x",
        answered=100.0,
        ended=160.0,
        sessions=list(sessions),
    )
    for name, value in more.items():
        setattr(found, name, value)
    judge(found)
    return found


def session(start: float = 100.2, end: float = 160.1, **more: object) -> Session:
    return Session(server=SRS, callid="rs", start=start, end=end, **more)  # type: ignore[arg-type]


def stream(**more: object) -> StreamProof:
    values: dict[str, object] = {"received": 3000, "forked": 3000, "reports": 12, "srs_lost": 0, "lost_before": 0}
    return StreamProof(party="caller", kind="audio", **(values | more))  # type: ignore[arg-type]


def test_a_call_recorded_from_answer_to_end_is_complete() -> None:
    found = proof(session(), streams=[stream(), stream()])
    assert (found.verdict, found.reasons, found.confirmed) == ("complete", [], True)


def test_an_srs_that_never_reported_has_confirmed_nothing() -> None:
    found = proof(session(), streams=[stream(), stream(reports=0, srs_lost=None)])
    assert (found.verdict, found.confirmed) == ("complete", False)


def test_a_late_srs_leaves_no_hole_where_the_media_were_kept() -> None:
    found = proof(session(start=105.0), streams=[stream()])
    assert found.verdict == "complete"
    assert [(gap.start, gap.end, gap.kept) for gap in found.gaps] == [(100.0, 105.0, True)]


@pytest.mark.parametrize(
    ("streams", "reason"),
    [
        ([stream(forked=None)], "no recording session for 5.0 s, 0.0 s after the answer"),
        ([stream(dropped={"preroll": 40})], "caller audio: 40 packets dropped (preroll)"),
    ],
    ids=["not counted", "pre-roll too short"],
)
def test_a_late_srs_leaves_a_hole_where_they_were_not(streams: list[StreamProof], reason: str) -> None:
    found = proof(session(start=105.0), streams=streams)
    assert found.verdict == "partial"
    assert reason in found.reasons


def test_packets_that_the_srs_misses_are_told_from_those_that_never_came() -> None:
    assert proof(session(), streams=[stream(srs_lost=7, lost_before=7)]).verdict == "complete"
    found = proof(session(), streams=[stream(srs_lost=9, lost_before=7)])
    assert found.reasons == ["caller audio: the SRS misses 2 packets"]


def test_an_srs_that_was_lost_or_hung_up_early_leaves_a_partial_recording() -> None:
    lost = proof(session(end=120.0, lost=True, status=408, reason="timeout"), session(start=120.5), streams=[stream()])
    assert lost.reasons == [f"{SRS} was lost: 408 timeout"]
    early = proof(session(end=130.0), streams=[stream()])
    assert early.reasons == ["no recording session for 30.0 s, 30.0 s after the answer"]


def test_a_stream_of_which_nothing_was_copied_is_named_unless_it_was_paused() -> None:
    nothing = stream(forked=0, reports=0)
    assert proof(session(), streams=[stream(), nothing]).reasons == ["caller audio: nothing of 3000 packets was copied"]
    assert proof(session(), streams=[nothing], pauses=[Pause(start=100.0, end=160.0)]).verdict == "complete"


def test_why_there_was_no_recording_is_said() -> None:
    refusals = [Refusal(at=101.0, server=SRS, status=486, reason="Busy Here")]
    assert proof(refusals=refusals).reasons == [f"{SRS}: 486 Busy Here"]
    assert proof(refusals=[Refusal(at=1.0, reason="no media server")]).reasons == ["no media server"]
    assert proof().reasons == ["no recording session was set up"]
    assert proof().verdict == "none"
