"""Session descriptions for a media server that knows none (RTPProxy): those of the parties, and of copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from siprec import sdp
from siprec.media.engine import ForkedStream
from siprec.sdp import MediaDescription, SessionDescription
from siprec.sdp import crypto as sdp_crypto
from siprec.sdp.crypto import Crypto, CryptoError

DISCARD: Final = 9
"""The port of a stream whose source nobody tells (RFC 863)."""
Key = tuple[str, int]
"""A stream: the tag of who sends it, and its m-line from 0."""

_PLAIN: Final = {"RTP/AVP": "RTP/SAVP", "RTP/AVPF": "RTP/SAVPF"}

_OWN: Final = (
    "candidate",
    "end-of-candidates",
    "ice-ufrag",
    "ice-pwd",
    "ice-options",
    "ice-lite",
    "ice-mismatch",
    "remote-candidates",
    "rtcp",
    "rtcp-mux",
    "rtcp-mux-only",
)
"""What names other ways to a party, past the relay: ICE, RTCP elsewhere than on the next port."""


def private_removed(description: SessionDescription, places: Mapping[int, object]) -> None:
    """Take out of the m-lines in `places` what would lead media past the relay; bundles are dissolved."""
    for index in places:
        description.media[index].remove_attributes(*_OWN)
    if places:
        description.remove_attributes("ice-ufrag", "ice-pwd", "ice-options", "ice-lite")
        description.lines[:] = [line for line in description.lines if not line.startswith("a=group:BUNDLE")]


def pointed(description: SessionDescription, places: Mapping[int, tuple[str, int]], *, origin: bool = False) -> None:
    """Point m-lines to the addresses and ports in `places` (by index from 0).

    The null address of an old-style hold stays (RFC 3264 8.4). Lines that are not in `places` keep the address they had
    from the session's ``c=``. `origin`: the address in ``o=`` too.
    """
    if not places:
        return
    address = next(iter(places.values()))[0]
    shared = description.connection
    inheriting = [media for media in description.media if media.own_connection() is None]
    if shared is not None and not shared.is_zero:
        for index, media in enumerate(description.media):
            if index not in places and media in inheriting and not media.rejected:
                media.set_address(shared.address)
        for index in places:
            if description.media[index] in inheriting and places[index][0] != address:
                description.media[index].set_address(places[index][0])
        description.rewrite_connection(address)
    for index, (host, port) in places.items():
        media = description.media[index]
        own = media.own_connection()
        if (own is not None and not own.is_zero) or (own is None and shared is None):
            media.set_address(host)
        media.port = port
    if origin and description.origin is not None:
        description.origin = replace(description.origin, address=address)


def relayable(media: MediaDescription) -> bool:
    """An m-line that RTPProxy has a part in: RTP, whoever encrypts it, and not refused."""
    return media.port != 0 and "RTP/" in media.proto.upper()


def established(agreed: Mapping[str, bytes]) -> list[int]:
    """The m-lines that both took."""
    first, second = (sdp.parse(body) for body in agreed.values())
    return [
        index
        for index, (a, b) in enumerate(zip(first.media, second.media, strict=False))
        if relayable(a) and relayable(b)
    ]


def forked_streams(agreed: Mapping[str, bytes], tags: Sequence[str], address: str) -> tuple[ForkedStream, ...]:
    """What each of `tags` sends, as the recorder is to be told: payload types are those the other party asked for
    (RFC 3264 5.1), formats those that both know. SRTP is copied as it is, so the recorder is told the party's key (RFC
    7866 12.2); left out are streams of which nobody but the parties has the key (DTLS).

    Raises:
        SdpError: a description that cannot be read.
    """
    parties = {tag: sdp.parse(body) for tag, body in agreed.items()}
    lines = established(agreed)
    streams = []
    for tag in tags:
        other = next((each for each in parties if each != tag), None)
        if tag not in parties or other is None:
            continue
        for index in lines:
            sender, receiver = parties[tag].media[index], parties[other].media[index]
            key = _key(sender, receiver)
            if key is not None or receiver.proto.upper() in _PLAIN:
                section = _section(sender, receiver, address)
                if key is not None:
                    section.proto = _PLAIN.get(receiver.proto.upper(), receiver.proto)
                    section.lines.append(f"a=crypto:{Crypto(1, key.suite, key.key).value()}")
                streams.append(ForkedStream(tag, index, sender.kind, section))
    return tuple(streams)


def _key(sender: MediaDescription, receiver: MediaDescription) -> Crypto | None:
    """What `sender` encrypts with: of the pair of lines with one tag and suite its own (RFC 4568 5.1.2). Also in
    ``RTP/AVP``, where both have one (RFC 8643)."""
    if "UDP/TLS" in receiver.proto.upper():
        return None
    offered = _keys(sender)
    return next((own for each in _keys(receiver) if (own := sdp_crypto.matches(offered, each)) is not None), None)


def _keys(line: MediaDescription) -> list[Crypto]:
    found = []
    for value in line.attributes("crypto")[:32]:
        try:
            found.append(sdp_crypto.parse(value))
        except CryptoError:
            continue
    return [crypto for crypto in found if not crypto.mki_length]


def _section(sender: MediaDescription, receiver: MediaDescription, address: str) -> MediaDescription:
    own = {str(meaning).lower() for meaning in sender.rtpmaps.values()}
    maps = receiver.rtpmaps
    formats = [
        text
        for text in receiver.formats
        if (number := sdp.payload_type(text)) is None
        or (meaning := maps.get(number)) is None
        or str(meaning).lower() in own
    ]
    section = MediaDescription(receiver.kind, DISCARD, receiver.proto, formats or list(receiver.formats))
    section.lines = [sdp.connection_line(address)] if address else []
    section.lines += [
        line
        for line in receiver.lines
        if line.startswith(("a=rtpmap:", "a=fmtp:", "a=ptime:", "a=maxptime:"))
        and (not line.startswith(("a=rtpmap:", "a=fmtp:")) or line.partition(":")[2].split(" ")[0] in section.formats)
    ]
    section.lines.append("a=sendonly")
    return section


def targets(body: bytes, streams: Sequence[ForkedStream]) -> dict[Key, tuple[str, int]]:
    """Where the recorder's answer wants each stream; those it does not want now have none.

    Raises:
        SdpError: the answer cannot be read.
    """
    found: dict[Key, tuple[str, int]] = {}
    for stream, media in zip(streams, sdp.parse(body).media, strict=False):
        connection = media.connection
        wanted = not media.rejected and media.direction in ("recvonly", "sendrecv")
        if wanted and connection is not None and not connection.is_zero:
            found[stream.from_tag, stream.source_index] = (connection.address, media.port)
    return found
