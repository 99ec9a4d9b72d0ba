"""What is dropped without an answer leaves a counter."""

from __future__ import annotations

import pytest

from siprec.sip.transport import Hop
from tests.simulation.proxyworld import PROXY, ProxyWorld

SOURCE = Hop("udp", "198.51.100.7", 5060, (PROXY, 5060))
HEAD = "From: <sip:a@x>;tag=1\r\nTo: <sip:b@x>;tag=2\r\nCall-ID: c\r\n"
VIA = "Via: SIP/2.0/UDP 198.51.100.7;branch=z9hG4bK1\r\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"SIP/2.0 200 OK\r\n{VIA}{HEAD}CSeq: 1 INVITE\r\n\r\n", "stray response"),
        (f"SIP/2.0 200 OK\r\n{HEAD}CSeq: 1 INVITE\r\n\r\n", "malformed"),
        (f"SIP/2.0 200 OK\r\n{VIA}{HEAD}CSeq: x\r\n\r\n", "malformed"),
        ("GET / HTTP/1.1\r\n\r\n", "no Via"),
        (f"ACK sip:b@198.51.100.9 SIP/2.0\r\n{VIA}{HEAD}CSeq: 1 ACK\r\nMax-Forwards: 70\r\n\r\n", "ACK"),
        (f"ACK sip:b@x SIP/2.0\r\n{VIA}{HEAD}CSeq: 1 INVITE\r\n\r\n", "malformed ACK"),
        (f"OPTIONS sip:b@x SIP/2.0\r\n{HEAD}CSeq: 1 OPTIONS\r\n\r\n", "no Via"),
        (f"OPTIONS sip:b@x SIP/2.0\r\nVia: nonsense\r\n{HEAD}CSeq: 1 OPTIONS\r\n\r\n", "no Via"),
    ],
)
def test_a_message_that_is_dropped_is_counted_with_the_reason(text: str, why: str) -> None:
    world = ProxyWorld()
    world.node.deliver(text.encode(), SOURCE)
    world.clock.run_for(1)
    assert not world.network.trace
    assert dict(world.layer.dropped) == {why: 1}
