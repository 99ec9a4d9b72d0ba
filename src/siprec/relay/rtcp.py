"""RTCP of a fork: the relay is an endpoint towards the recorder (RFC 3550 6, RFC 7866 8.2.3, ROLE-4)."""

from __future__ import annotations

import base64
import secrets
import struct
from dataclasses import dataclass

_SR = struct.Struct("!BBHIIIIII")
_HEAD = struct.Struct("!BBHI")
_BLOCK = struct.Struct("!IIIIII")
_NTP_EPOCH = 2_208_988_800  # seconds from 1900 to 1970

SR, RR, SDES, BYE = 200, 201, 202, 203


def make_cname() -> bytes:
    """A short-term persistent CNAME: 96 random bits (RFC 7022 5, RFC 7866 8.1.5.1)."""
    return base64.b64encode(secrets.token_bytes(12))


def sdes(ssrc: int, cname: bytes) -> bytes:
    """The CNAME of `ssrc` (RFC 3550 6.5)."""
    item = bytes((1, len(cname))) + cname
    chunk = item + b"\0" * (4 - len(item) % 4)
    return _HEAD.pack(0x81, SDES, 1 + len(chunk) // 4, ssrc) + chunk


def sender_report(ssrc: int, wall: float, timestamp: int, packets: int, octets: int, cname: bytes) -> bytes:
    """SR + SDES. `wall` in seconds since the Unix epoch is the instant of RTP `timestamp` (RFC 7866 8.1.1)."""
    seconds = int(wall)
    fraction = int((wall - seconds) * (1 << 32)) & 0xFFFFFFFF
    report = _SR.pack(
        0x80,
        SR,
        6,
        ssrc,
        (seconds + _NTP_EPOCH) & 0xFFFFFFFF,
        fraction,
        timestamp & 0xFFFFFFFF,
        packets & 0xFFFFFFFF,
        octets & 0xFFFFFFFF,
    )
    return report + sdes(ssrc, cname)


def empty_report(ssrc: int, cname: bytes) -> bytes:
    """RR without blocks + SDES: what a participant says that has sent nothing yet."""
    return _HEAD.pack(0x80, RR, 1, ssrc) + sdes(ssrc, cname)


def goodbye(ssrc: int, cname: bytes) -> bytes:
    """RR + SDES + BYE (RFC 3550 6.6)."""
    return empty_report(ssrc, cname) + _HEAD.pack(0x81, BYE, 1, ssrc)


@dataclass(frozen=True, slots=True)
class ReportBlock:
    """What a receiver says of one source (RFC 3550 6.4.1): `lost` packets in all, `fraction` in 1/256,
    `jitter` in units of the media clock."""

    ssrc: int
    fraction: int
    lost: int
    highest: int
    jitter: int


def report_blocks(packet: bytes) -> list[ReportBlock] | None:
    """The blocks of every SR and RR in a compound packet; None if it is no RTCP."""
    blocks: list[ReportBlock] = []
    at = 0
    if len(packet) < 8:
        return None
    while at + 4 <= len(packet):
        first, kind, words = struct.unpack_from("!BBH", packet, at)
        end = at + 4 + words * 4
        if first >> 6 != 2 or not 192 <= kind <= 223 or end > len(packet):
            return None
        if kind in (SR, RR):
            start = at + (28 if kind == SR else 8)
            for number in range(first & 31):
                if start + 24 * (number + 1) > end:
                    return None
                ssrc, loss, highest, jitter, _, _ = _BLOCK.unpack_from(packet, start + 24 * number)
                lost = loss & 0xFFFFFF
                blocks.append(
                    ReportBlock(ssrc, loss >> 24, lost - (1 << 24) if lost & 0x800000 else lost, highest, jitter)
                )
        at = end
    return blocks
