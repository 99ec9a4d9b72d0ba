"""Whether the signalling of a recording is as safe as that of the call (RFC 7866 12)."""

from __future__ import annotations

from typing import Protocol

from siprec.recording.recording_profile import RecordingProfile
from siprec.recording.settings import RecordingSettings, SettingError, check_socket
from siprec.sip.addresses import is_loopback
from siprec.sip.errors import SipError
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.uri import Uri


class SignalledCall(Protocol):
    """`source` is where the INVITE came from, as ``transport:address:port``."""

    @property
    def source(self) -> str: ...
    @property
    def invite(self) -> SipRequest: ...
    @property
    def response(self) -> SipResponse | None: ...


def is_secure_call(call: SignalledCall) -> bool:
    """Whether a party of the call speaks to us over TLS, or wants that for all of the way (``sips:``)."""
    if call.source.startswith("tls:") or call.invite.uri[:5].lower() == "sips:":
        return True
    try:
        contact = call.response.contact if call.response is not None else None
        return contact is not None and _is_secure(contact.uri, "")
    except SipError:
        return False


def is_secure_way(server: str, profile: RecordingProfile, settings: RecordingSettings) -> bool:
    """Whether the SRS `server` is reached over TLS, or without leaving this host."""
    try:
        reach = profile.reach(server)
        uri = Uri.parse(reach.outbound_proxy or server)
        socket = settings.socket if settings.socket != profile.socket else reach.socket or settings.socket
        if socket:
            return check_socket(socket)[0] == "tls"
    except (SipError, SettingError):
        return False
    return _is_secure(uri, "" if reach.outbound_proxy else reach.transport) or is_loopback(uri.host)


def _is_secure(uri: Uri, transport: str) -> bool:
    return uri.scheme == "sips" or (uri.transport or transport) == "tls"
