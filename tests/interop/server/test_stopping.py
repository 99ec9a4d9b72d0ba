"""A proxy that is stopped while it records ends its recording sessions properly (UAC-20)."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from siprec.audio.melody import callee_melody, caller_melody
from siprec.cli.phone import Phone
from siprec.sip.message import SipRequest
from tests.interop.calls.harness import HOST, Command
from tests.interop.srsprobe.poor_srs import PoorSrs

DOMAIN = "example.test"


class Mute(PoorSrs):
    """Takes the recording, and never answers an UPDATE."""

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if not data.startswith(b"UPDATE"):
            super().datagram_received(data, addr)
        elif "UPDATE" not in self.received:
            self.received.append("UPDATE")


def configuration(srs: str, port: str = "0") -> str:
    return f"""
[sip]
listen = ["udp:{HOST}:{port}", "tcp:{HOST}:{port}"]
domains = ["{DOMAIN}"]
[recording.default]
srs = "{srs}"
setup_timeout = 60.0
end_timeout = 30.0
[[route]]
method = "INVITE"
record = "default"
registrar = true
[service]
drain = 0.0
"""


async def until(condition: Callable[[], bool], limit: float = 60.0) -> None:
    async with asyncio.timeout(limit):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("kind", ["answers", "answers no UPDATE", "rings"])
def test_a_stopped_proxy_ends_its_recording_sessions(tmp_path: Path, kind: str) -> None:
    async def scenario() -> None:
        srs = Mute() if kind == "answers no UPDATE" else PoorSrs(invite="ring" if kind == "rings" else "answer")
        uri = await srs.start()
        proxy = await asyncio.to_thread(Command, "serve", configuration(uri), tmp_path / "serve")
        try:
            pair = [
                Phone(user, user.title(), DOMAIN, HOST, (HOST, proxy.port()), melody(30.0, 8000))
                for user, melody in (("alice", caller_melody), ("bob", callee_melody))
            ]
            for phone in pair:
                await phone.start()
                await phone.register()
            await pair[0].dial("bob")
            await until(lambda: ("INVITE" if kind == "rings" else "ACK") in srs.received)
            proxy.child.send_signal(signal.SIGTERM)
            ended = "CANCEL" if kind == "rings" else "BYE"
            await until(lambda: ended in srs.received)
            assert await asyncio.to_thread(proxy.child.wait, 30) == 0
            if kind != "rings":
                assert srs.received.index("UPDATE") < srs.received.index("BYE")
                bye = next(request for request in srs.requests if request.method == "BYE")
                assert isinstance(bye, SipRequest)
                assert bye.call_id == srs.requests[0].call_id
                assert "E_SIPREC_STOP" in proxy.text
                assert "reason=shutdown" in proxy.text
            assert "Traceback" not in proxy.text
            for phone in pair:
                await phone.close()
        finally:
            await asyncio.to_thread(proxy.stop)
            srs.close()

    asyncio.run(scenario())
