"""What is kept of calls' messages, for how long, and what is never shown."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import pytest

from siprec.recording.events import SiprecEvent
from siprec.sip.transport import Hop
from siprec.trace.ring import DIALOG_OVERHEAD, MAX_STEPS, OVERHEAD, TraceRing, call_id_of, without_keys

PHONE = Hop("udp", "192.0.2.1", 5070, ("192.0.2.9", 5060))
SRS = Hop("tcp", "192.0.2.3", 5060, ("192.0.2.9", 5060))


def request(method: str, call_id: str, *, size: int = 0) -> bytes:
    return (
        f"{method} sip:bob@example.com SIP/2.0\r\nCall-ID: {call_id}\r\nCSeq: 1 {method}\r\n\r\n".encode() + b"x" * size
    )


def response(call_id: str, line: str = "200 OK") -> bytes:
    return f"SIP/2.0 {line}\r\ni: {call_id}\r\nCSeq: 1 INVITE\r\n\r\n".encode()


def test_a_call_and_its_recording_sessions_are_found_by_any_of_their_names_in_order() -> None:
    ring = TraceRing(1 << 20)
    ring.dialog("h3sh.1", "call")
    ring.sip(1.0, "in", PHONE, request("INVITE", "call"))
    ring.media(1.1, "out", "ng:udp:127.0.0.1:2223", "call", b"1_1 d7:command5:offere")
    ring.link("call", "session")
    ring.sip(1.3, "out", SRS, request("INVITE", "session"))
    ring.sip(1.2, "out", PHONE, response("call"))
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
    ring.sip(1.0, "in", PHONE, request("INVITE", "call"))
    ring.event(
        SiprecEvent("E_SIPREC_START", "1", "call", "session", "s", "sip:srs.example.com", "default", 1.0, "", 200)
    )
    ring.sip(1.1, "out", SRS, request("INVITE", "session"))
    assert [name for name, _ in ring.steps("call")] == ["call", "session"]


def test_registrations_and_pings_and_replies_to_them_take_no_room() -> None:
    ring = TraceRing(1 << 20)
    for method in ("REGISTER", "OPTIONS", "PUBLISH"):
        ring.sip(1.0, "in", PHONE, request(method, method))
        ring.sip(1.0, "out", PHONE, response(method))
    assert len(ring) == 0
    assert ring.octets == 0
    ring.sip(2.0, "in", PHONE, request("INVITE", "call"))
    ring.sip(2.0, "in", PHONE, request("OPTIONS", "call"))
    assert len(ring.steps("call")) == 2


def test_the_oldest_dialogs_go_first_and_their_links_with_them() -> None:
    ring = TraceRing(20_000)
    for number in range(100):
        ring.dialog(f"d{number}", f"call-{number}")
        ring.sip(float(number), "in", PHONE, request("INVITE", f"call-{number}", size=500))
        ring.link(f"call-{number}", f"session-{number}")
        ring.sip(float(number), "out", SRS, request("INVITE", f"session-{number}", size=500))
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
                ring.sip(float(number), "in", hop, bytes(bytearray(message)))
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
    ring = TraceRing(10 << 20)
    for number in range(3 * MAX_STEPS):
        ring.sip(float(number), "in", PHONE, request("INFO" if number else "INVITE", "call"))
    times = [step.time for _, step in ring.steps("call")]
    assert len(times) == MAX_STEPS
    assert times[: MAX_STEPS // 2] == [float(n) for n in range(MAX_STEPS // 2)]
    assert times[-1] == 3 * MAX_STEPS - 1
    assert ring.dropped("call") == 2 * MAX_STEPS
    assert ring.octets == DIALOG_OVERHEAD + sum(len(step.data) + OVERHEAD for _, step in ring.steps("call"))


def test_a_call_id_is_found_however_it_is_written_and_never_in_a_body() -> None:
    assert call_id_of(b"BYE sip:x SIP/2.0\r\nCall-ID: a@b\r\n\r\n") == "a@b"
    assert call_id_of(b"BYE sip:x SIP/2.0\r\nCALL-id \t: a@b \r\n\r\n") == "a@b"
    assert call_id_of(b"BYE sip:x SIP/2.0\ni:a\n\n") == "a"
    assert call_id_of(b"BYE sip:x SIP/2.0\r\nVia: x\r\n\r\nCall-ID: no") == ""
    assert call_id_of(b"") == ""
    assert call_id_of(b"\r\nCall-ID: cut") == "cut"


def test_media_keys_are_not_kept() -> None:
    key = "WnD7c1ksDGs+dIefCEo8omPg4uO8DYIinNGL5yxQ"
    message = request("INVITE", "call") + f"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{key}|2^20\r\n".encode()
    hidden = without_keys(message)
    assert key.encode() not in hidden
    assert len(hidden) == len(message)
    assert hidden.endswith(b"|2^20\r\n")
    ring = TraceRing(1 << 20)
    ring.sip(1.0, "in", PHONE, message)
    ring.media(1.0, "out", "m", "call", b"1 d3:sdp5:x" + message)
    assert all(key.encode() not in step.data for _, step in ring.steps("call"))


@pytest.mark.parametrize("header", ["Authorization", "Proxy-Authorization", "PROXY-AUTHORIZATION \t"])
@pytest.mark.parametrize("parameter", ['response="{}"', "response={}", '\r\n\tRESPONSE = "{}"'])
def test_responses_of_digest_are_not_kept(header: str, parameter: str) -> None:
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


def test_a_message_without_credentials_is_kept_as_it_is() -> None:
    message = b"SIP/2.0 200 OK\r\nCall-ID: a\r\n\r\nresponse=0123456789abcdef"
    assert without_keys(message) is message
