"""From ordered packets to files: the half of a recording that runs in the disk thread.

The receiving half collects packets; every half second it hands a :class:`Batch` over. Here they are placed on the time
line, decoded and written. Memory is bounded by what arrives in a second or two, whatever the length of the call.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from siprec.audio.codecs import Codec, Decoder, decoder
from siprec.audio.resample import resample
from siprec.recorder import files
from siprec.recorder.pcap import Address, PcapFile
from siprec.recorder.rtp import Ordered
from siprec.recorder.timeline import SourceClock
from siprec.recorder.track import Mix, Samples, Track

log = logging.getLogger(__name__)

_DIGITS = "0123456789*#ABCD"
_MIX_LAG = 10.0  # seconds a stalled stream may hold the mix back
_MIX_AHEAD = 30.0  # seconds of the mix that are held at most
_MAX_EVENTS = 10_000
_SETTLED = 2.0  # seconds after which a stream that received nothing no longer holds the mix back once it is inactive


@dataclass(frozen=True, slots=True)
class SourceBatch:
    """Due packets of one source in order, and later ones that wait, for judging."""

    ssrc: int
    items: Sequence[Ordered]
    waiting: Sequence[Ordered] = ()


@dataclass(frozen=True, slots=True)
class RawPacket:
    """A datagram for the pcap file. `arrival` is monotonic seconds."""

    arrival: float
    source: Address
    destination: Address
    data: bytes


@dataclass(frozen=True, slots=True)
class LineBatch:
    """What one m-line received."""

    line: int
    sources: Sequence[SourceBatch]
    raw: Sequence[RawPacket] = ()
    reports: Mapping[int, tuple[float, int]] = field(default_factory=dict)
    """Last RTCP sender report per SSRC: its time in monotonic seconds, its RTP timestamp."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one recording received; `now` and `horizon` are monotonic seconds: up to `horizon` it is all here."""

    now: float
    horizon: float
    lines: Sequence[LineBatch]


@dataclass(slots=True)
class DtmfEvent:
    """A telephone event (RFC 4733). `start` is monotonic seconds, `duration` seconds."""

    start: float
    digit: str
    event: int
    duration: float
    volume: int
    ended: bool = False


@dataclass(slots=True)
class Line:
    """One m-line's decoding state and results."""

    number: int
    codecs: Mapping[int, Codec]
    active: bool = True
    gains: tuple[float, float] = (1.0, 0.0)
    track: Track | None = None
    pcap: PcapFile | None = None
    events: list[DtmfEvent] = field(default_factory=list)
    ssrcs: list[int] = field(default_factory=list)
    csrcs: list[int] = field(default_factory=list)
    """Contributors a mixer named (MEDIA-06), in order of appearance."""
    used: dict[str, int] = field(default_factory=dict)
    clocks: dict[tuple[int, int], SourceClock] = field(default_factory=dict)
    decoders: dict[tuple[int, str], Decoder] = field(default_factory=dict)
    first_audio: float | None = None
    last_audio: float = 0.0
    shifted: float = 0.0
    reports: Mapping[int, tuple[float, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Run:
    """Payloads without a gap between them."""

    codec: Codec
    anchor: float
    ticks: int
    payloads: list[bytes]
    continues: bool


class Pipeline:
    """The files of one recording.

    `directory` is set before the first batch. Monotonic seconds plus `wall_offset` are Unix seconds.
    """

    def __init__(self, audio_format: files.Format, *, wall_offset: float, mix_rate: int | None = None) -> None:
        self.directory = Path()
        self.lines: dict[int, Line] = {}
        self.mix: Mix | None = None
        self.origin: float | None = None
        """Monotonic time of position 0 in all files; None before the first packet."""
        self.wall_offset = wall_offset
        self.errors: list[str] = []
        self.closed = False
        self._format = audio_format
        self._mix_rate = mix_rate
        self._run_end: dict[tuple[int, int, str], tuple[float, int]] = {}

    @property
    def open_files(self) -> list[files.AudioFile | PcapFile]:
        """Every file there is."""
        found: list[files.AudioFile | PcapFile] = [self.mix.file] if self.mix is not None else []
        for line in list(self.lines.values()):
            if line.track is not None:
                found.append(line.track.file)
            if line.pcap is not None:
                found.append(line.pcap)
        return found

    def configure(self, number: int, table: Mapping[int, Codec], active: bool, gains: tuple[float, float]) -> None:
        """Tell what payload types of m-line `number` mean, whether media is expected, and its place in the mix."""
        line = self.lines.get(number)
        if line is None:
            self.lines[number] = Line(number, table, active, gains)
        else:
            line.codecs, line.active, line.gains = table, active, gains
            if self.mix is not None:
                self.mix.place(number, gains)

    def write(self, batch: Batch) -> None:
        """Place, decode and write one batch. A disk that refuses ends the recording's files, not the process."""
        if self.closed:
            return
        try:
            for part in batch.lines:
                self.lines[part.line].reports = part.reports
            if self.origin is None:
                self._find_origin(batch)
            for part in batch.lines:
                self._write_line(self.lines[part.line], part)
            self._settle(batch)
        except OSError as error:
            self._fail(error)

    def close(self, now: float | None) -> None:
        """Finish all files. With `now` (monotonic) silence is filled in up to it; the files end together."""
        if self.closed:
            return
        self.closed = True
        try:
            seconds = 0.0
            if self.origin is not None and now is not None:
                seconds = max(now - self.origin, 0.0)
            for line in self.lines.values():
                if line.track is not None:
                    seconds = max(seconds, line.track.end / line.track.rate)
            for line in self.lines.values():
                if line.track is not None:
                    line.track.close(round(seconds * line.track.rate))
                if line.pcap is not None:
                    line.pcap.close()
            if self.mix is not None:
                self.mix.close(round(seconds * self.mix.rate))
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        self.closed = True
        self.errors.append(f"writing failed: {error}")
        log.error("recording in %s: writing failed: %s", self.directory, error)
        for line in self.lines.values():
            for closable in (line.track.file if line.track else None, line.pcap):
                if closable is not None:
                    try:
                        closable.close()
                    except OSError:
                        pass
        if self.mix is not None:
            try:
                self.mix.file.close()
            except OSError:
                pass

    # ------------------------------------------------------------------------------------------------ time and place

    def _find_origin(self, batch: Batch) -> None:
        starts = []
        for part in batch.lines:
            for source in part.sources:
                everything = [*source.items, *source.waiting]
                if everything:
                    rate = self._rate(self.lines[part.line], everything[0])
                    clock = self._clock(self.lines[part.line], source.ssrc, rate)
                    starts.append(clock.estimate(everything))
            starts += [raw.arrival for raw in part.raw[:1]]
        if starts:
            self.origin = min(starts)

    def _rate(self, line: Line, item: Ordered) -> int:
        codec = line.codecs.get(item.packet.payload_type)
        return codec.clock_rate if codec else 8000

    def _clock(self, line: Line, ssrc: int, rate: int) -> SourceClock:
        clock = line.clocks.get((ssrc, rate))
        if clock is None:
            while len(line.clocks) >= 64:
                line.clocks.pop(next(iter(line.clocks)))
            clock = line.clocks[ssrc, rate] = SourceClock(rate)
        clock.sender_report = line.reports.get(ssrc)
        return clock

    def _write_line(self, line: Line, part: LineBatch) -> None:
        for source in part.sources:
            if source.ssrc not in line.ssrcs and len(line.ssrcs) < 64:
                line.ssrcs.append(source.ssrc)
            runs: list[_Run] = []
            rate = 0
            group: list[Ordered] = []
            # A source that changes to a codec with another RTP clock counts in other ticks from there on.
            for item in source.items:
                codec = line.codecs.get(item.packet.payload_type)
                if codec is None:
                    continue
                if codec.kind == "audio" and codec.clock_rate != rate:
                    if rate:
                        runs += self._place(line, source.ssrc, rate, group, ())
                        group = []
                    rate = codec.clock_rate
                group.append(item)
            if group:
                rate = rate or self._known_rate(line, source.ssrc) or self._rate(line, group[0])
                runs += self._place(line, source.ssrc, rate, group, source.waiting)
            for run in runs:
                self._decode(line, source.ssrc, run)
        for raw in part.raw:
            if line.pcap is None:
                line.pcap = PcapFile(self.directory / f"stream-{line.number}.pcap")
            line.pcap.write(raw.arrival + self.wall_offset, raw.source, raw.destination, raw.data)
        if part.raw and line.pcap is not None:
            line.pcap.flush()
        if line.track is not None:
            line.track.settle()

    @staticmethod
    def _known_rate(line: Line, ssrc: int) -> int:
        return next((rate for (s, rate) in reversed(line.clocks) if s == ssrc), 0)

    def _place(
        self, line: Line, ssrc: int, rate: int, items: Sequence[Ordered], waiting: Sequence[Ordered]
    ) -> list[_Run]:
        """Time for each packet; audio that follows without a gap becomes one run."""
        clock = self._clock(line, ssrc, rate)
        runs: list[_Run] = []
        following: tuple[int, float, int] | None = None
        for item, anchor, ticks in clock.place(items, waiting):
            packet = item.packet
            codec = line.codecs[packet.payload_type]
            line.used[codec.name] = line.used.get(codec.name, 0) + 1
            if packet.csrc:
                line.csrcs += [c for c in packet.csrc if c not in line.csrcs][: 64 - len(line.csrcs)]
            if codec.kind == "event":
                self._event(line, codec, clock.time_of(item.timestamp), packet.payload)
                continue
            if codec.kind != "audio":
                continue
            key = (ssrc, packet.payload_type, codec.name)
            if following == (packet.payload_type, anchor, ticks):
                runs[-1].payloads.append(packet.payload)
            else:
                continues = self._run_end.get(key) == (anchor, ticks)
                runs.append(_Run(codec, anchor, ticks, [packet.payload], continues))
            end = ticks + codec.duration(packet.payload)
            following = (packet.payload_type, anchor, end)
            self._run_end[key] = (anchor, end)
        while len(self._run_end) > 256:
            self._run_end.pop(next(iter(self._run_end)))
        return runs

    # ---------------------------------------------------------------------------------------------------- decoding

    def _decode(self, line: Line, ssrc: int, run: _Run) -> None:
        codec = run.codec
        state = line.decoders.get((ssrc, codec.name))
        if state is None:
            made = decoder(codec)
            if made is None:
                return
            while len(line.decoders) >= 16:
                line.decoders.pop(next(iter(line.decoders)))
            state = line.decoders[ssrc, codec.name] = made
        if not run.continues:
            state.reset()
        samples = state.decode(run.payloads)
        if not len(samples):
            return
        assert self.origin is not None
        track = line.track or self._open(line, codec)
        start = run.anchor - self.origin + line.shifted
        if start + run.ticks / codec.clock_rate < 0:
            # A stream from before position 0 that shows up late: keep its beginning, say that it is displaced.
            line.shifted -= start + run.ticks / codec.clock_rate
            start = -run.ticks / codec.clock_rate
        samples = _fit(samples, codec.sample_rate, track)
        position = round(start * track.rate) + run.ticks * track.rate // codec.clock_rate
        track.add(max(position, 0), samples)
        begin = run.anchor + run.ticks / codec.clock_rate
        if line.first_audio is None:
            line.first_audio = begin
        line.last_audio = begin + len(samples) / track.rate

    def _open(self, line: Line, codec: Codec) -> Track:
        suffix = self._format
        path = self.directory / f"stream-{line.number}.{suffix}"
        track = line.track = Track(path, self._format, codec.sample_rate, codec.channels)
        if self.mix is None:
            rates = [c.sample_rate for other in self.lines.values() for c in _preferred(other)]
            self.mix = Mix(
                self.directory / f"mix.{suffix}", self._format, self._mix_rate or max([codec.sample_rate, *rates])
            )
        self.mix.attach(line.number, track, line.gains)
        return track

    def _event(self, line: Line, codec: Codec, start: float, payload: bytes) -> None:
        if len(payload) < 4:
            return
        event, flags = payload[0], payload[1]
        duration = int.from_bytes(payload[2:4], "big") / codec.clock_rate
        known = next((e for e in line.events[-4:] if abs(e.start - start) < 0.005 and e.event == event), None)
        if known is None:
            if len(line.events) >= _MAX_EVENTS:
                return
            digit = _DIGITS[event] if event < len(_DIGITS) else f"event-{event}"
            known = DtmfEvent(start, digit, event, duration, flags & 0x3F)
            line.events.append(known)
        known.duration = max(known.duration, duration)
        known.ended = known.ended or bool(flags & 0x80)

    def _settle(self, batch: Batch) -> None:
        if self.mix is None or self.origin is None:
            return
        busy = {part.line for part in batch.lines if any(source.items for source in part.sources)}
        for line in self.lines.values():
            if line.track is not None and line.number not in busy:
                line.track.commit(line.track.end)  # it fell silent: nothing overlaps its end any more
        complete = batch.horizon - self.origin - _SETTLED
        for line in self.lines.values():
            if line.track is not None and line.active:
                complete = min(complete, line.track.file.frames / line.track.rate - 0.1)
        # Neither a stalled stream nor one that sends faster than time may make the mix grow in memory.
        complete = max(complete, batch.now - self.origin - _MIX_LAG, self.mix.end / self.mix.rate - _MIX_AHEAD)
        self.mix.settle(int(complete * self.mix.rate))


def _preferred(line: Line) -> list[Codec]:
    """The first audio codec of a line: what it will most likely carry."""
    return [c for c in line.codecs.values() if c.kind == "audio"][:1]


def _fit(samples: Samples, rate: int, track: Track) -> Samples:
    """Make samples of a changed codec fit a file that was opened for another."""
    if samples.shape[1] != track.channels:
        if track.channels == 1:
            samples = samples.mean(axis=1, keepdims=True).astype(np.int16)
        else:
            samples = np.repeat(samples[:, :1], track.channels, axis=1)
    if rate == track.rate:
        return samples
    columns = [resample(samples[:, c].astype(np.float32), rate, track.rate) for c in range(track.channels)]
    return np.clip(np.rint(np.stack(columns, axis=1)), -32768, 32767).astype(np.int16)
