"""SIPp scenarios put together from steps, so that headers, branches and CSeq numbers are right in one place.

A scenario is written to a file in the directory SIPp runs in. In-dialog requests follow the recorded route.
"""

from __future__ import annotations

from typing import Self

_CALLER = 'From: "Alice" <sip:alice@[local_ip]:[local_port]>;tag=[pid]Caller[call_number]'
_CALLEE = "To: <sip:[service]@[remote_ip]:[remote_port]>"
_CONTACT = "Contact: <sip:[local_ip]:[local_port];transport=[transport]>"
_SDP = """v=0
o=- 42 {version} IN IP[local_ip_type] [local_ip]
s=-
c=IN IP[media_ip_type] [media_ip]
t=0 0
m=audio [auto_media_port] RTP/AVP 0
a=rtpmap:0 PCMU/8000
a=ptime:20
a={direction}"""


def sdp(direction: str = "sendrecv", version: int = 1) -> str:
    """A description of one PCMU stream at SIPp's media port."""
    return _SDP.format(direction=direction, version=version)


class Scenario:
    """Steps in the order SIPp takes them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.steps: list[str] = []
        self._cseq = 0
        self._invite = 0
        self._variables: list[str] = []

    def xml(self) -> str:
        """The scenario file."""
        unused = f'<Reference variables="{",".join(self._variables)}"/>' if self._variables else ""
        steps = "\n".join(self.steps)
        return f'<?xml version="1.0" encoding="UTF-8"?>\n<scenario name="{self.name}">\n{steps}\n{unused}</scenario>\n'

    def _send(self, head: list[str], body: str, options: str) -> Self:
        if body:
            head.append("Content-Type: application/sdp")
        head.append("Content-Length: [len]")
        text = "\n".join([*head, "", body])
        self.steps.append(f"<send {options}><![CDATA[\n\n{text}\n]]></send>")
        return self

    # Both sides

    def pause(self, seconds: float) -> Self:
        self.steps.append(f'<pause milliseconds="{round(seconds * 1000)}"/>')
        return self

    def play(self, file: str = "audio.pcap") -> Self:
        """Send the RTP packets of `file` to the peer's address while the scenario goes on."""
        self.steps.append(f'<nop><action><exec play_pcap_audio="{file}"/></action></nop>')
        return self

    def expect(self, what: int | str, *, optional: bool = False, route: bool = False) -> Self:
        """Wait for a response or request; `route` keeps its Record-Route and Contact for later requests."""
        kind = f'response="{what}"' if isinstance(what, int) else f'request="{what}"'
        options = (' optional="true"' if optional else "") + (' rrs="true"' if route else "")
        self.steps.append(f"<recv {kind}{options}/>")
        return self

    # The caller

    def invite(self, body: str | None = None, headers: tuple[str, ...] = ()) -> Self:
        """The initial INVITE, with an offer unless `body` is empty."""
        self._cseq = 1
        self._invite = len(self.steps)
        head = [
            "INVITE sip:[service]@[remote_ip]:[remote_port] SIP/2.0",
            "Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]",
            _CALLER,
            _CALLEE,
            "Call-ID: [call_id]",
            "CSeq: 1 INVITE",
            "Max-Forwards: 70",
            "Subject: siprec interop",
            "X-Unknown: kept as it is",
            _CONTACT,
            *headers,
        ]
        return self._send(head, sdp() if body is None else body, 'retrans="500"')

    def request(self, method: str, body: str = "", headers: tuple[str, ...] = ()) -> Self:
        """A request of the caller in the dialog; ACK has the CSeq of the INVITE before."""
        if method == "ACK":
            cseq = self._invite_cseq
        else:
            self._cseq += 1
            cseq = self._cseq
            if method == "INVITE":
                self._invite_cseq = cseq
        head = [
            f"{method} [next_url] SIP/2.0",
            "Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]",
            "[routes]",
            _CALLER,
            f"{_CALLEE}[peer_tag_param]",
            "Call-ID: [call_id]",
            f"CSeq: {cseq} {method}",
            "Max-Forwards: 70",
            _CONTACT,
            *headers,
        ]
        return self._send(head, body, "" if method == "ACK" else 'retrans="500"')

    _invite_cseq = 1

    def same_branch(self, method: str) -> Self:
        """CANCEL, or the ACK for a refusal: they belong to the INVITE's transaction."""
        back = len(self.steps) - self._invite
        tag = "[peer_tag_param]" if method == "ACK" else ""
        head = [
            f"{method} sip:[service]@[remote_ip]:[remote_port] SIP/2.0",
            f"Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch-{back}]",
            _CALLER,
            f"{_CALLEE}{tag}",
            "Call-ID: [call_id]",
            f"CSeq: 1 {method}",
            "Max-Forwards: 70",
        ]
        return self._send(head, "", "" if method == "ACK" else 'retrans="500"')

    # The callee

    def expect_invite(self) -> Self:
        """The initial INVITE; what answers to it need is kept, also past other requests."""
        names = ("Via", "Via", "From", "To", "Record-Route")
        actions = []
        for position, name in enumerate(names):
            variable = f"invite{position}"
            occurrence = ' occurrence="2"' if position == 1 else ""
            actions.append(
                f'<ereg regexp="[^ ].*" search_in="hdr" header="{name}:"{occurrence} check_it="false" '
                f'assign_to="{variable}"/>'
            )
            self._variables.append(variable)
        self.steps.append(f'<recv request="INVITE" rrs="true"><action>{"".join(actions)}</action></recv>')
        return self

    def respond(self, status: int, reason: str, body: str = "", headers: tuple[str, ...] = ()) -> Self:
        """A response to the last request."""
        head = [
            f"SIP/2.0 {status} {reason}",
            "[last_Via:]",
            "[last_From:]",
            "[last_To:]",
            "[last_Call-ID:]",
            "[last_CSeq:]",
            "[last_Record-Route:]",
            _CONTACT,
            *headers,
        ]
        return self._send(head, body, "")

    def respond_invite(
        self, status: int, reason: str, body: str = "", headers: tuple[str, ...] = (), *, again: bool = True
    ) -> Self:
        """A response to the initial INVITE, whatever came in between."""
        head = [
            f"SIP/2.0 {status} {reason}",
            "Via: [$invite0]",
            "Via: [$invite1]",
            "From: [$invite2]",
            "To: [$invite3];tag=[pid]Callee[call_number]",
            "[last_Call-ID:]",
            "CSeq: 1 INVITE",
            "Record-Route: [$invite4]",
            _CONTACT,
            *headers,
        ]
        return self._send(head, body, 'retrans="500"' if again and status >= 200 else "")

    def callee_request(self, method: str, cseq: int = 1) -> Self:
        """A request of the callee in the dialog: From and To change sides."""
        head = [
            f"{method} [next_url] SIP/2.0",
            "Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]",
            "[routes]",
            "From: [$invite3];tag=[pid]Callee[call_number]",
            "To: [$invite2]",
            "Call-ID: [call_id]",
            f"CSeq: {cseq} {method}",
            "Max-Forwards: 70",
            _CONTACT,
        ]
        return self._send(head, "", 'retrans="500"')


def caller(seconds: float, *, play: bool = False, hangs_up: bool = True) -> Scenario:
    """Calls, talks for `seconds`, hangs up or waits until the callee does."""
    call = Scenario("caller").invite()
    for status in (100, 180, 183):
        call.expect(status, optional=True)
    call.expect(200, route=True).request("ACK")
    if play:
        call.play()
    if hangs_up:
        # A callee that is slow to answer makes the proxy say 100 to the BYE (RFC 4320 4.1).
        return call.pause(seconds).request("BYE").expect(100, optional=True).expect(200)
    return call.expect("BYE").respond(200, "OK")


def callee(*, play: bool = False, early: bool = False, hangs_up_after: float | None = None) -> Scenario:
    """Rings (with media if `early`), answers, and ends the call by itself if told so."""
    call = Scenario("callee").expect_invite()
    if early:
        call.respond_invite(183, "Session Progress", sdp()).pause(0.4)
    else:
        call.respond_invite(180, "Ringing")
    call.respond_invite(200, "OK", sdp()).expect("ACK")
    if play:
        call.play()
    if hangs_up_after is not None:
        return call.pause(hangs_up_after).callee_request("BYE").expect(200)
    # A 200 that was sent again is acknowledged again, which SIPp takes for another message.
    call.expect("ACK", optional=True).expect("ACK", optional=True)
    return call.expect("BYE").respond(200, "OK")


def cancelling_caller() -> Scenario:
    call = Scenario("cancelling caller").invite().expect(100, optional=True).expect(180).pause(0.2)
    return call.same_branch("CANCEL").expect(200).expect(487).same_branch("ACK")


def ringing_callee() -> Scenario:
    call = Scenario("ringing callee").expect_invite().respond_invite(180, "Ringing").expect("CANCEL").respond(200, "OK")
    return call.respond_invite(487, "Request Terminated").expect("ACK")


def refused_caller() -> Scenario:
    call = Scenario("refused caller").invite().expect(100, optional=True).expect(180, optional=True)
    return call.expect(486).same_branch("ACK")


def busy_callee() -> Scenario:
    return Scenario("busy callee").expect_invite().respond_invite(486, "Busy Here").expect("ACK")


def holding_caller() -> Scenario:
    call = Scenario("holding caller").invite().expect(100, optional=True).expect(180, optional=True)
    call.expect(200, route=True).request("ACK").pause(0.3)
    for version, direction in ((2, "sendonly"), (3, "sendrecv")):
        call.request("INVITE", sdp(direction, version)).expect(100, optional=True).expect(200).request("ACK").pause(0.4)
    return call.request("BYE").expect(200)


def held_callee() -> Scenario:
    call = Scenario("held callee").expect_invite().respond_invite(180, "Ringing").respond_invite(200, "OK", sdp())
    call.expect("ACK")
    for version, direction in ((2, "recvonly"), (3, "sendrecv")):
        call.expect("INVITE").respond(200, "OK", sdp(direction, version)).expect("ACK")
    return call.expect("BYE").respond(200, "OK")


def late_offer_caller() -> Scenario:
    call = Scenario("late offer").invite("").expect(100, optional=True).expect(180, optional=True)
    return call.expect(200, route=True).request("ACK", sdp()).pause(0.6).request("BYE").expect(200)


def updating_caller() -> Scenario:
    call = Scenario("updating caller").invite().expect(100, optional=True).expect(180, optional=True)
    call.expect(200, route=True).request("ACK").pause(0.3)
    return call.request("UPDATE", sdp("sendrecv", 2)).expect(200).pause(0.4).request("BYE").expect(200)


def updated_callee() -> Scenario:
    call = Scenario("updated callee").expect_invite().respond_invite(180, "Ringing").respond_invite(200, "OK", sdp())
    return call.expect("ACK").expect("UPDATE").respond(200, "OK", sdp()).expect("BYE").respond(200, "OK")


def reliable_caller() -> Scenario:
    """Acknowledges a reliable 180 (RFC 3262)."""
    call = Scenario("reliable caller").invite(headers=("Supported: 100rel",)).expect(100, optional=True)
    call.expect(180, route=True).request("PRACK", headers=("RAck: 7 1 INVITE",)).expect(200)
    return call.expect(200, route=True).request("ACK").pause(0.6).request("BYE").expect(200)


def reliable_callee() -> Scenario:
    call = Scenario("reliable callee").expect_invite()
    call.respond_invite(180, "Ringing", headers=("Require: 100rel", "RSeq: 7"))
    call.expect("PRACK").respond(200, "OK").respond_invite(200, "OK", sdp())
    return call.expect("ACK").expect("BYE").respond(200, "OK")
