"""What is kept of DNS, for how long, and what serves while DNS does not answer (RFC 2308, RFC 8767)."""

from __future__ import annotations

from time import monotonic

import pytest

from siprec.net import dnscache
from siprec.net.dnscache import STALE, STALE_TTL, DnsCache
from tests.simulation.network import VirtualClock
from tests.unit.net.dns_server import DnsServer
from tests.unit.net.net_support import Run

NAME = "srs.test"


@pytest.mark.parametrize("trouble", ["silent", "broken"])
def test_known_records_serve_while_dns_fails(run: Run, trouble: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dnscache, "PATIENCE", 0.2)

    async def main() -> None:
        server = DnsServer({(NAME, "A"): ["192.0.2.1"]}, ttl=60)
        await server.start()
        clock = VirtualClock()
        cache = DnsCache(clock, [server.address], lifetime=0.6)
        assert [each.address for each in (await cache.lookup(NAME, "A")).items] == ["192.0.2.1"]
        getattr(server, trouble).add(NAME)
        clock.run_for(61)
        begun = monotonic()
        stale = await cache.lookup(NAME, "A")
        assert [each.address for each in stale.items] == ["192.0.2.1"]
        assert monotonic() - begun < 0.55, "it does not wait for DNS to give up"
        assert cache.served_stale >= 1
        await cache.close()
        # While they serve, DNS is asked again every half a minute.
        clock.run_for(STALE_TTL + 1)
        server.zone[NAME, "A"] = ["192.0.2.2"]
        getattr(server, trouble).discard(NAME)
        assert [each.address for each in (await cache.lookup(NAME, "A")).items] == ["192.0.2.2"]
        await cache.close()
        server.stop()

    run(main())


def test_known_records_do_not_serve_for_ever_nor_for_a_name_that_is_gone(run: Run) -> None:
    async def main() -> None:
        server = DnsServer({(NAME, "A"): ["192.0.2.1"], ("other.test", "A"): ["192.0.2.1"]}, ttl=60)
        await server.start()
        clock = VirtualClock()
        cache = DnsCache(clock, [server.address], lifetime=0.4)
        await cache.lookup(NAME, "A")
        await cache.lookup("other.test", "A")
        del server.zone["other.test", "A"]
        clock.run_for(61)
        assert not (await cache.lookup("other.test", "A")).items, "an answer is an answer"
        server.broken.add(NAME)
        clock.run_for(STALE)
        answer = await cache.lookup(NAME, "A")
        assert not answer.items
        assert answer.failed
        await cache.close()
        server.stop()

    run(main())


@pytest.mark.parametrize("soa", [True, False])
def test_a_name_that_does_not_exist_is_remembered_only_with_a_soa(run: Run, soa: bool) -> None:
    async def main() -> None:
        server = DnsServer({}, minimum=30)
        server.soa = soa
        await server.start()
        clock = VirtualClock()
        cache = DnsCache(clock, [server.address], lifetime=1)
        for _ in range(3):
            assert not (await cache.lookup(NAME, "A")).items
        assert server.asked[NAME, "A"] == (1 if soa else 3)
        await cache.close()
        server.stop()

    run(main())
