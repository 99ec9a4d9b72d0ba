"""The commands against a live proxy, as processes of their own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from siprec.recording import events
from siprec.server.proxy_process import ProxyProcess
from tests.interop.api.apiworld import CONTROL, READ, phones, proxy, recorder, until


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str


async def siprec(process: ProxyProcess | str, *arguments: str, token: str = "") -> Ran:
    url = process if isinstance(process, str) else process.api.url if process.api is not None else ""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "siprec",
        *arguments,
        env={**os.environ, "SIPREC_API": url, "SIPREC_TOKEN": token},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(child.communicate(), 60)
    return Ran(child.returncode or 0, out.decode(), err.decode())


def test_a_call_is_listed_shown_paused_resumed_stopped_and_started(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with recorder(tmp_path) as srs, proxy(tmp_path, srs) as process, phones(process) as (alice, _):
            assert (await siprec(process, "ls")).out == "no calls\n"
            await alice.dial("bob")
            await until(lambda: process.recording.counts().get("active") == 1)
            [call] = process.core.calls.values()

            listed = await siprec(process, "ls")
            assert listed.status == 0
            for word in (call.dlg_id, "sip:alice@example.test", "confirmed", "default: active"):
                assert word in listed.out
            assert [each["dlg_id"] for each in json.loads((await siprec(process, "ls", "--json")).out)] == [call.dlg_id]
            assert (await siprec(process, "ls", "--user", "carol")).out == "no calls\n"

            shown = await siprec(process, "show", call.call_id)
            for word in (call.dlg_id, "default: active", "established", srs, "PCMU/8000", "caller", "callee"):
                assert word in shown.out
            assert json.loads((await siprec(process, "show", call.dlg_id, "--json")).out)["call_id"] == call.call_id

            assert "up" in (await siprec(process, "srs")).out
            assert json.loads((await siprec(process, "srs", "--json")).out)[0]["uri"] == srs
            assert "embedded" in (await siprec(process, "media")).out
            assert "bob@" in (await siprec(process, "registrations")).out

            paused = await siprec(process, "pause", call.dlg_id)
            assert (paused.status, paused.err) == (0, "")
            await until(lambda: process.recording.counts().get("paused") == 1)
            assert json.loads((await siprec(process, "resume", "--user", "bob", "--json")).out)[0]["done"] is True
            await until(lambda: process.recording.counts().get("active") == 1)
            assert (await siprec(process, "stop", "--all")).status == 0
            await until(lambda: not process.recording.counts())
            again = await siprec(process, "stop", call.dlg_id)
            assert (again.status, again.out) == (1, "")
            assert "not recorded" in again.err
            assert (await siprec(process, "start", call.call_id, "--srs", srs, "-i", "again")).status == 0
            await until(lambda: process.recording.counts().get("active") == 1)
            await alice.hang_up()

    asyncio.run(scenario())


def test_events_are_followed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with recorder(tmp_path) as srs, proxy(tmp_path, srs) as process, phones(process) as (alice, _):
            assert process.api is not None
            hub = process.api.api.hub
            follow = asyncio.create_task(siprec(process, "events", "--json", "--count", "2"))
            await until(lambda: len(hub) == 1)
            await alice.dial("bob")
            await until(lambda: process.recording.counts().get("active") == 1)
            await alice.hang_up()
            followed = await follow
            assert followed.status == 0, followed.err
            lines = [json.loads(line) for line in followed.out.splitlines()]
            assert [line["event"] for line in lines] == [events.START, events.STOP]

    asyncio.run(scenario())


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    async def scenario() -> None:
        tokens = f'tokens = {{ "{READ}" = "read", "{CONTROL}" = "control" }}'
        async with proxy(tmp_path, "sip:127.0.0.1:9", api=tokens) as process:
            assert process.api is not None
            url = process.api.url
            nobody = await siprec(process, "ls")
            assert nobody.status == 1
            assert "SIPREC_TOKEN" in nobody.err
            assert (await siprec(process, "ls", token=READ)).out == "no calls\n"
            assert "role control" in (await siprec(process, "stop", "--all", token=READ)).err
            assert "no call 'x'" in (await siprec(process, "show", "x", token=READ)).err
            assert "which call?" in (await siprec(process, "stop", token=CONTROL)).err
            assert "known: E_SIPREC" in (await siprec(process, "events", "--event", "X", token=READ)).err
            assert "draining, calls left: 0" in (await siprec(process, "drain", token=CONTROL)).out
            assert process.core.drain.draining
            assert "taking calls" in (await siprec(process, "drain", "--off", token=CONTROL)).out
            assert "embedded: draining" in (await siprec(process, "drain", "--media", "embedded", token=CONTROL)).out
            assert process.media.current is None
            assert "draining" in (await siprec(process, "media", token=READ)).out
            await siprec(process, "drain", "--media", "embedded", "--off", token=CONTROL)
            assert process.media.current is not None
            assert "known: embedded" in (await siprec(process, "drain", "--media", "x", token=CONTROL)).err
        gone = await siprec(url, "ls")
        assert (gone.status, gone.out) == (1, "")
        assert url in gone.err
        assert "[api]" in gone.err
        assert "listen" in gone.err
        assert "Traceback" not in gone.err
        assert "no URL" in (await siprec("ftp://x", "ls")).err

    asyncio.run(scenario())
