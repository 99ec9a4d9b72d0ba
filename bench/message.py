"""CPU time of the message type: ``python bench/message.py``. Prints microseconds per operation, best of several runs.

`forward` is what a proxy does with an INVITE: parse, read what routing and transactions need, count Max-Forwards down,
put Record-Route and Via on top, write. ``SIPREC_NATIVE=0`` in the environment measures without the modules in C.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable

from siprec import compiled
from siprec.sip.forwarding import build_response, forward_request, forward_response, push_via
from siprec.sip.headers import Via
from siprec.sip.message import SipRequest, SipResponse, parse_datagram
from siprec.sip.multipart import find_metadata
from siprec.sip.transport import Hop
from siprec.sip.uri import Uri
from siprec.sip.validate import check_for_proxy
from siprec.trace.ring import TraceRing

SDP = (
    b"v=0\r\no=alice 2890844526 2890844526 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n"
    b"m=audio 49170 RTP/AVP 0 8 101\r\na=rtpmap:101 telephone-event/8000\r\na=sendrecv\r\n"
)
INVITE = (
    b"INVITE sip:bob@biloxi.example.com SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKnashds8;rport\r\n"
    b"Max-Forwards: 70\r\n"
    b'From: "Alice" <sip:alice@atlanta.example.com>;tag=1928301774\r\n'
    b"To: Bob <sip:bob@biloxi.example.com>\r\n"
    b"Call-ID: a84b4c76e66710@pc33.atlanta.example.com\r\n"
    b"CSeq: 314159 INVITE\r\n"
    b"Contact: <sip:alice@192.0.2.1:5060>\r\n"
    b"Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE\r\n"
    b"Supported: timer, 100rel, replaces\r\n"
    b"User-Agent: Softphone 1.0\r\n"
    b"Content-Type: application/sdp\r\n"
    b"Content-Length: %d\r\n\r\n" % len(SDP)
) + SDP
OK = (
    b"SIP/2.0 200 OK\r\n"
    b"Via: SIP/2.0/UDP 192.0.2.9:5060;branch=z9hG4bKproxy1;rport=5060;received=192.0.2.9\r\n"
    b"Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKnashds8;rport=5060;received=192.0.2.1\r\n"
    b"Record-Route: <sip:192.0.2.9;lr>\r\n"
    b'From: "Alice" <sip:alice@atlanta.example.com>;tag=1928301774\r\n'
    b"To: Bob <sip:bob@biloxi.example.com>;tag=a6c85cf\r\n"
    b"Call-ID: a84b4c76e66710@pc33.atlanta.example.com\r\n"
    b"CSeq: 314159 INVITE\r\n"
    b"Contact: <sip:bob@192.0.2.4>\r\n"
    b"Content-Type: application/sdp\r\n"
    b"Content-Length: %d\r\n\r\n" % len(SDP)
) + SDP
METADATA = b"<?xml version='1.0' encoding='UTF-8'?>\r\n<recording/>" + b" " * 2000
RECORDING = INVITE.replace(b"Content-Type: application/sdp", b"Content-Type: multipart/mixed;boundary=foobar")
RECORDING = RECORDING[: RECORDING.index(b"Content-Length")] + (
    b"\r\n--foobar\r\nContent-Type: application/sdp\r\n\r\n" + SDP + b"\r\n--foobar\r\n"
    b"Content-Type: application/rs-metadata+xml\r\nContent-Disposition: recording-session\r\n\r\n"
    + METADATA
    + b"\r\n--foobar--\r\n"
)


def read(message: SipRequest | SipResponse) -> None:
    """What a transaction layer and a proxy look at."""
    _ = message.branch, message.sent_by, message.from_tag, message.to_tag, message.cseq.method, message.call_id


def parse() -> None:
    """Octets to message."""
    parse_datagram(INVITE)


def parse_and_read() -> None:
    """Octets to message, and its typed views."""
    read(parse_datagram(INVITE))


def forward() -> bytes:
    """A request through a proxy."""
    request = parse_datagram(INVITE)
    assert isinstance(request, SipRequest)
    read(request)
    octets = forward_request(request, record_route=("<sip:192.0.2.9;lr>",))
    return push_via(octets, "SIP/2.0/UDP 192.0.2.9:5060;branch=z9hG4bKproxy1;rport")


def check() -> None:
    """Octets to message, and all a proxy checks."""
    request = parse_datagram(INVITE)
    assert isinstance(request, SipRequest)
    check_for_proxy(request)


def answer() -> bytes:
    """A response through a proxy."""
    response = parse_datagram(OK)
    assert isinstance(response, SipResponse)
    read(response)
    return forward_response(response)


def reply() -> bytes:
    """A 100 Trying."""
    request = parse_datagram(INVITE)
    assert isinstance(request, SipRequest)
    return build_response(request, 100)


def via() -> None:
    """One Via value."""
    Via.parse("SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKnashds8;rport")


def uri() -> None:
    """One URI."""
    Uri.parse("sip:alice@atlanta.example.com:5060;transport=tcp;lr")


def multipart() -> None:
    """Octets to message to metadata part."""
    assert find_metadata(parse_datagram(RECORDING)) is not None


class Kept:
    """Messages kept for the ladder (``[trace]``); eight belong to a dialog."""

    def __init__(self) -> None:
        self.ring = TraceRing(8 << 20)
        self.hop = Hop("udp", "192.0.2.1", 5060, ("192.0.2.9", 5060))
        self.messages = [INVITE.replace(b"a84b4c76e66710", b"%014d" % (number // 8)) for number in range(40_000)]
        self.next = 0

    def __call__(self) -> None:
        """One more."""
        self.next = (self.next + 1) % len(self.messages)
        self.ring.sip("in", self.hop, self.messages[self.next])


def measure(operation: Callable[[], object], seconds: float = 0.15, runs: int = 5) -> float:
    """Best microseconds per call over some runs of `seconds` each."""
    count = 100
    best = float("inf")
    for _ in range(runs + 1):
        start = time.process_time()
        for _ in range(count):
            operation()
        spent = time.process_time() - start
        best = min(best, spent / count)
        count = max(100, int(seconds / best))
    return best * 1e6


def main() -> None:
    """Measure everything."""
    found = f"{platform.python_implementation()} {platform.python_version()}, compiled: {compiled.used()}"
    print(f"{found}, µs per operation")
    for operation in (parse, parse_and_read, check, forward, answer, reply, via, uri, multipart):
        print(f"{operation.__name__:15} {measure(operation):7.2f}  {operation.__doc__}")
    print(f"{'trace':15} {measure(Kept()):7.2f}  A message kept for the ladder of its call.")


if __name__ == "__main__":
    main()
