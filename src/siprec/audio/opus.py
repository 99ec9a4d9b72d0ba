"""Opus (RFC 6716) in RTP (RFC 7587).

The system's libopus decodes packet by packet when it can be loaded, because only it decodes a live stream exactly as
sent. Elsewhere the libsndfile that comes with ``soundfile`` does it: it reads files only, so each batch of packets goes
through a small Ogg file that begins with the last 100 ms of the batch before, which is enough for the decoder to
converge (RFC 7845 4.6) and is cut off again.
"""

from __future__ import annotations

import ctypes
import functools
import io
from collections.abc import Sequence

import numpy as np
import soundfile  # type: ignore[import-untyped]
from numpy.typing import NDArray

from siprec.audio import ogg

Samples = NDArray[np.int16]

SAMPLE_RATE = 48000
_MAX_FRAMES = 5760  # 120 ms, the longest packet (RFC 6716 3.2.5)
_FRAME_TICKS = (480, 960, 1920, 2880) * 3 + (480, 960) * 2 + (120, 240, 480, 960) * 4


def duration(packet: bytes) -> int:
    """Length of an Opus packet in 48 kHz samples from its TOC (RFC 6716 3.1); 0 if it is not a packet."""
    if not packet:
        return 0
    code = packet[0] & 3
    if code == 3 and len(packet) < 2:
        return 0
    count = (1, 2, 2, packet[1] & 0x3F)[code] if code == 3 else (1, 2, 2)[code]
    ticks = _FRAME_TICKS[packet[0] >> 3] * count
    return ticks if 0 < ticks <= _MAX_FRAMES else 0


@functools.cache
def libopus() -> ctypes.CDLL | None:
    """The system's libopus, None where there is none."""
    try:
        library = ctypes.CDLL("libopus.so.0")
    except OSError:
        return None
    library.opus_decoder_create.restype = ctypes.c_void_p
    library.opus_decoder_create.argtypes = [ctypes.c_int32, ctypes.c_int, ctypes.POINTER(ctypes.c_int)]
    library.opus_decoder_destroy.restype = None
    library.opus_decoder_destroy.argtypes = [ctypes.c_void_p]
    library.opus_decode.restype = ctypes.c_int
    library.opus_decode.argtypes = [
        ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32, ctypes.c_void_p, ctypes.c_int, ctypes.c_int,
    ]  # fmt: skip
    return library


class LibopusDecoder:
    """libopus through ctypes. Calls release the GIL."""

    def __init__(self, library: ctypes.CDLL, channels: int) -> None:
        error = ctypes.c_int()
        self._library = library
        self._channels = channels
        self._state = library.opus_decoder_create(SAMPLE_RATE, channels, ctypes.byref(error))
        if not self._state or error.value:
            raise MemoryError(f"libopus gives no decoder: error {error.value}")
        self._buffer = np.zeros((_MAX_FRAMES, channels), np.int16)

    def __del__(self) -> None:
        if getattr(self, "_state", None):
            self._library.opus_decoder_destroy(self._state)
            self._state = None

    def decode(self, payloads: Sequence[bytes]) -> Samples:
        parts = []
        for payload in payloads:
            expected = duration(payload)
            frames = self._library.opus_decode(
                self._state, payload, len(payload), self._buffer.ctypes.data, _MAX_FRAMES, 0
            )
            # A damaged packet keeps its place on the time line as silence.
            part = self._buffer[:frames].copy() if frames > 0 else np.zeros((expected, self._channels), np.int16)
            parts.append(part)
        return np.concatenate(parts) if parts else np.zeros((0, self._channels), np.int16)

    def reset(self) -> None:
        """Nothing: the decoder's own state fades, and discarding it would click."""


class SoundfileDecoder:
    """libsndfile, batch by batch, each with the end of the batch before as a run-up."""

    _RUN_UP = 4800

    def __init__(self, channels: int) -> None:
        self._channels = channels
        self._run_up: list[tuple[bytes, int]] = []

    def decode(self, payloads: Sequence[bytes]) -> Samples:
        batch = [(payload, duration(payload)) for payload in payloads]
        packets = [item for item in self._run_up + batch if item[1]]
        skip = sum(ticks for _, ticks in self._run_up)
        wanted = sum(ticks for _, ticks in batch)
        out = np.zeros((wanted, self._channels), np.int16)
        if packets:
            try:
                data, _ = soundfile.read(
                    io.BytesIO(ogg.opus_file(packets, self._channels)), dtype="int16", always_2d=True
                )
            except (soundfile.LibsndfileError, RuntimeError):
                data = out[:0]
            part = data[skip : skip + wanted]
            out[: len(part)] = part
        self._run_up, kept = [], 0
        for item in reversed(packets):
            if kept >= self._RUN_UP:
                break
            self._run_up.insert(0, item)
            kept += item[1]
        return out

    def reset(self) -> None:
        self._run_up = []


def decoder(channels: int) -> LibopusDecoder | SoundfileDecoder:
    """A decoder for one RTP source, `channels` 1 or 2 (a mono decoder mixes a stereo stream down itself)."""
    library = libopus()
    return LibopusDecoder(library, channels) if library is not None else SoundfileDecoder(channels)
