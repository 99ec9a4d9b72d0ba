"""Merging snapshots and partial updates."""

from __future__ import annotations

import json
from typing import Any

import pytest

from siprec.metadata.document import Document
from siprec.metadata.merge import MetadataState
from siprec.metadata.read import parse
from siprec.metadata.values import NAMESPACE, identifier, rfc3339
from tests.paths import DATA

VECTORS = DATA / "rfc7865"
S, A, B, C = (
    "gx8JQ0eDQ9CDXtLY0lU4RA==",
    "Wp+JVL4DRd2sJw8xsS+kuA==",
    "X8j5U9yMR6uVb+6TuQ50wg==",
    "CwJM9QEaQfSxDGK35QUt5Q==",
)
X, Y = "/Gi5VH6aTOChKvALr1chCA==", "M6siVBY2Q0Cj3b4s6KCD0w=="


def iid(text: str) -> Any:
    return identifier(text)[0]


def read(body: str, mode: str = "partial") -> Document:
    document = parse(f'<recording xmlns="{NAMESPACE}"><datamode>{mode}</datamode>{body}</recording>'.encode())
    assert isinstance(document, Document)
    return document


def member(participant: str, **times: str) -> str:
    inner = "".join(f"<{k}-time>2026-03-02T{v}Z</{k}-time>" for k, v in times.items())
    return f'<participantsessionassoc participant_id="{participant}" session_id="{S}">{inner}</participantsessionassoc>'


def feeds(participant: str, send: str = "", recv: str = "") -> str:
    inner = "".join(f"<send>{s}</send>" for s in send.split()) + "".join(f"<recv>{s}</recv>" for s in recv.split())
    return f'<participantstreamassoc participant_id="{participant}">{inner}</participantstreamassoc>'


SNAPSHOT = (
    f'<session session_id="{S}"><sipSessionID>a;remote=b</sipSessionID></session>'
    f'<participant participant_id="{A}"><nameID aor="sip:a@x"/></participant>'
    f'<participant participant_id="{B}"><nameID aor="sip:b@x"/></participant>'
    f'<stream stream_id="{X}" session_id="{S}"><label>1</label></stream>'
    f'<stream stream_id="{Y}" session_id="{S}"><label>2</label></stream>'
    + member(A, associate="09:00:00")
    + member(B, associate="09:00:01")
    + feeds(A, X, Y)
    + feeds(B, Y, X)
)
LABELS = {"1": 0, "2": 1}


@pytest.fixture
def state() -> MetadataState:
    made = MetadataState()
    assert made.apply(read(SNAPSHOT, "complete"), wall=1000.0, labels=LABELS) == []
    return made


def who(participants: list[Any]) -> list[str]:
    return [p.id.text for p in participants]


def clock(time: float | None) -> str | None:
    return rfc3339(time)[11:19] if time is not None else None


def times(intervals: list[Any]) -> list[tuple[str | None, str | None]]:
    return [(clock(i.start), clock(i.end)) for i in intervals]


def test_a_label_means_an_m_line_of_the_same_message(state: MetadataState) -> None:
    assert [state.streams[iid(s)].line for s in (X, Y)] == [0, 1]
    state.apply(read(f'<stream stream_id="{Y}"><label>9</label></stream>'), wall=1001, labels={"9": 4})
    assert state.streams[iid(Y)].line == 4
    assert state.streams[iid(Y)].session_id == iid(S)  # a partial update keeps what it does not name
    assert [s.id.text for s in state.on_line(0)] == [X]


def test_hold_replaces_the_sets_as_a_whole(state: MetadataState) -> None:
    state.apply(read(feeds(A, recv=Y) + feeds(B, send=Y)), wall=1001, labels={})
    assert state.senders(iid(X)) == []
    assert state.receivers(iid(X)) == []
    assert who(state.senders(iid(Y))) == [B]
    state.apply(read(feeds(A, X, Y) + feeds(B, Y, X)), wall=1002, labels={})
    assert who(state.senders(iid(X))) == [A]
    assert [h[0] for h in state.stream_assocs[iid(A)].history] == [1000.0, 1001, 1002]


def test_a_party_that_left_counts_no_longer_and_may_come_back(state: MetadataState) -> None:
    state.apply(read(member(B, disassociate="09:05:00")), wall=1001, labels={})
    assert state.senders(iid(Y)) == []
    assert who(state.senders(iid(X))) == [A]
    state.apply(read(member(B, associate="09:07:00")), wall=1002, labels={})
    assert who(state.senders(iid(Y))) == [B]
    assert times(state.participant_assocs[iid(B), iid(S)].intervals) == [("09:00:01", "09:05:00"), ("09:07:00", None)]


def test_the_end_of_a_session_ends_all_memberships(state: MetadataState) -> None:
    children = '<reason cause="16" protocol="Q.850">bye</reason><stop-time>2026-03-02T09:10:00Z</stop-time>'
    stop = f'<session session_id="{S}">{children}</session>'
    state.apply(read(stop), wall=1001, labels={})
    session = state.sessions[iid(S)]
    assert session.sip_session_ids == ("a;remote=b",)
    assert session.reasons[0].cause == 16
    assert times(state.participant_assocs[iid(A), iid(S)].intervals) == [("09:00:00", "09:10:00")]
    assert state.senders(iid(X)) == []
    # Said explicitly afterwards, the time is that of the sender.
    state.apply(read(member(A, disassociate="09:09:59")), wall=1002, labels={})
    assert times(state.participant_assocs[iid(A), iid(S)].intervals) == [("09:00:00", "09:09:59")]


def test_an_unknown_id_becomes_a_placeholder_and_a_snapshot_is_wanted(state: MetadataState) -> None:
    findings = state.apply(read(feeds(A, C)), wall=1001, labels={})
    assert len(findings) == 1
    assert state.streams[iid(C)].placeholder
    assert state.wants_snapshot
    state.apply(read(SNAPSHOT, "complete"), wall=1002, labels=LABELS)
    assert not state.wants_snapshot
    assert not state.streams[iid(C)].current


def test_a_snapshot_that_leaves_references_open_does_not_ask_for_another() -> None:
    state = MetadataState()
    assert state.apply(read(feeds(A, X), "complete"), wall=1, labels={})
    assert not state.wants_snapshot
    assert state.participants[iid(A)].placeholder


def test_a_partial_update_without_a_snapshot_is_lost_state() -> None:
    state = MetadataState()
    state.apply(read(SNAPSHOT), wall=1, labels=LABELS)
    assert state.wants_snapshot
    assert who(state.senders(iid(X))) == [A]  # used all the same


def test_a_snapshot_retires_what_it_does_not_mention_and_keeps_its_history(state: MetadataState) -> None:
    rest = SNAPSHOT.replace(member(B, associate="09:00:01"), "").replace(feeds(B, Y, X), "")
    rest = rest.replace(f'<participant participant_id="{B}"><nameID aor="sip:b@x"/></participant>', "")
    state.apply(read(rest, "complete"), wall=1_772_442_898.0, labels=LABELS)
    assert not state.participants[iid(B)].current
    assert who(state.ever_senders(iid(Y))) == [B]
    assert state.senders(iid(Y)) == []
    (interval,) = state.participant_assocs[iid(B), iid(S)].intervals
    assert interval.implied
    assert times([interval]) == [("09:00:01", "09:14:58")]


def test_a_repeated_snapshot_changes_nothing(state: MetadataState) -> None:
    before = times(state.participant_assocs[iid(A), iid(S)].intervals)
    state.apply(read(SNAPSHOT, "complete"), wall=1001, labels=LABELS)
    assert times(state.participant_assocs[iid(A), iid(S)].intervals) == before
    assert len(state.stream_assocs[iid(A)].history) == 1


def test_one_uuid_for_two_elements_costs_only_the_second() -> None:
    state = MetadataState()
    body = f'<session session_id="{S}"/><participant participant_id="{S}"><nameID aor="sip:a@x"/></participant>'
    findings = state.apply(read(body, "complete"), wall=1, labels={})
    assert len(findings) == 1
    assert list(state.sessions) == [iid(S)]
    assert not state.participants
    findings = state.apply(read(f'<stream stream_id="{S}"/>'), wall=2, labels={})
    assert not state.streams
    assert len(findings) == 1


# ------------------------------------------------------------------------------------------------- examples of the RFCs


def chain(name: str) -> MetadataState:
    path = VECTORS / "index.json"
    below = {d["file"]: d.get("applies_on_top_of") for d in json.loads(path.read_text())["documents"]}
    names: list[str] = [name]
    while below[names[0]]:
        names.insert(0, below[names[0]])
    state = MetadataState()
    for number, each in enumerate(names):
        document = parse((VECTORS / each).read_bytes())
        assert isinstance(document, Document)
        state.apply(document, wall=2_000_000_000.0 + number, labels={"96": 0, "97": 1, "98": 2, "99": 3})
    return state


def names(participants: list[Any]) -> list[str]:
    return [p.name_ids[0].name for p in participants]


def speakers(state: MetadataState) -> dict[int | None, list[str]]:
    return {s.line: names(state.senders(s.id)) for s in state.streams.values() if s.current and not s.placeholder}


def test_rfc_7865_leave_keeps_the_time_of_joining() -> None:
    state = chain("rfc7865-8.2-partial-leave.xml")
    closed = [m for m in state.participant_assocs.values() if not m.present]
    assert len(closed) == 1
    assert closed[0].intervals[0].start is not None


def test_rfc_8068_hold_and_resume() -> None:
    before = speakers(chain("rfc8068-3.2.1-complete-basic-call.xml"))
    assert all(len(found) == 1 for found in before.values())
    held = speakers(chain("rfc8068-3.2.2a-partial-hold.xml"))
    assert sorted(len(found) for found in held.values()) == [0, 0, 1, 1]
    assert speakers(chain("rfc8068-3.2.2b-partial-resume.xml")) == before


def test_rfc_8068_transfer_replaces_the_party_and_survives_undefined_streams() -> None:
    state = chain("rfc8068-3.2.3a-partial-transfer-reinvite.xml")
    assert state.wants_snapshot
    undefined = [s.id for s in state.streams.values() if s.placeholder]
    assert len(undefined) == 2
    assert [names(state.senders(i)) for i in undefined] == [["Carol"], ["Carol"]]
    present = [m.participant_id for m in state.participant_assocs.values() if m.present]
    assert len(present) == 2


def test_rfc_8068_transfer_by_refer_moves_streams_to_the_new_session() -> None:
    state = chain("rfc8068-3.2.3c-complete-transfer-refer-new-session.xml")
    old, new = state.sessions.values()
    assert old.stop_time is not None
    assert not old.current
    assert new.current
    assert {s.session_id for s in state.streams.values() if s.current} == {new.id}
    assert all(not m.present for (_, s), m in state.participant_assocs.items() if s == old.id)


@pytest.mark.parametrize(
    "name", ["rfc8068-3.2.4-partial-disconnect-bye.xml", "rfc8068-3.4.1-partial-persistent-disconnect.xml"]
)
def test_rfc_8068_disconnect_leaves_nobody(name: str) -> None:
    state = chain(name)
    assert not any(m.present for m in state.participant_assocs.values())
    assert not any(speakers(state).values())


def test_rfc_8068_conference_join_and_drop() -> None:
    joined = speakers(chain("rfc8068-3.3.3a-partial-conference-join.xml"))
    assert sorted(len(found) for found in joined.values()) == [3]
    dropped = speakers(chain("rfc8068-3.3.3b-partial-conference-drop.xml"))
    assert sorted(len(found) for found in dropped.values()) == [2]


def test_rfc_8068_two_sessions_in_one_group() -> None:
    state = chain("rfc8068-3.5-complete-turret-two-sessions.xml")
    assert len(state.sessions) == 2
    assert {s.group_ref for s in state.sessions.values()} == set(state.groups)
