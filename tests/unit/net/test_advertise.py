"""`advertise` as a name, an IPv4 or an IPv6 address."""

from __future__ import annotations

import pytest

from siprec.net.resolver import Resolver
from siprec.net.transport import SocketTransport
from siprec.proxy.local_domain import LocalDomain
from siprec.server.config import Config, SipConfig
from siprec.server.config_file import ConfigError, parse
from siprec.server.process import contact_uri
from siprec.server.proxy_options import own_uri
from siprec.server.proxy_process import ProxyProcess
from siprec.sip.errors import SipError
from siprec.sip.headers import NameAddr
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri
from tests.simulation.network import VirtualClock
from tests.unit.net.net_support import Run


@pytest.mark.parametrize(
    ("advertise", "uri"),
    [
        ("::1", "sip:siprec@[::1]"),
        ("[::1]:5070", "sip:siprec@[::1]:5070"),
        ("[2001:db8::5]", "sip:siprec@[2001:db8::5]"),
        ("192.0.2.1:5070", "sip:siprec@192.0.2.1:5070"),
        ("sip.example.com", "sip:siprec@sip.example.com"),
    ],
)
def test_own_uri_and_contact_can_be_read(advertise: str, uri: str, run: Run) -> None:
    assert own_uri(Config(sip=SipConfig(advertise=advertise))) == uri
    assert NameAddr.parse(f"<{uri}>").uri.aor == uri.removesuffix(":5070")

    async def main() -> None:
        transport = SocketTransport()
        await transport.listen(["udp:[::1]:0", "udp:127.0.0.1:0"], advertise=advertise)
        for host in ("::1", "127.0.0.1"):
            contact = Uri.parse(contact_uri(transport, Hop("udp", host, 5060), "siprec"))
            shown = advertise.startswith("sip.") or (":" in uri[11:].removesuffix(":5070")) == (host == "::1")
            assert (contact.host == Uri.parse(uri).host) == shown, "numeric addresses are for their family"
            assert (":" in contact.host) == (host == "::1") or advertise.startswith("sip.")
        await transport.close()

    run(main())


@pytest.mark.parametrize("advertise", ["[::1", "host:99999", "host:x"])
def test_malformed_advertise_is_named(advertise: str) -> None:
    with pytest.raises(ConfigError, match=r"sip\.advertise: malformed address"):
        parse(f'[sip]\nadvertise = "{advertise}"\n')


def test_addresses_of_an_advertised_name_are_ours() -> None:
    """A Contact at the address of the NAT in front of us leads back to us."""
    process = ProxyProcess.__new__(ProxyProcess)
    process.identity = LocalDomain([])
    process.resolver = resolver = Resolver(VirtualClock())
    resolver.resolve = lambda uri, done: done([Hop(uri.transport or "tls", "192.0.2.80", uri.port or 0)])  # type: ignore[method-assign]
    process._add_advertised("udp", "sip.example.com", 5070)
    process._add_advertised("tls", "sip.example.com", 5071)
    assert process.identity.is_own_contact(Uri.parse("sip:bob@192.0.2.80:5070"))
    assert process.identity.is_own_contact(Uri.parse("sips:bob@192.0.2.80:5071"))
    assert not process.identity.is_own_contact(Uri.parse("sip:bob@192.0.2.80:5072"))
    resolver.resolve = lambda uri, done: done(SipError("no such host", 404))  # type: ignore[method-assign]
    process._add_advertised("udp", "other.example.com", 5070)
