"""The ladder of a real call, as text, JSON, a capture file for Wireshark, and at Homer (sngrep listens)."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.interop.api.apiworld import client, phones, proxy, recorder, until
from tests.interop.api.test_commands import siprec
from tests.parallel import own_port

pytestmark = pytest.mark.skipif(
    shutil.which("tshark") is None or shutil.which("sngrep") is None,
    reason="tshark or sngrep is missing: apt-get install tshark sngrep",
)


async def fields(file: Path, *names: str) -> list[list[str]]:
    """Of each packet that tshark can read."""
    wanted = [word for name in names for word in ("-e", name)]
    ran = await asyncio.create_subprocess_exec(
        *("tshark", "-r", str(file), "-T", "fields", *wanted), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    out, _ = await asyncio.wait_for(ran.communicate(), 60)
    return [line.split("\t") for line in out.decode().splitlines()]


def test_the_ladder_of_a_call_is_told_drawn_exported_and_sent_to_homer(tmp_path: Path) -> None:
    async def scenario() -> None:
        port, homer = own_port(), tmp_path / "homer.pcap"
        hep = f'[trace.hep]\ncollector = "127.0.0.1:{port}"\n'
        listener = await asyncio.create_subprocess_exec(
            *("sngrep", "-N", "-q", "-L", f"udp:127.0.0.1:{port}", "-O", str(homer)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            async with (
                recorder(tmp_path) as srs,
                proxy(tmp_path, srs, api=hep) as process,
                phones(process) as (alice, _),
            ):
                api = client(process)
                await alice.dial("bob")
                await until(lambda: process.recording.counts().get("active") == 1)
                [call] = process.core.calls.values()
                [session] = [each["rs_call_id"] for each in (await api.get("/recordings")).json["recordings"]]

                trace = (await api.get(f"/calls/{call.dlg_id}/trace")).json
                assert trace["call_id"] == call.call_id
                assert trace["dropped"] == 0
                said = [(step["kind"], step["title"]) for step in trace["steps"]]
                assert said[0] == ("cs", "INVITE (SDP)")
                for each in (("cs", "200 OK (INVITE, SDP)"), ("rs", "INVITE (SDP)"), ("media", "subscribe request")):
                    assert each in said
                assert [place.split()[0] for place in trace["places"]] == ["caller", "siprec", "callee", "SRS", "media"]
                [offer] = [step for step in trace["steps"] if (step["kind"], step["title"]) == ("rs", "INVITE (SDP)")]
                assert "Require: siprec" in offer["text"]
                assert (await api.get(f"/calls/{session}/trace")).json["call_id"] == call.call_id
                await alice.hang_up()
                await until(lambda: not process.recording.counts() and not process.core.calls)

                # It is over, and still there to be looked at.
                drawn = await siprec(process, "trace", call.call_id)
                assert (drawn.status, drawn.err) == (0, "")
                assert "BYE" in drawn.out
                full = await siprec(process, "trace", call.dlg_id, "-v")
                assert "application/rs-metadata" in full.out
                assert len(json.loads((await siprec(process, "trace", session, "--json")).out)["steps"]) > len(said)
                unknown = await siprec(process, "trace", "nobody")
                assert unknown.status == 1
                assert "nothing is kept" in unknown.err

                file = tmp_path / "call.pcap"
                assert (await siprec(process, "trace", call.dlg_id, "--pcap", str(file))).status == 0
                assert file.stat().st_mode & 0o777 == 0o600
                packets = await fields(file, "sip.Call-ID", "sip.Method", "_ws.malformed")
                assert {call.call_id, session} == {packet[0] for packet in packets if packet[0]}
                assert {"INVITE", "ACK", "BYE"} <= {packet[1] for packet in packets if packet[0] == session}
                assert not any(packet[2] for packet in packets)

                # Homer has been told the same, registrations too.
                assert process.tap is not None
                assert process.tap.hep is not None
                assert process.tap.hep.dropped == 0
                assert process.tap.hep.sent > len(packets)
                async with asyncio.timeout(30):
                    while True:
                        there = await fields(homer, "sip.Call-ID", "sip.Method") if homer.exists() else []
                        if {(call.call_id, "BYE"), (session, "BYE")} <= {(each[0], each[1]) for each in there}:
                            break
                        await asyncio.sleep(0.3)
                assert "REGISTER" in {each[1] for each in there}
        finally:
            listener.terminate()
            await listener.wait()

    asyncio.run(scenario())
