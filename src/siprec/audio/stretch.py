"""Playing a signal a little slower or faster, by a factor that may change all the time: corrects a clock."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_HALF = 12  # samples on each side
_PHASES = 1024


@functools.cache
def _table() -> Floats:
    """Windowed-sinc taps for each fraction of a sample, shape ``(_PHASES + 1, 2 * _HALF)``; unity gain at DC."""
    offset = np.arange(-_HALF + 1, _HALF + 1)[None, :]
    x = offset - np.arange(_PHASES + 1)[:, None] / _PHASES
    taps = np.sinc(x) * (0.5 + 0.5 * np.cos(np.pi * np.clip(x / _HALF, -1, 1)))
    return np.ascontiguousarray(taps / taps.sum(axis=1, keepdims=True), dtype=np.float32)


class Stretcher:
    """A mono stream; output begins at the first input sample and needs 12 samples of what follows. `before`
    is what preceded the input."""

    HISTORY = _HALF - 1
    """Samples of `before` that are used."""

    def __init__(self, before: Floats | None = None) -> None:
        self._buffer: Floats = np.zeros(_HALF - 1, np.float32)
        if before is not None and len(before):
            self._buffer[-len(before) :] = before[-(_HALF - 1) :]
        self._position = float(_HALF - 1)  # in the buffer, of the next output sample

    def process(self, samples: Floats, rate: float) -> Floats:
        """Feed float32 samples, get what is ready: `rate` is relative, 1e-4 makes the signal 100 ppm longer."""
        self._buffer = np.concatenate([self._buffer, samples])
        step = 1.0 / (1.0 + rate)
        last = len(self._buffer) - _HALF - 1  # the newest sample with all that it needs
        count = max(int((last - self._position) / step) + 1, 0) if last >= self._position else 0
        if not count:
            return np.zeros(0, np.float32)
        places = self._position + step * np.arange(count)
        whole = np.floor(places).astype(np.int64)
        phase = np.rint((places - whole) * _PHASES).astype(np.int64)
        windows = np.lib.stride_tricks.sliding_window_view(self._buffer, 2 * _HALF)
        out: Floats = np.einsum("ij,ij->i", windows[whole - _HALF + 1], _table()[phase], dtype=np.float32)
        self._position += step * count
        drop = int(self._position) - _HALF + 1
        self._buffer = self._buffer[drop:]
        self._position -= drop
        return out

    def flush(self) -> Floats:
        """The rest; the input then counts as followed by silence."""
        return self.process(np.zeros(_HALF, np.float32), 0.0)
