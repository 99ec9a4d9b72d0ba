"""Recording sessions that an SRS asks for: an INVITE without offer (RFC 7866 5.1, 6.1.1, 7.2).

How an SRS names what it wants is not standardised. Here the Request-URI does: ``sip:ID@us`` with the Call-ID or dialog
id of a call (``@`` in it escaped) asks for that call, ``sip:USER@DOMAIN`` for the calls of that address of record,
``sip:us`` without a user for all calls; the latter two for those to come as well, for as long as the session lasts.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import unquote

import msgspec

from siprec.proxy.call import Call as ProxyCall
from siprec.recording.recording_profile import RecordingProfile
from siprec.recording.rs_dialog import FEATURE, RsDialog
from siprec.recording.rs_peer import ACCEPT, Body, description_of, encode_body
from siprec.recording.shared_session import SharedSession
from siprec.recording.shared_session_pool import INBOUND, SharedSessionPool
from siprec.sip.addresses import numeric
from siprec.sip.errors import SipError
from siprec.sip.message import SipRequest
from siprec.sip.uri import Uri
from siprec.sip.useragent import Call, IncomingCall
from siprec.sourcelog import SourceLog

log = logging.getLogger(__name__)

#: Seconds that the media server may take to offer the streams of the calls that are there.
PREPARATION: Final = 3.0
_CALLS: Final = 100
Scope = Literal["call", "party", "all"]


class RequestSettings(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[srs_requests]``: recording sessions that an SRS asks for by an INVITE of its own.

    Raises:
        ValueError: from the constructor, with field and reason.
    """

    allow: tuple[str, ...] = ()
    """Addresses or networks of the SRSs that may ask, over TCP or TLS; nobody, by default. Anybody else, and everybody
    over UDP, where an address can be forged, gets 403. Over TLS the peer is who its certificate says, where
    ``sip.tls_verify_clients`` is set; over TCP an address is all there is."""
    scope: tuple[Scope, ...] = ("call", "party", "all")
    """What may be asked for: one call by its Call-ID or dialog id, the calls of one address of record, all calls."""
    profile: str = "default"
    """The ``[recording.NAME]`` whose settings hold (identity, updates, indication...), where there is one."""
    max_sessions: int = 10

    def __post_init__(self) -> None:
        for text in self.allow:
            try:
                ipaddress.ip_network(text, strict=False)
            except ValueError as error:
                raise ValueError(f"allow: {error}") from None
        if not 1 <= self.max_sessions <= 1000:
            raise ValueError("max_sessions must lie in 1..1000")

    def allows(self, host: str) -> bool:
        """Whether who sends from there may ask."""
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return any(address in ipaddress.ip_network(text, strict=False) for text in self.allow)


class IncomingRsDialog(RsDialog):
    """An RS dialog that the SRS began: our offer goes in the 200, its answer comes in the ACK."""

    def take(self, call: IncomingCall) -> None:
        """It is this one."""
        self._incoming = call
        self._call, self._up = call, False
        self.call_id = call.call_id
        call.handler = self
        call.contact_params = FEATURE
        call.refresh_headers = (("Require", "siprec"),)  # RFC 8068 3

    def invite(self, body: Body) -> None:
        """200 with the offer and the metadata (RFC 7866 9.1)."""
        octets, headers = encode_body(body, self._metadata_type)
        lines = [("Require", "siprec"), ("Accept", ACCEPT), *headers[1:]]
        self._incoming.answer(200, octets, headers[0][1], lines)

    def cancel(self) -> None:
        """There is nothing to cancel: 480."""
        self._incoming.answer(480)

    def ack(self, call: Call, request: SipRequest) -> None:
        """The first ACK has the answer to our offer."""
        if self._up:
            super().ack(call, request)
            return
        self._up = True
        answer = description_of(request)
        if answer is None or all(line.rejected for line in answer.media):
            call.bye((("Reason", 'SIP;cause=488;text="no usable answer"'),))
            self.owner.rs_refused(self, 488, "no usable answer in the ACK")
        else:
            self.owner.rs_answered(self, answer)

    def ended(self, call: Call, reason: str, request: SipRequest | None) -> None:
        """CANCEL, BYE, no ACK, or the dialog broke."""
        if self._up:
            super().ended(call, reason, request)
        else:
            self.owner.rs_refused(self, 487, reason)


@dataclass(eq=False)
class _Watch:
    """One session of an SRS: which calls are wanted in it."""

    instance: str
    profile: RecordingProfile
    session: SharedSession
    incoming: IncomingCall
    dlg_id: str = ""
    aor: str = ""
    engaged: set[str] = field(default_factory=set)

    def wants(self, call: ProxyCall) -> bool:
        """Whether `call` belongs into it."""
        if self.dlg_id:
            return call.dlg_id == self.dlg_id
        return not self.aor or self.aor in (_aor(call.caller.uri_text), _aor(call.callee.uri_text))


def _aor(text: str) -> str:
    try:
        uri = Uri.parse(text)
    except SipError:
        return text
    host = numeric(uri.host) or uri.host.lower()
    return f"{uri.user.lower()}@{host}" if uri.user else host


def is_request(request: SipRequest) -> bool:
    """Whether an INVITE asks for a recording session: option tag and feature parameter, both (RFC 7866 6.1.1)."""
    if request.method != "INVITE" or "siprec" not in request.tokens("require") | request.tokens("supported"):
        return False
    try:
        contact = request.contact
    except SipError:
        return False
    return contact is not None and "+sip.srs" in contact.params


class RequestedSessions:
    """The recording sessions that SRSs asked for.

    Args:
        pool: the shared recording sessions.
        settings: who may ask for what.
        profiles: those of the configuration, as they are now.
        calls: the calls of the proxy.
        engage: begin the recording of a call under this name and profile; returns why not, or nothing.
    """

    def __init__(
        self,
        pool: SharedSessionPool,
        settings: RequestSettings,
        profiles: Callable[[str], RecordingProfile | None],
        calls: Callable[[], Iterable[ProxyCall]],
        engage: Callable[[ProxyCall, str, RecordingProfile], str],
    ) -> None:
        self.pool, self.settings = pool, settings
        self._profiles, self._calls, self._engage = profiles, calls, engage
        self._watches: dict[str, _Watch] = {}
        self._lines = SourceLog(log)

    # -- the user agent's side -----------------------------------------------------------------------------------------

    def take(self, incoming: IncomingCall) -> None:
        """An INVITE for which `is_request` holds."""
        source = incoming.transaction.source.host
        status, why = self._refusal(incoming, source)
        if status:
            self._lines.warning(source, "SRS at %s refused: %d %s, Call-ID %s", source, status, why, incoming.call_id)
            incoming.answer(status, reason=why if status != 403 else "")
            return
        ruri = incoming.invite.ruri
        name = unquote(ruri.user or "")
        named = next((c for c in self._calls() if name and name in (c.dlg_id, c.call_id)), None)
        scope: Scope = "call" if named is not None or "@" in name else "party" if name else "all"
        if scope not in self.settings.scope or (scope == "call" and (named is None or named.state == "terminated")):
            status = 403 if scope not in self.settings.scope else 404
            self._lines.warning(source, "SRS at %s refused: %s, Call-ID %s", source, scope, incoming.call_id)
            incoming.answer(status)
            return
        try:
            watch = self._watch(incoming)
        except (SipError, ValueError) as error:
            incoming.answer(400, reason="Contact is of no use")
            self._lines.warning(source, "SRS at %s refused: %s, Call-ID %s", source, error, incoming.call_id)
            return
        watch.dlg_id = named.dlg_id if named is not None else ""
        watch.aor = _aor(ruri.text) if scope == "party" else ""
        watch.session.standing = scope != "call"
        log.info("SRS at %s: session for %s, Call-ID %s", source, name or "all calls", incoming.call_id)
        for call in list(self._calls()):
            if call.state == "confirmed" and watch.wants(call):
                self._join(watch, call)
        # With the streams that are there, if the media server is quick; else to begin with nothing (RFC 7866 5.1).
        clock = self.pool.clock
        clock.call_later(PREPARATION if watch.engaged else 0.0, self._prepared, watch)

    def _refusal(self, incoming: IncomingCall, source: str) -> tuple[int, str]:
        if not self.settings.allows(source):
            return 403, "not allowed"
        if incoming.transaction.source.transport == "udp":
            return 403, "not over UDP, where an address can be forged: TCP or TLS"
        if incoming.invite.body:
            # An SRS makes no offer (RFC 7866 6.2), and nothing else is wanted here.
            return 488, "A recording server makes no offer"
        if len(self._watches) >= self.settings.max_sessions:
            return 486, "Too many recording sessions"
        return 0, ""

    def _watch(self, incoming: IncomingCall) -> _Watch:
        contact = incoming.invite.contact
        if contact is None:
            raise ValueError("no Contact")
        server = contact.uri.text
        profile = self._profiles(self.settings.profile) or RecordingProfile(srs=server)
        # It is the SRS's session: when that is over, nobody is called.
        profile = msgspec.structs.replace(
            profile, srs=[server], rebuilds=0, session="shared", start="answer", on_failure="ignore", socket=""
        )
        instance = f"{INBOUND}{incoming.local_tag}"
        session = SharedSession(
            self.pool.clock,
            self.pool.agent,
            (instance, ""),
            server,
            profile,
            profile.settings,
            self.pool.from_uri,
            standing=False,
            limit=_CALLS,
            up=lambda session: None,
            over=self._over,
        )
        dialog = IncomingRsDialog(self.pool.agent, server, profile, profile.settings, self.pool.from_uri, session)
        dialog.take(incoming)
        session.dialog = dialog
        self.pool.sessions.append(session)
        watch = self._watches[instance] = _Watch(instance, profile, session, incoming)
        return watch

    def _prepared(self, watch: _Watch) -> None:
        if watch.session.state == "new":
            # Nothing of the one call that was wanted: 480, by the session's end.
            watch.session.open()

    def _over(self, session: SharedSession, status: int, reason: str) -> None:
        watch = self._watches.pop(session.key[0], None)
        if session in self.pool.sessions:
            self.pool.sessions.remove(session)
        if watch is not None:
            watch.incoming.answer(480)  # does nothing once it is answered
            log.info("session of an SRS ended: %s %s, Call-ID %s", status or "", reason, watch.incoming.call_id)

    # -- the calls -----------------------------------------------------------------------------------------------------

    def created(self, call: ProxyCall) -> None:
        """A new call: where it is wanted, its media have to pass the media server."""
        for watch in self._watches.values():
            if watch.wants(call) and watch.instance not in call.recordings:
                call.recordings.append(watch.instance)

    def profile(self, instance: str) -> RecordingProfile | None:
        """The profile of a session that an SRS asked for."""
        watch = self._watches.get(instance)
        return watch.profile if watch is not None else None

    def _join(self, watch: _Watch, call: ProxyCall) -> None:
        why = self._engage(call, watch.instance, watch.profile)
        if not why:
            watch.engaged.add(call.dlg_id)
