"""One accepted m-line: its sockets, who may send to it, what has been received, its RTCP."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from siprec import sdp
from siprec.audio import codecs
from siprec.net.datagrams import watch_again
from siprec.recorder import rtcp, rtp
from siprec.recorder.metadata import Id
from siprec.recorder.pipeline import LineBatch, RawPacket, SourceBatch
from siprec.recorder.ports import Poller, PortPair
from siprec.recorder.secure import LineKeys, SrtpPolicy, acceptable
from siprec.sip.clock import Clock

Address = tuple[str, int]

_DATAGRAM = 9216
_DRAIN = 256  # datagrams read per wake-up, so that one stream cannot starve the others
_MAX_RAW = 20_000
_COMFORT_NOISE = 13


def codec_table(media: sdp.MediaDescription) -> dict[int, codecs.Codec]:
    """Payload type -> codec of an m-line, in its order; formats without a meaning are unknown codecs."""
    table: dict[int, codecs.Codec] = {}
    maps, fmtp = media.rtpmaps, media.fmtp
    for text in media.formats:
        if not (text.isascii() and text.isdecimal() and int(text) < 128):
            continue
        number = int(text)
        meaning = maps.get(number)
        if meaning is None:
            table[number] = codecs.Codec("UNKNOWN", 8000 if media.kind == "audio" else 90000, 1, 8000, "unknown")
        else:
            table[number] = codecs.codec(meaning.encoding, meaning.clock_rate, meaning.channels, fmtp.get(text, ""))
    if media.kind != "audio":
        # Only audio is decoded, whatever a format is called.
        return {n: codecs.Codec(c.name, c.clock_rate, c.channels, c.sample_rate, "unknown") for n, c in table.items()}
    return table


def accepted_formats(media: sdp.MediaDescription, kinds: frozenset[str], srtp: SrtpPolicy = "allow") -> list[str]:
    """Formats of an m-line that are taken, where media of `kinds` are; none: it is rejected with port 0."""
    if media.port == 0 or media.kind not in kinds or not acceptable(media, srtp):
        return []
    table = codec_table(media)
    known = [number for number, codec in table.items() if codec.kind != "unknown"]
    decodable = any(table[number].kind == "audio" for number in known)
    # With one format that can be heard the others are declined; without, all are kept as raw RTP.
    return [str(number) for number in (known if decodable else table)]


@dataclass(slots=True)
class Pause:
    """A time in which the stream was inactive or its sender held it: Unix seconds; `end` None while it lasts."""

    start: float
    end: float | None = None


class NtpClock:
    """Offset between a sender's NTP clock and our arrival clock: the smallest seen, the fastest way."""

    def __init__(self) -> None:
        self.offset: float | None = None

    def note(self, ntp: float, arrival: float) -> float:
        offset = arrival - ntp
        if self.offset is None or offset < self.offset or offset > self.offset + 5.0:
            # A leap of the sender's clock starts the estimate afresh.
            self.offset = offset
        return self.offset


@dataclass(eq=False)
class MediaLine:
    """Stream number `number` of a recording, on m-line `index` of its SDP."""

    number: int
    index: int
    kind: str
    pair: PortPair
    local_address: str
    clock: Clock
    label: str = ""
    table: Mapping[int, codecs.Codec] = field(default_factory=dict)
    mux: bool = False
    fir: bool = False
    """FIR was negotiated: key frames are asked for by RTCP, otherwise by INFO (SRS-24)."""
    receiving: bool = True
    trusted: frozenset[str] = frozenset()
    keys: LineKeys | None = None
    """What the stream is encrypted with (SRTP); None: it is not."""
    rtcp_target: Address | None = None
    pauses: list[Pause] = field(default_factory=list)
    codec_names: list[str] = field(default_factory=list)
    source: Address | None = None
    discarded_paused: int = 0
    side: str | None = None
    stream_ids: dict[Id, None] = field(default_factory=dict)
    """Ids the metadata gave to this stream, in order, the latest last."""
    dropped_disk: int = 0
    last_media: float | None = None
    """Monotonic time of the last RTP from the sender, paused or not."""
    rtcp_received: int = 0
    rtcp_malformed: int = 0
    cnames: dict[int, str] = field(default_factory=dict)
    byes: list[int] = field(default_factory=list)
    last_report: tuple[int, float, int] | None = None
    ntp_clocks: dict[str, NtpClock] = field(default_factory=dict)
    """Per CNAME; shared by the lines of a recording, so that streams with one clock are placed by one offset."""
    closed: bool = False

    def __post_init__(self) -> None:
        self.receiver = rtp.Receiver(self._rate)
        self.reporter = rtcp.Reporter(self.clock.now())
        self._raw: deque[RawPacket] = deque(maxlen=_MAX_RAW)
        self._rtcp_source: Address | None = None
        self._poller: Poller | None = None
        self.reports: dict[int, tuple[float, int]] = {}
        self.fir_asked: dict[int, int] = {}

    def _rate(self, payload_type: int) -> int | None:
        codec = self.table.get(payload_type)
        if codec is None:
            # Comfort noise is sent by many who never announced it (RFC 3389 5); without it their pauses look like loss.
            return 8000 if payload_type == _COMFORT_NOISE else None
        return codec.clock_rate

    # ------------------------------------------------------------------------------------------------- receiving

    def open(self, poller: Poller) -> None:
        """Begin to listen."""
        self._poller = poller
        poller.add_reader(self.pair.rtp.fileno(), self.read_rtp)
        poller.add_reader(self.pair.rtcp.fileno(), self.read_rtcp)

    def read_rtp(self) -> None:
        """Drain the RTP socket."""
        self._drain(self.pair.rtp, self.rtp_datagram, self.read_rtp)

    def read_rtcp(self) -> None:
        """Drain the RTCP socket."""
        self._drain(self.pair.rtcp, self.rtcp_datagram, self.read_rtcp)

    def _drain(
        self, sock: socket.socket, take: Callable[[bytes, Address, float], object], readable: Callable[[], object]
    ) -> None:
        now = self.clock.now()
        for number in range(_DRAIN):
            try:
                data, address = sock.recvfrom(_DATAGRAM)
            except BlockingIOError:
                if number == 0 and self._poller is not None:
                    watch_again(self._poller, sock, readable)
                return
            except OSError:
                # An ICMP error for something we sent (RTCP to a closed port); the next datagram is fine.
                if self._poller is not None:
                    watch_again(self._poller, sock, readable)
                continue
            take(data, (address[0], address[1]), now)

    def rtp_datagram(self, data: bytes, address: Address, now: float) -> None:
        """One datagram on the RTP port, from `address`, at monotonic `now`."""
        if rtp.is_rtcp(data):
            if self.mux:
                self.rtcp_datagram(data, address, now)
                return
            if data[1] & 0x7F not in self.table:
                self.receiver.counters.malformed += 1
                return
        known = self.source is not None and address[0] == self.source[0]
        # First come, first served, until the address that signalling named speaks up; nobody else afterwards.
        if not (known or self.source is None or (address[0] in self.trusted and self.source[0] not in self.trusted)):
            self.receiver.counters.stranger += 1
            return
        if self.keys is not None:
            clear = self.keys.decryptor.rtp(data)
            if clear is None:
                self.receiver.counters.srtp_rejected += 1
                return
            data = clear
        if not known:
            self.source = address
        self.last_media = now
        if not self.receiving:
            self.discarded_paused += 1
            return
        packet = self.receiver.receive(data, now)
        if self.fir and packet is not None and packet.ssrc not in self.fir_asked:
            self.ask_key_frame(packet.ssrc)
        codec = self.table.get(packet.payload_type) if packet is not None else None
        if codec is not None and codec.kind == "unknown":
            self._raw.append(RawPacket(now, address, (self.local_address, self.pair.port), data))

    def rtcp_datagram(self, data: bytes, address: Address, now: float) -> None:
        """One RTCP datagram."""
        if self.source is not None and address[0] != self.source[0] and address[0] not in self.trusted:
            self.receiver.counters.stranger += 1
            return
        if self.keys is not None:
            clear = self.keys.decryptor.rtcp(data)
            if clear is None:
                self.receiver.counters.srtp_rejected += 1
                return
            data = clear
        compound = rtcp.parse(data)
        self.rtcp_received += 1
        self.rtcp_malformed += compound.malformed
        # Symmetric RTCP: answer where it comes from (MEDIA-02, RFC 4961).
        self._rtcp_source = address
        for ssrc, cname in compound.cnames.items():
            if len(self.cnames) < 64 or ssrc in self.cnames:
                self.cnames[ssrc] = cname
        for report in compound.sender_reports:
            self.reporter.avoid(report.ssrc)
            self.reporter.note_sender_report(report, now)
            if len(self.reports) < rtp.MAX_SOURCES or report.ssrc in self.reports:
                name = self.cnames.get(report.ssrc, address[0])
                if len(self.ntp_clocks) > 64:
                    self.ntp_clocks.clear()
                offset = self.ntp_clocks.setdefault(name, NtpClock()).note(report.ntp, now)
                self.reports[report.ssrc] = (report.ntp + offset, report.rtp_timestamp)
                self.last_report = (report.ssrc, report.ntp, report.packets)
        for ssrc in compound.byes:
            if len(self.byes) < 64:
                self.byes.append(ssrc)
            source = self.receiver.sources.get(ssrc)
            if source is not None:
                source.ended = True

    # --------------------------------------------------------------------------------------------------- handing on

    def take(self, before: float) -> LineBatch | None:
        """Packets that arrived before `before`, ordered, for the pipeline; None if there is nothing at all."""
        due = {source.ssrc: items for source, items in self.receiver.take(before)}
        sources = []
        for source in self.receiver.sources.values():
            waiting = source.waiting()
            if source.valid and (source.ssrc in due or waiting):
                sources.append(SourceBatch(source.ssrc, due.get(source.ssrc, ()), waiting))
        raw = []
        while self._raw and self._raw[0].arrival < before:
            raw.append(self._raw.popleft())
        if not sources and not raw:
            return None
        return LineBatch(self.number, sources, raw, dict(self.reports))

    # ---------------------------------------------------------------------------------------------------------- RTCP

    def ask_key_frame(self, ssrc: int) -> None:
        """FIR to a source of video, which cannot be decoded before a key frame (MEDIA-10)."""
        if len(self.fir_asked) < rtp.MAX_SOURCES:
            number = self.fir_asked[ssrc] = self.fir_asked.get(ssrc, 0) + 1
            self._send(self.reporter.full_intra_request(self.clock.now(), self._active(self.clock.now()), ssrc, number))

    def _active(self, now: float) -> list[rtp.Source]:
        return [s for s in self.receiver.sources.values() if s.valid and now - s.last_arrival < 10.0]

    def report(self, now: float, *, last: bool = False) -> None:
        """Send our receiver report (with BYE if `last`)."""
        active = self._active(now)
        self._send(self.reporter.bye(now, active) if last else self.reporter.report(now, active))

    def _send(self, data: bytes) -> None:
        target = self._rtcp_source or self.rtcp_target
        if target is None:
            return
        if self.keys is not None:
            secured = self.keys.encryptor.rtcp(data)
            if secured is None:
                return
            data = secured
        sock = self.pair.rtp if self.mux else self.pair.rtcp
        try:
            sock.sendto(data, target)
        except OSError:
            pass  # unreachable, or a full buffer: the next report follows

    def successor(self, wall: float) -> MediaLine:
        """Another stream on the same m-line and sockets; :meth:`open` it in place of this one."""
        line = MediaLine(0, self.index, self.kind, self.pair, self.local_address, self.clock, self.label)
        line.table, line.codec_names, line.mux = self.table, list(self.codec_names), self.mux
        line.trusted, line.source, line.rtcp_target = self.trusted, self.source, self.rtcp_target
        line._rtcp_source = self._rtcp_source
        line.keys, line.fir = self.keys, self.fir
        line.last_media = self.last_media
        if self.pauses and self.pauses[-1].end is None:
            line.pause(wall)
        return line

    def pause(self, wall: float) -> None:
        """From `wall` (Unix seconds) on nothing is to be recorded; what arrives all the same is thrown away."""
        if self.receiving:
            self.receiving = False
            self.pauses.append(Pause(wall))

    def resume(self, wall: float) -> None:
        """Record again."""
        if not self.receiving:
            self.receiving = True
            if self.pauses and self.pauses[-1].end is None:
                self.pauses[-1].end = wall
