"""What is asked of the parties' descriptions again and again: which streams there are, and which way they go."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, NamedTuple

from siprec import sdp
from siprec.sdp import SdpError


class StreamDigest(NamedTuple):
    """What a description says of its streams. `signature`: what makes other copies and another offer necessary when it
    changes; `directions`: of each m-line, whether who sent the description sends and receives there."""

    signature: object
    directions: tuple[tuple[bool, bool], ...]


@lru_cache(maxsize=512)
def digest(description: bytes) -> StreamDigest:
    """What is asked of a description again and again; of one that cannot be read, nothing but what it is."""
    try:
        media = sdp.parse(description).media if description else []
    except SdpError:
        return StreamDigest(description, ())
    streams, found = [], []
    for line in media:
        meanings = (*line.attributes("rtpmap"), *line.attributes("fmtp"))
        streams.append((line.kind, line.proto, line.rejected, *line.formats, *meanings))
        direction = "" if line.rejected else line.direction
        connection = line.connection
        # The old form of hold (RFC 3264 8.4): nothing is to be sent to this party.
        held = connection is not None and connection.is_zero
        found.append(("send" in direction, "recv" in direction and not held))
    return StreamDigest(tuple(streams), tuple(found))


def may(description: bytes, index: int, what: Literal["send", "recv"]) -> bool:
    """Whether who sent `description` sends or receives on its m-line `index`; what cannot be read forbids nothing."""
    found = digest(description).directions
    return index >= len(found) or found[index][what == "recv"]
