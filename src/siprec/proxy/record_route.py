"""Our Record-Route values, and the proof that a Route value is one of ours (RFC 3261 16.6 step 4)."""

from __future__ import annotations

import hmac
import secrets
from hashlib import blake2b
from typing import Final

from siprec.proxy.local_domain import LocalDomain
from siprec.sip.transport import Hop, Transport
from siprec.sip.uri import Uri

PARAM: Final = "did"
# These make no dialog, and within one there is nothing that they tell its parties: no route set changes (RFC 3261
# 12.1), but one that was lost is found again with requests that refresh the target (RFC 3261 16.6 step 4).
_WITHOUT: Final = frozenset({"REGISTER", "MESSAGE", "OPTIONS", "PUBLISH", "CANCEL", "ACK", "BYE", "PRACK", "INFO"})


class Cookies:
    """Dialog cookies: ``<dlg_id>-<mac>``, bound to the Call-ID. `secret` signs them (random when empty: they then end
    with the process)."""

    def __init__(self, secret: bytes = b"") -> None:
        self._key = blake2b(secret or secrets.token_bytes(32), digest_size=32).digest()
        self._process = secrets.token_hex(4)

    def new_id(self) -> str:
        """A dlg_id that nobody has had."""
        return f"{self._process}{secrets.token_hex(6)}"

    def is_issued(self, dlg_id: str) -> bool:
        """Whether this process made the id, and not one before it with the same secret."""
        return dlg_id.startswith(self._process)

    def make(self, dlg_id: str, call_id: str) -> str:
        """The cookie of a dialog."""
        return f"{dlg_id}-{self._mac(dlg_id, call_id)}"

    def check(self, cookie: str, call_id: str) -> str | None:
        """The dlg_id in a cookie of ours, None in any other."""
        dlg_id, _, mac = cookie.rpartition("-")
        expected = self._mac(dlg_id, call_id).encode()
        return dlg_id if hmac.compare_digest(mac.encode("utf-8", "replace"), expected) else None

    def _mac(self, dlg_id: str, call_id: str) -> str:
        text = f"{dlg_id}\0{call_id}".encode("utf-8", "surrogateescape")
        return blake2b(text, digest_size=10, key=self._key).hexdigest()


def wanted(method: str) -> bool:
    """Whether to record-route (RFC 3261 16.6 step 4): what may make a dialog, refreshes one, or is unknown."""
    return method not in _WITHOUT


def values(
    transport: Transport, identity: LocalDomain, source: Hop, out: Hop, cookie: str, *, secure: bool
) -> tuple[str, ...]:
    """Our Record-Route values, uppermost first: one, or two where the sides differ (RFC 5658 5).

    `source` is where the request came from, `out` where it goes; both with `local` filled in. The upper value is for
    who is reached by `out`. `secure`: the Request-URI or the top Route is a SIPS URI.
    """
    above = _side(transport, out, secure)
    below = _side(transport, source, secure)
    if above == below:
        named = above[3] == "tcp" and not identity.has_udp(above[1], above[2])
        return (_value(above, cookie, named),)
    return _value(above, cookie, True), _value(below, cookie, True)


_Side = tuple[str, str, int, str]


def _side(transport: Transport, hop: Hop, secure: bool) -> _Side:
    host, port = transport.sent_by(hop)
    scheme = "sips" if secure or hop.transport == "tls" else "sip"
    return (scheme, host, port, hop.transport)


def _value(side: _Side, cookie: str, named: bool) -> str:
    scheme, host, port, transport = side
    if ":" in host:
        host = f"[{host}]"
    # RFC 5658 6.2: never transport=tls, the scheme says it.
    param = f";transport={transport}" if named and transport in ("udp", "tcp") else ""
    return f"<{scheme}:{host}:{port}{param};lr;{PARAM}={cookie}>"


def cookie_of(uri: Uri) -> str:
    """The cookie in a Route or Request-URI, empty if there is none."""
    return uri.params.get(PARAM) or ""
