"""What the metadata takes from the messages of a call: who takes part, which session it is, why it ended."""

from __future__ import annotations

import hashlib
import re
import uuid
from base64 import b64encode
from typing import Final, Literal

from siprec.metadata.document import NameId, Reason
from siprec.metadata.values import ANONYMOUS, OWN_NAMESPACE, clean_aor, escape, is_id
from siprec.proxy.party import asserted
from siprec.sip import headers
from siprec.sip.errors import SipError
from siprec.sip.headers import NameAddr
from siprec.sip.message import SipMessage, SipResponse
from siprec.sip.values import NIL_UUID, session_uuids

#: Where a party's name and address come from (policy; RFC 7865 6.5.1): From or To only; what the network asserts
#: (P-Asserted-Identity, else Remote-Party-ID), else From or To; or both, From or To first.
IdentityPolicy = Literal["header", "asserted", "both"]

# RFC 3840 9: tags of the base tree stand bare in a Contact, all others begin with "+".
_BASE_TAGS: Final = re.compile(
    "actor|application|audio|automata|class|control|data|description|duplex|events|extensions|isfocus|language"
    "|methods|mobility|priority|schemes|text|type|video"
)
# Names a device, not a feature (RFC 7865 6.10, 10).
_PRIVATE_TAGS: Final = frozenset({"+sip.instance"})


def name_id(address: NameAddr) -> NameId:
    """Address of record and display name of one address; never raises, malformed gives an anonymous address."""
    try:
        aor = address.uri.aor
    except SipError:
        aor = ANONYMOUS
    return NameId(clean_aor(aor), address.display_name.strip())


def name_ids(
    address: NameAddr, message: SipMessage | None = None, policy: IdentityPolicy = "header"
) -> tuple[NameId, ...]:
    """The addresses of a party, at least one.

    Args:
        address: its From or To.
        message: what that party sent last (request or response), where an asserted identity may stand.
        policy: see `IdentityPolicy`.
    """
    first = name_id(address)
    if message is None or policy == "header":
        return (first,)
    claims = [name_id(a) for a in asserted(message)]
    candidates = claims or [first] if policy == "asserted" else [first, *claims]
    unique: dict[str, NameId] = {}
    for candidate in candidates:
        unique.setdefault(candidate.aor, candidate)
    return tuple(unique.values())


def feature_params(message: SipMessage | None) -> tuple[tuple[str, str], ...]:
    """Feature parameters of the first Contact as ``param`` pairs (RFC 4235 4.1.6.2): a bare flag becomes ``true``."""
    try:
        contact = message.contact if message is not None else None
    except SipError:
        contact = None
    if contact is None:
        return ()
    return tuple(
        (name, "true" if value is None else headers.unquote(value))
        for name, value in contact.params.items()
        if (_BASE_TAGS.fullmatch(name) or name[0] == "+") and name not in _PRIVATE_TAGS
    )


def sip_session_id(invite: SipMessage | None, response: SipMessage | None) -> tuple[str, ...]:
    """The RFC 7989 identifier of the dialog that `invite` and its 2xx made, seen from the caller; empty if neither end
    uses Session-ID (never a Call-ID, metadata.md 3)."""
    local, _ = session_uuids(invite) if invite is not None else ("", "")
    remote, mirrored = session_uuids(response) if response is not None else ("", "")
    local = local or mirrored
    if not local and not remote:
        return ()
    return (f"{local or NIL_UUID};remote={remote or NIL_UUID}",)


def reasons(message: SipMessage | None) -> tuple[Reason, ...]:
    """Why a call ended, from its BYE, CANCEL or final response: the Reason headers (RFC 3326), else the status."""
    if message is None:
        return ()
    found = [headers.Reason.parse(value) for value in message.values("reason")]
    result = tuple(
        Reason(reason.cause, reason.protocol or "SIP", reason.text)
        for reason in found
        if reason.cause is not None and reason.cause <= 32767
    )
    if not result and isinstance(message, SipResponse) and message.status >= 300:
        return (Reason(message.status, "SIP", message.reason),)
    return result


def group(text: str, secret: bytes) -> tuple[str, str]:
    """Identifier and extension XML for a group given by a script.

    Text that is an identifier already stands for itself. Any other text becomes a name-based UUID (RFC 4122 4.3) in a
    name space that only the deployment's `secret` gives: same text, same id, and nothing to be guessed from it (RFC
    7865 6.10); the text itself travels as an extension element.
    """
    if is_id(text):
        return text, ""
    space = uuid.UUID(bytes=hashlib.sha256(b"siprec group\0" + secret).digest()[:16])
    name = text.encode("utf-8", "replace").decode()
    return (
        b64encode(uuid.uuid5(space, name).bytes).decode(),
        f'<group-name xmlns="{OWN_NAMESPACE}">{escape(name)}</group-name>',
    )
