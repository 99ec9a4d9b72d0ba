"""Codecs against an independent implementation where there is one, and by signal."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import soundfile  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from siprec.audio import codecs, g711, opus
from siprec.audio.melody import callee_melody, caller_melody, match, matches, to_int16
from siprec.audio.resample import Resampler, resample
from tests.unit.audio.ogg_opus import opus_packets


@pytest.mark.parametrize(("law", "decode"), [("ULAW", g711.ulaw_decode), ("ALAW", g711.alaw_decode)])
def test_g711_decodes_as_libsndfile_does(law: str, decode: Callable[[bytes], NDArray[np.int16]]) -> None:
    octets = bytes(range(256))
    expected, _ = soundfile.read(
        io.BytesIO(octets), dtype="int16", format="RAW", subtype=law, samplerate=8000, channels=1
    )
    assert np.array_equal(decode(octets), expected)


def test_g711_mu_law_encodes_as_libsndfile_does() -> None:
    every = np.arange(-32768, 32768).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, every, 8000, format="RAW", subtype="ULAW")
    assert g711.ulaw_encode(every) == file.getvalue()


def test_g711_a_law_is_its_own_inverse_and_never_far_off() -> None:
    every = np.arange(-32768, 32768).astype(np.int16)
    decoded = g711.alaw_decode(g711.alaw_encode(every)).astype(np.int32)
    error = np.abs(decoded - every)
    assert np.all(error <= np.maximum(np.abs(every.astype(np.int32)) // 32 + 1, 16))
    codes = bytes(range(256))
    assert g711.alaw_encode(g711.alaw_decode(codes)) == codes


def test_g722_has_16_khz_samples_and_an_8_khz_clock() -> None:
    meaning = codecs.codec("G722", 16000)
    assert (meaning.clock_rate, meaning.sample_rate) == (8000, 16000)
    tune = to_int16(caller_melody(3, 16000))
    encoder, decoder = codecs.encoder(meaning), codecs.decoder(meaning)
    assert encoder is not None
    assert decoder is not None
    payloads = [encoder.encode(tune[start : start + 320]) for start in range(0, len(tune), 320)]
    assert {len(p) for p in payloads} == {160}  # 64 kbit/s
    assert meaning.duration(payloads[0]) == 160
    decoded = np.concatenate([decoder.decode([p]) for p in payloads])[:, 0]
    score, lag = match(decoded, tune, 16000)
    assert score > 0.98
    assert 0 < lag < 0.003  # the filter bank's delay


def test_a_piecewise_decoder_gives_the_same_as_one_that_gets_all_at_once() -> None:
    tune = to_int16(caller_melody(1, 16000))
    meaning = codecs.codec("G722", 8000)
    encoder, whole, pieces = codecs.encoder(meaning), codecs.decoder(meaning), codecs.decoder(meaning)
    assert encoder is not None
    assert whole is not None
    assert pieces is not None
    payloads = [encoder.encode(tune[start : start + 160]) for start in range(0, len(tune), 160)]
    assert np.array_equal(whole.decode(payloads), np.concatenate([pieces.decode([p]) for p in payloads]))


def opus_decoders() -> list[object]:
    library = opus.libopus()
    missing = pytest.mark.skipif(library is None, reason="no libopus.so.0 on this system")
    return [
        pytest.param(lambda n: opus.LibopusDecoder(library, n), id="libopus", marks=missing),  # type: ignore[arg-type]
        pytest.param(opus.SoundfileDecoder, id="soundfile"),
    ]


@pytest.mark.parametrize("make", opus_decoders())
@pytest.mark.parametrize("channels", [1, 2])
def test_opus_decodes_live_in_batches(make: Callable[[int], codecs.Decoder], channels: int) -> None:
    left, right = caller_melody(4, 48000), callee_melody(4, 48000)
    payloads, _ = opus_packets(left if channels == 1 else np.stack([left, right], axis=1))
    decoder = make(channels)
    parts = [decoder.decode(payloads[start : start + 25]) for start in range(0, len(payloads), 25)]
    got = np.concatenate(parts)
    assert len(got) == sum(opus.duration(p) for p in payloads)
    assert got.shape[1] == channels
    assert matches(got[:, 0], left, 48000) > 0.95
    if channels == 2:
        assert matches(got[:, 1], right, 48000) > 0.95


@pytest.mark.parametrize("make", opus_decoders())
def test_opus_survives_gaps_and_rubbish(make: Callable[[int], codecs.Decoder]) -> None:
    tune = caller_melody(4, 48000)
    payloads, _ = opus_packets(tune)
    decoder = make(1)
    before = decoder.decode(payloads[:50])
    rubbish = decoder.decode([b"\xff\xff\xff", b"", b"\x03", b"\x00" * 2000])
    assert np.abs(rubbish.astype(np.int32)).max(initial=0) <= 32768
    decoder.reset()
    after = decoder.decode(payloads[100:])
    at = sum(opus.duration(p) for p in payloads[:100])
    assert matches(before[:, 0], tune[: len(before)], 48000) > 0.9
    assert matches(after[:, 0], tune[at:], 48000) > 0.9


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_no_payload_makes_a_codec_raise(payload: bytes) -> None:
    for name, rate, channels in (("PCMU", 8000, 1), ("G722", 8000, 1), ("L16", 8000, 2), ("OPUS", 48000, 2)):
        meaning = codecs.codec(name, rate, channels)
        assert 0 <= meaning.duration(payload) <= 5760
        decoder = codecs.decoder(meaning)
        assert decoder is not None
        assert decoder.decode([payload]).ndim == 2


@pytest.mark.parametrize(
    ("name", "rate", "channels", "kind"),
    [
        ("pcmu", 8000, 1, "audio"),
        ("opus", 48000, 2, "audio"),
        ("telephone-event", 8000, 1, "event"),
        ("CN", 8000, 1, "noise"),
        ("EVS", 16000, 1, "unknown"),
        ("PCMU", 8000, 2, "unknown"),
        ("L16", 0, 1, "unknown"),
        ("opus", 8000, 1, "unknown"),
    ],
)
def test_rtpmaps_are_sorted_by_what_can_be_done_with_them(name: str, rate: int, channels: int, kind: str) -> None:
    assert codecs.codec(name, rate, channels).kind == kind


@pytest.mark.parametrize("rate", [11025, 16000, 44100, 48000])
def test_resampling_keeps_the_signal_and_its_place(rate: int) -> None:
    tune = caller_melody(3, 8000)
    up = resample(tune, 8000, rate)
    assert len(up) == -(-len(tune) * rate // 8000)
    score, lag = match(up, caller_melody(3, rate), rate)
    assert score > 0.99
    assert abs(lag) <= 1 / 8000  # a tune's phase depends on its rate by half a sample
    sine = np.sin(2 * np.pi * 1000 * np.arange(8000) / 8000).astype(np.float32)
    exact = np.sin(2 * np.pi * 1000 * np.arange(rate) / rate)
    assert np.abs(resample(sine, 8000, rate) - exact)[200:-200].max() < 0.002
    down = resample(up, rate, 8000)[: len(tune)]
    assert np.abs(down - tune)[50:-50].max() < 0.001


def test_a_streaming_resampler_gives_the_same_as_all_at_once() -> None:
    tune = caller_melody(1, 8000)
    converter = Resampler(8000, 44100)
    parts = [converter.process(tune[start : start + 37]) for start in range(0, len(tune), 37)]
    assert np.allclose(np.concatenate([*parts, converter.flush()]), resample(tune, 8000, 44100), atol=1e-6)


def test_the_two_tunes_cannot_be_mistaken_for_each_other() -> None:
    caller, callee = caller_melody(5, 8000), callee_melody(5, 8000)
    noise = np.random.default_rng(1).normal(0, 0.02, len(caller)).astype(np.float32)
    assert matches(caller + noise, caller, 8000) > 0.95
    assert matches(caller, callee, 8000) < 0.2
    assert matches(noise, caller, 8000) < 0.2
    assert matches(np.zeros(40000), caller, 8000) == 0
    # Half of what was sent is not what was sent.
    assert matches(caller[: len(caller) // 2], caller, 8000) < 0.8
