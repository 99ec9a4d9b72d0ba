"""Any offers, answers and packets, in the clear and as SRTP: what the relay says fits, and it comes to no harm."""

from __future__ import annotations

import random
import socket
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from siprec import sdp
from siprec.relay.srtp_gateway import PROTOCOLS
from siprec.rtp import srtp
from siprec.sdp import MediaDescription, SessionDescription
from siprec.sdp import crypto as sdp_crypto
from tests.unit.test_relay_server import ask, relay

_ALL = [*sorted(PROTOCOLS), "UDP/TLS/RTP/SAVPF", "rtp/savp", "RTP/XX", "udptl"]
_BAD = ("1 F8_128_HMAC_SHA1_80 inline:zzz", "", "x y z", "1 AES_CM_128_HMAC_SHA1_80 inline:", "9999999999 A b")


def described(rng: random.Random, lines: int, port: int) -> SessionDescription:
    media = []
    for _ in range(lines):
        line = sdp.build_media(
            "audio", 0 if rng.random() < 0.1 else port, ["0", "101"], proto=rng.choice(_ALL), address="127.0.0.1"
        )
        for _ in range(rng.randint(0, 3)):
            value = rng.choice(_BAD)
            if rng.random() < 0.8:
                value = sdp_crypto.generate(rng.randint(1, 12), rng.choice(list(sdp_crypto.SUITES))).value()
            line.lines.append(f"a=crypto:{value}")
        media.append(line)
    return sdp.build_session(sdp.Origin(address="127.0.0.1"), media)


def keys(line: MediaDescription) -> set[bytes]:
    return {crypto.key for value in line.attributes("crypto") if (crypto := srtp.choose([value])) is not None}


def check_offer(given: SessionDescription, shown: SessionDescription) -> None:
    for was, now in zip(given.media, shown.media, strict=True):
        if was.rejected or srtp.is_secure(was.proto) == srtp.is_secure(now.proto):
            continue
        assert not keys(was) & keys(now), "the key of one side is none of the other's business"
        assert bool(now.attributes("crypto")) == srtp.is_secure(now.proto)


def check_answer(offered: SessionDescription, shown: SessionDescription) -> None:
    for was, now in zip(offered.media, shown.media, strict=True):
        if was.rejected or now.rejected or was.proto not in PROTOCOLS or now.proto not in PROTOCOLS:
            continue
        if srtp.is_secure(was.proto) and len(now.attributes("crypto")) == 1 and srtp.is_secure(now.proto):
            answered = srtp.choose(now.attributes("crypto"))
            assert answered is None or answered.key not in keys(was)


def sensible(rng: random.Random, shown: SessionDescription) -> bytes:
    """As somebody answers who takes what is offered."""
    for line in shown.media:
        chosen = srtp.choose(line.attributes("crypto"))
        line.remove_attributes("crypto")
        if chosen is not None:
            line.lines.append(f"a=crypto:{sdp_crypto.answer(chosen).value()}")
    return shown.to_bytes()


def said(server: Any, command: str, **more: Any) -> dict[str, Any]:
    reply = ask(server, command, **{"call-id": "c", **more})
    assert reply.get("error-reason") != b"Internal error"
    return reply


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 1 << 30))
def test_whatever_is_offered_answered_and_sent(seed: int) -> None:
    rng = random.Random(seed)
    with relay(ports=(47600, 47699)) as (server, _), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as phone:
        phone.bind(("127.0.0.1", 0))
        port, lines = phone.getsockname()[1], rng.randint(1, 2)
        for step in range(rng.randint(1, 5)):
            one, other = ("a", "b") if not step or rng.random() < 0.5 else ("b", "a")
            given_ = described(rng, lines, port)
            wishes: dict[str, Any] = {"to-tag": other} if step else {}
            if rng.random() < 0.6:
                wishes["transport protocol"] = rng.choice(_ALL)
            if rng.random() < 0.3:
                wishes["flags"] = ["re-key", "pre-roll"]
            if rng.random() < 0.1:
                wishes["SDES"] = ["only-" + rng.choice(list(sdp_crypto.SUITES))]
            reply = said(server, "offer", **{"from-tag": one, "sdp": given_.to_bytes(), **wishes})
            if "sdp" in reply:
                shown = sdp.parse(reply["sdp"])
                check_offer(given_, shown)
                answer = sensible(rng, shown) if rng.random() < 0.7 else described(rng, lines, port).to_bytes()
                reply = said(server, "answer", **{"from-tag": one, "to-tag": other, "sdp": answer})
                if "sdp" in reply:
                    check_answer(given_, sdp.parse(reply["sdp"]))
            if rng.random() < 0.4:
                parties = {"from-tags": ["a", "b"], "to-tag": "s", "transport protocol": rng.choice(_ALL)}
                said(server, "subscribe request", **parties)
            if rng.random() < 0.3:
                said(server, "play media", **{"from-tag": rng.choice("ab"), "tone": {"interval": 1000}})
            for call in server.calls.values():
                for _, _, stream in call.streams():
                    for flow in (stream.rtp, stream.rtcp):
                        kind = rng.choice([0, 101, 200, 201, rng.randrange(256)])
                        packet = bytes([0x80, kind]) + rng.randbytes(rng.choice([0, 6, 8, 10, 12, 160]))
                        phone.sendto(packet, flow.sock.getsockname())
            for _ in range(4):
                server.plane.packets.pump()
