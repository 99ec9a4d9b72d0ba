"""What is done to a request on its way through: Request-URI, Max-Forwards, Max-Breadth, Route, branch (FWD, LOOP)."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final, NamedTuple

from siprec.proxy.local_domain import LocalDomain
from siprec.proxy.record_route import cookie_of
from siprec.proxy.routes import Target
from siprec.sip.errors import SipError
from siprec.sip.headers import NameAddr, Via
from siprec.sip.message import SipRequest
from siprec.sip.uri import Uri

MAX_BREADTH: Final = 60
_LOOP_LENGTH: Final = 12


def loop_part(request: SipRequest) -> str:
    """Hash of everything that routing looks at, for the branch (RFC 5393 4.2.1); the method is not in it. Of the
    request as it was received, Routes and all."""
    parts = [request.uri, request.from_tag, request.to_tag, request.call_id, str(request.cseq.number)]
    if not _ROUTED_BY.isdisjoint(request.keys):
        parts += [line for key, line in zip(request.keys, request.lines, strict=True) if key in _ROUTED_BY]
    text = "\0".join(parts).encode("utf-8", "surrogateescape")
    return blake2b(text, digest_size=_LOOP_LENGTH // 2).hexdigest()


_ROUTED_BY: Final = frozenset({"route", "proxy-require", "proxy-authorization"})


def has_looped(request: SipRequest, identity: LocalDomain, part: str) -> bool:
    """Whether the request came by here before and nothing that routing looks at has changed (RFC 5393 4.2.2)."""
    values = request.values("via")
    for value in values[1:]:
        via = Via.parse(value)
        if identity.is_address(via.host, via.effective_port):
            _, dash, loop = via.branch.rpartition("-")
            if dash and loop.lower() == part:
                return True
    return False


def preprocess(request: SipRequest, identity: LocalDomain) -> tuple[bool, str]:
    """Route information that concerns us (RFC 3261 16.4). Changes `request`.

    Returns whether a Route value of ours was used up, and the cookie in it.

    Raises:
        SipError: a Route value is malformed.
    """
    ours, cookie = False, ""
    uri = request.ruri
    if "lr" in uri.params and cookie_of(uri) and identity.is_us(uri):
        # RFC 3261 16.4: a strict router put our Record-Route value into the Request-URI; the real one is the last
        # Route.
        routes = request.values("route")
        if routes:
            ours, cookie = True, cookie_of(uri)
            request.uri = NameAddr.parse(routes[-1]).uri_text
            request.remove("route")
            if routes[:-1]:
                request.add("route", ", ".join(routes[:-1]))
            uri = request.ruri
    maddr = uri.params.get("maddr")
    if maddr and uri.is_sip and identity.is_us(Uri("sip", None, maddr.strip("[]"), uri.port)):
        params = {name: value for name, value in uri.params.items() if name not in ("maddr", "transport")}
        request.uri = uri.replace(params=params, port=None).text  # RFC 3261 16.4
    while "route" in request.keys:
        values = request.values("route")
        if not values:
            break
        top = NameAddr.parse(values[0]).uri
        if not identity.is_us(top):
            break
        found = cookie_of(top)
        if ours and found != cookie:
            break  # another passage of a spiral: it gets its own turn
        request.remove_first_value("route")
        ours, cookie = True, found
        if not found:
            break
    if ours and "route" in request.keys and not request.values("route"):
        request.remove("route")  # commas, and nothing between them
    return ours, cookie


class Aim(NamedTuple):
    """Where a request goes, and what that changes in it."""

    uri: str
    """The Request-URI."""
    route: list[str] | None
    """All Route values, topmost first; None: they stay as they are."""
    hop: Uri
    """The URI of the next hop."""
    routed: bool
    """Whether the next hop is that of a Route."""

    @property
    def is_secure(self) -> bool:
        """Whether the Request-URI or the top Route is a SIPS URI (RFC 3261 16.6 step 4)."""
        return self.hop.scheme == "sips" or self.uri[:5].lower() == "sips:"


def aim(request: SipRequest, target: Target) -> Aim:
    """Point `request`, which is not changed, at a target (RFC 3261 16.6 steps 2, 6 and 7).

    Raises:
        SipError: a Route value is malformed.
    """
    uri = target.uri
    if uri.headers or "method" in uri.params:
        params = {name: value for name, value in uri.params.items() if name != "method"}
        uri = uri.replace(params=params, headers="")
    routes = request.values("route") if "route" in request.keys else []
    if target.route:
        routes = [*target.route, *routes]
    if not routes:
        return Aim(uri.text, None, uri, False)
    text, changed = uri.text, bool(target.route)
    hop = NameAddr.parse(routes[0]).uri
    if "lr" not in hop.params:
        # The next element is a strict router.
        routes = [*routes[1:], f"<{text}>"]
        text, changed = hop.text, True
    if uri.scheme == "sips" and hop.scheme == "sip":
        hop = hop.replace(scheme="sips")
    return Aim(text, routes if changed else None, hop, True)


def breadth(request: SipRequest) -> int:
    """How many branches at once the request may still become (RFC 5393 5.3.3)."""
    value = request.get("max-breadth")
    if value is None:
        return MAX_BREADTH
    if not value.isdecimal() or len(value) > 9:
        raise SipError("malformed Max-Breadth")
    return min(int(value), MAX_BREADTH)
