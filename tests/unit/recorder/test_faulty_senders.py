"""Senders that number or stamp their RTP in ways of their own: no sample is lost, nothing is cut or moved."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from siprec.audio.codecs import Codec, codec
from siprec.audio.g711 import ulaw_decode, ulaw_encode
from siprec.audio.melody import caller_melody, match, to_int16
from siprec.audio.packets import packets
from siprec.recorder.receiver_reports import Reporter
from siprec.recorder.recording_result import RecordingResult
from siprec.recorder.settings import RecorderSettings
from siprec.rtp import rtcp, srtp
from siprec.rtp.packets import build
from siprec.sdp import crypto as sdp_crypto
from tests.unit.audio.ogg_opus import opus_packets
from tests.unit.recorder.recorder_harness import Bench, read, restamp, with_network

PCMU = codec("PCMU", 8000)
G722 = codec("G722", 8000)
RATE = 8000
Sent = list[tuple[float, bytes]]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(**settings: Any) -> Bench:
        made.append(Bench(tmp_path / str(len(made)), RecorderSettings(**settings)))
        return made[-1]

    yield make
    for each in made:
        each.close()


def tune(seconds: float, rate: int = RATE) -> NDArray[np.int16]:
    return to_int16(caller_melody(seconds, rate))


def header(data: bytes) -> tuple[int, int, int]:
    """Payload type, sequence number, timestamp."""
    _, second, sequence, timestamp = struct.unpack_from("!BBHI", data)
    return second & 0x7F, sequence, timestamp


def numbered(sent: Sent, sequence: Callable[[int], int], timestamp: Callable[[int], int]) -> Sent:
    """The same packets with other numbers: those of packet n."""
    out = []
    for n, (at, data) in enumerate(sent):
        head = data[:2] + struct.pack("!HI", sequence(n) & 0xFFFF, timestamp(n) & 0xFFFFFFFF)
        out.append((at, head + data[8:]))
    return out


def record(b: Bench, sent: Sent, formats: str = "0", *attributes: str, other: bool = True) -> RecordingResult:
    """`sent` on the first stream, a clean tune of the same length on the second."""
    b.offer(b.audio("1", formats, *attributes), b.audio("2"))
    clean = packets(tune(max(at for at, _ in sent)), PCMU, 0, ssrc=0xC1EA) if other else []
    b.inject(sent, clean)
    return b.finish()


def is_whole(result: RecordingResult, sent: NDArray[np.int16], *, at: float = 0.0) -> None:
    """Every sample that was sent is in the stream's file, in one piece, and the mix has it at its time."""
    got = read(result.stream_file(1))[:, 0]
    start = round(at * result.streams[0]["rate"])
    assert len(got) >= start + len(sent)
    assert np.array_equal(got[start : start + len(sent)], sent)
    assert result.streams[0]["time_corrections"] == []


def where(got: NDArray[np.int16], part: NDArray[np.int16], near: float) -> float:
    """Seconds at which `part` lies in `got` in one piece, within a tenth of a second of `near`; -1 if it does not."""
    for start in range(max(round((near - 0.1) * RATE), 0), round((near + 0.1) * RATE)):
        if np.array_equal(got[start : start + len(part)], part):
            return start / RATE
    return -1.0


def ulaw(signal: NDArray[np.int16]) -> NDArray[np.int16]:
    return ulaw_decode(ulaw_encode(signal))


def faults(result: RecordingResult) -> set[str]:
    return {fault["fault"] for fault in result.streams[0]["rtp_faults"]}


# -------------------------------------------------------------------------------------------------- sequence numbers


@pytest.mark.parametrize("step", [-30000, -3000, -2999, -1000, -200, -101, -100, -50, -7, 101, 1400, 2999, 40000])
@pytest.mark.parametrize("stamps", ["go on", "leap along"])
def test_another_numbering_without_a_new_ssrc_loses_nothing(
    bench: Callable[..., Bench], step: int, stamps: str
) -> None:
    signal = tune(5)
    moved = 160 * step if stamps == "leap along" else 0
    sent = numbered(
        list(packets(signal, PCMU, 0, ssrc=1)),
        lambda n: 5000 + n + (step if n >= 120 else 0),
        lambda n: 900_000 + n * 160 + (moved if n >= 120 else 0),
    )
    result = record(bench(), sent)
    is_whole(result, ulaw(signal))
    counters = result.streams[0]["packets"]
    assert (counters["received"], counters["late"], counters["duplicate"]) == (250, 0, 0)
    if step < 0 or stamps == "go on":
        assert counters["lost"] == 0


def test_the_numbering_may_change_again_and_again(bench: Callable[..., Bench]) -> None:
    rng = random.Random(4)
    signal = tune(8)
    base = [rng.randrange(65536) for _ in range(40)]
    sent = numbered(list(packets(signal, PCMU, 0, ssrc=1)), lambda n: base[n // 10] + n, lambda n: n * 160)
    result = record(bench(), sent)
    is_whole(result, ulaw(signal))
    assert result.streams[0]["packets"]["lost"] == 0
    assert "sequence-restart" in faults(result)


@pytest.mark.parametrize(
    "sequence",
    [
        lambda n: 7,
        lambda n: n // 3,
        lambda n: n * 2,
        lambda n: (n & 0xFF) << 8 | n >> 8,
        lambda n: n * 7919,
    ],
    ids=["stands still", "thrice", "by two", "swapped octets", "anything"],
)
def test_numbers_that_make_no_sense_cost_no_audio(bench: Callable[..., Bench], sequence: Callable[[int], int]) -> None:
    signal = tune(5)
    result = record(bench(), numbered(list(packets(signal, PCMU, 0, ssrc=1)), sequence, lambda n: n * 160))
    got = read(result.stream_file(1))[:, 0]
    assert match(got, signal, RATE)[0] > 0.98
    # What waits for a successor when the call ends is lost.
    assert np.array_equal(got[: 4 * RATE], ulaw(signal)[: 4 * RATE])


@pytest.mark.parametrize("ahead", [-1500, -150, 150, 2100, 5000, 32768])
def test_a_stray_packet_moves_nothing(bench: Callable[..., Bench], ahead: int) -> None:
    signal = tune(4)
    sent = numbered(list(packets(signal, PCMU, 0, ssrc=1)), lambda n: 5000 + n, lambda n: n * 160)
    stray = [(at, build(0, 5000 + n + ahead, 99, 1, b"\x10" * 160)) for n, at in ((60, 1.201), (90, 1.801))]
    result = record(bench(), sorted(sent + stray))
    is_whole(result, ulaw(signal))
    assert result.streams[0]["packets"]["lost"] == 0
    assert result.streams[0]["packets"]["probation"] == 2


def test_a_file_that_is_played_again_with_the_same_numbers_is_heard_again(bench: Callable[..., Bench]) -> None:
    signal = tune(2)
    once = list(packets(signal, PCMU, 0, ssrc=1, sequence=300, timestamp=7000))
    sent = [(at + 2.0 * n, data) for n in range(3) for at, data in once]
    result = record(bench(), sent)
    is_whole(result, np.concatenate([ulaw(signal)] * 3))
    assert result.streams[0]["packets"]["duplicate"] == 0


def test_late_packets_in_a_burst_are_not_another_numbering(bench: Callable[..., Bench]) -> None:
    signal = tune(6)
    sent = list(packets(signal, PCMU, 0, ssrc=1))
    held_up = sent[50:70]
    sent = sorted(sent[:50] + sent[70:] + [(4.5 + n * 1e-5, data) for n, (_, data) in enumerate(held_up)])
    result = record(bench(), sent)
    expected = ulaw(signal)
    expected[50 * 160 : 70 * 160] = 0
    is_whole(result, expected)
    counters = result.streams[0]["packets"]
    assert (counters["late"], counters["lost"]) == (20, 20)


@pytest.mark.parametrize("doubled", [1, 2, 3, 10])
def test_duplicates_mask_no_loss(bench: Callable[..., Bench], doubled: int) -> None:
    sent = list(packets(tune(10), PCMU, 0, ssrc=1))
    rng = random.Random(doubled)
    came: Sent = []
    for n, (at, data) in enumerate(sent):
        if n % 7 == 3:
            continue
        came += [(at + k * rng.random() * 0.3, data) for k in range(doubled + 1)]
    result = record(bench(), sorted(came))
    counters = result.streams[0]["packets"]
    missing = len([n for n in range(500) if n % 7 == 3])
    assert counters["lost"] == missing
    assert counters["duplicate"] == doubled * (500 - missing)


def test_receiver_reports_tell_the_loss_that_duplicates_would_mask() -> None:
    from siprec.recorder.numbering import Source
    from siprec.rtp.packets import parse

    source = Source(1, 8000)
    reporter = Reporter(0.0, rng=random.Random(1))
    for n in range(100):
        for _ in range(3 if n % 2 else 0):
            packet = parse(build(0, n, n * 160, 1, b"x"), n * 0.02)
            assert packet is not None
            source.receive(packet)
    lost = struct.unpack_from("!I", reporter.report(3.0, [source]), 12)[0]
    assert lost & 0xFFFFFF == 49
    assert lost >> 24 == 49 * 256 // 99
    # Nothing new is lost afterwards: a burst of duplicates makes nothing negative.
    packet = parse(build(0, 99, 99 * 160, 1, b"x"), 3.0)
    assert packet is not None
    for _ in range(500):
        source.receive(packet)
    assert struct.unpack_from("!I", reporter.report(6.0, [source]), 12)[0] == 49


@pytest.mark.parametrize("silence", [3.0, 151.0, 1400.0])
def test_an_outage_is_counted_however_long(bench: Callable[..., Bench], silence: float) -> None:
    signal = tune(2)
    skipped = round(silence * 50)
    sent = list(packets(signal, PCMU, 0, ssrc=1))
    sent += [(at + 2 + silence, restamp(d, sequence=100 + skipped, timestamp=16000 + skipped * 160)) for at, d in sent]
    result = record(bench(), sent, other=False)
    assert result.streams[0]["packets"]["lost"] == skipped
    got = read(result.stream_file(1))[:, 0]
    assert np.array_equal(got[-len(signal) :], ulaw(signal))
    assert len(got) == pytest.approx((4 + silence) * RATE, abs=400)


def test_srtp_that_is_rekeyed_with_lower_numbers_goes_on(bench: Callable[..., Bench]) -> None:
    b = bench()
    signal = tune(4)
    first, second = sdp_crypto.generate(), sdp_crypto.generate()

    def media(line: sdp_crypto.Crypto) -> str:
        return b.audio("1", "0", f"crypto:{line.value()}").replace("RTP/AVP", "RTP/SAVP")

    sent = numbered(
        list(packets(signal, PCMU, 0, ssrc=1)), lambda n: 40000 + n if n < 100 else 500 + n, lambda n: n * 160
    )
    b.offer(media(first))
    one, two = srtp.Encryptor(first), srtp.Encryptor(second)
    b.inject([(at, one.rtp(data) or b"") for at, data in sent[:100]])
    b.offer(media(second))
    b.inject([(at - 1.98, two.rtp(data) or b"") for at, data in sent[100:]])
    result = b.finish()
    is_whole(result, ulaw(signal))
    assert result.streams[0]["packets"]["lost"] == 0


# ------------------------------------------------------------------------------------------------------- timestamps


def stamped(signal: NDArray[np.int16], kind: Codec, payload_type: int, timestamp: Callable[[int], int]) -> Sent:
    return numbered(list(packets(signal, kind, payload_type, ssrc=1)), lambda n: n, timestamp)


@pytest.mark.parametrize(
    ("timestamp", "fault"),
    [
        (lambda n: n * 320, "timestamp-steps-double"),
        (lambda n: n * 80, "timestamp-steps-wrong"),
        (lambda n: n * 960, "timestamp-steps-wrong"),
        (lambda n: 77, "timestamp-stands-still"),
        (lambda n: n // 2 * 320, "timestamp-stands-still"),
        (lambda n: min(n, 100) * 160, "timestamp-stands-still"),
        (lambda n: n * 160 if n < 100 else n * 320 - 16000, "timestamp-steps-double"),
        (lambda n: n * 320 if n < 100 else n * 160 + 16000, "timestamp-steps-double"),
        (lambda n: n * 160 + (8_000_000 if n >= 100 else 0), "timestamp-leap"),
        (lambda n: n * 160 + (n // 50) * 160, "timestamp-leap"),
        (lambda n: n * 160 - (n // 50) * 4000, "timestamp-steps-back"),
        (lambda n: -n * 160, "timestamp-steps-back"),
        (lambda n: (n * 7919) % 65536 * 160, "timestamp-steps-back"),
    ],
)
@pytest.mark.parametrize("kind", ["PCMU", "G722"])
def test_audio_without_a_break_stays_whole_whatever_its_timestamps(
    bench: Callable[..., Bench], kind: str, timestamp: Callable[[int], int], fault: str
) -> None:
    meaning, payload_type, rate = (PCMU, 0, RATE) if kind == "PCMU" else (G722, 9, 16000)
    signal = tune(6, rate)
    rng = random.Random(9)
    sent = sorted((at + rng.random() * 0.008, d) for at, d in stamped(signal, meaning, payload_type, timestamp))
    result = record(bench(), sent, str(payload_type))
    got = read(result.stream_file(1))[:, 0]
    assert len(got) == pytest.approx(6 * rate, abs=rate // 50)
    score, lag = match(got, signal, rate)
    assert score > 0.98
    assert abs(lag) < 0.02
    assert result.streams[0]["time_corrections"] == []
    assert fault in faults(result)
    mix = read(result.mix)
    score, lag = match(mix[:, 0], tune(6, result.summary["mix"]["rate"]), result.summary["mix"]["rate"])
    assert score > 0.97
    assert abs(lag) < 0.02


def test_opus_that_counts_in_its_sample_rate_of_16000_stays_whole(bench: Callable[..., Bench]) -> None:
    signal = caller_melody(4, 48000)
    payloads, skip = opus_packets(signal)
    sent = [(n * 0.02, build(96, n, n * 320, 5, payload)) for n, payload in enumerate(payloads)]
    result = record(bench(), sent, "96", "rtpmap:96 opus/48000/2")
    got = read(result.stream_file(1))[:, 0]
    assert match(got[skip:], to_int16(signal), 48000)[0] > 0.9
    assert len(got) == pytest.approx(len(payloads) * 960, abs=960)


def test_wrong_steps_do_not_hide_a_pause_or_a_loss(bench: Callable[..., Bench]) -> None:
    """Timestamps of G.722 that count 16000 a second: a pause keeps its length, a loss its place."""
    signal = tune(6, 16000)
    sent = stamped(signal, G722, 9, lambda n: n * 320)
    paused = [
        (at + (2.0 if n >= 150 else 0.0), restamp(d, timestamp=32000 if n >= 150 else 0))
        for n, (at, d) in enumerate(sent)
    ]
    del paused[40:45]
    result = record(bench(), paused, "9")
    got = read(result.stream_file(1))[:, 0]
    assert result.streams[0]["packets"]["lost"] == 5
    assert len(got) == pytest.approx(8 * 16000, abs=800)
    assert not got[3 * 16000 + 900 : 5 * 16000 - 900].any()
    assert not got[40 * 320 + 100 : 45 * 320 - 100].any()
    assert match(got[5 * 16000 :], signal[3 * 16000 :], 16000)[1] == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("clock", ["stands still", "starts again", "double"])
@pytest.mark.parametrize("pause", [0.4, 1.4, 20.0])
def test_a_pause_of_a_sender_with_faulty_timestamps_keeps_its_length(
    bench: Callable[..., Bench], clock: str, pause: float
) -> None:
    signal = tune(6)
    sent = stamped(
        signal,
        PCMU,
        0,
        {"stands still": lambda n: 5, "starts again": lambda n: n % 150 * 160, "double": lambda n: n * 320}[clock],
    )
    rng = random.Random(2)
    paused = [(at + (pause if n >= 150 else 0.0) + rng.random() * 0.015, d) for n, (at, d) in enumerate(sent)]
    result = record(bench(), sorted(paused))
    got = read(result.stream_file(1))[:, 0]
    first, second = ulaw(signal)[: 3 * RATE], ulaw(signal)[3 * RATE :]
    assert where(got, first, 0.0) == pytest.approx(0.0, abs=0.016)
    assert where(got, second, 3.0 + pause) == pytest.approx(3.0 + pause, abs=0.016)


@pytest.mark.parametrize("factor", [2, 3, 6])
def test_wrong_steps_over_a_jittery_network_are_no_gaps(bench: Callable[..., Bench], factor: int) -> None:
    signal = tune(6)
    network = with_network(stamped(signal, PCMU, 0, lambda n: n * 160 * factor), 5, jitter=0.08, duplicate=0.1)
    result = record(bench(), network)
    assert where(read(result.stream_file(1))[:, 0], ulaw(signal), 0.0) == pytest.approx(0.0, abs=0.08)


def test_real_gaps_at_a_steady_pace_are_kept(bench: Callable[..., Bench]) -> None:
    """Ten milliseconds of audio every twenty: nothing is wrong with these timestamps."""
    signal = tune(4)
    sent = [(n * 0.02, build(0, n, n * 160, 1, ulaw_encode(signal[n * 160 : n * 160 + 80]))) for n in range(200)]
    result = record(bench(), sent)
    expected = ulaw(signal).reshape(-1, 160)
    expected[:, 80:] = 0
    got = read(result.stream_file(1))[:, 0]
    assert np.array_equal(got[:31900], expected.reshape(-1)[:31900])
    assert faults(result) == set()


@pytest.mark.parametrize("stall", [0.3, 0.6, 0.95, 1.5, 3.0])
@pytest.mark.parametrize("pace", [0.0, 0.5])
@pytest.mark.parametrize("markers", [False, True])
def test_a_stall_on_the_way_moves_nothing(
    bench: Callable[..., Bench], stall: float, pace: float, markers: bool
) -> None:
    """After it packets come at once, or at twice their pace until it is made up for."""
    signal = tune(9)
    sent: Sent = []
    for at, data in packets(signal, PCMU, 0, ssrc=1):
        late = max(2.0 + stall - at, 0.0) if at >= 2.0 else 0.0
        if at >= 2.0 and pace:
            late = max(stall - (at - 2.0) * pace, 0.0)
        sent.append((at + late, data[:1] + bytes([data[1] | (0x80 if markers else 0)]) + data[2:]))
    result = record(bench(), sent)
    is_whole(result, ulaw(signal))


# ---------------------------------------------------------------------------------------------------------- pauses


@pytest.mark.parametrize("pause", [0.3, 1.4, 30.0])
@pytest.mark.parametrize("report", ["none", "early", "between", "fresh", "stepped"])
def test_a_pause_in_which_the_senders_clock_stands_still_keeps_its_length(
    bench: Callable[..., Bench], pause: float, report: str
) -> None:
    """The arrival time wins over an old report."""
    b = bench()
    signal = tune(3)
    sent = list(packets(signal, PCMU, 0, ssrc=1))
    second = [(at + 3 + pause, restamp(d, sequence=150, timestamp=24000)) for at, d in sent]
    second = [(at, d[:1] + bytes([d[1] & 0x7F]) + d[2:]) for at, d in second]
    b.offer(b.audio("1", "0", "rtcp-mux"), b.audio("2"))
    reports: Sent = []
    if report != "none":
        reports.append((1.0, sender_report(1.7e9 + 1.0, 8000)))
    if report == "between":
        reports.append((3.0 + pause / 2, sender_report(1.7e9 + 3.0 + pause / 2, 24000)))
    if report in ("fresh", "stepped"):
        leap = 3.7 if report == "stepped" else 0.0
        reports.append((3.1 + pause, sender_report(1.7e9 + 3.1 + pause + leap, 24800)))
    b.inject(sorted([*sent, *second, *reports]))
    result = b.finish()
    got = read(result.stream_file(1))[:, 0]
    assert len(got) == pytest.approx((6 + pause) * RATE, abs=100)
    assert np.array_equal(got[: 3 * RATE], ulaw(signal))
    assert np.array_equal(got[-3 * RATE :], ulaw(signal))
    assert result.streams[0]["packets"]["lost"] == 0


def sender_report(ntp: float, timestamp: int, ssrc: int = 1) -> bytes:
    seconds = ntp + rtcp.NTP_EPOCH
    return (
        struct.pack(
            "!BBHIIIIII", 0x80, 200, 6, ssrc, int(seconds), int(seconds % 1 * 2**32), timestamp & 0xFFFFFFFF, 1, 160
        )
        + struct.pack("!BBHI", 0x81, 202, 2, ssrc)
        + b"\x01\x01c\0"
    )


@pytest.mark.parametrize("held_up", [0.2, 0.6, 1.5, 2.5])
@pytest.mark.parametrize("when", [0.0, 2.3])
@pytest.mark.parametrize("which", [(0,), (1,), (2,), (0, 1, 2)])
def test_sender_reports_that_are_late_or_step_move_nothing(
    bench: Callable[..., Bench], held_up: float, when: float, which: tuple[int, ...]
) -> None:
    b = bench()
    signal = tune(6)
    b.offer(b.audio("1", "0", "rtcp-mux"), b.audio("2"))
    stalled = [(when + held_up if when <= at < when + held_up else at, d) for at, d in packets(signal, PCMU, 0, ssrc=1)]
    reports = [
        (when + held_up + 0.001, sender_report(1.8e9 + when + 0.01, int((when + 0.01) * 8000))),
        (when + held_up + 0.5, sender_report(1.8e9 + when + 77.0, int((when + held_up + 0.5) * 8000))),
        (when + held_up + 1.0, sender_report(1.8e9 - 500.0, 0xFFFFFF00)),
    ]
    reports = [reports[n] for n in which]
    b.inject(sorted(stalled + reports, key=lambda item: item[0]), packets(signal, PCMU, 0, ssrc=2))
    result = b.finish()
    got = read(result.stream_file(1))[:, 0]
    start = np.flatnonzero(got)[0] - np.flatnonzero(ulaw(signal))[0]
    assert abs(start) < 0.01 * RATE
    is_whole(result, ulaw(signal), at=start / RATE)


def test_what_is_withheld_while_the_stream_is_inactive_is_not_lost(bench: Callable[..., Bench]) -> None:
    b = bench()
    signal = tune(3)
    sent = list(packets(signal, PCMU, 0, ssrc=1))
    b.offer(b.audio("1"), b.audio("2"))
    b.inject(sent)
    for pause in (10.0, 100.0, 2000.0):
        b.offer(b.audio("1", direction="inactive"), b.audio("2"))
        b.wait(pause)
        b.offer(b.audio("1"), b.audio("2"))
        skipped = 150 + round(pause * 50)
        sent = [(at, restamp(d, sequence=skipped, timestamp=skipped * 160)) for at, d in sent]
        b.inject(sent)
    result = b.finish()
    counters = result.streams[0]["packets"]
    assert (counters["received"], counters["lost"]) == (600, 0)
    assert np.array_equal(read(result.stream_file(1))[-3 * RATE :, 0], ulaw(signal))


# ----------------------------------------------------------------------------------------------------- an hour's drift


def clicks(fast: float, seconds: int, ssrc: int, *, talk: float, ptime: float = 0.2) -> Iterator[tuple[float, bytes]]:
    """A sender whose clock runs `fast` (relative): a loud millisecond at each full minute of our clock, in a hum that
    is silent for the part 1 - `talk` of the time."""
    size = round(RATE * ptime)
    hum = ulaw_encode((2000 * np.sin(np.arange(RATE) * 2 * np.pi * 300 / RATE)).astype(np.int16))
    loud, silence = ulaw_encode(np.full(8, 30000, np.int16)), b"\xff" * size
    number = 0
    while True:
        start = number * size / RATE  # by the sender's clock
        at = start / (1 + fast)
        if at >= seconds:
            return
        begin = number * size % RATE
        payload = (hum + hum)[begin : begin + size] if start % 10 < 10 * talk else silence
        minute = round(at / 60) * 60
        place = round((minute * (1 + fast) - start) * RATE)
        if 0 <= place <= size - 8 and minute:
            payload = payload[:place] + loud + payload[place + 8 :]
        yield at + ptime, build(0, number, number * size, ssrc, payload)
        number += 1


def found_clicks(mono: NDArray[np.int16]) -> list[float]:
    where = np.flatnonzero(np.abs(mono.astype(np.int32)) > 15000)
    starts = where[np.concatenate(([True], np.diff(where) > 800))] if len(where) else where
    return [float(start) / RATE for start in starts]


@pytest.mark.parametrize(
    ("left", "right", "talk", "seconds"),
    [(100e-6, -100e-6, 1.0, 3600), (0.0, 100e-6, 0.7, 1800), (-250e-6, 250e-6, 0.5, 900)],
)
def test_both_parties_stay_together_for_an_hour(
    bench: Callable[..., Bench], left: float, right: float, talk: float, seconds: int
) -> None:
    """Clocks that run away from each other: within 50 ms in the mix, while the files keep every sample."""
    b = bench()
    b.offer(b.audio("1"), b.audio("2"))
    b.inject(clicks(left, seconds, 1, talk=talk), clicks(right, seconds, 2, talk=talk))
    result = b.finish()
    mix = read(result.mix)
    one, two = found_clicks(mix[:, 0]), found_clicks(mix[:, 1])
    assert len(one) >= seconds // 60 - 5
    pairs = [(x, y) for x in one for y in two if abs(x - y) < 1.0]
    assert len(pairs) >= seconds // 60 - 5
    assert max(abs(x - y) for x, y in pairs) < 0.04
    assert max(abs(x - round(x / 60) * 60) for x in one + two) < 0.05
    for stream, fast in zip(result.streams, (left, right), strict=True):
        assert stream["clock_drift_ppm"] == pytest.approx(fast * 1e6, abs=5)
        assert stream["time_corrections"] == []
        assert stream["packets"]["lost"] == 0
        assert stream["audio_seconds"] == pytest.approx(seconds * (1 + fast), abs=0.2)
        assert stream["duration"] == pytest.approx(seconds * (1 + max(left, right, 0)), abs=0.3)


def test_correction_is_never_faster_than_300_ppm_in_sound(bench: Callable[..., Bench]) -> None:
    """A tone keeps its pitch: what cannot be made up for in time is left."""
    b = bench()
    b.offer(b.audio("1"))
    tone = ulaw_encode((8000 * np.sin(np.arange(120 * RATE) * 2 * np.pi * 1000 / RATE)).astype(np.int16))
    b.inject((n * 0.02 * 1.002, build(0, n, n * 160, 1, tone[n * 160 : (n + 1) * 160])) for n in range(6000))
    result = b.finish()
    mono = read(result.mix)[:, 0].astype(float)
    assert result.streams[0]["clock_drift_ppm"] == pytest.approx(-2000, rel=0.05)
    # The phase of the tone tells how many periods there are in a second.
    seconds = mono[: len(mono) // RATE * RATE].reshape(-1, RATE)[2:-2]
    phase = np.unwrap(np.angle(seconds @ np.exp(-2j * np.pi * np.arange(RATE) * 1000 / RATE)))
    assert np.abs(np.diff(phase)).max() < 2 * np.pi * 1000 * 320e-6
    assert np.abs(np.diff(phase)).max() > 2 * np.pi * 1000 * 250e-6
    level = np.sqrt((seconds**2).mean(axis=1))
    assert level.min() > 0.97 * 8000 / np.sqrt(2)
