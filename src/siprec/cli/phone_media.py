"""The RTP side of the demo's phones: sends a prepared PCMU signal in real time and counts what comes back."""

from __future__ import annotations

import asyncio
import secrets
import socket
import struct
from typing import Final

from siprec.audio.g711 import ulaw_encode
from siprec.audio.melody import Floats, to_int16
from siprec.net.datagrams import DatagramReader

FRAME: Final = 160
"""Samples, and octets, of one PCMU packet: 20 ms at 8 kHz."""
_INTERVAL: Final = 0.02


class PhoneMedia:
    """One audio stream of a phone: a UDP socket pair on `host`, PCMU, 20 ms packets.

    `sent` and `received` count RTP packets; `lost` counts the gaps in the sequence numbers received.
    """

    def __init__(self, host: str, signal: Floats) -> None:
        self._loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.host = host
        self._rtp, self._rtcp = _port_pair(family, host)
        self.port: int = self._rtp.getsockname()[1]
        self._payload = ulaw_encode(to_int16(signal).reshape(-1, 1))
        self._remote: tuple[str, int] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._position = 0
        self._started = 0.0
        self._sequence = secrets.randbits(15)
        self._timestamp = secrets.randbits(31)
        self._ssrc = secrets.randbits(32)
        self.sent = 0
        self.received = 0
        self._first: int | None = None
        self._highest = 0
        self._readers = [
            DatagramReader(self._loop, self._rtp, self._read),
            DatagramReader(self._loop, self._rtcp, lambda data, source: None),
        ]

    @property
    def lost(self) -> int:
        """Packets missing between the first and the last sequence number received."""
        if self._first is None:
            return 0
        return max(0, self._highest - self._first + 1 - self.received)

    @property
    def frames(self) -> int:
        """How many packets the whole signal takes."""
        return len(self._payload) // FRAME

    def start(self, host: str, port: int) -> None:
        """Send the signal to the peer from its beginning; it falls silent (stops) at its end."""
        self._remote = (host, port)
        if self._timer is None and self._position == 0:
            self._started = self._loop.time()
            self._send()

    def _send(self) -> None:
        self._timer = None
        due = int((self._loop.time() - self._started) / _INTERVAL) + 1
        while self.sent < min(due, self.frames):
            payload = self._payload[self._position : self._position + FRAME]
            marker = 0x80 if self.sent == 0 else 0
            header = struct.pack(
                "!BBHII", 0x80, marker, self._sequence & 0xFFFF, self._timestamp & 0xFFFFFFFF, self._ssrc
            )
            if self._remote is not None:
                try:
                    self._rtp.sendto(header + payload, self._remote)
                except OSError:
                    # A refused or full socket is one lost packet, as on any network.
                    pass
            self.sent += 1
            self._position += FRAME
            self._sequence += 1
            self._timestamp += FRAME
        if self.sent < self.frames:
            self._timer = self._loop.call_at(self._started + self.sent * _INTERVAL, self._send)

    def _read(self, data: bytes, _source: object) -> None:
        if len(data) < 12 or data[0] >> 6 != 2:
            return
        self.received += 1
        sequence = int.from_bytes(data[2:4], "big")
        if self._first is None:
            self._first = self._highest = sequence
        else:
            step = (sequence - self._highest) & 0xFFFF
            if step < 0x8000:
                self._highest += step

    def close(self) -> None:
        """Stop sending, close the sockets."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for reader, sock in zip(self._readers, (self._rtp, self._rtcp), strict=True):
            reader.close()
            sock.close()


def _port_pair(family: int, host: str) -> tuple[socket.socket, socket.socket]:
    """Two bound non-blocking sockets on an even port and the next one."""
    for _ in range(200):
        rtp = socket.socket(family, socket.SOCK_DGRAM)
        rtp.setblocking(False)
        rtp.bind((host, 0))
        port = rtp.getsockname()[1]
        rtcp = socket.socket(family, socket.SOCK_DGRAM)
        rtcp.setblocking(False)
        try:
            if port % 2 == 0:
                rtcp.bind((host, port + 1))
                return rtp, rtcp
        except OSError:
            pass
        rtp.close()
        rtcp.close()
    raise OSError(f"no free port pair on {host}")
