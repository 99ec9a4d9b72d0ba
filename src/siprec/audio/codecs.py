"""RTP audio formats: what an rtpmap means, how long a payload lasts, how it is decoded and encoded.

A :class:`Codec` is a value; :func:`decoder` and :func:`encoder` make the objects that carry state between packets.
Payload lengths come from the network: ``duration`` returns 0 for what cannot be a payload of that codec and decoders
return what they can read; neither raises on a hostile payload.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from G722 import G722  # type: ignore[import-not-found]
from numpy.typing import NDArray

from siprec.audio import g711, libav, opus

Samples = NDArray[np.int16]
Kind = Literal["audio", "event", "noise", "unknown"]

STATIC: dict[int, tuple[str, int, int]] = {
    0: ("PCMU", 8000, 1),
    3: ("GSM", 8000, 1),
    4: ("G723", 8000, 1),
    8: ("PCMA", 8000, 1),
    9: ("G722", 8000, 1),
    10: ("L16", 44100, 2),
    11: ("L16", 44100, 1),
    13: ("CN", 8000, 1),
    15: ("G728", 8000, 1),
    18: ("G729", 8000, 1),
    19: ("CN", 8000, 1),
    26: ("JPEG", 90000, 1),
    31: ("H261", 90000, 1),
    32: ("MPV", 90000, 1),
    34: ("H263", 90000, 1),
}
"""Static payload types (RFC 3551 6): encoding name, RTP clock rate in Hz, channels."""

_MAX_RATE = 192_000
_MAX_CHANNELS = 8


@dataclass(frozen=True, slots=True)
class Codec:
    """One RTP payload format as negotiated.

    `name` is upper case; `clock_rate` is the RTP clock in Hz; `sample_rate` is what the decoder delivers (16 kHz for
    G.722 although its RTP clock says 8 kHz, RFC 3551 4.5.2); `kind` says what the recorder does with it.
    """

    name: str
    clock_rate: int
    channels: int
    sample_rate: int
    kind: Kind
    mode: str = ""
    """What the decoder has to know of the ``a=fmtp`` parameters."""

    def duration(self, payload: bytes) -> int:
        """Length of `payload` in RTP clock ticks; 0 when it cannot be told."""
        if self.name in ("PCMU", "PCMA", "G722"):
            return len(payload) // self.channels
        if self.name == "L16":
            return len(payload) // (2 * self.channels)
        if self.name == "OPUS":
            return opus.duration(payload)
        return libav.ticks(self.name, self.mode, payload) if self.kind == "audio" else 0


def codec(name: str, clock_rate: int, channels: int = 1, fmtp: str = "") -> Codec:
    """The codec an ``a=rtpmap:PT name/clock_rate/channels`` with its ``a=fmtp`` parameters describes.

    Opus is always announced with two channels (RFC 7587 7); whether the sender means stereo is told by
    ``sprop-stereo=1``, so `channels` of the result is 1 without it.
    """
    name = name.upper()
    if name in ("PCMU", "PCMA") and channels == 1 and 0 < clock_rate <= _MAX_RATE:
        return Codec(name, clock_rate, 1, clock_rate, "audio")
    if name == "G722" and channels == 1:
        # 16000 is a common mistake in rtpmaps; the RTP clock is 8000 whatever they say (RFC 3551 4.5.2).
        return Codec(name, 8000, 1, 16000, "audio")
    if name == "L16" and 0 < clock_rate <= _MAX_RATE and 0 < channels <= _MAX_CHANNELS:
        return Codec(name, clock_rate, channels, clock_rate, "audio")
    if name == "OPUS" and clock_rate == 48000:
        parameters = {p.strip().lower() for p in fmtp.split(";")}
        return Codec(name, 48000, 2 if "sprop-stereo=1" in parameters else 1, 48000, "audio")
    if name == "TELEPHONE-EVENT":
        return Codec(name, clock_rate, 1, clock_rate, "event")
    if name == "CN":
        return Codec(name, clock_rate, 1, clock_rate, "noise")
    if channels == 1 and clock_rate == (16000 if name == "AMR-WB" else 8000) and libav.readable(name, fmtp):
        return Codec(name, clock_rate, 1, clock_rate, "audio", libav.mode(name, fmtp))
    return Codec(name, clock_rate, max(channels, 1), max(clock_rate, 1), "unknown")


def static_codec(payload_type: int) -> Codec | None:
    """The codec of a static payload type without an rtpmap (RFC 3551 6), None if there is no such type."""
    entry = STATIC.get(payload_type)
    return codec(*entry) if entry else None


class Decoder(Protocol):
    """Decodes the payloads of one RTP source."""

    def decode(self, payloads: Sequence[bytes]) -> Samples:
        """Decode payloads that follow each other without a gap; shape ``(frames, channels)``."""
        ...

    def reset(self) -> None:
        """Forget what came before: the next payload follows a gap."""
        ...


class Encoder(Protocol):
    """Encodes audio for one RTP source."""

    def encode(self, samples: Samples) -> bytes:
        """One payload out of ``(frames, channels)`` or ``(frames,)`` int16 samples."""
        ...


class _G711:
    def __init__(self, name: str) -> None:
        self._decode, self._encode = (
            (g711.ulaw_decode, g711.ulaw_encode) if name == "PCMU" else (g711.alaw_decode, g711.alaw_encode)
        )

    def decode(self, payloads: Sequence[bytes]) -> Samples:
        return self._decode(b"".join(payloads)).reshape(-1, 1)

    def reset(self) -> None: ...

    def encode(self, samples: Samples) -> bytes:
        return self._encode(samples.reshape(-1))


class _L16:
    """Network byte order, channels interleaved (RFC 3551 4.5.11)."""

    def __init__(self, channels: int) -> None:
        self._channels = channels

    def decode(self, payloads: Sequence[bytes]) -> Samples:
        frame = 2 * self._channels
        whole = b"".join(p[: len(p) - len(p) % frame] for p in payloads)
        return np.frombuffer(whole, ">i2").astype(np.int16).reshape(-1, self._channels)

    def reset(self) -> None: ...

    def encode(self, samples: Samples) -> bytes:
        return samples.astype(">i2").tobytes()


class _G722:
    """64 kbit/s, 16 kHz (ITU-T G.722, RFC 3551 4.5.2). Adaptive: the state is kept over gaps, as a receiver does."""

    def __init__(self) -> None:
        self._state = G722(16000, 64000)

    def decode(self, payloads: Sequence[bytes]) -> Samples:
        pcm = self._state.decode(b"".join(payloads))
        return np.frombuffer(pcm, np.int16).reshape(-1, 1)

    def reset(self) -> None: ...

    def encode(self, samples: Samples) -> bytes:
        return bytes(self._state.encode(np.ascontiguousarray(samples.reshape(-1))))


def decoder(codec: Codec) -> Decoder | None:
    """A fresh decoder, or None if the codec is not audio that we decode."""
    if codec.kind != "audio":
        return None
    if codec.name in ("PCMU", "PCMA"):
        return _G711(codec.name)
    if codec.name == "G722":
        return _G722()
    if codec.name == "L16":
        return _L16(codec.channels)
    if codec.name == "OPUS":
        return opus.decoder(codec.channels)
    return libav.LibavDecoder(codec.name, codec.mode)


def encoder(codec: Codec) -> Encoder | None:
    """A fresh encoder for PCMU, PCMA, G722 or L16; None for everything else."""
    if codec.name in ("PCMU", "PCMA"):
        return _G711(codec.name)
    if codec.name == "G722":
        return _G722()
    if codec.name == "L16":
        return _L16(codec.channels)
    return None
