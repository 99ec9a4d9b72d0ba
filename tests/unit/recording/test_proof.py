"""How a proof of recording is judged."""

from __future__ import annotations

import msgspec
import pytest

from siprec.recording.proof import Begun, Pause, Proof, Refusal, Session, StreamProof, assess, encoded

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
        end_reason="bye",
        sessions=list(sessions),
    )
    for name, value in more.items():
        setattr(found, name, value)
    assess(found)
    return found


def session(start: float = 100.2, end: float = 160.1, **more: object) -> Session:
    return Session(server=SRS, callid="rs", start=start, end=end, **more)  # type: ignore[arg-type]


def stream(**more: object) -> StreamProof:
    values: dict[str, object] = {
        "received": 3000,
        "forked": 3000,
        "reports": 12,
        "srs_lost": 0,
        "lost_before": 0,
        "report_age": 2.0,
        "report_interval": 5.0,
    }
    return StreamProof(party="caller", kind="audio", **(values | more))  # type: ignore[arg-type]


def silent_srs(**more: object) -> StreamProof:
    return stream(**({"reports": 0, "srs_lost": None, "report_age": 0.0, "report_interval": 0.0} | more))


def test_a_call_recorded_from_answer_to_end_and_confirmed_is_complete() -> None:
    found = proof(session(), streams=[stream(), stream(report_age=0.1)])
    assert (found.verdict, found.reasons, found.confirmed) == ("complete", [], True)
    assert found.notes == ["caller audio: the last 2.0 s are after the SRS's last report"]


@pytest.mark.parametrize(
    ("lacks", "reason"),
    [
        (silent_srs(), "caller audio: the SRS has reported nothing of what it received"),
        (stream(report_age=11.0), "caller audio: the SRS's last report came 11.0 s before the end"),
        (stream(declined=["G729"]), "caller audio: the SRS does not take G729"),
        (stream(received=0, forked=0, silent=2.0), "caller audio: nothing came of it in 2.0 s"),
        (stream(received=None, forked=None), "caller audio: there are no counters of the media server"),
        (
            stream(received=None, forked=None, ended=True),
            "caller audio: it ended in mid-call, and its packets were not counted",
        ),
    ],
    ids=["silent SRS", "reports stopped", "declined codec", "nothing came, shortly", "no counters", "ended"],
)
def test_what_nobody_confirmed_is_unconfirmed_or_partial_where_the_profile_requires_it(
    lacks: StreamProof, reason: str
) -> None:
    found = proof(session(), streams=[stream(report_age=0.0), lacks])
    assert (found.verdict, found.reasons) == ("unconfirmed", [reason])
    strict = proof(session(), streams=[stream(report_age=0.0), lacks], confirm="required")
    assert (strict.verdict, strict.reasons) == ("partial", [reason])


def test_a_slow_reporter_is_given_one_and_a_half_of_its_own_intervals() -> None:
    assert proof(session(), streams=[stream(report_age=14.0, report_interval=10.0)]).verdict == "complete"
    assert proof(session(), streams=[stream(report_age=16.0, report_interval=10.0)]).verdict == "unconfirmed"


def test_the_srs_s_own_count_confirms_without_any_report() -> None:
    found = proof(session(stored="complete"), streams=[silent_srs(srs_packets=3001)])
    assert (found.verdict, found.confirmed, found.notes) == ("complete", True, [])
    pending = proof(session(stored="pending"), streams=[silent_srs(srs_packets=3000)])
    assert (pending.verdict, pending.notes) == ("complete", [f"{SRS} was still writing when it answered"])


@pytest.mark.parametrize(
    ("lacks", "reason"),
    [
        (stream(srs_packets=2990), "caller audio: 10 of 3000 packets did not reach the SRS"),
        (stream(srs_lost=9, lost_before=7), "caller audio: the SRS misses 2 packets"),
        (stream(uncopied=5), "caller audio: 5 packets came while nothing was copied"),
        (stream(forked=0), "caller audio: nothing of 3000 packets was copied"),
        (stream(dropped={"congested": 3, "rtcp-send": 9}), "caller audio: 3 packets dropped (congested)"),
        (stream(waiting=4), "caller audio: 4 packets were kept for the SRS and not sent"),
        (stream(refused=4), "caller audio: the SRS refused the stream for 4 packets"),
        (stream(withheld=4), "caller audio: the SRS wanted nothing of 4 packets (inactive)"),
        (
            stream(behind=400),
            "caller audio: the SRS knows nothing of the last 400 packets before its last report",
        ),
        (
            stream(srs_packets=3000, undecoded=20, declined=["G729"]),
            "caller audio: 20 packets are not decodable by the SRS (G729)",
        ),
        (stream(srs_packets=3000, unwritten=20), "caller audio: the SRS did not write 20 packets"),
        (stream(received=0, forked=0, silent=58.0), "caller audio: nothing came of it in 58 s"),
    ],
)
def test_what_is_missing_makes_a_recording_partial_and_is_named(lacks: StreamProof, reason: str) -> None:
    found = proof(session(), streams=[stream(report_age=0.0), lacks])
    assert found.verdict == "partial"
    assert reason in found.reasons


def test_a_pause_is_no_loss() -> None:
    paused = [Pause(start=110.0, end=130.0, by="api: agent")]
    found = proof(session(), streams=[stream(received=3000, forked=2000, withheld=1000, report_age=0.0)], pauses=paused)
    assert (found.verdict, found.reasons) == ("complete", [])
    assert found.notes == ["paused by api: agent for 20.0 s"]
    whole = stream(received=3000, forked=0, withheld=3000, reports=0, report_age=0.0)
    assert proof(session(), streams=[whole], pauses=[Pause(start=100.0)]).verdict == "complete"


def test_a_late_srs_leaves_no_hole_where_the_packets_prove_that_the_media_were_kept() -> None:
    found = proof(session(start=105.0), streams=[stream()])
    assert found.verdict == "complete"
    assert [(gap.start, gap.end, gap.kept) for gap in found.gaps] == [(100.0, 105.0, True)]


@pytest.mark.parametrize(
    ("lacks", "reason"),
    [
        (stream(forked=None), "no recording session for 5.0 s, 0.0 s after the answer"),
        (stream(dropped={"preroll": 40}), "caller audio: 40 packets dropped (preroll)"),
        (stream(uncopied=40), "no recording session for 5.0 s, 0.0 s after the answer"),
    ],
    ids=["not counted", "pre-roll too short", "forked against received"],
)
def test_a_late_srs_leaves_a_hole_where_they_were_not(lacks: StreamProof, reason: str) -> None:
    found = proof(session(start=105.0), streams=[lacks])
    assert found.verdict == "partial"
    assert reason in found.reasons
    assert not found.gaps[0].kept


def test_a_hole_in_the_middle_is_not_kept_because_the_rest_is_there() -> None:
    """151 s between two sessions, of which the second alone is counted without a fault."""
    found = proof(
        session(end=105.0, reason="stopped by api"),
        session(start=256.0, end=300.0),
        ended=300.0,
        streams=[stream(uncopied=7550)],
    )
    assert found.verdict == "partial"
    assert "no recording session for 151.0 s, 5.0 s after the answer (stopped by api)" in found.reasons


def test_a_short_hole_is_unknown_where_nobody_counts() -> None:
    found = proof(session(start=102.0), streams=[stream(forked=None, srs_packets=3000)])
    assert found.verdict == "unconfirmed"
    assert found.reasons == ["whether 2.0 s without a recording session were kept is unknown, 0.0 s in"]


def test_a_media_server_that_does_not_count_leaves_it_to_the_srs() -> None:
    uncounted: dict[str, object] = {"forked": None, "reports": None, "srs_lost": None, "lost_before": None}
    assert proof(session(), streams=[stream(**uncounted)]).verdict == "unconfirmed"
    assert proof(session(), streams=[stream(srs_packets=2990, **uncounted)]).verdict == "unconfirmed"
    assert proof(session(), streams=[stream(srs_packets=3000, **uncounted)]).verdict == "complete"


@pytest.mark.parametrize(
    ("end", "verdict", "word"),
    [("shutdown", "partial", "goes on unrecorded"), ("idle", "partial", "idle"), ("expired", "unconfirmed", "timer")],
)
def test_a_call_that_may_go_on_is_not_complete(end: str, verdict: str, word: str) -> None:
    found = proof(session(), streams=[stream()], end_reason=end)
    assert found.verdict == verdict
    assert word in found.reasons[0]


def test_an_srs_that_was_lost_or_hung_up_early_leaves_a_partial_recording() -> None:
    lost = proof(session(end=120.0, lost=True, status=408, reason="timeout"), session(start=120.5), streams=[stream()])
    assert lost.reasons == [f"{SRS} was lost: 408 timeout"]
    early = proof(session(end=130.0), streams=[stream()])
    assert early.reasons == ["no recording session for 30.0 s, 30.0 s after the answer"]


def test_an_srs_whose_disk_refused_and_a_lost_media_server_are_named() -> None:
    failed = proof(session(stored="failed"), streams=[stream(srs_packets=3000)])
    assert failed.reasons == [f"{SRS} could not write all of the recording"]
    moved = proof(session(), streams=[stream()], incidents=["the media server of the call was lost"])
    assert (moved.verdict, moved.reasons) == ("partial", ["the media server of the call was lost"])


def test_why_there_was_no_recording_is_said() -> None:
    refusals = [Refusal(at=101.0, server=SRS, status=486, reason="Busy Here")]
    assert proof(refusals=refusals).reasons == [f"{SRS}: 486 Busy Here"]
    assert proof(refusals=[Refusal(at=1.0, reason="no media server")]).reasons == ["no media server"]
    assert proof().reasons == ["no recording session was set up"]
    assert proof().verdict == "none"


def test_a_proof_is_written_whatever_octets_the_parties_used() -> None:
    begun = Begun(
        dlg_id="1.1", call_id="c\udcff", instance="default", caller="sip:\udce4@x", callee="sip:é@x", answered=1.5
    )
    line = msgspec.json.decode(encoded(begun))
    assert (line["type"], line["call_id"], line["caller"], line["callee"]) == (
        "begin",
        "c\ufffd",
        "sip:\ufffd@x",
        "sip:é@x",
    )
    whole = proof(session())
    whole.reasons = ["\udcff"]
    assert msgspec.json.decode(encoded(whole))["reasons"] == ["\ufffd"]
