"""Just enough Ogg to wrap Opus packets so that libsndfile decodes them (RFC 3533, RFC 7845)."""

from __future__ import annotations

import struct
from collections.abc import Iterable


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte << 24
        for _ in range(8):
            crc = (crc << 1) ^ 0x04C11DB7 if crc & 0x80000000 else crc << 1
        table.append(crc & 0xFFFFFFFF)
    return table


_CRC = _crc_table()


def _crc(data: bytes | bytearray) -> int:
    crc = 0
    for byte in data:
        crc = ((crc << 8) & 0xFFFFFFFF) ^ _CRC[(crc >> 24) ^ byte]
    return crc


def _page(flags: int, granule: int, sequence: int, packet: bytes) -> bytes:
    """One page that holds one whole packet (RFC 3533 6)."""
    lacing = b"\xff" * (len(packet) // 255) + bytes([len(packet) % 255])
    head = struct.pack("<4sBBqIII", b"OggS", 0, flags, granule, 0x53495052, sequence, 0)
    page = bytearray(head + bytes([len(lacing)]) + lacing + packet)
    struct.pack_into("<I", page, 22, _crc(page))
    return bytes(page)


def opus_file(packets: Iterable[tuple[bytes, int]], channels: int) -> bytes:
    """An Ogg Opus file of `packets`, pairs of payload and duration in 48 kHz samples; nothing is skipped or trimmed."""
    items = list(packets)
    head = struct.pack("<8sBBHIhB", b"OpusHead", 1, channels, 0, 48000, 0, 0)
    tags = struct.pack("<8sI6sI", b"OpusTags", 6, b"siprec", 0)
    pages = [_page(2, 0, 0, head), _page(0, 0, 1, tags)]
    granule = 0
    for number, (packet, duration) in enumerate(items):
        granule += duration
        pages.append(_page(4 if number == len(items) - 1 else 0, granule, number + 2, packet))
    return b"".join(pages)
