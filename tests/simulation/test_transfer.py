"""Parties that turn out to be others, leave and are replaced: what the recorder is told (SCN-07, SCN-08, DLG-08)."""

from __future__ import annotations

from typing import Any

import pytest

from siprec.sip.message import SipRequest
from siprec.sip.useragent import Call, IncomingCall, Reply
from tests.simulation.phones import ANSWER, SDP
from tests.simulation.proxyworld import PROXY
from tests.simulation.recording_world import Q
from tests.simulation.transferworld import TransferWorld

ELSEWHERE = ANSWER.replace(b"o=- 1 1", b"o=carol 77 1").replace(b"10.0.0.2", b"10.0.0.3")


def aors(document: Any) -> dict[str, list[str]]:
    """Participant id -> addresses."""
    return {
        p.get("participant_id"): [n.get("aor") for n in p.iter(f"{Q}nameID")] for p in document.iter(f"{Q}participant")
    }


def established(w: TransferWorld) -> tuple[Call, IncomingCall]:
    call = w.call()
    w.clock.run_for(2)
    assert len(w.srs.documents) == 1
    return call, w.bob.calls[0]


def test_an_update_with_another_from_names_the_party_better() -> None:
    w = TransferWorld()
    call, incoming = established(w)
    (_, bob) = aors(w.srs.documents[0])
    assert incoming.dialog is not None
    incoming.dialog.local_uri = "sip:support7@example.com"
    incoming.update()
    w.clock.run_for(2)
    assert aors(w.srs.documents[1]) == {bob: ["sip:support7@example.com"]}
    assert w.srs.documents[1].find(f"{Q}participantsessionassoc") is None
    call.bye()
    w.clock.run_for(5)
    w.finish()


@pytest.mark.parametrize("header", ["P-Asserted-Identity", "Remote-Party-ID"])
@pytest.mark.parametrize("where", ["request", "response"])
def test_an_asserted_identity_counts_where_the_profile_asks_for_it(header: str, where: str) -> None:
    named = ((header, '"Carol" <sip:carol@example.com>'),)
    for policy, expected in (("asserted", [["sip:carol@example.com"]]), ("header", None)):
        w = TransferWorld(identity=policy)
        call, incoming = established(w)
        if where == "request":
            incoming.reinvite(ANSWER, headers=named)
        else:
            w.bob.diary.on["request"] = lambda call, request, reply, named=named: reply(200, ANSWER, headers=named)
            call.reinvite(SDP)
        w.clock.run_for(3)
        w.bob.diary.on.clear()
        assert [list(aors(d).values()) for d in w.srs.documents[1:] if aors(d)] == ([expected] if expected else [])
        assert all(list(d.iter(f"{Q}disassociate-time")) == [] for d in w.srs.documents)
        call.bye()
        w.clock.run_for(5)
        w.finish()


def test_an_identity_that_was_told_before_the_answer_is_in_the_first_document() -> None:
    w = TransferWorld(identity="asserted")

    def take(call: IncomingCall) -> None:
        call.answer(180, headers=[("P-Asserted-Identity", "<sip:carol@example.com>")])
        call.answer(200, ANSWER)

    w.bob.take = take
    call, _ = established(w)
    assert list(aors(w.srs.documents[0]).values()) == [["sip:alice@example.com"], ["sip:carol@example.com"]]
    call.bye()
    w.clock.run_for(5)
    w.finish()


@pytest.mark.parametrize("late", [False, True])
def test_another_party_in_the_same_dialog_joins_and_the_old_one_leaves(late: bool) -> None:
    """SCN-07, as a PBX does it: Bob's side sends new media under another name."""
    w = TransferWorld()
    call, incoming = established(w)
    first = w.srs.documents[0]
    alice, bob = aors(first)
    assert incoming.dialog is not None
    incoming.dialog.local_uri = "sip:carol@example.com"
    if late:
        w.alice.diary.on["request"] = lambda call, request, reply: reply(200, SDP.replace(b"1 1 IN", b"1 2 IN"))
        incoming.reinvite(done=lambda result: incoming.ack(ELSEWHERE))
    else:
        incoming.reinvite(ELSEWHERE)
    w.clock.run_for(3)
    changed = w.srs.documents[1]
    (carol,) = aors(changed)
    assert carol not in (alice, bob)
    assert aors(changed)[carol] == ["sip:carol@example.com"]
    assocs = {e.get("participant_id"): [c.tag for c in e] for e in changed.iter(f"{Q}participantsessionassoc")}
    assert assocs[bob] == [f"{Q}disassociate-time"]
    assert assocs[carol][0] == f"{Q}associate-time"
    assert alice not in assocs
    sessions = {s.get("session_id") for d in w.srs.documents for s in d.iter(f"{Q}session")}
    assert len(sessions) == 1
    call.bye()
    w.clock.run_for(5)
    w.finish()


def test_new_media_of_the_same_party_are_no_transfer() -> None:
    w = TransferWorld()
    call, incoming = established(w)
    incoming.reinvite(ELSEWHERE)  # a new description, but nothing says that it is somebody else
    w.clock.run_for(3)
    assert all(not aors(document) for document in w.srs.documents[1:])
    call.bye()
    w.clock.run_for(5)
    w.finish()


def test_a_transfer_before_the_recording_began_is_what_the_first_document_says() -> None:
    """SCN-14: the full snapshot reflects the present state."""
    w = TransferWorld()
    w.core.observers._observers = [o for o in w.core.observers._observers if type(o).__name__ != "_Wish"]
    w.core.media.use = "always"
    call = w.call()
    w.clock.run_for(2)
    incoming = w.bob.calls[0]
    assert incoming.dialog is not None
    incoming.dialog.local_uri = "sip:carol@example.com"
    incoming.reinvite(ELSEWHERE)
    w.clock.run_for(2)
    w.service.record(w.journal.calls[0])
    w.clock.run_for(2)
    assert list(aors(w.srs.documents[0]).values()) == [["sip:alice@example.com"], ["sip:carol@example.com"]]
    call.bye()
    w.clock.run_for(5)
    w.finish()


@pytest.mark.parametrize("referred_by", [True, False])
def test_a_call_that_comes_of_refer_is_in_one_group_with_the_first(referred_by: bool) -> None:
    """SCN-08, ID-07: Alice (caller) is referred by Bob to Carol."""
    w = TransferWorld()
    call, incoming = established(w)
    first = w.srs.documents[0]
    alice, _ = aors(first)

    def refer(refused: object) -> None:
        incoming.request(
            "REFER", headers=[("Refer-To", "<sip:carol@10.0.0.3>"), ("Referred-By", "<sip:bob@example.com>")]
        )

    seen: list[SipRequest] = []

    def asked(call: Call, request: SipRequest, reply: Reply) -> None:
        seen.append(request)
        reply(202)

    w.alice.diary.on["request"] = asked
    refer(None)
    w.clock.run_for(1)
    assert seen[0].get("refer-to") == "<sip:carol@10.0.0.3>"  # untouched
    headers = [("Referred-By", "<sip:bob@example.com>")] if referred_by else []
    second = w.alice.call("sip:carol@10.0.0.3", route=[f"<sip:{PROXY};lr>"], headers=headers)
    w.clock.run_for(3)
    others = [d for d in w.srs.documents[1:] if d.find(f"{Q}group") is not None]
    groups = {d.find(f"{Q}group").get("group_id") for d in others}
    assert len(groups) == 1
    sessions = {s.get("session_id"): s.findtext(f"{Q}group-ref") for d in others for s in d.iter(f"{Q}session")}
    assert len(sessions) == 2
    assert set(sessions.values()) == groups
    (complete,) = [d for d in others if d.findtext(f"{Q}datamode") == "complete"]
    assert next(iter(aors(complete))) == alice
    assert complete.find(f"{Q}session").get("session_id") != first.find(f"{Q}session").get("session_id")
    call.bye()
    w.clock.run_for(3)
    stopped = [
        s.get("session_id")
        for d in w.srs.documents
        for s in d.iter(f"{Q}session")
        if s.find(f"{Q}stop-time") is not None
    ]
    assert stopped == [first.find(f"{Q}session").get("session_id")]
    second.bye()
    w.clock.run_for(5)
    w.finish()


def test_a_call_that_replaces_another_is_in_its_group_and_the_common_party_keeps_its_id() -> None:
    w = TransferWorld()
    call, incoming = established(w)
    assert incoming.dialog is not None
    _, bob = aors(w.srs.documents[0])
    d = incoming.dialog
    value = f"{d.call_id};to-tag={d.local_tag};from-tag={d.remote_tag}"
    carol = w.phones[2]
    third = carol.call("sip:bob@10.0.0.2", route=[f"<sip:{PROXY};lr>"], headers=[("Replaces", value)])
    w.clock.run_for(3)
    (complete,) = [d for d in w.srs.documents[1:] if d.findtext(f"{Q}datamode") == "complete"]
    assert list(aors(complete))[1] == bob
    assert complete.findtext(f"{Q}session/{Q}group-ref") == complete.find(f"{Q}group").get("group_id")
    assert w.bob.calls[1].invite.get("replaces") == value
    call.bye()
    third.bye()
    w.clock.run_for(5)
    w.finish()


def test_a_call_to_somebody_else_after_refer_has_nothing_to_do_with_it() -> None:
    w = TransferWorld()
    call, incoming = established(w)
    w.alice.diary.on["request"] = lambda call, request, reply: reply(202)
    incoming.request("REFER", headers=[("Refer-To", "<sip:dave@10.0.0.9>"), ("Referred-By", "<sip:bob@example.com>")])
    w.clock.run_for(1)
    second = w.alice.call("sip:carol@10.0.0.3", route=[f"<sip:{PROXY};lr>"])
    w.clock.run_for(3)
    assert all(document.find(f"{Q}group") is None for document in w.srs.documents)
    assert [each.relations for each in w.journal.calls] == [(), ()]
    call.bye()
    second.bye()
    w.clock.run_for(5)
    w.finish()


def test_relations_end_with_the_call() -> None:
    w = TransferWorld()
    call, incoming = established(w)
    w.alice.diary.on["request"] = lambda call, request, reply: reply(202)
    incoming.request("REFER", headers=[("Refer-To", "<sip:carol@10.0.0.3>")])
    w.clock.run_for(200)  # too late
    call.bye()
    late = w.alice.call("sip:carol@10.0.0.3", route=[f"<sip:{PROXY};lr>"])
    w.clock.run_for(2)
    assert w.journal.calls[1].relations == ()
    late.bye()
    w.clock.run_for(5)
    again = w.call()
    w.clock.run_for(2)
    w.bob.calls[-1].request("REFER", headers=[("Refer-To", "<sip:carol@10.0.0.3>")])
    w.clock.run_for(1)
    third = w.alice.call("sip:carol@10.0.0.3", route=[f"<sip:{PROXY};lr>"])
    w.clock.run_for(2)
    assert [r.why for r in w.journal.calls[3].relations] == ["refer"]
    again.bye()
    third.bye()
    w.clock.run_for(5)
    assert w.journal.calls[3].relations == ()
    w.finish()


def test_a_party_of_a_group_that_comes_back_is_the_same_participant() -> None:
    """ID-07 and ID-09: one element per id, whoever left meanwhile."""
    w = TransferWorld(group="team", updates="complete")
    call, incoming = established(w)
    alice, bob = aors(w.srs.documents[0])
    assert incoming.dialog is not None
    incoming.dialog.local_uri = "sip:carol@example.com"
    incoming.reinvite(ELSEWHERE)
    w.clock.run_for(3)
    incoming.dialog.local_uri = "sip:bob@example.com"
    incoming.reinvite(ANSWER.replace(b"1 1 IN", b"2 1 IN"))
    w.clock.run_for(3)
    last = w.srs.documents[-1]
    ids = [p.get("participant_id") for p in last.iter(f"{Q}participant")]
    assert len(ids) == len(set(ids)) == 3
    assert {alice, bob} < set(ids)
    open_ = [
        e.get("participant_id")
        for e in last.iter(f"{Q}participantsessionassoc")
        if e.find(f"{Q}disassociate-time") is None
    ]
    assert sorted(open_) == sorted([alice, bob])
    call.bye()
    w.clock.run_for(5)
    w.finish()


def ids_of_sessions(w: TransferWorld) -> dict[str, dict[str, set[str]]]:
    """Session id -> address of a party -> the ids under which it was ever told to take part in that session."""
    names: dict[str, str] = {}
    found: dict[str, dict[str, set[str]]] = {}
    for document in w.srs.documents:
        names |= {ident: each[0] for ident, each in aors(document).items() if each}
        for assoc in document.iter(f"{Q}participantsessionassoc"):
            ident = assoc.get("participant_id")
            found.setdefault(assoc.get("session_id"), {}).setdefault(names[ident], set()).add(ident)
    return found


@pytest.mark.parametrize("order", ["consultation first", "REFER first"])
def test_in_an_attended_transfer_no_party_gets_a_second_id_in_a_session(order: str) -> None:
    """ID-08: Bob talks to Alice and asks Carol; both sessions are there before anything says that they belong together.
    Alice then takes Bob's place with Carol. Bob was told under one id in each session, and keeps it there."""
    w = TransferWorld()
    call, incoming = established(w)
    carol = "<sip:carol@example.com>"
    consultation = w.bob.call("sip:carol@10.0.0.3", by="<sip:bob@example.com>", to=carol, route=[f"<sip:{PROXY};lr>"])
    w.clock.run_for(3)
    at_carol = w.phones[2].calls[0]
    assert at_carol.dialog is not None
    d = at_carol.dialog
    replaces = f"{d.call_id};to-tag={d.local_tag};from-tag={d.remote_tag}"
    w.alice.diary.on["request"] = lambda call, request, reply: reply(202)
    incoming.request("REFER", headers=[("Refer-To", "<sip:carol@10.0.0.3>"), ("Referred-By", "<sip:bob@example.com>")])
    w.clock.run_for(1)
    headers = [("Referred-By", "<sip:bob@example.com>"), ("Replaces", replaces)]
    if order == "consultation first":
        headers.reverse()
    third = w.alice.call("sip:carol@10.0.0.3", to=carol, route=[f"<sip:{PROXY};lr>"], headers=headers)
    w.clock.run_for(3)
    told = ids_of_sessions(w)
    assert len(told) == 3
    for parties in told.values():
        assert all(len(ids) == 1 for ids in parties.values()), told
    groups = {g.get("group_id") for document in w.srs.documents for g in document.iter(f"{Q}group")}
    assert len(groups) == 1
    # Alice and Carol are in the new session who they were in the others (ID-07).
    first, _, last = told.values()
    assert last["sip:alice@example.com"] == first["sip:alice@example.com"]
    consultation.bye()
    call.bye()
    w.clock.run_for(3)
    third.bye()
    w.clock.run_for(5)
    for document in w.srs.documents:
        stopped = {s.get("session_id") for s in document.iter(f"{Q}session") if s.find(f"{Q}stop-time") is not None}
        for session in stopped:
            left = {
                a.get("participant_id")
                for a in document.iter(f"{Q}participantsessionassoc")
                if a.get("session_id") == session and a.find(f"{Q}disassociate-time") is not None
            }
            assert left == {ident for ids in told[session].values() for ident in ids}
    w.finish()
