"""The recorder's library over HTTP: recordings found, looked at, heard and taken away.

Reads what `siprec recorder` wrote (:mod:`siprec.recorder.library`); everything that touches the disk runs in a thread.
"""

from __future__ import annotations

import asyncio
import mimetypes
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from starlette.responses import FileResponse, Response, StreamingResponse

from siprec.api import library_model
from siprec.api.problem import Problem

MAX_SCANNED: Final = 20_000
"""Recordings looked at, newest first, for one page; `next` goes on from there."""
_FILE: Final = re.compile(r"(?:stream-\d++|mix)[\w.-]*\.(?:wav|flac|pcap)|metadata-\d+\.xml|recording\.json")
_TYPES: Final = {".wav": "audio/wav", ".flac": "audio/flac", ".pcap": "application/vnd.tcpdump.pcap"}

T = TypeVar("T")


class Library:
    """The recordings below `root`. Methods raise :class:`Problem`: 404 there is none, 422 nonsense."""

    def __init__(self, root: Path) -> None:
        # Costs numpy and libsndfile: only where there is a library.
        from siprec.recorder.library import RecorderLibrary
        from siprec.recorder.recording_result import RecordingResult

        self._library = RecorderLibrary(root)
        self._result = RecordingResult

    async def page(self, query: library_model.LibraryQuery) -> library_model.LibraryPage:
        """Recordings that fit, newest first."""
        return await _in_thread(lambda: self._page(query))

    def _page(self, query: library_model.LibraryQuery) -> library_model.LibraryPage:
        found: list[library_model.LibraryEntry] = []
        for scanned, name in enumerate(self._names(query.after), 1):
            recording = self._library.by_id(name)
            entry = _entry(recording.id, recording.summary) if recording is not None else None
            if recording is not None and entry is not None and _fits(entry, query, recording.summary):
                found.append(entry)
            if len(found) >= query.limit or scanned >= MAX_SCANNED:
                return library_model.LibraryPage(recordings=found, next=name)
        return library_model.LibraryPage(recordings=found)

    def _names(self, after: str) -> Iterator[str]:
        """Names of recordings, newest first, older than `after`."""
        root = self._library.root
        for year in _descending(root, 4):
            for month in _descending(year, 2):
                for day in _descending(month, 2):
                    if after and f"{year.name}{month.name}{day.name}" > after[:8]:
                        continue
                    for path in _descending(day):
                        if not after or path.name < after:
                            yield path.name

    async def detail(self, name: str) -> Response:
        """``recording.json`` as it is."""
        recording = await self._find(name)
        return Response(msgspec.json.encode(recording.summary), media_type="application/json")

    async def file(self, name: str, file: str) -> Response:
        """One file of a recording; parts of it where the request asks for a range."""
        recording = await self._find(name)
        path = recording.directory / file
        if _FILE.fullmatch(file) is None or not path.is_file():
            raise Problem(404, "no such file")
        kind = _TYPES.get(path.suffix) or mimetypes.guess_type(file)[0] or "application/octet-stream"
        headers = {"Cache-Control": "private, no-store", "X-Content-Type-Options": "nosniff"}
        return FileResponse(path, media_type=kind, filename=f"{name}-{file}", headers=headers)

    async def vcon(self, name: str) -> Response:
        """The recording as a vCon."""
        from siprec.recorder.vcon import VconError, export

        recording = await self._find(name)
        try:
            pieces = await _in_thread(lambda: export(recording))
        except (VconError, OSError, KeyError) as error:
            raise Problem(409, f"no vCon of this recording: {error}") from None
        headers = {"Content-Disposition": f'attachment; filename="{name}.vcon"', "Cache-Control": "private, no-store"}
        return StreamingResponse(pieces, headers=headers, media_type="application/vcon+json")

    async def waveform(self, name: str, points: int) -> library_model.Waveforms:
        """Peaks of each participant's audio."""
        recording = await self._find(name)
        return await _in_thread(lambda: _waveforms(recording, points))

    async def _find(self, name: str) -> Any:
        found = await _in_thread(lambda: self._library.by_id(name))
        if found is None:
            raise Problem(404, "no such recording")
        return found


async def _in_thread(do: Callable[[], T]) -> T:
    return await asyncio.to_thread(do)


def _descending(directory: Path, digits: int = 0) -> list[Path]:
    try:
        found = [path for path in directory.iterdir() if not digits or _is_number(path.name, digits)]
    except OSError:
        return []
    return sorted(found, reverse=True)


def _is_number(name: str, digits: int) -> bool:
    return len(name) == digits and name.isdigit()


def _entry(name: str, summary: dict[str, Any]) -> library_model.LibraryEntry | None:
    try:
        parties = [
            library_model.LibraryParty(
                aor=str((person.get("names") or [{}])[0].get("aor") or ""),
                name=str((person.get("names") or [{}])[0].get("name") or ""),
            )
            for person in summary.get("participants", [])
        ]
        if not any(party.aor or party.name for party in parties):
            # Some clients name the parties in headers only.
            parties = [
                library_model.LibraryParty(aor=str(party.get("aor") or ""), name=str(party.get("name") or ""))
                for party in summary.get("recording_session", {}).get("parties", [])
            ]
        return library_model.LibraryEntry(
            id=name,
            state=str(summary.get("state", "unknown")),
            start=str(summary.get("start") or ""),
            duration=summary.get("duration"),
            parties=parties,
            call_id=str(summary.get("recording_session", {}).get("call_id", "")),
            sessions=[str(each.get("session_id")) for each in summary.get("communication_sessions", [])],
            streams=len(summary.get("streams", [])),
            lost=sum(int(each.get("packets", {}).get("lost", 0)) for each in summary.get("streams", [])),
        )
    except (AttributeError, TypeError, ValueError):
        return None  # not one of ours


def _fits(entry: library_model.LibraryEntry, query: library_model.LibraryQuery, summary: dict[str, Any]) -> bool:
    if query.since and entry.start < query.since:
        return False
    if query.until and entry.start > query.until:
        return False
    text = query.text.casefold()
    if not text:
        return True
    from siprec.recorder.library import index

    return text in entry.id.casefold() or any(text in word for word in index(summary))


def _waveforms(recording: Any, points: int) -> library_model.Waveforms:
    names = {
        person.get("participant_id"): next((n.get("name") or n.get("aor") for n in person.get("names", [])), "")
        for person in recording.summary.get("participants", [])
    }
    found = []
    for stream in recording.streams:
        path = recording.stream_file(stream.get("number"))
        if path is None or stream.get("kind") != "audio" or not path.is_file():
            continue
        peaks, duration = _peaks(path, points)
        party = ", ".join(str(names.get(each) or each) for each in stream.get("participants", []))
        found.append(
            library_model.Waveform(
                file=path.name, party=party, label=str(stream.get("label") or ""), duration=duration, peaks=peaks
            )
        )
    mix = recording.mix
    return library_model.Waveforms(
        mix=mix.name if mix is not None and mix.is_file() else "",
        duration=max((each.duration for each in found), default=0.0),
        streams=found,
    )


def _peaks(path: Path, points: int) -> tuple[list[int], float]:
    import numpy as np
    import soundfile  # type: ignore[import-untyped]

    try:
        with soundfile.SoundFile(str(path)) as audio:
            frames, rate = audio.frames, audio.samplerate
            if not frames:
                return [], 0.0
            size = max(1, -(-frames // points))
            peaks = []
            # Some seconds at a time, however long the recording.
            for block in audio.blocks(blocksize=size * max(1, 65536 // size), dtype="int16", always_2d=True):
                loudest = np.abs(block.astype(np.int32)).max(axis=1)
                starts = np.arange(0, len(loudest), size)
                peaks += [round(int(value) * 100 / 32768) for value in np.maximum.reduceat(loudest, starts)]
            return peaks, round(frames / rate, 3)
    except (OSError, soundfile.LibsndfileError, RuntimeError) as error:
        raise Problem(409, f"{path.name} cannot be read: {error}") from None
