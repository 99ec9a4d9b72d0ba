"""RTCP (RFC 3550 6): compound packets, read and built, with feedback (RFC 4585, RFC 5104).

Reading never raises on what comes from the network.
"""

from __future__ import annotations

import base64
import secrets
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

NTP_EPOCH: Final = 2_208_988_800
"""Seconds from 1900-01-01 (NTP) to 1970-01-01."""
SR: Final = 200
RR: Final = 201
SDES: Final = 202
BYE: Final = 203
FEEDBACK: Final = 206
"""Payload-specific feedback (RFC 4585 6.3)."""

_COMMON: Final = struct.Struct("!BBH")
_HEAD: Final = struct.Struct("!BBHI")
_SENDER: Final = struct.Struct("!6I")
_BLOCK: Final = struct.Struct("!6I")


def is_rtcp(packet: memoryview | bytes) -> bool:
    """Whether a datagram looks like RTCP (RFC 5761 4)."""
    return len(packet) >= 8 and packet[0] >> 6 == 2 and 192 <= packet[1] <= 223


def make_cname() -> bytes:
    """A short-term persistent CNAME: 96 random bits in base64 (RFC 7022 5, RFC 7866 8.1.5.1)."""
    return base64.b64encode(secrets.token_bytes(12))


# ------------------------------------------------------------------------------------------------------------- building


def sdes(ssrc: int, cname: bytes) -> bytes:
    """The CNAME of `ssrc` (RFC 3550 6.5)."""
    item = bytes((1, len(cname))) + cname
    chunk = item + b"\0" * (4 - len(item) % 4)
    return _HEAD.pack(0x81, SDES, 1 + len(chunk) // 4, ssrc) + chunk


def sender_report(ssrc: int, wall: float, timestamp: int, packets: int, octets: int, cname: bytes) -> bytes:
    """SR + SDES. `wall` in seconds since the Unix epoch is the instant of RTP `timestamp` (RFC 7866 8.1.1)."""
    seconds = int(wall)
    fraction = int((wall - seconds) * (1 << 32))
    numbers = (ssrc, seconds + NTP_EPOCH, fraction, timestamp, packets, octets)
    report = _COMMON.pack(0x80, SR, 6) + _SENDER.pack(*(number & 0xFFFFFFFF for number in numbers))
    return report + sdes(ssrc, cname)


class ReportBlock(NamedTuple):
    """What a receiver says of one source (RFC 3550 6.4.1): `lost` packets in all, `fraction` in 1/256, `highest` the
    extended sequence number, `jitter` in units of the media clock, `last_report` and `delay` (1/65536 s) of the last
    sender report."""

    ssrc: int
    fraction: int
    lost: int
    highest: int
    jitter: int
    last_report: int = 0
    delay: int = 0

    def to_bytes(self) -> bytes:
        """The block, 24 octets."""
        loss = self.fraction << 24 | self.lost & 0xFFFFFF
        return _BLOCK.pack(self.ssrc, loss, self.highest, self.jitter, self.last_report, self.delay)


def receiver_report(ssrc: int, blocks: list[ReportBlock], cname: bytes) -> bytes:
    """RR + SDES; 31 blocks at the most."""
    head = _HEAD.pack(0x80 | len(blocks), RR, 1 + 6 * len(blocks), ssrc)
    return head + b"".join([block.to_bytes() for block in blocks]) + sdes(ssrc, cname)


def empty_report(ssrc: int, cname: bytes) -> bytes:
    """RR without blocks + SDES: what a participant says that has sent nothing yet."""
    return receiver_report(ssrc, [], cname)


def bye(ssrc: int) -> bytes:
    """BYE (RFC 3550 6.6); a report goes before it."""
    return _HEAD.pack(0x81, BYE, 1, ssrc)


def goodbye(ssrc: int, cname: bytes) -> bytes:
    """RR + SDES + BYE (RFC 3550 6.6)."""
    return empty_report(ssrc, cname) + bye(ssrc)


def picture_loss(sender: int, source: int) -> bytes:
    """PLI about the media source `source` (RFC 4585 6.3.1)."""
    return struct.pack("!BBHII", 0x81, FEEDBACK, 2, sender, source)


def full_intra_request(sender: int, source: int, number: int) -> bytes:
    """FIR (RFC 5104 4.3.1): a key frame is wanted of `source`, for the `number`-th time."""
    return struct.pack("!BBHIIIB3x", 0x84, FEEDBACK, 4, sender, 0, source, number & 0xFF)


# -------------------------------------------------------------------------------------------------------------- reading


class _Malformed(Exception):
    """A packet of a compound packet is not RTCP, or longer than what there is."""


class _Rest(_Malformed):
    """After the last packet there is less than a header."""


def _parts(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """The packets of a compound packet: type, the count in the first octet, start and end of the body."""
    at = 0
    while at < len(data):
        if at + 4 > len(data):
            raise _Rest
        first, kind, words = _COMMON.unpack_from(data, at)
        end = at + 4 + words * 4
        if first >> 6 != 2 or end > len(data):
            raise _Malformed
        yield kind, first & 31, at + 4, end
        at = end


def report_blocks(packet: bytes) -> list[ReportBlock] | None:
    """The blocks of every SR and RR in a compound packet; None if it is no RTCP."""
    blocks: list[ReportBlock] = []
    if len(packet) < 8:
        return None
    try:
        for kind, count, start, end in _parts(packet):
            if not 192 <= kind <= 223:
                return None
            if kind not in (SR, RR):
                continue
            start += 24 if kind == SR else 4
            if start + 24 * count > end:
                return None
            for number in range(count):
                ssrc, loss, highest, jitter, report, delay = _BLOCK.unpack_from(packet, start + 24 * number)
                lost = loss & 0xFFFFFF
                lost -= (lost & 0x800000) << 1
                blocks.append(ReportBlock(ssrc, loss >> 24, lost, highest, jitter, report, delay))
    except _Rest:
        pass
    except _Malformed:
        return None
    return blocks


def wants_key_frame(packet: bytes) -> bool:
    """Whether a compound packet asks for a key frame, by PLI or FIR."""
    try:
        return any(kind == FEEDBACK and count in (1, 4) for kind, count, _, _ in _parts(packet))
    except _Malformed:
        return False


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
    """What one RTCP datagram of a sender told us."""

    sender_reports: list[SenderReport] = field(default_factory=list)
    cnames: dict[int, str] = field(default_factory=dict)
    byes: list[int] = field(default_factory=list)
    malformed: bool = False


def parse(data: bytes) -> Compound:
    """Read a compound packet as far as it is well-formed (RFC 3550 6.4-6.6)."""
    out = Compound()
    try:
        for kind, count, start, end in _parts(data):
            body = data[start:end]
            if kind == SR and len(body) >= 24:
                ssrc, seconds, fraction, timestamp, packets, octets = _SENDER.unpack_from(body)
                ntp = seconds - NTP_EPOCH + fraction / 2**32
                middle = (seconds & 0xFFFF) << 16 | fraction >> 16
                out.sender_reports.append(SenderReport(ssrc, ntp, middle, timestamp, packets, octets))
            elif kind == SDES:
                _read_sdes(body, count, out)
            elif kind == BYE:
                count = min(count, len(body) // 4)
                out.byes += struct.unpack_from(f"!{count}I", body)
            elif kind == SR:
                out.malformed = True
    except _Malformed:
        out.malformed = True
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
