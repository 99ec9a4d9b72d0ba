"""DNS records with a cache, and one question per name at a time. The questions themselves are dnspython's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import dns.asyncresolver
import dns.exception
import dns.name
import dns.nameserver
import dns.rdatatype
import dns.resolver

from siprec.net.address import split_host_port
from siprec.sip.clock import Clock

log = logging.getLogger(__name__)

MIN_TTL: Final = 1.0
MAX_TTL: Final = 3600.0
NEGATIVE_TTL: Final = 60.0  # at most; RFC 2308 5
FAILURE_TTL: Final = 5.0  # servers that failed are not asked again at once (RFC 2308 7)
STALE: Final = 86400.0  # seconds for which expired records serve while DNS fails (RFC 8767 5)
STALE_TTL: Final = 30.0  # seconds until DNS is asked again for records served stale (RFC 8767 4)
PATIENCE: Final = 1.8  # seconds that a question waits before stale records are served (RFC 8767 5)
MAX_CACHED: Final = 10000


@dataclass(frozen=True, slots=True)
class Records:
    """An answer: the records (dnspython's rdata; empty: none of this type, or no such name) and when it expires.

    `failed` says why there is no answer at all.
    """

    items: tuple[Any, ...]
    expires: float
    failed: str = ""
    stale_until: float = 0.0
    """Until when the records are better than no answer at all (RFC 8767)."""


class DnsCache:
    """Looks up records through `nameservers` (``192.0.2.1``, ``127.0.0.1:5353``; none: those of resolv.conf).

    `lifetime` bounds one question, all retries and servers included, in seconds.
    """

    def __init__(self, clock: Clock, nameservers: Sequence[str] = (), *, lifetime: float = 2.5) -> None:
        self._clock = clock
        self._cache: dict[tuple[str, str], Records] = {}
        self._asked: dict[tuple[str, str], asyncio.Task[Records]] = {}
        self.queries = 0
        self.served_stale = 0
        self._resolver: dns.asyncresolver.Resolver
        if nameservers:
            self._resolver = dns.asyncresolver.Resolver(configure=False)
            servers: list[Any] = []
            for text in nameservers:
                host, port = split_host_port(text)
                servers.append(dns.nameserver.Do53Nameserver(host, port or 53))
            self._resolver.nameservers = servers
        else:
            try:
                self._resolver = dns.asyncresolver.Resolver()
            except dns.exception.DNSException as error:
                log.warning("no name server: %s", error)
                self._resolver = dns.asyncresolver.Resolver(configure=False)
        self._resolver.timeout = lifetime / 2
        self._resolver.lifetime = lifetime
        self._resolver.cache = None

    async def lookup(self, name: str, kind: str) -> Records:
        """Records of type `kind` (``A``, ``SRV``...) of an absolute name. Never raises but CancelledError."""
        key = (name, kind)
        known = self._cache.get(key)
        if known is not None and known.expires > self._clock.now():
            return known
        task = self._asked.get(key)
        if task is None:
            task = self._asked[key] = asyncio.get_running_loop().create_task(self._ask(key))
        if known is None or known.stale_until <= self._clock.now():
            # Shielded: who gives up waiting does not take the answer from the others.
            return await asyncio.shield(task)
        try:
            async with asyncio.timeout(PATIENCE):
                return await asyncio.shield(task)
        except TimeoutError:
            self.served_stale += 1
            return known

    def clear(self) -> None:
        """Forget all answers."""
        self._cache.clear()

    async def close(self) -> None:
        """Stop all questions."""
        tasks = list(self._asked.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, key: tuple[str, str]) -> Records:
        try:
            records = await self._query(*key)
        finally:
            self._asked.pop(key, None)
        known = self._cache.pop(key, None)
        now = self._clock.now()
        if records.failed and known is not None and known.stale_until > now:
            if not known.failed and known.expires <= now:
                log.warning("%s %s: %s, what was known is used on", key[1], key[0], records.failed)
            self.served_stale += 1
            records = replace(known, expires=now + STALE_TTL)
        if records.expires <= now:
            return records  # not to be kept
        if len(self._cache) >= MAX_CACHED:
            self._cache.pop(next(iter(self._cache)))
        self._cache[key] = records
        return records

    async def _query(self, name: str, kind: str) -> Records:
        now = self._clock.now
        if not self._resolver.nameservers:
            return Records((), now() + FAILURE_TTL, "no name server")
        self.queries += 1
        try:
            absolute = dns.name.from_text(name, dns.name.root)
            answer = await self._resolver.resolve(absolute, kind, raise_on_no_answer=False, search=False)
        except dns.resolver.NXDOMAIN as error:
            return Records((), now() + _negative_ttl(error.kwargs.get("responses", {}).values()))
        except dns.resolver.LifetimeTimeout:
            return Records((), now() + FAILURE_TTL, "DNS does not answer")
        except (dns.exception.DNSException, OSError, ValueError) as error:
            return Records((), now() + FAILURE_TTL, f"DNS: {type(error).__name__}")
        if answer.rrset is None:
            return Records((), now() + _negative_ttl([answer.response]))
        ttl = min(max(float(answer.rrset.ttl), MIN_TTL), MAX_TTL)
        return Records(tuple(answer.rrset), now() + ttl, stale_until=now() + ttl + STALE)


def _negative_ttl(responses: Any) -> float:
    """RFC 2308 5: the lesser of the SOA's own TTL and its MINIMUM field; without SOA the answer is not kept."""
    for response in responses:
        for rrset in response.authority:
            if rrset.rdtype == dns.rdatatype.SOA:
                return min(max(float(min(rrset.ttl, rrset[0].minimum)), MIN_TTL), NEGATIVE_TTL)
    return 0.0
