"""What in a configuration lets others in: a part of what `siprec config check` and the start warn of.

Nothing here is forbidden. A machine behind a session border controller may be open to it on purpose.
"""

from __future__ import annotations

import ipaddress
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from siprec.net.address import ListenAddress, split_host_port
from siprec.sip.addresses import is_loopback
from siprec.sip.users import without_hash

if TYPE_CHECKING:
    from siprec.api.settings import ListenConfig
    from siprec.proxy.routes import RouteRule
    from siprec.server.config import Config

_ELSEWHERE = "limit it by source or authenticated = true"


def exposures(config: Config, file: Path | None = None) -> Iterator[tuple[str, str]]:
    """Key and reason of each thing that is open to everybody, or that others can read. `file` is where the
    configuration was read from."""
    listeners = [ListenAddress.parse(text) for text in config.sip.listen]
    public = [each for each in listeners if not is_loopback(each.host)]
    if public:
        yield from _proxy(config, str(public[0]))
    if config.srs_requests.allow and all(each.transport == "udp" for each in listeners):
        yield "srs_requests.allow", "an SRS may ask over TCP or TLS only, and sip.listen has neither"
    yield from _recorder(config)
    yield from _relay(config)
    for key, api in (("api", config.api), ("recorder.api", config.recorder.api)):
        yield from _api(key, api)
    yield from _users(config)
    if file is not None:
        yield from _users_file(file, config)


def _proxy(config: Config, listener: str) -> Iterator[tuple[str, str]]:
    for number, rule in enumerate(config.route):
        if not _for_everybody(rule):
            continue
        if rule.relay:
            yield f"route[{number}].relay", f"an open relay: whoever reaches {listener} may call anywhere; {_ELSEWHERE}"
        elif rule.targets:
            yield f"route[{number}].targets", f"open to whoever reaches {listener}; {_ELSEWHERE}"
    for number, text in enumerate(config.sip.trusted):
        if _everything(text):
            yield f"sip.trusted[{number}]", f"an open relay: whoever reaches {listener} may call anywhere"
    if config.registrar.enabled and not config.registrar.users:
        yield (
            "registrar.users",
            f"an open registrar: whoever reaches {listener} may register as anybody; name users, or turn it off "
            "(registrar.enabled = false)",
        )


def _for_everybody(rule: RouteRule) -> bool:
    """Whether it says neither by address nor by password whom it is for. Everything else a sender can make up."""
    sources = [rule.source] if isinstance(rule.source, str) else rule.source
    return not rule.authenticated and (not any(sources) or any(map(_everything, sources)))


def _everything(network: str) -> bool:
    """Whether a network has all addresses of its version, or half of them (the usual way around a check for /0)."""
    try:
        return ipaddress.ip_network(network, strict=False).prefixlen <= 1
    except ValueError:
        return False


def _recorder(config: Config) -> Iterator[tuple[str, str]]:
    recorder = config.recorder
    if recorder.clients and not any(map(_everything, recorder.clients)):
        return
    if recorder.users or recorder.tls_verify_clients:
        return
    for number, text in enumerate(recorder.listen):
        address = ListenAddress.parse(text)
        if not is_loopback(address.host):
            yield (
                f"recorder.listen[{number}]",
                f"whoever reaches {address} may have anything recorded: name recorder.clients or recorder.users, or "
                "verify certificates (recorder.tls_verify_clients)",
            )
            return


def _relay(config: Config) -> Iterator[tuple[str, str]]:
    relay = config.relay
    try:
        host, _ = split_host_port(relay.listen)
    except ValueError:
        return
    if not is_loopback(host) and not relay.secret and not relay.peers:
        yield (
            "relay.listen",
            f"whoever reaches {relay.listen} commands the relay, and hears every call: set relay.secret or relay.peers",
        )


def _api(key: str, api: ListenConfig) -> Iterator[tuple[str, str]]:
    if api.listen and api.tokens and not api.tls_certificate and not is_loopback(api.address[0]):
        yield (
            f"{key}.tokens",
            f"they reach {api.listen} unencrypted, where others can read them: set {key}.tls_certificate",
        )


def _users(config: Config) -> Iterator[tuple[str, str]]:
    registrar, recorder = config.registrar, config.recorder
    for section, users, algorithms in (
        ("registrar", registrar.users, registrar.algorithms),
        ("recorder", recorder.users, recorder.algorithms),
    ):
        for user, algorithm in without_hash(users, algorithms):
            yield f"{section}.users.{user}", f"has no ha1 for {algorithm}, which {section}.algorithms asks for"
    for name, profile in config.recording.items():
        if profile.username and profile.realm == "*":
            yield (
                f"recording.{name}.realm",
                "'*' gives a hash of the password to whoever answers 401: name the realm of the SRS",
            )


def _users_file(file: Path, config: Config) -> Iterator[tuple[str, str]]:
    if config.registrar.users_file:
        path = file.parent / config.registrar.users_file
        try:
            mode = path.stat().st_mode
        except OSError:
            return
        if mode & stat.S_IROTH:
            yield "registrar.users_file", f"everybody on this host can read {path}: chmod o-r"
