"""A recorder on the simulated network, and a client of which every octet is written by hand."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from siprec.audio.codecs import codec
from siprec.audio.melody import callee_melody, caller_melody, to_int16
from siprec.audio.packets import packets
from siprec.recorder.acceptance import Acceptance
from siprec.recorder.library import RecorderLibrary
from siprec.recorder.ports import PortPool
from siprec.recorder.recorder import Recorder
from siprec.recorder.recording_result import RecordingResult
from siprec.recorder.server import RecorderServer, Watching
from siprec.recorder.settings import RecorderSettings
from siprec.sip.message import SipRequest, SipResponse, parse_datagram
from siprec.sip.transport import Hop
from tests.simulation.recording_world import World
from tests.unit.recorder.recorder_harness import ManualPoller

PCMU = codec("PCMU", 8000)
TUNES = to_int16(caller_melody(1, 8000)), to_int16(callee_melody(1, 8000))
SENDONLY = (
    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    "m=audio 41000 RTP/AVP 0\r\na=sendonly\r\na=label:1\r\nm=audio 41002 RTP/AVP 0\r\na=sendonly\r\na=label:2\r\n"
)
BOTH_WAYS = SENDONLY[: SENDONLY.index("m=audio 41002")].replace("sendonly", "sendrecv")
COMPLETE_HEAD = (
    "INVITE sip:srs@10.0.0.8 SIP/2.0\r\nVia: SIP/2.0/UDP {host}:5060;branch=z9hG4bK-1\r\n"
    "From: <sip:src@{host}>;tag=1\r\nTo: <sip:srs@10.0.0.8>\r\nCall-ID: 1@{host}\r\nCSeq: {cseq} INVITE\r\n"
    "Max-Forwards: 70\r\n"
)


def invite(
    body: str = SENDONLY,
    *lines: str,
    contact: str = "<sip:src@10.0.0.9:5060>;+sip.src",
    content_type: str = "application/sdp",
    host: str = "10.0.0.9",
    cseq: int = 1,
) -> bytes:
    head = COMPLETE_HEAD.format(host=host, cseq=cseq) + (f"Contact: {contact}\r\n" if contact else "")
    head += "".join(f"{line}\r\n" for line in lines) + (f"Content-Type: {content_type}\r\n" if body else "")
    return f"{head}Content-Length: {len(body.encode())}\r\n\r\n{body}".encode("utf-8", "surrogateescape")


class Raw:
    """The recorder at 10.0.0.8, the client at `host`."""

    def __init__(
        self,
        tmp_path: Path,
        *,
        host: str = "10.0.0.9",
        acceptance: Acceptance | None = None,
        watching: Watching | None = None,
        **settings: Any,
    ) -> None:
        self.world = World()
        self.clock = self.world.clock
        self.host = host
        self.poller = ManualPoller()
        self.library = RecorderLibrary(tmp_path)
        self.recorder = Recorder(
            self.library, PortPool("127.0.0.1"), self.clock, self.poller, RecorderSettings(**settings)
        )
        self.server = RecorderServer(self.recorder, acceptance=acceptance, watching=watching)
        self.node = self.world.network.node("10.0.0.8")
        self.agent, _ = self.world.agent(self.node, self.server.take)
        self.agent.prepare = self.server.acceptance.prepare
        self.received: list[SipRequest | SipResponse] = []
        self.answers: dict[str, int] = {}
        """Methods and the status with which the client answers them; others get no answer."""
        self.client = self.world.network.node(host)
        self.client.on_message = self._receive
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))

    def _receive(self, message: SipRequest | SipResponse, source: Hop) -> None:
        self.received.append(message)
        if isinstance(message, SipRequest) and message.method in self.answers:
            response = message.response(self.answers[message.method])
            self.send(response.to_bytes())

    def send(self, data: bytes, seconds: float = 0.0) -> None:
        """To the recorder, past the network's limits of size."""
        message = parse_datagram(data)
        self.clock.call_later(0.01, self.node.on_message, message, Hop("udp", self.host, 5060))
        if seconds:
            self.clock.run_for(seconds)

    def begin(self, data: bytes, ack: str = "") -> SipResponse:
        """Send an INVITE and acknowledge what comes; the final response."""
        self.invite = parse_datagram(data)
        self.send(data, 1.0)
        final = next(m for m in self.received if isinstance(m, SipResponse) and m.status >= 200)
        self.final = final
        if final.status < 300:
            self.request("ACK", cseq=final.cseq.number, body=ack)
        return final

    def request(self, method: str, cseq: int, body: str = "", lines: Iterable[str] = ()) -> list[SipResponse]:
        """A request within the dialog; its responses."""
        before = len(self.received)
        head = (
            f"{method} sip:ua@10.0.0.8:5060 SIP/2.0\r\nVia: SIP/2.0/UDP {self.host}:5060;branch=z9hG4bK-{method}-{cseq}"
            f"-{len(self.received)}\r\nFrom: {self.invite.get('from')}\r\nTo: {self.final.get('to')}\r\n"
            f"Call-ID: {self.invite.call_id}\r\nCSeq: {cseq} {method}\r\nMax-Forwards: 70\r\n"
        )
        head += f"Contact: <sip:src@{self.host}:5060>\r\n" if method in ("INVITE", "UPDATE") else ""
        head += "".join(f"{line}\r\n" for line in lines) + ("Content-Type: application/sdp\r\n" if body else "")
        self.send(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode(), 0.5)
        return [m for m in self.received[before:] if isinstance(m, SipResponse)]

    def requests(self, method: str) -> list[SipRequest]:
        """What the recorder has asked."""
        return [m for m in self.received if isinstance(m, SipRequest) and m.method == method]

    def talk(self, seconds: float = 1.0) -> None:
        """Both streams send, or the one there is."""
        (session,) = self.recorder.sessions
        ports = [line.pair.port for line in session.lines]
        steps = int(seconds / 0.02)
        streams = [list(packets(tune, PCMU, 0, ssrc=ssrc)) for ssrc, tune in enumerate(TUNES, 1)]
        for step in range(steps):
            for port, stream in zip(ports, streams, strict=False):
                self.sock.sendto(stream[step % 50][1], ("127.0.0.1", port))
            self.poller.pump()
            self.clock.run_for(0.02)

    def run(self, seconds: float) -> None:
        """Time passes, and what has come to the sockets is read."""
        end = self.clock.now() + seconds
        while self.clock.now() < end:
            self.poller.pump()
            self.clock.run_for(min(0.5, end - self.clock.now()))
            if self.recorder.writer.waiting > 50:
                self.recorder.writer.call(lambda: None).result(timeout=60)  # the disk is as fast as time is here

    def results(self) -> list[RecordingResult]:
        """What is in the library, when everything has been written."""
        self.recorder.writer.call(lambda: None).result(timeout=60)
        return list(self.library)

    def close(self) -> None:
        self.server.close()
        self.clock.run_for(2.0)
        self.recorder.close()
        self.sock.close()
        assert not self.server.calls
        assert self.recorder.ports.open == 0
