"""What the types of the configuration cannot say: references between its parts, addresses, ranges."""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from siprec.media.ngauth import SHORTEST
from siprec.net.address import ListenAddress, split_host_port
from siprec.relay.access import check_access
from siprec.relay.ports import parse_interface
from siprec.server.config_exposure import exposures
from siprec.sip.addresses import is_loopback
from siprec.sip.errors import SipError
from siprec.sip.uri import Uri

if TYPE_CHECKING:
    from siprec.recording.recording_profile import RecordingProfile
    from siprec.recording.srs_route import SrsSettings
    from siprec.server.config import Config

log = logging.getLogger(__name__)

_LOGGER = re.compile(r"siprec(\.[a-z_]+)*")
_RANGE = re.compile(r"(\d+)-(\d+)\Z")
_UNENCRYPTED = "the keys are in the SDP, which goes to {} unencrypted: use TLS (RFC 4568 7, SEC-07)"
SERVER_FORMS = (
    "ng:udp:ADDRESS:PORT, rtpproxy:udp:ADDRESS:PORT (also tcp), ng:unix:/PATH, rtpproxy:unix:/PATH (also cunix)"
)
_SERVER = re.compile(
    r"(?:(?:ng|rtpproxy):(?:udp|tcp):(?:\[[0-9A-Fa-f:.]+\]|[^:\[\]\s]+):\d{1,5}|ng:unix:/\S+|rtpproxy:c?unix:/\S+)\Z"
)


def ng_listen(text: str) -> tuple[str, int]:
    """``ADDRESS:PORT``, or ``unix:/PATH`` as the path and 0; raises ValueError."""
    if text.startswith("unix:/"):
        return text.removeprefix("unix:"), 0
    host, port = split_host_port(text)
    return host, port or 0


def port_range(text: str) -> tuple[int, int]:
    """``first-last`` as two port numbers, first and last included.

    Raises:
        ValueError: not of that form, or fewer than two ports.
    """
    match = _RANGE.match(text)
    if match is None or not 0 < int(match[1]) < int(match[2]) < 65536:
        raise ValueError(f"{text!r} is no range of ports (first-last)")
    return int(match[1]), int(match[2])


def problems(config: Config) -> Iterator[tuple[str, str]]:
    """Key and reason of each thing that cannot work."""
    for key, addresses in (("sip.listen", config.sip.listen), ("recorder.listen", config.recorder.listen)):
        for number, text in enumerate(addresses):
            try:
                wanted = ListenAddress.parse(text)
            except ValueError as error:
                yield f"{key}[{number}]", str(error)
                continue
            section = config.sip if key == "sip.listen" else config.recorder
            if wanted.transport == "tls" and not section.tls_certificate:
                yield f"{key}[{number}]", f"TLS needs {key.partition('.')[0]}.tls_certificate"
    for number, text in enumerate(config.recorder.invite):
        try:
            Uri.parse(text)
        except SipError as error:
            yield f"recorder.invite[{number}]", error.reason
    for number, text in enumerate(config.recorder.clients):
        try:
            ipaddress.ip_network(text, strict=False)
        except ValueError as error:
            yield f"recorder.clients[{number}]", str(error)
    for name in config.log.levels:
        if _LOGGER.fullmatch(name) is None:
            yield f"log.levels.{name}", "no room of siprec, such as siprec.recording or siprec.sip.transaction"
    lost = [each for each in ("names", "extensions") if each not in config.recorder.keep]
    if lost and "documents" in config.recorder.keep:
        yield "recorder.keep", f"without {lost[0]!r} there can be no 'documents': they have them"
    if config.recorder.client_names and not config.recorder.tls_verify_clients:
        yield "recorder.client_names", "needs recorder.tls_verify_clients: only a verified certificate has a name"
    for where, users in (("registrar", config.registrar.users), ("recorder", config.recorder.users)):
        for user, secret in users.items():
            if not secret:
                yield f"{where}.users.{user}", "an empty password would let anyone in"
            if not user or any(ord(c) < 32 for c in user):
                yield f"{where}.users", f"{user!r} is no user name"
    for number, text in enumerate(config.sip.trusted):
        try:
            ipaddress.ip_network(text, strict=False)
        except ValueError as error:
            yield f"sip.trusted[{number}]", str(error)
    for key, text in (("sip.advertise", config.sip.advertise), ("recorder.advertise", config.recorder.advertise)):
        try:
            if text:
                split_host_port(text)
        except ValueError as error:
            yield key, str(error)
    for key, number in (
        ("sip.max_unanswered", config.sip.max_unanswered),
        ("registrar.max_per_source", config.registrar.max_per_source),
    ):
        if not 0 <= number <= 1_000_000:
            yield key, "must lie in 0..1000000"
    if not 1 <= config.sip.guard_refusals <= 1_000_000:
        yield "sip.guard_refusals", "must lie in 1..1000000"
    if not 1 <= config.sip.guard_ban <= 86400:
        yield "sip.guard_ban", "must lie in 1..86400 seconds"
    for key, count in (("sip.max_branches", config.sip.max_branches), ("sip.max_passes", config.sip.max_passes)):
        if not 1 <= count <= 1000:
            yield key, "must lie in 1..1000"
    if not 16 <= config.sip.max_connections <= 1_000_000:
        yield "sip.max_connections", "must lie in 16..1000000"
    if not 0 <= config.sip.max_connections_per_source <= 1_000_000:
        yield "sip.max_connections_per_source", "must lie in 0..1000000"
    for number, text in enumerate(config.relay.interfaces):
        try:
            parse_interface(text)
        except ValueError as error:
            yield f"relay.interfaces[{number}]", str(error)
    try:
        ng_listen(config.relay.listen)
    except ValueError as error:
        yield "relay.listen", str(error)
    for key, text in (("relay.ports", config.relay.ports), ("recorder.ports", config.recorder.ports)):
        try:
            port_range(text)
        except ValueError as error:
            yield key, str(error)
    for key, count in (
        ("recorder.max_sessions", config.recorder.max_sessions),
        ("recorder.max_streams", config.recorder.max_streams),
    ):
        if not 1 <= count <= 30_000:
            yield key, "must lie in 1..30000"
    if config.recorder.port_quarantine < 0:
        yield "recorder.port_quarantine", "must not be negative"
    if config.recorder.relearn <= 0:
        yield "recorder.relearn", "must be more than 0"
    for key in ("min_free", "max_sessions_per_client", "max_duration", "probe_silence"):
        if getattr(config.recorder, key) < 0:
            yield f"recorder.{key}", "must not be negative"
    if not 1 <= config.recorder.offerless_streams <= 16:
        yield "recorder.offerless_streams", "must lie in 1..16"
    if config.recorder.session_expires and not 90 <= config.recorder.session_expires <= 86400:
        yield "recorder.session_expires", "must be 0 or lie in 90..86400 (RFC 4028 4)"
    try:
        check_access("", config.relay.secret, config.relay.peers)
    except ValueError as error:
        yield "relay", str(error)
    for key, secret in (
        ("media.secret", config.media.secret),
        *((f"media_server[{number}].secret", each.secret) for number, each in enumerate(config.media_server)),
    ):
        if 0 < len(secret) < SHORTEST:
            yield key, f"{len(secret)} characters, at least {SHORTEST} are needed"
    if config.relay.relearn < 0:
        yield "relay.relearn", "must not be negative"
    if not 0 <= config.relay.dscp <= 63:
        yield "relay.dscp", "must lie in 0..63"
    if config.relay.max_calls < 1:
        yield "relay.max_calls", "must be positive"
    for number, rule in enumerate(config.route):
        for name in [rule.record] if isinstance(rule.record, str) else rule.record:
            if name and name not in config.recording:
                yield f"route[{number}].record", f"there is no [recording.{name}]"
        if rule.authenticated and not config.registrar.users:
            yield f"route[{number}].authenticated", "there are no users: [registrar] users or users_file"
        if rule.registrar and not config.registrar.enabled:
            yield f"route[{number}].registrar", "the registrar is turned off"
        for method in [rule.method] if isinstance(rule.method, str) else rule.method:
            if method != method.upper():
                yield f"route[{number}].method", f"methods are case-sensitive: {method.upper()!r}, not {method!r}"
    try:
        re.compile(config.skip_failover_codes)
    except re.error as error:
        yield "skip_failover_codes", str(error)
    if config.media.timeout <= 0:
        yield "media.timeout", "must be more than 0 seconds"
    if config.media.ping <= 0:
        yield "media.ping", "must be more than 0 seconds"
    yield from _media_servers(config)
    if not 0 <= config.service.drain <= 86400:
        yield "service.drain", "must lie in 0..86400 seconds"
    if not 0 <= config.trace.megabytes <= 65536:
        yield "trace.megabytes", "must lie in 0..65536"
    if config.trace.hep is not None:
        try:
            host, port = split_host_port(config.trace.hep.collector)
        except ValueError:
            host, port = "", None
        if not host or not port:
            yield "trace.hep.collector", f"{config.trace.hep.collector!r} is not of the form address:port"
        if not 0 <= config.trace.hep.node < 1 << 32:
            yield "trace.hep.node", "must lie in 0..4294967295"
    if not 0 <= config.proof.keep_days <= 36500:
        yield "proof.keep_days", "must lie in 0..36500"


def warnings(config: Config, file: Path | None = None) -> Iterator[tuple[str, str]]:
    """Key and reason of each thing that works, but less safely than it looks. `file` is what was read, for names that
    are relative to it."""
    yield from exposures(config, file)
    for name, profile in config.recording.items():
        for where, table in ((f"recording.{name}", profile), *_tables(name, profile)):
            for key in ("tls_certificate", "tls_key", "tls_ca"):
                file = getattr(table, key)
                if file and not Path(file).is_file():
                    # No recording can be had there, but calls and other SRSs are not concerned.
                    yield f"{where}.{key}", f"there is no file {file!r}"
        if profile.srtp != "always":
            continue
        for server in profile.targets:
            reach = profile.reach(server)
            target = reach.outbound_proxy or server
            uri = Uri.parse(target)
            transport = uri.transport or ("" if reach.outbound_proxy else reach.transport)
            if uri.scheme != "sips" and transport != "tls" and not is_loopback(uri.host):
                yield f"recording.{name}.srtp", _UNENCRYPTED.format(target)
    for key, addresses in (("sip.listen", config.sip.listen), ("recorder.listen", config.recorder.listen)):
        listening = [ListenAddress.parse(text) for text in addresses]
        for number, each in enumerate(listening):
            streams = {other.host for other in listening if other.transport != "udp"}
            if each.transport == "udp" and each.host not in streams and not is_loopback(each.host):
                yield (
                    f"{key}[{number}]",
                    f"nothing listens on tcp:{each.host}, where requests come that are too large for UDP "
                    "(RFC 3261 18.1.1, TRN-01)",
                )
    for number, rule in enumerate(config.route):
        if rule.transport_protocol and "rtpproxy:" in str(config.media.server):
            yield f"route[{number}].transport_protocol", "RTPProxy cannot change it: the called side gets what came"
        if not rule.transport_protocol.startswith("RTP/SAVP"):
            continue
        for target in (entry if isinstance(entry, str) else entry.uri for entry in rule.targets):
            uri = Uri.parse(target)
            if uri.scheme != "sips" and uri.transport != "tls" and not is_loopback(uri.host):
                yield f"route[{number}].transport_protocol", _UNENCRYPTED.format(target)
    if config.recorder.srtp == "require":
        for number, text in enumerate(config.recorder.listen):
            wanted = ListenAddress.parse(text)
            if wanted.transport != "tls" and not is_loopback(wanted.host):
                yield (
                    f"recorder.listen[{number}]",
                    "recorder.srtp is 'require', but keys that come here come unencrypted: listen on tls: only",
                )


def log_warnings(config: Config, file: Path | None, *, only: str = "", but: str = "") -> None:
    """The warnings as log lines of a process: `only` those of keys that begin so, or all `but` those."""
    for key, reason in warnings(config, file):
        if key.startswith(only) and not (but and key.startswith(but)):
            log.warning("%s: %s", key, reason)


def _tables(name: str, profile: RecordingProfile) -> Iterator[tuple[str, SrsSettings]]:
    for server, table in profile.servers.items():
        yield f'recording.{name}.servers."{server}"', table


def _media_servers(config: Config) -> Iterator[tuple[str, str]]:
    addresses = [("media.server", config.media.server)]
    addresses += [(f"media_server[{n}].address", each.address) for n, each in enumerate(config.media_server)]
    for key, address in addresses:
        if address != "embedded" and _SERVER.match(address) is None:
            yield key, f"{address!r} is neither embedded nor of the form {SERVER_FORMS}"
    names, embedded = set(), 0
    for number, each in enumerate(config.media_server):
        embedded += each.address == "embedded"
        if each.called in names:
            yield f"media_server[{number}].name", f"{each.called!r} is there twice"
        names.add(each.called)
        if not 0 <= each.weight <= 1000:
            yield f"media_server[{number}].weight", "must lie in 0..1000"
    if embedded > 1:
        yield "media_server", "only one can be embedded"
    sets = {each.set for each in config.media_servers}
    for number, rule in enumerate(config.route):
        if rule.media_set and rule.media_set not in sets:
            yield f"route[{number}].media_set", f"no [[media_server]] has set = {rule.media_set!r}"
