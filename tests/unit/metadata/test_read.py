"""Reading recording metadata: what is accepted, what is understood with a finding, what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from siprec.metadata.document import Document, NameId, SnapshotRequest
from siprec.metadata.errors import MetadataError
from siprec.metadata.read import parse
from siprec.metadata.values import NAMESPACE, identifier, parse_time, rfc3339
from siprec.metadata.write import snapshot_request
from tests.paths import DATA

HEAD = f'<?xml version="1.0" encoding="UTF-8"?>\n<recording xmlns="{NAMESPACE}">'

PARTS = {
    "group": "groups",
    "session": "sessions",
    "participant": "participants",
    "stream": "streams",
    "sessionrecordingassoc": "session_assocs",
    "participantsessionassoc": "participant_assocs",
    "participantstreamassoc": "stream_assocs",
}


def doc(body: str) -> bytes:
    return f"{HEAD}{body}</recording>".encode()


def read(body: str, **options: Any) -> Document:
    document = parse(doc(body), **options)
    assert isinstance(document, Document)
    return document


def index(folder: str) -> list[dict[str, Any]]:
    path = DATA / folder / "index.json"
    found: list[dict[str, Any]] = json.loads(path.read_text())["documents"]
    return found


def verdict(data: bytes) -> str:
    try:
        found = parse(data)
    except MetadataError:
        return "reject"
    if isinstance(found, Document) and found.errors:
        with pytest.raises(MetadataError):
            parse(data, strict=True)
        return "reject"  # used as far as it goes, because audio is recorded anyway; an error all the same
    try:
        parse(data, strict=True)
    except MetadataError:
        return "lenient"
    return "accept"


def test_every_shared_document_is_judged_as_its_index_says() -> None:
    for entry in index("metadata"):
        assert verdict((DATA / "metadata" / entry["file"]).read_bytes()) == entry["reader"], entry["file"]


def test_every_example_of_the_rfcs_is_read_without_a_schema_finding() -> None:
    for entry in index("rfc7865"):
        document = parse((DATA / "rfc7865" / entry["file"]).read_bytes(), strict=True)
        if entry["root"] == "requestsnapshot":
            assert isinstance(document, SnapshotRequest)
            continue
        assert isinstance(document, Document)
        assert document.mode == entry["datamode"]
        for kind, count in entry["counts"].items():
            assert len(getattr(document, PARTS[kind])) == count, entry["file"]
        labels = [stream.label for stream in document.streams if stream.label is not None]
        assert labels == entry["labels"]


def test_names_and_escapes_are_read_as_text() -> None:
    document = read(
        '<participant participant_id="Wp+JVL4DRd2sJw8xsS+kuA==">'
        '<nameID aor="sip:a@example.org"><name xml:lang="en">R&amp;D &lt;3&gt;</name></nameID>'
        '<nameID aor="tel:+12025550123"/></participant>'
    )
    assert document.mode == "complete"
    assert document.participants[0].name_ids == (
        NameId("sip:a@example.org", "R&D <3>", "en"),
        NameId("tel:+12025550123"),
    )


def test_foreign_elements_are_kept_and_do_not_disturb() -> None:
    document = read(
        '<session session_id="gx8JQ0eDQ9CDXtLY0lU4RA=="><start-time>2026-03-02T09:14:58Z</start-time>'
        '<q:queue xmlns:q="urn:example:cc">support<q:level>2</q:level></q:queue></session><x xmlns="urn:x">y</x>',
        strict=True,
    )
    assert [(e.name, e.text) for e in document.sessions[0].extensions] == [("{urn:example:cc}queue", "support2")]
    assert [(e.name, e.text) for e in document.extensions] == [("{urn:x}x", "y")]


def test_the_mime_charset_wins_over_the_declaration() -> None:
    body = f'<requestsnapshot xmlns="{NAMESPACE}"><requestreason>ü</requestreason></requestsnapshot>'
    text = f'<?xml version="1.0" encoding="UTF-8"?>{body}'
    assert parse(text.encode("latin1"), charset="ISO-8859-1") == SnapshotRequest("ü")
    assert parse(text.replace("UTF-8", "UTF-16").encode("utf-16")) == SnapshotRequest("ü")
    assert parse(text.encode("latin1")) == SnapshotRequest("ü")  # not UTF-8, and readable all the same


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no element",
        b"<",
        b'<!DOCTYPE r [<!ENTITY a "b">]>' + doc("").split(b"\n", 1)[1],
        '<!DOCTYPE r SYSTEM "file:///etc/passwd">'.encode("utf-16") + doc("").split(b"\n", 1)[1],
        doc("<x xmlns=''>" * 200 + "</x>" * 200),
        doc("<a xmlns='urn:x'/>" * 20_000),
        doc(" " * 600_000),
        b"<?xml version='1.0'?>",
        f'<other xmlns="{NAMESPACE}"/>'.encode(),
    ],
)
def test_hostile_documents_are_refused(data: bytes) -> None:
    with pytest.raises(MetadataError):
        parse(data)


@settings(deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda t: doc(t)))
def test_whatever_comes_in_only_a_metadata_error_comes_out(data: bytes) -> None:
    try:
        parse(data)
    except MetadataError:
        pass


def test_ids_are_compared_by_their_octets() -> None:
    plain, problem = identifier(" Wp+JVL4DRd2sJw8xsS+kuA== \n")
    assert problem is None
    unpadded, problem = identifier("Wp+JVL4DRd2sJw8xsS+kuA")
    assert problem is not None
    assert plain == unpadded
    assert plain.uuid == "5a9f8954-be03-45dd-ac27-0f31b12fa4b8"
    opaque, problem = identifier("sales-team")
    assert problem is not None
    assert opaque.uuid is None


@pytest.mark.parametrize(
    ("text", "seconds", "fine"),
    [
        ("2026-03-02T09:14:58Z", 1772442898.0, True),
        ("2026-03-02T10:14:58.250+01:00", 1772442898.25, True),
        ("2026-03-02T12:14:58+0300", 1772442898.0, False),
        ("2026-03-02t09:14:58z", 1772442898.0, False),
        ("2026-03-02T09:14:58", 1772442898.0, False),
        ("2026-12-31T23:59:60Z", 1798761600.0, True),
        ("2026-13-02T09:14:58Z", None, False),
        ("yesterday", None, False),
    ],
)
def test_times(text: str, seconds: float | None, fine: bool) -> None:
    time, problem = parse_time(text)
    assert (time) == seconds
    assert (problem is None) == fine


def test_our_own_times_are_utc_with_milliseconds() -> None:
    assert rfc3339(1772442898.25) == "2026-03-02T09:14:58.250Z"


def test_a_snapshot_request_can_be_read_and_is_valid() -> None:
    data = snapshot_request("lost <state> & more\x00")
    assert parse(data, strict=True) == SnapshotRequest("lost <state> & more")
    assert etree.fromstring(data).tag == f"{{{NAMESPACE}}}requestsnapshot"
    assert parse(snapshot_request()) == SnapshotRequest("")
    schema = DATA.parent / "spec" / "recording-local.xsd"
    if schema.exists():
        etree.XMLSchema(etree.parse(str(schema))).assertValid(etree.fromstring(data))
