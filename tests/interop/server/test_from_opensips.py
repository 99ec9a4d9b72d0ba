"""`examples/from_opensips.py` does what docs/from-opensips.md says: a live proxy, its relay, phones and SRSs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from siprec import sdp
from siprec.audio.melody import callee_melody, caller_melody
from siprec.cli.phone import Phone
from siprec.proxy.script import load_script
from siprec.server.config_file import parse
from siprec.server.proxy_process import ProxyProcess
from siprec.sip.message import SipRequest
from siprec.sip.multipart import find_metadata
from siprec.sip.useragent import session_description
from tests.interop.srsprobe.poor_srs import PoorSrs

EXAMPLE = Path(__file__).parents[3] / "examples" / "from_opensips.py"
HOST = "127.0.0.1"
CONFIGURATION = f"""
[sip]
listen = ["udp:{HOST}:0", "tcp:{HOST}:0"]
domains = ["example.test"]
[media]
use = "always"
"""


class Pbx(Phone):
    """Answers, and says in its 200 that the call is to be archived."""

    answer_headers = (("X-Archive", "yes"),)


async def until(condition: Callable[[], bool], limit: float = 30.0) -> None:
    async with asyncio.timeout(limit):
        while not condition():
            await asyncio.sleep(0.02)


def metadata(request: SipRequest) -> str:
    part = find_metadata(request)
    return part.content.decode() if part is not None else ""


def directions(request: SipRequest) -> set[str]:
    return {line.direction for line in sdp.parse(session_description(request) or b"").media}


def test_the_example_records_pauses_and_passes_digits_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        busy, srs, archive = PoorSrs(invite="busy"), PoorSrs(), PoorSrs()
        text = EXAMPLE.read_text()
        for name, server in (("srs1", busy), ("srs2", srs), ("archive", archive)):
            text = text.replace(f"sip:{name}.example.com:5090", await server.start())
        signals = caller_melody(30.0, 8000), callee_melody(30.0, 8000)
        pbx = Pbx("pbx", "PBX", "example.test", HOST, (HOST, 9), signals[1])
        await pbx.start()
        where = next(x.address for x in pbx.transport.listeners)
        script = tmp_path / "from_opensips.py"
        script.write_text(text.replace("pbx.example.com:5070", f"{HOST}:{where.port}"))
        proxy = ProxyProcess(parse(CONFIGURATION), load_script(script))
        try:
            await proxy.start()
            address = next(x.address for x in proxy.transport.listeners if x.address.transport == "udp")
            alice = Phone("alice", "Alice", "example.test", HOST, (address.host, address.port), signals[0])
            await alice.start()
            await alice.dial("sales")
            await until(lambda: "ACK" in srs.received and "ACK" in archive.received)
            # The first SRS was busy: the second got the call, with what the script set.
            assert busy.received[0] == "INVITE"
            first = srs.requests[0]
            assert first.get("x-customer") == "unknown"
            assert "<group group_id=" in metadata(first)
            assert ">sales<" in metadata(first)
            # The reply route engaged another instance with settings of its own.
            assert '<case xmlns="urn:example:archive">open</case>' in metadata(archive.requests[0])
            assert archive.requests[0].get("x-customer") is None

            async def press(digit: str) -> None:
                assert alice.call is not None
                body = f"Signal={digit}\r\nDuration=160\r\n".encode()
                alice.call.request("INFO", body, "application/dtmf-relay")

            def last(server: PoorSrs) -> SipRequest:
                return [request for request in server.requests if request.method == "INVITE"][-1]

            await press("*")
            await until(lambda: directions(last(srs)) == {"inactive"})
            await press("#")
            await until(lambda: directions(last(srs)) == {"sendonly"} and srs.received.count("ACK") == 3)
            await press("7")
            await until(lambda: "INFO" in srs.received)
            assert b"Signal=7" in next(r.body for r in srs.requests if r.method == "INFO")
            assert "INFO" not in archive.received
            assert archive.received.count("INVITE") == 1  # not paused: another instance
            await alice.hang_up()
            await until(lambda: "BYE" in srs.received and "BYE" in archive.received)
            await alice.close()
        finally:
            await proxy.stop()
            await pbx.close()
            for server in (busy, srs, archive):
                server.close()

    asyncio.run(scenario())


def test_other_calls_are_forwarded_and_left_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        srs = PoorSrs()
        uri = await srs.start()
        bob = Phone("bob", "Bob", "example.test", HOST, (HOST, 9), callee_melody(5.0, 8000))
        await bob.start()
        port = next(x.address.port for x in bob.transport.listeners)
        text = EXAMPLE.read_text().replace("pbx.example.com:5070", f"{HOST}:{port}")
        script = tmp_path / "from_opensips.py"
        script.write_text(text.replace("sip:srs1.example.com:5090", uri))
        proxy = ProxyProcess(parse(CONFIGURATION), load_script(script))
        try:
            await proxy.start()
            address = next(x.address for x in proxy.transport.listeners if x.address.transport == "udp")
            alice = Phone(
                "alice", "Alice", "example.test", HOST, (address.host, address.port), caller_melody(5.0, 8000)
            )
            await alice.start()
            await alice.dial("reception")
            await until(lambda: bob.media is not None and bob.media.received > 10)
            await alice.hang_up()
            await alice.close()
            assert srs.received == []
        finally:
            await proxy.stop()
            await bob.close()
            srs.close()

    asyncio.run(scenario())
