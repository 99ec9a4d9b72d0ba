"""What goes over the wire: real speech-like RTP to send, captures, and what tshark says of them."""

from __future__ import annotations

import re
import struct
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from siprec.audio.g711 import ulaw_decode, ulaw_encode
from siprec.audio.melody import Floats, to_int16
from tests.interop.calls.harness import Process, until

RATE = 8000
FRAME = 160  # samples: 20 ms


def write_rtp_pcap(path: Path, signal: Floats, ssrc: int) -> Floats:
    """Write `signal` (mono, 8 kHz) as PCMU packets of 20 ms that SIPp's ``play_pcap_audio`` sends.

    Returns what a receiver decodes, shape ``(len(signal),)``.
    """
    encoded = ulaw_encode(to_int16(signal))
    out = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)]
    for number in range(len(encoded) // FRAME):
        payload = encoded[number * FRAME : (number + 1) * FRAME]
        rtp = struct.pack("!BBHII", 0x80, 0x80 if number == 0 else 0, 1000 + number, number * FRAME, ssrc) + payload
        udp = struct.pack("!HHHH", 6000, 6000, 8 + len(rtp), 0) + rtp
        ip = struct.pack("!BBHHHBBHII", 0x45, 0, 20 + len(udp), number, 0, 64, 17, 0, 0x7F000001, 0x7F000001) + udp
        frame = bytes(12) + b"\x08\x00" + ip
        micros = number * 20000
        out.append(struct.pack("<IIII", 1 + micros // 1_000_000, micros % 1_000_000, len(frame), len(frame)) + frame)
    path.write_bytes(b"".join(out))
    return ulaw_decode(encoded).astype(np.float32) / np.float32(32768)


@dataclass(frozen=True, slots=True)
class RtpStream:
    """One line of tshark's list of RTP streams."""

    source_port: int
    destination_port: int
    ssrc: str
    payload: str
    packets: int
    lost: int


class Capture:
    """dumpcap on the loopback interface, limited to the ports of one test."""

    def __init__(self, directory: Path, *, sip: list[int], ranges: list[tuple[int, int]]) -> None:
        self.file = directory / "capture.pcapng"
        self.sip = sip
        ports = [f"port {port}" for port in sip] + [f"udp portrange {first}-{last}" for first, last in ranges]
        command = ["dumpcap", "-q", "-i", "lo", "-B", "16", "-w", str(self.file), "-f", " or ".join(ports)]
        self.process = Process(command, directory / "dumpcap.log")
        ready = until(lambda: "File:" in self.process.text or self.process.child.poll() is not None)
        if not ready or self.process.child.poll() is not None:
            self.process.stop()
            raise AssertionError(f"dumpcap did not start:\n{self.process.text}")

    def stop(self) -> None:
        """End the capture once the file has stopped growing."""
        size, last = -1, time.monotonic()
        while time.monotonic() - last < 1.2:
            if (now := self.file.stat().st_size) != size:
                size, last = now, time.monotonic()
            time.sleep(0.1)
        self.process.stop()

    def tshark(self, *arguments: str) -> str:
        """What tshark prints; our SIP ports are decoded as SIP."""
        decode = [x for port in self.sip for p in ("udp", "tcp") for x in ("-d", f"{p}.port=={port},sip")]
        command = ["tshark", "-n", "-r", str(self.file), *decode, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    def fields(self, condition: str, *names: str) -> list[list[str]]:
        """The named fields of the packets for which the display filter `condition` holds."""
        wanted = [x for name in names for x in ("-e", name)]
        lines = self.tshark("-Y", condition, "-T", "fields", *wanted).splitlines()
        return [line.split("\t") for line in lines]

    def rtp_streams(self) -> list[RtpStream]:
        """All RTP streams that tshark finds by the descriptions it has seen."""
        found = []
        for line in self.tshark("-q", "-z", "rtp,streams").splitlines():
            match = re.match(
                r"\s*[\d.]+\s+[\d.]+\s+\S+\s+(\d+)\s+\S+\s+(\d+)\s+(0x\w+)\s+(.+?)\s+(\d+)\s+(-?\d+) \(", line
            )
            if match:
                source, destination, ssrc, payload, packets, lost = match.groups()
                found.append(RtpStream(int(source), int(destination), ssrc, payload, int(packets), int(lost)))
        return found
