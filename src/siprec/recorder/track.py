"""Audio on the recording's time line: one file per stream, and the stereo mix of all.

Position 0 is the same moment in every file of a recording, so the files line up whatever the streams did.
Everything here runs in the disk thread.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siprec.audio.resample import Resampler
from siprec.recorder import files

Samples = NDArray[np.int16]
Floats = NDArray[np.float32]

_OVERLAP = 0.25  # seconds kept back so that the sources of one stream may overlap at a hand-over
_LONG_GAP = 2.0  # seconds; longer silence is written as silence, not held in memory


class Track:
    """The file of one stream. Audio may be added out of place within the last quarter of a second; what overlaps is
    summed, what comes later than that is lost and counted in `trimmed` (frames)."""

    def __init__(self, path: Path, audio_format: files.Format, rate: int, channels: int) -> None:
        self.file = files.create(path, audio_format, rate, channels)
        self.rate, self.channels = rate, channels
        self.trimmed = 0
        self.audio_frames = 0
        self._pending: NDArray[np.int32] = np.zeros((0, channels), np.int32)
        self.on_audio: Callable[[int, Samples], None] | None = None

    @property
    def end(self) -> int:
        """Frames from position 0 to the end of what has been added."""
        return self.file.frames + len(self._pending)

    def add(self, position: int, samples: Samples) -> None:
        """Lay `samples`, shape ``(frames, channels of this track)``, at `position` in frames."""
        self.audio_frames += len(samples)
        start = position - self.file.frames
        if start < 0:
            self.trimmed += min(-start, len(samples))
            samples = samples[-start:]
            start = 0
        if not len(samples):
            return
        if start - len(self._pending) > _LONG_GAP * self.rate:
            self.commit(self.end)
            self.silence_until(position)
            start = 0
        needed = start + len(samples) - len(self._pending)
        if needed > 0:
            self._pending = np.concatenate([self._pending, np.zeros((needed, self.channels), np.int32)])
        self._pending[start : start + len(samples)] += samples

    def settle(self) -> None:
        """Write everything but the last quarter of a second."""
        self.commit(self.end - round(_OVERLAP * self.rate))

    def commit(self, until: int) -> None:
        """Write what lies before position `until`."""
        count = min(until - self.file.frames, len(self._pending))
        if count <= 0:
            return
        block = np.clip(self._pending[:count], -32768, 32767).astype(np.int16)
        self._pending = self._pending[count:]
        position = self.file.frames
        self.file.write(block)
        if self.on_audio is not None:
            self.on_audio(position, block)

    def silence_until(self, position: int) -> None:
        """Fill with silence up to `position`."""
        self.commit(self.end)
        if position > self.file.frames:
            self.file.write_silence(position - self.file.frames)

    def close(self, end: int) -> None:
        """Write the rest, fill up to position `end` and finish the file."""
        self.commit(self.end)
        self.silence_until(end)
        self.file.close()


class _Feed:
    """One track on its way into the mix: gains, and the resampler with its place."""

    def __init__(self, rate_in: int, rate_out: int, gains: tuple[float, float]) -> None:
        self.gains = np.array(gains, np.float32)
        self._rates = rate_in, rate_out
        self._resampler = Resampler(rate_in, rate_out)
        self._expected = -1
        self._out = 0

    def put(self, position: int, samples: Samples) -> list[tuple[int, Floats]]:
        """Pieces for the mix: position and mono samples at its rate."""
        pieces = []
        mono = samples.mean(axis=1, dtype=np.float32) if samples.shape[1] > 1 else samples[:, 0].astype(np.float32)
        if position != self._expected:
            pieces += self.flush()
            self._resampler = Resampler(*self._rates)
            self._out = round(position * self._rates[1] / self._rates[0])
        self._expected = position + len(samples)
        ready = self._resampler.process(mono)
        pieces.append((self._out, ready))
        self._out += len(ready)
        return pieces

    def flush(self) -> list[tuple[int, Floats]]:
        if self._expected < 0:
            return []
        rest = self._resampler.flush()
        piece = (self._out, rest)
        self._expected = -1
        return [piece]


class Mix:
    """The stereo mix: first stream left, second right, further ones in the middle; a lone stream on both sides."""

    def __init__(self, path: Path, audio_format: files.Format, rate: int) -> None:
        self.file = files.create(path, audio_format, rate, 2)
        self.rate = rate
        self.trimmed = 0
        self._pending: Floats = np.zeros((0, 2), np.float32)
        self._feeds: dict[int, _Feed] = {}

    def attach(self, key: int, track: Track, gains: tuple[float, float]) -> None:
        """Mix in what `track` commits from now on, with `gains` for left and right."""
        feed = self._feeds[key] = _Feed(track.rate, self.rate, gains)
        track.on_audio = lambda position, samples: self._add(feed, feed.put(position, samples))

    @property
    def end(self) -> int:
        """Frames from position 0 to the end of what has been added."""
        return self.file.frames + len(self._pending)

    def place(self, key: int, gains: tuple[float, float]) -> None:
        """Change the gains of an attached stream from here on."""
        if key in self._feeds:
            self._feeds[key].gains = np.array(gains, np.float32)

    def _add(self, feed: _Feed, pieces: list[tuple[int, Floats]]) -> None:
        for position, mono in pieces:
            start = position - self.file.frames
            if start < 0:
                self.trimmed += min(-start, len(mono))
                mono, start = mono[-start:], 0
            if not len(mono):
                continue
            needed = start + len(mono) - len(self._pending)
            if needed > 0:
                self._pending = np.concatenate([self._pending, np.zeros((needed, 2), np.float32)])
            self._pending[start : start + len(mono)] += mono[:, None] * feed.gains

    def settle(self, until: int) -> None:
        """Write what lies before position `until`; nothing before it may come any more."""
        count = until - self.file.frames
        if count <= 0:
            return
        block = self._pending[:count]
        self._pending = self._pending[len(block) :]
        if len(block):
            self.file.write(np.clip(np.rint(block), -32768, 32767).astype(np.int16))
        if count > len(block):
            self.file.write_silence(count - len(block))

    def close(self, end: int) -> None:
        """Write the rest, fill up to position `end` and finish the file."""
        for feed in self._feeds.values():
            self._add(feed, feed.flush())
        self.settle(max(end, self.file.frames + len(self._pending)))
        self.file.close()
