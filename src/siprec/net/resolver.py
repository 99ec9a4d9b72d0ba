"""From a URI to the hops that lead there (RFC 3263)."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

from siprec.net.address import DEFAULT_PORTS, family_of
from siprec.net.dnscache import STALE, STALE_TTL, DnsCache, Records
from siprec.net.hosts import HostsFile
from siprec.sip.clock import Clock, Timer
from siprec.sip.errors import SipError
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri

log = logging.getLogger(__name__)

Done = Callable[[list[Hop] | SipError], None]

FAILED_FOR: Final = 30.0
MAX_HOPS: Final = 16
MAX_PLANS: Final = 10000
MAX_PENDING: Final = 2000
STALE_WAIT: Final = 0.5  # how long a call waits for DNS that may be silent, when there is an old answer
_NAPTR_SERVICES: Final = {"SIP+D2U": "udp", "SIP+D2T": "tcp", "SIPS+D2T": "tls"}
_SRV_PREFIX: Final = {"udp": "_sip._udp", "tcp": "_sip._tcp", "tls": "_sips._tcp"}


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a URI asks for. `port` 0: none given; `transport` empty: not said."""

    host: str
    port: int
    transport: str
    secure: bool


@dataclass(frozen=True, slots=True)
class _Target:
    """One SRV record, or a host without one. Lower `rank` first; within a rank the weights decide (RFC 2782)."""

    rank: tuple[int, int]
    weight: int
    transport: str
    port: int
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Plan:
    """`failed`: why there are no targets. `silent`: a server failed, so there may be more, or others."""

    targets: tuple[_Target, ...]
    expires: float
    failed: str = ""
    silent: bool = False


@dataclass(slots=True)
class _Pending:
    """A look-up under way, and who waits for it. `late`: it took too long, what was known before has to do."""

    waiting: list[Done]
    late: bool = False
    timer: Timer | None = None


class Resolver:
    """RFC 3263 for SIP and SIPS URIs.

    `nameservers` as in :class:`siprec.net.dnscache.DnsCache`; `supported` the transports we can use and `families`
    (4 and 6), the preferred first; `timeout` bounds a whole look-up, in seconds. Several hops come in
    the order in which they are to be tried; those lately reported to :meth:`mark_failed` come last.

    While DNS is silent or fails, what a URI led to last serves for another day (RFC 8767). A name takes several
    questions (NAPTR, SRV, addresses): all of them together hold a call up for `STALE_WAIT` seconds, and DNS is asked
    again every `STALE_TTL` seconds. An answer that there is no such name is believed.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        nameservers: Sequence[str] = (),
        supported: Sequence[str] = ("udp", "tcp", "tls"),
        families: Sequence[int] = (4, 6),
        hosts: HostsFile | None = None,
        timeout: float = 5.0,
        random_source: random.Random | None = None,
    ) -> None:
        self.supported = tuple(supported)
        self.families = tuple(families)
        self._clock = clock
        self._hosts = hosts or HostsFile()
        self._timeout = timeout
        self._random = random_source or random.Random()
        self._dns = DnsCache(clock, nameservers, lifetime=timeout / 2)
        self._plans: dict[_Wanted, _Plan] = {}
        self._pending: dict[_Wanted, _Pending] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: dict[tuple[str, str, int], float] = {}
        self._asked_again: dict[_Wanted, float] = {}
        """When DNS is asked again for a name whose last answer serves meanwhile."""

    @property
    def queries(self) -> int:
        """DNS questions asked so far."""
        return self._dns.queries

    @property
    def pending(self) -> int:
        """Look-ups under way."""
        return len(self._pending)

    def resolve(self, uri: Uri, done: Done) -> None:
        """Find the hops for a request to `uri`, at least one, or a SipError (416, 503); `done` gets it exactly once.

        Numeric hosts, names of the hosts file and cached names call `done` before this returns. Never raises.
        """
        try:
            wanted = self._wanted(uri)
        except SipError as error:
            _tell(done, error)
            return
        addresses = self._known(wanted.host)
        if addresses is not None:
            _tell(done, self._direct(wanted, addresses))
            return
        plan = self._plans.get(wanted)
        if plan is not None and max(plan.expires, self._asked_again.get(wanted, 0.0)) > self._clock.now():
            _tell(done, self._hops(plan, wanted))
            return
        pending = self._pending.get(wanted)
        stale = self._stale(wanted)
        if pending is not None:
            if pending.late and stale is not None:
                _tell(done, self._hops(stale, wanted))
            else:
                pending.waiting.append(done)
        elif len(self._pending) >= MAX_PENDING:
            _tell(done, SipError("too many names are being looked up", 503))
        else:
            pending = self._pending[wanted] = _Pending([done])
            if stale is not None:
                pending.timer = self._clock.call_later(STALE_WAIT, self._late, wanted, pending)
            task = asyncio.get_running_loop().create_task(self._look_up(wanted))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def mark_failed(self, hop: Hop, seconds: float = FAILED_FOR) -> None:
        """A request to `hop` failed (transport error, 503, time-out): for a while it comes last (RFC 3263 4.3)."""
        now = self._clock.now()
        if len(self._failed) >= 1024:
            self._failed = {key: until for key, until in self._failed.items() if until > now}
        self._failed[(hop.transport, hop.host, hop.port)] = now + seconds

    def mark_alive(self, hop: Hop) -> None:
        """`hop` answered: forget that it failed."""
        self._failed.pop((hop.transport, hop.host, hop.port), None)

    def clear(self) -> None:
        """Ask for everything anew and forget failures (on reload). What was known serves if DNS does not answer."""
        now = self._clock.now()
        self._plans = {wanted: replace(plan, expires=min(plan.expires, now)) for wanted, plan in self._plans.items()}
        self._asked_again.clear()
        self._dns.clear()
        self._failed.clear()

    async def close(self) -> None:
        """Stop all look-ups; their `done` is not called."""
        for pending in self._pending.values():
            if pending.timer is not None:
                pending.timer.cancel()
        self._pending.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._dns.close()

    # -- what needs no DNS -----------------------------------------------------------------------------------------

    def _wanted(self, uri: Uri) -> _Wanted:
        if not uri.is_sip:
            raise SipError(f"cannot route {uri.scheme} URIs", 416)
        secure = uri.scheme == "sips"
        transport = uri.transport
        if secure:
            # RFC 5630 3.1.3: tcp means TLS over TCP here; nothing else is secure.
            if transport not in ("", "tcp", "tls"):
                raise SipError(f"no secure transport {transport}", 503)
            transport = "tls" if transport else ""
        if transport and transport not in self.supported:
            raise SipError(f"transport {transport} is not supported", 503)
        if secure and "tls" not in self.supported:
            raise SipError("TLS is not supported", 503)
        # RFC 3263 4: the target is maddr, if there is one.
        host = (uri.params.get("maddr") or uri.host).strip("[]").rstrip(".").lower()
        return _Wanted(host, uri.port or 0, transport, secure)

    def _known(self, host: str) -> tuple[str, ...] | None:
        if family_of(host) != socket.AF_UNSPEC:
            return (host,)
        return self._hosts.lookup(host) or None

    def _direct(self, wanted: _Wanted, addresses: tuple[str, ...]) -> list[Hop] | SipError:
        """Numeric host, or a name that DNS knows nothing of: UDP or TLS unless said otherwise (RFC 3263 4.1, 4.2)."""
        if family_of(wanted.host) == socket.AF_UNSPEC:
            addresses = self._by_family(addresses)
            if not addresses:
                return SipError(f"no usable address for {wanted.host}", 503)
        transport = self._default_transport(wanted)
        target = _Target((0, 0), 0, transport, wanted.port or DEFAULT_PORTS[transport], addresses)
        return self._hops(_Plan((target,), 0.0), wanted)

    def _by_family(self, addresses: Sequence[str]) -> tuple[str, ...]:
        by_number = {4: socket.AF_INET, 6: socket.AF_INET6}
        return tuple(a for number in self.families for a in addresses if family_of(a) == by_number[number])

    def _default_transport(self, wanted: _Wanted) -> str:
        if wanted.transport:
            return wanted.transport
        if wanted.secure:
            return "tls"
        return "udp" if "udp" in self.supported else self.supported[0]

    def _hops(self, plan: _Plan, wanted: _Wanted) -> list[Hop] | SipError:
        if not plan.targets:
            return SipError(plan.failed, 503)
        hops: list[Hop] = []
        for _, group in groupby(plan.targets, key=lambda target: target.rank):
            for target in self._weighted(list(group)):
                for address in target.addresses:
                    # RFC 5922 4: the certificate is for the domain asked for, not for what SRV made of it (RFC 3263
                    # 4.1).
                    name = wanted.host if target.transport == "tls" else ""
                    hop = Hop(target.transport, address, target.port, server_name=name)
                    if hop not in hops:
                        hops.append(hop)
        if self._failed:
            now = self._clock.now()
            hops.sort(key=lambda hop: self._failed.get((hop.transport, hop.host, hop.port), 0.0) > now)
        return hops[:MAX_HOPS]

    def _weighted(self, targets: list[_Target]) -> list[_Target]:
        """RFC 2782: drawn one by one, the chance in proportion to the weight; weight 0 has a very small one."""
        if len(targets) < 2:
            return targets
        ordered: list[_Target] = []
        rest = sorted(targets, key=lambda target: target.weight > 0)
        while rest:
            draw = self._random.randint(0, sum(target.weight for target in rest))
            for i, target in enumerate(rest):
                draw -= target.weight
                if draw <= 0:
                    ordered.append(rest.pop(i))
                    break
        return ordered

    # -- old answers (RFC 8767) ------------------------------------------------------------------------------------

    def _stale(self, wanted: _Wanted) -> _Plan | None:
        """What was known last, if that may serve."""
        plan = self._plans.get(wanted)
        return plan if plan is not None and plan.targets and plan.expires + STALE > self._clock.now() else None

    def _late(self, wanted: _Wanted, pending: _Pending) -> None:
        """DNS takes long: who waits gets what was known before; the look-up goes on."""
        stale = self._stale(wanted)
        if stale is not None and self._pending.get(wanted) is pending:
            pending.late = True
            told, pending.waiting = pending.waiting, []
            for done in told:
                _tell(done, self._hops(stale, wanted))

    # -- DNS -------------------------------------------------------------------------------------------------------

    async def _look_up(self, wanted: _Wanted) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                plan = await _Lookup(self, self._dns, wanted).plan()
        except TimeoutError:
            plan = _Plan((), self._clock.now() + 5.0, f"DNS does not answer for {wanted.host}", silent=True)
        except asyncio.CancelledError:
            self._pending.pop(wanted, None)
            raise
        except Exception:
            log.exception("error while looking up %s", wanted.host)
            plan = _Plan((), self._clock.now(), f"cannot look up {wanted.host}", silent=True)
        plan = self._settled(wanted, plan)
        pending = self._pending.pop(wanted, None)
        if pending is not None:
            if pending.timer is not None:
                pending.timer.cancel()
            for done in pending.waiting:
                _tell(done, self._hops(plan, wanted))

    def _settled(self, wanted: _Wanted, plan: _Plan) -> _Plan:
        """Remember what came of a look-up; what serves from now on is returned."""
        stale = self._stale(wanted) if plan.silent else None
        if stale is not None:
            if wanted not in self._asked_again:
                log.warning("%s: DNS fails, the last known addresses are used", wanted.host)
            # Its age goes on: after a day of silence it serves no longer.
            self._asked_again[wanted] = self._clock.now() + STALE_TTL
            return stale
        self._asked_again.pop(wanted, None)
        if len(self._plans) >= MAX_PLANS and wanted not in self._plans:
            oldest = next(iter(self._plans))
            del self._plans[oldest]
            self._asked_again.pop(oldest, None)
        self._plans[wanted] = plan
        return plan


class _Lookup:
    """The questions for one name, and the shortest life among their answers."""

    def __init__(self, resolver: Resolver, dns: DnsCache, wanted: _Wanted) -> None:
        self._resolver = resolver
        self._dns = dns
        self._wanted = wanted
        self._expires = float("inf")
        self._failed = ""

    async def plan(self) -> _Plan:
        wanted, resolver = self._wanted, self._resolver
        targets: list[_Target] | None = None
        if not wanted.port:
            if wanted.transport:
                targets = await self._srv([(wanted.transport, f"{_SRV_PREFIX[wanted.transport]}.{wanted.host}")])
            else:
                targets = await self._naptr()
                if targets is None:
                    allowed = ["tls"] if wanted.secure else [t for t in resolver.supported if t != "tls"]
                    targets = await self._srv([(t, f"{_SRV_PREFIX[t]}.{wanted.host}") for t in allowed])
        if targets is None:
            transport = resolver._default_transport(wanted)
            addresses = await self._addresses(wanted.host)
            port = wanted.port or DEFAULT_PORTS[transport]
            targets = [_Target((0, 0), 0, transport, port, addresses)] if addresses else []
        failed = "" if targets else self._failed or f"no address for {wanted.host}"
        return _Plan(tuple(targets), self._expires, failed, bool(self._failed))

    async def _ask(self, name: str, kind: str) -> Records:
        records = await self._dns.lookup(name, kind)
        self._expires = min(self._expires, records.expires)
        if records.failed:
            self._failed = f"{records.failed} ({name})"
        return records

    async def _naptr(self) -> list[_Target] | None:
        """RFC 3263 4.1. None when the domain has no NAPTR record that we can use."""
        wanted, resolver = self._wanted, self._resolver
        usable: list[tuple[int, int, str, str, str]] = []
        for record in (await self._ask(wanted.host, "NAPTR")).items:
            service = record.service.decode("ascii", "replace").upper()
            transport = _NAPTR_SERVICES.get(service, "")
            flags = record.flags.decode("ascii", "replace").lower()
            if transport not in resolver.supported or flags not in ("s", "a") or record.regexp:
                continue
            if wanted.secure and transport != "tls":
                continue
            name = record.replacement.to_text(omit_final_dot=True).lower()
            usable.append((record.order, record.preference, transport, name, flags))
        usable.sort()
        services = [(transport, name) for _, _, transport, name, flags in usable if flags == "s"]
        targets = await self._srv(services) if services else None
        for _, _, transport, name, flags in usable:
            if flags == "a" and (addresses := await self._addresses(name)):
                rank = (len(services), 0)
                targets = [*(targets or ()), _Target(rank, 0, transport, DEFAULT_PORTS[transport], addresses)]
        return targets

    async def _srv(self, services: Sequence[tuple[str, str]]) -> list[_Target] | None:
        """RFC 3263 4.2 for several services, in order. None when none of them has an SRV record."""
        answers = await asyncio.gather(*(self._ask(name, "SRV") for _, name in services))
        found: list[tuple[_Target, str]] = []
        any_record = False
        for index, ((transport, _), answer) in enumerate(zip(services, answers, strict=True)):
            for record in answer.items:
                any_record = True
                name = record.target.to_text(omit_final_dot=True).lower()
                # "." means: decidedly not available (RFC 2782).
                if name and name != "." and record.port:
                    target = _Target((index, record.priority), record.weight, transport, record.port, ())
                    found.append((target, name))
        if not any_record:
            return None
        found.sort(key=lambda item: item[0].rank)
        found = found[:MAX_HOPS]
        addresses = await asyncio.gather(*(self._addresses(name) for _, name in found))
        return [replace(target, addresses=known) for (target, _), known in zip(found, addresses, strict=True) if known]

    async def _addresses(self, name: str) -> tuple[str, ...]:
        known = self._resolver._known(name)
        if known is not None:
            return self._resolver._by_family(known)
        kinds = ["A" if number == 4 else "AAAA" for number in self._resolver.families]
        answers = await asyncio.gather(*(self._ask(name, kind) for kind in kinds))
        return tuple(record.address for answer in answers for record in answer.items)


def _tell(done: Done, result: list[Hop] | SipError) -> None:
    try:
        done(result)
    except Exception:
        log.exception("error in the callback of a look-up")
