"""Telephone events: one press of a key is one digit, at its time, whatever gateways make of it (RFC 4733)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from siprec.audio.codecs import codec
from siprec.audio.melody import caller_melody, to_int16
from siprec.audio.packets import packets
from siprec.recorder.settings import RecorderSettings
from siprec.rtp.packets import build
from tests.unit.audio.ogg_opus import opus_packets
from tests.unit.recorder.recorder_harness import Bench, with_network

PCMU = codec("PCMU", 8000)
G722 = codec("G722", 8000)
Sent = list[tuple[float, bytes]]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, RecorderSettings())
    yield made
    made.close()


class Packet(NamedTuple):
    """A packet of an event: seconds after the press, ticks since it, duration, flags."""

    at: float
    stamp: int
    duration: int
    end: bool
    marker: bool


def press(length: float = 0.12, rate: int = 8000, ends: int = 3) -> list[Packet]:
    """A press as RFC 4733 2.5.1 has it: a packet each 20 ms, the end three times."""
    count = round(length / 0.02)
    out = [Packet(n * 0.02, 0, round((n + 1) * 0.02 * rate), False, n == 0) for n in range(count)]
    return out + [Packet((count + n) * 0.02, 0, round(length * rate), True, False) for n in range(ends)]


def moving(packets_: list[Packet]) -> list[Packet]:
    """A gateway that moves the timestamp with each packet, at times also of the ends."""
    return [p._replace(stamp=round(p.at * 8000)) for p in packets_]


def keyed(digit: int, at: float, stamp: int, sequence: int, packets_: Iterable[Packet]) -> Sent:
    """The press on the wire, numbered from `sequence`."""
    return [
        (
            at + p.at,
            build(
                101,
                sequence + n,
                stamp + p.stamp,
                1,
                struct.pack("!BBH", digit, (0x80 if p.end else 0) | 10, p.duration),
                marker=p.marker,
            ),
        )
        for n, p in enumerate(packets_)
    ]


def speech(seconds: float, skip: Callable[[int], bool] = lambda n: False) -> Sent:
    sent = packets(to_int16(caller_melody(seconds, 8000)), PCMU, 0, ssrc=1)
    return [packet for n, packet in enumerate(sent) if not skip(n)]


def digits(bench: Bench, sent: Sent, formats: str = "0 101", *attributes: str) -> list[tuple[str, float, float]]:
    """What is recorded: digit, position, duration."""
    bench.offer(bench.audio("1", formats, *(attributes or ("rtpmap:101 telephone-event/8000",))), bench.audio("2"))
    bench.inject(sorted(sent, key=lambda item: item[0]), speech(max(at for at, _ in sent)))
    found = bench.finish().streams[0]["dtmf"]
    assert all(event["complete"] for event in found)
    return [(e["digit"], e["position"], e["duration"]) for e in found]


def near(digit: str, at: float, length: float = 0.12) -> tuple[str, Any, Any]:
    return digit, pytest.approx(at, abs=0.045), pytest.approx(length, abs=0.021)


@pytest.mark.parametrize(
    "packets_",
    [
        press(),
        moving(press()),
        [p._replace(stamp=min(n, 3) * 160) for n, p in enumerate(press())],
        [p._replace(stamp=0 if n < 4 else n * 160) for n, p in enumerate(press())],
        [p._replace(marker=True) for p in press()],
        [p._replace(marker=False) for p in press()],
        moving([p._replace(marker=True) for p in press()]),
        [p._replace(duration=160, stamp=n * 160) for n, p in enumerate(press()[:6])]
        + [Packet(0.12, 960, 0, True, False)],
        press(ends=1),
        press(ends=8),
        press()[5:],
        press()[6:],
        moving(press())[6:],
        press()[:3] + press()[7:],
        press()[8:],
    ],
)
def test_one_press_is_one_digit_at_its_time(bench: Bench, packets_: list[Packet]) -> None:
    wire = [
        (at, d[:2] + struct.pack("!H", 50 + round((at - 1.0) / 0.02)) + d[4:])
        for at, d in keyed(5, 1.0, 8000, 0, packets_)
    ]
    sent = speech(3.0, lambda n: 50 <= n < 50 + len(press()))
    assert digits(bench, [*sent, *wire]) == [near("5", 1.0)]


def test_a_press_whose_end_is_lost_and_the_next_of_the_same_key_are_two(bench: Bench) -> None:
    first, second = press()[:6], press()
    sent = [*speech(3.0, lambda n: 50 <= n < 56 or 70 <= n < 79)]
    sent += keyed(5, 1.0, 8000, 50, first) + keyed(5, 1.4, 11200, 70, second)
    bench.offer(bench.audio("1", "0 101", "rtpmap:101 telephone-event/8000"), bench.audio("2"))
    bench.inject(sorted(sent), [])
    found = bench.finish().streams[0]["dtmf"]
    assert [(e["digit"], e["position"], e["duration"]) for e in found] == [near("5", 1.0), near("5", 1.4)]
    assert [e["complete"] for e in found] == [False, True]


@pytest.mark.parametrize("shape", [press, lambda: moving(press()), lambda: [p._replace(marker=False) for p in press()]])
@pytest.mark.parametrize("pause", [0.22, 0.3, 1.0])
def test_the_same_key_again_is_another_digit(bench: Bench, shape: Callable[[], list[Packet]], pause: float) -> None:
    sent = speech(8.0)
    for n in range(5):
        at = 1.0 + n * pause
        sent += keyed(9, at, round(at * 8000), 400 + n * 20, shape())
    # The events are numbered far from the speech.
    assert digits(bench, sent) == [near("9", 1.0 + n * pause) for n in range(5)]


def test_keys_in_a_row_whose_last_ends_come_after_the_next_begins(bench: Bench) -> None:
    one, two = keyed(1, 1.0, 8000, 30000, press()), keyed(2, 1.15, 9200, 30009, press())
    # The repeated ends of 1 between the packets of 2: the network changed their order.
    late = [(1.21, one[-1][1]), (1.23, one[-2][1])]
    sent = [*speech(3.0), *one[:-2], *late, *two]
    assert digits(bench, sent) == [near("1", 1.0), near("2", 1.15)]


def test_two_keys_at_once_are_two_digits(bench: Bench) -> None:
    one, two = press(0.3), press(0.3)
    merged = sorted([(p.at, 1, p) for p in one] + [(p.at + 0.05, 2, p) for p in two])
    sent = speech(3.0)
    for n, (at, digit, p) in enumerate(merged):
        stamp = 8000 if digit == 1 else 8400
        sent += [(1.0 + at, d) for _, d in keyed(digit, 0, stamp, 40000 + n, [replace_at(p)])]
    assert digits(bench, sent) == [near("1", 1.0, 0.3), near("2", 1.05, 0.3)]


def replace_at(packet: Packet) -> Packet:
    return packet._replace(at=0.0)


def test_a_long_press_in_segments_is_one_digit(bench: Bench) -> None:
    """RFC 4733 2.5.1.3: when the duration overflows, the next segment begins, without a marker and without an end."""
    length, segment = 20.0, 0xFFFF
    wire: Sent = []
    count = round(length / 0.05)
    for n in range(count + 3):
        ticks = min(round((n + 1) * 0.05 * 8000), round(length * 8000))
        before = (ticks - 1) // segment * segment
        payload = struct.pack("!BBH", 7, 10 | (0x80 if n >= count else 0), ticks - before)
        wire.append((1.0 + n * 0.05, build(101, 30000 + n, 8000 + before, 1, payload, marker=n == 0)))
    assert digits(bench, [*speech(1.0), *wire]) == [near("7", 1.0, length)]


def test_several_events_in_a_packet_follow_each_other(bench: Bench) -> None:
    payload = b"".join(struct.pack("!BBH", digit, 0x8A, 400) for digit in (1, 2, 3))
    sent = [*speech(3.0), (1.15, build(101, 30000, 8000, 1, payload, marker=True))]
    assert digits(bench, sent) == [near("1", 1.0, 0.05), near("2", 1.05, 0.05), near("3", 1.1, 0.05)]


@pytest.mark.parametrize("stamps", ["8000", "audio", "random"])
def test_events_that_count_8000_a_second_beside_opus(bench: Bench, stamps: str) -> None:
    payloads, _ = opus_packets(caller_melody(6, 48000))
    sent = [(n * 0.02, build(96, n, n * 960 + 5555, 1, p)) for n, p in enumerate(payloads) if not 200 <= n < 209]
    stamp = {"8000": 32000, "audio": 200 * 960 + 5555, "random": 0xDEADBEEF}[stamps]
    sent += keyed(3, 4.0, stamp, 200, press())
    found = digits(bench, sent, "96 101", "rtpmap:96 opus/48000/2", "rtpmap:101 telephone-event/8000")
    assert found == [near("3", 4.0)]


def test_events_that_count_48000_a_second_beside_opus(bench: Bench) -> None:
    payloads, _ = opus_packets(caller_melody(6, 48000))
    sent = [(n * 0.02, build(96, n, n * 960, 1, p)) for n, p in enumerate(payloads) if not 200 <= n < 209]
    sent += keyed(3, 4.0, 200 * 960, 200, press(rate=48000))
    found = digits(bench, sent, "96 101", "rtpmap:96 opus/48000/2", "rtpmap:101 telephone-event/48000")
    assert found == [near("3", 4.0)]


@pytest.mark.parametrize("clock", [1, 2])
def test_events_beside_g722(bench: Bench, clock: int) -> None:
    signal = to_int16(caller_melody(6, 16000))
    sent = [
        (at, d[:4] + struct.pack("!I", n * 160 * clock) + d[8:])
        for n, (at, d) in enumerate(packets(signal, G722, 9, ssrc=1))
        if not 200 <= n < 209
    ]
    sent += keyed(0, 4.0, 200 * 160 * clock, 200, press())
    assert digits(bench, sent, "9 101") == [near("0", 4.0)]


def test_a_timestamp_that_never_moves_still_tells_two_presses(bench: Bench) -> None:
    sent = [*speech(4.0), *keyed(4, 1.0, 99, 30000, press()), *keyed(4, 2.0, 99, 30020, press())]
    assert digits(bench, sent) == [near("4", 1.0), near("4", 2.0)]


def test_a_number_dialled_over_a_bad_network(bench: Bench) -> None:
    """Loss, jitter and duplicates; events with numbers of their own."""
    dialled = "0123456789*#"
    sent = speech(10.0)
    wire: Sent = []
    for n, key in enumerate(dialled):
        wire += keyed("0123456789*#".index(key), 1.0 + n * 0.5, round((1.0 + n * 0.5) * 8000), 30000 + n * 9, press())
    bench.offer(bench.audio("1", "0 101", "rtpmap:101 telephone-event/8000"), bench.audio("2"))
    network = with_network(wire, 3, loss=0.2, duplicate=0.2, jitter=0.05)
    bench.inject(sorted(sent + network, key=lambda item: item[0]), [])
    result = bench.finish()
    found = result.streams[0]["dtmf"]
    assert "".join(e["digit"] for e in found) == dialled
    assert all(e["position"] == pytest.approx(1.0 + n * 0.5, abs=0.1) for n, e in enumerate(found))
    assert result.streams[0]["packets"]["late"] == 0
