"""``siprec top`` at a terminal, while calls go on."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from pathlib import Path

from siprec.server.config_file import parse
from siprec.server.proxy_process import ProxyProcess
from tests.interop.api.apiworld import configuration, phones, proxy, recorder, until
from tests.interop.api.terminal import at_terminal

CRASH = """
from siprec.cli.top import app
def crash(self, key):
    raise RuntimeError("a defect")
app.Top._on_list = crash
app.Terminal.keys = lambda self, limit: ["q"]
app.run("{url}")
"""


def test_a_call_is_watched_and_its_recording_steered(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with recorder(tmp_path) as srs, proxy(tmp_path, srs) as process, phones(process) as (alice, _):
            assert process.api is not None
            async with at_terminal("top", SIPREC_API=process.api.url) as top:
                await top.sees("calls 0", "no calls", "MEDIA  up", "SRS    unknown  sip:")
                await alice.dial("bob")
                await until(lambda: process.recording.counts().get("active") == 1)
                [call] = process.core.calls.values()
                # 50 packets a second from each of them.
                shown = await top.sees("alice@example.test", "bob@example.test", "active", "SRS    up", srs)
                await top.until(lambda: re.search(r"active +(\d{2,3})/s", top.text))
                assert len(shown.splitlines()) <= 24

                top.press("p")
                await top.sees("pause recording: default is")
                await top.until(lambda: re.search(r"paused +0/s", top.text))
                assert process.recording.counts() == {"paused": 1}
                top.press("r")
                await until(lambda: process.recording.counts() == {"active": 1})
                await top.sees("1 active")

                top.press("\r")
                await top.sees("ladder of", "INVITE", "180 Ringing", "caller")
                top.press("\x1b[6~")
                top.press("q")
                await top.sees("CALLER", "RECORDING")
                top.press("d")
                await top.sees("details of", call.dlg_id, "PCMU/8000", "established")
                top.press("\x1b")
                await top.sees("CALLER")
                top.press("\t")
                await top.sees("embedded", srs, "Esc back")
                top.press("q?")
                await top.sees("pause, resume, stop the recording")
                top.press("qe")
                await top.sees("E_SIPREC_START", "E_SIPREC_PAUSED", "E_SIPREC_RESUMED")
                top.press("q")

                top.press("/carol")
                await top.sees("filter: carol", "no call fits")
                top.press("\x7f" * 5 + "ALICE\r")
                await top.sees("1 fit", "alice@example.test")

                top.resize(50, 8)
                await top.sees("alice@ex", "active", "q quit")
                top.resize(132, 40)
                await top.sees("alice@example.test", srs.removeprefix("sip:"), "? help")
                assert top.text.splitlines()[-1].startswith("q quit")

                top.press("s")
                await top.sees("Stop the recording default of", "y/n")
                top.press("n")
                await top.sees("not stopped")
                assert process.recording.counts() == {"active": 1}
                top.press("sy")
                await until(lambda: not process.recording.counts())
                await top.sees("recordings none")
                top.press("p")
                await top.sees("not recorded")
                top.press("R")
                await until(lambda: process.recording.counts() == {"active": 1})
                await top.sees("1 active")

                # What does not change is not written again: a second of a call is some fields, not a screen.
                before = len(top.written)
                clock = top.text.splitlines()[0]
                await top.until(lambda: top.text.splitlines()[0] != clock)
                assert len(top.written) - before < 132 * 40 / 2
                top.press("q")
                assert await top.ended() == 0

    asyncio.run(scenario())


def test_it_goes_on_when_the_proxy_comes_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with proxy(tmp_path, "sip:127.0.0.1:9") as process:
            assert process.api is not None
            url, port = process.api.url, process.api.address[1]
            text = configuration('["sip:127.0.0.1:9"]', tmp_path).replace(
                '[api]\nlisten = "127.0.0.1:0"', f'[api]\nlisten = "127.0.0.1:{port}"'
            )
            async with at_terminal("top", SIPREC_API=url) as top:
                await top.sees("calls 0")
                await process.stop()
                await top.sees("NOT CONNECTED", "nothing listens at")
                other = ProxyProcess(parse(text))
                try:
                    await other.start()
                    async with phones(other) as (alice, _):
                        await alice.dial("bob")
                        await top.sees("calls 1", "alice@example.test", without="NOT CONNECTED")
                    os.kill(top.process.pid, signal.SIGTERM)
                    assert await top.ended() == 0
                finally:
                    await other.stop()

    asyncio.run(scenario())


def test_however_it_ends_the_terminal_is_as_before(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with proxy(tmp_path, "sip:127.0.0.1:9") as process:
            assert process.api is not None
            async with at_terminal("top", SIPREC_API=process.api.url) as top:
                await top.sees("calls 0")
                # Away, and back again.
                top.press("\x1a")
                await top.until(lambda: top.written.endswith(b"\x1b[?1049l"))
                drawn = len(top.written)
                os.kill(top.process.pid, signal.SIGCONT)
                await top.until(lambda: b"calls 0" in top.written[drawn:])
                top.press("\x03")
                assert await top.ended() == 130
            async with at_terminal("top", SIPREC_API=process.api.url) as top:
                await top.sees("calls 0")
                os.kill(top.process.pid, signal.SIGHUP)
                assert await top.ended() == 0
            # A defect of ours.
            async with at_terminal("-c", CRASH.format(url=process.api.url)) as top:
                assert await top.ended() == 1
                await top.sees("RuntimeError: a defect")

    asyncio.run(scenario())
