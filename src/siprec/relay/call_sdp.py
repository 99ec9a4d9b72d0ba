"""What the relay reads from session descriptions, and writes into them."""

from __future__ import annotations

from siprec import sdp
from siprec.relay.ng_wishes import CallError, Wishes
from siprec.relay.party import Party
from siprec.sdp import MediaDescription, SdpError, SessionDescription

_ICE = ("candidate", "end-of-candidates", "remote-candidates", "ice-ufrag", "ice-pwd", "ice-options", "ice-mismatch")
_ICE_SESSION = ("ice-lite", "ice-options", "ice-ufrag", "ice-pwd", "ice-pacing")
RELAYED = ("RTP/", "UDP", "DTLS/")


def rewritten(description: SessionDescription, receiver: Party, wishes: Wishes) -> SessionDescription:
    """`description` of the other party with the addresses and ports that face `receiver`."""
    # The party's own description keeps what it said, so what is edited is a copy.
    out = sdp.parse(description.to_bytes())
    public = wishes.media_address or receiver.public or receiver.interface.public
    receiver.public = public
    shared = bundled(description)
    session_connection = out.connection
    positions = {id(media): index for index, media in enumerate(description.media)}
    for index, (was, media) in enumerate(zip(description.media, out.media, strict=True)):
        at = positions[id(shared[index])] if index in shared else index
        stream = receiver.streams[at] if at < len(receiver.streams) else None
        own = media.own_connection()
        if stream is None or was.rejected:
            if was.port and own is None and session_connection is not None:
                media.set_address(session_connection.address)  # not ours: keeps what it inherited
            if was.port and relayed(was):
                media.port = 0
            continue
        connection = was.connection
        if connection is None:
            media.set_address(public)
        elif own is not None and not own.is_zero:
            media.rewrite_connection(public)
        media.num_ports = 1
        if was.port:
            media.port = stream.pair.port
        if media.attribute("rtcp") is not None:
            mux = media.rtcp_mux
            media.set_attribute("rtcp", str(stream.pair.port + (0 if mux else 1)))
        media.remove_attributes(*_ICE)
    out.remove_attributes(*_ICE_SESSION)
    if session_connection is not None and not session_connection.is_zero:
        out.rewrite_connection(public)
    if wishes.origin and (origin := out.origin) is not None:
        out.origin = sdp.Origin(origin.username, origin.session_id, origin.version, public)
    if wishes.session_name:
        out.lines[:] = ["s=-" if line.startswith("s=") else line for line in out.lines]
    return out


def relayed(media: MediaDescription) -> bool:
    """Do media of this m-line pass through here? (RTP in all its profiles, T.38, whatever else is UDP; not TCP.)"""
    proto = media.proto.upper()
    return proto.startswith(RELAYED) and "TCP" not in proto


def is_rtp(media: MediaDescription) -> bool:
    """Does this m-line say RTP, in any profile?"""
    return "RTP/" in media.proto.upper()


def parse(body: bytes) -> SessionDescription:
    try:
        return sdp.parse(body)
    except SdpError as error:
        raise CallError(f"Failed to parse SDP: {error}") from error


def bundled(description: SessionDescription) -> dict[int, MediaDescription]:
    """m-lines that share the port of the first of their BUNDLE group (RFC 8843): index -> that first one."""
    found: dict[int, MediaDescription] = {}
    for mids in description.bundles:
        members = [(i, media) for i, media in enumerate(description.media) if media.mid in mids and media.port]
        if members:
            first = members[0][1]
            found |= {i: first for i, media in members[1:] if media.port == first.port}
    return found
