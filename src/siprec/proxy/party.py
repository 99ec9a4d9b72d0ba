"""Who the parties of a dialog are, as what they send tells: connected identity (RFC 4916, RFC 3325), and another party
who takes a place within the same dialog (RFC 8068 3.2.3). Messages are read, never changed.

Another party has taken the place when the media come from elsewhere (the session in ``o=`` is a new one, RFC 3264 8)
and the messages name somebody else: another asserted identity (else From), another Session-ID, or another Contact in
both user and host. A name that changes while the media stay is the same party, better known.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final, Literal

from siprec.sip.errors import SipError
from siprec.sip.headers import NameAddr
from siprec.sip.message import SipMessage, SipRequest
from siprec.sip.values import session_uuids

Change = Literal["", "identified", "replaced"]
_ORIGIN: Final = re.compile(rb"^o=(\S+) (\S+) \S+ \S+ \S+ (\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Party:
    """A party as it is known now. `message` is what it sent when it was last named (an asserted identity may stand
    there), `claims` the AORs asserted, `origin` user, session and address of its ``o=`` then, `since` when it took the
    place of another, in seconds since the epoch (0: it was there from the beginning)."""

    address: NameAddr
    message: SipMessage | None = None
    claims: tuple[tuple[str, str], ...] = ()
    contact: tuple[str, str] | None = None
    uuid: str = ""
    origin: tuple[bytes, ...] | None = None
    since: float = 0.0

    @property
    def aors(self) -> frozenset[str]:
        """What tells this party from others: what the network asserts, else From or To."""
        return frozenset(aor for aor, _ in self.claims) or frozenset((key_of(self.address)[0],))


def asserted(message: SipMessage) -> list[NameAddr]:
    """The identities the network asserts: P-Asserted-Identity, else Remote-Party-ID; malformed ones are left out."""
    for header in ("p-asserted-identity", "remote-party-id"):
        if not message.has(header):
            continue
        found: list[NameAddr] = []
        for value in message.values(header):
            try:
                found.append(NameAddr.parse(value))
            except SipError:
                continue
        if found:
            return found
    return []


def told(before: Party, message: SipMessage, sdp: bytes, wall: float) -> tuple[Party, Change]:
    """What `message` of a party (and its description, if any) says about who it is.

    Raises:
        SipError: From is malformed.
    """
    address = message.from_ if isinstance(message, SipRequest) else before.address
    named = key_of(address) != key_of(before.address)
    claims = tuple(key_of(each) for each in asserted(message)) or (() if named else before.claims)
    contact, uuid, origin = _contact(message), _session_uuid(message), _origin(sdp)
    after = replace(
        before,
        address=address,
        claims=claims,
        contact=contact or before.contact,
        uuid=uuid or before.uuid,
        origin=before.origin or origin,
    )
    moved = before.origin is not None and origin is not None and origin != before.origin
    if moved:
        elsewhere = (
            contact is not None
            and before.contact is not None
            and contact[0] != before.contact[0]
            and contact[1] != before.contact[1]
        )
        other = after.aors.isdisjoint(before.aors)
        if other or elsewhere or (before.uuid and uuid and uuid != before.uuid):
            if not other and contact is not None:
                # Nothing but its Contact names the newcomer.
                target = message.contact
                after = replace(after, address=NameAddr("", target.uri_text) if target else address, claims=())
            return replace(after, message=message, origin=origin, since=wall), "replaced"
    if named or claims != before.claims:
        return replace(after, message=message), "identified"
    return after, ""


def key_of(address: NameAddr) -> tuple[str, str]:
    try:
        return address.uri.aor, address.display_name.strip()
    except SipError:
        return address.uri_text, address.display_name.strip()


def _contact(message: SipMessage) -> tuple[str, str] | None:
    try:
        contact = message.contact
        return (contact.uri.user or "", contact.uri.host) if contact is not None else None
    except SipError:
        return None


def _session_uuid(message: SipMessage) -> str:
    return session_uuids(message)[0]


def _origin(sdp: bytes) -> tuple[bytes, ...] | None:
    found = _ORIGIN.search(sdp) if sdp else None
    return found.groups() if found is not None else None


def party_from(message: SipMessage, address: NameAddr, sdp: bytes) -> Party:
    """Who sent the INVITE or its answer, and is called `address` there."""
    claims = tuple(key_of(each) for each in asserted(message))
    return Party(address, message, claims, _contact(message), _session_uuid(message), _origin(sdp))


def names_itself(message: SipMessage) -> bool:
    """Whether a message says more of who sent it than From, To and Contact do."""
    keys = message.keys
    return "p-asserted-identity" in keys or "remote-party-id" in keys or "session-id" in keys
