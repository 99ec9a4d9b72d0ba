"""A proxy between phones on the simulated network, and a media server that answers by rule."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from siprec.media.engine import (
    NO_FLAGS,
    DeleteResult,
    MediaError,
    MediaFlags,
    MediaServer,
    MediaSession,
    MediaStatistics,
    Result,
    SdpResult,
    StatisticsResult,
    SubscriptionResult,
    Tone,
)
from siprec.proxy.call import Call, CallObserver
from siprec.proxy.core import ProxyCore
from siprec.proxy.local_domain import LocalDomain
from siprec.proxy.options import ProxyOptions
from siprec.proxy.registrar import Registrar
from siprec.sip.errors import SipError
from siprec.sip.message import SipRequest, SipResponse
from siprec.sip.transaction import TransactionLayer
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri
from siprec.sip.useragent import OutgoingCall
from tests.simulation.network import LinkQuality, Node, Sent, SimulatedNetwork, VirtualClock
from tests.simulation.phones import SDP, Phone, short

PROXY = "10.0.0.100"


class Relay(MediaServer):
    """A media server on the virtual clock: takes `delay` seconds, puts its own address into what passes.

    `log` has ``offer from to via``, ``answer ...``, ``delete ...``; `said` the descriptions it was given, `protocols`
    the transport protocol each of them was asked for, `asked` all wishes, `fail` names commands it refuses, `silent`
    those it never answers.
    """

    def __init__(self, clock: VirtualClock, delay: float = 0.005) -> None:
        self.name = "relay"
        self.clock = clock
        self.delay = delay
        self.log: list[str] = []
        self.said: list[bytes] = []
        self.protocols: list[str] = []
        self.asked: list[MediaFlags] = []
        self.fail: set[str] = set()
        self.silent: set[str] = set()
        self.live: set[str] = set()
        self.address = b"IN IP4 192.0.2."
        self.statistics: Callable[[], MediaStatistics | MediaError] = lambda: MediaError("Unknown call-id")

    def _exchange(self, command: str, session: MediaSession, sdp: bytes, done: SdpResult, flags: MediaFlags) -> None:
        self.log.append(f"{command} {session.from_tag} {session.to_tag} {session.via_branch}".strip())
        self.said.append(sdp)
        self.protocols.append(flags.transport_protocol)
        self.asked.append(flags)
        if command in self.silent:
            return
        self.live.add(session.call_id)
        if command in self.fail:
            self.clock.call_later(self.delay, done, MediaError("refused"))
        else:
            self.clock.call_later(self.delay, done, sdp.replace(b"IN IP4 10.0.0.", self.address))

    def offer(self, session: MediaSession, sdp: bytes, done: SdpResult, *, flags: MediaFlags = NO_FLAGS) -> None:
        self._exchange("offer", session, sdp, done, flags)

    def answer(self, session: MediaSession, sdp: bytes, done: SdpResult, *, flags: MediaFlags = NO_FLAGS) -> None:
        self._exchange("answer", session, sdp, done, flags)

    def delete(self, session: MediaSession, done: DeleteResult | None = None) -> None:
        self.log.append("delete")
        self.live.discard(session.call_id)

    def subscribe_request(
        self,
        session: MediaSession,
        from_tags: Sequence[str],
        done: SubscriptionResult,
        *,
        flags: MediaFlags = NO_FLAGS,
        tag: str = "",
    ) -> None:
        raise NotImplementedError

    def subscribe_answer(
        self, session: MediaSession, tag: str, sdp: bytes, done: Result, *, flags: MediaFlags = NO_FLAGS
    ) -> None:
        raise NotImplementedError

    def pause(self, session: MediaSession, tag: str, done: Result) -> None:
        raise NotImplementedError

    def resume(self, session: MediaSession, tag: str, done: Result) -> None:
        raise NotImplementedError

    def unsubscribe(self, session: MediaSession, tag: str, done: Result | None = None) -> None:
        raise NotImplementedError

    def play(self, session: MediaSession, tag: str, tone: Tone, done: Result) -> None:
        raise NotImplementedError

    def stop_playing(self, session: MediaSession, tag: str, done: Result) -> None:
        raise NotImplementedError

    def key_frame(self, session: MediaSession, tag: str, done: Result) -> None:
        raise NotImplementedError

    def query(self, session: MediaSession, done: StatisticsResult) -> None:
        self.clock.call_later(self.delay, done, self.statistics())

    def ping(self, done: Result) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is held."""


@dataclass
class Journal(CallObserver):
    """Writes down what observers are told."""

    events: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)

    def call_created(self, call: Call) -> None:
        self.events.append("created")
        self.calls.append(call)

    def call_progress(self, call: Call, response: SipResponse) -> None:
        self.events.append(f"progress {response.status}")

    def call_answered(self, call: Call) -> None:
        self.events.append("answered")

    def call_media_changed(self, call: Call, who: str) -> None:
        self.events.append(f"media changed by {who}")

    def call_media_failed(self, call: Call, reason: str) -> None:
        self.events.append("media failed")

    def call_ended(self, call: Call) -> None:
        self.events.append(f"ended {call.end_reason}")


class ProxyWorld:
    """Alice (10.0.0.1) calls through the proxy (10.0.0.100, ``example.com``) to phones at 10.0.0.2 and up.

    `hosts` maps names to lists of hops, best first.
    """

    def __init__(
        self,
        phones: int = 2,
        quality: LinkQuality | None = None,
        seed: int = 1,
        options: ProxyOptions | None = None,
        relay: bool = False,
        addresses: Sequence[tuple[str, str, int]] = (("udp", PROXY, 5060), ("tcp", PROXY, 5060)),
        **core: Any,
    ) -> None:
        self.clock = VirtualClock()
        self.network = SimulatedNetwork(self.clock, seed, quality)
        self.hosts: dict[str, list[Hop]] = {}
        self.journal = Journal()
        self.relay = Relay(self.clock)
        self.identity = LocalDomain(addresses, ["example.com"])
        self.registrar = Registrar(self.clock, self.identity)
        core.setdefault("registrar", self.registrar)
        self.core = ProxyCore(
            self.clock,
            self.identity,
            self.resolve,
            pick_media=(lambda call: self.relay) if relay else None,
            observers=[self.journal],
            options=options or ProxyOptions(trusted=["10.0.0.0/8"]),
            rng=random.Random(seed),
            **core,
        )
        self.node: Node = self.network.node(PROXY)
        self.layer = TransactionLayer(self.clock, self.node, self.core)
        self.node.attach(self.layer)
        self.core.attach(self.layer)
        self.phones = [
            Phone(self.clock, self.network.node(f"10.0.0.{n + 1}"), seed * 10 + n, resolve=self.resolve)
            for n in range(phones)
        ]
        self.alice = self.phones[0]
        self.bob = self.phones[1] if phones > 1 else self.phones[0]

    def resolve(self, uri: Uri, done: Callable[[list[Hop] | SipError], None]) -> None:
        known = self.hosts.get(uri.host)
        if known is not None:
            done(list(known))
        elif uri.host == "example.com":
            done([Hop(uri.transport or "udp", PROXY, 5060)])
        elif uri.host.replace(".", "").isdigit():
            done([Hop(uri.transport or "udp", uri.host, uri.port or 5060)])
        else:
            done(SipError(f"no such host {uri.host}", 404))

    def call(self, uri: str = "sip:bob@10.0.0.2", body: bytes = SDP, **options: Any) -> OutgoingCall:
        options.setdefault("route", [f"<sip:{PROXY};lr>"])
        return self.alice.call(uri, body, **options)

    def names(self) -> dict[str, str]:
        return {PROXY: "P"} | {f"10.0.0.{n + 1}": "ABCDEFGH"[n] for n in range(len(self.phones))}

    def lines(self) -> list[str]:
        """What was sent: ``A>P INVITE``..."""
        names = self.names()
        return [
            f"{names.get(s.source[0], s.source[0])}>{names.get(s.destination[0], s.destination[0])} {short(s)}"
            for s in self.network.trace
        ]

    def sent(self, start: str, to: str = "") -> list[Sent]:
        return [
            sent for sent in self.network.trace if sent.line.startswith(start) and (not to or sent.destination[0] == to)
        ]

    def finish(self) -> None:
        """Let everything run out; nothing may be left."""
        self.clock.run_until_idle()
        for phone in self.phones:
            assert phone.left() == {}
        assert not any(self.layer.counts().values())
        assert self.core.counts() == {"contexts": 0, "calls": 0, "dialogs": 0, "media_sessions": 0}
        assert not self.relay.live
        assert self.clock.pending == 0


def raw_request(method: str, uri: str, **headers: str) -> SipRequest:
    """A request with what every request needs; keyword ``max_forwards="0"`` becomes Max-Forwards."""
    request = SipRequest(method, uri)
    request.add("Via", headers.pop("via", "SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bKraw1"))
    values = {
        "from": "<sip:alice@example.com>;tag=a1",
        "to": "<sip:bob@example.com>",
        "call-id": "raw-call",
        "cseq": f"1 {method}",
        "max-forwards": "70",
    }
    for name, value in headers.items():
        values[name.rstrip("_").replace("_", "-")] = value
    for name, value in values.items():
        if value:
            request.add(name, value)
    request.set_body(b"")
    return request
