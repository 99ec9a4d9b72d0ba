"""Sounds played to a party: ``play media``, ``stop media``; above all the tone that tells of the recording (RFC 7866
6.1.2).

While the other party talks, the sound goes into its packets on their way: same SSRC, sequence numbers and timestamps,
so that nothing breaks at the listener (G.711 and L16 are mixed, G.722 has memory and is replaced). While nothing is
sent to the listener, packets of a source of our own are. What is copied to recorders is the original in both cases.
"""

from __future__ import annotations

import io
import math
import secrets
import struct
import wave
from dataclasses import dataclass
from typing import Any, Final

from siprec.relay.call import Call
from siprec.relay.ng_wishes import CallError
from siprec.relay.party import Party, Stream
from siprec.relay.rtp_stream import Address, Flow
from siprec.relay.srtp_gateway import Crossing
from siprec.sdp import MediaDescription, payload_type
from siprec.sip.clock import Clock, Timer

#: Seconds without a packet after which the other party is silent.
SILENCE: Final = 0.1
PTIME: Final = 0.02
MAX_SECONDS: Final = 30.0
_FADE: Final = 0.005
_HEADER: Final = struct.Struct("!BBHII")


@dataclass(frozen=True, slots=True)
class Sound:
    """What is played: a tone of `frequency` Hz, or `pcm` (mono, 16 bit, native order) at `rate` Hz. `duration`,
    `interval` in seconds (0: played once), `level` in dB below full scale."""

    frequency: float = 1400.0
    duration: float = 0.2
    interval: float = 0.0
    level: float = 20.0
    pcm: bytes = b""
    rate: int = 8000

    def samples(self, rate: int) -> Any:
        """As int16 at `rate` Hz, shape ``(n,)``."""
        import numpy as np

        if self.pcm:
            given = np.frombuffer(self.pcm, np.int16).astype(np.float64)
            count = int(len(given) * rate / self.rate)
            return np.interp(np.arange(count) * self.rate / rate, np.arange(len(given)), given).astype(np.int16)
        count = max(1, round(self.duration * rate))
        at = np.arange(count)
        edge = max(1, round(_FADE * rate))
        shape = np.minimum(1.0, np.minimum(at + 1, count - at) / edge)
        peak = 32767 * 10 ** (-self.level / 20)
        return (peak * shape * np.sin(2 * math.pi * self.frequency * at / rate)).astype(np.int16)


def sound_of_wav(blob: bytes, interval: float = 0.0) -> Sound:
    """The sound in a WAV file of 16 bit; of several channels the first. Raises :class:`CallError`."""
    import numpy as np

    try:
        with wave.open(io.BytesIO(blob)) as file:
            rate, channels = file.getframerate(), file.getnchannels()
            if file.getsampwidth() != 2 or not 1000 <= rate <= 192000:
                raise CallError("Only WAV of 16 bit can be played")
            octets = file.readframes(int(MAX_SECONDS * rate))
    except (wave.Error, EOFError) as error:
        raise CallError(f"Not a WAV file: {error}") from error
    samples = np.frombuffer(octets, "<i2").astype(np.int16)
    pcm = samples[: len(samples) // channels * channels].reshape(-1, channels)[:, 0].tobytes()
    if not pcm:
        raise CallError("Nothing to play")
    return Sound(duration=len(pcm) / 2 / rate, interval=interval, pcm=pcm, rate=rate)


class Player:
    """Plays a sound to one party, on its first audio stream, until :meth:`stop`."""

    def __init__(self, clock: Clock, call: Call, listener: Party, sound: Sound) -> None:
        self._clock = clock
        self._call = call
        self._listener = listener
        self.sound = sound
        self.played = 0
        self.skipped = 0
        self._timer: Timer | None = None
        self._flow: Flow | None = None
        self._crossing: Crossing | None = None
        self._plain: Any = None
        self._wrapper: Any = None
        self._ends = 0.0
        self._pieces: dict[int, _Piece | None] = {}
        self._own = (secrets.randbits(32), secrets.randbits(16), secrets.randbits(32))
        self._begin()

    @property
    def done(self) -> bool:
        """Nothing more will be played."""
        return self._timer is None

    def stop(self) -> None:
        """No more; also in the middle of the sound."""
        self.detach()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _begin(self) -> None:
        now = self._clock.now()
        found = self._stream()
        if found is None:
            self.skipped += 1
        else:
            stream, section, crossing = found
            source = stream.rtp.peer
            self._pieces = _pieces(section, self.sound)
            self._ends = now + self.sound.duration + 1.0
            if source is not None and source.target is not None and now - source.last <= SILENCE:
                self._attach(source, crossing)
            elif stream.rtp.remote is not None and any(self._pieces.values()):
                number = next(number for number, piece in self._pieces.items() if piece is not None)
                self._alone(stream, number, True)
                return
            else:
                self.skipped += 1
        self._next()

    def _next(self) -> None:
        wait = self.sound.interval or (
            self.sound.duration + 1.0 if self._flow is not None or self._crossing is not None else 0.0
        )
        self._timer = self._clock.call_later(wait, self._again) if wait else None

    def _again(self) -> None:
        self.detach()
        self._timer = None
        if self.sound.interval:
            self._begin()

    def _stream(self) -> tuple[Stream, MediaDescription, Crossing | None] | None:
        """The first audio stream that may be changed: never one that is encrypted for somebody else. And where it is in
        the clear, if keys end here."""
        party = self._listener
        description = party.description
        if description is None:
            return None
        try:
            peer = self._call._peer(party)
        except CallError:
            return None
        for index, section in enumerate(description.media):
            stream = party.streams[index] if index < len(party.streams) else None
            if stream is None or section.rejected or section.kind != "audio" or stream.rtp.held:
                continue
            if "recv" not in section.direction:
                continue
            other = peer.streams[index] if index < len(peer.streams) else None
            if other is None or not (stream.transport.clear and other.transport.clear):
                continue
            return stream, section, other.transport.crossings.get(other.rtp)
        return None

    # -- in the packets of the other party -----------------------------------------------------------------------------

    def _attach(self, flow: Flow, crossing: Crossing | None) -> None:
        self.played += 1
        if crossing is not None:
            self._crossing, self._wrapper = crossing, self._change
            crossing.change = self._wrapper
        else:
            self._flow, self._plain, self._wrapper = flow, flow.send, self._send
            flow.send = self._wrapper

    def detach(self) -> None:
        """Leave the other party's packets as they are, until the next time."""
        flow, self._flow = self._flow, None
        crossing, self._crossing = self._crossing, None
        if flow is not None and flow.send is self._wrapper:
            flow.send = self._plain
        if crossing is not None and crossing.change is self._wrapper:
            crossing.change = None

    def _send(self, packet: memoryview, target: Address) -> int:
        plain = self._plain
        sent: int = plain(self._change(packet), target)
        return sent

    def _change(self, packet: memoryview | bytes) -> Any:
        try:
            changed, over = self._changed(packet)
        except (ValueError, IndexError):  # a packet that is not what it says
            changed, over = None, False
        if over or self._clock.now() > self._ends:
            self.detach()
        return changed if changed is not None else packet

    def _changed(self, packet: memoryview | bytes) -> tuple[bytes | None, bool]:
        piece = self._pieces.get(packet[1] & 0x7F)
        if piece is None:
            return None, False
        start = 12 + 4 * (packet[0] & 0x0F)
        if packet[0] & 0x10:
            start += 4 + 4 * int.from_bytes(packet[start + 2 : start + 4], "big")
        end = len(packet) - (packet[-1] if packet[0] & 0x20 else 0)
        if not 12 <= start < end:
            return None, False
        payload = piece.next(bytes(packet[start:end]))
        return bytes(packet[:start]) + payload + bytes(packet[end:]), piece.over

    # -- when nobody talks ---------------------------------------------------------------------------------------------

    def _alone(self, stream: Stream, number: int, first: bool) -> None:
        piece = self._pieces.get(number)
        remote = stream.rtp.remote
        source = stream.rtp.peer
        talks = source is not None and self._clock.now() - source.last <= SILENCE
        if piece is None or piece.over or remote is None or talks:
            self._next()
            return
        if first:
            self.played += 1
        ssrc, seq, timestamp = self._own
        payload, ticks = piece.silent(PTIME)
        head = _HEADER.pack(0x80, number | (0x80 if first else 0), seq, timestamp, ssrc)
        self._own = (ssrc, (seq + 1) & 0xFFFF, (timestamp + ticks) & 0xFFFFFFFF)
        terminal = stream.transport.present
        packet = head + payload if terminal is None else terminal.encrypted(head + payload, False)
        try:
            if packet is not None:
                stream.rtp.sock.sendto(packet, remote)
        except OSError:
            self._next()
            return
        self._timer = self._clock.call_later(PTIME, self._alone, stream, number, False)


class _Piece:
    """A sound in one codec, being played."""

    def __init__(self, codec: Any, sound: Sound) -> None:
        from siprec.audio import codecs

        self._codec = codec
        self._samples = sound.samples(codec.sample_rate)
        self._encoder = codecs.encoder(codec)
        self._decoder = codecs.decoder(codec) if codec.name != "G722" else None
        self._at = 0

    @property
    def over(self) -> bool:
        return self._at >= len(self._samples)

    def next(self, payload: bytes) -> bytes:
        """The next piece in place of `payload`, of the same length."""
        ticks = self._codec.duration(payload)
        return self._encoded(ticks, payload) if ticks else payload

    def silent(self, seconds: float) -> tuple[bytes, int]:
        """The next piece alone, and its length in RTP clock ticks."""
        ticks = round(seconds * self._codec.clock_rate)
        return self._encoded(ticks, b""), ticks

    def _encoded(self, ticks: int, payload: bytes) -> bytes:
        import numpy as np

        count = ticks * self._codec.sample_rate // self._codec.clock_rate
        channels = self._codec.channels
        mixed = np.zeros((count, channels), np.int32)
        if payload and self._decoder is not None:
            below = self._decoder.decode([payload])[:count]
            mixed[: len(below)] = below
        piece = self._samples[self._at : self._at + count]
        mixed[: len(piece)] += piece.reshape(-1, 1)
        self._at += count
        assert self._encoder is not None
        return bytes(self._encoder.encode(np.clip(mixed, -32768, 32767).astype(np.int16)))


def _pieces(section: MediaDescription, sound: Sound) -> dict[int, _Piece | None]:
    """By payload type of the listener: the sound, None where it cannot be encoded."""
    from siprec.audio import codecs

    found: dict[int, _Piece | None] = {}
    maps = section.rtpmaps
    for text in section.formats:
        number = payload_type(text)
        if number is None:
            continue
        mapped = maps.get(number)
        codec = (
            codecs.codec(mapped.encoding, mapped.clock_rate, mapped.channels)
            if mapped is not None
            else codecs.static_codec(number)
        )
        playable = codec is not None and codec.kind == "audio" and codec.name in ("PCMU", "PCMA", "G722", "L16")
        found[number] = _Piece(codec, sound) if playable else None
    return found
