"""`received` and `rport` in the top Via, and where responses go (RFC 3261 18.2, RFC 3581)."""

from __future__ import annotations

import pytest

from siprec.sip.errors import SipError
from siprec.sip.headers import Via
from siprec.sip.message import SipRequest, parse_datagram
from siprec.sip.response_routing import response_hop, stamp
from siprec.sip.transport import Hop

SOURCES = (Hop("udp", "192.0.2.9", 5060), Hop("udp", "192.0.2.9", 4444), Hop("udp", "2001:db8::9", 5060))
VIAS = (
    "192.0.2.9;branch=z9hG4bK1",
    "192.0.2.9:5060;branch=z9hG4bK1",
    "192.0.2.9:5099;branch=z9hG4bK1",
    "[2001:db8::9]:5060;branch=z9hG4bK1",
    "[2001:DB8::9];branch=z9hG4bK1",
    "pc.example.com;branch=z9hG4bK1",
    "PC.example.com:4444;branch=z9hG4bK1;x=rport",
    "192.0.2.9:4444;rport;branch=z9hG4bK1",
    "192.0.2.9;branch=z9hG4bK1;rport",
    "192.0.2.9;branch=z9hG4bK1;RPORT;alias",
    "192.0.2.9;rport=1;branch=z9hG4bK1",
    "192.0.2.9 ; rport ; branch=z9hG4bK1",
    "192.0.2.9;branch=z9hG4bKrport",
    "192.0.2.9;branch=z9hG4bKrport;rport",
    "192.0.2.9;branch=z9hG4bK1;rports;rport",
    "192.0.2.9;branch=z9hG4bK1;rport;rport",
    "192.0.2.9;branch=z9hG4bK1;received=10.0.0.1",
    "192.0.2.9;branch=z9hG4bK1;rport;received=10.0.0.1",
    "192.0.2.9;branch=z9hG4bK1;maddr=10.0.0.77",
    "192.0.2.9;branch=z9hG4bK1;maddr=224.0.1.75;rport",
    "192.0.2.9:0;branch=z9hG4bK1",
    '192.0.2.9;branch=z9hG4bK1;x=";rport"',
    "192.0.2.9;branch=z9hG4bK1;rport, SIP/2.0/UDP first;branch=z9hG4bK0",
)


def request(via: str) -> SipRequest:
    message = parse_datagram(
        f"OPTIONS sip:b@x SIP/2.0\r\nVia: SIP/2.0/UDP {via}\r\nVia: SIP/2.0/TCP second\r\nFrom: <sip:a@x>;tag=1\r\n"
        "To: <sip:b@x>\r\nCall-ID: c\r\nCSeq: 1 OPTIONS\r\n\r\n".encode()
    )
    assert isinstance(message, SipRequest)
    return message


@pytest.mark.parametrize("source", SOURCES, ids=str)
@pytest.mark.parametrize("via", VIAS)
def test_a_via_is_stamped_in_its_line_as_it_is_by_its_parameters(via: str, source: Hop) -> None:
    message = request(via)
    before = message.top_via
    params = dict(before.params)
    expected_hop = response_hop(before, source)
    if "rport" in params:
        params["rport"] = str(source.port)
    if "rport" in params or before.host != source.host or "received" in params:
        params["received"] = source.host
    message = request(via)
    rest = message.values("via")[1:]
    branch = message.branch
    assert stamp(message, source) == expected_hop
    after = message.top_via
    assert dict(after.params) == params
    assert (after.host, after.port, after.transport) == (before.host, before.port, before.transport)
    assert message.branch == branch
    assert message.values("via")[1:] == rest
    assert Via.parse(message.values("via")[0]).params == after.params


def test_a_request_without_via_is_an_error() -> None:
    with pytest.raises(SipError):
        stamp(SipRequest("OPTIONS", "sip:b@x"), SOURCES[0])
