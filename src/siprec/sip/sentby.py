"""Responses that cannot be delivered where the request came from: where the name in their Via leads (RFC 3263 5)."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import replace

from siprec.sip.errors import SipError
from siprec.sip.headers import Via
from siprec.sip.transport import Hop, SendFailed, Transport
from siprec.sip.uri import Uri

Resolve = Callable[[Uri, Callable[[list[Hop] | SipError], None]], None]


def sent_by_uri(via: Via) -> Uri | None:
    """The sent-by of `via` as a URI to be resolved: by SRV where it has no port. None for a numeric address, which is
    no other place than where the request came from, or one behind a NAT."""
    try:
        ipaddress.ip_address(via.host.strip("[]").partition("%")[0])
    except ValueError:
        transport = via.transport.lower()
        if transport == "tls":
            return Uri("sips", None, via.host.lower(), via.port)
        return Uri("sip", None, via.host.lower(), via.port, {"transport": transport})
    return None


def send_by_name(
    transport: Transport, resolve: Resolve, data: bytes, via: Via, tried: Hop, failed: SendFailed | None, reason: str
) -> None:
    """Send a response's octets, which `tried` did not take for `reason`, to the hops that the name in `via` leads to,
    one after the other. `failed` hears of it when none takes them, never from inside."""
    uri = sent_by_uri(via)

    def give_up(why: str) -> None:
        if failed is not None:
            failed(why)

    def found(result: list[Hop] | SipError) -> None:
        hops = [] if isinstance(result, SipError) else list(result)
        hops = [replace(hop, local=tried.local) for hop in hops if (hop.host, hop.port) != (tried.host, tried.port)]
        following(hops, reason)

    def following(hops: list[Hop], why: str) -> None:
        if hops:
            transport.send(data, hops[0], lambda error: following(hops[1:], error))
        else:
            give_up(why)

    if uri is None:
        give_up(reason)
    else:
        resolve(uri, found)
