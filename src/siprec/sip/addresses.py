"""Numeric addresses as values: one spelling for each, and how far each is known."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Final

HOST, LINK, SITE, EVERYWHERE = range(4)
"""How far an address is known: this host, the link, a private network, everywhere."""
_RANGES: Final = tuple(
    (reach, tuple(ipaddress.ip_network(text) for text in texts))
    for reach, texts in (
        (HOST, ("0.0.0.0/8", "127.0.0.0/8", "::/128", "::1/128")),
        (LINK, ("169.254.0.0/16", "fe80::/10")),
        (SITE, ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")),
    )
)
"""RFC 1122, 3927, 1918, 6598, 4291 and 4193."""


@lru_cache(maxsize=4096)
def numeric(host: str) -> str:
    """A numeric address in its usual spelling, IPv4 for mapped IPv6; an empty string for a name."""
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address)


@lru_cache(maxsize=4096)
def scope(host: str) -> int:
    """How far a numeric address is known: `HOST`, `LINK`, `SITE` or `EVERYWHERE`. Raises ValueError for a name."""
    address = ipaddress.ip_address(host)
    for reach, networks in _RANGES:
        if any(address.version == network.version and address in network for network in networks):
            return reach
    return EVERYWHERE


def is_loopback(host: str) -> bool:
    """Whether only this host can reach it: a loopback address, or ``localhost``."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
