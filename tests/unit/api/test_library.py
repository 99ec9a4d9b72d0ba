"""The library over HTTP: pages, filters, files, and nothing outside of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import soundfile  # type: ignore[import-untyped]
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from siprec.api import library_model
from siprec.api.library import Library
from siprec.api.problem import Problem
from siprec.recorder.library import RecorderLibrary

T = TypeVar("T")
DAY = 86400.0
FIRST = 1_790_000_000.0


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def recorded(root: Path, wall: float, name: str, *, audio: bool = False) -> str:
    directory = RecorderLibrary(root).new_directory(wall)
    summary: dict[str, Any] = {
        "state": "complete",
        "start": f"2026-09-{21 + round((wall - FIRST) / DAY):02d}T12:00:00.000Z",
        "duration": 1.0,
        "participants": [{"participant_id": "p", "names": [{"aor": f"sip:{name}@example.test", "name": name.title()}]}],
        "recording_session": {"call_id": f"call-{name}"},
        "streams": [],
    }
    if audio:
        samples = np.concatenate([np.zeros(4000, np.int16), np.full(4000, 16384, np.int16)])
        soundfile.write(str(directory / "stream-1.wav"), samples, 8000)
        summary["streams"] = [
            {"number": 1, "kind": "audio", "label": "1", "file": "stream-1.wav", "participants": ["p"]}
        ]
    (directory / "recording.json").write_text(json.dumps(summary))
    return directory.name


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "recordings"


def test_pages_go_from_new_to_old_and_miss_nothing(root: Path) -> None:
    names = [recorded(root, FIRST + number * DAY / 2, f"user{number}") for number in range(5)]
    library, after, seen = Library(root), "", []
    for _ in range(3):
        page = run(library.page(library_model.LibraryQuery(limit=2, after=after)))
        seen += [each.id for each in page.recordings]
        after = page.next
    assert seen == sorted(names, reverse=True)
    assert after == ""


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"text": "ALICE"}, ["Alice"]),
        ({"text": "call-bob"}, ["Bob"]),
        ({"text": "example.test"}, ["Carol", "Bob", "Alice"]),
        ({"since": "2026-09-22"}, ["Carol", "Bob"]),
        ({"until": "2026-09-22"}, ["Alice"]),
        ({"text": "nobody"}, []),
    ],
)
def test_recordings_are_found_by_words_and_times(root: Path, query: dict[str, str], found: list[str]) -> None:
    for number, name in enumerate(("alice", "bob", "carol")):
        recorded(root, FIRST + number * DAY, name)
    page = run(Library(root).page(library_model.LibraryQuery(**query)))  # type: ignore[arg-type]
    assert [each.parties[0].name for each in page.recordings] == found


def test_what_is_no_recording_of_ours_is_passed_over(root: Path) -> None:
    fine = recorded(root, FIRST, "alice")
    day = next(root.rglob("recording.json")).parent.parent
    for name, text in (("20260921T000000Z-00000001", "{"), ("20260921T000000Z-00000002", '{"streams": 5}'), ("x", "")):
        (day / name).mkdir()
        (day / name / "recording.json").write_text(text)
    (root / "2026" / "notes.txt").write_text("")
    page = run(Library(root).page(library_model.LibraryQuery()))
    assert [each.id for each in page.recordings] == [fine]


def test_peaks_show_where_it_is_loud(root: Path) -> None:
    name = recorded(root, FIRST, "alice", audio=True)
    (wave,) = run(Library(root).waveform(name, 10)).streams
    assert (wave.party, wave.label, wave.duration) == ("Alice", "1", 1.0)
    assert wave.peaks == [0] * 5 + [50] * 5


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("20260921T000000Z-00000000", "recording.json"),
        ("../../../etc", "passwd"),
        ("ID", "../recording.json"),
        ("ID", "..%2Frecording.json"),
        ("ID", "stream-9.wav"),
        ("ID", ".recording.json.tmp"),
        ("ID", "mix.wav/../../../../../../etc/passwd"),
    ],
)
def test_only_files_of_recordings_are_given_away(root: Path, name: str, file: str) -> None:
    ours = recorded(root, FIRST, "alice", audio=True)
    with pytest.raises(Problem) as problem:
        run(Library(root).file(ours if name == "ID" else name, file))
    assert problem.value.status == 404


def test_a_player_gets_the_range_it_asks_for(root: Path) -> None:
    name = recorded(root, FIRST, "alice", audio=True)
    library = Library(root)

    async def endpoint(request: Request) -> Any:
        return await library.file(name, "stream-1.wav")

    async def ask() -> tuple[int, bytes]:
        sent: list[Any] = []

        left = asyncio.Event()

        async def receive() -> Any:
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "GET",
            "path": "/",
            "query_string": b"",
            "headers": [(b"range", b"bytes=0-3")],
        }
        await Starlette(routes=[Route("/", endpoint)])(scope, receive, send)
        body = b"".join(each.get("body", b"") for each in sent[1:])
        return sent[0]["status"], body

    assert run(ask()) == (206, b"RIFF")
