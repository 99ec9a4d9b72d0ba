"""Each call that is to be recorded leaves a proof of what became of that."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from siprec.audio.melody import caller_melody
from siprec.cli.audit import audit, main
from siprec.cli.client import ApiClient
from siprec.recording.proof import Begun, Proof
from siprec.server.prooflog import read
from tests.interop.calls import scenarios
from tests.interop.calls.harness import HOST, Command, Sipp, free_port, until
from tests.interop.calls.rig import Rig
from tests.interop.calls.wire import RATE, write_rtp_pcap
from tests.parallel import share, unused_port

_SHARE = share(500, 7)


def directory(rig: Rig) -> Path:
    return rig.directory / "serve" / "proof"


def lines(rig: Rig) -> list[Begun | Proof | str]:
    return list(read(directory(rig))) if directory(rig).exists() else []


def proof_of(rig: Rig, known: int) -> Proof:
    """The proof of the one call made since there were `known` lines."""
    assert until(lambda: len(lines(rig)) == known + 2), lines(rig)[known:]
    first, last = lines(rig)[known:]
    assert isinstance(first, Begun)
    assert isinstance(last, Proof)
    assert (first.call_id, first.answered) == (last.call_id, last.answered)
    return last


def talking(tmp_path: Path, seconds: float = 1.0) -> tuple[Path, Path]:
    """What the parties say."""
    files = tmp_path / "caller.pcap", tmp_path / "callee.pcap"
    for number, file in enumerate(files):
        write_rtp_pcap(file, caller_melody(seconds, RATE), 0x1000 + number)
    return files


def test_a_recorded_call_is_proved_complete_by_the_count_of_the_recorder(rig: Rig, tmp_path: Path) -> None:
    known = len(lines(rig))
    rig.call(scenarios.caller(2.0, play=True), scenarios.callee(play=True), audio=talking(tmp_path))
    proof = proof_of(rig, known)
    assert (proof.verdict, proof.reasons, proof.end_reason) == ("complete", [], "bye")
    assert proof.confirmed
    (session,) = proof.sessions
    assert session.stored in ("complete", "pending")
    assert session.start >= proof.answered
    assert session.end is not None
    assert [(stream.party, stream.kind, stream.label) for stream in proof.streams] == [
        ("caller", "audio", "1"),
        ("callee", "audio", "2"),
    ]
    assert [(each.received, each.forked, each.srs_packets) for each in proof.streams] == [(50, 50, 50)] * 2


def test_a_call_in_which_nobody_says_anything_is_unconfirmed(rig: Rig) -> None:
    known = len(lines(rig))
    rig.call(scenarios.caller(0.5), scenarios.callee())
    proof = proof_of(rig, known)
    assert (proof.verdict, proof.end_reason) == ("unconfirmed", "bye")
    assert ["nothing came of it" in reason for reason in proof.reasons] == [True, True]


@pytest.mark.parametrize(("user", "why"), [("busy", "486"), ("gone", "sip:127.0.0.1")])
def test_a_call_whose_recorder_does_not_take_it_is_proved_unrecorded(rig: Rig, user: str, why: str) -> None:
    known = len(lines(rig))
    if user == "busy":
        callee = Sipp(scenarios.busy_callee(), rig.new_directory("srs"), port=rig.busy_port)
        with callee:
            rig.call(scenarios.caller(1.5), scenarios.callee(), user=user)
    else:
        rig.call(scenarios.caller(1.5), scenarios.callee(), user=user)
    proof = proof_of(rig, known)
    assert (proof.verdict, proof.sessions) == ("none", [])
    assert why in " ".join(proof.reasons)
    assert proof.refusals


def test_calls_that_are_not_to_be_recorded_leave_none(rig: Rig) -> None:
    known = len(lines(rig))
    rig.call(scenarios.caller(0.2), scenarios.callee(), user="plain")
    rig.call(scenarios.cancelling_caller(), scenarios.ringing_callee())
    assert until(rig.at_rest)
    assert len(lines(rig)) == known


def test_a_proxy_that_is_killed_leaves_calls_without_an_end(tmp_path: Path) -> None:
    port = free_port()
    configuration = f"""
[sip]
listen = ["udp:127.0.0.1:0", "tcp:127.0.0.1:0"]
[recording.default]
srs = ["sip:127.0.0.1:{unused_port()}"]
[[route]]
method = "INVITE"
record = "default"
targets = ["sip:127.0.0.1:{port}"]
"""
    with (
        Command("serve", configuration, tmp_path / "serve") as proxy,
        Sipp(scenarios.callee(), tmp_path / "callee", port=port),
        Sipp(scenarios.caller(60), tmp_path / "caller", port=free_port(), proxy=proxy.port()),
    ):
        proofs = tmp_path / "serve" / "proof"
        assert until(lambda: proofs.exists() and bool(list(read(proofs))))
        os.kill(proxy.child.pid, signal.SIGKILL)
        proxy.child.wait()
        found = audit(proofs, 0.0, float("inf"))
        assert (found.calls, len(found.unended)) == (1, 1)


@contextmanager
def recorded_call(tmp_path: Path, *, seconds: float = 60.0, talk: float = 1.0, more: str = "") -> Iterator[Command]:
    """`siprec serve` with a call that is being recorded by `siprec recorder`, and in which both talk."""
    port = free_port()
    recorder = f"""
[recorder]
listen = ["udp:{HOST}:0", "tcp:{HOST}:0"]
directory = {json.dumps(str(tmp_path / "recordings"))}
ports = "{46000 + _SHARE}-{46400 + _SHARE}"
"""
    for side, file in zip(("callee", "caller"), talking(tmp_path, talk), strict=True):
        (tmp_path / side).mkdir()
        (tmp_path / side / "audio.pcap").symlink_to(file)
    with (
        Command("recorder", recorder, tmp_path / "recorder") as srs,
        Command(
            "serve",
            f"""
[sip]
listen = ["udp:{HOST}:0", "tcp:{HOST}:0"]
[relay]
ports = "{36000 + _SHARE}-{36400 + _SHARE}"
[recording.default]
srs = ["sip:{HOST}:{srs.port()}"]
[[route]]
method = "INVITE"
record = "default"
targets = ["sip:{HOST}:{port}"]
{more}
""",
            tmp_path / "serve",
        ) as proxy,
        Sipp(scenarios.callee(play=True), tmp_path / "callee", port=port),
        Sipp(scenarios.caller(seconds, play=True), tmp_path / "caller", port=free_port(), proxy=proxy.port()),
    ):
        assert until(lambda: proxy.counts()["recordings"] == {"active": 1})
        yield proxy


def the_proof(tmp_path: Path) -> Proof:
    found = [line for line in read(tmp_path / "serve" / "proof") if isinstance(line, Proof)]
    (proof,) = found
    return proof


def test_a_call_that_outlives_a_drain_is_proved_to_go_on_unrecorded(tmp_path: Path) -> None:
    with recorded_call(tmp_path, more="[service]\ndrain = 0.3") as proxy:
        proxy.child.send_signal(signal.SIGTERM)
        proxy.child.wait(60)
        proof = the_proof(tmp_path)
    assert proof.verdict == "partial"
    assert "the call goes on unrecorded: siprec serve ended" in proof.reasons
    assert main(tmp_path / "serve" / "proof", "24h", "", as_json=False) == 1


@pytest.mark.parametrize("on_lost", ["keep", "move"])
def test_a_call_whose_relay_was_killed_is_not_complete(tmp_path: Path, on_lost: str) -> None:
    with recorded_call(tmp_path, seconds=8.0, more=f'[media]\non_lost = "{on_lost}"\ntimeout = 2.0') as proxy:
        for child in proxy.children():
            os.kill(child, signal.SIGKILL)
        assert until(lambda: len(list(read(tmp_path / "serve" / "proof"))) == 2, 60)
        proof = the_proof(tmp_path)
    assert proof.verdict == "partial", proof


def test_a_pause_is_no_loss_for_proof_audit_and_recorder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with recorded_call(tmp_path, seconds=12.0, talk=11.0, more=f'[api]\nlisten = "{HOST}:0"') as proxy:
        api = ApiClient(f"http://{HOST}:{proxy.port('http')}")
        api.send("POST", "/siprec_pause_recording", {"all": True, "by": "agent"})
        assert until(lambda: proxy.counts()["recordings"] == {"paused": 1})
        (paused,) = api.get("/recordings", statistics="true")["recordings"]

        def withheld() -> int:
            (recording,) = api.get("/recordings", statistics="true")["recordings"]
            counts: list[int] = [stream["counters"]["withheld"] for stream in recording["streams"]]
            return min(counts)

        assert until(lambda: withheld() > 50)
        api.send("POST", "/siprec_resume_recording", {"all": True, "by": "agent"})
        assert until(lambda: proxy.counts()["recordings"] == {"active": 1})
        assert until(lambda: len(list(read(tmp_path / "serve" / "proof"))) == 2, 60)
        proof = the_proof(tmp_path)
    assert paused["pauses"][0]["by"] == "api: agent"
    assert (proof.verdict, proof.reasons) == ("complete", [])
    assert [stream.withheld > 50 for stream in proof.streams] == [True, True]
    assert all(stream.received == (stream.forked or 0) + stream.withheld for stream in proof.streams)
    assert any(note.startswith("paused by api: agent") for note in proof.notes)
    assert main(tmp_path / "serve" / "proof", "24h", "", as_json=False) == 0
    assert "1 complete" in capsys.readouterr().out
    (summary,) = (json.loads(path.read_text()) for path in (tmp_path / "recordings").glob("*/*/*/*/recording.json"))
    assert [stream["packets"]["lost"] for stream in summary["streams"]] == [0, 0]
    assert [len(stream["pauses"]) for stream in summary["streams"]] == [1, 1]
