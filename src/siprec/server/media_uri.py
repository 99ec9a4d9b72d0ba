"""Media servers as the configuration writes them: ``ng:udp:192.0.2.1:2223``, ``rtpproxy:unix:/run/rtpproxy``."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from siprec.media import rtpproxy_stream, sockets
from siprec.media.engine import MediaFlags, MediaServer
from siprec.media.ngauth import signing
from siprec.media.rtpengine import RtpEngine
from siprec.media.rtpproxy import RtpProxy
from siprec.net.address import split_host_port
from siprec.server.config_check import SERVER_FORMS
from siprec.sip.clock import Clock


@dataclass(frozen=True, slots=True)
class MediaUri:
    """Where a media server is, and what it speaks. `path` is of UNIX sockets, `host` and `port` of the others."""

    kind: str
    transport: str
    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> MediaUri:
        """Raises ValueError when `text` is of none of the forms."""
        kind, transport, address = (*text.split(":", 2), "", "")[:3]
        unix = ("unix", "cunix") if kind == "rtpproxy" else ("unix",) if kind == "ng" else ()
        if transport in unix and address.startswith("/"):
            return cls(kind, transport, path=address)
        try:
            host, port = split_host_port(address)
        except ValueError:
            host, port = "", None
        if kind not in ("ng", "rtpproxy") or transport not in ("udp", "tcp") or not host or not port:
            raise ValueError(f"{text!r} is neither embedded nor of the form {SERVER_FORMS}")
        return cls(kind, transport, host, port)


def connect(
    clock: Clock,
    loop: asyncio.AbstractEventLoop,
    text: str,
    *,
    name: str = "",
    prompt: str = "",
    label: str = "",
    secret: str = "",
) -> MediaServer:
    """The client of the media server `text`; `prompt` is an RTPProxy's tone, `label` is given to the parties of calls,
    `secret` signs ng.

    Raises:
        ValueError: `text` is of none of the forms.
    """
    address = MediaUri.parse(text)
    where = (address.host, address.port)
    if address.kind == "ng":
        where = (address.path, 0) if address.path else where
        opener = (sockets.udp if address.transport == "udp" else sockets.tcp)(loop, where)
        if secret:
            opener = signing(opener, secret, clock.wall)
        return RtpEngine(clock, opener, name=name or text, flags=MediaFlags(label=label))
    if address.path:
        opener = (rtpproxy_stream.unix if address.transport == "unix" else rtpproxy_stream.cunix)(loop, address.path)
    else:
        opener = (sockets.udp if address.transport == "udp" else rtpproxy_stream.tcp)(loop, where)
    return RtpProxy(clock, opener, name=name or text, prompt=prompt)
