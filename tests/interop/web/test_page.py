"""The web page in a real browser: a live call watched and paused, a recording found and played."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.interop.api.apiworld import CONTROL, HOST, READ, phones, proxy, recorder, recorder_process, until

playwright = pytest.importorskip("playwright.async_api", reason="playwright is missing: pip install -e '.[test]'")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is missing: apt-get install chromium")
LIMIT = 30_000
SCREENSHOTS = os.environ.get("SIPREC_SCREENSHOTS", "")
"""Directory for the pictures of docs/, if they are to be made."""
TOKENS = f'tokens = {{ "{READ}" = "read", "{CONTROL}" = "control" }}\n'


@asynccontextmanager
async def browser(url: str, **options: Any) -> AsyncIterator[Any]:
    """A page at `url`; what it complains of fails the test at the end."""
    async with playwright.async_playwright() as driver:
        chromium = await driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        )
        try:
            page = await chromium.new_page(**options)
            page.set_default_timeout(LIMIT)
            playwright.expect.set_options(timeout=LIMIT)
            errors: list[str] = []
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("console", lambda line: errors.append(line.text) if "Content Security" in line.text else None)
            await page.goto(url)
            yield page
            assert errors == []
        finally:
            await chromium.close()


async def picture(page: Any, name: str) -> None:
    if SCREENSHOTS:
        await page.screenshot(path=str(Path(SCREENSHOTS) / name))


def library(tmp_path: Path) -> str:
    return f"library = {json.dumps(str(tmp_path / 'recordings'))}\n"


def test_a_live_call_is_seen_paused_resumed_and_stopped(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with recorder(tmp_path) as srs, proxy(tmp_path, srs) as process:
            assert process.api is not None
            async with browser(process.api.url, color_scheme="dark") as page:
                expect = playwright.expect
                await expect(page.get_by_text("No call at the moment")).to_be_visible()
                await expect(page.get_by_role("status")).to_have_text("live")
                async with phones(process) as (alice, _bob):
                    await alice.dial("bob")
                    # It shows up by itself.
                    row = page.get_by_role("row").filter(has_text="alice@")
                    await expect(row.locator(".state.active")).to_be_visible()
                    await row.get_by_role("button", name="Pause").click()
                    await expect(row.locator(".state.paused")).to_be_visible()
                    assert {each.state for each in process.recording.info()} == {"paused"}
                    await picture(page, "page-calls.png")
                    # By keyboard: the focus is where it was, and Enter goes on.
                    resume = row.get_by_role("button", name="Resume")
                    await resume.focus()
                    await page.keyboard.press("Enter")
                    await expect(row.locator(".state.active")).to_be_visible()
                    await row.get_by_role("link").click()
                    card = page.get_by_role("region", name="Recording default")
                    await expect(card.get_by_role("img")).to_be_visible()
                    await expect(card.locator(".line .pause")).to_have_count(1)
                    await expect(card.get_by_role("table", name="Streams").get_by_role("row")).to_have_count(3)
                    await alice.offer_again("sendonly")
                    await expect(card.locator(".line .hold")).to_have_count(1)
                    await alice.offer_again("sendrecv")
                    ladder = page.get_by_role("region", name="Ladder")
                    step = ladder.get_by_role("button", name="to SRS").filter(has_text="INVITE").first
                    await step.click()
                    await expect(ladder.get_by_label("Message", exact=True)).to_contain_text("application/rs-metadata")
                    await picture(page, "page-call.png")
                    await card.get_by_role("button", name="Stop").click()
                    await expect(card).to_contain_text("ended: stopped by api: web page")
                    await expect(page.get_by_text("Not recorded: default: ended")).to_be_visible()
                    await expect(card.get_by_role("table", name="Pauses")).to_contain_text("web page")
                    await page.get_by_role("link", name="Events").click()
                    await expect(page.get_by_text("E_SIPREC_PAUSED")).to_be_visible()
                    await expect(page.get_by_text("E_SIPREC_STOP")).to_be_visible()
                    await page.get_by_role("link", name="Servers").click()
                    await expect(page.get_by_role("table", name="Session recording servers")).to_contain_text(srs)
                    await alice.hang_up()
                await page.get_by_role("link", name="Calls", exact=True).click()
                await expect(page.get_by_text("No call at the moment")).to_be_visible()

    asyncio.run(scenario())


def test_a_recording_is_found_seen_and_played(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with recorder(tmp_path) as srs, proxy(tmp_path, srs, api=library(tmp_path)) as process:
            assert process.api is not None
            async with phones(process) as (alice, bob):
                await alice.dial("bob")
                await until(lambda: bob.media is not None and bob.media.received > 100)
                await alice.hang_up()
            files = tmp_path / "recordings"
            await until(lambda: any('"complete"' in path.read_text() for path in files.rglob("recording.json")))
            async with browser(f"{process.api.url}/#/library") as page:
                expect = playwright.expect
                await page.get_by_label("Search").fill("nobody")
                await page.get_by_role("button", name="Find").click()
                await expect(page.get_by_text("Nothing fits.")).to_be_visible()
                await page.get_by_label("Search").fill("ALICE")
                await page.get_by_role("button", name="Find").click()
                await page.get_by_role("table", name="Recordings").get_by_role("link").first.click()
                waves = page.locator("canvas.wave")
                await expect(waves).to_have_count(2)
                loud = "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(v => v)"
                assert await waves.first.evaluate(loud)
                audio = page.locator("audio")
                await picture(page, "page-recording.png")
                await audio.evaluate("audio => audio.play()")
                async with asyncio.timeout(30):
                    while await audio.evaluate("audio => audio.currentTime") < 0.3:
                        await asyncio.sleep(0.05)
                assert await audio.evaluate("audio => audio.duration") > 1.5
                async with page.expect_download() as download:
                    await page.get_by_role("button", name="vCon").click()
                path = await (await download.value).path()
                assert json.loads(Path(path).read_text())["vcon"] == "0.4.0"

    asyncio.run(scenario())


def test_a_token_is_asked_for_and_its_role_counts(tmp_path: Path) -> None:
    async def scenario() -> None:
        api = library(tmp_path) + TOKENS
        async with recorder(tmp_path) as srs, proxy(tmp_path, srs, api=api) as process, phones(process) as (alice, _):
            assert process.api is not None
            await alice.dial("bob")
            async with browser(process.api.url) as page:
                expect = playwright.expect
                field = page.get_by_label("Token of this API")
                await field.fill(READ)
                await page.get_by_role("button", name="Use it").click()
                row = page.get_by_role("row").filter(has_text="alice@")
                await row.get_by_role("button", name="Pause").click()
                await expect(page.get_by_role("alert")).to_contain_text("role control")
                assert {each.state for each in process.recording.info()} <= {"active", "inviting", "forking"}
                await page.get_by_role("button", name="Token…").click()
                await field.fill(CONTROL)
                await page.get_by_role("button", name="Use it").click()
                await row.get_by_role("button", name="Pause").click()
                await expect(row.locator(".state.paused")).to_be_visible()
            await alice.hang_up()

    asyncio.run(scenario())


def test_the_recorder_shows_its_sessions_and_recordings(tmp_path: Path) -> None:
    async def scenario() -> None:
        more = f'[recorder.api]\nlisten = "{HOST}:0"'
        async with (
            recorder_process(tmp_path, more) as child,
            proxy(tmp_path, f"sip:{HOST}:{child.address()[1]}") as process,
        ):
            url = f"http://{HOST}:{child.address('http')[1]}"
            async with browser(url) as page, phones(process) as (alice, _bob):
                expect = playwright.expect
                await expect(page.get_by_text("No session at the moment")).to_be_visible()
                await alice.dial("bob")
                row = page.get_by_role("row").filter(has_text="Alice")
                await expect(row.locator(".state.active")).to_have_count(2)
                await expect(row.get_by_text(" packets")).to_have_count(2)
                [call] = process.core.calls.values()
                assert process.recording.siprec_pause_recording(call)
                await expect(row.locator(".state.paused")).to_have_count(2)
                await alice.hang_up()
                await expect(page.get_by_text("No session at the moment")).to_be_visible()
                await page.get_by_role("link", name="Recordings").click()
                await page.get_by_role("row").filter(has_text="complete").get_by_role("link").click()
                await expect(page.locator("canvas")).to_have_count(2)

    asyncio.run(scenario())
