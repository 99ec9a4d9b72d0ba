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
from siprec.recorder.dtmf import DtmfEvent, Keypad
from siprec.recorder.numbering import Ordered
from siprec.recorder.pcap import Address, PcapFile
from siprec.recorder.timeline import SourceClock
from siprec.recorder.track import Mix, Samples, Track

log = logging.getLogger(__name__)

_MIX_LAG = 10.0  # seconds a stalled stream may hold the mix back
_MIX_AHEAD = 30.0  # seconds of the mix that are held at most
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
    reports: Mapping[int, tuple[float, int, float]] = field(default_factory=dict)
    """Last RTCP sender report per SSRC: its time in monotonic seconds, its RTP timestamp, its arrival."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one recording received; `now` and `horizon` are monotonic seconds: up to `horizon` it is all here."""

    now: float
    horizon: float
    lines: Sequence[LineBatch]


class Formats:
    """What the payload types of an m-line mean now."""

    __slots__ = ("codecs",)

    def __init__(self, codecs: Mapping[int, Codec]) -> None:
        self.codecs = codecs

    def duration(self, item: Ordered) -> int:
        """Ticks that the payload of a packet lasts, 0 if that cannot be told."""
        codec = self.codecs.get(item.packet.payload_type)
        return codec.duration(item.packet.payload) if codec is not None else 0


@dataclass(slots=True)
class Line:
    """One m-line's decoding state and results."""

    number: int
    formats: Formats
    active: bool = True
    gains: tuple[float, float] = (1.0, 0.0)
    track: Track | None = None
    pcap: PcapFile | None = None
    events: list[DtmfEvent] = field(default_factory=list)
    ssrcs: list[int] = field(default_factory=list)
    csrcs: list[int] = field(default_factory=list)
    """Contributors a mixer named (RFC 7866 8.1.4), in order of appearance."""
    used: dict[str, int] = field(default_factory=dict)
    clocks: dict[int, SourceClock] = field(default_factory=dict)
    """Of each source, for the RTP clock of its codec of now."""
    past_clocks: list[SourceClock] = field(default_factory=list)
    last_clock: SourceClock | None = None
    keypads: dict[int, Keypad] = field(default_factory=dict)
    together: int = 0
    """Batches in which several of its sources had audio."""
    decoders: dict[tuple[int, str], Decoder] = field(default_factory=dict)
    first_audio: float | None = None
    last_audio: float = 0.0
    shifted: float = 0.0
    reports: Mapping[int, tuple[float, int, float]] = field(default_factory=dict)

    @property
    def codecs(self) -> Mapping[int, Codec]:
        """Payload type -> codec."""
        return self.formats.codecs

    @property
    def all_clocks(self) -> list[SourceClock]:
        """Those of now and before."""
        return [*self.past_clocks, *list(self.clocks.values())]

    def codec(self, item: Ordered) -> Codec | None:
        """What a packet is."""
        return self.codecs.get(item.packet.payload_type)

    def audio_of(self, items: Sequence[Ordered], rate: int = 0) -> list[Ordered]:
        """The audio in `items` up to the first of another RTP clock than `rate` (0: than that of the first)."""
        found = []
        for item in items:
            codec = self.codecs.get(item.packet.payload_type)
            if codec is None or codec.kind != "audio":
                continue
            rate = rate or codec.clock_rate
            if codec.clock_rate != rate:
                break
            found.append(item)
        return found


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
            self.lines[number] = Line(number, Formats(table), active, gains)
        else:
            line.formats.codecs, line.active, line.gains = table, active, gains
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

    def close(self) -> None:
        """Finish all files: they end together, where the last sound of any stream does."""
        if self.closed:
            return
        self.closed = True
        try:
            tracks = [line.track for line in self.lines.values() if line.track is not None]
            seconds = max((track.end / track.rate for track in tracks), default=0.0)
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
            line = self.lines[part.line]
            for source in part.sources:
                everything = [*source.items, *source.waiting]
                audio = line.audio_of(everything)
                if audio:
                    starts.append(self._clock(line, source.ssrc, self._rate(line, audio[0])).estimate(audio))
                elif source.items:
                    starts.append(min(item.packet.arrival for item in source.items))
            starts += [raw.arrival for raw in part.raw[:1]]
        if starts:
            self.origin = min(starts)

    def _rate(self, line: Line, item: Ordered) -> int:
        codec = line.codec(item)
        return codec.clock_rate if codec else 8000

    def _clock(self, line: Line, ssrc: int, rate: int) -> SourceClock:
        clock = line.clocks.get(ssrc)
        if clock is None or clock.clock_rate != rate:
            # A source that changes to a codec with another RTP clock counts in other ticks from there on.
            for old in (ssrc, *list(line.clocks)[: len(line.clocks) - 63]):
                gone = line.clocks.pop(old, None)
                if gone is not None and len(line.past_clocks) < 64:
                    line.past_clocks.append(gone)
            clock = line.clocks[ssrc] = SourceClock(rate, line.formats.duration)
        clock.sender_report = line.reports.get(ssrc)
        return clock

    def _write_line(self, line: Line, part: LineBatch) -> None:
        if len(part.sources) > 1 and sum(bool(line.audio_of(source.items)) for source in part.sources) > 1:
            line.together += 1
        for source in part.sources:
            if source.ssrc not in line.ssrcs and len(line.ssrcs) < 64:
                line.ssrcs.append(source.ssrc)
            runs: list[_Run] = []
            audio: list[Ordered] = []
            rate, events = 0, False
            for item in source.items:
                codec = line.codecs.get(item.packet.payload_type)
                if codec is None:
                    continue
                line.used[codec.name] = line.used.get(codec.name, 0) + 1
                csrc = item.packet.csrc
                if csrc:
                    line.csrcs += [c for c in csrc if c not in line.csrcs][: 64 - len(line.csrcs)]
                if codec.kind != "audio":
                    events = events or codec.kind == "event"
                    continue
                if audio and codec.clock_rate != rate:
                    runs += self._place(line, source.ssrc, audio, ())
                    audio = []
                rate = codec.clock_rate
                audio.append(item)
            if audio:
                runs += self._place(line, source.ssrc, audio, source.waiting)
            for run in runs:
                self._decode(line, source.ssrc, run)
            if events:
                self._events(line, source)
        for raw in part.raw:
            if line.pcap is None:
                line.pcap = PcapFile(self.directory / f"stream-{line.number}.pcap")
            line.pcap.write(raw.arrival + self.wall_offset, raw.source, raw.destination, raw.data)
        if part.raw and line.pcap is not None:
            line.pcap.flush()
        if line.track is not None:
            line.track.settle()

    def _place(self, line: Line, ssrc: int, items: list[Ordered], waiting: Sequence[Ordered]) -> list[_Run]:
        """Time for each packet; audio that follows without a gap becomes one run."""
        rate = self._rate(line, items[0])
        last = line.last_clock
        clock = self._clock(line, ssrc, rate)
        after, shift = None, 0.0
        if last is not None and last is not clock:
            # Another source, or another RTP clock, takes over: it goes on where the time line of the file is.
            shift = last.drift.offset
            if last.last_arrival <= items[0].packet.arrival:
                after = last.end
        line.last_clock = clock
        runs: list[_Run] = []
        following: tuple[int, float, int] | None = None
        key = (ssrc, -1, "")
        for item, anchor, ticks, long in clock.place(
            items, lambda: line.audio_of(waiting, rate), after=after, shift=shift
        ):
            packet = item.packet
            if following == (packet.payload_type, anchor, ticks):
                runs[-1].payloads.append(packet.payload)
            else:
                if following is not None:
                    self._run_end[key] = following[1:]
                codec = line.codecs[packet.payload_type]
                key = (ssrc, packet.payload_type, codec.name)
                continues = self._run_end.get(key) == (anchor, ticks)
                runs.append(_Run(codec, anchor, ticks, [packet.payload], continues))
            following = (packet.payload_type, anchor, ticks + long)
        if following is not None:
            self._run_end[key] = following[1:]
        while len(self._run_end) > 256:
            self._run_end.pop(next(iter(self._run_end)))
        return runs

    def _events(self, line: Line, source: SourceBatch) -> None:
        """Telephone events. Their time is that of the audio's clock where they count as it does."""
        for item in source.items:
            codec = line.codec(item)
            if codec is None or codec.kind != "event":
                continue
            keypad = line.keypads.get(source.ssrc)
            if keypad is None:
                if len(line.keypads) >= 64:
                    line.keypads.pop(next(iter(line.keypads)))
                keypad = line.keypads[source.ssrc] = Keypad(line.events)
            clock = line.clocks.get(source.ssrc)
            same = clock is not None and clock.clock_rate == codec.clock_rate
            keypad.packet(item, codec.clock_rate, clock.time_of(item.timestamp) if clock is not None and same else None)

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
        if self.mix is not None and line.last_clock is not None:
            self.mix.shift(line.number, line.last_clock.drift.offset)
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
                complete = min(complete, self.mix.reached(line.number) - 0.1)
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
