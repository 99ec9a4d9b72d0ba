"""Phones behind NAT and on connections of their own are reached the way they came."""

from __future__ import annotations

from siprec.sip.addresses import numeric, scope
from siprec.sip.errors import SipError
from siprec.sip.headers import NameAddr
from siprec.sip.message import SipRequest
from siprec.sip.transport import Hop


def flow_of(request: SipRequest, contact: NameAddr | None, source: Hop) -> Hop | None:
    """The way to who sent `request`, when `contact` does not lead there; None when the Contact has to do.

    A phone that does not know its outside address writes the inside one into both Via and Contact. A Contact that
    differs from Via names somebody else (a registration for another phone), unless that is nowhere to be reached from
    here: ``.invalid`` (RFC 7118), or a private network while the source is outside of it. With more than one Via the
    source is not the phone.
    """
    if contact is None:
        return None
    try:
        if len(request.values("via")) != 1:
            return None
        via, uri = request.top_via, contact.uri
    except SipError:
        return None
    if not uri.is_sip:
        return None
    if uri.host.endswith(".invalid"):
        return source
    if uri.host != via.host.lower():
        host, outside = numeric(uri.host), numeric(source.host)
        return source if host and outside and scope(host) < scope(outside) else None
    return source if source.reliable or uri.host != source.host else None


def way_back(request: SipRequest, source: Hop) -> Hop | None:
    """`flow_of` by its own Contact; None also when that is malformed."""
    try:
        return flow_of(request, request.contact, source)
    except SipError:
        return None
