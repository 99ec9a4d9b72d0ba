"""Two tunes that cannot be mistaken for each other, and the proof that a recording holds one of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# Semitones relative to A4. The notes of the two tunes are disjoint and both stay far below 3.4 kHz (narrow band).
_CALLER = (-9, -5, -2, 3, -2, -5, -9, 3)
_CALLEE = (-1, 2, 6, 9, 11, 9, 6, 2)
_NOTE = 0.23  # seconds


def _tune(notes: tuple[int, ...], seconds: float, rate: int, note: float) -> Floats:
    time = np.arange(round(seconds * rate)) / rate
    step = np.floor(time / note).astype(np.int64)
    # The tune is transposed a little every round, so that the signal never repeats and a lag is unambiguous.
    tone = np.array(notes)[step % len(notes)] + 0.37 * (step // len(notes) % 23)
    frequency = 440.0 * 2.0 ** (tone / 12)
    phase = 2 * np.pi * np.cumsum(frequency) / rate
    inside = time / note - step
    envelope = np.minimum(1.0, 20 * inside) * np.exp(-1.5 * inside) * np.minimum(1.0, 20 * (1 - inside))
    signal = envelope * (0.42 * np.sin(phase) + 0.12 * np.sin(2 * phase))
    return signal.astype(np.float32)


def caller_melody(seconds: float, rate: int) -> Floats:
    """Mono float32 in -1..1, shape ``(seconds * rate,)``: notes of 230 ms."""
    return _tune(_CALLER, seconds, rate, _NOTE)


def callee_melody(seconds: float, rate: int) -> Floats:
    """Mono float32 in -1..1, shape ``(seconds * rate,)``: other notes, of 310 ms."""
    return _tune(_CALLEE, seconds, rate, 0.31)


def to_int16(signal: Floats) -> NDArray[np.int16]:
    """Scale -1..1 to int16, clipped."""
    return np.clip(np.rint(signal * 32767), -32768, 32767).astype(np.int16)


def _correlation(recorded: NDArray[np.float64], sent: NDArray[np.float64]) -> tuple[float, int]:
    size = 1 << (len(recorded) + len(sent) - 1).bit_length()
    product = np.fft.irfft(np.fft.rfft(recorded, size) * np.conj(np.fft.rfft(sent, size)), size)
    # Energy of the part of either signal that overlaps at each lag: a cut recording may still match fully.
    lags = np.concatenate([np.arange(0, len(recorded)), np.arange(-len(sent) + 1, 0)])
    values = np.concatenate([product[: len(recorded)], product[size - len(sent) + 1 :] if len(sent) > 1 else []])
    energy_recorded = np.concatenate([[0.0], np.cumsum(recorded**2)])
    energy_sent = np.concatenate([[0.0], np.cumsum(sent**2)])
    start, end = np.maximum(lags, 0), np.minimum(lags + len(sent), len(recorded))
    inside_recorded = energy_recorded[end] - energy_recorded[start]
    # All of what was sent counts, so that a recording which lost half of it cannot score high.
    norm = np.sqrt(np.maximum(inside_recorded, 1e-9 * energy_recorded[-1]) * energy_sent[-1])
    scores = values / norm
    best = int(np.argmax(scores))
    return float(scores[best]), int(lags[best])


def match(recorded: NDArray[np.generic], sent: NDArray[np.generic], rate: int) -> tuple[float, float]:
    """How well `recorded` holds `sent` (both mono, at `rate` Hz).

    Returns the peak of the normalised cross-correlation (1.0: identical up to level and delay; below 0.3: something
    else) and the delay of `sent` in `recorded` in seconds (negative: its beginning is cut off).
    """
    a = np.asarray(recorded, np.float64).reshape(-1)
    b = np.asarray(sent, np.float64).reshape(-1)
    if not len(a) or not len(b) or not a.any() or not b.any():
        return 0.0, 0.0
    score, lag = _correlation(a - a.mean(), b - b.mean())
    return score, lag / rate


def matches(recorded: NDArray[np.generic], sent: NDArray[np.generic], rate: int) -> float:
    """The score of :func:`match` alone, -1..1."""
    return match(recorded, sent, rate)[0]
