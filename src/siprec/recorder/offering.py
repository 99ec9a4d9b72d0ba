"""The offer to a recording client that sends none: audio to be received, in every codec that is decoded here."""

from __future__ import annotations

from typing import Final

_FORMATS: Final = "0 8 9 96 101"
_ATTRIBUTES: Final = (
    "rtpmap:0 PCMU/8000",
    "rtpmap:8 PCMA/8000",
    "rtpmap:9 G722/8000",
    "rtpmap:96 opus/48000/2",
    "rtpmap:101 telephone-event/8000",
    "fmtp:101 0-15",
)


def description(streams: int) -> bytes:
    """An SDP of `streams` audio lines with labels 1, 2...; ports and addresses are not yet those that are bound."""
    lines = ["v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=siprec", "t=0 0"]
    for number in range(1, streams + 1):
        lines += [f"m=audio 9 RTP/AVP {_FORMATS}", *(f"a={each}" for each in _ATTRIBUTES), "a=recvonly"]
        lines.append(f"a=label:{number}")
    return "\r\n".join(lines).encode() + b"\r\n"
