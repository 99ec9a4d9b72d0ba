"""What the tests of `siprec.net` share: a recording user of a transport, messages, polling."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any

from siprec.net.transport import SocketTransport
from siprec.sip.errors import SipError
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.transport import Hop

Run = Callable[[Coroutine[Any, Any, Any]], Any]


async def until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait for a condition; fails late, returns early."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not condition():
        assert loop.time() < end, "condition did not come true"
        await asyncio.sleep(0.002)


def open_descriptors() -> int:
    """How many file descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))


def options(body: bytes = b"", *, call_id: str = "a", length: int | None = None, transport: str = "TCP") -> bytes:
    """An OPTIONS request; `length` replaces the right Content-Length."""
    return (
        b"OPTIONS sip:bob@127.0.0.1 SIP/2.0\r\n"
        b"Via: SIP/2.0/%s 127.0.0.1:5060;branch=z9hG4bK%s;rport\r\n"
        b"From: <sip:alice@127.0.0.1>;tag=1\r\nTo: <sip:bob@127.0.0.1>\r\n"
        b"Call-ID: %s\r\nCSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: %d\r\n\r\n"
        % (transport.encode(), call_id.encode(), call_id.encode(), len(body) if length is None else length)
    ) + body


class Peer:
    """A transport that keeps what comes, and answers requests with 200 when `answers`."""

    def __init__(self, *, answers: bool = False, **options: Any) -> None:
        self.transport = SocketTransport(on_message=self._message, on_malformed=self._malformed, **options)
        self.messages: list[tuple[SipRequest | SipResponse, Hop]] = []
        self.errors: list[tuple[SipError, Hop]] = []
        self.answers = answers

    def _message(self, message: SipRequest | SipResponse, hop: Hop) -> None:
        self.messages.append((message, hop))
        if self.answers and isinstance(message, SipRequest):
            self.transport.send(message.response(200, to_tag="x").to_bytes(), hop)

    def _malformed(self, error: SipError, hop: Hop) -> None:
        self.errors.append((error, hop))

    @property
    def bodies(self) -> list[bytes]:
        """The bodies of what came, in order."""
        return [message.body for message, _ in self.messages]

    async def listen(self, address: str, **options: Any) -> Hop:
        """Listen; the Hop that leads here."""
        (listener,) = await self.transport.listen(address, **options)
        return Hop(listener.address.transport, listener.address.host, listener.address.port)
