"""G.729, iLBC, AMR, AMR-WB and GSM: decoded with the extra, kept raw without."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siprec.audio import amr, libav
from siprec.audio.codecs import Codec, codec, decoder
from siprec.audio.melody import caller_melody, match, to_int16
from tests.unit.audio import telephony


def decoded(kind: Codec, payloads: list[bytes]) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    made = decoder(kind)
    assert made is not None
    parts = [made.decode(payloads[n : n + 7])[:, 0] for n in range(0, len(payloads), 7)]
    return np.concatenate(parts)


def is_speech(kind: Codec, payloads: list[bytes], *, least: float = 0.85) -> None:
    """What comes out is what went in, at its length."""
    got = decoded(kind, payloads)
    assert sum(kind.duration(p) for p in payloads) == len(got)
    score, lag = match(got, to_int16(caller_melody(3, kind.sample_rate)), kind.sample_rate)
    assert score > least
    assert abs(lag) < 0.05


def speech(rate: int = 8000) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    return to_int16(caller_melody(3, rate))


def test_g729_is_decoded() -> None:
    is_speech(codec("G729", 8000), telephony.g729(speech()))


def test_g729_with_comfort_noise_keeps_its_length() -> None:
    kind = codec("G729", 8000, 1, "annexb=yes")
    payloads = telephony.g729(speech())
    payloads[50:60] = [payloads[50][:10] + b"\x12\x34", *[b"\x12\x34"] * 9]
    got = decoded(kind, payloads)
    assert len(got) == sum(kind.duration(p) for p in payloads) == 140 * 160 + 160 + 9 * 80


def test_gsm_is_decoded() -> None:
    is_speech(codec("GSM", 8000), telephony.gsm(speech()))


@pytest.mark.parametrize("mode", range(8))
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("together", [1, 3])
def test_amr_is_decoded_in_every_mode_and_form(mode: int, aligned: bool, together: int) -> None:
    frames = telephony.amr(speech(), mode)
    payloads = [
        telephony.amr_payload(frames[n : n + together], aligned=aligned) for n in range(0, len(frames), together)
    ]
    kind = codec("AMR", 8000, 1, f"mode-set={mode}; octet-align={int(aligned)}")
    is_speech(kind, payloads, least=0.6 if mode < 4 else 0.75)


@pytest.mark.parametrize("name", ["AMR", "AMR-WB"])
def test_amr_is_decoded_where_ffmpeg_was_built_without_opencore(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    wide = name == "AMR-WB"
    monkeypatch.setitem(libav._NAMES, name, ("no such decoder", "amrwb" if wide else "amrnb"))
    frames = telephony.amr_wb(speech(16000)) if wide else telephony.amr(speech())
    payloads = [telephony.amr_payload([frame], wideband=wide) for frame in frames]
    kind = codec(name, 16000 if wide else 8000)
    is_speech(kind, payloads, least=0.6)
    assert np.abs(decoded(kind, payloads)).max() > 5000


@pytest.mark.parametrize("mode", [0, 2, 8])
@pytest.mark.parametrize("aligned", [False, True])
def test_amr_wb_is_decoded(mode: int, aligned: bool) -> None:
    frames = telephony.amr_wb(speech(16000), mode)
    payloads = [telephony.amr_payload([frame], wideband=True, aligned=aligned) for frame in frames]
    is_speech(codec("AMR-WB", 16000, 1, "octet-align=1" if aligned else ""), payloads, least=0.6)


def test_comfort_noise_of_amr_keeps_its_length() -> None:
    signal = speech()
    signal[8000:16000] = 0
    frames = telephony.amr(signal, 7, dtx=True)
    assert {frame[0] >> 3 & 15 for frame in frames} >= {7, 8, 15}
    payloads = [telephony.amr_payload([frame]) for frame in frames]
    got = decoded(codec("AMR", 8000), payloads)
    assert len(got) == 160 * len(frames)
    assert np.abs(got[9500:15500]).max() < 1000


@pytest.mark.parametrize(("mode", "size", "ticks"), [("20", 38, 160), ("30", 50, 240)])
def test_ilbc_is_decoded_in_both_frame_lengths(mode: str, size: int, ticks: int) -> None:
    kind = codec("iLBC", 8000, 1, f"mode={mode}")
    rng = random.Random(1)
    payloads = [rng.randbytes(size * n) for n in (1, 1, 2, 1)]
    assert [kind.duration(p) for p in payloads] == [ticks, ticks, 2 * ticks, ticks]
    got = decoded(kind, payloads)
    assert len(got) == 5 * ticks
    assert got.any()
    # A sender that takes the other length than agreed is understood.
    other = codec("iLBC", 8000, 1, f"mode={50 - int(mode)}")
    assert other.duration(payloads[0]) == ticks
    assert np.array_equal(decoded(other, payloads), got)


def test_forms_of_amr_that_are_not_read_are_not_taken() -> None:
    for fmtp in ("interleaving=4; octet-align=1", "crc=1", "robust-sorting=1", "channels=2"):
        assert codec("AMR", 8000, 1, fmtp).kind == "unknown"
    assert codec("AMR", 8000, 1, "octet-align=1; mode-change-period=2; crc=0").kind == "audio"
    assert codec("AMR", 8000, 2).kind == "unknown"
    assert codec("G729", 16000).kind == "unknown"


def test_without_the_extra_nothing_of_it_is_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libav, "available", lambda: False)
    for name, rate in (("G729", 8000), ("iLBC", 8000), ("AMR", 8000), ("AMR-WB", 16000), ("GSM", 8000)):
        assert codec(name, rate).kind == "unknown"
        assert decoder(codec(name, rate)) is None


KINDS = [codec(*entry) for entry in (("G729", 8000), ("iLBC", 8000), ("AMR", 8000), ("AMR-WB", 16000), ("GSM", 8000))]
KINDS.append(codec("AMR", 8000, 1, "octet-align=1"))


@settings(deadline=None, max_examples=200)
@given(st.lists(st.binary(max_size=120), max_size=6), st.sampled_from(KINDS))
def test_damaged_payloads_become_silence_of_their_length(payloads: list[bytes], kind: Codec) -> None:
    made = decoder(kind)
    assert made is not None
    assert len(made.decode(payloads)) == sum(kind.duration(p) for p in payloads)


@pytest.mark.parametrize("build", [lambda n: b"\xff" * n, lambda n: b"\x00" * n, lambda n: b"\xf0" + b"\xfc" * n])
@pytest.mark.parametrize("aligned", [False, True])
def test_a_large_payload_costs_little(build: Callable[[int], bytes], aligned: bool) -> None:
    assert amr.count(build(9000), wideband=False, aligned=aligned) <= 50
    assert len(libav.split("GSM", "", b"\xd0" * 33 * 270)) == 50
