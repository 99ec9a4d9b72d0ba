"""SRTP towards the recorder (SEC-06, SEC-16): keys by SDP, audio as without, wrong keys counted."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from siprec import sdp
from siprec.audio.codecs import codec
from siprec.audio.melody import caller_melody, match, to_int16
from siprec.audio.packets import packets
from siprec.recorder.errors import OfferError
from siprec.recorder.settings import RecorderSettings
from siprec.rtp import srtp
from siprec.sdp import crypto as sdp_crypto
from siprec.sdp.crypto import Crypto, Suite

from .recorder_harness import Bench, read


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    found = Bench(tmp_path)
    yield found
    found.close()


def melody(ssrc: int = 1, sequence: int = 65500) -> list[tuple[float, bytes]]:
    return list(packets(to_int16(caller_melody(3, 8000)), codec("PCMU", 8000), 0, ssrc=ssrc, sequence=sequence))


def secure(bench: Bench, *lines: Crypto, proto: str = "RTP/SAVP", label: str = "1") -> str:
    block = bench.audio(label, "0", *(f"crypto:{line.value()}" for line in lines))
    return block.replace("RTP/AVP", proto)


def encrypted(line: Crypto, stream: list[tuple[float, bytes]]) -> list[tuple[float, bytes]]:
    encryptor = srtp.Encryptor(line)
    return [(at, encryptor.rtp(data) or b"") for at, data in stream]


def key_of(answer: sdp.MediaDescription) -> Crypto:
    return sdp_crypto.parse(answer.attribute("crypto") or "")


@pytest.mark.parametrize("suite", srtp.SUPPORTED)
@pytest.mark.parametrize("proto", ["RTP/SAVP", "RTP/SAVPF"])
def test_an_srtp_stream_is_recorded_like_any_other_sec_06(bench: Bench, suite: str, proto: str) -> None:
    line = sdp_crypto.generate(3, suite)
    unknown = Crypto(1, Suite("F8_128_HMAC_SHA1_80", 16), bytes(30))
    answer = bench.offer(secure(bench, unknown, line, proto=proto))
    assert answer.media[0].proto == proto
    ours = key_of(answer.media[0])
    assert (ours.tag, ours.suite) == (3, line.suite)
    assert ours.key != line.key  # SEC-16
    assert len(answer.media[0].attributes("crypto")) == 1
    bench.play(encrypted(line, melody()))  # the sequence number wraps on the way
    result = bench.finish()
    stream = result.streams[0]
    assert stream["srtp"] == suite
    assert (stream["packets"]["received"], stream["packets"]["srtp_rejected"]) == (150, 0)
    score, _ = match(read(result.mix)[:, 0], to_int16(caller_melody(3, 8000)), 8000)
    assert score > 0.98


def test_reports_go_both_ways_encrypted(bench: Bench) -> None:
    line = sdp_crypto.generate()
    answer = bench.offer(secure(bench, line))
    encryptor, decryptor = srtp.Encryptor(line), srtp.Decryptor(key_of(answer.media[0]))
    name = b"\x01\x03abc" + b"\0" * 3
    report = struct.pack("!BBHIIIIII", 0x80, 200, 6, 1, 3_900_000_000, 0, 0, 50, 8000) + struct.pack(
        "!BBHI", 0x81, 202, 3, 1
    )
    bench.play(encrypted(line, melody()))
    bench.rtcp.sendto(encryptor.rtcp(report + name) or b"", (bench.address, bench.ports[0] + 1))
    bench.wait(10)
    clear = [decryptor.rtcp(bench.rtcp.recv(2000))]
    result = bench.finish()
    while True:
        try:
            clear.append(decryptor.rtcp(bench.rtcp.recv(2000)))
        except BlockingIOError:
            break
    assert clear[0] is not None
    assert clear[0][1] == 201  # RR
    assert clear[0][8:12] == struct.pack("!I", 1)  # on our SSRC
    assert clear[-1] is not None
    assert clear[-1][-7] == 203  # BYE at the end
    assert result.streams[0]["cnames"] == {"00000001": "abc"}
    assert result.streams[0]["packets"]["srtp_rejected"] == 0


def test_the_wrong_key_is_counted_and_gives_the_stream_to_nobody(bench: Bench) -> None:
    line = sdp_crypto.generate()
    bench.offer(secure(bench, line))
    wrong = sdp_crypto.generate()
    bench.play(encrypted(wrong, melody()))
    bench.play(melody())  # not encrypted at all
    bench.rtcp.sendto(bytes.fromhex("80c9000100000001"), (bench.address, bench.ports[0] + 1))
    bench.poller.pump()
    bench.play(encrypted(line, melody()))
    result = bench.finish()
    stream = result.streams[0]
    assert stream["packets"]["srtp_rejected"] == 301
    assert (stream["packets"]["received"], stream["packets"]["malformed"]) == (150, 0)
    score, _ = match(read(result.mix)[:, 0], to_int16(caller_melody(3, 8000)), 8000)
    assert score > 0.98


def test_an_offer_again_changes_no_key_and_a_new_key_loses_no_packet(bench: Bench) -> None:
    line = sdp_crypto.generate()
    first = bench.offer(secure(bench, line))
    again = bench.offer(secure(bench, line))
    assert first.to_bytes() == again.to_bytes()  # SDP-08
    new = sdp_crypto.generate()
    stream = melody()
    start = encrypted(line, stream[:70])
    bench.play(start[:60])
    changed = bench.offer(secure(bench, new))
    assert key_of(changed.media[0]).key != key_of(first.media[0]).key
    bench.play(start[60:], lines=(0,))
    bench.play([(at - stream[70][0], data) for at, data in encrypted(new, stream[70:])])
    result = bench.finish()
    assert result.streams[0]["packets"]["received"] == 150
    assert result.streams[0]["packets"]["srtp_rejected"] == 0


def test_srtp_that_cannot_be_decrypted_is_declined_and_the_rest_recorded(bench: Bench) -> None:
    dtls = bench.audio("3").replace("RTP/AVP", "UDP/TLS/RTP/SAVP")
    answer = bench.offer(
        secure(bench, Crypto(1, Suite("F8_128_HMAC_SHA1_80", 16), bytes(30))), bench.audio("2"), dtls, secure(bench)
    )
    assert [media.port != 0 for media in answer.media] == [False, True, False, False]
    assert "crypto" not in str(answer.media[1].lines)


@pytest.mark.parametrize(("policy", "taken"), [("off", [True, False]), ("require", [False, True])])
def test_what_is_taken_is_a_matter_of_policy(tmp_path: Path, policy: str, taken: list[bool]) -> None:
    bench = Bench(tmp_path, RecorderSettings(srtp=policy))  # type: ignore[arg-type]
    answer = bench.offer(bench.audio("1"), secure(bench, sdp_crypto.generate(), label="2"))
    assert [media.port != 0 for media in answer.media] == taken
    bench.close()


def test_a_plain_offer_where_srtp_is_required_is_refused_with_488_sec_05(tmp_path: Path) -> None:
    bench = Bench(tmp_path, RecorderSettings(srtp="require"))
    with pytest.raises(OfferError) as refused:
        bench.offer(bench.audio("1"), bench.audio("2"))
    assert refused.value.status == 488
    bench.close()


def test_no_key_is_in_what_the_recorder_keeps(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    line = sdp_crypto.generate()
    with caplog.at_level("DEBUG"):
        answer = bench.offer(secure(bench, line))
        bench.play(encrypted(line, melody()))
        result = bench.finish()
    kept = b"".join(path.read_bytes() for path in result.directory.rglob("*") if path.suffix in (".json", ".xml"))
    for crypto in (line, key_of(answer.media[0])):
        inline = crypto.value().split("inline:")[1].encode()
        assert inline not in kept + caplog.text.encode()
