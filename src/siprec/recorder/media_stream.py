"""One accepted m-line: its sockets, who may send to it, what has been received, its RTCP."""

from __future__ import annotations

import logging
import socket
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from siprec.audio import codecs
from siprec.metadata.values import Id
from siprec.net.datagrams import watch_again
from siprec.recorder.formats import meanings
from siprec.recorder.latch import Heard, Latch
from siprec.recorder.ntp import NtpClock
from siprec.recorder.numbering import Source
from siprec.recorder.pipeline import LineBatch, RawPacket, SourceBatch
from siprec.recorder.ports import Poller, PortPair
from siprec.recorder.receiver import MAX_SOURCES, Receiver
from siprec.recorder.receiver_reports import Reporter
from siprec.recorder.secure import LineKeys
from siprec.recorder.stream_counters import Counters
from siprec.rtp import packets as rtp
from siprec.rtp import rtcp
from siprec.sip.clock import Clock

log = logging.getLogger(__name__)

Address = tuple[str, int]

_DATAGRAM = 9216
_DRAIN = 256  # datagrams read per wake-up, so that one stream cannot starve the others
_MAX_RAW = 20_000
_MAX_NAMES = 32  # of a kind that a stream remembers and writes to the log


@dataclass(slots=True)
class Pause:
    """A time in which the stream was inactive or its sender held it: Unix seconds; `end` None while it lasts."""

    start: float
    end: float | None = None


@dataclass(eq=False)
class ReceivedStream:
    """Stream number `number` of a recording, on m-line `index` of its SDP."""

    number: int
    index: int
    kind: str
    pair: PortPair
    local_address: str
    clock: Clock
    label: str = ""
    call_id: str = ""
    """Of the recording session, for the log."""
    table: Mapping[int, codecs.Codec] = field(default_factory=dict)
    mux: bool = False
    fir: bool = False
    """FIR was negotiated: key frames are asked for by RTCP, otherwise by INFO (RFC 7866 8.1.7.1.1)."""
    receiving: bool = True
    offered: Mapping[int, codecs.Codec] = field(default_factory=dict)
    """What the client offered, taken or not."""
    keys: LineKeys | None = None
    """What the stream is encrypted with (SRTP); None: it is not."""
    rtcp_target: Address | None = None
    pauses: list[Pause] = field(default_factory=list)
    codec_names: list[str] = field(default_factory=list)
    latch: Latch = field(default_factory=Latch)
    arrived: int = 0
    """RTP packets of the stream's source, whatever became of them."""
    discarded_paused: int = 0
    side: str | None = None
    stream_ids: dict[Id, None] = field(default_factory=dict)
    """Ids the metadata gave to this stream, in order, the latest last."""
    dropped_disk: int = 0
    last_media: float | None = None
    """Monotonic time of the last RTP from the sender, paused or not."""
    rtcp_received: int = 0
    cnames: dict[int, str] = field(default_factory=dict)
    byes: list[int] = field(default_factory=list)
    last_report: tuple[int, float, int] | None = None
    sources: list[tuple[float, Address]] = field(default_factory=list)
    """Where media came from, since when (monotonic seconds); the latest last."""
    moves: int = 0
    """How often the source changed."""
    second_sources: dict[Address, int] = field(default_factory=dict)
    """Others that sent media at the same time, none of which is recorded: their SSRC."""
    not_decodable: dict[str, int] = field(default_factory=dict)
    """Packets of formats that cannot be decoded although the line can, by name."""
    ntp_clocks: dict[str, NtpClock] = field(default_factory=dict)
    """Per CNAME; shared by the lines of a recording, so that streams with one clock are placed by one offset."""
    closed: bool = False

    def __post_init__(self) -> None:
        self._meanings: dict[int, codecs.Codec] = {}
        self.receiver = Receiver()
        self.reporter = Reporter(self.clock.now())
        self._raw: deque[RawPacket] = deque(maxlen=_MAX_RAW)
        self._rtcp_source: Address | None = None
        self._poller: Poller | None = None
        self.reports: dict[int, tuple[float, int, float]] = {}
        self.fir_asked: dict[int, int] = {}

    @property
    def source(self) -> Address | None:
        """Where media come from."""
        return self.latch.source

    @property
    def meanings(self) -> Mapping[int, codecs.Codec]:
        """Payload type -> codec for all that may arrive."""
        return self._meanings

    def negotiated(self, taken: Mapping[int, codecs.Codec], offered: Mapping[int, codecs.Codec]) -> None:
        """The formats after an offer and its answer. What was offered before may still be sent."""
        self.table, self.offered = taken, {**self.offered, **offered}
        self._meanings = meanings(taken, self.offered, self.kind)

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
        if rtcp.is_rtcp(data):
            if self.mux:
                self.rtcp_datagram(data, address, now)
                return
            if data[1] & 0x7F not in self.table:
                self.receiver.counters.malformed += 1
                return
        if self.keys is not None:
            clear = self.keys.decryptor.rtp(data, search=self.latch.welcomes_rtcp(address[0]))
            if clear is None:
                self.receiver.counters.srtp_rejected += 1
                return
            data = clear
        packet = rtp.parse(data, now)
        if packet is None:
            if address == self.source or self.latch.welcomes_rtcp(address[0]):
                self.receiver.counters.malformed += 1
            else:
                self.receiver.counters.stranger += 1
            return
        if address == self.latch.source and not self.latch.contested:
            self.latch.speaks(now)
            self._take(address, packet, data)
            return
        agreed = packet.payload_type in self._meanings
        taken = self.latch.receive(address, Heard(data, packet), agreed=agreed)
        self.receiver.counters.stranger += taken.dropped
        if taken.second is not None:
            self._second(taken.second, packet.ssrc)
        if taken.moved is not None:
            self._moved(taken.moved, now)
        for heard in taken.heard:
            self._take(address, heard.packet, heard.data)

    def _take(self, address: Address, packet: rtp.RtpPacket, data: bytes) -> None:
        """A packet of the stream's source."""
        self.last_media = packet.arrival
        self.arrived += 1
        if not self.receiving:
            self.discarded_paused += 1
            return
        codec = self._meanings.get(packet.payload_type)
        if codec is None:
            self.receiver.counters.unknown_payload_type += 1
            self._keep_raw(packet, codec, address, data)
            return
        kind = codec.kind
        source = self.receiver.accept(packet, codec.clock_rate, event=kind == "event")
        if kind == "noise" or (source is not None and source.dtx):
            self.latch.dtx = True
        if self.fir and source is not None and packet.ssrc not in self.fir_asked:
            self.ask_key_frame(packet.ssrc)
        if kind == "unknown":
            self._keep_raw(packet, codec, address, data)

    def _keep_raw(self, packet: rtp.RtpPacket, codec: codecs.Codec | None, address: Address, data: bytes) -> None:
        """What cannot be decoded here is kept as it came."""
        self._raw.append(RawPacket(packet.arrival, address, (self.local_address, self.pair.port), data))
        if packet.payload_type in self.table:
            return
        if codec is not None:
            self.receiver.counters.unknown_payload_type += 1
        name = codec.name if codec is not None else f"payload type {packet.payload_type}"
        if name not in self.not_decodable:
            if len(self.not_decodable) >= _MAX_NAMES:
                name = "others"
            if name not in self.not_decodable:
                self._warn(f"RTP in a format that was not agreed upon and cannot be decoded, {name}, is kept raw")
        self.not_decodable[name] = self.not_decodable.get(name, 0) + 1

    def _moved(self, address: Address, now: float) -> None:
        if self.sources and self.sources[-1][1] == address:
            return
        if self.sources:
            self.moves += 1
            host, port = self.sources[-1][1]
            if self.moves <= _MAX_NAMES:
                self._warn(f"media now come from {address[0]} port {address[1]} instead of {host} port {port}")
        self.sources.append((now, address))
        del self.sources[:-_MAX_NAMES]

    def _second(self, address: Address, ssrc: int) -> None:
        if len(self.second_sources) < _MAX_NAMES and address not in self.second_sources:
            self.second_sources[address] = ssrc
            self._warn(f"a second source, {address[0]} port {address[1]}, SSRC {ssrc:08x}, is not recorded")

    def _warn(self, what: str) -> None:
        """Bounded by its callers: what comes from the network must not fill the log."""
        log.warning("Call-ID %s, m-line %d, label %s: %s", self.call_id, self.index, self.label or "-", what)

    def rtcp_datagram(self, data: bytes, address: Address, now: float) -> None:
        """One RTCP datagram."""
        if not self.latch.welcomes_rtcp(address[0]):
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
        # Symmetric RTCP: answer where it comes from (RFC 7866 8.1.8, RFC 4961).
        self._rtcp_source = address
        for ssrc, cname in compound.cnames.items():
            if len(self.cnames) < 64 or ssrc in self.cnames:
                self.cnames[ssrc] = cname
        for report in compound.sender_reports:
            self.reporter.avoid(report.ssrc)
            self.reporter.note_sender_report(report, now)
            if len(self.reports) < MAX_SOURCES or report.ssrc in self.reports:
                name = self.cnames.get(report.ssrc, address[0])
                if len(self.ntp_clocks) > 64:
                    self.ntp_clocks.clear()
                offset = self.ntp_clocks.setdefault(name, NtpClock()).note(report.ntp, now)
                self.reports[report.ssrc] = (report.ntp + offset, report.rtp_timestamp, now)
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
        """FIR to a source of video, which cannot be decoded before a key frame (RFC 7866 8.1.7)."""
        if len(self.fir_asked) < MAX_SOURCES:
            number = self.fir_asked[ssrc] = self.fir_asked.get(ssrc, 0) + 1
            self._send(self.reporter.full_intra_request(self.clock.now(), self._active(self.clock.now()), ssrc, number))

    def _active(self, now: float) -> list[Source]:
        return [s for s in self.receiver.sources.values() if s.valid and now - s.last_arrival < 10.0]

    def report(self, now: float, *, last: bool = False) -> None:
        """Send our receiver report (with BYE if `last`)."""
        active = self._active(now)
        self._send(self.reporter.bye(now, active) if last else self.reporter.report(now, active))

    def _send(self, data: bytes) -> None:
        target = self._rtcp_to()
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

    def _rtcp_to(self) -> Address | None:
        """Where our reports go: only to the host that media came from, whatever signalling says."""
        media = self.source
        if media is None or self.last_media is None:
            return None
        for known in (self._rtcp_source, self.rtcp_target):
            if known is not None and known[0] == media[0]:
                return known
        return media if self.mux else (media[0], media[1] + 1)

    def counters(self) -> Counters:
        """What happened to packets so far."""
        total = self.receiver.total()
        if not self.closed:
            total.stranger += self.latch.undecided
        return total

    def successor(self, wall: float) -> ReceivedStream:
        """Another stream on the same m-line and sockets; :meth:`open` it in place of this one."""
        line = ReceivedStream(0, self.index, self.kind, self.pair, self.local_address, self.clock, self.label)
        line.call_id = self.call_id
        line.negotiated(self.table, self.offered)
        line.codec_names, line.mux = list(self.codec_names), self.mux
        line.latch, line.rtcp_target, line.sources = self.latch, self.rtcp_target, self.sources[-1:]
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
        """Record again. What the sender withheld meanwhile is not lost."""
        if not self.receiving:
            self.receiving = True
            self.receiver.gap()
            if self.pauses and self.pauses[-1].end is None:
                self.pauses[-1].end = wall
