"""Our relay beside a real RTPEngine: the same commands get replies with the same keys, however they are spelt."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from siprec.media.bencode import decode_dict, encode
from tests.interop.media.rig import free_port, rtpengine
from tests.ngshape import covers, shape
from tests.unit.test_relay_server import relay

PATIENCE = 30.0


def body(port: int, direction: str = "sendrecv", origin: str = "192.0.2.1") -> str:
    return (
        f"v=0\r\no=- 1 1 IN IP4 {origin}\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio {port} RTP/AVP 0 101\r\n"
        f"a=rtpmap:101 telephone-event/8000\r\na={direction}\r\n"
    )


RECORDER = body(6010, "recvonly") + body(6012, "recvonly").split("t=0 0\r\n")[1]
CALL = {"call-id": "c", "from-tag": "a"}
GONE = {"call-id": "gone", "from-tag": "a"}
SCENARIO: list[tuple[str, dict[str, Any]]] = [
    ("ping", {}),
    ("offer", {**CALL, "sdp": body(6000), "via-branch": "z9", "received-from": ["IP4", "127.0.0.1"]}),
    ("query", CALL),
    ("answer", {**CALL, "to-tag": "b", "sdp": body(6002), "flags": ["trust-address"], "replace": ["origin"]}),
    ("offer", {**CALL, "to-tag": "b", "sdp": body(6000, "sendonly")}),  # a hold
    ("answer", {**CALL, "to-tag": "b", "sdp": body(6002, "recvonly")}),
    ("offer", {**CALL, "to-tag": "b", "sdp": body(6000)}),
    ("answer", {**CALL, "to-tag": "b", "sdp": body(6002)}),
    ("subscribe request", {"call-id": "c", "from-tag": "1", "flags": ["all", "siprec"]}),
    ("subscribe answer", {"call-id": "c", "to-tag": "?", "sdp": RECORDER, "flags": ["allow transcoding"]}),
    ("query", {"call-id": "c"}),
    ("subscribe request", {"call-id": "c", "to-tag": "?", "flags": ["all", "SIPREC"]}),
    ("block media", CALL),
    ("unblock media", CALL),
    ("query", {**CALL, "to-tag": "b"}),
    ("list", {}),
    ("list", {"limit": "5"}),
    ("unsubscribe", {"call-id": "c", "to-tag": "?"}),
    ("unsubscribe", {"call-id": "c", "to-tag": "nobody"}),
    ("delete", {**CALL, "delete delay": 0}),
    ("delete", GONE),
    ("delete", {**GONE, "flags": ["fatal"]}),
    ("query", GONE),
    ("answer", {**GONE, "to-tag": "b", "sdp": body(6002)}),
    ("subscribe request", GONE),
    ("subscribe answer", {**GONE, "to-tag": "x", "sdp": RECORDER}),
    ("unsubscribe", {**GONE, "to-tag": "x"}),
    ("offer", CALL),
    ("offer", {"from-tag": "a", "sdp": body(6000)}),
    ("offer", {"call-id": "d", "sdp": body(6000)}),
    ("offer", {"call-id": "d", "from-tag": "a", "sdp": "junk"}),
    ("nonsense", {}),
]


class RtpEngine:
    def __init__(self, port: int) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.connect(("127.0.0.1", port))
        self.number = 0

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Ask until it answers."""
        self.number += 1
        message = b"x%d %b" % (self.number, encode(request))
        self.sock.settimeout(0.2)
        end = time.monotonic() + PATIENCE
        while True:
            assert time.monotonic() < end, "it answers"
            with contextlib.suppress(OSError):
                self.sock.send(message)
                cookie, _, reply = self.sock.recv(65536).partition(b" ")
                if cookie == b"x%d" % self.number:
                    found: dict[str, Any] = {**decode_dict(reply)}
                    return found


@pytest.fixture
def engine() -> Iterator[RtpEngine]:
    port = free_port(socket.SOCK_DGRAM)
    with rtpengine(port, "udp"):
        server = RtpEngine(port)
        server.ask({"command": "ping"})
        yield server
        server.sock.close()


def test_every_command_gets_the_keys_that_rtpengine_gives(engine: RtpEngine) -> None:
    tags: tuple[str, str] = ("", "")
    with relay(ports=(47200, 47399)) as (server, _):
        for number, (command, keys) in enumerate(SCENARIO):
            theirs, ours = ({"command": command, **keys} for _ in range(2))
            if keys.get("to-tag") == "?":
                theirs["to-tag"], ours["to-tag"] = tags
            answer = engine.ask(theirs)
            octets = server.message(b"%d %b" % (number, encode(ours)), "test")
            assert octets is not None
            reply: dict[str, Any] = {**decode_dict(octets.partition(b" ")[2])}
            assert reply["result"] == answer["result"], (command, keys, reply, answer)
            if command == "query" and keys == {"call-id": "c"}:
                check_query(reply, answer)
            elif command == "subscribe request" and "to-tag" in answer:
                tags = answer["to-tag"].decode(), reply["to-tag"].decode()
                assert covers(shape(reply), shape(answer)) == []
            elif "tags" in answer:
                answer.pop("tags")
                assert covers(shape(reply), shape(answer)) == [], command
            else:
                assert covers(shape(reply), shape(answer)) == [], command


def check_query(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Tags of subscriptions are made up, so the keys of one of each kind are compared."""
    mine, other = ours.pop("tags"), theirs.pop("tags")
    assert covers(shape(ours), shape(theirs)) == []
    for tag in ("a", "b"):
        for key in ("subscriptions", "subscribers"):
            kinds = [sorted({each["type"] for each in side[tag].pop(key)}) for side in (mine, other)]
            assert kinds[0] == kinds[1], (tag, key)
        assert covers(shape(mine[tag]), shape(other[tag])) == []
    forks = [next(each for tag, each in side.items() if tag not in ("a", "b")) for side in (mine, other)]
    assert covers(shape(forks[0]), shape(forks[1])) == []


def test_totals_of_the_server_have_the_same_names(engine: RtpEngine) -> None:
    theirs: dict[str, Any] = engine.ask({"command": "statistics"})["statistics"]
    with relay(ports=(47200, 47399)) as (server, _):
        octets = server.message(b"1 " + encode({"command": "statistics"}), "test")
        assert octets is not None
        ours = decode_dict(octets.partition(b" ")[2])["statistics"]
    assert isinstance(ours, dict)
    for group in ("currentstatistics", "totalstatistics"):
        mine = ours[group]
        assert isinstance(mine, dict)
        assert set(mine) <= set(theirs[group])


SPELLINGS: list[dict[str, Any]] = [
    {"flags": ["all", "siprec"]},
    {"flags": ["ALL", "SIPREC"]},
    {"flags": ["All", "SipRec"]},
    {"flags": "all siprec"},
    {"flags": "all,siprec"},
    {"rtpp-flags": "all SIPREC"},
    {"rtpp_flags": "all siprec"},
    {"flags": {"all": "yes", "siprec": "on"}},
    {"flags": {"all": 1, "siprec": "", "fatal": 0}},
    {"all": "all", "flags": ["siprec"]},
    {"from-tags": ["a", "b"], "flags": ["siprec"]},
    {"from_tags": ["a", "b"], "flags": ["siprec"]},
    {"from tags": ["a", "b"], "Flags": ["siprec"]},
    {"flags": ["from-tags-a", "from_tags-b", "siprec"]},
    {"flags": ["from-tags=a", "from-tags=b", "siprec"]},
]


@pytest.mark.parametrize("form", ["bencode", "json"])
@pytest.mark.parametrize("keys", SPELLINGS, ids=json.dumps)
def test_a_recording_is_asked_for_in_any_spelling(keys: dict[str, Any], form: str) -> None:
    with relay(ports=(47200, 47399)) as (server, _):

        def ask(command: str, **more: Any) -> dict[str, Any]:
            ask.number += 1  # type: ignore[attr-defined]
            request = {"command": command, **more}
            octets = encode(request) if form == "bencode" else json.dumps(request).encode()
            reply = server.message(b"%d %b" % (ask.number, octets), "test")  # type: ignore[attr-defined]
            assert reply is not None
            octets = reply.partition(b" ")[2]
            found: dict[str, Any] = {**decode_dict(octets)} if form == "bencode" else json.loads(octets)
            return found

        ask.number = 0  # type: ignore[attr-defined]
        offer = ask("offer", **{"call_id": "c", "From Tag": "a", "SDP": body(6000), "flags": "replace-origin"})
        sdp = offer["sdp"].decode() if isinstance(offer["sdp"], bytes) else offer["sdp"]
        assert "o=- 1 1 IN IP4 127.0.0.1" in sdp
        ask("Answer", **{"call-id": "c", "from-tag": "a", "to-tag": "b", "sdp": body(6002)})
        command = ("subscribe request", "subscribe-request", "Subscribe_Request")[len(json.dumps(keys)) % 3]
        reply = ask(command, **{"call-id": "c", **keys})
        assert sorted(reply["media-labels"]) == ["1", "2"], reply
        assert [len(party["medias"]) for party in reply["tag-medias"]] == [1, 1]
