"""What one recording demands of its SRSs about SRTP, and what it settles for (RFC 7866 12, 12.2)."""

from __future__ import annotations

import logging

from msgspec import Struct

from siprec.recording import srtp_sdp
from siprec.recording.recording_profile import RecordingProfile
from siprec.recording.rs_sdp import RecordingSdp
from siprec.sdp import SessionDescription
from siprec.sip.addresses import is_loopback
from siprec.sip.transport import Hop

log = logging.getLogger(__name__)
_MAX_WARNED = 1000


class SrtpTerms(Struct, gc=False):
    """The terms of `profile` for the recording of one call. `warned` is shared: each warning is told once, not for
    every call."""

    profile: RecordingProfile
    call_id: str
    warned: set[str]
    plain: tuple[str, ...] = ()
    """SRSs that get plain RTP."""
    transport: str = ""
    """What the media server was asked to offer at last, "" for what it finds right."""

    def ask(self, server: str) -> str:
        """What the media server shall offer for the SRS `server`."""
        self.transport = srtp_sdp.transport(self.profile.srtp, server in self.plain)
        return self.transport

    def refusal(self, description: RecordingSdp, answer: SessionDescription) -> str:
        """Why an answer that begins a recording session is none after all, empty if it is one."""
        if not description.declined(answer):
            return ""
        return "" if description.accepted(answer) and not self.profile.srtp_fallback else "SRTP declined"

    def falls_back(self, server: str, status: int, description: RecordingSdp | None) -> bool:
        """Whether `server` gets plain RTP from now on: it declined SRTP with `status`, and the policy allows it."""
        if (
            not self.profile.srtp_fallback
            or status not in srtp_sdp.DECLINED
            or server in self.plain
            or description is None
            or not description.secure
        ):
            return False
        self.plain += (server,)
        self._warn(f"SRS {server} declines SRTP: it gets plain RTP (srtp_fallback)")
        return True

    def afresh(self, description: RecordingSdp | None) -> bool:
        """Whether the next SRS needs an offer of its own: not one whose keys another SRS has seen, nor plain RTP which
        only that one wanted."""
        return (description is not None and description.secure) or (
            bool(self.plain) and self.transport == srtp_sdp.PLAIN
        )

    def check_way(self, server: str, description: RecordingSdp | None, way: Hop | None) -> None:
        """Keys in SDP are as safe as the SIP that carries them."""
        if description is None or not description.secure or way is None or way.transport in ("tls", "wss"):
            return
        if not is_loopback(way.host):
            self._warn(f"SRS {server} gets the keys of SRTP over {way.transport}: they can be read on the way")

    def _warn(self, text: str) -> None:
        if text not in self.warned and len(self.warned) < _MAX_WARNED:
            self.warned.add(text)
            log.warning("%s (call %s)", text, self.call_id)
