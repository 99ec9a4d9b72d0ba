"""Descriptions and m-lines built from nothing, and answers (RFC 3264 6, RFC 7866 7)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from siprec.sdp.description import MediaDescription, SessionDescription
from siprec.sdp.values import (
    PAYLOAD_TYPES,
    TOKEN,
    Direction,
    Origin,
    RtpMap,
    SdpError,
    connection_line,
)

_REVERSED: Final[dict[Direction, Direction]] = {
    "sendrecv": "sendrecv",
    "sendonly": "recvonly",
    "recvonly": "sendonly",
    "inactive": "inactive",
}


def answer_direction(offered: Direction, ready: bool = True, wanted: Direction = "sendrecv") -> Direction:
    """The direction of an answer (RFC 3264 6.1).

    `wanted` is what this side would do, seen from here: a recorder wants ``recvonly`` (RFC 7866 7.2), so that an offer
    of ``sendonly`` or ``sendrecv`` is answered ``recvonly``. Not `ready`: ``inactive``.
    """
    if not ready:
        return "inactive"
    mirrored = _REVERSED[offered]
    send = "send" in mirrored and "send" in wanted
    receive = "recv" in mirrored and "recv" in wanted
    if send and receive:
        return "sendrecv"
    return "sendonly" if send else "recvonly" if receive else "inactive"


def build_media(
    kind: str,
    port: int,
    formats: Sequence[str | int],
    *,
    proto: str = "RTP/AVP",
    address: str = "",
    rtcp_port: int | None = None,
    rtcp_mux: bool = False,
    rtpmaps: dict[int, RtpMap] | None = None,
    fmtp: dict[str, str] | None = None,
    ptime: float | None = None,
    direction: Direction | None = None,
    label: str = "",
    attributes: Iterable[str] = (),
) -> MediaDescription:
    """A fresh m-line. `address` gives it a ``c=`` of its own, `rtcp_port` an ``a=rtcp`` (RFC 3605) where it is not
    `port` + 1, `attributes` are further ``name:value`` strings."""
    if label and not TOKEN.fullmatch(label):
        raise SdpError(f"label {label!r} is not a token")  # RFC 4574 4
    media = MediaDescription(kind, port, proto, [str(text) for text in formats])
    lines = media.lines
    if address:
        lines.append(connection_line(address))
    if label:
        lines.append(f"a=label:{label}")
    if rtpmaps:
        lines += [f"a=rtpmap:{number} {meaning}" for number, meaning in rtpmaps.items()]
    if fmtp:
        lines += [f"a=fmtp:{text} {parameters}" for text, parameters in fmtp.items() if text in media.formats]
    if ptime:
        lines.append(f"a=ptime:{ptime:g}")
    if attributes:
        lines += [f"a={attribute}" for attribute in attributes]
    if rtcp_mux:
        lines.append("a=rtcp-mux")
    if rtcp_port is not None and rtcp_port != port + 1 and port:
        lines.append(f"a=rtcp:{rtcp_port}")
    if direction:
        lines.append(f"a={direction}")
    return media


def build_session(origin: Origin, media: Iterable[MediaDescription], *, name: str = "-") -> SessionDescription:
    """A fresh description (RFC 8866 5). m-lines without a ``c=`` of their own get the session's, `origin`'s address."""
    description = SessionDescription(["v=0", origin.to_line(), f"s={name or '-'}"])
    bare = False
    for each in media:
        description.add(each)
        bare = bare or each.own_connection() is None
    if bare or not description.media:
        description.lines.append(connection_line(origin.address))
    description.lines.append("t=0 0")
    return description


KEY_FRAME_FEEDBACK: Final = ("rtcp-fb:* ccm fir", "rtcp-fb:* nack pli")
"""What our relay can have a party asked for (RFC 5104 7.1, RFC 4585 4.2); what else a party understands is its own."""
_COPIED: Final = ("rtpmap", "fmtp", "ptime", "maxptime", "framerate", "imageattr", "content")
"""What describes a format and may go to a recorder; all else is private to the call."""


def recording_media(
    source: MediaDescription,
    *,
    label: str,
    direction: Direction = "sendonly",
    port: int | None = None,
    address: str | None = None,
    proto: str | None = None,
) -> MediaDescription:
    """An m-line for the offer to an SRS, from what the media server offers for one stream (RFC 7866 7.1).

    Address, port, RTCP port, protocol and formats are `source`'s, unless given; format attributes are copied, nothing
    else of it is.
    """
    connection = source.connection
    where = address if address is not None else (connection.address if connection else "")
    rtcp, multiplexed, known = source.rtcp, source.rtcp_mux, source.rtpmaps
    media = build_media(
        source.kind,
        source.port if port is None else port,
        source.formats,
        proto=proto or source.proto,
        address=where,
        label=label,
    )
    for line in source.lines:
        name = line[2:].partition(":")[0].strip() if line[:2] == "a=" else ""
        if name == "rtpmap":
            copied = PAYLOAD_TYPES.get(line[9:].partition(" ")[0]) in known
        elif name == "fmtp":
            copied = line[7:].partition(" ")[0] in source.formats
        else:
            copied = name in _COPIED or line[2:] in KEY_FRAME_FEEDBACK
        if copied:
            media.lines.append(line)
    if multiplexed:
        media.lines.append("a=rtcp-mux")
    if rtcp and port is None and source.port and rtcp[1] != source.port + 1 and not multiplexed:
        media.lines.append(f"a=rtcp:{rtcp[1]}")
    media.lines.append(f"a={direction}")
    return media


def answer_media(
    offered: MediaDescription,
    *,
    port: int,
    formats: Sequence[str] | None = None,
    address: str = "",
    rtcp_port: int | None = None,
    ready: bool = True,
    wanted: Direction = "recvonly",
    label: bool = True,
) -> MediaDescription:
    """The answer to one m-line (RFC 3264 6). Port 0, or no format in common: rejected.

    `formats` are those of the offer that are accepted (None: all), in the answerer's order. The label is echoed
    (RFC 7866 7.2), ``rtcp-mux`` accepted if it was offered and no `rtcp_port` is given.
    """
    accepted = [text for text in (offered.formats if formats is None else formats) if text in offered.formats]
    if port == 0 or offered.rejected or not accepted:
        return MediaDescription(offered.kind, 0, offered.proto, list(offered.formats) or ["0"])
    maps = {number: meaning for number, meaning in offered.rtpmaps.items() if str(number) in accepted}
    return build_media(
        offered.kind,
        port,
        accepted,
        proto=offered.proto,
        address=address,
        rtpmaps=maps,
        fmtp={text: value for text, value in offered.fmtp.items() if text in accepted},
        ptime=offered.ptime,
        rtcp_port=rtcp_port,
        rtcp_mux=offered.rtcp_mux and rtcp_port is None,
        label=(offered.label or "") if label and TOKEN.fullmatch(offered.label or "") else "",
        direction=answer_direction(offered.direction, ready, wanted),
    )
