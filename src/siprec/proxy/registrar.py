"""A registrar in memory (RFC 3261 10.3): several contacts, expiry, q, digest, phones behind NAT."""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from siprec.proxy.authentication import Authentication
from siprec.proxy.contacts import first_hop, is_public_name, paths, place
from siprec.proxy.local_domain import LocalDomain
from siprec.proxy.nat_flow import flow_of
from siprec.proxy.routes import TRUSTED, Target
from siprec.proxy.source_counts import SourceCounts
from siprec.sip.clock import Clock, Timer
from siprec.sip.errors import SipError
from siprec.sip.headers import NameAddr
from siprec.sip.message import SipRequest
from siprec.sip.transaction import ServerTransaction
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri, unescape
from siprec.sip.validate import check_for_endpoint
from siprec.sourcelog import source_key

log = logging.getLogger(__name__)

_SWEEP = 10.0
#: Characters of each text that a binding keeps.
MAX_TEXT = 1024


@dataclass(frozen=True, slots=True)
class Binding:
    """One contact of an address of record. `expires` is monotonic; `flow` set when the phone is reached the way it came
    (`only_flow`: in no other way); `path` the Path values; `given_by` the address of a stranger, as in `Target`."""

    uri: Uri
    q: float
    expires: float
    call_id: str
    cseq: int
    flow: Hop | None
    user_agent: str = ""
    path: tuple[str, ...] = ()
    given_by: str = ""
    only_flow: bool = False


class Registrar:
    """Location service of our domains. Times in seconds.

    With users in `authentication` everybody is asked for a password, and only those users may register, each as
    themselves; without, anyone may. `allow_foreign_contacts`: strangers may register Contacts at other public hosts
    than the one they register from. `max_per_source`: contacts that a stranger's address may register where nobody is
    asked for a password (0: any number). `changed(aor, bindings)` is told of every change.
    """

    def __init__(
        self,
        clock: Clock,
        identity: LocalDomain,
        *,
        min_expires: int = 60,
        max_expires: int = 7200,
        default_expires: int = 3600,
        max_contacts: int = 10,
        authentication: Authentication | None = None,
        max_users: int = 100_000,
        allow_foreign_contacts: bool = False,
        max_per_source: int = 200,
        changed: Callable[[str, list[Binding]], None] | None = None,
    ) -> None:
        self._clock = clock
        self._identity = identity
        self._min = min_expires
        self._max = max_expires
        self._default = default_expires
        self._max_contacts = max_contacts
        self._max_users = max_users
        self._allow_foreign = allow_foreign_contacts
        self._max_per_source = max_per_source
        self.authentication = authentication or Authentication(clock, "siprec")
        self._changed = changed
        self._bindings: dict[str, list[Binding]] = {}
        self.counters: Counter[str] = Counter()
        self._by_source: Counter[str] = Counter()
        self._told = SourceCounts(clock)
        self._sweep: Timer | None = None

    def reconfigure(
        self,
        *,
        min_expires: int,
        max_expires: int,
        default_expires: int,
        max_contacts: int,
        allow_foreign_contacts: bool = False,
        max_per_source: int = 200,
    ) -> None:
        """Go on with other limits; bindings of users who are no more end when they expire."""
        self._min = min_expires
        self._max = max_expires
        self._default = default_expires
        self._max_contacts = max_contacts
        self._allow_foreign = allow_foreign_contacts
        self._max_per_source = max_per_source

    def __len__(self) -> int:
        return sum(len(bindings) for bindings in self._bindings.values())

    def lookup(self, uri: Uri) -> list[Target] | None:
        """The contacts of a Request-URI; empty: known but not there; None: no such user."""
        key = self._key(uri)
        now = self._clock.now()
        bindings = [binding for binding in self._bindings.get(key, ()) if binding.expires > now]
        if not bindings:
            return [] if key in self._bindings or unescape(uri.user or "") in self.authentication.users else None
        return [Target(each.uri, each.q, each.flow, each.path, each.given_by, each.only_flow) for each in bindings]

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
        return (
            f"{user}@" if self._identity.serves(uri) else f"{user}@{f'[{uri.host}]' if ':' in uri.host else uri.host}"
        )

    # -- REGISTER ------------------------------------------------------------------------------------------------------

    def register(self, transaction: ServerTransaction, username: str = "", *, trusted: bool = False) -> None:
        """Answer a REGISTER. `username`: who it was found to come from before; empty: not asked yet. `trusted` sources
        may register Contacts of others."""
        request = transaction.request
        tag = secrets.token_hex(5)
        try:
            headers = self._register(request, transaction.source, username, trusted)
            status, reason = 200, ""
        except SipError as error:
            status, reason, headers = error.status, error.reason, list(error.headers)
            if status == 400:
                reason = "".join(c for c in reason if c.isprintable())[:80]
        transaction.respond(request.response(status, reason, to_tag=tag, headers=headers))

    def _register(self, request: SipRequest, source: Hop, username: str, trusted: bool) -> list[tuple[str, str]]:
        check_for_endpoint(request)
        unsupported = [tag for tag in request.values("require") if tag.lower() != "path"]
        if unsupported:
            raise SipError("Bad Extension", 420, (("Unsupported", ", ".join(unsupported)),))
        aor = request.to.uri
        if not username and self.authentication.users:
            username = self.authentication.check(request, proxy=False, source=source.host)
        if not self._identity.serves(aor):
            raise SipError("Not Found", 404)
        user = unescape(aor.user or "")
        if username and username != user:
            raise SipError("Forbidden", 403)
        key = self._key(aor)
        now = self._clock.now()
        _check_sizes(request)
        old = [binding for binding in self._bindings.get(key, ()) if binding.expires > now]
        values = request.values("contact")
        if values:
            new = self._removed(request, old) if values == ["*"] else self._merged(request, source, old, now, trusted)
            if key not in self._bindings and len(self._bindings) >= self._max_users:
                raise SipError("Too many users", 503)
            self._check_source(source, old, new, trusted)
            if new or key in self._bindings:  # taking away what is not there leaves nothing behind
                self._store(key, new)
                self._arm()
                if self._changed is not None:
                    self._changed(aor.aor, new)
            old = new
        path = [("Path", value) for value in request.values("path")] if "path" in request.keys else []
        return path + [
            ("Contact", f"<{binding.uri.text}>;expires={max(1, round(binding.expires - now))}" + _q(binding.q))
            for binding in old
        ]

    def _check_source(self, source: Hop, old: list[Binding], new: list[Binding], trusted: bool) -> None:
        """Without passwords anybody can fill the memory: one source gets so many contacts. Raises SipError."""
        limit = self._max_per_source
        if trusted or not limit or self.authentication.users:
            return
        mine = source_key(source.host)
        before = sum(source_key(each.given_by) == mine for each in old)
        after = sum(source_key(each.given_by) == mine for each in new)
        if after > before and self._by_source[mine] + after - before > limit:
            self.counters["max_per_source"] += 1
            self._told.tell(source.host, f"{limit} registered contacts: refused (max_per_source)")
            raise SipError("Too many registrations from this address", 403)

    def _store(self, key: str, new: list[Binding]) -> None:
        for each in self._bindings.get(key, ()):
            owner = source_key(each.given_by)
            self._by_source[owner] -= 1
            if not self._by_source[owner]:
                del self._by_source[owner]
        for each in new:
            self._by_source[source_key(each.given_by)] += 1
        self._bindings[key] = new

    def has_contacts_of(self, host: str) -> bool:
        """Whether somebody at this address has registered."""
        return source_key(host) in self._by_source

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

    def _merged(self, request: SipRequest, source: Hop, old: list[Binding], now: float, trusted: bool) -> list[Binding]:
        result = list(old)
        path = paths(request, self._identity)
        default = self._wanted(request)
        contacts = request.contacts
        if len(contacts) > 2 * self._max_contacts:
            raise SipError("Too many contacts", 403)  # each is compared with all others
        for contact in contacts:
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
                flow, only_flow = self._way(request, contact, source, path, trusted)
                expires = now + min(seconds, self._max)
                agent = (request.get("user-agent") or "")[:80]
                number, given_by = request.cseq.number, TRUSTED if trusted else source.host
                result.append(
                    Binding(
                        uri,
                        contact.q,
                        expires,
                        request.call_id,
                        number,
                        flow,
                        agent,
                        path,
                        given_by,
                        only_flow,
                    )
                )
        if len(result) > self._max_contacts:
            raise SipError("Too many contacts", 403)
        return result

    def _way(
        self, request: SipRequest, contact: NameAddr, source: Hop, path: tuple[str, ...], trusted: bool
    ) -> tuple[Hop | None, bool]:
        """The flow to a Contact, and whether that is the only way.

        Raises:
            SipError: 403, it leads back to us, or a stranger's Contact to somebody else.
        """
        if self._identity.is_own_contact(contact.uri):
            raise SipError("Contact leads back to this proxy", 403)
        if trusted:
            return (None if path else flow_of(request, contact, source)), False
        where = place(first_hop(path, contact.uri), source)
        if where == "source":
            return (source if source.reliable else None), False
        if where == "inside" and not (self._allow_foreign and not path and is_public_name(contact.uri)):
            return source, True
        if path or not self._allow_foreign:
            raise SipError("Path is not where the REGISTER comes from" if path else "Contact at another host", 403)
        return None, False

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
                self._store(key, left)
        self._arm()


def _check_sizes(request: SipRequest) -> None:
    """What a binding keeps is of the size that phones have. Raises SipError."""
    if len(request.call_id) > MAX_TEXT or any(
        len(value) > MAX_TEXT for name in ("to", "contact", "path") for value in request.values(name)
    ):
        raise SipError("To, Contact, Path or Call-ID too long", 400)


def _q(q: float) -> str:
    return f";q={q:g}" if q != 1.0 else ""
