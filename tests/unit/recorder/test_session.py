"""Offers, answers, pauses, ports and metadata of a recording session, on real sockets."""

from __future__ import annotations

import json
import os
import random
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from siprec.audio.codecs import codec
from siprec.audio.g711 import ulaw_decode, ulaw_encode
from siprec.audio.melody import callee_melody, caller_melody, match, matches, to_int16
from siprec.audio.packets import packets
from siprec.metadata.values import NAMESPACE
from siprec.recorder.errors import MetadataRefused, OfferError, RecorderError, RecorderFull
from siprec.recorder.ports import PortPool
from siprec.recorder.recorder import Recorder
from siprec.recorder.settings import RecorderSettings
from siprec.rtp import packets as rtp
from siprec.rtp import rtcp
from tests.unit.audio.ogg_opus import opus_packets
from tests.unit.recorder.recorder_harness import Bench, read, restamp

PCMU = codec("PCMU", 8000)
RATE = 8000
Open = Callable[..., Bench]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Open]:
    made: list[Bench] = []

    def make(address: str = "127.0.0.1", **settings: Any) -> Bench:
        made.append(Bench(tmp_path / "rec", RecorderSettings(**settings), address))
        return made[-1]

    yield make
    for each in made:
        each.close()


def tune(seconds: float, rate: int = RATE) -> Any:
    return to_int16(caller_melody(seconds, rate))


def other_tune(seconds: float, rate: int = RATE) -> Any:
    return to_int16(callee_melody(seconds, rate))


def document(mode: str = "complete") -> bytes:
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<recording xmlns="{NAMESPACE}"><datamode>{mode}</datamode>
<session session_id="gx8JQ0eDQ9CDXtLY0lU4RA=="><start-time>2026-03-02T09:14:58Z</start-time></session>
<participant participant_id="Wp+JVL4DRd2sJw8xsS+kuA=="><nameID aor="sip:alice@example.com"><name>Alice</name></nameID></participant>
<participant participant_id="X8j5U9yMR6uVb+6TuQ50wg=="><nameID aor="sip:bob@example.com"/></participant>
<stream stream_id="/Gi5VH6aTOChKvALr1chCA==" session_id="gx8JQ0eDQ9CDXtLY0lU4RA=="><label>1</label></stream>
<stream stream_id="M6siVBY2Q0Cj3b4s6KCD0w==" session_id="gx8JQ0eDQ9CDXtLY0lU4RA=="><label>2</label></stream>
<participantsessionassoc participant_id="Wp+JVL4DRd2sJw8xsS+kuA==" session_id="gx8JQ0eDQ9CDXtLY0lU4RA=="/>
<participantsessionassoc participant_id="X8j5U9yMR6uVb+6TuQ50wg==" session_id="gx8JQ0eDQ9CDXtLY0lU4RA=="/>
<participantstreamassoc participant_id="Wp+JVL4DRd2sJw8xsS+kuA=="><send>/Gi5VH6aTOChKvALr1chCA==</send></participantstreamassoc>
<participantstreamassoc participant_id="X8j5U9yMR6uVb+6TuQ50wg=="><send>M6siVBY2Q0Cj3b4s6KCD0w==</send></participantstreamassoc>
</recording>""".encode()  # noqa: E501


def test_the_answer_receives_what_it_can_and_refuses_the_rest_in_order(bench: Open) -> None:
    b = bench()
    answer = b.offer(
        b.audio("1", "0 8 4", "rtpmap:4 G723/8000"),
        "m=application 5000 UDP/BFCP *\na=label:x",
        b.audio("2", "96 101", "rtpmap:96 opus/48000/2", "rtpmap:101 telephone-event/8000", "rtcp-mux"),
        "m=audio 6000 RTP/SAVP 0\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:abc",
        b.audio("3", direction="inactive"),
        b.audio("4", direction="recvonly"),
        b.audio("5", direction="sendrecv"),
        b.audio("6", port=0),
    )
    assert [m.kind for m in answer.media] == ["audio", "application", *["audio"] * 6]
    ports = [m.port for m in answer.media]
    assert [bool(p) for p in ports] == [True, False, True, False, True, True, True, False]
    assert all(p % 2 == 0 for p in ports)
    assert [m.label for m in answer.media if m.port] == ["1", "2", "3", "4", "5"]
    assert [m.direction for m in answer.media if m.port] == ["recvonly", "recvonly", "inactive", "inactive", "recvonly"]
    assert answer.media[0].formats == ["0", "8"]
    assert answer.media[2].rtcp_mux
    assert not answer.media[0].rtcp_mux
    assert answer.media[2].formats == ["96", "101"]
    assert not any("crypto" in line for m in answer.media for line in m.lines)


def test_the_origin_line_changes_only_with_the_answer(bench: Open) -> None:
    b = bench()
    first = b.offer(b.audio("1")).origin
    same = b.offer(b.audio("1")).origin
    changed = b.offer(b.audio("1", direction="inactive")).origin
    assert first is not None
    assert same == first
    assert changed == first.bump()


def test_what_cannot_be_used_is_refused_with_a_status_and_leaves_nothing(bench: Open, tmp_path: Path) -> None:
    b = bench(reject_bad_metadata=True)
    for offer, metadata, kind, status in (
        (b"garbage", None, OfferError, 400),
        (b.body("m=application 5000 UDP/BFCP *"), None, OfferError, 488),
        (b.body(b.audio("1")), b"<recording>", MetadataRefused, 400),
    ):
        session = b.recorder.session(call_id="x", from_uri="sip:x@x")
        with pytest.raises(kind) as caught:
            session.offer(offer, metadata)
        assert isinstance(caught.value, RecorderError)
        assert caught.value.status == status
    assert b.pool.open == 0
    assert not b.recorder.sessions
    assert not list((tmp_path / "rec").iterdir())


def test_the_advertised_address_stands_in_the_answer(tmp_path: Path, bench: Open) -> None:
    b = bench(advertised="192.0.2.7")
    answer = b.offer(b.audio("1"))
    assert answer.connection is not None
    assert answer.connection.address == "192.0.2.7"
    with pytest.raises(ValueError, match="advertised"):
        Recorder(b.library, PortPool("0.0.0.0"), b.clock, b.poller)


def test_limits_are_503_and_ports_come_back(tmp_path: Path, bench: Open) -> None:
    b = bench(max_sessions=1)
    b.recorder.ports = b.pool = PortPool("127.0.0.1", limit=2)
    b.offer(b.audio("1"), b.audio("2"))
    with pytest.raises(RecorderFull):
        b.recorder.session(call_id="y", from_uri="sip:y@y")
    with pytest.raises(RecorderFull):
        b.offer(b.audio("1"), b.audio("2"), b.audio("3"))
    assert b.pool.open == 2
    b.offer(b.audio("1"), b.audio("2", port=0))
    assert b.pool.open == 1
    descriptors = len(os.listdir("/proc/self/fd"))
    b.finish()
    assert b.pool.open == 0
    assert not b.poller.readers
    assert b.clock.pending == 0
    assert len(os.listdir("/proc/self/fd")) < descriptors
    b.recorder.session(call_id="y", from_uri="sip:y@y")


def test_port_range_is_kept() -> None:
    probe = PortPool("127.0.0.1")
    for _ in range(20):
        base = probe.acquire()
        probe.release(base)
        pool = PortPool("127.0.0.1", base.port - 1, base.port + 2)
        try:
            pair = pool.acquire()
        except RecorderFull:
            continue  # somebody else took it meanwhile
        assert pair.port == base.port
        with pytest.raises(RecorderFull):
            pool.acquire()
        pool.release(pair)
        return
    pytest.fail("no free port pair in 20 attempts")


def test_a_pause_by_sdp_is_silence_and_nothing_of_it_is_kept(bench: Open) -> None:
    b = bench()
    b.offer(b.audio("1"), b.audio("2"))
    signal, secret = tune(3), other_tune(4)
    b.play(packets(signal, PCMU, 0, ssrc=1))
    b.offer(b.audio("1", direction="inactive"), b.audio("2", direction="inactive"))
    # Sent although it should not be: it must not get into the file.
    b.play(packets(secret, PCMU, 0, ssrc=1, sequence=150, timestamp=24_000))
    b.offer(b.audio("1"), b.audio("2"))
    b.play(packets(signal, PCMU, 0, ssrc=1, sequence=350, timestamp=56_000))
    result = b.finish()
    got = read(result.stream_file(1))[:, 0]
    assert matches(got[: 3 * RATE], signal, RATE) > 0.99
    assert not got[3 * RATE + 400 : 7 * RATE - 800].any()
    score, lag = match(got[4 * RATE :], signal, RATE)
    assert score > 0.99
    assert lag == pytest.approx(3, abs=0.1)
    (pause,) = result.streams[0]["pauses"]
    assert (pause["from"], pause["to"]) == ("2026-03-02T09:15:00.980Z", "2026-03-02T09:15:04.960Z")
    assert result.streams[0]["packets"]["discarded_while_paused"] == 200
    assert matches(read(result.mix)[:, 0], secret, RATE) < 0.3


def test_streams_are_added_removed_and_slots_reused(bench: Open) -> None:
    b = bench()
    first = b.offer(b.audio("1"), b.audio("2"))
    one, two = tune(2), other_tune(2)
    b.play(packets(one, PCMU, 0, ssrc=1), packets(two, PCMU, 0, ssrc=2))
    removed = b.offer(b.audio("1"), b.audio("2", port=0))
    assert removed.media[1].port == 0
    assert removed.media[0].port == first.media[0].port
    b.wait(1)
    added = b.offer(b.audio("1"), b.audio("7"), b.audio("8"))
    assert all(m.port for m in added.media)
    third = to_int16(caller_melody(2, RATE)[::-1])
    b.play(packets(third, PCMU, 0, ssrc=3), packets(two, PCMU, 0, ssrc=4), lines=(1, 2))
    result = b.finish()
    assert [s["m_line"] for s in result.streams] == [0, 1, 1, 2]
    assert [s["label"] for s in result.streams] == ["1", "2", "7", "8"]
    assert result.streams[1]["packets"]["received"] == 100
    got = read(result.stream_file(3))[:, 0]
    score, lag = match(got, third, RATE)
    assert score > 0.99
    assert lag == pytest.approx(2.98, abs=0.05)
    # The replacement sits where its predecessor was, the additional one in the middle.
    assert result.summary["mix"]["left"] == [1, 4]
    assert result.summary["mix"]["right"] == [2, 3, 4]


def test_two_sources_at_once_on_one_line_are_heard_together(bench: Open) -> None:
    b = bench()
    b.offer(b.audio("1"))
    one, two = tune(4), other_tune(4)
    both = [*packets(one, PCMU, 0, ssrc=1), *packets(two, PCMU, 0, ssrc=2, timestamp=99)]
    b.play(sorted(both, key=lambda item: item[0]))
    result = b.finish()
    assert [fault["fault"] for fault in result.streams[0]["rtp_faults"]] == ["several-ssrcs-at-once"]
    got = read(result.stream_file(1))[:, 0]
    total = ulaw_decode(ulaw_encode(one)).astype(np.int32) + ulaw_decode(ulaw_encode(two))
    assert matches(got, np.clip(total, -32768, 32767), RATE) > 0.99


def test_a_lone_stream_is_on_both_sides(bench: Open) -> None:
    b = bench()
    b.offer(b.audio("1"))
    b.play(packets(tune(2), PCMU, 0, ssrc=1))
    mix = read(b.finish().mix)
    assert np.array_equal(mix[:, 0], mix[:, 1])
    assert mix.any()


def test_a_lone_stream_moves_left_when_a_second_one_joins(bench: Open) -> None:
    b = bench()
    b.offer(b.audio("1"))
    one, two = tune(3), other_tune(3)
    b.play(packets(one, PCMU, 0, ssrc=1))
    b.clock.advance(b.clock.now() + 0.02)
    b.offer(b.audio("1"), b.audio("2"))
    b.play(packets(one, PCMU, 0, ssrc=1, sequence=150, timestamp=24_000), packets(two, PCMU, 0, ssrc=2))
    b.wait(12)
    result = b.finish()
    mix = read(result.mix)
    assert matches(mix[:RATE, 1], one[:RATE], RATE) > 0.99
    assert matches(mix[4 * RATE : 47000, 0], one[RATE:23000], RATE) > 0.95
    assert matches(mix[4 * RATE : 47000, 1], one[RATE:23000], RATE) < 0.3
    assert matches(mix[:, 1], two, RATE) > 0.6


def test_contributors_that_a_mixer_names_are_kept(bench: Open) -> None:
    b = bench()
    b.offer(b.audio("1"))
    mixed = [
        (at, bytes([0x82]) + d[1:12] + struct.pack("!II", 0xA, 0xB if at < 0.5 else 0xC) + d[12:])
        for at, d in packets(tune(1), PCMU, 0, ssrc=1)
    ]
    b.play(mixed)
    result = b.finish()
    assert result.streams[0]["csrcs"] == ["0000000a", "0000000b", "0000000c"]
    assert matches(read(result.stream_file(1))[:, 0], tune(1), RATE) > 0.99


def test_comfort_noise_that_was_never_announced_is_a_pause_and_no_loss(bench: Open) -> None:
    b = bench()
    b.offer(b.audio("1"))
    sent = list(packets(tune(3), PCMU, 0, ssrc=1))
    sent[50:100] = [(sent[50][0], rtp.build(13, 50, 8000, 1, b"\x40"))]
    sent[51:] = [(at, restamp(d, sequence=-49)) for at, d in sent[51:]]
    b.play(sent)
    result = b.finish()
    got = read(result.stream_file(1))[:, 0]
    assert result.streams[0]["packets"]["lost"] == 0
    assert not got[RATE : 2 * RATE].any()
    assert match(got[2 * RATE :], tune(3)[2 * RATE :], RATE)[1] == pytest.approx(0, abs=0.001)


def test_a_full_disk_ends_the_files_and_not_the_recorder(bench: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    b = bench()
    b.offer(b.audio("1"))
    b.play(packets(tune(3), PCMU, 0, ssrc=1))
    b.recorder.writer.call(lambda: None).result(timeout=60)

    def refuse(fd: int, data: object, position: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", refuse)
    b.play(packets(tune(3), PCMU, 0, ssrc=1, sequence=150, timestamp=24_000))
    for _ in range(6):
        b.settle()  # the disk thread lives in real time
        b.wait(0.5)
    b.settle()
    monkeypatch.undo()
    result = b.finish()
    assert result.state == "failed"
    assert "No space left" in result.summary["errors"][0]
    assert result.streams[0]["packets"]["received"] == 300
    assert len(read(result.directory / "stream-1.wav")) > 0
    assert b.pool.open == 0


def test_a_sender_faster_than_time_does_not_fill_the_memory(bench: Open) -> None:
    b = bench()
    b.offer(b.audio("1"), b.audio("2"))
    signal = tune(120)
    b.play((at / 20, data) for at, data in packets(signal, PCMU, 0, ssrc=1))
    b.wait(3)
    b.recorder.writer.call(lambda: None).result(timeout=60)
    assert b.session.recordings[0].pipeline.mix is not None
    assert len(b.session.recordings[0].pipeline.mix._pending) <= 31 * RATE
    result = b.finish()
    assert np.array_equal(read(result.stream_file(1))[:, 0], ulaw_decode(ulaw_encode(signal)))


def test_the_codec_may_change_in_the_middle(bench: Open) -> None:
    b = bench()
    g722 = codec("G722", 8000)
    b.offer(b.audio("1", "0 9"), b.audio("2"))
    narrow, wide = tune(2), other_tune(2, 16000)
    second = [(at + 2, d) for at, d in packets(wide, g722, 9, ssrc=1, sequence=100, timestamp=16_000)]
    b.play([*packets(narrow, PCMU, 0, ssrc=1), *second])
    result = b.finish()
    got = read(result.stream_file(1))[:, 0]
    assert matches(got[: 2 * RATE], narrow, RATE) > 0.99
    score, lag = match(got, other_tune(2), RATE)
    assert score > 0.9
    assert lag == pytest.approx(2, abs=0.01)
    assert result.streams[0]["codecs"] == {"PCMU": 100, "G722": 100}


def test_opus_with_pauses_between_the_words(bench: Open) -> None:
    b = bench()
    b.offer(b.audio("1", "96", "rtpmap:96 opus/48000/2"), b.audio("2"))
    signal = caller_melody(6, 48000)
    payloads, skip = opus_packets(signal)
    sent = [
        (n * 0.02, rtp.build(96, n, n * 960, 5, p, marker=n in (0, 200)))
        for n, p in enumerate(payloads)
        if not 100 <= n < 200  # nothing is sent: DTX, the timestamps go on
    ]
    # numbers without gaps, as a sender with DTX has them
    sent = [(at, restamp(d, sequence=-100 if at >= 4 else 0)) for at, d in sent]
    b.play(sent)
    result = b.finish()
    got = read(result.stream_file(1))[:, 0]
    assert result.streams[0]["rate"] == 48000
    assert result.streams[0]["packets"]["lost"] == 0
    assert not got[48000 * 2 + skip + 100 : 48000 * 4 - 100].any()
    for start in (0.2, 4.2):
        part = got[int(start * 48000) + skip :][: 48000 * 3 // 2]
        assert matches(part, signal[int(start * 48000) :][: len(part)], 48000) > 0.9
    assert matches(read(result.mix)[: 2 * 48000, 0], signal[: 2 * 48000], 48000) > 0.9


def test_dtmf_is_kept_as_metadata_and_not_as_audio(bench: Open) -> None:
    b = bench()
    b.offer(b.audio("1", "0 101", "rtpmap:101 telephone-event/8000"), b.audio("2"))
    audio = list(packets(tune(4), PCMU, 0, ssrc=1))

    def key(at: int, event: int) -> list[tuple[float, bytes]]:
        """10 packets of a growing event, the end three times (RFC 4733 2.5.1.4); replaces the audio."""
        out = []
        for number in range(10):
            last = number >= 7
            payload = struct.pack("!BBH", event, (0x80 if last else 0) | 10, min(number + 1, 8) * 160)
            stamp = at * 160
            out.append(((at + number) * 0.02, rtp.build(101, at + number, stamp, 1, payload, marker=number == 0)))
        return out

    events = [*key(50, 5), *key(100, 11)]
    replaced = {struct.unpack_from("!H", d, 2)[0] for _, d in events}
    sent = [p for p in audio if struct.unpack_from("!H", p[1], 2)[0] not in replaced] + events
    # one of the three ends is lost on the way
    sent = [p for p in sent if struct.unpack_from("!H", p[1], 2)[0] != 107]
    b.play(sorted(sent, key=lambda item: item[0]))
    result = b.finish()
    dtmf = result.streams[0]["dtmf"]
    assert [e["digit"] for e in dtmf] == ["5", "#"]
    assert [e["position"] for e in dtmf] == [pytest.approx(1.0, abs=0.02), pytest.approx(2.0, abs=0.02)]
    assert [e["duration"] for e in dtmf] == [0.16, 0.16]
    assert all(e["complete"] for e in dtmf)
    assert dtmf[0]["time"].startswith("2026-03-02T09:14:59")
    got = read(result.stream_file(1))[:, 0]
    assert not got[RATE + 10 : RATE + 1590].any()
    assert match(got, tune(4), RATE)[1] == pytest.approx(0, abs=0.001)


def test_what_cannot_be_decoded_is_kept_as_it_came(bench: Open) -> None:
    b = bench()
    answer = b.offer(b.audio("1", "4"), "m=video 7000 RTP/AVP 99\na=rtpmap:99 H264/90000\na=sendonly\na=label:v")
    assert [m.formats for m in answer.media] == [["4"], ["99"]]
    speech = [(n * 0.02, rtp.build(4, n, n * 160, 1, bytes([n]) * 20)) for n in range(50)]
    video = [(n * 0.04, rtp.build(99, n, n * 3600, 2, b"nal" * 300)) for n in range(25)]
    b.play(speech, video)
    result = b.finish()
    assert result.mix is None
    for stream, sent in zip(result.streams, (speech, video), strict=True):
        assert stream["raw_packets"] == len(sent)
        assert stream["file"] is None
        data = (result.directory / stream["raw_file"]).read_bytes()
        position, found = 24, []
        while position < len(data):
            size = struct.unpack_from("<I", data, position + 8)[0]
            packet = data[position + 16 : position + 16 + size]
            assert packet[0] == 0x45
            assert struct.unpack_from("!H", packet, 22)[0] == stream["port"]
            found.append(packet[28:])
            position += 16 + size
        assert found == [d for _, d in sent]
    assert result.streams[0]["codecs"] == {"G723": 50}


def test_only_the_sender_is_listened_to(bench: Open) -> None:
    b = bench()
    b.offer(b.audio("1"))
    stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    stranger.bind(("127.0.0.77", 0))
    with stranger:
        # It comes first, but the address that signalling named takes over.
        stranger.sendto(rtp.build(0, 1, 1, 99, b"\xff" * 160), ("127.0.0.1", b.ports[0]))
        b.poller.pump()
        b.play(packets(tune(1), PCMU, 0, ssrc=1))
        for number in range(20):
            stranger.sendto(rtp.build(0, number, number * 160, 1, b"\x00" * 160), ("127.0.0.1", b.ports[0]))
        b.poller.pump()
    result = b.finish()
    assert result.streams[0]["packets"]["stranger"] == 21
    assert result.streams[0]["source"] == f"127.0.0.1 port {b.sock.getsockname()[1]}"
    assert matches(read(result.stream_file(1))[:, 0], tune(1), RATE) > 0.99


def test_sender_reports_align_streams_that_took_different_ways(bench: Open) -> None:
    b = bench()
    b.offer(b.audio("1", "0", "rtcp-mux"), b.audio("2", "0", "rtcp-mux"))
    left, right = tune(4), other_tune(4)

    def report(ssrc: int, ntp: float, timestamp: int) -> bytes:
        seconds = ntp + rtcp.NTP_EPOCH
        sdes = struct.pack("!BBHI", 0x81, 202, 2, ssrc) + b"\x01\x01c\0"
        return (
            struct.pack("!BBHIIIIII", 0x80, 200, 6, ssrc, int(seconds), int(seconds % 1 * 2**32), timestamp, 1, 160)
            + sdes
        )

    slow = [(at + 0.25, d) for at, d in packets(right, PCMU, 0, ssrc=2, timestamp=70_000)]
    # Both were captured at once, at 1000 s of the sender's clock; one way is a quarter of a second longer.
    reports = [(0.01, report(1, 1000.01, 80)), (0.26, report(2, 1000.01, 70_080))]
    b.play(sorted([*packets(left, PCMU, 0, ssrc=1), reports[0]]), sorted([*slow, reports[1]]))
    result = b.finish()
    mix = read(result.mix)
    lags = [match(mix[:, 0], left, RATE)[1], match(mix[:, 1], right, RATE)[1]]
    assert lags[1] - lags[0] == pytest.approx(0, abs=0.005)
    assert result.streams[0]["cnames"] == {"00000001": "c"}


def test_receiver_reports_go_back_where_rtcp_comes_from(bench: Open) -> None:
    b = bench()
    b.offer(b.audio("1"))
    b.play(list(packets(tune(12), PCMU, 0, ssrc=77)))
    got = []
    while True:
        try:
            got.append(b.rtcp.recv(2000))
        except BlockingIOError:
            break
    assert 2 <= len(got) <= 6
    assert all(data[1] == 201 for data in got)
    assert struct.unpack_from("!I", got[-1], 8)[0] == 77
    assert struct.unpack_from("!I", got[-1], 12)[0] == 0
    own = struct.unpack_from("!I", got[0], 4)[0]
    b.finish()
    assert rtcp.parse(b.rtcp.recv(2000)).byes == [own]


def test_metadata_say_who_is_in_which_file(bench: Open) -> None:
    b = bench()
    b.offer(b.audio("1"), b.audio("2"), metadata=document())
    b.play(packets(tune(1), PCMU, 0, ssrc=1), packets(other_tune(1), PCMU, 0, ssrc=2))
    b.session.metadata(document("partial").replace(b"<name>Alice</name>", b"<name>Alice A.</name>"))
    result = b.finish()
    one, two = result.streams
    assert one["participants"] == ["Wp+JVL4DRd2sJw8xsS+kuA=="]
    assert one["stream_ids"] == [
        {"stream_id": "/Gi5VH6aTOChKvALr1chCA==", "uuid": "fc68b954-7e9a-4ce0-a12a-f00baf572108"}
    ]
    assert two["participants"] == ["X8j5U9yMR6uVb+6TuQ50wg=="]
    assert result.summary["participants"][0]["names"] == [{"aor": "sip:alice@example.com", "name": "Alice A."}]
    session = result.summary["communication_sessions"][0]
    assert session["uuid"] == "831f0943-4783-43d0-835e-d2d8d2553844"
    assert (result.directory / "metadata-0001.xml").read_bytes() == document()
    assert [m["mode"] for m in result.summary["metadata"]] == ["complete", "partial"]
    assert [
        r.id for r in b.library.find(session_id=session["uuid"], aor="sip:bob@example.com", call_id="rs-1@src")
    ] == [result.id]
    assert b.library.find(aor="sip:nobody@example.com") == []


def test_a_snapshot_is_asked_for_once_and_not_too_often(bench: Open) -> None:
    b = bench()
    b.offer(b.audio("1"), b.audio("2"), metadata=document("partial"))
    assert b.session.wants_snapshot
    assert b"requestsnapshot" in b.session.snapshot_requests.make()
    assert not b.session.wants_snapshot
    b.wait(11)
    assert b.session.wants_snapshot
    b.offer(b.audio("1"), b.audio("2"), metadata=document())
    assert not b.session.wants_snapshot


def test_bad_metadata_do_not_cost_the_recording(bench: Open) -> None:
    b = bench()
    b.offer(b.audio("1"), metadata=b"<!DOCTYPE x><x/>")
    b.play(packets(tune(1), PCMU, 0, ssrc=1))
    result = b.finish()
    assert result.summary["metadata"][0]["findings"]
    assert matches(read(result.stream_file(1))[:, 0], tune(1), RATE) > 0.99
    assert result.summary["participants"] == []


def test_what_is_recorded_is_for_owner_and_group_only(bench: Open) -> None:  # SEC-12
    b = bench()
    b.offer(b.audio("1"), b.audio("2", "4"), metadata=document())
    b.play(packets(tune(1), PCMU, 0, ssrc=1), [(0.0, rtp.build(4, 1, 160, 2, bytes(20)))])
    result = b.finish()
    found = [result.directory, *result.directory.iterdir()]
    assert {path.suffix for path in found} >= {".json", ".wav", ".pcap", ".xml"}
    assert all(path.stat().st_mode & 0o027 == 0 for path in found), found


@pytest.mark.parametrize("kept", [(), ("names",), ("names", "extensions", "documents"), ("digits",)])
def test_what_is_not_needed_is_not_stored(bench: Open, kept: tuple[str, ...]) -> None:  # SRS-21
    b = bench(keep=frozenset(kept))
    queue = b'<q:queue xmlns:q="urn:x">sales desk</q:queue></session>'
    b.offer(
        b.audio("1", "0 101", "rtpmap:101 telephone-event/8000"),
        b.audio("2"),
        metadata=document().replace(b"</session>", queue),
    )
    event = [rtp.build(101, n, 0, 1, struct.pack("!BBH", 5, 0x8A if n > 6 else 10, 160 * n)) for n in range(1, 10)]
    b.play([(0.02 * n, data) for n, data in enumerate(event)])
    result = b.finish()
    found = b"".join(path.read_bytes() for path in result.directory.iterdir())
    assert (b"sip:alice@example.com" in found) == ("names" in kept)
    assert (b"sales desk" in found) == ("extensions" in kept)
    assert bool(list(result.directory.glob("metadata-*.xml"))) == ("documents" in kept)
    assert bool(result.streams[0]["dtmf"]) == ("digits" in kept)
    # Who is in which file, when, and what there was to say about the documents stays.
    assert result.streams[0]["participants"] == ["Wp+JVL4DRd2sJw8xsS+kuA=="]
    assert [m["mode"] for m in result.summary["metadata"]] == ["complete"]
    assert b.library.find(session_id="831f0943-4783-43d0-835e-d2d8d2553844")


def test_ipv6(bench: Open) -> None:
    b = bench(address="::1")
    answer = b.offer(b.audio("1"))
    assert answer.connection is not None
    assert (answer.connection.family, answer.connection.address) == ("IP6", "::1")
    b.play(packets(tune(1), PCMU, 0, ssrc=1))
    result = b.finish()
    assert result.streams[0]["packets"]["received"] == 50
    assert matches(read(result.stream_file(1))[:, 0], tune(1), RATE) > 0.99


def test_hostile_datagrams_among_the_real_ones_do_no_harm(bench: Open) -> None:
    b = bench()
    b.offer(b.audio("1", "0 96 101", "rtpmap:96 opus/48000/2", "rtpmap:101 telephone-event/8000"))
    rng = random.Random(11)
    signal = tune(5)
    mixed: list[tuple[float, bytes]] = []
    for at, data in packets(signal, PCMU, 0, ssrc=1):
        mixed.append((at, data))
        for _ in range(8):
            rubbish = bytearray(rng.randbytes(rng.randrange(0, 200)))
            if rubbish:
                rubbish[0] = rng.choice((0x80, 0x90, 0xA0, 0x8F, rubbish[0]))
            if len(rubbish) > 1:
                rubbish[1] = rng.choice((0, 96, 101, 200, 201, 202, 203, rubbish[1]))
            mixed.append((at + 0.001, bytes(rubbish)))
    b.play(mixed)
    result = b.finish()
    assert result.state == "complete"
    assert result.summary["errors"] == []
    assert matches(read(result.stream_file(1))[:, 0], signal, RATE) > 0.9


def test_the_json_is_there_and_readable_during_the_call(bench: Open) -> None:
    b = bench()
    b.offer(b.audio("1"), b.audio("2"), metadata=document())
    b.play(packets(tune(12), PCMU, 0, ssrc=1), packets(other_tune(12), PCMU, 0, ssrc=2))
    b.recorder.writer.call(lambda: None).result(timeout=60)
    summary = json.loads((b.session.recordings[0].directory / "recording.json").read_text())
    assert summary["state"] == "recording"
    assert summary["streams"][0]["packets"]["received"] > 250
    assert summary["streams"][0]["file"] == "stream-1.wav"
    # What was received so far can be listened to, mix included.
    assert len(read(b.session.recordings[0].directory / "stream-1.wav")) > 10 * RATE
    assert len(read(b.session.recordings[0].directory / "mix.wav")) > 7 * RATE


def test_an_hour_long_call_keeps_nothing_in_memory(bench: Open) -> None:
    b = bench()
    b.offer(b.audio("1"), b.audio("2"))
    payload = PCMU_SECOND
    waiting = 0
    for second in range(3600):
        # Large packets keep the test short: the memory question is the same.
        b.play(
            [(0.0, rtp.build(0, second, second * 8000, 1, payload))],
            [(0.0, rtp.build(0, second, second * 8000, 2, payload))],
        )
        b.clock.advance(b.clock.now() + 1.0)
        if second % 60 == 0:
            b.recorder.writer.call(lambda: None).result(timeout=60)
            lines = b.session.recordings[0].pipeline.lines.values()
            pending = [len(line.track._pending) for line in lines if line.track is not None]
            pending.append(
                len(b.session.recordings[0].pipeline.mix._pending) if b.session.recordings[0].pipeline.mix else 0
            )
            waiting = max([waiting, *pending])
            assert all(
                len(s._held) < 10 for line in b.session.recordings[0].lines for s in line.receiver.sources.values()
            )
    result = b.finish()
    assert waiting < 12 * RATE
    assert result.summary["duration"] == pytest.approx(3600, abs=2)
    assert len(read(result.mix)) == pytest.approx(3600 * RATE, abs=2 * RATE)


PCMU_SECOND = next(iter(packets(tune(1), PCMU, 0, ssrc=1, ptime=1.0)))[1][12:]


def test_a_new_source_of_video_is_sent_a_full_intra_request(bench: Open) -> None:
    """SRS-24, where FIR was negotiated."""
    rig = bench()
    number = rig.rtcp.getsockname()[1]
    media = f"m=video {rig.sock.getsockname()[1]} RTP/AVPF 96\na=rtpmap:96 VP8/90000\na=label:1\n"
    answer = rig.offer(f"{media}a=rtcp-fb:* ccm fir\na=rtcp:{number}\na=sendonly")
    assert "a=rtcp-fb:* ccm fir" in answer.media[0].lines
    line = rig.session.lines[0]
    for sequence in range(3):
        packet = struct.pack("!BBHII", 0x80, 96, sequence, 3000, 0xABCD) + b"frame"
        line.rtp_datagram(packet, ("127.0.0.1", 4000), rig.clock.now())
    compound = rig.rtcp.recv(2048)
    assert compound.endswith(struct.pack("!BBHIIIB3x", 0x84, 206, 4, line.reporter.ssrc, 0, 0xABCD, 1))
    with pytest.raises(BlockingIOError):
        rig.rtcp.recv(2048)
