"""One way to record calls: a profile of the configuration."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any, Final, Literal

import msgspec

from siprec.metadata.values import LEGACY_MEDIA_TYPE, MEDIA_TYPE
from siprec.recording.participants import IdentityPolicy
from siprec.recording.refused_streams import OnRefusedStream
from siprec.recording.session_events import Policy
from siprec.recording.settings import (
    FIELDS,
    RecordingSettings,
    SettingError,
    check_socket,
    check_srs,
    check_uri,
    checked,
)
from siprec.recording.srs_bye import OnSrsBye
from siprec.recording.srs_route import OUR_REALM, SrsRoute, SrsSettings, TlsPolicy, place_of, tls_of
from siprec.recording.srtp_sdp import SrtpPolicy
from siprec.sip.digest import Credentials
from siprec.sip.uri import Uri

_REACHES: Final = 64
"""SRSs whose route a profile remembers: its own, and where they redirect to."""


def _credentials(who: RecordingProfile | SrsSettings, server: str) -> Credentials:
    """Of an SRS; those for any realm have an empty one."""
    realm = "" if who.realm == "*" else who.realm or Uri.parse(server).host
    return Credentials(who.username, who.password, realm, who.allow_no_qop)


class RecordingProfile(msgspec.Struct, kw_only=True, frozen=True, dict=True, forbid_unknown_fields=True):
    """``[recording.NAME]``: one way to record calls. Times are in seconds.

    What follows from the fields is derived once, when it is asked for first, and not for each call.

    Raises:
        ValueError: from the constructor, with field and reason (a ``ValidationError`` with the path when converted).
    """

    srs: list[str] | str
    """The SRSs in order, as a list or separated by commas."""
    session: Literal["per-call", "shared", "persistent"] = "per-call"
    """One recording session for each call; one that all calls with the same `group` share while there are any (without
    a group: all of this profile); or one that stands from the start, which calls join and leave by re-INVITE, and which
    is set up again whenever it fails. Shared sessions go over TCP, where neither the URI nor `transport` says else."""
    calls_per_session: int = 16
    """How many calls share a recording session, and as many as one SIP message can describe; the next one begins
    another."""
    start: Literal["answer", "early"] = "answer"
    """When a recording begins that was wanted before: with the answer, or with the first early media (a provisional
    response with a description), if there are any."""
    skip_failover_codes: str = ""
    """Regular expression over the reply code: a match ends the search for an SRS. Default: every failure goes on."""
    setup_timeout: float = 4.0
    """How long an SRS may take for its final answer before the next one is tried."""
    end_timeout: float = 5.0
    """How long the end of a recording waits for a pending exchange and the last metadata before it sends BYE."""
    rebuilds: int = 3
    """How often a recording session that broke down in mid-call is set up again (RFC 7865 6.4)."""
    retry: float = 15.0
    """Seconds after which a recording that failed because its SRSs were down is tried again while its call goes on, and
    again each time; at once when one of them is back. What was missed is a gap in the proof. 0: never."""
    on_failure: Literal["ignore", "announce", "end-call"] = "ignore"
    """What becomes of a call which cannot be recorded, or no longer (RFC 7866 7.1.2). ``announce``: the parties of an
    answered call hear three short tones; ``end-call``: it gets a 503, or each party a BYE, with a Reason."""
    on_refused_stream: OnRefusedStream = "failover-audio"
    """What follows when an SRS does not take a stream (port 0, ``sendonly``, ``inactive``, a null address, no m-line),
    also when it gets the same offer once more. ``failover-audio``: the next SRS is tried if the stream is audio;
    ``failover``: for any stream; ``accept``: the recording goes on with the streams that are taken, as it does where no
    other SRS is left."""
    on_srs_bye: OnSrsBye = "by-reason"
    """What a BYE of the SRS in mid-call does. ``by-reason``: with ``Reason`` SIP 500 to 599 or Q.850 38, 41 or 42 the
    next SRS takes the recording, any other BYE ends it; ``failover``: every BYE is a failover; ``end``: every BYE ends
    the recording."""
    profile: Literal["rfc", "legacy-metadata-type"] = "rfc"
    """``legacy-metadata-type``: ``application/rs-metadata``, as in the first RFC 7866."""
    updates: Literal["partial", "complete"] = "partial"
    """What follows the first, complete metadata: changes only, or the whole each time."""
    indication: Literal["none", "attribute", "tone", "both"] = "none"
    """How the parties learn that they are recorded: ``a=record`` for those that say ``Supported: record-aware``
    (RFC 7866 6.1.2), a tone for the others (RFC 7866 6.1.2), both; or none, the default: a proxy that is not told to
    changes nothing of the call, and the parties are informed by other means (RFC 7866 6.1.2)."""
    tone_frequency: int = 1400
    tone_duration: float = 0.2
    tone_interval: float = 15.0
    """The tone: Hz, seconds, and how often in seconds; it is not in the recording."""
    resignal: bool = True
    """Tell record-aware parties of changes in mid-call by a re-INVITE or UPDATE of our own (RFC 7866 7.1.2)."""
    recordpref: Literal["ignore", "honour"] = "ignore"
    """Whether ``a=recordpref`` of a party stops, pauses or resumes the recording (RFC 7866 7.1.3)."""
    identity: IdentityPolicy = "header"
    """Where names and addresses of the parties are taken from: ``header``, ``asserted`` or ``both``."""
    transport: Literal["", "udp", "tcp", "tls"] = ""
    """Transport to the SRS where its URI names none; empty: as RFC 3263 finds it."""
    outbound_proxy: str = ""
    """SIP URI that every request outside a dialog goes to first."""
    watch: float = 10.0
    """Seconds between two looks at what the media server counts for a recording: ICMP errors, and receiver reports of
    the SRS that are missing (RFC 7866 8.1.1); 0: none."""
    rtcp_timeout: float = 10.0
    """Seconds without a receiver report of an SRS that sent some, after which it is asked whether it is there, by an
    OPTIONS in the session (4 s); three times the interval of its reports where that is longer, up to 14. 0: never."""
    keepalive: float = 15.0
    """Seconds between OPTIONS inside each recording session in which no receiver reports are seen: the SRS sends none,
    or the media server does not show them. 0: only when something looks wrong."""
    srs_retry: float = 60.0
    """Seconds for which an address of an SRS that kept silent is tried after the others of its name; 0: no memory."""
    on_bad_extension: Literal["next", "without-require"] = "next"
    """What follows a 420 of an SRS that does not support ``siprec``: the next SRS, or the same one once more without
    ``Require: siprec`` (SRSs of before RFC 7866)."""
    ping: float = 0.0
    """Seconds between OPTIONS to each SRS outside of recordings; 0: only while one is down (after 1, 2, 4, 8 and then
    every 15 seconds)."""
    redirect: Literal["never", "same-host", "any"] = "never"
    """Whether a 3xx of an SRS is followed: never (it counts as a refusal), to the same host, or anywhere; in no case to
    a less secure transport (RFC 3261 8.1.3)."""
    username: str = ""
    password: str = ""
    realm: str = ""
    """Digest credentials (401, 407). `realm` is what the SRS calls itself in its challenge; empty: the host of its URI,
    or ``siprec`` as our recorder has it; ``*``: any, so that whoever answers 401 is given a hash of the password."""
    allow_no_qop: bool = False
    """Answer challenges without ``qop`` (RFC 2069), which are weaker: servers from before RFC 3261."""
    tls_certificate: str = ""
    tls_key: str = ""
    tls_key_password: str = ""
    """PEM files for SRSs that want a certificate (the key may be in the same file). Default: those of ``[sip]``."""
    tls_ca: str = ""
    """PEM file with the authorities that SRSs have certificates of. Default: that of ``[sip]``, else the system's."""
    tls_verify: TlsPolicy = "full"
    """What is checked of an SRS's certificate: issuer and name (``full``, RFC 5922), issuer (``chain``), nothing."""
    tls_server_name: str = ""
    """The name to ask for (SNI) and to find in the certificate; default: the host of the SRS's URI."""
    servers: dict[str, SrsSettings] = {}
    """Tables for single SRSs by ``HOST`` or ``HOST:PORT`` of their URIs: what differs for them."""
    signalling: Literal["any", "as-call"] = "any"
    """``as-call``: of a call with a party that speaks TLS to us, or a ``sips:`` URI, only SRSs that are reached by TLS
    are told (RFC 7866 12); others count as unreachable. ``any``: something else protects the way to the SRS."""
    srtp: SrtpPolicy = "as-call"
    """``as-call``: streams that are SRTP in the call go to the SRS as SRTP (RFC 7866 12), with other keys where the
    media server can; ``always``: all streams do; ``off``: none, because something else protects them. Keys are in the
    SDP (RFC 4568), so the SRS should be reached by TLS."""
    srtp_fallback: bool = False
    """An SRS that declines SRTP gets plain RTP; false: it does not get the recording, the next one is tried."""
    confirm: Literal["required", "if-available"] = "if-available"
    """What the proof of recording says of a call that the SRS does not confirm, by receiver reports or (our recorder)
    by its own count: ``unconfirmed``, or with ``required`` ``partial``, which `siprec audit` counts as not recorded."""
    session_expires: int = 1800
    """Session timer asked for on the recording session (RFC 4028); 0: none."""
    group: str = ""
    caller: str = ""
    callee: str = ""
    media: str = ""
    headers: str = ""
    socket: str = ""
    from_uri: str = ""
    to_uri: str = ""
    group_custom_extension: str = ""
    session_custom_extension: str = ""

    def __post_init__(self) -> None:
        self.targets  # noqa: B018 - checks
        try:
            re.compile(self.skip_failover_codes)
        except re.error as error:
            raise SettingError(f"skip_failover_codes: {error}") from None
        for name in FIELDS:
            if getattr(self, name):
                checked(name, getattr(self, name))
        if not 0.1 <= self.setup_timeout <= 180 or not 0.1 <= self.end_timeout <= 60:
            raise SettingError("setup_timeout must lie in 0.1..180 and end_timeout in 0.1..60 seconds")
        if not (
            50 <= self.tone_frequency <= 3400 and 0.02 <= self.tone_duration <= 5 and 1 <= self.tone_interval <= 3600
        ):
            raise SettingError(
                "tone_frequency must lie in 50..3400 Hz, tone_duration in 0.02..5, tone_interval in 1..3600"
            )
        if self.tone_interval < self.tone_duration + 0.5:
            raise SettingError("tone_interval must exceed tone_duration by at least 0.5 seconds")
        for name in ("watch", "rtcp_timeout", "keepalive", "ping", "srs_retry"):
            if not 0 <= getattr(self, name) <= 86400:
                raise SettingError(f"{name} must lie in 0..86400 seconds")
        if self.retry and not 1 <= self.retry <= 86400:
            raise SettingError("retry must be 0 or lie in 1..86400 seconds")
        if not 0 <= self.rebuilds <= 1000:
            raise SettingError("rebuilds must lie in 0..1000")
        if not 1 <= self.calls_per_session <= 100:
            raise SettingError("calls_per_session must lie in 1..100")
        if self.session_expires and self.session_expires < 90:
            raise SettingError("session_expires must be 0 or at least 90 (RFC 4028 4)")
        if self.srtp_fallback and self.srtp == "off":
            raise SettingError("srtp_fallback has no meaning with srtp = 'off'")
        self._check_reach()

    def _check_reach(self) -> None:
        for name, each in self.servers.items():
            if name.lower() not in place_of(check_uri(f"sip:{name}", f"servers: {name!r}").text):
                raise SettingError(f"servers: {name!r} is neither HOST nor HOST:PORT")
            if each.socket:
                check_socket(each.socket)
        tables: list[RecordingProfile | SrsSettings] = [self, *self.servers.values()]
        for where in tables:
            if where.outbound_proxy:
                check_uri(where.outbound_proxy, "outbound_proxy")
            if where.password and not where.username:
                raise SettingError("username is needed with a password")
            if (where.tls_key or where.tls_key_password) and not where.tls_certificate:
                raise SettingError("tls_certificate is needed with tls_key")

    @cached_property
    def _reaches(self) -> dict[str, SrsRoute]:
        return {}

    def reach(self, server: str) -> SrsRoute:
        """How the SRS `server` (a SIP URI) is reached.

        Raises:
            SipError: no URI.
        """
        found = self._reaches.get(server)
        if found is None:
            if len(self._reaches) >= _REACHES:
                self._reaches.clear()  # an SRS may redirect to anywhere
            found = self._reaches[server] = self._reach(server)
        return found

    def _reach(self, server: str) -> SrsRoute:
        own = SrsSettings()
        if self.servers:
            tables = {name.lower(): table for name, table in self.servers.items()}
            own = next((tables[place] for place in place_of(server) if place in tables), own)
        who = own if own.username else self
        shown = own if own.tls_certificate else self
        policy: TlsPolicy = own.tls_verify or self.tls_verify
        return SrsRoute(
            own.transport or self.transport,
            own.outbound_proxy or self.outbound_proxy,
            own.socket,
            _credentials(who, server) if who.username else None,
            tls_of(shown.tls_certificate, shown.tls_key, shown.tls_key_password, own.tls_ca or self.tls_ca, policy),
            own.tls_server_name or self.tls_server_name,
            (OUR_REALM,) if who.username and not who.realm else (),
        )

    @cached_property
    def targets(self) -> tuple[str, ...]:
        """The SRS URIs in order."""
        return check_srs(self.srs if isinstance(self.srs, str) else ",".join(self.srs))

    @cached_property
    def settings(self) -> RecordingSettings:
        """The settings a script may override; not to be changed."""
        return RecordingSettings(**{name: getattr(self, name) for name in FIELDS})

    @cached_property
    def policy(self) -> Policy:
        """What the machines of a recording session need to know of it."""
        return Policy(
            len(self.targets),
            self.skip_failover_codes,
            self.rebuilds,
            self.end_timeout,
            self.updates == "complete",
        )

    @cached_property
    def metadata_type(self) -> str:
        """The media type metadata is sent as."""
        return LEGACY_MEDIA_TYPE if self.profile == "legacy-metadata-type" else MEDIA_TYPE

    def with_srs(self, srs: str) -> RecordingProfile:
        """This profile for other SRSs (comma-separated).

        Raises:
            SettingError: empty, or one is no SIP URI.
        """
        changes: dict[str, Any] = {"srs": list(check_srs(srs))}
        return msgspec.structs.replace(self, **changes)
