"""Where responses go (RFC 3261 18.2, RFC 3581 4), and where else when they cannot be delivered because the connection
is gone or nobody listens at the address (RFC 3261 18.2.2, RFC 3263 5)."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from siprec.sip.addresses import numeric, scope
from siprec.sip.errors import SipError
from siprec.sip.headers import Via
from siprec.sip.message import SipRequest
from siprec.sip.transport import Hop, SendFailed, Transport
from siprec.sip.uri import Params, Uri

Resolve = Callable[[Uri, Callable[[list[Hop] | SipError], None]], None]

_MAX_MOVED: Final = 1024


def stamp(request: SipRequest, source: Hop) -> Hop | None:
    """Write `received` and `rport` into the top Via of a request (RFC 3261 18.2.1, RFC 3581 4), and say where its
    responses go; see :func:`response_hop`.

    Raises:
        SipError: Via is missing or malformed.
    """
    if "via" in request.keys:
        at = request.keys.index("via")
        line = request.lines[at]
        text = line.lower()
        if not ("," in text or '"' in text or "received" in text or "maddr" in text or "\n" in text):
            # One value that can be changed as it stands, which is that of almost every request.
            end = text.find(";rport") + 6
            if end == 5:
                if "rport" not in text and request.sent_by == f"{source.host}:{source.port}":
                    return source
            elif (end == len(text) or text[end] == ";") and text.count("rport") == 1:
                line = f"{line[:end]}={source.port}{line[end:]};received={source.host}"
                # Branch, sent-by and what the checks found are the same.
                request.lines[at] = line
                request.forget("top_via")
                return source
    via = request.top_via
    params = dict(via.params)
    hop = _hop(via, params, source)
    if "rport" in params:
        params["rport"] = str(source.port)
    elif via.host == source.host and "received" not in params:
        return hop
    params["received"] = source.host
    request.replace_first_value("via", str(Via(via.transport, via.host, via.port, params)))
    return hop


def response_hop(via: Via, source: Hop) -> Hop | None:
    """Where responses to a request with this top Via go (RFC 3261 18.2.2, RFC 3581 4); None: nowhere."""
    return _hop(via, via.params, source)


def _hop(via: Via, params: Params, source: Hop) -> Hop | None:
    if source.reliable:
        return source
    port = source.port if "rport" in params else via.effective_port
    if port == 0:
        return None
    maddr = params.get("maddr")
    if maddr:
        host = maddr.strip("[]")
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return None
        # Any other address belongs to somebody who has asked for nothing: maddr is for multicast.
        if address.is_multicast or address.is_unspecified or host == "255.255.255.255":
            return None
    return source if port == source.port else replace(source, port=port)


def sent_by_uri(via: Via, transport: str) -> Uri | None:
    """The sent-by of `via` as a URI to be resolved: by SRV where it has no port. None for a numeric address.

    `transport` is that of the request: what Via says of it is the word of its sender.
    """
    if numeric(via.host):
        return None
    if transport == "tls":
        return Uri("sips", None, via.host.lower(), via.port)
    return Uri("sip", None, via.host.lower(), via.port, {"transport": transport})


def _port(via: Via, transport: str) -> int:
    return via.port if via.port is not None else 5061 if transport == "tls" else 5060


def _is_nearer(host: str, source: str) -> bool:
    """Whether an address is known only closer to us than `source` is: a stranger must not have us connect there."""
    one, other = numeric(host), numeric(source)
    return not one or not other or scope(one) < scope(other)


class ResponseDelivery:
    """Finds other ways for responses. What was found for a connection that is gone holds for its later responses."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._moved: dict[Hop, Hop] = {}

    def elsewhere(
        self, data: bytes, via: Via, tried: Hop, failed: SendFailed | None, resolve: Resolve | None, reason: str
    ) -> None:
        """`tried` did not take a response for `reason`: look for another way. `failed` hears of it when there is none,
        never from inside."""
        if tried.reliable:
            self.connection_gone(data, via, tried, failed, resolve, reason)
        elif resolve is not None:
            self.by_name(data, via, tried, failed, resolve, reason)
        elif failed is not None:
            failed(reason)

    def connection_gone(
        self, data: bytes, via: Via, tried: Hop, failed: SendFailed | None, resolve: Resolve | None, reason: str
    ) -> None:
        """The connection `tried` is gone: open one to the source and the port of sent-by, else to where sent-by leads.

        The received address is that of `tried`, whatever Via says. With TLS the name in sent-by is verified.
        `failed` hears of it when no way is left, never from inside.
        """
        number = numeric(via.host)
        name = via.host.lower() if not number and tried.transport == "tls" else ""
        hop = replace(tried, port=_port(via, tried.transport), connection=0, server_name=name, tls=None)
        hops = [hop]
        if number and number != numeric(tried.host) and not _is_nearer(via.host, tried.host):
            hops.append(_towards(replace(hop, host=number), tried))
        moved = self._moved.get(tried)
        if moved is not None:
            hops = [moved, *(each for each in hops if each != moved)]
        last: SendFailed | None = failed
        if resolve is not None:
            last = partial(self.by_name, data, via, tried, failed, resolve)
        self._following(data, tried, hops, last, reason)

    def by_name(
        self, data: bytes, via: Via, tried: Hop, failed: SendFailed | None, resolve: Resolve, reason: str
    ) -> None:
        """Send octets, which `tried` did not take for `reason`, to the hops that the name in `via` leads to, one after
        the other. `failed` hears of it when none takes them, never from inside."""
        uri = sent_by_uri(via, tried.transport)

        def found(result: list[Hop] | SipError) -> None:
            known = [] if isinstance(result, SipError) else result
            hops = [
                _towards(hop, tried)
                for hop in known
                if (hop.host, hop.port) != (tried.host, tried.port) and not _is_nearer(hop.host, tried.host)
            ]
            self._following(data, tried, hops, failed, reason)

        if uri is None:
            self._following(data, tried, (), failed, reason)
        else:
            resolve(uri, found)

    def _following(self, data: bytes, tried: Hop, hops: Sequence[Hop], failed: SendFailed | None, reason: str) -> None:
        if not hops:
            self._moved.pop(tried, None)
            if failed is not None:
                failed(reason)
            return
        hop = hops[0]
        if tried.connection:
            if len(self._moved) >= _MAX_MOVED:
                self._moved.clear()
            self._moved[tried] = hop
        self._transport.send(data, hop, lambda why: self._following(data, tried, hops[1:], failed, why))


def _towards(hop: Hop, tried: Hop) -> Hop:
    """`hop` from the same socket as `tried`, if that has the family for it."""
    return replace(hop, local=tried.local if (":" in hop.host) == (":" in tried.host) else ("", 0))
