"""Answers that do not fit their offer, mended (RFC 3264 6): as many m-lines as were offered, in that order and of those
kinds. No I/O.

Devices answer with fewer lines, with more, or in another order. Both parties and the media server have to agree on
which line is which, so a line that the answer lacks counts as rejected, and one that was not offered is left out.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from siprec.sdp.build import answer_media
from siprec.sdp.description import MAX_SIZE, MediaDescription, SessionDescription, parse
from siprec.sdp.values import SdpError

_KINDS: Final = re.compile(rb"^m=([^ \t\r\n]*)", re.MULTILINE)
_SOUND: Final = re.compile(rb"v=[^\n\0]*(?:\n(?:[A-Za-z]=[^\n\0]+|\r?))*")
_LINE: Final = re.compile(rb"[A-Za-z]=[^\0\r]+")


def fitted(offer: bytes, answer: bytes) -> bytes:
    """`answer`, as it came when it fits `offer`, else mended: lines missing, surplus or in another order, no ``c=``,
    lines that are no SDP. What cannot be mended is returned as it came."""
    if (
        _SOUND.fullmatch(answer) is not None
        and _KINDS.findall(answer) == _KINDS.findall(offer)
        and -1 < answer.find(b"\nc=") < answer.find(b"\nm=")
    ):
        return answer
    try:
        offered = parse(offer)
        answered = _read(answer)
        if [line.kind for line in answered.media] != [line.kind for line in offered.media]:
            answered.media[:] = _arranged(offered, answered)
        addressed = _addressed(answered)
        result = answered.to_bytes()
    except SdpError:
        return answer
    # What is read more leniently here than elsewhere is written anew; all else is left as it came.
    return result if addressed or result.split() != answer.split() else answer


def _read(octets: bytes) -> SessionDescription:
    """A description; lines that are none are left out where it cannot be read otherwise. Raises SdpError."""
    try:
        return parse(octets)
    except SdpError:
        lines = [line for row in octets[:MAX_SIZE].splitlines() if _LINE.fullmatch(line := row.strip())]
        first = next((index for index, line in enumerate(lines) if line.startswith(b"v=")), None)
        kept = lines[first:] if first is not None else [b"v=0", *lines]
        description = parse(b"\r\n".join([*kept, b""]))
        if not description.media:
            raise
        return description


def _arranged(offered: SessionDescription, answered: SessionDescription) -> list[MediaDescription]:
    """The lines of the answer in the places of the lines they answer; rejected ones where there are none."""
    places: list[MediaDescription | None] = [None] * len(offered.media)
    # Lines in use choose first: a rejected one says nothing.
    for index, line in sorted(enumerate(answered.media), key=lambda each: (each[1].rejected, each[0])):
        free = [
            at
            for at, other in enumerate(offered.media)
            if places[at] is None and other.kind.lower() == line.kind.lower() and (line.rejected or not other.rejected)
        ]
        if free:
            at = min(free, key=lambda at: (*_unlike(offered.media[at], line), at != index, at))
            places[at] = line
    result = []
    for other, found in zip(offered.media, places, strict=True):
        line = found or answer_media(other, port=0)
        line.kind = other.kind
        line.inherited = answered.lines
        result.append(line)
    return result


def _unlike(offered: MediaDescription, answered: MediaDescription) -> tuple[bool, bool]:
    """By what two lines of one kind are told apart: ``a=mid`` (RFC 5888), then the protocol."""
    mids = offered.mid, answered.mid
    return None not in mids and mids[0] != mids[1], offered.proto.upper() != answered.proto.upper()


def _addressed(answered: SessionDescription) -> bool:
    """Give lines in use that say no address the one in ``o=``; whether there were any."""
    origin = answered.origin
    bare = [line for line in answered.media if not line.rejected and line.connection is None]
    if not bare or origin is None:
        return False
    try:
        address = ipaddress.ip_address(origin.address)
    except ValueError:
        return False
    if address.is_unspecified:
        return False
    for line in bare:
        line.set_address(str(address))
    return True
