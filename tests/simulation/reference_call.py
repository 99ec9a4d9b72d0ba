"""The reference call: what one recorded call costs, without sockets and in virtual time.

The proxy, the recording client, trace, proof and the ``ng`` client are the real ones. Scripted peers surround them: a
caller, a callee, an SRS, an RTPEngine. Only the product's own work is measured: it runs inside the `work` context of
:meth:`ReferenceCall.run`, the peers do not.

    INVITE 100 180 200 ACK ... BYE 200, towards the SRS INVITE 200 ACK, the last metadata, BYE, five or more requests to
    the media server.
"""

from __future__ import annotations

import gc
import heapq
import random
import sys
import tracemalloc
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import count
from types import FrameType
from typing import Any, Final

from siprec.media.bencode import Encodable, decode_dict, encode
from siprec.media.request_tracker import Connection
from siprec.media.rtpengine import RtpEngine
from siprec.proxy.core import ProxyCore
from siprec.proxy.local_domain import LocalDomain
from siprec.proxy.options import ProxyOptions
from siprec.proxy.routes import RouteRule, Rules
from siprec.recording.call_recording import CallRecording
from siprec.recording.events import EventDispatcher
from siprec.recording.proof_collector import ProofCollector
from siprec.recording.recording_profile import RecordingProfile
from siprec.recording.service import RecordingService
from siprec.recording.settings import SiprecVariable
from siprec.server.trace_links import TraceLinks
from siprec.sip.errors import SipError
from siprec.sip.message import parse_datagram
from siprec.sip.transaction import TransactionLayer
from siprec.sip.transport import Hop, SendFailed
from siprec.sip.uri import Uri
from siprec.sip.useragent import UserAgent
from siprec.trace.ring import TraceRing
from siprec.trace.tap import Tap
from tests.simulation.network import VirtualClock

PROXY: Final = ("10.0.0.100", 5060)
CALLER: Final = Hop("udp", "10.0.0.1", 5060, PROXY)
CALLEE: Final = Hop("udp", "10.0.0.2", 5060, PROXY)
SRS: Final = ("10.0.0.50", 5060)
MAX_UDP: Final = 1300

Work = Callable[[], AbstractContextManager[object]]


def party_sdp(host: str) -> str:
    return (
        f"v=0\r\no=- 1000 1 IN IP4 {host}\r\ns=-\r\nc=IN IP4 {host}\r\nt=0 0\r\nm=audio 6000 RTP/AVP 0 8 101\r\n"
        "a=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\n"
        "a=ptime:20\r\na=sendrecv\r\n"
    )


def _invite(number: int) -> bytes:
    body = party_sdp("10.0.0.1")
    return (
        "INVITE sip:bob@example.com SIP/2.0\r\n"
        f"Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-{number}-1;rport\r\n"
        "Max-Forwards: 70\r\n"
        f'From: "Alice" <sip:alice@example.com>;tag=a{number}\r\n'
        "To: <sip:bob@example.com>\r\n"
        f"Call-ID: {number}-reference@10.0.0.1\r\n"
        "CSeq: 1 INVITE\r\n"
        "Contact: <sip:alice@10.0.0.1:5060>\r\n"
        "Allow: INVITE, ACK, CANCEL, OPTIONS, BYE, REFER, NOTIFY, UPDATE\r\n"
        "Supported: replaces, timer\r\n"
        "User-Agent: reference/1.0\r\n"
        "Content-Type: application/sdp\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


class _Text:
    """As much of a message as a scripted peer reads."""

    def __init__(self, data: bytes) -> None:
        head, _, self.body = data.decode("utf-8", "replace").partition("\r\n\r\n")
        self.start, *lines = head.split("\r\n")
        self.lines = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]

    def all(self, name: str) -> list[str]:
        return [value for each, value in self.lines if each == name]

    def get(self, name: str) -> str:
        return next(iter(self.all(name)), "")

    @property
    def method(self) -> str:
        return self.start.partition(" ")[0]


def _reply(request: _Text, status: str, *, tag: str, contact: str = "", body: str = "") -> bytes:
    to = request.get("to")
    lines = [f"SIP/2.0 {status}"]
    lines += [f"Via: {value}" for value in request.all("via")]
    lines += [f"Record-Route: {value}" for value in request.all("record-route")]
    lines += [
        f"From: {request.get('from')}",
        f"To: {to}" if ";tag=" in to or not tag else f"To: {to};tag={tag}",
        f"Call-ID: {request.get('call-id')}",
        f"CSeq: {request.get('cseq')}",
    ]
    if contact:
        lines.append(f"Contact: {contact}")
    if body:
        lines.append("Content-Type: application/sdp")
    return ("\r\n".join(lines) + f"\r\nContent-Length: {len(body)}\r\n\r\n{body}").encode()


def _srs_answer(offer: str) -> str:
    ports = count(40000, 2)
    lines = ["v=0", "o=srs 1 1 IN IP4 10.0.0.50", "s=-", "c=IN IP4 10.0.0.50", "t=0 0"]
    for section in offer.split("\r\nm=")[1:]:
        words = section.partition("\r\n")[0].split()
        label = next((line for line in section.split("\r\n") if line.startswith("a=label:")), "")
        lines += [f"m={words[0]} {next(ports)} {' '.join(words[2:])}", "a=recvonly", label]
    return "\r\n".join(line for line in lines if line) + "\r\n"


class Transport:
    """What the product sends goes into `out`: octets and hop."""

    def __init__(self, tap: Tap | None) -> None:
        self.out: deque[tuple[bytes, Hop]] = deque()
        self.tap = tap
        self._routes: dict[tuple[str, str, int, int], Hop] = {}

    def route(self, hop: Hop, size: int) -> Hop:
        transport = "tcp" if hop.transport == "udp" and size > MAX_UDP else hop.transport
        key = (transport, hop.host, hop.port, hop.connection)
        if key not in self._routes:
            self._routes[key] = Hop(transport, hop.host, hop.port, PROXY, hop.connection)
        return self._routes[key]

    def sent_by(self, hop: Hop) -> tuple[str, int]:
        return PROXY

    def send(self, data: bytes, hop: Hop, failed: SendFailed | None = None) -> None:
        if self.tap is not None:
            self.tap.sip("out", hop, data)
        self.out.append((data, hop))


class _NgConnection:
    """The way to the scripted RTPEngine; what is sent goes into `out`."""

    reliable = False

    def __init__(self, out: deque[bytes]) -> None:
        self._out = out

    def send(self, message: bytes) -> None:
        self._out.append(message)

    def close(self) -> None:
        """Nothing is held."""


def _rtpengine(message: bytes) -> tuple[str, bytes]:
    """Command and reply, as RTPEngine 10.5 gives it."""
    cookie, _, body = message.partition(b" ")
    asked = decode_dict(body)
    command = asked["command"]
    assert isinstance(command, bytes)
    reply: dict[str, Encodable] = {"result": "ok"}
    if command in (b"offer", b"answer"):
        described = asked["sdp"]
        assert isinstance(described, bytes)
        port = b"30000" if command == b"offer" else b"30002"
        reply["sdp"] = (
            described.replace(b"10.0.0.1\r", b"10.0.0.9\r")
            .replace(b"10.0.0.2\r", b"10.0.0.9\r")
            .replace(b" 6000 ", b" " + port + b" ")
        )
    elif command == b"subscribe request":
        tags = asked["from-tags"]
        assert isinstance(tags, list)
        lines = ["v=0", "o=- 7711094917854042211 1 IN IP4 10.0.0.9", "s=rtpengine", "t=0 0"]
        for index, _ in enumerate(tags):
            lines += [
                f"m=audio {30010 + 4 * index} RTP/AVP 0 8 101",
                "c=IN IP4 10.0.0.9",
                f"a=label:{index}",
                "a=rtpmap:0 PCMU/8000",
                "a=rtpmap:8 PCMA/8000",
                "a=rtpmap:101 telephone-event/8000",
                "a=fmtp:101 0-15",
                "a=sendonly",
                f"a=rtcp:{30011 + 4 * index}",
                "a=ptime:20",
            ]
        medias: list[Encodable] = [{"index": 1, "type": "audio", "label": str(index)} for index in range(len(tags))]
        reply |= {
            "sdp": "\r\n".join(lines) + "\r\n",
            "tag-medias": [{"tag": tag, "medias": [media]} for tag, media in zip(tags, medias, strict=True)],
            "media-labels": {
                str(index): {"tag": tag, "index": 1, "type": "audio", "mode": "sendrecv"}
                for index, tag in enumerate(tags)
            },
            "from-tags": tags,
            "to-tag": "9b87271aba17fedf51913a6dfa418bd71210c2d538b321950762aeaf155eaceb",
        }
    elif command == b"delete":
        caller = asked["from-tag"]
        assert isinstance(caller, bytes)
        reply |= _statistics(caller.decode(), "b1")
    return command.decode(), cookie + b" " + encode(reply)


def _statistics(caller: str, callee: str) -> dict[str, Encodable]:
    """What RTPEngine says of a call with two parties and one subscription: some 2.3 KB."""

    def stream(port: int, flags: list[str], packets: int) -> dict[str, Encodable]:
        return {
            "local port": port,
            "endpoint": {"family": "IPv4", "address": "10.0.0.1", "port": 6000},
            "advertised endpoint": {"family": "IPv4", "address": "10.0.0.1", "port": 6000},
            "last packet": 1700000000,
            "flags": flags,
            "SSRC": 305419896,
            "stats": {"packets": packets, "bytes": packets * 172, "errors": 0},
        }

    def party(tag: str, port: int, packets: int) -> dict[str, Encodable]:
        rtp = stream(port, ["RTP", "filled", "confirmed"], packets)
        rtcp = stream(port + 1, ["RTCP", "filled"], 1)
        media: dict[str, Encodable] = {
            "index": 1,
            "type": "audio",
            "protocol": "RTP/AVP",
            "flags": ["initialized", "send", "recv"],
            "streams": [rtp, rtcp],
        }
        return {
            "tag": tag,
            "created": 1700000000,
            "in dialogue with": "other",
            "medias": [media],
            "subscriptions": [{"tag": "other", "type": "offer/answer"}],
        }

    return {
        "created": 1700000000,
        "last signal": 1700000000,
        "SSRC": {"305419896": {"average MOS": {"MOS": 43, "jitter": 1, "packet loss": 0, "samples": 3}}},
        "tags": {caller: party(caller, 30000, 500), callee: party(callee, 30002, 500)},
        "totals": {
            "RTP": {"packets": 1000, "bytes": 172000, "errors": 0},
            "RTCP": {"packets": 2, "bytes": 120, "errors": 0},
        },
    }


@dataclass
class Calls:
    """Counted function calls: by Python functions, and of C functions."""

    python: int = 0
    c: int = 0
    by_function: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def counting(self, *, names: bool = False) -> Iterator[None]:
        """Count what is called inside."""

        def profile(frame: FrameType, event: str, argument: Any) -> None:
            if event == "call":
                self.python += 1
                if names:
                    code = frame.f_code
                    self.by_function[f"{code.co_filename.rpartition('siprec/')[2]}:{code.co_qualname}"] += 1
            elif event == "c_call":
                self.c += 1

        sys.setprofile(profile)
        try:
            yield
        finally:
            sys.setprofile(None)
            # What ended the counting: the exit of the context, the generator, and two C functions.
            self.python -= 2
            self.c -= 2


class ReferenceCall:
    """The product and its peers. :meth:`run` places one call.

    `observed`: with the message trace and the proof of recording, as shipped. `seen` lists the messages that the
    product sent, `commands` its requests to the media server, `events` its events, `proofs` the lines of the proof.
    """

    def __init__(self, *, recorded: bool = True, observed: bool = True, seed: int = 1) -> None:
        self.clock = VirtualClock()
        self.tap = Tap(TraceRing(16 << 20), None) if observed else None
        self.transport = Transport(self.tap)
        self.ng: deque[bytes] = deque()
        self.commands: list[str] = []
        self.seen: list[str] = []
        self.proofs: list[bytes] = []
        self.events: list[str] = []
        self._work: Work = nullcontext
        self._numbers = count(1)
        self._on_ng: Callable[[bytes], None] = lambda message: None
        self._assemble(recorded, seed)

    def _assemble(self, recorded: bool, seed: int) -> None:
        """As ``siprec serve`` does it."""

        def opener(on_message: Callable[[bytes], None], on_error: Callable[[str], None]) -> Connection:
            self._on_ng = on_message
            return _NgConnection(self.ng)

        self.media = RtpEngine(self.clock, opener)
        rule = RouteRule(
            method="INVITE",
            targets=["sip:10.0.0.2:5060"],
            record="default" if recorded else [],
            media="" if recorded else "never",
        )
        self.core = ProxyCore(
            self.clock,
            LocalDomain([("udp", *PROXY), ("tcp", *PROXY)], ["example.com"]),
            self._resolve,
            rules=Rules([rule]),
            pick_media=lambda call: self.media,
            settings=SiprecVariable,
            options=ProxyOptions(trusted=["10.0.0.0/8"]),
            rng=random.Random(seed),
        )
        self.layer = TransactionLayer(self.clock, self.transport, self.core)
        self.agent = UserAgent(
            self.clock,
            self.layer,
            self._resolve,
            contact=lambda hop: "sip:siprec@10.0.0.100:5060",
            user_agent="siprec",
            extensions=("siprec",),
        )
        events = EventDispatcher()
        events.subscribe(lambda event: self.events.append(event.name))
        # As with an SRS whose receiver reports are seen: nothing is asked.
        profile = RecordingProfile(srs=f"sip:{SRS[0]}", keepalive=0.0)
        self.recording = RecordingService(
            self.clock, self.agent, profiles={"default": profile}, events=events, signalled=self.core.midcall.changed
        )

        if self.tap is not None:
            self._observe(events, self.tap)
        self.core.observers.add(self.recording)
        self.core.recorder = self.recording
        self.core.indicator = self.recording.indications
        self.core.attach(self.layer, self.agent)

    def _observe(self, events: EventDispatcher, tap: Tap) -> None:
        """Trace and proof."""

        def active(dlg_id: str, instance: str) -> CallRecording | None:
            recorder = self.recording.recorder(dlg_id)
            return recorder.recordings.get(instance) if recorder is not None else None

        proofs = ProofCollector(self.clock, self.proofs.append, self.core.calls.get, active)
        ring = tap.ring
        assert ring is not None
        self.core.observers.add(proofs)
        events.subscribe(proofs.event)
        self.recording.context.observers.append(proofs)
        self.media.traced(ring.media)
        self.core.observers.add(tap)
        events.subscribe(ring.event)
        self.recording.context.observers.append(TraceLinks(ring))

    def _resolve(self, uri: Uri, done: Callable[[list[Hop] | SipError], None]) -> None:
        done([Hop(str(uri.params.get("transport", "udp") or "udp"), uri.host, uri.port or 5060)])

    # -- one call --------------------------------------------------------------------------------------------------

    def run(self, work: Work = nullcontext, *, answered: Callable[[], object] = lambda: None) -> None:
        """Place a call and end it; `work` is entered around each piece of the product's own work. `answered` is called
        while the call is up and, if it is to be, recorded."""
        self.begin(work)
        answered()
        self.end(work)

    def begin(self, work: Work = nullcontext) -> tuple[int, _Text]:
        """Place a call until it is answered and its recording has started. Returns its number and the caller's 200."""
        self._work = work
        number = next(self._numbers)
        self._answer = _Text(b"")
        self._deliver(_invite(number), CALLER)
        self._exchange()
        route = "".join(f"Route: {value}\r\n" for value in reversed(self._answer.all("record-route")))
        self._head = (
            f"{route}Max-Forwards: 70\r\nFrom: {self._answer.get('from')}\r\nTo: {self._answer.get('to')}\r\n"
            f"Call-ID: {self._answer.get('call-id')}\r\n"
        )
        self._deliver(
            f"ACK sip:bob@10.0.0.2:5060 SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-{number}-2;rport\r\n"
            f"{self._head}CSeq: 1 ACK\r\nContent-Length: 0\r\n\r\n".encode(),
            CALLER,
        )
        self._pass(1.0)
        self._number = number
        return number, self._answer

    def end(self, work: Work = nullcontext, limit: float = 60.0) -> None:
        """The caller hangs up; the last timers run, within `limit` seconds."""
        self._work = work
        self._deliver(
            "BYE sip:bob@10.0.0.2:5060 SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK-{self._number}-3;rport\r\n"
            f"{self._head}CSeq: 2 BYE\r\nContent-Length: 0\r\n\r\n".encode(),
            CALLER,
        )
        self._pass(limit)

    def _pass(self, seconds: float) -> None:
        """Let time pass; what is sent meanwhile is answered."""
        self._exchange()
        end = self.clock.now() + seconds
        heap = self.clock._heap
        while heap and heap[0][0] <= end:
            if heap[0][2].done:
                heapq.heappop(heap)
                continue
            with self._work():
                self.clock._fire_next()
            self._exchange()
        self.clock.run_until(max(end, self.clock.now()))

    def receive(self, data: bytes, source: Hop) -> None:
        """What the transport does with octets that came, damaged ones too."""
        if self.tap is not None:
            self.tap.sip("in", source, data)
        try:
            message = parse_datagram(data)
        except SipError as error:
            self.layer.receive_malformed(error, source)
        else:
            self.layer.receive(message, source)

    def _deliver(self, data: bytes, source: Hop) -> None:
        with self._work():
            self.receive(data, source)

    def _exchange(self) -> None:
        """Answer what was sent until nothing is left to be answered."""
        while self.transport.out or self.ng:
            if self.ng:
                command, reply = _rtpengine(self.ng.popleft())
                self.commands.append(command)
                with self._work():
                    self._on_ng(reply)
                continue
            data, hop = self.transport.out.popleft()
            message = _Text(data)
            self.seen.append(f"{hop.host} {message.start.rpartition(' SIP/2.0')[0] or message.start}")
            source = replace(hop, local=PROXY)
            if (hop.host, hop.port) == SRS:
                if message.method not in ("SIP/2.0", "ACK"):
                    self._recorder(message, source)
            elif hop.host == CALLEE.host:
                self._callee(message)
            elif message.method == "SIP/2.0" and " 200 " in message.start and "INVITE" in message.get("cseq"):
                self._answer = message

    def _callee(self, message: _Text) -> None:
        contact = "<sip:bob@10.0.0.2:5060>"
        if message.method == "INVITE":
            self._deliver(_reply(message, "100 Trying", tag=""), CALLEE)
            self._deliver(_reply(message, "180 Ringing", tag="b1", contact=contact), CALLEE)
            self._deliver(_reply(message, "200 OK", tag="b1", contact=contact, body=party_sdp("10.0.0.2")), CALLEE)
        elif message.method == "BYE":
            self._deliver(_reply(message, "200 OK", tag=""), CALLEE)

    def _recorder(self, message: _Text, source: Hop) -> None:
        body = ""
        if message.method == "INVITE":
            offer = message.body[message.body.index("v=0") :].partition("\r\n--")[0] + "\r\n"
            body = _srs_answer(offer)
        self._deliver(_reply(message, "200 OK", tag="srs1", contact=f"<sip:srs@{SRS[0]}:5060>", body=body), source)


def function_calls(*, recorded: bool = True, observed: bool = True, names: bool = False) -> Calls:
    """The function calls of one reference call, after warm-up."""
    world = ReferenceCall(recorded=recorded, observed=observed)
    for _ in range(3):
        world.run()
    calls = Calls()
    world.run(lambda: calls.counting(names=names))
    return calls


@dataclass(frozen=True, slots=True)
class Alive:
    """What one confirmed recorded call keeps alive: instances of the product's classes, all objects that the garbage
    collector knows, bytes; and the instances by class."""

    instances: float
    objects: float
    octets: float
    kinds: Counter[str]


def alive_per_call(calls: int = 50, *, observed: bool = True) -> Alive:
    """Measured over `calls` calls at once. The trace's store of messages, bounded as a whole, is left out."""
    world = ReferenceCall(observed=observed)
    world.tap = world.transport.tap = None
    for _ in range(3):
        world.run()

    def settle() -> None:
        world.seen.clear()
        world.commands.clear()
        world.proofs.clear()
        gc.collect()

    settle()
    before = Counter(_kind(each) for each in gc.get_objects())
    tracemalloc.start()
    settle()
    octets = tracemalloc.get_traced_memory()[0]
    for _ in range(calls):
        world.begin()
    world._pass(70.0)  # what only the set-up needed is gone: the INVITE's transactions
    settle()
    grown = tracemalloc.get_traced_memory()[0] - octets
    tracemalloc.stop()
    after = Counter(_kind(each) for each in gc.get_objects())
    after.subtract(before)
    ours = Counter(
        {kind: number for kind, number in after.items() if number >= calls // 2 and kind.startswith("siprec.")}
    )
    return Alive(sum(ours.values()) / calls, sum(after.values()) / calls, grown / calls, ours)


def _kind(thing: object) -> str:
    kind = type(thing)
    return f"{kind.__module__}.{kind.__qualname__}"
