from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

import pytest

from siprec import sdp
from siprec.media.bencode import BencodeError, decode_dict, encode
from siprec.media.engine import MediaError, MediaFlags, MediaSession, MediaStatistics, Subscription
from siprec.media.ng import NgClient, Reply
from siprec.media.ngframes import StreamFramer
from siprec.media.ngreplies import read_statistics
from siprec.media.rtpengine import RtpEngine, reject_withheld
from siprec.sip.clock import Timer


class _Timer:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class _Clock:
    """Virtual time."""

    def __init__(self) -> None:
        self.time = 0.0
        self._heap: list[tuple[float, int, _Timer, Callable[..., object], tuple[Any, ...]]] = []
        self._serial = 0

    def now(self) -> float:
        return self.time

    def wall(self) -> float:
        return 1_700_000_000 + self.time

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Timer:
        timer = _Timer()
        self._serial += 1
        heapq.heappush(self._heap, (self.time + delay, self._serial, timer, callback, args))
        return timer

    def run(self, seconds: float) -> None:
        end = self.time + seconds
        while self._heap and self._heap[0][0] <= end:
            self.time, _, timer, callback, args = heapq.heappop(self._heap)
            if not timer.cancelled:
                callback(*args)
        self.time = end


class _Wire:
    """The far end of a connection: what was sent, and when."""

    def __init__(self, clock: _Clock, *, reliable: bool = False) -> None:
        self.clock = clock
        self.reliable = reliable
        self.sent: list[tuple[float, bytes]] = []
        self.closed = False

    def __call__(self, on_message: Callable[[bytes], None], on_error: Callable[[str], None]) -> _Wire:
        self.deliver = on_message
        self.fail = on_error
        return self

    def send(self, message: bytes) -> None:
        self.sent.append((self.clock.time, message))

    def close(self) -> None:
        self.closed = True

    def reply(self, index: int = -1, **keys: Any) -> None:
        cookie = self.sent[index][1].partition(b" ")[0]
        self.deliver(cookie + b" " + encode({key.replace("_", "-"): value for key, value in keys.items()}))

    def request(self, index: int = -1) -> Reply:
        return decode_dict(self.sent[index][1].partition(b" ")[2])


def _client(**options: Any) -> tuple[_Clock, _Wire, NgClient, list[Reply | MediaError]]:
    clock = _Clock()
    wire = _Wire(clock, reliable=options.pop("reliable", False))
    return clock, wire, NgClient(clock, wire, name="m1", **options), []


def test_a_request_is_repeated_with_back_off_until_the_reply_comes() -> None:
    clock, wire, client, got = _client(timeout=5.0, first_retry=0.25, max_retry=1.0)
    client.request("ping", {}, got.append)
    clock.run(2.0)
    assert [at for at, _ in wire.sent] == [0.0, 0.25, 0.75, 1.75]
    assert len({message for _, message in wire.sent}) == 1
    wire.reply(result="pong")
    assert got == [{"result": b"pong"}]
    clock.run(10)
    assert len(wire.sent) == 4
    assert client.pending == 0


def test_silence_is_a_timeout_once_and_a_late_reply_is_only_counted() -> None:
    clock, wire, client, got = _client(timeout=3.0)
    client.request("offer", {"call-id": "c"}, got.append)
    clock.run(2.999)
    assert got == []
    clock.run(0.1)
    (error,) = got
    assert isinstance(error, MediaError)
    assert error.timeout
    assert error.server == "m1"
    wire.reply(result="ok")
    wire.deliver(b"")
    assert len(got) == 1
    assert client.counters["unmatched"] == 2


def test_double_replies_reach_the_caller_once_and_replies_may_come_out_of_order() -> None:
    _, wire, client, got = _client()
    client.request("query", {"call-id": "1"}, got.append)
    client.request("query", {"call-id": "2"}, got.append)
    wire.reply(1, result="ok", n=2)
    wire.reply(1, result="ok", n=2)
    wire.reply(0, result="ok", n=1)
    assert [reply["n"] for reply in got if isinstance(reply, dict)] == [2, 1]


def test_a_broken_reply_waits_for_a_good_copy() -> None:
    clock, wire, client, got = _client()
    client.request("ping", {}, got.append)
    wire.deliver(wire.sent[0][1].partition(b" ")[0] + b" d6:result")
    assert got == []
    clock.run(0.3)
    wire.reply(result="pong")
    assert len(got) == 1


def test_an_error_reply_is_a_media_error_with_the_servers_reason() -> None:
    _, wire, client, got = _client()
    client.request("answer", {}, got.append)
    wire.reply(result="error", error_reason="Unknown call-id")
    (error,) = got
    assert isinstance(error, MediaError)
    assert error.reason == "Unknown call-id"
    assert not error.timeout


def test_nobody_listening_fails_on_the_second_refusal_and_not_before() -> None:
    clock, wire, client, got = _client()
    client.request("ping", {}, got.append)
    wire.fail("Connection refused")
    assert got == []
    clock.run(0.3)
    wire.fail("Connection refused")
    assert len(got) == 1
    assert isinstance(got[0], MediaError)
    assert got[0].timeout


def test_close_fails_what_is_pending_and_what_comes_after() -> None:
    clock, wire, client, got = _client()
    client.request("ping", {}, got.append)
    client.close()
    client.request("ping", {}, got.append)
    clock.run(0)
    assert wire.closed
    assert [type(each) for each in got] == [MediaError, MediaError]


def test_nothing_is_repeated_on_a_reliable_connection() -> None:
    clock, wire, client, got = _client(reliable=True, timeout=3.0)
    client.request("ping", {}, got.append)
    clock.run(5)
    assert len(wire.sent) == 1
    assert isinstance(got[0], MediaError)


def test_frames_of_a_stream_in_any_cut() -> None:
    stream = b"1 d7:command4:pinge2 d1:x3:a b1:yl1:zee\n3 le"
    expected = [b"1 d7:command4:pinge", b"2 d1:x3:a b1:yl1:zee", b"3 le"]
    for step in (1, 2, 5, 100):
        framer = StreamFramer()
        got: list[bytes] = []
        for at in range(0, len(stream), step):
            got += framer.feed(stream[at : at + step])
        assert got == expected
    with pytest.raises(BencodeError):
        StreamFramer().feed(b"x" * 300)
    with pytest.raises(BencodeError):
        StreamFramer().feed(b"1 qq")


SESSION = MediaSession("call", "A", "B")
OFFER = (
    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n"
    "m=audio 4000 RTP/AVP 0\r\nc=IN IP4 127.0.0.1\r\na=label:1\r\na=sendonly\r\n"
    "m=audio 4010 RTP/AVP 0\r\nc=IN IP4 127.0.0.1\r\na=label:0\r\na=sendonly\r\n"
)


def _engine() -> tuple[_Clock, _Wire, RtpEngine]:
    clock = _Clock()
    wire = _Wire(clock)
    return clock, wire, RtpEngine(clock, wire, name="m1")


@pytest.mark.parametrize(
    "keys",
    [
        {"media-labels": {"1": {"tag": "A", "index": 1}, "0": {"tag": "B", "index": 1}}},
        {"tag-medias": [{"tag": "A", "medias": [{"index": 1}]}, {"tag": "B", "medias": [{"index": 1}]}]},
        {"from-tags": ["A", "B"]},
        {},
    ],
)
def test_streams_of_a_subscription_find_their_party(keys: dict[str, Any]) -> None:
    _, wire, engine = _engine()
    got: list[Subscription | MediaError] = []
    engine.subscribe_request(SESSION, ["A", "B"], got.append)
    assert wire.request()["from-tags"] == [b"A", b"B"]
    wire.reply(result="ok", sdp=OFFER, to_tag="S", **{key.replace("-", "_"): value for key, value in keys.items()})
    (subscription,) = got
    assert isinstance(subscription, Subscription)
    assert [(s.from_tag, s.source_index, s.kind, s.section.port) for s in subscription.streams] == [
        ("A", 0, "audio", 4000),
        ("B", 0, "audio", 4010),
    ]


@pytest.mark.parametrize("sdp", ["", "nonsense", OFFER + "m=audio 1 RTP/AVP 0\r\n" * 9])
def test_a_subscription_that_makes_no_sense_is_a_media_error(sdp: str) -> None:
    _, wire, engine = _engine()
    got: list[Subscription | MediaError] = []
    engine.subscribe_request(SESSION, ["A", "B"], got.append)
    wire.reply(result="ok", sdp=sdp, to_tag="S")
    assert isinstance(got[0], MediaError)


ANSWER = OFFER.replace("sendonly", "recvonly").encode()


def test_pause_rejects_the_streams_where_the_server_has_no_gates_and_resume_repeats_the_answer() -> None:
    _, wire, engine = _engine()
    got: list[MediaError | None] = []
    engine.subscribe_answer(SESSION, "S", ANSWER, got.append)
    wire.reply(result="ok")
    engine.pause(SESSION, "S", got.append)
    body = wire.request()["sdp"]
    assert isinstance(body, bytes)
    assert body.count(b"m=audio 0 ") == 2
    wire.reply(result="ok")
    engine.resume(SESSION, "S", got.append)
    assert wire.request()["sdp"] == ANSWER
    wire.reply(result="ok")
    assert got == [None, None, None]


def test_pause_says_inactive_where_the_server_has_gates() -> None:
    _, wire, engine = _engine()
    got: list[MediaError | None] = []
    engine.ping(got.append)
    wire.reply(result="pong", gates=1)
    engine.subscribe_answer(SESSION, "S", ANSWER, got.append)
    wire.reply(result="ok")
    engine.pause(SESSION, "S", got.append)
    body = wire.request()["sdp"]
    assert isinstance(body, bytes)
    assert body.count(b"a=inactive") == 2
    assert b" 0 RTP/AVP" not in body


def test_pre_roll_is_asked_of_our_relay_only() -> None:
    _, wire, engine = _engine()
    got: list[object] = []
    flags = MediaFlags(flags=("pre-roll", "other"))
    engine.offer(SESSION, b"x", got.append, flags=flags)
    assert wire.request()["flags"] == [b"other"]
    wire.reply(result="ok", sdp="v=0", gates=1)
    engine.answer(SESSION, b"x", got.append, flags=flags)
    assert wire.request()["flags"] == [b"pre-roll", b"other"]
    wire.reply(result="ok")
    assert got[0] == b"v=0"
    assert isinstance(got[1], MediaError)


def test_withheld_lines_become_rejected_ones() -> None:
    mixed = ANSWER.replace(b"a=recvonly", b"a=inactive", 1)
    assert b"m=audio 0 RTP/AVP 0" in reject_withheld(mixed)
    assert b"m=audio 4010 RTP/AVP 0" in reject_withheld(mixed)


@pytest.mark.parametrize("word", ["inactive", "sendonly"])
def test_a_stream_that_the_recorder_does_not_want_is_answered_with_port_zero(word: str) -> None:
    _, wire, engine = _engine()
    engine.subscribe_answer(SESSION, "S", ANSWER.replace(b"recvonly", word.encode(), 1), lambda error: None)
    body = wire.request()["sdp"]
    assert isinstance(body, bytes)
    assert [line.port for line in sdp.parse(body).media] == [0, 4010]


def test_flags_of_the_server_and_of_the_call_are_said_once() -> None:
    clock = _Clock()
    wire = _Wire(clock)
    engine = RtpEngine(clock, wire, flags=MediaFlags(flags=("a", "b"), replace=("origin",), label="x"))
    engine.offer(SESSION, b"v=0", lambda result: None, flags=MediaFlags(flags=("b", "c"), label="y"))
    request = wire.request()
    assert request["flags"] == [b"a", b"b", b"c"]
    assert (request["replace"], request["label"]) == ([b"origin"], b"y")


def test_counters_are_told_by_party_and_stream() -> None:
    def media(index: int, kind: bytes, packets: int) -> dict[str, Any]:
        rtp = {"flags": [b"RTP"], "stats": {"packets": packets, "bytes": 10 * packets, "errors": 0}}
        return {"index": index, "type": kind, "streams": [rtp]}

    statistics = read_statistics(
        {
            "tags": {
                "A": {"medias": [media(1, b"audio", 5), media(2, b"video", 6)]},
                "B": {"medias": [media(1, b"audio", 7)]},
                "copy": {
                    "subscriptions": [{"tag": b"B", "type": b"pub/sub"}, {"tag": b"A", "type": b"pub/sub"}],
                    "medias": [media(1, b"audio", 0), media(2, b"audio", 0)],
                },
            }
        }
    )
    streams = [(each.tag, each.index, each.kind, each.packets, each.octets) for each in statistics.streams]
    assert streams == [("A", 0, "audio", 5, 50), ("A", 1, "video", 6, 60), ("B", 0, "audio", 7, 70)]
    assert [(each.tag, each.index, each.from_tag) for each in statistics.forks] == [("copy", 0, "B"), ("copy", 1, "A")]


def test_statistics_of_any_shape_are_read_without_an_exception() -> None:
    assert read_statistics({}) == MediaStatistics(0, 0, 0, 0, (), ())
    statistics = read_statistics(
        {"tags": {"A": {"medias": [[], 1, {"streams": 3, "index": b"x"}]}, "B": 4}, "totals": []}
    )
    assert len(statistics.streams) == 3
