"""JSON logs of proxy, relay and recorder while a call is recorded, and levels changed as they run."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from siprec.recording import events
from tests.interop.calls.harness import HOST, Command, until
from tests.interop.server.test_service import DOMAIN, TOKEN, phones

RECORDER = f"""
[recorder]
listen = ["tcp:{HOST}:0"]
directory = "recordings"
[log]
format = "json"
"""


def proxy_configuration(recorder: int) -> str:
    return f"""
[sip]
listen = ["udp:{HOST}:0"]
domains = ["{DOMAIN}"]
[recording.default]
srs = ["sip:{HOST}:{recorder};transport=tcp"]
[[route]]
method = "INVITE"
registrar = true
record = "default"
[api]
listen = "{HOST}:0"
tokens = {{ "{TOKEN}" = "control" }}
[log]
format = "json"
[log.levels]
"siprec.net" = "error"
"""


def logged(command: Command) -> list[dict[str, Any]]:
    """Its log; whatever else it wrote is the ready line."""
    lines = [line for line in command.text.splitlines() if not line.startswith("siprec ")]
    return [json.loads(line) for line in lines if line.endswith("}")]


def cli(proxy: Command, *arguments: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-m", "siprec", *arguments],
        env={"SIPREC_API": f"http://{HOST}:{proxy.port('http')}", "SIPREC_TOKEN": TOKEN},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_a_recorded_call_can_be_followed_through_the_logs(tmp_path: Path) -> None:
    async def scenario(proxy: Command, recorder: Command) -> None:
        async with phones(proxy.port()) as (alice, _bob):
            await alice.dial("bob")
            assert await asyncio.to_thread(until, lambda: events.START in proxy.text)
            levels = await asyncio.to_thread(cli, proxy, "log-level", "debug", "--room", "siprec.recording")
            assert levels == "info\nsiprec.net: error\nsiprec.recording: debug\n"
            await alice.hang_up()
            assert await asyncio.to_thread(until, lambda: "recording ended" in recorder.text)
            assert await asyncio.to_thread(until, lambda: events.STOP in proxy.text)
            levels = await asyncio.to_thread(cli, proxy, "log-level", "inherit", "--room", "siprec.recording")
            assert levels == "info\nsiprec.net: error\n"

    with (
        Command("recorder", RECORDER, tmp_path / "recorder") as recorder,
        Command("serve", proxy_configuration(recorder.port("tcp")), tmp_path / "serve") as proxy,
    ):
        asyncio.run(scenario(proxy, recorder))
        of_proxy, of_recorder = logged(proxy), logged(recorder)
    start = next(line for line in of_proxy if line["message"].startswith(f"{events.START} "))
    assert start["level"] == "info"
    assert all(start[name] for name in ("call_id", "session_id", "rs_call_id", "srs"))
    # Of the same recording session, by its Call-ID.
    into = next(line for line in of_recorder if "recording into" in line["message"])
    assert into["call_id"] == start["rs_call_id"]
    debug = [line for line in of_proxy if line["level"] == "debug"]
    assert {line["logger"] for line in debug} == {"siprec.recording.recording_core"}
    assert {line["session_id"] for line in debug} == {start["session_id"]}
