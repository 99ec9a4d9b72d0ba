"""Several communication sessions in one recording session: each is a recording of its own (SCN-01, SCN-04)."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from siprec.audio.codecs import codec
from siprec.audio.melody import callee_melody, caller_melody, matches, to_int16
from siprec.audio.packets import packets
from siprec.metadata.values import NAMESPACE
from siprec.recorder.errors import RecorderFull
from siprec.recorder.recording_result import RecordingResult
from siprec.recorder.settings import RecorderSettings
from tests.unit.recorder.recorder_harness import Bench, read

PCMU = codec("PCMU", 8000)
RATE = 8000
Open = Callable[..., Bench]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Open]:
    made: list[Bench] = []

    def make(**settings: Any) -> Bench:
        made.append(Bench(tmp_path / "rec", RecorderSettings(**settings)))
        return made[-1]

    yield make
    for each in made:
        each.close()


def ident(*parts: object) -> str:
    return base64.b64encode("-".join(map(str, parts)).encode().ljust(16, b"\0")[:16]).decode()


def session(name: str, labels: Sequence[str] = (), stop: bool = False) -> str:
    """What there is to say about a call: two parties, each feeding one stream."""
    times = "<stop-time>2026-03-02T09:20:00Z</stop-time>" if stop else ""
    start = "" if stop else "<start-time>2026-03-02T09:14:58Z</start-time>"
    one = [f'<session session_id="{ident(name)}">{start}{times}</session>']
    if stop:
        return one[0]
    parties = [(number, ident(name, "p", number), ident(name, "s", number)) for number in (1, 2)]
    for number, party, _ in parties:
        one += [f'<participant participant_id="{party}"><nameID aor="sip:{name}{number}@example.com"/></participant>']
    for number, _, stream in parties:
        label = f"<label>{labels[number - 1]}</label>" if labels else ""
        one += [f'<stream stream_id="{stream}" session_id="{ident(name)}">{label}</stream>']
    for _, party, _ in parties:
        one += [f'<participantsessionassoc participant_id="{party}" session_id="{ident(name)}"/>']
    for _, party, stream in parties:
        one += [f'<participantstreamassoc participant_id="{party}"><send>{stream}</send></participantstreamassoc>']
    return "".join(one)


def document(*parts: str, mode: str = "partial") -> bytes:
    """`parts` one after the other: readers are tolerant of the order."""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><recording xmlns="{NAMESPACE}"><datamode>{mode}</datamode>'
        f"{''.join(parts)}</recording>"
    ).encode()


def sound(seed: int, seconds: float) -> tuple[Any, Any]:
    """Two tunes that are like nobody else's."""
    shift = 1 + 0.13 * seed
    one, two = caller_melody(seconds * shift, int(RATE / shift)), callee_melody(seconds * shift, int(RATE / shift))
    count = int(seconds * RATE)
    return to_int16(one[:count]), to_int16(two[:count])


def streams(pair: tuple[Any, Any], seed: int) -> list[Any]:
    return [packets(tune, PCMU, 0, ssrc=10 * seed + n) for n, tune in enumerate(pair)]


def of(b: Bench, name: str) -> RecordingResult:
    b.recorder.writer.call(lambda: None).result(timeout=60)
    found = b.library.find(session_id=ident(name))
    assert len(found) == 1, name
    return found[0]


def assert_is(result: RecordingResult, pair: tuple[Any, Any], others: Sequence[tuple[Any, Any]] = ()) -> None:
    mix = read(result.mix)
    for side, tune in enumerate(pair):
        assert matches(read(result.stream_file(side + 1))[:, 0], tune, RATE) > 0.98
        assert matches(mix[:, side], tune, RATE) > 0.98
        for other in others:
            assert all(matches(mix[:, side], wrong, RATE) < 0.5 for wrong in other)


def test_calls_join_and_leave_a_recording_session_and_each_is_recorded_by_itself(bench: Open) -> None:
    b = bench()
    a, c, d = sound(1, 4), sound(2, 4), sound(3, 4)
    b.offer(b.audio("1"), b.audio("2"), metadata=document(session("anna", ("1", "2")), mode="complete"))
    b.play(*(p[:100] for p in map(list, streams(a, 1))))
    four = [b.audio(str(n)) for n in (1, 2, 3, 4)]
    b.offer(*four, metadata=document(session("carl", ("3", "4"))))
    later = [[(at - 2.0, data) for at, data in p[100:]] for p in map(list, streams(a, 1))]
    b.play(*later, *streams(c, 2))
    # Anna's call ends: its lines go, the recording is finished while the other goes on.
    two = [b.audio("1", port=0), b.audio("2", port=0), *four[2:]]
    b.offer(*two, metadata=document(session("anna", stop=True)))
    b.wait(4)
    done = of(b, "anna")
    assert done.state == "complete"
    assert_is(done, a, [c])
    assert of(b, "carl").state == "recording"
    # The slots are used again.
    answer = b.offer(b.audio("1"), b.audio("2"), *four[2:], metadata=document(session("dora", ("1", "2"))))
    assert all(line.port for line in answer.media)
    b.play(*streams(d, 3))
    b.finish()
    results = {name: of(b, name) for name in ("anna", "carl", "dora")}
    assert all(r.state == "complete" for r in results.values())
    assert_is(results["carl"], c, [a, d])
    assert_is(results["dora"], d, [a, c])
    for name, result in results.items():
        names = [n["aor"] for p in result.summary["participants"] for n in p["names"]]
        assert names == [f"sip:{name}1@example.com", f"sip:{name}2@example.com"]
        assert [s["session_id"] for s in result.summary["communication_sessions"]] == [ident(name)]
        assert result.summary["mix"]["left"] == [1]
        assert result.summary["mix"]["right"] == [2]
        kept = "".join((result.directory / m["file"]).read_text() for m in result.summary["metadata"])
        others = {"anna", "carl", "dora"} - {name}
        assert name in kept
        assert not any(other + "1@" in kept for other in others)  # nobody else's names lie there
    assert results["carl"].summary["duration"] == pytest.approx(
        4, abs=0.5
    )  # no silence is written after the last sound
    assert results["anna"].summary["duration"] < 8.5
    assert b.pool.open == 0


def test_streams_of_a_persistent_session_wait_for_a_call_and_are_given_to_it_by_metadata_alone(bench: Open) -> None:
    b = bench()
    b.offer(b.audio("1"), b.audio("2"), metadata=document(mode="complete"))
    b.wait(3)
    assert not list(b.library.directories())
    first, second = sound(1, 3), sound(2, 3)
    for name, pair in (("anna", first), ("carl", second)):
        b.session.metadata(document(session(name, ("1", "2"))))
        b.play(*streams(pair, 1))  # the same sources: it is one endpoint all the time
        b.session.metadata(document(session(name, stop=True)))
        b.wait(4)
        assert of(b, name).state == "complete"
        assert not b.session.recordings
    b.finish()
    assert_is(of(b, "anna"), first, [second])
    assert_is(of(b, "carl"), second, [first])


def test_media_that_no_session_claims_are_a_recording_without_a_name(bench: Open) -> None:
    b = bench()
    nobody, first, second = sound(3, 3), sound(1, 3), sound(2, 3)
    b.offer(b.audio("1"), b.audio("2"), metadata=document(mode="complete"))
    b.play(*streams(nobody, 9))
    b.session.metadata(document(session("anna", ("1", "2"))))
    b.play(*streams(first, 1))
    b.session.metadata(document(session("anna", stop=True)))
    b.wait(1)
    b.play(*streams(sound(4, 0.5), 1))  # still on its way when the call was over
    b.wait(3)
    assert not b.session.recordings or [r.session for r in b.session.recordings] == [None]
    b.play(*streams(second, 2))
    b.finish()
    assert_is(of(b, "anna"), first, [nobody, second])
    unnamed = [r for r in b.library if not r.summary["communication_sessions"]]
    assert [r.state for r in unnamed] == ["complete", "complete"]
    assert_is(unnamed[-1], nobody, [first])
    assert_is(unnamed[0], second, [first])


def test_a_transfer_to_another_session_on_the_same_streams_divides_the_recording(bench: Open) -> None:
    b = bench()
    first, second = sound(1, 3), sound(2, 3)
    b.offer(b.audio("1"), b.audio("2"), metadata=document(session("anna", ("1", "2")), mode="complete"))
    b.play(*streams(first, 1))
    b.session.metadata(document(session("anna", stop=True) + session("carl", ("1", "2"))))
    b.play(*streams(second, 2))
    b.finish()
    assert_is(of(b, "anna"), first, [second])
    assert_is(of(b, "carl"), second, [first])


def test_a_session_that_a_snapshot_no_longer_has_is_over(bench: Open) -> None:
    b = bench()
    lines = [b.audio(str(n)) for n in (1, 2, 3, 4)]
    both = session("anna", ("1", "2")) + session("carl", ("3", "4"))
    b.offer(*lines, metadata=document(both, mode="complete"))
    first, second = sound(1, 2), sound(2, 2)
    b.play(*streams(first, 1), *streams(second, 2))
    b.offer(*lines, metadata=document(session("carl", ("3", "4")), mode="complete"))
    b.wait(4)
    assert of(b, "anna").state == "complete"
    assert of(b, "carl").state == "recording"
    b.finish()
    assert_is(of(b, "anna"), first, [second])
    assert_is(of(b, "carl"), second, [first])


def test_metadata_that_come_late_give_the_recording_its_name(bench: Open) -> None:
    b = bench()
    pair = sound(1, 4)
    b.offer(b.audio("1"), b.audio("2"))
    b.play(*(p[:100] for p in map(list, streams(pair, 1))))
    b.session.metadata(document(session("anna", ("1", "2")), mode="complete"))
    b.play(*([(at - 2.0, data) for at, data in p[100:]] for p in map(list, streams(pair, 1))))
    b.finish()
    assert len(list(b.library.directories())) == 1
    assert_is(of(b, "anna"), pair)


def test_without_a_place_for_another_call_it_is_refused_and_the_others_go_on(
    bench: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = bench()
    pair = sound(1, 2)
    b.offer(b.audio("1"), b.audio("2"), metadata=document(session("anna", ("1", "2")), mode="complete"))
    ports = b.pool.open

    def full(wall: float) -> Path:
        raise RecorderFull("no place for a recording: the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(b.library, "new_directory", full)
        with pytest.raises(RecorderFull) as refused:
            b.offer(*(b.audio(str(n)) for n in (1, 2, 3, 4)), metadata=document(session("carl", ("3", "4"))))
    assert refused.value.status == 503
    assert b.pool.open == ports
    b.play(*streams(pair, 1))
    b.finish()
    assert_is(of(b, "anna"), pair)
    assert len(list(b.library.directories())) == 1


def test_five_hundred_calls_through_one_session_leave_nothing_behind(bench: Open) -> None:
    """No more than three at a time; the m-lines, the ports and what is remembered stay as they are."""
    b = bench()
    most = {"lines": 0, "sessions": 0, "participants": 0, "streams": 0, "recordings": 0}
    b.offer(metadata=document(mode="complete"))
    slots: list[str | None] = [None] * 6
    for number in range(500):
        place = 2 * (number % 3)
        name = f"call{number}"
        parts = []
        if slots[place] is not None:
            parts.append(session(str(slots[place]), stop=True))
        slots[place] = slots[place + 1] = name
        parts.append(session(name, (str(place + 1), str(place + 2))))
        lines = [b.audio(str(n + 1), port=None if slots[n] else 0) for n in range(6)]
        b.offer(*lines, metadata=document(*parts))
        b.sock.sendto(next(iter(packets(sound(1, 0.02)[0], PCMU, 0, ssrc=number)))[1], ("127.0.0.1", b.ports[place]))
        b.wait(1.1)
        state = b.session.state
        now = {
            "lines": len(b.session.lines),
            "sessions": len(state.sessions),
            "participants": len(state.participants),
            "streams": len(state.streams),
            "recordings": len(b.session.recordings),
        }
        most = {key: max(value, most[key]) for key, value in now.items()}
        assert len(state.stream_assocs) == len(state.participant_assocs)
    assert most["lines"] == 6
    assert b.pool.open == 6
    assert max(most["sessions"], most["recordings"]) <= 7
    assert max(most["participants"], most["streams"]) <= 14
    assert len(state.gone) <= 1000
    b.finish()
    found = [json.loads((d / "recording.json").read_text()) for d in b.library.directories()]
    assert len(found) == 500
    assert {r["state"] for r in found} == {"complete"}
    assert b.pool.open == 0
