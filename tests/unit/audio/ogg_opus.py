"""Real Opus packets: libsndfile encodes, this takes its Ogg file apart again (RFC 3533)."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import soundfile  # type: ignore[import-untyped]
from numpy.typing import NDArray


def opus_packets(signal: NDArray[Any]) -> tuple[list[bytes], int]:
    """Packets of `signal` (48 kHz) and the encoder's pre-skip in samples."""
    file = io.BytesIO()
    soundfile.write(file, signal, 48000, format="OGG", subtype="OPUS")
    data = file.getvalue()
    packets: list[bytes] = []
    partial = b""
    position = 0
    while position < len(data):
        assert data[position : position + 4] == b"OggS"
        segments = data[position + 26]
        table = data[position + 27 : position + 27 + segments]
        position += 27 + segments
        for size in table:
            partial += data[position : position + size]
            position += size
            if size < 255:
                packets.append(partial)
                partial = b""
    head = packets[0]
    assert head[:8] == b"OpusHead"
    return packets[2:], int(np.frombuffer(head[10:12], "<u2")[0])
