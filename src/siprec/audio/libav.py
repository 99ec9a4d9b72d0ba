"""G.729, iLBC, AMR, AMR-WB and GSM, by FFmpeg's libraries (PyAV, ``pip install siprec[codecs]``).

The library is loaded when the first such payload is to be decoded. Without it nothing of this is offered, and RTP in
these formats is kept as it came.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from siprec.audio import amr

Samples = NDArray[np.int16]

G729_FRAME: Final = 10
_G729_TICKS: Final = 80
_GSM_FRAME: Final = 33
_ILBC: Final = {20: 38, 30: 50}
_MAX_FRAMES: Final = 50
_NAMES: Final = {
    "G729": ("g729",),
    "ILBC": ("ilbc",),
    # FFmpeg's own decoders of AMR know no comfort noise.
    "AMR": ("libopencore_amrnb", "amrnb"),
    "AMR-WB": ("libopencore_amrwb", "amrwb"),
    "GSM": ("gsm",),
}


@functools.cache
def available() -> bool:
    """Whether the library is installed."""
    return importlib.util.find_spec("av") is not None


def readable(name: str, fmtp: str) -> bool:
    """Whether a format called `name` (upper case) with these parameters is one of those that are decoded here."""
    if name not in _NAMES or not available():
        return False
    return not name.startswith("AMR") or amr.supported(fmtp)


def mode(name: str, fmtp: str) -> str:
    """What of the parameters the decoder needs: ``aligned`` for AMR, the frame length in ms for iLBC (RFC 3952 5)."""
    if name.startswith("AMR"):
        return "aligned" if amr.octet_aligned(fmtp) else ""
    if name == "ILBC":
        return "20" if "mode=20" in fmtp.lower().replace(" ", "") else "30"
    return ""


def split(name: str, mode: str, payload: bytes) -> list[bytes]:
    """The frames in a payload; empty if it is none of that format. Bounded, never raises."""
    if name == "G729":
        # One comfort noise frame of two octets may follow (RFC 3551 4.5.6).
        if len(payload) % G729_FRAME not in (0, 2):
            return []
        return _parts(payload, G729_FRAME)
    if name == "GSM":
        return _parts(payload, _GSM_FRAME) if len(payload) % _GSM_FRAME == 0 else []
    if name == "ILBC":
        size = _ilbc_size(mode, payload)
        return _parts(payload, size) if size else []
    return amr.frames(payload, wideband=name == "AMR-WB", aligned=mode == "aligned") or []


def _parts(payload: bytes, size: int) -> list[bytes]:
    return [payload[at : at + size] for at in range(0, len(payload), size)][:_MAX_FRAMES]


def _ilbc_size(mode: str, payload: bytes) -> int:
    """Octets of a frame: as agreed upon, or of the other length if only that fits."""
    agreed = _ILBC[int(mode or 30)]
    return next((size for size in (agreed, *_ILBC.values()) if payload and len(payload) % size == 0), 0)


def ticks(name: str, mode: str, payload: bytes) -> int:
    """Length of a payload in ticks of its RTP clock; 0 if it is none of that format."""
    return len(split(name, mode, payload)) * _frame_ticks(name, mode, payload)


def _frame_ticks(name: str, mode: str, payload: bytes) -> int:
    if name == "G729":
        return _G729_TICKS
    if name == "ILBC":
        return 240 if _ilbc_size(mode, payload) == 50 else 160
    return 320 if name == "AMR-WB" else 160


class LibavDecoder:
    """Decodes the payloads of one RTP source. What is damaged becomes silence of its length."""

    def __init__(self, name: str, mode: str) -> None:
        self._name, self._mode = name, mode
        self._rate = 16000 if name == "AMR-WB" else 8000
        self._av = importlib.import_module("av")
        self._contexts: dict[int, Any] = {}

    def decode(self, payloads: Sequence[bytes]) -> Samples:
        parts = []
        for payload in payloads:
            size = _frame_ticks(self._name, self._mode, payload)
            for frame in split(self._name, self._mode, payload):
                samples = self._frame(frame, size)
                parts.append(samples[:size])
                if len(samples) < size:
                    parts.append(np.zeros(size - len(samples), np.int16))
        return np.concatenate(parts).reshape(-1, 1) if parts else np.zeros((0, 1), np.int16)

    def reset(self) -> None:
        """Nothing: the state is kept over gaps, as a receiver does."""

    def _frame(self, frame: bytes, size: int) -> Samples:
        if self._name == "G729" and len(frame) != G729_FRAME:
            return np.zeros(0, np.int16)  # comfort noise
        context = self._contexts.get(size)
        if context is None:
            context = self._contexts[size] = self._open(size)
        try:
            decoded = context.decode(self._av.Packet(frame))
            arrays = [each.to_ndarray().reshape(-1) for each in decoded]
        except (self._av.FFmpegError, ValueError):
            return np.zeros(0, np.int16)
        if not arrays:
            return np.zeros(0, np.int16)
        samples = np.concatenate(arrays)
        if samples.dtype == np.int16:
            return samples
        return np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)

    def _open(self, size: int) -> Any:
        error: Exception | None = None
        for name in _NAMES[self._name]:
            try:
                context = self._av.CodecContext.create(name, "r")
            except (self._av.FFmpegError, ValueError) as unknown:
                error = unknown
                continue
            context.sample_rate = self._rate
            context.layout = "mono"
            if self._name == "ILBC":
                # FFmpeg tells the frame length by it.
                context.bit_rate = 15200 if size == 160 else 13330
            return context
        raise OSError(f"FFmpeg has no decoder for {self._name}") from error
