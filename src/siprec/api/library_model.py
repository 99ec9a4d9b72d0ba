"""Values of the API about the library of finished recordings."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from siprec.api.model import After, Query


class LibraryQuery(Query, kw_only=True):
    """Filter of finished recordings."""

    text: Annotated[str, Meta(max_length=200, description="Part of an address, a name, a Call-ID or an id.")] = ""
    since: Annotated[str, Meta(max_length=40, description="RFC 3339 in UTC, or its beginning.")] = ""
    until: Annotated[str, Meta(max_length=40, description="RFC 3339 in UTC, or its beginning.")] = ""
    limit: Annotated[int, Meta(ge=1, le=200, description="How many at the most.")] = 50
    after: After = ""


class WaveformQuery(Query, kw_only=True):
    """How fine."""

    points: Annotated[int, Meta(ge=10, le=4000, description="Peaks per stream, about.")] = 800


class LibraryParty(msgspec.Struct, kw_only=True):
    """A participant."""

    aor: str
    name: str


class LibraryEntry(msgspec.Struct, kw_only=True):
    """A recording in the library. Times are RFC 3339."""

    id: str
    state: Annotated[str, Meta(description="recording, complete, interrupted or failed")]
    start: str
    duration: Annotated[float | None, Meta(description="Seconds of audio.")]
    parties: list[LibraryParty]
    call_id: Annotated[str, Meta(description="Of the recording session.")]
    sessions: Annotated[list[str], Meta(description="SIPREC session ids.")]
    streams: int
    lost: Annotated[int, Meta(description="Packets that did not come.")]


class LibraryPage(msgspec.Struct, kw_only=True):
    """Recordings, newest first."""

    recordings: list[LibraryEntry]
    next: Annotated[str, Meta(description="For `after`; empty on the last page.")] = ""


class Waveform(msgspec.Struct, kw_only=True):
    """Loudness over time of one stream: peaks in percent of full scale, evenly spaced."""

    file: str
    party: str
    label: str
    duration: float
    peaks: list[int]


class Waveforms(msgspec.Struct, kw_only=True):
    """All streams of a recording with audio; `mix` is the file with all of them, if there is one."""

    mix: str
    duration: float
    streams: list[Waveform]
