"""The drawing of a call's messages."""

from __future__ import annotations

from siprec.media.bencode import encode
from siprec.trace import ladder
from siprec.trace.ring import Step

US = ("192.0.2.9", 5060)
ALICE, BOB, SRS = ("192.0.2.1", 5070), ("192.0.2.2", 5080), ("2001:db8::3", 5060)


def sip(time: float, direction: str, peer: tuple[str, int], text: str) -> Step:
    return Step(time, direction, "sip", "udp", US, peer, text.replace("\n", "\r\n").encode())


def invite(call_id: str) -> str:
    return f"INVITE sip:bob@x SIP/2.0\nCall-ID: {call_id}\nCSeq: 1 INVITE\nContent-Type: application/sdp\n\nv=0\n"


def ok(method: str) -> str:
    return f"SIP/2.0 200 OK\nCSeq: 1 {method}\n\n"


STEPS = [
    ("call", sip(10.0, "in", ALICE, invite("call"))),
    (
        "call",
        Step(10.01, "out", "media", "", ("", 0), ("relay", 0), b"7_1 " + encode({"command": "offer", "sdp": "v=0"})),
    ),
    ("call", Step(10.02, "in", "media", "", ("", 0), ("relay", 0), b"7_1 " + encode({"result": "ok"}))),
    ("call", sip(10.1, "out", BOB, invite("call"))),
    ("call", sip(11.0, "in", BOB, ok("INVITE"))),
    ("call", sip(11.0, "out", ALICE, ok("INVITE"))),
    ("rs", sip(11.2, "out", SRS, invite("rs"))),
    ("rs", sip(11.4, "in", SRS, "SIP/2.0 486 Busy Here\nCSeq: 1 INVITE\n\n")),
]


def test_places_are_named_by_what_they_are_and_rungs_by_what_is_said() -> None:
    found = ladder.build("call", STEPS)
    assert found.places == (
        "caller 192.0.2.1:5070",
        "siprec",
        "callee 192.0.2.2:5080",
        "SRS [2001:db8::3]:5060",
        "media relay",
    )
    assert [(rung.kind, rung.title) for rung in found.rungs] == [
        ("cs", "INVITE (SDP)"),
        ("media", "offer"),
        ("media", "ok"),
        ("cs", "INVITE (SDP)"),
        ("cs", "200 OK (INVITE)"),
        ("cs", "200 OK (INVITE)"),
        ("rs", "INVITE (SDP)"),
        ("rs", "486 Busy Here (INVITE)"),
    ]
    assert (found.rungs[0].source, found.rungs[0].target) == ("caller 192.0.2.1:5070", "siprec")
    assert (found.rungs[-1].source, found.rungs[-1].target) == ("SRS [2001:db8::3]:5060", "siprec")
    assert "sdp: v=0" in found.rungs[1].text


def test_arrows_start_and_end_in_the_columns_of_who_speaks() -> None:
    lines = ladder.draw(ladder.build("call", STEPS)).splitlines()
    columns = [
        10 + (len("SRS [2001:db8::3]:5060") + 6) // 2 + n * (len("SRS [2001:db8::3]:5060") + 6) for n in range(5)
    ]
    assert all(len(line) <= columns[-1] + 1 for line in lines[1:])
    first, last = lines[1], lines[-1]
    assert first.startswith("   +0.000")
    assert first[columns[0]] == "|"
    assert first[columns[0] + 1 : columns[1]].strip("-> ") == "INVITE (SDP)"
    assert first[columns[1] - 1] == ">"
    assert last.startswith("   +1.400")
    assert last[columns[1] + 1] == "<"
    assert "486 Busy Here (INVITE)" in last[columns[1] : columns[3]]


def test_with_bodies_the_messages_are_there_and_control_characters_are_not() -> None:
    steps = [("call", sip(1.0, "in", ALICE, "INFO sip:x SIP/2.0\nSubject: \x1b[31mred\x07\n\n"))]
    drawn = ladder.draw(ladder.build("call", steps), bodies=True)
    assert "INFO sip:x SIP/2.0" in drawn
    assert "\x1b" not in drawn
    assert "\x07" not in drawn
    assert "?[31mred?" in drawn


def test_nonsense_is_drawn_too() -> None:
    steps = [
        ("call", sip(1.0, "in", ALICE, "")),
        ("call", sip(1.0, "in", ALICE, "SIP/2.0")),
        ("call", sip(1.0, "out", ALICE, "SIP/2.0 200 OK\nCSeq:")),
        ("call", Step(1.0, "in", "media", "", ("", 0), ("relay", 0), b"\xff\xfe no bencode")),
        ("call", Step(1.0, "in", "media", "", ("", 0), ("relay", 0), b"")),
    ]
    assert len(ladder.build("call", steps).rungs) == 5
    assert ladder.draw(ladder.build("call", steps), bodies=True)
    assert ladder.draw(ladder.build("call", [])).strip() == "siprec"
