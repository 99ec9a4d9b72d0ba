"""What a configuration means for the proxy's core."""

from __future__ import annotations

from siprec.media.engine import MediaFlags
from siprec.net.address import split_host_port
from siprec.proxy.call_media_session import MediaTimes
from siprec.proxy.options import ProxyOptions
from siprec.server.config import Config


def proxy_options(config: Config, secret: bytes = b"") -> ProxyOptions:
    """The options of the core; `secret` signs its cookies and cannot change later."""
    return ProxyOptions(
        trusted=config.sip.trusted,
        session_expires=config.sip.session_expires,
        dialog_idle=config.sip.dialog_idle,
        max_unanswered=config.sip.max_unanswered,
        max_branches=config.sip.max_branches,
        max_passes=config.sip.max_passes,
        media_use=config.media.use,
        on_media_failure=config.media.on_failure,
        cookie_secret=secret,
        on_script_error=config.on_script_error,
        media_flags=MediaFlags(flags=("pre-roll",)),
        media_times=MediaTimes(config.media.timeout, max(1.0, config.media.timeout)),
    )


def own_uri(config: Config) -> str:
    """The URI that names us as SRC, in From of recording sessions (RFC 7866 6.1.1)."""
    name = config.sip.advertise or next(iter(config.sip.domains), "localhost")
    host, port = split_host_port(name)
    where = f"[{host}]" if ":" in host else host
    return f"sip:siprec@{where}" + (f":{port}" if port else "")
