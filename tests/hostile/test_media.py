"""Relay and recorder get damaged packets and commands: calls and recordings go on, and nothing is left behind."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from siprec.api.routes import OPERATIONS
from siprec.media.bencode import decode_dict, encode
from tests.hostile.mutations import mutate
from tests.interop.api.apiworld import client, proxy
from tests.unit.recorder.recorder_harness import Bench
from tests.unit.test_packet_loops import received, world
from tests.unit.test_relay_server import AUDIO, body, good, relay

Times = Callable[[int], int]


def packet(seq: int, ssrc: int = 7) -> bytes:
    return struct.pack("!BBHII", 0x80, 0, seq & 0xFFFF, seq * 160 & 0xFFFFFFFF, ssrc) + b"\xd5" * 160


RTCP = (
    struct.pack("!BBHIIIIII", 0x80, 200, 6, 7, 1, 2, 3, 4, 5)
    + struct.pack("!BBHI", 0x81, 202, 3, 7)
    + b"\x01\x04abcd\x00\x00"
)
OTHERS = (
    b"\x00\x01\x00\x08\x21\x12\xa4\x42" + b"T" * 12 + b"\x00\x06\x00\x04user",  # STUN
    b"\x16\xfe\xfd\x00\x00\x00\x00\x00\x00\x00\x00\x00\x10" + b"\x01" * 16,  # DTLS
    b"\x10\x00\x00\x00ZRTP" + b"\x00" * 20,
)


@pytest.mark.parametrize("kind", ["python", "native"])
def test_a_packet_loop_survives_damaged_packets(kind: str, times: Times) -> None:
    rng = random.Random(6)
    with world(kind) as w:
        ports = [w.port_a, w.port_b, w.port_c, w.port_o]
        for number in range(times(1500)):
            good_one = rng.choice((packet(number), RTCP, *OTHERS))
            w.send(mutate(rng, good_one, 1400), rng.choice((w.a, w.b, w.stranger)), rng.choice(ports))
            if number % 100 == 0:
                w.settle()
                received(w.b)
                received(w.a)
                received(w.recorder)
        w.settle()
        received(w.b)
        for number in range(5):
            w.send(packet(30000 + number))
        w.settle()
        w.until(lambda: packet(30004) in received(w.b), "good packets pass afterwards")


def test_the_relay_survives_damaged_commands(times: Times) -> None:
    rng = random.Random(7)
    keys = {"call-id": "c", "from-tag": "a", "to-tag": "b", "sdp": body(AUDIO), "flags": ["pre-roll", "SIPREC"]}
    seeds = [
        encode({"command": command, **keys})
        for command in ("offer", "answer", "delete", "query", "list", "ping", "statistics", "subscribe request")
    ]
    with relay(ports=(47700, 47799)) as (server, _):
        for number in range(times(2500)):
            reply = server.message(b"f%d " % number + mutate(rng, rng.choice(seeds)), "test")
            if reply is not None:
                answer = decode_dict(reply.partition(b" ")[2])
                assert answer.get("error-reason") != b"Internal error", answer
            if number % 200 == 0:
                server.tick()
        good(server, "ping")


def test_a_recording_survives_damaged_packets(tmp_path: Path, times: Times, caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(8)
    bench = Bench(tmp_path)

    def stream(count: int) -> Iterator[tuple[float, bytes]]:
        for number in range(count):
            yield number * 0.02, packet(number)
            yield number * 0.02, mutate(rng, rng.choice((packet(number), RTCP, *OTHERS)), 1400)

    try:
        with caplog.at_level(logging.WARNING, "siprec"):
            bench.offer(bench.audio("1"))
            bench.play(stream(times(1000)))
            bench.wait(1.0)
            result = bench.finish()
        assert not [record.getMessage() for record in caplog.records if record.exc_info]
        assert result.summary["streams"][0]["packets"]["received"] >= 1000
        assert result.stream_file(1) is not None
    finally:
        bench.close()


def test_the_api_survives_damaged_requests(tmp_path: Path, times: Times) -> None:
    rng = random.Random(9)
    seeds = (
        b"GET /calls?limit=5 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"POST /recordings/pause HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
        b'Content-Length: 15\r\n\r\n{"user": "bob"}',
        b"GET /library/20261130T000000Z-00000000/files/mix.wav HTTP/1.1\r\nHost: localhost\r\nRange: bytes=0-1\r\n"
        b"Connection: close\r\n\r\n",
    )

    async def ask(address: tuple[str, int], data: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*address)
        try:
            writer.write(data)
            writer.write_eof()
            async with asyncio.timeout(20):
                return await reader.read(65536)
        except ConnectionError:
            return b""
        finally:
            writer.close()

    async def scenario() -> None:
        async with proxy(tmp_path, "sip:127.0.0.1:9") as process:
            assert process.api is not None
            for _ in range(times(500)):
                reply = await ask(process.api.address, mutate(rng, rng.choice(seeds)))
                assert not reply.startswith(b"HTTP/1.1 500"), reply
            assert (await client(process).get("/calls")).status == 200

    asyncio.run(scenario())


HOSTILE_IDS = (
    *("9" * 5000, "..", "%2e%2e%2f%2e%2e", "%00", "%0d%0aX: y", "a" * 300, "%ff%fe"),
    *("20261130" + "9" * 400, "\N{SUPERSCRIPT TWO}" * 9),
)


def test_ids_of_any_shape_are_answered(tmp_path: Path) -> None:
    """In the place of each id of each operation that only reads."""

    async def scenario() -> None:
        library = tmp_path / "recordings"
        library.mkdir()
        async with proxy(tmp_path, "sip:127.0.0.1:9", api=f'library = "{library}"') as process:
            for operation in OPERATIONS:
                names = re.findall(r"{(\w+)}", operation.path)
                if operation.method != "GET" or not names:
                    continue
                for hostile in HOSTILE_IDS:
                    path = operation.path
                    for name in names:
                        path = path.replace(f"{{{name}}}", quote(hostile, safe="%"))
                    assert (await client(process).get(path)).status in (400, 404, 422), path[:200]

    asyncio.run(scenario())
