"""Which INVITEs are recording sessions.

RFC 7866 6.1 and 8.1 ask for ``Require: siprec`` and ``+sip.src``. Cisco's network-based recording, CUBE, jambonz and
others send neither, or no offer, or a Contact that cannot be read. `lenient` takes them, `strict` does not.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

from siprec import sdp
from siprec.recorder.bodies import metadata_of, offer_of
from siprec.sip.errors import SipError
from siprec.sip.headers import NameAddr
from siprec.sip.message import SipRequest
from siprec.sip.transport import Hop

Accept = Literal["auto", "lenient", "strict"]
EXTENSION: Final = "siprec"
_CISCO: Final = ("x-nearend", "x-farend", "x-refci")
_URI: Final = re.compile(r"sips?:[^\s<>\",]{1,1000}", re.IGNORECASE)
_KEPT: Final = frozenset({"transport", "user", "lr", "ob"})


class Refusal(NamedTuple):
    """Status and reason phrase of the response."""

    status: int
    reason: str


class Acceptance:
    """The policy. `auto`: lenient to sources in `clients` (networks) and to loopback, strict to others."""

    def __init__(self, policy: Accept = "auto", clients: Iterable[str] = ()) -> None:
        self.policy = policy
        self._clients = [ipaddress.ip_network(text, strict=False) for text in clients]

    def listed(self, host: str) -> bool:
        """Whether `host` is one of the clients."""
        address = _address(host)
        return address is not None and any(address in network for network in self._clients)

    def lenient(self, host: str) -> bool:
        """Whether requests from `host` are taken although they are not as RFC 7866 says."""
        if self.policy != "auto":
            return self.policy == "lenient"
        address = _address(host)
        return self.listed(host) or (address is not None and address.is_loopback)

    def refusal(self, request: SipRequest, source: Hop) -> Refusal | None:
        """Why an INVITE is not taken; None: it begins a recording session."""
        tagged = EXTENSION in request.tokens("require") | request.tokens("supported")
        if not self.lenient(source.host):
            if not tagged:
                # RFC 7866 6.2, 6.1.1. Nothing else is of any use here (RFC 3261 21.4.15).
                return Refusal(421, "Only recording sessions are accepted here")
            if not is_src(request):
                return Refusal(400, "Contact lacks +sip.src")
            return None
        if tagged or self.listed(source.host) or is_src(request) or _looks_like_recording(request):
            return None
        if not request.body and self.policy == "auto":
            return None  # from this host: who records without an offer has nothing else to show
        return Refusal(421, "Only recording sessions are accepted here")

    def prepare(self, request: SipRequest, source: Hop) -> None:
        """Give an INVITE a Contact that can be used, where it has none."""
        if self.lenient(source.host):
            mend_contact(request, source)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def is_src(request: SipRequest) -> bool:
    """Whether the Contact says that this is a recording client (RFC 7866 11.1)."""
    return "+sip.src" in (request.get("contact") or "").lower()


def _looks_like_recording(request: SipRequest) -> bool:
    """Signs by which an INVITE without the option tag is told from one that has come to the wrong place."""
    if metadata_of(request).data is not None:
        return True
    who = f"{request.get('from') or ''} {request.get('contact') or ''}".lower()
    if any(parameter in who for parameter in _CISCO):
        return True
    try:
        offer = offer_of(request)
        media = sdp.parse(offer).media if offer is not None else []
    except (SipError, sdp.SdpError):
        return False
    audio = [each for each in media if each.kind == "audio" and each.port]
    # Nobody calls to hear nothing; and two audio streams are two parties.
    return len(audio) > 1 or any(each.direction in ("sendonly", "inactive") for each in audio)


def mend_contact(request: SipRequest, source: Hop) -> None:
    """Make the Contact of `request` one that can be parsed: what there is of its URI, else where it came from."""
    try:
        contact = request.contact
        if contact is not None and contact.uri.is_sip:
            return
    except SipError:
        pass
    text = request.get("contact") or ""
    found = _URI.search(text)
    uri, parameters = "", ""
    if found is not None:
        uri, *rest = found[0].split(";")
        mine = [each for each in rest if each.partition("=")[0].lower() in _KEPT]
        uri = ";".join([uri, *mine])
    if "+sip.src" in text.lower():
        parameters = ";+sip.src"
    for candidate in (uri, source_uri(source)):
        value = f"<{candidate}>{parameters}"
        try:
            if NameAddr.parse(value).uri.is_sip:
                request.set("Contact", value)
                return
        except SipError:
            continue


def source_uri(source: Hop) -> str:
    """A URI that leads back to where a request came from."""
    host = f"[{source.host}]" if ":" in source.host else source.host
    scheme = "sips" if source.transport == "tls" else "sip"
    return f"{scheme}:{host}:{source.port}" + (";transport=tcp" if source.transport == "tcp" else "")
