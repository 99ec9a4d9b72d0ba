"""Metadata as they come: drafts, vendors, damage. What can be understood is; nothing costs the audio."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siprec.audio.codecs import codec
from siprec.audio.melody import callee_melody, caller_melody, matches, to_int16
from siprec.audio.packets import packets
from siprec.metadata.document import Document, NameId
from siprec.metadata.errors import MetadataError
from siprec.metadata.read import parse
from siprec.metadata.values import NAMESPACE
from siprec.recorder.recording_result import RecordingResult
from siprec.recorder.settings import RecorderSettings
from tests.unit.recorder.recorder_harness import Bench, read

PCMU = codec("PCMU", 8000)
RATE = 8000
Open = Callable[[], Bench]
TUNES = to_int16(caller_melody(2, RATE)), to_int16(callee_melody(2, RATE))
LEGACY = "urn:ietf:params:xml:ns:recording"


def uuid(number: int) -> str:
    return f"urn:uuid:{number:08d}-4e6f-4d8b-a2df-b94e2f4269b8"


def b64(number: int) -> str:
    return base64.b64encode(bytes([number]) * 16).decode()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Open]:
    made: list[Bench] = []

    def make() -> Bench:
        made.append(Bench(tmp_path / f"rec{len(made)}", RecorderSettings()))
        return made[-1]

    yield make
    for each in made:
        each.close()


def record(b: Bench, metadata: bytes, labels: tuple[str, str] = ("1", "2")) -> RecordingResult:
    """One call whose two parties talk for two seconds."""
    b.offer(b.audio(labels[0]), b.audio(labels[1]), metadata=metadata)
    b.play(*(packets(tune, PCMU, 0, ssrc=number) for number, tune in enumerate(TUNES, 1)))
    b.finish()
    (found,) = b.library
    for number, tune in enumerate(TUNES, 1):
        assert matches(read(found.stream_file(number))[:, 0], tune, RATE) > 0.98
    return found


def parties(result: RecordingResult) -> list[tuple[str, str]]:
    return [(n["aor"], n["name"]) for p in result.summary["participants"] for n in p["names"]]


def senders(result: RecordingResult) -> list[str]:
    """The address of who is heard in each stream."""
    names = {p["participant_id"]: p["names"][0]["aor"] for p in result.summary["participants"] if p["names"]}
    return [",".join(names[each] for each in stream["participants"]) for stream in result.streams]


ORACLE = f"""<?xml version='1.0' encoding='UTF-8'?><recording xmlns='{LEGACY}'><dataMode>complete</dataMode>
<session id="{b64(1)}"><associate-time>2026-06-18T17:15:35</associate-time>
<extensiondata xmlns:apkt="http://acmepacket.com/siprec/extensiondata"><apkt:ucid>00FA08;encoding=hex</apkt:ucid>
<apkt:callerOrig>true</apkt:callerOrig></extensiondata></session>
<participant id="{b64(2)}" session="{b64(1)}"><nameID aor="sip:dan@example.net"><name>Dan</name></nameID>
<send>{b64(4)}</send><associate-time>2026-06-18T17:15:35</associate-time></participant>
<participant id="{b64(3)}" session="{b64(1)}"><nameID aor="sip:eve@example.net"/><send>{b64(5)}</send></participant>
<stream id="{b64(4)}" session="{b64(1)}"><label>1</label><mode>separate</mode></stream>
<stream id="{b64(5)}" session="{b64(1)}"><label>2</label><mode>separate</mode></stream></recording>"""
BROADWORKS = f"""<?xml version="1.0" encoding="UTF-8"?><recording xmlns="{LEGACY}"><dataMode>complete</dataMode>
<group id="{uuid(1)}"><initiator>sip:dan@example.net</initiator></group>
<session id="{uuid(2)}" group="{uuid(1)}"><start-time>2026-03-28T06:51:35-04:00</start-time></session>
<participant id="{uuid(3)}" session="{uuid(2)}"><aor>sip:dan@example.net</aor><name>Dan</name>
<send><id>{uuid(5)}</id></send></participant>
<participant id="{uuid(4)}" session="{uuid(2)}"><aor>sip:eve@example.net</aor><send><id>{uuid(6)}</id></send>
</participant>
<stream id="{uuid(5)}" session="{uuid(2)}"><label>1</label></stream>
<stream id="{uuid(6)}" session="{uuid(2)}"><label>2</label></stream>
<extensiondata id="{uuid(7)}" parent="{uuid(2)}"><data xmlns="http://schema.example.net/rec"><callID>callhalf-1:0</callID>
</data></extensiondata></recording>"""
WRAPPED = f"""<?xml version="1.0"?><recording_metadata xmlns="urn:ietf:params:xml:ns:siprec">
<dataMode>complete</dataMode>
<recording id="{uuid(9)}"><requestor>SRC</requestor><type>selective</type></recording>
{BROADWORKS[BROADWORKS.index("<group") :].replace("</recording>", "</recording_metadata>")}"""
NESTED = f"""<recording xmlns="{LEGACY}"><session session_id="abc123">
<participant participant_id="p1" session_id="abc123"><aor>sip:dan@example.net</aor><name>Dan</name>
<send>s1</send></participant>
<participant participant_id="p2"><nameID><aor>sip:eve@example.net</aor></nameID><send>s2</send></participant>
<stream streamid="s1" label="1"/><stream streamid="s2" label="2"/></session></recording>"""
LATE = f"""<recording xmlns="{LEGACY}"><datamode>complete</datamode><session session_id="{b64(1)}">
<groupRef>{b64(9)}</groupRef></session>
<participant participant_id="{b64(2)}" name="Dan" aor="sip:dan@example.net"/>
<participant participant_id="{b64(3)}"><nameID>sip:eve@example.net</nameID></participant>
<stream stream_id="{b64(4)}" session_id="{b64(1)}"><label>1</label><associate-time>2026-06-25T04:50:41Z</associate-time>
</stream><stream stream_id="{b64(5)}" session_id="{b64(1)}" participant="{b64(3)}"><label>2</label></stream>
<participantsessionassoc participant_id="{b64(2)}" session_id="{b64(1)}"/>
<participantsessionassoc participant_id="{b64(3)}" session_id="{b64(1)}"/>
<participantstreamassoc participant_id="{b64(2)}"><send>{b64(4)}</send></participantstreamassoc></recording>"""


@pytest.mark.parametrize(
    "text", [ORACLE, BROADWORKS, WRAPPED, NESTED, LATE], ids=["oracle", "broadworks", "wrapped", "nested", "late"]
)
def test_parties_names_and_who_sends_what_are_read_from_every_draft(bench: Open, text: str) -> None:
    result = record(bench(), text.encode())
    assert parties(result) == [("sip:dan@example.net", "Dan"), ("sip:eve@example.net", "")]
    assert senders(result) == ["sip:dan@example.net", "sip:eve@example.net"]
    assert [stream["label"] for stream in result.streams] == ["1", "2"]
    (session,) = result.summary["communication_sessions"]
    assert len(session["participants"]) == 2
    assert result.state == "complete"
    assert not result.summary["errors"]
    assert result.summary["metadata"][0]["findings"]


def test_extension_data_go_to_what_they_are_about(bench: Open) -> None:
    oracle = record(bench(), ORACLE.encode()).summary["communication_sessions"][0]["extensions"]
    (data,) = oracle
    assert [(c["element"].partition("}")[2], c["text"]) for c in data["children"]] == [
        ("ucid", "00FA08;encoding=hex"),
        ("callerOrig", "true"),
    ]
    broadworks = record(bench(), BROADWORKS.encode()).summary
    assert "callhalf-1:0" in str(broadworks["communication_sessions"][0]["extensions"])
    assert "sip:dan@example.net" in str(broadworks["groups"][0]["extensions"])


COMPLETE = f"""<?xml version="1.0" encoding="UTF-8"?><recording xmlns="{NAMESPACE}"><datamode>complete</datamode>
<session session_id="{b64(1)}"/>
<participant participant_id="{b64(2)}"><nameID aor="sip:dan@example.net"><name>Dan</name></nameID></participant>
<participant participant_id="{b64(3)}"><nameID aor="sip:eve@example.net"/></participant>
<stream stream_id="{b64(4)}" session_id="{b64(1)}"><label>1</label></stream>
<stream stream_id="{b64(5)}" session_id="{b64(1)}"><label>2</label></stream>
<participantsessionassoc participant_id="{b64(2)}" session_id="{b64(1)}"/>
<participantsessionassoc participant_id="{b64(3)}" session_id="{b64(1)}"/>
<participantstreamassoc participant_id="{b64(2)}"><send>{b64(4)}</send></participantstreamassoc>
<participantstreamassoc participant_id="{b64(3)}"><send>{b64(5)}</send></participantstreamassoc></recording>"""
UNNAMED = COMPLETE.replace(f' session_id="{b64(1)}"><label>', "><label>")
OTHER = f'<session session_id="{b64(8)}"/>'


@pytest.mark.parametrize(
    "text",
    [
        COMPLETE,
        UNNAMED,
        UNNAMED.replace("<participant ", OTHER + "<participant ", 1),  # two sessions, no stream names one
        COMPLETE.replace(f'<session session_id="{b64(1)}"/>', OTHER),  # the streams' session is not described
        COMPLETE.replace("<session ", "<unknown ", 1),
        COMPLETE.replace(f'<session session_id="{b64(1)}"/>', ""),
        COMPLETE.replace(
            f'<session session_id="{b64(1)}"/>',
            f'<session session_id="{b64(1)}"><stop-time>2026-01-01T00:00:00Z</stop-time></session>',
        ),
        COMPLETE.replace(
            "<participantsessionassoc",
            f'<sessionrecordingassoc session_id="{b64(1)}"><disassociate-time>2026-01-01T00:00:00Z</disassociate-time>'
            "</sessionrecordingassoc><participantsessionassoc",
            1,
        ),
        COMPLETE.replace("<label>1</label>", "").replace("<label>2</label>", ""),
        COMPLETE.replace("<label>", "<label>x"),
        COMPLETE.replace("complete</datamode>", "partial</datamode>"),
        COMPLETE.replace("complete</datamode>", "Complete</datamode>"),
        COMPLETE.replace("<datamode>complete</datamode>", ""),
        COMPLETE.replace(f' xmlns="{NAMESPACE}"', ""),
        COMPLETE.replace(NAMESPACE, "urn:example:other"),
    ],
)
def test_accepted_streams_are_recorded_with_their_parties(bench: Open, text: str) -> None:
    result = record(bench(), text.encode())
    assert parties(result) == [("sip:dan@example.net", "Dan"), ("sip:eve@example.net", "")]
    assert senders(result) == ["sip:dan@example.net", "sip:eve@example.net"]
    assert result.state == "complete"


def test_a_session_that_was_over_before_it_began_is_one_recording_for_as_long_as_media_come(bench: Open) -> None:
    b = bench()
    stopped = f'<session session_id="{b64(1)}"><stop-time>2026-01-01T00:00:00Z</stop-time></session>'
    text = COMPLETE.replace(f'<session session_id="{b64(1)}"/>', stopped)
    b.offer(b.audio("1"), b.audio("2"), metadata=text.encode())
    tune = to_int16(caller_melody(8, RATE))
    b.play(packets(tune, PCMU, 0, ssrc=1), packets(tune, PCMU, 0, ssrc=2))
    b.finish()
    (result,) = b.library
    assert matches(read(result.stream_file(1))[:, 0], tune, RATE) > 0.98
    assert result.summary["communication_sessions"][0]["session_id"] == b64(1)


def test_streams_that_name_no_session_belong_to_that_of_their_parties(bench: Open) -> None:
    b = bench()
    # Two calls with one party each, and two streams that say only who sends them.
    text = UNNAMED.replace("<participant ", OTHER + "<participant ", 1).replace(
        f'<participantsessionassoc participant_id="{b64(3)}" session_id="{b64(1)}"/>',
        f'<participantsessionassoc participant_id="{b64(3)}" session_id="{b64(8)}"/>',
    )
    b.offer(b.audio("1"), b.audio("2"), metadata=text.encode())
    b.play(*(packets(tune, PCMU, 0, ssrc=number) for number, tune in enumerate(TUNES, 1)))
    assert [str(r.session and r.session.text) for r in b.session.recordings] == [b64(1), b64(8)]
    b.finish()
    for session, tune, aor in ((1, TUNES[0], "sip:dan@example.net"), (8, TUNES[1], "sip:eve@example.net")):
        (result,) = b.library.find(session_id=b64(session))
        assert matches(read(result.stream_file(1))[:, 0], tune, RATE) > 0.98
        assert senders(result) == [aor]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not XML at all",
        b"<",
        b'<!DOCTYPE r [<!ENTITY a "b">]><recording/>',
        b"<recording/>",
        f'<recording xmlns="{NAMESPACE}"/>'.encode(),
        f'<requestsnapshot xmlns="{NAMESPACE}"/>'.encode(),
        b"\x00\x01\x02" * 100,
        COMPLETE.replace("<session ", "<x>" * 200 + "<session ", 1).encode(),
        COMPLETE.replace("<session ", " " * 600_000 + "<session ", 1).encode(),
        COMPLETE.replace("complete</datamode>", "complete</datamode>" + "<datamode/>" * 20_000).encode(),
    ],
)
def test_streams_are_recorded_whatever_the_metadata_are(bench: Open, data: bytes) -> None:
    assert record(bench(), data).state == "complete"


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (COMPLETE.replace("Dan", "D\xe4n").encode("latin-1"), "octet 0xe4"),
        (COMPLETE.replace("UTF-8", "UTF-16").replace("Dan", "D\xe4n").encode(), "not in utf-16"),
        (COMPLETE.replace("UTF-8", "UTF-7").replace("Dan", "D\xe4n").encode(), "'utf-7' is not known"),
        (COMPLETE.replace("Dan", "D\xe4n").encode("utf-16le"), "not in utf-8"),
        (COMPLETE.replace("Dan", "D\x01\xe4n").encode(), "characters that XML does not have"),
        (COMPLETE.replace("Dan", "D\xe4n").replace("</recording>", "").encode(), "not well-formed"),
        (COMPLETE.replace("Dan", "D\xe4n").replace("<label>2", '<label x=">2').encode(), "not well-formed"),
        (COMPLETE.replace("Dan", "D\xe4n & Co").encode(), "not well-formed"),
        (COMPLETE.replace("Dan", "D\xe4n&nbsp;").encode(), "not well-formed"),
        (
            COMPLETE.replace("Dan", "D\xe4n").replace("</session>", "</sesion>").encode() + b"\r\n--b--",
            "not well-formed",
        ),
        (b"\r\nHTTP 200\r\n" + COMPLETE.replace("Dan", "D\xe4n").encode(), "before the document"),
        (COMPLETE.replace("Dan", "D\xe4n").replace("<session ", "<session a=b ").encode(), "not well-formed"),
        (COMPLETE.replace("Dan", "D\xe4n").replace("<session ", "<x:y/><session ").encode(), "not well-formed"),
    ],
)
def test_damage_is_told_in_errors_and_costs_no_more_than_what_is_damaged(bench: Open, data: bytes, error: str) -> None:
    result = record(bench(), data)
    assert parties(result)[0][0] == "sip:dan@example.net"
    assert parties(result)[0][1].startswith("D\xe4n")
    assert any(error in each for each in result.summary["errors"]), result.summary["errors"]
    assert result.state == "complete"


def test_of_a_document_that_was_cut_off_the_well_formed_prefix_is_used() -> None:
    cut = COMPLETE[: COMPLETE.index("eve@") + 2].encode()
    document = parse(cut)
    assert isinstance(document, Document)
    assert len(document.sessions) == 1
    assert [each.name_ids for each in document.participants] == [(NameId("sip:dan@example.net", "Dan"),), ()]
    assert document.errors
    half = parse(COMPLETE[: COMPLETE.index("Dan") + 2].encode())
    assert isinstance(half, Document)
    assert half.participants[0].name_ids == (NameId("sip:dan@example.net"),)  # "Da" is nobody's name
    with pytest.raises(MetadataError):
        parse(cut, strict=True)


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from([ORACLE, BROADWORKS, WRAPPED, NESTED, LATE, COMPLETE]).map(str.encode),
    st.integers(0, 2000),
    st.binary(max_size=6),
    st.integers(0, 40),
)
def test_a_mutated_document_is_read_or_refused(document: bytes, at: int, octets: bytes, gone: int) -> None:
    damaged = document[:at] + octets + document[at + gone :]
    try:
        found: Any = parse(damaged)
    except MetadataError:
        return
    assert found.findings is not None
