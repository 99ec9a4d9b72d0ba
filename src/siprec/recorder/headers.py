"""What a recording client says about a call in SIP headers, kept with the recording.

Some say it nowhere else: the parties of a call that CUBE records are known from To, From and P-Asserted-Identity only.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from typing import Any, Final

from siprec.sip.errors import SipError
from siprec.sip.header_list import header_name
from siprec.sip.headers import NameAddr
from siprec.sip.message import SipMessage

DEFAULT: Final = (
    "From", "To", "P-Asserted-Identity", "P-Preferred-Identity", "Remote-Party-ID", "P-Called-Party-ID", "Diversion",
    "History-Info", "User-to-User", "Call-Info", "Subject", "Session-ID", "Cisco-Guid", "P-Charging-Vector",
    "User-Agent", "X-*",
)  # fmt: skip
PERSONAL: Final = frozenset(
    {
        "from", "to", "p-asserted-identity", "p-preferred-identity", "remote-party-id", "p-called-party-id",
        "diversion", "history-info",
    }
)  # fmt: skip
"""Those that name people, which ``keep`` may leave out."""
_PARTIES: Final = ("from", "p-asserted-identity", "remote-party-id", "to")
MAX_HEADERS: Final = 100
MAX_VALUE: Final = 2000

Kept = list[tuple[str, str]]


def kept(message: SipMessage, wanted: Sequence[str]) -> Kept:
    """Names and values of the headers of `message` that `wanted` names (``*`` stands for anything), in order."""
    patterns = [pattern.lower() for pattern in wanted]
    out: Kept = []
    for key, line in zip(message.keys, message.lines, strict=True):
        if len(out) >= MAX_HEADERS:
            break
        if any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns):
            name, _, value = line.partition(":")
            name = name.strip()
            out.append((header_name(key) if len(name) == 1 else name, " ".join(value.split())[:MAX_VALUE]))
    return out


def parties(headers: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
    """Addresses and names that the headers give: who is in the call, if the metadata do not say."""
    found: dict[str, dict[str, Any]] = {}
    for wanted in _PARTIES:
        for name, value in headers:
            if name.lower() != wanted:
                continue
            try:
                address = NameAddr.parse(value)
                aor = address.uri.aor if address.uri.is_sip else address.uri_text.partition(";")[0]
            except SipError:
                continue
            entry = found.setdefault(aor, {"aor": aor, "name": address.display_name, "header": name})
            entry["name"] = entry["name"] or address.display_name
            far = address.uri.params.get("x-farendaddr") if address.uri.is_sip else None
            if far:
                # CUCM: the parameters of From say whom the recorded phone talks to.
                found.setdefault(far, {"aor": far, "name": "", "header": name})
    return list(found.values())
