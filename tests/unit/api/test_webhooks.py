"""Signatures, and dead letters on disk."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path

import pytest

from siprec.api import webhooks
from siprec.api.event_hub import EventHub, Numbered
from siprec.api.webhooks import Dead, DeadLetters, sign
from siprec.recording import events
from siprec.recording.events import SiprecEvent


def test_the_signature_is_that_of_the_specification() -> None:
    # The example of the Standard Webhooks reference libraries.
    signature = sign(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_any_other_secret_stands_for_itself() -> None:
    assert sign("a", "i", 1, b"x") != sign("b", "i", 1, b"x")
    assert sign("whsec_%%%", "i", 1, b"x").startswith("v1,")


def numbered() -> Numbered:
    hub = EventHub()
    hub(SiprecEvent(events.START, "d", "c", "r", "s", "sip:srs", "default", 1.0))
    return hub.since("")[0][0]


def test_dead_letters_are_json_lines_and_the_file_stays_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "MAX_FILE", 1000)
    path = tmp_path / "dead.jsonl"

    async def scenario() -> DeadLetters:
        letters = DeadLetters(path)
        for _ in range(40):
            letters.add(Dead("http://x/", numbered(), 3, "status 500"))
            await letters.flush()
        return letters

    letters = asyncio.run(scenario())
    assert (letters.written, letters.lost) == (40, 0)
    assert path.stat().st_size < 1500
    assert (tmp_path / "dead.jsonl.1").exists()
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        assert (entry["url"], entry["attempts"], entry["error"]) == ("http://x/", 3, "status 500")
        assert entry["event"]["event"] == events.START


def test_a_disk_that_is_full_loses_letters_and_nothing_else(tmp_path: Path) -> None:
    async def scenario() -> DeadLetters:
        letters = DeadLetters(tmp_path / "no" / "such" / "directory")
        letters.add(Dead("http://x/", numbered(), 1, "x"))
        await letters.flush()
        return letters

    letters = asyncio.run(scenario())
    assert (letters.written, letters.lost, len(letters)) == (0, 1, 0)


def test_letters_that_wait_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "MAX_DEAD", 5)

    async def scenario() -> DeadLetters:
        letters = DeadLetters(tmp_path / "dead.jsonl")
        for _ in range(8):
            letters.add(Dead("http://x/", numbered(), 1, "x"))
        return letters

    letters = asyncio.run(scenario())
    assert (len(letters), letters.lost) == (5, 3)


def test_what_was_being_written_when_the_writer_was_stopped_is_on_disk_after_the_last_flush(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "dead.jsonl"
    going, go_on = threading.Event(), threading.Event()
    append = DeadLetters._append

    def slow(self: DeadLetters, lines: bytes) -> None:
        going.set()
        assert go_on.wait(30)
        append(self, lines)

    monkeypatch.setattr(DeadLetters, "_append", slow)

    async def scenario() -> DeadLetters:
        letters = DeadLetters(path)
        writer = asyncio.create_task(letters.run())
        letters.add(Dead("http://x", numbered(), 1, "first"))
        assert await asyncio.to_thread(going.wait, 30)
        writer.cancel()
        await asyncio.wait((writer,))
        letters.add(Dead("http://x", numbered(), 0, "second"))
        last = asyncio.create_task(letters.flush())
        await asyncio.sleep(0)
        go_on.set()
        await last
        return letters

    letters = asyncio.run(scenario())
    assert [json.loads(line)["error"] for line in path.read_text().splitlines()] == ["first", "second"]
    assert (letters.written, letters.lost) == (2, 0)
