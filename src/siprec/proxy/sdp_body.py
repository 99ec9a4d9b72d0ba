"""The session description in the body of a message that passes: found, read, replaced (RFC 3261 7.4, RFC 5621)."""

from __future__ import annotations

from typing import Final

from siprec.sip.errors import SipError
from siprec.sip.headers import ParameterValue
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.multipart import SDP_TYPE, Part, replace_part
from siprec.sip.multipart import sdp_part as located_sdp

_SDP: Final = ParameterValue(SDP_TYPE, {})


def sdp_part(message: SipRequest | SipResponse) -> Part | None:
    """The session description of a message, alone or in a multipart (RFC 5621 3), or as the whole body under a wrong
    type or none; None also when the body is broken."""
    body = message.body
    if not body:
        return None
    try:
        part = located_sdp(message)
    except SipError:
        part = None
    if part is None and body.startswith(b"v=0") and "early" not in (message.get("content-disposition") or "").lower():
        return Part(_SDP, [], body, whole=body, end=len(body))
    return part


def sdp_of(message: SipRequest | SipResponse) -> bytes:
    """The octets of the session description of a message, empty if there is none."""
    if not message.body:
        return b""
    part = sdp_part(message)
    if part is None:
        return b""
    try:
        return part.content
    except SipError:
        return b""


def with_sdp(message: SipRequest | SipResponse, sdp: bytes) -> bytes | None:
    """The body of a message, which is not changed, with another session description in the place of its own; None if
    that cannot be done."""
    part = sdp_part(message)
    if part is None:
        return None
    if part.body is message.body and message.get("content-transfer-encoding") is None:
        return sdp
    changed = message.copy()
    try:
        replace_part(changed, part, sdp)
    except (SipError, ValueError):
        return None
    return changed.body
