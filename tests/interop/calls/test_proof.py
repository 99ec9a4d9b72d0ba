"""Each call that is to be recorded leaves a proof of what became of that."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from siprec.audio.melody import caller_melody
from siprec.cli.audit import audit
from siprec.recording.verdict import Begun, Proof
from siprec.server.prooflog import read
from tests.interop.calls import scenarios
from tests.interop.calls.harness import Command, Sipp, free_port, until
from tests.interop.calls.rig import Rig
from tests.interop.calls.wire import RATE, write_rtp_pcap
from tests.parallel import unused_port


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


def talking(tmp_path: Path) -> tuple[Path, Path]:
    """What the parties say: a second of sound each."""
    files = tmp_path / "caller.pcap", tmp_path / "callee.pcap"
    for number, file in enumerate(files):
        write_rtp_pcap(file, caller_melody(1.0, RATE), 0x1000 + number)
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
    assert all(stream.forked == stream.received == stream.srs_packets == 50 for stream in proof.streams)


def test_a_call_in_which_nobody_says_anything_is_unconfirmed(rig: Rig) -> None:
    known = len(lines(rig))
    rig.call(scenarios.caller(0.5), scenarios.callee())
    proof = proof_of(rig, known)
    assert (proof.verdict, proof.end_reason) == ("unconfirmed", "bye")
    assert all("nothing came of it" in reason for reason in proof.reasons)


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
