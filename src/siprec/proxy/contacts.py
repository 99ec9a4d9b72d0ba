"""Contacts that strangers give us: what may be registered, and how it is reached.

A registrar that believes every Contact sends packets to anybody, and to itself. So the Contact of a stranger is reached
where it was registered from: at its own host only when that is the source, else over the flow or the received address
(RFC 3581, RFC 5626). A third public host needs Path (RFC 3327), a trusted source, or ``allow_foreign_contacts``.
"""

from __future__ import annotations

from typing import Literal

from siprec.proxy.local_domain import LocalDomain
from siprec.sip.addresses import EVERYWHERE, numeric, scope
from siprec.sip.errors import SipError
from siprec.sip.headers import NameAddr
from siprec.sip.message import SipRequest
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri

Place = Literal["source", "inside", "foreign"]


def place(uri: Uri, source: Hop) -> Place:
    """Where a Contact or Path of who sent from `source` leads: to the `source` itself, ``inside`` (a private network, a
    name, ``.invalid``: nowhere that can be told from here), or to a ``foreign`` public address."""
    host = numeric(uri.params.get("maddr") or uri.host)
    if not host:
        return "inside"
    if host == numeric(source.host):
        return "source"
    return "foreign" if scope(host) == EVERYWHERE else "inside"


def is_public_name(uri: Uri) -> bool:
    """Whether a Contact has a host name that DNS may know."""
    host = uri.params.get("maddr") or uri.host
    return not numeric(host) and "." in host and not host.endswith((".invalid", ".local", ".localhost"))


def may_reach(hop: Hop, given_by: str, identity: LocalDomain, by_route: bool = False) -> bool:
    """Whether a hop that a stranger's Contact resolved to may be used: never ourselves (a Route may, in a spiral), and
    nothing that the stranger at `given_by` could not reach itself."""
    if identity.leads_here(hop):
        return by_route
    host, stranger = numeric(hop.host), numeric(given_by)
    return not host or not stranger or host == stranger or scope(host) >= scope(stranger)


def paths(request: SipRequest, identity: LocalDomain) -> tuple[str, ...]:
    """The Path values of a REGISTER, topmost first (RFC 3327).

    Raises:
        SipError: 400, malformed; 403, one of them is ours.
    """
    values = request.values("path") if "path" in request.keys else []
    for value in values:
        uri = NameAddr.parse(value).uri
        if not uri.is_sip:
            raise SipError("Path is no SIP URI")
        if identity.is_us(uri):
            raise SipError("Path leads back to this proxy", 403)
    return tuple(values)


def first_hop(values: tuple[str, ...], uri: Uri) -> Uri:
    """Where a request to a Contact goes first: the topmost Path, else the Contact."""
    return NameAddr.parse(values[0]).uri if values else uri
