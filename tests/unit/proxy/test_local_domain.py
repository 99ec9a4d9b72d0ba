"""Who we are, however an address is spelt."""

from __future__ import annotations

import pytest

from siprec.proxy.local_domain import LocalDomain
from siprec.sip.uri import Uri

SPELLINGS = ("::1", "0:0:0:0:0:0:0:1", "0::1", "0000:0000:0000:0000:0000:0000:0000:0001")


@pytest.mark.parametrize("ours", SPELLINGS)
@pytest.mark.parametrize("asked", SPELLINGS)
def test_ipv6_addresses_are_compared_as_addresses(ours: str, asked: str) -> None:
    identity = LocalDomain([("udp", ours, 5060)])
    assert identity.is_us(Uri.parse(f"sip:[{asked}]:5060"))
    assert identity.is_us(Uri.parse(f"sip:x@[{asked.upper()}]"))
    assert identity.serves(Uri.parse(f"sip:bob@[{asked}]"))
    assert identity.is_address(asked, 5060)
    assert identity.has_udp(asked, 5060)
    assert identity.is_own_contact(Uri.parse(f"sip:[{asked}]"))
    assert not identity.is_us(Uri.parse("sip:[::2]"))


def test_ipv6_domains_may_have_brackets() -> None:
    identity = LocalDomain([], ["[2001:DB8::5]", "Example.COM"])
    assert identity.serves(Uri.parse("sip:bob@[2001:db8:0::5]"))
    assert identity.serves(Uri.parse("sip:bob@example.com"))
    assert not identity.serves(Uri.parse("sip:bob@[2001:db8::6]"))
