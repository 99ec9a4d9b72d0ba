"""Which formats of an m-line are taken, and what its payload types mean."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from siprec import sdp
from siprec.audio import codecs
from siprec.recorder.secure import SrtpPolicy, acceptable


def codec_table(media: sdp.MediaDescription) -> dict[int, codecs.Codec]:
    """Payload type -> codec of an m-line, in its order; formats without a meaning are unknown codecs."""
    table: dict[int, codecs.Codec] = {}
    maps, fmtp = media.rtpmaps, media.fmtp
    for text in media.formats:
        number = sdp.payload_type(text)
        if number is None:
            continue
        meaning = maps.get(number)
        if meaning is None:
            table[number] = codecs.Codec("UNKNOWN", 8000 if media.kind == "audio" else 90000, 1, 8000, "unknown")
        else:
            table[number] = codecs.codec(meaning.encoding, meaning.clock_rate, meaning.channels, fmtp.get(text, ""))
    if media.kind != "audio":
        # Only audio is decoded, whatever a format is called.
        return {n: codecs.Codec(c.name, c.clock_rate, c.channels, c.sample_rate, "unknown") for n, c in table.items()}
    return table


def accepted_formats(media: sdp.MediaDescription, kinds: frozenset[str], srtp: SrtpPolicy = "allow") -> list[str]:
    """Formats of an m-line that are taken, where media of `kinds` are; none: it is rejected with port 0."""
    if media.port == 0 or media.kind not in kinds or not acceptable(media, srtp):
        return []
    table = codec_table(media)
    known = [number for number, codec in table.items() if codec.kind != "unknown"]
    decodable = any(table[number].kind == "audio" for number in known)
    # With one format that can be heard the others are declined; without, all are kept as raw RTP.
    return [str(number) for number in (known if decodable else table)]


@functools.cache
def _static() -> dict[int, codecs.Codec]:
    """What a static payload type of audio means that nobody declared (RFC 3551 6)."""
    return {number: codecs.codec(*entry) for number, entry in codecs.STATIC.items() if entry[1] != 90000}


def meanings(
    taken: Mapping[int, codecs.Codec], offered: Mapping[int, codecs.Codec], kind: str
) -> dict[int, codecs.Codec]:
    """What each payload type means that may arrive: the formats that were taken, those that were declined but may be
    sent all the same, and for audio the static ones, declared or not."""
    found = dict(taken)
    for more in (offered, _static() if kind == "audio" else {}):
        for number, codec in more.items():
            found.setdefault(number, codec)
    return found
