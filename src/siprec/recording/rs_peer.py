"""What passes between a recording and the session with its SRS, a dialog of its own or a part in a shared one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from siprec import sdp
from siprec.metadata.document import Document
from siprec.metadata.values import DISPOSITION, LEGACY_MEDIA_TYPE, MEDIA_TYPE
from siprec.sdp import SdpError, SessionDescription
from siprec.sip.errors import SipError
from siprec.sip.message import SipMessage, SipResponse
from siprec.sip.multipart import SDP_TYPE, Part, build_multipart
from siprec.sip.transport import Hop
from siprec.sip.useragent import Result, session_description
from siprec.sip.values import retry_after

log = logging.getLogger(__name__)

ACCEPT: Final = f"application/sdp, {MEDIA_TYPE}, {LEGACY_MEDIA_TYPE}"


@dataclass(frozen=True, slots=True)
class Body:
    """What goes to the SRS in one message: SDP, metadata, or both (RFC 7866 9.1).

    `document` and `labels` (by stream id) are for who puts several calls together: the whole of the metadata as they
    are now, and what the streams are called in `sdp`.
    """

    sdp: bytes = b""
    metadata: bytes = b""
    document: Document | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


Compose = Callable[[bool], "Body | None"]
"""Makes a message's body, with our description or without; None: not this way."""


class Outcome:
    """What became of a request that changes the session.

    `status`: 2xx, taken; else why not (408: silence). `answer`: the SRS's description, where a 2xx to an offer has one
    that can be used. `with_sdp`: there was a description of ours in it. `ended`: the dialog is over, which its owner is
    told by itself. `lost`: the SRS is silent, or cannot be reached for the second time. `retry_after`: seconds, as a
    503 said, or until a way to the SRS is looked for again.
    """

    __slots__ = ("answer", "ended", "lost", "reason", "result", "retry_after", "status", "with_sdp")

    def __init__(self, result: Result, with_sdp: bool = False, answer: SessionDescription | None = None) -> None:
        self.result = result
        self.with_sdp = with_sdp
        self.answer = answer
        self.lost = False
        self.retry_after = 0.0
        if isinstance(result, SipResponse):
            self.status, self.reason, self.ended = result.status, result.reason, False
            if result.status == 503:
                self.retry_after = float(retry_after(result) or 0)
        else:
            self.status, self.reason, self.ended = 408 if result == "timeout" else 503, result, result == "ended"


class PeerOffer:
    """An offer of the SRS that waits for its answer, or its wish for one of ours (offerless re-INVITE)."""

    def __init__(
        self, description: SessionDescription | None, reply: Callable[..., object], metadata_type: str
    ) -> None:
        self.description = description
        self._reply = reply
        self._metadata_type = metadata_type

    def answer(self, body: Body) -> None:
        """200 with our description, and metadata where it was offerless (RFC 7866 9.1)."""
        octets, headers = encode_body(body, self._metadata_type)
        content_type = next((value for name, value in headers if name == "Content-Type"), "")
        rest = [(name, value) for name, value in headers if name != "Content-Type"]
        self._reply(200, octets, content_type, rest)

    def refuse(self, status: int) -> None:
        """A final failure response; the session stays as it was (RFC 3261 14.2)."""
        self._reply(status)


class DialogOwner(Protocol):
    """Whom an `RsPeer` tells what happens. `dialog` is the one it happened to: a superseded one may still speak."""

    def rs_answered(self, dialog: RsPeer, answer: SessionDescription) -> None:
        """The SRS takes the recording; `answer` accepts at least one stream."""

    def rs_refused(self, dialog: RsPeer, status: int, reason: str) -> None:
        """The SRS does not take it; 408 and 503 also when nothing was answered."""

    def rs_offer(self, dialog: RsPeer, offer: PeerOffer) -> None:
        """The SRS changes the session, or asks for our offer."""

    def rs_answer_in_ack(self, dialog: RsPeer, answer: SessionDescription) -> None:
        """The SRS's answer to the offer it had asked for."""

    def rs_snapshot(self, dialog: RsPeer) -> None:
        """The SRS wants a full snapshot; its request is answered."""

    def rs_key_frame(self, dialog: RsPeer) -> None:
        """The SRS wants a key frame of the video (RFC 5168); its request is answered."""

    def rs_ended(self, dialog: RsPeer, status: int, reason: str) -> None:
        """The dialog is over: by BYE of the SRS (`status` 0: its decision; 5xx: another SRS should go on, see
        :mod:`siprec.recording.srs_bye`), or broken (408, 481)."""


class NoOwner:
    """Who owns a dialog whose recording is over: what still comes is for nobody."""

    def rs_answered(self, dialog: RsPeer, answer: SessionDescription) -> None:
        """The SRS takes the recording."""

    def rs_refused(self, dialog: RsPeer, status: int, reason: str) -> None:
        """The SRS does not take it."""

    def rs_offer(self, dialog: RsPeer, offer: PeerOffer) -> None:
        """The SRS changes the session, or asks for our offer."""
        offer.refuse(481)

    def rs_answer_in_ack(self, dialog: RsPeer, answer: SessionDescription) -> None:
        """The SRS's answer to the offer it had asked for."""

    def rs_snapshot(self, dialog: RsPeer) -> None:
        """The SRS wants a full snapshot."""

    def rs_key_frame(self, dialog: RsPeer) -> None:
        """The SRS wants a key frame of the video (RFC 5168)."""

    def rs_ended(self, dialog: RsPeer, status: int, reason: str) -> None:
        """The dialog is over."""


class RsPeer(Protocol):
    """A recording session as the recording of a call sees it: a dialog of its own (`RsDialog`), or its part in one that
    is shared (:class:`siprec.recording.shared_session.SessionMember`)."""

    @property
    def call_id(self) -> str:
        """Call-ID of the RS."""

    def invite(self, body: Body) -> None:
        """Send the INVITE that starts the RS (RFC 7866 6.1.1, RFC 3311 4)."""

    def cancel(self) -> None:
        """Give the INVITE up."""

    def exchange(self, compose: Compose, done: Callable[[Outcome], None], *, offer: bool) -> None:
        """A re-INVITE with SDP where it is an `offer`, else an UPDATE with metadata alone."""

    def send(
        self,
        method: str,
        headers: tuple[tuple[str, str], ...],
        body: bytes,
        content_type: str,
        done: Callable[[Result], None],
    ) -> bool:
        """Any other request inside the dialog."""

    def bye(self, done: Callable[[Result], None]) -> None:
        """End the dialog."""

    def abandon(self, reason: str) -> None:
        """Give up an SRS that seems to be gone."""

    @property
    def hop(self) -> Hop | None:
        """The hop that the INVITE took."""

    @property
    def retry_after(self) -> float:
        """Seconds, as a 503 said."""


def description_of(message: SipMessage) -> SessionDescription | None:
    """The SDP of a message, also out of a multipart; None when there is none that can be used."""
    try:
        octets = session_description(message)
        description = sdp.parse(octets) if octets else None
    except (SipError, SdpError) as error:
        log.warning("unusable SDP: %s (call %s)", error, message.get("call-id"))
        return None
    return description if description is not None and description.media else None


def encode_body(body: Body, metadata_type: str) -> tuple[bytes, list[tuple[str, str]]]:
    """Octets and headers, Content-Type first. Metadata carry ``recording-session``; SDP and metadata go together in
    ``multipart/mixed`` (RFC 7866 9.1, 9)."""
    if body.sdp and body.metadata:
        content_type, octets = build_multipart(
            [
                Part.make(SDP_TYPE, body.sdp, disposition="session;handling=required"),
                Part.make(metadata_type, body.metadata, disposition=DISPOSITION),
            ]
        )
        return octets, [("Content-Type", content_type), ("MIME-Version", "1.0")]
    if body.metadata:
        return body.metadata, [("Content-Type", metadata_type), ("Content-Disposition", DISPOSITION)]
    return body.sdp, [("Content-Type", SDP_TYPE)]
