"""``[api]`` of the configuration."""

from __future__ import annotations

import ipaddress
from typing import Final, Literal, Protocol
from urllib.parse import urlsplit

import msgspec

from siprec.net.address import split_host_port
from siprec.recording.events import EVENTS

Role = Literal["read", "listen", "control"]
MIN_TOKEN: Final = 16


class WebhookConfig(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[[api.webhooks]]``: one receiver of events. Times in seconds.

    Raises:
        ValueError: from the constructor: no URL of a web server, no secret, unknown event.
    """

    url: str
    secret: str
    """Key of the HMAC; ``env:NAME`` keeps it out of the file."""
    events: tuple[str, ...] = ()
    """Names of events; empty: all."""
    queue: int = 1000
    """Events that may wait; more go to the dead letters."""
    attempts: int = 6
    """Tries of one event, with pauses of 1, 2, 4... up to 60 seconds between them."""
    timeout: float = 5.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError(f"url: {self.url!r} is no http: or https: URL")
        if parts.username is not None or any(ord(c) <= 32 or ord(c) > 126 for c in self.url):
            raise ValueError("url: user names, spaces and control characters have no place here")
        if not self.secret:
            raise ValueError("secret: events are signed, so a secret is needed")
        unknown = set(self.events) - EVENTS
        if unknown:
            raise ValueError(f"events: unknown {sorted(unknown)[0]!r}; known: {', '.join(sorted(EVENTS))}")
        if not 1 <= self.queue <= 100_000 or not 1 <= self.attempts <= 20 or not 0.1 <= self.timeout <= 60:
            raise ValueError("queue must lie in 1..100000, attempts in 1..20, timeout in 0.1..60")


class RedisConfig(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[api.redis]``: a Redis or Valkey stream that gets the events (needs ``pip install siprec[redis]``).

    Raises:
        ValueError: from the constructor: no Redis URL, unknown event, a number out of range.
    """

    url: str
    """``redis://``, ``rediss://`` (TLS) or ``unix://``; ``env:NAME`` keeps a password out of the file."""
    stream: str = "siprec:events"
    maxlen: int = 10_000
    """About so many entries are kept in the stream."""
    queue: int = 10_000
    """Events that may wait while Redis is gone; beyond that the oldest are given up."""
    events: tuple[str, ...] = ()
    """Names of events; empty: all."""

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in ("redis", "rediss", "unix"):
            raise ValueError("url: a redis:, rediss: or unix: URL is needed")
        unknown = set(self.events) - EVENTS
        if unknown:
            raise ValueError(f"events: unknown {sorted(unknown)[0]!r}; known: {', '.join(sorted(EVENTS))}")
        if not self.stream or not 1 <= self.maxlen <= 10_000_000 or not 1 <= self.queue <= 1_000_000:
            raise ValueError("stream must not be empty, maxlen lie in 1..10000000, queue in 1..1000000")


class ApiConfig(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[api]``.

    Raises:
        ValueError: from the constructor: no address, a token that is too short, or an open port without tokens.
    """

    listen: str = ""
    """``address:port``, port 0 for a free one; empty: no API."""
    tokens: dict[str, Role] = {}
    """Token -> ``read``, ``listen`` (to recordings, too) or ``control`` (all); a key ``env:NAME`` stands for what that
    variable holds. Without any, everyone on this host may do everything."""
    tls_certificate: str = ""
    tls_key: str = ""
    ring: int = 1000
    """Events kept for subscribers that come back."""
    subscriber_queue: int = 256
    """Events that may wait for one subscriber; one that is slower is dropped."""
    max_subscribers: int = 128
    dead_letters: str = "dead-letters.jsonl"
    """File for events that no webhook took."""
    webhooks: list[WebhookConfig] = []
    redis: RedisConfig | None = None
    library: str = ""
    """Directory of `siprec recorder` on this host: its recordings are shown, and heard with the role ``listen``."""
    count_packets: bool = True
    """Ask the media server at the end of each recorded call for its packets, for the metrics."""

    def __post_init__(self) -> None:
        check(self)
        if not 1 <= self.ring <= 100_000 or not 1 <= self.subscriber_queue <= 100_000:
            raise ValueError("ring and subscriber_queue must lie in 1..100000")

    @property
    def address(self) -> tuple[str, int]:
        """Address and port of `listen`. Raises ValueError: not of that form."""
        return address_of(self.listen)


class RecorderApiConfig(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[recorder.api]``: the recorder's own API and page (``siprec recorder``).

    Raises:
        ValueError: from the constructor: no address, a token that is too short, or an open port without tokens.
    """

    listen: str = ""
    """``address:port``, port 0 for a free one; empty: none."""
    tokens: dict[str, Role] = {}
    """As in ``[api]``."""
    tls_certificate: str = ""
    tls_key: str = ""
    min_free: int = 200
    """Megabytes that have to be free on the disk of the recordings, if ``recorder.min_free`` is 0."""

    def __post_init__(self) -> None:
        check(self)
        if self.min_free < 0:
            raise ValueError("min_free must not be negative")

    @property
    def address(self) -> tuple[str, int]:
        """Address and port of `listen`. Raises ValueError: not of that form."""
        return address_of(self.listen)


class ListenConfig(Protocol):
    """Where an API listens, and for whom."""

    @property
    def listen(self) -> str: ...
    @property
    def tokens(self) -> dict[str, Role]: ...
    @property
    def tls_certificate(self) -> str: ...
    @property
    def tls_key(self) -> str: ...
    @property
    def address(self) -> tuple[str, int]: ...


def check(config: ListenConfig) -> None:
    """Raises ValueError where it cannot be meant."""
    if any(len(token) < MIN_TOKEN for token in config.tokens):
        raise ValueError(f"tokens: a token has at least {MIN_TOKEN} characters")
    if any(not (33 <= ord(c) <= 126) for token in config.tokens for c in token):
        raise ValueError("tokens: a token is of printable ASCII characters")
    if bool(config.tls_certificate) != bool(config.tls_key):
        raise ValueError("tls_certificate and tls_key go together")
    if config.listen:
        host, _ = config.address
        if not config.tokens and not ipaddress.ip_address(host).is_loopback:
            raise ValueError(f"tokens: needed when listening on {host}, which others can reach")


def address_of(listen: str) -> tuple[str, int]:
    """Address and port.

    Raises:
        ValueError: not of that form.
    """
    host, port = split_host_port(listen)
    host = host.strip("[]")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        port = None
    if port is None:
        raise ValueError(f"listen: {listen!r} is not of the form address:port")
    return host, port
