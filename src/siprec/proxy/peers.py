"""Where requests within a dialog may go: what each side has signalled of itself (RFC 3261 12.2, 16.4, 19.1.4).

A cookie in Record-Route and the right tags prove that a request belongs to a dialog. They say nothing about its
Request-URI and its Route: whoever may use them freely may send anything anywhere. So the target of a request is a
Contact of the peer, and its Route values are those that the peer's side has record-routed.
"""

from __future__ import annotations

from typing import Final, Literal

from siprec.proxy.cseq_shift import CseqShift
from siprec.proxy.local_domain import LocalDomain
from siprec.proxy.party import Party
from siprec.proxy.record_attribute import SentSdp
from siprec.proxy.record_route import PARAM
from siprec.sip.errors import SipError
from siprec.sip.headers import NameAddr
from siprec.sip.message import SipMessage, SipRequest, SipResponse
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri

Side = Literal["caller", "callee"]
OTHER: Final[dict[Side, Side]] = {"caller": "callee", "callee": "caller"}
SIDES: Final[tuple[Side, Side]] = ("caller", "callee")

#: Contacts kept of each side besides its remote target, and addresses.
CONTACTS: Final = 4
HOSTS: Final = 4
#: Record-Route values kept of each side.
ROUTES: Final = 16
#: Characters of a Contact or Record-Route that can be kept.
MAX_TEXT: Final = 2048
#: Methods whose Contact, in request and response, is a target (RFC 3261 12.2.1.1, RFC 3311, RFC 6665).
REFRESHING: Final = frozenset({"INVITE", "UPDATE", "SUBSCRIBE", "NOTIFY", "REFER"})


class Peer:
    """One side of a dialog: what it has signalled, and what we keep of it."""

    __slots__ = (
        "contacts",  # its Contacts, oldest first
        "cseq",  # the highest CSeq number that it sent; -1: none
        "flow",  # the way to it, where its Contact does not lead there (NAT, a connection of its own)
        "given_by",  # whose Contact it is, as in `Target`
        "hosts",  # the numeric addresses that it first sent from or answered at
        "is_aware",  # it said ``Supported: record-aware`` (RFC 7866 6.1.2)
        "is_moved",  # it has to be told that the media go through another server now
        "party",  # who it is, where it has named itself otherwise than in the INVITE and its answer
        "routes",  # the Record-Route values between us and it
        "sdp",  # its part of what was agreed last, as it sent it
        "sent_sdp",  # what it was told last, where a media server carries the call
        "shift",  # requests of our own in its name
        "target",  # its remote target: the Contact of the last request or answer that was accepted
    )

    def __init__(self) -> None:
        self.contacts: tuple[str, ...] = ()
        self.cseq = -1
        self.flow: Hop | None = None
        self.given_by = ""
        self.hosts: tuple[str, ...] = ()
        self.is_aware = False
        self.is_moved = False
        self.party: Party | None = None
        self.routes: tuple[str, ...] = ()
        self.sdp = b""
        self.sent_sdp: SentSdp | None = None
        self.shift: CseqShift | None = None
        self.target = ""

    def forget_session(self) -> None:
        """The dialog is over: only where its requests go is still of use."""
        self.party = self.sent_sdp = None
        self.sdp = b""  # the shift stays: answers may still be on their way

    # -- what is signalled -------------------------------------------------------------------------------------------

    def sent(self, request: SipRequest) -> None:
        """A request of this side within the dialog goes on."""
        if request.method in REFRESHING:
            self.contact(contact_of(request))

    def answered(self, response: SipResponse, host: str) -> None:
        """This side answered at `host` with a 1xx or 2xx to a request that refreshes targets."""
        if host not in self.hosts:
            self.host(host)
        self.contact(contact_of(response))

    def contact(self, uri: str) -> None:
        """One more Contact. The remote target is never forgotten."""
        known = self.contacts
        if not uri or (known and known[-1] == uri) or len(uri) > MAX_TEXT:
            return
        if not known:
            self.contacts = (uri,)
            return
        kept = [each for each in known if each != uri]
        while len(kept) >= CONTACTS:
            kept.remove(next(each for each in kept if each != self.target))
        self.contacts = (*kept, uri)

    def host(self, host: str) -> None:
        """One more numeric address."""
        known = self.hosts
        if host and host not in known:
            self.hosts = (*known[1 - HOSTS :], host) if known else (host,)

    def route(self, values: list[str]) -> None:
        """The Record-Route values on this side of ours, as they stand in the message."""
        if values:
            known = self.routes
            new = tuple(value for value in map(_uri_text, values) if 0 < len(value) <= MAX_TEXT and value not in known)
            self.routes = (*known, *new)[:ROUTES]

    # -- what may be asked -------------------------------------------------------------------------------------------

    @property
    def last(self) -> str:
        """The newest Contact, or an empty string."""
        return self.contacts[-1] if self.contacts else ""

    def has_signalled(self, host: str) -> bool:
        """Whether `host` is an address that this side has signalled: it sent or answered there when the dialog was
        made, or its Contact says so."""
        return host in self.hosts or any(uri is not None and uri.host == host for uri in map(_parsed, self.contacts))

    def is_target(self, request: SipRequest) -> bool:
        """Whether the Request-URI is one of this side's Contacts, or of its route set (a strict router).

        Raises:
            SipError: malformed Request-URI.
        """
        if request.uri in self.contacts:
            return True
        uri = request.ruri
        return any(_equivalent(uri, text) for text in (*self.contacts, *self.routes))

    def is_on_route(self, request: SipRequest, identity: LocalDomain) -> bool:
        """Whether all Route values are in this side's route set, or our own (a spiral: they are checked again).

        Raises:
            SipError: a malformed Route value.
        """
        known = self.routes
        for value in request.routes:
            uri = value.uri
            if not (value.uri_text in known or identity.is_us(uri) or any(_equivalent(uri, text) for text in known)):
                return False
        return True


class Ends:
    """A dialog as its two sides."""

    __slots__ = ("callee", "caller")

    def __init__(self, caller: Peer | None = None, callee: Peer | None = None) -> None:
        self.caller = caller or Peer()
        self.callee = callee or Peer()

    def __getitem__(self, side: Side) -> Peer:
        return self.caller if side == "caller" else self.callee


def above_ours(response: SipResponse, dlg_id: str) -> list[str]:
    """The Record-Route values of a response above ours for `dlg_id`: those between us and who answered."""
    if "record-route" not in response.keys:
        return []
    found, ours = [], f";{PARAM}={dlg_id}-"
    for value in response.values("record-route"):
        if ours in value:
            break
        found.append(value)
    return found


def contact_of(message: SipMessage) -> str:
    """The URI of the first Contact, or an empty string."""
    try:
        contact = message.contact
    except SipError:
        return ""
    return contact.uri_text if contact is not None else ""


def _uri_text(value: str) -> str:
    try:
        return NameAddr.parse(value).uri_text
    except SipError:
        return ""


def _parsed(text: str) -> Uri | None:
    try:
        return Uri.parse(text)
    except SipError:
        return None


def _equivalent(uri: Uri, text: str) -> bool:
    other = _parsed(text)
    return other is not None and uri.equivalent(other)
