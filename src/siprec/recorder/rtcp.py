"""RTCP (RFC 3550 6): reading what the sender reports, building our receiver reports.

The recorder only receives: it sends RR + SDES and BYE, from its own SSRC (RFC 7866 8.1.1, 8.1.3), with a random CNAME
per RFC 7022 (RFC 7866 8.1.5.1). Parsing never raises; what cannot be read ends the compound packet.
"""

from __future__ import annotations

import base64
import random
import secrets
import struct
from dataclasses import dataclass, field

from siprec.recorder.numbering import Source

NTP_EPOCH = 2208988800
"""Seconds from 1900-01-01 (NTP) to 1970-01-01."""
_SR, _RR, _SDES, _BYE = 200, 201, 202, 203
_MAX_REPORTS = 31


@dataclass(frozen=True, slots=True)
class SenderReport:
    """`ntp` is seconds since the Unix epoch by the sender's clock; `middle` the 32 bits that RRs echo as LSR."""

    ssrc: int
    ntp: float
    middle: int
    rtp_timestamp: int
    packets: int
    octets: int


@dataclass(slots=True)
class Compound:
    """What one RTCP datagram told us."""

    sender_reports: list[SenderReport] = field(default_factory=list)
    cnames: dict[int, str] = field(default_factory=dict)
    byes: list[int] = field(default_factory=list)
    malformed: bool = False


def parse(data: bytes) -> Compound:
    """Read a compound packet as far as it is well-formed (RFC 3550 6.4-6.6)."""
    out = Compound()
    position = 0
    while position < len(data):
        if position + 4 > len(data):
            out.malformed = True
            break
        first, kind, words = struct.unpack_from("!BBH", data, position)
        end = position + 4 * (words + 1)
        if first >> 6 != 2 or end > len(data):
            out.malformed = True
            break
        body = data[position + 4 : end]
        count = first & 0x1F
        if kind == _SR and len(body) >= 24:
            ssrc, seconds, fraction, timestamp, packets, octets = struct.unpack_from("!6I", body)
            ntp = seconds - NTP_EPOCH + fraction / 2**32
            middle = (seconds & 0xFFFF) << 16 | fraction >> 16
            out.sender_reports.append(SenderReport(ssrc, ntp, middle, timestamp, packets, octets))
        elif kind == _SDES:
            _read_sdes(body, count, out)
        elif kind == _BYE:
            count = min(count, len(body) // 4)
            out.byes += struct.unpack_from(f"!{count}I", body)
        elif kind == _SR:
            out.malformed = True
        position = end
    return out


def _read_sdes(body: bytes, chunks: int, out: Compound) -> None:
    position = 0
    for _ in range(chunks):
        if position + 4 > len(body):
            out.malformed = True
            return
        ssrc = int.from_bytes(body[position : position + 4], "big")
        position += 4
        while position < len(body) and body[position]:
            if position + 2 > len(body) or position + 2 + body[position + 1] > len(body):
                out.malformed = True
                return
            size = body[position + 1]
            if body[position] == 1:
                out.cnames[ssrc] = body[position + 2 : position + 2 + size].decode("utf-8", "replace")
            position += 2 + size
        position = (position // 4 + 1) * 4


def random_cname() -> str:
    """A short-term persistent CNAME: 96 random bits in base64 (RFC 7022 4.2)."""
    return base64.b64encode(secrets.token_bytes(12)).decode()


@dataclass(slots=True)
class _Last:
    expected: int = 0
    received: int = 0
    middle: int = 0
    arrival: float = 0.0


class Reporter:
    """Our half of the RTCP of one RTP session.

    Time is monotonic seconds, handed in. The interval is 5 s with the randomisation of RFC 3550 6.2 and 6.3.1, half of
    it before the first report; with one sender and one receiver the 5 % rule never asks for more.
    """

    INTERVAL = 5.0

    def __init__(self, now: float, *, cname: str | None = None, rng: random.Random | None = None) -> None:
        self._random = rng or random.SystemRandom()
        self.ssrc = self._random.getrandbits(32)
        self.cname = cname or random_cname()
        self._last: dict[int, _Last] = {}
        self.sent = 0
        self.due = now + self._interval() / 2

    def _interval(self) -> float:
        # 1.21828 = e - 3/2, the compensation of RFC 3550 6.3.1.
        return self.INTERVAL * (0.5 + self._random.random()) / 1.21828

    def note_sender_report(self, report: SenderReport, arrival: float) -> None:
        """Remember a sender report for LSR and DLSR."""
        if report.ssrc in self._last or len(self._last) < _MAX_REPORTS:
            last = self._last.setdefault(report.ssrc, _Last())
            last.middle, last.arrival = report.middle, arrival

    def avoid(self, ssrc: int) -> None:
        """Choose another SSRC if a sender uses ours (RFC 3550 8.2)."""
        while self.ssrc == ssrc:
            self.ssrc = self._random.getrandbits(32)

    def report(self, now: float, sources: list[Source]) -> bytes:
        """The next compound packet: RR on `sources` and SDES CNAME. Sets :attr:`due`."""
        self.due = now + self._interval()
        self.sent += 1
        blocks = b"".join(self._block(now, source) for source in sources[:_MAX_REPORTS])
        count = len(blocks) // 24
        head = struct.pack("!BBHI", 0x80 | count, _RR, 1 + 6 * count, self.ssrc)
        return head + blocks + self._sdes()

    def bye(self, now: float, sources: list[Source]) -> bytes:
        """The last compound packet: RR, SDES, BYE (RFC 3550 6.6)."""
        return self.report(now, sources) + struct.pack("!BBHI", 0x81, _BYE, 1, self.ssrc)

    def full_intra_request(self, now: float, sources: list[Source], ssrc: int, number: int) -> bytes:
        """RR, SDES, FIR (RFC 5104 4.3.1): a key frame is wanted of `ssrc`, for the `number`-th time."""
        return self.report(now, sources) + struct.pack("!BBHIIIB3x", 0x84, 206, 4, self.ssrc, 0, ssrc, number & 0xFF)

    def _sdes(self) -> bytes:
        name = self.cname.encode()
        chunk = struct.pack("!IBB", self.ssrc, 1, len(name)) + name
        chunk += b"\0" * (4 - len(chunk) % 4)
        return struct.pack("!BBH", 0x81, _SDES, len(chunk) // 4) + chunk

    def _block(self, now: float, source: Source) -> bytes:
        counters = source.counters
        if source.ssrc not in self._last and len(self._last) >= 64:
            self._last.pop(next(iter(self._last)))
        last = self._last.setdefault(source.ssrc, _Last())
        # Duplicates are counted apart: they mask no loss, and nothing is lost less than not at all.
        came = counters.distinct + counters.late
        expected = counters.expected - last.expected
        lost = expected - (came - last.received)
        last.expected, last.received = counters.expected, came
        fraction = min((lost << 8) // expected, 255) if expected > 0 and lost > 0 else 0
        cumulative = min(max(counters.expected - came, 0), 0x7FFFFF)
        delay = round((now - last.arrival) * 65536) & 0xFFFFFFFF if last.middle else 0
        return struct.pack(
            "!IIIIII",
            source.ssrc,
            fraction << 24 | cumulative,
            (source.highest - 0x10000) & 0xFFFFFFFF,
            round(counters.jitter * source.clock_rate) & 0xFFFFFFFF,
            last.middle,
            delay,
        )
