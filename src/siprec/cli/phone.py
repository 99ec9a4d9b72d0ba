"""A small SIP phone for the demo: registers, calls, answers, plays a signal, hangs up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from siprec import sdp
from siprec.audio.melody import Floats
from siprec.cli.phone_media import PhoneMedia
from siprec.net.resolver import Resolver
from siprec.net.timers import TimerWheel
from siprec.net.transport import SocketTransport
from siprec.sip.headers import NameAddr
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.transaction import TransactionLayer
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri
from siprec.sip.useragent import Call, CallHandler, Endpoint, IncomingCall, OutgoingCall, Reply, UserAgent
from siprec.sip.useragent import session_description as body_sdp

_PCMU: Final = {0: sdp.RtpMap("PCMU", 8000)}


class PhoneError(Exception):
    """A phone did not get what it asked for; the text says what it got instead."""


class Phone(CallHandler):
    """One phone on `host`, its server at `proxy`. `user` is both name and SIP user; `signal` is what it plays."""

    answer_headers: Sequence[tuple[str, str]] = ()
    """What its 200 has besides."""

    def __init__(self, user: str, display_name: str, domain: str, host: str, proxy: tuple[str, int], signal: Floats):
        self.user = user
        self.aor = NameAddr(display_name, f"sip:{user}@{domain}")
        self.domain = domain
        self.host = host
        self.signal = signal
        self._hop = Hop("udp", *proxy)
        self.media: PhoneMedia | None = None
        self.call: Call | None = None
        self.on_incoming: Callable[[str], None] | None = None
        self.answered_: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.ended_: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        """Open a socket and become reachable.

        Raises:
            OSError: no socket.
        """
        self.clock = TimerWheel(asyncio.get_running_loop())
        self.transport = SocketTransport()
        bracketed = f"[{self.host}]" if ":" in self.host else self.host
        await self.transport.listen(f"udp:{bracketed}:0")
        endpoint = Endpoint()
        self.layer = TransactionLayer(self.clock, self.transport, endpoint)
        self.transport.on_message = self.layer.receive
        self.transport.on_malformed = self.layer.receive_malformed
        self.resolver = Resolver(self.clock)
        endpoint.agent = self.agent = UserAgent(
            self.clock,
            self.layer,
            self.resolver.resolve,
            contact=self._contact,
            on_invite=self._invited,
            user_agent="siprec demo phone",
        )

    def _contact(self, hop: Hop) -> str:
        host, port = self.transport.sent_by(hop)
        return f"sip:{self.user}@{f'[{host}]' if ':' in host else host}:{port}"

    async def register(self, expires: int = 300) -> None:
        """REGISTER at the proxy.

        Raises:
            PhoneError: refused, or no answer.
        """
        done: asyncio.Future[SipResponse | str] = asyncio.get_running_loop().create_future()
        request = SipRequest("REGISTER", f"sip:{self.domain}")
        request.add("From", f"{self.aor};tag={self.agent.new_token()}")
        request.add("To", str(self.aor))
        request.add("Expires", str(expires))
        self.agent.request(request, Uri.parse(f"sip:{self.domain}"), done.set_result, hop=self._hop)
        result = await asyncio.wait_for(done, 10)
        if isinstance(result, str) or result.status != 200:
            raise PhoneError(f"{self.user} could not register: {result}")

    async def dial(self, user: str, limit: float = 15.0) -> None:
        """Call another user and wait for the answer; the signal starts at once.

        Raises:
            PhoneError: refused, or not answered within `limit` seconds.
        """
        self.media = PhoneMedia(self.host, self.signal)
        target = Uri.parse(f"sip:{user}@{self.domain}")
        self.call = self.agent.invite(
            target,
            from_=self.aor,
            to=NameAddr("", target),
            handler=self,
            body=self._offer(self.media),
            hop=self._hop,
        )
        try:
            await asyncio.wait_for(asyncio.shield(self.answered_), limit)
        except TimeoutError:
            raise PhoneError(f"{user} did not answer") from None

    def _offer(self, media: PhoneMedia) -> bytes:
        stream = sdp.build_media("audio", media.port, ["0"], rtpmaps=_PCMU, ptime=20, direction="sendrecv")
        origin = sdp.Origin(self.user, str(media.port), "1", self.host)
        return sdp.build_session(origin, [stream], name="siprec demo").to_bytes()

    def _connect(self, description: bytes | None) -> None:
        assert self.media is not None
        try:
            stream = sdp.parse(description or b"").media[0]
        except (sdp.SdpError, IndexError):
            return
        connection = stream.connection
        if connection is not None and stream.port:
            self.media.start(connection.address, stream.port)

    # -- CallHandler -----------------------------------------------------------------------------------------------

    def answered(self, call: Call, response: SipResponse) -> None:
        """The other side picked up."""
        self._connect(body_sdp(response))
        if not self.answered_.done():
            self.answered_.set_result("")

    def failed(self, call: Call, status: int, response: SipResponse | None, reason: str) -> None:
        """The other side did not."""
        if not self.answered_.done():
            self.answered_.set_exception(PhoneError(f"{self.user}'s call was not answered: {status} {reason}"))

    def _invited(self, call: IncomingCall) -> None:
        if self.media is not None:
            call.answer(486)
            return
        self.media = PhoneMedia(self.host, self.signal)
        self.call = call
        call.handler = self
        call.answer(180)
        if self.on_incoming is not None:
            self.on_incoming(str(call.from_.uri))
        # A person needs a moment to pick up.
        self.clock.call_later(0.4, self._pick_up, call)

    def _pick_up(self, call: IncomingCall) -> None:
        if self.media is None:
            return
        call.answer(200, self._offer(self.media), headers=self.answer_headers)
        self._connect(body_sdp(call.invite))

    def request(self, call: Call, request: SipRequest, reply: Reply) -> None:
        """A re-INVITE gets the session as it is."""
        if request.method == "INVITE" and self.media is not None:
            reply(200, self._offer(self.media))
        else:
            super().request(call, request, reply)

    def ended(self, call: Call, reason: str, request: SipRequest | None) -> None:
        """The other side hung up."""
        if not self.ended_.done():
            self.ended_.set_result(reason)

    async def hang_up(self) -> None:
        """BYE, and wait for the answer to it (10 seconds at the most)."""
        if self.call is None:
            return
        done: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        if isinstance(self.call, OutgoingCall) and self.call.state != "confirmed":
            self.call.cancel()
            return
        self.call.bye(done=done.set_result)
        try:
            await asyncio.wait_for(done, 10)
        except TimeoutError:
            raise PhoneError(f"{self.user}'s BYE was not answered") from None

    async def close(self) -> None:
        """Close all sockets."""
        if self.media is not None:
            self.media.close()
        await self.transport.close()
        await self.resolver.close()
        self.clock.close()
