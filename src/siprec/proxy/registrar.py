"""A registrar in memory (RFC 3261 10.3): several contacts, expiry, q, digest, phones behind NAT."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from siprec.proxy.authentication import Authentication
from siprec.proxy.flow import flow_of
from siprec.proxy.identity import Identity
from siprec.proxy.routes import Target
from siprec.sip.clock import Clock, Timer
from siprec.sip.errors import SipError
from siprec.sip.message import SipRequest
from siprec.sip.transaction import ServerTransaction
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri, unescape
from siprec.sip.validate import check_for_endpoint

log = logging.getLogger(__name__)

_SWEEP = 10.0


@dataclass(frozen=True, slots=True)
class Binding:
    """One contact of an address of record. `expires` is monotonic; `flow` set when the phone is reached only the way
    it came."""

    uri: Uri
    q: float
    expires: float
    call_id: str
    cseq: int
    flow: Hop | None
    user_agent: str = ""


class Registrar:
    """Location service of our domains. Times in seconds.

    With users in `authentication` everybody is asked for a password, and only those users may register, each as
    themselves; without, anyone may. `changed(aor, bindings)` is told of every change.
    """

    def __init__(
        self,
        clock: Clock,
        identity: Identity,
        *,
        min_expires: int = 60,
        max_expires: int = 7200,
        default_expires: int = 3600,
        max_contacts: int = 10,
        authentication: Authentication | None = None,
        max_users: int = 100_000,
        changed: Callable[[str, list[Binding]], None] | None = None,
    ) -> None:
        self._clock = clock
        self._identity = identity
        self._min = min_expires
        self._max = max_expires
        self._default = default_expires
        self._max_contacts = max_contacts
        self._max_users = max_users
        self.authentication = authentication or Authentication(clock, "siprec")
        self._changed = changed
        self._bindings: dict[str, list[Binding]] = {}
        self._sweep: Timer | None = None

    def reconfigure(self, *, min_expires: int, max_expires: int, default_expires: int, max_contacts: int) -> None:
        """Go on with other limits; bindings of users who are no more end when they expire."""
        self._min = min_expires
        self._max = max_expires
        self._default = default_expires
        self._max_contacts = max_contacts

    def __len__(self) -> int:
        return sum(len(bindings) for bindings in self._bindings.values())

    def lookup(self, uri: Uri) -> list[Target] | None:
        """The contacts of a Request-URI; empty: known but not there; None: no such user."""
        key = self._key(uri)
        now = self._clock.now()
        bindings = [binding for binding in self._bindings.get(key, ()) if binding.expires > now]
        if not bindings:
            return [] if key in self._bindings or unescape(uri.user or "") in self.authentication.users else None
        return [Target(binding.uri, binding.q, binding.flow) for binding in bindings]

    def bindings(self) -> Iterator[tuple[str, Binding]]:
        """All bindings that hold as they were at the first step, with their address of record; lazily, so that a great
        many can be gone through in pieces."""
        now = self._clock.now()
        for aor, bindings in list(self._bindings.items()):
            for binding in bindings:
                if binding.expires > now:
                    yield aor, binding

    def describe(self, aor: str, binding: Binding) -> dict[str, object]:
        """A binding as plain values; `expires` is the seconds left."""
        return {
            "aor": aor,
            "contact": binding.uri.text,
            "q": binding.q,
            "expires": round(binding.expires - self._clock.now()),
            "flow": str(binding.flow) if binding.flow is not None else "",
            "user_agent": binding.user_agent,
        }

    def _key(self, uri: Uri) -> str:
        # All our names mean the same users, so that phones may register at one address and be called at another.
        user = unescape(uri.user or "")
        return f"{user}@" if self._identity.serves(uri) else f"{user}@{uri.host}"

    # -- REGISTER ------------------------------------------------------------------------------------------------------

    def register(self, transaction: ServerTransaction, username: str = "") -> None:
        """Answer a REGISTER. `username`: who it was found to come from before; empty: not asked yet."""
        request = transaction.request
        tag = secrets.token_hex(5)
        try:
            headers = self._register(request, transaction.source, username)
            status, reason = 200, ""
        except SipError as error:
            status, reason, headers = error.status, error.reason, list(error.headers)
            if status == 400:
                reason = "".join(c for c in reason if c.isprintable())[:80]
        transaction.respond(request.response(status, reason, to_tag=tag, headers=headers))

    def _register(self, request: SipRequest, source: Hop, username: str) -> list[tuple[str, str]]:
        check_for_endpoint(request)
        unsupported = request.values("require")
        if unsupported:
            raise SipError("Bad Extension", 420, (("Unsupported", ", ".join(unsupported)),))
        aor = request.to.uri
        if not username and self.authentication.users:
            username = self.authentication.check(request, proxy=False)
        if not self._identity.serves(aor):
            raise SipError("Not Found", 404)
        user = unescape(aor.user or "")
        if username and username != user:
            raise SipError("Forbidden", 403)
        key = self._key(aor)
        now = self._clock.now()
        old = [binding for binding in self._bindings.get(key, ()) if binding.expires > now]
        values = request.values("contact")
        if values:
            new = self._removed(request, old) if values == ["*"] else self._merged(request, source, old, now)
            if key not in self._bindings and len(self._bindings) >= self._max_users:
                raise SipError("Too many users", 503)
            self._bindings[key] = new
            self._arm()
            if self._changed is not None:
                self._changed(aor.aor, new)
            old = new
        return [
            ("Contact", f"<{binding.uri.text}>;expires={max(1, round(binding.expires - now))}" + _q(binding.q))
            for binding in old
        ]

    def _removed(self, request: SipRequest, old: list[Binding]) -> list[Binding]:
        if self._wanted(request) != 0:
            raise SipError("Contact: * needs Expires: 0")
        for binding in old:
            self._check_order(request, binding)
        return []

    def _wanted(self, request: SipRequest) -> int | None:
        value = request.get("expires")
        if value is None or not value.isdecimal() or not value.isascii():
            return None
        return min(int(value[:12]), 2**32 - 1)

    def _check_order(self, request: SipRequest, binding: Binding) -> None:
        """RFC 3261 10.3 step 7: an older request of the same phone must not win."""
        if binding.call_id == request.call_id and request.cseq.number <= binding.cseq:
            raise SipError("Request out of order", 500)

    def _merged(self, request: SipRequest, source: Hop, old: list[Binding], now: float) -> list[Binding]:
        result = list(old)
        default = self._wanted(request)
        for contact in request.contacts:
            uri = contact.uri
            seconds = contact.expires
            if seconds is None:
                seconds = default if default is not None else self._default
            if 0 < seconds < self._min:
                # 10.3 step 7: only what is under an hour may be called too brief.
                raise SipError("Interval Too Brief", 423, (("Min-Expires", str(self._min)),))
            known = next((each for each in result if each.uri.equivalent(uri)), None)
            if known is not None:
                self._check_order(request, known)
                result.remove(known)
            if seconds:
                flow = flow_of(request, contact, source)
                expires = now + min(seconds, self._max)
                agent = (request.get("user-agent") or "")[:80]
                result.append(Binding(uri, contact.q, expires, request.call_id, request.cseq.number, flow, agent))
        if len(result) > self._max_contacts:
            raise SipError("Too many contacts", 403)
        return result

    def _arm(self) -> None:
        if self._sweep is None and self._bindings:
            self._sweep = self._clock.call_later(_SWEEP, self._swept)

    def _swept(self) -> None:
        self._sweep = None
        now = self._clock.now()
        for key, bindings in list(self._bindings.items()):
            left = [binding for binding in bindings if binding.expires > now]
            if not left and not bindings:
                del self._bindings[key]  # gone for a whole round
            elif len(left) != len(bindings):
                self._bindings[key] = left
        self._arm()


def _q(q: float) -> str:
    return f";q={q:g}" if q != 1.0 else ""
