"""Our user agent calls SIPp and is called by it, over real UDP and TCP."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from siprec.net.timers import TimerWheel
from siprec.net.transport import SocketTransport
from siprec.sip.errors import SipError
from siprec.sip.headers import NameAddr
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.transaction import TransactionLayer
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri
from siprec.sip.useragent import Call, CallHandler, Endpoint, IncomingCall, UserAgent
from tests.parallel import own_port

pytestmark = pytest.mark.skipif(shutil.which("sipp") is None, reason="sipp is missing: apt-get install sip-tester")

SDP = b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n"


class Notes(CallHandler):
    """Writes down what happens; hangs up 0.1 s after an answer."""

    def __init__(self, clock: TimerWheel) -> None:
        self.clock = clock
        self.events: list[str] = []

    def answered(self, call: Call, response: SipResponse) -> None:
        self.events.append("answered")
        self.clock.call_later(0.1, call.bye, (), b"", "", self.hung_up)

    def hung_up(self, result: SipResponse | str) -> None:
        self.events.append(f"bye {result.status if isinstance(result, SipResponse) else result}")

    def failed(self, call: Call, status: int, response: SipResponse | None, reason: str) -> None:
        self.events.append(f"failed {status} {reason}")

    def ended(self, call: Call, reason: str, request: SipRequest | None) -> None:
        self.events.append(reason)


def resolve(uri: Uri, done: Callable[[list[Hop] | SipError], None]) -> None:
    done([Hop(uri.transport or "udp", uri.host, uri.effective_port)])


class Phone:
    """A user agent on free ports of the loopback interface. T1 is short, so that transactions end soon."""

    def __init__(self) -> None:
        self.clock = TimerWheel(asyncio.get_running_loop())
        self.transport = SocketTransport()
        endpoint = Endpoint()
        self.layer = TransactionLayer(self.clock, self.transport, endpoint, t1=0.1, t4=1.0)
        self.transport.on_message = self.layer.receive
        self.transport.on_malformed = self.layer.receive_malformed
        self.port = 0
        self.incoming: list[Notes] = []
        self.agent = endpoint.agent = UserAgent(
            self.clock, self.layer, resolve, contact=self._contact, on_invite=self._invited
        )

    async def start(self) -> None:
        for _ in range(20):
            port = own_port()
            try:
                await self.transport.listen([f"udp:127.0.0.1:{port}", f"tcp:127.0.0.1:{port}"])
            except OSError:
                continue  # somebody took it in between
            self.port = port
            return
        raise AssertionError("no free port")

    def _contact(self, hop: Hop) -> str:
        return f"sip:127.0.0.1:{self.port}" + (f";transport={hop.transport}" if hop.reliable else "")

    def _invited(self, call: IncomingCall) -> None:
        notes = Notes(self.clock)
        self.incoming.append(notes)
        call.handler = notes
        call.answer(180)
        call.answer(200, SDP)

    def left(self) -> dict[str, int]:
        return {name: n for name, n in {**self.layer.counts(), **self.agent.counts()}.items() if n}


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    end = asyncio.get_running_loop().time() + seconds
    while not condition():
        if asyncio.get_running_loop().time() > end:
            return False
        await asyncio.sleep(0.02)
    return True


async def sipp(directory: Path, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        "sipp",
        *arguments,
        "-i",
        "127.0.0.1",
        "-timeout",
        "90",
        "-nostdin",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=directory,
    )


async def stop(process: asyncio.subprocess.Process) -> int:
    try:
        return await asyncio.wait_for(process.wait(), 100)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("transport", ["u1", "t1"])
def test_sipp_calls_us(transport: str, tmp_path: Path) -> None:
    async def run() -> None:
        phone = Phone()
        await phone.start()
        target = f"127.0.0.1:{phone.port}"
        process = await sipp(
            tmp_path, "-sn", "uac", target, "-p", str(own_port()), "-t", transport, "-m", "50", "-r", "50", "-d", "50"
        )
        assert await stop(process) == 0
        assert await until(lambda: all(notes.events == ["bye"] for notes in phone.incoming))
        assert len(phone.incoming) == 50
        assert await until(lambda: not phone.left()), phone.left()
        await phone.transport.close()

    asyncio.run(run())


@pytest.mark.parametrize("transport", ["u1", "t1"])
def test_we_call_sipp(transport: str, tmp_path: Path) -> None:
    async def run() -> None:
        phone = Phone()
        await phone.start()
        port = own_port()
        process = await sipp(tmp_path, "-sn", "uas", "-p", str(port), "-t", transport, "-m", "30")
        target = Uri.parse(f"sip:service@127.0.0.1:{port}" + (";transport=tcp" if transport == "t1" else ""))

        # SIPp needs a moment until it listens; the sign that it does is any answer at all.
        async def ready() -> bool:
            for _ in range(100):
                with socket.socket(socket.AF_INET, socket.SOCK_STREAM if transport == "t1" else socket.SOCK_DGRAM) as s:
                    try:
                        if transport == "t1":
                            s.connect(("127.0.0.1", port))
                            return True
                        s.bind(("127.0.0.1", port))
                    except OSError:
                        if transport == "u1":
                            return True
                await asyncio.sleep(0.1)
            return False

        assert await ready()
        calls: list[Notes] = []
        for _ in range(30):
            calls.append(Notes(phone.clock))
            phone.agent.invite(
                target,
                from_=NameAddr.parse("<sip:alice@127.0.0.1>"),
                to=NameAddr("", target),
                handler=calls[-1],
                body=SDP,
            )
            await asyncio.sleep(0.01)
        assert await until(lambda: all(len(notes.events) == 2 for notes in calls)), [notes.events for notes in calls]
        assert {tuple(notes.events) for notes in calls} == {("answered", "bye 200")}
        assert await stop(process) == 0
        assert await until(lambda: not phone.left()), phone.left()
        await phone.transport.close()

    asyncio.run(run())
