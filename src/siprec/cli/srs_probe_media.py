"""The media of `siprec srs-probe`: real RTP with a melody in it, sender reports, and what the SRS reports back."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from siprec import sdp
from siprec.audio.codecs import Codec, codec
from siprec.audio.melody import callee_melody, caller_melody, to_int16
from siprec.audio.packets import packets
from siprec.net.datagrams import DatagramReader
from siprec.recorder.ports import PortPair, PortPool
from siprec.recording import srtp_sdp
from siprec.rtp.rtcp import ReportBlock, empty_report, goodbye, make_cname, report_blocks, sender_report
from siprec.rtp.rtcp import parse as parse_rtcp
from siprec.rtp.srtp import SUPPORTED, Decryptor, Encryptor, offer_lines
from siprec.sdp import MediaDescription

PTIME: Final = 0.02
#: Seconds of melody that are encoded; it begins anew after that.
_TUNE: Final = 8.0
_HEADER: Final = 12
#: Name -> payload type, RTP clock in Hz, channels. Dynamic numbers are ours to choose (RFC 3551 3).
CODECS: Final[dict[str, tuple[int, int, int]]] = {
    "PCMU": (0, 8000, 1),
    "PCMA": (8, 8000, 1),
    "G722": (9, 8000, 1),
    "L16": (96, 16000, 1),
    "opus": (97, 48000, 2),
}


@dataclass(slots=True)
class Report:
    """One RTCP packet of the SRS: monotonic time, where it came from, what it says of our stream (None: nothing)."""

    at: float
    source: tuple[str, int]
    block: ReportBlock | None


@dataclass(slots=True)
class StreamResult:
    """What one stream sent, and what came back."""

    label: str
    codec: str = ""
    sent: int = 0
    refused: int = 0
    """Packets the network returned (ICMP port unreachable)."""
    rtp_received: int = 0
    reports: list[Report] = field(default_factory=list)
    cnames: dict[int, str] = field(default_factory=dict)

    @property
    def last_block(self) -> ReportBlock | None:
        """The last report on our stream."""
        return next((report.block for report in reversed(self.reports) if report.block is not None), None)


class ProbeStream:
    """One stream of the probe: a port pair on `address`, the melody of `party` (0: caller, 1: callee)."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, pool: PortPool, party: int, codecs: Sequence[str], srtp: bool = False
    ) -> None:
        self._loop = loop
        self._pool = pool
        self._pair: PortPair = pool.acquire()
        self._party = party
        self.result = StreamResult(str(party + 1))
        self.ssrc = secrets.randbits(32)
        self._cname = make_cname()
        self._rtp_to: tuple[str, int] | None = None
        self._rtcp_to: tuple[str, int] | None = None
        self._flowing = False
        self._timer: asyncio.Handle | None = None
        self._rtcp_timer: asyncio.TimerHandle | None = None
        self._codec: tuple[Codec, int] | None = None
        self._source: Iterator[tuple[float, bytes]] = iter(())
        self._sequence = secrets.randbits(15)
        self._timestamp = secrets.randbits(31)
        self._octets = 0
        self._due = 0.0
        self._marker = True
        maps = {CODECS[name][0]: _map(name) for name in codecs}
        formats = [CODECS[name][0] for name in codecs]
        self.section: MediaDescription = sdp.build_media(
            "audio",
            self._pair.port,
            formats,
            proto=srtp_sdp.SECURE if srtp else srtp_sdp.PLAIN,
            rtpmaps=maps,
            address=pool.address,
            ptime=20,
        )
        self._encryptor: Encryptor | None = None
        self._decryptor: Decryptor | None = None
        if srtp:
            self.section.lines += [f"a=crypto:{key.value()}" for key in offer_lines()]
        self._readers = [
            DatagramReader(loop, self._pair.rtp, self._read_rtp, self._refused),
            DatagramReader(loop, self._pair.rtcp, self._note),
        ]

    def follow(self, line: MediaDescription) -> None:
        """Do what the SRS's answer for this stream says: where to, in which format, and whether at all (RFC 3264
        5.1)."""
        connection, rtcp = line.connection, line.rtcp
        if line.rejected or connection is None or not self._agree(line):
            self._rtp_to = self._rtcp_to = None
            self._flow(False)
            return
        self._rtp_to = (connection.address, line.port)
        self._rtcp_to = rtcp if rtcp is not None else (connection.address, line.port + 1)
        number = next((int(text) for text in line.formats if text.isdecimal() and int(text) in _NUMBERS), None)
        if number is not None and (self._codec is None or self._codec[1] != number):
            name = _NUMBERS[number]
            _, clock, channels = CODECS[name]
            self._codec = (codec(name, clock, channels), number)
            self.result.codec = name
            self._source = iter(())
        self._flow(line.direction in ("recvonly", "sendrecv") and self._codec is not None)
        if self._rtcp_timer is None:
            # RFC 3550 6.2: the first report after half the interval.
            self._rtcp_timer = self._loop.call_later(2.5, self._report)

    def _agree(self, line: MediaDescription) -> bool:
        """Take the key of the SRS; false where SRTP was offered and is not agreed on."""
        if not srtp_sdp.is_secure(self.section):
            return True
        pair = srtp_sdp.agreed(self.section, line)
        if pair is None or not {pair[0].suite.name, pair[1].suite.name} <= set(SUPPORTED):
            return False
        mine, theirs = pair
        if self._encryptor is None or self._encryptor.crypto != mine:
            self._encryptor = Encryptor(mine)
        if self._decryptor is None:
            self._decryptor = Decryptor(theirs)
        elif self._decryptor.cryptos != (theirs,):
            self._decryptor.rekey(theirs)
        return True

    @property
    def suite(self) -> str:
        """The crypto suite agreed on, empty for plain RTP."""
        return self._encryptor.crypto.suite.name if self._encryptor is not None else ""

    def hold(self) -> None:
        """Send no more RTP, before that is signalled; RTCP goes on (RFC 3264 5.1)."""
        self._flow(False)

    def _flow(self, on: bool) -> None:
        if on and not self._flowing:
            self._due, self._marker = self._loop.time(), True
            self._timer = self._loop.call_soon(self._send)
        elif not on and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._flowing = on

    def _melody(self) -> Iterator[tuple[float, bytes]]:
        assert self._codec is not None
        chosen, number = self._codec
        tune = (caller_melody, callee_melody)[self._party](_TUNE, chosen.sample_rate)
        samples = to_int16(tune)
        if chosen.channels > 1:
            samples = samples.reshape(-1, 1).repeat(chosen.channels, axis=1)
        return packets(
            samples, chosen, number, ssrc=self.ssrc, sequence=self._sequence, timestamp=self._timestamp, ptime=PTIME
        )

    def _next(self) -> bytes:
        for _ in range(2):
            for _, packet in self._source:
                return packet
            self._source = self._melody()
        raise AssertionError("the melody is empty")

    def _send(self) -> None:
        assert self._codec is not None
        now = self._loop.time()
        if now - self._due > 1.0:
            self._due = now  # the process was asleep: no burst
        while self._due <= now:
            packet = bytearray(self._next())
            packet[1] = packet[1] & 0x7F | (0x80 if self._marker else 0)
            packet[2:4] = (self._sequence & 0xFFFF).to_bytes(2, "big")
            packet[4:8] = (self._timestamp & 0xFFFFFFFF).to_bytes(4, "big")
            if self._rtp_to is not None:
                sealed = self._encryptor.rtp(bytes(packet)) if self._encryptor is not None else packet
                try:
                    self._pair.rtp.sendto(sealed or b"", self._rtp_to)
                except OSError:
                    self.result.refused += 1
            self._marker = False
            self.result.sent += 1
            self._octets += len(packet) - _HEADER
            self._sequence += 1
            self._timestamp += round(self._codec[0].clock_rate * PTIME)
            self._due += PTIME
        self._timer = self._loop.call_at(self._due, self._send)

    def _report(self) -> None:
        self._rtcp_timer = self._loop.call_later(5.0, self._report)
        if self.result.sent and self._flowing:
            data = sender_report(self.ssrc, time.time(), self._timestamp, self.result.sent, self._octets, self._cname)
        else:
            data = empty_report(self.ssrc, self._cname)
        self._send_rtcp(data)

    def _send_rtcp(self, data: bytes) -> None:
        if self._rtcp_to is not None:
            sealed = self._encryptor.rtcp(data) if self._encryptor is not None else data
            with contextlib.suppress(OSError):
                self._pair.rtcp.sendto(sealed or b"", self._rtcp_to)

    @property
    def rtcp_target(self) -> tuple[str, int] | None:
        """Where our reports go."""
        return self._rtcp_to

    def _read_rtp(self, data: bytes, source: tuple[str, int]) -> None:
        if len(data) > 1 and 192 <= data[1] <= 223:  # multiplexed although that was not offered
            self._note(data, source)
        else:
            self.result.rtp_received += 1

    def _refused(self, _error: OSError) -> None:
        self.result.refused += 1

    def _note(self, data: bytes, source: tuple[str, int]) -> None:
        if self._decryptor is not None:
            data = self._decryptor.rtcp(data) or b""
        blocks = report_blocks(data)
        if blocks is None or len(self.result.reports) >= 1000:
            return
        mine = next((block for block in blocks if block.ssrc == self.ssrc), None)
        self.result.reports.append(Report(self._loop.time(), source[:2], mine))
        self.result.cnames.update(parse_rtcp(data).cnames)

    def leave(self) -> None:
        """Send nothing more, RTCP BYE being the last (RFC 3550 6.6); what comes is still read."""
        self._flow(False)
        if self._rtcp_timer is not None:
            self._rtcp_timer.cancel()
            self._rtcp_timer = None
            self._send_rtcp(goodbye(self.ssrc, self._cname))

    def close(self) -> None:
        """Close the sockets."""
        self.leave()
        for reader in self._readers:
            reader.close()
        self._pool.release(self._pair)


_NUMBERS: Final = {number: name for name, (number, _, _) in CODECS.items()}


def _map(name: str) -> sdp.RtpMap:
    _, clock, channels = CODECS[name]
    return sdp.RtpMap(name, clock, channels)
