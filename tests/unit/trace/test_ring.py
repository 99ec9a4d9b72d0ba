"""What is kept of calls' messages, for how long, and what is never shown."""

from __future__ import annotations

import socket
import tracemalloc
from dataclasses import replace

import pytest

from siprec.media.bencode import encode
from siprec.recording.events import SiprecEvent
from siprec.sip.transport import Hop
from siprec.trace import ladder, pcap
from siprec.trace.hep import HepSender
from siprec.trace.ring import DIALOG_OVERHEAD, MAX_STEPS, OVERHEAD, TraceRing, call_id_of, without_keys
from siprec.trace.tap import Tap

PHONE = Hop("udp", "192.0.2.1", 5070, ("192.0.2.9", 5060))
SRS = Hop("tcp", "192.0.2.3", 5060, ("192.0.2.9", 5060))


def request(method: str, call_id: str, *, size: int = 0) -> bytes:
    return (
        f"{method} sip:bob@example.com SIP/2.0\r\nCall-ID: {call_id}\r\nCSeq: 1 {method}\r\n\r\n".encode() + b"x" * size
    )


def response(call_id: str, line: str = "200 OK") -> bytes:
    return f"SIP/2.0 {line}\r\ni: {call_id}\r\nCSeq: 1 INVITE\r\n\r\n".encode()


def test_a_call_and_its_recording_sessions_are_found_by_any_of_their_names_in_order() -> None:
    times = iter((1.0, 1.1, 1.3, 1.2))
    ring = TraceRing(1 << 20, lambda: next(times))
    ring.dialog("h3sh.1", "call")
    ring.sip("in", PHONE, request("INVITE", "call"))
    ring.media("out", "ng:udp:127.0.0.1:2223", "call", b"1_1 d7:command5:offere")
    ring.link("call", "session")
    ring.sip("out", SRS, request("INVITE", "session"))
    ring.sip("out", PHONE, response("call"))
    for name in ("h3sh.1", "call", "session"):
        assert ring.find(name) == "call"
    assert [(name, step.time) for name, step in ring.steps("call")] == [
        ("call", 1.0),
        ("call", 1.1),
        ("call", 1.2),
        ("session", 1.3),
    ]
    assert ring.owner("session") == "call"
    assert ring.find("other") == ""


def test_a_session_is_linked_by_the_event_as_well() -> None:
    ring = TraceRing(1 << 20)
    ring.sip("in", PHONE, request("INVITE", "call"))
    ring.event(
        SiprecEvent("E_SIPREC_START", "1", "call", "session", "s", "sip:srs.example.com", "default", 1.0, "", 200)
    )
    ring.sip("out", SRS, request("INVITE", "session"))
    assert [name for name, _ in ring.steps("call")] == ["call", "session"]


def test_registrations_and_pings_and_replies_to_them_take_no_room() -> None:
    ring = TraceRing(1 << 20)
    for method in ("REGISTER", "OPTIONS", "PUBLISH"):
        ring.sip("in", PHONE, request(method, method))
        ring.sip("out", PHONE, response(method))
    assert len(ring) == 0
    assert ring.octets == 0
    ring.sip("in", PHONE, request("INVITE", "call"))
    ring.sip("in", PHONE, request("OPTIONS", "call"))
    assert len(ring.steps("call")) == 2


def test_the_oldest_dialogs_go_first_and_their_links_with_them() -> None:
    ring = TraceRing(20_000)
    for number in range(100):
        ring.dialog(f"d{number}", f"call-{number}")
        ring.sip("in", PHONE, request("INVITE", f"call-{number}", size=500))
        ring.link(f"call-{number}", f"session-{number}")
        ring.sip("out", SRS, request("INVITE", f"session-{number}", size=500))
    assert ring.octets <= 20_000
    assert ring.find("call-0") == ring.find("session-0") == ring.find("d0") == ""
    assert ring.find("session-99") == "call-99"
    each = 500 + OVERHEAD + DIALOG_OVERHEAD
    assert ring.octets > 20_000 - 2 * each
    assert each * len(ring) <= ring.octets < (each + 100) * len(ring)


def test_the_limit_is_the_memory_that_is_really_used() -> None:
    ring = TraceRing(500_000)
    messages = [request("INVITE", f"call-{number}", size=500) for number in range(1000)]

    def fill() -> None:
        for number, message in enumerate(messages):
            hop = replace(PHONE, port=10_000 + number)
            for _ in range(8):
                ring.sip("in", hop, bytes(bytearray(message)))
            ring.dialog(f"d{number}", f"call-{number}")
            ring.link(f"call-{number}", f"session-{number}")

    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        fill()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 400_000 < ring.octets <= 500_000
    assert 0.6 * ring.octets < grown < 1.2 * ring.octets


def test_of_a_chatty_dialog_the_beginning_and_the_newest_are_kept() -> None:
    times = iter(range(3 * MAX_STEPS))
    ring = TraceRing(10 << 20, lambda: float(next(times)))
    for number in range(3 * MAX_STEPS):
        ring.sip("in", PHONE, request("INFO" if number else "INVITE", "call"))
    kept = [step.time for _, step in ring.steps("call")]
    assert len(kept) == MAX_STEPS
    assert kept[: MAX_STEPS // 2] == [float(n) for n in range(MAX_STEPS // 2)]
    assert kept[-1] == 3 * MAX_STEPS - 1
    assert ring.dropped("call") == 2 * MAX_STEPS
    assert ring.octets == DIALOG_OVERHEAD + sum(len(step.data) + OVERHEAD for _, step in ring.steps("call"))


def test_a_call_id_is_found_however_it_is_written_and_never_in_a_body() -> None:
    assert call_id_of(b"BYE sip:x SIP/2.0\r\nCall-ID: a@b\r\n\r\n") == "a@b"
    assert call_id_of(b"BYE sip:x SIP/2.0\r\nCALL-id \t: a@b \r\n\r\n") == "a@b"
    assert call_id_of(b"BYE sip:x SIP/2.0\ni:a\n\n") == "a"
    assert call_id_of(b"BYE sip:x SIP/2.0\r\nVia: x\r\n\r\nCall-ID: no") == ""
    assert call_id_of(b"") == ""
    assert call_id_of(b"\r\nCall-ID: cut") == "cut"


def test_media_keys_are_not_shown() -> None:
    key = "WnD7c1ksDGs+dIefCEo8omPg4uO8DYIinNGL5yxQ"
    message = request("INVITE", "call") + f"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{key}|2^20\r\n".encode()
    hidden = without_keys(message)
    assert key.encode() not in hidden
    assert len(hidden) == len(message)
    assert hidden.endswith(b"|2^20\r\n")
    ring = TraceRing(1 << 20)
    ring.sip("in", PHONE, message)
    ring.media("out", "m", "call", b"1 d3:sdp5:x" + message)
    assert all(key.encode() not in step.data for _, step in ring.steps("call"))


@pytest.mark.parametrize("header", ["Authorization", "Proxy-Authorization", "PROXY-AUTHORIZATION \t"])
@pytest.mark.parametrize("parameter", ['response="{}"', "response={}", '\r\n\tRESPONSE = "{}"'])
def test_responses_of_digest_are_not_shown(header: str, parameter: str) -> None:
    secret = "6629fae49393a05397450978507c4ef1"
    message = (
        f'REGISTER sip:x SIP/2.0\r\nVia: x\r\n{header}: Digest username="bob", nonce="n", uri="sip:x", '
        f"{parameter.format(secret)}, algorithm=MD5\r\nCall-ID: a\r\n\r\nresponse=body"
    ).encode()
    hidden = without_keys(message)
    assert secret.encode() not in hidden
    assert len(hidden) == len(message)
    assert b'username="bob"' in hidden
    assert b"algorithm=MD5" in hidden


def test_no_export_has_keys_or_digests() -> None:
    key, digest = "WnD7c1ksDGs+dIefCEo8omPg4uO8DYIinNGL5yxQ", "6629fae49393a05397450978507c4ef1"
    message = (
        "INVITE sip:x SIP/2.0\r\nCall-ID: call\r\nCSeq: 1 INVITE\r\n"
        f'Proxy-Authorization: Digest username="bob", response="{digest}"\r\nContent-Type: application/sdp\r\n\r\n'
        f"m=audio 4000 RTP/SAVP 0\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{key}\r\n"
    ).encode()
    ring = TraceRing(1 << 20)
    collector = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    collector.bind(("127.0.0.1", 0))
    collector.settimeout(10)
    tap = Tap(ring, HepSender(collector.getsockname(), node=1))
    tap.sip("in", PHONE, message)
    ring.media("out", "m", "call", b"1_1 " + encode({"command": "offer", "sdp": message}))
    steps = ring.steps("call")
    shown = ladder.build("call", steps)
    exports = [
        ladder.draw(shown, bodies=True).encode(),
        repr(shown).encode(),
        pcap.export(step for _, step in steps),
        collector.recv(65536),
    ]
    tap.close()
    collector.close()
    assert all(len(export) > 200 for export in exports)
    for secret in (key, digest):
        assert all(secret.encode() not in export for export in exports)


@pytest.mark.parametrize(
    "head",
    [
        "Call-ID: a@b\r\nVia: x\r\n\r\n",
        "Call-ID:a@b\r\n\r\n",
        "Call-ID:  a@b \r\n\r\n",
        "CALL-ID : a@b\r\n\r\n",
        "i: a@b\r\n\r\n\r\nCall-ID: body\r\n",
        "Call-ID: a@b",
        "Call-ID: a@b\n\n",
    ],
)
def test_messages_of_a_call_are_together_however_its_call_id_is_written(head: str) -> None:
    ring = TraceRing(1 << 20)
    ring.sip("in", PHONE, request("INVITE", "a@b"))
    ring.sip("in", PHONE, f"BYE sip:x SIP/2.0\r\n{head}".encode())
    assert len(ring.steps("a@b")) == 2


def test_a_call_id_that_is_no_utf_8_is_found() -> None:
    ring = TraceRing(1 << 20)
    ring.sip("in", PHONE, b"INVITE sip:x SIP/2.0\r\nCall-ID: a\xe4\r\n\r\n")
    assert len(ring.steps(b"a\xe4".decode("utf-8", "surrogateescape"))) == 1


def test_our_address_is_found_out_for_a_socket_that_is_bound_to_all_of_them() -> None:
    ring = TraceRing(1 << 20, source=lambda peer: {"192.0.2.1": "192.0.2.9"}.get(peer, ""))
    for hop in (replace(PHONE, local=("0.0.0.0", 5060)), replace(PHONE, host="198.51.100.1", local=("0.0.0.0", 5060))):
        ring.sip("in", hop, request("INVITE", "call"))
    assert [step.local for _, step in ring.steps("call")] == [("192.0.2.9", 5060), ("0.0.0.0", 5060)]


def test_a_message_without_credentials_is_kept_as_it_is() -> None:
    message = b"SIP/2.0 200 OK\r\nCall-ID: a\r\n\r\nresponse=0123456789abcdef"
    assert without_keys(message) is message
