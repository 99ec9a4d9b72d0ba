from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from siprec import sdp
from siprec.media.bencode import decode_dict, encode
from siprec.relay.call import Plane
from siprec.relay.native import packet_loop
from siprec.relay.ports import Interface, PortPool
from siprec.relay.server import Relay, Timeouts
from siprec.sip.clock import Timer
from tests.parallel import share


class _Never:
    def cancel(self) -> None: ...


class _Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def wall(self) -> float:
        return 1_700_000_000 + self.time

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Timer:
        return _Never()


@contextmanager
def relay(*, ports: tuple[int, int] = (47000, 47399), **options: Any) -> Iterator[tuple[Relay, _Clock]]:
    loop = asyncio.new_event_loop()
    clock = _Clock()
    packets = packet_loop(loop, clock.now)
    interfaces = [Interface("127.0.0.1"), Interface("::1"), Interface("127.0.0.2", "198.51.100.9", "pub")]
    server = Relay(Plane(clock, packets, PortPool(interfaces, *ports)), Timeouts(60, 3600, 300), **options)
    try:
        yield server, clock
    finally:
        server.close()
        assert packets.sockets == 0
        assert server.plane.pool.in_use == 0
        packets.close()
        loop.close()


def ask(server: Relay, command: str, **keys: Any) -> dict[str, Any]:
    arguments = {"command": command, **{key.replace("_", "-"): value for key, value in keys.items()}}
    arguments = {
        {name.replace(" ", "-"): name for name in ("media address", "address family", "transport protocol")}.get(
            k, k
        ): v
        for k, v in arguments.items()
    }
    cookie = f"c{ask.serial}".encode()  # type: ignore[attr-defined]
    ask.serial += 1  # type: ignore[attr-defined]
    reply = server.message(cookie + b" " + encode(arguments), "test")
    assert reply is not None
    assert reply.startswith(cookie + b" ")
    return decode_dict(reply.partition(b" ")[2])


ask.serial = 0  # type: ignore[attr-defined]


def good(server: Relay, command: str, **keys: Any) -> dict[str, Any]:
    reply = ask(server, command, **keys)
    assert reply["result"] in (b"ok", b"pong"), reply
    return reply


def bad(server: Relay, command: str, **keys: Any) -> bytes:
    reply = ask(server, command, **keys)
    assert reply["result"] == b"error", reply
    reason: bytes = reply["error-reason"]
    return reason


def body(*media: str, connection: str = "c=IN IP4 192.0.2.1", session: str = "") -> str:
    lines = ["v=0", "o=- 5 1 IN IP4 192.0.2.1", "s=-", connection, "t=0 0", *session.splitlines()]
    for each in media:
        lines += each.splitlines()
    return "\r\n".join(filter(None, lines)) + "\r\n"


AUDIO = "m=audio 4000 RTP/AVP 0 8\na=x-vendor: thing"


def test_only_addresses_and_ports_are_rewritten() -> None:
    with relay() as (server, _):
        reply = good(server, "offer", call_id="1", from_tag="a", sdp=body(AUDIO))["sdp"].decode()
        port = sdp.parse(reply).media[0].port
        assert 47000 <= port <= 47399
        assert reply == body(AUDIO.replace("4000", str(port)), connection="c=IN IP4 127.0.0.1")
        named = good(server, "offer", call_id="2", from_tag="a", sdp=body(AUDIO), replace=["origin"])["sdp"].decode()
        assert "o=- 5 1 IN IP4 127.0.0.1\r\n" in named
        told = good(server, "offer", call_id="3", from_tag="a", sdp=body(AUDIO), media_address="203.0.113.1")["sdp"]
        assert sdp.parse(told).connection == sdp.Connection("IP4", "203.0.113.1")


def test_families_and_interfaces() -> None:
    with relay() as (server, _):
        six = body(AUDIO, connection="c=IN IP6 2001:db8::1")
        offered = sdp.parse(good(server, "offer", call_id="1", from_tag="a", sdp=six)["sdp"])
        assert offered.connection == sdp.Connection("IP6", "::1")
        bridged = sdp.parse(good(server, "offer", call_id="2", from_tag="a", sdp=six, address_family="IP4")["sdp"])
        assert bridged.connection == sdp.Connection("IP4", "127.0.0.1")
        back = sdp.parse(good(server, "answer", call_id="2", from_tag="a", to_tag="b", sdp=body(AUDIO))["sdp"])
        assert back.connection == sdp.Connection("IP6", "::1")
        pub = sdp.parse(
            good(server, "offer", call_id="3", from_tag="a", sdp=body(AUDIO), direction=["default", "pub"])["sdp"]
        )
        assert pub.connection == sdp.Connection("IP4", "198.51.100.9")


def test_rtcp_hold_ice_and_what_is_not_rtp() -> None:
    with relay() as (server, _):
        offer = body(
            "m=audio 4000 RTP/AVP 0\na=rtcp:4005 IN IP4 192.0.2.1\na=candidate:1 1 UDP 1 192.0.2.1 4000 typ host"
            "\na=ice-ufrag:x",
            "m=audio 4010 RTP/AVP 0\nc=IN IP4 0.0.0.0",
            "m=message 7000 TCP/MSRP *\na=path:msrp://x",
            "m=audio 4020 RTP/AVP 0\na=rtcp-mux\na=rtcp:4020",
            "m=image 4030 udptl t38",
            session="a=ice-lite",
        )
        out = sdp.parse(good(server, "offer", call_id="1", from_tag="a", sdp=offer)["sdp"])
        plain, held, message, muxed, fax = out.media
        assert plain.attribute("rtcp") == str(plain.port + 1)
        assert plain.attribute("candidate") is None
        assert plain.attribute("ice-ufrag") is None
        assert out.attribute("ice-lite") is None
        assert held.connection == sdp.Connection("IP4", "0.0.0.0")
        assert held.port not in (0, 4010)
        assert (message.port, message.connection) == (7000, sdp.Connection("IP4", "192.0.2.1"))
        assert muxed.attribute("rtcp") == str(muxed.port)
        assert fax.port not in (0, 4030)


def test_bundled_lines_share_a_port_and_bundle_only_lines_keep_theirs() -> None:
    with relay() as (server, _):
        bundle = body(
            "m=audio 4000 RTP/AVP 0\na=mid:0\na=rtcp-mux",
            "m=video 4000 RTP/AVP 96\na=mid:1\na=rtcp-mux",
            "m=video 0 RTP/AVP 96\na=mid:2\na=bundle-only",
            session="a=group:BUNDLE 0 1 2",
        )
        out = sdp.parse(good(server, "offer", call_id="1", from_tag="a", sdp=bundle)["sdp"])
        assert out.media[0].port == out.media[1].port != 4000
        assert out.media[2].port == 0
        assert out.bundles == [["0", "1", "2"]]


def test_a_refused_line_gives_its_ports_back_and_a_slot_is_used_again() -> None:
    with relay() as (server, _):
        two = body(AUDIO, "m=video 4002 RTP/AVP 96")
        good(server, "offer", call_id="1", from_tag="a", sdp=two)
        assert server.plane.pool.in_use == 4
        answer = sdp.parse(
            good(server, "answer", call_id="1", from_tag="a", to_tag="b", sdp=body(AUDIO, "m=video 0 RTP/AVP 96"))[
                "sdp"
            ]
        )
        assert answer.media[1].port == 0
        assert server.plane.pool.in_use == 2
        again = sdp.parse(
            good(server, "offer", call_id="1", from_tag="b", to_tag="a", sdp=body(AUDIO, "m=image 4002 udptl t38"))[
                "sdp"
            ]
        )
        assert again.media[1].port
        assert server.plane.pool.in_use == 4
        good(server, "delete", call_id="1", from_tag="a")
        assert server.plane.pool.in_use == 0


@pytest.mark.parametrize(
    "answer",
    [
        body(),
        body(AUDIO, AUDIO),
        body("m=video 4000 RTP/AVP 96"),
        "v=0\r\nm=audio 65536 RTP/AVP 0\r\n",
        body(*["m=audio 4000 RTP/AVP 0"] * 65),
        "x" * 70_000,
    ],
)
def test_an_answer_that_does_not_match_is_an_error_and_changes_nothing(answer: str) -> None:
    with relay() as (server, _):
        good(server, "offer", call_id="1", from_tag="a", sdp=body(AUDIO))
        bad(server, "answer", call_id="1", from_tag="a", to_tag="b", sdp=answer)
        assert server.plane.pool.in_use == 2
        good(server, "answer", call_id="1", from_tag="a", to_tag="b", sdp=body(AUDIO))


def test_no_ports_is_an_error_that_leaves_nothing_behind() -> None:
    low = 47600 + share(4, 50)  # of this worker alone
    with relay(ports=(low, low + 3)) as (server, _):
        assert b"No ports" in bad(server, "offer", call_id="1", from_tag="a", sdp=body(AUDIO, AUDIO))
        assert server.plane.pool.in_use == 0
        assert server.calls == {}
        good(server, "offer", call_id="1", from_tag="a", sdp=body(AUDIO))
        good(server, "answer", call_id="1", from_tag="a", to_tag="b", sdp=body(AUDIO))
        assert b"No ports" in bad(server, "subscribe request", call_id="1", from_tags=["a"])
        assert server.plane.pool.in_use == 2


def test_the_number_of_calls_is_bounded() -> None:
    with relay(max_calls=1) as (server, _):
        good(server, "offer", call_id="1", from_tag="a", sdp=body(AUDIO))
        assert b"Too many" in bad(server, "offer", call_id="2", from_tag="a", sdp=body(AUDIO))


def test_a_repeated_cookie_gets_the_same_reply_and_does_nothing_twice() -> None:
    with relay() as (server, clock):
        message = b"k " + encode({"command": "offer", "call-id": "1", "from-tag": "a", "sdp": body(AUDIO)})
        first = server.message(message, ("h", 1))
        assert server.message(message, ("h", 1)) == first
        assert server.counters["requests"] == 1
        assert server.message(b"k " + encode({"command": "ping"}), ("h", 2)) == b"k d6:result4:pong5:gatesi1ee"
        clock.time += 31
        server.message(b"z " + encode({"command": "ping"}), ("h", 1))
        assert server.message(b"k " + encode({"command": "ping"}), ("h", 1)) == b"k d6:result4:pong5:gatesi1ee"


def test_answers_of_two_branches_belong_to_one_peer() -> None:
    with relay() as (server, _):
        good(server, "offer", call_id="1", from_tag="a", sdp=body(AUDIO))
        one = good(server, "answer", call_id="1", from_tag="a", to_tag="b1", sdp=body(AUDIO))["sdp"]
        two = good(server, "answer", call_id="1", from_tag="a", to_tag="b2", sdp=body(AUDIO))["sdp"]
        assert sdp.parse(one).media[0].port == sdp.parse(two).media[0].port
        good(server, "subscribe request", call_id="1", from_tags=["b2"])
        good(server, "offer", call_id="1", from_tag="b2", to_tag="a", sdp=body(AUDIO))
        assert bad(server, "answer", call_id="1", from_tag="b2", to_tag="b2", sdp=body(AUDIO))


def test_fork_offers_say_what_is_really_sent() -> None:  # SDP-12
    with relay() as (server, _):
        offer = (
            "m=audio 4000 RTP/AVP 96 0 101\na=rtpmap:96 opus/48000/2\na=rtpmap:101 telephone-event/8000\na=fmtp:96 x=1"
        )
        answer = "m=audio 4000 RTP/AVP 111 102\na=rtpmap:111 opus/48000/2\na=rtpmap:102 telephone-event/8000"
        good(server, "offer", call_id="1", from_tag="a", sdp=body(offer))
        good(server, "answer", call_id="1", from_tag="a", to_tag="b", sdp=body(answer + "\na=recvonly"))
        reply = good(server, "subscribe request", call_id="1", from_tags=["b", "a"], flags=["SIPREC"])
        callee, caller = sdp.parse(reply["sdp"]).media
        # who offered 96 receives 96, so that is what the other one sends
        assert callee.formats == ["96", "101"]
        assert callee.fmtp == {"96": "x=1"}
        assert callee.direction == "inactive"
        assert caller.formats == ["111", "102"]
        assert caller.direction == "sendonly"
        assert {label: entry["tag"] for label, entry in reply["media-labels"].items()} == {
            callee.label: b"b",
            caller.label: b"a",
        }


@pytest.mark.parametrize(
    ("party", "offered"),
    [
        ("RTP/AVPF 96\na=rtcp-fb:96 nack pli", True),
        ("RTP/AVPF 96\na=rtcp-fb:* ccm fir\na=rtcp-fb:* transport-cc", True),
        ("RTP/AVPF 96\na=rtcp-fb:* nack", False),
        ("RTP/AVP 96\na=rtcp-fb:* ccm fir", False),
    ],
)
def test_a_recorder_may_ask_for_key_frames_where_the_party_can_be_asked(party: str, offered: bool) -> None:  # MEDIA-10
    line = f"m=video 4002 {party}\na=rtpmap:96 VP8/90000"
    with relay() as (server, _):
        good(server, "offer", call_id="1", from_tag="a", sdp=body(AUDIO, line))
        good(server, "answer", call_id="1", from_tag="a", to_tag="b", sdp=body(AUDIO, line))
        reply = good(server, "subscribe request", call_id="1", from_tags=["a"], flags=["SIPREC"])
        voice, video = sdp.parse(reply["sdp"]).media
        assert video.attributes("rtcp-fb") == (["* ccm fir", "* nack pli"] if offered else [])
        assert voice.attributes("rtcp-fb") == []
        asked = sdp.recording_media(video, label="2")
        assert asked.attributes("rtcp-fb") == video.attributes("rtcp-fb")  # goes on to the SRS
        assert asked.proto == party.split()[0]
        plain = good(
            server, "subscribe request", call_id="1", from_tags=["a"], flags=["SIPREC"], transport_protocol="RTP/AVP"
        )
        assert b"rtcp-fb" not in plain["sdp"]


def test_streams_of_a_party_have_one_cname_and_keep_their_role_also_real_time_text() -> None:
    slides = "m=video 4002 RTP/AVP 96\na=rtpmap:96 VP8/90000\na=content:slides"
    text = "m=text 4004 RTP/AVP 98\na=rtpmap:98 t140/1000"
    with relay() as (server, _):
        good(server, "offer", call_id="1", from_tag="a", sdp=body(AUDIO, slides))
        good(server, "answer", call_id="1", from_tag="a", to_tag="b", sdp=body(AUDIO, slides))
        reply = good(server, "subscribe request", call_id="1", from_tags=["a", "b"], flags=["SIPREC"])
        media = sdp.parse(reply["sdp"]).media
        assert [line.attribute("content") for line in media] == [None, "slides"] * 2  # SDP-16
        # A stream that joins later (SDP-18) is of the same party as well (MEDIA-04).
        good(server, "offer", call_id="1", from_tag="a", to_tag="b", sdp=body(AUDIO, slides, text))
        good(server, "answer", call_id="1", from_tag="a", to_tag="b", sdp=body(AUDIO, slides, text))
        tag = reply["to-tag"].decode()
        again = good(server, "subscribe request", call_id="1", from_tags=["a", "b"], to_tag=tag, flags=["SIPREC"])
        media = sdp.parse(again["sdp"]).media
        assert [(line.kind, str(line.rtpmaps[98])) for line in media[2::3]] == [("text", "t140/1000")] * 2
        forks = server.calls["1"].subscriptions[tag].forks
        assert [fork.from_tag for fork in forks] == ["a"] * 3 + ["b"] * 3
        assert len({fork.cname for fork in forks[:3]}) == len({fork.cname for fork in forks[3:]}) == 1
        assert forks[0].cname != forks[3].cname


def test_subscriptions_that_make_no_sense() -> None:
    with relay() as (server, _):
        good(server, "offer", call_id="1", from_tag="a", sdp=body(AUDIO))
        good(server, "answer", call_id="1", from_tag="a", to_tag="b", sdp=body(AUDIO))
        for keys in ({}, {"from_tags": ["x"]}, {"from_tags": ["a", "x"]}, {"from_tags": ["a"], "to_tag": "b"}):
            bad(server, "subscribe request", call_id="1", **keys)
        tag = good(server, "subscribe request", call_id="1", flags=["all"])["to-tag"].decode()
        here = "c=IN IP4 127.0.0.1"
        for answer in (
            "junk",
            body(AUDIO),
            body(AUDIO, "m=video 4000 RTP/AVP 0"),
            body(AUDIO, AUDIO, connection="c=IN IP6 ::1"),
            body(AUDIO, AUDIO, connection="c=IN IP4 srs.example.com"),
            body(AUDIO, AUDIO, connection=""),
        ):
            bad(server, "subscribe answer", call_id="1", to_tag=tag, sdp=answer)
        good(server, "subscribe answer", call_id="1", to_tag=tag, sdp=body(AUDIO, AUDIO, connection=here))
        for number in range(40):
            reply = ask(server, "subscribe request", call_id="1", from_tags=["a"], to_tag=f"s{number}")
        assert reply["result"] == b"error"
        assert good(server, "unsubscribe", call_id="1", to_tag=tag)
        assert "warning" not in good(server, "unsubscribe", call_id="1", to_tag="s1")
        assert good(server, "unsubscribe", call_id="1", to_tag="s1")["warning"]


def test_dead_calls_end_by_themselves() -> None:
    with relay() as (server, clock):
        good(server, "offer", call_id="ringing", from_tag="a", sdp=body(AUDIO))
        for call_id, direction in (("talking", "sendrecv"), ("held", "sendonly")):
            good(server, "offer", call_id=call_id, from_tag="a", sdp=body(AUDIO + "\na=" + direction))
            good(server, "answer", call_id=call_id, from_tag="a", to_tag="b", sdp=body(AUDIO + "\na=" + direction))
        good(server, "subscribe request", call_id="talking", from_tags=["a"])
        clock.time += 59
        server.tick()
        assert set(server.calls) == {"ringing", "talking", "held"}
        clock.time += 2
        server.tick()
        assert set(server.calls) == {"ringing", "held"}
        clock.time += 240
        server.tick()
        assert set(server.calls) == {"held"}
        clock.time += 3600
        server.tick()
        assert server.calls == {}
        assert server.counters["timeouts"] == 3
        assert server.plane.pool.in_use == 0


def test_list_statistics_and_delete() -> None:
    with relay() as (server, _):
        for number in range(3):
            good(server, "offer", call_id=str(number), from_tag="a", sdp=body(AUDIO))
        assert good(server, "list")["calls"] == [b"0", b"1", b"2"]
        assert good(server, "list", limit=1)["calls"] == [b"0"]
        bad(server, "list", limit=0)
        assert good(server, "statistics")["statistics"]["calls"] == 3
        assert good(server, "delete", call_id="1", from_tag="a")["totals"]
        assert good(server, "delete", call_id="1", from_tag="a")["warning"]
        bad(server, "delete", call_id="1", from_tag="a", flags=["fatal"])


_keys = st.sampled_from(
    ["call-id", "from-tag", "to-tag", "sdp", "from-tags", "flags", "replace", "direction", "limit", "all"]
)
_commands = st.sampled_from(
    [
        "offer",
        "answer",
        "delete",
        "query",
        "list",
        "subscribe request",
        "subscribe answer",
        "unsubscribe",
        "block media",
        "unblock media",
        "statistics",
        "ping",
        "x",
    ]
)
_texts = st.sampled_from(
    ["1", "a", "b", "", "s", body(AUDIO), body(), body(AUDIO, AUDIO), "all", "SIPREC", "x" * 600, "\udcff"]
)
_values = st.one_of(
    _texts, st.integers(-1, 5), st.lists(_texts, max_size=3), st.dictionaries(_texts, _texts, max_size=2)
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(_commands, st.dictionaries(_keys, _values, max_size=6)), max_size=12), st.binary(max_size=60))
def test_no_message_does_harm(messages: list[tuple[str, dict[str, Any]]], junk: bytes) -> None:
    with relay(ports=(47500, 47599)) as (server, _):
        server.message(junk, "x")
        server.message(b"c " + junk, "x")
        for command, keys in messages:
            reply = ask(server, command, **keys)
            assert reply["result"] in (b"ok", b"pong", b"error")
            assert reply.get("error-reason") != b"Internal error"
        server.tick()
        good(server, "ping")
