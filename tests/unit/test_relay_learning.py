"""Whose media a flow takes, by either packet loop: the signalled address, its host, other hosts, and back."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from siprec import sdp
from siprec.relay.learning import ALL_PAYLOADS, Expected, Latching, behind_nat, expected
from siprec.relay.native import NativeFlow, packet_loop
from siprec.relay.rtp_stream import Flow, Role

PHONE = ("192.0.2.1", 4000)
REBOUND = ("192.0.2.1", 61000)
GATEWAY = ("198.51.100.7", 7000)
STRANGER = ("203.0.113.66", 5555)
PCMU = Expected(payloads=1)

Make = Callable[..., "Party"]


class Party:
    """A flow, and packets that reach it at times of ours."""

    def __init__(self, flow: Flow, moves: list[tuple[Any, Any]]) -> None:
        self.flow = flow
        self._moves = moves
        self.signal(PHONE)
        flow.expect(PCMU)

    def signal(self, address: Any, now: float = 0.0, *, held: bool = False) -> None:
        self.flow.signal(address, held=held, now=now)

    def hear(
        self, source: Any, now: float, seq: int = 0, *, ssrc: int = 7, payload: int = 0, timestamp: int = 0
    ) -> bool:
        """One RTP packet, as the packet loop takes it."""
        flow = self.flow
        packet = struct.pack("!BBHII", 0x80, payload, seq & 0xFFFF, timestamp & 0xFFFFFFFF, ssrc) + bytes(20)
        if source != flow.source and not flow.admit(source, now, packet):
            return False
        if now - flow.last > 0.2:
            flow.resumed(seq, ssrc, timestamp)
        flow.packets += 1
        flow.last = now
        flow.timestamp = timestamp
        if seq == flow.next_seq and ssrc == flow.ssrc:
            flow.next_seq = (seq + 1) & 0xFFFF
        else:
            flow.resequence(seq, ssrc)
        return True

    def run(self, source: Any, start: float, count: int, first: int = 0, step: float = 0.02, **more: Any) -> list[bool]:
        """`count` packets in a row; which were taken."""
        return [
            self.hear(source, start + step * n, first + n, timestamp=160 * (first + n), **more) for n in range(count)
        ]

    @property
    def moves(self) -> list[tuple[Any, Any]]:
        if isinstance(self.flow, NativeFlow):
            self.flow.look()
        return self._moves


@pytest.fixture(params=["native", "python"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    if request.param == "native":
        pytest.importorskip("siprec.relay._native", reason="the native packet loop was not built (no C compiler)")
    loop = asyncio.new_event_loop()
    packets = packet_loop(loop, lambda: 0.0, request.param)
    socks: list[socket.socket] = []
    moves: dict[int, list[tuple[Any, Any]]] = {}
    packets.moved = lambda flow, before, now: moves[id(flow)].append((before, now))

    def party(latching: Latching | None = None, role: Role = "rtp") -> Party:
        socks.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))
        flow = packets.flow(socks[-1], latching or Latching(), 0, role)
        return Party(flow, moves.setdefault(id(flow), []))

    yield party
    for sock in socks:
        packets.remove(sock)
        sock.close()
    packets.close()
    loop.close()


def test_the_signalled_address_is_right_at_once_and_strangers_are_counted(make: Make) -> None:
    party = make()
    assert party.hear(PHONE, 1.0)
    assert not party.hear(STRANGER, 1.1)
    assert party.flow.remote == PHONE
    assert party.flow.dropped == {"stranger": 1}
    assert party.moves == []


def test_another_port_of_the_signalled_host_takes_over_with_the_third_packet(make: Make) -> None:
    party = make()
    assert party.run(PHONE, 1.0, 50).count(True) == 50
    assert party.run(REBOUND, 2.0, 5, 50) == [False, False, True, True, True]
    assert party.flow.remote == REBOUND
    assert party.moves == []  # the same host
    first = make()
    assert first.run(REBOUND, 0.1, 4) == [False, False, True, True]
    slow = make()
    assert slow.run(REBOUND, 0.1, 4, step=0.12) == [False, True, True, True]  # no more than 0.1 s is waited


def test_two_that_talk_at_once_do_not_take_each_others_place(make: Make) -> None:
    party = make()
    for n in range(200):
        assert party.hear(PHONE, 1 + n * 0.02, n)
        assert not party.hear(REBOUND, 1.01 + n * 0.02, n, ssrc=9)
        assert not party.hear(STRANGER, 1.01 + n * 0.02, n, ssrc=10)
    assert party.flow.remote == PHONE


@pytest.mark.parametrize("start", [1.0, 5.0])
def test_another_host_takes_over_after_a_second_of_silence_and_ten_packets(make: Make, start: float) -> None:
    party = make()
    party.run(PHONE, start - 1, 50)  # until start - 0.02
    taken = party.run(GATEWAY, start, 60, 900, ssrc=77)
    assert taken.index(True) == 49  # 1 s after the last one
    assert all(taken[49:])
    assert party.flow.remote == GATEWAY
    assert party.moves == [(PHONE, GATEWAY)]
    later = make()
    later.run(PHONE, start - 1, 50)
    assert later.run(GATEWAY, start + 9, 12) == [False] * 9 + [True] * 3


def test_another_host_takes_over_at_first_when_the_signalled_one_says_nothing(make: Make) -> None:
    party = make()
    party.signal(("192.0.2.77", 4000), 10.0)
    taken = party.run(GATEWAY, 10.1, 60)
    assert taken.index(True) == 45
    assert party.moves == [(("192.0.2.77", 4000), GATEWAY)]


@pytest.mark.parametrize("who", ["signalled", "old"])
def test_who_spoke_before_wins_when_it_speaks_again(make: Make, who: str) -> None:
    party = make()
    before = PHONE
    if who == "old":
        before = ("192.0.2.1", 4444)
        party.run(before, 0.1, 5)
    party.run(before, 1.0, 10)
    party.run(GATEWAY, 3.0, 20, ssrc=8)
    assert party.flow.remote == GATEWAY
    assert party.hear(before, 3.4, 11)
    assert party.flow.remote == before
    assert party.run(GATEWAY, 3.41, 20, 20, ssrc=8).count(True) == 0
    assert party.hear(before, 3.9, 12)
    assert party.run(GATEWAY, 3.91, 20, 40, ssrc=8).count(True) == 0  # who came in between is no old source
    assert party.moves == [(before, GATEWAY), (GATEWAY, before)]


def test_the_signalled_host_wins_from_another_port_over_one_that_goes_on_talking(make: Make) -> None:
    party = make()
    party.run(PHONE, 1.0, 10)
    party.run(GATEWAY, 3.0, 20, ssrc=8)
    for n in range(3):
        assert party.hear(GATEWAY, 3.5 + n * 0.02, 20 + n, ssrc=8)
        assert party.hear(REBOUND, 3.51 + n * 0.02, 10 + n) == (n == 2)
    assert party.flow.remote == REBOUND
    assert not party.hear(GATEWAY, 3.6, 30, ssrc=8)  # it only stood in
    assert party.flow.remote == REBOUND


@pytest.mark.parametrize(
    "bad",
    [
        {"payload": 8},
        {"seqs": [n * 100 for n in range(30)]},
        {"seqs": [5] * 30},
        {"seqs": [30 - n for n in range(30)]},
        {"ssrcs": list(range(30))},
        {"step": 0.6},
    ],
    ids=["payload type", "jumps", "doubled", "backwards", "SSRC", "rare"],
)
@pytest.mark.parametrize("source", [REBOUND, GATEWAY])
def test_what_is_not_a_stream_takes_nobodys_place(make: Make, source: Any, bad: dict[str, Any]) -> None:
    party = make()
    party.run(PHONE, 0.0, 5)
    seqs, ssrcs = bad.get("seqs", list(range(30))), bad.get("ssrcs", [7] * 30)
    for n in range(30):
        now = 5 + n * bad.get("step", 0.02)
        assert not party.hear(source, now, seqs[n], ssrc=ssrcs[n], payload=bad.get("payload", 0))


def test_a_doubled_a_late_and_a_lost_packet_do_not_break_the_row(make: Make) -> None:
    party = make()
    party.run(PHONE, 0.0, 5)
    seqs = [65533, 65533, 65535, 65534, 0, 1, 2, 3, 4, 5, 6, 7]  # one is lost by then: ten are needed
    taken = [party.hear(GATEWAY, 5 + n * 0.02, seq) for n, seq in enumerate(seqs)]
    assert taken == [False] * 11 + [True]


def test_nothing_is_agreed_on_before_an_answer_so_nobody_takes_over(make: Make) -> None:
    party = make()
    party.flow.expect(Expected())
    assert party.run(GATEWAY, 5.0, 100).count(True) == 0
    assert party.run(REBOUND, 9.0, 100).count(True) == 0
    assert party.hear(PHONE, 12.0)


@pytest.mark.parametrize("how", ["agreed", "seen"])
def test_with_pauses_in_use_silence_means_three_seconds(make: Make, how: str) -> None:
    party = make()
    party.run(PHONE, 0.0, 50)
    if how == "agreed":
        party.flow.expect(Expected(payloads=1, pauses=True))
    last = 0.98
    if how == "seen":
        assert party.hear(PHONE, 2.0, 50, timestamp=160 * 100)  # silence that the sender's clock counted
        last = 2.0
    assert party.run(GATEWAY, last + 0.5, 100).count(True) == 0
    taken = party.run(GATEWAY, last + 2.6, 100, 100)
    assert taken.index(True) == 20


def test_packets_that_the_network_held_up_are_no_pause(make: Make) -> None:
    party = make()
    party.run(PHONE, 0.0, 50)
    assert party.hear(PHONE, 2.0, 50, timestamp=160 * 50)
    assert party.run(GATEWAY, 3.1, 20).count(True) > 0


def test_relearn_says_how_long_and_whether_at_all(make: Make) -> None:
    never = make(Latching(relearn=0))
    never.run(PHONE, 0.0, 5)
    assert never.run(GATEWAY, 60.0, 50).count(True) == 0
    long = make(Latching(relearn=8.0))
    long.run(PHONE, 0.0, 5)
    assert long.run(GATEWAY, 7.0, 20).count(True) == 0
    assert long.run(GATEWAY, 8.2, 20, 20).count(True) > 0


def test_learn_signalled_and_learn_host(make: Make) -> None:
    strict = make(Latching(learn="signalled"))
    strict.flow.expect(Expected(payloads=1, nat=True))
    assert strict.run(REBOUND, 5.0, 50).count(True) == 0
    assert strict.run(GATEWAY, 9.0, 50).count(True) == 0
    assert strict.hear(PHONE, 10.0)
    assert strict.run(REBOUND, 50.0, 50).count(True) == 0
    host = make(Latching(learn="host"))
    host.flow.expect(Expected(payloads=1, nat=True))
    assert host.run(GATEWAY, 5.0, 50).count(True) == 0
    assert host.run(REBOUND, 9.0, 5).count(True) == 3
    assert host.run(GATEWAY, 20.0, 50).count(True) == 0


def test_behind_nat_the_first_source_is_taken_and_is_no_change_of_host(make: Make) -> None:
    party = make()
    party.signal(("10.0.0.5", 4000), 0.5)
    party.flow.expect(Expected(payloads=1, nat=True))
    assert party.hear(GATEWAY, 1.0)
    assert not party.hear(STRANGER, 1.02)
    assert party.run((GATEWAY[0], 7777), 1.04, 4) == [False, False, True, True]  # the NAT forgot the port
    assert party.moves == []
    unknown = make()
    unknown.signal(None, 0.5)  # no description yet, or a name in it
    assert unknown.hear(GATEWAY, 1.0)


def test_a_new_address_in_a_description_starts_afresh_and_the_same_one_does_not(make: Make) -> None:
    party = make(Latching(learn="host"))
    assert party.hear(PHONE, 1.0)
    party.signal(PHONE, 1.1)
    assert not party.hear(STRANGER, 1.1)
    party.signal(("192.0.2.99", 7000), 1.2)
    assert party.flow.remote == ("192.0.2.99", 7000)
    assert not party.hear(PHONE, 1.3)
    assert party.hear(("192.0.2.99", 7000), 1.3)


@pytest.mark.parametrize(("source", "taken"), [(REBOUND, 2), (GATEWAY, 9)])
def test_srtp_takes_over_only_when_it_is_authentic(make: Make, source: Any, taken: int) -> None:
    asked: list[bytes] = []
    good = False

    def authentic(packet: bytes) -> bool:
        asked.append(packet)
        return good

    party = make()
    party.run(PHONE, 0.0, 5)
    party.flow.expect(Expected(payloads=1, secure=True), authentic)
    assert party.run(source, 5.0, 40).count(True) == 0
    assert len(asked) == 1  # each costs a decryption: no more than one a second
    good = True
    assert party.run(source, 8.0, 15, 100) == [False] * taken + [True] * (15 - taken)
    assert len(asked) == 2
    assert asked[-1][2:4] == (100 + taken).to_bytes(2)
    nat = make()
    nat.signal(("10.0.0.5", 4000), 0.0)
    good = False
    nat.flow.expect(Expected(payloads=1, nat=True, secure=True), authentic)
    assert not nat.hear(STRANGER, 1.0)
    good = True
    assert nat.hear(GATEWAY, 2.1)
    assert nat.flow.remote == GATEWAY


def test_a_stream_that_is_not_rtp_moves_by_the_same_counts(make: Make) -> None:
    party = make(role="opaque")
    party.flow.expect(Expected(payloads=ALL_PAYLOADS))

    def datagrams(source: Any, start: float, count: int) -> list[bool]:
        found = []
        for n in range(count):
            taken = source == party.flow.source or party.flow.admit(source, start + n * 0.02, b"\x00")
            party.flow.packets += taken
            party.flow.last = start + n * 0.02 if taken else party.flow.last
            found.append(taken)
        return found

    assert datagrams(PHONE, 1.0, 2) == [True, True]
    assert datagrams(REBOUND, 2.0, 4) == [False, False, True, True]
    assert datagrams(GATEWAY, 5.0, 12) == [False] * 9 + [True] * 3
    assert party.moves == [(REBOUND, GATEWAY)]


def test_what_is_not_rtp_is_answered_to_until_rtp_shows_who_it_is(make: Make) -> None:
    party = make()
    party.signal(("10.0.0.5", 4000), 0.0)
    party.flow.expect(Expected(payloads=1, nat=True))
    assert party.flow.admit_other(STRANGER, 1.0, rtcp=False)
    assert party.flow.remote == STRANGER
    assert party.flow.admit_other(GATEWAY, 1.1, rtcp=False)  # a handshake by DTLS comes before any RTP
    assert party.flow.remote == GATEWAY
    assert party.hear(GATEWAY, 1.2)
    assert not party.flow.admit_other(STRANGER, 1.3, rtcp=False)
    assert party.flow.admit_other(GATEWAY, 1.3, rtcp=False)
    signalled = make()
    assert not signalled.flow.admit_other(STRANGER, 1.0, rtcp=False)
    assert signalled.flow.admit_other(PHONE, 1.0, rtcp=False)
    assert signalled.flow.remote == PHONE


def test_rtcp_comes_from_and_goes_to_hosts_that_media_come_from_or_that_are_signalled(make: Make) -> None:
    def pair() -> tuple[Flow, Flow, Flow]:
        media, control, other = make(), make(role="control"), make(role="control")
        control.flow.attend(media.flow)
        other.flow.pair(control.flow)
        control.signal((PHONE[0], 4001), 0.0)
        return media.flow, control.flow, other.flow

    media, control, other = pair()
    assert other.control_target is None  # nothing came from there yet: it may be anybody's address
    assert not control.admit_control(STRANGER, 1.0)
    assert control.dropped == {"stranger": 1}
    media.admit(PHONE, 1.0, bytes(12))
    assert other.control_target == (PHONE[0], 4001)
    assert control.admit_control((PHONE[0], 9001), 1.1)
    assert other.control_target == (PHONE[0], 9001)
    media, control, other = pair()
    media.signal(GATEWAY, now=1.0)
    media.admit(GATEWAY, 1.0, bytes(12))
    assert other.control_target is None  # a third party's address in a=rtcp
    assert control.admit_control((GATEWAY[0], 7001), 1.2)
    assert other.control_target == (GATEWAY[0], 7001)
    control.signal((PHONE[0], 4001), held=True, now=2.0)
    assert other.control_target is None
    media, control, other = pair()
    assert control.admit_control((PHONE[0], 4001), 0.5)  # who sends no RTP may send reports
    assert other.control_target == (PHONE[0], 4001)


def described(line: str, *attributes: str) -> sdp.MediaDescription:
    text = "\r\n".join(["v=0", "o=- 1 1 IN IP4 192.0.2.1", "s=-", "c=IN IP4 192.0.2.1", "t=0 0", line, *attributes, ""])
    return sdp.parse(text.encode()).media[0]


def bits(*numbers: int) -> int:
    return sum(1 << number for number in numbers)


@pytest.mark.parametrize(
    ("own", "peer", "found"),
    [
        (["0 8 101", "a=rtpmap:101 telephone-event/8000"], ["0 101", "a=rtpmap:101 telephone-event/8000"], (0, 101)),
        (["0 97", "a=rtpmap:97 telephone-event/8000"], ["0 101", "a=rtpmap:101 telephone-event/8000"], (0, 97, 101)),
        (["0 8", "a=recvonly"], ["0"], ()),
        (["0"], ["0", "a=sendonly"], ()),
        (["0", "a=inactive"], ["0", "a=inactive"], ()),
        (["0 18"], ["8 0"], (0, 8)),
    ],
)
def test_payload_types_that_a_party_may_send(own: list[str], peer: list[str], found: tuple[int, ...]) -> None:
    mine, theirs = (described("m=audio 4000 RTP/AVP " + each[0], *each[1:]) for each in (own, peer))
    assert expected(mine, theirs)[0] == bits(*found)


@pytest.mark.parametrize(
    ("lines", "pauses"),
    [
        (["0 101", "a=rtpmap:101 telephone-event/8000"], False),
        (["0 13"], True),
        (["0 98", "a=rtpmap:98 CN/16000"], True),
        (["18"], True),
        (["18", "a=fmtp:18 annexb=no"], False),
        (["96", "a=rtpmap:96 opus/48000/2"], False),
        (["96", "a=rtpmap:96 opus/48000/2", "a=fmtp:96 useinbandfec=1; usedtx=1"], True),
        (["96", "a=rtpmap:96 AMR-WB/16000"], True),
        (["0", "a=silenceSupp:on - - - -"], True),
        (["0", "a=silenceSupp:off - - - -"], False),
    ],
)
def test_where_comfort_noise_or_dtx_may_be_in_use(lines: list[str], pauses: bool) -> None:
    media = described("m=audio 4000 RTP/AVP " + lines[0], *lines[1:])
    assert expected(media, media)[1] is pauses


@pytest.mark.parametrize(
    ("host", "received", "own", "nat"),
    [
        ("192.0.2.1", "198.51.100.1", "203.0.113.1", False),  # a media gateway beside its call agent
        ("10.0.0.5", "198.51.100.1", "203.0.113.1", True),
        ("10.0.0.5", "10.0.0.5", "10.0.0.1", False),
        ("10.0.0.5", "10.0.0.9", "10.0.0.1", True),
        ("10.0.0.5", "", "203.0.113.1", True),
        ("10.0.0.5", "", "10.9.9.9", False),
        ("100.64.3.4", "", "203.0.113.1", True),
        ("127.0.1.5", "", "127.0.0.1", False),
        ("fd00::5", "2001:db8::1", "2001:db8::9", True),
        ("fd00:0::5", "fd00::5", "2001:db8::9", False),
        ("phone.example.com", "198.51.100.1", "203.0.113.1", False),
    ],
)
def test_nat_as_signalling_shows_it(host: str, received: str, own: str, nat: bool) -> None:
    assert behind_nat(host, received, own) is nat
