"""Session descriptions (RFC 8866, RFC 3264): read, edit in place, build. No I/O.

Reading is lenient (CRLF or LF, missing lines, unknown lines and attributes, stray blanks), writing strict. What is not
edited is written as it was read: lines keep their order and octets, and an edit of an address or a port touches only
that token. Line ends are those of the description (CRLF as soon as one line has it); blank lines are not kept.

:mod:`~siprec.sdp.crypto` reads and answers ``a=crypto`` (RFC 4568), :mod:`~siprec.sdp.repair` mends answers that do not
fit their offer.
"""

from siprec.sdp.build import (
    KEY_FRAME_FEEDBACK,
    answer_direction,
    answer_media,
    build_media,
    build_session,
    recording_media,
)
from siprec.sdp.description import (
    MAX_LINES,
    MAX_MEDIA,
    MAX_SIZE,
    MediaDescription,
    SessionDescription,
    parse,
)
from siprec.sdp.values import (
    DIRECTIONS,
    MAX_FORMATS,
    STATIC_PAYLOADS,
    Connection,
    Direction,
    Origin,
    RtpMap,
    SdpError,
    address_family,
    connection_line,
    parse_rtpmap,
    payload_type,
)

__all__ = [
    "DIRECTIONS",
    "KEY_FRAME_FEEDBACK",
    "MAX_FORMATS",
    "MAX_LINES",
    "MAX_MEDIA",
    "MAX_SIZE",
    "STATIC_PAYLOADS",
    "Connection",
    "Direction",
    "MediaDescription",
    "Origin",
    "RtpMap",
    "SdpError",
    "SessionDescription",
    "address_family",
    "answer_direction",
    "answer_media",
    "build_media",
    "build_session",
    "connection_line",
    "parse",
    "parse_rtpmap",
    "payload_type",
    "recording_media",
]
