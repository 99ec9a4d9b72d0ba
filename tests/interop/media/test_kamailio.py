"""Debian's Kamailio with its rtpengine module drives our relay: calls, holds, re-INVITEs, refusals and cancels."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from siprec import sdp
from siprec.media.bencode import decode_dict, encode
from siprec.relay.child import start_relay
from tests.interop.media.rig import relay_options
from tests.parallel import own_port

HOST = "127.0.0.1"
PATIENCE = 30.0
TEMPLATE = Path(__file__).parents[2] / "data" / "kamailio.cfg"
FLAGS = "replace-origin replace-session-connection trust-address ICE=remove RTP/AVP"


def bound() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((HOST, 0))
    return sock


@dataclass
class Phone:
    """SIP and RTP of one party, as plain text and datagrams."""

    name: str
    proxy: tuple[str, int]
    sip: socket.socket = field(default_factory=bound)
    rtp: socket.socket = field(default_factory=bound)
    peer_media: tuple[str, int] = ("", 0)
    cseq: int = 0
    dialog: dict[str, str] = field(default_factory=dict)
    routes: list[str] = field(default_factory=list)
    target: str = ""

    def close(self) -> None:
        self.sip.close()
        self.rtp.close()

    @property
    def uri(self) -> str:
        return f"sip:{self.name}@{HOST}:{self.sip.getsockname()[1]}"

    def body(self, direction: str = "sendrecv") -> str:
        return (
            f"v=0\r\no={self.name} 1 {self.cseq + 1} IN IP4 {HOST}\r\ns=-\r\nc=IN IP4 {HOST}\r\nt=0 0\r\n"
            f"m=audio {self.rtp.getsockname()[1]} RTP/AVP 0\r\na={direction}\r\n"
        )

    def request(self, method: str, body: str = "", *, cseq: int = 0, branch: str = "") -> None:
        if not cseq:
            self.cseq += 1
        number = cseq or self.cseq
        branch = branch or f"z9hG4bK{self.name}{method}{number}"
        lines = [
            f"{method} {self.target} SIP/2.0",
            f"Via: SIP/2.0/UDP {HOST}:{self.sip.getsockname()[1]};branch={branch}",
            "Max-Forwards: 70",
            *(f"Route: {route}" for route in self.routes),
            f"From: {self.dialog['local']}",
            f"To: {self.dialog['remote']}",
            f"Call-ID: {self.dialog['id']}",
            f"CSeq: {number} {'ACK' if method == 'ACK' else method}",
            f"Contact: <{self.uri}>",
            *(["Content-Type: application/sdp"] if body else []),
            f"Content-Length: {len(body)}",
        ]
        self.sip.sendto("\r\n".join([*lines, "", body]).encode(), self.proxy)

    def reply(self, request: str, status: int, body: str = "") -> None:
        kept = [
            line for line in request.split("\r\n") if re.match(r"(Via|From|To|Call-ID|CSeq|Record-Route):", line, re.I)
        ]
        tag = self.dialog["local"].partition(";")[2]
        kept = [f"{line};{tag}" if re.match("To:", line, re.I) and ";tag=" not in line else line for line in kept]
        lines = [f"SIP/2.0 {status} So", *kept, f"Contact: <{self.uri}>"]
        lines += ["Content-Type: application/sdp"] if body else []
        self.sip.sendto("\r\n".join([*lines, f"Content-Length: {len(body)}", "", body]).encode(), self.proxy)

    def wait(self, first: str, what: str = "") -> str:
        """The next message whose first line begins so; provisional responses and repetitions pass by."""
        end = time.monotonic() + PATIENCE
        while True:
            self.sip.settimeout(max(0.05, end - time.monotonic()))
            try:
                message = self.sip.recv(65536).decode()
            except TimeoutError:
                pytest.fail(f"{self.name}: never came: {first} {what}")
            if message.startswith(first):
                return message

    def media_of(self, message: str) -> sdp.MediaDescription:
        line = sdp.parse(message.partition("\r\n\r\n")[2].encode()).media[0]
        assert line.connection is not None
        self.peer_media = line.connection.address, line.port
        return line

    def hears(self, other: Phone) -> bool:
        """Does RTP of `other` come here?"""
        packet = struct.pack("!BBHII", 0x80, 0, 1, 160, os.getpid()) + os.urandom(160)
        self.rtp.settimeout(0.2)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            other.rtp.sendto(packet, other.peer_media)
            with contextlib.suppress(TimeoutError):
                if self.rtp.recv(2048) == packet:
                    return True
        return False


@dataclass
class World:
    alice: Phone
    bob: Phone
    ask: Callable[..., dict[str, Any]]
    command: Callable[..., str]
    log: Path

    def establish(self, call_id: str) -> None:
        alice, bob = self.alice, self.bob
        alice.dialog = {"id": call_id, "local": f"<{alice.uri}>;tag=a{call_id}", "remote": f"<{bob.uri}>"}
        alice.target, alice.routes = bob.uri, []
        alice.request("INVITE", alice.body())
        invite = bob.wait("INVITE")
        bob.dialog = {"id": call_id, "local": f"<{bob.uri}>;tag=b{call_id}", "remote": header(invite, "From")}
        bob.routes, bob.target = headers(invite, "Record-Route"), alice.uri
        assert bob.media_of(invite).port != alice.rtp.getsockname()[1]
        bob.reply(invite, 200, bob.body())
        self.answered(alice.wait("SIP/2.0 200"))
        bob.wait("ACK")

    def answered(self, response: str) -> None:
        alice = self.alice
        alice.dialog["remote"] = header(response, "To")
        alice.routes = headers(response, "Record-Route")[::-1]
        alice.media_of(response)
        alice.request("ACK", cseq=alice.cseq)

    def renegotiate(self, who: Phone, other: Phone, direction: str, answer: str) -> tuple[str, str]:
        who.request("INVITE", who.body(direction))
        invite = other.wait("INVITE")
        offered = other.media_of(invite).direction
        other.reply(invite, 200, other.body(answer))
        response = who.wait("SIP/2.0 200")
        answered = who.media_of(response).direction
        who.request("ACK", cseq=who.cseq)
        other.wait("ACK")
        return offered, answered

    def hang_up(self) -> None:
        self.alice.request("BYE")
        bye = self.bob.wait("BYE")
        self.bob.reply(bye, 200)
        self.alice.wait("SIP/2.0 200")


def header(message: str, name: str) -> str:
    return headers(message, name)[0]


def headers(message: str, name: str) -> list[str]:
    head = message.partition("\r\n\r\n")[0]
    return [value.strip() for value in re.findall(rf"^{name}:(.*?)\r?$", head, re.M | re.I)]


@pytest.fixture(params=["native", "python"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    kamailio, modules = shutil.which("kamailio"), next(Path("/usr/lib").glob("*/kamailio/modules/rtpengine.so"), None)
    if kamailio is None or modules is None:
        pytest.skip("kamailio is not installed (Debian: kamailio)")
    if request.param == "native":
        pytest.importorskip("siprec.relay._native", reason="the native packet loop was not built (no C compiler)")
    loop = asyncio.new_event_loop()
    relay = loop.run_until_complete(start_relay(relay_options(packet_loop=request.param)))
    sip, log = own_port(), tmp_path / "log"
    text = TEMPLATE.read_text()
    values = {"SIP": sip, "NG": relay.ng_address[1], "DIRECTORY": tmp_path, "MODULES": modules.parent, "FLAGS": FLAGS}
    for word, value in values.items():
        text = text.replace(f"@{word}@", str(value))
    (tmp_path / "kamailio.cfg").write_text(text)
    command = [kamailio, "-f", str(tmp_path / "kamailio.cfg"), "-DD", "-E", "-m", "16", "-M", "4"]
    command += ["-w", str(tmp_path), "-Y", str(tmp_path)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    control = bound()
    control.settimeout(PATIENCE)
    asked = 0

    def ask(name: str, **keys: Any) -> dict[str, Any]:
        nonlocal asked
        asked += 1
        control.sendto(b"t%d %b" % (asked, encode({"command": name, **keys})), relay.ng_address)
        return {**decode_dict(control.recv(65536).partition(b" ")[2])}

    def tell(*words: str) -> str:
        tool = shutil.which("kamcmd") or "kamcmd"
        found = subprocess.run(
            [tool, "-s", f"unix:{tmp_path}/ctl", *words], capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        return found.stdout + found.stderr

    alice, bob = (Phone(name, (HOST, sip)) for name in ("alice", "bob"))
    try:
        end = time.monotonic() + PATIENCE
        while ask("statistics")["statistics"]["requests"] < 2 or not (tmp_path / "ctl").exists():  # pings, and this one
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        yield World(alice, bob, ask, tell, log)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        alice.close()
        bob.close()
        control.close()
        loop.run_until_complete(relay.stop())
        loop.close()


def complaints(it: World) -> list[str]:
    """What Kamailio's module found wrong with our replies."""
    return [
        line
        for line in it.log.read_text().splitlines()
        if "rtpengine" in line and re.search("ERROR|BUG|CRITICAL", line)
    ]


def test_calls_holds_reinvites_refusals_and_cancels(world: World) -> None:
    it, alice, bob = world, world.alice, world.bob
    assert "udp:127.0.0.1" in it.command("rtpengine.show", "all")
    assert "success" in it.command("rtpengine.ping", "all")
    it.establish("one")
    assert it.ask("list")["calls"] == [b"one"]
    assert alice.hears(bob)
    assert bob.hears(alice)
    ports = alice.peer_media, bob.peer_media
    assert it.renegotiate(alice, bob, "sendonly", "recvonly") == ("sendonly", "recvonly")
    assert it.renegotiate(bob, alice, "sendrecv", "sendrecv") == ("sendrecv", "sendrecv")
    assert (alice.peer_media, bob.peer_media) == ports
    bob.rtp.close()
    bob.rtp = bound()  # its media move, by a re-INVITE
    it.renegotiate(bob, alice, "sendrecv", "sendrecv")
    assert alice.hears(bob)
    assert bob.hears(alice)
    counted = it.ask("query", **{"call-id": "one"})
    assert counted["totals"]["RTP"]["packets"] >= 4
    it.hang_up()
    assert it.ask("list")["calls"] == []
    assert "queried one" in it.log.read_text()

    alice.dialog = {"id": "two", "local": f"<{alice.uri}>;tag=a2", "remote": f"<{bob.uri}>"}
    alice.target, alice.routes = bob.uri, []
    alice.request("INVITE", alice.body())
    invite = bob.wait("INVITE")
    assert it.ask("list")["calls"] == [b"two"]
    bob.dialog["local"] = f"<{bob.uri}>;tag=b2"
    bob.reply(invite, 486)
    alice.wait("SIP/2.0 486")
    assert it.ask("list")["calls"] == []

    alice.dialog["id"] = "three"
    alice.request("INVITE", alice.body())
    invite = bob.wait("INVITE")
    bob.reply(invite, 180)
    alice.wait("SIP/2.0 180")
    branch = header(invite, "Via")
    assert branch
    alice.request("CANCEL", cseq=alice.cseq, branch=f"z9hG4bKaliceINVITE{alice.cseq}")
    bob.wait("CANCEL")
    assert it.ask("list")["calls"] == []
    found = it.ask("statistics")["statistics"]
    assert found["port pairs"]["used"] == 0
    assert (found["errors"], found["malformed"]) == (0, 0)
    assert complaints(it) == []
