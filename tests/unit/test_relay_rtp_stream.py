from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siprec.relay.learning import Latching
from siprec.relay.native import packet_loop
from siprec.relay.ports import Interface, NoPorts, PortPool, parse_interface, socket_address
from siprec.relay.rtp_stream import MAX_DROPOUT, Flow
from siprec.rtp import rtcp

PHONE = ("192.0.2.1", 4000)


Make = Callable[..., Flow]


@pytest.fixture(params=["native", "python"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes flows of either packet loop."""
    if request.param == "native":
        pytest.importorskip("siprec.relay._native", reason="the native packet loop was not built (no C compiler)")
    loop = asyncio.new_event_loop()
    packets = packet_loop(loop, lambda: 0.0, request.param)
    socks: list[socket.socket] = []

    def flow(latching: Latching | None = None) -> Flow:
        socks.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))
        return packets.flow(socks[-1], latching or Latching())

    yield flow
    for sock in socks:
        packets.remove(sock)
        sock.close()
    packets.close()
    loop.close()


def admitted(flow: Flow, source: tuple[str, int], now: float) -> bool:
    """As the packet loop does it."""
    if source != flow.source and not flow.admit(source, now, bytes(12)):
        return False
    flow.last = now
    return True


def test_the_zero_address_stops_sending_and_latching_does_not_revive_it(make: Make) -> None:
    flow, peer = make(), make()
    flow.pair(peer)
    peer.pair(flow)
    flow.signal(PHONE)
    assert peer.target == PHONE
    flow.signal(None, held=True)
    assert peer.target is None
    assert admitted(flow, PHONE, 1.0)  # music on hold may still come
    assert peer.target is None
    flow.signal(PHONE)
    assert peer.target == PHONE


def test_blocking_takes_the_target_away_and_back(make: Make) -> None:
    flow, peer = make(), make()
    flow.pair(peer)
    peer.signal(PHONE)
    flow.retarget()
    flow.block(True)
    assert flow.target is None
    flow.block(False)
    assert flow.target == PHONE


def _sequence(flow: Flow, numbers: list[int], ssrc: int = 1) -> None:
    for seq in numbers:
        if seq == flow.next_seq and ssrc == flow.ssrc:
            flow.next_seq = (seq + 1) & 0xFFFF
        else:
            flow.resequence(seq, ssrc)


@pytest.mark.parametrize(
    ("numbers", "lost"),
    [
        ([1, 2, 3, 4], 0),
        ([65534, 65535, 0, 1], 0),
        ([1, 2, 5, 6], 2),
        ([65535, 2], 2),
        ([1, 3, 2, 4], 0),
        ([1, 2, 1, 3], 0),
        ([1, 2 + MAX_DROPOUT + 10, 3 + MAX_DROPOUT + 10], 0),
    ],
)
def test_loss_by_sequence_number(make: Make, numbers: list[int], lost: int) -> None:
    flow = make()
    _sequence(flow, numbers)
    assert flow.lost == lost


def test_a_new_ssrc_is_no_loss_and_is_remembered(make: Make) -> None:
    flow = make()
    _sequence(flow, [10, 11], 1)
    _sequence(flow, [5000, 5001], 2)
    assert flow.lost == 0
    assert flow.ssrcs == [1, 2]
    for ssrc in range(100):
        _sequence(flow, [1], ssrc)
    assert len(flow.ssrcs) == 16


def test_reports_carry_what_rfc_3550_says() -> None:
    cname = rtcp.make_cname()
    packet = rtcp.sender_report(0xDEADBEEF, 1_700_000_000.5, 160_000, 7, 1120, cname)
    assert len(packet) % 4 == 0
    assert packet[:4] == bytes((0x80, 200, 0, 6))
    assert packet[4:8] == b"\xde\xad\xbe\xef"
    assert int.from_bytes(packet[8:12]) == 1_700_000_000 + 2_208_988_800
    assert int.from_bytes(packet[12:16]) == 1 << 31
    assert [int.from_bytes(packet[at : at + 4]) for at in (16, 20, 24)] == [160_000, 7, 1120]
    assert packet[28:30] == bytes((0x81, 202))
    assert packet[36:38] == bytes((1, 16))
    assert packet[38:54] == cname
    assert packet[54] == 0  # the chunk ends with a null octet
    goodbye = rtcp.goodbye(1, cname)
    assert goodbye[-8:] == bytes((0x81, 203, 0, 1, 0, 0, 0, 1))
    assert rtcp.report_blocks(packet) == []
    assert rtcp.report_blocks(goodbye) == []


def test_receiver_reports_are_read() -> None:
    block = (0xAB).to_bytes(4) + bytes((64,)) + (-3 & 0xFFFFFF).to_bytes(3) + bytes(4) + (99).to_bytes(4) + bytes(8)
    packet = bytes((0x81, 201, 0, 7)) + bytes(4) + block
    assert rtcp.report_blocks(packet) == [rtcp.ReportBlock(0xAB, 64, -3, 0, 99)]
    assert rtcp.report_blocks(packet[:-4]) is None
    assert rtcp.report_blocks(bytes((0x82, 201, 0, 7)) + packet[4:]) is None


@given(st.binary(max_size=120))
def test_any_octets_are_rtcp_or_not(data: bytes) -> None:
    rtcp.report_blocks(data)
    rtcp.report_blocks(b"\x81\xc9" + data)


def test_interfaces_as_written() -> None:
    assert parse_interface("192.0.2.1") == Interface("192.0.2.1")
    assert parse_interface("pub/10.0.0.1!198.51.100.1") == Interface("10.0.0.1", "198.51.100.1", "pub")
    assert parse_interface("::1").family == "IP6"
    for bad in ("", "x", "a/b", "1.2.3.4!x"):
        with pytest.raises(ValueError):
            parse_interface(bad)


@pytest.mark.parametrize(
    ("family", "host", "port", "expected"),
    [
        ("IP4", "192.0.2.1", 5, ("192.0.2.1", 5)),
        ("IP6", "2001:DB8::0:1", 5, ("2001:db8::1", 5, 0, 0)),
        ("IP4", "2001:db8::1", 5, None),
        ("IP4", "0.0.0.0", 5, None),
        ("IP4", "phone.example.com", 5, None),
        ("IP4", "192.0.2.1", 0, None),
        ("IP4", "192.0.2.1", 65536, None),
    ],
)
def test_addresses_of_a_socket(family: str, host: str, port: int, expected: object) -> None:
    assert socket_address(family, host, port) == expected


def test_pairs_are_even_exclusive_bounded_and_come_back() -> None:
    interface = Interface("127.0.0.1")
    pool = PortPool([interface], 46001, 46009)
    assert pool.capacity == 4
    pairs = []
    while True:
        try:
            pairs.append(pool.allocate(interface))
        except NoPorts:
            break
    assert pairs
    assert {pair.port % 2 for pair in pairs} == {0}
    assert len({pair.port for pair in pairs}) == len(pairs) == pool.in_use
    for pair in pairs:
        assert pair.rtcp.getsockname()[1] == pair.port + 1
        pair.close()
    assert pool.in_use == 0
    pool.allocate(interface).close()


def test_a_range_without_a_pair_is_refused() -> None:
    for low, high in ((5, 4), (40001, 40002), (100, 200), (65000, 70000)):
        with pytest.raises(ValueError):
            PortPool([Interface("127.0.0.1")], low, high)
    with pytest.raises(ValueError, match="advertise"):
        PortPool([Interface("0.0.0.0")], 40000, 40010)
    with pytest.raises(NoPorts):
        PortPool([Interface("192.0.2.1")], 40000, 40010).allocate(Interface("192.0.2.1"))
