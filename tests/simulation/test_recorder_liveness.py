"""Recording clients that die, fall silent, count backwards, or are sent to another recorder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from siprec.recorder.acceptance import Acceptance
from siprec.recorder.server import Watching
from siprec.sip.message import SipResponse
from tests.simulation.recorder_world import SENDONLY, Raw, invite

Open = Callable[..., Raw]
TAG = "Require: siprec"
DANGLING = (
    b'<recording xmlns="urn:ietf:params:xml:ns:recording:1"><datamode>partial</datamode>'
    b'<participantsessionassoc participant_id="AgICAgICAgICAgICAgICAg==" session_id="AgICAgICAgICAgICAgICAg=="/>'
    b"</recording>"
)
"""Words about somebody who was never described: a snapshot is asked for."""
HELD = SENDONLY.replace("sendonly", "inactive")


@pytest.fixture
def raw(tmp_path: Path) -> Iterator[Open]:
    made: list[Raw] = []

    def make(*, begin: str = SENDONLY, lines: tuple[str, ...] = (TAG,), **options: Any) -> Raw:
        r = Raw(tmp_path / "rec", acceptance=Acceptance("lenient"), **options)
        made.append(r)
        assert r.begin(invite(begin, *lines)).status == 200
        return r

    yield make
    for each in made:
        each.close()


def state(r: Raw) -> tuple[str, str]:
    (result,) = r.results()
    return result.state, result.summary["end_reason"] or ""


def test_a_session_timer_is_asked_for(raw: Open) -> None:
    r = raw()
    # The client knows none: the refreshing is ours (RFC 4028 9).
    assert r.final.get("session-expires") == "1800;refresher=uas"


def test_a_client_that_knows_session_timers_refreshes_itself(raw: Open) -> None:
    r = raw(lines=(TAG, "Supported: timer"))
    assert r.final.get("session-expires") == "1800;refresher=uac"


def test_a_dead_client_is_found_out_and_its_recording_ended(raw: Open) -> None:
    r = raw()
    r.talk(2)
    r.run(300)
    questions = r.requests("OPTIONS")
    assert len({q.cseq.number for q in questions}) == 2
    assert not r.recorder.sessions
    assert r.requests("BYE")
    assert state(r) == ("interrupted", "the recording client does not answer")


@pytest.mark.parametrize("status", [200, 405, 500, 501, 403])
@pytest.mark.parametrize("body", [SENDONLY, HELD])
def test_a_silent_client_that_answers_anything_is_never_ended(raw: Open, status: int, body: str) -> None:
    r = raw(begin=body)
    r.answers = {"OPTIONS": status, "UPDATE": status, "INVITE": status if status != 200 else 488}
    r.run(8000)  # longer than any session timer
    assert len(r.recorder.sessions) == 1
    assert not r.requests("BYE")
    assert 100 <= len({q.cseq.number for q in r.requests("OPTIONS")}) <= 140  # once a minute


def test_a_client_that_does_not_know_the_session_any_more_ends_it(raw: Open) -> None:
    r = raw()
    r.answers = {"OPTIONS": 481}
    r.run(70)
    assert not r.recorder.sessions
    assert state(r) == ("interrupted", "the recording client does not know the session (481)")


def test_a_client_that_answers_nothing_is_not_ended_while_it_sends_rtp(raw: Open) -> None:
    r = raw(watching=Watching(session_expires=90, silence=60.0))
    for _ in range(40):
        r.talk(0.2)
        r.run(10)
    assert len(r.recorder.sessions) == 1
    assert not r.requests("BYE")


def test_a_client_that_speaks_again_after_one_unanswered_question_goes_on(raw: Open) -> None:
    r = raw()
    r.run(95)
    assert r.requests("OPTIONS")
    r.talk(0.2)
    r.run(50)
    assert len(r.recorder.sessions) == 1
    r.answers = {"OPTIONS": 200}
    r.run(600)
    assert len(r.recorder.sessions) == 1


def test_a_session_that_its_timer_ended_is_interrupted(raw: Open) -> None:
    r = raw(lines=(TAG, "Supported: timer", "Session-Expires: 90;refresher=uac"), watching=Watching(silence=0.0))
    r.talk(1)
    r.run(100)
    assert not r.recorder.sessions
    assert state(r) == ("interrupted", "session expired")


def test_a_session_may_be_limited(raw: Open) -> None:
    r = raw(watching=Watching(max_duration=120.0))
    for _ in range(11):
        r.talk(0.2)
        r.run(10)
    assert r.recorder.sessions
    r.run(10)
    assert not r.recorder.sessions
    assert state(r) == ("interrupted", "max_duration")


@pytest.mark.parametrize("method", ["BYE", "INVITE", "UPDATE"])
def test_a_client_that_counts_backwards_is_asked_whether_it_is_still_there(raw: Open, method: str) -> None:
    r = raw()
    assert r.request("INFO", cseq=50)[-1].status == 200
    r.answers = {"OPTIONS": 481}
    assert r.request(method, cseq=2, body=SENDONLY if method != "BYE" else "")[-1].status == 500
    r.run(2)
    assert len({q.cseq.number for q in r.requests("OPTIONS")}) == 1
    assert not r.recorder.sessions
    assert state(r)[0] == "interrupted"


def test_a_client_that_counts_backwards_and_lives_is_recorded_on(raw: Open) -> None:
    r = raw()
    r.answers = {"OPTIONS": 200}
    r.request("INFO", cseq=50)
    assert r.request("BYE", cseq=2)[-1].status == 500
    r.talk(1)
    assert len(r.recorder.sessions) == 1
    assert r.request("BYE", cseq=51)[-1].status == 200
    assert state(r) == ("complete", "BYE")


def test_a_client_that_answers_no_request_of_ours_is_asked_and_not_dropped_while_it_sends(raw: Open) -> None:
    """A snapshot request that is never answered once ended the session after 32 seconds."""
    r = raw()
    (session,) = r.recorder.sessions
    session.metadata(DANGLING)
    r.request("INFO", cseq=2)
    assert r.requests("UPDATE")
    for _ in range(30):
        r.talk(0.2)
        r.run(5)
    assert len(r.recorder.sessions) == 1


def test_a_client_that_refuses_snapshot_requests_is_asked_once(raw: Open) -> None:
    r = raw()
    r.answers = {"UPDATE": 488, "OPTIONS": 200}
    (session,) = r.recorder.sessions
    for number in range(2, 8):
        session.metadata(DANGLING)
        r.request("INFO", cseq=number)
        r.run(15)
    assert len({q.cseq.number for q in r.requests("UPDATE")}) == 1


# -- a planned stop ----------------------------------------------------------------------------------------------------


def sessions(r: Raw, count: int) -> None:
    """Further sessions, beside the one there is."""
    for number in range(2, count + 1):
        data = invite(SENDONLY, TAG)
        for old, new in ((b"Call-ID: 1@", f"Call-ID: {number}@"), (b"branch=z9hG4bK-1", f"branch=z9hG4bK-{number}")):
            data = data.replace(old, new.encode())
        r.send(data)
    r.clock.run_for(1)


def test_a_handover_sends_clients_elsewhere_one_after_the_other(raw: Open) -> None:
    r = raw()
    r.answers = {"BYE": 200}
    sessions(r, 40)
    assert len(r.server.calls) == 40
    done: list[float] = []
    begun = r.clock.now()
    r.server.handover(lambda: done.append(r.clock.now()))
    r.send(invite(SENDONLY, TAG).replace(b"Call-ID: 1@", b"Call-ID: 99@").replace(b"K-1\r", b"K-99\r"))
    r.run(1.0)
    assert 5 < len(r.server.calls) < 35  # spread
    late = [m for m in r.received if isinstance(m, SipResponse) and m.call_id.startswith("99@")]
    assert late[-1].status == 503
    assert late[-1].get("retry-after")
    r.run(10)
    assert done
    assert done[0] - begun <= 10.0
    assert not r.server.calls
    reasons = {bye.get("reason") for bye in r.requests("BYE")}
    assert reasons == {'SIP;cause=503;text="the recorder stops"'}
    assert {result.state for result in r.results()} == {"interrupted"}


def test_a_handover_of_many_sessions_takes_ten_seconds(raw: Open) -> None:
    r = raw()
    done: list[float] = []
    r.server.calls.update(object() for _ in range(5000))  # type: ignore[misc]
    begun = r.clock.now()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(r.server, "_hand_over", lambda call: r.server.calls.discard(call))
        r.server.handover(lambda: done.append(r.clock.now()))
        r.clock.run_for(11)
    assert done[0] - begun == pytest.approx(10.0, abs=0.1)


def test_a_disk_that_fails_sends_the_client_elsewhere(raw: Open) -> None:
    r = raw()
    r.answers = {"BYE": 200}
    r.talk(1)
    (session,) = r.recorder.sessions
    session.recordings[0].trouble = 'disk: "full"'
    r.run(1)
    (bye,) = r.requests("BYE")
    assert bye.get("reason") == 'SIP;cause=503;text="disk:  full "'
    assert state(r)[0] == "failed"
