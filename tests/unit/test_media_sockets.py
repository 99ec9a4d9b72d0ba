"""The connection to a media server under more than it takes."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from siprec.media import sockets
from siprec.media.bencode import encode
from siprec.media.engine import MediaError
from siprec.media.ng import NgClient, Reply
from siprec.media.ngframes import StreamFramer
from siprec.relay.process import LoopClock


def test_a_full_queue_fails_what_does_not_fit_and_nothing_else(tmp_path: Path) -> None:
    """A burst of large offers costs no other call its media server."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        reads, over = asyncio.Event(), asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reads.wait()
            framer = StreamFramer()
            while data := await reader.read(65536):
                for message in framer.feed(data):
                    writer.write(message.partition(b" ")[0] + b" " + encode({"result": "ok"}))
            writer.close()
            over.set()

        path = str(tmp_path / "ng")
        server = await asyncio.start_unix_server(serve, path)
        client = NgClient(LoopClock(loop), sockets.tcp(loop, (path, 0)), name="relay", timeout=60.0)
        answers: list[Reply | MediaError] = []
        for _ in range(40):
            client.request("offer", {"sdp": "a" * 57_000}, answers.append)
        await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        refused = [each for each in answers if isinstance(each, MediaError)]
        assert 0 < len(refused) < 40
        assert {(each.reason, each.timeout) for each in refused} == {("not sent: too much waits", False)}
        assert client.pending == 40 - len(refused)
        reads.set()
        async with asyncio.timeout(30):
            while client.pending:
                await asyncio.sleep(0.01)
        assert len(answers) == 40
        assert len([each for each in answers if isinstance(each, MediaError)]) == len(refused)
        client.close()
        await over.wait()
        server.close()
        with contextlib.suppress(OSError):
            await server.wait_closed()

    asyncio.run(run())
