"""RTP parsing, ordering, counting; RTCP; on bytes."""

from __future__ import annotations

import itertools
import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siprec.recorder.numbering import Source
from siprec.recorder.receiver import MAX_SOURCES, Receiver
from siprec.recorder.receiver_reports import Reporter
from siprec.rtp import rtcp
from siprec.rtp.packets import build, parse


def test_csrc_extension_and_padding_are_not_payload() -> None:
    head = struct.pack("!BBHII", 0x80 | 0x20 | 0x10 | 2, 0x80 | 8, 7, 9, 11)
    data = head + struct.pack("!II", 21, 22) + b"\xbe\xde\x00\x01ABCD" + b"payload" + b"\0\0\x03"
    packet = parse(data, 1.5)
    assert packet is not None
    assert packet.payload == b"payload"
    assert packet.csrc == (21, 22)
    assert packet.marker
    assert (packet.payload_type, packet.sequence, packet.timestamp, packet.ssrc) == (8, 7, 9, 11)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80" * 11,
        b"\x40" + b"\0" * 20,  # version 1
        b"\x8f" + b"\0" * 20,  # 15 CSRCs announced
        b"\x90" + b"\0" * 12,  # extension announced, header cut off
        b"\x90" + b"\0" * 11 + b"\0\0\xff\xff",  # extension longer than the packet
        b"\xa0" + b"\0" * 11 + b"\x05",  # more padding than packet
        b"\xa0" + b"\0" * 12,  # padding of length 0
    ],
)
def test_broken_packets_are_no_packets(data: bytes) -> None:
    assert parse(data, 1.0) is None


@settings(deadline=None)
@given(st.lists(st.binary(max_size=64) | st.binary(max_size=40).map(lambda b: b"\x80\x00" + b), max_size=60))
def test_nothing_received_ever_raises(datagrams: list[bytes]) -> None:
    receiver = Receiver()
    for number, data in enumerate(datagrams):
        packet = parse(data, number * 0.01)
        if packet is not None and packet.payload_type < 96:
            receiver.accept(packet, 8000)
        rtcp.parse(data)
    handed = sum(len(items) for _, items in receiver.take(float("inf")))
    total = receiver.total()
    assert handed <= total.received
    assert len(receiver.sources) <= MAX_SOURCES
    assert total.lost >= 0


def order(sequences: list[int], first: int = 0) -> tuple[Source, list[int]]:
    source = Source(1, 8000)
    for number, sequence in enumerate(sequences):
        packet = parse(build(0, sequence, sequence * 160, 1, b"x"), number * 0.02)
        assert packet is not None
        source.receive(packet)
    return source, [item.packet.sequence for item in source.take(float("inf"))]


def test_packets_come_out_in_order_over_the_wrap() -> None:
    source, got = order([65534, 0, 65535, 2, 1, 1, 65534])
    assert got == [65534, 65535, 0, 1, 2]
    assert source.counters.duplicate == 2
    assert source.counters.reordered == 2
    assert source.counters.expected == 5
    assert source.counters.lost == 0


def test_a_packet_from_before_the_first_one_still_counts() -> None:
    source, got = order([10, 9, 11])
    assert got == [9, 10, 11]
    assert source.counters.expected == 3


def test_timestamps_are_extended_over_their_wrap() -> None:
    source = Source(1, 8000)
    for number in range(5):
        packet = parse(build(0, number, 0xFFFFFF00 + number * 160, 1, b"x"), number * 0.02)
        assert packet is not None
        source.receive(packet)
    stamps = [item.timestamp for item in source.take(1.0)]
    assert [b - a for a, b in itertools.pairwise(stamps)] == [160] * 4


def test_what_comes_after_its_turn_is_late_and_not_handed_on() -> None:
    source = Source(1, 8000)
    for sequence in (1, 2, 4, 5):
        packet = parse(build(0, sequence, sequence * 160, 1, b"x"), 1.0)
        assert packet is not None
        source.receive(packet)
    assert len(source.take(2.0)) == 4
    for sequence in (3, 4):
        packet = parse(build(0, sequence, sequence * 160, 1, b"x"), 3.0)
        assert packet is not None
        source.receive(packet)
    assert source.take(9.0) == []
    assert (source.counters.late, source.counters.duplicate, source.counters.lost) == (1, 1, 1)


def test_a_restarted_numbering_is_believed_after_two_packets() -> None:
    source, got = order([100, 101, 30000, 102, 40000, 40001, 40002])
    assert got == [100, 101, 102, 40000, 40001, 40002]
    assert source.counters.probation == 1


def test_a_flood_of_ssrcs_neither_costs_memory_nor_the_real_stream() -> None:
    receiver = Receiver()
    rng = random.Random(5)
    for number in range(3000):
        invented = build(0, rng.randrange(65536), rng.getrandbits(32), rng.getrandbits(32), b"x")
        for data in (build(0, number, number * 160, 42, b"real"), invented):
            packet = parse(data, number * 0.02)
            assert packet is not None
            receiver.accept(packet, 8000)
        if number % 25 == 0:
            receiver.take(number * 0.02 - 1)
    assert len(receiver.sources) <= MAX_SOURCES
    assert receiver.sources[42].counters.received == 3000
    assert all(source.ssrc == 42 for source, _ in receiver.take(float("inf")))
    assert receiver.total().received == 3000
    assert receiver.total().probation > 2900


def test_jitter_is_that_of_rfc_3550() -> None:
    source = Source(1, 8000)
    rng = random.Random(3)
    expected, last = 0.0, None
    for number in range(200):
        arrival = number * 0.02 + rng.random() * 0.01
        packet = parse(build(0, number, number * 160, 1, b"x"), arrival)
        assert packet is not None
        source.receive(packet)
        transit = arrival - number * 0.02
        if last is not None:
            expected += (abs(transit - last) - expected) / 16
        last = transit
    assert source.counters.jitter == pytest.approx(expected, rel=1e-6)


# ---------------------------------------------------------------------------------------------------------------- RTCP


def sender_report(ssrc: int, ntp: float, timestamp: int) -> bytes:
    seconds = ntp + rtcp.NTP_EPOCH
    whole = int(seconds)
    return struct.pack("!BBHIIIIII", 0x80, 200, 6, ssrc, whole, int((seconds - whole) * 2**32), timestamp, 10, 1600)


def test_a_compound_packet_is_read() -> None:
    sdes = struct.pack("!BBHI", 0x81, 202, 3, 5) + b"\x01\x05abcde\0"
    bye = struct.pack("!BBHI", 0x81, 203, 1, 5)
    got = rtcp.parse(sender_report(5, 1000.25, 77) + sdes + bye)
    assert not got.malformed
    assert got.sender_reports[0].ntp == pytest.approx(1000.25, abs=1e-6)
    assert got.sender_reports[0].rtp_timestamp == 77
    assert got.cnames == {5: "abcde"}
    assert got.byes == [5]


@settings(deadline=None)
@given(st.binary(max_size=80))
def test_hostile_rtcp_never_raises(data: bytes) -> None:
    rtcp.parse(data)
    rtcp.parse(struct.pack("!BBH", 0x82, 202, max(len(data) // 4, 0)) + data)


def test_our_report_is_a_receiver_report_with_loss_jitter_and_delay() -> None:
    source, _ = order([65534, 65535, 0, 3])
    reporter = Reporter(100.0, rng=random.Random(1))
    reporter.note_sender_report(rtcp.parse(sender_report(1, 1000.0, 0)).sender_reports[0], 101.0)
    data = reporter.report(103.0, [source])
    first, kind, words, ssrc = struct.unpack_from("!BBHI", data)
    assert (first, kind, words, ssrc) == (0x81, 201, 7, reporter.ssrc)
    about, lost, highest, _, lsr, dlsr = struct.unpack_from("!6I", data, 8)
    assert about == 1
    assert lost >> 24 == 2 * 256 // 6
    assert lost & 0xFFFFFF == 2
    assert highest == 0x10003
    assert lsr == (1000 + rtcp.NTP_EPOCH & 0xFFFF) << 16
    assert dlsr == 2 * 65536
    assert rtcp.parse(data).cnames == {reporter.ssrc: reporter.cname.decode()}
    assert len(data) % 4 == 0
    assert rtcp.parse(reporter.bye(104.0, [source])).byes == [reporter.ssrc]


def test_reports_come_every_five_seconds_or_so_and_never_together() -> None:
    reporter = Reporter(0.0, rng=random.Random(2))
    assert 1.0 < reporter.due < 3.1
    gaps = []
    for _ in range(200):
        now = reporter.due
        reporter.report(now, [])
        gaps.append(reporter.due - now)
    assert min(gaps) > 2.0
    assert max(gaps) < 6.2
    assert 3.9 < sum(gaps) / len(gaps) < 4.3


def test_cnames_are_random_and_say_nothing() -> None:
    names = {rtcp.make_cname() for _ in range(100)}
    assert len(names) == 100
    assert {len(name) for name in names} == {16}
