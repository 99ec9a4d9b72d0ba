"""Streaming sample-rate conversion by a polyphase windowed sinc, without delay between input and output."""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_ZERO_CROSSINGS = 12


@functools.cache
def _filter(up: int, down: int) -> Floats:
    """Taps per phase, shape ``(up, width)``; unity gain at DC in each phase."""
    cutoff = min(1.0, up / down) * 0.95
    half = math.ceil(_ZERO_CROSSINGS / cutoff)
    offset = np.arange(-half + 1, half + 1)
    phase = np.arange(up)[:, None] / up
    x = offset[None, :] - phase
    taps = cutoff * np.sinc(cutoff * x) * (0.5 + 0.5 * np.cos(np.pi * np.clip(x / half, -1, 1)))
    return np.ascontiguousarray(taps / taps.sum(axis=1, keepdims=True), dtype=np.float32)


class Resampler:
    """Turns a mono stream at `rate_in` Hz into one at `rate_out` Hz.

    Output sample ``n`` stands for time ``n / rate_out`` exactly, so positions on a time line scale by the ratio.
    """

    def __init__(self, rate_in: int, rate_out: int) -> None:
        divisor = math.gcd(rate_in, rate_out)
        self._up, self._down = rate_out // divisor, rate_in // divisor
        self._taps = _filter(self._up, self._down) if self._up != self._down else None
        self._half = self._taps.shape[1] // 2 if self._taps is not None else 0
        self._buffer: Floats = np.zeros(max(self._half - 1, 0), np.float32)
        self._first = -max(self._half - 1, 0)  # input index of _buffer[0]
        self._next = 0  # next output index
        self._total = 0

    def process(self, samples: Floats) -> Floats:
        """Feed mono float32 samples; returns what is ready, a few samples behind the input."""
        self._total += len(samples)
        if self._taps is None:
            return samples
        self._buffer = np.concatenate([self._buffer, samples])
        return self._drain()

    def flush(self) -> Floats:
        """The rest: output up to the end of the input, which then counts as followed by silence."""
        if self._taps is None:
            return np.zeros(0, np.float32)
        wanted = -(-self._total * self._up // self._down)
        self._buffer = np.concatenate([self._buffer, np.zeros(self._half + 1, np.float32)])
        return self._drain(wanted)

    def _drain(self, limit: int | None = None) -> Floats:
        assert self._taps is not None
        last_input = self._first + len(self._buffer) - 1 - self._half  # newest centre that has all its taps
        count = max((last_input * self._up + self._up - 1) // self._down - self._next + 1, 0)
        if limit is not None:
            count = min(count, limit - self._next)
        if count <= 0:
            return np.zeros(0, np.float32)
        position = (np.arange(count) + self._next) * self._down
        centre, phase = np.divmod(position, self._up)
        start = centre - self._half + 1 - self._first
        windows = np.lib.stride_tricks.sliding_window_view(self._buffer, self._taps.shape[1])
        out: Floats = np.einsum("ij,ij->i", windows[start], self._taps[phase], dtype=np.float32)
        self._next += count
        keep = self._next * self._down // self._up - self._half + 1 - self._first
        if keep > 0:
            self._buffer = self._buffer[keep:]
            self._first += keep
        return out


def resample(samples: Floats, rate_in: int, rate_out: int) -> Floats:
    """All of a mono float32 signal at once; ``ceil(len * rate_out / rate_in)`` samples."""
    converter = Resampler(rate_in, rate_out)
    return np.concatenate([converter.process(samples), converter.flush()])
