"""RTP over real sockets into files: is what was recorded what was sent, at the right time?"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from siprec.audio import libav
from siprec.audio.codecs import Codec, codec
from siprec.audio.melody import callee_melody, caller_melody, match, matches, to_int16
from siprec.audio.packets import packets
from siprec.recorder.settings import RecorderSettings
from siprec.rtp.packets import build
from tests.unit.audio import telephony
from tests.unit.recorder.recorder_harness import Bench, read, restamp, with_network

PCMU = codec("PCMU", 8000)
RATE = 8000
Samples = NDArray[np.int16]
Open = Callable[..., Bench]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Open]:
    made: list[Bench] = []

    def make(**settings: Any) -> Bench:
        address = str(settings.pop("address", "127.0.0.1"))
        made.append(Bench(tmp_path, RecorderSettings(**settings), address))
        return made[-1]

    yield make
    for each in made:
        each.close()


def tunes(seconds: float, rate: int = RATE) -> tuple[Samples, Samples]:
    return to_int16(caller_melody(seconds, rate)), to_int16(callee_melody(seconds, rate))


def test_two_streams_become_two_files_and_a_stereo_mix_of_what_was_sent(bench: Open) -> None:
    b = bench()
    b.offer(b.audio("1"), b.audio("2"))
    left, right = tunes(6)
    b.play(packets(left, PCMU, 0, ssrc=1), packets(right, PCMU, 0, ssrc=2))
    result = b.finish()
    assert result.state == "complete"
    for number, tune in ((1, left), (2, right)):
        score, lag = match(read(result.stream_file(number))[:, 0], tune, RATE)
        assert score > 0.99
        assert abs(lag) < 0.001
    mix = read(result.mix)
    assert matches(mix[:, 0], left, RATE) > 0.99
    assert matches(mix[:, 1], right, RATE) > 0.99
    assert matches(mix[:, 0], right, RATE) < 0.3
    assert [s["packets"]["received"] for s in result.streams] == [300, 300]
    assert [s["packets"]["lost"] for s in result.streams] == [0, 0]
    assert json.loads((result.directory / "recording.json").read_text())["state"] == "complete"


def test_losses_become_silence_and_the_rest_stays_in_its_place(bench: Open) -> None:
    b = bench()
    b.offer(b.audio("1"), b.audio("2"))
    left, right = tunes(10)
    sent = list(packets(left, PCMU, 0, ssrc=1, sequence=65500, timestamp=0xFFFFF000))
    network = with_network(sent, 7, loss=0.1, duplicate=0.05, jitter=0.09)
    b.play(network, packets(right, PCMU, 0, ssrc=2))
    result = b.finish()
    got = read(result.stream_file(1))[:, 0]
    arrived = {data for _, data in network}
    expected = left.copy()
    missing = 0
    for number, (_, data) in enumerate(sent):
        if data not in arrived:
            expected[number * 160 : (number + 1) * 160] = 0
            missing += 1
    assert missing > 30
    assert matches(got, expected, RATE) > 0.99
    lag = round(match(got, expected, RATE)[1] * RATE)
    silent = np.flatnonzero([not expected[n : n + 160].any() for n in range(0, 79_840, 160)])
    assert len(silent) >= missing - 1
    assert all(not got[lag + n * 160 : lag + (n + 1) * 160].any() for n in silent)
    counters = result.streams[0]["packets"]
    assert counters["lost"] == missing
    assert counters["duplicate"] == len(network) - len(arrived)
    assert counters["reordered"] > 10
    assert result.streams[1]["packets"]["lost"] == 0


def test_a_pause_keeps_its_length_whether_or_not_the_timestamps_go_on(bench: Open) -> None:
    b = bench()
    b.offer(b.audio("1"), b.audio("2"))
    first, second = tunes(3)
    # Line 1: timestamps go on during 7 s of silence. Line 2: the sender's clock stands still meanwhile.
    running = [
        *packets(first, PCMU, 0, ssrc=1),
        *((at + 10, restamp(d, sequence=150)) for at, d in packets(second, PCMU, 0, ssrc=1, timestamp=80_000)),
    ]
    frozen = [
        *packets(first, PCMU, 0, ssrc=2),
        *((at + 10, d) for at, d in packets(second, PCMU, 0, ssrc=2, sequence=150, timestamp=24_000)),
    ]
    frozen = [(at, d[:1] + bytes([d[1] & 0x7F]) + d[2:]) for at, d in frozen]  # and no marker says so
    b.play(running, frozen)
    result = b.finish()
    for number in (1, 2):
        got = read(result.stream_file(number))[:, 0]
        assert len(got) == pytest.approx(13 * RATE, abs=200)
        assert match(got[: 5 * RATE], first, RATE)[0] > 0.99
        score, lag = match(got[5 * RATE :], second, RATE)
        assert score > 0.99
        assert lag == pytest.approx(5.0, abs=0.01)
        assert not got[3 * RATE + 200 : 10 * RATE - 200].any()
    assert result.streams[1]["time_corrections"]
    assert not result.streams[0]["time_corrections"]


def test_a_stall_on_the_way_is_not_a_pause(bench: Open) -> None:
    b = bench()
    b.offer(b.audio("1"))
    tune = tunes(8)[0]
    late = [(max(at, 5.0) if at > 3.0 else at, data) for at, data in packets(tune, PCMU, 0, ssrc=1)]
    b.play(late)
    result = b.finish()
    score, lag = match(read(result.stream_file(1))[:, 0], tune, RATE)
    assert score > 0.99
    assert abs(lag) < 0.001
    assert result.streams[0]["packets"]["lost"] == 0


def test_a_pre_roll_that_arrives_in_a_burst_lies_before_the_live_audio(bench: Open) -> None:
    b = bench()
    b.offer(b.audio("1"), b.audio("2"))
    left, right = tunes(8)
    # The first three seconds of the left stream were kept by the sender until the answer came.
    burst = [(max(at, 3.0), data) for at, data in packets(left, PCMU, 0, ssrc=1)]
    live = [(at, data) for at, data in packets(right, PCMU, 0, ssrc=2) if at >= 3.0]
    b.play(burst, live)
    result = b.finish()
    score, lag = match(read(result.stream_file(1))[:, 0], left, RATE)
    assert score > 0.99
    assert abs(lag) < 0.01
    score, lag = match(read(result.stream_file(2))[:, 0], right[3 * RATE :], RATE)
    assert score > 0.99
    assert lag == pytest.approx(3.0, abs=0.01)
    mix = read(result.mix)
    assert matches(mix[:, 0], left, RATE) > 0.99


def test_a_new_ssrc_goes_on_in_the_same_file(bench: Open) -> None:
    b = bench()
    b.offer(b.audio("1"))
    first, second = tunes(3)
    b.play(
        [
            *packets(first, PCMU, 0, ssrc=1, sequence=900, timestamp=77),
            *((at + 3.0, d) for at, d in packets(second, PCMU, 0, ssrc=0xDEAD, sequence=5, timestamp=0xFFFF0000)),
        ]
    )
    result = b.finish()
    got = read(result.stream_file(1))[:, 0]
    assert match(got, first, RATE)[1] == pytest.approx(0, abs=0.001)
    score, lag = match(got[2 * RATE :], second, RATE)
    assert score > 0.99
    assert lag == pytest.approx(1.0, abs=0.005)
    assert result.streams[0]["ssrcs"] == ["00000001", "0000dead"]
    assert result.streams[0]["packets"]["lost"] == 0


@pytest.mark.parametrize("audio_format", ["wav", "flac"])
@pytest.mark.parametrize(
    ("rtpmap", "payload_type", "rate", "clock", "channels"),
    [
        ("PCMU", 0, 8000, 8000, 1),
        ("PCMA", 8, 8000, 8000, 1),
        ("G722", 9, 16000, 8000, 1),
        ("L16", 97, 16000, 16000, 1),
        ("L16", 98, 44100, 44100, 2),
    ],
)
def test_every_codec_is_recorded_in_either_format(
    bench: Open, audio_format: str, rtpmap: str, payload_type: int, rate: int, clock: int, channels: int
) -> None:
    b = bench(audio_format=audio_format)
    suffix = f"/{channels}" if channels > 1 else ""
    b.offer(b.audio("1", str(payload_type), f"rtpmap:{payload_type} {rtpmap}/{clock}{suffix}"), b.audio("2"))
    meaning = codec(rtpmap, clock, channels)
    left, right = tunes(3, rate)
    signal = left if channels == 1 else np.stack([left, right], axis=1)
    tune = tunes(3)[1]
    b.play(packets(signal, meaning, payload_type, ssrc=1, ptime=0.01), packets(tune, PCMU, 0, ssrc=2))
    result = b.finish()
    got = read(result.stream_file(1))
    assert result.streams[0]["rate"] == rate
    assert got.shape[1] == channels
    assert matches(got[:, 0], left, rate) > 0.98
    if channels == 2:
        assert matches(got[:, 1], right, rate) > 0.98
    mix = read(result.mix)
    mix_rate = result.summary["mix"]["rate"]
    assert mix_rate == max(rate, 8000)
    assert matches(mix[:, 1], to_int16(callee_melody(3, mix_rate)), mix_rate) > 0.98
    if channels == 1:
        assert matches(mix[:, 0], left, rate) > 0.98


def test_rtp_in_a_format_that_was_declined_is_kept_raw_counted_and_said(
    bench: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(libav, "available", lambda: False)
    b = bench()
    answer = b.offer(
        b.audio("1", "18 0 97 101", "rtpmap:18 G729/8000", "rtpmap:97 EVS/16000", "rtpmap:101 telephone-event/8000")
    )
    assert answer.media[0].formats == ["0", "101"]
    tune = tunes(2)[0]
    spoken = list(packets(tune, PCMU, 0, ssrc=1))
    declined = [(2 + n * 0.02, build(18, 100 + n, 16000 + n * 160, 1, bytes(20))) for n in range(50)]
    declined += [(3 + n * 0.02, build(97, 150 + n, 24000 + n * 160, 1, bytes(33))) for n in range(20)]
    declined += [(3.4 + n * 0.02, build(120, 170 + n, 27200 + n * 160, 1, bytes(5))) for n in range(10)]
    b.inject([*spoken, *declined])
    result = b.finish()
    stream = result.streams[0]
    assert matches(read(result.stream_file(1))[:, 0], tune, RATE) > 0.99
    assert (stream["raw_packets"], stream["packets"]["unknown_payload_type"]) == (80, 80)
    assert stream["packets"]["lost"] == 0
    assert {(f["fault"], f["detail"], f["count"]) for f in stream["rtp_faults"]} == {
        ("not-decodable", "G729", 50), ("not-decodable", "EVS", 20), ("not-decodable", "payload type 120", 10),
    }  # fmt: skip
    assert caplog.text.count("cannot be decoded, G729, is kept raw") == 1


def test_only_declined_rtp_leaves_a_pcap_and_no_silence(bench: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libav, "available", lambda: False)
    b = bench()
    b.offer(b.audio("1", "18 0", "rtpmap:18 G729/8000"), b.audio("2", "18 0", "rtpmap:18 G729/8000"))
    b.play(*([(n * 0.02, build(18, n, n * 160, k, bytes(20))) for n in range(50)] for k in (1, 2)))
    result = b.finish()
    assert [s["raw_packets"] for s in result.streams] == [50, 50]
    assert [s["file"] for s in result.streams] == [None, None]


@pytest.mark.parametrize(
    ("payload_type", "kind"), [(8, codec("PCMA", 8000)), (9, codec("G722", 8000)), (11, codec("L16", 44100))]
)
def test_static_payload_types_that_nobody_declared_are_decoded(bench: Open, payload_type: int, kind: Codec) -> None:
    b = bench()
    b.offer(b.audio("1", "0"))
    tune = to_int16(caller_melody(3, kind.sample_rate))
    b.inject(packets(tune, kind, payload_type, ssrc=1, ptime=0.01))
    result = b.finish()
    assert result.streams[0]["codecs"] == {kind.name: 300}
    assert matches(read(result.stream_file(1))[:, 0], tune, kind.sample_rate) > 0.98
    assert result.streams[0]["raw_file"] is None


@pytest.mark.parametrize("name", ["G729", "GSM", "AMR", "AMR-WB"])
def test_speech_codecs_are_recorded_with_the_extra(bench: Open, name: str) -> None:
    rate = 16000 if name == "AMR-WB" else 8000
    tune = to_int16(caller_melody(4, rate))
    payloads = {
        "G729": lambda: telephony.g729(tune),
        "GSM": lambda: telephony.gsm(tune),
        "AMR": lambda: [telephony.amr_payload([frame]) for frame in telephony.amr(tune)],
        "AMR-WB": lambda: [telephony.amr_payload([frame], wideband=True) for frame in telephony.amr_wb(tune)],
    }[name]()
    b = bench()
    answer = b.offer(b.audio("1", "98 101 0", f"rtpmap:98 {name}/{rate}", "rtpmap:101 telephone-event/8000"))
    assert answer.media[0].formats == ["98", "101", "0"]
    sent = [(n * 0.02, build(98, n, n * rate // 50, 1, payload)) for n, payload in enumerate(payloads)]
    b.inject(with_network(sent, 3, duplicate=0.1, jitter=0.03))
    result = b.finish()
    score, lag = match(read(result.stream_file(1))[:, 0], tune, rate)
    assert score > 0.75
    assert abs(lag) < 0.06
    assert result.streams[0]["rate"] == rate
    assert result.streams[0]["rtp_faults"] == []


def test_a_recording_that_nothing_is_sent_to_does_not_grow(bench: Open) -> None:
    b = bench()
    b.offer(b.audio("1"), b.audio("2"))
    left, right = tunes(2)
    b.inject(packets(left, PCMU, 0, ssrc=1), packets(right, PCMU, 0, ssrc=2))
    for _ in range(15):
        b.wait(1)
        b.settle()
    directory = b.session.recordings[0].directory
    sizes = {path.name: path.stat().st_size for path in directory.glob("*.wav")}
    b.wait(600)
    b.settle()
    assert {path.name: path.stat().st_size for path in directory.glob("*.wav")} == sizes
    # The silence is there as soon as something follows it.
    b.clock.advance(b.clock.now() + 0.02)
    b.inject([(at, restamp(d, sequence=100, timestamp=617 * 8000)) for at, d in packets(left, PCMU, 0, ssrc=1)])
    b.wait(20)
    result = b.finish()
    for path in directory.glob("*.wav"):
        assert len(read(path)) == pytest.approx(619 * RATE, abs=RATE // 4)
    mix = read(result.mix)
    assert np.array_equal(mix[-2 * RATE :, 0], read(result.stream_file(1))[-2 * RATE :, 0])
    assert not mix[3 * RATE : 616 * RATE].any()
