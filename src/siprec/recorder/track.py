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
from siprec.audio.stretch import Stretcher
from siprec.recorder import files

Samples = NDArray[np.int16]
Floats = NDArray[np.float32]

_OVERLAP = 0.25  # seconds kept back so that the sources of one stream may overlap at a hand-over
_LONG_GAP = 2.0  # seconds; longer silence is written as silence, not held in memory
MAX_CORRECTION = 300e-6
"""By how much sound is played slower or faster in the mix, to make up for a sender's clock."""
_CORRECTION_TIME = 10.0  # seconds in which an error would be made up for if that limit allowed it
_IN_SILENCE = 0.008  # seconds of error from which on it is corrected in silence ...
_IN_SOUND = 0.012  # ... and in sound: below that the mix has the samples of the streams' files
_CORRECTED = 0.001
_QUIET = 64.0  # samples below that are silence: -54 dB
_QUIET_BLOCKS = 5  # of 10 ms, of which the first and last are left alone


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
    """One track on its way into the mix: gains, the resampler, and the correction of the sender's clock.

    `shift` is how many seconds later than in its own file the track should lie in the mix. What is missing to that is
    made up in silence, else by playing up to 300 ppm slower or faster.
    """

    def __init__(self, rate_in: int, rate_out: int, gains: tuple[float, float]) -> None:
        self.gains = np.array(gains, np.float32)
        self.shift = 0.0
        self.end = 0
        """Frames of the mix up to which it has delivered."""
        self._rates = rate_in, rate_out
        self._resampler = Resampler(rate_in, rate_out)
        self._stretcher: Stretcher | None = None
        self._tail: Floats = np.zeros(0, np.float32)
        self._expected = -1
        self._correcting = False
        self._late = 0.0  # seconds that the mix is behind the track's own file now

    def put(self, position: int, samples: Samples) -> list[tuple[int, Floats]]:
        """Pieces for the mix: position and mono samples at its rate."""
        pieces = []
        mono = samples.mean(axis=1, dtype=np.float32) if samples.shape[1] > 1 else samples[:, 0].astype(np.float32)
        rate_in, rate_out = self._rates
        if position != self._expected:
            pieces += self.flush()
            self._resampler, self._stretcher = Resampler(rate_in, rate_out), None
            self._tail = self._tail[:0]
            # In the gap between, any correction is inaudible.
            late = self.shift if abs(self.shift - self._late) > _IN_SILENCE else self._late
            start = max(round((position / rate_in + late) * rate_out), self.end)
            self._late = start / rate_out - position / rate_in
            self.end = start
        self._expected = position + len(samples)
        missing = self.shift - self._late
        if abs(missing) > _IN_SILENCE:
            mono = self._correct_in_silence(mono, missing)
            missing = self.shift - self._late
        ready = self._resampler.process(mono)
        self._correcting = abs(missing) > (_CORRECTED if self._correcting else _IN_SOUND)
        if self._stretcher is None and self._correcting:
            self._stretcher = Stretcher(self._tail)
        if self._stretcher is not None:
            limit = MAX_CORRECTION if self._correcting else 0.0
            rate = min(max(missing / _CORRECTION_TIME, -limit), limit)
            self._late += len(ready) * rate / rate_out
            ready = self._stretcher.process(ready, rate)
        else:
            self._tail = ready[-Stretcher.HISTORY :]
        pieces.append((self.end, ready))
        self.end += len(ready)
        return pieces

    def _correct_in_silence(self, mono: Floats, missing: float) -> Floats:
        """Take away or repeat some of the first silence in `mono`."""
        rate = self._rates[0]
        block = rate // 100
        count = len(mono) // block
        quiet = np.abs(mono[: count * block]).reshape(count, block).max(axis=1) < _QUIET
        edges = np.flatnonzero(np.diff(np.concatenate(([False], quiet, [False]))))
        for first, last in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            if last - first < _QUIET_BLOCKS:
                continue
            # The blocks next to sound stay as they are.
            start, end = (first + 1) * block, (last - 1) * block
            if missing > 0:
                more = np.resize(mono[start:end], min(round(missing * rate), rate))
                mono = np.concatenate([mono[:end], more, mono[end:]])
                self._late += len(more) / rate
            else:
                less = min(round(-missing * rate), end - start)
                mono = np.concatenate([mono[:start], mono[start + less :]])
                self._late -= less / rate
            break
        return mono

    def flush(self) -> list[tuple[int, Floats]]:
        if self._expected < 0:
            return []
        rest = self._resampler.flush()
        if self._stretcher is not None:
            rest = np.concatenate([self._stretcher.process(rest, 0.0), self._stretcher.flush()])
        piece = (self.end, rest)
        self.end += len(rest)
        self._expected = -1
        return [piece]


class Mix:
    """The stereo mix: first stream left, second right, further ones in the middle; a lone stream on both sides.

    Silence is written when sound follows it, not before.
    """

    def __init__(self, path: Path, audio_format: files.Format, rate: int) -> None:
        self.file = files.create(path, audio_format, rate, 2)
        self.rate = rate
        self.trimmed = 0
        self._settled = 0
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

    def shift(self, key: int, seconds: float) -> None:
        """An attached stream should lie that much later here than in its own file: its sender's clock runs fast or
        slow."""
        if key in self._feeds:
            self._feeds[key].shift = seconds

    def reached(self, key: int) -> float:
        """Seconds from position 0 up to which an attached stream has delivered."""
        return self._feeds[key].end / self.rate

    def _add(self, feed: _Feed, pieces: list[tuple[int, Floats]]) -> None:
        for position, mono in pieces:
            if not len(mono):
                continue
            if position - self.end > _LONG_GAP * self.rate:
                self._silence_until(min(position, self._settled))
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
        self._settled = max(self._settled, until)
        count = min(until - self.file.frames, len(self._pending))
        if count <= 0:
            return
        block = self._pending[:count]
        self._pending = self._pending[count:]
        self.file.write(np.clip(np.rint(block), -32768, 32767).astype(np.int16))

    def _silence_until(self, position: int) -> None:
        self.settle(position)
        if position > self.file.frames and not len(self._pending):
            self.file.write_silence(position - self.file.frames)

    def close(self, end: int) -> None:
        """Write the rest, fill up to position `end` and finish the file."""
        for feed in self._feeds.values():
            self._add(feed, feed.flush())
        self._silence_until(max(end, self.end))
        self.file.close()
