"""Values of the recorder's own API."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class RecorderStream(msgspec.Struct, kw_only=True):
    """One stream that a recording session receives."""

    label: str
    kind: str
    codecs: list[str]
    srtp: bool
    port: Annotated[int, Meta(description="Where it is received.")]
    source: Annotated[str, Meta(description="Where it comes from; empty: nothing came so far.")]
    receiving: Annotated[bool, Meta(description="False while the recording client has paused it.")]
    packets: int
    lost: int
    silent: Annotated[float | None, Meta(description="Seconds since the last packet.")] = None


class RecorderSession(msgspec.Struct, kw_only=True):
    """One recording session in progress."""

    call_id: str
    client: Annotated[str, Meta(description="From of the recording client.")]
    source: Annotated[str, Meta(description="Its address.")]
    start: float
    parties: list[str]
    recordings: Annotated[list[str], Meta(description="Ids in the library.")]
    streams: list[RecorderStream]


class RecorderSessions(msgspec.Struct, kw_only=True):
    """A page of recording sessions, oldest first."""

    sessions: list[RecorderSession]
    total: int
    limit: Annotated[int, Meta(description="More are refused (503).")]
    next: Annotated[str, Meta(description="For `after`; empty on the last page.")] = ""


class RecorderHealth(msgspec.Struct, kw_only=True):
    """`ok`, or why no further recording is taken."""

    status: Literal["ok", "not listening", "full", "no disk space"]
    free: Annotated[int, Meta(description="Megabytes free where the recordings are.")]
    reason: Annotated[str, Meta(description="What is wrong with the disk.")] = ""
