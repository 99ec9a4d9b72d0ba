"""`siprec srs-probe` against our recorder, and against recorders that do things wrong."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from siprec.cli.child_process import Child
from siprec.cli.srs_probe import Outcome, ProbeError, ProbeOptions, _printable, probe
from tests.interop.srsprobe.poor_srs import PoorSrs


def verdicts(outcome: Outcome, wanted: str) -> set[str]:
    return {row.id for row in outcome.findings.rows() if row.verdict == wanted}


def quick(server: str, **more: Any) -> ProbeOptions:
    """A walk that waits for nothing: what is looked at is signalling."""
    return ProbeOptions(server=server, **{"media_seconds": 0.1, "rtcp_timeout": 0.2, "timeout": 15.0, **more})


def against(srs: PoorSrs, before_close: Callable[[PoorSrs], bool] | None = None, **more: Any) -> Outcome:
    async def scenario() -> Outcome:
        uri = await srs.start()
        try:
            outcome = await probe(quick(uri, **more))
            async with asyncio.timeout(20):
                while before_close is not None and not before_close(srs):
                    await asyncio.sleep(0.02)
            return outcome
        finally:
            srs.close()

    return asyncio.run(scenario())


async def recorder(tmp_path: Path, more: str = "") -> Child:
    child = Child("recorder")
    file = tmp_path / "recorder.toml"
    file.write_text(
        f'[recorder]\nlisten = ["udp:127.0.0.1:0", "tcp:127.0.0.1:0"]\ndirectory = {json.dumps(str(tmp_path))}\n{more}'
    )
    await child.start("recorder", "--config", str(file))
    return child


def test_our_recorder_meets_every_requirement(tmp_path: Path) -> None:
    async def scenario() -> Outcome:
        child = await recorder(tmp_path)
        try:
            options = ProbeOptions(
                server=f"sip:127.0.0.1:{child.address()[1]}", provoke=True, media_seconds=2.0, rtcp_timeout=30.0
            )
            return await probe(options)
        finally:
            await child.stop()

    outcome = asyncio.run(scenario())
    assert not outcome.ended
    assert verdicts(outcome, "fail") == set()
    # Whether RTCP falls into the short pause is chance; there is no TLS here.
    assert verdicts(outcome, "not seen") - {"CTL-05"} == {"SEC-01", "SEC-06", "SEC-16"}
    assert outcome.good
    assert outcome.left == 0
    assert all(stream.last_block is not None and stream.last_block.lost == 0 for stream in outcome.streams)
    (file,) = tmp_path.rglob("recording.json")
    recording = json.loads(file.read_text())
    assert recording["state"] == "complete"
    # Nothing is lost. (The probe counts a few packets less than arrive on a busy host: its counter, not the recording.)
    received = [s["packets"]["received"] for s in recording["streams"]]
    assert all(got >= stream.sent for got, stream in zip(received, outcome.streams, strict=True))
    names = {p["names"][0]["aor"] for p in recording["participants"] if p["names"]}
    assert names == {"sip:caller@probe.invalid", "sip:callee@probe.invalid"}


@pytest.mark.parametrize("policy", ["require", "off"])
def test_srtp_is_tried_where_it_is_asked_for(tmp_path: Path, policy: str) -> None:
    async def scenario() -> Outcome:
        child = await recorder(tmp_path, f'srtp = "{policy}"\n')
        try:
            return await probe(quick(f"sip:127.0.0.1:{child.address()[1]}", srtp=True, media_seconds=0.5))
        finally:
            await child.stop()

    outcome = asyncio.run(scenario())
    if policy == "off":
        assert verdicts(outcome, "fail") == {"SRS-01", "SEC-06"}
        assert "488" in outcome.ended
        return
    assert not outcome.ended
    assert verdicts(outcome, "fail") <= {"MEDIA-01"}  # reports: not waited for
    assert {"SEC-06", "SEC-16"} <= verdicts(outcome, "pass")
    (file,) = tmp_path.rglob("recording.json")
    streams = json.loads(file.read_text())["streams"]
    assert [stream["srtp"] for stream in streams] == ["AES_CM_128_HMAC_SHA1_80"] * 2
    assert all(stream["packets"]["received"] >= 20 for stream in streams)
    assert not any(stream["packets"]["lost"] for stream in streams)
    shown = "\n".join(message.text for message in outcome.messages)
    assert "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:****" in shown


def test_a_good_srs_without_rtcp_fails_in_that_alone() -> None:
    outcome = against(PoorSrs())
    assert verdicts(outcome, "fail") == {"MEDIA-01"}


@pytest.mark.parametrize(
    ("faults", "failed"),
    [
        ({"feature": ""}, {"SRS-03"}),
        ({"labels": False}, {"SRS-14"}),
        ({"direction": "sendrecv"}, {"SRS-06", "SDP-09", "CTL-01"}),
        ({"update_status": 405}, {"SRS-15"}),
        ({"allow": "INVITE, ACK, CANCEL, BYE"}, {"SRS-15"}),
        ({"version": "still"}, {"SDP-08"}),
        ({"version": "restless"}, {"SDP-08"}),
        ({"drop_line": True}, {"SRS-09", "SRS-10"}),
        ({"offerless": False}, {"META-18"}),
        ({"legacy_only": True}, {"SRS-13"}),
        ({"snapshot_by": "INVITE"}, {"META-11", "META-12"}),
    ],
    ids=lambda value: "-".join(sorted(map(str, value))),
)
def test_each_fault_is_named_and_nothing_else(faults: dict[str, Any], failed: set[str]) -> None:
    srs = PoorSrs(**faults)
    outcome = against(srs)
    assert verdicts(outcome, "fail") - {"MEDIA-01"} == failed
    assert not outcome.good
    assert srs.received[-1] == "BYE"


def test_metadata_go_in_a_reinvite_where_update_is_not_taken() -> None:
    srs = PoorSrs(update_status=405)
    outcome = against(srs)
    assert srs.received.count("UPDATE") == 1  # asked once, understood
    holding = [body for method, body in srs.bodies if method == "INVITE" and b"<datamode>partial" in body]
    assert len(holding) == 3  # hold, unhold, end
    assert all(b"m=audio" in body for body in holding)
    assert not outcome.ended


def test_a_snapshot_asked_for_by_update_is_sent_and_counted() -> None:
    srs = PoorSrs(snapshot_by="UPDATE")
    outcome = against(srs)
    assert {"META-11", "META-12"} <= verdicts(outcome, "pass")
    assert outcome.session.snapshots == 1
    after = srs.received.index("200 UPDATE")
    assert "INVITE" in srs.received[after:]  # META-13
    assert sum(b"<datamode>complete" in body for _, body in srs.bodies) == 3  # start, offerless, snapshot


def test_an_srs_that_is_busy_shows_nothing() -> None:
    outcome = against(PoorSrs(invite="busy"))
    assert outcome.ended.startswith("the SRS did not take the recording: 486")
    assert verdicts(outcome, "fail") == {"SRS-01"}
    assert "MEDIA-01" in verdicts(outcome, "not seen")


def test_an_srs_that_only_rings_gets_a_cancel() -> None:
    srs = PoorSrs(invite="ring")
    outcome = against(srs, timeout=1.0)
    assert "no final response" in outcome.ended
    assert "CANCEL" in srs.received
    assert outcome.left == 0


def test_a_2xx_that_crosses_the_cancel_is_acknowledged_and_ended() -> None:
    srs = PoorSrs(invite="cross")
    outcome = against(srs, lambda srs: {"ACK", "BYE"} <= set(srs.received), timeout=1.0)
    assert outcome.ended
    assert srs.received.index("ACK") < srs.received.index("BYE")


def test_an_srs_that_hangs_up_is_not_sent_a_bye() -> None:
    srs = PoorSrs(bye_after="UPDATE")
    outcome = against(srs)
    assert outcome.ended == "ended by SRS"
    assert "200 BYE" in srs.received
    assert "BYE" not in srs.received
    assert not outcome.good


def test_a_walk_that_is_stopped_ends_the_session() -> None:
    srs = PoorSrs()

    async def scenario() -> Outcome:
        uri, stop = await srs.start(), asyncio.Event()
        walking = asyncio.create_task(probe(quick(uri, media_seconds=60.0), stop))
        async with asyncio.timeout(20):
            while "ACK" not in srs.received:
                await asyncio.sleep(0.02)
        stop.set()
        outcome = await asyncio.wait_for(walking, 20)
        srs.close()
        return outcome

    outcome = asyncio.run(scenario())
    assert outcome.ended == "interrupted"
    assert srs.received[-1] == "BYE"
    assert outcome.left == 0


def test_the_whole_walk_is_bounded() -> None:
    srs = PoorSrs()
    outcome = against(srs, media_seconds=60.0, limit=1.0)
    assert outcome.ended == "not through within 1 s"
    assert srs.received[-1] == "BYE"


def test_the_command_prints_json_and_its_status_tells() -> None:
    async def scenario() -> tuple[int, dict[str, Any]]:
        srs = PoorSrs(feature="")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "siprec", "srs-probe", await srs.start(), "--json", "--trace",
            "--media-seconds", "0.1", "--rtcp-timeout", "0.2", stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, _ = await asyncio.wait_for(process.communicate(), 60)
        srs.close()
        return process.returncode or 0, json.loads(out)

    status, document = asyncio.run(scenario())
    assert status == 1
    rows = {row["id"]: row for row in document["requirements"]}
    assert rows["SRS-03"]["verdict"] == "fail"
    assert "no +sip.srs in the Contact of the 200 to INVITE" in rows["SRS-03"]["why"]
    assert [step["name"] for step in document["steps"]][-1] == "BYE"
    assert any(message["text"].startswith("INVITE ") for message in document["trace"])


def test_ctrl_c_leaves_no_session_behind() -> None:
    async def scenario() -> tuple[int, PoorSrs]:
        srs = PoorSrs()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "siprec", "srs-probe", await srs.start(), "--media-seconds", "60",
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(60):
            while "ACK" not in srs.received:
                await asyncio.sleep(0.02)
        process.send_signal(signal.SIGINT)
        await asyncio.wait_for(process.communicate(), 60)
        srs.close()
        return process.returncode or 0, srs

    status, srs = asyncio.run(scenario())
    assert status == 130
    assert srs.received[-1] == "BYE"


@pytest.mark.parametrize("server", ["tel:123", "sip:", "sip:srs.invalid;transport=sctp"])
def test_an_unusable_target_is_said_to_be_so(server: str) -> None:
    with pytest.raises(ProbeError):
        asyncio.run(probe(quick(server)))


def test_credentials_stay_out_of_the_trace() -> None:
    text = _printable(b'INVITE sip:a SIP/2.0\r\nAuthorization: Digest username="u", response="ab"\r\nTo: x\r\n\r\n')
    assert "response" not in text
    assert "Authorization: (not shown)" in text
    assert "To: x" in text
