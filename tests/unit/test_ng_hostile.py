"""Whatever is sent to the relay as ng gets an error reply or is dropped and counted; the relay goes on."""

from __future__ import annotations

import json
import os
import random
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from siprec.media.bencode import BencodeError, decode_dict, encode
from tests.unit.test_ng_vectors import VECTORS, read
from tests.unit.test_relay_server import AUDIO, body, good, relay

MESSAGES = int(os.environ.get("SIPREC_HOSTILE", "4000"))
COMMANDS = [
    *("ping", "offer", "answer", "delete", "query", "list", "subscribe request", "subscribe answer", "unsubscribe"),
    *("key frame", "block media", "unblock media", "play media", "stop media", "statistics", "start recording", ""),
]
KEYS = [
    *(
        "call-id",
        "from-tag",
        "to-tag",
        "sdp",
        "flags",
        "from-tags",
        "replace",
        "direction",
        "interface",
        "limit",
        "all",
    ),
    *("transport protocol", "media address", "address family", "SDES", "label", "set-label", "received-from", "ICE"),
    *("via-branch", "pre-roll age", "pre-roll hold", "tone", "blob", "events", "rtpp-flags", "delete delay", "x" * 600),
]
SDP = [
    body(AUDIO),
    body(AUDIO, AUDIO),
    body("m=image 4000 udptl t38"),
    body("m=audio 4000 RTP/SAVP 0\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:" + "A" * 40),
    body("m=audio 99999 RTP/AVP 0"),
    body("m=audio 4000 RTP/AVP " + " ".join(["0"] * 300)),
    body("m=audio 4000 RTP/AVP 0", connection="c=IN IP4 phone.example.com"),
    body(*["m=audio 4000 RTP/AVP 0"] * 40),
    body("m=audio 4000 RTP/AVP 0\na=rtcp:4001 IN IP4 192.0.2.9\na=mid:1", session="a=group:BUNDLE 1 1 1 2"),
    body("m=audio 4000 RTP/AVP 0", connection=""),
    "v=0",
    "",
]
_texts = st.one_of(
    st.sampled_from([*SDP, "a", "b", "c", "s", "all", "siprec", "RTP/AVP", "IP6", "none", "no", "a" * 600, "\udcff"]),
    st.text(max_size=20),
)
_scalars = st.one_of(_texts, st.integers(-(2**70), 2**70), st.integers(-1, 20))
_dictionaries = st.dictionaries(
    st.one_of(st.sampled_from(["frequency", "duration", "interval", "level", "siprec", "all"]), st.text(max_size=5)),
    _scalars,
    max_size=4,
)
_values = st.one_of(_scalars, st.lists(_scalars, max_size=4), _dictionaries, st.lists(_dictionaries, max_size=2))
_requests = st.dictionaries(st.one_of(st.sampled_from(KEYS), st.text(max_size=6)), _values, max_size=8)
_ids = st.fixed_dictionaries({"call-id": st.sampled_from(["c", "d"]), "from-tag": st.sampled_from(["a", "b"])})


def decoded(reply: bytes) -> dict[str, Any]:
    octets = reply.partition(b" ")[2]
    found: dict[str, Any] = json.loads(octets) if octets.startswith(b"{") else {**decode_dict(octets)}
    return {key: value.decode() if isinstance(value, bytes) else value for key, value in found.items()}


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(st.tuples(st.sampled_from(COMMANDS), _ids, _requests, st.booleans()), max_size=10))
def test_requests_of_any_shape_get_a_reply_that_makes_sense(
    messages: list[tuple[str, dict[str, Any], dict[str, Any], bool]],
) -> None:
    with relay(ports=(47500, 47599), max_calls=8) as (server, clock):
        for number, (command, ids, keys, as_json) in enumerate(messages):
            request = {"command": command, **ids, **keys}
            try:
                octets = json.dumps(request).encode("utf-8", "replace") if as_json else encode(request)
            except (BencodeError, UnicodeError):
                continue
            reply = server.message(b"%d %b" % (number, octets), "x")
            assert reply is not None
            found = decoded(reply)
            assert found["result"] in ("ok", "pong", "error"), found
            assert found.get("error-reason") != "Internal error"
            clock.time += 1
            server.tick()
        good(server, "ping")


def mutated(rng: random.Random, octets: bytes, others: list[bytes]) -> bytes:
    data = bytearray(octets)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(6)
        if kind == 0 and data:
            data[min(at, len(data) - 1)] = rng.randrange(256)
        elif kind == 1:
            del data[at : at + rng.randint(1, 40)]
        elif kind == 2:
            data[at:at] = rng.randbytes(rng.randint(1, 20))
        elif kind == 3:
            other = rng.choice(others)
            start = rng.randrange(len(other))
            data[at:at] = other[start : start + rng.randint(1, 200)]
        elif kind == 4:
            data[at : at + 1] = rng.choice(
                [b"d", b"l", b"e", b"i-0e", b"i99999999999999999999e", b"9999999:", b"0:", b"{"]
            )
        else:
            data[at:at] = data[at : at + rng.randint(1, 100)] * rng.randint(1, 3)
    return bytes(data)


def test_mutations_of_real_commands_are_answered_or_dropped_and_counted() -> None:
    seed = random.randrange(1 << 30)
    rng = random.Random(seed)
    originals = []
    for path in VECTORS:
        for exchange in read(path):
            originals += [encode(exchange.request), json.dumps(exchange.request).encode()]
    dropped = 0
    with relay(ports=(47500, 47599), max_calls=20) as (server, clock):
        for number in range(MESSAGES):
            message = b"%d " % number + mutated(rng, rng.choice(originals), originals)
            if rng.random() < 0.05:
                message = message[rng.randint(1, 12) :]
            reply = server.message(message, "x")
            if reply is None:
                dropped += 1
            else:
                assert b"Internal error" not in reply, (seed, message)
            if number % 50 == 0:
                clock.time += 5
                server.tick()
        assert server.counters["malformed"] >= dropped, seed
        assert server.counters["requests"] > 0
        good(server, "ping")


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    ("key", "unit"),
    [
        *(
            (key, unit)
            for key in ("call-id", "flags", "sdp", "received-from")
            for unit in (" ", "a", "-", "=", "\r\n", "a=b ")
        ),
        ("sdp", "m=audio 4000 RTP/AVP 0\r\n"),
        ("sdp", "a=rtpmap:0 PCMU/8000\r\n"),
    ],
)
def test_long_values_cost_no_more_than_their_octets(key: str, unit: str, as_json: bool) -> None:
    with relay(ports=(47500, 47599)) as (server, _):

        def cost(octets: int) -> float:
            value = "v=0\r\n" * (key == "sdp") + unit * (octets // len(unit))
            request = {"command": "offer", "call-id": "c", "from-tag": "a", "sdp": body(AUDIO), key: value}
            message = json.dumps(request).encode() if as_json else encode(request)
            best = 1e9
            for attempt in range(3):
                begin = time.process_time()
                server.message(b"%d_%d %b" % (octets, attempt, message), "x")
                best = min(best, time.process_time() - begin)
            return best / octets

        small, large = cost(8_000), cost(64_000)
        assert large < 4 * small + 1e-6, (small, large)
