"""What a deployment chooses for the proxy."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from siprec.media.engine import NO_FLAGS, MediaFlags
from siprec.proxy.call_media_session import MediaTimes


@dataclass(frozen=True, slots=True)
class ProxyOptions:
    """Choices of a deployment; times in seconds.

    `trusted` networks may be relayed to foreign domains, everybody with `allow_relay`, and users with a password with
    `relay_authenticated`. `silence_timeout`: how long a next hop may say nothing at all while another one waits.
    `session_expires`: session timer to ask for (RFC 4028; 0: only observe). `recurse`: follow 3xx for own domains.
    `max_unanswered`: calls of one source that wait for an answer, unless it is trusted (0: any number).
    `max_branches` of one request, parallel and serial together; `max_passes` of one Call-ID within 32 s.
    `cookie_secret` signs Record-Route (random when empty). `on_script_error`: see :mod:`siprec.proxy.script_failure`.
    """

    trusted: Collection[str] = ("127.0.0.0/8", "::1/128")
    allow_relay: bool = False
    relay_authenticated: bool = False
    timer_c: float = 185.0
    silence_timeout: float = 4.0
    recurse: bool = False
    session_expires: int = 0
    dialog_idle: float = 43200.0
    dialog_max_age: float = 0.0
    max_unanswered: int = 500
    max_branches: int = 60
    max_passes: int = 10
    on_script_error: Literal["route", "reject"] = "route"
    cookie_secret: bytes = b""
    media_use: Literal["recorded", "always", "never"] = "recorded"
    on_media_failure: Literal["pass", "reject"] = "pass"
    media_times: MediaTimes = field(default_factory=MediaTimes)
    media_flags: MediaFlags = NO_FLAGS
