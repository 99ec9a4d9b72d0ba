"""Audio files that stay playable whatever happens to the process that writes them.

Both writers bring the length in the header up to date after each block, so after ``kill -9`` the file plays up to the
last block. :func:`repair` then fits the header to what is really there. Samples are int16, shape
``(frames, channels)``. A disk that refuses is no error here: see :class:`siprec.recorder.disk.DiskFile`.
"""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import soundfile  # type: ignore[import-untyped]
from numpy.typing import NDArray

from siprec.recorder.disk import DiskFile, Stream

Samples = NDArray[np.int16]
Format = Literal["wav", "flac"]

_WAV_HEADER = 80
_FLAC_BLOCK_SIZE = 8
_FLAC_TOTAL = 21  # 4 bits of the octet at 21 and four octets: total samples (RFC 9639 8.2)
_SILENCE_BLOCK = 65536


class AudioFile(Protocol):
    """An audio file being written."""

    path: Path
    frames: int
    disk: DiskFile

    def write(self, samples: Samples) -> None:
        """Append."""
        ...

    def write_silence(self, frames: int) -> None:
        """Append `frames` of silence."""
        ...

    def close(self) -> None:
        """Finish the file. Closing twice is harmless."""
        ...


def _wav_header(rate: int, channels: int, octets: int) -> bytes:
    """RIFF, or RF64 with ds64 once it outgrows 4 GiB (EBU Tech 3306); always the same size."""
    frame = 2 * channels
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, rate * frame, frame, 16)
    riff = _WAV_HEADER - 8 + octets
    if riff <= 0xFFFFFFFF:
        head = struct.pack("<4sI4s4sI28x", b"RIFF", riff, b"WAVE", b"JUNK", 28)
        return head + fmt + struct.pack("<4sI", b"data", octets)
    head = struct.pack("<4sI4s4sI", b"RF64", 0xFFFFFFFF, b"WAVE", b"ds64", 28)
    head += struct.pack("<QQQI", riff, octets, octets // frame, 0)
    return head + fmt + struct.pack("<4sI", b"data", 0xFFFFFFFF)


class WavFile:
    """16-bit PCM WAV; unbuffered writes, header fixed up after each."""

    def __init__(self, path: Path, rate: int, channels: int) -> None:
        self.path = path
        self.frames = 0
        self._rate, self._channels = rate, channels
        self.disk = DiskFile(path)
        self.disk.pwrite(_wav_header(rate, channels, 0), 0)

    def write(self, samples: Samples) -> None:
        data = np.ascontiguousarray(samples, "<i2").tobytes()
        self.disk.pwrite(data, _WAV_HEADER + self.frames * 2 * self._channels)
        self._advance(len(samples))

    def write_silence(self, frames: int) -> None:
        # A hole in the file: no octets written, none on the disk, however long the pause.
        self.disk.truncate(_WAV_HEADER + (self.frames + frames) * 2 * self._channels)
        self._advance(frames)

    def _advance(self, frames: int) -> None:
        self.frames += frames
        self.disk.pwrite(_wav_header(self._rate, self._channels, self.frames * 2 * self._channels), 0)

    def close(self) -> None:
        self.disk.close()


class FlacFile:
    """16-bit FLAC. libFLAC writes whole frames; the total in STREAMINFO follows them."""

    def __init__(self, path: Path, rate: int, channels: int) -> None:
        self.path = path
        self.frames = 0
        self._channels = channels
        self.disk = DiskFile(path)
        try:
            self._file = soundfile.SoundFile(Stream(self.disk), "w", rate, channels, "PCM_16", format="FLAC")
        except soundfile.LibsndfileError as error:
            raise OSError(f"{path.name}: {error}") from error

    def write(self, samples: Samples) -> None:
        try:
            self._file.write(samples)
            self._file.flush()
        except soundfile.LibsndfileError as error:
            raise OSError(str(error)) from error
        self.frames += len(samples)
        block = int.from_bytes(self.disk.head(_FLAC_BLOCK_SIZE, 2), "big")
        if block and self.frames:
            # The encoder keeps one sample back before it closes a frame.
            first = self.disk.head(_FLAC_TOTAL, 1)[0]
            self.disk.pwrite(_flac_total(first, (self.frames - 1) // block * block), _FLAC_TOTAL)

    def write_silence(self, frames: int) -> None:
        while frames > 0:
            count = min(frames, _SILENCE_BLOCK)
            self.write(np.zeros((count, self._channels), np.int16))
            frames -= count

    def close(self) -> None:
        if not self._file.closed:
            self._file.close()
            self.disk.close()


def _flac_total(first: int, frames: int) -> bytes:
    """The five octets from 21 on; the upper half of the `first` belongs to another field."""
    return bytes([first & 0xF0 | frames >> 32 & 0x0F]) + struct.pack(">I", frames & 0xFFFFFFFF)


def _set_flac_total(fd: int, frames: int) -> None:
    first = os.pread(fd, 1, _FLAC_TOTAL)
    if first:
        os.pwrite(fd, _flac_total(first[0], frames), _FLAC_TOTAL)


def create(path: Path, audio_format: Format, rate: int, channels: int) -> AudioFile:
    """Open a new file for writing at `path`; raises FileExistsError, OSError."""
    if audio_format == "flac":
        return FlacFile(path, rate, channels)
    return WavFile(path, rate, channels)


def repair(path: Path) -> int:
    """Fit the header of a file that was not closed to the audio in it; returns its frames.

    Raises ValueError if it is not one of our files, OSError if it cannot be read or written.
    """
    with os.fdopen(_open_regular(path, os.O_RDWR), "r+b") as file:
        head = file.read(_WAV_HEADER)
        if head[:4] == b"fLaC":
            return _repair_flac(path, file.fileno())
        if len(head) < _WAV_HEADER or head[:4] not in (b"RIFF", b"RF64") or head[72:76] != b"data":
            raise ValueError(f"{path.name}: neither a WAV nor a FLAC file of ours")
        channels, rate = struct.unpack_from("<HI", head, 58)
        if not channels or not rate:
            raise ValueError(f"{path.name}: a WAV file without channels or rate")
        size = os.fstat(file.fileno()).st_size - _WAV_HEADER
        frames: int = size // (2 * channels)
        os.ftruncate(file.fileno(), _WAV_HEADER + frames * 2 * channels)
        os.pwrite(file.fileno(), _wav_header(rate, channels, frames * 2 * channels), 0)
        return frames


def _open_regular(path: Path, flags: int) -> int:
    """A descriptor of a regular file. Raises ValueError for anything else, which could hang or lead elsewhere."""
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ValueError(f"{path.name} is no regular file")
    return fd


def read_regular(path: Path, limit: int = 16 << 20) -> bytes:
    """The octets of a regular file. Raises ValueError for anything else, and for more than `limit` octets."""
    with os.fdopen(_open_regular(path, os.O_RDONLY), "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"{path.name} has more than {limit} octets")
    return data


def _repair_flac(path: Path, fd: int) -> int:
    """The header says what was written when it was last touched: at most some frames more or less are there."""
    size = int.from_bytes(os.pread(fd, 2, _FLAC_BLOCK_SIZE), "big") or 4096
    high, low = os.pread(fd, 5, _FLAC_TOTAL)[:1], os.pread(fd, 4, _FLAC_TOTAL + 1)
    if len(low) < 4:
        raise ValueError(f"{path.name}: FLAC header cut off")
    said = (high[0] & 0x0F) << 32 | int.from_bytes(low, "big")
    if _readable(path, said, size) and not _readable(path, said // size * size + size, size):
        return said  # closed in good order
    for blocks in range(said // size + 3, 0, -1):
        _set_flac_total(fd, blocks * size)
        if _readable(path, blocks * size, size):
            return blocks * size
    _set_flac_total(fd, 0)
    return 0


def _readable(path: Path, frames: int, size: int) -> bool:
    """True if the last block of `frames` frames can be decoded under the present header."""
    if not frames:
        return False
    start = (frames - 1) // size * size
    try:
        with soundfile.SoundFile(str(path)) as file:
            if file.frames < frames:
                return False
            file.seek(start)
            return len(file.read(frames - start, dtype="int16")) == frames - start
    except (soundfile.LibsndfileError, RuntimeError):
        return False
