"""Why is this call not recorded? The API and `siprec show` say it, also after a failed start and after a stop."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

from siprec.cli.call_text import describe
from siprec.recording.events import FAILED, SiprecEvent
from tests.interop.api.apiworld import Client, client, phones, proxy, recorder, until, until_reply


async def the_call(api: Client) -> dict[str, Any]:
    [call] = (await api.get("/calls")).json["calls"]
    found: dict[str, Any] = (await api.get(f"/calls/{call['dlg_id']}")).json
    return found


def refusing() -> tuple[socket.socket, str]:
    """An SRS that is not there: a port that stays taken, and that nobody answers at."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock, f"sip:127.0.0.1:{sock.getsockname()[1]};transport=udp"


def test_a_call_that_no_srs_took_says_which_were_tried_and_which_rule_wanted_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        sock, srs = refusing()
        with sock:
            async with proxy(tmp_path, srs) as process, phones(process) as (alice, _):
                api = client(process)
                failed: list[SiprecEvent] = []
                process.events.subscribe(failed.append, {FAILED})
                await alice.dial("bob")
                await until(lambda: failed)
                call = await the_call(api)
                [recording] = call["recording"]
                assert (recording["state"], recording["wanted_by"]) == ("ended", "route[0]")
                assert [(each["server"], each["result"], each["status"]) for each in recording["attempts"]] == [
                    (srs, "failed", 408)
                ]
                assert recording["why"].startswith("408")
                assert call["why"] == f"default: {recording['why']}"
                shown = "\n".join(describe(call))
                assert "wanted by  route[0]" in shown
                assert f"recorded   no: {call['why']}" in shown
                metrics = (await api.get("/metrics")).body.decode()
                assert 'siprec_recording_events_total{event="E_SIPREC_FAILED"' in metrics

    asyncio.run(scenario())


def test_a_recording_that_was_stopped_says_by_whom_and_one_that_was_never_wanted_that(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            recorder(tmp_path) as srs,
            proxy(tmp_path, srs, recorded=False) as process,
            phones(process) as (alice, _),
        ):
            api = client(process)
            await alice.dial("bob")
            await until_reply(lambda: the_call(api), lambda call: call["state"] == "confirmed")
            call = await the_call(api)
            assert (call["recording"], call["why"]) == ([], "no route, script or request asks for a recording")
            await api.post("/siprec_start_recording", all=True)
            await until(lambda: process.recording.counts().get("active") == 1)
            call = await the_call(api)
            assert call["why"] == ""
            assert [(each["instance"], each["wanted_by"]) for each in call["recording"]] == [("default", "api")]
            await api.post("/siprec_stop_recording", all=True, by="Eve")
            await until(lambda: process.recording.counts() == {})
            call = await the_call(api)
            [stopped] = call["recording"]
            assert stopped["state"] == "ended"
            assert stopped["why"] == "ended: stopped by api: Eve"
            assert [each["result"] for each in stopped["attempts"]] == ["established", "ended"]

    asyncio.run(scenario())
