"""Raw RTP kept as a pcap file (raw IP link type), for what cannot be decoded here: nothing is lost, and every analyser
opens it."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

from siprec.recorder.disk import DiskFile

Address = tuple[str, int]
_RAW_IP = 101


class PcapFile:
    """Datagrams with their times. A killed process leaves at most the last record torn, which readers ignore."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.packets = 0
        self.disk = DiskFile(path)
        self._buffer = bytearray(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, _RAW_IP))

    def write(self, wall: float, source: Address, destination: Address, payload: bytes) -> None:
        """Append a UDP datagram received at `wall` (Unix seconds)."""
        packet = _datagram(source, destination, payload)
        self._buffer += struct.pack("<IIII", int(wall), int(wall % 1 * 1e6), len(packet), len(packet)) + packet
        self.packets += 1

    def flush(self) -> None:
        """Hand everything to the operating system."""
        if self._buffer:
            self.disk.pwrite(bytes(self._buffer), self.disk.size)
            self._buffer.clear()

    def close(self) -> None:
        """Finish; closing twice is harmless."""
        self.flush()
        self.disk.close()


def _datagram(source: Address, destination: Address, payload: bytes) -> bytes:
    size = 8 + len(payload)
    udp = struct.pack("!HHHH", source[1], destination[1], size, 0)
    if ":" in source[0]:
        addresses = socket.inet_pton(socket.AF_INET6, source[0]) + socket.inet_pton(socket.AF_INET6, destination[0])
        return struct.pack("!IHBB", 6 << 28, size, 17, 64) + addresses + udp + payload
    addresses = socket.inet_aton(source[0]) + socket.inet_aton(destination[0])
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + size & 0xFFFF, 0, 0, 64, 17, 0) + addresses
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return head[:10] + struct.pack("!H", checksum) + head[12:] + udp + payload
