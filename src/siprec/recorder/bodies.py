"""The offer and the metadata in a message's body, wherever a recording client has put them.

An odd part costs no recording session: what carries no description is passed over, and what can be found of a broken
multipart is found.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from siprec.metadata.document import Document, SnapshotRequest
from siprec.metadata.errors import MetadataError
from siprec.metadata.read import parse
from siprec.recorder.errors import MetadataRefused
from siprec.sip.errors import SipError
from siprec.sip.message import SipMessage
from siprec.sip.multipart import METADATA_TYPES, SDP_TYPE, Part, find_metadata, find_part, parts_of

log = logging.getLogger(__name__)


class Metadata(NamedTuple):
    """A metadata document, and the charset parameter of its part."""

    data: bytes | None
    charset: str | None = None


def offer_of(message: SipMessage) -> bytes | None:
    """The session description of a message; None if it has none.

    Raises:
        SipError: 400, 413 or 415, there is a body, and no description can be found in it.
    """
    if not message.body:
        return None
    try:
        part = find_part(message, SDP_TYPE) or find_part(message, SDP_TYPE, "") or _disguised_offer(message)
        return part.content if part is not None else None
    except SipError:
        found = _salvage(message.body)
        if found is None:
            raise
        return found


def _disguised_offer(message: SipMessage) -> Part | None:
    """SDP under another disposition or type."""
    parts = parts_of(message)
    named = [part for part in parts if part.media_type == SDP_TYPE]
    alike = [part for part in parts if part.body.lstrip().startswith(b"v=0")]
    return next(iter([*named, *alike]), None)


def _salvage(body: bytes) -> bytes | None:
    """The lines of a description in a multipart that is broken."""
    start = 0 if body.startswith(b"v=0") else body.find(b"\nv=0") + 1
    if not body.startswith(b"v=0", start):
        return None
    lines = []
    for line in body[start:].split(b"\n"):
        if line[1:2] != b"=":
            break
        lines.append(line.rstrip(b"\r"))
    return b"\r\n".join(lines) + b"\r\n"


def metadata_of(message: SipMessage) -> Metadata:
    """The metadata document of a message, under any disposition, and under any XML type if it looks like one."""
    if not message.body:
        return Metadata(None)
    try:
        part = find_metadata(message)
        if part is None:
            parts = parts_of(message)
            named = [each for each in parts if each.media_type in METADATA_TYPES]
            alike = [each for each in parts if each.media_type.endswith("xml") and b"<recording" in each.body]
            part = next(iter([*named, *alike]), None)
    except SipError:
        start, end = message.body.find(b"<recording"), message.body.rfind(b">") + 1
        return Metadata(message.body[start:end] if 0 <= start < end else None)
    if part is None:
        return Metadata(None)
    try:
        data = part.content
    except SipError:
        data = part.body  # an encoding that does not exist: the reader says what it is
    return Metadata(data, part.content_type.param("charset") or None)


def read_metadata(
    data: bytes | None, charset: str | None, *, strict: bool, reject: bool, call_id: str
) -> tuple[Document | None, str]:
    """A metadata document, None without one that can be used; and what is wrong with it, empty: nothing.

    `strict`: what breaks the schema cannot be used. `reject`: a request whose document cannot be used, or is damaged,
    is refused.

    Raises:
        MetadataRefused: it is.
    """
    if data is None:
        return None, ""
    try:
        document = parse(data, charset=charset, strict=strict)
        if reject and isinstance(document, Document) and document.errors:
            raise MetadataError(f"metadata is damaged: {document.errors[0]}")
    except MetadataError as error:
        if reject:
            raise MetadataRefused(error.reason) from error
        log.warning("Call-ID %s: recording without metadata: %s", call_id, error.reason)
        return None, error.reason
    if isinstance(document, SnapshotRequest):
        # Only an SRS asks (RFC 7866 9.2).
        return None, "a snapshot request is not for a recorder"
    return document, ""
