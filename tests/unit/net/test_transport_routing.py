"""Which way a message goes, and what is written into Via."""

from __future__ import annotations

import asyncio

import pytest

from siprec.net import listeners
from siprec.net.address import ListenAddress, split_host_port
from siprec.net.transport import SocketTransport
from siprec.sip.transport import Hop
from tests.unit.net.net_support import Peer, Run, options, until


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("udp:127.0.0.1:5070", ListenAddress("udp", "127.0.0.1", 5070)),
        ("TCP:127.0.0.1", ListenAddress("tcp", "127.0.0.1", 5060)),
        ("tls:[::1]:0", ListenAddress("tls", "::1", 0)),
        ("tls:*", ListenAddress("tls", "0.0.0.0", 5061)),
        ("udp:localhost", ListenAddress("udp", "127.0.0.1", 5060)),
    ],
)
def test_listening_addresses_are_read(text: str, expected: ListenAddress) -> None:
    assert ListenAddress.parse(text) == expected
    assert ListenAddress.parse(str(expected)) == expected


@pytest.mark.parametrize("text", ["", "udp", "udp:", "sctp:127.0.0.1", "udp:example.com:5060", "udp:127.0.0.1:70000",
                                  "udp:127.0.0.1:x", "tcp:[::1", "tcp:[::1]x"])  # fmt: skip
def test_malformed_listening_addresses_are_value_errors(text: str) -> None:
    with pytest.raises(ValueError):
        ListenAddress.parse(text)


def test_hosts_and_ports_are_split() -> None:
    assert split_host_port("a.example:5080") == ("a.example", 5080)
    assert split_host_port("::1") == ("::1", None)
    assert split_host_port("[::1]:5") == ("::1", 5)


def test_the_listener_is_chosen_by_transport_family_and_wish() -> None:
    async def main() -> None:
        transport = SocketTransport()
        names = ["udp:127.0.0.1:0", "udp:127.0.0.2:0", "tcp:127.0.0.1:0", "udp:[::1]:0"]
        one, two, tcp, six = [listener.local for listener in await transport.listen(names)]
        assert transport.route(Hop("udp", "127.0.0.9", 5060), 500).local in (one, two)
        assert transport.route(Hop("udp", "127.0.0.9", 5060, two), 500).local == two
        assert transport.route(Hop("udp", "::1", 5060), 500).local == six
        assert transport.route(Hop("tcp", "127.0.0.9", 5060), 500).local == tcp
        assert transport.route(Hop("udp", "127.0.0.9", 5060, one), 1301) == Hop("tcp", "127.0.0.9", 5060, tcp)
        assert transport.route(Hop("udp", "::1", 5060), 1301).transport == "udp"  # no TCP listener of that family
        on_connection = Hop("tcp", "127.0.0.9", 5060, one, 7)
        assert transport.route(on_connection, 5000) == on_connection
        assert transport.sent_by(Hop("udp", "127.0.0.9", 5060, two)) == two
        assert transport.sent_by(Hop("udp", "::1", 5060)) == six
        assert transport.is_ours(*one)
        assert not transport.is_ours(one[0], 1)
        await transport.close()

    asyncio.run(main())


def test_all_messages_to_a_peer_share_a_hop_until_the_choice_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(listeners, "monotonic", lambda: now[0])

    async def main() -> None:
        transport = SocketTransport()
        monkeypatch.setattr(listeners, "source_address", lambda host: "127.0.0.2")
        one, two = [listener.local for listener in await transport.listen(["udp:127.0.0.1:0", "udp:127.0.0.2:0"])]
        first = transport.route(Hop("udp", "127.0.0.9", 5060), 500)
        assert first.local == two
        assert transport.route(Hop("udp", "127.0.0.9", 5060), 500) is first
        monkeypatch.setattr(listeners, "source_address", lambda host: "127.0.0.1")
        assert transport.route(Hop("udp", "127.0.0.9", 5060), 500) is first
        now[0] += listeners.MEMORY
        assert transport.route(Hop("udp", "127.0.0.9", 5060), 500).local == one
        (third,) = await transport.listen("tcp:127.0.0.3:0")
        assert transport.route(Hop("tcp", "127.0.0.9", 5060), 500).local == third.local, "a new listener counts at once"
        await transport.close()
        assert transport.route(Hop("udp", "127.0.0.9", 5060), 500).local == ("", 0)

    asyncio.run(main())


def test_strangers_do_not_fill_the_memory_of_what_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "MAX_KEPT", 8)

    async def main() -> None:
        transport = SocketTransport()
        monkeypatch.setattr(listeners, "source_address", lambda host: "127.0.0.2")
        await transport.listen(["udp:127.0.0.1:0", "udp:127.0.0.2:0"])
        for number in range(100):
            transport.route(Hop("udp", f"127.0.1.{number}", 5060), 500)
            assert max(len(transport._chosen), len(transport._hops), len(transport._sources)) <= 9
        await transport.close()

    asyncio.run(main())


def test_via_names_the_advertised_address_or_the_one_the_kernel_uses() -> None:
    async def main() -> None:
        transport = SocketTransport()
        (wild,) = await transport.listen("udp:0.0.0.0:0")
        assert transport.sent_by(Hop("udp", "127.0.0.1", 5060)) == ("127.0.0.1", wild.address.port)
        assert transport.is_ours("127.0.0.1", wild.address.port)
        assert not transport.is_ours("192.0.2.1", wild.address.port)
        await transport.listen("tcp:0.0.0.0:0", advertise="sip.example.com:5080")
        assert transport.sent_by(Hop("tcp", "127.0.0.1", 5060)) == ("sip.example.com", 5080)
        assert transport.is_ours("SIP.example.com", 5080)
        (six,) = await transport.listen("tcp:[::1]:0", advertise="[2001:db8::5]")
        assert transport.sent_by(Hop("tcp", "::1", 5060)) == ("2001:db8::5", six.address.port)
        await transport.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    "host",
    ["224.0.1.75", "255.255.255.255", "0.0.0.0", "ff02::1", "::", "::ffff:224.0.1.75", "example.com", ""],
)
@pytest.mark.parametrize("transport_name", ["udp", "tcp"])
def test_nothing_is_sent_to_forbidden_addresses(host: str, transport_name: str) -> None:
    async def main() -> None:
        alice = Peer()
        await alice.transport.listen(["udp:127.0.0.1:0", "tcp:127.0.0.1:0"])
        failures: list[str] = []
        alice.transport.send(options(), Hop(transport_name, host, 5060), failures.append)
        assert failures == []  # never from inside
        await until(lambda: failures)
        assert alice.transport.counters.sent == 0
        assert alice.transport.connections == 0
        await alice.transport.close()

    asyncio.run(main())


def test_a_busy_address_is_an_error_and_nothing_of_the_call_stays_open(run: Run) -> None:
    async def main() -> None:
        alice, bob = Peer(), Peer()
        there = await alice.listen("udp:127.0.0.1:0")
        with pytest.raises(OSError, match="cannot listen on udp:127"):
            await bob.transport.listen(["tcp:127.0.0.1:0", f"udp:127.0.0.1:{there.port}"])
        assert bob.transport.listeners == []
        await alice.transport.close()
        await bob.transport.close()

    run(main())


def test_the_trace_hook_sees_what_goes_in_and_out_and_may_fail(run: Run) -> None:
    async def main() -> None:
        alice, bob = Peer(), Peer(answers=True)
        seen: list[tuple[str, str, bytes]] = []

        def trace(direction: str, hop: Hop, data: bytes) -> None:
            seen.append((direction, hop.transport, data))
            raise RuntimeError("above")

        alice.transport.trace = trace
        await alice.transport.listen(["udp:127.0.0.1:0", "tcp:127.0.0.1:0"])
        for name in ("udp", "tcp"):
            hop = await bob.listen(f"{name}:127.0.0.1:0")
            seen.clear()
            alice.messages.clear()
            alice.transport.send(options(b"x"), hop)
            await until(lambda: alice.messages)
            assert [(direction, transport) for direction, transport, _ in seen] == [("out", name), ("in", name)]
            assert seen[0][2] == options(b"x")
            assert seen[1][2].startswith(b"SIP/2.0 200")
        await alice.transport.close()
        await bob.transport.close()

    run(main())
