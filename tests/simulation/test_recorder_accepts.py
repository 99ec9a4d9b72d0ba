"""Which INVITEs are recorded: vendors that keep to no RFC, senders that forget what it asks for, and scanners."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from siprec import sdp
from siprec.audio.melody import matches
from siprec.recorder.acceptance import Acceptance
from tests.paths import DATA
from tests.simulation.recorder_world import BOTH_WAYS, SENDONLY, TUNES, Raw, invite
from tests.unit.recorder.recorder_harness import read

Open = Callable[..., Raw]
LENIENT = Acceptance("lenient")
STRICT = Acceptance("strict")


@pytest.fixture
def raw(tmp_path: Path) -> Iterator[Open]:
    made: list[Raw] = []

    def make(**options: Any) -> Raw:
        made.append(Raw(tmp_path / "rec", **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


SAMPLES = sorted(path.name for path in (DATA / "recorder").glob("*.sip"))
BARE = ("cube.sip", "cucm.sip")  # all that is known of the parties is in the headers


@pytest.mark.parametrize("name", SAMPLES)
def test_vendors_are_recorded_with_what_they_say_of_the_parties(raw: Open, name: str) -> None:
    r = raw(acceptance=LENIENT)
    final = r.begin((DATA / "recorder" / name).read_bytes(), ack=SENDONLY if name == "cucm.sip" else "")
    assert final.status == 200
    r.talk()
    assert r.request("BYE", cseq=900)[-1].status == 200
    (result,) = r.results()
    assert result.state == "complete"
    for number, tune in enumerate(TUNES, 1):
        assert matches(read(result.stream_file(number))[:, 0], tune, 8000) > 0.98
    summary = result.summary
    metadata = [n["aor"] for p in summary["participants"] for n in p["names"]]
    signalled = [p["aor"] for p in summary["recording_session"]["parties"]]
    known = signalled if name in BARE else metadata
    for party in ("+12025550101", "+12025550102"):
        assert any(party in each for each in known), (known, party)
    if name not in BARE:
        assert all(stream["participants"] for stream in result.streams)
    assert not summary["errors"]


@pytest.mark.parametrize(
    ("name", "element", "text"),
    [
        ("oracle.sip", "communication_sessions", "00FA080018803B69810C6D;encoding=hex"),
        ("oracle.sip", "participants", "true"),
        ("broadworks.sip", "communication_sessions", "8028549:1"),
        ("ribbon.sip", "groups", "4990206"),
        ("metaswitch.sip", "participants", "ingress"),
    ],
)
def test_extension_data_of_vendors_reach_the_recording(raw: Open, name: str, element: str, text: str) -> None:
    r = raw(acceptance=LENIENT)
    r.begin((DATA / "recorder" / name).read_bytes())
    r.request("BYE", cseq=900)
    (result,) = r.results()
    assert text in str([each.get("extensions") for each in result.summary[element]])


@pytest.mark.parametrize(
    ("name", "header", "value"),
    [
        ("avaya.sip", "User-to-User", "00FA080001003C65A1B2C3;encoding=hex"),
        ("avaya.sip", "X-Station-ID", "4711"),
        ("avaya.sip", "P-Asserted-Identity", '"Dan" <sip:+12025550101@example.net>'),
        ("cube.sip", "Cisco-Guid", "1766213212-0486674919-2832368234-3408049242"),
        ("cube.sip", "To", "<sip:+12025550102@10.0.0.8>"),
        ("webex.sip", "Session-ID", "4a6cd1a600105000a000b26e0b6d8a11;remote=00000000000000000000000000000000"),
        ("jambonz.sip", "X-Account-Sid", "ac-1"),
        ("metaswitch.sip", "X-Call-Correlation", "7f3c-0001"),
    ],
)
def test_headers_are_kept_with_the_recording(raw: Open, name: str, header: str, value: str) -> None:
    r = raw(acceptance=LENIENT)
    r.begin((DATA / "recorder" / name).read_bytes())
    r.request("BYE", cseq=900)
    (result,) = r.results()
    assert {"name": header, "value": value} in result.summary["recording_session"]["headers"]


def test_only_the_headers_that_are_wanted_are_kept(raw: Open) -> None:
    r = raw(acceptance=LENIENT, headers=("x-station-*",), keep=frozenset({"documents", "names", "extensions"}))
    r.begin((DATA / "recorder" / "avaya.sip").read_bytes())
    r.request("BYE", cseq=900)
    (result,) = r.results()
    assert result.summary["recording_session"]["headers"] == [{"name": "X-Station-ID", "value": "4711"}]


def test_headers_that_name_people_are_not_kept_without_names(raw: Open) -> None:
    r = raw(acceptance=LENIENT, keep=frozenset({"extensions"}))
    r.begin((DATA / "recorder" / "avaya.sip").read_bytes())
    r.request("BYE", cseq=900)
    (result,) = r.results()
    names = {each["name"] for each in result.summary["recording_session"]["headers"]}
    assert "X-Station-ID" in names
    assert not names & {"From", "To", "P-Asserted-Identity"}
    assert "+12025550101" not in str(result.summary["recording_session"]["parties"])


TAG = "Require: siprec"
CONTACT = "<sip:src@10.0.0.9:5060>"


@pytest.mark.parametrize(
    ("host", "policy", "clients", "request_", "status"),
    [
        ("10.0.0.9", "auto", (), invite(SENDONLY, TAG), 200),
        ("10.0.0.9", "auto", (), invite(SENDONLY), 421),
        ("10.0.0.9", "auto", (), invite(SENDONLY, TAG, contact=CONTACT), 400),
        ("10.0.0.9", "auto", (), invite("", TAG), 200),
        ("10.0.0.9", "auto", ("10.0.0.0/8",), invite(SENDONLY, contact=CONTACT), 200),
        ("10.0.0.9", "auto", ("10.0.0.0/8",), invite(BOTH_WAYS, contact=CONTACT), 200),
        ("10.0.0.9", "auto", ("10.0.0.0/8",), invite("", contact=CONTACT), 200),
        ("127.0.1.9", "auto", (), invite(SENDONLY, contact=CONTACT, host="127.0.1.9"), 200),
        ("127.0.1.9", "auto", (), invite("", contact=CONTACT, host="127.0.1.9"), 200),
        ("127.0.1.9", "auto", (), invite(BOTH_WAYS, contact=CONTACT, host="127.0.1.9"), 421),
        ("10.0.0.9", "strict", ("10.0.0.0/8",), invite(SENDONLY, contact=CONTACT), 421),
        ("10.0.0.9", "lenient", (), invite(SENDONLY, contact=CONTACT), 200),
        ("10.0.0.9", "lenient", (), invite(BOTH_WAYS, contact=CONTACT), 421),
        ("10.0.0.9", "lenient", (), invite("", contact=CONTACT), 421),
        ("10.0.0.9", "lenient", (), invite("", contact="<sip:a@10.0.0.9;x-nearend;x-refci=1>"), 200),
    ],
)
def test_what_is_taken_for_a_recording_session_depends_on_who_sends_it(
    raw: Open, host: str, policy: Any, clients: tuple[str, ...], request_: bytes, status: int
) -> None:
    r = raw(host=host, acceptance=Acceptance(policy, clients))
    assert r.begin(request_).status == status
    if status != 200:
        assert not r.results()
        assert r.recorder.counters["refused"] == 1


@pytest.mark.parametrize(
    "contact",
    [
        "<sip:src@10.0.0.9:5060;+sip.src",
        "<sip:src@10.0.0.9:5060;transport=udp;+sip.src",
        '"Recorder <sip:src@10.0.0.9:5060>;+sip.src',
        "<>;+sip.src",
        "",
        "sip:",
        "<tel:+1202>",
        "<sip:src@10.0.0.9:5060>>",
        "<<sip:src@10.0.0.9:5060>",
        "\x00",
    ],
)
def test_a_contact_that_cannot_be_read_costs_no_recording(raw: Open, contact: str) -> None:
    r = raw(acceptance=LENIENT)
    r.answers = {"OPTIONS": 200, "BYE": 200}
    assert r.begin(invite(SENDONLY, TAG, contact=contact)).status == 200
    r.talk(0.5)
    r.server.close()
    r.run(1)
    (bye,) = r.requests("BYE")  # it found its way
    assert bye.uri.startswith("sip:")
    assert len(r.results()) == 1


def test_a_contact_that_cannot_be_read_is_refused_by_a_strict_recorder(raw: Open) -> None:
    assert raw(acceptance=STRICT).begin(invite(SENDONLY, TAG, contact="<sip:src@10.0.0.9:5060;+sip.src")).status == 400


def test_an_invite_without_offer_gets_one_that_only_receives(raw: Open) -> None:
    r = raw(acceptance=Acceptance("auto", ["10.0.0.0/8"]), offerless_streams=3)
    final = r.begin(invite(""), ack=SENDONLY)
    offer = sdp.parse(final.body)
    assert [(m.kind, m.direction, m.label) for m in offer.media] == [
        ("audio", "recvonly", str(number)) for number in (1, 2, 3)
    ]
    assert all(m.port for m in offer.media)
    (session,) = r.recorder.sessions
    assert len(session.lines) == 2  # the answer has no third
    r.talk()
    r.request("BYE", cseq=9)
    (result,) = r.results()
    assert len(result.streams) == 2
    assert matches(read(result.stream_file(2))[:, 0], TUNES[1], 8000) > 0.98


def test_an_invite_without_offer_whose_ack_has_no_answer_is_recorded_if_media_come(raw: Open) -> None:
    r = raw(acceptance=Acceptance("auto", ["10.0.0.0/8"]))
    r.begin(invite(""))
    assert not list(r.library.root.rglob("*.json"))
    (session,) = r.recorder.sessions
    assert len(session.lines) == 2
    r.talk(3)
    r.request("BYE", cseq=9)
    assert [result.state for result in r.results()] == ["complete"]


def test_an_invite_without_offer_that_brings_no_media_leaves_nothing(raw: Open) -> None:
    r = raw(host="127.0.1.9", acceptance=Acceptance())
    assert r.begin(invite("", contact="<sip:100@127.0.1.9>", host="127.0.1.9")).status == 200
    r.run(40)
    r.request("BYE", cseq=9)
    assert r.results() == []


def test_a_client_has_no_more_sessions_than_it_may(raw: Open) -> None:
    r = raw(acceptance=LENIENT, max_sessions_per_client=1)
    assert r.begin(invite(SENDONLY, TAG)).status == 200
    r.received.clear()
    r.send(
        invite(SENDONLY, TAG).replace(b"Call-ID: 1@", b"Call-ID: 2@").replace(b"branch=z9hG4bK-1", b"branch=z9hG4bK-2"),
        1,
    )
    second = r.received[-1]
    assert second.status == 503  # type: ignore[union-attr]
    assert second.get("retry-after")


# -- bodies ------------------------------------------------------------------------------------------------------------

XML = (
    '<recording xmlns="urn:ietf:params:xml:ns:recording:1"><datamode>complete</datamode><participant '
    'participant_id="AgICAgICAgICAgICAgICAg=="><nameID aor="sip:dan@example.net"/></participant></recording>'
)


def multipart(*parts: tuple[str, str], end: str = "--b--\r\n") -> str:
    return "".join(f"--b\r\n{head}\r\n\r\n{body}\r\n" for head, body in parts) + end


SDP_PART = ("Content-Type: application/sdp", SENDONLY)
XML_PART = ("Content-Type: application/rs-metadata+xml\r\nContent-Disposition: recording-session", XML)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (multipart(SDP_PART, XML_PART), True),
        (multipart(("Odd Header: x\r\nContent-Type: application/sdp", SENDONLY), XML_PART), True),
        (multipart(("Content-Type: application/x-odd;;;=\r\nX: \u00e9", "stray"), SDP_PART, XML_PART), True),
        (multipart(("Content-Type: multipart/related", "no delimiter"), SDP_PART, XML_PART), True),
        (multipart(("Content-Type: image/png\r\nContent-Transfer-Encoding: uuencode", "x"), SDP_PART, XML_PART), True),
        (multipart(("Content-Type:", "x"), SDP_PART, XML_PART), True),
        (multipart((": no name\r\nNo colon", "x"), SDP_PART, XML_PART), True),
        (multipart(SDP_PART, ("Content-Type: application/rs-metadata+xml", XML)), True),
        (multipart(SDP_PART, ("Content-Type: application/xml\r\nContent-Disposition: render", XML)), True),
        (multipart(SDP_PART, (XML_PART[0] + "\r\nContent-Transfer-Encoding: odd", XML)), True),
        (multipart(SDP_PART, (XML_PART[0] + "\r\nContent-Transfer-Encoding: base64", XML)), False),
        (multipart(("Content-Type: application/sdp\r\nContent-Disposition: recording-session", SENDONLY)), False),
        (multipart(("Content-Type: text/plain", SENDONLY), XML_PART), True),
        (multipart(SDP_PART, XML_PART, end=""), True),
        (multipart(SDP_PART, XML_PART).replace("--b", "--wrong"), True),
        (multipart(*[("X: y", "z")] * 100, SDP_PART, XML_PART), True),
    ],
)
def test_an_odd_body_costs_no_recording(raw: Open, body: str, named: bool) -> None:
    r = raw(acceptance=LENIENT)
    assert r.begin(invite(body, TAG, content_type="multipart/mixed;boundary=b")).status == 200
    r.talk(0.5)
    r.request("BYE", cseq=9)
    (result,) = r.results()
    assert len(result.streams) == 2
    assert len(result.summary["participants"]) == named
    assert result.state == "complete"


def test_a_bye_with_an_odd_body_ends_the_session(raw: Open) -> None:
    r = raw(acceptance=LENIENT)
    r.begin(invite(SENDONLY, TAG))
    assert r.request("BYE", cseq=9, body=multipart(("Content-Type:", "x")))[-1].status == 200
    assert [result.state for result in r.results()] == ["complete"]
