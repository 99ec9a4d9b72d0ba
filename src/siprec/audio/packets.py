"""Audio as RTP packets, for agents that send it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from siprec.audio.codecs import Codec, encoder
from siprec.rtp.packets import build


def packets(
    samples: NDArray[np.int16],
    codec: Codec,
    payload_type: int,
    *,
    ssrc: int,
    sequence: int = 0,
    timestamp: int = 0,
    ptime: float = 0.02,
) -> Iterator[tuple[float, bytes]]:
    """RTP packets of `samples`, shape ``(frames,)`` or ``(frames, channels)`` at the codec's sample rate.

    Yields the time in seconds after the first at which each is due, and the datagram (RFC 3550 5.1; the first has the
    marker, RFC 3551 4.1). A last packet shorter than `ptime` seconds is sent as it is. Raises ValueError for a codec
    that cannot be encoded.
    """
    coder = encoder(codec)
    if coder is None:
        raise ValueError(f"no encoder for {codec.name}")
    step = round(codec.sample_rate * ptime)
    ticks = round(codec.clock_rate * ptime)
    for number, start in enumerate(range(0, len(samples), step)):
        payload = coder.encode(samples[start : start + step])
        yield (
            number * ptime,
            build(payload_type, sequence + number, timestamp + number * ticks, ssrc, payload, marker=number == 0),
        )
