"""SIPp as session recording server: its scenario step by step, the RTP it gets, and what it was told."""

from __future__ import annotations

import re
import socket
import struct
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import sipmessage
from lxml import etree

from siprec import sdp
from siprec.metadata.document import Document
from siprec.metadata.merge import MetadataState
from siprec.metadata.read import parse
from siprec.sdp import SessionDescription
from siprec.sip.headers import NameAddr
from siprec.sip.message import SipRequest, SipResponse, parse_datagram
from siprec.sip.multipart import METADATA_TYPES, SDP_TYPE, parts_of
from tests.interop.calls.harness import HOST, Sipp
from tests.interop.calls.scenarios import Scenario
from tests.parallel import unused_port

_REMEMBERED = (("via", "Via"), ("from", "From"), ("to", "To"))
_CONTACT = "Contact: <sip:srs@[local_ip]:[local_port];transport=[transport]>;+sip.srs"
_TAG = ";tag=[pid]Srs[call_number]"


def answer(ports: tuple[int, ...], direction: str = "recvonly", *, version: int = 1, labels: str = "") -> str:
    """The description of an SRS: one PCMU m-line for each port (0: rejected); `labels`: one letter for each."""
    lines = ["v=0", f"o=srs 1 {version} IN IP4 {HOST}", "s=-", f"c=IN IP4 {HOST}", "t=0 0"]
    for number, port in enumerate(ports):
        lines += [f"m=audio {port} RTP/AVP 0", "a=rtpmap:0 PCMU/8000", f"a={direction}"]
        if labels:
            lines.append(f"a=label:{labels[number]}")
    return "\n".join(lines)


class Srs(Scenario):
    """The steps of an SRS. Its requests inside the dialog are numbered from 1."""

    def __init__(self, name: str = "srs") -> None:
        super().__init__(name)
        self._requests = 0

    def _send(self, head: list[str], body: str, options: str) -> Self:
        if body and not any(line.startswith("Content-Type") for line in head):
            head.append("Content-Type: application/sdp")
        text = "\n".join([*head, "Content-Length: [len]", "", body])
        self.steps.append(f"<send {options}><![CDATA[\n\n{text}\n]]></send>")
        return self

    def expect_invite(self, prefix: str = "invite", *, first: bool = True) -> Self:
        """An INVITE, the `first` one or a re-INVITE, whose headers are kept for answers that come late."""
        actions = []
        for key, name in (*_REMEMBERED, ("cseq", "CSeq")):
            actions.append(
                f'<ereg regexp="[^ ].*" search_in="hdr" header="{name}:" check_it="false" assign_to="{prefix}{key}"/>'
            )
            self._variables.append(f"{prefix}{key}")
        route = ' rrs="true"' if first else ""
        self.steps.append(f'<recv request="INVITE"{route}><action>{"".join(actions)}</action></recv>')
        return self

    def respond_invite(
        self,
        status: int,
        reason: str,
        body: str = "",
        headers: tuple[str, ...] = (),
        *,
        prefix: str = "invite",
        tag: str = _TAG,
        again: bool = False,
    ) -> Self:
        """A response to the INVITE remembered as `prefix`, whatever came in between."""
        head = [
            f"SIP/2.0 {status} {reason}",
            f"Via: [${prefix}via]",
            f"From: [${prefix}from]",
            f"To: [${prefix}to]{tag}",
            "Call-ID: [call_id]",
            f"CSeq: [${prefix}cseq]",
            *((_CONTACT,) if status < 300 else ()),
            *headers,
        ]
        return self._send(head, body, 'retrans="500"' if again else "")

    def accept(self, body: str, headers: tuple[str, ...] = ()) -> Self:
        """The INVITE, our 200 with `body`, the ACK."""
        return self.expect_invite().respond_invite(200, "OK", body, headers).expect("ACK")

    def refuse(self, status: int, reason: str, headers: tuple[str, ...] = ()) -> Self:
        """The INVITE, our final response, the ACK."""
        return self.expect_invite().respond_invite(status, reason, headers=headers).expect("ACK")

    def older_only(self, body: str) -> Self:
        """An SRS of before RFC 8068 for two calls: 415 for one with newer metadata, else a session from end to end."""
        self.expect_invite()
        self.steps[-1] = self.steps[-1].replace(
            "</action>",
            r'<ereg regexp="rs-metadata\+xml" search_in="body" check_it="false" assign_to="newer"/></action>',
        )
        self._variables.append("newer")
        self.steps.append('<nop next="1" test="newer"/>')
        self.respond_invite(200, "OK", body).expect("ACK").end()
        self.steps += ['<nop next="2"/>', '<label id="1"/>']
        accepted = "Accept: application/sdp, application/rs-metadata, multipart/mixed"
        self.respond_invite(415, "Unsupported Media Type", headers=(accepted,)).expect("ACK")
        self.steps += ['<label id="2"/>', "<nop/>"]
        return self

    def reply(self, status: int = 200, reason: str = "OK", body: str = "", headers: tuple[str, ...] = ()) -> Self:
        """A response to the last request inside the dialog."""
        lines = ("Via", "From", "To", "Call-ID", "CSeq")
        head = [f"SIP/2.0 {status} {reason}", *(f"[last_{name}:]" for name in lines), _CONTACT, *headers]
        return self._send(head, body, "")

    def reinvited(self, body: str, headers: tuple[str, ...] = ()) -> Self:
        """A re-INVITE of the SRC, our 200 with `body`, the ACK."""
        return self.expect("INVITE").reply(200, "OK", body, headers).expect("ACK")

    def updated(self) -> Self:
        """An UPDATE of the SRC and our 200."""
        return self.expect("UPDATE").reply()

    def end(self) -> Self:
        """The last metadata and the BYE."""
        return self.updated().expect("BYE").reply()

    def ask(self, method: str, body: str = "", headers: tuple[str, ...] = (), *, number: int = 0) -> Self:
        """A request of ours inside the dialog, an ACK with the number of the last INVITE."""
        if not number:
            if method != "ACK":
                self._requests += 1
            number = self._requests
        head = [
            f"{method} [next_url] SIP/2.0",
            "Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]",
            f"From: [$inviteto]{_TAG}",
            "To: [$invitefrom]",
            "Call-ID: [call_id]",
            f"CSeq: {number} {method}",
            "Max-Forwards: 70",
            *(() if method == "BYE" else (_CONTACT,)),
            *headers,
        ]
        return self._send(head, body, "")


@dataclass(frozen=True, slots=True)
class Packet:
    """One RTP packet: when it came (seconds since 1970, by the kernel), SSRC and payload type."""

    time: float
    ssrc: int
    payload_type: int


class Sink:
    """A UDP port that RTP is sent to."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((HOST, 0))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self.socket.settimeout(0.2)
        self.port: int = self.socket.getsockname()[1]
        self.packets: list[Packet] = []
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._closing.is_set():
            try:
                data, extra, _, _ = self.socket.recvmsg(2048, 64)
            except TimeoutError:
                continue
            if len(data) < 12 or data[0] >> 6 != 2:
                continue
            when = time.time()
            for level, kind, octets in extra:
                if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS and len(octets) >= 16:
                    seconds, nanos = struct.unpack("qq", octets[:16])
                    when = seconds + nanos / 1e9
            self.packets.append(Packet(when, int.from_bytes(data[8:12], "big"), data[1] & 0x7F))

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self.socket.close()


_SO_TIMESTAMPNS = 35  # asm-generic/socket.h; socket.SO_TIMESTAMPNS came with Python 3.14


@dataclass(frozen=True, slots=True)
class Seen:
    """A message as the SRS sent or received it."""

    time: float
    sent: bool
    message: SipRequest | SipResponse
    octets: bytes

    @property
    def title(self) -> str:
        """``< INVITE`` or ``> 200 INVITE``: direction, status, method."""
        status = f"{self.message.status} " if isinstance(self.message, SipResponse) else ""
        return f"{'>' if self.sent else '<'} {status}{self.message.cseq.method}"

    @property
    def sdp(self) -> SessionDescription | None:
        """Its session description."""
        found = [part.body for part in parts_of(self.message) if part.media_type == SDP_TYPE]
        return sdp.parse(found[0]) if found else None

    @property
    def metadata(self) -> bytes | None:
        """Its metadata."""
        found = [part.body for part in parts_of(self.message) if part.media_type in METADATA_TYPES]
        return found[0] if found else None

    @property
    def document(self) -> Document:
        """Its metadata as our recorder reads them."""
        assert self.metadata is not None, self.title
        found = parse(self.metadata)
        assert isinstance(found, Document)
        return found

    @property
    def directions(self) -> list[str]:
        """The direction of each m-line."""
        assert self.sdp is not None, self.title
        return [line.direction for line in self.sdp.media]


def messages_of(file: Path) -> list[Seen]:
    """All messages of a SIPp log, octet for octet."""
    data, found, at = file.read_bytes(), [], 0
    head = re.compile(rb"-{40,} (\S+ \S+)\n\w+ message (sent|received) [\[(](\d+)[^\n]*\n\n")
    while (match := head.search(data, at)) is not None:
        at = match.end() + int(match[3])
        octets = data[match.end() : at]
        if octets.strip():
            when = datetime.fromisoformat(match[1].decode()).timestamp()
            found.append(Seen(when, match[2] == b"sent", parse_datagram(octets), octets))
    return found


class Recorder:
    """One SRS while it runs: SIPp with its `scenario`."""

    def __init__(self, scenario: Srs, directory: Path, port: int, calls: int = 1) -> None:
        self.sipp = Sipp(scenario, directory, port=port, transport="t1", calls=calls)
        self.directory = directory
        self.uri = f"sip:srs@{HOST}:{port};transport=tcp"

    @property
    def messages(self) -> list[Seen]:
        """What it sent and received so far."""
        file = self.directory / "messages.log"
        return messages_of(file) if file.exists() else []

    @property
    def received(self) -> list[Seen]:
        """What it received so far."""
        return [seen for seen in self.messages if not seen.sent]

    def titles(self) -> list[str]:
        """See `Seen.title`."""
        return [seen.title for seen in self.messages]

    def requests(self, method: str) -> list[Seen]:
        """The requests of one method that it received."""
        return [s for s in self.received if isinstance(s.message, SipRequest) and s.message.method == method]

    def state(self) -> MetadataState:
        """What it knows from all it was told; anything odd about that is an error."""
        state = MetadataState()
        labels: dict[str, int] = {}
        for seen in self.received:
            description = seen.sdp
            labels = {line.label: i for i, line in enumerate(description.media) if line.label} if description else {}
            if seen.metadata is not None:
                document = seen.document
                assert not document.findings, document.findings
                odd = state.apply(document, wall=seen.time, labels=labels)
                assert not odd, (seen.title, odd)
        return state


def check(seen: Seen, schema: Any) -> None:
    """What is true of every message of an SRC: others parse it alike, its metadata are valid and rightly wrapped."""
    message = seen.message
    other = sipmessage.Message.parse(seen.octets)
    assert other.headers.get("Call-ID") == message.call_id
    assert other.cseq is not None
    assert (other.cseq.sequence, other.cseq.method) == (
        message.cseq.number,
        message.cseq.method,
    )
    assert other.from_address is not None
    assert other.from_address.parameters.get("tag", "") == (message.from_.tag or "")
    assert other.to_address is not None
    assert other.to_address.parameters.get("tag", "") == (message.to.tag or "")
    assert (other.body or b"") == message.body
    if isinstance(message, SipRequest) and message.method in ("INVITE", "UPDATE"):
        assert isinstance(message.contact, NameAddr)
        assert "+sip.src" in message.contact.params, seen.title  # SRC-05
    if isinstance(message, SipRequest) and message.method == "INVITE":
        assert "siprec" in message.tokens("require"), seen.title  # SRC-06
    if seen.metadata is None:
        return
    assert isinstance(message, SipRequest) or seen.sdp is not None, "metadata in a response without an offer"
    parts = parts_of(message)
    assert [p.disposition for p in parts if p.media_type in METADATA_TYPES] == ["recording-session"], seen.title
    if schema is not None:
        schema.assertValid(etree.fromstring(seen.metadata, etree.XMLParser(resolve_entities=False)))
    labels = [stream.label for stream in seen.document.streams if stream.label]
    if seen.sdp is None:
        assert not labels, "labels without a description (META-06)"
    else:
        assert set(labels) <= {line.label for line in seen.sdp.media}, seen.title


class Silent:
    """A TCP port that takes connections, and says nothing."""

    def __init__(self) -> None:
        self.socket = socket.create_server((HOST, 0))
        self.uri = f"sip:silent@{HOST}:{self.socket.getsockname()[1]};transport=tcp"


def nobody() -> str:
    """The URI of an SRS that is not there: its connections are refused."""
    return f"sip:nobody@{HOST}:{unused_port()};transport=tcp"
