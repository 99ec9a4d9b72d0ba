"""What metadata takes from SIP messages."""

from __future__ import annotations

import base64
import uuid

from siprec.metadata.document import NameId, Reason
from siprec.metadata.values import ANONYMOUS, is_id, new_id
from siprec.recording import participants
from siprec.sip.headers import NameAddr
from siprec.sip.message import SipMessage, parse_head


def message(*lines: str, start: str = "INVITE sip:bob@example.com SIP/2.0") -> SipMessage:
    return parse_head("\r\n".join([start, *lines]).encode())


def test_the_address_of_record_has_no_port_and_no_parameters() -> None:
    found = participants.name_id(
        NameAddr.parse('"Al \\"x\\" <b>" <sips:alice;v=1@Example.org:5099;transport=tcp>;tag=9')
    )
    assert found == NameId("sips:alice;v=1@example.org", 'Al "x" <b>')
    assert participants.name_id(NameAddr.parse("<tel:+1-202;phone-context=x>")).aor == "tel:+1-202"
    assert participants.name_id(NameAddr.parse("Bob <b r o k e n>")) == NameId(ANONYMOUS, "Bob")


def test_identity_policies() -> None:
    invite = message(
        'From: "Anonymous" <sip:anonymous@anonymous.invalid>;tag=1',
        'P-Asserted-Identity: "Ann" <sip:ann@corp.example>, <tel:+12025550123>',
        "Remote-Party-ID: <sip:ignored@corp.example>",
    )
    sender = invite.from_
    anonymous, ann, tel = (
        NameId(ANONYMOUS, "Anonymous"),
        NameId("sip:ann@corp.example", "Ann"),
        NameId("tel:+12025550123"),
    )
    assert participants.name_ids(sender, invite) == (anonymous,)
    assert participants.name_ids(sender, invite, "asserted") == (ann, tel)
    assert participants.name_ids(sender, invite, "both") == (anonymous, ann, tel)
    rpid = message("From: <sip:a@b>;tag=1", "Remote-Party-ID: <sip:c@d>;party=calling", "P-Asserted-Identity: <<<")
    assert participants.name_ids(rpid.from_, rpid, "asserted") == (NameId("sip:c@d"),)
    plain = message("From: <sip:a@b>;tag=1")
    assert participants.name_ids(plain.from_, plain, "asserted") == (NameId("sip:a@b"),)


def test_feature_parameters_follow_rfc_4235() -> None:
    contact = message(
        'Contact: <sip:a@b;x=y>;expires=60;isfocus;automata="TRUE";+sip.rendering="no";+sip.instance="<urn:uuid:1>";q=1'
    )
    assert participants.feature_params(contact) == (("isfocus", "true"), ("automata", "TRUE"), ("+sip.rendering", "no"))
    assert participants.feature_params(message("Contact: <")) == ()
    assert participants.feature_params(None) == ()


def test_session_id_is_the_pair_of_rfc_7989_or_nothing() -> None:
    a, b = "a" * 32, "b" * 32
    nil = "0" * 32
    invite = message(f"Session-ID: {a};remote={nil}")
    answer = message(f"Session-ID: {b};remote={a}", start="SIP/2.0 200 OK")
    bare = message("Call-ID: x", start="SIP/2.0 200 OK")
    assert participants.sip_session_id(invite, answer) == (f"{a};remote={b}",)
    assert participants.sip_session_id(invite, bare) == (f"{a};remote={nil}",)
    assert participants.sip_session_id(bare, answer) == (f"{a};remote={b}",)
    assert participants.sip_session_id(bare, bare) == ()
    assert participants.sip_session_id(message("Session-ID: UPPER"), None) == ()


def test_reasons_need_a_cause_that_fits_the_schema() -> None:
    bye = message(
        'Reason: Q.850;cause=16;text="Normal, really", SIP;cause=200',
        "Reason: X;text=none",
        "Reason: Y;cause=70000",
        start="BYE sip:x SIP/2.0",
    )
    assert participants.reasons(bye) == (Reason(16, "Q.850", "Normal, really"), Reason(200))
    assert participants.reasons(message(start="SIP/2.0 486 Busy Here")) == (Reason(486, "SIP", "Busy Here"),)
    assert participants.reasons(message(start="SIP/2.0 200 OK")) == ()
    assert participants.reasons(None) == ()


def test_group_text_gives_the_same_id_under_the_same_secret_only() -> None:
    one, extension = participants.group("sales & <co>", b"s1")
    assert is_id(one)
    assert uuid.UUID(bytes=base64.b64decode(one)).version == 5
    assert one == participants.group("sales & <co>", b"s1")[0]
    assert one != participants.group("sales & <co>", b"s2")[0]
    assert one != participants.group("sales", b"s1")[0]
    assert "sales &amp; &lt;co&gt;" in extension
    given = new_id()
    assert participants.group(given, b"s1") == (given, "")
