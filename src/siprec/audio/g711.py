"""G.711: mu-law (PCMU) and A-law (PCMA) by table (ITU-T G.711, RFC 3551 4.5.14)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.int16]


def _ulaw_decode_table() -> Samples:
    code = ~np.arange(256, dtype=np.int32) & 0xFF
    magnitude = (((code & 0x0F) << 3) + 0x84) << ((code & 0x70) >> 4)
    return np.where(code & 0x80, 0x84 - magnitude, magnitude - 0x84).astype(np.int16)


def _alaw_decode_table() -> Samples:
    code = np.arange(256, dtype=np.int32) ^ 0x55
    segment = (code & 0x70) >> 4
    base = (code & 0x0F) << 4
    magnitude = np.where(segment == 0, base + 8, (base + 0x108) << np.maximum(segment - 1, 0))
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)


def _exponent(magnitude: NDArray[np.int32]) -> NDArray[np.int32]:
    """Position of the highest set bit above bit 7; 0 for values below 256."""
    return np.maximum(np.floor(np.log2(np.maximum(magnitude, 1))).astype(np.int32) - 7, 0)


def _all_samples() -> NDArray[np.int32]:
    # Indexed by the sample read as uint16, so that an int16 array can be viewed instead of shifted.
    return np.arange(65536, dtype=np.uint16).view(np.int16).astype(np.int32)


def _ulaw_encode_table() -> NDArray[np.uint8]:
    sample = _all_samples()
    magnitude = np.minimum(np.abs(sample), 32635) + 0x84
    exponent = _exponent(magnitude)
    code = (exponent << 4) | ((magnitude >> (exponent + 3)) & 0x0F) | np.where(sample < 0, 0x80, 0)
    return (~code & 0xFF).astype(np.uint8)


def _alaw_encode_table() -> NDArray[np.uint8]:
    sample = _all_samples()
    magnitude = np.where(sample >= 0, sample, -sample - 1)
    exponent = _exponent(magnitude)
    shift = np.where(exponent == 0, 4, exponent + 3)
    code = (exponent << 4) | ((magnitude >> shift) & 0x0F)
    return (code ^ np.where(sample >= 0, 0xD5, 0x55)).astype(np.uint8)


_ULAW_DECODE = _ulaw_decode_table()
_ALAW_DECODE = _alaw_decode_table()
_ULAW_ENCODE = _ulaw_encode_table()
_ALAW_ENCODE = _alaw_encode_table()


def ulaw_decode(payload: bytes) -> Samples:
    """One sample per octet, shape ``(len(payload),)``."""
    return _ULAW_DECODE[np.frombuffer(payload, np.uint8)]


def alaw_decode(payload: bytes) -> Samples:
    """One sample per octet, shape ``(len(payload),)``."""
    return _ALAW_DECODE[np.frombuffer(payload, np.uint8)]


def ulaw_encode(samples: Samples) -> bytes:
    """One octet per sample of a mono int16 array."""
    return _ULAW_ENCODE[np.ascontiguousarray(samples).view(np.uint16)].tobytes()


def alaw_encode(samples: Samples) -> bytes:
    """One octet per sample of a mono int16 array."""
    return _ALAW_ENCODE[np.ascontiguousarray(samples).view(np.uint16)].tobytes()
