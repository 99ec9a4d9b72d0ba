"""Asking a party for a video key frame on behalf of a recorder (RFC 7866 8.1.7): RTCP FIR (RFC 5104 4.3.1),
or PLI (RFC 4585 6.3.1) where the party announced only that."""

from __future__ import annotations

from siprec.relay.call import Call
from siprec.relay.fork import Fork
from siprec.relay.party import Stream
from siprec.rtp import rtcp
from siprec.sdp import MediaDescription

INTERVAL = 1.0
"""Seconds between two requests to one party: several recorders may ask at once."""


def ask(call: Call, forks: list[Fork]) -> int:
    """Ask each party whose video one of `forks` copies; returns how many could be asked.

    A party is asked that announced ``ccm fir`` or ``nack pli`` and sends video now, but for SRTP that only passes here.
    """
    asked = 0
    for party, index, stream in call.streams():
        fork = next((each for each in forks if each.source is stream.rtp), None)
        if fork is None or stream.kind != "video":
            continue
        own = _line(call, party.description.media if party.description is not None else [], index)
        peer = call._peer(party).description
        theirs = _line(call, peer.media if peer is not None else [], index)
        if own is not None:
            mux = own.rtcp_mux and theirs is not None and theirs.rtcp_mux
            asked += _send(call, stream, own, fork, mux)
    return asked


def means(party: MediaDescription, clear: bool) -> set[str]:
    """By what a party can be asked, as its m-line says: ``ccm fir``, ``nack pli``, both or neither. Not `clear`: its
    SRTP only passes here, so nothing can be said to it."""
    if not party.proto.upper().endswith("AVPF") or not clear:
        return set()
    said = {" ".join(value.lower().split()[1:]) for value in party.attributes("rtcp-fb")}
    return said & {"ccm fir", "nack pli"}


def _line(call: Call, lines: list[MediaDescription], index: int) -> MediaDescription | None:
    return lines[index] if index < len(lines) and not lines[index].rejected else None


def _send(call: Call, stream: Stream, own: MediaDescription, fork: Fork, mux: bool) -> bool:
    possible = means(own, stream.transport.clear)
    now = call.plane.clock.now()
    ssrc, _, _ = stream.rtp.position()
    if not possible or ssrc < 0:
        return False
    if now - stream.key_asked < INTERVAL:
        return True  # it is on its way
    flow = stream.rtp if mux else stream.rtcp
    remote = flow.remote
    if remote is None:
        return False
    stream.key_asked = now
    stream.key_number += 1
    if "ccm fir" in possible:
        request = rtcp.full_intra_request(fork.ssrc, ssrc, stream.key_number)
    else:
        request = rtcp.picture_loss(fork.ssrc, ssrc)
    packet: bytes | None = rtcp.empty_report(fork.ssrc, fork.cname) + request
    if packet is not None and stream.transport.present is not None:
        packet = stream.transport.present.encrypted(packet, True)
    if packet is None:
        return False
    try:
        flow.sock.sendto(packet, remote)
    except OSError:
        return False
    return True
