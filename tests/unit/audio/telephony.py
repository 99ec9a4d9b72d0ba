"""Encoders of telephony, from Debian's libraries: speech to be decoded by ours."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

Samples = NDArray[np.int16]

PACKAGES = {
    "libbcg729.so.0": "libbcg729-0",
    "libgsm.so.1": "libgsm1",
    "libopencore-amrnb.so.0": "libopencore-amrnb0",
    "libvo-amrwbenc.so.0": "libvo-amrwbenc0",
}
NB_BITS = (95, 103, 118, 134, 148, 159, 204, 244, 39)
WB_BITS = (132, 177, 253, 285, 317, 365, 397, 461, 477, 40)


def _library(name: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(name)
    except OSError:
        pytest.skip(f"needs Debian's {PACKAGES[name]}")


def _pieces(samples: Samples, size: int) -> Iterator[Samples]:
    for start in range(0, len(samples) - size + 1, size):
        yield np.ascontiguousarray(samples[start : start + size])


def g729(samples: Samples) -> list[bytes]:
    """Payloads of 20 ms: two frames."""
    library = _library("libbcg729.so.0")
    library.initBcg729EncoderChannel.restype = ctypes.c_void_p
    state = ctypes.c_void_p(library.initBcg729EncoderChannel(0))
    frames = []
    for piece in _pieces(samples, 80):
        out, size = ctypes.create_string_buffer(10), ctypes.c_uint8()
        library.bcg729Encoder(state, piece.ctypes.data_as(ctypes.c_void_p), out, ctypes.byref(size))
        frames.append(out.raw[: size.value])
    library.closeBcg729EncoderChannel(state)
    return [b"".join(frames[n : n + 2]) for n in range(0, len(frames) - 1, 2)]


def gsm(samples: Samples) -> list[bytes]:
    library = _library("libgsm.so.1")
    library.gsm_create.restype = ctypes.c_void_p
    state = ctypes.c_void_p(library.gsm_create())
    payloads = []
    for piece in _pieces(samples, 160):
        out = ctypes.create_string_buffer(33)
        library.gsm_encode(state, piece.ctypes.data_as(ctypes.c_void_p), out)
        payloads.append(out.raw)
    library.gsm_destroy(state)
    return payloads


def amr(samples: Samples, mode: int = 7, *, dtx: bool = False) -> list[bytes]:
    """Frames as in a file: type and quality, then bits."""
    library = _library("libopencore-amrnb.so.0")
    library.Encoder_Interface_init.restype = ctypes.c_void_p
    state = ctypes.c_void_p(library.Encoder_Interface_init(int(dtx)))
    frames = []
    for piece in _pieces(samples, 160):
        out = ctypes.create_string_buffer(64)
        size = library.Encoder_Interface_Encode(state, mode, piece.ctypes.data_as(ctypes.c_void_p), out, 0)
        frames.append(out.raw[:size])
    library.Encoder_Interface_exit(state)
    return frames


def amr_wb(samples: Samples, mode: int = 8) -> list[bytes]:
    library = _library("libvo-amrwbenc.so.0")
    library.E_IF_init.restype = ctypes.c_void_p
    state = ctypes.c_void_p(library.E_IF_init())
    frames = []
    for piece in _pieces(samples, 320):
        out = ctypes.create_string_buffer(64)
        size = library.E_IF_encode(state, mode, piece.ctypes.data_as(ctypes.c_void_p), out, 0)
        frames.append(out.raw[:size])
    library.E_IF_exit(state)
    return frames


def amr_payload(frames: list[bytes], *, wideband: bool = False, aligned: bool = False) -> bytes:
    """Frames in an RTP payload (RFC 4867 4.3, 4.4), no mode asked for."""
    bits = WB_BITS if wideband else NB_BITS
    heads = [frame[0] & 0x7C | (0x80 if n < len(frames) - 1 else 0) for n, frame in enumerate(frames)]
    if aligned:
        return b"\xf0" + bytes(heads) + b"".join(frame[1:] for frame in frames)
    text = "1111" + "".join(f"{head >> 2:06b}" for head in heads)
    for frame in frames:
        kind = frame[0] >> 3 & 0x0F
        size = bits[kind] if kind < len(bits) else 0
        text += "".join(f"{octet:08b}" for octet in frame[1:])[:size]
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")
