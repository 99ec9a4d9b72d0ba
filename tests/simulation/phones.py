"""Two user agents on the simulated network, whose handlers write down what happens."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from siprec.sip.clock import Clock
from siprec.sip.errors import SipError
from siprec.sip.headers import NameAddr
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.transaction import TransactionLayer
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri
from siprec.sip.useragent import Call, CallHandler, Endpoint, IncomingCall, OutgoingCall, Reply, UserAgent
from tests.simulation.network import LinkQuality, Node, Sent, SimulatedNetwork, VirtualClock

SDP = b"v=0\r\no=- 1 1 IN IP4 10.0.0.1\r\ns=-\r\nc=IN IP4 10.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n"
ANSWER = SDP.replace(b"10.0.0.1", b"10.0.0.2")


def resolve(uri: Uri, done: Callable[[list[Hop] | SipError], None]) -> None:
    """Numeric hosts; a host ``a+b`` in the user part is not looked at."""
    if not uri.host.replace(".", "").isdigit():
        done(SipError(f"no such host {uri.host}", 404))
        return
    done([Hop(uri.transport or "udp", uri.host, uri.port or 5060)])


@dataclass
class Diary(CallHandler):
    """A handler that keeps what it was told, and does what `on` says by method name."""

    events: list[str] = field(default_factory=list)
    on: dict[str, Callable[..., Any]] = field(default_factory=dict)
    responses: list[SipResponse] = field(default_factory=list)
    requests: list[SipRequest] = field(default_factory=list)

    def _do(self, name: str, *arguments: Any) -> None:
        action = self.on.get(name)
        if action is not None:
            action(*arguments)

    def progress(self, call: Call, response: SipResponse) -> None:
        self.events.append(str(response.status))
        self._do("progress", call, response)

    def answered(self, call: Call, response: SipResponse) -> None:
        self.events.append("answered")
        self.responses.append(response)
        self._do("answered", call, response)

    def failed(self, call: Call, status: int, response: SipResponse | None, reason: str) -> None:
        self.events.append(f"failed {status} {reason}")
        self._do("failed", call, status)

    def ack(self, call: Call, request: SipRequest) -> None:
        self.events.append("ack")
        self.requests.append(request)
        self._do("ack", call, request)

    def request(self, call: Call, request: SipRequest, reply: Reply) -> None:
        self.events.append(request.method)
        self.requests.append(request)
        if "request" in self.on:
            self.on["request"](call, request, reply)
        elif request.method == "INVITE":
            reply(200, ANSWER)
        else:
            reply(200)

    def ended(self, call: Call, reason: str, request: SipRequest | None) -> None:
        self.events.append(f"ended {reason}")
        self._do("ended", call, request)


class Phone:
    """A user agent with a transaction layer of its own at one address."""

    def __init__(self, clock: Clock, node: Node, seed: int = 0, **options: Any) -> None:
        self.node = node
        self.endpoint = Endpoint()
        self.layer = TransactionLayer(clock, node, self.endpoint)
        node.attach(self.layer)
        self.diary = Diary()
        self.calls: list[IncomingCall] = []
        self.take: Callable[[IncomingCall], None] = lambda call: call.answer(200, ANSWER)
        self.agent = self.endpoint.agent = UserAgent(
            clock,
            self.layer,
            options.pop("resolve", resolve),
            contact=lambda hop: f"sip:{node.host}:{node.port}",
            on_invite=self._invited,
            rng=random.Random(seed),
            **options,
        )

    def _invited(self, call: IncomingCall) -> None:
        self.calls.append(call)
        call.handler = self.diary
        self.take(call)

    def call(
        self,
        uri: str,
        body: bytes = SDP,
        *,
        by: str = "Alice <sip:alice@example.com>",
        to: str = "<sip:bob@example.com>",
        **options: Any,
    ) -> OutgoingCall:
        options.setdefault("handler", self.diary)
        return self.agent.invite(Uri.parse(uri), from_=NameAddr.parse(by), to=NameAddr.parse(to), body=body, **options)

    def left(self) -> dict[str, int]:
        """What is still alive, empty at the end."""
        return {name: n for name, n in {**self.layer.counts(), **self.agent.counts()}.items() if n}


class TwoPhones:
    """Alice at 10.0.0.1 calls Bob at 10.0.0.2."""

    def __init__(self, quality: LinkQuality | None = None, seed: int = 1, **options: Any) -> None:
        self.clock = VirtualClock()
        self.network = SimulatedNetwork(self.clock, seed, quality)
        self.alice = Phone(self.clock, self.network.node("10.0.0.1"), seed * 2, **options)
        self.bob = Phone(self.clock, self.network.node("10.0.0.2"), seed * 2 + 1, **options)

    def call(self, body: bytes = SDP, **options: Any) -> OutgoingCall:
        return self.alice.call("sip:bob@10.0.0.2", body, **options)

    def established(self, **options: Any) -> tuple[OutgoingCall, IncomingCall]:
        """A call that is up; the diaries begin after that."""
        call = self.call(**options)
        self.clock.run_for(1)
        assert self.alice.diary.events == ["answered"], self.alice.diary.events
        assert self.bob.diary.events == ["ack"]
        self.alice.diary.events.clear()
        self.bob.diary.events.clear()
        self.network.trace.clear()
        return call, self.bob.calls[-1]

    def lines(self) -> list[str]:
        """What was sent: ``A INVITE``, ``B 200``..."""
        names = {"10.0.0.1": "A", "10.0.0.2": "B"}
        return [f"{names.get(sent.source[0], sent.source[0])} {short(sent)}" for sent in self.network.trace]

    def sent(self, method: str) -> list[Sent]:
        return [sent for sent in self.network.trace if sent.line.startswith(method)]

    def finish(self) -> None:
        """Let everything run out; nothing may be left."""
        self.clock.run_until_idle()
        assert self.alice.left() == {}
        assert self.bob.left() == {}
        assert self.clock.pending == 0


def short(sent: Sent) -> str:
    words = sent.line.split()
    return words[1] if words[0] == "SIP/2.0" else words[0]
