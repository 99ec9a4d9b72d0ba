"""Metadata documents: the schema, the meaning (read again with lxml), partial updates against a merger by the rules."""

from __future__ import annotations

import base64
import uuid
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree
from msgspec.structs import replace

from siprec.metadata import read as reader
from siprec.metadata.diff import diff
from siprec.metadata.document import (
    Document,
    Group,
    NameId,
    Participant,
    ParticipantSessionAssoc,
    ParticipantStreamAssoc,
    Reason,
    Session,
    SessionRecordingAssoc,
    Stream,
)
from siprec.metadata.values import ANONYMOUS, NAMESPACE, clean_aor, identifier, is_id, new_id, rfc3339
from siprec.metadata.write import write
from tests.paths import SCHEMA

Q = f"{{{NAMESPACE}}}"
G, S, A, B, SA, SB = (base64.b64encode(uuid.UUID(int=n << 64 | n).bytes).decode() for n in range(1, 7))
T0 = 1772442898.0


@pytest.fixture(scope="module")
def schema() -> Any:
    return etree.XMLSchema(etree.parse(str(SCHEMA)))


def parse(xml: bytes) -> Any:
    return etree.fromstring(xml, etree.XMLParser(resolve_entities=False, no_network=True))


def two_party(**changes: Any) -> Document:
    document = Document(
        groups=(Group(G, T0, extension='<g xmlns="urn:example:g">sales</g>'),),
        sessions=(
            Session(
                S,
                ("c3d1a2f0b5e94f6e8a7712345678abcd;remote=90e4b1c2d3f44a55b6c7d8e9f0a1b2c3",),
                group_ref=G,
                start_time=T0,
                extension='<queue xmlns="urn:example:callcentre">support</queue>',
            ),
        ),
        participants=(
            Participant(A, (NameId("sip:customer@example.org", "R&D <Line 3>", "en"), NameId("tel:+12025550123"))),
            Participant(B, (NameId("sip:agent7@example.com"),)),
        ),
        streams=(Stream(SA, S), Stream(SB, S)),
        session_assocs=(SessionRecordingAssoc(S, T0 + 3.25),),
        participant_assocs=(
            ParticipantSessionAssoc(A, S, T0),
            ParticipantSessionAssoc(B, S, T0 + 3, params=(("automata", "false"),)),
        ),
        stream_assocs=(
            ParticipantStreamAssoc(A, (SA,), (SB,), T0 + 3),
            ParticipantStreamAssoc(B, (SB,), (SA,), T0 + 3),
        ),
    )
    return replace(document, **changes)


def test_full_snapshot_is_valid_and_means_what_was_put_in(schema: Any) -> None:
    xml = write(two_party(), {SA: "1", SB: "2"})
    root = parse(xml)
    schema.assertValid(root)
    assert xml.startswith(b'<?xml version="1.0" encoding="UTF-8"?>')
    assert root.findtext(f"{Q}datamode") == "complete"
    session = root.find(f"{Q}session")
    assert session.get("session_id") == S
    assert session.findtext(f"{Q}group-ref") == G
    assert session.findtext(f"{Q}start-time") == "2026-03-02T09:14:58.000Z"
    assert session.findtext("{urn:example:callcentre}queue") == "support"
    names = root.findall(f"{Q}participant/{Q}nameID")
    assert [n.get("aor") for n in names] == ["sip:customer@example.org", "tel:+12025550123", "sip:agent7@example.com"]
    assert names[0].findtext(f"{Q}name") == "R&D <Line 3>"
    assert names[0].find(f"{Q}name").get("{http://www.w3.org/XML/1998/namespace}lang") == "en"
    assert [s.findtext(f"{Q}label") for s in root.findall(f"{Q}stream")] == ["1", "2"]
    feeds = {a.get("participant_id"): a for a in root.findall(f"{Q}participantstreamassoc")}
    assert (feeds[A].findtext(f"{Q}send"), feeds[A].findtext(f"{Q}recv")) == (SA, SB)
    assert (feeds[B].findtext(f"{Q}send"), feeds[B].findtext(f"{Q}recv")) == (SB, SA)
    param = root.find(f"{Q}participantsessionassoc/{Q}param")
    assert (param.get("pname"), param.get("pval")) == ("automata", "false")


def test_labels_stay_out_of_a_message_without_sdp() -> None:
    assert b"label" not in write(two_party())


def test_ids_are_base64_of_sixteen_random_octets() -> None:
    ids = {new_id() for _ in range(200)}
    assert len(ids) == 200
    assert all(is_id(i) and uuid.UUID(bytes=base64.b64decode(i)).version == 4 for i in ids)
    assert not is_id(str(uuid.uuid4()))
    assert not is_id("a" * 22 + "==")


def test_times_are_utc_with_offset() -> None:
    assert rfc3339(1772442901.25) == "2026-03-02T09:15:01.250Z"
    assert rfc3339(0.0) == "1970-01-01T00:00:00.000Z"


def test_nothing_changed_makes_no_document() -> None:
    assert diff(two_party(), two_party()) is None


def test_hold_is_a_partial_document_with_both_stream_associations_whole(schema: Any) -> None:
    # The agent (B) holds the customer: B still sends, A still hears, nothing else.
    held = two_party(
        stream_assocs=(
            ParticipantStreamAssoc(A, (), (SB,), T0 + 3),
            ParticipantStreamAssoc(B, (SB,), (), T0 + 3),
        )
    )
    update = diff(two_party(), held)
    assert update is not None
    root = parse(write(update))
    schema.assertValid(root)
    assert [child.tag for child in root] == [
        f"{Q}datamode",
        f"{Q}participantstreamassoc",
        f"{Q}participantstreamassoc",
    ]
    assert root.findtext(f"{Q}datamode") == "partial"
    a, b = root.findall(f"{Q}participantstreamassoc")
    assert [(c.tag, c.text) for c in a] == [(f"{Q}recv", SB)]
    assert [(c.tag, c.text) for c in b] == [(f"{Q}send", SB)]


def test_end_of_call_names_stop_time_reason_and_disassociations_only(schema: Any) -> None:
    end = two_party().stopped(T0 + 400, (Reason(16, "Q.850", "Normal call clearing"),))
    update = diff(two_party(), end)
    assert update is not None
    root = parse(write(update))
    schema.assertValid(root)
    session = root.find(f"{Q}session")
    assert [c.tag for c in session] == [f"{Q}reason", f"{Q}stop-time"]
    assert (session[0].get("protocol"), session[0].get("cause"), session[0].text) == (
        "Q.850",
        "16",
        "Normal call clearing",
    )
    for kind, count in (("sessionrecordingassoc", 1), ("participantsessionassoc", 2)):
        found = root.findall(f"{Q}{kind}")
        assert len(found) == count
        assert all([c.tag for c in a] == [f"{Q}disassociate-time"] for a in found)
    assert root.find(f"{Q}participant") is None
    assert root.find(f"{Q}participantstreamassoc") is None


def test_transfer_joins_one_and_lets_one_leave(schema: Any) -> None:
    carol, sc = new_id(), new_id()
    before = two_party()
    after = replace(
        before,
        sessions=(replace(before.sessions[0], sip_session_ids=("0" * 32 + ";remote=" + "1" * 32,)),),
        participants=(*before.participants, Participant(carol, (NameId("sip:carol@example.com"),))),
        streams=(*before.streams, Stream(sc, S)),
        participant_assocs=(
            before.participant_assocs[0],
            replace(before.participant_assocs[1], disassociate_time=T0 + 60),
            ParticipantSessionAssoc(carol, S, T0 + 60),
        ),
        stream_assocs=(
            replace(before.stream_assocs[0], recv=(sc,)),
            ParticipantStreamAssoc(B, (), (), T0 + 3, T0 + 60),
            ParticipantStreamAssoc(carol, (sc,), (SA,), T0 + 60),
        ),
    )
    update = diff(before, after)
    assert update is not None
    root = parse(write(update, {sc: "2"}))
    schema.assertValid(root)
    assert [p.get("participant_id") for p in root.findall(f"{Q}participant")] == [carol]
    assert [s.get("stream_id") for s in root.findall(f"{Q}stream")] == [sc]
    assert [c.tag for c in root.find(f"{Q}session")] == [f"{Q}sipSessionID"]
    left = root.findall(f"{Q}participantsessionassoc")
    assert {a.get("participant_id"): [c.tag for c in a] for a in left} == {
        B: [f"{Q}disassociate-time"],
        carol: [f"{Q}associate-time"],
    }


def test_what_a_partial_update_cannot_say_is_said_completely() -> None:
    without = two_party(sessions=(replace(two_party().sessions[0], sip_session_ids=()),))
    update = diff(two_party(), without)
    assert update is not None
    assert update.mode == "complete"


def test_a_party_that_comes_back_opens_a_new_interval() -> None:
    gone = two_party(participant_assocs=(ParticipantSessionAssoc(A, S, T0, T0 + 5),))
    back = two_party(participant_assocs=(ParticipantSessionAssoc(A, S, T0 + 9),))
    update = diff(gone, back)
    assert update is not None
    assert update.participant_assocs == (ParticipantSessionAssoc(A, S, T0 + 9),)


def test_a_participant_without_address_is_anonymous(schema: Any) -> None:
    root = parse(write(Document(participants=(Participant(A, ()),))))
    schema.assertValid(root)
    assert root.find(f"{Q}participant/{Q}nameID").get("aor") == ANONYMOUS


EVIL = st.text(
    st.one_of(
        st.sampled_from("&<>\"'\t\r\n\x00\x01\x1f\x7f\x85\u2028\ufffe\uffff\udc80\ud800]]>%[]\\\U0001f4de"),
        st.characters(codec=None),
    ),
    max_size=40,
)


def legal(text: str) -> str:
    return "".join(
        c for c in text if c in "\t\n\r" or " " <= c <= "\ud7ff" or "\ue000" <= c <= "\ufffd" or c > "\uffff"
    )


@settings(deadline=None, max_examples=150)
@given(name=EVIL, aor=EVIL, extra=EVIL)
def test_whatever_a_peer_calls_itself_the_document_is_valid_and_says_so(name: str, aor: str, extra: str) -> None:
    document = Document(
        sessions=(Session(S, (extra,), (Reason(486, extra, name),)),),
        participants=(
            Participant(
                A, (NameId(aor, name), NameId("sip:" + aor, name), NameId(f"sip:[{aor}]:5060"), NameId(f"a://{aor}"))
            ),
        ),
        streams=(Stream(SA, S),),
        participant_assocs=(ParticipantSessionAssoc(A, S, params=((extra, name),)),),
    )
    root = parse(write(document, {SA: extra or "1"}))
    _schema().assertValid(root)
    found = root.find(f"{Q}participant/{Q}nameID/{Q}name")
    assert (found.text or "" if found is not None else "") == legal(name)
    assert (root.find(f"{Q}session/{Q}reason").text or "") == legal(name)
    param = root.find(f"{Q}participantsessionassoc/{Q}param")
    assert (param.get("pname"), param.get("pval")) == (legal(extra), legal(name))


_cached: list[Any] = []


def _schema() -> Any:
    if not _cached:
        _cached.append(etree.XMLSchema(etree.parse(str(SCHEMA))))
    return _cached[0]


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("sip:alice@example.org", "sip:alice@example.org"),
        ("sip:alice@[2001:db8::1]", "sip:alice@%5B2001:db8::1%5D"),
        ("sip:bob smith@example.org", "sip:bob%20smith@example.org"),
        ("sip:100%@example.org", "sip:100%25@example.org"),
        ("sip:j%40x@example.org", "sip:j%40x@example.org"),
        ("sip:jürgen@example.org", "sip:j%C3%BCrgen@example.org"),
        ("sip:a[b]c@example.org", "sip:a%5Bb%5Dc@example.org"),
        ("alice", ANONYMOUS),
        ("", ANONYMOUS),
    ],
)
def test_addresses_become_uris(text: str, clean: str) -> None:
    assert clean_aor(text) == clean


# -- a merger by the rules of metadata.md 6, on parsed documents -------------------------------------------------------

_KEYS = {
    "group": ("group_id",),
    "session": ("session_id",),
    "participant": ("participant_id",),
    "stream": ("stream_id",),
    "sessionrecordingassoc": ("session_id",),
    "participantsessionassoc": ("participant_id", "session_id"),
    "participantstreamassoc": ("participant_id",),
}
State = dict[tuple[str, ...], dict[str, list[str]]]


def absorb(state: State, xml: bytes) -> State:
    root = parse(xml)
    state = {} if root.findtext(f"{Q}datamode") == "complete" else {k: dict(v) for k, v in state.items()}
    for element in root[1:]:
        kind = etree.QName(element).localname
        children: dict[str, list[str]] = {}
        for child in element:
            text = etree.tostring(child).decode() if len(child.attrib) else f"{child.tag}={child.text or ''}"
            children.setdefault(child.tag, []).append(text)
        key = (kind, *(element.get(name) for name in _KEYS[kind]))
        old = state.get(key, {})
        if kind == "participantstreamassoc":
            old = {k: v for k, v in old.items() if k not in (f"{Q}send", f"{Q}recv")}
        if f"{Q}associate-time" in children:
            old.pop(f"{Q}disassociate-time", None)
        state[key] = old | children
    return state


_ids = [new_id() for _ in range(4)]
_time = st.sampled_from([T0, T0 + 10, T0 + 20])


@st.composite
def documents(draw: st.DrawFn) -> Document:
    people = draw(st.lists(st.sampled_from(_ids), unique=True, max_size=3))
    return Document(
        groups=draw(st.sampled_from([(), (Group(G, T0),)])),
        sessions=(
            Session(
                S,
                draw(st.sampled_from([(), ("a",), ("a", "b")])),
                draw(st.sampled_from([(), (Reason(16),)])),
                start_time=draw(_time),
                stop_time=draw(st.none() | _time),
            ),
        ),
        participants=tuple(Participant(p, (NameId(draw(st.sampled_from(["sip:a@b", "tel:1"]))),)) for p in people),
        streams=(Stream(SA, S),),
        session_assocs=(SessionRecordingAssoc(S, draw(_time)),),
        participant_assocs=tuple(
            ParticipantSessionAssoc(p, S, draw(_time), params=draw(st.sampled_from([(), (("a", "b"),)])))
            for p in people
        ),
        stream_assocs=tuple(
            ParticipantStreamAssoc(
                p, draw(st.sampled_from([(), (SA,)])), draw(st.sampled_from([(), (SA,)])), draw(_time)
            )
            for p in people
        ),
    )


@settings(deadline=None, max_examples=200)
@given(told=documents(), now=documents())
def test_merging_the_partial_update_gives_the_new_state(told: Document, now: Document) -> None:
    before, after = absorb({}, write(told)), absorb({}, write(now))
    update = diff(told, now)
    merged = absorb(before, write(update)) if update is not None else before
    # An element that is simply no longer mentioned stays known to the SRS: only complete documents drop it.
    assert {k: v for k, v in merged.items() if k in after} == after


def test_what_is_written_is_read_as_the_same_elements() -> None:
    document = two_party()
    read = reader.parse(write(document, {SA: "1", SB: "2"}), strict=True)
    assert isinstance(read, Document)
    assert read.participants[0].name_ids == document.participants[0].name_ids
    assert read.participant_assocs[1].params == document.participant_assocs[1].params
    labels = {stream.id: stream.label for stream in read.streams}
    assert labels == {identifier(SA)[0]: "1", identifier(SB)[0]: "2"}
    assert (read.sessions[0].start_time, read.session_assocs[0].associate_time) == (T0, T0 + 3.25)
    assert read.sessions[0].group_ref == read.groups[0].id
