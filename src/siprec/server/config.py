"""The sections of the configuration, typed; :mod:`siprec.server.config_file` reads them."""

from __future__ import annotations

from typing import Literal

import msgspec

from siprec.api.settings import ApiConfig, RecorderApiConfig
from siprec.proxy.guard import AGENTS
from siprec.proxy.routes import RouteRule
from siprec.recorder import headers as recorder_headers
from siprec.recording.recording_profile import RecordingProfile
from siprec.recording.srs_initiated import RequestSettings
from siprec.sip.digest import check_algorithms
from siprec.sip.users import User


class SipConfig(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[sip]``: where to listen and who we are."""

    listen: tuple[str, ...] = ("udp:127.0.0.1:5060", "tcp:127.0.0.1:5060")
    """Sockets as ``transport:address:port``; port 0 takes a free one."""
    advertise: str = ""
    """Name or address to put into Via, Record-Route and Contact instead of the listening address."""
    domains: tuple[str, ...] = ()
    """Domains we are responsible for, besides our own addresses."""
    trusted: tuple[str, ...] = ("127.0.0.0/8", "::1/128")
    """Networks that may be relayed to foreign domains."""
    user_agent: str = "siprec"
    tls_certificate: str = ""
    tls_key: str = ""
    tls_ca: str = ""
    tls_verify_clients: bool = False
    nameserver: str = ""
    """Resolver to ask as ``address`` or ``address:port``; empty: the system's."""
    session_expires: int = 0
    """Session timer asked for on proxied calls in seconds (RFC 4028); 0: only observe."""
    dialog_idle: float = 43200.0
    """Seconds without any message after which a call that has no session timer is looked into: a call whose RTP flows
    goes on; else both parties get an OPTIONS, and the call is forgotten only when one of them does not know it any more
    (481), or neither answers and no RTP came for a minute. The same when a session timer has run out. 0: never."""
    max_unanswered: int = 500
    """Calls that one source may have waiting for an answer (IPv6: its /64), unless it is ``trusted``; more get 503.
    0: any number."""
    guard: bool = False
    """Drop what scanners send, without an answer: requests with a User-Agent of ``guard_agents``, and for ``guard_ban``
    seconds everything from a source that got ``guard_refusals`` refusals (4xx) within 32 seconds; each success (2xx)
    makes up for two. Sources that are ``trusted``, named in a route, or have registered are never dropped."""
    guard_agents: tuple[str, ...] = AGENTS
    """Texts looked for in User-Agent, without regard to case."""
    guard_refusals: int = 30
    guard_ban: float = 300.0
    max_branches: int = 60
    """How often one request may be sent on, to several targets and hops, at once and one after the other together."""
    max_connections: int = 10000
    """TCP and TLS connections at a time, at most half of what open files allow. When there are more, the one that was
    idle for longest is closed."""
    max_connections_per_source: int = 200
    """The same for one source (IPv6: its /64), unless it is `trusted`. 0: any number."""
    max_passes: int = 10
    """How often one Call-ID may pass outside of a dialog within 32 seconds; then 482 (a loop) and
    ``E_SIPREC_LOOP``."""


class MediaConfig(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[media]``: the media server that relays and forks the RTP."""

    server: str = "embedded"
    """``embedded`` (a relay of our own as child process), an RTPEngine or a relay of ours elsewhere
    (``ng:udp:ADDRESS:PORT``, ``ng:tcp:...``, ``ng:unix:/PATH``), or an RTPProxy (``rtpproxy:udp:ADDRESS:PORT``,
    ``rtpproxy:tcp:...``, ``rtpproxy:unix:/PATH``, ``rtpproxy:cunix:/PATH``)."""
    prompt: str = ""
    """With RTPProxy: a file at its host, without the suffix of the payload type (``beep`` for ``beep.0``), that is
    played as recording tone."""
    use: Literal["recorded", "always", "never"] = "recorded"
    """``recorded``: only calls that are to be recorded pass through the relay; ``always``: every call;
    ``never``: none."""
    on_failure: Literal["pass", "reject"] = "pass"
    """``pass``: a call whose media cannot be relayed goes on unrecorded; ``reject``: it gets 503."""
    timeout: float = 0.3
    """Seconds the call waits for the media server at the most."""
    secret: str = ""
    """The ``relay.secret`` of a relay of ours elsewhere: commands are signed with it. RTPEngine knows of none."""

    ping: float = 2.0
    """Seconds between two questions whether a media server is there."""
    on_lost: Literal["", "keep", "move"] = ""
    """When a media server is lost: ``keep`` its calls as they are (its media may still flow; an embedded relay's do
    not, and their recordings end), or ``move`` them to another one, or to the same when it is there again: both parties
    get a re-INVITE of ours, recordings go on from there. Left out: ``move`` for the embedded relay, ``keep`` for all
    others."""


class MediaServerConfig(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[[media_server]]``: one of several media servers. With any of them, ``media.server`` is not used."""

    address: str
    """As ``media.server``. ``embedded`` once at the most."""
    name: str = ""
    """In logs, events and metrics; left out: the address."""
    set: str = "default"
    """Servers that stand in for each other; a route names the set for its calls (``media_set``)."""
    weight: int = 1
    """Share of the set's calls; 0: only when no other is left."""
    drain: bool = False
    """No new calls; those it has go on."""
    prompt: str = ""
    """As ``media.prompt``."""
    secret: str = ""
    """As ``media.secret``."""

    @property
    def called(self) -> str:
        """Its name."""
        return self.name or self.address


class RelayConfig(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[relay]``: the embedded relay, and ``siprec relay``."""

    listen: str = "127.0.0.1:0"
    """Where ``siprec relay`` is commanded from (``ng``): ``ADDRESS:PORT``, UDP and TCP, or ``unix:/PATH``, a UNIX
    socket of mode 0600. On other than a loopback address it needs `secret` or `peers`. The relay that is a child of
    ``siprec serve`` has a private UNIX socket instead."""
    secret: str = ""
    """What ``ng`` clients have to know, at least 16 characters; their side is ``media.secret``."""
    peers: tuple[str, ...] = ()
    """Addresses and networks of ``ng`` clients that need no secret, because they know of none (OpenSIPS, Kamailio). By
    UDP an address can be forged: only in networks where nobody can."""
    interfaces: tuple[str, ...] = ("127.0.0.1",)
    """Addresses that media is received on and sent from: ``[NAME/]ADDRESS[!ADVERTISED]``."""
    ports: str = "30000-39999"
    preroll: float = 10.0
    """Seconds of media kept before a recording is asked for; how much of it that gets is up to its start. From then on
    everything is kept for a minute, until an SRS has answered."""
    media_timeout: float = 3600.0
    """Seconds without any packet after which the media of an answered call is given up."""
    held_timeout: float = 3600.0
    """The same for a call that is on hold."""
    setup_timeout: float = 300.0
    """Seconds after which the media of a call that nobody answers is given up."""
    learn: Literal["any", "host", "signalled"] = "any"
    """Where a party's media may come from: ``any`` host (NAT, media gateways that hand over), any port of the ``host``
    it signalled, or only what it ``signalled``."""
    relearn: float = 1.0
    """Seconds without media from a known source after which another host may take its place, with ten packets in a
    row; three times as long where comfort noise or DTX is in use; 0: never."""
    dscp: int = 0
    """Code point that media is marked with (RFC 2474), 0 to 63; 46 is usual for voice."""
    rtcp_mux: bool = False
    """Offer an SRS to exchange RTCP on the RTP port (RFC 5761)."""
    max_calls: int = 20_000
    packet_loop: Literal["auto", "native", "python"] = "auto"
    """What moves packets: ``native`` (C, if it was built) or ``python``; ``auto`` takes the native one, unless
    ``SIPREC_NATIVE=0`` is in the environment."""


class RegistrarConfig(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[registrar]``: phones that register with us."""

    enabled: bool = True
    min_expires: int = 60
    max_expires: int = 7200
    default_expires: int = 3600
    max_contacts: int = 10
    realm: str = ""
    """Named in challenges, and part of each HA1. Empty: the first of ``sip.domains`` by the
    alphabet, else ``siprec``."""
    users: dict[str, User] = {}
    """User name -> password, or a table with ``ha1``: who may register, and whom rules (``authenticated``) and scripts
    (``request.authenticate()``) know. Without any, here and in `users_file`, anyone may register."""
    users_file: str = ""
    """File with more users, relative to this one: ``.toml`` with the same entries as `users`, else lines
    ``USER:REALM:HA1`` as htdigest writes them. Read again at each reload."""
    algorithms: tuple[str, ...] = ("MD5",)
    """Digest algorithms to ask for, in order of preference: ``["SHA-256", "MD5"]`` where all phones can cope with two
    challenges (RFC 8760 2.4)."""
    legacy_agents: tuple[str, ...] = ()
    """Regular expressions searched for in User-Agent, without regard to case: what matches is asked for MD5 only."""
    max_per_source: int = 200
    """Where nobody is asked for a password: contacts that one source may register (IPv6: its /64), unless it is
    ``trusted``; more get 403. 0: any number."""
    allow_foreign_contacts: bool = False
    """Take Contacts at other public hosts than the one that registers, without Path and from sources that are not
    ``trusted``: whoever registers then chooses who gets the calls."""

    def __post_init__(self) -> None:
        check_algorithms(self.algorithms, self.legacy_agents)


class RecorderConfig(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[recorder]``: our session recording server (``siprec recorder``)."""

    listen: tuple[str, ...] = ("udp:127.0.0.1:5090", "tcp:127.0.0.1:5090")
    directory: str = "recordings"
    format: Literal["wav", "flac"] = "wav"
    address: str = "127.0.0.1"
    """Address that RTP is received on."""
    advertise: str = ""
    """Address to put into SDP answers instead."""
    ports: str = "40000-49999"
    port_quarantine: float = 30.0
    """Seconds for which nothing must have come to a pair of ports before another recording gets it; 0: none."""
    learn: Literal["any", "host", "signalled"] = "any"
    """Where a stream's media may come from if they do not come from the address and port that was signalled: another
    port of the ``host``, ``any`` host, or only what was ``signalled``."""
    relearn: float = 1.0
    """Seconds of silence after which media from another host are taken; three times that where a sender leaves out
    silence (comfort noise, DTX)."""
    min_free: int = 0
    """Megabytes that have to be free on the disk. Below that, recording sessions get a 503, so that the client takes
    another SRS; those under way go on. 0: as ``recorder.api.min_free``."""
    max_sessions: int = 1000
    max_sessions_per_client: int = 0
    """Recording sessions that one address may have at a time; 0: as many as ``max_sessions``."""
    max_streams: int = 256
    """Streams that one recording session may have at a time; further ones are declined."""
    invite: tuple[str, ...] = ()
    """SIP URIs of recording clients to ask for their calls (RFC 7866 6.2): ``sip:HOST`` for all, ``sip:USER@DOMAIN``
    for those of a user, ``sip:CALL-ID@HOST`` for one."""
    clients: tuple[str, ...] = ()
    """Addresses or networks of the recording clients; none: any. Whoever else calls gets a 403."""
    client_names: tuple[str, ...] = ()
    """Names of the recording clients in their TLS certificates (RFC 5922: SIP URI, DNS name, or common name)."""
    users: dict[str, User] = {}
    """Names and passwords of the recording clients, or tables with ``ha1``; none: they are not asked."""
    realm: str = "siprec"
    algorithms: tuple[str, ...] = ("MD5",)
    """As in ``[registrar]``."""
    legacy_agents: tuple[str, ...] = ()
    """As in ``[registrar]``."""
    tls_certificate: str = ""
    tls_key: str = ""
    tls_ca: str = ""
    tls_verify_clients: bool = False
    """Clients have to show a certificate of ``tls_ca`` (mutual TLS)."""
    accept: Literal["auto", "lenient", "strict"] = "auto"
    """What is taken for a recording session. ``strict``: what says ``siprec`` in Require or Supported and ``+sip.src``
    in Contact. ``lenient``: also what looks like one (Cisco's network-based recording, CUBE, jambonz), begins without
    an offer, or has a Contact that cannot be read. ``auto``: lenient to `clients` and to loopback, strict to others."""
    offerless_streams: int = 2
    """Audio streams that are offered to a client whose INVITE has no offer."""
    headers: tuple[str, ...] = recorder_headers.DEFAULT
    """Headers of the client's INVITE that are kept with the recording; ``*`` stands for anything."""
    session_expires: int = 1800
    """Session timer asked for, in seconds (RFC 4028); 0: none."""
    probe_silence: float = 60.0
    """Seconds without RTP after which the client is asked by OPTIONS whether the session is still there; 0: never."""
    max_duration: float = 0.0
    """Seconds that a recording session may last; 0: any."""
    on_stop: Literal["handover", "drain"] = "handover"
    """What SIGTERM does to the sessions under way, while new ones get 503. ``handover``: a BYE with
    ``Reason: SIP;cause=503`` within ten seconds, so that their clients take another SRS. ``drain``: they may go on for
    ``service.drain`` seconds, then the same. A second SIGTERM, or SIGINT, ends them at once."""
    srtp: Literal["off", "allow", "require"] = "allow"
    """SRTP with keys in the SDP: declined, taken where it is offered, or the only thing that is taken. Keys in SDP are
    as safe as the signalling: listen on ``tls:``."""
    keep: tuple[Literal["documents", "names", "extensions", "digits"], ...] = (
        "documents",
        "names",
        "extensions",
        "digits",
    )
    """What of the metadata is written down, besides ids, times and who is in which stream (RFC 7865 10): the documents
    as they came, names and addresses of the parties, extension elements, DTMF digits. Without ``names`` or
    ``extensions`` there can be no ``documents``, which have them."""
    api: RecorderApiConfig = RecorderApiConfig()

    def __post_init__(self) -> None:
        check_algorithms(self.algorithms, self.legacy_agents)

    @property
    def required_space(self) -> int:
        """Octets that have to be free on the disk."""
        return (self.min_free or self.api.min_free) << 20


class LogConfig(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[log]``: to standard error."""

    level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    format: Literal["text", "json"] = "text"
    """``text`` for people, ``json`` for machines: one object per line, with ``call_id``, ``session_id`` and the like as
    fields."""
    levels: dict[str, Literal["debug", "info", "warning", "error", "critical"]] = {}
    """Rooms with a level of their own: ``"siprec.recording" = "debug"`` holds for all of ``siprec.recording.*``."""


class ServiceConfig(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[service]``: how the proxy ends."""

    drain: float = 30.0
    """Seconds that calls may go on after SIGTERM while new ones are refused (503); 0: end at once. A second SIGTERM, or
    SIGINT, ends at once."""


class HepConfig(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[trace.hep]``: every SIP message of calls and recording sessions to Homer (HEPv3 over UDP)."""

    collector: str
    """``address:port``."""
    node: int = 2001
    """Capture agent id."""
    password: str = ""
    """``env:NAME`` keeps it out of the file."""


class TraceConfig(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[trace]``: what is kept of SIP messages and media commands, for ``siprec trace``."""

    megabytes: int = 32
    """Memory for the messages of recent calls, the oldest go first; 0: none are kept (with Homer at least 1)."""
    hep: HepConfig | None = None


class ProofConfig(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[proof]``: proof of recording, for ``siprec audit``."""

    enabled: bool = True
    directory: str = "proof"
    """Where ``proof-YYYYMMDD.jsonl`` are written: relative to ``STATE_DIRECTORY`` (systemd), else to this file. Without
    a configuration file nothing is written."""
    keep_days: int = 0
    """Days after which files are deleted; 0: never."""
    on_failure: Literal["warn", "not-ready"] = "warn"
    """What becomes of us while no proof can be written (disk full, read-only): a warning in log and metrics only, or
    ``/health/ready`` says no as well, so that calls go elsewhere."""


class Config(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    sip: SipConfig = SipConfig()
    media: MediaConfig = MediaConfig()
    relay: RelayConfig = RelayConfig()
    registrar: RegistrarConfig = RegistrarConfig()
    recorder: RecorderConfig = RecorderConfig()
    api: ApiConfig = ApiConfig()
    log: LogConfig = LogConfig()
    service: ServiceConfig = ServiceConfig()
    proof: ProofConfig = ProofConfig()
    trace: TraceConfig = TraceConfig()
    secret: str = ""
    """Secret of the deployment (``env:NAME``): signs what we put into Record-Route and makes group ids. Without one,
    each start draws its own: calls that outlive a restart are then routed without it, and group ids change."""
    script: str = ""
    """Routing script, relative to the configuration file."""
    on_script_error: Literal["route", "reject"] = "route"
    """What becomes of a request whose handler in the script fails. ``route``: it goes to a user who is registered here,
    or where a rule with `source` or `authenticated` sends it, else it gets 500. ``reject``: 500. After
    ``request.authenticate()`` every failure is 500."""
    skip_failover_codes: str = ""
    """Regular expression over the reply code of an SRS that ends the search for one, for all profiles that have no
    `skip_failover_codes` of their own."""
    media_server: list[MediaServerConfig] = []
    route: list[RouteRule] = []
    recording: dict[str, RecordingProfile] = {}
    srs_requests: RequestSettings = RequestSettings()

    @property
    def media_servers(self) -> list[MediaServerConfig]:
        """All media servers: ``[[media_server]]``, else the one of ``[media]``."""
        media = self.media
        single = MediaServerConfig(address=media.server, prompt=media.prompt, secret=media.secret, name=_short(media))
        return self.media_server or [single]

    @property
    def realm(self) -> str:
        """The realm of our challenges."""
        return self.registrar.realm or min(self.sip.domains, default="siprec").lower()


def _short(media: MediaConfig) -> str:
    """What a single server is called: its address without protocol and transport."""
    return media.server.split(":", 2)[-1]
