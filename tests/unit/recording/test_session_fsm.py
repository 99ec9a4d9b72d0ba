"""The machine of a recording session against a world that answers late, badly, or not in the order asked."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from siprec.metadata.document import Document, Session, SessionRecordingAssoc, Stream
from siprec.metadata.values import new_id
from siprec.recording import events
from siprec.recording.session_events import (
    Action,
    AnswerPeer,
    Bye,
    Cancel,
    Connect,
    Event,
    Exchange,
    Finished,
    Fork,
    Gate,
    Invite,
    Kind,
    Notify,
    Policy,
    Release,
    SetTimer,
    State,
)
from siprec.recording.session_fsm import MACHINES
from siprec.recording.session_machine import RecordingSessionFsm
from siprec.recording.session_state import Actual, Wanted, next_due

S, A = new_id(), new_id()
DOCUMENT = Document(
    sessions=(Session(S, start_time=1.0),),
    streams=(Stream(A, S),),
    session_assocs=(SessionRecordingAssoc(S, 2.0),),
)
END = DOCUMENT.stopped(9.0)


def changed(name: str) -> Document:
    return replace(DOCUMENT, sessions=(replace(DOCUMENT.sessions[0], sip_session_ids=(name,)),))


def active(policy: Policy | None = None) -> RecordingSessionFsm:
    session = RecordingSessionFsm(policy or Policy())
    assert session.handle(Event(Kind.START, DOCUMENT)) == [Fork()]
    assert session.handle(Event(Kind.FORKED)) == [Invite(0, DOCUMENT, False)]
    assert session.handle(Event(Kind.ANSWERED)) == [Notify(events.START), Connect()]
    assert session.handle(Event(Kind.CONNECTED)) == []
    assert session.state is State.ACTIVE
    return session


def test_the_plain_course() -> None:
    session = active()
    out = session.handle(Event(Kind.STOP, END, reason="BYE"))
    update = Exchange(
        Document(
            "partial", sessions=(Session(S, stop_time=9.0),), session_assocs=(SessionRecordingAssoc(S, None, 9.0),)
        ),
        False,
        False,
    )
    assert out == [Release(), SetTimer(5.0), update]
    assert session.handle(Event(Kind.EXCHANGED)) == [SetTimer(-1.0), Bye()]
    assert session.handle(Event(Kind.RELEASED)) == []
    assert session.handle(Event(Kind.BYE_DONE)) == [Notify(events.STOP, "BYE"), SetTimer(-1.0), Finished()]
    assert session.state is State.ENDED


def test_the_call_ends_before_the_fork_is_there() -> None:
    session = RecordingSessionFsm(Policy())
    session.handle(Event(Kind.START, DOCUMENT))
    assert session.handle(Event(Kind.STOP, END)) == []
    assert session.handle(Event(Kind.FORKED)) == [Release()]
    assert session.handle(Event(Kind.RELEASED)) == [SetTimer(-1.0), Finished()]


def test_a_2xx_that_crosses_the_cancel_is_ended_without_events() -> None:
    session = RecordingSessionFsm(Policy())
    session.handle(Event(Kind.START, DOCUMENT))
    session.handle(Event(Kind.FORKED))
    assert session.handle(Event(Kind.STOP, END)) == [Release(), Cancel()]
    assert session.handle(Event(Kind.ANSWERED)) == [SetTimer(-1.0), Bye()]
    assert session.handle(Event(Kind.RELEASED)) == []
    assert session.handle(Event(Kind.BYE_DONE)) == [SetTimer(-1.0), Finished()]


def test_second_srs_gets_the_call_when_the_first_refuses() -> None:
    session = RecordingSessionFsm(Policy(targets=2))
    session.handle(Event(Kind.START, DOCUMENT))
    session.handle(Event(Kind.FORKED))
    assert session.handle(Event(Kind.REFUSED, status=486, reason="Busy Here")) == [
        Notify(events.FAILOVER, "Busy Here", 486),
        Invite(1, DOCUMENT, False),
    ]
    assert session.handle(Event(Kind.REFUSED, status=408, reason="timeout")) == [
        Notify(events.FAILED, "timeout", 408, 1),
        Release(),
    ]
    assert session.handle(Event(Kind.RELEASED)) == [SetTimer(-1.0), Finished()]


def test_a_skipped_code_ends_the_search() -> None:
    for pattern, status, goes_on in (
        ("486", 486, False),
        ("486|487", 408, True),
        ("[45][0-9][0-9]", 503, False),
        ("", 603, True),
    ):
        session = RecordingSessionFsm(Policy(targets=2, skip_failover_codes=pattern))
        session.handle(Event(Kind.START, DOCUMENT))
        session.handle(Event(Kind.FORKED))
        out = session.handle(Event(Kind.REFUSED, status=status))
        assert (Invite(1, DOCUMENT, False) in out) == goes_on


def test_changes_during_an_exchange_leave_together() -> None:
    session = active()
    first = session.handle(Event(Kind.CHANGED, changed("a")))
    assert [type(a) for a in first] == [Exchange]
    assert session.handle(Event(Kind.CHANGED, changed("b"))) == []
    assert session.handle(Event(Kind.CHANGED, changed("c"))) == []
    updated, second = session.handle(Event(Kind.EXCHANGED))
    assert updated == Notify(events.UPDATED)
    assert isinstance(second, Exchange)
    assert second.document is not None
    assert second.document.sessions[0].sip_session_ids == ("c",)
    assert session.handle(Event(Kind.EXCHANGED)) == [Notify(events.UPDATED)]


def test_pause_shuts_the_gate_first_and_resume_opens_it_last() -> None:
    session = active()
    assert session.handle(Event(Kind.PAUSE)) == [Gate(True)]
    assert session.handle(Event(Kind.GATED)) == [Exchange(None, True, True)]
    assert session.handle(Event(Kind.EXCHANGED)) == [Notify(events.PAUSED), Connect(withheld=True)]
    assert session.state.value == "paused"
    session.handle(Event(Kind.CONNECTED))
    assert session.handle(Event(Kind.RESUME)) == [Exchange(None, True, False)]
    assert session.handle(Event(Kind.EXCHANGED)) == [Connect()]
    assert session.handle(Event(Kind.CONNECTED)) == [Gate(False)]
    assert session.handle(Event(Kind.GATED)) == [Notify(events.RESUMED)]
    assert session.state.value == "active"


def test_a_pause_that_is_taken_back_at_once_leaves_the_streams_connected() -> None:
    session = RecordingSessionFsm(Policy())
    session.handle(Event(Kind.START, DOCUMENT))
    session.handle(Event(Kind.FORKED))
    session.handle(Event(Kind.PAUSE))
    # The offer was sendonly, but nothing may flow any more: neither by the gate nor by the answer.
    assert session.handle(Event(Kind.ANSWERED)) == [Notify(events.START), Gate(True)]
    assert session.handle(Event(Kind.GATED)) == [Connect(withheld=True)]
    session.handle(Event(Kind.RESUME))
    assert session.handle(Event(Kind.CONNECTED)) == [Connect()]
    assert session.handle(Event(Kind.CONNECTED)) == [Gate(False)]


def test_a_pause_before_the_answer_is_offered_inactive() -> None:
    session = RecordingSessionFsm(Policy())
    session.handle(Event(Kind.START, DOCUMENT))
    session.handle(Event(Kind.PAUSE))
    assert session.handle(Event(Kind.FORKED)) == [Invite(0, DOCUMENT, True)]
    assert session.handle(Event(Kind.ANSWERED)) == [Notify(events.START), Gate(True)]
    assert session.state is State.PAUSED


def test_packets_stay_stopped_when_the_srs_refuses_pause_or_resumption() -> None:
    session = active()
    session.handle(Event(Kind.PAUSE))
    session.handle(Event(Kind.GATED))
    out = session.handle(Event(Kind.EXCHANGE_FAILED, status=488, reason="no"))
    assert out == [Notify(events.UPDATE_FAILED, "no", 488)]
    assert session.actual.gated
    assert session.state is State.PAUSED
    assert session.handle(Event(Kind.RESUME)) == [Exchange(DOCUMENT, True, False)]
    session.handle(Event(Kind.EXCHANGE_FAILED, status=488, reason="no"))
    assert session.actual.gated
    assert session.state is State.PAUSED


def test_a_pause_that_the_media_server_cannot_do_ends_the_recording() -> None:
    session = active()
    session.handle(Event(Kind.PAUSE))
    out = session.handle(Event(Kind.GATE_FAILED, reason="timeout"))
    assert out[:2] == [Notify(events.FAILED, "timeout"), Release()]


def test_a_snapshot_is_complete_and_carries_the_unchanged_offer() -> None:
    session = active()
    assert session.handle(Event(Kind.SNAPSHOT)) == [Exchange(DOCUMENT, True, False)]
    # Asked again while it is under way: once more, after it.
    assert session.handle(Event(Kind.SNAPSHOT)) == []
    assert session.handle(Event(Kind.EXCHANGED)) == [Connect()]
    assert session.handle(Event(Kind.CONNECTED)) == [Exchange(DOCUMENT, True, False)]


def test_new_streams_are_forked_and_offered_again() -> None:
    session = active()
    assert session.handle(Event(Kind.CHANGED, changed("x"), media=True)) == [Fork()]
    (offer,) = session.handle(Event(Kind.FORKED, changed("x")))
    assert isinstance(offer, Exchange)
    assert offer.offer
    assert offer.document is not None
    assert session.handle(Event(Kind.EXCHANGED)) == [Notify(events.UPDATED), Connect()]


def test_a_refused_document_is_followed_by_a_full_one() -> None:
    session = active()
    session.handle(Event(Kind.CHANGED, changed("a")))
    assert session.handle(Event(Kind.EXCHANGE_FAILED, status=500, reason="x")) == [
        Notify(events.UPDATE_FAILED, "x", 500)
    ]
    assert session.handle(Event(Kind.CHANGED, changed("b"))) == [Exchange(changed("b"), False, False)]


def test_retry_after_is_respected() -> None:
    session = active()
    session.handle(Event(Kind.CHANGED, changed("a")))
    assert session.handle(Event(Kind.EXCHANGE_FAILED, status=500, retry_after=3.0)) == [SetTimer(3.0)]
    assert session.handle(Event(Kind.CHANGED, changed("b"))) == []
    (again,) = session.handle(Event(Kind.TIMER))
    assert isinstance(again, Exchange)


def test_a_lost_dialog_is_rebuilt_with_the_same_ids_and_new_association() -> None:
    session = active(Policy(targets=2))
    session.handle(Event(Kind.CHANGED, changed("a")))
    out = session.handle(Event(Kind.EXCHANGE_FAILED, status=481, reason="gone", wall=5.0))
    assert out == [Notify(events.STOP, "gone", 481), Notify(events.FAILOVER, "gone", 481), Fork()]
    (invite,) = session.handle(Event(Kind.FORKED))
    assert isinstance(invite, Invite)
    assert invite.target == 0
    assert invite.document.mode == "complete"
    assert invite.document.sessions[0].id == S
    assert invite.document.session_assocs == (SessionRecordingAssoc(S, 5.0),)
    assert session.handle(Event(Kind.ANSWERED))[0] == Notify(events.START)
    session.handle(Event(Kind.CONNECTED))
    session.handle(Event(Kind.LOST, status=408, wall=6.0))
    (invite,) = session.handle(Event(Kind.FORKED))
    assert isinstance(invite, Invite)
    assert invite.target == 1


def test_an_srs_that_breaks_down_again_and_again_is_given_up() -> None:
    session = active(Policy(rebuilds=1))
    session.handle(Event(Kind.LOST, status=408))
    session.handle(Event(Kind.FORKED))
    session.handle(Event(Kind.ANSWERED))
    session.handle(Event(Kind.CONNECTED))
    out = session.handle(Event(Kind.LOST, status=408))
    assert Notify(events.FAILED, "", 408) in out
    assert session.handle(Event(Kind.RELEASED))[-1] == Finished()


def test_bye_of_the_srs_releases_the_fork() -> None:
    session = active()
    assert session.handle(Event(Kind.PEER_BYE, reason="BYE")) == [Notify(events.STOP, "BYE"), Release()]
    assert session.handle(Event(Kind.RELEASED)) == [SetTimer(-1.0), Finished()]


def test_an_offer_of_the_srs_waits_for_no_one_and_holds_ours_back() -> None:
    session = active()
    assert session.handle(Event(Kind.PEER_OFFER)) == [AnswerPeer()]
    assert session.handle(Event(Kind.PEER_OFFER)) == [AnswerPeer(491)]
    assert session.handle(Event(Kind.CHANGED, changed("a"))) == []
    assert [type(a) for a in session.handle(Event(Kind.PEER_DONE))] == [Exchange]
    assert session.handle(Event(Kind.PEER_OFFER)) == [AnswerPeer(491)]


def test_the_last_words_do_not_wait_for_ever() -> None:
    session = active()
    session.handle(Event(Kind.CHANGED, changed("a")))
    out = session.handle(Event(Kind.STOP, END))
    assert out == [Release(), SetTimer(5.0)]
    assert session.handle(Event(Kind.TIMER)) == [SetTimer(-1.0), Bye()]
    assert session.handle(Event(Kind.EXCHANGED)) == []
    assert session.handle(Event(Kind.BYE_DONE))[0] == Notify(events.STOP)


def test_every_state_of_every_machine_is_entered_and_left() -> None:
    for machine in MACHINES:
        states = set(machine.states)
        assert {row.to for row in machine.rows if row.to != row.state} == states, machine.name
        assert {row.state for row in machine.rows if row.to != row.state} == states, machine.name


def test_no_row_follows_one_without_a_guard() -> None:
    for machine in MACHINES:
        certain = set()
        for row in machine.rows:
            assert (row.state, row.event) not in certain, row
            if not row.guard:
                certain.add((row.state, row.event))


def test_every_event_of_the_tables_is_one_that_happens_or_that_is_due() -> None:
    dues = {f"due {due}" for due in ("gate", "ungate", "fork", "connect", "offer", "update")}
    assert {row.event for machine in MACHINES for row in machine.rows} == {kind.value for kind in Kind} | dues


@pytest.mark.parametrize(
    ("wanted", "actual", "due"),
    [
        ({}, {}, ""),
        ({"paused": True}, {}, "gate"),
        ({"paused": True, "streams": True}, {}, "gate"),
        ({"paused": True}, {"gated": True}, "offer"),
        ({"paused": True}, {"gated": True, "inactive": True}, ""),
        ({"paused": True}, {"gated": True, "inactive": True, "connected": False}, "connect"),
        ({}, {"gated": True, "inactive": True, "withheld": True}, "offer"),
        ({}, {"gated": True, "withheld": True}, "connect"),
        ({}, {"gated": True}, "ungate"),
        ({"streams": True, "offer": True}, {"connected": False}, "fork"),
        ({"offer": True}, {"connected": False}, "connect"),
        ({"offer": True, "full": True}, {}, "offer"),
        ({"full": True}, {}, "update"),
        ({}, {"acknowledged": None}, "update"),
        ({"document": changed("new")}, {}, "update"),
        ({"document": changed("new"), "offer": True}, {"gated": True}, "offer"),
    ],
)
def test_what_is_due_next_follows_from_what_is_wanted_and_what_is(
    wanted: dict[str, Any], actual: dict[str, Any], due: str
) -> None:
    is_so: dict[str, Any] = {"acknowledged": DOCUMENT, "connected": True}
    assert next_due(Wanted(**{"document": DOCUMENT, **wanted}), Actual(**{**is_so, **actual})) == due


# -- a world of accidents ----------------------------------------------------------------------------------------------


class World:
    """Media server and SRS with a will of their own; checks what must never happen."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.session = RecordingSessionFsm(
            Policy(
                targets=self.random.randint(1, 3),
                rebuilds=self.random.randint(0, 2),
                skip_failover_codes=self.random.choice(["", "486"]),
                complete_updates=self.random.random() < 0.2,
            )
        )
        self.answers: list[Callable[[], Event]] = []
        self.forks = 0
        self.dialog = ""
        self.exchanging = False
        self.starts = self.stops = self.finished = 0
        self.timer = False
        self.gate = self.withheld = False
        self.number = 0

    def feed(self, event: Event) -> None:
        for action in self.session.handle(event):
            assert not self.finished, action
            self.do(action)

    def later(self, result: Callable[[], Event]) -> None:
        self.answers.append(result)

    def do(self, action: Action) -> None:
        flip = self.random.random
        match action:
            case Fork():
                self.later(lambda: self.forked(flip() < 0.9))
            case Invite():
                assert self.dialog in ("", "forgotten")
                self.dialog = "calling"
                assert action.document.mode == "complete"
                self.later(lambda: self.invited(flip() < 0.6))
            case Cancel():
                assert self.dialog == "calling"
            case Connect(withheld):
                assert self.dialog == "up"
                assert withheld or not self.session.wanted.paused
                self.withheld = withheld
                self.later(lambda: Event(Kind.CONNECTED if flip() < 0.95 else Kind.CONNECT_FAILED))
            case Gate(closed):
                self.later(lambda: self.gated(closed, flip() < 0.95))
            case Exchange(document, offer, inactive):
                assert self.dialog == "up"
                assert not self.exchanging
                assert document is not None or offer
                self.exchanging = True
                if offer and inactive:
                    assert self.gate
                self.later(self.exchanged)
            case AnswerPeer(status):
                if status == 200:
                    self.later(lambda: Event(Kind.PEER_DONE))
            case Bye():
                assert self.dialog in ("up", "forgotten")
                self.dialog = "closing"
                self.later(self.bye_done)
            case Release():
                self.forks = 0
                self.later(lambda: Event(Kind.RELEASED))
            case SetTimer(delay):
                self.timer = delay >= 0
            case Notify(name):
                self.starts += name == events.START
                self.stops += name == events.STOP
                assert self.starts - self.stops in (0, 1)
                if name == events.PAUSED:
                    assert self.gate
                if name == events.RESUMED:
                    assert not self.gate
                    assert not self.withheld
            case Finished():
                self.finished += 1

    def forked(self, well: bool) -> Event:
        if well:
            self.forks = 1
        return Event(Kind.FORKED if well else Kind.FORK_FAILED)

    def invited(self, well: bool) -> Event:
        self.dialog = "up" if well else ""
        return Event(Kind.ANSWERED) if well else Event(Kind.REFUSED, status=self.random.choice([408, 486, 503, 487]))

    def gated(self, closed: bool, well: bool) -> Event:
        if well:
            self.gate = closed
        return Event(Kind.GATED if well else Kind.GATE_FAILED)

    def exchanged(self) -> Event:
        self.exchanging = False
        status = self.random.choice([200, 200, 200, 488, 491, 500, 481])
        if self.dialog != "up":
            return Event(Kind.EXCHANGE_FAILED, reason="ended")
        if status == 200:
            return Event(Kind.EXCHANGED)
        if status == 481:
            self.dialog = "forgotten"
        return Event(Kind.EXCHANGE_FAILED, status=status, retry_after=1.0 if status == 500 else 0.0)

    def bye_done(self) -> Event:
        self.dialog = ""
        return Event(Kind.BYE_DONE)

    def accident(self) -> None:
        choice = self.random.choice(
            [
                "change",
                "media",
                "pause",
                "resume",
                "snapshot",
                "offer",
                "bye",
                "lost",
                "answer",
                "answer",
                "answer",
                "timer",
            ]
        )
        self.number += 1
        match choice:
            case "change" | "media":
                self.feed(Event(Kind.CHANGED, changed(str(self.number)), media=choice == "media"))
            case "pause":
                self.feed(Event(Kind.PAUSE))
            case "resume":
                self.feed(Event(Kind.RESUME))
            case "snapshot" if self.dialog == "up":
                self.feed(Event(Kind.SNAPSHOT))
            case "offer" if self.dialog == "up" and not self.exchanging:
                self.feed(Event(Kind.PEER_OFFER))
            case "bye" | "lost" if self.dialog == "up" and self.random.random() < 0.2:
                self.dialog = ""
                self.feed(Event(Kind.PEER_BYE if choice == "bye" else Kind.LOST, status=0 if choice == "bye" else 408))
            case "timer" if self.timer:
                self.timer = False
                self.feed(Event(Kind.TIMER))
            case "answer" if self.answers:
                # Each peer answers its own requests in order; which of the peers is first is open.
                self.feed(self.answers.pop(0)())
            case _:
                pass


@pytest.mark.parametrize("block", range(10))
def test_whatever_happens_everything_is_given_back(block: int) -> None:
    for seed in range(block * 300, block * 300 + 300):
        world = World(seed)
        world.feed(Event(Kind.START, DOCUMENT))
        for _ in range(world.random.randint(0, 60)):
            world.accident()
        world.feed(Event(Kind.STOP, END, reason="call ended"))
        for _ in range(200):
            if world.answers:
                world.feed(world.answers.pop(0)())
            elif world.timer:
                world.timer = False
                world.feed(Event(Kind.TIMER))
            else:
                break
        assert world.session.state is State.ENDED, seed
        assert world.finished == 1, seed
        assert world.starts == world.stops, seed
        assert not world.forks, seed
        assert world.dialog in ("", "forgotten"), seed
        assert not world.timer, seed


def test_a_session_can_be_stored_and_taken_up_elsewhere() -> None:
    session = active(Policy(targets=2))
    session.handle(Event(Kind.CHANGED, changed("a")))
    session.handle(Event(Kind.PAUSE))
    stored = msgspec.json.encode(session)
    restored = msgspec.json.decode(stored, type=RecordingSessionFsm)
    assert restored == session
    for event in (Event(Kind.EXCHANGED), Event(Kind.GATED), Event(Kind.EXCHANGED), Event(Kind.STOP, END)):
        assert restored.handle(event) == session.handle(event)


# -- the corners -------------------------------------------------------------------------------------------------------


def inviting(policy: Policy | None = None) -> RecordingSessionFsm:
    session = RecordingSessionFsm(policy or Policy())
    session.handle(Event(Kind.START))
    assert session.handle(Event(Kind.FORKED, DOCUMENT)) == [Invite(0, DOCUMENT, False)]
    return session


def test_streams_that_change_during_the_fork_are_forked_again_before_the_srs_is_called() -> None:
    session = RecordingSessionFsm(Policy())
    session.handle(Event(Kind.START))
    assert session.handle(Event(Kind.CHANGED, media=True)) == []
    assert session.handle(Event(Kind.FORKED, DOCUMENT)) == [Fork()]
    assert session.handle(Event(Kind.FORKED, changed("x"))) == [Invite(0, changed("x"), False)]


def test_streams_that_change_while_an_srs_refuses_are_forked_for_the_next_one() -> None:
    session = inviting(Policy(targets=2))
    session.handle(Event(Kind.CHANGED, changed("x"), media=True))
    assert session.handle(Event(Kind.REFUSED, status=503)) == [Notify(events.FAILOVER, "", 503), Fork()]
    assert session.handle(Event(Kind.FORKED)) == [Invite(1, changed("x"), False)]


def test_a_snapshot_that_has_to_wait_is_still_complete() -> None:
    session = active()
    session.handle(Event(Kind.SNAPSHOT))
    assert session.handle(Event(Kind.EXCHANGE_FAILED, status=491)) == [SetTimer(1.0)]
    assert session.handle(Event(Kind.TIMER)) == [Exchange(DOCUMENT, True, False)]


def test_a_refused_resumption_is_not_tried_again_by_itself() -> None:
    session = active()
    for event in (Kind.PAUSE, Kind.GATED, Kind.EXCHANGED, Kind.CONNECTED, Kind.RESUME):
        session.handle(Event(event))
    assert session.handle(Event(Kind.EXCHANGE_FAILED, status=488)) == [Notify(events.UPDATE_FAILED, "", 488)]
    assert session.handle(Event(Kind.CHANGED, changed("z"))) == [Exchange(changed("z"), False, True)]


def test_what_waits_behind_a_refused_exchange_follows_after_a_moment() -> None:
    session = active()
    session.handle(Event(Kind.CHANGED, changed("a")))
    session.handle(Event(Kind.CHANGED, changed("b"), media=True))
    assert session.handle(Event(Kind.EXCHANGE_FAILED, status=500)) == [
        Notify(events.UPDATE_FAILED, "", 500),
        SetTimer(1.0),
    ]
    assert session.handle(Event(Kind.TIMER)) == [Fork()]


def test_an_offer_of_the_srs_is_withheld_during_a_pause_only() -> None:
    session = active()
    assert session.handle(Event(Kind.PEER_OFFER)) == [AnswerPeer(withheld=False)]
    session.handle(Event(Kind.PEER_DONE))
    for event in (Kind.PAUSE, Kind.GATED, Kind.EXCHANGED, Kind.CONNECTED):
        session.handle(Event(event))
    assert session.handle(Event(Kind.PEER_OFFER)) == [AnswerPeer(withheld=True)]


def test_an_offer_of_the_srs_during_the_end_is_refused() -> None:
    session = active()
    session.handle(Event(Kind.STOP, END))
    assert session.handle(Event(Kind.PEER_OFFER)) == [AnswerPeer(491)]


def test_a_break_down_during_a_wait_ends_the_wait() -> None:
    session = active()
    session.handle(Event(Kind.CHANGED, changed("a")))
    session.handle(Event(Kind.EXCHANGE_FAILED, status=500, retry_after=9.0))
    out = session.handle(Event(Kind.LOST, status=408))
    assert SetTimer(-1.0) in out
    assert Fork() in out


def test_the_last_words_follow_the_pending_exchange_and_say_only_what_is_new() -> None:
    session = active()
    session.handle(Event(Kind.CHANGED, changed("a")))
    session.handle(Event(Kind.STOP, changed("a").stopped(9.0)))
    (last,) = session.handle(Event(Kind.EXCHANGED))
    assert isinstance(last, Exchange)
    assert last.document is not None
    assert last.document.sessions == (Session(S, stop_time=9.0),)


def test_a_dialog_that_is_gone_at_the_end_gets_no_last_words() -> None:
    session = active()
    session.handle(Event(Kind.CHANGED, changed("a")))
    session.handle(Event(Kind.STOP, END))
    assert session.handle(Event(Kind.EXCHANGE_FAILED, status=481)) == [SetTimer(-1.0), Bye()]


def test_when_all_is_told_bye_comes_at_once() -> None:
    session = active()
    assert session.handle(Event(Kind.STOP, DOCUMENT)) == [Release(), SetTimer(5.0), SetTimer(-1.0), Bye()]
