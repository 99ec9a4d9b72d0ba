"""Whose media a stream takes, to whom its reports go, and who gets its ports next."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from siprec.audio.codecs import codec
from siprec.audio.g711 import ulaw_decode, ulaw_encode
from siprec.audio.melody import callee_melody, caller_melody, matches, to_int16
from siprec.audio.packets import packets
from siprec.recorder.errors import RecorderFull
from siprec.recorder.latch import Heard, Latch
from siprec.recorder.ports import PortPool
from siprec.recorder.recording_result import RecordingResult
from siprec.recorder.settings import RecorderSettings
from siprec.rtp import packets as rtp
from siprec.rtp import rtcp, srtp
from siprec.sdp import crypto as sdp_crypto
from tests.parallel import share
from tests.unit.recorder.recorder_harness import Bench, VirtualClock, read

PCMU = codec("PCMU", 8000)
RATE = 8000
Address = tuple[str, int]
ALONE, PORTS = "127.0.0.99", 46000 + share(100, 5)
HOME, REBOUND, OTHER = ("192.0.2.1", 7000), ("192.0.2.1", 7500), ("192.0.2.99", 7000)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(address: str = "127.0.0.1", **settings: Any) -> Bench:
        made.append(Bench(tmp_path / str(len(made)), RecorderSettings(**settings), address))
        return made[-1]

    yield make
    for each in made:
        each.close()


def offer(b: Bench, media: Address = HOME, sip: str = "192.0.2.1", *attributes: str, more: str = "") -> None:
    if b._session is None:
        b._session = b.recorder.session(call_id="x", from_uri="sip:src@example.com", src_address=sip)
    lines = "".join(f"a={a}\r\n" for a in attributes)
    b.session.offer(
        f"v=0\r\no=- 1 1 IN IP4 {media[0]}\r\ns=-\r\nc=IN IP4 {media[0]}\r\nt=0 0\r\n"
        f"m=audio {media[1]} RTP/AVP 0 101\r\na=rtpmap:101 telephone-event/8000\r\na=sendonly\r\na=label:1\r\n"
        f"{lines}{more}".encode()
    )


def voice(seconds: float, who: int = 1) -> list[tuple[float, bytes]]:
    melody = caller_melody if who == 1 else callee_melody
    return list(packets(to_int16(melody(seconds, RATE)), PCMU, 0, ssrc=who))


def heard(result: RecordingResult) -> Any:
    return read(result.stream_file(1))[:, 0]


def is_all(result: RecordingResult, seconds: float) -> None:
    assert np.array_equal(heard(result), ulaw_decode(ulaw_encode(to_int16(caller_melody(seconds, RATE)))))


def test_another_port_of_the_host_takes_over_without_losing_a_packet(bench: Callable[..., Bench]) -> None:
    b = bench()
    offer(b)
    sent = voice(4)
    b.inject(sent[:100], address=HOME)
    b.inject([(at - 1.98, d) for at, d in sent[100:]], address=REBOUND)
    result = b.finish()
    is_all(result, 4)
    assert result.streams[0]["packets"]["stranger"] == 0
    assert [s["address"] for s in result.streams[0]["sources"]] == ["192.0.2.1 port 7000", "192.0.2.1 port 7500"]
    assert {"fault": "source-changed", "count": 1} in result.streams[0]["rtp_faults"]


def test_another_host_takes_over_after_a_second_and_loses_nothing(
    bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    b = bench()
    offer(b)
    sent = voice(6)
    b.inject(sent[:100], address=HOME)
    b.inject([(at - 1.98, d) for at, d in sent[100:]], address=OTHER)
    result = b.finish()
    is_all(result, 6)
    assert b.recorder.counters["source_changes"] == 1
    assert result.streams[0]["source"] == "192.0.2.99 port 7000"
    assert "media now come from 192.0.2.99 port 7000 instead of 192.0.2.1 port 7000" in caplog.text


def test_with_learn_signalled_nobody_else_is_ever_taken(bench: Callable[..., Bench]) -> None:
    for learn, address, taken in (("signalled", REBOUND, 0), ("host", REBOUND, 200), ("host", OTHER, 0)):
        b = bench(learn=learn)
        offer(b)
        b.inject(voice(4), address=address)
        counters = b.finish().streams[0]["packets"]
        assert (counters["received"], counters["stranger"]) == (taken, 200 - taken)


def test_a_second_voice_is_reported_and_not_mixed_in(
    bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    for foreign in (REBOUND, OTHER):
        b = bench()
        offer(b)
        line = b.session.lines[0]
        mine, other = voice(4, 1), voice(4, 2)
        for (at, one), (_, two) in zip(mine, other, strict=True):
            b.clock.advance(5000.0 + at)
            line.rtp_datagram(one, HOME, b.clock.now())
            line.rtp_datagram(two, foreign, b.clock.now() + 0.01)
        result = b.finish()
        is_all(result, 4)
        stream = result.streams[0]
        assert stream["packets"]["stranger"] == 200
        assert stream["ssrcs"] == ["00000001"]
        assert [f["fault"] for f in stream["rtp_faults"]] == ["second-source"]
        assert b.recorder.counters["second_sources"] == 1
        assert f"a second source, {foreign[0]} port {foreign[1]}, SSRC 00000002, is not recorded" in caplog.text


def test_long_packets_leave_no_room_for_another_port(bench: Callable[..., Bench]) -> None:
    b = bench()
    offer(b)
    line = b.session.lines[0]
    mine = packets(to_int16(caller_melody(6, RATE)), PCMU, 0, ssrc=1, ptime=0.06)
    both = [(at, HOME, d) for at, d in mine] + [(at + 0.015, REBOUND, d) for at, d in voice(6, 2)]
    for at, address, data in sorted(both):
        b.clock.advance(5000.0 + at)
        line.rtp_datagram(data, address, b.clock.now())
    result = b.finish()
    assert result.streams[0]["ssrcs"] == ["00000001"]
    is_all(result, 6)


def test_the_signalled_source_wins_when_it_speaks(bench: Callable[..., Bench]) -> None:
    """A fork of a call of old goes on from another port of the same media server."""
    b = bench()
    offer(b)
    line = b.session.lines[0]
    foreign = voice(4, 2)
    for n, (at, data) in enumerate(foreign):
        b.clock.advance(5000.0 + at)
        line.rtp_datagram(data, REBOUND, b.clock.now())
        if n >= 50:
            line.rtp_datagram(voice(4, 1)[n][1], HOME, b.clock.now() + 0.01)
    result = b.finish()
    assert matches(heard(result)[RATE + 1000 :], to_int16(caller_melody(4, RATE))[RATE + 1000 :], RATE) > 0.98


def test_the_source_before_wins_when_it_speaks_again(bench: Callable[..., Bench]) -> None:
    latch = Latch()
    latch.signal(("192.0.2.1", 7000), "192.0.2.1", 0.0)
    number = iter(range(10_000))

    def send(address: Address, now: float, count: int = 1, ssrc: int = 1) -> list[int]:
        out = []
        for n in range(count):
            data = rtp.build(0, next(number), 0, ssrc, b"x")
            packet = rtp.parse(data, now + n * 0.02)
            assert packet is not None
            out.append(len(latch.receive(address, Heard(data, packet), agreed=True).heard))
        return out

    a, b_, c = ("203.0.113.1", 1), ("203.0.113.2", 1), HOME
    send(a, 0.0, 60)
    assert latch.source == a
    send(b_, 3.0, 60)
    assert latch.source == b_
    send(a, 5.0)
    assert latch.source == a
    send(b_, 5.02, 20)
    assert latch.source == a
    send(c, 5.5)
    assert latch.source == c
    send(a, 5.52, 20)
    assert latch.source == c


def test_where_silence_is_not_sent_another_host_has_to_wait_longer(bench: Callable[..., Bench]) -> None:
    for noise, expected in ((False, OTHER), (True, HOME)):
        b = bench()
        offer(b)
        line = b.session.lines[0]
        for at, data in voice(1):
            line.rtp_datagram(data, HOME, 5000.0 + at)
        if noise:
            line.rtp_datagram(rtp.build(13, 50, 8000, 1, b"\x40"), HOME, 5001.0)
        for at, data in voice(2, 2):
            line.rtp_datagram(data, OTHER, 5001.0 + at)
        assert line.source == expected
        for at, data in voice(4, 2)[100:]:
            line.rtp_datagram(data, OTHER, 5001.0 + at)
        assert line.source == OTHER


def test_packets_that_do_not_run_on_or_were_not_agreed_take_nothing_over(bench: Callable[..., Bench]) -> None:
    b = bench()
    offer(b)
    line = b.session.lines[0]
    line.rtp_datagram(voice(1)[0][1], HOME, 5000.0)
    for n in range(500):
        now = 5002.0 + n * 0.02
        line.rtp_datagram(rtp.build(0, n * 77, n * 160, 9, b"x" * 160), OTHER, now)  # numbers that do not run
        line.rtp_datagram(rtp.build(0, n, n * 160, n, b"x" * 160), OTHER, now)  # always another SSRC
        line.rtp_datagram(rtp.build(77, n, n * 160, 9, b"x" * 160), OTHER, now)  # a format that was never offered
        line.rtp_datagram(b"\x80\x00 no RTP"[: n % 12], OTHER, now)
        line.rtp_datagram(rtp.build(0, n, n * 160, 5, b"x"), ("198.51.100.1", n), now)  # always another port
    assert line.source == HOME
    assert line.latch.undecided < 8 * 400


def test_broken_packets_are_counted_as_malformed_or_as_a_strangers(bench: Callable[..., Bench]) -> None:
    b = bench()
    offer(b)
    line = b.session.lines[0]
    line.rtp_datagram(voice(1)[0][1], HOME, 5000.0)
    for cut in range(1, 12):
        line.rtp_datagram(b"\x80\x00 no RTP"[:cut], HOME, 5000.1)
        line.rtp_datagram(b"\x80\x00 no RTP"[:cut], OTHER, 5000.1)
    total = line.receiver.total()
    assert (total.malformed, total.stranger, total.received) == (11, 11, 1)


def test_behind_nat_the_first_source_is_taken(bench: Callable[..., Bench]) -> None:
    b = bench()
    offer(b, ("10.0.0.5", 7000), "8.8.8.8")
    b.inject(voice(2), address=("9.9.9.9", 12345))
    is_all(b.finish(), 2)


def test_media_that_move_by_signalling_are_taken_from_the_new_address_at_once(bench: Callable[..., Bench]) -> None:
    b = bench()
    offer(b)
    sent = voice(4)
    b.inject(sent[:100], address=HOME)
    offer(b, ("192.0.2.50", 9000), "192.0.2.1")
    moved = b.session.lines[0]
    b.inject([(at - 1.98, d) for at, d in sent[100:110]], address=("192.0.2.50", 9000))
    assert moved.source == ("192.0.2.50", 9000)
    b.inject([(at - 2.18, d) for at, d in sent[110:]], address=("192.0.2.50", 9000))
    assert b.finish().streams[0]["packets"]["received"] == 200


def test_with_srtp_only_authentic_packets_take_over(bench: Callable[..., Bench]) -> None:
    b = bench()
    key, wrong = sdp_crypto.generate(), sdp_crypto.generate()
    b._session = b.recorder.session(call_id="x", from_uri="sip:src@example.com", src_address="192.0.2.1")
    b.session.offer(
        b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n"
        b"m=audio 7000 RTP/SAVP 0\r\na=sendonly\r\na=crypto:" + key.value().encode() + b"\r\n"
    )
    sent, forged = srtp.Encryptor(key), srtp.Encryptor(wrong)
    stream = [(at, sent.rtp(d) or b"") for at, d in voice(4)]
    b.inject(stream[:50], address=HOME)
    false = [(at, forged.rtp(d) or b"") for at, d in voice(3, 2)]
    b.inject(false, address=OTHER)
    b.inject(voice(3, 2), address=REBOUND)
    assert b.session.lines[0].source == HOME
    b.inject([(at - 1.0, d) for at, d in stream[50:]], address=OTHER)
    result = b.finish()
    assert result.streams[0]["packets"]["received"] == 200
    assert result.streams[0]["packets"]["srtp_rejected"] == 300


# ------------------------------------------------------------------------------------------------------------- RTCP


def answered(sock: socket.socket) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(sock.recv(2000))
        except BlockingIOError:
            return found


@pytest.fixture
def third_party() -> Iterator[socket.socket]:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.88", 0))
    sock.setblocking(False)
    yield sock
    sock.close()


def test_no_report_goes_to_an_address_that_no_media_came_from(
    bench: Callable[..., Bench], third_party: socket.socket
) -> None:
    b = bench()
    host, port = third_party.getsockname()
    offer(b, (host, port - 1), b.address)
    b.wait(30)
    offer(b, (host, port), b.address, f"rtcp:{port} IN IP4 {host}")
    b.wait(30)
    report = struct.pack("!BBHI", 0x80, 201, 1, 7)
    third_party.sendto(report, (b.address, b.session.lines[0].pair.port + 1))
    b.poller.pump()
    b.wait(10)
    b.finish()
    assert answered(third_party) == []


def test_reports_go_to_the_host_that_media_come_from(bench: Callable[..., Bench], third_party: socket.socket) -> None:
    b = bench()
    host, port = third_party.getsockname()
    number = b.rtcp.getsockname()[1]
    # Media come from 127.0.0.1; the address for RTCP that signalling named is another party's.
    b.offer(b.audio("1").replace(f"a=rtcp:{number}", f"a=rtcp:{port} IN IP4 {host}"))
    b.play(voice(2))
    line = b.session.lines[0]
    assert line._rtcp_to() == (b.address, b.sock.getsockname()[1] + 1)
    b.rtcp.sendto(struct.pack("!BBHI", 0x80, 201, 1, 7), (b.address, b.ports[0] + 1))
    b.play(voice(12))
    assert line._rtcp_to() == b.rtcp.getsockname()
    b.finish()
    assert answered(third_party) == []
    assert len(answered(b.rtcp)) >= 2


def test_rtcp_of_a_stranger_is_not_read(bench: Callable[..., Bench], third_party: socket.socket) -> None:
    b = bench()
    b.offer(b.audio("1", "0", "rtcp-mux"))
    b.play(voice(1))
    line = b.session.lines[0]
    bye = struct.pack("!BBHI", 0x80, 201, 1, 7) + struct.pack("!BBHI", 0x81, 203, 1, 1)
    for target in (b.ports[0], b.ports[0] + 1):
        third_party.sendto(bye, (b.address, target))
    b.poller.pump()
    assert line.byes == []
    assert line.receiver.counters.stranger == 2
    assert rtcp.parse(bye).byes == [1]


# ------------------------------------------------------------------------------------------------------- quarantine


def test_a_port_is_not_handed_out_again_while_somebody_sends_to_it() -> None:
    now = [0.0]
    pool = PortPool(ALONE, PORTS, PORTS + 19, quarantine=30.0, now=lambda: now[0], limit=10)
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        pair = pool.acquire()
        noisy = pair.port
        pool.release(pair)
        assert pool.quarantined == 1
        for _ in range(12):
            now[0] += 20.0
            sender.sendto(b"\x80\x00 a voice of old", (ALONE, noisy))
            taken = [pool.acquire() for _ in range(9)]
            assert noisy not in [each.port for each in taken]
            for each in taken:
                pool.release(each)
        now[0] += 120.0
        pool._expire()
        now[0] += 31.0
        taken = [pool.acquire() for _ in range(10)]
        assert noisy in [each.port for each in taken]
        for each in taken:
            pool.release(each)
    finally:
        pool.close()
        sender.close()


def test_a_quarantine_ends_before_a_recording_is_refused() -> None:
    pool = PortPool(ALONE, PORTS + 20, PORTS + 27, quarantine=30, now=lambda: 0.0, limit=4)
    for _ in range(3):
        pairs = [pool.acquire() for _ in range(4)]
        with pytest.raises(RecorderFull):
            pool.acquire()
        for pair in pairs:
            pool.release(pair)
    assert pool.open == 0
    pool.close()
    assert pool.quarantined == 0


def test_what_came_in_quarantine_is_not_in_the_next_recording(bench: Callable[..., Bench]) -> None:
    b = bench(ALONE)
    b.recorder.ports = b.pool = PortPool(ALONE, PORTS + 30, PORTS + 31, quarantine=30, now=b.clock.now)
    b.offer(b.audio("1"))
    b.play(voice(1, 2))
    b.finish()
    for _, data in voice(1, 2):
        b.sock.sendto(data, (b.address, b.ports[0]))
    b._session = None
    b.offer(b.audio("1"))
    b.play(voice(1, 1))
    is_all(b.finish(), 1)
    assert b.pool.quarantine_broken == 1


def test_a_flood_of_sources_writes_few_lines(bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture) -> None:
    b = bench()
    offer(b)
    line = b.session.lines[0]
    for n in range(3000):
        now = 5000.0 + n * 0.02
        line.rtp_datagram(rtp.build(0, n, n * 160, 1, b"x" * 160), HOME, now)
        line.rtp_datagram(rtp.build(0, n % 12, n * 160, n // 12, b"x" * 160), ("203.0.113.9", 1000 + n // 12), now)
        line.rtp_datagram(rtp.build(96 + n % 32, n, n * 160, 1, b"x" * 160), HOME, now)
    assert len(caplog.records) < 100
    assert all(record.getMessage().startswith("Call-ID x, ") for record in caplog.records)


def test_quarantines_end_without_anybody_asking_for_a_port() -> None:
    clock = VirtualClock()
    pool = PortPool(ALONE, PORTS, PORTS + 19, quarantine=30.0, now=clock.now, call_later=clock.call_later)
    pairs = [pool.acquire() for _ in range(3)]
    for pair in pairs:
        pool.release(pair)
        clock.advance(clock.now() + 5)
    clock.advance(clock.now() + 16)
    assert pool.quarantined == 2
    clock.advance(clock.now() + 20)
    assert pool.quarantined == 0
    assert clock.pending == 0
    assert pairs[0].rtp.fileno() == -1
