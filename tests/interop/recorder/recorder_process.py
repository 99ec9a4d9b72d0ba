"""A recorder as a process, and a client on a socket that answers what it is told to."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from siprec.audio.codecs import codec
from siprec.audio.melody import caller_melody, to_int16
from siprec.audio.packets import packets
from siprec.sip.message import SipRequest, SipResponse, parse_datagram
from tests.parallel import own_port

HOST = "127.0.0.1"
OFFER = (
    f"v=0\r\no=- 1 1 IN IP4 {HOST}\r\ns=-\r\nc=IN IP4 {HOST}\r\nt=0 0\r\n"
    "m=audio 9 RTP/AVP 0\r\na=sendonly\r\na=label:1\r\nm=audio 9 RTP/AVP 0\r\na=sendonly\r\na=label:2\r\n"
)


def until(condition: Callable[[], Any], limit: float = 60.0) -> Any:
    """What `condition` gives, when it is true."""
    end = time.monotonic() + limit
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)
    return found


class RecorderProcess:
    """``siprec recorder`` with `more` in its configuration."""

    def __init__(self, directory: Path, more: str = "", recordings: str = "rec", rest: str = "") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.port = own_port()
        self.root = directory / recordings
        file = directory / "recorder.toml"
        file.write_text(
            f'{rest}\n[recorder]\nlisten = ["udp:{HOST}:{self.port}", "tcp:{HOST}:{self.port}"]\naddress = "{HOST}"\n'
            f'ports = "20000-29999"\ndirectory = "{recordings}"\n{more}\n'
        )
        self.log = directory / "recorder.log"
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "siprec", "recorder", "--config", str(file)],
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env={key: value for key, value in os.environ.items() if key != "STATE_DIRECTORY"},
            )
        try:
            until(lambda: ": ready" in self.text or self.process.poll() is not None)
            assert ": ready" in self.text, self.text
        except BaseException:
            self.stop()
            raise

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def recordings(self) -> list[dict[str, Any]]:
        found = []
        for file in sorted(self.root.rglob("recording.json")):
            try:
                found.append(json.loads(file.read_bytes()))
            except (OSError, ValueError):
                continue
        return found

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self) -> int:
        """SIGINT, and the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)


class RecordingClient:
    """One recording session over UDP."""

    def __init__(self, recorder: RecorderProcess) -> None:
        self.recorder = recorder
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((HOST, 0))
        self.sock.settimeout(0.1)
        self.port = self.sock.getsockname()[1]
        self.call_id = f"{os.getpid()}-{self.port}@{HOST}"
        self.answers = {"BYE": 200, "OPTIONS": 200}
        self.received: list[SipRequest | SipResponse] = []
        self.cseq = 0
        self.to = f"<sip:srs@{HOST}>"
        self._running = True
        self._thread = threading.Thread(target=self._receive, daemon=True)
        self._thread.start()

    def _receive(self) -> None:
        while self._running:
            try:
                data = self.sock.recv(65535)
            except TimeoutError:
                continue
            except OSError:
                return
            message = parse_datagram(data)
            if isinstance(message, SipRequest) and message.method in self.answers:
                self.sock.sendto(message.response(self.answers[message.method]).to_bytes(), (HOST, self.recorder.port))
            self.received.append(message)

    def send(self, method: str, body: str = "", lines: tuple[str, ...] = ()) -> None:
        self.cseq += method != "ACK"
        text = (
            f"{method} sip:srs@{HOST}:{self.recorder.port} SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP {HOST}:{self.port};branch=z9hG4bK{self.port}{method}{self.cseq}\r\n"
            f"From: <sip:src@{HOST}>;tag=1\r\nTo: {self.to}\r\nCall-ID: {self.call_id}\r\n"
            f"CSeq: {self.cseq} {method}\r\n"
            f"Max-Forwards: 70\r\nContact: <sip:src@{HOST}:{self.port}>;+sip.src\r\n"
        )
        text += "".join(f"{line}\r\n" for line in lines) + ("Content-Type: application/sdp\r\n" if body else "")
        self.sock.sendto(f"{text}Content-Length: {len(body)}\r\n\r\n{body}".encode(), (HOST, self.recorder.port))

    def response(self) -> SipResponse:
        """The final response to the last request."""
        found: SipResponse = until(
            lambda: next(
                (
                    m
                    for m in self.received
                    if isinstance(m, SipResponse) and m.status >= 200 and m.cseq.number == self.cseq
                ),
                None,
            )
        )
        return found

    def begin(self) -> SipResponse:
        self.send("INVITE", OFFER, ("Require: siprec",))
        final = self.response()
        self.to = str(final.get("to"))
        self.ports = [int(port) for port in re.findall(rb"m=audio (\d+)", final.body)]
        self.send("ACK")
        return final

    def talk(self, seconds: float, stop: Callable[[], bool] = lambda: False) -> None:
        """In real time, on both streams."""
        tune = to_int16(caller_melody(seconds, 8000))
        start = time.monotonic()
        first = getattr(self, "_sent", 0)
        for at, data in packets(tune, codec("PCMU", 8000), 0, ssrc=1, sequence=first, timestamp=first * 160):
            time.sleep(max(start + at - time.monotonic(), 0))
            if stop():
                return
            for port in self.ports:
                self.sock.sendto(data, (HOST, port))
            self._sent = first = first + 1

    def requests(self, method: str) -> list[SipRequest]:
        return [m for m in self.received if isinstance(m, SipRequest) and m.method == method]

    def close(self) -> None:
        self._running = False
        self._thread.join()
        self.sock.close()
