"""What is checked before a message is acted upon (RFC 3261 8.2, 16.3 step 1, 18.1.2, 21.5.6, 21.5.7).

Only what is needed is looked at: an element that forwards leaves broken headers it has no use for alone, and never
refuses because of an unknown method or header.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from siprec.sip.errors import SipError
from siprec.sip.headers import NameAddr
from siprec.sip.message import SipRequest, SipResponse

SCHEMES: Final = frozenset({"sip", "sips", "tel"})


def check_request(request: SipRequest) -> None:
    """What any element checks in a request: Via, From, To, Call-ID, CSeq and the single headers.

    Raises:
        SipError: 400, missing, double or malformed, or CSeq names another method; 513, too many Via values.
    """
    if request.problem is not None:
        raise SipError(*request.problem)


def check_response(response: SipResponse) -> None:
    """What any element checks in a response; one that fails is dropped, never answered (RFC 3261 18.1.2, 18.3).

    Raises:
        SipError: Via, From, To, Call-ID or CSeq missing, double or malformed; a Via that leads to everybody.
    """
    if response.problem is not None:
        raise SipError(*response.problem)


def check_for_proxy(
    request: SipRequest, *, schemes: Collection[str] = SCHEMES, supported: Collection[str] = ()
) -> None:
    """All of RFC 3261 16.3 but loop detection and authentication: `check_request` and `check_forwarding`."""
    check_request(request)
    check_forwarding(request, schemes=schemes, supported=supported)


def check_forwarding(
    request: SipRequest, *, schemes: Collection[str] = SCHEMES, supported: Collection[str] = ()
) -> None:
    """What must hold before a request is passed on (RFC 3261 16.3 steps 1 to 3 and 5).

    `supported` are option tags, lower case, a Proxy-Require may name. A request for the element itself is not
    forwarded, so not checked here: Max-Forwards 0 does not concern its final recipient.

    Raises:
        SipError: 400, malformed Request-URI, Route or Max-Forwards; 416, unknown scheme; 420, an extension in
            Proxy-Require is not supported (`headers` has Unsupported); 483, Max-Forwards is used up.
    """
    uri = request.ruri
    if uri.scheme not in schemes:
        raise SipError(f"URI scheme {uri.scheme[:40]} not supported", 416)
    if uri.headers:
        # Neither to be forwarded nor to become headers (RFC 3261 19.1.1, RFC 4475 3.1.2.11).
        raise SipError("Request-URI with header fields")
    if request.max_forwards == 0:
        raise SipError("Max-Forwards is 0", 483)
    if "route" in request.keys:
        routes = request.routes
        if not routes:
            raise SipError("Route is empty")
        for route in routes:
            if not route.uri.is_sip:
                raise SipError("Route is no SIP URI")
    # ACK and CANCEL cannot be refused, and must not carry Proxy-Require (RFC 3261 8.2.2.3).
    if "proxy-require" in request.keys and request.method not in ("ACK", "CANCEL"):
        unsupported = unsupported_options(request, "proxy-require", supported)
        if unsupported:
            names = ", ".join(unsupported)
            raise SipError("Proxy-Require not supported", 420, (("Unsupported", names),))


def check_for_endpoint(request: SipRequest, *, schemes: Collection[str] = SCHEMES) -> None:
    """What a UAS or registrar checks of the syntax (RFC 3261 8.2, 10.3), the method's own needs aside.

    Raises:
        SipError: 400, malformed or missing headers, Request-URI or Contact, or a REGISTER for no SIP user; 416,
            unknown scheme.
    """
    check_request(request)
    uri = request.ruri
    if uri.scheme not in schemes:
        raise SipError(f"URI scheme {uri.scheme[:40]} not supported", 416)
    if uri.headers:
        raise SipError("Request-URI with header fields")
    contacts = request.values("contact")
    if "*" in contacts and (request.method != "REGISTER" or len(contacts) > 1):
        raise SipError("Contact: * out of place")
    for contact in contacts:
        if contact != "*":
            NameAddr.parse(contact).uri  # noqa: B018 - parsed for its errors
    request.from_.uri  # noqa: B018 - parsed for its errors
    request.to.uri  # noqa: B018
    if request.method == "REGISTER" and not request.to.uri.is_sip:
        raise SipError("REGISTER for something else than a SIP user")


def unsupported_options(request: SipRequest, name: str, supported: Collection[str]) -> list[str]:
    """The option tags of Require or Proxy-Require that are not in `supported` (lower case), as they were written."""
    return [tag for tag in request.values(name) if tag.lower() not in supported]
