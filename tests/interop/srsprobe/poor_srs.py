"""An SRS with faults to choose from, on a bare UDP socket: none of our transactions or dialogs stand behind it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Literal

from siprec import sdp
from siprec.sip.errors import SipError
from siprec.sip.message import SipRequest, SipResponse, parse_datagram
from siprec.sip.multipart import SDP_TYPE, Part, build_multipart
from siprec.sip.useragent import session_description

TAG = "poor"


@dataclass(eq=False)
class PoorSrs(asyncio.DatagramProtocol):
    """Set what it does wrong before the call. `received` are the methods (and statuses) that came, in order."""

    feature: str = ";+sip.srs"
    labels: bool = True
    direction: sdp.Direction | None = None
    version: Literal["right", "still", "restless"] = "right"
    update_status: int = 200
    allow: str = "INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE"
    invite: Literal["answer", "busy", "ring", "cross", "silent"] = "answer"
    drop_line: bool = False
    offerless: bool = True
    legacy_only: bool = False
    bye_after: str = ""
    """Name of the method after whose answer it hangs up."""
    snapshot_by: Literal["", "UPDATE", "INVITE"] = ""
    received: list[str] = field(default_factory=list)
    requests: list[SipRequest] = field(default_factory=list)
    bodies: list[tuple[str, bytes]] = field(default_factory=list)

    async def start(self) -> str:
        """Open the socket; returns the URI."""
        loop = asyncio.get_running_loop()
        self.transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        self.port: int = self.transport.get_extra_info("sockname")[1]
        self._number, self._last, self._cseq, self._asked = 1, b"", 1, False
        self._final: dict[str, bytes] = {}
        return f"sip:127.0.0.1:{self.port}"

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """One message."""
        try:
            message = parse_datagram(data)
        except SipError:
            return
        if isinstance(message, SipResponse):
            self.received.append(f"{message.status} {message.cseq.method}")
            if message.cseq.method == "INVITE" and message.status >= 200:
                self._request("ACK", message, addr, answered=True)
            return
        key = f"{message.top_via.branch} {message.method}"
        if key in self._final:  # a retransmission
            self.transport.sendto(self._final[key], addr)
            return
        self.received.append(message.method)
        self.requests.append(message)
        if message.body:
            self.bodies.append((message.method, message.body))
        if message.method == "INVITE" and not message.to.tag:
            self._first = message
            if self.legacy_only and b"application/rs-metadata+xml" in message.body:
                self._send(message, 415, addr, [("Accept", "application/sdp, application/rs-metadata")])
                return
        if message.method == "INVITE":
            self._invited(message, addr)
        elif message.method == "CANCEL":
            self._send(message, 200, addr)
            if self.invite == "cross":
                self._answer(self._first, addr)
            else:
                self._send(self._first, 487, addr)
        elif message.method == "UPDATE" and self.update_status != 200:
            self._send(message, self.update_status, addr, [("Allow", self.allow)])
        elif message.method != "ACK":
            self._send(message, 200, addr, self._contact())
        if message.method == self.bye_after and message.to.tag:
            self._request("BYE", message, addr)
        if message.method == "UPDATE" and self.snapshot_by and not self._asked:
            self._asked = True
            self._ask(message, addr)

    def _contact(self) -> list[tuple[str, str]]:
        return [("Contact", f"<sip:srs@127.0.0.1:{self.port}>{self.feature}"), ("Allow", self.allow)]

    def _invited(self, request: SipRequest, addr: tuple[str, int]) -> None:
        if request.to.tag or self.invite == "answer":
            self._answer(request, addr)
        elif self.invite == "busy":
            self._send(request, 486, addr)
        elif self.invite != "silent":
            self._send(request, 180, addr, self._contact())

    def _answer(self, request: SipRequest, addr: tuple[str, int]) -> None:
        offer = session_description(request)
        if offer is None:
            body = self._last if self.offerless else b""
        else:
            lines = [sdp.answer_media(line, port=40000 + 2 * i, label=self.labels) for i, line in
                     enumerate(sdp.parse(offer).media)]  # fmt: skip
            for line in lines:
                line.direction = self.direction or line.direction
            body = self._described(lines[: -1 if self.drop_line else None])
            if self.version == "restless" or (self.version == "right" and body != self._last and self._last):
                self._number += 1
            body = self._last = self._described(lines[: -1 if self.drop_line else None])
        self._send(request, 200, addr, self._contact(), body)

    def _described(self, lines: list[sdp.MediaDescription]) -> bytes:
        return sdp.build_session(sdp.Origin("srs", "7", str(self._number), "127.0.0.1"), lines).to_bytes()

    def _send(
        self,
        request: SipRequest,
        status: int,
        addr: tuple[str, int],
        headers: list[tuple[str, str]] | None = None,
        body: bytes = b"",
    ) -> None:
        response = request.response(status, to_tag=TAG, headers=headers or [], body=body, content_type=SDP_TYPE)
        data = response.to_bytes()
        if status >= 200:
            self._final[f"{request.top_via.branch} {request.method}"] = data
        self.transport.sendto(data, addr)

    def _request(
        self,
        method: str,
        message: SipRequest | SipResponse,
        addr: tuple[str, int],
        body: bytes = b"",
        more: str = "",
        *,
        answered: bool = False,
    ) -> None:
        """A request in the dialog of `message`; `answered`: that is a response to ours, and this the ACK."""
        self._cseq += 0 if answered else 1
        contact = self._first.contact
        assert contact is not None
        ours, theirs = ("from", "to") if answered else ("to", "from")
        text = (
            f"{method} {contact.uri_text} SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP 127.0.0.1:{self.port};branch=z9hG4bK{method}{self._cseq}\r\nMax-Forwards: 70\r\n"
            f"From: {message.get(ours)}\r\nTo: {message.get(theirs)}\r\nCall-ID: {message.call_id}\r\n"
            f"CSeq: {self._cseq} {method}\r\nContact: <sip:srs@127.0.0.1:{self.port}>{self.feature}\r\n{more}"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self.transport.sendto(text.encode() + body, addr)

    def _ask(self, theirs: SipRequest, addr: tuple[str, int]) -> None:
        if self.snapshot_by == "UPDATE":
            root = b'<requestsnapshot xmlns="urn:ietf:params:xml:ns:recording:1"/>'
            more = "Content-Type: application/rs-metadata+xml\r\nContent-Disposition: recording-session\r\n"
            self._request("UPDATE", theirs, addr, root, more)
            return
        # In an INVITE, with SDP beside it, in a document that is none of its kind: META-11 and META-12 broken.
        content_type, body = build_multipart(
            [
                Part.make(SDP_TYPE, self._last),
                Part.make("application/rs-metadata+xml", b"<recording/>", disposition="recording-session"),
            ]
        )
        self._request("INVITE", theirs, addr, body, f"Content-Type: {content_type}\r\n")

    def close(self) -> None:
        """Close the socket."""
        self.transport.close()
