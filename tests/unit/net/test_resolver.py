"""RFC 3263 against a real DNS server on loopback."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from siprec.net.hosts import HostsFile
from siprec.net.resolver import Resolver
from siprec.net.timers import TimerWheel
from siprec.sip.errors import SipError
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri
from tests.unit.net.dns_server import DnsServer
from tests.unit.net.net_support import Run, until

ZONE = {
    ("plain.test", "A"): ["192.0.2.1"],
    ("plain.test", "AAAA"): ["2001:db8::1"],
    ("two.test", "A"): ["192.0.2.1", "192.0.2.2"],
    ("srv.test", "A"): ["192.0.2.99"],
    ("_sip._udp.srv.test", "SRV"): ["20 0 5070 b.test.", "10 0 5062 a.test."],
    ("_sip._tcp.srv.test", "SRV"): ["5 0 5063 a.test."],
    ("_sips._tcp.srv.test", "SRV"): ["1 0 5065 a.test."],
    ("a.test", "A"): ["192.0.2.10"],
    ("b.test", "A"): ["192.0.2.11"],
    ("naptr.test", "NAPTR"): [
        '20 10 "s" "SIP+D2U" "" _sip._udp.srv.test.',
        '10 20 "s" "SIP+D2T" "" _sip._tcp.srv.test.',
        '10 10 "S" "SIPS+D2T" "" _sips._tcp.srv.test.',
        '1 1 "u" "E2U+sip" "!^.*$!sip:x@y!" .',
        '1 2 "s" "SIP+D2S" "" _sip._sctp.srv.test.',
    ],
    ("insecure.test", "NAPTR"): ['10 10 "s" "SIP+D2U" "" _sip._udp.srv.test.'],
    ("insecure.test", "A"): ["192.0.2.40"],
    ("gone.test", "A"): ["192.0.2.50"],
    ("_sip._udp.gone.test", "SRV"): ["0 0 0 ."],
    ("_sip._udp.weights.test", "SRV"): ["1 75 5060 a.test.", "1 25 5060 b.test."],
}


def text(hop: Hop) -> str:
    return f"{hop} {hop.server_name}".strip()


async def find(resolver: Resolver, uri: str) -> list[Hop]:
    future: asyncio.Future[list[Hop] | SipError] = asyncio.get_running_loop().create_future()
    resolver.resolve(Uri.parse(uri), future.set_result)
    result = await asyncio.wait_for(future, 20)
    if isinstance(result, SipError):
        raise result
    return result


def with_server(run: Run, main: Callable[[Resolver, DnsServer], Awaitable[None]], **options: Any) -> None:
    server_options = {name: options.pop(name) for name in ("ttl", "minimum") if name in options}

    async def body() -> None:
        server = DnsServer(dict(ZONE), **server_options)
        resolver = Resolver(TimerWheel(), nameservers=[await server.start()], **options)
        try:
            await main(resolver, server)
        finally:
            await resolver.close()
            server.stop()
            await asyncio.sleep(0)

    run(body())


CASES = [
    # DNS-02: explicit port: addresses, no SRV; DNS-01: UDP, or TLS for sips
    ("sip:plain.test:5070", ["udp:192.0.2.1:5070", "udp:[2001:db8::1]:5070"]),
    ("sip:srv.test:5080", ["udp:192.0.2.99:5080"]),
    ("sips:two.test:5071", ["tls:192.0.2.1:5071 two.test", "tls:192.0.2.2:5071 two.test"]),
    ("sip:two.test:5071;transport=tcp", ["tcp:192.0.2.1:5071", "tcp:192.0.2.2:5071"]),
    # DNS-01: NAPTR in order of order and preference, services we cannot use left out
    (
        "sip:naptr.test",
        [
            "tls:192.0.2.10:5065 naptr.test",
            "tcp:192.0.2.10:5063",
            "udp:192.0.2.10:5062",
            "udp:192.0.2.11:5070",
        ],
    ),
    # DNS-03: sips discards what is not secure, and the name verified is the one asked for
    ("sips:naptr.test", ["tls:192.0.2.10:5065 naptr.test"]),
    ("sips:srv.test", ["tls:192.0.2.10:5065 srv.test"]),
    ("sips:insecure.test", ["tls:192.0.2.40:5061 insecure.test"]),
    # no NAPTR: SRV of each supported transport, by priority
    ("sip:srv.test", ["udp:192.0.2.10:5062", "udp:192.0.2.11:5070", "tcp:192.0.2.10:5063"]),
    ("sip:srv.test;transport=tcp", ["tcp:192.0.2.10:5063"]),
    ("sip:srv.test;transport=tls", ["tls:192.0.2.10:5065 srv.test"]),
    # neither: default transport and port
    ("sip:plain.test", ["udp:192.0.2.1:5060", "udp:[2001:db8::1]:5060"]),
    ("sip:two.test;transport=tcp", ["tcp:192.0.2.1:5060", "tcp:192.0.2.2:5060"]),
    ("sips:two.test", ["tls:192.0.2.1:5061 two.test", "tls:192.0.2.2:5061 two.test"]),
    # maddr is the target (RFC 3263 4)
    ("sip:plain.test;maddr=b.test", ["udp:192.0.2.11:5060"]),
]


def test_names_become_hops_as_rfc_3263_says(run: Run) -> None:
    async def main(resolver: Resolver, server: DnsServer) -> None:
        for uri, expected in CASES:
            assert [text(hop) for hop in await find(resolver, uri)] == expected, uri

    with_server(run, main)


NUMERIC = [
    ("sip:127.0.0.1", ["udp:127.0.0.1:5060"]),
    ("sip:alice@127.0.0.1:5070;transport=tcp", ["tcp:127.0.0.1:5070"]),
    ("sip:127.0.0.1;transport=TLS", ["tls:127.0.0.1:5061 127.0.0.1"]),
    ("sips:127.0.0.1", ["tls:127.0.0.1:5061 127.0.0.1"]),
    ("sips:127.0.0.1;transport=tcp", ["tls:127.0.0.1:5061 127.0.0.1"]),
    ("sip:[::1]:5062", ["udp:[::1]:5062"]),
    ("sip:example.com;maddr=127.0.0.9", ["udp:127.0.0.9:5060"]),
    ("sip:pbx.office", ["udp:192.0.2.77:5060", "udp:[2001:db8::77]:5060"]),
    ("sip:PBX:5099", ["udp:192.0.2.77:5099"]),
]


def hosts_file(path: Path, content: str) -> HostsFile:
    path.write_text(content)
    return HostsFile(path)


def test_numeric_hosts_and_the_hosts_file_answer_at_once_without_dns(tmp_path: Path) -> None:
    hosts = hosts_file(
        tmp_path / "hosts",
        "127.0.0.1 localhost\nnonsense line\n192.0.2.77\tPBX.office pbx # x.office\n2001:db8::77 pbx.office\n\n::1\n",
    )

    async def main() -> None:
        resolver = Resolver(TimerWheel(), nameservers=["127.0.0.1:9"], hosts=hosts)
        for uri, expected in NUMERIC:
            results: list[list[Hop] | SipError] = []
            resolver.resolve(Uri.parse(uri), results.append)
            assert len(results) == 1, uri
            assert isinstance(results[0], list), uri
            assert [text(hop) for hop in results[0]] == expected
        only_six = Resolver(TimerWheel(), hosts=hosts, families=(6,))
        assert [hop.host for hop in await find(only_six, "sip:pbx.office")] == ["2001:db8::77"]
        only_four = Resolver(TimerWheel(), hosts=hosts, families=(4,))
        assert [hop.host for hop in await find(only_four, "sip:localhost")] == ["127.0.0.1"]
        assert resolver.queries == 0
        await resolver.close()

    asyncio.run(main())


def test_a_changed_hosts_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("siprec.net.hosts.CHECK_EVERY", 0.0)
    path = tmp_path / "hosts"
    hosts = hosts_file(path, "192.0.2.1 a\n")
    assert hosts.lookup("A.") == ("192.0.2.1",)
    path.write_text("192.0.2.2 a b\n")
    os.utime(path, (1, 1))
    assert hosts.lookup("a") == ("192.0.2.2",)
    path.unlink()
    assert hosts.lookup("a") == ()
    assert hosts.lookup("sip.localhost") == ("127.0.0.1", "::1")


@pytest.mark.parametrize(
    ("uri", "status", "supported"),
    [
        ("tel:+4930", 416, ("udp", "tcp", "tls")),
        ("sip:127.0.0.1;transport=sctp", 503, ("udp", "tcp", "tls")),
        ("sips:127.0.0.1;transport=udp", 503, ("udp", "tcp", "tls")),
        ("sips:127.0.0.1", 503, ("udp", "tcp")),
        ("sip:127.0.0.1;transport=tls", 503, ("udp", "tcp")),
    ],
)
def test_what_cannot_be_routed_is_an_error_for_the_caller(uri: str, status: int, supported: Sequence[str]) -> None:
    async def main() -> None:
        resolver = Resolver(TimerWheel(), supported=supported)
        results: list[list[Hop] | SipError] = []
        resolver.resolve(Uri.parse(uri), results.append)
        (result,) = results
        assert isinstance(result, SipError)
        assert result.status == status

    asyncio.run(main())


def test_names_that_do_not_exist_or_are_not_served_are_503(run: Run) -> None:
    async def main(resolver: Resolver, server: DnsServer) -> None:
        for uri in ("sip:nobody.test", "sip:gone.test;transport=udp", "sip:x..y", f"sip:{'x' * 70}.test:5060"):
            with pytest.raises(SipError) as caught:
                await find(resolver, uri)
            assert caught.value.status == 503, uri
        # and the answer is remembered, the negative one too (RFC 2308)
        asked = dict(server.asked)
        results: list[list[Hop] | SipError] = []
        resolver.resolve(Uri.parse("sip:nobody.test"), results.append)
        assert isinstance(results[0], SipError)
        assert server.asked == asked

    with_server(run, main)


def test_answers_are_kept_for_their_ttl_and_no_longer(run: Run) -> None:
    async def main(resolver: Resolver, server: DnsServer) -> None:
        await find(resolver, "sip:two.test:5060")
        results: list[list[Hop] | SipError] = []
        resolver.resolve(Uri.parse("sip:two.test:5060"), results.append)
        assert len(results) == 1  # at once
        assert server.asked[("two.test", "A")] == 1
        server.zone[("two.test", "A")] = ["192.0.2.3"]
        loop = asyncio.get_running_loop()
        end = loop.time() + 20
        while [hop.host for hop in await find(resolver, "sip:two.test:5060")] != ["192.0.2.3"]:
            assert loop.time() < end
            await asyncio.sleep(0.05)
        assert server.asked[("two.test", "A")] == 2

    with_server(run, main, ttl=1, minimum=1)


def test_look_ups_of_one_name_share_one_question(run: Run) -> None:
    async def main(resolver: Resolver, server: DnsServer) -> None:
        everyone = await asyncio.gather(*(find(resolver, "sip:srv.test") for _ in range(50)))
        assert all(hops == everyone[0] for hops in everyone)
        assert set(server.asked.values()) == {1}
        assert resolver.pending == 0
        await asyncio.gather(*(find(resolver, f"sip:two.test:{5060 + n}") for n in range(20)))
        assert server.asked[("two.test", "A")] == 1

    with_server(run, main)


def test_weights_share_the_load_and_every_target_is_there_for_failover() -> None:
    async def main(resolver: Resolver, server: DnsServer) -> None:
        first: Counter[str] = Counter()
        for _ in range(2000):
            hops = await find(resolver, "sip:weights.test")
            assert sorted(hop.host for hop in hops) == ["192.0.2.10", "192.0.2.11"]
            first[hops[0].host] += 1
        assert 1400 < first["192.0.2.10"] < 1600

    with_server(asyncio.run, main, random_source=random.Random(3))


def test_what_failed_comes_last_for_a_while_and_then_again_first(run: Run) -> None:
    async def main(resolver: Resolver, server: DnsServer) -> None:
        hops = await find(resolver, "sip:srv.test;transport=udp")
        resolver.mark_failed(hops[0], 0.2)
        assert await find(resolver, "sip:srv.test;transport=udp") == [hops[1], hops[0]]
        resolver.mark_failed(hops[1], 60)
        resolver.mark_failed(hops[0], 60)
        assert await find(resolver, "sip:srv.test;transport=udp") == hops  # all failed: still all tried, in order
        resolver.mark_alive(hops[1])
        assert await find(resolver, "sip:srv.test;transport=udp") == [hops[1], hops[0]]
        resolver.mark_failed(hops[0], 0.05)
        await asyncio.sleep(0.06)
        assert await find(resolver, "sip:srv.test;transport=udp") == hops

    with_server(run, main)


def test_silent_and_broken_servers_end_within_the_time_limit(run: Run) -> None:
    async def main(resolver: Resolver, server: DnsServer) -> None:
        server.silent = {"srv.test", "_sip._udp.srv.test", "_sip._tcp.srv.test"}
        server.broken = {"plain.test"}
        loop = asyncio.get_running_loop()
        start = loop.time()
        for uri in ("sip:srv.test", "sip:plain.test:5060"):
            with pytest.raises(SipError) as caught:
                await find(resolver, uri)
            assert caught.value.status == 503
            assert "DNS" in caught.value.reason
        assert loop.time() - start < 10
        assert [hop.host for hop in await find(resolver, "sip:two.test")] == ["192.0.2.1", "192.0.2.2"]

    with_server(run, main, timeout=0.6)


def test_close_in_the_middle_of_a_look_up_leaves_nothing(run: Run) -> None:
    async def main(resolver: Resolver, server: DnsServer) -> None:
        server.silent = {"plain.test"}
        results: list[list[Hop] | SipError] = []
        resolver.resolve(Uri.parse("sip:plain.test"), results.append)
        await until(lambda: server.asked)
        await resolver.close()
        assert results == []
        assert resolver.pending == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with_server(run, main)


def test_an_error_of_one_callback_does_not_cost_the_others_their_answer(run: Run) -> None:
    async def main(resolver: Resolver, server: DnsServer) -> None:
        def broken(result: list[Hop] | SipError) -> None:
            raise RuntimeError("above")

        resolver.resolve(Uri.parse("sip:two.test"), broken)
        assert len(await find(resolver, "sip:two.test")) == 2

    with_server(run, main)


@pytest.mark.parametrize("uri", ["sip:srv.test", "sip:two.test", "sip:two.test:5070;transport=tcp", "sips:srv.test"])
@pytest.mark.parametrize("trouble", ["silent", "broken"])
def test_a_name_leads_where_it_led_while_dns_fails(run: Run, uri: str, trouble: str) -> None:
    """Whatever number of questions it takes: NAPTR and SRV are asked for as well, and most have neither."""

    async def main() -> None:
        server = DnsServer(dict(ZONE), ttl=60, minimum=5)
        wheel = TimerWheel()
        ahead = [0.0]
        clock = SimpleNamespace(now=lambda: wheel.now() + ahead[0], call_later=wheel.call_later)
        resolver = Resolver(clock, nameservers=[await server.start()], timeout=1.6)
        known = await find(resolver, uri)
        names = {name for name, _ in server.asked}
        for _ in range(3):
            ahead[0] += 3600
            getattr(server, trouble).update(names)
            loop = asyncio.get_running_loop()
            began = loop.time()
            assert await find(resolver, uri) == known
            assert loop.time() - began < 1.4  # less than a look-up may take
            began = loop.time()
            await find(resolver, uri)
            assert loop.time() - began < 0.3  # who comes later does not wait again
            await until(lambda: resolver.pending == 0)
            asked = dict(server.asked)
            await find(resolver, uri)
            assert server.asked == asked  # DNS is left alone for a while
        resolver.clear()  # a reload does not take away the only thing that is known
        assert await find(resolver, uri) == known
        getattr(server, trouble).clear()
        await until(lambda: resolver.pending == 0)
        ahead[0] += 3600
        server.zone = {key: value for key, value in server.zone.items() if key[0] != "two.test"}
        if "two" in uri:
            with pytest.raises(SipError):  # an answer is an answer
                await find(resolver, uri)
        else:
            assert await find(resolver, uri) == known
        await resolver.close()
        server.stop()
        wheel.close()

    run(main())


def test_what_was_known_does_not_serve_for_ever(run: Run) -> None:
    async def main() -> None:
        server = DnsServer(dict(ZONE), ttl=60)
        wheel = TimerWheel()
        ahead = [0.0]
        clock = SimpleNamespace(now=lambda: wheel.now() + ahead[0], call_later=wheel.call_later)
        resolver = Resolver(clock, nameservers=[await server.start()], timeout=0.8)
        await find(resolver, "sip:two.test")
        server.silent.update({"two.test", "_sip._udp.two.test", "_sip._tcp.two.test"})
        for _ in range(4):
            ahead[0] += 6 * 3600 - 60
            assert await find(resolver, "sip:two.test")
            await until(lambda: resolver.pending == 0)
        ahead[0] += 3600
        with pytest.raises(SipError):
            await find(resolver, "sip:two.test")
        await resolver.close()
        server.stop()
        wheel.close()

    run(main())
