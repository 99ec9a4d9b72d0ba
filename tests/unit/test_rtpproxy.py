"""RTPProxy's client against a scripted engine: what it says when the engine refuses, lies, forgets or is silent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siprec import sdp
from siprec.media.engine import MediaError, MediaFlags, MediaSession, MediaStatistics, Subscription, Tone
from siprec.media.rtpproxy import RtpProxy
from siprec.media.rtpproxy_protocol import place, word
from siprec.media.rtpproxy_sdp import pointed, private_removed
from tests.simulation.network import VirtualClock

CALL = MediaSession("call", "a", "b")
OFFER = b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0 8\r\n"
ANSWER = b"v=0\r\no=- 1 1 IN IP4 192.0.2.2\r\ns=-\r\nc=IN IP4 192.0.2.2\r\nt=0 0\r\nm=audio 5000 RTP/AVP 0\r\n"
SRS = b"v=0\r\no=- 1 1 IN IP4 192.0.2.3\r\ns=-\r\nc=IN IP4 192.0.2.3\r\nt=0 0\r\n" + b"".join(
    b"m=audio %d RTP/AVP 0\r\na=recvonly\r\n" % port for port in (6000, 6002)
)


class Engine:
    """Answers as `script` says, by the first letters of a command; None: not at all."""

    reliable = False

    def __init__(self, **script: str | None) -> None:
        replies: dict[str, str | None] = {
            "VF": "1", "V": "20040107", "U": "30000 192.0.2.9", "L": "30002 192.0.2.9", "C": "0", "N": "0", "D": "0",
            "P": "0", "S": "0", "Qv": "npkts_ina=7 npkts_ino=5 nrelayed=12 ndropped=0",
        }  # fmt: skip
        self.script = replies | script
        self.commands: list[str] = []
        self.clock = VirtualClock()
        self.media = RtpProxy(self.clock, self.open, timeout=1.0, prompt="beep")

    def open(self, on_message: Callable[[bytes], None], on_error: Callable[[str], None]) -> Engine:
        self.on_message = on_message
        return self

    def send(self, message: bytes) -> None:
        cookie, _, body = message.partition(b" ")
        command = body.decode()
        self.commands.append(command)
        name = next(name for name in self.script if command.startswith(name))
        reply = self.script[name]
        if reply is not None:
            self.clock.call_later(0.001, self.on_message, cookie + b" " + reply.encode() + b"\n")

    def close(self) -> None:
        pass

    def ask(self, start: Callable[[Callable[[Any], None]], None]) -> Any:
        """The one result of a request."""
        results: list[Any] = []
        start(results.append)
        assert results == []  # never from inside
        self.clock.run_for(5.0)
        assert len(results) == 1, results
        return results[0]

    def established(self) -> None:
        assert isinstance(self.ask(lambda done: self.media.offer(MediaSession("call", "a"), OFFER, done)), bytes)
        assert isinstance(self.ask(lambda done: self.media.answer(CALL, ANSWER, done)), bytes)

    def subscribed(self) -> Subscription:
        self.established()
        found = self.ask(lambda done: self.media.subscribe_request(CALL, ["a", "b"], done))
        assert isinstance(found, Subscription)
        assert self.ask(lambda done: self.media.subscribe_answer(CALL, found.tag, SRS, done)) is None
        return found


def test_commands_are_what_the_protocol_says() -> None:
    engine = Engine()
    subscription = engine.subscribed()
    engine.ask(lambda done: engine.media.pause(CALL, subscription.tag, done))
    engine.ask(lambda done: engine.media.delete(CALL, done))
    assert engine.commands[:5] == [
        "U call 192.0.2.1 4000 a;1",
        "L call 192.0.2.2 5000 a;1 b;1",
        "VF 20071218",
        "C call udp:192.0.2.3:6000 a;1 b;1",
        "C call udp:192.0.2.3:6002 b;1 a;1",
    ]
    assert sorted(engine.commands[-4:-2]) == ["N call a;1 b;1", "N call b;1 a;1"]
    assert engine.commands[-2:] == ["Qv call a;1 b;1 npkts_ina npkts_ino nrelayed ndropped", "D call a"]


@pytest.mark.parametrize(
    ("reply", "word_of_it"),
    [("E50", "unknown call"), ("0", "no session"), ("nonsense", "no sense"), ("70000 192.0.2.9", "no sense"), ("", "")],
)
def test_an_offer_that_is_refused_or_answered_with_nonsense_is_an_error(reply: str, word_of_it: str) -> None:
    engine = Engine(U=reply)
    result = engine.ask(lambda done: engine.media.offer(MediaSession("call", "a"), OFFER, done))
    assert isinstance(result, MediaError)
    assert word_of_it in result.reason
    assert result.timeout is (reply == "")  # what cannot be read may be followed by what can


def test_silence_is_a_time_out_and_commands_are_repeated_until_then() -> None:
    engine = Engine(U=None)
    result = engine.ask(lambda done: engine.media.offer(MediaSession("call", "a"), OFFER, done))
    assert isinstance(result, MediaError)
    assert result.timeout
    assert len(engine.commands) > 2
    assert len(set(engine.commands)) == 1


def test_an_engine_that_is_too_old_is_found_out_before_anything_is_promised() -> None:
    engine = Engine(VF="0")
    engine.established()
    result = engine.ask(lambda done: engine.media.subscribe_request(CALL, ["a", "b"], done))
    assert isinstance(result, MediaError)
    assert "too old" in result.reason


def test_an_engine_that_was_restarted_does_not_know_the_call_and_says_so() -> None:
    engine = Engine()
    subscription = engine.subscribed()
    engine.script |= {"C": "E50", "N": "E50", "Qv": "E50", "D": "E50"}
    moved = SRS.replace(b"6000", b"7000")
    result = engine.ask(lambda done: engine.media.subscribe_answer(CALL, subscription.tag, moved, done))
    assert isinstance(result, MediaError)
    assert isinstance(engine.ask(lambda done: engine.media.query(CALL, done)), MediaError)
    assert engine.ask(lambda done: engine.media.unsubscribe(CALL, subscription.tag, done)) is None
    assert engine.ask(lambda done: engine.media.delete(CALL, done)) is None


def test_a_pause_that_fails_is_told_and_the_copies_count_as_running() -> None:
    engine = Engine()
    subscription = engine.subscribed()
    engine.script["N"] = None
    result = engine.ask(lambda done: engine.media.pause(CALL, subscription.tag, done))
    assert isinstance(result, MediaError)
    assert result.timeout
    engine.script["N"] = "0"
    assert engine.ask(lambda done: engine.media.pause(CALL, subscription.tag, done)) is None
    statistics = engine.ask(lambda done: engine.media.query(CALL, done))
    assert isinstance(statistics, MediaStatistics)
    assert [(fork.paused, fork.endpoint) for fork in statistics.forks] == [(True, None), (True, None)]
    assert {stream.tag: stream.packets for stream in statistics.streams} == {"a": 7, "b": 5}


def test_nothing_is_kept_of_a_call_that_is_over() -> None:
    engine = Engine()
    engine.subscribed()
    assert engine.ask(lambda done: engine.media.play(CALL, "a", Tone(interval=1.0), done)) is None
    engine.clock.run_for(3.0)
    assert sum(command.startswith("P") for command in engine.commands) > 2
    left = engine.ask(lambda done: engine.media.delete(CALL, done))
    assert isinstance(left, MediaStatistics)
    assert {stream.tag: stream.packets for stream in left.streams} == {"a": 7, "b": 5}
    count = len(engine.commands)
    engine.clock.run_for(60.0)
    assert len(engine.commands) == count
    assert engine.media._calls == {}
    assert engine.media.client.pending == 0
    assert engine.clock.pending == 0


def test_what_only_others_can_do_is_refused_with_words() -> None:
    engine = Engine()
    engine.established()
    for flags, why in (
        (MediaFlags(transport_protocol="RTP/SAVP"), "SRTP"),
        (MediaFlags(address_family="IP6"), "IPv6"),
    ):
        wish = flags
        result = engine.ask(lambda done: engine.media.subscribe_request(CALL, ["a"], done, flags=wish))  # noqa: B023
        assert isinstance(result, MediaError)
        assert why in result.reason
    assert isinstance(engine.ask(lambda done: engine.media.key_frame(CALL, "x", done)), MediaError)


@pytest.mark.parametrize("body", [b"", b"garbage", OFFER.replace(b"4000", b"99999"), b"v=0\r\n" + b"a=x\r\n" * 5000])
def test_a_description_that_cannot_be_read_is_an_error_and_nothing_is_asked(body: bytes) -> None:
    engine = Engine()
    result = engine.ask(lambda done: engine.media.offer(MediaSession("call", "a"), body, done))
    assert isinstance(result, MediaError)
    assert engine.commands == []


def test_a_name_for_an_address_is_left_to_the_first_packet() -> None:
    engine = Engine()
    named = OFFER.replace(b"c=IN IP4 192.0.2.1", b"c=IN IP4 phone.example.com")
    result = engine.ask(lambda done: engine.media.offer(MediaSession("call", "a"), named, done))
    assert engine.commands == ["U call 0.0.0.0 4000 a;1"]
    assert b"c=IN IP4 192.0.2.9" in result


@given(st.text(st.characters(), min_size=1, max_size=40))
def test_any_tag_is_one_word(text: str) -> None:
    found = word(text)
    assert found.isascii()
    assert not set(found) & set(" ;,\r\n\t\0")
    assert " " not in found


@given(st.text(max_size=30))
def test_any_reply_is_a_place_or_a_value_error(text: str) -> None:
    try:
        address, port = place(text)
    except ValueError:
        return
    assert address
    assert 0 < port < 65536


def description(*lines: str) -> sdp.SessionDescription:
    return sdp.parse("\r\n".join(("v=0", "o=- 1 1 IN IP4 192.0.2.1", "s=-", *lines)) + "\r\n")


def test_lines_that_are_not_relayed_keep_the_address_they_inherited() -> None:
    it = description("c=IN IP4 192.0.2.1", "t=0 0", "m=audio 4000 RTP/AVP 0", "m=message 7394 TCP/MSRP *", "a=path:x")
    pointed(it, {0: ("192.0.2.9", 30000)})
    assert [(m.connection.address if m.connection else "", m.port) for m in it.media] == [
        ("192.0.2.9", 30000),
        ("192.0.2.1", 7394),
    ]


def test_lines_with_an_address_of_their_own_get_theirs_and_the_null_address_stays() -> None:
    it = description(
        "t=0 0", "m=audio 4000 RTP/AVP 0", "c=IN IP4 192.0.2.1", "m=audio 4002 RTP/AVP 0", "c=IN IP4 0.0.0.0"
    )
    pointed(it, {0: ("192.0.2.9", 30000), 1: ("192.0.2.9", 30002)}, origin=True)
    assert [(m.connection.address if m.connection else "", m.port) for m in it.media] == [
        ("192.0.2.9", 30000),
        ("0.0.0.0", 30002),
    ]
    assert it.origin is not None
    assert it.origin.address == "192.0.2.9"


def test_what_would_lead_past_the_relay_is_taken_out() -> None:
    it = description(
        "c=IN IP4 192.0.2.1",
        "t=0 0",
        "a=group:BUNDLE 0 1",
        "a=group:LS 0 1",
        "a=ice-lite",
        "m=audio 4000 RTP/AVP 0",
        "a=candidate:1 1 UDP 1 192.0.2.1 4000 typ host",
        "a=ice-ufrag:x",
        "a=rtcp:4001",
        "a=rtcp-mux",
        "a=rtcp-fb:* nack",
        "a=mid:0",
    )
    private_removed(it, {0: None})
    assert it.lines[-1] == "a=group:LS 0 1"
    assert it.media[0].lines == ["a=rtcp-fb:* nack", "a=mid:0"]
