"""SRSs that stop, hang and come back while a call is recorded, as real processes; what that costs in packets."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from siprec.recording.proof import Proof
from siprec.server.prooflog import read
from tests.interop.calls import scenarios
from tests.interop.calls.harness import HOST, Command, Sipp, free_port, until
from tests.interop.calls.test_proof import talking
from tests.parallel import share

_SHARE = share(500, 7)


def recorder(tmp_path: Path, name: str, number: int, port: int = 0) -> Command:
    first = 46000 + _SHARE + 100 * number
    configuration = f"""
[recorder]
listen = ["udp:{HOST}:{port}", "tcp:{HOST}:{port}"]
directory = {json.dumps(str(tmp_path / name))}
ports = "{first}-{first + 98}"
"""
    return Command("recorder", configuration, tmp_path / f"{name}-process")


@contextmanager
def recorded_call(tmp_path: Path, uris: list[str], *, seconds: float, talk: float, more: str = "") -> Iterator[Command]:
    """`siprec serve` with a call that is being recorded at the first of `uris`, and in which both talk."""
    port = free_port()
    for side, file in zip(("callee", "caller"), talking(tmp_path, talk), strict=True):
        (tmp_path / side).mkdir()
        (tmp_path / side / "audio.pcap").symlink_to(file)
    configuration = f"""
[sip]
listen = ["udp:{HOST}:0", "tcp:{HOST}:0"]
[relay]
ports = "{36000 + _SHARE}-{36400 + _SHARE}"
[recording.default]
srs = {json.dumps(uris)}
{more}
[[route]]
method = "INVITE"
record = "default"
targets = ["sip:{HOST}:{port}"]
"""
    with (
        Command("serve", configuration, tmp_path / "serve") as proxy,
        Sipp(scenarios.callee(play=True), tmp_path / "callee", port=port, limit=seconds + 60),
        Sipp(
            scenarios.caller(seconds, play=True),
            tmp_path / "caller",
            port=free_port(),
            proxy=proxy.port(),
            limit=seconds + 60,
        ),
    ):
        assert until(lambda: proxy.counts()["recordings"] == {"active": 1})
        yield proxy


def proofs(tmp_path: Path) -> list[Proof]:
    return [line for line in read(tmp_path / "serve" / "proof") if isinstance(line, Proof)]


def seconds_kept(directory: Path) -> float:
    """Seconds of audio (16 bit, 8000 Hz) that the recorder has written of each stream by now."""
    sizes = [path.stat().st_size for path in directory.glob("**/stream-*.wav")]
    return min(sizes) / 16_000 if len(sizes) == 2 else 0.0


def summaries(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in directory.glob("*/*/*/*/recording.json")]


def test_a_planned_stop_of_the_recorder_costs_no_half_second_of_the_recording(tmp_path: Path) -> None:
    with ExitStack() as stack:
        first, second = (recorder(tmp_path, name, number) for number, name in enumerate(("one", "two")))
        stack.enter_context(second)
        stack.callback(first.stop)
        uris = [f"sip:{HOST}:{each.port()}" for each in (first, second)]
        with recorded_call(tmp_path, uris, seconds=12.0, talk=10.0) as proxy:
            assert until(lambda: seconds_kept(tmp_path / "one") >= 2, 30)  # some of the recording is at the first one
            first.child.send_signal(signal.SIGTERM)
            assert first.child.wait(60) == 0
            assert until(lambda: proxy.counts()["recordings"] == {"active": 1})
            assert until(lambda: len(proofs(tmp_path)) == 1, 60)
            text = proxy.text
    (proof,) = proofs(tmp_path)
    assert [session.server for session in proof.sessions] == uris, text
    assert proof.sessions[0].reason.startswith("ended by SRS: SIP 503")
    assert proof.sessions[0].status == 503
    missing = [(stream.received or 0) - (stream.srs_packets or 0) for stream in proof.streams]
    assert all(stream.received and stream.received > 400 for stream in proof.streams), proof
    assert all(number < 25 for number in missing), proof  # 0.5 s
    assert len(summaries(tmp_path / "one")) == 1
    assert len(summaries(tmp_path / "two")) == 1
    assert (proof.verdict == "complete") == (missing == [0, 0]), proof
    print("packets missing after a planned stop:", missing)


def test_a_recorder_that_hangs_is_replaced_within_twenty_seconds(tmp_path: Path) -> None:
    with ExitStack() as stack:
        first, second = (recorder(tmp_path, name, number) for number, name in enumerate(("one", "two")))
        stack.enter_context(second)
        stack.callback(first.stop)
        uris = [f"sip:{HOST}:{each.port()}" for each in (first, second)]
        with recorded_call(tmp_path, uris, seconds=30.0, talk=29.0) as proxy:
            # It has reported what it received: RTCP comes every five seconds.
            assert until(lambda: seconds_kept(tmp_path / "one") >= 6, 60)
            os.kill(first.child.pid, signal.SIGSTOP)
            stack.callback(os.kill, first.child.pid, signal.SIGCONT)
            stopped = time.monotonic()
            assert until(lambda: proxy.text.count("E_SIPREC_START") >= 2, 40), proxy.text
            took = time.monotonic() - stopped
            assert until(lambda: len(proofs(tmp_path)) == 1, 90)
    (proof,) = proofs(tmp_path)
    assert [session.server for session in proof.sessions] == uris
    assert took <= 20 + 2, took  # a busy machine may take a little longer
    assert proof.verdict == "partial"
    print("seconds until a hung recorder was replaced:", round(took, 1))
