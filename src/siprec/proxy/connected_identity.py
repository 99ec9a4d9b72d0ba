"""Who the parties of a dialog are, as what they send tells: connected identity (RFC 4916, RFC 3325), and another party
who takes a place within the same dialog (SCN-07). Messages are read, never changed.

Another party has taken the place when the media come from elsewhere (the session in ``o=`` is a new one, RFC 3264 8)
and the messages name somebody else: another asserted identity (else From), another Session-ID, or another Contact in
both user and host. A name that changes while the media stay is the same party, better known.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from siprec.proxy.call_media_session import sdp_of
from siprec.sip.errors import SipError
from siprec.sip.headers import NameAddr
from siprec.sip.message import SipMessage, SipRequest, SipResponse
from siprec.sip.values import session_uuids

if TYPE_CHECKING:
    from siprec.proxy.call import Observers
    from siprec.proxy.dialogs import ProxiedDialog, Side
    from siprec.sip.clock import Clock

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
        return frozenset(aor for aor, _ in self.claims) or frozenset((_key(self.address)[0],))


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
    named = _key(address) != _key(before.address)
    claims = tuple(_key(each) for each in asserted(message)) or (() if named else before.claims)
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


class PartyWatch:
    """Follows the parties of dialogs; tells observers ``party_identified`` and ``party_replaced``."""

    def __init__(self, clock: Clock, observers: Observers) -> None:
        self._clock = clock
        self._observers = observers

    def response(self, dialog: ProxiedDialog, side: Side, request: SipRequest, response: SipResponse) -> None:
        """A 1xx or 2xx was forwarded to `side`, who sent `request` (INVITE or UPDATE)."""
        other: Side = "callee" if side == "caller" else "caller"
        if response.status >= 200 and request.to_tag:
            if request.method == "INVITE" and not sdp_of(request) and sdp_of(response):
                dialog.unnamed = request  # a late offer: the ACK tells where the media of this side come from
            else:
                self._told(dialog, side, request, sdp_of(request))
        elif request.to_tag:
            return
        self._told(dialog, other, response, sdp_of(response))

    def acknowledged(self, dialog: ProxiedDialog, side: Side, ack: SipRequest) -> None:
        """The ACK with the answer to a late offer was forwarded."""
        request, dialog.unnamed = dialog.unnamed, None
        if request is not None:
            self._told(dialog, side, request, sdp_of(ack))

    def taken(self, dialog: ProxiedDialog) -> None:
        """The dialog is the one that the call has now."""
        for side in ("caller", "callee"):
            dialog.call.parties[side] = self._of(dialog, side)

    def _of(self, dialog: ProxiedDialog, side: Side) -> Party:
        party = dialog.parties.get(side)
        if party is None:
            call = dialog.call
            if side == "caller":
                invite = call.invite
                claims = tuple(_key(each) for each in asserted(invite))
                party = Party(
                    call.caller, invite, claims, _contact(invite), _session_uuid(invite), _origin(sdp_of(invite))
                )
            else:
                party = Party(call.callee)
            dialog.parties[side] = party
        return party

    def _told(self, dialog: ProxiedDialog, side: Side, message: SipMessage, sdp: bytes) -> None:
        before = self._of(dialog, side)
        try:
            party, change = told(before, message, sdp, dialog.call.wall(self._clock.now()))
        except SipError:
            return
        dialog.parties[side] = party
        call = dialog.call
        if change and call.state == "confirmed" and dialog.callee_tag == call.to_tag:
            # First the news, so that observers find the party that was there before.
            self._observers.tell(f"party_{change}", call, side, party.address, party.message)
        if call.state == "confirmed" and dialog.callee_tag == call.to_tag:
            call.parties[side] = party


def _key(address: NameAddr) -> tuple[str, str]:
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
