"""The recorder's half of offer and answer (RFC 3264, RFC 7866 7.2): pure functions of an offer."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace

from siprec import sdp
from siprec.audio.codecs import Codec
from siprec.recorder.formats import accepted_formats, codec_table
from siprec.recorder.secure import LineKeys
from siprec.recorder.settings import RecorderSettings


def acceptable(description: sdp.SessionDescription, settings: RecorderSettings) -> list[list[str]]:
    """Formats of each m-line that are taken; none: it is rejected with port 0."""
    tables: list[list[str]] = []
    left = settings.max_lines
    for media in description.media:
        formats = accepted_formats(media, settings.kinds, settings.srtp) if left > 0 else []
        left -= bool(formats)
        tables.append(formats)
    return tables


def taken(media: sdp.MediaDescription, formats: list[str]) -> tuple[Mapping[int, Codec], Mapping[int, Codec]]:
    """Payload types of an m-line and what they mean: those of `formats`, and all that are offered."""
    offered = codec_table(media)
    return {number: codec for number, codec in offered.items() if str(number) in formats}, offered


def rejected(media: sdp.MediaDescription) -> sdp.MediaDescription:
    """The answer to an m-line of which nothing is recorded."""
    return sdp.answer_media(media, port=0)


def accepted(
    media: sdp.MediaDescription, formats: list[str], port: int, keys: LineKeys | None
) -> tuple[sdp.MediaDescription, bool]:
    """The answer to an m-line that is received at `port`, and whether key frames may be asked for by RTCP (FIR, RFC
    5104)."""
    answer = sdp.answer_media(media, port=port, formats=formats, wanted="recvonly")
    if keys is not None:
        answer.set_attribute("crypto", keys.answer)
    fir = media.kind == "video" and media.proto.endswith("AVPF") and offers_fir(media)
    if fir:
        answer.lines.append("a=rtcp-fb:* ccm fir")
    return answer, fir


def is_numeric(address: str, ours: str) -> bool:
    """Whether `address` is an IP address of the family of `ours`."""
    return all(c in "0123456789abcdefABCDEF:." for c in address) and (":" in address) == (":" in ours)


class LocalDescription:
    """What we said last: its version goes up by one with each change, and only then (RFC 3264 8)."""

    __slots__ = ("_octets", "_origin")

    def __init__(self) -> None:
        self._origin = sdp.Origin(session_id=str(secrets.randbits(62)), version="0")
        self._octets = b""

    def build(self, media: list[sdp.MediaDescription], address: str) -> bytes:
        """The description with these m-lines."""
        self._origin = replace(self._origin, address=address)
        same = sdp.build_session(self._origin, media, name="siprec").to_bytes()
        if same != self._octets:
            self._origin = self._origin.bump()
            same = sdp.build_session(self._origin, media, name="siprec").to_bytes()
        self._octets = same
        return same


def offers_fir(media: sdp.MediaDescription) -> bool:
    return any(value.lower().split()[1:] == ["ccm", "fir"] for value in media.attributes("rtcp-fb"))
