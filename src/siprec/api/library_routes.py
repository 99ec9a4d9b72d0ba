"""Routes of a `library`, which the proxy's API and the recorder's both have."""

from __future__ import annotations

from typing import Final, Protocol

from siprec.api import library_model
from siprec.api.library import Library
from siprec.api.operation import Answer, Asked, Operation
from siprec.api.problem import Problem


class Owner(Protocol):
    """Who shows a library, or none."""

    library: Library | None


def _shelf(api: Owner) -> Library:
    if api.library is None:
        raise Problem(404, "no library is shown here (api.library)")
    return api.library


async def _library(api: Owner, asked: Asked) -> Answer:
    assert isinstance(asked.query, library_model.LibraryQuery)
    return await _shelf(api).page(asked.query)


async def _library_detail(api: Owner, asked: Asked) -> Answer:
    return await _shelf(api).detail(asked.path("id"))


async def _library_file(api: Owner, asked: Asked) -> Answer:
    return await _shelf(api).file(asked.path("id"), asked.path("file"))


async def _library_vcon(api: Owner, asked: Asked) -> Answer:
    return await _shelf(api).vcon(asked.path("id"))


async def _library_waveform(api: Owner, asked: Asked) -> Answer:
    assert isinstance(asked.query, library_model.WaveformQuery)
    return await _shelf(api).waveform(asked.path("id"), asked.query.points)


LIBRARY: Final = (
    Operation(
        "GET",
        "/library",
        "read",
        "Recordings of the recorder on this host, newest first.",
        _library,
        library_model.LibraryPage,
        query=library_model.LibraryQuery,
        problems=(404,),
    ),
    Operation(
        "GET",
        "/library/{id}",
        "read",
        "All that is known of one of them (recording.json).",
        _library_detail,
        "application/json",
        problems=(404,),
    ),
    Operation(
        "GET",
        "/library/{id}/waveform",
        "listen",
        "Loudness over time, per participant.",
        _library_waveform,
        library_model.Waveforms,
        query=library_model.WaveformQuery,
        problems=(404, 409),
    ),
    Operation(
        "GET",
        "/library/{id}/vcon",
        "listen",
        "The recording as a vCon.",
        _library_vcon,
        "application/vcon+json",
        problems=(404, 409),
    ),
    Operation(
        "GET",
        "/library/{id}/files/{file}",
        "listen",
        "A file of it: audio, capture or metadata; ranges may be asked for.",
        _library_file,
        "application/octet-stream",
        problems=(404,),
    ),
)
"""For whoever has a `library`."""
