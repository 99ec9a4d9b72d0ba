"""A proxy's side with its recording client, recorders, and a media server, on the simulated network.

The SIP stacks are the real ones on both sides. The media server is a model of one: it keeps subscriptions, gates and
addresses as a real one does and answers after a while; the call is a plain value with real messages in it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lxml import etree

from siprec import sdp
from siprec.media.engine import (
    NO_FLAGS,
    DeleteResult,
    ForkedStream,
    ForkStatistics,
    MediaError,
    MediaFlags,
    MediaServer,
    MediaSession,
    MediaStatistics,
    Result,
    SdpResult,
    StatisticsResult,
    Subscription,
    SubscriptionResult,
    Tone,
)
from siprec.metadata.values import NAMESPACE
from siprec.proxy.call import Call as ProxyCall
from siprec.recording.events import SiprecEvent
from siprec.recording.recording_profile import RecordingProfile
from siprec.recording.service import RecordingService
from siprec.sdp import crypto as sdp_crypto
from siprec.sdp.crypto import Crypto
from siprec.sip.errors import SipError
from siprec.sip.message import SipRequest, SipResponse, parse_datagram
from siprec.sip.multipart import Part, parts_of
from siprec.sip.transaction import TransactionLayer
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri
from siprec.sip.useragent import Call, CallHandler, Endpoint, IncomingCall, Reply, UserAgent, session_description
from tests.paths import SCHEMA
from tests.simulation.network import Node, SimulatedNetwork, VirtualClock

Q = f"{{{NAMESPACE}}}"

PARTY_SDP = (
    "v=0\r\no=- 1 1 IN IP4 {host}\r\ns=-\r\nc=IN IP4 {host}\r\nt=0 0\r\n"
    "m=audio 4000 {proto} {formats}\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\n"
    "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:secret\r\n"
    "a=candidate:1 1 udp 1 10.1.1.1 4000 typ host\r\na={direction}\r\n"
)


def party_sdp(host: str, direction: str = "sendrecv", formats: str = "0 8", proto: str = "RTP/AVP") -> bytes:
    return PARTY_SDP.format(host=host, direction=direction, formats=formats, proto=proto).encode()


class FakeMediaServer(MediaServer):
    """Subscriptions, gates and where the copies go; `fail` lists requests that fail, `delay` seconds each takes."""

    name = "fake"

    def __init__(self, clock: VirtualClock, address: str = "10.0.0.9") -> None:
        self.clock = clock
        self.address = address
        self.delay = 0.005
        self.fail: set[str] = set()
        self.silent: set[str] = set()
        self.subscriptions: dict[str, Subscription] = {}
        self.targets: dict[str, sdp.SessionDescription] = {}
        self.owners: dict[str, str] = {}
        self.paused: set[str] = set()
        self.tones: dict[str, Tone] = {}
        self.log: list[str] = []
        self.parties: dict[str, bytes] = {}
        self.flags: list[MediaFlags] = []
        self.srtp = True
        self.keys: dict[tuple[str, int, int], list[Crypto]] = {}
        self.numbers = 0
        self.refused, self.reports, self.last_report, self.queries = 0, 0, 0.0, 0
        self.counts = True
        """Whether it tells what becomes of copies."""
        self.interval, self.report_from, self.report_until = 0.0, 0.0, float("inf")

    def flowing(self) -> list[str]:
        """Labels of the streams that are copied to the SRS just now."""
        return [
            line.label or "?"
            for tag, answer in self.targets.items()
            if tag in self.subscriptions and tag not in self.paused
            for line in answer.media
            if not line.rejected and line.direction in ("recvonly", "sendrecv")
        ]

    def _later(self, name: str, done: Callable[[Any], None] | None, action: Callable[[], Any]) -> None:
        self.log.append(name)
        failing = name in self.fail

        def finish() -> None:
            result = MediaError(f"{name} failed") if failing else action()
            if done is not None:
                done(result)

        self.clock.call_later(self.delay, finish)

    def offer(self, session: MediaSession, sdp: bytes, done: SdpResult, *, flags: MediaFlags = NO_FLAGS) -> None:
        raise NotImplementedError  # the proxy's part

    def answer(self, session: MediaSession, sdp: bytes, done: SdpResult, *, flags: MediaFlags = NO_FLAGS) -> None:
        raise NotImplementedError  # the proxy's part

    def delete(self, session: MediaSession, done: DeleteResult | None = None) -> None:
        def action() -> None:
            for tag in [tag for tag, call_id in self.owners.items() if call_id == session.call_id]:
                self._forget(tag)

        self._later("delete", done, action)

    def subscribe_request(
        self,
        session: MediaSession,
        from_tags: Sequence[str],
        done: SubscriptionResult,
        *,
        flags: MediaFlags = NO_FLAGS,
        tag: str = "",
    ) -> None:
        self.flags.append(flags)
        if not tag:
            self.numbers += 1
            tag = f"sub{self.numbers}"

        def action() -> Subscription:
            lines, streams = [], []
            for number, party in enumerate(from_tags):
                description = sdp.parse(self.parties[party])
                for index, line in enumerate(description.media):
                    port = 0 if line.rejected else 30000 + 100 * number + 2 * index
                    proto = line.proto
                    if not proto.startswith("UDP/TLS") or flags.transport_protocol:
                        proto = (flags.transport_protocol if self.srtp else "") or proto
                    section = sdp.build_media(
                        line.kind,
                        port,
                        line.formats,
                        proto=proto,
                        address=self.address,
                        rtpmaps=line.rtpmaps,
                        rtcp_port=40000 + port % 1000 if port else None,
                    )
                    section.lines.append("a=sendonly")
                    section.lines.append("a=ssrc:1 cname:private")
                    if proto == "RTP/SAVP":
                        name = (tag, number, index)
                        if flags.hold or name not in self.keys:
                            self.keys[name] = [sdp_crypto.generate(1), sdp_crypto.generate(2, "AEAD_AES_128_GCM")]
                        section.lines += [f"a=crypto:{key.value()}" for key in self.keys[name]]
                        section.lines.append("a=crypto:9 NULL_HMAC_SHA1_80 inline:" + "A" * 40)
                    lines.append(section)
                    streams.append(ForkedStream(party, index, line.kind, section))
            self.owners[tag] = session.call_id
            self.subscriptions[tag] = result = Subscription(tag, tuple(streams))
            return result

        self._later("subscribe", done, action)

    def subscribe_answer(
        self, session: MediaSession, tag: str, sdp_: bytes, done: Result, *, flags: MediaFlags = NO_FLAGS
    ) -> None:
        def action() -> None:
            if tag in self.subscriptions:
                answer = sdp.parse(sdp_)
                assert len(answer.media) == len(self.subscriptions[tag].streams)
                self.targets[tag] = answer

        self._later("answer", done, action)

    def pause(self, session: MediaSession, tag: str, done: Result) -> None:
        self._later("pause", done, lambda: self.paused.add(tag))

    def resume(self, session: MediaSession, tag: str, done: Result) -> None:
        self._later("resume", done, lambda: self.paused.discard(tag))

    def unsubscribe(self, session: MediaSession, tag: str, done: Result | None = None) -> None:
        self._later("unsubscribe", done, lambda: self._forget(tag))

    def _forget(self, tag: str) -> None:
        self.subscriptions.pop(tag, None)
        self.targets.pop(tag, None)
        self.owners.pop(tag, None)
        self.paused.discard(tag)

    def play(self, session: MediaSession, tag: str, tone: Tone, done: Result) -> None:
        self._later(f"play {tag}", done, lambda: self.tones.update({tag: tone}))

    def stop_playing(self, session: MediaSession, tag: str, done: Result) -> None:
        self._later(f"stop {tag}", done, lambda: self.tones.pop(tag, None) and None)

    def key_frame(self, session: MediaSession, tag: str, done: Result) -> None:
        self._later(f"key frame {tag}", done, lambda: None)

    def report(self, interval: float) -> None:
        """From now on the SRSs report every `interval` seconds, until `report_until`."""
        self.interval, self.report_from, self.report_until = interval, self.clock.now(), float("inf")

    def query(self, session: MediaSession, done: StatisticsResult) -> None:
        def action() -> None:
            blocks, age = 0, 0.0
            if self.interval:
                blocks = int((min(self.clock.now(), self.report_until) - self.report_from) / self.interval)
                age = self.clock.now() - self.report_from - blocks * self.interval
            forks = [
                ForkStatistics(
                    tag,
                    index,
                    stream.from_tag,
                    stream.source_index,
                    dropped={"refused": self.refused} if self.counts else {},
                    rtcp_received=self.reports,
                    last_report=self.last_report,
                    reports=blocks,
                    report_age=age,
                    report_interval=self.interval,
                )
                for tag, subscription in self.subscriptions.items()
                for index, stream in enumerate(subscription.streams)
            ]
            self.queries += 1
            done(MediaStatistics(0.0, 0, 0, 0, (), tuple(forks)))

        self.clock.call_later(self.delay, action)

    def ping(self, done: Result) -> None:
        self._later("ping", done, lambda: None)

    def close(self) -> None:
        self.log.append("close")


def make_call(media: FakeMediaServer, number: int, clock: VirtualClock) -> ProxyCall:
    """A call as the proxy has it when the 200 was forwarded, but still ``early``."""
    call_id, from_tag, to_tag = f"cs{number}@a", f"ft{number}", f"tt{number}"
    head = (
        f'From: "Al & Co" <sip:alice@example.org:5090;x=y>;tag={from_tag}\r\nTo: <sip:bob@example.com>{{}}\r\n'
        f"Call-ID: {call_id}\r\nCSeq: 1 INVITE\r\nContact: <sip:x@10.1.1.1>;+sip.rendering=yes\r\n"
        f"Session-ID: {'ab' * 16};remote={'0' * 32}\r\n\r\n"
    )
    invite = parse_datagram(("INVITE sip:bob@example.com SIP/2.0\r\n" + head.format("")).encode())
    answer = ("SIP/2.0 200 OK\r\n" + head.format(f";tag={to_tag}")).replace("ab" * 16, "cd" * 16)
    response = parse_datagram(answer.encode())
    assert isinstance(invite, SipRequest)
    assert isinstance(response, SipResponse)
    call = ProxyCall(f"dlg{number}", invite, "udp:10.1.1.1:5060", clock.wall(), clock.now())
    call.to_tag = to_tag
    call.response = response
    call.media, call.media_session = media, MediaSession(call_id, from_tag, to_tag)
    call.caller_sdp, call.callee_sdp = party_sdp("10.1.1.1"), party_sdp("10.2.2.2")
    media.parties[from_tag] = call.caller_sdp
    media.parties[to_tag] = call.callee_sdp
    return call


class Srs(CallHandler):
    """A recorder: keeps every document, answers as told. Set `on_invite`/`on_request` to answer otherwise."""

    def __init__(self, world: World, host: str, **options: Any) -> None:
        self.world = world
        self.node: Node = world.network.node(host, **options)
        self.agent, self.layer = world.agent(self.node, self.invited)
        self.calls: list[IncomingCall] = []
        self.offers: list[sdp.SessionDescription] = []
        self.documents: list[Any] = []
        self.requests: list[SipRequest] = []
        self.ended_reasons: list[str] = []
        self.answer_delay = 0.02
        self.status = 200
        self.direction: sdp.Direction = "recvonly"
        self.srtp = "take"
        self.on_invite: Callable[[IncomingCall], None] | None = None
        self.on_request: Callable[[SipRequest, Reply], bool] | None = None
        self.acks: list[SipRequest] = []

    @property
    def call(self) -> IncomingCall:
        return self.calls[-1]

    def invited(self, call: IncomingCall) -> None:
        call.handler = self
        call.contact_params = "+sip.srs"
        self.calls.append(call)
        self.take(call.invite)
        if self.on_invite is not None:
            self.on_invite(call)
        else:
            self.world.clock.call_later(self.answer_delay, self.answer_call, call)

    def answer_call(self, call: IncomingCall) -> None:
        if self.status == 200:
            call.answer(200, self.answer_to(call.invite), headers=(("Require", "siprec"),))
        else:
            call.answer(self.status)

    def take(self, request: SipRequest) -> None:
        """Keep the request, its offer and its metadata; check what must always be so."""
        self.requests.append(request)
        assert request.contact is None or "+sip.src" in request.contact.params
        offer = session_description(request)
        labels = set()
        if offer:
            description = sdp.parse(offer)
            self.offers.append(description)
            labels = {line.label for line in description.media}
            assert None not in labels
            assert len(labels) == len(description.media)
        part = self.metadata_part(request)
        if part is not None:
            root = etree.fromstring(part.body)
            self.world.check_schema(root)
            found = {label.text for label in root.iter(f"{Q}label")}
            assert found <= labels  # META-06
            self.documents.append(root)

    @staticmethod
    def metadata_part(request: SipRequest) -> Part | None:
        return next((part for part in parts_of(request) if part.disposition == "recording-session"), None)

    def answer_to(self, request: SipRequest, direction: sdp.Direction | None = None) -> bytes:
        offer = session_description(request)
        assert offer is not None
        wanted = direction or self.direction
        lines = []
        for i, line in enumerate(sdp.parse(offer).media):
            answer = sdp.answer_media(line, port=20000 + 2 * i, ready=wanted != "inactive")
            if line.proto == "RTP/SAVP" and not answer.rejected:
                self.secure(line, answer)
            lines.append(answer)
        return sdp.build_session(sdp.Origin("srs", "5", str(len(self.requests)), self.node.host), lines).to_bytes()

    def secure(self, offered: sdp.MediaDescription, answer: sdp.MediaDescription) -> None:
        """Take SRTP with our key for the first suite, or do as `srtp` says: answer in the ``clear``, with a ``wrong``
        key, or ``reject`` the stream."""
        if self.srtp == "clear":
            answer.proto = "RTP/AVP"
        elif self.srtp == "reject":
            answer.port = 0
        else:
            chosen = sdp_crypto.parse(offered.attributes("crypto")[0])
            ours = sdp_crypto.answer(chosen)
            if self.srtp == "wrong":
                ours = sdp_crypto.generate(chosen.tag, "AES_256_CM_HMAC_SHA1_32")
            answer.lines.append(f"a=crypto:{ours.value()}")

    def request(self, call: Call, request: SipRequest, reply: Reply) -> None:
        self.take(request)
        if self.on_request is not None and self.on_request(request, reply):
            return
        if session_description(request):
            self.world.clock.call_later(self.answer_delay, lambda: reply(200, self.answer_to(request)))
        else:
            reply(200)

    def ack(self, call: Call, request: SipRequest) -> None:
        self.acks.append(request)

    def ended(self, call: Call, reason: str, request: SipRequest | None) -> None:
        self.ended_reasons.append(reason)

    @property
    def methods(self) -> list[str]:
        return [request.method for request in self.requests]


@dataclass
class World:
    """Everything on one clock."""

    seed: int = 0
    profile: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clock = VirtualClock()
        self.network = SimulatedNetwork(self.clock, self.seed)
        self.hosts: dict[str, list[Hop]] = {}
        self.media = FakeMediaServer(self.clock)
        self.node = self.network.node("10.0.0.1")
        self.rng = random.Random(self.seed)
        self.ua, self.layer = self.agent(self.node, None)
        self.srs = Srs(self, "10.0.0.2")
        self.events: list[SiprecEvent] = []
        self.service = RecordingService(
            self.clock,
            self.ua,
            profiles={"default": RecordingProfile(**{"srs": "sip:srs@10.0.0.2", **self.profile})},
            from_uri="sip:src@10.0.0.1",
            group_secret=b"s",
        )
        self.server_events: list[SiprecEvent] = []
        self.service.events.subscribe(self._told)
        self.calls = 0
        self._schema: Any = etree.XMLSchema(etree.parse(str(SCHEMA)))

    def agent(self, node: Node, on_invite: Callable[[IncomingCall], None] | None) -> tuple[UserAgent, TransactionLayer]:
        endpoint = Endpoint()
        layer = TransactionLayer(self.clock, node, endpoint)
        node.attach(layer)

        def resolve(uri: Uri, done: Callable[[list[Hop] | SipError], None]) -> None:
            done(self.hosts.get(uri.host) or [Hop(uri.transport or "udp", uri.host, uri.effective_port)])

        endpoint.agent = UserAgent(
            self.clock,
            layer,
            resolve,
            contact=lambda hop: (
                f"sip:ua@{node.host}:{node.port}" + ("" if hop.transport == "udp" else ";transport=tcp")
            ),
            on_invite=on_invite,
            extensions=("siprec",),
            race=node.race,
            rng=random.Random(self.seed + node.port),
        )
        return endpoint.agent, layer

    def check_schema(self, root: Any) -> None:
        self._schema.assertValid(root)

    def answered_call(self, record: bool = True, run: bool = True) -> ProxyCall:
        """A call that is answered now, recorded as the default profile says."""
        call = self.new_call()
        if record:
            call.record()
        self.answer(call)
        if run:
            self.clock.run_for(3.0)
        return call

    def new_call(self) -> ProxyCall:
        """A call that rings."""
        self.calls += 1
        call = make_call(self.media, self.calls, self.clock)
        self.service.call_created(call)
        return call

    def answer(self, call: ProxyCall) -> None:
        """The 200 was forwarded."""
        call.state = "confirmed"
        call.answer_wall = call.wall(self.clock.now())
        self.service.call_answered(call)

    def end(
        self, call: ProxyCall, message: str = 'BYE sip:x SIP/2.0\r\nReason: Q.850;cause=16;text="Normal"\r\n\r\n'
    ) -> None:
        """The call is over."""
        call.state = "terminated"
        call.end_wall = call.wall(self.clock.now())
        call.end_reason = "bye"
        call.end_message = parse_datagram(message.encode())
        self.service.call_ended(call)

    def names(self) -> list[str]:
        return [event.name.removeprefix("E_SIPREC_") for event in self.events]

    def health(self) -> list[tuple[str, str]]:
        """What was told of SRSs: event and URI."""
        return [(event.name.removeprefix("E_SIPREC_"), event.server) for event in self.server_events]

    def _told(self, event: SiprecEvent) -> None:
        (self.events if event.dlg_id else self.server_events).append(event)

    def states(self, call: ProxyCall) -> dict[str, str]:
        """State of each recording of a call, by instance."""
        return {info.instance: info.state for info in self.service.info() if info.dlg_id == call.dlg_id}

    def state(self, call: ProxyCall) -> str:
        """State of its default recording."""
        return self.states(call).get("default", "gone")

    def assert_clean(self) -> None:
        """Nothing is left anywhere, once all timers have run out."""
        self.service.close()
        self.clock.run_until_idle(4000.0)
        assert not self.service.info()
        assert not self.service.counts()
        assert not self.service._recorders
        assert not self.media.subscriptions
        assert not any(self.layer.counts().values()), self.layer.counts()
        assert self.ua.counts() == {"calls": 0, "dialogs": 0}
        assert self.srs.agent.counts() == {"calls": 0, "dialogs": 0}
        assert self.clock.pending == 0
        names = self.names()
        assert names.count("START") == names.count("STOP")
